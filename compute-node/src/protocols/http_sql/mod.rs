//! SQL over HTTP: what a request asks for, and an answer in the format it asked for.
//!
//! Rooms: [`request`] (bytes to fields), [`format`] (record batches to bytes). Both are pure: no
//! socket, no clock, no engine.

pub mod format;
pub mod request;
