//! Times that are finer than what they are compared with, or cast to.
//!
//! * Where a column of seconds meets nanoseconds, the planner casts the column, and the optimizer takes
//!   that cast away again by casting the literal instead, which cuts it: of `ts < 12:00:00.5` it would
//!   make `ts < 12:00:00` (DataFusion 55, `cast_between_timestamp`). Before that, this rule says the same
//!   with the last moment of the column's unit that is not later.
//! * A cast to a coarser unit takes the last moment that is not later, before 1970 as after it. Arrow's
//!   divides, which goes toward 1970, while it reads text downward: one moment would have two names.

use datafusion::arrow::datatypes::{DataType, Field, TimeUnit};
use datafusion::common::tree_node::Transformed;
use datafusion::common::{DFSchema, Result, ScalarValue};
use datafusion::logical_expr::expr::{Cast, InList, TryCast};
use datafusion::logical_expr::simplify::SimplifyContext;
use datafusion::logical_expr::utils::merge_schema;
use datafusion::logical_expr::{
    Between, BinaryExpr, Expr, ExprSchemable, LogicalPlan, Operator, binary_expr, lit,
};
use datafusion::optimizer::optimizer::ApplyOrder;
use datafusion::optimizer::simplify_expressions::ExprSimplifier;
use datafusion::optimizer::{OptimizerConfig, OptimizerRule};

use crate::functions;
use crate::rewriting::each_expr;

/// The rule; it stands before every other one.
#[derive(Debug)]
pub(crate) struct ExactTimes;

impl OptimizerRule for ExactTimes {
    fn name(&self) -> &str {
        "exact_times"
    }

    fn apply_order(&self) -> Option<ApplyOrder> {
        Some(ApplyOrder::BottomUp)
    }

    fn supports_rewrite(&self) -> bool {
        true
    }

    fn rewrite(
        &self,
        plan: LogicalPlan,
        config: &dyn OptimizerConfig,
    ) -> Result<Transformed<LogicalPlan>> {
        let schema = merge_schema(&plan.inputs());
        let context = SimplifyContext::builder()
            .with_schema(schema.clone().into())
            .with_config_options(config.options())
            .with_query_execution_start_time(config.query_execution_start_time())
            .build();
        let compared = Compared {
            schema,
            constants: ExprSimplifier::new(context),
        };
        each_expr(plan, |expr| compared.exactly(expr))
    }
}

/// A column, or anything of its type, that was cast to a finer unit.
struct Widened<'e> {
    inner: &'e Expr,
    unit: TimeUnit,
    /// How many of the finer units one of its own has.
    ratio: i64,
}

/// What expressions of one node of a plan are about.
struct Compared {
    schema: DFSchema,
    constants: ExprSimplifier,
}

impl Compared {
    fn exactly(&self, expr: Expr) -> Result<Transformed<Expr>> {
        let exact = match &expr {
            Expr::BinaryExpr(BinaryExpr { left, op, right }) => {
                self.comparison(left, *op, right).or_else(|| {
                    let swapped = op.swap()?;
                    self.comparison(right, swapped, left)
                })
            }
            Expr::Between(between) => self.between(between),
            Expr::InList(list) => self.in_list(list),
            Expr::Cast(cast) => self.narrowed(&cast.expr, &cast.field).map(|inner| {
                let expr = Box::new(inner);
                Expr::Cast(Cast {
                    expr,
                    ..cast.clone()
                })
            }),
            Expr::TryCast(cast) => self.narrowed(&cast.expr, &cast.field).map(|inner| {
                let expr = Box::new(inner);
                Expr::TryCast(TryCast {
                    expr,
                    ..cast.clone()
                })
            }),
            _ => None,
        };
        Ok(match exact {
            Some(exact) => Transformed::yes(exact),
            None => Transformed::no(expr),
        })
    }

    fn comparison(&self, side: &Expr, op: Operator, moment: &Expr) -> Option<Expr> {
        let side = self.widened(side)?;
        let before = self.last_before(&side, moment)?;
        let own = |op| Some(binary_expr(side.inner.clone(), op, side.inner.clone()));
        let with = |op| Some(binary_expr(side.inner.clone(), op, lit(before)));
        match op {
            Operator::Lt | Operator::LtEq => with(Operator::LtEq),
            Operator::Gt | Operator::GtEq => with(Operator::Gt),
            // Never so, and always so, but where there is no time.
            Operator::Eq => own(Operator::NotEq),
            Operator::NotEq => own(Operator::Eq),
            Operator::IsDistinctFrom => Some(lit(true)),
            Operator::IsNotDistinctFrom => Some(lit(false)),
            _ => None,
        }
    }

    fn between(&self, between: &Between) -> Option<Expr> {
        let side = self.widened(&between.expr)?;
        let cut = |moment| self.last_before(&side, moment).is_some();
        if !cut(&between.low) && !cut(&between.high) {
            return None;
        }
        let bound = |op, moment: &Expr| {
            let exact = self.comparison(&between.expr, op, moment);
            exact.unwrap_or_else(|| binary_expr((*between.expr).clone(), op, moment.clone()))
        };
        let both = bound(Operator::GtEq, &between.low).and(bound(Operator::LtEq, &between.high));
        Some(match between.negated {
            true => Expr::Not(Box::new(both)),
            false => both,
        })
    }

    fn in_list(&self, list: &InList) -> Option<Expr> {
        let side = self.widened(&list.expr)?;
        let possible = list.list.iter();
        let possible = possible.filter(|moment| self.last_before(&side, moment).is_none());
        let possible: Vec<Expr> = possible.cloned().collect();
        if possible.len() == list.list.len() {
            return None;
        }
        let op = match list.negated {
            true => Operator::Eq,
            false => Operator::NotEq,
        };
        Some(match possible.is_empty() {
            true => binary_expr(side.inner.clone(), op, side.inner.clone()),
            false => Expr::InList(InList {
                list: possible,
                ..list.clone()
            }),
        })
    }

    /// What a cast to a coarser unit has to cast so that nothing is left to cut; `None` for every other.
    fn narrowed(&self, inner: &Expr, to: &Field) -> Option<Expr> {
        let DataType::Timestamp(coarser, _) = to.data_type() else {
            return None;
        };
        let DataType::Timestamp(unit, _) = inner.get_type(&self.schema).ok()? else {
            return None;
        };
        let cut = per_second(unit) > per_second(*coarser);
        (cut && !functions::is_cut_to(inner, *coarser))
            .then(|| functions::cut_to(inner.clone(), *coarser))
    }

    fn widened<'e>(&self, expr: &'e Expr) -> Option<Widened<'e>> {
        let Expr::Cast(cast) = expr else {
            return None;
        };
        let DataType::Timestamp(finer, zone) = cast.field.data_type() else {
            return None;
        };
        match cast.expr.get_type(&self.schema).ok()? {
            DataType::Timestamp(unit, own_zone) if own_zone == *zone => {
                let ratio = per_second(*finer) / per_second(unit);
                (ratio > 1).then_some(Widened {
                    inner: &cast.expr,
                    unit,
                    ratio,
                })
            }
            _ => None,
        }
    }

    /// The last moment of the unit before one that lies between two of them; `None` for every other.
    fn last_before(&self, side: &Widened<'_>, moment: &Expr) -> Option<ScalarValue> {
        if moment.any_column_refs() || moment.is_volatile() {
            return None;
        }
        let (count, zone) = match self.constants.simplify(moment.clone()).ok()? {
            Expr::Literal(ScalarValue::TimestampMillisecond(Some(count), zone), _)
            | Expr::Literal(ScalarValue::TimestampMicrosecond(Some(count), zone), _)
            | Expr::Literal(ScalarValue::TimestampNanosecond(Some(count), zone), _) => {
                (count, zone)
            }
            _ => return None,
        };
        if count.rem_euclid(side.ratio) == 0 {
            return None;
        }
        let count = Some(count.div_euclid(side.ratio));
        Some(match side.unit {
            TimeUnit::Second => ScalarValue::TimestampSecond(count, zone),
            TimeUnit::Millisecond => ScalarValue::TimestampMillisecond(count, zone),
            TimeUnit::Microsecond => ScalarValue::TimestampMicrosecond(count, zone),
            TimeUnit::Nanosecond => ScalarValue::TimestampNanosecond(count, zone),
        })
    }
}

fn per_second(unit: TimeUnit) -> i64 {
    match unit {
        TimeUnit::Second => 1,
        TimeUnit::Millisecond => 1_000,
        TimeUnit::Microsecond => 1_000_000,
        TimeUnit::Nanosecond => 1_000_000_000,
    }
}
