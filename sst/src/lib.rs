//! Sorted files on Parquet: how rows lie in the object store and how they come back.
//!
//! Rooms: [`batch`] (rows in key order, the one currency of this crate), [`predicate`] (what a
//! scan may skip), [`entry`] (what a manifest knows of a file); [`format`], [`writer`], [`index`],
//! [`reader`] (one file: bytes, made, found, read); [`merge`] (several sources as one);
//! [`manifest`] and [`manifest_store`] (what a shard consists of, and how that changes),
//! [`names`] (every object's key), [`local_store`] and [`store_check`] (a store that keeps what it
//! promises), [`s3`] (a bucket); [`compaction`] and [`garbage`] (what to join, what to delete). The seam below is `object_store::ObjectStore`.
//!
//! Never here: the log, a role, a table's name, SQL. A term is only ever copied, never judged,
//! except by the manifest's commit.

pub mod batch;
pub mod cache;
pub mod compaction;
pub mod entry;
mod error;
#[cfg(test)]
mod faulty;
pub mod format;
pub mod garbage;
pub mod index;
pub mod local_store;
pub mod manifest;
pub mod manifest_store;
pub mod merge;
#[cfg(test)]
mod model;
pub mod names;
pub mod predicate;
pub mod reader;
pub mod s3;
pub mod store_check;
pub mod writer;

pub use error::SstError;
