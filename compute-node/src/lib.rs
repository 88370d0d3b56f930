//! A compute node: the session to meta, the write path, tenancy, and the doors.
//!
//! Rooms: [`session`] (with meta), [`write`](mod@write) (rows to the shards that own them),
//! [`protocols`] (bytes into rows and statements, answers into bytes).
//!
//! Never here: what is scheduled where, bytes of a file, plans.

pub mod protocols;
pub mod session;
pub mod write;
