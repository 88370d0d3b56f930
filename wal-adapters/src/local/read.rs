//! Reading frames back from segments, each verified by its checksum.
//!
//! A read stays within one segment and begins at the last remembered place before its offset. It
//! reads only bytes that were durable when it looked. Never here: a wait, or a whole segment in
//! memory.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;

use bytes::Bytes;

use super::region::{RegionState, Segment};
use crate::frame::{Frame, FrameError};
use crate::{Offset, WalError};

/// Bytes read from a file at once, at least and at most, unless a frame is longer.
const WINDOW_BYTES_MIN: usize = 64 << 10;
const WINDOW_BYTES_MAX: usize = 1 << 20;

/// A segment as a reader found it.
pub(super) struct Span {
    pub(super) segment: Segment,
    /// First offset that is not in this segment, or not durable.
    pub(super) until: Offset,
    /// Durable bytes of the last segment; an older one is whole.
    pub(super) tail_bytes: Option<u64>,
}

impl RegionState {
    /// Frames from `from` on: about `max_bytes`, at least one.
    ///
    /// * errors: `Corrupt` where the first damaged frame is, if that is the first one asked for;
    ///   `Regressed` if the last segment has become shorter.
    pub(super) fn read(
        &self,
        from: Offset,
        max_bytes: usize,
        span: Span,
    ) -> Result<Vec<(Offset, Frame)>, WalError> {
        let file = match File::open(self.path(span.segment.first)) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                // Truncated or removed since the look, which a second look says; else it is lost.
                self.look(from)?;
                return Err(WalError::Corrupt { at: from });
            }
            Err(error) => return Err(error.into()),
        };
        let whole = match span.tail_bytes {
            Some(bytes) => bytes,
            None => file.metadata()?.len(),
        };
        let (mut offset, byte) = span.segment.marks.lock().at_or_before(from);
        let mut cursor = Cursor::new(&file, byte, whole, max_bytes);
        let mut frames = Vec::new();
        let mut taken = 0;
        while offset < span.until {
            let byte = cursor.byte();
            let frame = match cursor.next()? {
                Ok(frame) => frame,
                Err(_) if !frames.is_empty() => break,
                Err(_) => return Err(lost(&file, &span, whole, offset)?),
            };
            span.segment.marks.lock().saw(offset, byte);
            if offset >= from {
                taken += frame.encoded_len();
                if taken > max_bytes && !frames.is_empty() {
                    break;
                }
                frames.push((offset, frame));
            }
            offset += 1;
        }
        Ok(frames)
    }
}

/// Walks over the frames of a segment, a window of the file at a time.
pub(super) struct Cursor<'a> {
    file: &'a File,
    /// Where the next frame begins.
    byte: u64,
    /// Bytes of the file that may be read.
    whole: u64,
    /// The file from `byte` on.
    window: Bytes,
    window_bytes: usize,
}

impl<'a> Cursor<'a> {
    /// `ahead` is about how much will be asked for.
    pub(super) fn new(file: &'a File, byte: u64, whole: u64, ahead: usize) -> Self {
        Self {
            file,
            byte,
            whole,
            window: Bytes::new(),
            window_bytes: ahead.clamp(WINDOW_BYTES_MIN, WINDOW_BYTES_MAX),
        }
    }

    pub(super) fn byte(&self) -> u64 {
        self.byte
    }

    /// The next frame, or what is there instead; behind the last byte `Short`.
    pub(super) fn next(&mut self) -> io::Result<Result<Frame, FrameError>> {
        let mut decoded = Frame::decode(&self.window);
        while let Err(FrameError::Short { need }) = decoded {
            if self.byte + need as u64 > self.whole {
                break;
            }
            self.window = read_at(
                self.file,
                self.byte,
                self.window_bytes.max(need),
                self.whole,
            )?;
            decoded = Frame::decode(&self.window);
            if self.window.len() < need {
                break;
            }
        }
        if let Ok(frame) = &decoded {
            let length = frame.encoded_len();
            self.window = self.window.slice(length..);
            self.byte += length as u64;
        }
        Ok(decoded)
    }
}

/// What it means that the frame at `at` is not there: the last segment was cut behind us, or damage.
fn lost(file: &File, span: &Span, whole: u64, at: Offset) -> io::Result<WalError> {
    let cut = span.tail_bytes.is_some() && file.metadata()?.len() < whole;
    Ok(match cut {
        true => WalError::Regressed {
            had: span.until,
            now: at,
        },
        false => WalError::Corrupt { at },
    })
}

/// Up to `size` bytes from `at` on, none at `whole` or behind; fewer where the file ends.
pub(super) fn read_at(file: &File, at: u64, size: usize, whole: u64) -> io::Result<Bytes> {
    let mut bytes = vec![0; (size as u64).min(whole.saturating_sub(at)) as usize];
    let mut filled = 0;
    while filled < bytes.len() {
        match file.read_at(&mut bytes[filled..], at + filled as u64) {
            Ok(0) => break,
            Ok(read) => filled += read,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    bytes.truncate(filled);
    Ok(bytes.into())
}
