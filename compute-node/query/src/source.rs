//! Where scans get their rows: one tablet at one moment, as stacks of sorted batches.
//!
//! The values here are closures handed in, so that a tablet of this node, a tablet that another
//! node answers for and a test's rows look alike. Nothing here caches, retries or decides.

use std::collections::HashMap;
use std::fmt;
use std::sync::Arc;

use auxo_proto::error::{ErrorCode, Failure};
use auxo_proto::ids::TabletId;
use auxo_sst::batch::SortedBatch;
use auxo_sst::predicate::ScanSpec;
use futures::future::BoxFuture;
use futures::stream::BoxStream;

use crate::fragment::Peer;

/// Rows of one stack in key order; dropping the stream ends the read.
pub type RowStream = BoxStream<'static, Result<SortedBatch, Failure>>;

/// Sources of one tablet and segment, already merged: yields its rows in key order.
#[derive(Clone)]
pub struct Stack {
    /// Whether rows of one key may have come from several sources. Field predicates must then be
    /// judged above the merge, so such a stack is opened without bounds.
    pub merged: bool,
    /// Upper bound on the rows it can yield.
    pub rows_at_most: u64,
    /// Number of files behind it; memtables are not counted.
    pub files: u64,
    /// Time of the earliest row, nanoseconds since 1970.
    pub t_min: i64,
    /// Time of the latest row, nanoseconds since 1970.
    pub t_max: i64,
    /// Starts reading. May be called several times; each stream sees the same rows.
    pub open: Arc<dyn Fn(Arc<ScanSpec>) -> RowStream + Send + Sync>,
}

impl fmt::Debug for Stack {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Stack")
            .field("merged", &self.merged)
            .field("rows_at_most", &self.rows_at_most)
            .finish_non_exhaustive()
    }
}

/// What a scan of one tablet found before reading any row.
#[derive(Clone, Debug, Default)]
pub struct Found {
    /// One stack per segment that may have rows, oldest first.
    pub stacks: Vec<Stack>,
    /// Files the tablet has, whether or not one was left out.
    pub files_considered: u64,
}

/// One tablet at one moment; every scan of it sees the same rows.
#[derive(Clone)]
pub struct Snapshot(Arc<dyn Fn(&ScanSpec) -> Found + Send + Sync>);

impl Snapshot {
    /// A snapshot that answers with what `find` returns.
    pub fn from_fn(find: impl Fn(&ScanSpec) -> Found + Send + Sync + 'static) -> Self {
        Self(Arc::new(find))
    }

    /// The stacks that may hold rows for the scan.
    pub fn find(&self, spec: &ScanSpec) -> Found {
        (self.0)(spec)
    }
}

/// Where a statement reads a tablet.
#[derive(Clone)]
pub enum Place {
    /// On this node.
    Here(Snapshot),
    /// On the node that holds a snapshot of it for the statement.
    There(Arc<dyn Peer>),
}

/// Takes snapshots of tablets: one place for each, in their order.
type Take = dyn Fn(Vec<TabletId>) -> BoxFuture<'static, Result<Vec<Place>, Failure>> + Send + Sync;

/// How a statement comes by the tablets it reads.
#[derive(Clone)]
pub struct Snapshots(Arc<Take>);

impl Snapshots {
    /// Takes snapshots by what `take` returns: one place for each tablet, in their order. Its failure
    /// becomes the statement's.
    pub fn from_fn(
        take: impl Fn(Vec<TabletId>) -> BoxFuture<'static, Result<Vec<Place>, Failure>>
        + Send
        + Sync
        + 'static,
    ) -> Self {
        Self(Arc::new(take))
    }

    /// Takes snapshots of tablets.
    ///
    /// * errors: whatever keeps one of them from being read.
    pub async fn take(&self, tablets: Vec<TabletId>) -> Result<Vec<Place>, Failure> {
        (self.0)(tablets).await
    }
}

/// The snapshots one statement has taken: the second scan of a tablet sees what the first saw.
pub(crate) struct Pinned {
    snapshots: Snapshots,
    taken: tokio::sync::Mutex<HashMap<TabletId, Place>>,
}

impl Pinned {
    pub(crate) fn new(snapshots: Snapshots) -> Self {
        Self {
            snapshots,
            taken: tokio::sync::Mutex::default(),
        }
    }

    /// The statement's places for the tablets, in their order; those that are new to it are taken
    /// together.
    pub(crate) async fn tablets(&self, tablets: &[TabletId]) -> Result<Vec<Place>, Failure> {
        let mut taken = self.taken.lock().await;
        let mut new = tablets.to_vec();
        new.retain(|tablet| !taken.contains_key(tablet));
        if !new.is_empty() {
            let places = self.snapshots.take(new.clone()).await?;
            taken.extend(new.into_iter().zip(places));
        }
        let place = |tablet: &TabletId| {
            let lost =
                || Failure::new(ErrorCode::Internal, format!("tablet {tablet} has no place"));
            taken.get(tablet).cloned().ok_or_else(lost)
        };
        tablets.iter().map(place).collect()
    }
}
