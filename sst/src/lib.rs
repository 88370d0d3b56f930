//! Sorted files on Parquet: how rows lie in the object store and how they come back.
//!
//! Rooms: [`batch`] (rows in key order, the one currency of this crate), [`predicate`] (what a
//! scan may skip), [`entry`] (what a manifest knows of a file). The seam below is
//! `object_store::ObjectStore`.
//!
//! Never here: the log, a role, a table's name, SQL. A term is only ever copied, never judged,
//! except by the manifest's commit.

pub mod batch;
pub mod compaction;
pub mod entry;
#[cfg(test)]
mod faulty;
pub mod garbage;
pub mod local_store;
pub mod manifest;
pub mod manifest_store;
pub mod names;
pub mod predicate;
pub mod store_check;
