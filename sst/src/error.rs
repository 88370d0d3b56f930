//! What can go wrong with a sorted file, told apart by what a caller does about it.

use std::sync::Arc;

use auxo_proto::ids::ColumnId;

/// A sorted file could not be written, read or merged.
#[derive(Clone, Debug, thiserror::Error)]
pub enum SstError {
    /// Bytes of the file are not what was written: a checksum, a length or the grammar is broken.
    /// Asking again may help when a cache was at fault, never when the store is.
    #[error("file {key} is damaged: {what}")]
    Corrupt {
        /// Object's key.
        key: String,
        /// Which rule is broken, and where.
        what: String,
    },
    /// The file was written by a later version.
    #[error("file {key} has format {found}, this version reads up to {known}")]
    TooNew {
        /// Object's key.
        key: String,
        /// Format of the file.
        found: u32,
        /// Newest format known here.
        known: u32,
    },
    /// The store did not give the bytes; whether to try again, its own error says.
    #[error("file {key} cannot be read: {source}")]
    Store {
        /// Object's key.
        key: String,
        /// What the store said.
        source: Arc<object_store::Error>,
    },
    /// A field is asked for as a type to which the stored one does not widen.
    #[error("column {column} of file {key} holds {found}, which does not widen to {wanted}")]
    TypeChanged {
        /// Object's key.
        key: String,
        /// Which field.
        column: ColumnId,
        /// Type in the file.
        found: String,
        /// Type asked for.
        wanted: String,
    },
    /// Rows handed in break the shape that was promised: a bug of the caller.
    #[error("rows break their promised shape: {0}")]
    Rows(String),
    /// A tag filter holds a regular expression that does not compile.
    #[error("pattern {pattern:?} is not a regular expression: {reason}")]
    Pattern {
        /// The expression.
        pattern: String,
        /// What the parser said.
        reason: String,
    },
    /// The encoder refused; nothing was stored.
    #[error("rows cannot be encoded: {0}")]
    Encode(String),
}

impl SstError {
    pub(crate) fn corrupt(key: &str, what: impl std::fmt::Display) -> Self {
        Self::Corrupt {
            key: key.to_owned(),
            what: what.to_string(),
        }
    }

    pub(crate) fn encode(what: impl std::fmt::Display) -> Self {
        Self::Encode(what.to_string())
    }

    pub(crate) fn rows(what: impl Into<String>) -> Self {
        Self::Rows(what.into())
    }
}
