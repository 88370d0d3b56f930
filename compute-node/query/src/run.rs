//! Running a planned query: physical plan, memory, limits, and the stream of its answer.
//!
//! 1. The plan's tables take their snapshots and say how many rows they may yield; few rows run in
//!    one stream, many in as many as the node is set to.
//! 2. The stream ends early, and says so, at the limit of rows or bytes; it fails at the deadline.
//! 3. Dropping the answer cancels everything the query does.

use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use arrow::array::RecordBatch;
use arrow::datatypes::SchemaRef;
use auxo_proto::error::{ErrorCode, Failure};
use datafusion::catalog::default_table_source::source_as_provider;
use datafusion::common::Result;
use datafusion::common::tree_node::TreeNodeRecursion;
use datafusion::error::DataFusionError;
use datafusion::execution::TaskContext;
use datafusion::execution::context::SessionState;
use datafusion::execution::runtime_env::RuntimeEnv;
use datafusion::logical_expr::{LogicalPlan, TableScan};
use datafusion::physical_plan::{SendableRecordBatchStream, execute_stream};
use futures::stream::{self, BoxStream};
use futures::{FutureExt, StreamExt};
use tokio::time::{Instant, timeout_at};

use crate::failure;
use crate::memory::StatementPool;
use crate::scan::ScanCounters;
use crate::semantics::AnswerColumn;
use crate::session::Query;
use crate::size;
use crate::source::{Pinned, Snapshots};
use crate::table::{Reading, SeriesTable};
use crate::threads::Slot;
use crate::yielding;

/// A query ready to run, once.
#[derive(Debug)]
pub struct QueryPlan {
    pub(crate) state: SessionState,
    pub(crate) plan: LogicalPlan,
    pub(crate) columns: Vec<AnswerColumn>,
}

impl QueryPlan {
    /// Columns of the answer.
    pub fn columns(&self) -> &[AnswerColumn] {
        &self.columns
    }
}

/// What one statement may take.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// When it has to be over.
    pub deadline: Instant,
    /// Rows of the answer; more are cut off and the answer says so.
    pub rows: u64,
    /// Bytes of the answer as Arrow arrays; more are cut off and the answer says so.
    pub bytes: u64,
}

/// What a query has done so far; final once its stream has ended.
#[derive(Debug)]
pub struct QueryStats {
    scanned: Arc<ScanCounters>,
    pool: Arc<StatementPool>,
    rows: AtomicU64,
    truncated: AtomicBool,
}

impl QueryStats {
    /// What a caller is told of an error of the running plan.
    fn failure(&self, error: &DataFusionError) -> Failure {
        failure(error, &self.pool)
    }

    /// Rows that scans handed to the plan.
    pub fn rows_scanned(&self) -> u64 {
        self.scanned.rows.load(Ordering::Relaxed)
    }

    /// Bytes of decoded columns that scans handed to the plan.
    pub fn bytes_scanned(&self) -> u64 {
        self.scanned.bytes.load(Ordering::Relaxed)
    }

    /// Files of the tablets that were asked.
    pub fn files_considered(&self) -> u64 {
        self.scanned.files_considered.load(Ordering::Relaxed)
    }

    /// Files that were opened.
    pub fn files_read(&self) -> u64 {
        self.scanned.files_read.load(Ordering::Relaxed)
    }

    /// Bytes of rows that came from other nodes.
    pub fn bytes_moved(&self) -> u64 {
        self.scanned.bytes_moved.load(Ordering::Relaxed)
    }

    /// Most bytes the plan's operators held at once.
    pub fn memory_peak_bytes(&self) -> u64 {
        self.pool.peak() as u64
    }

    /// Rows of the answer.
    pub fn rows(&self) -> u64 {
        self.rows.load(Ordering::Relaxed)
    }

    /// Whether a limit cut the answer short.
    pub fn truncated(&self) -> bool {
        self.truncated.load(Ordering::Relaxed)
    }
}

/// A query that runs as its stream is polled.
pub struct Answer {
    /// What each column is.
    pub columns: Vec<AnswerColumn>,
    /// Types of the batches' columns.
    pub schema: SchemaRef,
    /// The rows. A failure is the last item. Dropping it cancels the query.
    pub batches: BoxStream<'static, Result<RecordBatch, Failure>>,
    /// What it has done so far.
    pub stats: Arc<QueryStats>,
}

/// Scans that yield fewer rows than this run in one stream: handing rows around costs more.
pub(crate) const SMALL_SCAN_ROWS: u64 = 256 * 1024;

impl Query {
    /// Starts a query on snapshots of the tablets it names; it runs on the threads of statements.
    ///
    /// * `slot`: kept until no thread works for the query any more, which may be later than its end.
    /// * errors: a tablet cannot be read, a limit, the deadline. Nothing has to be undone.
    /// * effects: cancelled by dropping the future, then by dropping the answer.
    pub async fn execute(
        self: &Arc<Self>,
        query: QueryPlan,
        snapshots: Snapshots,
        limits: Limits,
        slot: Slot,
    ) -> Result<Answer, Failure> {
        let engine = Arc::clone(self);
        let start = async move { engine.start(query, snapshots, limits).await };
        let started = self.threads.run(limits.deadline, Arc::clone(&slot), start);
        let Answer {
            columns,
            schema,
            batches,
            stats,
        } = started.await?;
        Ok(Answer {
            columns,
            schema,
            batches: self.threads.stream(limits.deadline, slot, batches),
            stats,
        })
    }

    async fn start(
        &self,
        query: QueryPlan,
        snapshots: Snapshots,
        limits: Limits,
    ) -> Result<Answer, Failure> {
        let QueryPlan {
            mut state,
            plan,
            columns,
        } = query;
        let scanned = Arc::new(ScanCounters::default());
        let reading = Arc::new(Reading {
            pinned: Pinned::new(snapshots),
            counters: Arc::clone(&scanned),
        });
        let pool = Arc::new(StatementPool::new(
            Arc::clone(&self.memory),
            self.statement_memory,
        ));
        let stats = Arc::new(QueryStats {
            scanned,
            pool: Arc::clone(&pool),
            rows: AtomicU64::new(0),
            truncated: AtomicBool::new(false),
        });
        let start = async {
            let few = rows_at_most(&plan, &reading).await? < SMALL_SCAN_ROWS;
            let options = state.config_mut();
            if few {
                options.options_mut().execution.target_partitions = 1;
            }
            options.set_extension(Arc::clone(&reading));
            let physical = state
                .query_planner()
                .create_physical_plan(&plan, &state)
                .await?;
            let physical = yielding::paced(physical)?;
            let runtime = RuntimeEnv {
                memory_pool: pool,
                ..self.runtime.as_ref().clone()
            };
            execute_stream(physical, Arc::new(task(&state, runtime)))
        };
        let batches =
            match timeout_at(limits.deadline, AssertUnwindSafe(start).catch_unwind()).await {
                Ok(Ok(started)) => started.map_err(|error| stats.failure(&error))?,
                Ok(Err(_)) => return Err(panicked()),
                Err(_) => return Err(too_late()),
            };
        let schema = batches.schema();
        let running = Running {
            batches,
            limits,
            bytes: 0,
            over: false,
            stats: Arc::clone(&stats),
        };
        let batches = stream::unfold(running, |mut running| async move {
            let batch = running.next().await?;
            Some((batch, running))
        });
        Ok(Answer {
            columns,
            schema,
            batches: batches.boxed(),
            stats,
        })
    }
}

pub(crate) fn task(state: &SessionState, runtime: RuntimeEnv) -> TaskContext {
    TaskContext::new(
        None,
        String::new(),
        state.config().clone(),
        state.scalar_functions().clone(),
        state.higher_order_functions().clone(),
        state.aggregate_functions().clone(),
        state.window_functions().clone(),
        Arc::new(runtime),
    )
}

/// What a caller is told of an error of a running plan that holds its memory in the pool.
pub(crate) fn failure(error: &DataFusionError, pool: &StatementPool) -> Failure {
    let mut failure = failure::of_run(error);
    let limit = pool.limit();
    if failure.code == ErrorCode::QueryLimit && !failure.detail.contains("limit") {
        failure.detail = format!(
            "{} (limits.statement_memory, {limit} bytes)",
            failure.detail
        );
    }
    failure
}

/// Upper bound on the rows that all scans of the plan can yield on this node.
async fn rows_at_most(plan: &LogicalPlan, reading: &Reading) -> Result<u64> {
    let mut scans: Vec<TableScan> = Vec::new();
    plan.apply_with_subqueries(|node| {
        if let LogicalPlan::TableScan(scan) = node {
            scans.push(scan.clone());
        }
        Ok(TreeNodeRecursion::Continue)
    })?;
    let mut rows: u64 = 0;
    for scan in scans {
        let provider = source_as_provider(&scan.source)?;
        if let Some(table) = provider.downcast_ref::<SeriesTable>() {
            let wanted = table.wanted(reading, &scan.filters).await?;
            rows = rows.saturating_add(wanted.rows_at_most());
        }
    }
    Ok(rows)
}

pub(crate) fn too_late() -> Failure {
    Failure::new(ErrorCode::Timeout, "the statement's time ran out")
}

pub(crate) fn panicked() -> Failure {
    tracing::error!("statement panicked");
    Failure::new(
        ErrorCode::Internal,
        "the query engine failed; the log of the node says why",
    )
}

/// A stream of batches under limits.
struct Running {
    batches: SendableRecordBatchStream,
    limits: Limits,
    bytes: u64,
    over: bool,
    stats: Arc<QueryStats>,
}

impl Running {
    async fn next(&mut self) -> Option<Result<RecordBatch, Failure>> {
        if self.over {
            return None;
        }
        let next = AssertUnwindSafe(self.batches.next()).catch_unwind();
        let failure = match timeout_at(self.limits.deadline, next).await {
            Ok(Ok(Some(Ok(batch)))) => return self.within(batch).map(Ok),
            Ok(Ok(Some(Err(error)))) => self.stats.failure(&error),
            Ok(Ok(None)) => {
                self.over = true;
                return None;
            }
            Ok(Err(_)) => panicked(),
            Err(_) => too_late(),
        };
        self.over = true;
        Some(Err(failure))
    }

    /// As much of the batch as the limits leave; `None` when that is nothing.
    fn within(&mut self, batch: RecordBatch) -> Option<RecordBatch> {
        let left = self.limits.rows - self.stats.rows();
        let bytes = size::of_batch(&batch) as u64;
        let bytes_left = self.limits.bytes.saturating_sub(self.bytes);
        let mut take = (batch.num_rows() as u64).min(left);
        if bytes > bytes_left {
            // Rows are taken to be of one size; the limit is about bytes, not about fairness.
            let share = u128::from(take) * u128::from(bytes_left) / u128::from(bytes);
            take = u64::try_from(share).unwrap_or(take);
        }
        let cut = take < batch.num_rows() as u64;
        self.over = cut;
        if cut {
            self.stats.truncated.store(true, Ordering::Relaxed);
        }
        self.bytes += bytes;
        self.stats.rows.fetch_add(take, Ordering::Relaxed);
        (take > 0 || !cut).then(|| batch.slice(0, take as usize))
    }
}
