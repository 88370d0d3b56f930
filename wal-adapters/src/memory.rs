//! The WAL in memory: a mutex and a queue. The reference that every adapter must equal, and a log
//! service whose faults a test can call up one by one.
//!
//! Rooms: this file (the service and the switches for faults), `log` (one region as a state
//! machine). Clones share their regions, so a clone is what another process would see of the
//! service, and what a restarted one finds.
//!
//! Never here: a thread, a task, a timer of its own, or dice. The same calls in the same order give
//! the same log.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use futures::FutureExt;
use parking_lot::Mutex;
use tokio::sync::{Notify, oneshot};
use tokio::time::Instant;

use crate::{
    AppendError, Appending, Chunk, Durability, End, Frame, Offset, Region, RegionId, Wal, WalError,
};

mod log;

use log::{Log, Seen};

/// Bounds and character of the service.
#[derive(Clone, Copy, Debug)]
pub struct MemorySettings {
    /// Most frames of one region that wait to land.
    pub queue_frames: usize,
    /// Most bytes of encoded frames of one region that wait to land.
    pub queue_bytes: usize,
    /// What [`Region::end_is_linear`] says; `false` is a Kafka, whose end may be frozen.
    pub linear_end: bool,
}

impl Default for MemorySettings {
    fn default() -> Self {
        Self {
            queue_frames: 1024,
            queue_bytes: 32 << 20,
            linear_end: true,
        }
    }
}

/// What happens to one append.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// It lands, but the writer is told `Unknown`.
    ReplyLost,
    /// It does not land, and the writer is told `Unknown`.
    FrameLost,
    /// The writer is told `Unknown`; it lands once `after` further frames have landed.
    Late {
        /// Frames that land before it.
        after: usize,
    },
    /// It lands, and once more when `after` further frames have landed.
    Twice {
        /// Frames that land between the copies.
        after: usize,
    },
    /// It lands behind the next frame of another handle, or before the next call of any other kind.
    Overtaken,
    /// The service leaves out that many offsets before it.
    Hole {
        /// Offsets that stay empty.
        width: u64,
    },
    /// It lands, and the writer is told `Somewhere`.
    Somewhere,
    /// It does not land, and the writer is told `Somewhere`.
    NotSomewhere,
    /// It is refused as `Busy`.
    Busy,
    /// It is refused as `Unavailable`.
    Unavailable,
}

/// A WAL service in memory; clones share its regions.
///
/// ```
/// use std::time::Duration;
///
/// use auxo_proto::ids::Term;
/// use auxo_wal_adapters::memory::MemoryWal;
/// use auxo_wal_adapters::{Frame, FrameKind, Placed, RegionId, Wal};
///
/// # tokio::runtime::Builder::new_current_thread().enable_time().build()?.block_on(async {
/// let wal = MemoryWal::default();
/// let id = RegionId { shard: 1, incarnation: 7 };
/// wal.create(id).await?;
/// let region = wal.open(id).await?;
/// let claim = Frame {
///     kind: FrameKind::Claim,
///     incarnation: id.incarnation,
///     term: Term { epoch: 1, inc: 0 },
///     writer: 99,
///     n: 0,
///     prev: 0,
///     prev_n: 0,
///     payload: Default::default(),
/// };
/// assert_eq!(region.append(claim.clone()).await?, Placed::At(0));
/// let chunk = region.read(0, 1 << 20, Duration::ZERO).await?;
/// assert_eq!(chunk.frames, [(0, claim)]);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// # })?;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Default)]
pub struct MemoryWal(Arc<Service>);

#[derive(Default)]
struct Service {
    settings: MemorySettings,
    away: AtomicBool,
    handles: AtomicU64,
    regions: Mutex<BTreeMap<RegionId, Arc<Shelf>>>,
}

/// One region: its log, and the bell that wakes readers when the log changed.
struct Shelf {
    log: Mutex<Log>,
    changed: Notify,
}

impl MemoryWal {
    /// A service without regions.
    pub fn new(settings: MemorySettings) -> Self {
        Self(Arc::new(Service {
            settings,
            ..Service::default()
        }))
    }

    /// Appends meet these faults, one each, in this order.
    pub fn inject(&self, region: RegionId, fault: Fault) -> Result<(), WalError> {
        self.change(region, |log| log.inject(fault))
    }

    /// Appends that wait for a stall to end.
    pub fn queued(&self, region: RegionId) -> Result<usize, WalError> {
        let shelf = self.0.find(region)?;
        let queued = shelf.log.lock().queued();
        Ok(queued)
    }

    /// While stalled, appends queue up to the bounds and land only when the stall ends.
    pub fn stall(&self, region: RegionId, stalled: bool) -> Result<(), WalError> {
        self.change(region, |log| log.stall(stalled))
    }

    /// Every frame that is still late lands now.
    pub fn land_late(&self, region: RegionId) -> Result<(), WalError> {
        self.change(region, Log::land_late)
    }

    /// The bytes at that offset are not what was written, from now on.
    pub fn rot(&self, region: RegionId, at: Offset) -> Result<(), WalError> {
        self.change(region, |log| log.rot(at))
    }

    /// The service loses everything from `to` on, though it had acknowledged it.
    pub fn regress(&self, region: RegionId, to: Offset) -> Result<(), WalError> {
        self.change(region, |log| log.regress(to))
    }

    /// While frozen, the end shown is the end at the time of freezing. Only where the end is not
    /// linear, else `Misconfigured`.
    pub fn freeze_end(&self, region: RegionId, frozen: bool) -> Result<(), WalError> {
        if self.0.settings.linear_end {
            let reason = "a linear end cannot be frozen: set linear_end = false";
            return Err(WalError::Misconfigured(reason.to_owned()));
        }
        self.change(region, |log| log.freeze_end(frozen))
    }

    /// While away, the service answers `Unavailable` to everything.
    pub fn away(&self, away: bool) {
        self.0.away.store(away, Ordering::SeqCst);
        for shelf in self.0.regions.lock().values() {
            shelf.changed.notify_waiters();
        }
    }

    fn change(&self, region: RegionId, change: impl FnOnce(&mut Log)) -> Result<(), WalError> {
        let shelf = self.0.find(region)?;
        change(&mut shelf.log.lock());
        shelf.changed.notify_waiters();
        Ok(())
    }
}

impl Service {
    fn reachable(&self) -> Result<(), WalError> {
        match self.away.load(Ordering::SeqCst) {
            true => Err(WalError::Unavailable),
            false => Ok(()),
        }
    }

    fn find(&self, region: RegionId) -> Result<Arc<Shelf>, WalError> {
        let regions = self.regions.lock();
        regions.get(&region).cloned().ok_or(WalError::Missing)
    }
}

#[async_trait]
impl Wal for MemoryWal {
    async fn check(&self) -> Result<Durability, WalError> {
        self.0.reachable()?;
        Ok(Durability::Volatile)
    }

    async fn create(&self, region: RegionId) -> Result<(), WalError> {
        self.0.reachable()?;
        let fresh = || {
            Arc::new(Shelf {
                log: Mutex::new(Log::new(self.0.settings)),
                changed: Notify::new(),
            })
        };
        self.0.regions.lock().entry(region).or_insert_with(fresh);
        Ok(())
    }

    async fn open(&self, region: RegionId) -> Result<Arc<dyn Region>, WalError> {
        self.0.reachable()?;
        let shelf = self.0.find(region)?;
        let handle = self.0.handles.fetch_add(1, Ordering::SeqCst);
        let seen = Arc::new(shelf.log.lock().open(handle));
        Ok(Arc::new(MemoryRegion {
            service: self.0.clone(),
            shelf,
            seen,
        }))
    }

    async fn remove(&self, region: RegionId) -> Result<(), WalError> {
        self.0.reachable()?;
        let removed = self.0.regions.lock().remove(&region);
        if let Some(shelf) = removed {
            shelf.log.lock().remove();
            shelf.changed.notify_waiters();
        }
        Ok(())
    }
}

/// One handle.
struct MemoryRegion {
    service: Arc<Service>,
    shelf: Arc<Shelf>,
    seen: Arc<Seen>,
}

impl MemoryRegion {
    /// The log as this handle may use it: the service is there, the region too, and its end has not
    /// fallen below what this handle has seen.
    fn with<T>(
        &self,
        ask: impl FnOnce(&mut Log, &Seen) -> Result<T, WalError>,
    ) -> Result<T, WalError> {
        self.service.reachable()?;
        let mut log = self.shelf.log.lock();
        log.admits(&self.seen)?;
        log.release_held();
        ask(&mut log, &self.seen)
    }

    fn look(&self, from: Offset, max_bytes: usize) -> Result<Chunk, WalError> {
        let asked = Instant::now();
        self.with(|log, seen| {
            let (frames, next) = log.read(from, max_bytes)?;
            seen.saw(next);
            Ok(Chunk {
                frames,
                next,
                start: log.start(),
                end: End {
                    offset: log.shown_end(seen),
                    asked,
                },
            })
        })
    }
}

#[async_trait]
impl Region for MemoryRegion {
    fn append(&self, frame: Frame) -> Appending {
        let (done, answer) = oneshot::channel();
        if let Err(error) = self.service.reachable() {
            return futures::future::ready(Err(AppendError::Refused(error))).boxed();
        }
        self.shelf.log.lock().append(frame, &self.seen, done);
        self.shelf.changed.notify_waiters();
        let lost = AppendError::Unknown(WalError::Unavailable);
        async move { answer.await.unwrap_or(Err(lost)) }.boxed()
    }

    async fn read(
        &self,
        from: Offset,
        max_bytes: usize,
        wait: Duration,
    ) -> Result<Chunk, WalError> {
        let grown = async {
            loop {
                let mut changed = std::pin::pin!(self.shelf.changed.notified());
                changed.as_mut().enable();
                let chunk = self.look(from, max_bytes)?;
                if chunk.next > from {
                    return Ok(chunk);
                }
                changed.await;
            }
        };
        match tokio::time::timeout(wait, grown).await {
            Ok(found) => found,
            Err(_elapsed) => self.look(from, max_bytes),
        }
    }

    async fn end(&self) -> Result<End, WalError> {
        let asked = Instant::now();
        let offset = self.with(|log, seen| Ok(log.shown_end(seen)))?;
        Ok(End { offset, asked })
    }

    fn end_is_linear(&self) -> bool {
        self.service.settings.linear_end
    }

    async fn truncate(&self, below: Offset) -> Result<(), WalError> {
        self.with(|log, _| log.truncate(below))
    }
}

#[cfg(test)]
mod tests;
