//! One leadership: the only way in which the model is written.
//!
//! Each txn compares the create revision of the leader's own key with the reign's, so that a
//! deposed leader can change nothing, and the revision of each key that the decision rests on.
//! Writes of one reign are made one after the other, each on a model that has seen the one before.
//!
//! Never here: what is decided.

use std::sync::Arc;
use std::time::Duration;

use auxo_proto::clock::Clock;
use auxo_proto::random::Random;
use parking_lot::Mutex;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::cluster::View;
use crate::keys::{Key, Keys};
use crate::model::Model;
use crate::model::change::{Change, Keep, Write};
use crate::model::check::{Violation, check};
use crate::model::mirror::Mirror;
use crate::model::values::ReignNumber;
use crate::store::{CommitError, Expect, Put, ReadError, Store, Txn};

/// Operations in one txn; etcd's limit is 128.
pub const OPERATIONS_MAX: usize = 120;
/// Bytes in one value.
const VALUE_BYTES_MAX: usize = 1 << 20;
/// Bytes in one txn, below etcd's 1.5 MiB.
const TXN_BYTES_MAX: usize = 5 << 18;
/// How long the lease of ended procedures lives, and for how long new keys are put on it.
const PAST: (Duration, Duration) = (Duration::from_secs(8 * 86_400), Duration::from_secs(86_400));
/// The same for callers' own keys.
const REQUEST: (Duration, Duration) = (Duration::from_secs(7_200), Duration::from_secs(3_600));

/// Why a write did not happen, or may have.
#[derive(Debug, thiserror::Error)]
pub enum WriteError<E> {
    /// The reign is over; nothing more can be written under it. The write may have been made.
    #[error("this meta node no longer leads")]
    Deposed,
    /// Not made; may be tried again.
    #[error("{0}")]
    Unavailable(String),
    /// Not made: etcd, or its limits, do not allow it.
    #[error("{0}")]
    Impossible(String),
    /// Not made: the decision was not to.
    #[error("refused")]
    Refused(E),
}

/// One leadership.
pub struct Reign {
    /// Its number.
    pub number: ReignNumber,
    /// Cancelled when it is over.
    pub over: CancellationToken,
    /// What etcd says.
    pub mirror: Arc<Mirror>,
    /// Wall clock, for times that people read.
    pub clock: Clock,
    /// Dice.
    pub random: Random,
    leader: Key,
    keys: Keys,
    store: Store,
    /// One write at a time: held over the txn and until the mirror has seen it.
    writing: tokio::sync::Mutex<()>,
    past: Mutex<Option<(i64, Instant)>>,
    request: Mutex<Option<(i64, Instant)>>,
}

impl Reign {
    /// The leadership of the campaign with that lease, which is the lowest one in the mirror.
    #[allow(
        clippy::too_many_arguments,
        reason = "each is a different thing, named at the one call"
    )]
    pub(crate) fn new(
        number: ReignNumber,
        lease: i64,
        keys: Keys,
        store: Store,
        mirror: Arc<Mirror>,
        clock: Clock,
        random: Random,
        over: CancellationToken,
    ) -> Self {
        Self {
            number,
            over,
            mirror,
            clock,
            random,
            leader: Key::Leader(lease),
            keys,
            store,
            writing: tokio::sync::Mutex::new(()),
            past: Mutex::new(None),
            request: Mutex::new(None),
        }
    }

    /// Decides on the newest model and writes what was decided; decides again whenever a key it
    /// rests on has changed in the meantime.
    ///
    /// * returns: what `decide` returned beside its change, once the mirror has seen the change; an
    ///   empty change is not written.
    /// * errors: see [`WriteError`]. After `Deposed` the outcome is known only to the next leader.
    /// * effects: durable. Dropping the future may leave the write made or not.
    pub async fn write<T, E>(
        &self,
        mut decide: impl FnMut(&Model) -> Result<(Change, T), E>,
    ) -> Result<T, WriteError<E>> {
        let _one_at_a_time = self.writing.lock().await;
        loop {
            if self.over.is_cancelled() {
                return Err(WriteError::Deposed);
            }
            let leases = self.leases().await.map_err(WriteError::Unavailable)?;
            let (txn, answer) = self
                .mirror
                .read(|model| {
                    let (change, answer) = decide(model)?;
                    Ok((self.txn(&change, model, leases), answer))
                })
                .map_err(WriteError::Refused)?;
            if txn.puts.is_empty() && txn.deletes.is_empty() {
                return Ok(answer);
            }
            check_limits(&txn).map_err(WriteError::Impossible)?;
            match self.store.commit(&txn).await {
                Ok(revision) => {
                    self.seen(revision)
                        .await
                        .map_err(|()| WriteError::Deposed)?;
                    return Ok(answer);
                }
                Err(CommitError::Conflict { revision }) => {
                    self.seen(revision)
                        .await
                        .map_err(|()| WriteError::Deposed)?;
                    let (found, expected) = self
                        .mirror
                        .read(|model| (model.revisions(&self.leader), self.number.revision));
                    if found.is_none_or(|revisions| revisions.create != expected) {
                        tracing::warn!(reign = %self.number, "own leader key is gone");
                        self.over.cancel();
                        return Err(WriteError::Deposed);
                    }
                }
                Err(CommitError::LeaseGone) => {
                    *self.past.lock() = None;
                    *self.request.lock() = None;
                }
                Err(CommitError::Unavailable(error)) => {
                    return Err(WriteError::Unavailable(error));
                }
                Err(CommitError::Refused(error)) => return Err(WriteError::Impossible(error)),
                Err(CommitError::Unknown(error)) => {
                    // Whoever leads next reads the outcome; to go on would be to guess it.
                    tracing::warn!(reign = %self.number, error, "outcome of a write not known");
                    self.over.cancel();
                    return Err(WriteError::Deposed);
                }
            }
        }
    }

    /// Reads everything in etcd, past the mirror, and says what does not hold of it.
    pub async fn check(&self, view: &View) -> Result<Vec<Violation>, ReadError> {
        let (revision, entries) = self.store.list(self.keys.root()).await?;
        let entries = entries.into_iter();
        let entries = entries.map(|mut entry| (std::mem::take(&mut entry.key), entry.into()));
        Ok(check(&self.keys, revision, entries.collect(), view))
    }

    async fn seen(&self, revision: i64) -> Result<(), ()> {
        tokio::select! {
            () = self.mirror.reached(revision) => Ok(()),
            () = self.over.cancelled() => Err(()),
        }
    }

    fn txn(&self, change: &Change, model: &Model, (past, request): (i64, i64)) -> Txn {
        let mut txn = Txn::default();
        let guard = Expect::Created(self.number.revision);
        txn.expects.push((self.keys.path(&self.leader), guard));
        for key in change.compared() {
            let expect = match model.revisions(key) {
                Some(revisions) => Expect::Modified(revisions.modify),
                None => Expect::Absent,
            };
            txn.expects.push((self.keys.path(key), expect));
        }
        for (key, write) in change.writes() {
            let key = self.keys.path(key);
            match write {
                Write::Delete => txn.deletes.push(key),
                Write::Put { value, keep } => txn.puts.push(Put {
                    key,
                    value: value.clone(),
                    lease: match keep {
                        Keep::Always => 0,
                        Keep::Past => past,
                        Keep::Request => request,
                    },
                }),
            }
        }
        txn
    }

    /// The shared leases that new keys go on.
    async fn leases(&self) -> Result<(i64, i64), String> {
        Ok((
            self.shared(&self.past, PAST).await?,
            self.shared(&self.request, REQUEST).await?,
        ))
    }

    async fn shared(
        &self,
        slot: &Mutex<Option<(i64, Instant)>>,
        (ttl, used_for): (Duration, Duration),
    ) -> Result<i64, String> {
        let held = *slot.lock();
        if let Some((lease, until)) = held
            && Instant::now() < until
        {
            return Ok(lease);
        }
        let lease = self
            .store
            .grant(ttl)
            .await
            .map_err(|error| error.to_string())?;
        *slot.lock() = Some((lease.id, Instant::now() + used_for));
        Ok(lease.id)
    }
}

fn check_limits(txn: &Txn) -> Result<(), String> {
    let operations = txn.expects.len().max(txn.puts.len() + txn.deletes.len());
    if operations > OPERATIONS_MAX {
        return Err(format!(
            "a txn of {operations} operations is above the limit of {OPERATIONS_MAX}"
        ));
    }
    let mut bytes = 0;
    for put in &txn.puts {
        if put.value.len() > VALUE_BYTES_MAX {
            return Err(format!(
                "a value of {} bytes is above the limit of {VALUE_BYTES_MAX}",
                put.value.len()
            ));
        }
        bytes += put.key.len() + put.value.len();
    }
    if bytes > TXN_BYTES_MAX {
        return Err(format!(
            "a txn of {bytes} bytes is above the limit of {TXN_BYTES_MAX}"
        ));
    }
    Ok(())
}
