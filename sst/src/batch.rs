//! Rows in key order: what memtables freeze into, files are written from and scans return.

use std::sync::Arc;

use arrow::array::ArrayRef;
use arrow::buffer::ScalarBuffer;
use arrow::datatypes::{DataType, TimeUnit as ArrowTimeUnit};
use auxo_proto::schema::{Column, ColumnType};
use bytes::Bytes;

/// One series' rows inside a [`SortedBatch`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SeriesSlice {
    /// Canonical key (`auxo_proto::key`).
    pub key: Bytes,
    /// Partition hash of the series.
    pub hash: u32,
    /// First row; the slice ends where the next one begins, the last one at the batch's end.
    pub start: u32,
}

/// Rows of one table in key order.
///
/// * shape: `series` in ascending order of key, each key once, no empty slice; `time` ascends
///   within a slice (equal times stand only in `append` tables and in unmerged memtable parts);
///   every array of `fields` has `time.len()` values. In a stream of batches the last series of
///   one batch may go on as the first of the next.
/// * units: `time` in nanoseconds since 1970.
#[derive(Clone, Debug)]
pub struct SortedBatch {
    /// Slices of rows by series.
    pub series: Vec<SeriesSlice>,
    /// Time per row.
    pub time: ScalarBuffer<i64>,
    /// One array per field of the [`FieldSet`] asked for, in its order, of [`arrow_type`].
    pub fields: Vec<ArrayRef>,
}

impl SortedBatch {
    /// Number of rows.
    pub fn rows(&self) -> usize {
        self.time.len()
    }

    /// Rows of the slice with that index. Panics when there is none.
    pub fn slice_rows(&self, index: usize) -> std::ops::Range<usize> {
        let end = self
            .series
            .get(index + 1)
            .map_or(self.rows(), |next| next.start as usize);
        self.series[index].start as usize..end
    }
}

/// Which fields a scan returns or a file is written with, in order.
pub type FieldSet = Arc<[Column]>;

/// Arrow type in which the values of a field lie.
///
/// Timestamps keep nanoseconds whatever unit the column shows.
pub fn arrow_type(ty: ColumnType) -> DataType {
    match ty {
        ColumnType::Bool => DataType::Boolean,
        ColumnType::Int8 => DataType::Int8,
        ColumnType::Int16 => DataType::Int16,
        ColumnType::Int32 => DataType::Int32,
        ColumnType::Int64 => DataType::Int64,
        ColumnType::UInt8 => DataType::UInt8,
        ColumnType::UInt16 => DataType::UInt16,
        ColumnType::UInt32 => DataType::UInt32,
        ColumnType::UInt64 => DataType::UInt64,
        ColumnType::Float32 => DataType::Float32,
        ColumnType::Float64 => DataType::Float64,
        ColumnType::String => DataType::Utf8,
        ColumnType::Binary => DataType::Binary,
        ColumnType::Timestamp(_) => DataType::Timestamp(ArrowTimeUnit::Nanosecond, None),
        ColumnType::Date => DataType::Date32,
        ColumnType::Decimal { precision, scale } => DataType::Decimal128(precision, scale),
    }
}
