//! What this node holds for a statement of another one: snapshots of its tablets, the scans that were
//! found in them, and the memory that its parts of the plan may take here.
//!
//! Never here: when a hold ends; dropping it and every stream it gave lets go of everything.

use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use arrow::array::RecordBatch;
use arrow::datatypes::SchemaRef;
use auxo_proto::error::{ErrorCode, Failure};
use auxo_proto::ids::{ColumnId, TableId, TabletId};
use auxo_proto::pb::node::{Find, Found, FragmentDone, FragmentLeaf};
use auxo_proto::topology::Catalog;
use datafusion::common::{Result as PlanResult, internal_err};
use datafusion::execution::TaskContext;
use datafusion::execution::runtime_env::RuntimeEnv;
use datafusion::physical_plan::{
    ExecutionPlan, ExecutionPlanProperties, SendableRecordBatchStream,
};
use futures::stream::{self, BoxStream};
use futures::{FutureExt, StreamExt};
use parking_lot::Mutex;
use tokio::time::{Instant, timeout_at};

use super::{SentPart, codec, wire};
use crate::columns::Layout;
use crate::memory::StatementPool;
use crate::run::{self, SMALL_SCAN_ROWS};
use crate::scan::{ScanCounters, SeriesScan};
use crate::session::Query;
use crate::source::{Pinned, Place, Snapshots};
use crate::table::local_scan;
use crate::threads::Threads;
use crate::yielding;

/// Scans of one statement on one node; more are refused.
const SCANS_MAX: usize = 1_024;

/// What is held for one statement. Clones share it.
#[derive(Clone)]
pub struct Held(Arc<Inner>);

struct Inner {
    task: Arc<TaskContext>,
    pool: Arc<StatementPool>,
    pinned: Pinned,
    streams: usize,
    deadline: Instant,
    scans: Mutex<Vec<Arc<SeriesScan>>>,
    counters: Arc<ScanCounters>,
    threads: Arc<Threads>,
}

/// One stream of a part of a plan that runs here.
pub struct Running {
    /// Types of the batches' columns.
    pub schema: SchemaRef,
    /// The rows. A failure is the last item. Dropping it ends the work.
    pub batches: BoxStream<'static, Result<RecordBatch, Failure>>,
    held: Held,
}

impl Query {
    /// Holds nothing yet for a statement that has to be over at `deadline`.
    ///
    /// * snapshots: of tablets on this node.
    pub fn hold(&self, snapshots: Snapshots, deadline: Instant) -> Held {
        let pool = Arc::new(StatementPool::new(
            Arc::clone(&self.memory),
            self.statement_memory,
        ));
        let runtime = RuntimeEnv {
            memory_pool: Arc::clone(&pool) as _,
            ..self.runtime.as_ref().clone()
        };
        Held(Arc::new(Inner {
            task: Arc::new(run::task(&self.state, runtime)),
            pool,
            pinned: Pinned::new(snapshots),
            streams: self.state.config().target_partitions(),
            deadline,
            scans: Mutex::default(),
            counters: Arc::default(),
            threads: Arc::clone(&self.threads),
        }))
    }
}

impl Held {
    /// Takes a snapshot of each tablet.
    ///
    /// * errors: one of them cannot be read here.
    pub async fn pin(&self, tablets: &[TabletId]) -> Result<(), Failure> {
        self.0.pinned.tablets(tablets).await.map(drop)
    }

    /// Looks what a scan would read, and keeps it for the parts that name it.
    pub async fn find(&self, catalog: &Catalog, find: &Find) -> Result<Found, Failure> {
        let unknown = |what: String| Failure::new(ErrorCode::NoLeader, what);
        let table = catalog.table_by_id(TableId(find.table));
        let table = table.ok_or_else(|| unknown(format!("table {} is not known", find.table)))?;
        let mut columns = Vec::with_capacity(find.columns.len());
        for id in &find.columns {
            let known = &table.schema.columns;
            let at = known.iter().position(|column| column.id == ColumnId(*id));
            columns.push(at.ok_or_else(|| unknown(format!("column {id} is not known")))?);
        }
        let layout = Layout::new(&table.schema, &columns);
        let pushed = wire::pushed(find)?;
        let ids: Vec<TabletId> = find.tablets.iter().copied().map(TabletId).collect();
        let places = self.0.pinned.tablets(&ids).await?;
        let routes = catalog.tablets(table.id);
        let mut here = Vec::with_capacity(ids.len());
        for (id, place) in ids.iter().zip(places) {
            let route = routes.iter().find(|route| route.id == *id);
            match (route, place) {
                (Some(route), Place::Here(snapshot)) => here.push((route.clone(), snapshot)),
                _ => return Err(unknown(format!("tablet {id} is not here"))),
            }
        }
        let scan = |streams| {
            let counters = &self.0.counters;
            local_scan(
                table,
                layout.clone(),
                &pushed,
                &here,
                routes.len(),
                counters,
                streams,
            )
        };
        let mut found = scan(self.0.streams);
        if found.rows_at_most() < SMALL_SCAN_ROWS {
            found = scan(1);
        }
        self.keep(found)
    }

    fn keep(&self, scan: SeriesScan) -> Result<Found, Failure> {
        let planned = scan.planned();
        let mut scans = self.0.scans.lock();
        if scans.len() == SCANS_MAX {
            let detail = format!("a statement has {SCANS_MAX} scans");
            return Err(Failure::new(ErrorCode::QueryLimit, detail));
        }
        let found = Found {
            scan: scans.len() as u32,
            partitions: scan.properties().output_partitioning().partition_count() as u32,
            ordered: scan.ordered(),
            rows_at_most: scan.rows_at_most(),
            files_considered: planned.files_considered,
            files: planned.files,
        };
        scans.push(Arc::new(scan));
        Ok(found)
    }

    /// Runs one stream of a part of a plan.
    ///
    /// * errors: the part is not one of this statement, or a failure to start it.
    pub fn run(&self, part: &SentPart, partition: u32) -> Result<Running, Failure> {
        let held = self.clone();
        let leaf = move |leaf: FragmentLeaf| held.leaf(&leaf);
        let read = || match part {
            SentPart::Plan(plan) => codec::decode(plan, &self.0.task, Arc::new(leaf)),
            SentPart::Leaf(alone) => leaf(*alone),
        };
        let part = guarded(read)?.map_err(|error| damaged(&error.to_string()))?;
        let (streams, stream) = (
            part.output_partitioning().partition_count(),
            partition as usize,
        );
        if stream >= streams {
            return Err(damaged(&format!("of {streams} streams it has no {stream}")));
        }
        let start = || {
            let _there = self.0.threads.enter();
            yielding::paced(part)?.execute(stream, Arc::clone(&self.0.task))
        };
        let batches = guarded(start)?.map_err(|error| self.failure(&error))?;
        let schema = batches.schema();
        let batches = Batches {
            batches,
            held: self.clone(),
            over: false,
        };
        let batches = stream::unfold(batches, |mut batches| async move {
            let batch = batches.next().await?;
            Some((batch, batches))
        });
        let threads = &self.0.threads;
        Ok(Running {
            schema,
            batches: threads.stream(self.0.deadline, Arc::new(()), batches.boxed()),
            held: self.clone(),
        })
    }

    fn leaf(&self, leaf: &FragmentLeaf) -> PlanResult<Arc<dyn ExecutionPlan>> {
        let scans = self.0.scans.lock();
        let Some(scan) = scans.get(leaf.scan as usize) else {
            return internal_err!("no scan {} was found", leaf.scan);
        };
        let scan = Arc::clone(scan);
        let fetch = usize::try_from(leaf.fetch).unwrap_or(usize::MAX);
        Ok(match fetch {
            0 => scan,
            rows => scan.with_fetch(Some(rows)).unwrap_or(scan),
        })
    }

    fn failure(&self, error: &datafusion::error::DataFusionError) -> Failure {
        run::failure(error, &self.0.pool)
    }
}

/// What the work makes, or that it panicked.
fn guarded<T>(work: impl FnOnce() -> T) -> Result<T, Failure> {
    std::panic::catch_unwind(AssertUnwindSafe(work)).map_err(|_| run::panicked())
}

fn damaged(what: &str) -> Failure {
    let detail = format!("part of a plan from another node: {what}");
    Failure::new(ErrorCode::BadRequest, detail)
}

impl Running {
    /// What the statement took on this node since this was last asked; exact once its streams ended.
    pub fn took(&self) -> FragmentDone {
        let counters = &self.held.0.counters;
        FragmentDone {
            rows_scanned: counters.rows.swap(0, Ordering::Relaxed),
            bytes_scanned: counters.bytes.swap(0, Ordering::Relaxed),
            files_read: counters.files_read.swap(0, Ordering::Relaxed),
            memory_peak_bytes: self.held.0.pool.peak() as u64,
        }
    }
}

/// A stream of batches until the deadline.
struct Batches {
    batches: SendableRecordBatchStream,
    held: Held,
    over: bool,
}

impl Batches {
    async fn next(&mut self) -> Option<Result<RecordBatch, Failure>> {
        if self.over {
            return None;
        }
        let next = AssertUnwindSafe(self.batches.next()).catch_unwind();
        let failure = match timeout_at(self.held.0.deadline, next).await {
            Ok(Ok(Some(Ok(batch)))) => return Some(Ok(batch)),
            Ok(Ok(Some(Err(error)))) => self.held.failure(&error),
            Ok(Ok(None)) => {
                self.over = true;
                return None;
            }
            Ok(Err(_)) => run::panicked(),
            Err(_) => run::too_late(),
        };
        self.over = true;
        Some(Err(failure))
    }
}
