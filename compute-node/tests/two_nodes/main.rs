//! Two nodes in one process, of which one leads a shard and the other takes requests for it: writes
//! ([`forward`]) and reads ([`reading`]).

#![allow(
    clippy::unwrap_used,
    reason = "a test ends where something is not as wanted"
)]

mod forward;
mod nodes;
mod reading;
