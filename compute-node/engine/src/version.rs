//! What a shard is at one moment: files, deletes, memtables and the offsets they stand for.
//!
//! A version never changes. Applying a record, a flush, a compaction and the making of a run each
//! put a new one in its place; whoever holds the `Arc` of an older one goes on reading it whole.
//!
//! Never here: who may change it (leader, committer, run maker), or how it is read.

use std::collections::BTreeMap;
use std::sync::Arc;

use auxo_proto::ids::{Seq, TabletId};
use auxo_proto::schema::TabletSpec;
use auxo_sst::entry::FileEntry;
use auxo_sst::manifest::{Delete, Manifest};
use auxo_wal_adapters::Offset;
use parking_lot::RwLock;

use crate::budget::MemtableBudget;
use crate::memtable::Memtables;

/// Live files of a shard by tablet.
pub type Files = BTreeMap<TabletId, Vec<Arc<FileEntry>>>;

/// Memtables that a flush is turning into files.
#[derive(Clone, Debug)]
pub struct Frozen {
    /// First offset whose rows they do not hold.
    pub until: Offset,
    /// The rows.
    pub rows: Memtables,
}

/// A shard at one moment.
#[derive(Clone, Debug, Default)]
pub struct Version {
    /// Number of the manifest the files come from; 0 before the first.
    pub manifest: u64,
    /// What is added to an offset to make a sequence.
    pub base_seq: Seq,
    /// First offset that the files do not cover.
    pub flushed: Offset,
    /// First offset that is not applied.
    pub next: Offset,
    /// Tablets of the shard.
    pub tablets: Arc<BTreeMap<TabletId, Arc<TabletSpec>>>,
    /// Live files.
    pub files: Arc<Files>,
    /// Deletes that an older source may still need.
    pub deletes: Arc<Vec<Delete>>,
    /// Memtables being flushed, oldest first.
    pub frozen: Vec<Frozen>,
    /// Memtables that take new rows.
    pub active: Memtables,
}

impl Version {
    /// The version of a manifest with nothing in memory.
    pub fn of_manifest(number: u64, manifest: &Manifest) -> Self {
        Self {
            manifest: number,
            base_seq: manifest.base_seq,
            flushed: manifest.flushed,
            next: manifest.flushed,
            tablets: Arc::new(
                manifest
                    .tablets
                    .iter()
                    .map(|spec| (spec.id, Arc::new(spec.clone())))
                    .collect(),
            ),
            files: Arc::new(files_of(manifest)),
            deletes: Arc::new(manifest.deletes.clone()),
            frozen: Vec::new(),
            active: Memtables::default(),
        }
    }

    /// Sequence of the rows of the record at that offset.
    pub fn seq(&self, offset: Offset) -> Seq {
        Seq(self.base_seq.0 + offset)
    }

    /// Live files of a tablet.
    pub fn files(&self, tablet: TabletId) -> &[Arc<FileEntry>] {
        self.files.get(&tablet).map_or(&[], Vec::as_slice)
    }

    /// Sequences of the deletes that hit a tablet.
    pub fn barriers(&self, tablet: TabletId) -> Vec<Seq> {
        let hits = self.deletes.iter().filter(|delete| delete.tablet == tablet);
        hits.map(|delete| delete.seq).collect()
    }

    /// Takes a committed manifest over: its files, and no more the rows that they hold. One of a
    /// lower number changes nothing.
    ///
    /// Whoever installs it, flush or compaction, it may hold what another has just committed; so
    /// what leaves memory is what the manifest says, never what the caller has done.
    ///
    /// * returns: bytes of memtables that left.
    pub(crate) fn install(&mut self, number: u64, manifest: &Manifest) -> usize {
        if number <= self.manifest {
            return 0;
        }
        self.manifest = number;
        self.flushed = manifest.flushed;
        let in_files = |frozen: &mut Frozen| frozen.until <= manifest.flushed;
        let left = self.frozen.extract_if(.., in_files);
        let freed = left.map(|frozen| frozen.rows.bytes()).sum();
        let flushed = self.seq(manifest.flushed);
        let later = self.deletes.iter().filter(|delete| delete.seq >= flushed);
        let deletes = manifest.deletes.iter().chain(later).cloned().collect();
        self.deletes = Arc::new(deletes);
        let mut files = files_of(manifest);
        files.retain(|tablet, _| self.tablets.contains_key(tablet));
        self.files = Arc::new(files);
        freed
    }

    /// Bytes of all memtables, frozen ones included.
    pub fn memory_bytes(&self) -> usize {
        let frozen: usize = self.frozen.iter().map(|frozen| frozen.rows.bytes()).sum();
        frozen + self.active.bytes()
    }
}

/// Live files of a manifest by tablet.
pub fn files_of(manifest: &Manifest) -> Files {
    let mut files = Files::new();
    for entry in &manifest.files {
        files
            .entry(entry.tablet)
            .or_default()
            .push(Arc::new(entry.clone()));
    }
    files
}

/// The place where the newest version of a shard hangs.
///
/// Whoever edits it counts the bytes of memtables in the node's budget; what is left when it is
/// dropped is taken off then.
#[derive(Debug)]
pub struct Current {
    newest: RwLock<Arc<Version>>,
    budget: MemtableBudget,
}

impl Drop for Current {
    fn drop(&mut self) {
        self.budget.sub(self.newest.get_mut().memory_bytes());
    }
}

impl Current {
    /// Starts with the given version, which has nothing in memory.
    pub fn new(version: Version, budget: MemtableBudget) -> Self {
        Self {
            newest: RwLock::new(Arc::new(version)),
            budget,
        }
    }

    /// The newest version: one `Arc` clone.
    pub fn get(&self) -> Arc<Version> {
        Arc::clone(&self.newest.read())
    }

    /// Puts a changed copy in place of the newest version. `edit` must be quick: readers wait.
    pub fn edit<R>(&self, edit: impl FnOnce(&mut Version) -> R) -> R {
        let mut current = self.newest.write();
        edit(Arc::make_mut(&mut current))
    }
}
