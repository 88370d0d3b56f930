//! The way of a write: admit, split by tablet, hand to the shards here and elsewhere, say what
//! became of it.
//!
//! Rows come from any protocol as tables of typed columns. They are split by partition hash, the
//! parts of one shard travel as one batch under the caller's id, all shards at once. A part whose
//! shard another node leads is forwarded to it; one that was certainly refused because the leader
//! is another by now waits a moment for news and is sent again. The answer is `Ok` only when every
//! shard acked.
//!
//! Never here: bytes of a protocol, HTTP statuses, schemas being changed.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use auxo_engine::payload::{Batch, Entry};
use auxo_engine::{Busy, Engine, WriteError, Written};
use auxo_proto::clock::Clock;
use auxo_proto::error::{ErrorCode, Failure, Outcome};
use auxo_proto::ids::{BatchId, NodeId, Seq, ShardId, TenantId};
use auxo_proto::rows::Rows;
use auxo_proto::schema::{ColumnType, HashRange, TableInfo};
use auxo_proto::topology::Catalog;
use auxo_sst::predicate::{TagFilter, TimeRange};
use futures::future::join_all;
use tokio::sync::watch;
use tokio::time::Instant;

use crate::forward::peers::Peers;

/// How long a part waits for a leader before its caller is told to try again.
pub(crate) const LEADER_PATIENCE: Duration = Duration::from_millis(1_500);
/// Longest time between two looks for a leader.
pub(crate) const LEADER_PAUSE: Duration = Duration::from_millis(100);
/// How far ahead of this node's clock a batch id may lie.
const BATCH_AHEAD_MS: u64 = 10 * 60 * 1_000;

/// Rows of one table, columns resolved to the ids of its schema.
#[derive(Clone, Debug)]
pub struct TableRows {
    /// The table.
    pub table: Arc<TableInfo>,
    /// Its rows.
    pub rows: Rows,
}

/// A write as a protocol hands it over.
#[derive(Clone, Debug)]
pub struct WriteRequest {
    /// Who writes.
    pub tenant: TenantId,
    /// The caller's name for the batch, if it has one.
    pub id: Option<BatchId>,
    /// Hash of the caller's whole body.
    pub body_hash: u64,
    /// What to write.
    pub tables: Vec<TableRows>,
}

/// What an acked write says.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct WriteSummary {
    /// Rows handed to the shards.
    pub rows: u64,
    /// Per shard the sequence that holds the write: the read token.
    pub seqs: Vec<(ShardId, Seq)>,
    /// Whether every part had been applied before.
    pub replayed: bool,
}

/// The read token of a write: opaque to callers, `{shard}.{seq}` joined by commas.
pub fn read_token(summary: &WriteSummary) -> String {
    let seqs = summary
        .seqs
        .iter()
        .map(|(shard, seq)| format!("{shard}.{seq}"));
    seqs.collect::<Vec<_>>().join(",")
}

/// Splits writes and hands them to the shards. Clones are handles of the same writer.
#[derive(Clone)]
pub struct Writer {
    engine: Engine,
    clock: Clock,
    routes: Routes,
}

/// What a writer knows of the shards that are led elsewhere.
#[derive(Clone)]
pub struct Routes {
    /// Streams to the other nodes.
    pub peers: Peers,
    /// The newest catalog.
    pub catalog: watch::Receiver<Arc<Catalog>>,
    /// This node's id, once meta has given it one.
    pub node: watch::Receiver<Option<NodeId>>,
}

impl Routes {
    /// Address of the internal listener of the node that leads a shard, if that is another one.
    fn leader_elsewhere(&self, shard: ShardId) -> Option<String> {
        let catalog = self.catalog.borrow();
        let leader = catalog.leader(shard)?;
        if *self.node.borrow() == Some(leader) {
            return None;
        }
        let nodes = &catalog.topology().nodes;
        let node = nodes.iter().find(|node| node.id == leader)?;
        (!node.internal.is_empty()).then(|| node.internal.clone())
    }

    /// Waits until the catalog changes, or a little.
    async fn news(&mut self) {
        let changed = self.catalog.changed();
        // Elapsed or not, the caller looks again.
        let _ = tokio::time::timeout(LEADER_PAUSE, changed).await;
    }
}

/// Cuts what stands behind the unit of a table's time, down to the last moment that is not later,
/// whatever way rows came: times that are shown alike are alike.
///
/// * errors: the moment before one of them lies before all that can be stored.
fn cut_times(table: &TableInfo, times: &mut [i64]) -> Result<(), Failure> {
    let unit = match table.schema.time().map(|time| time.ty) {
        Some(ColumnType::Timestamp(unit)) if unit.ns() > 1 => unit.ns(),
        _ => return Ok(()),
    };
    for time in times {
        let cut = time.checked_sub(time.rem_euclid(unit));
        *time = cut.ok_or_else(|| {
            let detail = format!("a time of {} lies before the year 1678", table.name);
            Failure::new(ErrorCode::BadTimestamp, detail).outcome(Outcome::Rejected)
        })?;
    }
    Ok(())
}

impl Writer {
    /// A writer to the shards of this node and, by its routes, of others.
    pub fn new(engine: Engine, clock: Clock, routes: Routes) -> Self {
        Self {
            engine,
            clock,
            routes,
        }
    }

    /// Writes rows.
    ///
    /// * errors: `outcome` of the failure says whether nothing, something or nobody-knows-what was
    ///   stored.
    /// * effects: durable once it returns `Ok`; dropping the future cancels nothing.
    pub async fn write(
        &self,
        catalog: &Catalog,
        request: WriteRequest,
    ) -> Result<WriteSummary, Failure> {
        let rows = request
            .tables
            .iter()
            .map(|table| table.rows.len() as u64)
            .sum();
        let mut by_shard: BTreeMap<ShardId, Vec<Entry>> = BTreeMap::new();
        for TableRows { table, mut rows } in request.tables {
            cut_times(&table, &mut rows.time)?;
            let tablets = catalog.tablets(table.id);
            if tablets.is_empty() {
                let detail = format!("table {} has no tablets yet", table.name);
                return Err(
                    Failure::new(ErrorCode::SchemaChanging, detail).outcome(Outcome::Rejected)
                );
            }
            let ranges: Vec<HashRange> = tablets.iter().map(|tablet| tablet.range).collect();
            for (at, rows) in rows.split(&ranges) {
                let tablet = &tablets[at];
                let (id, schema) = (tablet.id, table.schema.number);
                let entry = Entry::Rows {
                    table: table.id,
                    tablet: id,
                    schema,
                    rows,
                };
                by_shard.entry(tablet.shard).or_default().push(entry);
            }
        }
        let summary = self.write_shards(request.tenant, request.id, request.body_hash, by_shard);
        Ok(WriteSummary {
            rows,
            ..summary.await?
        })
    }

    /// Deletes the rows of a table whose tags and time match.
    ///
    /// * `id`, `hash`: the caller's name for it, and the hash of the caller's whole body.
    /// * effects: as [`Writer::write`].
    pub async fn delete(
        &self,
        catalog: &Catalog,
        table: &TableInfo,
        (filter, time): (&TagFilter, TimeRange),
        (id, hash): (Option<BatchId>, u64),
    ) -> Result<WriteSummary, Failure> {
        let mut by_shard: BTreeMap<ShardId, Vec<Entry>> = BTreeMap::new();
        for tablet in catalog.tablets(table.id) {
            let entry = Entry::Delete {
                tablet: tablet.id,
                filter: filter.clone(),
                time,
            };
            by_shard.entry(tablet.shard).or_default().push(entry);
        }
        self.write_shards(table.tenant, id, hash, by_shard).await
    }

    async fn write_shards(
        &self,
        tenant: TenantId,
        id: Option<BatchId>,
        hash: u64,
        by_shard: BTreeMap<ShardId, Vec<Entry>>,
    ) -> Result<WriteSummary, Failure> {
        self.check_id(id)?;
        let writes = by_shard.into_iter().map(|(shard, entries)| async move {
            let batch = Batch {
                tenant,
                id,
                hash,
                entries,
            };
            (shard, self.write_shard(shard, batch).await)
        });
        let mut summary = WriteSummary {
            replayed: true,
            ..WriteSummary::default()
        };
        let mut failed = Vec::new();
        for (shard, written) in join_all(writes).await {
            match written {
                Ok(written) => {
                    summary.seqs.push((shard, written.seq));
                    summary.replayed &= written.replayed;
                }
                Err(error) => failed.push(error),
            }
        }
        summary.replayed &= !summary.seqs.is_empty();
        match failed.into_iter().max_by_key(severity) {
            None => Ok(summary),
            Some(worst) if worst.outcome == Some(Outcome::Rejected) && !summary.seqs.is_empty() => {
                Err(worst.outcome(Outcome::Partial))
            }
            Some(worst) => Err(worst),
        }
    }

    /// Writes one shard's part, wherever that is led.
    async fn write_shard(&self, shard: ShardId, batch: Batch) -> Result<Written, Failure> {
        let deadline = Instant::now() + LEADER_PATIENCE;
        let mut routes = self.routes.clone();
        loop {
            let led = self.engine.shard(shard);
            if let Some(led) = led.filter(|led| !led.is_fenced()) {
                return led.write(batch).await.map_err(failure);
            }
            routes.catalog.mark_unchanged();
            let written = match routes.leader_elsewhere(shard) {
                Some(address) => routes.peers.write(&address, shard, &batch).await,
                None => Err(failure(match self.engine.parked(shard) {
                    Some(why) => WriteError::Parked(why),
                    None => WriteError::NotLeader(shard),
                })),
            };
            match written {
                Err(refused) if led_elsewhere(&refused) && Instant::now() < deadline => {
                    routes.news().await;
                }
                written => return written,
            }
        }
    }

    fn check_id(&self, id: Option<BatchId>) -> Result<(), Failure> {
        let Some(id) = id else {
            return Ok(());
        };
        let now_ms = self.clock.now_ms().max(0) as u64;
        match id.unix_ms() > now_ms + BATCH_AHEAD_MS {
            false => Ok(()),
            true => {
                let detail = format!("batch id {id} lies more than ten minutes in the future");
                Err(Failure::new(ErrorCode::BatchFromFuture, detail).outcome(Outcome::Rejected))
            }
        }
    }
}

/// Whether a part was certainly refused by a node that does not lead its shard.
fn led_elsewhere(refused: &Failure) -> bool {
    let code = matches!(refused.code, ErrorCode::NoLeader | ErrorCode::Draining);
    code && refused.outcome == Some(Outcome::Rejected)
}

/// Which of several failures a caller has to hear: an unknown outcome before all others, then what
/// cannot be cured by waiting.
fn severity(failure: &Failure) -> u8 {
    match failure.code {
        _ if failure.outcome == Some(Outcome::Unknown) => 3,
        _ if !failure.retryable() => 2,
        ErrorCode::ShardParked => 1,
        _ => 0,
    }
}

/// What a caller is told of the engine's answer.
pub fn failure(error: WriteError) -> Failure {
    let code = match &error {
        WriteError::NotLeader(_) | WriteError::StaleRoute(_) => ErrorCode::NoLeader,
        WriteError::Closed(_) => ErrorCode::Draining,
        WriteError::Busy(Busy::Memory) => ErrorCode::MemoryFull,
        WriteError::Busy(Busy::Unflushed | Busy::Store) => ErrorCode::UnflushedFull,
        WriteError::Busy(Busy::Queue) => ErrorCode::Busy,
        WriteError::Refused(_) => ErrorCode::WalUnavailable,
        WriteError::TooLarge(_) => ErrorCode::BatchTooLarge,
        WriteError::BatchConflict(_) => ErrorCode::BatchConflict,
        WriteError::BatchExpired(_) => ErrorCode::BatchExpired,
        WriteError::Unknown => ErrorCode::OutcomeUnknown,
        WriteError::Parked(_) => ErrorCode::ShardParked,
    };
    let outcome = match &error {
        WriteError::Unknown => Outcome::Unknown,
        _ => Outcome::Rejected,
    };
    Failure::new(code, error.to_string()).outcome(outcome)
}
