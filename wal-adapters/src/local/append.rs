//! The commit of one region: room, one write, one fdatasync, then the answers.
//!
//! Invariant: bytes [0, `Tail::bytes`) of the tail are synced, and nothing else of it was ever shown
//! to a reader or answered for. Never here: a second fdatasync over bytes whose first one failed.

use std::io;
use std::iter::Peekable;
use std::vec;

use super::disk::DiskFile;
use super::queue::Job;
use super::region::{RegionState, Segment};
use crate::{AppendError, Offset, Placed, WalError};

/// Most bytes of one write, except for a single longer frame.
const WRITE_BYTES_MAX: usize = 16 << 20;

/// Buffer kept between commits.
const BUFFER_BYTES_KEPT: usize = 1 << 20;

/// The segment that is written to.
pub(super) struct Tail {
    pub(super) file: DiskFile,
    /// Synced bytes.
    pub(super) bytes: u64,
    /// Bytes that the file system has promised.
    pub(super) allocated: u64,
}

impl RegionState {
    /// Commits the frames in order and answers each.
    pub(super) fn commit(&self, jobs: Vec<Job>, buffer: &mut Vec<u8>) {
        let mut tail = self.tail.lock();
        let mut jobs = jobs.into_iter().peekable();
        while let Some(job) = jobs.peek() {
            let need = job.bytes() as u64;
            let ready = self.going().and_then(|()| self.room(&mut tail, need));
            if let Err(error) = ready {
                for job in jobs {
                    job.answer(Err(AppendError::Refused(error.clone())));
                }
                break;
            }
            if let Some(tail) = &mut *tail {
                self.commit_group(tail, &mut jobs, buffer);
            }
        }
        buffer.clear();
        buffer.shrink_to(BUFFER_BYTES_KEPT);
    }

    /// As many frames as fit into the tail, by one write and one fdatasync; at least the first.
    fn commit_group(
        &self,
        tail: &mut Tail,
        jobs: &mut Peekable<vec::IntoIter<Job>>,
        buffer: &mut Vec<u8>,
    ) {
        let room = tail.allocated - tail.bytes;
        let mut group = Vec::new();
        buffer.clear();
        while let Some(job) = jobs.next_if(|job| {
            let bytes = buffer.len() + job.bytes();
            bytes as u64 <= room && (buffer.is_empty() || bytes <= WRITE_BYTES_MAX)
        }) {
            buffer.extend_from_slice(&job.head);
            buffer.extend_from_slice(&job.payload);
            group.push(job);
        }
        let written = tail.file.write_at(buffer, tail.bytes);
        if let Err(error) = written.and_then(|()| tail.file.sync()) {
            let told = self.repair(tail, &error);
            for job in group {
                job.answer(Err(told.clone()));
            }
            return;
        }
        let first = self.publish(tail, &group);
        for (offset, job) in (first..).zip(group) {
            job.answer(Ok(Placed::At(offset)));
        }
    }

    /// Shows synced frames to readers; returns the offset of the first.
    fn publish(&self, tail: &mut Tail, group: &[Job]) -> Offset {
        let mut view = self.view.lock();
        let first = view.end;
        if let Some(segment) = view.segments.back() {
            let mut marks = segment.marks.lock();
            let mut byte = tail.bytes;
            for (offset, job) in (first..).zip(group) {
                marks.saw(offset, byte);
                byte += job.bytes() as u64;
            }
            tail.bytes = byte;
        }
        view.end = first + group.len() as u64;
        view.tail_bytes = tail.bytes;
        drop(view);
        self.notify();
        first
    }

    /// Makes sure that the tail can take `need` bytes, with a new segment if it must.
    ///
    /// * errors: `NoRoom` on a full disk, `Unavailable` when the segment cannot be made for another
    ///   reason; both may be tried again.
    fn room(&self, tail: &mut Option<Tail>, need: u64) -> Result<(), WalError> {
        let allocated = self.segment_bytes.max(need);
        match tail {
            Some(tail) if tail.bytes + need <= tail.allocated => return Ok(()),
            Some(tail) if tail.bytes == 0 => {
                let file = &tail.file;
                file.allocate(allocated)
                    .map_err(|error| self.no_room(&error))?;
                tail.allocated = allocated;
                return Ok(());
            }
            // Its frames are synced; what is cut off is room that nobody waits for.
            Some(full) => {
                let cut = full.file.set_len(full.bytes);
                cut.map_err(|error| self.no_room(&error))?;
                *tail = None;
            }
            None => {}
        }
        let first = self.end();
        let file = self
            .disk
            .create(&self.path(first), allocated)
            .and_then(|file| self.disk.sync_dir(&self.dir).map(|()| file))
            .map_err(|error| self.no_room(&error))?;
        *tail = Some(Tail {
            file,
            bytes: 0,
            allocated,
        });
        let mut view = self.view.lock();
        view.segments.push_back(Segment::new(first));
        view.tail_bytes = 0;
        Ok(())
    }

    fn no_room(&self, error: &io::Error) -> WalError {
        tracing::warn!(region = %self.id, %error, "no new WAL segment");
        retryable(error)
    }

    /// Cuts the tail to what is synced, so that the frames that failed never show up; what follows
    /// goes to a new segment.
    fn repair(&self, tail: &mut Tail, error: &io::Error) -> AppendError {
        tracing::error!(region = %self.id, %error, "WAL write failed, cutting it away");
        let cut = tail.file.set_len(tail.bytes);
        match cut.and_then(|()| tail.file.sync()) {
            Ok(()) => {
                tail.allocated = tail.bytes;
                AppendError::Refused(retryable(error))
            }
            Err(error) => AppendError::Unknown(self.park(error)),
        }
    }

    fn park(&self, error: io::Error) -> WalError {
        tracing::error!(region = %self.id, %error, "WAL region parked");
        let error = WalError::from(error);
        self.stop(error.clone());
        error
    }
}

/// What a writer is told whose frame is certainly not in the log: it may be sent again.
fn retryable(error: &io::Error) -> WalError {
    match error.kind() {
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => WalError::NoRoom,
        _ => WalError::Unavailable,
    }
}
