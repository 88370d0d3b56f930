//! A table as DataFusion sees it: columns in declared order, predicates taken over as far as they
//! can be said exactly, one snapshot per tablet and statement.
//!
//! A plan names only the table; rows are found when it becomes physical, in the snapshots that the
//! statement's session carries. So a plan can be kept, and a statement sees one moment of each
//! tablet.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use async_trait::async_trait;
use auxo_proto::schema::TableInfo;
use auxo_proto::topology::TabletRoute;
use auxo_sst::batch::FieldSet;
use auxo_sst::predicate::ScanSpec;
use datafusion::arrow::datatypes::SchemaRef;
use datafusion::catalog::{Session, TableProvider};
use datafusion::common::Result;
use datafusion::error::DataFusionError;
use datafusion::logical_expr::{Expr, TableProviderFilterPushDown, TableType};
use datafusion::physical_plan::ExecutionPlan;

use crate::columns::{Layout, plan_schema};
use crate::pushdown::{self, Judged, Pushed};
use crate::scan::{Planned, Read, ScanCounters, SeriesScan};
use crate::source::{Found, Pinned};

/// What a statement's session carries for the scans of its plan.
pub(crate) struct Reading {
    pub(crate) pinned: Pinned,
    pub(crate) counters: Arc<ScanCounters>,
}

/// A table of the catalogue.
#[derive(Debug)]
pub(crate) struct SeriesTable {
    info: Arc<TableInfo>,
    tablets: Vec<TabletRoute>,
    schema: SchemaRef,
}

/// What scans of a table's tablets found, before any row was read.
pub(crate) struct Scanned {
    pushed: Pushed,
    found: Vec<(TabletRoute, Found)>,
}

impl Scanned {
    /// Upper bound on the rows.
    pub(crate) fn rows_at_most(&self) -> u64 {
        let stacks = self.found.iter().flat_map(|(_, found)| &found.stacks);
        stacks.fold(0, |sum, stack| stack.rows_at_most.saturating_add(sum))
    }
}

impl SeriesTable {
    pub(crate) fn new(info: Arc<TableInfo>, tablets: &[TabletRoute]) -> Self {
        Self {
            schema: plan_schema(&info.schema),
            tablets: tablets.to_vec(),
            info,
        }
    }

    /// The table behind it.
    pub(crate) fn info(&self) -> &Arc<TableInfo> {
        &self.info
    }

    /// Finds the stacks that may hold rows for which all filters hold.
    pub(crate) async fn find(
        &self,
        reading: &Reading,
        fields: &FieldSet,
        filters: &[Expr],
    ) -> Result<Scanned> {
        let pushed = Pushed::all(filters, &self.info);
        let hashes = pushdown::hashes(&pushed.tags, &self.info);
        let mut found = Vec::new();
        for tablet in &self.tablets {
            let wanted = hashes
                .as_ref()
                .is_none_or(|hashes| hashes.iter().any(|&hash| tablet.range.contains(hash)));
            if !wanted || pushed.time.is_empty() {
                continue;
            }
            let external = |failure| DataFusionError::External(Box::new(failure));
            let snapshot = reading.pinned.tablet(tablet.id).await.map_err(external)?;
            let spec = spec(&pushed, fields, tablet, true);
            found.push((tablet.clone(), snapshot.find(&spec)));
        }
        Ok(Scanned { pushed, found })
    }
}

fn spec(pushed: &Pushed, fields: &FieldSet, tablet: &TabletRoute, bounds: bool) -> ScanSpec {
    ScanSpec {
        fields: Arc::clone(fields),
        time: pushed.time,
        tags: pushed.tags.clone(),
        range: tablet.range,
        bounds: if bounds {
            pushed.bounds.clone()
        } else {
            Vec::new()
        },
    }
}

/// Spreads reads over at most `target` partitions of about the same number of rows; within one,
/// the order in which they were found is kept.
fn spread(reads: Vec<Read>, target: usize) -> Vec<Vec<Read>> {
    let target = target.max(1);
    if reads.len() <= target {
        return reads.into_iter().map(|read| vec![read]).collect();
    }
    let mut largest_first: Vec<usize> = (0..reads.len()).collect();
    largest_first.sort_by_key(|&at| std::cmp::Reverse(reads[at].stack.rows_at_most));
    let mut rows = vec![0_u64; target];
    let mut home = vec![0; reads.len()];
    for at in largest_first {
        let lightest = (0..target).min_by_key(|&part| rows[part]).unwrap_or(0);
        rows[lightest] = rows[lightest].saturating_add(reads[at].stack.rows_at_most);
        home[at] = lightest;
    }
    let mut parts = vec![Vec::new(); target];
    for (at, read) in reads.into_iter().enumerate() {
        parts[home[at]].push(read);
    }
    parts
}

#[async_trait]
impl TableProvider for SeriesTable {
    fn schema(&self) -> SchemaRef {
        Arc::clone(&self.schema)
    }

    fn table_type(&self) -> TableType {
        TableType::Base
    }

    fn supports_filters_pushdown(
        &self,
        filters: &[&Expr],
    ) -> Result<Vec<TableProviderFilterPushDown>> {
        let judge = |filter: &&Expr| match pushdown::judge(filter, &self.info) {
            Judged::Exact(_) => TableProviderFilterPushDown::Exact,
            Judged::Pruning(_) => TableProviderFilterPushDown::Inexact,
            Judged::Unknown => TableProviderFilterPushDown::Unsupported,
        };
        Ok(filters.iter().map(judge).collect())
    }

    async fn scan(
        &self,
        state: &dyn Session,
        projection: Option<&Vec<usize>>,
        filters: &[Expr],
        limit: Option<usize>,
    ) -> Result<Arc<dyn ExecutionPlan>> {
        let reading = state
            .config()
            .get_extension::<Reading>()
            .ok_or_else(|| DataFusionError::Internal("session without snapshots".into()))?;
        let all: Vec<usize> = (0..self.schema.fields().len()).collect();
        let layout = Layout::new(&self.info.schema, projection.unwrap_or(&all));
        let scanned = self.find(&reading, layout.fields(), filters).await?;
        let mut reads = Vec::new();
        let (mut files, mut files_considered) = (0, 0);
        for (tablet, found) in &scanned.found {
            let pruning = Arc::new(spec(&scanned.pushed, layout.fields(), tablet, true));
            let merging = Arc::new(spec(&scanned.pushed, layout.fields(), tablet, false));
            files_considered += found.files_considered;
            for stack in &found.stacks {
                files += stack.files;
                let spec = if stack.merged { &merging } else { &pruning };
                reads.push(Read {
                    stack: stack.clone(),
                    spec: Arc::clone(spec),
                });
            }
        }
        let counters = Arc::clone(&reading.counters);
        counters
            .files_considered
            .fetch_add(files_considered, Ordering::Relaxed);
        let planned = Planned {
            table: Arc::clone(&self.info),
            time: scanned.pushed.time,
            tags: scanned.pushed.tags.clone(),
            tablets: self.tablets.len(),
            tablets_read: scanned.found.len(),
            files_considered,
            files,
            counters,
        };
        let partitions = spread(reads, state.config().target_partitions());
        Ok(Arc::new(SeriesScan::new(
            planned, layout, partitions, limit,
        )))
    }
}
