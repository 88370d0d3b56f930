//! SQL over HTTP: what a request asks for, and an answer in the format it asked for.
//!
//! Rooms: [`format`] (record batches to bytes). All of it is pure: no socket, no clock, no engine.

pub mod format;
