//! Rows in key order become the bytes of one sorted file.
//!
//! 1. The first 16,384 rows are held back; from them the encoding of each field is chosen.
//! 2. Fields and time go page by page into the Parquet encoder. Pages end at multiples of 8,192
//!    rows of their row group, whatever the batches were.
//! 3. Tags are kept as runs until their row group is full: a run costs per series, not per row.
//! 4. `finish` closes the last row group, appends the index sections and the footer, and sums the
//!    bytes up.
//!
//! Rooms: `columns` (schema of the Parquet file, encodings), `encoder` (row groups), `tags` (runs of
//! tag values), `fields` (statistics of whole fields).
//!
//! CPU and memory only: the whole file is one buffer that the caller puts into the store at once.
//! Never here: a store, a clock, a name for the file.

mod columns;
mod encoder;
mod fields;
mod tags;

use std::sync::Arc;

use arrow::array::{Array, ArrayRef};
use auxo_proto::ids::{ColumnId, Seq, TableId, TabletId, TenantId, Term};
use auxo_proto::schema::{HashRange, MergeMode, TableSchema};
use bytes::Bytes;
use parquet::file::metadata::KeyValue;

use crate::batch::{FieldSet, SortedBatch, arrow_type};
use crate::entry::FileEntry;
use crate::error::SstError;
use crate::format::{
    FORMAT, PAGE_ROWS, ROW_GROUP_ROWS, SPARSE_SERIES_MIN, SUM_BLOCK, Section, Sections, keys,
    sections,
};
use crate::index::build::IndexBuilder;
use encoder::Encoder;

/// Where row groups and pages end, and how many rows are looked at before the encodings are
/// chosen; other than the usual only in tests, which then need fewer rows.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Layout {
    pub(crate) group_rows: usize,
    /// Divides `group_rows`.
    pub(crate) page_rows: usize,
    pub(crate) sample_rows: usize,
    pub(crate) sparse_series_min: usize,
}

impl Layout {
    const USUAL: Self = Self {
        group_rows: ROW_GROUP_ROWS,
        page_rows: PAGE_ROWS,
        sample_rows: 16_384,
        sparse_series_min: SPARSE_SERIES_MIN,
    };
}

/// What a file is for; goes into its footer and its entry.
#[derive(Clone, Debug)]
pub struct FileSpec {
    /// Object's key below the store's prefix.
    pub key: String,
    /// Who owns the rows.
    pub tenant: TenantId,
    /// Table whose rows these are.
    pub table: TableId,
    /// Tablet whose rows these are.
    pub tablet: TabletId,
    /// Schema with which the file is written: gives the tags and the name of the time column.
    pub schema: Arc<TableSchema>,
    /// Tags whose values make the partition hash, in their order; empty when nothing is hashed.
    pub partition: Vec<ColumnId>,
    /// How the table treats rows of one key.
    pub merge_mode: MergeMode,
    /// First nanosecond of the segment.
    pub segment_start: i64,
    /// Length of the segment in nanoseconds.
    pub segment_ns: u64,
    /// Lowest sequence of the rows.
    pub seq_min: Seq,
    /// Highest sequence of the rows.
    pub seq_max: Seq,
    /// Partition hashes that the file answers for.
    pub range: HashRange,
    /// Term under which it is written.
    pub term: Term,
    /// Who writes it: the same number as in the object's key.
    pub writer: u64,
    /// Whether its segment is over and was compacted.
    pub is_final: bool,
}

/// Encodes one file; see the module.
pub struct SstWriter {
    spec: FileSpec,
    fields: FieldSet,
    index: IndexBuilder,
    held_back: Vec<SortedBatch>,
    held_rows: usize,
    encoder: Option<Encoder>,
    layout: Layout,
}

impl SstWriter {
    /// Begins a file.
    ///
    /// * `fields`: what each pushed batch holds, in order; any order, no id twice.
    pub fn new(spec: FileSpec, fields: FieldSet) -> Self {
        Self::with_layout(spec, fields, Layout::USUAL)
    }

    pub(crate) fn with_layout(spec: FileSpec, fields: FieldSet, layout: Layout) -> Self {
        let may_repeat_times = spec.merge_mode == MergeMode::Append;
        Self {
            index: IndexBuilder::new(
                spec.schema.tags().map(|tag| tag.id).collect(),
                may_repeat_times,
            ),
            spec,
            fields,
            held_back: Vec::new(),
            held_rows: 0,
            encoder: None,
            layout,
        }
    }

    /// Takes the next rows in key order; a series may go on from the batch before.
    ///
    /// * errors: [`SstError::Rows`] when the batch breaks the shape of [`SortedBatch`] or falls
    ///   behind the batch before; [`SstError::Encode`]. The writer is of no use afterwards.
    pub fn push(&mut self, batch: &SortedBatch) -> Result<(), SstError> {
        self.check(batch)?;
        for (index, series) in batch.series.iter().enumerate() {
            let times = &batch.time[batch.slice_rows(index)];
            self.index.push_series(&series.key, series.hash, times)?;
        }
        match &mut self.encoder {
            Some(encoder) => encoder.write(batch),
            None => {
                self.held_back.push(batch.clone());
                self.held_rows += batch.rows();
                if self.held_rows >= self.layout.sample_rows {
                    self.open()?;
                }
                Ok(())
            }
        }
    }

    /// Rows taken so far.
    pub fn rows(&self) -> u64 {
        self.index.rows()
    }

    /// Roughly the size that the file would have if it were finished now.
    pub fn bytes_so_far(&self) -> usize {
        let size = |array: &ArrayRef| array.to_data().get_slice_memory_size().unwrap_or(0);
        let held: usize = self
            .held_back
            .iter()
            .flat_map(|batch| &batch.fields)
            .map(size)
            .sum();
        let written = self.encoder.as_ref().map_or(held, Encoder::bytes);
        written + self.index.expected_bytes()
    }

    /// Ends the file.
    ///
    /// * returns: the bytes to put under [`FileSpec::key`], and their entry.
    /// * errors: [`SstError::Rows`] without rows; [`SstError::Encode`].
    pub fn finish(mut self) -> Result<(Bytes, FileEntry), SstError> {
        let Some((t_min, t_max)) = self.index.time_range() else {
            return Err(SstError::rows("a file without rows"));
        };
        let first_key = Bytes::copy_from_slice(self.index.key(0));
        let last_key = Bytes::copy_from_slice(self.index.key(self.index.series() - 1));
        let (rows, series) = (self.index.rows(), self.index.series() as u64);
        self.open()?;
        let Some(encoder) = self.encoder else {
            return Err(SstError::encode("the encoder is gone"));
        };
        let (mut file, fields) = encoder.finish(rows)?;
        file.flush().map_err(SstError::encode)?;
        let data_length = file.bytes_written();
        let sums: Vec<u8> = file.inner()[..data_length]
            .chunks(SUM_BLOCK as usize)
            .flat_map(|block| crc32c::crc32c(block).to_le_bytes())
            .collect();
        let index = self.index.finish(fields, self.layout.sparse_series_min)?;
        let mut directory = Sections::default();
        for (name, bytes) in [
            (sections::POSTINGS, index.postings),
            (sections::SERIES, index.series),
            (sections::HEADS, index.heads.encode()),
            (sections::SUMS, sums),
        ] {
            directory.0.push(Section {
                name: name.to_owned(),
                offset: file.bytes_written() as u64,
                length: bytes.len() as u64,
                crc32c: crc32c::crc32c(&bytes),
            });
            file.write_all(&bytes).map_err(SstError::encode)?;
        }
        for (key, value) in key_values(&self.spec, &directory) {
            file.append_key_value_metadata(KeyValue::new(key.to_owned(), value));
        }
        let bytes = Bytes::from(file.into_inner().map_err(SstError::encode)?);

        let tail = &bytes[data_length..];
        let mut columns: Vec<ColumnId> = self.fields.iter().map(|column| column.id).collect();
        columns.sort_unstable();
        let spec = self.spec;
        let entry = FileEntry {
            key: spec.key,
            offset: 0,
            length: bytes.len() as u64,
            tail_length: tail.len() as u64,
            tail_crc32c: crc32c::crc32c(tail),
            table: spec.table,
            tablet: spec.tablet,
            segment_start: spec.segment_start,
            segment_ns: spec.segment_ns,
            rows,
            series,
            t_min,
            t_max,
            seq_min: spec.seq_min,
            seq_max: spec.seq_max,
            first_key,
            last_key,
            range: spec.range,
            schema: spec.schema.number,
            columns,
            is_final: spec.is_final,
        };
        Ok((bytes, entry))
    }

    /// Chooses the encodings from what was held back, and writes it.
    fn open(&mut self) -> Result<(), SstError> {
        if self.encoder.is_some() {
            return Ok(());
        }
        let held_back = std::mem::take(&mut self.held_back);
        let schema = columns::arrow_schema(&self.spec.schema, &self.fields)?;
        let table = &self.spec.schema;
        if let Some(id) = self
            .spec
            .partition
            .iter()
            .find(|&&id| table.tag_index(id).is_none())
        {
            return Err(SstError::rows(format!("hashed by {id}, which is no tag")));
        }
        let properties = columns::properties(table, &self.fields, &held_back, self.layout)?;
        let tags = table.tags().count();
        let mut encoder = Encoder::new(schema, properties, tags, &self.fields, self.layout)?;
        for batch in &held_back {
            encoder.write(batch)?;
        }
        self.encoder = Some(encoder);
        Ok(())
    }

    fn check(&self, batch: &SortedBatch) -> Result<(), SstError> {
        let rows = batch.rows();
        if batch.fields.len() != self.fields.len() {
            return Err(SstError::rows("a batch with another number of fields"));
        }
        for (column, array) in self.fields.iter().zip(&batch.fields) {
            if array.len() != rows || *array.data_type() != arrow_type(column.ty) {
                let (id, found) = (column.id, array.data_type());
                return Err(SstError::rows(format!("field {id} comes as {found}")));
            }
        }
        let starts = batch.series.iter().map(|series| series.start as usize);
        let ends = starts.clone().skip(1).chain([rows]);
        if starts.clone().next().unwrap_or(0) != 0 || starts.zip(ends).any(|(a, b)| a >= b) {
            return Err(SstError::rows("a batch whose slices do not tile its rows"));
        }
        if batch.series.is_empty() && rows > 0 {
            return Err(SstError::rows("rows without a series"));
        }
        Ok(())
    }
}

fn key_values(spec: &FileSpec, directory: &Sections) -> [(&'static str, String); 9] {
    let partition: Vec<String> = spec.partition.iter().map(ColumnId::to_string).collect();
    [
        (keys::FORMAT, FORMAT.to_string()),
        (
            keys::TABLE,
            format!("{}:{}:{}", spec.tenant, spec.table, spec.tablet),
        ),
        (keys::SCHEMA, spec.schema.number.to_string()),
        (
            keys::SEGMENT,
            format!("{}:{}", spec.segment_start, spec.segment_ns),
        ),
        (keys::SEQ, format!("{}:{}", spec.seq_min, spec.seq_max)),
        (keys::MERGE_MODE, spec.merge_mode.name().to_owned()),
        (keys::WRITER, format!("{}:{:x}", spec.term, spec.writer)),
        (keys::PARTITION, partition.join(",")),
        (keys::SECTIONS, directory.to_string()),
    ]
}

#[cfg(test)]
mod tests;
