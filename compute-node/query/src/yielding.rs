//! Operators that make much of little give way to others: what has no end in sight can be stopped.
//!
//! DataFusion lets the leaves of a plan give way, which is enough where an operator asks its leaf for
//! more now and then. A join, or a list taken apart, may make millions of rows of one batch of its
//! leaf; without a pause there neither a deadline nor a cancel would be heard.
//!
//! Never here: a limit on what an operator makes.

use std::sync::Arc;

use datafusion::common::Result;
use datafusion::common::config::ConfigOptions;
use datafusion::common::tree_node::{Transformed, TreeNode};
use datafusion::physical_optimizer::PhysicalOptimizerRule;
use datafusion::physical_plan::ExecutionPlan;
use datafusion::physical_plan::coop::CooperativeExec;
use datafusion::physical_plan::joins::{CrossJoinExec, HashJoinExec, NestedLoopJoinExec};
use datafusion::physical_plan::unnest::UnnestExec;

/// Puts a pause behind every operator that may yield far more than it takes.
#[derive(Debug)]
pub(crate) struct Yielding;

impl PhysicalOptimizerRule for Yielding {
    fn name(&self) -> &str {
        "yielding"
    }

    fn optimize(
        &self,
        plan: Arc<dyn ExecutionPlan>,
        _options: &ConfigOptions,
    ) -> Result<Arc<dyn ExecutionPlan>> {
        let wrapped = plan.transform_up(|plan| {
            Ok(match multiplies(plan.as_ref()) {
                true => Transformed::yes(Arc::new(CooperativeExec::new(plan)) as _),
                false => Transformed::no(plan),
            })
        });
        wrapped.map(|wrapped| wrapped.data)
    }

    fn schema_check(&self) -> bool {
        true
    }
}

fn multiplies(plan: &dyn ExecutionPlan) -> bool {
    plan.is::<NestedLoopJoinExec>()
        || plan.is::<CrossJoinExec>()
        || plan.is::<HashJoinExec>()
        || plan.is::<UnnestExec>()
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use auxo_proto::error::ErrorCode;
    use futures::TryStreamExt;
    use tokio::time::Instant;

    use crate::tests::memory_table::Tables;
    use crate::tests::{Bench, limits};
    use crate::{Limits, Statement};

    #[tokio::test]
    async fn a_join_of_a_billion_pairs_hears_its_deadline() {
        let bench = Bench::new(Tables::new(vec![]));
        let text = "SELECT count(*) FROM generate_series(1, 1000000) a, \
                    generate_series(1, 1000000) b WHERE a.value < b.value";
        let Statement::Query(plan) = bench.prepare(text).unwrap() else {
            panic!("it is a query");
        };
        let limits = Limits {
            deadline: Instant::now() + Duration::from_millis(100),
            ..limits()
        };
        let snapshots = bench.tables.snapshots();
        let answer = bench.query.execute(*plan, snapshots, limits).await.unwrap();
        let failure = answer.batches.try_collect::<Vec<_>>().await.unwrap_err();
        assert_eq!(failure.code, ErrorCode::Timeout);
    }
}
