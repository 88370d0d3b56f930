//! Shards: what a node leads, kept in memory and files, written through the log.
//!
//! Rooms, in the way of a write: [`payload`] (rows as the bytes of a record) → `leader` (group
//! commit, contiguous acks, fence; `claim`, `outcome`) → `state` (accepted frames → state) → [`memtable`] (parts and runs; `arrays`, `runs`) → `flush` (`flusher`, `segment`) → `committer`.
//! In the way of a read: [`read`] (one [`version`], stacks of sources; `select`, `deletes`) → [`files`].
//! Around them: `open` (TAKEOVER), `shard` (the handle), `compact`, [`budget`], [`batches`], `traffic`
//! (what it took and gave), `local_state` (terms on the own disk).
//!
//! Never here: SQL, sockets, which shard should be where, a tenant's rights.

mod arrays;
pub mod batches;
pub mod budget;
mod claim;
mod committer;
mod compact;
mod deletes;
pub mod files;
mod flush;
mod flusher;
mod leader;
mod local_state;
pub mod memtable;
mod open;
mod outcome;
pub mod payload;
pub mod read;
mod runs;
mod segment;
mod select;
mod shard;
mod state;
mod traffic;
pub mod version;

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use auxo_proto::clock::Clock;
use auxo_proto::ids::{ShardId, TabletId};
use auxo_proto::random::Random;
use auxo_wal_adapters::Wal;
use object_store::ObjectStore;
use parking_lot::RwLock;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::budget::MemtableBudget;
use crate::files::FileCache;
use crate::read::{ReadError, TabletSnapshot};

pub use leader::Ended;
pub use local_state::LocalTerms;
pub use open::{OpenError, OpenLeader};
pub use outcome::{Busy, WriteError, Written};
pub use shard::{DELETES_BYTES_MAX, KEY_BYTES_MAX, Shard, ShardStatus, encode};
pub use traffic::Amount;

/// Whether this build has no fence and loses acknowledged rows: feature `unfenced`, on nowhere by
/// default. With it the program `zombie` shows that it would notice.
///
/// What it takes away is one thing. A leader no longer reads back what lies in the log between the last
/// frame it knows and its own next one, nor what came while it was idle: a frame that the log service has
/// stored it takes for one that counts. This is W3 without "everything between the claim and it
/// accounted", the ack of a leader that trusts a lease, or its own memory.
///
/// The rest stays, so that what is lost is lost by that alone:
/// - Readers of the log, the next leader among them, leave out what lies behind a newer claim. Were VALID
///   taken from them instead, rows of a deposed leader would be there for who has yet to read them
///   and not for who has passed them: found, not found or found twice, by luck.
/// - Manifests exclude a lower term. This second fence ends a deposed leader at its next commit and keeps
///   the files whole; it comes too late for what was acked meanwhile.
pub const UNFENCED: bool = cfg!(feature = "unfenced");

/// When a shard flushes and what it may hold.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    /// Bytes of log behind `flushed` at which a shard flushes.
    pub flush_bytes: u64,
    /// Age in milliseconds at which rows are flushed however few they are.
    pub flush_age_ms: u64,
    /// Bytes of log behind `flushed` above which writes are refused: what bounds the time to open.
    pub unflushed_bytes_max: u64,
    /// How often a shard looks for something to compact, in milliseconds.
    pub compact_every_ms: u64,
    /// Bytes that memtables of the node may take.
    pub memtable_bytes: usize,
    /// Bytes of requests in flight on the node.
    pub request_bytes: usize,
    /// Bytes that opened tails of files may take.
    pub tails_bytes: u64,
    /// Longest time in milliseconds that anybody waits for a log that does not answer: a write
    /// (then `Unknown`), a close, the settling of frames in flight when another leads. A place
    /// that the log names but does not show for so long parks the shard.
    pub patience_ms: u64,
}

impl Settings {
    pub(crate) fn patience(&self) -> Duration {
        Duration::from_millis(self.patience_ms)
    }
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            flush_bytes: 256 << 20,
            flush_age_ms: 30 * 60 * 1_000,
            unflushed_bytes_max: 1 << 30,
            compact_every_ms: 10_000,
            memtable_bytes: 1 << 30,
            request_bytes: 256 << 20,
            tails_bytes: 256 << 20,
            patience_ms: 10_000,
        }
    }
}

/// What an engine stands on; all handed in.
#[derive(Clone)]
pub struct Ground {
    /// The log service.
    pub wal: Arc<dyn Wal>,
    /// The object store, rooted at the cluster's prefix.
    pub store: Arc<dyn ObjectStore>,
    /// Where terms are kept.
    pub terms: LocalTerms,
    /// Wall time.
    pub clock: Clock,
    /// Dice.
    pub random: Random,
    /// Every task of the engine is spawned here.
    pub tasks: TaskTracker,
    /// Ends them.
    pub stop: CancellationToken,
}

/// The shards of one node. Clones are handles of the same engine.
#[derive(Clone)]
pub struct Engine(Arc<Inner>);

struct Inner {
    wal: Arc<dyn Wal>,
    store: Arc<dyn ObjectStore>,
    terms: LocalTerms,
    clock: Clock,
    random: Random,
    tasks: TaskTracker,
    stop: CancellationToken,
    settings: Arc<Settings>,
    budget: MemtableBudget,
    files: FileCache,
    shards: RwLock<HashMap<ShardId, Shard>>,
    /// Why shards could not be opened that a person must look at.
    parked: RwLock<HashMap<ShardId, String>>,
    opening: tokio::sync::Mutex<()>,
}

impl Engine {
    /// An engine without shards.
    pub fn new(ground: Ground, settings: Settings) -> Self {
        let Ground {
            wal,
            store,
            terms,
            clock,
            random,
            tasks,
            stop,
        } = ground;
        let budget = MemtableBudget::new(settings.memtable_bytes, settings.request_bytes);
        let files = FileCache::new(Arc::clone(&store), settings.tails_bytes);
        Self(Arc::new(Inner {
            wal,
            store,
            terms,
            clock,
            random,
            tasks,
            stop,
            settings: Arc::new(settings),
            budget,
            files,
            shards: RwLock::default(),
            parked: RwLock::default(),
            opening: tokio::sync::Mutex::default(),
        }))
    }

    /// The shard, if it is led here.
    pub fn shard(&self, shard: ShardId) -> Option<Shard> {
        self.0.shards.read().get(&shard).cloned()
    }

    /// Why a shard that this node was to lead could not be opened, if a person must look.
    pub fn parked(&self, shard: ShardId) -> Option<String> {
        self.0.parked.read().get(&shard).cloned()
    }

    /// Every shard that is led here.
    pub fn shards(&self) -> Vec<Shard> {
        let mut shards: Vec<Shard> = self.0.shards.read().values().cloned().collect();
        shards.sort_by_key(Shard::id);
        shards
    }

    /// A tablet of a shard as it is now.
    pub fn tablet(&self, shard: ShardId, tablet: TabletId) -> Result<TabletSnapshot, ReadError> {
        let shard = self.shard(shard).ok_or(ReadError::StaleRoute(tablet))?;
        shard.tablet(tablet)
    }

    /// Memory that rows take on this node.
    pub fn budget(&self) -> &MemtableBudget {
        &self.0.budget
    }

    /// Flushes and closes one shard.
    pub async fn close(&self, shard: ShardId) -> Result<(), WriteError> {
        self.0.parked.write().remove(&shard);
        let Some(open) = self.shard(shard) else {
            return Ok(());
        };
        let closed = open.close().await;
        self.0.shards.write().remove(&shard);
        closed
    }

    /// Flushes and closes every shard; the first failure is returned after all were tried. That another
    /// node leads one by now is none: it has stopped, and what it acked is that node's to flush.
    pub async fn close_all(&self) -> Result<(), WriteError> {
        let ids: Vec<ShardId> = self.shards().iter().map(Shard::id).collect();
        let closed = futures::future::join_all(ids.into_iter().map(|id| self.close(id))).await;
        let mut closed = closed.into_iter();
        let failed =
            closed.find(|closed| !matches!(closed, Ok(()) | Err(WriteError::NotLeader(_))));
        failed.unwrap_or(Ok(()))
    }

    /// Flushes the shard that holds most, whenever memtables pass their line; ends with the engine.
    pub async fn keep_within_budget(self) {
        loop {
            tokio::select! {
                biased;
                () = self.0.stop.cancelled() => return,
                () = tokio::time::sleep(Duration::from_millis(100)) => {}
            }
            if self.0.budget.wants_flush() {
                let shards = self.shards();
                let largest = shards
                    .iter()
                    .max_by_key(|shard| shard.status().memory_bytes);
                if let Some(largest) = largest {
                    largest.parts.flush_wanted.notify_one();
                }
            }
        }
    }
}
