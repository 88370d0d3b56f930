//! Campaigns for the leadership: an etcd lease, and a key whose create revision ranks it.
//!
//! 1. Ask for a lease of 2 s and write `leader/{lease}` on it.
//! 2. Lead once no campaign has a lower create revision; from then on none ever will.
//! 3. Stop at the lease's own deadline, when the key is gone, or when asked to; give the lease back.
//!
//! A process that starts again removes the campaign of its own earlier life, which nobody keeps
//! alive; the guard of each txn makes that safe even if two processes bear one name.
//!
//! Never here: what a leader does.

use std::sync::Arc;
use std::time::Duration;

use auxo_proto::clock::Clock;
use auxo_proto::random::Random;
use tokio_util::sync::CancellationToken;

use crate::keys::{Key, Keys};
use crate::model::mirror::Mirror;
use crate::model::values::{MetaMember, ReignNumber};
use crate::reign::Reign;
use crate::store::lease::Lease;
use crate::store::{CommitError, Expect, Put, Store, Txn};

/// TTL of a campaign's lease; etcd grants none shorter.
const LEASE: Duration = Duration::from_secs(2);

/// One who wants to lead.
pub(crate) struct Candidate {
    pub(crate) keys: Keys,
    pub(crate) store: Store,
    pub(crate) mirror: Arc<Mirror>,
    pub(crate) me: MetaMember,
    pub(crate) clock: Clock,
    pub(crate) random: Random,
}

impl Candidate {
    /// Campaigns once: returns when the leadership is won, with the lease to be held, or with why
    /// it was not.
    ///
    /// * effects: `over` is cancelled when the lease is lost, by [`Candidate::keep`].
    pub(crate) async fn campaign(&self, first: bool) -> Result<(Lease, i64), CommitError> {
        let lease = self.store.grant(LEASE).await?;
        let key = self.keys.path(&Key::Leader(lease.id));
        let value = serde_json::to_string(&self.me)
            .unwrap_or_else(|error| unreachable!("values are plain data: {error}"));
        let earlier: Vec<Key> = self.mirror.read(|model| {
            let mine = model.leaders.iter().filter(|(_, other)| {
                first && other.name == self.me.name && other.api == self.me.api
            });
            mine.map(|(lease, _)| Key::Leader(*lease)).collect()
        });
        let txn = Txn {
            expects: vec![(key.clone(), Expect::Absent)],
            puts: vec![
                Put {
                    key,
                    value: value.clone(),
                    lease: lease.id,
                },
                Put {
                    key: self.keys.path(&Key::Meta(self.me.name.clone())),
                    value,
                    lease: lease.id,
                },
            ],
            deletes: earlier.iter().map(|key| self.keys.path(key)).collect(),
        };
        match self.store.commit(&txn).await {
            Ok(revision) => Ok((lease, revision)),
            Err(error) => {
                self.store.revoke(lease).await;
                Err(error)
            }
        }
    }

    /// Waits until the campaign of that lease leads; `None` if it is gone.
    pub(crate) async fn won(
        &self,
        lease: Lease,
        revision: i64,
        over: CancellationToken,
    ) -> Option<Reign> {
        self.mirror.reached(revision).await;
        let restored = self
            .mirror
            .wait(|model| {
                if model.revisions(&Key::Leader(lease.id)).is_none() {
                    return Some(None);
                }
                let (lowest, _, _) = model.leader()?;
                (lowest == lease.id).then(|| Some(model.restored()))
            })
            .await?;
        let number = ReignNumber { restored, revision };
        Some(Reign::new(
            number,
            lease.id,
            self.keys.clone(),
            self.store.clone(),
            Arc::clone(&self.mirror),
            self.clock.clone(),
            self.random.clone(),
            over,
        ))
    }
}
