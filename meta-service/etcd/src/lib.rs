//! The etcd v3 API on Raft and redb: one member, in this process.
//!
//! A write goes `grpc` (checked) → `raft` (agreed on) → `log` (durable) → `apply` (one thread, in order)
//! → `mvcc` (tables) → `watch` (told to whoever asked) → answer. A read goes `grpc` → `raft` (still the
//! leader?) → `mvcc`. `lease` measures time beside them. `server` puts the parts together.
//!
//! | room | subject |
//! |---|---|
//! | [`Config`], [`Server`] | starting, reaching and stopping a member |
//! | [`Supervised`] | starting it again when it has failed |
//! | `proposal` | what a log entry carries |
//! | `raft`, `log` | consensus and its durable log; the only rooms that know the Raft crate |
//! | `apply`, `mvcc` | entries into tables, tables into answers |
//! | `lease`, `watch` | who lives how long; who is told what |
//! | `grpc` | etcd's services, checks and error texts |
//!
//! This crate knows keys and bytes, and no word of what is kept in them.

mod apply;
mod config;
mod grpc;
mod lease;
mod log;
mod mvcc;
mod proposal;
mod raft;
mod server;
mod supervised;
mod watch;

pub use config::Config;
pub use log::LogError;
pub use mvcc::StoreError;
pub use server::{Server, StartError};
pub use supervised::Supervised;
