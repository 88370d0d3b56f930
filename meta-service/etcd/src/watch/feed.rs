//! The newest changes in memory, older ones from the tables.

use std::collections::VecDeque;
use std::sync::Arc;

use parking_lot::Mutex;
use tokio::sync::watch;

use crate::mvcc::{Changes, Fault, Piece, Store, history};

/// Changes kept in memory.
const RING_BYTES: usize = 16 << 20;
/// Revisions handed out at once.
const REVISIONS_MAX: usize = 1000;

struct Ring {
    changes: VecDeque<Arc<Changes>>,
    bytes: usize,
    /// Everything after this revision up to the head is in the ring.
    after: i64,
    head: i64,
    compacted: i64,
}

/// Where changes are taken from.
///
/// Locking: the ring's lock is held for memory work only.
pub(crate) struct Feed {
    ring: Mutex<Ring>,
    head: watch::Sender<i64>,
    store: Store,
}

impl Feed {
    /// A feed that goes on from `head`, the revision of the state in `store`, whose boundary is
    /// `compacted`.
    pub(crate) fn new(store: Store, head: i64, compacted: i64) -> Self {
        let ring = Ring {
            changes: VecDeque::new(),
            bytes: 0,
            after: head,
            head,
            compacted,
        };
        Self {
            ring: Mutex::new(ring),
            head: watch::Sender::new(head),
            store,
        }
    }

    /// Makes committed changes known; their revisions follow one another from the head on.
    pub(crate) fn publish(&self, changes: Vec<Arc<Changes>>) {
        let Some(last) = changes.last() else {
            return;
        };
        let head = last.revision;
        {
            let ring = &mut *self.ring.lock();
            debug_assert_eq!(
                changes.first().map(|first| first.revision),
                Some(ring.head + 1)
            );
            ring.bytes += changes.iter().map(|change| change.bytes).sum::<usize>();
            ring.changes.extend(changes);
            ring.head = head;
            while ring.bytes > RING_BYTES
                && let Some(oldest) = ring.changes.pop_front()
            {
                ring.bytes -= oldest.bytes;
                ring.after = oldest.revision;
            }
        }
        self.head.send_replace(head);
    }

    /// Moves the boundary; whoever asks for older changes from now on is refused them.
    pub(crate) fn compact(&self, compacted: i64) {
        self.ring.lock().compacted = compacted;
    }

    /// The compaction boundary.
    pub(crate) fn compacted(&self) -> i64 {
        self.ring.lock().compacted
    }

    /// The revision published last.
    pub(crate) fn head(&self) -> i64 {
        self.ring.lock().head
    }

    /// Wakes whenever there is a new head.
    pub(crate) fn subscribe(&self) -> watch::Receiver<i64> {
        self.head.subscribe()
    }

    /// Whether the change at `revision` and all after it are in memory.
    pub(crate) fn holds(&self, revision: i64) -> bool {
        revision > self.ring.lock().after
    }

    /// The changes from `from` on, a bounded number of them.
    ///
    /// * effects: reads the tables, thus the disk, if they are not all in memory.
    pub(crate) fn since(&self, from: i64) -> Result<Piece, Fault> {
        {
            let ring = self.ring.lock();
            if from > ring.after {
                let skipped = (from - ring.after - 1).max(0) as usize;
                let skipped = skipped.min(ring.changes.len());
                let changes = ring.changes.range(skipped..).take(REVISIONS_MAX);
                let changes: Vec<_> = changes.cloned().collect();
                let upto = match changes.last() {
                    Some(last) if changes.len() == REVISIONS_MAX => last.revision,
                    _ => ring.head,
                };
                return Ok(Piece::Changes { changes, upto });
            }
        }
        let view = self.store.view()?;
        history(&view, from, REVISIONS_MAX)
    }

    pub(crate) fn store(&self) -> &Store {
        &self.store
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mvcc::Identity;

    fn feed(dir: &tempfile::TempDir) -> Feed {
        let identity = Identity {
            cluster: 1,
            member: 1,
        };
        let path = dir.path().join("state.redb");
        Feed::new(Store::open(&path, identity).unwrap().0, 1, -1)
    }

    fn change(revision: i64, bytes: usize) -> Arc<Changes> {
        let mut change = Changes::new(revision, Vec::new());
        change.bytes = bytes;
        Arc::new(change)
    }

    fn revisions(piece: Piece) -> (Vec<i64>, i64) {
        let Piece::Changes { changes, upto } = piece else {
            panic!("compacted");
        };
        (changes.iter().map(|change| change.revision).collect(), upto)
    }

    #[test]
    fn what_is_published_is_handed_out_once_and_in_order() {
        let dir = tempfile::tempdir().unwrap();
        let feed = feed(&dir);
        let seen = feed.subscribe();
        feed.publish(vec![change(2, 1), change(3, 1)]);
        feed.publish(vec![change(4, 1)]);
        assert_eq!(*seen.borrow(), 4);
        assert_eq!(revisions(feed.since(3).unwrap()), (vec![3, 4], 4));
        assert_eq!(revisions(feed.since(5).unwrap()), (vec![], 4));
    }

    #[test]
    fn the_ring_lets_the_oldest_go() {
        let dir = tempfile::tempdir().unwrap();
        let feed = feed(&dir);
        feed.publish(vec![change(2, RING_BYTES), change(3, 1)]);
        assert!(!feed.holds(2));
        assert!(feed.holds(3));
        assert_eq!(revisions(feed.since(3).unwrap()), (vec![3], 3));
    }
}
