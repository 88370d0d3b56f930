//! One region in memory as a state machine: what lands, where, and what each writer is told.
//!
//! A frame takes its place in `append` or when a stall ends, always under the one lock, so the order
//! of calls is the order of the log unless a fault says otherwise. Never here: waiting.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

use tokio::sync::oneshot;

use super::{Fault, MemorySettings};
use crate::frame::PAYLOAD_BYTES_MAX;
use crate::{AppendError, Frame, Offset, Placed, WalError};

/// What the writer of one frame is told.
pub(super) type Answer = oneshot::Sender<Result<Placed, AppendError>>;

/// What one handle knows of the region.
pub(super) struct Seen {
    handle: u64,
    /// Cuts of the log that did not go below what the handle had seen by then.
    cuts: AtomicUsize,
    /// Highest end shown to the handle.
    end: AtomicU64,
}

impl Seen {
    pub(super) fn saw(&self, end: Offset) {
        self.end.fetch_max(end, Ordering::SeqCst);
    }
}

pub(super) struct Log {
    settings: MemorySettings,
    entries: VecDeque<Entry>,
    start: Offset,
    end: Offset,
    /// Offsets to which the log was cut behind its users' backs, in the order of the cuts.
    cuts: Vec<Offset>,
    removed: bool,
    faults: VecDeque<Fault>,
    stalled: bool,
    queue: VecDeque<Waiting>,
    queue_bytes: usize,
    /// Waits for a frame of another handle to overtake it.
    held: Option<Waiting>,
    /// Frames that land once so many others have.
    late: Vec<(Frame, usize)>,
    frozen_end: Option<Offset>,
}

struct Entry {
    offset: Offset,
    frame: Frame,
    rotten: bool,
}

struct Waiting {
    frame: Frame,
    writer: Arc<Seen>,
    answer: Answer,
}

impl Log {
    pub(super) fn new(settings: MemorySettings) -> Self {
        Self {
            settings,
            entries: VecDeque::new(),
            start: 0,
            end: 0,
            cuts: Vec::new(),
            removed: false,
            faults: VecDeque::new(),
            stalled: false,
            queue: VecDeque::new(),
            queue_bytes: 0,
            held: None,
            late: Vec::new(),
            frozen_end: None,
        }
    }

    pub(super) fn open(&self, handle: u64) -> Seen {
        Seen {
            handle,
            cuts: AtomicUsize::new(self.cuts.len()),
            end: AtomicU64::new(0),
        }
    }

    /// Whether the handle may go on: the region is there, and no cut went below what it has seen.
    pub(super) fn admits(&self, handle: &Seen) -> Result<(), WalError> {
        if self.removed {
            return Err(WalError::Missing);
        }
        let had = handle.end.load(Ordering::SeqCst);
        let survived = handle.cuts.load(Ordering::SeqCst);
        if let Some(&now) = self.cuts[survived..].iter().find(|cut| **cut < had) {
            return Err(WalError::Regressed { had, now });
        }
        handle.cuts.store(self.cuts.len(), Ordering::SeqCst);
        Ok(())
    }

    pub(super) fn append(&mut self, frame: Frame, writer: &Arc<Seen>, answer: Answer) {
        let bytes = frame.encoded_len();
        let full = self.queue.len() >= self.settings.queue_frames
            || self.queue_bytes + bytes > self.settings.queue_bytes;
        let refused = match self.admits(writer) {
            Err(error) => Some(error),
            Ok(()) if frame.payload.len() > PAYLOAD_BYTES_MAX => Some(WalError::TooLarge),
            Ok(()) if full => Some(WalError::Busy),
            Ok(()) => None,
        };
        if let Some(error) = refused {
            tell(answer, Err(AppendError::Refused(error)));
            return;
        }
        self.queue_bytes += bytes;
        self.queue.push_back(Waiting {
            frame,
            writer: writer.clone(),
            answer,
        });
        if !self.stalled {
            self.drain();
        }
    }

    /// Frames of [from, next) and `next`; about `max_bytes` of them, at least one if there is one.
    pub(super) fn read(
        &self,
        from: Offset,
        max_bytes: usize,
    ) -> Result<(Vec<(Offset, Frame)>, Offset), WalError> {
        if from < self.start {
            return Err(WalError::OutOfRange { start: self.start });
        }
        if from > self.end {
            let (had, now) = (from, self.end);
            return Err(WalError::Regressed { had, now });
        }
        let first = self.entries.partition_point(|entry| entry.offset < from);
        let mut frames = Vec::new();
        let mut bytes = 0;
        for entry in self.entries.range(first..) {
            let offset = entry.offset;
            if entry.rotten && frames.is_empty() {
                return Err(WalError::Corrupt { at: offset });
            }
            bytes += entry.frame.encoded_len();
            if entry.rotten || (bytes > max_bytes && !frames.is_empty()) {
                return Ok((frames, offset));
            }
            frames.push((offset, entry.frame.clone()));
        }
        Ok((frames, self.end))
    }

    pub(super) fn start(&self) -> Offset {
        self.start
    }

    /// The end as the handle is shown it: never below one it was shown before.
    pub(super) fn shown_end(&self, handle: &Seen) -> Offset {
        handle.saw(self.frozen_end.unwrap_or(self.end));
        handle.end.load(Ordering::SeqCst)
    }

    pub(super) fn truncate(&mut self, below: Offset) -> Result<(), WalError> {
        if below > self.end {
            let (had, now) = (below, self.end);
            return Err(WalError::Regressed { had, now });
        }
        self.start = self.start.max(below);
        let kept = self.entries.partition_point(|entry| entry.offset < below);
        self.entries.drain(..kept);
        Ok(())
    }

    pub(super) fn inject(&mut self, fault: Fault) {
        self.faults.push_back(fault);
    }

    pub(super) fn queued(&self) -> usize {
        self.queue.len()
    }

    pub(super) fn stall(&mut self, stalled: bool) {
        self.stalled = stalled;
        if !stalled {
            self.drain();
        }
    }

    pub(super) fn rot(&mut self, at: Offset) {
        if let Ok(index) = self.entries.binary_search_by_key(&at, |entry| entry.offset) {
            self.entries[index].rotten = true;
        }
    }

    pub(super) fn regress(&mut self, to: Offset) {
        self.release_held();
        self.end = self.end.min(to);
        self.start = self.start.min(to);
        let kept = self.entries.partition_point(|entry| entry.offset < to);
        self.entries.truncate(kept);
        self.cuts.push(to);
    }

    pub(super) fn freeze_end(&mut self, frozen: bool) {
        self.frozen_end = frozen.then_some(self.end);
    }

    pub(super) fn remove(&mut self) {
        self.removed = true;
        for waiting in self.queue.drain(..).chain(self.held.take()) {
            tell(waiting.answer, Err(AppendError::Refused(WalError::Missing)));
        }
        self.queue_bytes = 0;
    }

    pub(super) fn land_late(&mut self) {
        for (frame, _) in std::mem::take(&mut self.late) {
            self.place(&frame);
        }
    }

    /// A frame that waits to be overtaken lands, as nobody came.
    pub(super) fn release_held(&mut self) {
        if let Some(held) = self.held.take() {
            self.land(held);
        }
    }

    fn drain(&mut self) {
        while let Some(waiting) = self.queue.pop_front() {
            self.queue_bytes -= waiting.frame.encoded_len();
            let overtaken = self
                .held
                .take_if(|held| held.writer.handle != waiting.writer.handle);
            self.release_held();
            self.settle(waiting);
            if let Some(overtaken) = overtaken {
                self.land(overtaken);
            }
        }
    }

    /// One frame meets its fault, or none.
    fn settle(&mut self, waiting: Waiting) {
        let fault = self.faults.pop_front();
        if fault == Some(Fault::Overtaken) {
            self.held = Some(waiting);
            return;
        }
        let Some(fault) = fault else {
            self.land(waiting);
            return;
        };
        let reply = self.meet(fault, &waiting.frame);
        if let Ok(Placed::At(at)) = reply {
            waiting.writer.saw(at + 1);
        }
        tell(waiting.answer, reply);
    }

    fn meet(&mut self, fault: Fault, frame: &Frame) -> Result<Placed, AppendError> {
        match fault {
            Fault::ReplyLost | Fault::Late { after: 0 } => {
                self.count(frame);
                Err(AppendError::Unknown(WalError::Unavailable))
            }
            Fault::FrameLost => Err(AppendError::Unknown(WalError::Unavailable)),
            Fault::Late { after } => {
                self.late.push((frame.clone(), after));
                Err(AppendError::Unknown(WalError::Unavailable))
            }
            Fault::Twice { after } => {
                let at = self.count(frame);
                match after {
                    0 => self.place(frame),
                    _ => self.late.push((frame.clone(), after)),
                }
                Ok(Placed::At(at))
            }
            Fault::Hole { width } => {
                self.end = self.end.saturating_add(width);
                Ok(Placed::At(self.count(frame)))
            }
            Fault::Overtaken => Ok(Placed::At(self.count(frame))),
            Fault::Somewhere => {
                self.count(frame);
                Ok(Placed::Somewhere)
            }
            Fault::NotSomewhere => Ok(Placed::Somewhere),
            Fault::Busy => Err(AppendError::Refused(WalError::Busy)),
            Fault::Unavailable => Err(AppendError::Refused(WalError::Unavailable)),
        }
    }

    fn land(&mut self, waiting: Waiting) {
        let at = self.count(&waiting.frame);
        waiting.writer.saw(at + 1);
        tell(waiting.answer, Ok(Placed::At(at)));
    }

    /// Places a frame, then those that were late by as many frames as have landed now.
    fn count(&mut self, frame: &Frame) -> Offset {
        let at = self.end;
        self.place(frame);
        for (_, after) in &mut self.late {
            *after -= 1;
        }
        let (due, late): (Vec<_>, Vec<_>) = std::mem::take(&mut self.late)
            .into_iter()
            .partition(|(_, after)| *after == 0);
        self.late = late;
        for (frame, _) in due {
            self.place(&frame);
        }
        at
    }

    fn place(&mut self, frame: &Frame) {
        self.entries.push_back(Entry {
            offset: self.end,
            frame: frame.clone(),
            rotten: false,
        });
        self.end += 1;
    }
}

/// The writer may have dropped its future, which cancels nothing and is no error.
fn tell(answer: Answer, reply: Result<Placed, AppendError>) {
    drop(answer.send(reply));
}
