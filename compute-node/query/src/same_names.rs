//! Keeps DataFusion's rule that moves filters down from plans in which two columns have one name.
//!
//! On its way through a projection the rule looks a filter's columns up again by their names alone, and
//! takes the first of two: a filter on one table's column would run on the other's. Such projections stand
//! above joins whose sides were exchanged. The logical plan has moved its filters down already, so that
//! little is lost where the rule is left out.

use std::collections::HashSet;
use std::sync::Arc;

use datafusion::arrow::datatypes::Schema;
use datafusion::common::Result;
use datafusion::common::config::ConfigOptions;
use datafusion::common::tree_node::{TreeNode, TreeNodeRecursion};
use datafusion::physical_optimizer::PhysicalOptimizerRule;
use datafusion::physical_plan::ExecutionPlan;
use datafusion::physical_plan::projection::ProjectionExec;

/// Rules that look columns up by their names alone.
const BY_NAME: &str = "FilterPushdown";

/// The rules, with those that go by name left out where names are not enough.
pub(crate) fn guarded(
    rules: &[Arc<dyn PhysicalOptimizerRule + Send + Sync>],
) -> Vec<Arc<dyn PhysicalOptimizerRule + Send + Sync>> {
    let guarded = rules
        .iter()
        .map(|rule| match rule.name().starts_with(BY_NAME) {
            true => Arc::new(Guarded(Arc::clone(rule))),
            false => Arc::clone(rule),
        });
    guarded.collect()
}

#[derive(Debug)]
struct Guarded(Arc<dyn PhysicalOptimizerRule + Send + Sync>);

impl PhysicalOptimizerRule for Guarded {
    fn optimize(
        &self,
        plan: Arc<dyn ExecutionPlan>,
        config: &ConfigOptions,
    ) -> Result<Arc<dyn ExecutionPlan>> {
        let mut same = false;
        plan.apply(|node| {
            if let Some(projection) = node.downcast_ref::<ProjectionExec>() {
                same |= repeats(&projection.schema()) || repeats(&projection.input().schema());
            }
            Ok(match same {
                true => TreeNodeRecursion::Stop,
                false => TreeNodeRecursion::Continue,
            })
        })?;
        match same {
            true => Ok(plan),
            false => self.0.optimize(plan, config),
        }
    }

    fn name(&self) -> &str {
        self.0.name()
    }

    fn schema_check(&self) -> bool {
        self.0.schema_check()
    }
}

/// Whether two columns have one name.
fn repeats(schema: &Schema) -> bool {
    let mut names = HashSet::new();
    !schema
        .fields()
        .iter()
        .all(|field| names.insert(field.name()))
}
