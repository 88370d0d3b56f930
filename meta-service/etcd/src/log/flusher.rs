//! The thread that writes the log: many waiting commands, one frame, one `fdatasync`.
//!
//! With nothing waiting a command is written at once. After an error nothing is ever written
//! again: what the disk holds is no longer known, so every later command gets the error.

use std::collections::VecDeque;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::PathBuf;
use std::sync::Arc;

use tokio::sync::{mpsc, oneshot};

use super::format::{FRAME_BODY_BYTES_MAX, FRAME_HEADER_BYTES, FrameHeader, Position, Record};
use super::segment::{self, Kept, Place, Segment};

/// A segment that has grown past this is followed by another.
const SEGMENT_BYTES: u64 = 16 << 20;
const WAITING_MAX: usize = 1024;
/// A frame is closed once it holds this much.
pub(crate) const FRAME_BYTES: usize = 4 << 20;
// A frame holds less than FRAME_BYTES and one command, which holds less than that and one entry, which
// is at most half a frame.
const _: () = assert!(4 * FRAME_BYTES < FRAME_BODY_BYTES_MAX);

/// Told when what was handed in is durable, or will never be.
pub(crate) enum Done {
    /// A later command of the same caller tells.
    Nobody,
    Callback(Box<dyn FnOnce(io::Result<()>) + Send>),
    Waiter(oneshot::Sender<io::Result<()>>),
}

impl Done {
    fn tell(self, result: io::Result<()>) {
        match self {
            Self::Nobody => {}
            Self::Callback(call) => call(result),
            // The waiter may have been dropped: what it wanted is durable all the same.
            Self::Waiter(waiter) => drop(waiter.send(result)),
        }
    }
}

/// Records to make durable, in order; together at most [`FRAME_BYTES`] and one entry.
pub(crate) struct Command {
    pub(crate) records: Vec<Record>,
    pub(crate) done: Done,
}

/// Called with each entry made durable and where it lies, before its `Done`.
pub(crate) type Written = Box<dyn FnMut(Vec<(Position, Place)>) + Send>;

pub(crate) struct Flusher {
    pub(crate) dir: PathBuf,
    pub(crate) segments: VecDeque<Segment>,
    pub(crate) kept: Kept,
    pub(crate) next_frame: u64,
    pub(crate) written: Written,
    /// Held until the thread ends, so that no other process opens the directory before.
    pub(crate) lock: Arc<std::fs::File>,
}

impl Flusher {
    /// Starts the thread; it ends, everything written, when the sender is dropped.
    pub(crate) fn spawn(self) -> io::Result<(mpsc::Sender<Command>, std::thread::JoinHandle<()>)> {
        let (commands, waiting) = mpsc::channel(WAITING_MAX);
        let thread = std::thread::Builder::new()
            .name("etcd-log".to_owned())
            .spawn(move || self.run(waiting))?;
        Ok((commands, thread))
    }

    fn run(mut self, mut waiting: mpsc::Receiver<Command>) {
        let mut body = Vec::new();
        let mut failed: Option<io::Error> = None;
        while let Some(first) = waiting.blocking_recv() {
            let mut done = Vec::new();
            let mut entries = Vec::new();
            let mut purged = None;
            let mut next = Some(first);
            body.clear();
            while let Some(command) = next.take() {
                for record in command.records {
                    let offset = body.len();
                    let length = record.encode(&mut body);
                    match record {
                        Record::Entry { at, .. } => entries.push((at, offset, length)),
                        Record::Vote(ballot) => self.kept.vote = Some(ballot),
                        Record::Committed(at) => self.kept.committed = Some(at),
                        Record::Purged(at) => {
                            self.kept.purged = Some(at);
                            purged = Some(at);
                        }
                        Record::Truncated { .. } => {}
                    }
                }
                done.push(command.done);
                if body.len() < FRAME_BYTES {
                    next = waiting.try_recv().ok();
                }
            }
            if failed.is_none() {
                failed = self.write(&body, entries, purged).err();
                if let Some(error) = &failed {
                    tracing::error!(dir = %self.dir.display(), %error, "cannot write the log");
                }
            }
            for done in done {
                done.tell(match &failed {
                    None => Ok(()),
                    Some(error) => Err(io::Error::new(error.kind(), error.to_string())),
                });
            }
        }
        drop(self.lock);
    }

    fn write(
        &mut self,
        body: &[u8],
        entries: Vec<(Position, usize, usize)>,
        purged: Option<Position>,
    ) -> io::Result<()> {
        if self
            .segments
            .back()
            .is_none_or(|last| last.bytes >= SEGMENT_BYTES)
        {
            let segment = segment::create(&self.dir, self.next_frame, &self.kept)?;
            self.segments.push_back(segment);
            self.next_frame += 1;
        }
        let Some(segment) = self.segments.back_mut() else {
            return Err(io::Error::other("no segment"));
        };
        let header = FrameHeader {
            number: self.next_frame,
            body_bytes: body.len() as u32,
        };
        let start = segment.bytes;
        segment.file.write_all_at(&header.encode(), start)?;
        segment
            .file
            .write_all_at(body, start + FRAME_HEADER_BYTES as u64)?;
        segment.file.sync_data()?;
        segment.bytes = start + (FRAME_HEADER_BYTES + body.len()) as u64;
        self.next_frame += 1;

        let mut places = Vec::with_capacity(entries.len());
        for (at, offset, length) in entries {
            segment.last = segment.last.max(Some(at.index));
            let place = Place {
                file: segment.file.clone(),
                offset: start + (FRAME_HEADER_BYTES + offset) as u64,
                bytes: length as u32,
            };
            places.push((at, place));
        }
        (self.written)(places);
        if let Some(purged) = purged {
            self.delete_until(purged)?;
        }
        Ok(())
    }

    /// Deletes the oldest segments as far as all their entries are purged; never the last one.
    fn delete_until(&mut self, purged: Position) -> io::Result<()> {
        while self.segments.len() > 1
            && let Some(first) = self.segments.front()
            && first.last.is_none_or(|last| last <= purged.index)
        {
            std::fs::remove_file(&first.path)?;
            self.segments.pop_front();
        }
        Ok(())
    }
}
