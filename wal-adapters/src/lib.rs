//! The write-ahead log seam: the contract of a log service, the frame that lies in it, and the one
//! rule by which every reader accepts frames.
//!
//! Rooms: this file (the contract), [`frame`] (bytes of a record), [`valid`] (the acceptance rule,
//! one pure function for leader, follower, children, tools and tests), and the adapters: [`memory`]
//! (the reference, with faults on demand), [`local`] (a locked directory on this machine's disk),
//! [`kafka`] (a topic for each region). `load` bounds what waits in an adapter; [`conformance`] is the
//! suite that every adapter passes.
//!
//! Payload is bytes: nothing here knows a row, a manifest or a shard's engine. Nothing here decides
//! who leads; an adapter excludes nobody, leadership is a record in the log.
//!
//! # The contract
//!
//! A *region* is one shard's log, named by [`RegionId`]. All bounds are exclusive: `end` and `next`
//! name the first offset that is not covered.
//!
//! * **Append.** Whole or not at all. Two appends called in order on one handle that both resolve
//!   [`Placed::At`] have rising offsets. Dropping the future cancels nothing. A full queue is
//!   `Refused(Busy)` at once, a payload above [`frame::PAYLOAD_BYTES_MAX`] is `Refused(TooLarge)`.
//!   After `Unknown` a frame may land late, twice, or behind younger ones; the acceptance rule makes
//!   that harmless.
//! * **Durability.** `At` only after the service's full durability; `Somewhere` is a claim that a
//!   read must confirm.
//! * **Order.** One total order for all readers; a place never changes its content.
//! * **Read.** Returns every frame of [from, next) in order; holes are legal; an empty region answers
//!   when `wait` ends. A frame `At(o)` is seen by every later read from o or below until truncated.
//!   Below `start`: `OutOfRange`, never a silent move. Checksums are verified on each read.
//! * **End.** An `end` lower than one seen is ignored. A read position beyond the log, or an offset
//!   delivered twice for different frames, is `Regressed`.
//! * **Truncate.** Deletes below the bound or less; `start` never passes the bound; numbering never
//!   restarts. A bound above `end` is `Regressed`: the caller knew a longer log. `start` may fall back
//!   after a crash of the service, which is harmless: readers start at their manifest's `flushed`.
//! * **Ownership.** Many handles in many processes may append at once. Per process and shard the
//!   engine has one appending task.
//! * **Errors.** `Busy`, `Unavailable`: retry within the deadline. `OutOfRange`: reload the manifest.
//!   Where [`WalError::parks`] holds the shard is parked: no ack, flush or truncation; reads of what
//!   is known go on and say so.

use std::future::Future;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use tokio::time::Instant;

pub mod conformance;
pub mod frame;
pub mod kafka;
mod load;
pub mod local;
pub mod memory;
pub mod valid;

pub use frame::{Frame, FrameKind};
pub use valid::{Acceptance, Breach, Cur, Verdict};

/// Place of a frame in a region; unsigned, so that no service's "everything" (-1) can be written.
pub type Offset = u64;

/// Names a region: a shard's log in one of its incarnations.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RegionId {
    /// Id of the shard.
    pub shard: u64,
    /// Drawn at random by the procedure that makes the region, so that a remade log is never taken
    /// for the old one.
    pub incarnation: u64,
}

impl std::fmt::Display for RegionId {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}-{:x}", self.shard, self.incarnation)
    }
}

/// One WAL service.
///
/// * durability: what [`Wal::create`] and [`Wal::remove`] did is durable when they return.
/// * idempotence: `create` and `remove` may be called again at any time; the second call is `Ok`.
/// * effects: every call may be dropped at any await; what it began is then finished or not, and is
///   settled by calling again.
#[async_trait]
pub trait Wal: Send + Sync {
    /// Proves that the service is set up to keep what it acknowledges.
    ///
    /// * errors: `Misconfigured` names the first wrong setting; `Unavailable` may be retried.
    async fn check(&self) -> Result<Durability, WalError>;

    /// Makes an empty region that starts at offset 0; `Ok` if it exists already, with its content.
    async fn create(&self, region: RegionId) -> Result<(), WalError>;

    /// A handle on an existing region.
    ///
    /// * errors: `Missing`: no such region of that incarnation; `open` never creates one.
    async fn open(&self, region: RegionId) -> Result<Arc<dyn Region>, WalError>;

    /// Deletes a region with its content; `Ok` if there is none. Only for a detached or dropped shard:
    /// handles that are still open answer `Missing`, `Foreign` or `Regressed` from then on.
    async fn remove(&self, region: RegionId) -> Result<(), WalError>;
}

/// A handle on one region; see the contract at the head of this crate.
#[async_trait]
pub trait Region: Send + Sync {
    /// Appends one frame; queues at once and never blocks.
    ///
    /// * shape: payload of at most [`frame::PAYLOAD_BYTES_MAX`] bytes.
    /// * returns: `At(offset)`, or `Somewhere`: durable, but the service did not say where.
    /// * errors: `Refused` (never in the log: may be sent again), `Unknown` (may be in it once, twice,
    ///   or later: claim before deciding).
    /// * effects: durable with the service's full durability once resolved; dropping the future cancels
    ///   nothing.
    /// * source: docs/invariants.md, "The log".
    fn append(&self, frame: Frame) -> Appending;

    /// Frames from `from` on, in order, about `max_bytes` of encoded frames but at least one if there
    /// is one; waits up to `wait` when there is none yet.
    ///
    /// * errors: `OutOfRange` below the start; `Regressed` above the end; `Corrupt { at }` when the
    ///   frame at `at` is the first one asked for and its bytes are not what was written.
    async fn read(&self, from: Offset, max_bytes: usize, wait: Duration)
    -> Result<Chunk, WalError>;

    /// The first offset that is not taken, as the region's current primary says.
    async fn end(&self) -> Result<End, WalError>;

    /// Whether [`Region::end`] misses no append acknowledged before the call, through any handle and
    /// also in a partition.
    fn end_is_linear(&self) -> bool;

    /// Deletes frames below the bound, or fewer.
    ///
    /// * errors: `Regressed` for a bound above the end.
    async fn truncate(&self, below: Offset) -> Result<(), WalError>;
}

/// The pending answer to an append; dropping it cancels nothing.
pub type Appending = Pin<Box<dyn Future<Output = Result<Placed, AppendError>> + Send>>;

/// Where an appended frame is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Placed {
    /// Durable at this offset.
    At(Offset),
    /// The service says durable but not where; believed only once read back.
    Somewhere,
}

/// How an append failed; the difference decides what the writer may answer.
#[derive(Clone, Debug, thiserror::Error)]
pub enum AppendError {
    /// The frame is not in the log and never will be.
    #[error("append refused: {0}")]
    Refused(WalError),
    /// The frame is in the log perhaps, once or twice, now or later.
    #[error("append of unknown outcome: {0}")]
    Unknown(WalError),
}

/// What a read found.
#[derive(Clone, Debug)]
pub struct Chunk {
    /// Every frame of [from, next), by rising offset.
    pub frames: Vec<(Offset, Frame)>,
    /// Where the next read begins; `from` when nothing was found.
    pub next: Offset,
    /// First offset the region still has.
    pub start: Offset,
    /// The end as known to this read.
    pub end: End,
}

/// The end of a region, and when it was asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct End {
    /// First offset that is not taken.
    pub offset: Offset,
    /// The own monotonic clock before the question left: whatever was acknowledged before then, a
    /// linear end covers.
    pub asked: Instant,
}

/// What an acknowledged frame survives; shown in health and metrics.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Durability {
    /// The loss of machines, as long as one of the in-sync copies lives.
    Replicated {
        /// Copies the service keeps.
        copies: u8,
        /// Copies that must have a frame before it is acknowledged.
        min_in_sync: u8,
    },
    /// Power loss, but not the loss of this machine's disk.
    Disk,
    /// Nothing: for tests.
    Volatile,
}

/// Why a log service could not do as asked.
#[derive(Clone, Debug, thiserror::Error)]
pub enum WalError {
    /// There is no such region.
    #[error("the region does not exist")]
    Missing,
    /// The region under that name is another one than the handle was opened on.
    #[error("the region was replaced by another one")]
    Foreign,
    /// The offset was truncated; reload the manifest and read from its `flushed`.
    #[error("the offset lies below the start {start} of the region")]
    OutOfRange {
        /// First offset the region still has.
        start: Offset,
    },
    /// Bytes that were durable are not what was written.
    #[error("the region is corrupt at offset {at}")]
    Corrupt {
        /// First offset whose content is lost.
        at: Offset,
    },
    /// A queue is full. May be retried.
    #[error("the log is busy")]
    Busy,
    /// The disk of the log is full. May be retried: it has room again once somebody makes some.
    #[error("the disk of the log is full")]
    NoRoom,
    /// The service cannot be reached. May be retried.
    #[error("the log service is unavailable")]
    Unavailable,
    /// The payload is above the limit of a frame.
    #[error("the payload is above the limit of a frame")]
    TooLarge,
    /// The log is shorter than it was known to be.
    #[error("the log was known up to {had} and now ends at {now}")]
    Regressed {
        /// End known before.
        had: Offset,
        /// End now.
        now: Offset,
    },
    /// A setting of the service would lose acknowledged frames, or is out of its range.
    #[error("misconfigured log: {0}")]
    Misconfigured(String),
    /// The operating system failed in a way that leaves the state of the log in doubt.
    #[error("log i/o: {0}")]
    Io(Arc<io::Error>),
}

impl WalError {
    /// Whether the shard must be parked: no ack, flush or truncation until an operator steps in.
    pub fn parks(&self) -> bool {
        match self {
            Self::Missing
            | Self::Foreign
            | Self::Corrupt { .. }
            | Self::Regressed { .. }
            | Self::Io(_) => true,
            Self::OutOfRange { .. }
            | Self::Busy
            | Self::NoRoom
            | Self::Unavailable
            | Self::TooLarge
            | Self::Misconfigured(_) => false,
        }
    }
}

impl From<io::Error> for WalError {
    fn from(error: io::Error) -> Self {
        Self::Io(Arc::new(error))
    }
}
