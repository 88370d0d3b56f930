//! Sorted files on Parquet: how rows lie in the object store and how they come back.
//!
//! Rooms: [`batch`] (rows in key order, the one currency of this crate), [`predicate`] (what a
//! scan may skip), [`entry`] (what a manifest knows of a file), [`format`] (names and numbers of
//! the file's layout), [`writer`] (rows to bytes), [`index`] (series and values of a file),
//! [`reader`] (bytes to rows), [`merge`] (several sources to one, and unsorted rows to sorted
//! ones). The seam below is `object_store::ObjectStore`.
//!
//! Never here: the log, a role, a table's name, SQL. A term is only ever copied, never judged,
//! except by the manifest's commit.

pub mod batch;
pub mod entry;
mod error;
pub mod format;
pub mod index;
pub mod merge;
#[cfg(test)]
mod model;
pub mod predicate;
pub mod reader;
pub mod writer;

pub use error::SstError;
