//! Keys, revisions and leases as tables: pure functions over a redb transaction.
//!
//! `tables` is the layout, `store` the file, `range` reads, `write` changes, `txn` compares and
//! branches, `compact` forgets. Each change is made within one transaction that its caller opens and
//! commits, together with the position of the log entry it comes from.
//!
//! Never here: a clock, randomness, a thread, a socket, or a setting that may differ between
//! members: the same entries give the same tables everywhere.

pub(crate) mod compact;
#[cfg(test)]
mod golden;
mod history;
#[cfg(test)]
mod model;
mod range;
mod store;
mod tables;
mod txn;
mod write;

pub(crate) use history::{Changes, Piece, history};
pub(crate) use range::{
    Keys, first_by_create, last_by_create_below, lease_keys, point, point_at, range,
};
pub use store::StoreError;
pub(crate) use store::{Identity, ReadView, Store};
pub(crate) use tables::{MetaKey, Tables, View};
pub(crate) use txn::{execute, read};
pub(crate) use write::Writer;

/// Why an operation that is well formed was not carried out. It changed nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Refusal {
    #[error("key not found")]
    KeyNotFound,
    #[error("required revision has been compacted")]
    Compacted,
    #[error("required revision is a future revision")]
    FutureRevision,
    #[error("requested lease not found")]
    LeaseNotFound,
    #[error("lease already exists")]
    LeaseExists,
    /// An expiry proposed by the primary of another Raft term.
    #[error("no longer the primary")]
    Superseded,
}

/// Why an operation ended without a result.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Fault {
    #[error(transparent)]
    Refused(#[from] Refusal),
    /// The tables cannot be read or written, or contradict each other. Whoever was writing stops.
    #[error(transparent)]
    Store(Box<redb::Error>),
}

impl<E: Into<redb::Error>> From<E> for Fault {
    fn from(error: E) -> Self {
        Self::Store(Box::new(error.into()))
    }
}

/// Tables that contradict each other.
fn torn(what: impl Into<String>) -> Fault {
    Fault::Store(Box::new(redb::Error::Corrupted(what.into())))
}
