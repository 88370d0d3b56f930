//! The two zeros of floats are one value wherever values are told apart.
//!
//! `=` and its like, GROUP BY, DISTINCT and joins know that; lists, CASE, `nullif`, some DISTINCT aggregates and
//! windows tell floats apart by their bits (DataFusion 55). What those are given goes there without a
//! negative zero: -0.0 + 0.0 is 0.0, and every other value stays what it is (IEEE 754, section 6.3).

use datafusion::arrow::datatypes::DataType;
use datafusion::common::tree_node::Transformed;
use datafusion::common::{DFSchema, Result, ScalarValue};
use datafusion::logical_expr::utils::merge_schema;
use datafusion::logical_expr::{
    Expr, ExprSchemable, LogicalPlan, Operator, WindowFunctionDefinition, binary_expr, lit,
};
use datafusion::optimizer::optimizer::ApplyOrder;
use datafusion::optimizer::{OptimizerConfig, OptimizerRule};

use crate::rewriting::each_expr;

/// The rule; it stands before those that fold constants.
#[derive(Debug)]
pub(crate) struct OneZero;

impl OptimizerRule for OneZero {
    fn name(&self) -> &str {
        "one_zero"
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
        _: &dyn OptimizerConfig,
    ) -> Result<Transformed<LogicalPlan>> {
        let schema = merge_schema(&plan.inputs());
        each_expr(plan, |expr| Ok(of_expr(expr, &schema)))
    }
}

/// Aggregates that tell their values apart without DISTINCT.
const DISTINCT: [&str; 1] = ["approx_distinct"];

fn of_expr(mut expr: Expr, schema: &DFSchema) -> Transformed<Expr> {
    let told_apart: Vec<&mut Expr> = match &mut expr {
        Expr::InList(list) if list.list.iter().any(may_be_zero) => {
            std::iter::once(list.expr.as_mut())
                .chain(&mut list.list)
                .collect()
        }
        Expr::Case(case)
            if case
                .when_then_expr
                .iter()
                .any(|(when, _)| may_be_zero(when)) =>
        {
            match case.expr.as_deref_mut() {
                Some(expr) => {
                    let whens = case
                        .when_then_expr
                        .iter_mut()
                        .map(|(when, _)| when.as_mut());
                    std::iter::once(expr).chain(whens).collect()
                }
                None => Vec::new(),
            }
        }
        Expr::ScalarFunction(call)
            if call.func.name() == "nullif" && call.args.iter().skip(1).any(may_be_zero) =>
        {
            call.args.iter_mut().collect()
        }
        Expr::AggregateFunction(call)
            if call.params.distinct || DISTINCT.contains(&call.func.name()) =>
        {
            call.params.args.iter_mut().collect()
        }
        Expr::WindowFunction(call) => {
            let params = &mut call.params;
            let by_name = match &call.fun {
                WindowFunctionDefinition::AggregateUDF(function) => {
                    DISTINCT.contains(&function.name())
                }
                WindowFunctionDefinition::WindowUDF(_) => false,
            };
            let args = (params.distinct || by_name).then_some(&mut params.args);
            let order = params.order_by.iter_mut().map(|sort| &mut sort.expr);
            let compared = params.partition_by.iter_mut().chain(order);
            compared.chain(args.into_iter().flatten()).collect()
        }
        _ => Vec::new(),
    };
    let mut changed = false;
    for expr in told_apart {
        changed |= without_negative_zero(expr, schema);
    }
    Transformed::new_transformed(expr, changed)
}

/// Whether the value could be a zero, for all that is seen here.
fn may_be_zero(expr: &Expr) -> bool {
    match expr {
        Expr::Cast(cast) => may_be_zero(&cast.expr),
        Expr::Literal(ScalarValue::Float64(Some(value)), _) => *value == 0.0,
        Expr::Literal(ScalarValue::Float32(Some(value)), _) => *value == 0.0,
        Expr::Literal(ScalarValue::Int64(Some(value)), _) => *value == 0,
        Expr::Literal(value, _) => !value.is_null(),
        _ => true,
    }
}

/// Adds a zero to a float; says whether it is one.
fn without_negative_zero(expr: &mut Expr, schema: &DFSchema) -> bool {
    let zero = match expr.get_type(schema) {
        Ok(DataType::Float32) => ScalarValue::Float32(Some(0.0)),
        Ok(DataType::Float64) => ScalarValue::Float64(Some(0.0)),
        _ => return false,
    };
    let has_one = matches!(expr, Expr::BinaryExpr(sum)
        if sum.op == Operator::Plus && matches!(sum.right.as_ref(), Expr::Literal(value, _) if *value == zero));
    if !has_one {
        let float = std::mem::take(expr);
        *expr = binary_expr(float, Operator::Plus, lit(zero));
    }
    !has_one
}
