//! The one committer of a shard's manifests: bump first, then one commit at a time.
//!
//! A commit is an edit of the newest manifest this leader knows. Before the first one under a term
//! a bump takes the manifest over (only term, writer and claim change), so that no object, flush,
//! truncation or deletion of the term comes before it.
//!
//! Invariants: M2 (one committer a term), M4 (nothing destructive before the commit is known), M5
//! (the first commit of a term is a bump).
//!
//! Never here: what is in a manifest, or the swap of a version.

use std::sync::Arc;
use std::time::Duration;

use auxo_proto::ids::{ShardId, Term};
use auxo_proto::random::Random;
use auxo_sst::manifest::{Floor, Manifest};
use auxo_sst::manifest_store::{CommitError, ManifestStore};
use auxo_wal_adapters::Offset;
use parking_lot::Mutex;
use tokio::time::Instant;

/// Longest time until one commit is decided; after it the same bytes are tried again.
const COMMIT_TIME: Duration = Duration::from_secs(30);

/// Under which claim this node commits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Own {
    pub(crate) term: Term,
    pub(crate) writer: u64,
    pub(crate) claim: Offset,
}

/// Why nothing was committed.
#[derive(Debug, thiserror::Error)]
pub(crate) enum NotCommitted {
    /// Somebody else commits now: stop leading.
    #[error("shard is led under term {0}")]
    Deposed(Term),
    /// The content breaks a law of manifests, or a manifest cannot be read: a person must look.
    #[error("{0}")]
    Refused(String),
}

/// Commits the manifests of one shard.
pub(crate) struct Committer {
    shard: ShardId,
    store: ManifestStore,
    random: Random,
    own: Mutex<Own>,
    newest: tokio::sync::Mutex<Newest>,
}

struct Newest {
    number: u64,
    manifest: Arc<Manifest>,
    /// Claim the newest manifest was committed under; none before the first.
    under: Option<Own>,
}

impl Committer {
    pub(crate) fn new(
        shard: ShardId,
        store: ManifestStore,
        random: Random,
        newest: Option<(u64, Manifest)>,
        first: Manifest,
        own: Own,
    ) -> Self {
        let (number, manifest) = newest.unwrap_or((0, first));
        let newest = Newest {
            number,
            manifest: Arc::new(manifest),
            under: None,
        };
        Self {
            shard,
            store,
            random,
            own: Mutex::new(own),
            newest: tokio::sync::Mutex::new(newest),
        }
    }

    /// Notes a new claim; the next commit is preceded by a bump.
    pub(crate) fn claimed(&self, own: Own) {
        *self.own.lock() = own;
    }

    pub(crate) fn own(&self) -> Own {
        *self.own.lock()
    }

    /// The newest manifest this leader knows, with its number.
    pub(crate) async fn newest(&self) -> (u64, Arc<Manifest>) {
        let newest = self.newest.lock().await;
        (newest.number, Arc::clone(&newest.manifest))
    }

    /// Takes the manifest over under the own claim, if that was not done yet.
    pub(crate) async fn bump(&self) -> Result<(), NotCommitted> {
        let mut newest = self.newest.lock().await;
        self.bump_locked(&mut newest).await.map(drop)
    }

    /// Commits the edited copy of the newest manifest; `edit` gives `None` if nothing is to change.
    ///
    /// * returns: the number and the content that are newest now.
    pub(crate) async fn commit(
        &self,
        edit: impl FnOnce(&Manifest) -> Option<Manifest>,
    ) -> Result<(u64, Arc<Manifest>), NotCommitted> {
        let mut newest = self.newest.lock().await;
        let own = self.bump_locked(&mut newest).await?;
        if let Some(edited) = edit(&newest.manifest) {
            self.put(&mut newest, edited, own).await?;
        }
        Ok((newest.number, Arc::clone(&newest.manifest)))
    }

    async fn bump_locked(&self, newest: &mut Newest) -> Result<Own, NotCommitted> {
        loop {
            let own = self.own();
            if newest.under == Some(own) {
                return Ok(own);
            }
            let bumped = Manifest {
                claim: own.claim,
                ..Manifest::clone(&newest.manifest)
            };
            self.put(newest, bumped, own).await?;
        }
    }

    async fn put(
        &self,
        newest: &mut Newest,
        content: Manifest,
        own: Own,
    ) -> Result<(), NotCommitted> {
        let Own { term, writer, .. } = own;
        let write_id = self.random.next_u128();
        let content = Manifest {
            term,
            writer,
            write_id,
            ..content
        };
        let before = Arc::clone(&newest.manifest);
        let base = (newest.number > 0).then_some((newest.number, &*before));
        loop {
            let deadline = Instant::now() + COMMIT_TIME;
            match self.store.commit(base, &content, deadline).await {
                Ok(number) => {
                    newest.number = number;
                    newest.manifest = Arc::new(content);
                    newest.under = Some(own);
                    return Ok(());
                }
                Err(error @ CommitError::Unknown { .. }) => {
                    tracing::warn!(shard = %self.shard, %term, %error, "manifest not committed yet");
                }
                Err(CommitError::SteppedDown { term, .. }) => {
                    return Err(NotCommitted::Deposed(term));
                }
                Err(CommitError::Superseded { .. }) => return Err(NotCommitted::Deposed(term)),
                Err(CommitError::Rebase { newer, .. }) => {
                    return Err(NotCommitted::Deposed(newer.term));
                }
                Err(error) => return Err(NotCommitted::Refused(error.to_string())),
            }
        }
    }
}

/// The manifest of a shard that never had one.
pub(crate) fn first_manifest(incarnation: u64) -> Manifest {
    Manifest {
        term: Term::default(),
        writer: 0,
        write_id: 0,
        incarnation,
        base_seq: auxo_proto::ids::Seq(0),
        flushed: 0,
        floor: Floor::default(),
        claim: 0,
        files: Vec::new(),
        tablets: Vec::new(),
        batches: Arc::default(),
        deletes: Vec::new(),
        parents: Vec::new(),
        retired: Vec::new(),
    }
}
