//! Protobuf messages of a manifest's body, private to the codec.
//!
//! Tags are never reused and types never change. A new field is added with a new tag where an
//! older reader may ignore it; otherwise the format's version byte rises.

use bytes::Bytes;
use prost::Message;

#[derive(Clone, PartialEq, Message)]
pub(super) struct Manifest {
    #[prost(message, optional, tag = "1")]
    pub(super) term: Option<Term>,
    #[prost(fixed64, tag = "2")]
    pub(super) writer: u64,
    #[prost(bytes = "bytes", tag = "3")]
    pub(super) write_id: Bytes,
    #[prost(fixed64, tag = "4")]
    pub(super) incarnation: u64,
    #[prost(uint64, tag = "5")]
    pub(super) base_seq: u64,
    #[prost(uint64, tag = "6")]
    pub(super) flushed: u64,
    #[prost(message, optional, tag = "7")]
    pub(super) floor: Option<Floor>,
    #[prost(uint64, tag = "8")]
    pub(super) claim: u64,
    #[prost(message, repeated, tag = "9")]
    pub(super) files: Vec<File>,
    #[prost(message, repeated, tag = "10")]
    pub(super) tables: Vec<Table>,
    #[prost(message, repeated, tag = "11")]
    pub(super) tablets: Vec<Tablet>,
    #[prost(message, repeated, tag = "12")]
    pub(super) batches: Vec<TenantBatches>,
    #[prost(message, repeated, tag = "13")]
    pub(super) deletes: Vec<Delete>,
    #[prost(message, repeated, tag = "14")]
    pub(super) parents: Vec<Parent>,
    #[prost(message, repeated, tag = "15")]
    pub(super) retired: Vec<Retired>,
}

#[derive(Clone, Copy, PartialEq, Message)]
pub(super) struct Term {
    #[prost(uint64, tag = "1")]
    pub(super) epoch: u64,
    #[prost(uint32, tag = "2")]
    pub(super) inc: u32,
}

#[derive(Clone, Copy, PartialEq, Message)]
pub(super) struct Floor {
    #[prost(message, optional, tag = "1")]
    pub(super) term: Option<Term>,
    #[prost(fixed64, tag = "2")]
    pub(super) writer: u64,
    #[prost(uint64, tag = "3")]
    pub(super) n: u64,
    #[prost(bool, tag = "4")]
    pub(super) sealed: bool,
}

#[derive(Clone, PartialEq, Message)]
pub(super) struct File {
    #[prost(string, tag = "1")]
    pub(super) key: String,
    #[prost(uint64, tag = "2")]
    pub(super) offset: u64,
    #[prost(uint64, tag = "3")]
    pub(super) length: u64,
    #[prost(uint64, tag = "4")]
    pub(super) tail_length: u64,
    #[prost(fixed32, tag = "5")]
    pub(super) tail_crc32c: u32,
    #[prost(uint64, tag = "6")]
    pub(super) table: u64,
    #[prost(uint64, tag = "7")]
    pub(super) tablet: u64,
    #[prost(sint64, tag = "8")]
    pub(super) segment_start: i64,
    #[prost(uint64, tag = "9")]
    pub(super) segment_ns: u64,
    #[prost(uint64, tag = "10")]
    pub(super) rows: u64,
    #[prost(uint64, tag = "11")]
    pub(super) series: u64,
    #[prost(sint64, tag = "12")]
    pub(super) t_min: i64,
    #[prost(sint64, tag = "13")]
    pub(super) t_max: i64,
    #[prost(uint64, tag = "14")]
    pub(super) seq_min: u64,
    #[prost(uint64, tag = "15")]
    pub(super) seq_max: u64,
    #[prost(bytes = "bytes", tag = "16")]
    pub(super) first_key: Bytes,
    #[prost(bytes = "bytes", tag = "17")]
    pub(super) last_key: Bytes,
    #[prost(fixed32, tag = "18")]
    pub(super) hash_lo: u32,
    #[prost(fixed32, tag = "19")]
    pub(super) hash_hi: u32,
    #[prost(uint32, tag = "20")]
    pub(super) schema: u32,
    #[prost(uint32, repeated, tag = "21")]
    pub(super) columns: Vec<u32>,
    #[prost(bool, tag = "22")]
    pub(super) is_final: bool,
}

#[derive(Clone, PartialEq, Message)]
pub(super) struct Table {
    #[prost(uint64, tag = "1")]
    pub(super) id: u64,
    #[prost(uint64, tag = "2")]
    pub(super) tenant: u64,
    #[prost(uint64, tag = "3")]
    pub(super) database: u64,
    #[prost(string, tag = "4")]
    pub(super) name: String,
    #[prost(uint32, tag = "5")]
    pub(super) schema: u32,
    #[prost(message, repeated, tag = "6")]
    pub(super) columns: Vec<Column>,
    #[prost(uint32, repeated, tag = "7")]
    pub(super) partition_columns: Vec<u32>,
    #[prost(uint32, tag = "8")]
    pub(super) partition_count: u32,
    #[prost(uint64, optional, tag = "9")]
    pub(super) ttl_ms: Option<u64>,
    #[prost(uint64, optional, tag = "10")]
    pub(super) segment_ms: Option<u64>,
    #[prost(string, tag = "11")]
    pub(super) merge_mode: String,
}

#[derive(Clone, PartialEq, Message)]
pub(super) struct Column {
    #[prost(uint32, tag = "1")]
    pub(super) id: u32,
    #[prost(string, tag = "2")]
    pub(super) name: String,
    /// [`COLUMN_TAG`], [`COLUMN_TIME`] or [`COLUMN_FIELD`].
    #[prost(uint32, tag = "3")]
    pub(super) kind: u32,
    #[prost(string, tag = "4")]
    pub(super) ty: String,
    #[prost(bool, tag = "5")]
    pub(super) nullable: bool,
}

pub(super) const COLUMN_TAG: u32 = 1;
pub(super) const COLUMN_TIME: u32 = 2;
pub(super) const COLUMN_FIELD: u32 = 3;

#[derive(Clone, Copy, PartialEq, Message)]
pub(super) struct Tablet {
    #[prost(uint64, tag = "1")]
    pub(super) id: u64,
    #[prost(fixed32, tag = "2")]
    pub(super) hash_lo: u32,
    #[prost(fixed32, tag = "3")]
    pub(super) hash_hi: u32,
    /// Place of its table in `Manifest::tables`, counted from 0.
    #[prost(uint32, tag = "4")]
    pub(super) table: u32,
}

/// Columns instead of rows: a table of a million batches is copied, not parsed.
#[derive(Clone, PartialEq, Message)]
pub(super) struct TenantBatches {
    #[prost(uint64, tag = "1")]
    pub(super) tenant: u64,
    /// 16 bytes, big-endian; empty when nothing was forgotten.
    #[prost(bytes = "bytes", tag = "2")]
    pub(super) low_water: Bytes,
    /// 16 bytes an entry, big-endian.
    #[prost(bytes = "bytes", tag = "3")]
    pub(super) ids: Bytes,
    #[prost(fixed64, repeated, tag = "4")]
    pub(super) body_hashes: Vec<u64>,
    #[prost(uint64, repeated, tag = "5")]
    pub(super) seqs: Vec<u64>,
}

#[derive(Clone, PartialEq, Message)]
pub(super) struct Delete {
    #[prost(uint64, tag = "1")]
    pub(super) tablet: u64,
    #[prost(message, optional, tag = "2")]
    pub(super) filter: Option<Filter>,
    #[prost(sint64, tag = "3")]
    pub(super) start: i64,
    /// 16 bytes, big-endian, two's complement.
    #[prost(bytes = "bytes", tag = "4")]
    pub(super) end: Bytes,
    #[prost(uint64, tag = "5")]
    pub(super) seq: u64,
}

/// One node of a tag filter; flat, so that each level of the tree is one level of messages.
#[derive(Clone, PartialEq, Message)]
pub(super) struct Filter {
    /// One of the `FILTER_` numbers.
    #[prost(uint32, tag = "1")]
    pub(super) kind: u32,
    #[prost(message, repeated, tag = "2")]
    pub(super) parts: Vec<Filter>,
    #[prost(uint32, tag = "3")]
    pub(super) tag: u32,
    /// One of the `TEST_` numbers.
    #[prost(uint32, tag = "4")]
    pub(super) test: u32,
    #[prost(bytes = "vec", repeated, tag = "5")]
    pub(super) values: Vec<Vec<u8>>,
    #[prost(bool, tag = "6")]
    pub(super) inclusive: bool,
}

pub(super) const FILTER_ANY: u32 = 1;
pub(super) const FILTER_NOTHING: u32 = 2;
pub(super) const FILTER_TEST: u32 = 3;
pub(super) const FILTER_AND: u32 = 4;
pub(super) const FILTER_OR: u32 = 5;
pub(super) const FILTER_NOT: u32 = 6;

pub(super) const TEST_IS_NULL: u32 = 1;
pub(super) const TEST_ONE_OF: u32 = 2;
pub(super) const TEST_BELOW: u32 = 3;
pub(super) const TEST_ABOVE: u32 = 4;
pub(super) const TEST_PREFIX: u32 = 5;
pub(super) const TEST_MATCHES: u32 = 6;

#[derive(Clone, Copy, PartialEq, Message)]
pub(super) struct Parent {
    #[prost(uint64, tag = "1")]
    pub(super) shard: u64,
    #[prost(fixed64, tag = "2")]
    pub(super) incarnation: u64,
    #[prost(uint64, tag = "3")]
    pub(super) base_seq: u64,
    #[prost(uint64, tag = "4")]
    pub(super) from: u64,
    #[prost(uint64, tag = "5")]
    pub(super) until: u64,
    #[prost(message, optional, tag = "6")]
    pub(super) floor: Option<Floor>,
}

#[derive(Clone, PartialEq, Message)]
pub(super) struct Retired {
    #[prost(string, tag = "1")]
    pub(super) key: String,
    #[prost(uint64, tag = "2")]
    pub(super) length: u64,
    #[prost(sint64, tag = "3")]
    pub(super) at_ms: i64,
}
