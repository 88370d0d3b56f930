//! Watching: every change, once, in order, to everyone who asked.
//!
//! 1. Apply publishes each batch to the [`Feed`]: a ring of the newest changes, and a signal.
//! 2. Each stream of a client is one task ([`Stream`]) with a position for each of its watchers. Woken
//!    by the signal it takes what is new from the ring, matches it, and sends it by a bounded channel.
//! 3. A watcher behind the ring is replayed from the history in the tables, a bounded piece at a time,
//!    while the others of the stream go on. One that is behind the compaction boundary is canceled:
//!    nothing is ever skipped in silence.
//!
//! A slow client slows its own stream only: the task waits for room, nothing waits for the task.
//! Never here: gRPC.

mod feed;
mod stream;

pub(crate) use feed::Feed;
pub(crate) use stream::{Create, Request, Stream};
