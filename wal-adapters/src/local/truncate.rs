//! Deleting what lies below a bound: whole segments, oldest first.
//!
//! The directory is synced after each, so that a crash leaves a run of segments without a gap. The
//! last segment stays whatever the bound: its name and content carry the numbering. Never here: a
//! cut inside a segment.

use std::io;

use super::region::RegionState;
use crate::{Offset, WalError};

impl RegionState {
    pub(super) fn truncate(&self, below: Offset) -> Result<(), WalError> {
        let _one = self.truncating.lock();
        loop {
            let mut view = self.view.lock();
            if let Some(why) = &view.stopped {
                return Err(why.clone());
            }
            if below > view.end {
                let (had, now) = (below, view.end);
                return Err(WalError::Regressed { had, now });
            }
            if view.segments.get(1).is_none_or(|next| next.first > below) {
                return Ok(());
            }
            // Readers lose sight of it before it is gone.
            let Some(oldest) = view.segments.pop_front() else {
                return Ok(());
            };
            drop(view);
            let removed = self.disk.remove_file(&self.path(oldest.first));
            if let Err(error) = removed
                && error.kind() != io::ErrorKind::NotFound
            {
                self.view.lock().segments.push_front(oldest);
                return Err(error.into());
            }
            self.disk.sync_dir(&self.dir)?;
        }
    }
}
