//! One shard that this node leads: the handle others hold, and the tasks behind it.
//!
//! Tasks of a leading shard: the appending task (`leader.rs`), the flusher (`flusher.rs`) and, while there
//! is something to join, a run maker (`runs.rs`). All are spawned on the engine's task tracker and
//! end with the shard's own stop token, which also ends every commit. A shard that was fenced or
//! parked stops before it says so; what it knows stays readable.
//!
//! Never here: which shards there are, SQL, sockets.

use std::collections::{HashSet, VecDeque};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use auxo_proto::clock::Clock;
use auxo_proto::ids::{ShardId, TabletId, TenantId};
use auxo_proto::random::Random;
use auxo_proto::schema::TabletSpec;
use auxo_wal_adapters::frame::PAYLOAD_BYTES_MAX;
use auxo_wal_adapters::{Offset, Region};
use object_store::ObjectStore;
use tokio::sync::{Notify, mpsc, oneshot, watch};
use tokio_util::sync::CancellationToken;

use crate::Settings;
use crate::batches::Batches;
use crate::budget::MemtableBudget;
use crate::committer::{Committer, NotCommitted};
use crate::files::FileCache;
use crate::flush::FlushError;
use crate::leader::{Command, Ended, Submitted};
use crate::outcome::{Busy, WriteError, Written};
use crate::payload::{self, Batch, EncodeError, EncodedBatch, Entry};
use crate::read::{ReadError, TabletSnapshot};
use crate::state::Cut;
use crate::traffic::{self, Amount, Traffic};
use crate::version::Current;

/// Longest wait of a strong read for the log.
const BARRIER_TIME: Duration = Duration::from_secs(5);

/// What a shard's tasks share.
pub(crate) struct Parts {
    pub(crate) shard: ShardId,
    pub(crate) current: Arc<Current>,
    pub(crate) region: Arc<dyn Region>,
    pub(crate) committer: Committer,
    pub(crate) store: Arc<dyn ObjectStore>,
    pub(crate) files: FileCache,
    pub(crate) commands: mpsc::Sender<Command>,
    pub(crate) unflushed: Arc<AtomicU64>,
    pub(crate) budget: MemtableBudget,
    pub(crate) clock: Clock,
    pub(crate) random: Random,
    pub(crate) settings: Arc<Settings>,
    pub(crate) stop: CancellationToken,
    pub(crate) flush_wanted: Notify,
    pub(crate) applied: Notify,
    /// Batches applied up to the newest manifest's `flushed`.
    pub(crate) flushed_batches: tokio::sync::Mutex<Batches>,
    /// Cuts whose files are not committed yet, oldest first.
    pub(crate) cuts: parking_lot::Mutex<VecDeque<Arc<Cut>>>,
    /// Held by whoever flushes cuts.
    pub(crate) flushing: tokio::sync::Mutex<()>,
    /// Keys of objects that are written and not committed; see `auxo_sst::garbage`.
    pub(crate) in_flight: parking_lot::Mutex<std::collections::HashSet<String>>,
    /// Files that compaction replaced or that outlived their TTL, since the shard was opened.
    pub(crate) compacted: AtomicU64,
    pub(crate) traffic: Traffic,
    /// Why the last flush failed, where trying again will not mend it.
    pub(crate) flush_refused: parking_lot::Mutex<Option<String>>,
    /// Whether the last flush failed because its store was full.
    pub(crate) store_full: AtomicBool,
    pub(crate) ended: watch::Sender<Option<Ended>>,
}

/// A shard that this node leads. Clones are handles of the same shard.
#[derive(Clone)]
pub struct Shard {
    pub(crate) parts: Arc<Parts>,
}

/// What a shard says of itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ShardStatus {
    /// Which shard.
    pub shard: ShardId,
    /// Its term.
    pub term: auxo_proto::ids::Term,
    /// Number of its newest manifest.
    pub manifest: u64,
    /// First offset that files do not cover.
    pub flushed: Offset,
    /// First offset that is not applied.
    pub applied: Offset,
    /// Bytes of log behind `flushed`.
    pub unflushed_bytes: u64,
    /// Bytes of memtables.
    pub memory_bytes: u64,
    /// Live files.
    pub files: u64,
    /// Bytes of live files.
    pub file_bytes: u64,
    /// Rows in live files.
    pub file_rows: u64,
    /// Files that compaction replaced or that outlived their TTL, since the shard was opened.
    pub compacted: u64,
    /// What was acked since the shard was opened.
    pub written: Amount,
    /// What scans gave since then, before what statements made of it.
    pub read: Amount,
    /// Tablets.
    pub tablets: u64,
    /// Why what is in memory cannot be flushed until a person looks; writes are refused once the log's
    /// share is full.
    pub flush_refused: Option<String>,
    /// How leadership ended, if it did.
    pub ended: Option<String>,
}

/// Most bytes of a row's key: more than any line of line protocol makes. Every file's entry has two keys, and
/// a block of its index 128 of them.
pub const KEY_BYTES_MAX: usize = 160 << 10;

/// Most bytes of all deletes that a shard keeps: an eighth of the largest manifest.
pub const DELETES_BYTES_MAX: usize = 32 << 20;

impl Shard {
    /// Which shard.
    pub fn id(&self) -> ShardId {
        self.parts.shard
    }

    /// Writes one batch as one record.
    ///
    /// * errors: every variant of [`WriteError`] but `Unknown` means that the write is in no state,
    ///   now or ever.
    /// * effects: durable once it returns `Ok`; dropping the future cancels nothing. A write whose
    ///   answer takes longer than `Settings::patience_ms` ends as `Unknown` and is settled all the
    ///   same: with the same batch id it can be asked for again.
    pub async fn write(&self, batch: Batch) -> Result<Written, WriteError> {
        let parts = &self.parts;
        self.check_tablets(&batch)?;
        self.check_room()?;
        self.check_lasting(&batch)?;
        let encoded = encode(&batch)?;
        let permit = parts.budget.admit(encoded.memory_bytes());
        let permit = permit.ok_or(WriteError::Busy(Busy::Memory))?;
        let amount = traffic::amount(&batch, &encoded);
        let written = self.submit(batch, encoded, Some(permit)).await?;
        if !written.replayed {
            parts.traffic.wrote(amount);
        }
        Ok(written)
    }

    /// Makes or renews tablets; durable when it returns. Repeating it changes nothing.
    ///
    /// A table that is renewed at one of its tablets is renewed at all of them: the record names one.
    pub async fn create_tablets(&self, specs: Vec<TabletSpec>) -> Result<(), WriteError> {
        let version = self.parts.current.get();
        let mut renewed = HashSet::new();
        let mut tells = |spec: &TabletSpec| match version.tablets.get(&spec.id) {
            Some(known) if **known == *spec => false,
            Some(known) if known.range == spec.range => renewed.insert(spec.table.id),
            _ => true,
        };
        let missing: Vec<TabletSpec> = specs.into_iter().filter(|spec| tells(spec)).collect();
        if missing.is_empty() {
            return Ok(());
        }
        self.check_room()?;
        self.change(Entry::CreateTablets(missing)).await
    }

    /// Makes tablets unreadable; durable when it returns. Their files go later.
    pub async fn drop_tablets(&self, tablets: Vec<TabletId>) -> Result<(), WriteError> {
        let version = self.parts.current.get();
        let known: Vec<TabletId> = tablets
            .into_iter()
            .filter(|id| version.tablets.contains_key(id))
            .collect();
        match known.is_empty() {
            true => Ok(()),
            false => self.change(Entry::DropTablets(known)).await,
        }
    }

    async fn change(&self, entry: Entry) -> Result<(), WriteError> {
        let batch = Batch {
            tenant: TenantId(0),
            id: None,
            hash: 0,
            entries: vec![entry],
        };
        let encoded = encode(&batch)?;
        self.submit(batch, encoded, None).await.map(drop)
    }

    async fn submit(
        &self,
        batch: Batch,
        encoded: EncodedBatch,
        permit: Option<crate::budget::RequestPermit>,
    ) -> Result<Written, WriteError> {
        let (reply, answer) = oneshot::channel();
        let submitted = Submitted {
            batch,
            encoded,
            reply,
            permit,
        };
        match self
            .parts
            .commands
            .try_send(Command::Write(Box::new(submitted)))
        {
            Ok(()) => {}
            Err(mpsc::error::TrySendError::Full(_)) => return Err(WriteError::Busy(Busy::Queue)),
            Err(mpsc::error::TrySendError::Closed(_)) => return Err(self.gone()),
        }
        match tokio::time::timeout(self.parts.settings.patience(), answer).await {
            Ok(Ok(answer)) => answer,
            Ok(Err(_)) | Err(_) => Err(WriteError::Unknown),
        }
    }

    /// Refuses what makes the log longer while as much of it as may be is in no file.
    fn check_room(&self) -> Result<(), WriteError> {
        let parts = &self.parts;
        if parts.unflushed.load(Ordering::Relaxed) <= parts.settings.unflushed_bytes_max {
            return Ok(());
        }
        parts.flush_wanted.notify_one();
        let full = parts.store_full.load(Ordering::Relaxed);
        let what = if full { Busy::Store } else { Busy::Unflushed };
        Err(WriteError::Busy(what))
    }

    /// Refuses what manifests and files could not hold for as long as they must: keys are in both, and a
    /// delete is in every manifest until files that are older than it have been rewritten.
    fn check_lasting(&self, batch: &Batch) -> Result<(), WriteError> {
        let version = self.parts.current.get();
        let mut deletes = 0;
        for entry in &batch.entries {
            match entry {
                Entry::Rows { tablet, rows, .. } => {
                    let longest = rows.series.iter().map(|(key, _)| key.len()).max();
                    if let Some(bytes) = longest.filter(|bytes| *bytes > KEY_BYTES_MAX) {
                        let table = version.tablets.get(tablet);
                        let table = table.map_or("", |spec| spec.table.name.as_str());
                        return Err(WriteError::TooLarge(format!(
                            "the tags of a row of table {table} have {bytes} bytes, the limit is {KEY_BYTES_MAX}"
                        )));
                    }
                }
                Entry::Delete { filter, .. } => deletes += filter.bytes(),
                Entry::CreateTablets(_) | Entry::DropTablets(_) => {}
            }
        }
        if deletes == 0 {
            return Ok(());
        }
        let kept: usize = version.deletes.iter().map(|kept| kept.filter.bytes()).sum();
        match deletes + kept > DELETES_BYTES_MAX {
            true => Err(WriteError::TooLarge(format!(
                "this delete has {deletes} bytes in shard {}, beside {kept} of deletes whose older files are not \
                 rewritten yet; the limit is {DELETES_BYTES_MAX}",
                self.parts.shard
            ))),
            false => Ok(()),
        }
    }

    fn check_tablets(&self, batch: &Batch) -> Result<(), WriteError> {
        let version = self.parts.current.get();
        for entry in &batch.entries {
            let (Entry::Rows { tablet, .. } | Entry::Delete { tablet, .. }) = entry else {
                continue;
            };
            if !version.tablets.contains_key(tablet) {
                return Err(WriteError::StaleRoute(*tablet));
            }
        }
        Ok(())
    }

    /// Whether a higher term leads: what is asked of it here is for another node.
    pub fn is_fenced(&self) -> bool {
        matches!(&*self.parts.ended.borrow(), Some(Ended::Fenced(_)))
    }

    /// Why nobody takes commands any more.
    fn gone(&self) -> WriteError {
        match &*self.parts.ended.borrow() {
            Some(Ended::Fenced(_)) => WriteError::NotLeader(self.parts.shard),
            Some(Ended::Parked(why)) => WriteError::Parked(why.clone()),
            Some(Ended::Closed) | None => WriteError::Closed(self.parts.shard),
        }
    }

    /// Waits until every write acked by anyone before now is applied here.
    ///
    /// * source: docs/invariants.md, "Reads": a linear end is waited for; otherwise the first frame
    ///   sent after the question has to be acked.
    pub async fn barrier(&self) -> Result<(), ReadError> {
        let unavailable = |why: String| ReadError::Unavailable(why);
        let refused = |error: WriteError| match error {
            WriteError::NotLeader(shard) | WriteError::Closed(shard) => ReadError::NotLeader(shard),
            other => ReadError::Unavailable(other.to_string()),
        };
        if self.parts.ended.borrow().is_some() {
            return Err(refused(self.gone()));
        }
        let waited = async {
            if self.parts.region.end_is_linear() {
                let end = self.parts.region.end().await;
                let end = end.map_err(|error| unavailable(error.to_string()))?.offset;
                loop {
                    let applied = self.parts.applied.notified();
                    tokio::pin!(applied);
                    applied.as_mut().enable();
                    if self.parts.current.get().next >= end {
                        return Ok(());
                    }
                    applied.await;
                }
            }
            let (reply, answer) = oneshot::channel();
            let sent = self.parts.commands.send(Command::Barrier(reply)).await;
            sent.map_err(|_| refused(self.gone()))?;
            match answer.await {
                Ok(answer) => answer.map_err(refused),
                Err(_) => Err(refused(self.gone())),
            }
        };
        match tokio::time::timeout(BARRIER_TIME.min(self.parts.settings.patience()), waited).await {
            Ok(done) => done,
            Err(_) => Err(unavailable("the log did not answer in time".into())),
        }
    }

    /// A tablet as it is now.
    pub fn tablet(&self, tablet: TabletId) -> Result<TabletSnapshot, ReadError> {
        let version = self.parts.current.get();
        let spec = version
            .tablets
            .get(&tablet)
            .ok_or(ReadError::StaleRoute(tablet))?;
        let spec = Arc::clone(spec);
        let now_ns = self.parts.clock.now_ns();
        Ok(TabletSnapshot::new(
            version,
            spec,
            self.parts.files.clone(),
            self.parts.traffic.clone(),
            now_ns,
        ))
    }

    /// What the shard says of itself.
    pub fn status(&self) -> ShardStatus {
        let version = self.parts.current.get();
        let files = || version.files.values().flatten();
        ShardStatus {
            shard: self.parts.shard,
            term: self.parts.committer.own().term,
            manifest: version.manifest,
            flushed: version.flushed,
            applied: version.next,
            unflushed_bytes: self.parts.unflushed.load(Ordering::Relaxed),
            memory_bytes: version.memory_bytes() as u64,
            files: files().count() as u64,
            file_bytes: files().map(|file| file.length).sum(),
            file_rows: files().map(|file| file.rows).sum(),
            compacted: self.parts.compacted.load(Ordering::Relaxed),
            written: self.parts.traffic.written(),
            read: self.parts.traffic.read(),
            tablets: version.tablets.len() as u64,
            flush_refused: self.parts.flush_refused.lock().clone(),
            ended: self
                .parts
                .ended
                .borrow()
                .as_ref()
                .map(|ended| format!("{ended:?}")),
        }
    }

    /// Tells when leadership ends.
    pub fn ended(&self) -> watch::Receiver<Option<Ended>> {
        self.parts.ended.subscribe()
    }

    /// Flushes everything applied before the call.
    ///
    /// * returns: once a committed manifest covers it.
    pub async fn flush(&self) -> Result<(), WriteError> {
        let (reply, answer) = oneshot::channel();
        let sent = self.parts.commands.send(Command::Cut(reply)).await;
        sent.map_err(|_| self.gone())?;
        answer.await.map_err(|_| self.gone())?;
        let flushed = self.parts.flush_cuts().await;
        flushed.map_err(|error| self.not_flushed(&error))
    }

    fn not_flushed(&self, error: &FlushError) -> WriteError {
        match error {
            FlushError::NotCommitted(NotCommitted::Stopped) => self.gone(),
            FlushError::NotCommitted(NotCommitted::Deposed(_)) => {
                WriteError::NotLeader(self.parts.shard)
            }
            error => WriteError::Refused(error.to_string()),
        }
    }

    /// Settles what is in flight, flushes, and stops; afterwards no background work can commit.
    ///
    /// * errors: why it is not all flushed. The shard has stopped all the same, and what was acked
    ///   is in the log. A log that does not settle what is in flight within
    ///   `Settings::patience_ms` is not waited for any longer.
    pub async fn close(&self) -> Result<(), WriteError> {
        let (reply, answer) = oneshot::channel();
        let sent = self.parts.commands.send(Command::Close(reply)).await;
        if sent.is_err() {
            return match &*self.parts.ended.borrow() {
                Some(Ended::Closed) => Ok(()),
                _ => Err(self.gone()),
            };
        }
        answer.await.map_err(|_| self.gone())?;
        let _stops = self.parts.stop.clone().drop_guard();
        let flushed = self.parts.flush_cuts().await;
        if flushed.is_ok() {
            self.parts.committer.finish().await;
        }
        flushed.map_err(|error| self.not_flushed(&error))
    }
}

/// Encodes a batch that one record can hold.
///
/// * errors: `TooLarge`, or `Refused` for a batch that breaks its shape; certain, both.
pub fn encode(batch: &Batch) -> Result<EncodedBatch, WriteError> {
    let encoded = payload::encode_batch(batch).map_err(|error| match error {
        EncodeError::TooLarge { .. } | EncodeError::TooDeep => {
            WriteError::TooLarge(error.to_string())
        }
        EncodeError::Malformed(_) => WriteError::Refused(error.to_string()),
    })?;
    let bytes = encoded.encoded_bytes();
    match bytes > PAYLOAD_BYTES_MAX - payload::HEADER_BYTES {
        true => Err(WriteError::TooLarge(format!(
            "batch is {bytes} bytes encoded, a record holds {PAYLOAD_BYTES_MAX}"
        ))),
        false => Ok(encoded),
    }
}
