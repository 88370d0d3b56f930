//! The leaf of a plan that reads a table: stacks of sorted batches in, record batches out.
//!
//! * Shown as `SeriesSource` where every stack comes as it lies in one source, as `DedupExec` where
//!   a merge under it decides between rows of one key.
//! * Each stack belongs to one partition; a partition reads its stacks one after the other, oldest
//!   first, and opens the next only when it is asked for its rows.
//! * An ordering is declared only where it holds: by (tags, time) in a partition of one stack.
//! * Dropping the stream drops the engine's stream: nothing is spawned here.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use auxo_proto::schema::TableInfo;
use auxo_sst::batch::SortedBatch;
use auxo_sst::predicate::{ScanSpec, TagFilter, TimeRange};
use datafusion::arrow::array::RecordBatch;
use datafusion::arrow::compute::SortOptions;
use datafusion::common::stats::Precision;
use datafusion::common::tree_node::TreeNodeRecursion;
use datafusion::common::{Result, Statistics};
use datafusion::error::DataFusionError;
use datafusion::execution::TaskContext;
use datafusion::physical_expr::expressions::Column as ColumnExpr;
use datafusion::physical_expr::{
    EquivalenceProperties, LexOrdering, PhysicalExpr, PhysicalSortExpr,
};
use datafusion::physical_plan::coop::cooperative;
use datafusion::physical_plan::execution_plan::{Boundedness, EmissionType, SchedulingType};
use datafusion::physical_plan::metrics::{
    BaselineMetrics, Count, ExecutionPlanMetricsSet, MetricBuilder, MetricsSet, RecordOutput,
};
use datafusion::physical_plan::statistics::StatisticsArgs;
use datafusion::physical_plan::stream::RecordBatchStreamAdapter;
use datafusion::physical_plan::{
    DisplayAs, DisplayFormatType, ExecutionPlan, Partitioning, PlanProperties,
    SendableRecordBatchStream,
};
use futures::StreamExt;
use futures::stream;

use crate::columns::Layout;
use crate::explain;
use crate::size;
use crate::source::{RowStream, Stack};

/// What one statement's scans have read, added up while it runs.
#[derive(Debug, Default)]
pub(crate) struct ScanCounters {
    pub(crate) rows: AtomicU64,
    pub(crate) bytes: AtomicU64,
    pub(crate) files_considered: AtomicU64,
    pub(crate) files_read: AtomicU64,
    pub(crate) bytes_moved: AtomicU64,
}

/// One stack with the specification its tablet is read with.
#[derive(Clone, Debug)]
pub(crate) struct Read {
    pub(crate) stack: Stack,
    pub(crate) spec: Arc<ScanSpec>,
}

/// What a scan was planned with, for EXPLAIN and for its counters.
#[derive(Debug)]
pub(crate) struct Planned {
    pub(crate) table: Arc<TableInfo>,
    pub(crate) time: TimeRange,
    pub(crate) tags: TagFilter,
    pub(crate) tablets: usize,
    pub(crate) tablets_read: usize,
    pub(crate) files_considered: u64,
    pub(crate) files: u64,
    pub(crate) counters: Arc<ScanCounters>,
}

/// What is known of the rows of a scan: they come by (tags, time) if each of its streams is ordered.
pub(crate) fn key_order(layout: &Layout, ordered: bool) -> EquivalenceProperties {
    let mut equivalence = EquivalenceProperties::new(Arc::clone(layout.schema()));
    if ordered {
        let key = layout.key_columns().into_iter().map(|at| {
            let name = layout.schema().field(at).name();
            let nulls_first = SortOptions {
                descending: false,
                nulls_first: true,
            };
            PhysicalSortExpr::new(Arc::new(ColumnExpr::new(name, at)), nulls_first)
        });
        if let Some(ordering) = LexOrdering::new(key) {
            equivalence.add_ordering(ordering);
        }
    }
    equivalence
}

/// Reads some columns of a table.
#[derive(Clone, Debug)]
pub(crate) struct SeriesScan {
    planned: Arc<Planned>,
    layout: Arc<Layout>,
    partitions: Arc<Vec<Vec<Read>>>,
    fetch: Option<usize>,
    properties: Arc<PlanProperties>,
    metrics: ExecutionPlanMetricsSet,
}

impl SeriesScan {
    /// A scan of the given partitions; without any it has one that is empty.
    pub(crate) fn new(
        planned: Planned,
        layout: Layout,
        mut partitions: Vec<Vec<Read>>,
        fetch: Option<usize>,
    ) -> Self {
        if partitions.is_empty() {
            partitions.push(Vec::new());
        }
        let ordered = partitions.iter().all(|stacks| stacks.len() <= 1);
        let properties = PlanProperties::new(
            key_order(&layout, ordered),
            Partitioning::UnknownPartitioning(partitions.len()),
            EmissionType::Incremental,
            Boundedness::Bounded,
        )
        .with_scheduling_type(SchedulingType::Cooperative);
        Self {
            planned: Arc::new(planned),
            layout: Arc::new(layout),
            partitions: Arc::new(partitions),
            fetch,
            properties: Arc::new(properties),
            metrics: ExecutionPlanMetricsSet::new(),
        }
    }

    fn stacks(&self) -> impl Iterator<Item = &Stack> {
        self.partitions.iter().flatten().map(|read| &read.stack)
    }

    /// Upper bound on the rows of all its streams.
    pub(crate) fn rows_at_most(&self) -> u64 {
        let rows = self.stacks().map(|stack| stack.rows_at_most);
        rows.fold(0, u64::saturating_add)
    }

    /// What it was planned with.
    pub(crate) fn planned(&self) -> &Planned {
        &self.planned
    }

    /// Whether each of its streams is read from one source after the other without a gap in the order.
    pub(crate) fn ordered(&self) -> bool {
        self.partitions.iter().all(|stacks| stacks.len() <= 1)
    }

    fn merges(&self) -> bool {
        self.stacks().any(|stack| stack.merged)
    }
}

impl DisplayAs for SeriesScan {
    fn fmt_as(&self, _: DisplayFormatType, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let planned = &self.planned;
        let merged = self.stacks().filter(|stack| stack.merged).count();
        write!(
            f,
            "{}: table={}, tablets={}/{}, stacks={}",
            self.name(),
            planned.table.name,
            planned.tablets_read,
            planned.tablets,
            self.stacks().count(),
        )?;
        if merged > 0 {
            write!(f, " ({merged} merged)")?;
        }
        write!(
            f,
            ", files={}/{}, partitions={}",
            planned.files,
            planned.files_considered,
            self.partitions.len()
        )?;
        if planned.time != TimeRange::ALL {
            write!(f, ", time={}", explain::times(planned.time))?;
        }
        if planned.tags != TagFilter::Any {
            let tags = explain::tags(&planned.tags, &planned.table.schema);
            write!(f, ", tags={tags}")?;
        }
        let spec = self
            .partitions
            .iter()
            .flatten()
            .find(|read| !read.spec.bounds.is_empty());
        if let Some(read) = spec {
            write!(
                f,
                ", bounds={}",
                explain::bounds(&read.spec.bounds, &planned.table.schema)
            )?;
        }
        let columns: Vec<&str> = self
            .layout
            .schema()
            .fields()
            .iter()
            .map(|field| field.name().as_str())
            .collect();
        write!(f, ", columns=[{}]", columns.join(", "))?;
        if let Some(fetch) = self.fetch {
            write!(f, ", fetch={fetch}")?;
        }
        if let Some(ordering) = self.properties.output_ordering() {
            write!(f, ", ordered by [{ordering}]")?;
        }
        Ok(())
    }
}

impl ExecutionPlan for SeriesScan {
    fn name(&self) -> &str {
        if self.merges() {
            "DedupExec"
        } else {
            "SeriesSource"
        }
    }

    fn properties(&self) -> &Arc<PlanProperties> {
        &self.properties
    }

    fn children(&self) -> Vec<&Arc<dyn ExecutionPlan>> {
        Vec::new()
    }

    fn with_new_children(
        self: Arc<Self>,
        _: Vec<Arc<dyn ExecutionPlan>>,
    ) -> Result<Arc<dyn ExecutionPlan>> {
        Ok(self)
    }

    fn apply_expressions(
        &self,
        _: &mut dyn FnMut(&Arc<dyn PhysicalExpr>) -> Result<TreeNodeRecursion>,
    ) -> Result<TreeNodeRecursion> {
        Ok(TreeNodeRecursion::Continue)
    }

    fn supports_limit_pushdown(&self) -> bool {
        true
    }

    fn with_fetch(&self, fetch: Option<usize>) -> Option<Arc<dyn ExecutionPlan>> {
        Some(Arc::new(Self {
            fetch,
            ..self.clone()
        }))
    }

    fn fetch(&self) -> Option<usize> {
        self.fetch
    }

    fn metrics(&self) -> Option<MetricsSet> {
        Some(self.metrics.clone_inner())
    }

    fn statistics_from_inputs(
        &self,
        _: &[Arc<Statistics>],
        args: &StatisticsArgs,
    ) -> Result<Arc<Statistics>> {
        let rows = |reads: &Vec<Read>| -> u64 {
            reads
                .iter()
                .fold(0, |sum, read| read.stack.rows_at_most.saturating_add(sum))
        };
        let rows = match args.partition() {
            Some(at) => self.partitions.get(at).map_or(0, rows),
            None => self
                .partitions
                .iter()
                .fold(0, |sum, reads| rows(reads).saturating_add(sum)),
        };
        let mut statistics = Statistics::new_unknown(self.layout.schema());
        statistics.num_rows = Precision::Inexact(usize::try_from(rows).unwrap_or(usize::MAX));
        Ok(Arc::new(statistics))
    }

    fn execute(&self, partition: usize, _: Arc<TaskContext>) -> Result<SendableRecordBatchStream> {
        let reader = Reader {
            reads: self
                .partitions
                .get(partition)
                .cloned()
                .unwrap_or_default()
                .into_iter(),
            open: None,
            left: self.fetch.unwrap_or(usize::MAX),
            layout: Arc::clone(&self.layout),
            baseline: BaselineMetrics::new(&self.metrics, partition),
            bytes_scanned: MetricBuilder::new(&self.metrics).counter("bytes_scanned", partition),
            counters: Arc::clone(&self.planned.counters),
        };
        let batches = stream::unfold(reader, |mut reader| async move {
            let batch = reader.next().await?;
            Some((batch, reader))
        });
        let schema = Arc::clone(self.layout.schema());
        let batches = RecordBatchStreamAdapter::new(schema, Box::pin(batches));
        Ok(Box::pin(cooperative(batches)))
    }
}

/// One partition being read.
struct Reader {
    reads: std::vec::IntoIter<Read>,
    open: Option<RowStream>,
    left: usize,
    layout: Arc<Layout>,
    baseline: BaselineMetrics,
    bytes_scanned: Count,
    counters: Arc<ScanCounters>,
}

impl Reader {
    /// The next batch, `None` behind the last one, behind an error, or when enough rows were read.
    async fn next(&mut self) -> Option<Result<RecordBatch>> {
        while self.left > 0 {
            let Some(rows) = &mut self.open else {
                let read = self.reads.next()?;
                let counters = &self.counters;
                counters
                    .files_read
                    .fetch_add(read.stack.files, Ordering::Relaxed);
                self.open = Some((read.stack.open)(read.spec));
                continue;
            };
            match rows.next().await {
                Some(Ok(sorted)) => return Some(self.convert(&sorted)),
                Some(Err(failure)) => {
                    self.left = 0;
                    return Some(Err(DataFusionError::External(Box::new(failure))));
                }
                None => self.open = None,
            }
        }
        None
    }

    fn convert(&mut self, sorted: &SortedBatch) -> Result<RecordBatch> {
        let _timer = self.baseline.elapsed_compute().timer();
        let mut batch = self.layout.record_batch(sorted)?;
        let bytes = size::of_batch(&batch);
        self.bytes_scanned.add(bytes);
        let counters = &self.counters;
        counters
            .rows
            .fetch_add(batch.num_rows() as u64, Ordering::Relaxed);
        counters.bytes.fetch_add(bytes as u64, Ordering::Relaxed);
        if batch.num_rows() > self.left {
            batch = batch.slice(0, self.left);
        }
        self.left -= batch.num_rows();
        Ok(batch.record_output(&self.baseline))
    }
}
