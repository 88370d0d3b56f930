//! What a manifest knows of a file: enough to skip it without touching it.

use auxo_proto::ids::{ColumnId, SchemaNumber, Seq, TableId, TabletId};
use auxo_proto::schema::HashRange;
use bytes::Bytes;

/// One live sorted file.
///
/// * units: lengths in bytes; times in nanoseconds since 1970, both ends included.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FileEntry {
    /// Object's key below the store's prefix.
    pub key: String,
    /// Where the file begins inside the object; 0 unless bundled.
    pub offset: u64,
    /// Length of the file.
    pub length: u64,
    /// Length of its tail: all bytes behind the row groups.
    pub tail_length: u64,
    /// CRC-32C of the tail.
    pub tail_crc32c: u32,
    /// Table whose rows it holds.
    pub table: TableId,
    /// Tablet whose rows it holds.
    pub tablet: TabletId,
    /// First nanosecond of the segment it covers.
    pub segment_start: i64,
    /// Length of that segment in nanoseconds.
    pub segment_ns: u64,
    /// Number of rows.
    pub rows: u64,
    /// Number of series.
    pub series: u64,
    /// Time of the earliest row.
    pub t_min: i64,
    /// Time of the latest row.
    pub t_max: i64,
    /// Lowest sequence of the rows.
    pub seq_min: Seq,
    /// Highest sequence of the rows: between two files of a stack the higher one is the younger.
    pub seq_max: Seq,
    /// Lowest series key.
    pub first_key: Bytes,
    /// Highest series key.
    pub last_key: Bytes,
    /// Hashes of the series that count; after a split a file may hold more.
    pub range: HashRange,
    /// Schema it was written with.
    pub schema: SchemaNumber,
    /// Ids of the fields it has a column for, ascending.
    pub columns: Vec<ColumnId>,
    /// Whether a tool has nothing left to gain from it: its segment was compacted when over.
    pub is_final: bool,
}
