//! Tags as plain text for aggregates that know no dictionaries, which is what tags are read as.

use datafusion::arrow::datatypes::DataType;
use datafusion::common::config::ConfigOptions;
use datafusion::common::tree_node::Transformed;
use datafusion::common::{DFSchema, Result, ScalarValue};
use datafusion::logical_expr::expr_rewriter::FunctionRewrite;
use datafusion::logical_expr::{Expr, ExprSchemable, WindowFunctionDefinition, cast, lit};

/// Aggregates of DataFusion 55 without a form for dictionaries.
const PLAIN_ONLY: [&str; 1] = ["approx_distinct"];

/// Casts what such aggregates are given.
#[derive(Debug)]
pub(crate) struct PlainTags;

impl FunctionRewrite for PlainTags {
    fn name(&self) -> &str {
        "plain_tags"
    }

    fn rewrite(
        &self,
        mut expr: Expr,
        schema: &DFSchema,
        _: &ConfigOptions,
    ) -> Result<Transformed<Expr>> {
        let args = match &mut expr {
            Expr::AggregateFunction(call) if PLAIN_ONLY.contains(&call.func.name()) => {
                &mut call.params.args
            }
            Expr::WindowFunction(call) => match &call.fun {
                WindowFunctionDefinition::AggregateUDF(function)
                    if PLAIN_ONLY.contains(&function.name()) =>
                {
                    &mut call.params.args
                }
                _ => return Ok(Transformed::no(expr)),
            },
            _ => return Ok(Transformed::no(expr)),
        };
        let mut changed = false;
        for arg in args {
            if let DataType::Dictionary(_, plain) = arg.get_type(schema)? {
                let tag = std::mem::replace(arg, lit(ScalarValue::Null));
                *arg = cast(tag, *plain);
                changed = true;
            }
        }
        Ok(Transformed::new_transformed(expr, changed))
    }
}
