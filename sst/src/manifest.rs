//! Manifest: everything a shard must know besides its log, in one object.
//!
//! A shard opens from its newest manifest and the log from `flushed` on. Manifests are numbered
//! objects, each created once ([`crate::manifest_store`]); their bytes are described in
//! docs/formats/manifest.md and written by [`Manifest::encode`]; what must hold of them is in
//! [`check`], as named laws that run before every commit.
//!
//! Never here: access to a store, a clock, the log. The floor is kept, not judged.

use std::sync::Arc;

use auxo_proto::ids::{BatchId, Seq, ShardId, TabletId, TenantId, Term};
use auxo_proto::schema::TabletSpec;
use bytes::Bytes;

use crate::entry::FileEntry;
use crate::predicate::{TagFilter, TimeRange};

mod body;
pub mod check;
mod codec;
#[cfg(test)]
pub(crate) mod samples;
#[cfg(test)]
mod tests;

pub use codec::DecodeError;

/// Place of a record in the shard's region; bounds are exclusive: the first one not covered.
pub type Offset = u64;

/// Longest manifest, in bytes: what a commit refuses to write and a reader refuses to fetch.
pub const MANIFEST_BYTES_MAX: usize = 256 << 20;

/// State of the log's acceptance rule at an offset: what the last accepted record left behind.
///
/// * source: docs/invariants.md, "What counts". A replay starts from it and never from zero: without its term a late
///   frame of a deposed leader would be accepted once the claim is truncated, without its `n` a
///   late duplicate.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Floor {
    /// Term of the claim that counted last.
    pub term: Term,
    /// Number its leader drew.
    pub writer: u64,
    /// Number of that writer's last accepted record.
    pub n: u64,
    /// Whether a seal was accepted: nothing behind it ever counts.
    pub sealed: bool,
}

/// The log of a shard that this one came from, as long as its tail is not flushed here.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Parent {
    /// The sealed shard.
    pub shard: ShardId,
    /// Incarnation of its region.
    pub incarnation: u64,
    /// What its offsets are added to.
    pub base_seq: Seq,
    /// First offset that its files do not cover.
    pub from: Offset,
    /// Offset of its seal: the first one that holds no row.
    pub until: Offset,
    /// State of the acceptance rule at `from`.
    pub floor: Floor,
}

/// Rows of a tablet that a statement deleted: in every source that is older than it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Delete {
    /// Whose rows.
    pub tablet: TabletId,
    /// Which series.
    pub filter: TagFilter,
    /// Which times.
    pub time: TimeRange,
    /// Sequence of the statement: rows below it are gone.
    pub seq: Seq,
}

/// An object that no longer belongs to the shard, kept for those who may still read it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Retired {
    /// Object's key below the store's prefix.
    pub key: String,
    /// Its length in bytes.
    pub length: u64,
    /// Wall time when it left, in milliseconds since 1970.
    pub at_ms: i64,
}

/// One batch that was applied.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BatchEntry {
    /// Name the client gave it.
    pub id: BatchId,
    /// Hash of the client's whole body.
    pub body_hash: u64,
    /// Sequence of its record.
    pub seq: Seq,
}

/// What is known of one tenant's batches.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TenantBatches {
    /// Whose batches.
    pub tenant: TenantId,
    /// Largest id that was forgotten; it and all smaller ones are refused unless listed.
    pub low_water: Option<BatchId>,
    /// Batches remembered, in ascending order of id, each above `low_water`.
    pub entries: Vec<BatchEntry>,
}

/// Batches applied below `flushed`: a function of the log alone.
///
/// * shape: tenants in ascending order, each once.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct BatchTable {
    /// What is known, tenant by tenant.
    pub tenants: Vec<TenantBatches>,
}

/// One number of a shard's linear chain of states.
///
/// * shape: see [`check`] for what holds of one manifest and of two that follow each other.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Manifest {
    /// Term of the leader that wrote it.
    pub term: Term,
    /// Number that leader drew for its claim.
    pub writer: u64,
    /// Drawn for this commit alone: how a writer knows its own object again.
    pub write_id: u128,
    /// Incarnation of the shard's region.
    pub incarnation: u64,
    /// What offsets of the region are added to; fixed but for a rebase.
    pub base_seq: Seq,
    /// Rows below this offset are in `files`, all of them and no others.
    pub flushed: Offset,
    /// State of the acceptance rule at `flushed`.
    pub floor: Floor,
    /// Offset of the claim of `term`.
    pub claim: Offset,
    /// Live sorted files.
    pub files: Vec<FileEntry>,
    /// Tablets the shard holds, each with its table as the shard knows it.
    pub tablets: Vec<TabletSpec>,
    /// Batches applied below `flushed`.
    pub batches: Arc<BatchTable>,
    /// Deletes that some live file may not have met yet.
    pub deletes: Vec<Delete>,
    /// Logs that hold rows of this shard besides its own.
    pub parents: Vec<Parent>,
    /// Objects that left and wait to be deleted.
    pub retired: Vec<Retired>,
}

impl Manifest {
    /// The tablet with that id.
    pub fn tablet(&self, id: TabletId) -> Option<&TabletSpec> {
        self.tablets.iter().find(|tablet| tablet.id == id)
    }

    /// First sequence that `files` do not cover: `base_seq + flushed`.
    pub fn flushed_seq(&self) -> Seq {
        Seq(self.base_seq.0.saturating_add(self.flushed))
    }

    /// Its bytes, as described in docs/formats/manifest.md.
    pub fn encode(&self) -> Bytes {
        codec::encode(self)
    }

    /// Reads bytes that may come from anywhere.
    ///
    /// * errors: [`DecodeError`], naming what is wrong; never a part of a manifest.
    pub fn decode(bytes: &[u8]) -> Result<Self, DecodeError> {
        codec::decode(bytes)
    }
}
