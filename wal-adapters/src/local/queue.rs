//! The queue between appends and the disk, and the one thread that empties it.

use std::collections::HashMap;
use std::io;
use std::sync::Arc;
use std::thread::JoinHandle;

use bytes::Bytes;
use parking_lot::{Condvar, Mutex};
use tokio::sync::oneshot;

use super::disk::Lock;
use super::region::RegionState;
use crate::frame::HEADER_BYTES;
use crate::load::{Load, Permit};
use crate::{AppendError, Placed, WalError};

/// One frame on its way to the disk.
pub(super) struct Job {
    pub(super) region: Arc<RegionState>,
    pub(super) head: [u8; HEADER_BYTES],
    pub(super) payload: Bytes,
    pub(super) answer: oneshot::Sender<Result<Placed, AppendError>>,
    pub(super) permit: Permit,
}

impl Job {
    pub(super) fn bytes(&self) -> usize {
        self.permit.bytes()
    }

    /// Tells the waiter, who may be gone, and gives the room in the queue back.
    pub(super) fn answer(self, reply: Result<Placed, AppendError>) {
        drop(self.permit);
        drop(self.answer.send(reply));
    }
}

/// Frames that wait for the commit thread; bounded by the permits they carry.
pub(super) struct Queue {
    pub(super) load: Arc<Load>,
    waiting: Mutex<Waiting>,
    filled: Condvar,
}

#[derive(Default)]
struct Waiting {
    jobs: Vec<Job>,
    closed: bool,
}

impl Queue {
    pub(super) fn new(bytes_max: usize) -> Self {
        Self {
            load: Arc::new(Load::new(usize::MAX, bytes_max)),
            waiting: Mutex::default(),
            filled: Condvar::new(),
        }
    }

    pub(super) fn push(&self, job: Job) -> Result<(), WalError> {
        let mut waiting = self.waiting.lock();
        if waiting.closed {
            return Err(WalError::Unavailable);
        }
        waiting.jobs.push(job);
        drop(waiting);
        self.filled.notify_one();
        Ok(())
    }

    /// Takes no more; what waits is still committed.
    pub(super) fn close(&self) {
        self.waiting.lock().closed = true;
        self.filled.notify_one();
    }

    /// Everything that waits, in order; `None` once closed and empty.
    fn take(&self) -> Option<Vec<Job>> {
        let mut waiting = self.waiting.lock();
        self.filled.wait_while(&mut waiting, |waiting| {
            waiting.jobs.is_empty() && !waiting.closed
        });
        if waiting.jobs.is_empty() {
            return None;
        }
        Some(std::mem::take(&mut waiting.jobs))
    }
}

/// Starts the commit thread. It holds the directory's lock as long as it may write.
pub(super) fn start(queue: Arc<Queue>, lock: Arc<Lock>) -> io::Result<JoinHandle<()>> {
    let name = "wal-commit".to_owned();
    std::thread::Builder::new().name(name).spawn(move || {
        let _lock = lock;
        let queue = Closing(&queue);
        let mut buffer = Vec::new();
        while let Some(jobs) = queue.0.take() {
            for (region, jobs) in by_region(jobs) {
                region.commit(jobs, &mut buffer);
            }
        }
    })
}

/// Closes the queue however the thread ends, so that nobody waits for a thread that died: jobs in
/// it are dropped, and their waiters are told `Unknown`.
struct Closing<'a>(&'a Queue);

impl Drop for Closing<'_> {
    fn drop(&mut self) {
        let mut waiting = self.0.waiting.lock();
        waiting.closed = true;
        waiting.jobs.clear();
    }
}

/// The jobs of each region in their order; regions by their first job.
fn by_region(jobs: Vec<Job>) -> Vec<(Arc<RegionState>, Vec<Job>)> {
    let mut places = HashMap::new();
    let mut groups: Vec<(Arc<RegionState>, Vec<Job>)> = Vec::new();
    for job in jobs {
        let place = *places
            .entry(Arc::as_ptr(&job.region))
            .or_insert(groups.len());
        if place == groups.len() {
            groups.push((job.region.clone(), Vec::new()));
        }
        groups[place].1.push(job);
    }
    groups
}
