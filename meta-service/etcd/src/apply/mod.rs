//! From committed entries to state: one thread, in log order.
//!
//! 1. Entries arrive in batches; each batch is one redb transaction, which also notes the position of
//!    its last entry. An entry that is refused still moves that position.
//! 2. After the commit the changes go to the watch feed in the order of their revisions, leases to the
//!    lessor, and only then the outcomes to whoever waits for them.
//! 3. Commits are not durable one by one: the log is, and its tail is applied again after a crash. After
//!    a while or many operations one commit is durable, and so is the last one before the thread ends.
//! 4. Between batches a few compacted versions are removed.
//!
//! What an entry does depends on the entry and the tables alone. The thread's clock decides when a
//! commit is durable and when old versions go, which nobody can see in the state.

mod entry;
mod thread;

use std::io;
use std::sync::Arc;
use std::sync::mpsc::{SyncSender, TrySendError};
use std::time::Duration;

use etcd_client::proto::{PbDeleteResponse, PbPutResponse, PbTxnResponse};
use tokio::sync::{oneshot, watch};

use crate::lease::Lessor;
use crate::mvcc::{Refusal, Store};
use crate::proposal::Content;
use crate::watch::Feed;

/// Batches that may wait; Raft hands in one at a time, so more than a few never do.
const WAITING_MAX: usize = 64;

/// A committed entry.
#[derive(Debug)]
pub(crate) struct Committed {
    pub(crate) term: u64,
    pub(crate) index: u64,
    pub(crate) content: Content,
}

/// What became of an entry.
#[derive(Debug)]
pub(crate) struct Applied {
    /// Revision of the state after it.
    pub(crate) revision: i64,
    pub(crate) outcome: Result<Answer, Refusal>,
}

/// What an operation answers; headers carry the revision alone.
#[derive(Debug)]
pub(crate) enum Answer {
    Done,
    Put(PbPutResponse),
    Delete(PbDeleteResponse),
    Txn(PbTxnResponse),
}

enum Command {
    Apply(Vec<Committed>, oneshot::Sender<io::Result<Vec<Applied>>>),
    MakeDurable(oneshot::Sender<io::Result<()>>),
}

/// When the thread does what nobody waits for.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Pace {
    /// Longest time, and most operations, between two durable commits.
    pub(crate) durable_every: Duration,
    pub(crate) durable_every_ops: usize,
    /// Compacted versions removed at a time, and the pause after it.
    pub(crate) versions_per_step: usize,
    pub(crate) pause: Duration,
}

/// Hands work to the apply thread; the thread ends when all clones are dropped.
#[derive(Clone)]
pub(crate) struct Applier {
    commands: SyncSender<Command>,
}

impl Applier {
    /// Starts the thread.
    ///
    /// * `lock`: given back when the thread has ended.
    /// * returns: the handle; the boundary up to which compacted versions are gone; the thread.
    pub(crate) fn spawn(
        store: Store,
        feed: Arc<Feed>,
        lessor: Arc<Lessor>,
        pace: Pace,
        lock: Arc<std::fs::File>,
    ) -> io::Result<(Self, watch::Receiver<i64>, std::thread::JoinHandle<()>)> {
        let (commands, waiting) = std::sync::mpsc::sync_channel(WAITING_MAX);
        let (removed, removed_upto) = watch::channel(i64::MIN);
        let thread = thread::Thread::new(store, feed, lessor, pace, removed)?;
        let handle = std::thread::Builder::new()
            .name("etcd-apply".to_owned())
            .spawn(move || {
                thread.run(&waiting);
                drop(lock);
            })?;
        Ok((Self { commands }, removed_upto, handle))
    }

    /// Applies the entries in order; one outcome for each.
    ///
    /// * errors: the state cannot be read or written; the thread has stopped then.
    pub(crate) async fn apply(&self, entries: Vec<Committed>) -> io::Result<Vec<Applied>> {
        let (done, outcomes) = oneshot::channel();
        self.send(Command::Apply(entries, done))?;
        outcomes.await.map_err(|_| stopped())?
    }

    /// Makes everything applied so far durable before it returns.
    pub(crate) async fn make_durable(&self) -> io::Result<()> {
        let (done, durable) = oneshot::channel();
        self.send(Command::MakeDurable(done))?;
        durable.await.map_err(|_| stopped())?
    }

    fn send(&self, command: Command) -> io::Result<()> {
        self.commands
            .try_send(command)
            .map_err(|error| match error {
                TrySendError::Full(_) => io::Error::other("too many batches wait to be applied"),
                TrySendError::Disconnected(_) => stopped(),
            })
    }
}

fn stopped() -> io::Error {
    io::Error::other("the apply thread has stopped")
}
