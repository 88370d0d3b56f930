//! Shards on one node: the log in, sorted files out, rows back.
//!
//! Rooms: [`payload`] (what one record of the log says).
//!
//! Never here: SQL, a socket, a name of a user.

pub mod payload;
