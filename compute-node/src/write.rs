//! The way of a write into the engine: admit, split by tablet, hand to the shards, say what became
//! of it.
//!
//! Rows come from any protocol as tables of typed columns. They are split by partition hash, the
//! parts of one shard travel as one batch under the caller's id, all shards at once. The answer is
//! `Ok` only when every shard acked.
//!
//! Never here: bytes of a protocol, HTTP statuses, schemas being changed.

use std::collections::BTreeMap;
use std::sync::Arc;

use auxo_engine::payload::{Batch, Entry};
use auxo_engine::{Busy, Engine, WriteError};
use auxo_proto::clock::Clock;
use auxo_proto::error::{ErrorCode, Failure, Outcome};
use auxo_proto::ids::{BatchId, Seq, ShardId, TenantId};
use auxo_proto::rows::Rows;
use auxo_proto::schema::{HashRange, TableInfo};
use auxo_proto::topology::Catalog;
use auxo_sst::predicate::{TagFilter, TimeRange};
use futures::future::join_all;

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
    /// Bytes that count for quotas: encoded rows.
    pub bytes: u64,
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
}

impl Writer {
    /// A writer over the shards of this node.
    pub fn new(engine: Engine, clock: Clock) -> Self {
        Self { engine, clock }
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
        self.check_id(request.id)?;
        let rows = request
            .tables
            .iter()
            .map(|table| table.rows.len() as u64)
            .sum();
        let mut by_shard: BTreeMap<ShardId, Vec<Entry>> = BTreeMap::new();
        for TableRows { table, rows } in request.tables {
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
    /// * effects: as [`Writer::write`].
    pub async fn delete(
        &self,
        catalog: &Catalog,
        table: &TableInfo,
        filter: &TagFilter,
        time: TimeRange,
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
        self.write_shards(table.tenant, None, 0, by_shard).await
    }

    async fn write_shards(
        &self,
        tenant: TenantId,
        id: Option<BatchId>,
        hash: u64,
        by_shard: BTreeMap<ShardId, Vec<Entry>>,
    ) -> Result<WriteSummary, Failure> {
        let writes = by_shard.into_iter().map(|(shard, entries)| async move {
            let batch = Batch {
                tenant,
                id,
                hash,
                entries,
            };
            let written = match self.engine.shard(shard) {
                Some(led) => led.write(batch).await,
                None => Err(WriteError::NotLeader(shard)),
            };
            (shard, written)
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
            Some(worst) => Err(failure(worst, !summary.seqs.is_empty())),
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

/// Which of several failures a caller has to hear: an unknown outcome before all others, then what
/// cannot be cured by waiting.
fn severity(error: &WriteError) -> u8 {
    match error {
        WriteError::Unknown => 3,
        WriteError::BatchConflict(_) | WriteError::BatchExpired(_) | WriteError::TooLarge(_) => 2,
        WriteError::Parked(_) => 1,
        _ => 0,
    }
}

/// What a caller is told of the engine's answer.
///
/// * `partly`: other shards took their part.
pub fn failure(error: WriteError, partly: bool) -> Failure {
    let code = match &error {
        WriteError::NotLeader(_) | WriteError::StaleRoute(_) => ErrorCode::NoLeader,
        WriteError::Closed(_) => ErrorCode::Draining,
        WriteError::Busy(Busy::Memory) => ErrorCode::MemoryFull,
        WriteError::Busy(Busy::Unflushed) => ErrorCode::UnflushedFull,
        WriteError::Busy(Busy::Queue) => ErrorCode::Busy,
        WriteError::Refused(_) => ErrorCode::WalUnavailable,
        WriteError::TooLarge(_) => ErrorCode::BatchTooLarge,
        WriteError::BatchConflict(_) => ErrorCode::BatchConflict,
        WriteError::BatchExpired(_) => ErrorCode::BatchExpired,
        WriteError::Unknown => ErrorCode::OutcomeUnknown,
        WriteError::Parked(_) => ErrorCode::ShardParked,
    };
    let outcome = match (&error, partly) {
        (WriteError::Unknown, _) => Outcome::Unknown,
        (_, true) => Outcome::Partial,
        (_, false) => Outcome::Rejected,
    };
    Failure::new(code, error.to_string()).outcome(outcome)
}
