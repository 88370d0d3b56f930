//! Consensus: this room, and `log` beside it, are the only ones that know the Raft crate.
//!
//! `types` names what is replicated, `membership` encodes who votes, `machine` hands committed
//! entries to `apply`, `network` reaches other members (there are none yet), `node` is what the
//! rest of the crate uses: propose, read index, leader, stop.

mod machine;
pub(crate) mod membership;
mod network;
mod node;
pub(crate) mod types;

pub(crate) use machine::Machine;
pub(crate) use node::{Leading, Node, NodeError, Timing};
