//! The WAL on a local disk: one process, one locked directory, one thread that commits.
//!
//! ```text
//! DIR/LOCK                          flock; holds the owner's pid
//! DIR/{shard}-{incarnation:x}/      one region
//!     {first offset, 20 digits}     a segment: frames back to back, then zeros while it is the last
//! ```
//! 1. An append takes a permit of its region and of the whole queue, or is `Busy` at once.
//! 2. The commit thread takes everything that waits, and for each region writes it with one write and
//!    one fdatasync, shows it to readers, and only then answers. Offsets are dense and start at 0.
//! 3. A segment is preallocated, so a full disk shows before anything is promised. A new one is made
//!    only when everything in the one before is synced: what is not the last segment is whole, or it
//!    is corrupt.
//! 4. A failed write or fdatasync is never repeated over the same bytes: the segment is cut to what
//!    was synced, the waiting frames are refused, and the next ones go to a new segment.
//!
//! Rooms: this file (settings, the service), `open` (what is found at start), `append` (the commit
//! of one region), `read`, `truncate`, `queue` (bounds and the thread), `region` (what they share),
//! `disk` (the only code that changes files) and `tape` (which records and breaks it, for tests).
//!
//! Never here: a file operation on a thread of the runtime, a thread or a timer per region.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

use async_trait::async_trait;
use futures::FutureExt;
use parking_lot::{Mutex, RwLock};
use serde::{Deserialize, Serialize};
use tokio::sync::oneshot;
use tokio::time::Instant;

use crate::frame::{HEADER_BYTES, PAYLOAD_BYTES_MAX};
use crate::{
    AppendError, Appending, Chunk, Durability, End, Frame, Offset, Region, RegionId, Wal, WalError,
};

mod append;
mod disk;
mod open;
mod queue;
mod read;
mod region;
mod tape;
mod truncate;

pub use disk::Disk;
pub use tape::Tape;

use disk::Lock;
use queue::{Job, Queue};
use region::RegionState;

/// Bounds of the local WAL.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct LocalSettings {
    /// Bytes of one segment, preallocated; a longer frame gets a segment of its own length.
    pub segment_bytes: u64,
    /// Most frames of one region that wait for the disk.
    pub region_queue_frames: usize,
    /// Most bytes of encoded frames of one region that wait for the disk.
    pub region_queue_bytes: usize,
    /// Most bytes of encoded frames of all regions together that wait for the disk.
    pub queue_bytes: usize,
}

impl Default for LocalSettings {
    fn default() -> Self {
        Self {
            segment_bytes: 64 << 20,
            region_queue_frames: 1024,
            region_queue_bytes: 32 << 20,
            queue_bytes: 256 << 20,
        }
    }
}

impl LocalSettings {
    /// * errors: `Misconfigured` names the first setting that is out of its range.
    pub fn check(&self) -> Result<(), WalError> {
        let frame = HEADER_BYTES + PAYLOAD_BYTES_MAX;
        let wrong = if !(4096..=1 << 30).contains(&self.segment_bytes) {
            "segment_bytes must be between 4096 and 1073741824".to_owned()
        } else if self.region_queue_frames == 0 {
            "region_queue_frames must be at least 1".to_owned()
        } else if self.region_queue_bytes < frame {
            format!("region_queue_bytes must hold the longest frame, {frame} bytes")
        } else if self.queue_bytes < self.region_queue_bytes {
            "queue_bytes must not be below region_queue_bytes".to_owned()
        } else {
            return Ok(());
        };
        Err(WalError::Misconfigured(wrong))
    }
}

/// The WAL of one directory; the process that opened it is its only user.
pub struct LocalWal {
    shared: Arc<Shared>,
}

struct Shared {
    dir: PathBuf,
    disk: Disk,
    settings: LocalSettings,
    queue: Arc<Queue>,
    /// Regions in use, spread by shard. The lock is held over file operations that make, open or
    /// remove a region, on blocking threads only; before `RegionState`'s locks.
    regions: [Mutex<BTreeMap<RegionId, Arc<RegionState>>>; STRIPES],
    /// `None` once closed. Whoever changes files holds it for reading; before all other locks.
    owner: RwLock<Option<Owner>>,
}

struct Owner {
    commits: JoinHandle<()>,
    lock: Arc<Lock>,
}

const STRIPES: usize = 16;

/// What the directory of a region is called while it is being deleted.
const REMOVED: &str = ".removed";

impl LocalWal {
    /// Locks the directory, makes it if there is none, and starts the commit thread.
    ///
    /// * errors: `Misconfigured` for a setting out of range, or a directory that another process has
    ///   locked, naming its pid; `Io` when the directory cannot be made or read.
    pub async fn open(
        dir: impl Into<PathBuf>,
        settings: LocalSettings,
        disk: Disk,
    ) -> Result<Self, WalError> {
        let dir = dir.into();
        blocking(move || Self::open_now(dir, settings, disk)).await
    }

    fn open_now(dir: PathBuf, settings: LocalSettings, disk: Disk) -> Result<Self, WalError> {
        settings.check()?;
        let lock = Arc::new(disk.lock(&dir)?);
        for entry in std::fs::read_dir(&dir)? {
            let path = entry?.path();
            if path.to_string_lossy().ends_with(REMOVED) {
                disk.remove_tree(&path)?;
            }
        }
        disk.sync_dir(&dir)?;
        let queue = Arc::new(Queue::new(settings.queue_bytes));
        let commits = queue::start(queue.clone(), lock.clone())?;
        Ok(Self {
            shared: Arc::new(Shared {
                dir,
                disk,
                settings,
                queue,
                regions: Default::default(),
                owner: RwLock::new(Some(Owner { commits, lock })),
            }),
        })
    }

    /// Commits what waits, ends the thread and unlocks the directory. Handles answer `Unavailable`
    /// from then on. Without it the same happens some time after the last handle is dropped.
    ///
    /// * effects: what was acknowledged is durable with or without a close; may be called again.
    pub async fn close(&self) -> Result<(), WalError> {
        self.shared.queue.close();
        let shared = self.shared.clone();
        blocking(move || {
            let Some(owner) = shared.owner.write().take() else {
                return Ok(());
            };
            if owner.commits.join().is_err() {
                tracing::error!(dir = %shared.dir.display(), "the commit thread had panicked");
            }
            for stripe in &shared.regions {
                for state in stripe.lock().values() {
                    state.stop(WalError::Unavailable);
                }
            }
            drop(owner.lock);
            Ok(())
        })
        .await
    }
}

impl Drop for LocalWal {
    fn drop(&mut self) {
        self.shared.queue.close();
    }
}

impl Shared {
    /// Runs a change of files on a blocking thread, unless the directory is closed.
    async fn change<T: Send + 'static>(
        self: &Arc<Self>,
        change: impl FnOnce(&Self) -> Result<T, WalError> + Send + 'static,
    ) -> Result<T, WalError> {
        let shared = self.clone();
        blocking(move || {
            let owner = shared.owner.read();
            match owner.is_some() {
                true => change(&shared),
                false => Err(WalError::Unavailable),
            }
        })
        .await
    }

    fn stripe(&self, region: RegionId) -> &Mutex<BTreeMap<RegionId, Arc<RegionState>>> {
        &self.regions[(region.shard % STRIPES as u64) as usize]
    }

    fn dir_of(&self, region: RegionId) -> PathBuf {
        self.dir.join(region.to_string())
    }

    fn create(&self, region: RegionId) -> Result<(), WalError> {
        let _stripe = self.stripe(region).lock();
        self.disk.make_dir(&self.dir_of(region))?;
        Ok(self.disk.sync_dir(&self.dir)?)
    }

    fn find(&self, region: RegionId) -> Result<Arc<RegionState>, WalError> {
        let mut regions = self.stripe(region).lock();
        if let Some(state) = regions.get(&region) {
            return Ok(state.clone());
        }
        let dir = self.dir_of(region);
        let state = open::recover(region, dir, self.disk.clone(), &self.settings)?;
        let state = Arc::new(state);
        regions.insert(region, state.clone());
        Ok(state)
    }

    /// The directory is renamed first, so that a crash leaves the region whole or gone.
    fn remove(&self, region: RegionId) -> Result<(), WalError> {
        let mut regions = self.stripe(region).lock();
        let dir = self.dir_of(region);
        if let Some(state) = regions.get(&region) {
            state.stop_for_good(WalError::Missing);
        }
        if dir.try_exists()? {
            let doomed = self.dir.join(format!("{region}{REMOVED}"));
            if doomed.try_exists()? {
                self.disk.remove_tree(&doomed)?;
            }
            self.disk.rename(&dir, &doomed)?;
            self.disk.sync_dir(&self.dir)?;
            self.disk.remove_tree(&doomed)?;
        }
        regions.remove(&region);
        Ok(())
    }
}

#[async_trait]
impl Wal for LocalWal {
    async fn check(&self) -> Result<Durability, WalError> {
        self.shared
            .change(|shared| match Disk::forgets(&shared.dir)? {
                true => Ok(Durability::Volatile),
                false => Ok(Durability::Disk),
            })
            .await
    }

    async fn create(&self, region: RegionId) -> Result<(), WalError> {
        self.shared
            .change(move |shared| shared.create(region))
            .await
    }

    async fn open(&self, region: RegionId) -> Result<Arc<dyn Region>, WalError> {
        let state = self
            .shared
            .change(move |shared| shared.find(region))
            .await?;
        Ok(Arc::new(LocalRegion {
            shared: self.shared.clone(),
            state,
        }))
    }

    async fn remove(&self, region: RegionId) -> Result<(), WalError> {
        self.shared
            .change(move |shared| shared.remove(region))
            .await
    }
}

/// One handle; all handles of a region share its state.
struct LocalRegion {
    shared: Arc<Shared>,
    state: Arc<RegionState>,
}

impl LocalRegion {
    fn queue(
        &self,
        frame: Frame,
    ) -> Result<oneshot::Receiver<Result<crate::Placed, AppendError>>, WalError> {
        if frame.payload.len() > PAYLOAD_BYTES_MAX {
            return Err(WalError::TooLarge);
        }
        self.state.going()?;
        let permit = self
            .state
            .permit(&self.shared.queue, frame.encoded_len())
            .ok_or(WalError::Busy)?;
        let (answer, waiter) = oneshot::channel();
        self.shared.queue.push(Job {
            region: self.state.clone(),
            head: frame.header(),
            payload: frame.payload,
            answer,
            permit,
        })?;
        Ok(waiter)
    }
}

#[async_trait]
impl Region for LocalRegion {
    fn append(&self, frame: Frame) -> Appending {
        match self.queue(frame) {
            Err(error) => futures::future::ready(Err(AppendError::Refused(error))).boxed(),
            Ok(waiter) => {
                let lost = AppendError::Unknown(WalError::Unavailable);
                async move { waiter.await.unwrap_or(Err(lost)) }.boxed()
            }
        }
    }

    async fn read(
        &self,
        from: Offset,
        max_bytes: usize,
        wait: Duration,
    ) -> Result<Chunk, WalError> {
        let there = async {
            loop {
                let mut changed = std::pin::pin!(self.state.changed());
                changed.as_mut().enable();
                if self.state.look(from)?.span.is_some() {
                    return Ok::<(), WalError>(());
                }
                changed.await;
            }
        };
        if let Ok(broken_off) = tokio::time::timeout(wait, there).await {
            broken_off?;
        }
        let asked = Instant::now();
        let look = self.state.look(from)?;
        let end = End {
            offset: look.end,
            asked,
        };
        let Some(span) = look.span else {
            return Ok(Chunk {
                frames: Vec::new(),
                next: from,
                start: look.start,
                end,
            });
        };
        let state = self.state.clone();
        let frames = blocking(move || state.read(from, max_bytes, span)).await?;
        let next = frames.last().map_or(from, |(offset, _)| offset + 1);
        Ok(Chunk {
            frames,
            next,
            start: look.start,
            end,
        })
    }

    async fn end(&self) -> Result<End, WalError> {
        let asked = Instant::now();
        self.state.going()?;
        let offset = self.state.end();
        Ok(End { offset, asked })
    }

    fn end_is_linear(&self) -> bool {
        true
    }

    async fn truncate(&self, below: Offset) -> Result<(), WalError> {
        let state = self.state.clone();
        self.shared.change(move |_| state.truncate(below)).await
    }
}

/// Runs file operations where they may block; they end even when the caller is dropped.
async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, WalError> + Send + 'static,
) -> Result<T, WalError> {
    match tokio::task::spawn_blocking(work).await {
        Ok(done) => done,
        Err(died) => Err(std::io::Error::other(died).into()),
    }
}

/// Name of the segment that begins at that offset.
fn segment_path(dir: &Path, first: Offset) -> PathBuf {
    dir.join(format!("{first:020}"))
}

#[cfg(test)]
mod tests;
