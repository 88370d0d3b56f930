//! The log as one node sees it over a poor connection: reads and ends fail by a script, appends and
//! answers to them can be held back, the whole service can be away, or be another one that is empty. Faults of the service itself, which
//! everybody sees, are `MemoryWal`'s.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use auxo_wal_adapters::memory::MemoryWal;
use auxo_wal_adapters::{
    AppendError, Appending, Chunk, Durability, End, Frame, Offset, Placed, Region, RegionId, Wal,
    WalError,
};
use futures::FutureExt;
use parking_lot::Mutex;
use tokio::sync::watch;

use super::watched_store::{Event, Events};

/// What goes wrong with one read or one question for the end.
#[derive(Clone, Debug)]
pub(crate) enum Poor {
    /// It fails.
    Fails(WalError),
    /// A read finds nothing, whatever is there. An end is asked in vain.
    Empty,
}

/// One node's view of the service; clones share it.
#[derive(Clone)]
pub(crate) struct PoorLog {
    wal: MemoryWal,
    state: Arc<State>,
}

struct State {
    reads: Mutex<VecDeque<Poor>>,
    ends: Mutex<VecDeque<Poor>>,
    away: watch::Sender<bool>,
    held: watch::Sender<bool>,
    sending_held: watch::Sender<bool>,
    remade: AtomicBool,
    appended: AtomicUsize,
    events: Events,
}

impl PoorLog {
    pub(crate) fn new(wal: MemoryWal, events: Events) -> Self {
        let state = State {
            reads: Mutex::default(),
            ends: Mutex::default(),
            away: watch::Sender::new(false),
            held: watch::Sender::new(false),
            sending_held: watch::Sender::new(false),
            remade: AtomicBool::new(false),
            appended: AtomicUsize::new(0),
            events,
        };
        Self {
            wal,
            state: Arc::new(state),
        }
    }

    /// The next reads meet these, one each.
    pub(crate) fn reads(&self, poor: impl IntoIterator<Item = Poor>) {
        self.state.reads.lock().extend(poor);
    }

    /// The next questions for the end meet these, one each.
    pub(crate) fn ends(&self, poor: impl IntoIterator<Item = Poor>) {
        self.state.ends.lock().extend(poor);
    }

    /// Whether every scripted fault was met.
    pub(crate) fn is_spent(&self) -> bool {
        self.state.reads.lock().is_empty() && self.state.ends.lock().is_empty()
    }

    /// Frames that this node has appended.
    pub(crate) fn appended(&self) -> usize {
        self.state.appended.load(Ordering::SeqCst)
    }

    /// While away, this node cannot reach the service.
    pub(crate) fn away(&self, away: bool) {
        self.state.away.send_replace(away);
    }

    /// From now on appends of this node land in an empty log in the place of the one it knows.
    pub(crate) fn remade(&self) {
        self.state.remade.store(true, Ordering::SeqCst);
    }

    /// While held, what this node appends does not reach the service.
    pub(crate) fn hold_sending(&self, held: bool) {
        self.state.sending_held.send_replace(held);
    }

    /// While held, appends land and this node is not told.
    pub(crate) fn hold_answers(&self, held: bool) {
        self.state.held.send_replace(held);
    }
}

impl State {
    fn reachable(&self) -> Result<(), WalError> {
        match *self.away.borrow() {
            true => Err(WalError::Unavailable),
            false => Ok(()),
        }
    }
}

#[async_trait]
impl Wal for PoorLog {
    async fn check(&self) -> Result<Durability, WalError> {
        self.wal.check().await
    }

    async fn create(&self, region: RegionId) -> Result<(), WalError> {
        self.state.reachable()?;
        self.wal.create(region).await
    }

    async fn open(&self, region: RegionId) -> Result<Arc<dyn Region>, WalError> {
        self.state.reachable()?;
        Ok(Arc::new(PoorRegion {
            region: self.wal.open(region).await?,
            state: Arc::clone(&self.state),
        }))
    }

    async fn remove(&self, region: RegionId) -> Result<(), WalError> {
        self.wal.remove(region).await
    }
}

struct PoorRegion {
    region: Arc<dyn Region>,
    state: Arc<State>,
}

#[async_trait]
impl Region for PoorRegion {
    fn append(&self, frame: Frame) -> Appending {
        if let Err(error) = self.state.reachable() {
            return futures::future::ready(Err(AppendError::Refused(error))).boxed();
        }
        if self.state.remade.load(Ordering::SeqCst) {
            return futures::future::ready(Ok(Placed::At(0))).boxed();
        }
        let mut sending_held = self.state.sending_held.subscribe();
        let is_held = *sending_held.borrow_and_update();
        let appending = match is_held {
            false => self.region.append(frame),
            true => {
                let region = Arc::clone(&self.region);
                async move {
                    let _ = sending_held.wait_for(|held| !held).await;
                    region.append(frame).await
                }
                .boxed()
            }
        };
        self.state.appended.fetch_add(1, Ordering::SeqCst);
        let mut held = self.state.held.subscribe();
        async move {
            let answer = appending.await;
            let _ = held.wait_for(|held| !held).await;
            answer
        }
        .boxed()
    }

    async fn read(
        &self,
        from: Offset,
        max_bytes: usize,
        wait: Duration,
    ) -> Result<Chunk, WalError> {
        self.state.reachable()?;
        let poor = self.state.reads.lock().pop_front();
        match poor {
            None => self.region.read(from, max_bytes, wait).await,
            Some(Poor::Fails(error)) => Err(error),
            Some(Poor::Empty) => {
                let chunk = self.region.read(from, max_bytes, Duration::ZERO).await?;
                Ok(Chunk {
                    frames: Vec::new(),
                    next: from,
                    ..chunk
                })
            }
        }
    }

    async fn end(&self) -> Result<End, WalError> {
        self.state.reachable()?;
        let poor = self.state.ends.lock().pop_front();
        match poor {
            None => self.region.end().await,
            Some(Poor::Fails(error)) => Err(error),
            Some(Poor::Empty) => Err(WalError::Busy),
        }
    }

    fn end_is_linear(&self) -> bool {
        self.region.end_is_linear()
    }

    async fn truncate(&self, below: Offset) -> Result<(), WalError> {
        self.state.reachable()?;
        self.region.truncate(below).await?;
        self.state.events.lock().push(Event::Truncated(below));
        Ok(())
    }
}
