//! SQL over HTTP: what a request asks for, and an answer in the format it asked for.
//!
//! Rooms: [`request`] (URL, headers and body to a statement; pure), [`format`] (record batches to
//! bytes; pure), [`door`] (the route: runs the statement, streams the answer).

pub mod door;
pub mod format;
pub mod request;
