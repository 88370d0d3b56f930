//! Tag values of a row group as runs: one entry per change of value, however many rows it spans.
//!
//! A row group's column of one tag is a dictionary page and one data page whose indices are RLE
//! runs, written straight from ours: hashing ten values a row would cost half as much as encoding
//! ten fields. Where values change too often for runs, or the dictionary grows too large, the
//! column goes through the usual encoder.

use std::collections::HashMap;
use std::sync::Arc;

use arrow::array::{ArrayRef, DictionaryArray, Int32Array, StringArray};
use arrow::datatypes::Int32Type;
use auxo_proto::key::{self, MalformedKey};
use bytes::Bytes;
use parquet::basic::{Compression, Encoding, ZstdLevel};
use parquet::bloom_filter::Sbbf;
use parquet::column::page::{CompressedPage, Page, PageWriter};
use parquet::column::writer::ColumnCloseResult;
use parquet::data_type::ByteArray;
use parquet::errors::ParquetError;
use parquet::file::metadata::{ColumnChunkMetaData, OffsetIndexBuilder};
use parquet::file::statistics::Statistics;
use parquet::file::writer::{SerializedPageWriter, TrackedWrite};
use parquet::schema::types::ColumnDescPtr;

use super::columns::{DICTIONARY_BYTES_MAX, STATISTICS_BYTES_MAX, ZSTD_LEVEL};
use crate::format::put_u64;

/// With fewer rows a run than this, bit-packed indices are shorter than runs.
const RUN_ROWS_MIN: usize = 8;
/// Share of values for which a bloom filter wrongly says that it may hold them.
const BLOOM_FPP: f64 = 0.01;

/// The values of one tag in the rows of the current row group.
#[derive(Debug, Default)]
pub(super) struct TagRuns {
    numbers: HashMap<Vec<u8>, u32>,
    values: Vec<Vec<u8>>,
    /// Length of all values as a dictionary page holds them.
    bytes: usize,
    /// Number of a value, or `None` for NULL, and how many rows have it.
    runs: Vec<(Option<u32>, usize)>,
}

impl TagRuns {
    /// Bytes that the column is expected to take in the file.
    pub(super) fn expected_bytes(&self) -> usize {
        self.bytes / 2 + 4 * self.runs.len()
    }

    fn rows(&self) -> usize {
        self.runs.iter().map(|(_, rows)| rows).sum()
    }

    /// Lets the run of the row before go on.
    fn repeat(&mut self, rows: usize) {
        if let Some((_, count)) = self.runs.last_mut() {
            *count += rows;
        }
    }

    fn push(&mut self, value: Option<&[u8]>, rows: usize) {
        let number = value.map(|value| match self.runs.last() {
            Some(&(Some(last), _)) if self.values[last as usize] == value => last,
            _ => self.number(value),
        });
        match self.runs.last() {
            Some((last, _)) if *last == number => self.repeat(rows),
            _ => self.runs.push((number, rows)),
        }
    }

    fn number(&mut self, value: &[u8]) -> u32 {
        if let Some(&number) = self.numbers.get(value) {
            return number;
        }
        let number = self.values.len() as u32;
        self.numbers.insert(value.to_vec(), number);
        self.values.push(value.to_vec());
        self.bytes += value.len() + 4;
        number
    }

    /// The column chunk, if runs suit it.
    pub(super) fn encode(
        &self,
        column: ColumnDescPtr,
    ) -> Result<Option<(Bytes, ColumnCloseResult)>, ParquetError> {
        let suits = !self.values.is_empty()
            && self.bytes <= DICTIONARY_BYTES_MAX
            && self.rows() >= RUN_ROWS_MIN * self.runs.len();
        if !suits {
            return Ok(None);
        }
        self.chunk(column).map(Some)
    }

    fn chunk(&self, column: ColumnDescPtr) -> Result<(Bytes, ColumnCloseResult), ParquetError> {
        let (rows, nulls) = (self.rows(), self.nulls());
        let mut sink = TrackedWrite::new(Vec::new());
        let mut pages = SerializedPageWriter::new(&mut sink);
        let dictionary = pages.write_page(self.dictionary_page()?)?;
        let data = pages.write_page(self.data_page(rows, nulls)?)?;
        pages.close()?;
        let bytes = Bytes::from(sink.into_inner()?);

        let metadata = ColumnChunkMetaData::builder(column)
            .set_encodings(vec![
                Encoding::PLAIN,
                Encoding::RLE,
                Encoding::RLE_DICTIONARY,
            ])
            .set_compression(Compression::ZSTD(ZstdLevel::try_new(ZSTD_LEVEL)?))
            .set_num_values(rows as i64)
            .set_total_compressed_size(bytes.len() as i64)
            .set_total_uncompressed_size(
                (dictionary.uncompressed_size + data.uncompressed_size) as i64,
            )
            .set_dictionary_page_offset(Some(dictionary.offset as i64))
            .set_data_page_offset(data.offset as i64)
            .set_statistics(self.statistics(nulls))
            .build()?;
        let mut offsets = OffsetIndexBuilder::new();
        offsets.append_row_count(rows as i64);
        offsets.append_offset_and_size(data.offset as i64, data.compressed_size as i32);
        let close = ColumnCloseResult {
            bytes_written: bytes.len() as u64,
            rows_written: rows as u64,
            metadata,
            bloom_filter: None,
            column_index: None,
            offset_index: Some(offsets.build()),
        };
        Ok((bytes, close))
    }

    fn nulls(&self) -> usize {
        let nulls = self.runs.iter().filter(|(number, _)| number.is_none());
        nulls.map(|(_, rows)| rows).sum()
    }

    /// The values as text: other tools read them, and they expect UTF-8.
    fn texts(&self) -> impl Iterator<Item = std::borrow::Cow<'_, str>> {
        self.values
            .iter()
            .map(|value| String::from_utf8_lossy(value))
    }

    fn dictionary_page(&self) -> Result<CompressedPage, ParquetError> {
        let mut plain = Vec::with_capacity(self.bytes);
        for text in self.texts() {
            plain.extend_from_slice(&(text.len() as u32).to_le_bytes());
            plain.extend_from_slice(text.as_bytes());
        }
        let packed = zstd::bulk::compress(&plain, ZSTD_LEVEL)?;
        let page = Page::DictionaryPage {
            buf: packed.into(),
            num_values: self.values.len() as u32,
            encoding: Encoding::PLAIN,
            is_sorted: false,
        };
        Ok(CompressedPage::new(page, plain.len()))
    }

    fn data_page(&self, rows: usize, nulls: usize) -> Result<CompressedPage, ParquetError> {
        let mut buffer = Vec::new();
        let there = |(number, rows): &(Option<u32>, usize)| (u32::from(number.is_some()), *rows);
        put_runs(&mut buffer, 1, self.runs.iter().map(there));
        let levels = buffer.len();
        let width = u32::BITS - (self.values.len() as u32 - 1).leading_zeros();
        buffer.push(width as u8);
        let indices = self
            .runs
            .iter()
            .filter_map(|&(number, rows)| Some((number?, rows)));
        put_runs(&mut buffer, width, indices);

        let size = buffer.len();
        let packed = zstd::bulk::compress(&buffer[levels..], ZSTD_LEVEL)?;
        let is_compressed = packed.len() < size - levels;
        if is_compressed {
            buffer.truncate(levels);
            buffer.extend_from_slice(&packed);
        }
        let page = Page::DataPageV2 {
            buf: buffer.into(),
            num_values: rows as u32,
            encoding: Encoding::RLE_DICTIONARY,
            num_nulls: nulls as u32,
            num_rows: rows as u32,
            def_levels_byte_len: levels as u32,
            rep_levels_byte_len: 0,
            is_compressed,
            statistics: None,
        };
        Ok(CompressedPage::new(page, size))
    }

    fn statistics(&self, nulls: usize) -> Statistics {
        let short = |value: Option<std::borrow::Cow<'_, str>>| {
            value
                .filter(|value| value.len() <= STATISTICS_BYTES_MAX)
                .map(|value| ByteArray::from(value.as_bytes().to_vec()))
        };
        let (min, max) = (short(self.texts().min()), short(self.texts().max()));
        Statistics::byte_array(min, max, None, Some(nulls as u64), false)
    }

    /// A filter over the values, for files that have no postings.
    pub(super) fn bloom(&self) -> Result<Sbbf, ParquetError> {
        let mut bloom = Sbbf::new_with_ndv_fpp(self.values.len().max(1) as u64, BLOOM_FPP)?;
        self.texts().for_each(|text| bloom.insert(&*text));
        Ok(bloom)
    }

    /// One value per row, as a dictionary array.
    pub(super) fn into_array(self) -> Result<ArrayRef, ParquetError> {
        let mut numbers = Vec::with_capacity(self.rows());
        for &(number, rows) in &self.runs {
            numbers.extend(std::iter::repeat_n(
                number.map(|number| number as i32),
                rows,
            ));
        }
        let values: StringArray = self.texts().map(Some).collect();
        let numbers = Int32Array::from(numbers);
        let array = DictionaryArray::<Int32Type>::try_new(numbers, Arc::new(values))?;
        Ok(Arc::new(array))
    }
}

/// RLE runs of Parquet's hybrid encoding; neighbours of one value are joined.
fn put_runs(out: &mut Vec<u8>, width: u32, runs: impl Iterator<Item = (u32, usize)>) {
    let mut put = |(value, rows): (u32, usize)| {
        put_u64(out, (rows as u64) << 1);
        out.extend_from_slice(&value.to_le_bytes()[..width.div_ceil(8) as usize]);
    };
    let mut open: Option<(u32, usize)> = None;
    for (value, rows) in runs {
        match &mut open {
            Some((same, count)) if *same == value => *count += rows,
            _ => {
                if let Some(done) = open.replace((value, rows)) {
                    put(done);
                }
            }
        }
    }
    if let Some(done) = open {
        put(done);
    }
}

/// Appends the next rows of one series to the runs of all tags.
///
/// * `goes_on`: the rows before in this row group were of the same series.
/// * errors: a key that breaks its grammar.
pub(super) fn push(
    tags: &mut [TagRuns],
    series_key: &[u8],
    rows: usize,
    goes_on: bool,
) -> Result<(), MalformedKey> {
    if goes_on {
        tags.iter_mut().for_each(|tag| tag.repeat(rows));
        return Ok(());
    }
    let mut values = key::decode(series_key);
    for tag in tags.iter_mut() {
        let value = values.next().transpose()?;
        tag.push(value.flatten().as_deref(), rows);
    }
    Ok(())
}
