//! A compute node: the session to meta, the write path, tenancy, and the doors.
//!
//! Rooms: [`session`] (with meta), [`verbs`] (what meta orders, done by the engine),
//! [`write`](mod@write) (rows to the shards that own them), [`forward`] (to and from the nodes that
//! lead those), [`reading`] (tablets of this node for statements of others, and theirs for ours),
//! [`statements`] (SQL carried out), [`channels`] (to the other nodes),
//! [`node`] (what every door stands on), [`running`] (statements that can be cancelled),
//! [`metrics`], [`protocols`] (bytes into rows and statements, answers into bytes).
//!
//! Never here: what is scheduled where, bytes of a file, plans.

pub mod channels;
pub mod forward;
pub mod metrics;
pub mod node;
pub mod protocols;
pub mod reading;
pub mod running;
pub mod session;
pub mod statements;
pub mod verbs;
pub mod write;
