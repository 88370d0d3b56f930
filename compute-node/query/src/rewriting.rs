//! Rules of ours that rewrite the expressions of a plan's node.

use datafusion::common::Result;
use datafusion::common::tree_node::{Transformed, TreeNode};
use datafusion::logical_expr::expr_rewriter::NamePreserver;
use datafusion::logical_expr::{Expr, LogicalPlan};

/// Rewrites each expression of the node and what it is made of, the innermost first; columns of answers keep
/// their names.
pub(crate) fn each_expr(
    plan: LogicalPlan,
    mut rewrite: impl FnMut(Expr) -> Result<Transformed<Expr>>,
) -> Result<Transformed<LogicalPlan>> {
    let names = NamePreserver::new(&plan);
    plan.map_expressions(|expr| {
        let name = names.save(&expr);
        let rewritten = expr.transform_up(&mut rewrite)?;
        Ok(rewritten.update_data(|expr| name.restore(expr)))
    })
}
