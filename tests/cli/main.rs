//! The binary as a script sees it: exit codes, both streams, and what goes over the wire.
//!
//! A node is played by [`responder`]; [`process`] runs the binary and never waits for ever, and
//! [`terminal`] runs it where a person would.

#![allow(
    clippy::unwrap_used,
    reason = "what a test cannot go on without fails it"
)]

mod admin;
mod bench;
mod config;
mod process;
mod responder;
mod shell;
mod sql;
mod terminal;
mod write;
