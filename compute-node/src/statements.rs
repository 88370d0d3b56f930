//! Carries out a statement: queries run, rows are written, changes go to meta.
//!
//! Never here: SQL text (`auxo_query`), bytes of a protocol.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use auxo_proto::error::{ErrorCode, Failure, Outcome};
use auxo_proto::ids::{BatchId, Seq, ShardId, TenantId};
use auxo_proto::rows::Rows;
use auxo_proto::topology::Catalog;
use auxo_query::{
    Answer, Asked, Delete, Insert, Limits, Params, QueryPlan, Slot, Statement, rows_of,
};
use futures::{StreamExt, TryStreamExt, stream};
use tokio::time::Instant;

use crate::node::{DDL_TIME, Node};
use crate::reading::places::Freshness;
use crate::write::{TableRows, WriteRequest, WriteSummary};

/// Rows that one INSERT hands to the shards at once.
const INSERT_ROWS: usize = 8_192;
/// Rows of an INSERT under a batch id, which has to fit one record of each shard.
const BATCH_ROWS_MAX: usize = 500_000;
const NS_PER_S: i64 = 1_000_000_000;

/// A statement and who asks.
#[derive(Clone)]
pub struct Ask<'a> {
    /// Whose statement it is.
    pub tenant: TenantId,
    /// Database of unqualified names.
    pub database: &'a str,
    /// The statement.
    pub sql: &'a str,
    /// Its values.
    pub params: &'a Params,
    /// Whether it may change anything.
    pub may_write: bool,
    /// Set once it is known to be one that changes something.
    pub changes: &'a AtomicBool,
    /// The caller's name for what it writes.
    pub batch: Option<BatchId>,
    /// What it may take.
    pub limits: Limits,
    /// How fresh the rows of a query have to be; an INSERT reads what is acked.
    pub freshness: Freshness,
    /// Its place among the running statements, kept for as long as a thread works for it.
    pub slot: Slot,
}

impl Ask<'_> {
    /// Tells a repeat under a batch id from another statement under the same one; 0 without an id.
    fn body_hash(&self) -> u64 {
        let Self { sql, params, .. } = self;
        self.batch.map_or(0, |_| {
            let asked = format!("{:?} {sql:?} {params:?}", self.database);
            xxhash_rust::xxh3::xxh3_64(asked.as_bytes())
        })
    }
}

/// What a statement came to.
pub enum Done {
    /// Rows, on their way.
    Rows(Box<Answer>),
    /// Something was written.
    Wrote(WriteSummary),
    /// Rows were hidden; how many, nobody has counted.
    Deleted(WriteSummary),
    /// The model was changed.
    Changed,
}

impl Node {
    /// Carries out one statement.
    ///
    /// * errors: with a place in the text wherever the text is at fault.
    pub async fn statement(&self, ask: Ask<'_>) -> Result<Done, Failure> {
        let catalog = self.catalog()?;
        let statement = self.understand(&ask, &catalog).await?;
        if !ask.may_write && !matches!(statement, Statement::Query(_)) {
            let detail = "a statement that changes something needs POST";
            return Err(Failure::new(ErrorCode::MethodNotAllowed, detail));
        }
        let changes = !matches!(statement, Statement::Query(_));
        ask.changes.store(changes, Ordering::Relaxed);
        match statement {
            Statement::Query(plan) => {
                let answer = match self.answer(*plan, &catalog, &ask).await {
                    Err(failure) if failure.code == ErrorCode::NoLeader => {
                        self.answer_again(&ask, failure).await?
                    }
                    answer => answer?,
                };
                Ok(Done::Rows(Box::new(answer)))
            }
            Statement::Insert(insert) => {
                self.admit()?;
                self.insert(&ask, catalog, insert).await.map(Done::Wrote)
            }
            Statement::Delete(Delete { table, tags, time }) => {
                self.admit()?;
                let which = (&tags, time);
                let named = (ask.batch, ask.body_hash());
                let deleted = self.writer().delete(&catalog, &table, which, named).await?;
                Ok(Done::Deleted(deleted))
            }
            Statement::Ddl(ddl) => {
                self.admit()?;
                let left = ask.limits.deadline.duration_since(Instant::now());
                self.change(ask.tenant, ddl, left.min(DDL_TIME)).await?;
                Ok(Done::Changed)
            }
        }
    }

    async fn understand(
        &self,
        ask: &Ask<'_>,
        catalog: &Arc<Catalog>,
    ) -> Result<Statement, Failure> {
        let asked = Asked {
            catalog: Arc::clone(catalog),
            tenant: ask.tenant,
            database: ask.database.to_owned(),
            text: ask.sql.to_owned(),
            params: ask.params.clone(),
        };
        let (deadline, slot) = (ask.limits.deadline, Arc::clone(&ask.slot));
        self.query().prepare_apart(asked, deadline, slot).await
    }

    /// Runs a query up to its first rows.
    async fn answer(
        &self,
        plan: QueryPlan,
        catalog: &Catalog,
        ask: &Ask<'_>,
    ) -> Result<Answer, Failure> {
        let limits = ask.limits;
        let snapshots = self
            .places()
            .snapshots(catalog, limits.deadline, ask.freshness);
        let slot = Arc::clone(&ask.slot);
        let mut answer = self.query().execute(plan, snapshots, limits, slot).await?;
        // Without a first batch the stream has ended and must not be asked again.
        let first = answer.batches.next().await;
        let rest = std::mem::replace(&mut answer.batches, stream::empty().boxed());
        if let Some(first) = first {
            answer.batches = stream::iter([Ok(first?)]).chain(rest).boxed();
        }
        Ok(answer)
    }

    /// Runs a query once more that lost a node before it had any rows.
    async fn answer_again(&self, ask: &Ask<'_>, lost: Failure) -> Result<Answer, Failure> {
        let catalog = self.catalog()?;
        match self.understand(ask, &catalog).await? {
            Statement::Query(plan) => self.answer(*plan, &catalog, ask).await,
            _ => Err(lost),
        }
    }

    /// Writes the rows of a query: under a batch id as one batch per shard, else some thousands at a
    /// time, not all or nothing.
    async fn insert(
        &self,
        ask: &Ask<'_>,
        catalog: Arc<Catalog>,
        insert: Insert,
    ) -> Result<WriteSummary, Failure> {
        if ask.batch.is_some() && insert.reads_rows() {
            // A shard that had none of the rows the first time would take those of the second.
            let detail = "an INSERT that reads a table takes no Idempotency-Key: a repeat may find other rows";
            let hint = "in a table that is not in append mode a row replaces the one before it";
            let failure = Failure::new(ErrorCode::Unsupported, detail).hint(hint);
            return Err(failure.outcome(Outcome::Rejected));
        }
        let Insert { table, query } = insert;
        let limits = Limits {
            rows: u64::MAX,
            bytes: u64::MAX,
            ..ask.limits
        };
        let snapshots = self
            .places()
            .snapshots(&catalog, limits.deadline, Freshness::Strong);
        let slot = Arc::clone(&ask.slot);
        let mut answer = self
            .query()
            .execute(*query, snapshots, limits, slot)
            .await?;
        let schema = Arc::clone(&answer.schema);
        let at_once = match ask.batch {
            Some(_) => usize::MAX,
            None => INSERT_ROWS,
        };
        let mut summary = WriteSummary::default();
        let (mut gathered, mut rows) = (Vec::new(), 0);
        loop {
            let next = answer.batches.try_next().await;
            let next = next.map_err(|failure| after(&summary, failure))?;
            let ended = next.is_none();
            if let Some(batch) = next {
                rows += batch.num_rows();
                gathered.push(batch);
            }
            if ask.batch.is_some() && rows > BATCH_ROWS_MAX {
                let detail = format!("an INSERT under a batch id holds {BATCH_ROWS_MAX} rows");
                return Err(
                    Failure::new(ErrorCode::BatchTooLarge, detail).outcome(Outcome::Rejected)
                );
            }
            if rows >= at_once || (ended && rows > 0) {
                let whole = arrow::compute::concat_batches(&schema, &gathered)
                    .map_err(|error| Failure::new(ErrorCode::BatchTooLarge, error.to_string()))?;
                gathered.clear();
                rows = 0;
                for start in (0..whole.num_rows()).step_by(at_once) {
                    let piece = whole.slice(start, at_once.min(whole.num_rows() - start));
                    let piece = rows_of(&table, &piece).and_then(|rows| self.not_ahead(rows));
                    let piece = piece.map_err(|failure| after(&summary, failure))?;
                    let tables = vec![TableRows {
                        table: Arc::clone(&table),
                        rows: piece,
                    }];
                    let request = WriteRequest {
                        tenant: ask.tenant,
                        id: ask.batch,
                        body_hash: ask.body_hash(),
                        tables,
                    };
                    let written = self.write_piece(&catalog, request, summary.clone());
                    let written = tokio::time::timeout_at(limits.deadline, written).await;
                    summary = written.map_err(|_| {
                        let detail = "the statement's time is over, its last rows may be stored";
                        let failure = Failure::new(ErrorCode::Timeout, detail);
                        after(&summary, failure.outcome(Outcome::Unknown))
                    })??;
                }
            }
            if ended {
                return Ok(summary);
            }
        }
    }

    /// The rows, unless one lies further in the future than rows of any protocol may.
    fn not_ahead(&self, rows: Rows) -> Result<Rows, Failure> {
        let (now, most) = (self.clock().now_ns(), self.limits().lines.future_ns);
        let last = rows.time.iter().copied().max().unwrap_or(now);
        if last <= now.saturating_add(most) {
            return Ok(rows);
        }
        let (ahead_s, most_s) = (last.saturating_sub(now) / NS_PER_S, most / NS_PER_S);
        let detail = format!("a time lies {ahead_s} s in the future, {most_s} s are allowed");
        Err(Failure::new(ErrorCode::BadTimestamp, detail)
            .hint("limits.future of the node's configuration is the most"))
    }

    async fn write_piece(
        &self,
        catalog: &Catalog,
        request: WriteRequest,
        before: WriteSummary,
    ) -> Result<WriteSummary, Failure> {
        let written = self
            .writer()
            .write(catalog, request)
            .await
            .map_err(|failure| after(&before, failure))?;
        let mut seqs: BTreeMap<ShardId, Seq> = before.seqs.into_iter().collect();
        seqs.extend(written.seqs);
        Ok(WriteSummary {
            rows: before.rows + written.rows,
            seqs: seqs.into_iter().collect(),
            replayed: written.replayed,
        })
    }
}

/// A failure of a statement that has written something before: says how many rows are stored.
fn after(before: &WriteSummary, mut failure: Failure) -> Failure {
    if before.rows == 0 {
        return failure;
    }
    let stored = before.rows;
    failure.detail = format!("{}; {stored} rows before that are stored", failure.detail);
    match failure.outcome {
        Some(Outcome::Unknown) => failure,
        _ => failure.outcome(Outcome::Partial),
    }
}
