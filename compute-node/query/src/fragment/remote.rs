//! Leaves that are read on another node: the scan as it was found there, and the operator that runs a
//! part of the plan above it.
//!
//! * [`FoundScan`] stands for a scan of the other node; it says how many streams it has and how they
//!   are ordered, and cannot run here.
//! * [`RemoteExec`] runs what stands under it on that node: stream `n` of its child there is its own
//!   stream `n`. What stands under it is never run here, only sent.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use auxo_proto::pb::node::{FragmentDone, FragmentLeaf};
use auxo_proto::schema::TableInfo;
use datafusion::arrow::array::RecordBatch;
use datafusion::arrow::datatypes::SchemaRef;
use datafusion::common::stats::Precision;
use datafusion::common::tree_node::TreeNodeRecursion;
use datafusion::common::{Result, Statistics, internal_err};
use datafusion::error::DataFusionError;
use datafusion::execution::TaskContext;
use datafusion::physical_expr::PhysicalExpr;
use datafusion::physical_plan::coop::cooperative;
use datafusion::physical_plan::execution_plan::{Boundedness, EmissionType, SchedulingType};
use datafusion::physical_plan::metrics::{
    BaselineMetrics, Count, ExecutionPlanMetricsSet, MetricBuilder, MetricsSet, RecordOutput,
};
use datafusion::physical_plan::statistics::StatisticsArgs;
use datafusion::physical_plan::stream::RecordBatchStreamAdapter;
use datafusion::physical_plan::{
    DisplayAs, DisplayFormatType, ExecutionPlan, ExecutionPlanProperties, Partitioning,
    PlanProperties, SendableRecordBatchStream,
};
use futures::{StreamExt, future};

use super::{Part, Peer, SentPart, codec};
use crate::columns::Layout;
use crate::scan::{ScanCounters, key_order};

/// A scan that another node found.
#[derive(Clone, Debug)]
pub(crate) struct FoundScan {
    table: Arc<TableInfo>,
    schema: SchemaRef,
    scan: u32,
    tablets: usize,
    rows_at_most: u64,
    files: (u64, u64),
    fetch: Option<usize>,
    properties: Arc<PlanProperties>,
}

impl FoundScan {
    /// The scan as the other node described it.
    pub(crate) fn new(
        table: Arc<TableInfo>,
        layout: &Layout,
        tablets: usize,
        found: &auxo_proto::pb::node::Found,
    ) -> Self {
        let properties = PlanProperties::new(
            key_order(layout, found.ordered),
            Partitioning::UnknownPartitioning((found.partitions as usize).max(1)),
            EmissionType::Incremental,
            Boundedness::Bounded,
        )
        .with_scheduling_type(SchedulingType::Cooperative);
        Self {
            table,
            schema: Arc::clone(layout.schema()),
            scan: found.scan,
            tablets,
            rows_at_most: found.rows_at_most,
            files: (found.files, found.files_considered),
            fetch: None,
            properties: Arc::new(properties),
        }
    }

    /// How a plan that travels names it.
    pub(crate) fn leaf(&self) -> FragmentLeaf {
        FragmentLeaf {
            scan: self.scan,
            fetch: self.fetch.map_or(0, |rows| (rows as u64).max(1)),
        }
    }
}

impl DisplayAs for FoundScan {
    fn fmt_as(&self, _: DisplayFormatType, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (files, considered) = self.files;
        write!(
            f,
            "{}: table={}, tablets={}, files={files}/{considered}, partitions={}",
            self.name(),
            self.table.name,
            self.tablets,
            self.properties.output_partitioning().partition_count(),
        )?;
        if let Some(fetch) = self.fetch {
            write!(f, ", fetch={fetch}")?;
        }
        if let Some(ordering) = self.properties.output_ordering() {
            write!(f, ", ordered by [{ordering}]")?;
        }
        Ok(())
    }
}

impl ExecutionPlan for FoundScan {
    fn name(&self) -> &str {
        "FoundScan"
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

    fn with_fetch(&self, fetch: Option<usize>) -> Option<Arc<dyn ExecutionPlan>> {
        Some(Arc::new(Self {
            fetch,
            ..self.clone()
        }))
    }

    fn fetch(&self) -> Option<usize> {
        self.fetch
    }

    fn statistics_from_inputs(
        &self,
        _: &[Arc<Statistics>],
        _: &StatisticsArgs,
    ) -> Result<Arc<Statistics>> {
        let mut statistics = Statistics::new_unknown(&self.schema);
        let rows = usize::try_from(self.rows_at_most).unwrap_or(usize::MAX);
        statistics.num_rows = Precision::Inexact(rows);
        Ok(Arc::new(statistics))
    }

    fn execute(&self, _: usize, _: Arc<TaskContext>) -> Result<SendableRecordBatchStream> {
        internal_err!("a scan of another node runs there")
    }
}

/// Runs a part of a plan on another node.
#[derive(Clone, Debug)]
pub(crate) struct RemoteExec {
    peer: Arc<dyn Peer>,
    part: Arc<dyn ExecutionPlan>,
    counters: Arc<ScanCounters>,
    properties: Arc<PlanProperties>,
    metrics: ExecutionPlanMetricsSet,
}

impl RemoteExec {
    /// Runs `part`, whose leaf is a [`FoundScan`] of that node.
    pub(crate) fn new(
        peer: Arc<dyn Peer>,
        part: Arc<dyn ExecutionPlan>,
        counters: Arc<ScanCounters>,
    ) -> Self {
        let streams = part.output_partitioning().partition_count();
        let properties = PlanProperties::new(
            part.equivalence_properties().clone(),
            Partitioning::UnknownPartitioning(streams),
            part.pipeline_behavior(),
            Boundedness::Bounded,
        )
        .with_scheduling_type(SchedulingType::Cooperative);
        Self {
            peer,
            part,
            counters,
            properties: Arc::new(properties),
            metrics: ExecutionPlanMetricsSet::new(),
        }
    }

    /// Whether the node understands parts that are more than a leaf.
    pub(crate) fn plans(&self) -> bool {
        self.peer.plans()
    }

    /// What runs there.
    pub(crate) fn part(&self) -> &Arc<dyn ExecutionPlan> {
        &self.part
    }

    /// The same node with another part.
    pub(crate) fn with_part(&self, part: Arc<dyn ExecutionPlan>) -> Self {
        Self::new(Arc::clone(&self.peer), part, Arc::clone(&self.counters))
    }
}

impl DisplayAs for RemoteExec {
    fn fmt_as(&self, _: DisplayFormatType, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let streams = self.properties.output_partitioning().partition_count();
        let (name, node) = (self.name(), self.peer.name());
        write!(f, "{name}: node={node}, partitions={streams}")
    }
}

impl ExecutionPlan for RemoteExec {
    fn name(&self) -> &str {
        "RemoteExec"
    }

    fn properties(&self) -> &Arc<PlanProperties> {
        &self.properties
    }

    fn maintains_input_order(&self) -> Vec<bool> {
        vec![true]
    }

    fn benefits_from_input_partitioning(&self) -> Vec<bool> {
        vec![false]
    }

    fn children(&self) -> Vec<&Arc<dyn ExecutionPlan>> {
        vec![&self.part]
    }

    fn with_new_children(
        self: Arc<Self>,
        mut children: Vec<Arc<dyn ExecutionPlan>>,
    ) -> Result<Arc<dyn ExecutionPlan>> {
        match (children.pop(), children.is_empty()) {
            (Some(part), true) => Ok(Arc::new(self.with_part(part))),
            _ => internal_err!("RemoteExec runs one part"),
        }
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

    fn metrics(&self) -> Option<MetricsSet> {
        Some(self.metrics.clone_inner())
    }

    fn execute(&self, partition: usize, _: Arc<TaskContext>) -> Result<SendableRecordBatchStream> {
        let part = match self.part.downcast_ref::<FoundScan>() {
            Some(scan) => SentPart::Leaf(scan.leaf()),
            None => SentPart::Plan(codec::encode(&self.part)?),
        };
        let schema = self.schema();
        let stream =
            u32::try_from(partition).map_err(|error| DataFusionError::External(Box::new(error)))?;
        let parts = Arc::clone(&self.peer).run(part, stream, Arc::clone(&schema));
        let arriving = Arriving {
            baseline: BaselineMetrics::new(&self.metrics, partition),
            bytes: MetricBuilder::new(&self.metrics).counter("bytes_moved", partition),
            rows_scanned: MetricBuilder::new(&self.metrics).counter("rows_scanned", partition),
            files_read: MetricBuilder::new(&self.metrics).counter("files_read", partition),
            counters: Arc::clone(&self.counters),
        };
        let batches = parts.filter_map(move |part| future::ready(arriving.take(part)));
        let batches = RecordBatchStreamAdapter::new(schema, batches);
        Ok(Box::pin(cooperative(batches)))
    }
}

/// What is counted of one stream.
struct Arriving {
    baseline: BaselineMetrics,
    bytes: Count,
    rows_scanned: Count,
    files_read: Count,
    counters: Arc<ScanCounters>,
}

impl Arriving {
    fn take(&self, part: Result<Part, auxo_proto::error::Failure>) -> Option<Result<RecordBatch>> {
        match part {
            Ok(Part::Rows(batch, bytes)) => {
                self.bytes.add(usize::try_from(bytes).unwrap_or(usize::MAX));
                let moved = &self.counters.bytes_moved;
                moved.fetch_add(bytes, Ordering::Relaxed);
                Some(Ok(batch.record_output(&self.baseline)))
            }
            Ok(Part::Done(done)) => {
                self.done(&done);
                None
            }
            Err(failure) => Some(Err(DataFusionError::External(Box::new(failure)))),
        }
    }

    fn done(&self, done: &FragmentDone) {
        let count = |count: u64| usize::try_from(count).unwrap_or(usize::MAX);
        self.rows_scanned.add(count(done.rows_scanned));
        self.files_read.add(count(done.files_read));
        let counters = &self.counters;
        counters
            .rows
            .fetch_add(done.rows_scanned, Ordering::Relaxed);
        counters
            .bytes
            .fetch_add(done.bytes_scanned, Ordering::Relaxed);
        counters
            .files_read
            .fetch_add(done.files_read, Ordering::Relaxed);
    }
}
