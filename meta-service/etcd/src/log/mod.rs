//! The Raft log and vote on disk: the durable truth of a member.
//!
//! 1. Everything Raft wants kept becomes a *record*; all records waiting at one moment become one
//!    *frame*; one frame is one write and one `fdatasync`; the next frame is written only after it.
//! 2. So a frame that is not whole with nothing whole behind it is a write that never finished: it
//!    is cut off at the next start. With a whole frame behind it, it was damaged after it was
//!    durable: the file is named and refused.
//! 3. Frames are in segments. A segment begins with the vote, the purged and the committed position,
//!    so that all segments before it can be deleted once their entries are purged.
//!
//! `format` is the bytes, `segment` the files, `flusher` the thread that writes, `store` what Raft
//! sees. Never here: what an entry means, and anything of the state machine. Byte layout:
//! docs/formats/etcd-log.md.

mod flusher;
mod format;
mod segment;
mod store;
#[cfg(test)]
mod suite;

use std::path::PathBuf;

pub(crate) use store::LogStore;

/// Why a log cannot be opened.
#[derive(Debug, thiserror::Error)]
pub enum LogError {
    /// The operating system refused.
    #[error("{path}: {source}")]
    Io {
        /// The file or directory.
        path: PathBuf,
        /// What it said.
        source: std::io::Error,
    },
    /// Bytes that were durable are no longer what was written.
    #[error("{path} is corrupt at byte {offset}: {what}")]
    Corrupt {
        /// The segment.
        path: PathBuf,
        /// Where in it.
        offset: u64,
        /// What is wrong there.
        what: String,
    },
    /// A later version wrote this file.
    #[error("{path} has log format {format}, this version reads up to {known}")]
    Newer {
        /// The segment.
        path: PathBuf,
        /// Its format.
        format: u32,
        /// The newest format this version knows.
        known: u32,
    },
}
