//! A compute node: the session to meta, the write path, tenancy, and the doors.
//!
//! Rooms: [`session`] (with meta).
//!
//! Never here: what is scheduled where, bytes of a file, plans.

pub mod session;
