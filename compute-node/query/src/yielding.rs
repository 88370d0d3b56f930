//! Operators that make much of little pause while they do.
//!
//! DataFusion lets the leaves of a plan give way, which is enough where an operator asks its leaf for
//! more now and then. A join may work on one batch of the side that it probes with for minutes, and
//! refuse pair after pair without coming to a batch of its own; who waits for it is not heard, and
//! neither is a deadline, nor anybody else whom the thread serves. So:
//! 1. what a join probes with comes in pieces, as large as it can work on in a tenth of a second;
//! 2. between the pieces the task gives way about as often;
//! 3. behind each of these operators it gives way now and then as leaves do.
//!
//! Never here: a limit on what an operator makes.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use datafusion::arrow::record_batch::RecordBatch;
use datafusion::common::Result;
use datafusion::common::tree_node::{Transformed, TreeNode, TreeNodeRecursion};
use datafusion::error::DataFusionError;
use datafusion::execution::TaskContext;
use datafusion::physical_expr::PhysicalExpr;
use datafusion::physical_plan::coop::CooperativeExec;
use datafusion::physical_plan::execution_plan::replace_children_if_necessary;
use datafusion::physical_plan::joins::{CrossJoinExec, HashJoinExec, NestedLoopJoinExec};
use datafusion::physical_plan::stream::RecordBatchStreamAdapter;
use datafusion::physical_plan::unnest::UnnestExec;
use datafusion::physical_plan::{
    DisplayAs, DisplayFormatType, ExecutionPlan, PlanProperties, SendableRecordBatchStream,
};
use futures::{StreamExt, stream};
use tokio::time::Instant;

/// Longest work on one piece, and about the longest without giving way.
const WORK_MAX: Duration = Duration::from_millis(100);
/// How much larger the next piece is after one that took less than its share of [`WORK_MAX`].
const GROWTH: u32 = 8;

/// The plan, ready to run, such that it pauses.
pub(crate) fn paced(plan: Arc<dyn ExecutionPlan>) -> Result<Arc<dyn ExecutionPlan>> {
    let paced = plan.transform_up(|plan| {
        if !multiplies(plan.as_ref()) {
            return Ok(Transformed::no(plan));
        }
        let children: Vec<_> = plan.children().into_iter().cloned().collect();
        let plan = match (probes(plan.as_ref()), children.as_slice()) {
            (true, [built, probe]) => {
                let probe = Arc::new(PacedExec(Arc::clone(probe)));
                replace_children_if_necessary(plan, vec![Arc::clone(built), probe])?
            }
            _ => plan,
        };
        Ok(Transformed::yes(Arc::new(CooperativeExec::new(plan)) as _))
    });
    paced.map(|paced| paced.data)
}

fn multiplies(plan: &dyn ExecutionPlan) -> bool {
    probes(plan) || plan.is::<CrossJoinExec>() || plan.is::<UnnestExec>()
}

/// Joins that hold their left side and go through it for each batch of the right one.
fn probes(plan: &dyn ExecutionPlan) -> bool {
    plan.is::<NestedLoopJoinExec>() || plan.is::<HashJoinExec>()
}

/// Hands on what it is given, in pieces.
#[derive(Debug)]
struct PacedExec(Arc<dyn ExecutionPlan>);

impl DisplayAs for PacedExec {
    fn fmt_as(&self, _: DisplayFormatType, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl ExecutionPlan for PacedExec {
    fn name(&self) -> &str {
        "PacedExec"
    }

    fn properties(&self) -> &Arc<PlanProperties> {
        self.0.properties()
    }

    fn maintains_input_order(&self) -> Vec<bool> {
        vec![true]
    }

    fn children(&self) -> Vec<&Arc<dyn ExecutionPlan>> {
        vec![&self.0]
    }

    fn apply_expressions(
        &self,
        _: &mut dyn FnMut(&Arc<dyn PhysicalExpr>) -> Result<TreeNodeRecursion>,
    ) -> Result<TreeNodeRecursion> {
        Ok(TreeNodeRecursion::Continue)
    }

    fn with_new_children(
        self: Arc<Self>,
        mut children: Vec<Arc<dyn ExecutionPlan>>,
    ) -> Result<Arc<dyn ExecutionPlan>> {
        match (children.pop(), children.is_empty()) {
            (Some(input), true) => Ok(Arc::new(Self(input))),
            _ => Err(DataFusionError::Internal("PacedExec has one input".into())),
        }
    }

    fn execute(
        &self,
        partition: usize,
        context: Arc<TaskContext>,
    ) -> Result<SendableRecordBatchStream> {
        let pieces = Pieces {
            input: self.0.execute(partition, context)?,
            rest: None,
            rows: 1,
            handed: None,
            worked: Duration::ZERO,
        };
        let pieces = stream::unfold(pieces, |mut pieces| async move {
            let piece = pieces.next().await?;
            Some((piece, pieces))
        });
        let schema = self.0.schema();
        Ok(Box::pin(RecordBatchStreamAdapter::new(
            schema,
            Box::pin(pieces),
        )))
    }
}

struct Pieces {
    input: SendableRecordBatchStream,
    /// What is left of the batch that was taken last.
    rest: Option<RecordBatch>,
    /// Rows of the next piece.
    rows: usize,
    /// When the last piece was handed on.
    handed: Option<Instant>,
    /// Work since the last pause.
    worked: Duration,
}

impl Pieces {
    async fn next(&mut self) -> Option<Result<RecordBatch>> {
        if let Some(handed) = self.handed.take() {
            let work = handed.elapsed();
            self.rows = next_rows(self.rows, work);
            self.worked += work;
        }
        if self.worked >= WORK_MAX {
            self.worked = Duration::ZERO;
            tokio::task::yield_now().await;
        }
        let batch = match self.rest.take() {
            Some(rest) => rest,
            None => match self.input.next().await? {
                Ok(batch) => batch,
                Err(error) => return Some(Err(error)),
            },
        };
        let piece = match batch.num_rows() > self.rows {
            true => {
                let left = batch.num_rows() - self.rows;
                self.rest = Some(batch.slice(self.rows, left));
                batch.slice(0, self.rows)
            }
            false => batch,
        };
        self.handed = Some(Instant::now());
        Some(Ok(piece))
    }
}

/// Rows of the next piece, by what the work on the last one took.
fn next_rows(rows: usize, work: Duration) -> usize {
    if work > WORK_MAX {
        let share = WORK_MAX.as_secs_f64() / work.as_secs_f64();
        ((rows as f64 * share) as usize).max(1)
    } else if work < WORK_MAX / GROWTH {
        rows.saturating_mul(GROWTH as usize)
    } else {
        rows
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::time::Duration;

    use auxo_proto::error::{ErrorCode, Failure};
    use futures::{StreamExt, TryStreamExt};
    use tokio::time::{Instant, timeout};

    use super::{WORK_MAX, next_rows};
    use crate::run::Answer;
    use crate::tests::memory_table::Tables;
    use crate::tests::{Bench, limits, until};
    use crate::{Limits, Slot, Statement};

    const CONDITIONS: [&str; 4] = [
        "a.value < b.value",
        "a.value + b.value < 0",
        "true",
        "a.value % 1 = b.value % 1 AND a.value + b.value < 0",
    ];

    /// A million million pairs.
    async fn start(
        bench: &Bench,
        condition: &str,
        limits: Limits,
        slot: &Slot,
    ) -> Result<Answer, Failure> {
        let text = format!(
            "SELECT count(a.value + b.value) FROM generate_series(1, 1000000) a, \
             generate_series(1, 1000000) b WHERE {condition}"
        );
        let Statement::Query(plan) = bench.prepare(&text).unwrap() else {
            panic!("it is a query");
        };
        let snapshots = bench.tables.snapshots();
        let slot = Arc::clone(slot);
        bench.query.execute(*plan, snapshots, limits, slot).await
    }

    /// Left alone it works for minutes.
    async fn has_let_go(bench: &Bench, slot: &Slot, condition: &str) {
        until(condition, || Arc::strong_count(slot) == 1).await;
        // Tasks of the plan that were on another thread at that moment end there.
        until(condition, || bench.query.memory_used() == 0).await;
    }

    #[tokio::test]
    async fn a_join_of_a_million_million_pairs_hears_its_deadline() {
        let bench = Bench::new(Tables::new(vec![]));
        for condition in CONDITIONS {
            let soon = Limits {
                deadline: Instant::now() + Duration::from_millis(100),
                ..limits()
            };
            let slot: Slot = Arc::new(());
            let rows = async {
                let answer = start(&bench, condition, soon, &slot).await?;
                answer.batches.try_collect::<Vec<_>>().await
            };
            assert_eq!(
                rows.await.unwrap_err().code,
                ErrorCode::Timeout,
                "{condition}"
            );
            has_let_go(&bench, &slot, condition).await;
        }
    }

    #[tokio::test]
    async fn a_join_ends_when_nobody_waits() {
        let bench = Bench::new(Tables::new(vec![]));
        for condition in CONDITIONS {
            let slot: Slot = Arc::new(());
            let mut answer = start(&bench, condition, limits(), &slot).await.unwrap();
            let waited = timeout(3 * WORK_MAX, answer.batches.next()).await;
            assert!(waited.is_err(), "{condition}");
            drop(answer);
            has_let_go(&bench, &slot, condition).await;
        }
    }

    #[test]
    fn pieces_follow_what_the_work_took() {
        assert_eq!(next_rows(1, Duration::ZERO), 8);
        assert_eq!(next_rows(64, WORK_MAX / 2), 64);
        assert_eq!(next_rows(64, WORK_MAX * 4), 16);
        assert_eq!(next_rows(1, WORK_MAX * 4), 1);
        assert_eq!(next_rows(usize::MAX, Duration::ZERO), usize::MAX);
    }
}
