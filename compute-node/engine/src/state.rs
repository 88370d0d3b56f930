//! What the log has made of a shard: the one function from accepted frames to state.
//!
//! A leader feeds its own frames and those it reads back; an opening shard feeds what it replays.
//! Both go through [`State::feed`], so what a reader sees after a crash is what was acked before.
//!
//! Invariants: W2 (VALID is the only acceptance rule, own frames included), W5 (state is the
//! manifest and the valid frames behind `flushed`), W6 (memtables hold accounted rows only).
//!
//! Never here: sending, waiting, files.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use auxo_proto::ids::{BatchId, Seq, TabletId, TenantId};
use auxo_proto::schema::TabletSpec;
use auxo_sst::manifest::{Delete, Floor, Manifest};
use auxo_wal_adapters::{Acceptance, Cur, Frame, FrameKind, Offset, Verdict};

use crate::batches::Batches;
use crate::budget::MemtableBudget;
use crate::memtable::{self, Memtables};
use crate::payload::{self, Batch, Entry, PayloadError};
use crate::version::{Current, Frozen, Version};

/// Bytes of marks alone that are worth a manifest and a shorter log.
const MARKS_MAX: u64 = 64 << 10;

/// A batch that was applied, as the next manifest has to note it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct AppliedBatch {
    pub(crate) tenant: TenantId,
    pub(crate) id: BatchId,
    pub(crate) body_hash: u64,
    pub(crate) seq: Seq,
}

/// Everything a manifest says of the log up to one offset.
#[derive(Clone, Debug)]
pub(crate) struct Cut {
    /// First offset that does not belong.
    pub(crate) until: Offset,
    /// State of VALID there.
    pub(crate) floor: Floor,
    /// Rows between the last cut and this one.
    pub(crate) rows: Memtables,
    /// Tablets there.
    pub(crate) tablets: Arc<BTreeMap<TabletId, Arc<TabletSpec>>>,
    /// Deletes up to there.
    pub(crate) deletes: Arc<Vec<Delete>>,
    /// Batches applied since the last cut.
    pub(crate) batches: Vec<AppliedBatch>,
    /// Bytes of frames since the last cut.
    pub(crate) log_bytes: u64,
}

/// What feeding a frame did.
#[derive(Debug)]
pub(crate) enum Fed {
    /// A claim took over the region.
    Claimed,
    /// The frame is part of the log; its rows are readable.
    Applied,
    /// The frame counts nowhere.
    Skipped,
}

/// The log cannot be followed any further: the shard parks.
#[derive(Debug, thiserror::Error)]
pub(crate) enum FeedError {
    /// The acceptance rule found something missing.
    #[error("frame at offset {at} does not continue the log: {why}")]
    Broken { at: Offset, why: String },
    /// A valid frame holds what cannot be read.
    #[error("record at offset {at}: {source}")]
    Payload { at: Offset, source: PayloadError },
}

/// The accounted state of one shard.
pub(crate) struct State {
    pub(crate) current: Arc<Current>,
    pub(crate) acceptance: Acceptance,
    pub(crate) batches: Batches,
    budget: MemtableBudget,
    since_cut: Vec<AppliedBatch>,
    log_bytes_since_cut: u64,
    /// A flush leaves a mark: marks alone are no reason for another one, or an idle shard would go on for ever.
    only_marks_since_cut: bool,
    unflushed: Arc<AtomicU64>,
}

impl State {
    /// The state of a manifest, before any frame behind its `flushed`.
    pub(crate) fn of_manifest(
        number: u64,
        manifest: &Manifest,
        budget: MemtableBudget,
        unflushed: Arc<AtomicU64>,
    ) -> Self {
        let floor = &manifest.floor;
        let version = Version::of_manifest(number, manifest);
        Self {
            current: Arc::new(Current::new(version, budget.clone())),
            acceptance: Acceptance::new(
                manifest.incarnation,
                Cur {
                    term: floor.term,
                    writer: floor.writer,
                    n: floor.n,
                    sealed: floor.sealed,
                },
                manifest.flushed,
            ),
            batches: Batches::of_manifest(&manifest.batches),
            budget,
            since_cut: Vec::new(),
            log_bytes_since_cut: 0,
            only_marks_since_cut: true,
            unflushed,
        }
    }

    /// First offset that is not accounted.
    pub(crate) fn next(&self) -> Offset {
        self.current.get().next
    }

    /// Accounts the frame at `offset`, which is at or above [`State::next`]; offsets between them
    /// are holes.
    ///
    /// * `own`: the batches of the frame if the caller still has them, so that they need no
    ///   decoding.
    pub(crate) fn feed(
        &mut self,
        offset: Offset,
        frame: &Frame,
        own: Option<Vec<Batch>>,
    ) -> Result<Fed, FeedError> {
        debug_assert!(offset >= self.next(), "fed {offset} below {}", self.next());
        let fed = match self.acceptance.valid(offset, frame) {
            Verdict::Counts => Fed::Claimed,
            Verdict::Skip => Fed::Skipped,
            Verdict::Broken(why) => {
                return Err(FeedError::Broken {
                    at: offset,
                    why: why.to_string(),
                });
            }
            Verdict::Apply => Fed::Applied,
        };
        let batches = match (&fed, frame.kind, own) {
            (Fed::Applied, FrameKind::Rows, Some(own)) => own,
            (Fed::Applied, FrameKind::Rows, None) => {
                let payload = payload::decode(&frame.payload)
                    .map_err(|source| FeedError::Payload { at: offset, source })?;
                payload.batches
            }
            _ => Vec::new(),
        };
        let bytes = frame.encoded_len() as u64;
        self.log_bytes_since_cut += bytes;
        self.only_marks_since_cut &= frame.kind == FrameKind::Mark;
        self.unflushed.fetch_add(bytes, Ordering::Relaxed);
        self.apply(offset, batches);
        Ok(fed)
    }

    /// Moves `next` over offsets that hold no frame.
    pub(crate) fn skip_to(&mut self, next: Offset) {
        self.current
            .edit(|version| version.next = version.next.max(next));
    }

    fn apply(&mut self, offset: Offset, batches: Vec<Batch>) {
        let before = self.current.get();
        let seq = before.seq(offset);
        let mut tablets = Arc::clone(&before.tablets);
        let mut parts = Vec::new();
        let mut deletes = Vec::new();
        let mut dropped = Vec::new();
        for batch in batches {
            if let Some(id) = batch.id {
                self.batches.insert(batch.tenant, id, batch.hash, seq);
                let applied = AppliedBatch {
                    tenant: batch.tenant,
                    id,
                    body_hash: batch.hash,
                    seq,
                };
                self.since_cut.push(applied);
            }
            for entry in batch.entries {
                match entry {
                    Entry::Rows { tablet, rows, .. } => {
                        if let Some(spec) = tablets.get(&tablet) {
                            let cut = memtable::parts(rows, &spec.table, seq);
                            parts.extend(
                                cut.into_iter().map(|(window, part)| (tablet, window, part)),
                            );
                        }
                    }
                    Entry::Delete {
                        tablet,
                        filter,
                        time,
                    } => {
                        deletes.push(Delete {
                            tablet,
                            filter,
                            time,
                            seq,
                        });
                    }
                    Entry::CreateTablets(specs) => {
                        let tablets = Arc::make_mut(&mut tablets);
                        specs.into_iter().for_each(|spec| upsert(tablets, spec));
                    }
                    Entry::DropTablets(ids) => {
                        for id in ids {
                            Arc::make_mut(&mut tablets).remove(&id);
                            dropped.push(id);
                        }
                    }
                }
            }
        }
        drop(before);
        let bytes: usize = parts.iter().map(|(_, _, part)| part.bytes).sum();
        self.budget.add(bytes);
        let freed = self.current.edit(|version| {
            version.next = offset + 1;
            version.tablets = tablets;
            for (tablet, window, part) in parts {
                version.active.edit(tablet, |rows| rows.push(window, part));
            }
            if !deletes.is_empty() {
                Arc::make_mut(&mut version.deletes).extend(deletes);
            }
            let mut freed = 0;
            for id in dropped {
                freed += version.active.tablet(id).map_or(0, |rows| rows.bytes());
                version.active.remove(id);
                if version.files.contains_key(&id) {
                    Arc::make_mut(&mut version.files).remove(&id);
                }
            }
            freed
        });
        self.budget.sub(freed);
    }

    /// Freezes all memtables at `next` and says what a manifest there would hold; `None` when nothing but
    /// some marks came since the last cut.
    pub(crate) fn cut(&mut self) -> Option<Cut> {
        if self.only_marks_since_cut && self.log_bytes_since_cut < MARKS_MAX {
            return None;
        }
        self.only_marks_since_cut = true;
        let cur = self.acceptance.cur();
        let floor = Floor {
            term: cur.term,
            writer: cur.writer,
            n: cur.n,
            sealed: cur.sealed,
        };
        let batches = std::mem::take(&mut self.since_cut);
        let log_bytes = std::mem::take(&mut self.log_bytes_since_cut);
        Some(self.current.edit(|version| {
            let until = version.next;
            let rows = std::mem::take(&mut version.active);
            version.frozen.push(Frozen {
                until,
                rows: rows.clone(),
            });
            let tablets = Arc::clone(&version.tablets);
            let deletes = Arc::clone(&version.deletes);
            Cut {
                until,
                floor,
                rows,
                tablets,
                deletes,
                batches,
                log_bytes,
            }
        }))
    }
}

/// Adds or replaces a tablet. All tablets of a table have its newest definition from then on: orders name
/// some of many tablets at a time, and a manifest between two of them must have one.
fn upsert(tablets: &mut BTreeMap<TabletId, Arc<TabletSpec>>, spec: TabletSpec) {
    let mut others = tablets.values().map(|known| &known.table);
    let known = others.find(|known| known.id == spec.table.id).cloned();
    let table = match known {
        Some(known) if known.schema.number > spec.table.schema.number => known,
        Some(known) if *known != *spec.table => {
            let older = |known: &&mut Arc<TabletSpec>| known.table.id == spec.table.id;
            for other in tablets.values_mut().filter(older) {
                Arc::make_mut(other).table = Arc::clone(&spec.table);
            }
            Arc::clone(&spec.table)
        }
        _ => Arc::clone(&spec.table),
    };
    tablets.insert(spec.id, Arc::new(TabletSpec { table, ..spec }));
}
