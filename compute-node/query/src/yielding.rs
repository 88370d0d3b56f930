//! Operators that make much of little hear when their time is over.
//!
//! DataFusion lets the leaves of a plan give way, which is enough where an operator asks its leaf for
//! more now and then. A join, or a list taken apart, may work on one batch of its leaf for minutes:
//! 1. behind each of them stands a pause, so that a deadline or a cancel is heard between batches;
//! 2. the condition of a nested loop looks at the clock, for it may refuse pair after pair and never
//!    come to a batch.
//!
//! Never here: a limit on what an operator makes.

use std::fmt;
use std::hash::{Hash, Hasher};
use std::sync::Arc;

use datafusion::arrow::datatypes::{FieldRef, Schema};
use datafusion::arrow::record_batch::RecordBatch;
use datafusion::common::Result;
use datafusion::common::tree_node::{Transformed, TreeNode};
use datafusion::error::DataFusionError;
use datafusion::logical_expr::ColumnarValue;
use datafusion::physical_expr::PhysicalExpr;
use datafusion::physical_plan::ExecutionPlan;
use datafusion::physical_plan::coop::CooperativeExec;
use datafusion::physical_plan::joins::utils::JoinFilter;
use datafusion::physical_plan::joins::{
    CrossJoinExec, HashJoinExec, NestedLoopJoinExec, NestedLoopJoinExecBuilder,
};
use datafusion::physical_plan::unnest::UnnestExec;
use tokio::time::Instant;

use crate::run::too_late;

/// The plan, ready to run, such that it hears the deadline.
pub(crate) fn until(
    deadline: Instant,
    plan: Arc<dyn ExecutionPlan>,
) -> Result<Arc<dyn ExecutionPlan>> {
    let heard = plan.transform_up(|plan| {
        if !multiplies(plan.as_ref()) {
            return Ok(Transformed::no(plan));
        }
        let plan: Arc<dyn ExecutionPlan> = match plan.downcast_ref::<NestedLoopJoinExec>() {
            Some(join) => Arc::new(watched(join, deadline)?),
            None => plan,
        };
        Ok(Transformed::yes(Arc::new(CooperativeExec::new(plan)) as _))
    });
    heard.map(|heard| heard.data)
}

fn multiplies(plan: &dyn ExecutionPlan) -> bool {
    plan.is::<NestedLoopJoinExec>()
        || plan.is::<CrossJoinExec>()
        || plan.is::<HashJoinExec>()
        || plan.is::<UnnestExec>()
}

fn watched(join: &NestedLoopJoinExec, deadline: Instant) -> Result<NestedLoopJoinExec> {
    let filter = join.filter().map(|filter| {
        let condition = Arc::clone(filter.expression());
        let columns = filter.column_indices().to_vec();
        let schema = Arc::clone(filter.schema());
        JoinFilter::new(
            Arc::new(Watched {
                condition,
                deadline,
            }),
            columns,
            schema,
        )
    });
    let (left, right) = (Arc::clone(join.left()), Arc::clone(join.right()));
    NestedLoopJoinExecBuilder::new(left, right, *join.join_type())
        .with_projection_ref(join.projection().clone())
        .with_filter(filter)
        .build()
}

/// A condition that fails once its time is over.
#[derive(Debug, Clone)]
struct Watched {
    condition: Arc<dyn PhysicalExpr>,
    deadline: Instant,
}

impl PartialEq for Watched {
    fn eq(&self, other: &Self) -> bool {
        self.condition.eq(&other.condition) && self.deadline == other.deadline
    }
}

impl Eq for Watched {}

impl Hash for Watched {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.condition.hash(state);
    }
}

impl fmt::Display for Watched {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.condition, f)
    }
}

impl PhysicalExpr for Watched {
    fn return_field(&self, schema: &Schema) -> Result<FieldRef> {
        self.condition.return_field(schema)
    }

    fn evaluate(&self, batch: &RecordBatch) -> Result<ColumnarValue> {
        match Instant::now() < self.deadline {
            true => self.condition.evaluate(batch),
            false => Err(DataFusionError::External(Box::new(too_late()))),
        }
    }

    fn children(&self) -> Vec<&Arc<dyn PhysicalExpr>> {
        vec![&self.condition]
    }

    fn with_new_children(
        self: Arc<Self>,
        mut children: Vec<Arc<dyn PhysicalExpr>>,
    ) -> Result<Arc<dyn PhysicalExpr>> {
        let condition = children
            .pop()
            .unwrap_or_else(|| Arc::clone(&self.condition));
        let deadline = self.deadline;
        Ok(Arc::new(Self {
            condition,
            deadline,
        }))
    }

    fn fmt_sql(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.condition.fmt_sql(f)
    }
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
        for condition in ["a.value < b.value", "a.value + b.value < 0", "true"] {
            check(condition).await;
        }
    }

    async fn check(condition: &str) {
        let bench = Bench::new(Tables::new(vec![]));
        let text = format!(
            "SELECT count(a.value + b.value) FROM generate_series(1, 1000000) a, \
             generate_series(1, 1000000) b WHERE {condition}"
        );
        let Statement::Query(plan) = bench.prepare(&text).unwrap() else {
            panic!("it is a query");
        };
        let limits = Limits {
            deadline: Instant::now() + Duration::from_millis(100),
            ..limits()
        };
        let snapshots = bench.tables.snapshots();
        let answer = bench.query.execute(*plan, snapshots, limits).await.unwrap();
        let failure = answer.batches.try_collect::<Vec<_>>().await.unwrap_err();
        assert_eq!(failure.code, ErrorCode::Timeout, "{condition}");
    }
}
