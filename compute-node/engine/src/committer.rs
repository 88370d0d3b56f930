//! The one committer of a shard's manifests: bump first, then one commit at a time.
//!
//! A commit is an edit of the newest manifest this leader knows. Before the first one under a term
//! a bump takes the manifest over (only term, writer and claim change), so that no object, flush,
//! truncation or deletion of the term comes before it. While the leader claims again nothing
//! begins; a commit whose bytes the store already has is finished under the claim it began with.
//!
//! A commit whose future was dropped is of unknown outcome: its bytes are kept, and whoever comes
//! next finishes it first.
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
use auxo_sst::manifest_store::{CommitError, ManifestStore, ReadError};
use auxo_wal_adapters::Offset;
use tokio::sync::watch;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

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
    /// The shard has stopped.
    #[error("shard does not commit any more")]
    Stopped,
    /// The content breaks a law of manifests, or a manifest cannot be read: a person must look.
    #[error("{0}")]
    Refused(String),
}

/// Commits the manifests of one shard.
pub(crate) struct Committer {
    shard: ShardId,
    store: ManifestStore,
    random: Random,
    claim: watch::Sender<Claim>,
    newest: tokio::sync::Mutex<Newest>,
    /// Ends every commit, also the one under way.
    pub(crate) stop: CancellationToken,
}

/// What the leader last said of its claim.
#[derive(Clone, Copy)]
struct Claim {
    own: Own,
    /// A newer one is under way: nothing begins.
    paused: bool,
}

struct Newest {
    number: u64,
    manifest: Arc<Manifest>,
    /// Claim the newest manifest was committed under; none before the first.
    under: Option<Own>,
    /// What was handed to the store as the next manifest and is not decided.
    pending: Option<(Arc<Manifest>, Own)>,
}

impl Committer {
    pub(crate) fn new(
        shard: ShardId,
        store: ManifestStore,
        random: Random,
        newest: Option<(u64, Manifest)>,
        first: Manifest,
        own: Own,
        stop: CancellationToken,
    ) -> Self {
        let (number, manifest) = newest.unwrap_or((0, first));
        let newest = Newest {
            number,
            manifest: Arc::new(manifest),
            under: None,
            pending: None,
        };
        Self {
            shard,
            store,
            random,
            claim: watch::Sender::new(Claim { own, paused: false }),
            newest: tokio::sync::Mutex::new(newest),
            stop,
        }
    }

    /// The leader claims again: no commit begins until it has.
    pub(crate) fn pause(&self) {
        self.claim.send_modify(|claim| claim.paused = true);
    }

    /// Notes a new claim that counts; the next commit is preceded by a bump.
    pub(crate) fn claimed(&self, own: Own) {
        self.claim.send_replace(Claim { own, paused: false });
    }

    pub(crate) fn own(&self) -> Own {
        self.claim.borrow().own
    }

    /// The term of the newest manifest in the store, whoever committed it.
    pub(crate) async fn stored_term(&self) -> Result<Option<Term>, ReadError> {
        let newest = self.store.newest().await?;
        Ok(newest.map(|(_, manifest)| manifest.term))
    }

    /// Waits for the commit under way, and lets none begin afterwards.
    pub(crate) async fn finish(&self) {
        let _none_under_way = self.newest.lock().await;
        self.stop.cancel();
    }

    /// The newest manifest this leader knows, with its number.
    pub(crate) async fn newest(&self) -> (u64, Arc<Manifest>) {
        let newest = self.newest.lock().await;
        (newest.number, Arc::clone(&newest.manifest))
    }

    /// Takes the manifest over under the own claim, if that was not done yet.
    ///
    /// * returns: that claim. Objects made now bear its term, also if another follows.
    pub(crate) async fn bump(&self) -> Result<Own, NotCommitted> {
        let mut newest = self.newest.lock().await;
        self.bump_locked(&mut newest).await
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
        self.land(newest).await?;
        loop {
            let own = self.counting().await?;
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

    /// The own claim, once it counts.
    async fn counting(&self) -> Result<Own, NotCommitted> {
        let mut claims = self.claim.subscribe();
        tokio::select! {
            biased;
            () = self.stop.cancelled() => Err(NotCommitted::Stopped),
            claim = claims.wait_for(|claim| !claim.paused) => match claim {
                Ok(claim) => Ok(claim.own),
                Err(_) => Err(NotCommitted::Stopped),
            },
        }
    }

    async fn put(
        &self,
        newest: &mut Newest,
        content: Manifest,
        own: Own,
    ) -> Result<(), NotCommitted> {
        let content = Manifest {
            term: own.term,
            writer: own.writer,
            write_id: self.random.next_u128(),
            ..content
        };
        newest.pending = Some((Arc::new(content), own));
        self.land(newest).await
    }

    /// Hands the pending manifest to the store until its fate is known.
    async fn land(&self, newest: &mut Newest) -> Result<(), NotCommitted> {
        let Some((content, own)) = newest.pending.clone() else {
            return Ok(());
        };
        let term = own.term;
        let before = Arc::clone(&newest.manifest);
        let base = (newest.number > 0).then_some((newest.number, &*before));
        loop {
            let deadline = Instant::now() + COMMIT_TIME;
            let committed = tokio::select! {
                biased;
                () = self.stop.cancelled() => return Err(NotCommitted::Stopped),
                committed = self.store.commit(base, &content, deadline) => committed,
            };
            let failed = match committed {
                Ok(number) => {
                    *newest = Newest {
                        number,
                        manifest: content,
                        under: Some(own),
                        pending: None,
                    };
                    return Ok(());
                }
                Err(error @ CommitError::Unknown { .. }) => {
                    tracing::warn!(shard = %self.shard, %term, %error, "manifest not committed yet");
                    continue;
                }
                Err(CommitError::SteppedDown { term, .. }) => NotCommitted::Deposed(term),
                Err(CommitError::Superseded { .. }) => NotCommitted::Deposed(term),
                Err(CommitError::Rebase { newer, .. }) => NotCommitted::Deposed(newer.term),
                Err(error) => NotCommitted::Refused(error.to_string()),
            };
            newest.pending = None;
            return Err(failed);
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
