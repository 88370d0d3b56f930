//! How a write ends: `Ok`, `Rejected` (certain; every variant of [`WriteError`] but one), `Unknown`.
//!
//! Never here: who decides it.

use auxo_proto::ids::{BatchId, Seq, ShardId, TabletId};

/// Answer to a write that is durable.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Written {
    /// Sequence of the record that holds it.
    pub seq: Seq,
    /// Whether the batch had been applied before.
    pub replayed: bool,
}

/// Why a write was not acked.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum WriteError {
    /// This node does not lead the shard (any more). Certain: the write is in no state.
    #[error("shard {0} is not led here")]
    NotLeader(ShardId),
    /// The shard is closing or was closed. Certain.
    #[error("shard {0} is closed")]
    Closed(ShardId),
    /// A tablet of the write is not in this shard. Certain.
    #[error("tablet {0} is not in this shard")]
    StaleRoute(TabletId),
    /// A queue is full, or memory or the unflushed cap is reached. Certain; try again.
    #[error("{0}")]
    Busy(Busy),
    /// The log refused the record. Certain; try again.
    #[error("write-ahead log: {0}")]
    Refused(String),
    /// The batch is above what one record holds. Certain; split it.
    #[error("{0}")]
    TooLarge(String),
    /// The batch id was used with another body. Certain.
    #[error("batch {0} was applied with another body")]
    BatchConflict(BatchId),
    /// The batch id is older than what the shard remembers. Certain.
    #[error("batch {0} is older than the window of batch ids")]
    BatchExpired(BatchId),
    /// Perhaps in the log: send again with the same batch id.
    #[error("the outcome of the write is not known")]
    Unknown,
    /// The shard stopped itself. Certain for this write.
    #[error("shard is parked: {0}")]
    Parked(String),
}

/// What has no room for a write.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Busy {
    /// Requests in flight or memtables of the node.
    #[error("node is short of memory for writes")]
    Memory,
    /// Unflushed bytes of the shard.
    #[error("shard has reached its cap of unflushed bytes")]
    Unflushed,
    /// The same, and the disk that files go to is full.
    #[error("shard has reached its cap of unflushed bytes, and the disk of its files is full")]
    Store,
    /// The shard's queue of requests.
    #[error("queue of the shard is full")]
    Queue,
}
