//! What a region's directory holds at start, and where its log ends.
//!
//! 1. The directory and the last segment are synced first: frames that a killed process had written
//!    but not synced are about to be shown, so they must last.
//! 2. The last segment is read to its first zero or bad frame.
//! 3. Behind that there may be what a crash left of frames nobody was answered for: it is cut away.
//!    But a later good frame whose `prev` lies above that place says that the place was durable once:
//!    then it is rot, the region is stopped as `Corrupt` and stays as it is, readable up to there.
//!    Rot in the very last group cannot be told from a torn write.
//! 4. Older segments were whole before their successor was made; reads verify them.

use std::collections::VecDeque;
use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};

use bytes::Bytes;

use super::append::Tail;
use super::disk::Disk;
use super::read::{Cursor, read_at};
use super::region::{RegionState, Segment, View};
use super::{LocalSettings, segment_path};
use crate::frame::{FrameError, MAGIC, VERSION};
use crate::{Frame, Offset, RegionId, WalError};

const ZEROS: [u8; 4096] = [0; 4096];

/// The region in that directory, ready for use.
///
/// * errors: `Missing` without the directory; `Misconfigured` for frames of a newer program.
pub(super) fn recover(
    id: RegionId,
    dir: PathBuf,
    disk: Disk,
    settings: &LocalSettings,
) -> Result<RegionState, WalError> {
    let mut segments = list(id, &dir)?;
    disk.sync_dir(&dir)?;
    let Some(last) = segments.back_mut() else {
        let view = View {
            segments,
            end: 0,
            tail_bytes: 0,
            stopped: None,
        };
        return Ok(RegionState::new(id, dir, disk, settings, view, None));
    };
    let path = segment_path(&dir, last.first);
    let content = File::open(&path)?;
    let whole = content.metadata()?.len();
    let (end, bytes) = scan(last, &content, whole)?;
    let mut tail = Tail {
        file: disk.open(&path)?,
        bytes,
        allocated: whole,
    };
    let mut stopped = None;
    if !is_zero(&content, bytes, whole)? {
        let rest = read_at(&content, bytes, usize::MAX, whole)?;
        if was_durable(id, end, &rest) {
            tracing::error!(region = %id, at = end, file = %path.display(), "WAL region corrupt");
            stopped = Some(WalError::Corrupt { at: end });
        } else {
            tracing::warn!(region = %id, at = end, "torn WAL tail cut away");
            tail.file.set_len(bytes)?;
            tail.allocated = bytes;
        }
    }
    tail.file.sync()?;
    let view = View {
        segments,
        end,
        tail_bytes: tail.bytes,
        stopped,
    };
    Ok(RegionState::new(id, dir, disk, settings, view, Some(tail)))
}

/// The segments by rising first offset.
fn list(id: RegionId, dir: &Path) -> Result<VecDeque<Segment>, WalError> {
    let entries = match std::fs::read_dir(dir) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Err(WalError::Missing),
        Err(error) => return Err(error.into()),
    };
    let mut firsts = Vec::new();
    for entry in entries {
        let name = entry?.file_name();
        let text = name.to_string_lossy();
        match text.parse::<Offset>() {
            Ok(first) if text.len() == 20 => firsts.push(first),
            _ => tracing::warn!(region = %id, file = %text, "not a WAL segment, left alone"),
        }
    }
    firsts.sort_unstable();
    Ok(firsts.into_iter().map(Segment::new).collect())
}

/// Reads to the first place that is no frame: its offset and its byte.
fn scan(segment: &Segment, content: &File, whole: u64) -> Result<(Offset, u64), WalError> {
    let mut marks = segment.marks.lock();
    let mut cursor = Cursor::new(content, 0, whole, usize::MAX);
    let mut offset = segment.first;
    loop {
        let byte = cursor.byte();
        match cursor.next()? {
            Ok(_) => {
                marks.saw(offset, byte);
                offset += 1;
            }
            Err(FrameError::Version(version)) if version > VERSION => {
                return Err(WalError::Misconfigured(format!(
                    "the WAL has frames of version {version} at offset {offset}, this program reads \
                     up to {VERSION}"
                )));
            }
            Err(_) => return Ok((offset, byte)),
        }
    }
}

/// Whether a frame in `rest` was made after its writer had accounted offset `at`.
fn was_durable(id: RegionId, at: Offset, rest: &Bytes) -> bool {
    let incarnation = id.incarnation.to_le_bytes();
    rest.windows(16)
        .enumerate()
        // The incarnation is no user's to guess: a payload cannot hold what looks like a frame.
        .filter(|(_, head)| head[..4] == MAGIC && head[8..] == incarnation)
        .filter_map(|(byte, _)| Frame::decode(&rest.slice(byte..)).ok())
        .any(|frame| frame.prev > at)
}

fn is_zero(content: &File, from: u64, to: u64) -> io::Result<bool> {
    let mut at = from;
    while at < to {
        let window = read_at(content, at, 1 << 20, to)?;
        let zero = |chunk: &[u8]| *chunk == ZEROS[..chunk.len()];
        if window.is_empty() || !window.chunks(ZEROS.len()).all(zero) {
            return Ok(false);
        }
        at += window.len() as u64;
    }
    Ok(true)
}
