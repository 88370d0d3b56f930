//! Opening a shard as its leader: TAKEOVER.
//!
//! 1. Store the next term under the epoch on the own disk; draw a writer number.
//! 2. Read the newest manifest; one of a higher term means somebody else leads.
//! 3. Make the region if it is a new shard, else see that the log reaches as far as the manifest knows it;
//!    append the claim.
//! 4. Feed the log from the manifest's `flushed` to VALID until the own claim counts. If the log was
//!    cut above that meanwhile, begin again from the manifest that allowed the cut.
//! 5. Take the manifest over (bump). If another committer came first its manifest is newer: again
//!    from 4.
//! 6. Serve.
//!
//! The bump comes before serving, unlike in the general protocol: the manifest was just read from
//! the same store, so it costs one more round trip, and what serves has then no way back to 4.
//!
//! Never here: running shards.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64};
use std::time::Duration;

use auxo_proto::ids::{ShardId, Term};
use auxo_sst::manifest::Manifest;
use auxo_sst::manifest_store::ManifestStore;
use auxo_sst::names;
use auxo_wal_adapters::{Frame, Offset, Placed, Region, RegionId, WalError};
use tokio::sync::{Notify, mpsc, watch};
use tokio::time::Instant;

use crate::claim::{self, ClaimError, Identity};
use crate::committer::{self, Committer, NotCommitted, Own};
use crate::leader::{Ended, Leader};
use crate::shard::{Parts, Shard};
use crate::state::State;
use crate::traffic::Traffic;
use crate::version::Current;
use crate::{Engine, batches::Batches};

/// Longest time until the claim counts.
const OPEN_TIME: Duration = Duration::from_secs(30);

/// Longest time for which the end of a log whose end is not linear may be an older one.
const END_LAGS: Duration = Duration::from_secs(2);

/// Requests that may wait for a shard's appending task.
const QUEUE: usize = 1_024;

/// Which shard to lead, under which epoch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OpenLeader {
    /// The shard.
    pub shard: ShardId,
    /// Incarnation of its region, drawn by the procedure that made the shard.
    pub incarnation: u64,
    /// Number of the leadership, given by meta.
    pub epoch: u64,
}

/// Why a shard was not opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// It is led under a higher term.
    #[error("shard is led under term {0}")]
    NotLeader(Term),
    /// The epoch was used by a node whose disk is lost: meta must give a new one.
    #[error("epoch {0} was used before, and its last claim is not known here")]
    EpochUsed(u64),
    /// The manifest belongs to another incarnation of the shard.
    #[error("manifest is of incarnation {found:x}, ordered was {ordered:x}")]
    Foreign {
        /// In the manifest.
        found: u64,
        /// In the order.
        ordered: u64,
    },
    /// The log, the store or the disk did not answer; try again.
    #[error("{0}")]
    Unavailable(String),
    /// The log, a manifest or the stored term is damaged: a person must look.
    #[error("shard is parked: {0}")]
    Parked(String),
}

/// A claim that counted, and what the log says up to it.
struct Claimed {
    state: State,
    unflushed: Arc<AtomicU64>,
    newest: Option<(u64, Manifest)>,
    claim: Offset,
}

impl Engine {
    /// Leads a shard. Opening an open shard under the same epoch changes nothing.
    ///
    /// * returns: once it is claimed, replayed and serving.
    /// * effects: what parks it is remembered until it is opened, see [`Engine::parked`].
    pub async fn open(&self, order: OpenLeader) -> Result<Shard, OpenError> {
        let shard = order.shard;
        let opened = self.try_open(order).await;
        match &opened {
            Err(OpenError::Parked(why)) => {
                self.0.parked.write().insert(shard, why.clone());
            }
            _ => {
                self.0.parked.write().remove(&shard);
            }
        }
        opened
    }

    async fn try_open(&self, order: OpenLeader) -> Result<Shard, OpenError> {
        let _one_at_a_time = self.0.opening.lock().await;
        if let Some(open) = self.shard(order.shard) {
            let same = open.parts.committer.own().term.epoch == order.epoch;
            if same && open.parts.ended.borrow().is_none() {
                return Ok(open);
            }
            open.parts.stop.cancel();
            let mut ended = open.parts.ended.subscribe();
            let ended = tokio::time::timeout(OPEN_TIME, ended.wait_for(Option::is_some)).await;
            if ended.is_err() {
                let still = "the shard's last leadership on this node has not ended yet";
                return Err(OpenError::Unavailable(still.into()));
            }
        }
        let began = Instant::now();
        let manifests =
            ManifestStore::new(Arc::clone(&self.0.store), names::shard_folder(order.shard));
        let newest = read_newest(order.shard, &manifests).await?;
        let term = self.next_term(&order, newest.as_ref().map(|(_, manifest)| manifest.term))?;
        let writer = self.0.random.next_u64();
        let region = RegionId {
            shard: order.shard.0,
            incarnation: order.incarnation,
        };
        let id = Identity {
            shard: order.shard,
            region,
            terms: self.0.terms.clone(),
            random: self.0.random.clone(),
        };
        if newest.is_none() {
            self.0.wal.create(region).await.map_err(log_error)?;
        }
        let region = self.0.wal.open(region).await.map_err(log_error)?;
        if let Some((_, manifest)) = &newest
            && manifest.incarnation == order.incarnation
        {
            check_end(order.shard, &region, manifest).await?;
        }
        let deadline = Instant::now() + OPEN_TIME;
        let claim_frame = claim::frame(&id, term, writer, 0);
        let placed = claim::append(&region, &claim_frame, deadline)
            .await
            .map_err(claim_error)?;
        loop {
            let claimed = self
                .replay(&order, &manifests, &region, &claim_frame, placed, deadline)
                .await?;
            let own = Own {
                term,
                writer,
                claim: claimed.claim,
            };
            let first = committer::first_manifest(order.incarnation);
            let committer = Committer::new(
                order.shard,
                manifests.clone(),
                self.0.random.clone(),
                claimed.newest.clone(),
                first,
                own,
                self.0.stop.child_token(),
            );
            match committer.bump().await {
                Ok(_) => {}
                Err(NotCommitted::Deposed(other)) if other < term => continue,
                Err(NotCommitted::Deposed(other)) => return Err(OpenError::NotLeader(other)),
                Err(NotCommitted::Refused(why)) => return Err(OpenError::Parked(why)),
                Err(error @ NotCommitted::Stopped) => {
                    return Err(OpenError::Unavailable(error.to_string()));
                }
            }
            let (number, manifest) = committer.newest().await;
            claimed
                .state
                .current
                .edit(|version| version.manifest = number);
            let shard = self.serve(id, region, claimed, committer, (term, writer), &manifest);
            let next = shard.parts.current.get().next;
            let ms = began.elapsed().as_millis() as u64;
            tracing::info!(shard = %order.shard, %term, next, ms, "shard opened as leader");
            return Ok(shard);
        }
    }

    /// The term to claim under, stored before it is used.
    fn next_term(&self, order: &OpenLeader, manifest: Option<Term>) -> Result<Term, OpenError> {
        let damaged = |error: std::io::Error| OpenError::Parked(error.to_string());
        let stored = self.0.terms.read(order.shard).map_err(damaged)?;
        let highest = stored.max(manifest);
        let term = match (stored, highest) {
            (_, Some(highest)) if highest.epoch > order.epoch => {
                return Err(OpenError::NotLeader(highest));
            }
            (Some(stored), Some(highest)) if stored.epoch == order.epoch && stored == highest => {
                Term {
                    epoch: order.epoch,
                    inc: stored.inc + 1,
                }
            }
            (_, Some(highest)) if highest.epoch == order.epoch => {
                return Err(OpenError::EpochUsed(order.epoch));
            }
            _ => Term {
                epoch: order.epoch,
                inc: 0,
            },
        };
        self.0.terms.write(order.shard, term).map_err(damaged)?;
        Ok(term)
    }

    async fn replay(
        &self,
        order: &OpenLeader,
        manifests: &ManifestStore,
        region: &Arc<dyn Region>,
        claim: &Frame,
        placed: Placed,
        deadline: Instant,
    ) -> Result<Claimed, OpenError> {
        let term = claim.term;
        loop {
            let newest = read_newest(order.shard, manifests).await?;
            let first = committer::first_manifest(order.incarnation);
            let (number, manifest) = newest
                .as_ref()
                .map_or((0, &first), |(number, manifest)| (*number, manifest));
            if manifest.incarnation != order.incarnation {
                let (found, ordered) = (manifest.incarnation, order.incarnation);
                return Err(OpenError::Foreign { found, ordered });
            }
            // Such a claim would never be come across.
            if let Placed::At(at) = placed
                && (number > 0 && at <= manifest.claim || at < manifest.flushed)
            {
                return Err(match manifest.term > term {
                    true => OpenError::NotLeader(manifest.term),
                    false => OpenError::Parked(format!(
                        "the log of shard {} ended at {at}, but the manifest knows it up to {} and a claim at {}",
                        order.shard, manifest.flushed, manifest.claim
                    )),
                });
            }
            let unflushed = Arc::new(AtomicU64::new(0));
            let budget = self.0.budget.clone();
            let mut state = State::of_manifest(number, manifest, budget, Arc::clone(&unflushed));
            match claim::replay(region, &mut state, claim, placed, deadline).await {
                Ok(claim) if number > 0 && claim <= manifest.claim || claim < manifest.flushed => {
                    return Err(OpenError::Parked(format!(
                        "claim of shard {} counted at {claim}, but the manifest knows the log up to {} and a claim at {}",
                        order.shard, manifest.flushed, manifest.claim
                    )));
                }
                Ok(claim) => {
                    return Ok(Claimed {
                        state,
                        unflushed,
                        newest,
                        claim,
                    });
                }
                Err(ClaimError::OutOfRange { start }) => {
                    tracing::info!(shard = %order.shard, start, "log was cut, reading the manifest again");
                    let seen = read_newest(order.shard, manifests).await?;
                    let same = seen.map(|(number, _)| number).unwrap_or(0) == number;
                    if same && Instant::now() > deadline {
                        return Err(OpenError::Parked(format!(
                            "log begins at {start}, above the manifest's {}",
                            manifest.flushed
                        )));
                    }
                    tokio::time::sleep(claim::PAUSE).await;
                }
                Err(error) => return Err(claim_error(error)),
            }
        }
    }

    fn serve(
        &self,
        id: Identity,
        region: Arc<dyn Region>,
        claimed: Claimed,
        committer: Committer,
        (term, writer): (Term, u64),
        manifest: &Manifest,
    ) -> Shard {
        let (commands, queue) = mpsc::channel(QUEUE);
        let stop = committer.stop.clone();
        let current: Arc<Current> = Arc::clone(&claimed.state.current);
        let (ended, _) = watch::channel(None);
        let shard_id = id.shard;
        let parts = Arc::new(Parts {
            shard: shard_id,
            current,
            region,
            committer,
            store: Arc::clone(&self.0.store),
            files: self.0.files.clone(),
            commands,
            unflushed: claimed.unflushed,
            budget: self.0.budget.clone(),
            clock: self.0.clock.clone(),
            random: self.0.random.clone(),
            settings: Arc::clone(&self.0.settings),
            stop: stop.clone(),
            flush_wanted: Notify::new(),
            applied: Notify::new(),
            flushed_batches: tokio::sync::Mutex::new(Batches::of_manifest(&manifest.batches)),
            cuts: parking_lot::Mutex::default(),
            flushing: tokio::sync::Mutex::default(),
            in_flight: parking_lot::Mutex::default(),
            compacted: AtomicU64::new(0),
            traffic: Traffic::default(),
            flush_refused: parking_lot::Mutex::default(),
            store_full: AtomicBool::new(false),
            ended,
        });
        let leader = Leader::new(id, Arc::clone(&parts), claimed.state, (term, writer), queue);
        let shard = Shard {
            parts: Arc::clone(&parts),
        };
        let ending = Arc::clone(&parts);
        self.0.tasks.spawn(async move {
            let ended = leader.run(stop).await;
            match &ended {
                Ended::Closed => tracing::info!(shard = %shard_id, "shard closed"),
                Ended::Fenced(by) => tracing::warn!(shard = %shard_id, %by, "shard fenced"),
                Ended::Parked(why) => tracing::error!(shard = %shard_id, why, "shard parked"),
            }
            ending.applied.notify_waiters();
            ending.ended.send_replace(Some(ended));
        });
        self.0.tasks.spawn(Arc::clone(&parts).keep_flushing());
        self.0.tasks.spawn(Arc::clone(&parts).keep_joining());
        self.0.tasks.spawn(Arc::clone(&parts).keep_compacting());
        self.0.shards.write().insert(shard_id, shard.clone());
        shard
    }
}

async fn read_newest(
    shard: ShardId,
    manifests: &ManifestStore,
) -> Result<Option<(u64, Manifest)>, OpenError> {
    use auxo_sst::manifest_store::ReadError;
    manifests.newest().await.map_err(|error| match error {
        ReadError::Store(error) => OpenError::Unavailable(error.to_string()),
        error @ ReadError::Unreadable { .. } => {
            OpenError::Parked(format!("shard {shard}: {error}"))
        }
    })
}

/// Makes sure that the log reaches as far as the manifest knows it, before anything is added to it: the claims
/// of one attempt after another would fill up what is missing, and hide it.
async fn check_end(
    shard: ShardId,
    region: &Arc<dyn Region>,
    manifest: &Manifest,
) -> Result<(), OpenError> {
    let known = manifest.flushed.max(manifest.claim + 1);
    let until = Instant::now() + END_LAGS;
    loop {
        let end = region.end().await.map_err(log_error)?.offset;
        if end >= known {
            return Ok(());
        }
        if region.end_is_linear() || Instant::now() > until {
            return Err(OpenError::Parked(format!(
                "the log of shard {shard} ends at {end}, but the manifest knows it up to {} and a claim at {}",
                manifest.flushed, manifest.claim
            )));
        }
        tokio::time::sleep(claim::PAUSE).await;
    }
}

fn log_error(error: WalError) -> OpenError {
    match error.parks() {
        true => OpenError::Parked(error.to_string()),
        false => OpenError::Unavailable(error.to_string()),
    }
}

fn claim_error(error: ClaimError) -> OpenError {
    match error {
        ClaimError::Beaten(term) => OpenError::NotLeader(term),
        ClaimError::Log(error) => log_error(error),
        ClaimError::OutOfRange { .. } => OpenError::Unavailable(error.to_string()),
        ClaimError::Feed(error) => OpenError::Parked(error.to_string()),
    }
}
