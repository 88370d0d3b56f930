//! Room for frames that wait: bounds of one region and of all, taken before a frame is accepted.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

/// What waits, against its bounds.
pub(crate) struct Load {
    frames: AtomicUsize,
    bytes: AtomicUsize,
    frames_max: usize,
    bytes_max: usize,
}

impl Load {
    pub(crate) fn new(frames_max: usize, bytes_max: usize) -> Self {
        Self {
            frames: AtomicUsize::new(0),
            bytes: AtomicUsize::new(0),
            frames_max,
            bytes_max,
        }
    }

    fn add(&self, bytes: usize) -> bool {
        let frames = self.frames.fetch_add(1, Ordering::Relaxed) + 1;
        let bytes_now = self.bytes.fetch_add(bytes, Ordering::Relaxed) + bytes;
        if frames > self.frames_max || bytes_now > self.bytes_max {
            self.sub(bytes);
            return false;
        }
        true
    }

    fn sub(&self, bytes: usize) {
        self.frames.fetch_sub(1, Ordering::Relaxed);
        self.bytes.fetch_sub(bytes, Ordering::Relaxed);
    }
}

/// Room for one frame in its region's bounds and in those of all; given back when dropped.
pub(crate) struct Permit {
    region: Arc<Load>,
    all: Arc<Load>,
    bytes: usize,
}

impl Permit {
    pub(crate) fn take(region: &Arc<Load>, all: &Arc<Load>, bytes: usize) -> Option<Self> {
        if !region.add(bytes) {
            return None;
        }
        if !all.add(bytes) {
            region.sub(bytes);
            return None;
        }
        Some(Self {
            region: region.clone(),
            all: all.clone(),
            bytes,
        })
    }

    /// The room, in bytes.
    pub(crate) fn bytes(&self) -> usize {
        self.bytes
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        self.region.sub(self.bytes);
        self.all.sub(self.bytes);
    }
}
