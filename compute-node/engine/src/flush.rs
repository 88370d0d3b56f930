//! Turns frozen memtables into files and a manifest that covers the log up to their cut.
//!
//! Order, never different: cut at `next` → one file per tablet and segment (more if one would pass
//! 64 MiB) → objects → commit with `flushed` → swap the version → hint to readers of the log →
//! truncate. A failed flush leaves its rows readable and is tried again.
//!
//! Never here: when to flush (shard), the order of rows (merge), the commit protocol.

use std::collections::{BTreeMap, HashSet};
use std::error::Error;
use std::io::{self, ErrorKind};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use auxo_proto::ids::{Seq, TabletId};
use auxo_proto::schema::{Column, ColumnKind, TabletSpec};
use auxo_sst::batch::FieldSet;
use auxo_sst::entry::FileEntry;
use auxo_sst::manifest::{Delete, Manifest, Retired};
use auxo_sst::writer::{FileSpec, SstWriter};
use auxo_sst::{SstError, names};
use bytes::Bytes;
use futures::TryStreamExt;
use object_store::path::Path;
use object_store::{ObjectStore, ObjectStoreExt};
use parking_lot::Mutex;

use crate::committer::{NotCommitted, Own};
use crate::deletes::Deletes;
use crate::memtable::{Piece, Sorted};
use crate::read::{self, RowStream};
use crate::state::Cut;
use crate::version::Version;
use crate::{segment, select};

/// Length past which a file is ended at the next series.
pub(crate) const FILE_BYTES: usize = 64 << 20;

/// Why a flush or compaction did not end.
#[derive(Debug, thiserror::Error)]
pub(crate) enum FlushError {
    #[error(transparent)]
    File(#[from] SstError),
    #[error("object {key}: {source}")]
    Store {
        key: String,
        source: object_store::Error,
    },
    #[error(transparent)]
    NotCommitted(#[from] NotCommitted),
    /// Files of the older claim are nothing that the newer one may commit: they are written again.
    #[error("the leader claimed again while files were written")]
    ClaimedAgain,
}

impl FlushError {
    /// Why files that were written under `own` are not committed, when the leader has this claim now.
    pub(crate) fn of_commit(error: NotCommitted, own: Own, now: Own) -> Self {
        match error {
            NotCommitted::Refused(_) if own.term != now.term => Self::ClaimedAgain,
            error => Self::NotCommitted(error),
        }
    }

    /// Whether trying again will not mend it: a person must look.
    pub(crate) fn stays(&self) -> bool {
        match self {
            Self::File(_) | Self::NotCommitted(NotCommitted::Refused(_)) => true,
            Self::Store { .. } | Self::NotCommitted(_) | Self::ClaimedAgain => false,
        }
    }

    /// Whether the store has no room for a file, as far as it says so.
    pub(crate) fn no_room(&self) -> bool {
        let Self::Store { source, .. } = self else {
            return false;
        };
        let mut cause: Option<&(dyn Error + 'static)> = Some(source);
        while let Some(error) = cause {
            let kind = error.downcast_ref().map(io::Error::kind);
            if let Some(ErrorKind::StorageFull | ErrorKind::QuotaExceeded) = kind {
                return true;
            }
            cause = error.source();
        }
        false
    }
}

/// Keys of objects that are written and not committed, so that nobody deletes them.
///
/// They leave the shard's set when this is dropped; but if it is dropped while a commit is under
/// way they stay there for good, as that manifest may still come to name them.
pub(crate) struct Flight<'a> {
    shard: &'a Mutex<HashSet<String>>,
    own: Mutex<Vec<String>>,
    undecided: AtomicBool,
}

impl<'a> Flight<'a> {
    pub(crate) fn new(shard: &'a Mutex<HashSet<String>>) -> Self {
        Self {
            shard,
            own: Mutex::default(),
            undecided: AtomicBool::new(false),
        }
    }

    fn note(&self, key: &str) {
        self.shard.lock().insert(key.to_owned());
        self.own.lock().push(key.to_owned());
    }

    /// Waits for the commit of a manifest that names the objects.
    pub(crate) async fn until_decided<T>(&self, commit: impl Future<Output = T>) -> T {
        self.undecided.store(true, Ordering::Relaxed);
        let decided = commit.await;
        self.undecided.store(false, Ordering::Relaxed);
        decided
    }
}

impl Drop for Flight<'_> {
    fn drop(&mut self) {
        if *self.undecided.get_mut() {
            return;
        }
        let mut shard = self.shard.lock();
        for key in self.own.get_mut() {
            shard.remove(key.as_str());
        }
    }
}

/// Where files go and under which claim.
#[derive(Clone, Copy)]
pub(crate) struct Target<'a> {
    pub(crate) store: &'a Arc<dyn ObjectStore>,
    pub(crate) shard: auxo_proto::ids::ShardId,
    pub(crate) own: Own,
    pub(crate) ulid: &'a (dyn Fn() -> ulid::Ulid + Send + Sync),
    /// Objects of this flush or compaction.
    pub(crate) flight: &'a Flight<'a>,
}

/// What files of one tablet and segment are written with besides their rows.
#[derive(Clone, Copy)]
pub(crate) struct Output<'a> {
    pub(crate) target: Target<'a>,
    pub(crate) tablet: &'a TabletSpec,
    pub(crate) segment_start: i64,
    pub(crate) segment_ns: u64,
    pub(crate) seq_min: Seq,
    pub(crate) seq_max: Seq,
    pub(crate) is_final: bool,
    /// Length past which a file is ended at the next series.
    pub(crate) cut_bytes: usize,
}

/// Writes the rows of a stream into files of at most about [`FILE_BYTES`], cut between series.
///
/// * returns: their entries; none for an empty stream.
/// * effects: objects are durable when it returns; nothing refers to them yet.
pub(crate) async fn write_files(
    mut rows: RowStream,
    fields: &FieldSet,
    output: &Output<'_>,
) -> Result<Vec<FileEntry>, FlushError> {
    let mut entries = Vec::new();
    let mut open: Option<(SstWriter, Bytes)> = None;
    while let Some(batch) = rows.try_next().await? {
        let mut rest = Some(batch);
        while let Some(batch) = rest.take() {
            let Some(last) = batch.series.last().map(|slice| slice.key.clone()) else {
                break;
            };
            let full = open.take_if(|(writer, _)| writer.bytes_so_far() >= output.cut_bytes);
            let Some((mut writer, written)) = full else {
                let (writer, written) =
                    open.get_or_insert_with(|| (output.writer(fields), Bytes::new()));
                writer.push(&batch)?;
                *written = last;
                break;
            };
            if batch.series[0].key == written {
                let (same, others) = select::split_series(&batch, 1)?;
                writer.push(&same)?;
                if others.rows() == 0 {
                    open = Some((writer, written));
                    break;
                }
                rest = Some(others);
            } else {
                rest = Some(batch);
            }
            entries.push(output.put(writer).await?);
        }
        tokio::task::yield_now().await;
    }
    if let Some((last, _)) = open {
        entries.push(output.put(last).await?);
    }
    Ok(entries)
}

impl Output<'_> {
    fn writer(&self, fields: &FieldSet) -> SstWriter {
        let table = &self.tablet.table;
        let Target {
            shard,
            own: Own { term, writer, .. },
            ulid,
            ..
        } = self.target;
        let ulid = ulid();
        let spec = FileSpec {
            key: names::sst_key(shard, term, writer, table.tenant, table.id, ulid).to_string(),
            tenant: table.tenant,
            table: table.id,
            tablet: self.tablet.id,
            schema: Arc::clone(&table.schema),
            partition: table.partition.columns.clone(),
            merge_mode: table.options.merge_mode,
            segment_start: self.segment_start,
            segment_ns: self.segment_ns,
            seq_min: self.seq_min,
            seq_max: self.seq_max,
            range: self.tablet.range,
            term,
            writer,
            is_final: self.is_final,
        };
        SstWriter::new(spec, Arc::clone(fields))
    }

    async fn put(&self, writer: SstWriter) -> Result<FileEntry, FlushError> {
        let (bytes, entry): (Bytes, FileEntry) = writer.finish()?;
        let path = Path::from(entry.key.as_str());
        self.target.flight.note(&entry.key);
        let store = self.target.store;
        store
            .put(&path, bytes.into())
            .await
            .map_err(|source| FlushError::Store {
                key: entry.key.clone(),
                source,
            })?;
        Ok(entry)
    }
}

/// Fields of a table that at least one piece has, in declared order.
pub(crate) fn fields_of(tablet: &TabletSpec, present: impl Fn(&Column) -> bool) -> FieldSet {
    let columns = tablet.table.schema.columns.iter();
    columns
        .filter(|column| column.kind == ColumnKind::Field && present(column))
        .cloned()
        .collect()
}

/// Writes the files of a cut: one per tablet and segment, with the schema that the cut has. A newer one is
/// of the next cut's manifest: this one would refuse files that have it.
pub(crate) async fn write_cut(
    cut: &Cut,
    version: &Version,
    target: Target<'_>,
) -> Result<Vec<FileEntry>, FlushError> {
    let mut entries = Vec::new();
    for (id, rows) in cut.rows.tablets() {
        let lives = version.tablets.contains_key(&id);
        let Some(tablet) = cut.tablets.get(&id).filter(|_| lives) else {
            continue;
        };
        let mut windows: BTreeMap<i64, Vec<Arc<Piece>>> = BTreeMap::new();
        for (start, pieces) in rows.windows() {
            windows
                .entry(start)
                .or_default()
                .extend(pieces.iter().cloned());
        }
        let segments = segment::of_windows(&tablet.table, version.files(id), windows);
        let deletes = Deletes::of(id, &cut.deletes);
        for segment in segments {
            let sorted: Vec<Sorted> = segment
                .pieces
                .iter()
                .map(|piece| piece.sorted())
                .collect::<Result<_, _>>()?;
            let fields = fields_of(tablet, |column| {
                sorted
                    .iter()
                    .any(|run| run.fields.iter().any(|field| field.id == column.id))
            });
            let mode = tablet.table.options.merge_mode;
            let merged = read::merged_pieces(&segment.pieces, &fields, &deletes, mode);
            let seqs = |pick: fn(&Piece) -> Seq| segment.pieces.iter().map(move |p| pick(p));
            let output = Output {
                target,
                tablet,
                segment_start: segment.start,
                segment_ns: segment.length_ns,
                seq_min: seqs(|piece| piece.seq_min).min().unwrap_or_default(),
                seq_max: seqs(|piece| piece.seq_max).max().unwrap_or_default(),
                is_final: false,
                cut_bytes: FILE_BYTES,
            };
            entries.extend(write_files(merged, &fields, &output).await?);
        }
    }
    Ok(entries)
}

/// The manifest after a flush: everything below the cut is in files.
pub(crate) fn flushed_manifest(
    before: &Manifest,
    cut: &Cut,
    files: Vec<FileEntry>,
    batches: auxo_sst::manifest::BatchTable,
    now_ms: i64,
) -> Manifest {
    let tablets: Vec<TabletSpec> = cut.tablets.values().map(|spec| (**spec).clone()).collect();
    let lives = |id: TabletId| cut.tablets.contains_key(&id);
    let (kept, dropped): (Vec<_>, Vec<_>) = before
        .files
        .iter()
        .cloned()
        .chain(files)
        .partition(|file| lives(file.tablet));
    let mut retired = before.retired.clone();
    retired.extend(dropped.into_iter().map(|file| retire(file, now_ms)));
    let needed = |delete: &&Delete| {
        lives(delete.tablet)
            && kept
                .iter()
                .any(|file| file.tablet == delete.tablet && file.seq_max < delete.seq)
    };
    Manifest {
        flushed: cut.until,
        floor: cut.floor,
        deletes: cut.deletes.iter().filter(needed).cloned().collect(),
        files: kept,
        tablets,
        batches: Arc::new(batches),
        retired,
        ..before.clone()
    }
}

/// A file that leaves the list of live ones.
pub(crate) fn retire(file: FileEntry, at_ms: i64) -> Retired {
    Retired {
        key: file.key,
        length: file.length,
        at_ms,
    }
}
