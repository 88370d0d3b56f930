//! What the verbs of one region share: which segments there are, how far they are durable, and
//! whether the region goes on.
//!
//! Order of locks: `tail`, then `view`; neither is held over an await, and `view` not over a file
//! operation. A region without frames holds no file.

use std::collections::VecDeque;
use std::path::PathBuf;
use std::sync::Arc;

use parking_lot::Mutex;
use tokio::sync::Notify;

use super::append::Tail;
use super::disk::Disk;
use super::queue::Queue;
use super::read::Span;
use super::{LocalSettings, segment_path};
use crate::load::{Load, Permit};
use crate::{Offset, RegionId, WalError};

/// Bytes between two remembered places of a segment: what a read may have to skip.
const MARK_BYTES: u64 = 64 << 10;

pub(super) struct RegionState {
    pub(super) id: RegionId,
    pub(super) dir: PathBuf,
    pub(super) disk: Disk,
    pub(super) segment_bytes: u64,
    pub(super) load: Arc<Load>,
    /// The segment that is written to; held by whoever writes, over the sync.
    pub(super) tail: Mutex<Option<Tail>>,
    /// Held over a truncation: one at a time, oldest segment first.
    pub(super) truncating: Mutex<()>,
    pub(super) view: Mutex<View>,
    changed: Notify,
}

/// What readers may see.
pub(super) struct View {
    /// By rising first offset; the last one is never removed, its name carries the numbering.
    pub(super) segments: VecDeque<Segment>,
    /// First offset that is not durable.
    pub(super) end: Offset,
    /// Durable bytes of the last segment.
    pub(super) tail_bytes: u64,
    /// Why nothing is appended any more, if so.
    pub(super) stopped: Option<WalError>,
}

#[derive(Clone)]
pub(super) struct Segment {
    pub(super) first: Offset,
    pub(super) marks: Arc<Mutex<Marks>>,
}

/// Places of some frames of a segment, at least [`MARK_BYTES`] apart.
pub(super) struct Marks(Vec<(Offset, u64)>);

impl Segment {
    pub(super) fn new(first: Offset) -> Self {
        Self {
            first,
            marks: Arc::new(Mutex::new(Marks(vec![(first, 0)]))),
        }
    }
}

impl Marks {
    /// The last remembered place at or before the offset: (offset, byte).
    pub(super) fn at_or_before(&self, offset: Offset) -> (Offset, u64) {
        let after = self.0.partition_point(|(known, _)| *known <= offset);
        self.0[after.saturating_sub(1)]
    }

    /// The frame of that offset begins at that byte.
    pub(super) fn saw(&mut self, offset: Offset, byte: u64) {
        if self
            .0
            .last()
            .is_none_or(|(_, last)| byte >= last + MARK_BYTES)
        {
            self.0.push((offset, byte));
        }
    }
}

/// What a reader at some offset finds.
pub(super) struct Look {
    pub(super) start: Offset,
    pub(super) end: Offset,
    /// Where the frame is; none at the end of the region.
    pub(super) span: Option<Span>,
}

impl RegionState {
    pub(super) fn new(
        id: RegionId,
        dir: PathBuf,
        disk: Disk,
        settings: &LocalSettings,
        view: View,
        tail: Option<Tail>,
    ) -> Self {
        Self {
            id,
            dir,
            disk,
            segment_bytes: settings.segment_bytes,
            load: Arc::new(Load::new(
                settings.region_queue_frames,
                settings.region_queue_bytes,
            )),
            tail: Mutex::new(tail),
            truncating: Mutex::new(()),
            view: Mutex::new(view),
            changed: Notify::new(),
        }
    }

    pub(super) fn path(&self, first: Offset) -> PathBuf {
        segment_path(&self.dir, first)
    }

    /// Whether the region can be appended to and asked; else why not.
    pub(super) fn going(&self) -> Result<(), WalError> {
        match &self.view.lock().stopped {
            Some(why) => Err(why.clone()),
            None => Ok(()),
        }
    }

    pub(super) fn end(&self) -> Offset {
        self.view.lock().end
    }

    pub(super) fn changed(&self) -> tokio::sync::futures::Notified<'_> {
        self.changed.notified()
    }

    pub(super) fn notify(&self) {
        self.changed.notify_waiters();
    }

    pub(super) fn permit(&self, queue: &Queue, bytes: usize) -> Option<Permit> {
        Permit::take(&self.load, &queue.load, bytes)
    }

    /// Nothing is appended any more; the first reason stays.
    pub(super) fn stop(&self, why: WalError) {
        self.view.lock().stopped.get_or_insert(why);
        self.notify();
    }

    /// Waits for a commit under way; behind it nothing is answered but `why`.
    pub(super) fn stop_for_good(&self, why: WalError) {
        let mut tail = self.tail.lock();
        *tail = None;
        self.view.lock().stopped = Some(why);
        self.notify();
    }

    /// Where the frame at `from` is. A region that is stopped still shows what is durable, unless it
    /// is gone or closed.
    pub(super) fn look(&self, from: Offset) -> Result<Look, WalError> {
        let view = self.view.lock();
        if let Some(why @ (WalError::Missing | WalError::Unavailable)) = &view.stopped {
            return Err(why.clone());
        }
        let start = view.segments.front().map_or(0, |segment| segment.first);
        let end = view.end;
        if from < start {
            return Err(WalError::OutOfRange { start });
        }
        if from > end {
            let (had, now) = (from, end);
            return Err(WalError::Regressed { had, now });
        }
        if from == end {
            return match &view.stopped {
                Some(why) => Err(why.clone()),
                None => Ok(Look {
                    start,
                    end,
                    span: None,
                }),
            };
        }
        let after = view
            .segments
            .partition_point(|segment| segment.first <= from);
        let segment = &view.segments[after - 1];
        let next = view.segments.get(after);
        let span = Span {
            segment: segment.clone(),
            until: next.map_or(end, |next| next.first),
            tail_bytes: next.is_none().then_some(view.tail_bytes),
        };
        Ok(Look {
            start,
            end,
            span: Some(span),
        })
    }
}
