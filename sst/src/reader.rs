//! Opened files, and scans over them.
//!
//! Opening reads the tail in one request; what it holds is decoded when it is first asked for. A
//! scan reads pages of the fields asked for and nothing else: tags come from the series blocks,
//! times of regular series from arithmetic.
//!
//! Rooms: `fetch` (checked bytes), `plan` (series and times to rows), `pages` (rows that statistics
//! leave over), `scan` (rows to batches), `sparse` (the same without an entry per series), `fields`
//! (columns by id, widened), `series` (questions answered by the index), `tails` (a bounded cache of
//! opened files).
//!
//! Every byte that is used was compared with a checksum first: damage is an error that names the
//! object, never a wrong row.

mod fetch;
mod fields;
mod pages;
mod plan;
mod scan;
mod series;
mod sparse;
mod tails;

use std::ops::Range;
use std::sync::{Arc, OnceLock};

use auxo_proto::schema::HashRange;
use bytes::Bytes;
use futures::StreamExt;
use futures::stream::{self, BoxStream};
use object_store::ObjectStore;
use parquet::arrow::ProjectionMask;
use parquet::arrow::arrow_reader::{ArrowReaderMetadata, ArrowReaderOptions};
use parquet::file::metadata::{PageIndexPolicy, ParquetMetaDataReader};

use crate::batch::SortedBatch;
use crate::entry::FileEntry;
use crate::error::SstError;
use crate::format::{BLOCK_SERIES, FORMAT, SUM_BLOCK, Sections, keys, sections};
use crate::index::FieldHead;
use crate::index::blocks::SeriesBlock;
use crate::index::heads::Heads;
use crate::index::postings::TagPostings;
use crate::predicate::{ScanSpec, TagMatcher};
use fetch::{Source, Stretch};
use fields::Projection;
use plan::Planner;
use scan::{Scan, UnitSizes};
pub use series::{FileSeries, TagValues};
use sparse::Tail;
pub use tails::TailCache;

/// A file whose tail is in memory; cheap to share, immutable.
#[derive(Debug)]
pub struct SstFile {
    entry: Arc<FileEntry>,
    body: Arc<Body>,
}

/// What follows from the bytes alone, whatever the manifest says of the file by now.
#[derive(Debug)]
struct Body {
    source: Source,
    tail: Tail,
    parquet: ArrowReaderMetadata,
    heads: Heads,
    series: Bytes,
    sums: Bytes,
    data_length: u64,
    /// First row of each series block, and where it lies in the section.
    block_rows: Vec<u64>,
    block_offsets: Vec<usize>,
    blocks: Vec<OnceLock<Arc<SeriesBlock>>>,
    postings: Vec<(Bytes, OnceLock<Arc<TagPostings>>)>,
    /// Places of the tags whose values make the partition hash.
    partition: Vec<usize>,
    /// First row of each row group, and the number of all rows.
    group_rows: Vec<u64>,
    memory_bytes: usize,
}

impl SstFile {
    /// Reads and checks the tail.
    ///
    /// * errors: [`SstError::Store`], [`SstError::Corrupt`], [`SstError::TooNew`].
    pub async fn open(
        store: Arc<dyn ObjectStore>,
        entry: Arc<FileEntry>,
    ) -> Result<Arc<Self>, SstError> {
        let source = Source::new(store, &entry);
        let tail = source.tail(&entry).await?;
        let body = Arc::new(Body::parse(source, &entry, tail)?);
        Ok(Arc::new(Self { entry, body }))
    }

    /// Takes the tail from the bytes of a file that was just written.
    ///
    /// * errors: [`SstError::Corrupt`] when they are not the file of that entry.
    pub fn from_bytes(
        store: Arc<dyn ObjectStore>,
        entry: Arc<FileEntry>,
        bytes: &Bytes,
    ) -> Result<Arc<Self>, SstError> {
        let source = Source::new(store, &entry);
        let tail_length = entry.tail_length as usize;
        if bytes.len() as u64 != entry.length || tail_length > bytes.len() {
            return Err(source.corrupt("its length differs"));
        }
        let tail = Bytes::copy_from_slice(&bytes[bytes.len() - tail_length..]);
        if crc32c::crc32c(&tail) != entry.tail_crc32c {
            return Err(source.corrupt("checksum of the tail differs"));
        }
        let body = Arc::new(Body::parse(source, &entry, tail)?);
        Ok(Arc::new(Self { entry, body }))
    }

    /// The same file under the entry that a newer manifest has for it.
    fn under(&self, entry: Arc<FileEntry>) -> Arc<Self> {
        Arc::new(Self {
            entry,
            body: self.body.clone(),
        })
    }

    /// What the manifest says of it.
    pub fn entry(&self) -> &Arc<FileEntry> {
        &self.entry
    }

    /// Bytes it takes in memory once all of its index is decoded.
    pub fn memory_bytes(&self) -> usize {
        self.body.memory_bytes
    }

    /// What is known of all values of each field in the file.
    pub fn field_heads(&self) -> &[FieldHead] {
        &self.body.heads.fields
    }

    /// The rows that the spec wants, in key order.
    ///
    /// * shape: batches of at most 8,192 rows, none empty, with the fields of the spec in its
    ///   order. Series outside the entry's hash range never come.
    /// * errors: [`SstError::Pattern`] and [`SstError::TypeChanged`] first thing; [`SstError::Store`]
    ///   and [`SstError::Corrupt`] at any point, after which the stream ends.
    /// * effects: dropping the stream stops it; up to two units of 8 MiB are in memory.
    pub fn scan(
        self: &Arc<Self>,
        spec: &ScanSpec,
    ) -> BoxStream<'static, Result<SortedBatch, SstError>> {
        self.scan_in(spec, UnitSizes::USUAL)
    }

    fn scan_in(
        self: &Arc<Self>,
        spec: &ScanSpec,
        sizes: UnitSizes,
    ) -> BoxStream<'static, Result<SortedBatch, SstError>> {
        match self.begin(spec, sizes) {
            Ok(scan) => stream::try_unfold(scan, |mut scan| async move {
                Ok(scan.next().await?.map(|batch| (batch, scan)))
            })
            .boxed(),
            Err(error) => stream::iter([Err(error)]).boxed(),
        }
    }

    fn begin(self: &Arc<Self>, spec: &ScanSpec, sizes: UnitSizes) -> Result<Scan, SstError> {
        let matcher = Arc::new(TagMatcher::new(&spec.tags)?);
        let key = &self.entry.key;
        let projection = Projection::new(key, &self.body.parquet, self.time_leaf(), &spec.fields)?;
        let bounds = self.judge(&spec.bounds);
        let range = self.range_within(spec.range);
        let overlaps = spec.time.overlaps(self.entry.t_min, self.entry.t_max)
            && range.lo <= self.body.heads.hashes.hi
            && self.body.heads.hashes.lo <= range.hi;
        let nothing = !overlaps || bounds.is_none();
        let planner = Planner {
            ordinals: if nothing {
                None
            } else {
                self.ordinals(&matcher)?
            },
            matcher,
            time: spec.time,
            range,
            bounds: bounds.unwrap_or_default(),
            next: if nothing { self.group_count() } else { 0 },
        };
        Ok(Scan::new(self.clone(), projection, planner, sizes))
    }

    /// The part of a hash range for which the entry says that this file answers.
    fn range_within(&self, range: HashRange) -> HashRange {
        HashRange {
            lo: range.lo.max(self.entry.range.lo),
            hi: range.hi.min(self.entry.range.hi),
        }
    }

    fn corrupt(&self, what: impl std::fmt::Display) -> SstError {
        self.body.source.corrupt(what)
    }

    fn heads(&self) -> &Heads {
        &self.body.heads
    }

    fn parquet(&self) -> &ArrowReaderMetadata {
        &self.body.parquet
    }

    fn tail(&self) -> &Tail {
        &self.body.tail
    }

    /// Place of the time column: it follows the tags.
    fn time_leaf(&self) -> usize {
        self.body.heads.tags.len()
    }

    fn time_mask(&self) -> ProjectionMask {
        ProjectionMask::leaves(self.body.parquet.parquet_schema(), [self.time_leaf()])
    }

    fn group_count(&self) -> usize {
        self.body.group_rows.len() - 1
    }

    fn group_rows(&self, group: usize) -> Range<u64> {
        self.body.group_rows[group]..self.body.group_rows[group + 1]
    }

    /// Numbers of the series blocks that hold any of the rows.
    fn blocks_of(&self, rows: &Range<u64>) -> Range<usize> {
        plan::overlapping(&self.body.block_rows, rows)
    }

    /// Rows of the file that a series block covers.
    fn block_rows(&self, number: usize) -> Range<u64> {
        let start = self.body.block_rows[number];
        start..start + self.body.heads.blocks[number].rows
    }

    fn block(&self, number: usize) -> Result<Arc<SeriesBlock>, SstError> {
        self.body.block(number)
    }

    async fn data(&self, ranges: &[Range<u64>]) -> Result<Vec<Stretch>, SstError> {
        let body = &self.body;
        body.source.data(ranges, &body.sums, body.data_length).await
    }
}

impl Body {
    fn parse(source: Source, entry: &FileEntry, tail: Bytes) -> Result<Self, SstError> {
        let corrupt = |what: &dyn std::fmt::Display| source.corrupt(what);
        let mut reader =
            ParquetMetaDataReader::new().with_page_index_policy(PageIndexPolicy::Required);
        reader
            .try_parse_sized(&tail, entry.length)
            .map_err(|error| corrupt(&error))?;
        let metadata = reader.finish().map_err(|error| corrupt(&error))?;
        let key_values = metadata.file_metadata().key_value_metadata();
        let value = |key: &str| {
            let found = key_values
                .into_iter()
                .flatten()
                .find(|pair| pair.key == key);
            found.and_then(|pair| pair.value.as_deref())
        };
        let format: u32 = value(keys::FORMAT)
            .and_then(|format| format.parse().ok())
            .ok_or_else(|| corrupt(&"it says no format"))?;
        if format > FORMAT {
            return Err(SstError::TooNew {
                key: entry.key.clone(),
                found: format,
                known: FORMAT,
            });
        }
        let directory: Sections = value(keys::SECTIONS)
            .unwrap_or_default()
            .parse()
            .map_err(|error| corrupt(&error))?;
        let data_length = entry.length - entry.tail_length;
        let section = |name: &str| {
            let found = directory.get(name)?;
            let start = usize::try_from(found.offset.checked_sub(data_length)?).ok()?;
            let end = start.checked_add(usize::try_from(found.length).ok()?)?;
            (end <= tail.len()).then(|| tail.slice(start..end))
        };
        let needed =
            |name: &str| section(name).ok_or_else(|| corrupt(&format!("it has no {name}")));
        let heads = Heads::decode(&needed(sections::HEADS)?).map_err(|error| corrupt(&error))?;
        let series = needed(sections::SERIES)?;
        let postings = needed(sections::POSTINGS)?;
        let sums = needed(sections::SUMS)?;

        let mut group_rows = vec![0_u64];
        for group in metadata.row_groups() {
            let rows = u64::try_from(group.num_rows()).unwrap_or(0);
            group_rows.push(group_rows[group_rows.len() - 1].saturating_add(rows));
        }
        let mut block_rows = Vec::with_capacity(heads.blocks.len());
        let mut block_offsets = Vec::with_capacity(heads.blocks.len());
        let (mut row, mut offset) = (0_u64, 0_usize);
        for block in &heads.blocks {
            block_rows.push(row);
            block_offsets.push(offset);
            row = row.saturating_add(block.rows);
            offset = offset.saturating_add(block.stored_length);
        }
        let mut tags = Vec::with_capacity(heads.tags.len());
        let mut unread = postings.clone();
        for tag in &heads.tags {
            if tag.length > unread.len() {
                return Err(corrupt(&"its postings are too short"));
            }
            tags.push((unread.split_to(tag.length), OnceLock::new()));
        }
        let place = |id: &str| {
            let id: u32 = id.parse().ok()?;
            heads.tags.iter().position(|tag| tag.column.0 == id)
        };
        let partition = value(keys::PARTITION)
            .unwrap_or_default()
            .split(',')
            .filter(|id| !id.is_empty())
            .map(place)
            .collect::<Option<Vec<_>>>()
            .ok_or_else(|| corrupt(&"it is hashed by a tag that it does not have"))?;
        let raw_bytes = heads
            .blocks
            .iter()
            .fold(0_usize, |sum, block| sum.saturating_add(block.raw_length));
        let blocks = heads.blocks.len();
        let consistent = group_rows[group_rows.len() - 1] == row
            && row == heads.rows
            && row == entry.rows
            && heads.series == entry.series
            && blocks as u64 == heads.series.div_ceil(BLOCK_SERIES as u64)
            && offset == series.len()
            && sums.len() as u64 == 4 * data_length.div_ceil(SUM_BLOCK)
            && u32::try_from(heads.series).is_ok()
            && heads.tags.len() < metadata.file_metadata().schema_descr().num_columns();
        if !consistent {
            return Err(corrupt(&"its index and its rows do not fit together"));
        }
        let memory_bytes =
            tail.len() + metadata.memory_size() + raw_bytes.saturating_mul(3) + postings.len();
        let options = ArrowReaderOptions::new().with_skip_arrow_metadata(true);
        let parquet = ArrowReaderMetadata::try_new(Arc::new(metadata), options)
            .map_err(|error| corrupt(&error))?;
        Ok(Self {
            source,
            tail: Tail {
                bytes: tail,
                start: data_length,
            },
            parquet,
            heads,
            series,
            sums,
            data_length,
            block_rows,
            block_offsets,
            blocks: (0..blocks).map(|_| OnceLock::new()).collect(),
            postings: tags,
            partition,
            group_rows,
            memory_bytes,
        })
    }

    /// A decoded series block; decoded once.
    fn block(&self, number: usize) -> Result<Arc<SeriesBlock>, SstError> {
        if let Some(block) = self.blocks[number].get() {
            return Ok(block.clone());
        }
        let head = &self.heads.blocks[number];
        let offset = self.block_offsets[number];
        let stored = &self.series[offset..offset + head.stored_length];
        let before = plan::first_ordinal(number);
        let count = (self.heads.series - before).min(BLOCK_SERIES as u64) as usize;
        let block = SeriesBlock::decode(stored, head.raw_length, count, self.block_rows[number])
            .map_err(|error| self.source.corrupt(error))?;
        if block.end() != self.block_rows[number] + head.rows {
            return Err(self
                .source
                .corrupt("a series block has other rows than its head"));
        }
        let block = Arc::new(block);
        Ok(self.blocks[number].get_or_init(|| block).clone())
    }
}

#[cfg(test)]
mod tests;
