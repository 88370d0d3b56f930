//! Writes between nodes: what this node took and another one leads, and the other way round.
//!
//! Rooms: [`peers`] (one stream to each other node, made when it is first needed), [`door`] (the
//! service behind which other nodes' writes are applied).
//!
//! A write is forwarded once. What was not handed to the stream is certainly in no state; what was
//! and is not answered has an unknown outcome.
//!
//! Never here: which node leads a shard, or trying again.

pub mod door;
pub mod peers;

use std::time::Duration;

/// Longest time for one forwarded write: that of the engine and a way.
pub const FORWARD_TIME: Duration = Duration::from_secs(11);
/// Bytes of one message: a record of the log and what stands around it.
pub(crate) const MESSAGE_BYTES_MAX: usize = (8 << 20) + (64 << 10);
