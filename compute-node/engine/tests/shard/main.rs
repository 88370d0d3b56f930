//! Shards by the engine's API, over the reference log and a store in memory.
//!
//! Rooms: `life` (what is acked is there, whatever happens to leaders), `flushing` (nothing holds files
//! up for good), `faults` (each fault of the log, and what may be answered), `fencing` (two leaders at
//! once), `storm` (everything at once, by a seed); `ground` (services, nodes, rows, and the model of what callers were told).

#![allow(clippy::unwrap_used, reason = "a test ends where it cannot go on")]

mod faults;
mod fencing;
mod flushing;
mod ground;
mod life;
mod storm;
