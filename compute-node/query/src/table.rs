//! A table as DataFusion sees it: columns in declared order, predicates taken over as far as they
//! can be said exactly, one snapshot per tablet and statement.
//!
//! A plan names only the table; rows are found when it becomes physical, in the snapshots that the
//! statement's session carries. So a plan can be kept, and a statement sees one moment of each
//! tablet.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use async_trait::async_trait;
use auxo_proto::error::Failure;
use auxo_proto::ids::TabletId;
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
use datafusion::physical_plan::union::UnionExec;

use crate::columns::{Layout, plan_schema};
use crate::fragment::remote::{FoundScan, RemoteExec};
use crate::fragment::{Peer, wire};
use crate::pushdown::{self, Judged, Pushed};
use crate::scan::{Planned, Read, ScanCounters, SeriesScan};
use crate::source::{Pinned, Place, Snapshot};

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

/// The tablets that a scan wants rows of, and where they are read.
pub(crate) struct Wanted {
    pushed: Pushed,
    tablets: Vec<(TabletRoute, Place)>,
}

impl Wanted {
    /// Upper bound on the rows that are read on this node.
    pub(crate) fn rows_at_most(&self) -> u64 {
        let none: FieldSet = FieldSet::from([]);
        let here = self
            .tablets
            .iter()
            .filter_map(|(tablet, place)| match place {
                Place::Here(snapshot) => {
                    Some(snapshot.find(&spec(&self.pushed, &none, tablet, true)))
                }
                Place::There(_) => None,
            });
        let stacks = here.flat_map(|found| found.stacks);
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

    /// The tablets that may hold rows for which all filters hold.
    pub(crate) async fn wanted(&self, reading: &Reading, filters: &[Expr]) -> Result<Wanted> {
        let pushed = Pushed::all(filters, &self.info);
        let hashes = pushdown::hashes(&pushed.tags, &self.info);
        let wanted = |tablet: &&TabletRoute| {
            !pushed.time.is_empty()
                && hashes
                    .as_ref()
                    .is_none_or(|hashes| hashes.iter().any(|&hash| tablet.range.contains(hash)))
        };
        let tablets: Vec<TabletRoute> = self.tablets.iter().filter(wanted).cloned().collect();
        let ids: Vec<_> = tablets.iter().map(|tablet| tablet.id).collect();
        let places = reading.pinned.tablets(&ids).await.map_err(external)?;
        Ok(Wanted {
            pushed,
            tablets: tablets.into_iter().zip(places).collect(),
        })
    }

    /// The scans of the tablets that other nodes hold, one for each node.
    ///
    /// * columns: places in the schema.
    async fn remote(
        &self,
        reading: &Reading,
        (layout, columns): (&Layout, &[usize]),
        wanted: &Wanted,
    ) -> Result<Vec<Arc<dyn ExecutionPlan>>> {
        let mut nodes: Vec<(&Arc<dyn Peer>, Vec<TabletId>)> = Vec::new();
        for (tablet, place) in &wanted.tablets {
            let Place::There(peer) = place else {
                continue;
            };
            match nodes.iter_mut().find(|(known, _)| Arc::ptr_eq(known, peer)) {
                Some((_, tablets)) => tablets.push(tablet.id),
                None => nodes.push((peer, vec![tablet.id])),
            }
        }
        let scans = nodes.into_iter().map(|(peer, tablets)| async move {
            let (info, pushed) = (&self.info, &wanted.pushed);
            let count = tablets.len();
            let find = wire::find(info.id, &info.schema, columns, tablets.into_iter(), pushed);
            let found = peer.find(find).await.map_err(external)?;
            let counters = Arc::clone(&reading.counters);
            counters
                .files_considered
                .fetch_add(found.files_considered, Ordering::Relaxed);
            let scan = FoundScan::new(Arc::clone(info), layout, count, &found);
            let remote = RemoteExec::new(Arc::clone(peer), Arc::new(scan), counters);
            Ok(Arc::new(remote) as Arc<dyn ExecutionPlan>)
        });
        futures::future::try_join_all(scans).await
    }
}

fn external(failure: Failure) -> DataFusionError {
    DataFusionError::External(Box::new(failure))
}

/// The scan of the tablets that lie on this node.
///
/// * tablets: how many the table has.
/// * streams: how many it may be read in; few rows are read in one.
pub(crate) fn local_scan(
    table: &Arc<TableInfo>,
    layout: Layout,
    pushed: &Pushed,
    here: &[(TabletRoute, Snapshot)],
    tablets: usize,
    counters: &Arc<ScanCounters>,
    streams: usize,
) -> SeriesScan {
    let mut reads = Vec::new();
    let (mut files, mut files_considered) = (0, 0);
    for (tablet, snapshot) in here {
        let pruning = Arc::new(spec(pushed, layout.fields(), tablet, true));
        let merging = Arc::new(spec(pushed, layout.fields(), tablet, false));
        let found = snapshot.find(&pruning);
        files_considered += found.files_considered;
        for stack in found.stacks {
            files += stack.files;
            let spec = if stack.merged { &merging } else { &pruning };
            let spec = Arc::clone(spec);
            reads.push(Read { stack, spec });
        }
    }
    counters
        .files_considered
        .fetch_add(files_considered, Ordering::Relaxed);
    let planned = Planned {
        table: Arc::clone(table),
        time: pushed.time,
        tags: pushed.tags.clone(),
        tablets,
        tablets_read: here.len(),
        files_considered,
        files,
        counters: Arc::clone(counters),
    };
    SeriesScan::new(planned, layout, spread(reads, streams), None)
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
        let columns = projection.unwrap_or(&all);
        let layout = Layout::new(&self.info.schema, columns);
        let wanted = self.wanted(&reading, filters).await?;
        let mut scans = self.remote(&reading, (&layout, columns), &wanted).await?;
        let here = wanted
            .tablets
            .iter()
            .filter_map(|(tablet, place)| match place {
                Place::Here(snapshot) => Some((tablet.clone(), snapshot.clone())),
                Place::There(_) => None,
            });
        let here: Vec<_> = here.collect();
        if !here.is_empty() || scans.is_empty() {
            let local = local_scan(
                &self.info,
                layout,
                &wanted.pushed,
                &here,
                self.tablets.len(),
                &reading.counters,
                state.config().target_partitions(),
            );
            scans.insert(0, Arc::new(local));
        }
        if let Some(rows) = limit {
            let limited =
                |scan: Arc<dyn ExecutionPlan>| scan.with_fetch(Some(rows)).unwrap_or(scan);
            scans = scans.into_iter().map(limited).collect();
        }
        UnionExec::try_new(scans)
    }
}
