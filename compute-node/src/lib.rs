//! A compute node: the session to meta, the write path, tenancy, and the doors.
//!
//! Rooms: [`protocols`] (bytes into rows and statements, answers into bytes). Never here: what is
//! scheduled where, bytes of a file, plans.

pub mod protocols;
