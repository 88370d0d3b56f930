//! What a DECIMAL and a DOUBLE are where they meet: a DOUBLE, as SQL has it.
//!
//! The planner would make DECIMAL(31, 15) of both (DataFusion 55, `decimal_coercion`), in which small
//! values are 0 and large ones fail. Before that, this rule casts the exact side, in comparisons, CASE,
//! functions that bring their arguments to one type, unions and the keys of joins.
//!
//! A number in the statement is no DOUBLE there: it becomes a DECIMAL of its own digits where it and the
//! exact side fit in one.

use std::sync::Arc;

use datafusion::arrow::datatypes::DataType;
use datafusion::common::config::ConfigOptions;
use datafusion::common::tree_node::{Transformed, TreeNode, TreeNodeRecursion};
use datafusion::common::{Column, DFSchema, Result, ScalarValue};
use datafusion::logical_expr::expr::Case;
use datafusion::logical_expr::expr_rewriter::{NamePreserver, SavedName};
use datafusion::logical_expr::expr_schema::cast_subquery;
use datafusion::logical_expr::utils::merge_schema;
use datafusion::logical_expr::{
    Between, BinaryExpr, Expr, ExprSchemable, Join, LogicalPlan, Projection, Subquery, Union, cast,
    lit,
};
use datafusion::optimizer::AnalyzerRule;

use crate::functions::checked::compares;
use crate::number::{DIGITS_MAX, Number};
use crate::rewriting::each_expr;

/// The rule; it stands before the planner's own coercion.
#[derive(Debug)]
pub(crate) struct DecimalsMeetDoubles;

impl AnalyzerRule for DecimalsMeetDoubles {
    fn name(&self) -> &str {
        "decimals_meet_doubles"
    }

    fn analyze(&self, plan: LogicalPlan, _: &ConfigOptions) -> Result<LogicalPlan> {
        if !has_decimals(&plan)? {
            return Ok(plan);
        }
        let settled = plan.transform_up_with_subqueries(of_node)?;
        Ok(settled.data)
    }
}

/// Whether a table of the plan has a DECIMAL, or an expression makes one.
fn has_decimals(plan: &LogicalPlan) -> Result<bool> {
    let makes_one = |expr: &Expr| match expr {
        Expr::Cast(cast) => cast.field.data_type().is_decimal(),
        Expr::TryCast(cast) => cast.field.data_type().is_decimal(),
        Expr::Literal(value, _) => value.data_type().is_decimal(),
        Expr::ScalarFunction(call) => ["arrow_cast", "arrow_try_cast"].contains(&call.func.name()),
        _ => false,
    };
    let mut found = false;
    plan.apply_with_subqueries(|node| {
        found |= match node {
            LogicalPlan::TableScan(scan) => {
                let schema = scan.source.schema();
                schema
                    .fields()
                    .iter()
                    .any(|field| field.data_type().is_decimal())
            }
            _ => false,
        };
        node.apply_expressions(|expr| {
            found |= expr.exists(|expr| Ok(makes_one(expr)))?;
            Ok(stop_if(found))
        })?;
        Ok(stop_if(found))
    })?;
    Ok(found)
}

fn stop_if(found: bool) -> TreeNodeRecursion {
    match found {
        true => TreeNodeRecursion::Stop,
        false => TreeNodeRecursion::Continue,
    }
}

fn of_node(plan: LogicalPlan) -> Result<Transformed<LogicalPlan>> {
    let schema = merge_schema(&plan.inputs());
    each_expr(plan, |expr| of_expr(expr, &schema))?
        .transform_data(|plan| match plan {
            LogicalPlan::Join(join) => of_join(join),
            LogicalPlan::Union(union) => of_union(union),
            other => Ok(Transformed::no(other)),
        })?
        .map_data(LogicalPlan::recompute_schema)
}

/// What expressions that meet become.
#[derive(Clone, Copy, PartialEq)]
enum Meeting {
    /// Each DECIMAL a DOUBLE.
    Doubles,
    /// Each number of the statement a DECIMAL.
    Decimals,
}

/// Most digits before the point, and behind it.
#[derive(Default)]
struct Digits {
    before: usize,
    behind: usize,
}

impl Digits {
    fn widen(&mut self, before: usize, behind: usize) {
        self.before = self.before.max(before);
        self.behind = self.behind.max(behind);
    }
}

/// What these expressions become where they meet; `None` where the planner knows it rightly.
fn meeting_of<'e>(met: impl IntoIterator<Item = (&'e Expr, &'e DFSchema)>) -> Option<Meeting> {
    let mut digits = Digits::default();
    let (mut decimals, mut doubles, mut numbers) = (false, false, false);
    for (expr, schema) in met {
        match expr.get_type(schema).ok()? {
            DataType::Decimal32(precision, scale)
            | DataType::Decimal64(precision, scale)
            | DataType::Decimal128(precision, scale)
            | DataType::Decimal256(precision, scale) => {
                let before = i16::from(precision) - i16::from(scale);
                let unsigned = |digits: i16| usize::try_from(digits).unwrap_or(0);
                digits.widen(unsigned(before), unsigned(i16::from(scale)));
                decimals = true;
            }
            DataType::Float16 | DataType::Float32 | DataType::Float64 => match number(expr) {
                Some(number) => {
                    let (precision, scale) = number.precision_and_scale();
                    digits.widen(precision - scale, scale);
                    numbers = true;
                }
                None => doubles = true,
            },
            _ => {}
        }
    }
    let fit = digits.before + digits.behind <= DIGITS_MAX;
    match (decimals, doubles, numbers) {
        (true, false, true) if fit => Some(Meeting::Decimals),
        (true, false, false) | (false, ..) => None,
        (true, ..) => Some(Meeting::Doubles),
    }
}

/// A float that the statement itself writes, by the fewest digits that name it.
fn number(expr: &Expr) -> Option<Number> {
    match expr {
        Expr::Literal(ScalarValue::Float64(Some(value)), _) => {
            Number::read(&format!("{:e}", value.abs()), value.is_sign_negative())
        }
        _ => None,
    }
}

/// The expression as it has to be where it meets others.
fn settled(expr: Expr, schema: &DFSchema, meeting: Meeting) -> Result<Expr> {
    match meeting {
        Meeting::Doubles if expr.get_type(schema)?.is_decimal() => {
            Ok(cast(expr, DataType::Float64))
        }
        Meeting::Doubles => Ok(expr),
        Meeting::Decimals => Ok(number(&expr)
            .and_then(|number| exact(&number))
            .unwrap_or(expr)),
    }
}

/// The number as a DECIMAL of its own digits.
fn exact(number: &Number) -> Option<Expr> {
    let (precision, scale) = number.precision_and_scale();
    let (precision, digits) = (u8::try_from(precision).ok()?, i8::try_from(scale).ok()?);
    let value = Some(number.scaled(scale)?);
    Some(lit(ScalarValue::Decimal128(value, precision, digits)))
}

/// Settles what meets each other in one expression.
fn settle(met: Vec<&mut Expr>, schema: &DFSchema) -> Result<bool> {
    let Some(meeting) = meeting_of(met.iter().map(|expr| (&**expr, schema))) else {
        return Ok(false);
    };
    for expr in met {
        *expr = settled(std::mem::take(expr), schema, meeting)?;
    }
    Ok(true)
}

/// Functions that bring their arguments to one type, and how many before them keep their own.
const ONE_TYPE: [(&str, usize); 7] = [
    ("coalesce", 0),
    ("greatest", 0),
    ("least", 0),
    ("make_array", 0),
    ("nullif", 0),
    ("nvl", 0),
    ("nvl2", 1),
];

fn of_expr(mut expr: Expr, schema: &DFSchema) -> Result<Transformed<Expr>> {
    let changed = match &mut expr {
        Expr::BinaryExpr(BinaryExpr { left, op, right }) if compares(*op) => {
            settle(vec![left, right], schema)?
        }
        Expr::Between(Between {
            expr, low, high, ..
        }) => settle(vec![expr, low, high], schema)?,
        Expr::InList(list) => {
            let met = std::iter::once(list.expr.as_mut()).chain(&mut list.list);
            settle(met.collect(), schema)?
        }
        Expr::Case(Case {
            expr,
            when_then_expr,
            else_expr,
        }) => {
            let (whens, thens): (Vec<_>, Vec<_>) = when_then_expr
                .iter_mut()
                .map(|(when, then)| (when.as_mut(), then.as_mut()))
                .unzip();
            let answers = thens.into_iter().chain(else_expr.as_deref_mut());
            let answers = settle(answers.collect(), schema)?;
            match expr.as_deref_mut() {
                Some(expr) => {
                    let compared = std::iter::once(expr).chain(whens);
                    settle(compared.collect(), schema)? || answers
                }
                None => answers,
            }
        }
        Expr::ScalarFunction(call) => {
            let name = call.func.name();
            match ONE_TYPE.iter().find(|(function, _)| *function == name) {
                Some((_, others)) => settle(call.args.iter_mut().skip(*others).collect(), schema)?,
                None => false,
            }
        }
        Expr::InSubquery(test) => of_test(&mut test.expr, &mut test.subquery, schema)?,
        _ => false,
    };
    Ok(Transformed::new_transformed(expr, changed))
}

/// A test against the one column of a query.
fn of_test(tested: &mut Expr, subquery: &mut Subquery, schema: &DFSchema) -> Result<bool> {
    let inner = Arc::clone(subquery.subquery.schema());
    let column = Expr::Column(Column::from(inner.qualified_field(0)));
    let Some(meeting) = meeting_of([(&*tested, schema), (&column, inner.as_ref())]) else {
        return Ok(false);
    };
    *tested = settled(std::mem::take(tested), schema, meeting)?;
    if meeting == Meeting::Doubles && inner.field(0).data_type().is_decimal() {
        *subquery = cast_subquery(subquery.clone(), &DataType::Float64)?;
    }
    Ok(true)
}

/// The keys of a join stand beside each other; its other conditions are expressions.
fn of_join(mut join: Join) -> Result<Transformed<LogicalPlan>> {
    let (left, right) = (
        Arc::clone(join.left.schema()),
        Arc::clone(join.right.schema()),
    );
    let mut changed = false;
    for (one, other) in &mut join.on {
        let met = [(&*one, left.as_ref()), (&*other, right.as_ref())];
        if let Some(meeting) = meeting_of(met) {
            *one = settled(std::mem::take(one), &left, meeting)?;
            *other = settled(std::mem::take(other), &right, meeting)?;
            changed = true;
        }
    }
    Ok(Transformed::new_transformed(
        LogicalPlan::Join(join),
        changed,
    ))
}

/// One branch of a union: what it gives, of what.
struct Branch {
    /// Without the names that they have.
    exprs: Vec<Expr>,
    names: Vec<SavedName>,
    of: Arc<LogicalPlan>,
}

impl Branch {
    fn new(plan: &Arc<LogicalPlan>) -> Self {
        let (exprs, of) = match plan.as_ref() {
            LogicalPlan::Projection(projection) => (projection.expr.clone(), &projection.input),
            other => {
                let columns = other.schema().iter().map(Column::from);
                (columns.map(Expr::Column).collect(), plan)
            }
        };
        let names = NamePreserver::new_for_projection();
        Self {
            names: exprs.iter().map(|expr| names.save(expr)).collect(),
            exprs: exprs.into_iter().map(unaliased).collect(),
            of: Arc::clone(of),
        }
    }

    fn plan(self) -> Result<Arc<LogicalPlan>> {
        let named = self.names.into_iter().zip(self.exprs);
        let exprs = named.map(|(name, expr)| name.restore(expr)).collect();
        let plan = Projection::try_new(exprs, self.of)?;
        Ok(Arc::new(LogicalPlan::Projection(plan)))
    }
}

fn unaliased(expr: Expr) -> Expr {
    match expr {
        Expr::Alias(alias) => unaliased(*alias.expr),
        other => other,
    }
}

/// The branches of a union meet column by column.
fn of_union(union: Union) -> Result<Transformed<LogicalPlan>> {
    let mut branches: Vec<Branch> = union.inputs.iter().map(Branch::new).collect();
    let width = branches.iter().map(|branch| branch.exprs.len()).min();
    let mut changed = false;
    for at in 0..width.unwrap_or(0) {
        let met = branches.iter();
        let met = met.map(|branch| (&branch.exprs[at], branch.of.schema().as_ref()));
        let Some(meeting) = meeting_of(met) else {
            continue;
        };
        for Branch { exprs, of, .. } in &mut branches {
            exprs[at] = settled(std::mem::take(&mut exprs[at]), of.schema(), meeting)?;
        }
        changed = true;
    }
    if !changed {
        return Ok(Transformed::no(LogicalPlan::Union(union)));
    }
    let inputs = branches.into_iter().map(Branch::plan);
    let union = Union::try_new_with_loose_types(inputs.collect::<Result<_>>()?)?;
    Ok(Transformed::yes(LogicalPlan::Union(union)))
}
