//! SQL over HTTP: what a request asks for, and an answer in the format it asked for.
//!
//! Rooms: [`request`] (URL, headers and body to a statement; pure), [`format`] (record batches to
//! bytes; pure), [`door`] (the routes: run the statement), `writing` (the answer on its way to a
//! reader), `failed` (what becomes of a statement that failed).

pub mod door;
mod failed;
pub mod format;
pub mod request;
mod writing;
