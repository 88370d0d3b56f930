//! Rows of a sparse file: which series a row belongs to is read from its tag columns, and bloom
//! filters of those say which row groups need not be read.

use arrow::array::{Array, ArrayRef, AsArray, BooleanArray, RecordBatch, StringArray};
use arrow::compute::filter_record_batch;
use arrow::datatypes::TimestampNanosecondType;
use auxo_proto::key::{KeyBuilder, partition_hash};
use bytes::{Buf, Bytes};
use parquet::arrow::arrow_reader::ParquetRecordBatchReader;
use parquet::bloom_filter::Sbbf;
use parquet::errors::ParquetError;
use parquet::file::reader::{ChunkReader, Length};

use super::SstFile;
use super::fields::Projection;
use super::plan::Planner;
use crate::batch::{SeriesSlice, SortedBatch};
use crate::error::SstError;
use crate::predicate::TagMatcher;

/// A row group of a sparse file whose pages are here.
pub(super) struct RowsReading {
    rows: ParquetRecordBatchReader,
}

/// Series of the wanted rows of one batch, while they are found.
#[derive(Default)]
struct Found {
    keys: Vec<u8>,
    /// End of the key, partition hash, first row.
    series: Vec<(usize, u32, u32)>,
    rows: u32,
}

impl RowsReading {
    pub(super) fn new(rows: ParquetRecordBatchReader) -> Self {
        Self { rows }
    }

    /// The next batch with a wanted row.
    pub(super) fn next(
        &mut self,
        file: &SstFile,
        projection: &Projection,
        wanted: &Planner,
    ) -> Result<Option<SortedBatch>, SstError> {
        for batch in &mut self.rows {
            let batch = batch.map_err(|error| file.corrupt(error))?;
            let (found, keep) = found(file, &batch, wanted)?;
            if found.rows == 0 {
                continue;
            }
            let batch = if found.rows as usize == batch.num_rows() {
                batch
            } else {
                let keep = BooleanArray::from(keep);
                filter_record_batch(&batch, &keep).map_err(|error| file.corrupt(error))?
            };
            let time = file.time_leaf();
            let times = batch
                .column(time)
                .as_primitive::<TimestampNanosecondType>()
                .values();
            let leaves: Vec<usize> = (time + 1..batch.num_columns()).collect();
            let columns = batch
                .project(&leaves)
                .map_err(|error| file.corrupt(error))?;
            let fields = projection
                .apply(Some(&columns), batch.num_rows())
                .map_err(|error| file.corrupt(error))?;
            return Ok(Some(SortedBatch {
                series: found.into_slices(),
                time: times.clone(),
                fields,
            }));
        }
        Ok(None)
    }
}

impl SstFile {
    /// Whether a series in the row group may pass, by the bloom filters of its tag columns.
    pub(super) fn may_hold(&self, group: usize, matcher: &TagMatcher) -> Result<bool, SstError> {
        let columns = &self.parquet().metadata().row_group(group).columns()[..self.time_leaf()];
        let mut blooms = Vec::with_capacity(columns.len());
        for column in columns {
            let bloom = Sbbf::read_from_column_chunk(column, self.tail());
            blooms.push(bloom.map_err(|error| self.corrupt(error))?);
        }
        Ok(matcher.may_hold(&|tag, value| {
            let bloom = blooms.get(tag).and_then(Option::as_ref);
            bloom.is_none_or(|bloom| bloom.check(value))
        }))
    }
}

/// The tail of a file, addressed by offsets from the file's start.
#[derive(Debug)]
pub(super) struct Tail {
    pub(super) bytes: Bytes,
    pub(super) start: u64,
}

impl Length for Tail {
    fn len(&self) -> u64 {
        self.start + self.bytes.len() as u64
    }
}

impl ChunkReader for Tail {
    type T = bytes::buf::Reader<Bytes>;

    fn get_read(&self, start: u64) -> Result<Self::T, ParquetError> {
        let length = self.len().saturating_sub(start) as usize;
        Ok(self.get_bytes(start, length)?.reader())
    }

    fn get_bytes(&self, start: u64, length: usize) -> Result<Bytes, ParquetError> {
        let outside = || ParquetError::EOF("a bloom filter lies outside the tail".to_owned());
        let start = start.checked_sub(self.start).ok_or_else(outside)? as usize;
        let end = start.checked_add(length).ok_or_else(outside)?;
        if end > self.bytes.len() {
            return Err(outside());
        }
        Ok(self.bytes.slice(start..end))
    }
}

fn found(
    file: &SstFile,
    batch: &RecordBatch,
    wanted: &Planner,
) -> Result<(Found, Vec<bool>), SstError> {
    let time = file.time_leaf();
    let tags: Option<Vec<&StringArray>> = batch.columns()[..time]
        .iter()
        .map(|array: &ArrayRef| array.as_string_opt())
        .collect();
    let times = batch
        .column(time)
        .as_primitive_opt::<TimestampNanosecondType>();
    let (Some(tags), Some(times)) = (tags, times) else {
        return Err(file.corrupt("its tag or time columns hold something else"));
    };
    let value = |tag: usize, row: usize| {
        let tag = tags[tag];
        tag.is_valid(row).then(|| tag.value(row).as_bytes())
    };
    let (mut key, mut hashed) = (KeyBuilder::new(), KeyBuilder::new());
    let mut found = Found::default();
    let mut keep = Vec::with_capacity(batch.num_rows());
    for row in 0..batch.num_rows() {
        key.clear();
        (0..tags.len()).for_each(|tag| key.push(value(tag, row)));
        hashed.clear();
        let partition = file.partition();
        partition
            .iter()
            .for_each(|&tag| hashed.push(value(tag, row)));
        let hash = partition_hash(hashed.as_bytes());
        let keeps = wanted.time.contains(times.value(row))
            && wanted.range.contains(hash)
            && wanted.matcher.matches(key.as_bytes());
        if keeps {
            found.push(key.as_bytes(), hash);
        }
        keep.push(keeps);
    }
    Ok((found, keep))
}

impl Found {
    fn push(&mut self, key: &[u8], hash: u32) {
        let last = self.series.len().checked_sub(1).map(|last| {
            let start = last
                .checked_sub(1)
                .map_or(0, |before| self.series[before].0);
            &self.keys[start..self.series[last].0]
        });
        if last != Some(key) {
            self.keys.extend_from_slice(key);
            self.series.push((self.keys.len(), hash, self.rows));
        }
        self.rows += 1;
    }

    fn into_slices(self) -> Vec<SeriesSlice> {
        let keys = Bytes::from(self.keys);
        let mut begin = 0;
        self.series
            .into_iter()
            .map(|(end, hash, start)| {
                let key = keys.slice(begin..end);
                begin = end;
                SeriesSlice { key, hash, start }
            })
            .collect()
    }
}
