//! Keeps a model up to date by list and watch, and lets others read it and wait for revisions.
//!
//! Every meta node has one, so that a new leader starts warm.
//!
//! Never here: a write to etcd.

use std::sync::Arc;
use std::time::Duration;

use parking_lot::RwLock;
use tokio::sync::{Notify, watch};
use tokio_util::sync::CancellationToken;

use super::{Model, Revisions, Stored, typed};
use crate::keys::Keys;
use crate::store::watch::{Batch, Feed};
use crate::store::{Entry, Store};

/// A revision that changed nothing below our root shows only when etcd is asked how far it is;
/// all others come by themselves sooner than this.
const NUDGE_AFTER: Duration = Duration::from_millis(100);

/// A model that follows etcd.
pub struct Mirror {
    keys: Keys,
    /// Never locked over an await.
    model: RwLock<Model>,
    revision: watch::Sender<i64>,
    nudge: Arc<Notify>,
}

impl Mirror {
    /// A mirror that has seen nothing; [`Mirror::run`] fills it.
    pub fn new(keys: Keys) -> Self {
        Self {
            keys,
            model: RwLock::new(Model::default()),
            revision: watch::Sender::new(0),
            nudge: Arc::new(Notify::new()),
        }
    }

    /// Follows etcd until the token is cancelled.
    pub async fn run(&self, store: Store, stop: CancellationToken) {
        let mut feed = Feed::new(store, self.keys.root(), Arc::clone(&self.nudge));
        loop {
            let batch = tokio::select! {
                batch = feed.next() => batch,
                () = stop.cancelled() => return,
            };
            self.take(batch);
        }
    }

    fn take(&self, batch: Batch) {
        let revision = match batch {
            Batch::Whole { revision, entries } => {
                let entries = entries
                    .into_iter()
                    .filter_map(|entry| Some((typed(&self.keys, &entry.key)?, entry.into())))
                    .collect();
                self.model.write().replace(revision, entries);
                revision
            }
            Batch::Changes { revision, changes } => {
                let changes = changes
                    .into_iter()
                    .filter_map(|(key, entry)| {
                        Some((typed(&self.keys, &key)?, entry.map(Stored::from)))
                    })
                    .collect();
                self.model.write().apply(revision, changes);
                revision
            }
        };
        let model = self.model.read();
        for (key, error) in &model.unreadable {
            tracing::error!(?key, error, "a value in etcd cannot be read");
        }
        drop(model);
        self.revision.send_replace(revision);
    }

    /// Looks at the model; the closure must be short, changes wait for it.
    pub fn read<R>(&self, look: impl FnOnce(&Model) -> R) -> R {
        look(&self.model.read())
    }

    /// Wakes at every new revision.
    pub fn changes(&self) -> watch::Receiver<i64> {
        self.revision.subscribe()
    }

    /// Waits until the model has seen a revision.
    pub async fn reached(&self, revision: i64) {
        let mut changes = self.changes();
        loop {
            let seen = changes.wait_for(|seen| *seen >= revision);
            if tokio::time::timeout(NUDGE_AFTER, seen).await.is_ok() {
                return;
            }
            self.nudge.notify_one();
        }
    }

    /// Waits until the model answers `Some`.
    pub async fn wait<R>(&self, mut look: impl FnMut(&Model) -> Option<R>) -> R {
        let mut changes = self.changes();
        loop {
            changes.borrow_and_update();
            if let Some(found) = self.read(&mut look) {
                return found;
            }
            let _ = changes.changed().await;
        }
    }
}

impl From<Entry> for Stored {
    fn from(entry: Entry) -> Self {
        Self {
            revisions: Revisions {
                create: entry.create,
                modify: entry.modify,
            },
            value: entry.value,
        }
    }
}
