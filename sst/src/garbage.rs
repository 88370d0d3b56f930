//! Which sorted files nobody will ever read again, and their removal.
//!
//! ```text
//! 1 LIST the shard's files
//! 2 take the set of files in flight: named for a put and not settled by a commit
//! 3 read the newest manifest, and all others that are kept
//! 4 delete what was listed in 1, except
//!     files of a term above the manifest's, or of anything but this shard
//!     files in flight, files of any manifest read, files retired less than 1 h ago
//! ```
//! The order is the safety. A file is added to the set of 2 before its put and leaves it only when
//! its commit is settled (also when that ended in "unknown": until then it stays). So a file seen
//! in 1 was in flight at 2, or its commit came before 2 and 3 sees it. A set taken before 1 or
//! after 3 would miss one or the other.
//!
//! Files of a lower term than the newest manifest's are dead without an age: their writer can
//! commit nothing any more. Files of the own term are judged by the set in flight, therefore only
//! the leader whose term the newest manifest carries deletes anything; a leader that was deposed,
//! or has not committed its bump yet, finds nothing. One that is deposed between 3 and 4 deletes
//! only what no later manifest can name: names are never used twice, and a successor's files carry
//! its own term. The hour only delays; it spares readers a retry.
//!
//! Never here: manifests (`manifest_store` trims them), a parent's files (found with the manifests
//! of all its descendants), a decision by age alone.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::sync::Arc;

use auxo_proto::ids::{ShardId, Term};
use futures::{StreamExt, TryStreamExt};
use object_store::path::Path;
use object_store::{Error, ObjectStore};

use crate::manifest::{Manifest, Retired};
use crate::manifest_store::{ManifestStore, ReadError};
use crate::names;

#[cfg(test)]
mod tests;

/// Time that a retired file stays for those who may still read it, in milliseconds.
pub const RETIRED_MS: i64 = 3_600_000;

/// An object below the shard's folder of files.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Listed {
    /// Its key below the store's prefix.
    pub key: String,
    /// Its length in bytes.
    pub length: u64,
}

/// What a decision about listed files rests on.
#[derive(Clone, Copy, Debug)]
pub struct Known<'a> {
    /// Shard whose files may go.
    pub shard: ShardId,
    /// Term of the leader that asks.
    pub own_term: Term,
    /// Term of the newest manifest.
    pub newest_term: Term,
    /// Keys of all files of all manifests that are kept, read after the LIST.
    pub referenced: &'a HashSet<&'a str>,
    /// Keys named for a put and not settled, taken after the LIST and before the manifests.
    pub in_flight: &'a HashSet<String>,
    /// Retired objects of the newest manifest.
    pub retired: &'a [Retired],
    /// Wall time in milliseconds since 1970.
    pub now_ms: i64,
}

/// Those of the listed objects that may be deleted, in the order of the list.
///
/// * shape: none at all unless `own_term` is the newest manifest's.
pub fn deletable<'a>(listed: &'a [Listed], known: &Known<'_>) -> Vec<&'a Listed> {
    if known.own_term != known.newest_term {
        return Vec::new();
    }
    let recent: HashSet<&str> = known
        .retired
        .iter()
        .filter(|object| !rested(object, known.now_ms))
        .map(|object| object.key.as_str())
        .collect();
    let is_dead = |object: &&Listed| {
        let key = object.key.as_str();
        let origin = names::sst_origin(key);
        origin.is_some_and(|origin| origin.shard == known.shard && origin.term <= known.newest_term)
            && !known.in_flight.contains(key)
            && !known.referenced.contains(key)
            && !recent.contains(key)
    };
    listed.iter().filter(is_dead).collect()
}

fn rested(object: &Retired, now_ms: i64) -> bool {
    object.at_ms.saturating_add(RETIRED_MS) <= now_ms
}

/// What a look at a shard's files found.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Garbage {
    /// Objects that may be deleted, now or whenever: they stay dead.
    pub objects: Vec<Listed>,
    /// Keys that may leave `retired` with the next commit: rested, and not in the store any more.
    pub settled: Vec<String>,
}

impl Garbage {
    /// Length of all objects in bytes.
    pub fn bytes(&self) -> u64 {
        let sum = |sum: u64, object: &Listed| sum.saturating_add(object.length);
        self.objects.iter().fold(0, sum)
    }
}

/// A look at a shard's files failed; nothing was deleted by it.
#[derive(Debug, thiserror::Error)]
pub enum GarbageError {
    /// The store did not answer, or a manifest cannot be used.
    #[error(transparent)]
    Read(#[from] ReadError),
    /// The newest manifest is of another term: this leader is deposed, or has not committed yet.
    #[error("the newest manifest is of term {newest}, not of the own term {own}")]
    NotLeader {
        /// Term of the newest manifest; the lowest one when there is no manifest.
        newest: Term,
        /// Term that asked.
        own: Term,
    },
}

/// Finds and removes one shard's garbage.
///
/// Manifests never change, so each is read once. Of the files only the last manifest that names
/// each is remembered: a file enters the chain once and leaves it once, so it is in use as long as
/// that number is not below the oldest manifest kept.
#[derive(Debug)]
pub struct Sweeper {
    store: Arc<dyn ObjectStore>,
    manifests: ManifestStore,
    shard: ShardId,
    read: BTreeSet<u64>,
    last_named: HashMap<String, u64>,
}

impl Sweeper {
    /// A sweeper of `shard`, whose manifests are `manifests` in the same `store`.
    pub fn new(store: Arc<dyn ObjectStore>, manifests: ManifestStore, shard: ShardId) -> Self {
        Self {
            store,
            manifests,
            shard,
            read: BTreeSet::new(),
            last_named: HashMap::new(),
        }
    }

    /// Finds what may be deleted.
    ///
    /// `in_flight` is asked once, between the LIST and the manifests; see the head of this file
    /// for what it must hold.
    ///
    /// * errors: [`GarbageError`]; safe to retry unless `NotLeader`.
    /// * effects: a LIST of files, a LIST of manifests and a GET for each not read before; nothing
    ///   is changed. Cancel-safe.
    pub async fn find(
        &mut self,
        own: Term,
        in_flight: impl FnOnce() -> HashSet<String>,
        now_ms: i64,
    ) -> Result<Garbage, GarbageError> {
        let listed = self.list().await.map_err(ReadError::from)?;
        let in_flight = in_flight();
        let newest = match self.manifests.newest().await? {
            Some((number, newest)) if newest.term == own => {
                self.read_kept(number, &newest).await?;
                newest
            }
            other => {
                let newest = other.map_or(Term::default(), |(_, newest)| newest.term);
                return Err(GarbageError::NotLeader { newest, own });
            }
        };
        let referenced = self.last_named.keys().map(String::as_str).collect();
        let known = Known {
            shard: self.shard,
            own_term: own,
            newest_term: newest.term,
            referenced: &referenced,
            in_flight: &in_flight,
            retired: &newest.retired,
            now_ms,
        };
        let objects = deletable(&listed, &known).into_iter().cloned().collect();
        let there: HashSet<&str> = listed.iter().map(|object| object.key.as_str()).collect();
        let settled = newest
            .retired
            .iter()
            .filter(|object| rested(object, now_ms) && !there.contains(object.key.as_str()))
            .map(|object| object.key.clone())
            .collect();
        Ok(Garbage { objects, settled })
    }

    /// Deletes what [`Sweeper::find`] found; what is gone already counts as deleted.
    ///
    /// * returns: how many objects are gone.
    /// * errors: the first one of the store; the rest is found again next time.
    pub async fn delete(&self, garbage: &Garbage) -> Result<usize, Error> {
        let keys: Vec<Result<Path, Error>> = garbage
            .objects
            .iter()
            .map(|object| Path::parse(&object.key).map_err(Error::from))
            .collect();
        let mut answers = self
            .store
            .delete_stream(futures::stream::iter(keys).boxed());
        let mut deleted = 0;
        while let Some(answer) = answers.next().await {
            match answer {
                Ok(_) | Err(Error::NotFound { .. }) => deleted += 1,
                Err(error) => return Err(error),
            }
        }
        Ok(deleted)
    }

    async fn list(&self) -> Result<Vec<Listed>, Error> {
        let folder = names::sst_folder(self.shard);
        self.store
            .list(Some(&folder))
            .map_ok(|object| Listed {
                key: object.location.to_string(),
                length: object.size,
            })
            .try_collect()
            .await
    }

    /// Brings what is remembered up to all manifests that exist, the newest among them.
    async fn read_kept(&mut self, newest: u64, manifest: &Manifest) -> Result<(), ReadError> {
        let listed = self.manifests.numbers(None).await?;
        let kept: BTreeSet<u64> = listed.into_iter().chain([newest]).collect();
        self.read.retain(|number| kept.contains(number));
        self.remember(newest, manifest);
        for number in &kept {
            if self.read.contains(number) {
                continue;
            }
            // One that is not there was trimmed since the LIST: nobody needs it.
            if let Some(manifest) = self.manifests.read(*number).await? {
                self.remember(*number, &manifest);
            }
        }
        let oldest = kept.first().copied().unwrap_or(newest);
        self.last_named.retain(|_, number| *number >= oldest);
        Ok(())
    }

    fn remember(&mut self, number: u64, manifest: &Manifest) {
        for file in &manifest.files {
            match self.last_named.get_mut(&file.key) {
                Some(last) => *last = number.max(*last),
                None => drop(self.last_named.insert(file.key.clone(), number)),
            }
        }
        self.read.insert(number);
    }
}
