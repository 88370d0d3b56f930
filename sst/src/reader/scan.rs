//! One scan of one file: plans to fetched pages to batches.
//!
//! Row groups are taken in *units*: as many neighbours as make about 8 MiB of pages, fetched
//! together. For each unit:
//!
//! 1. Rows come from the planner, by arithmetic where a series is regular.
//! 2. Where it is not, its part of the time column is decoded, and the rows at the edges of the
//!    wanted times are cut off by binary search. When the fields' pages are few they are fetched in
//!    the same round, else only once the rows are known.
//! 3. Pages of the fields are decoded batch by batch, as the caller asks.
//!
//! The next unit is fetched while the one before is consumed, from its second batch on.

use std::collections::VecDeque;
use std::ops::Range;
use std::sync::Arc;

use arrow::array::{AsArray, RecordBatch};
use arrow::datatypes::TimestampNanosecondType;
use futures::FutureExt;
use futures::future::BoxFuture;
use parquet::DecodeResult;
use parquet::arrow::ProjectionMask;
use parquet::arrow::arrow_reader::{ParquetRecordBatchReader, RowSelection};
use parquet::arrow::push_decoder::{ParquetPushDecoder, ParquetPushDecoderBuilder};

use super::SstFile;
use super::fetch::Stretch;
use super::fields::Projection;
use super::plan::{GroupPlan, Piece, Planner, Times, Wanted, selection};
use super::sparse::RowsReading;
use crate::batch::{SeriesSlice, SortedBatch};
use crate::error::SstError;
use crate::format::PAGE_ROWS;
use crate::predicate::TimeRange;

/// How much a scan fetches at once; other than the usual only in tests, which then need less data.
#[derive(Clone, Copy, Debug)]
pub(super) struct UnitSizes {
    /// Pages of the first unit: a point query needs no more, a LIMIT wastes little.
    pub(super) first_bytes: u64,
    /// Pages of each later unit.
    pub(super) bytes: u64,
    /// Most row groups of a unit.
    pub(super) groups: usize,
    /// Up to this size pages are fetched before it is known whether all of them are needed.
    pub(super) eager_bytes: u64,
}

impl UnitSizes {
    pub(super) const USUAL: Self = Self {
        first_bytes: 1024 * 1024,
        bytes: 8 * 1024 * 1024,
        groups: 64,
        eager_bytes: 1024 * 1024,
    };
}

/// State of one scan.
pub(super) struct Scan {
    file: Arc<SstFile>,
    projection: Arc<Projection>,
    planner: Planner,
    sizes: UnitSizes,
    unit_bytes: u64,
    ready: VecDeque<Reading>,
    ahead: Ahead,
    /// Batches given since the current unit began.
    batches: usize,
}

enum Ahead {
    Nothing,
    Fetching(BoxFuture<'static, Result<Vec<Reading>, SstError>>),
    Fetched(Result<Vec<Reading>, SstError>),
}

/// A row group on its way: what is wanted, and the decoders that wait for pages.
struct Group {
    number: usize,
    wanted: Wanted,
    times: Option<Waiting>,
    /// In a sparse file with tags and times.
    fields: Option<Waiting>,
}

/// A decoder and the bytes it asked for.
struct Waiting {
    decoder: ParquetPushDecoder,
    needs: Vec<Range<u64>>,
}

/// A row group whose pages are here.
enum Reading {
    Series(SeriesReading),
    Rows(RowsReading),
}

/// Rows of known series.
struct SeriesReading {
    pieces: VecDeque<Piece>,
    stored_times: VecDeque<Vec<i64>>,
    fields: Option<ParquetRecordBatchReader>,
}

impl Scan {
    pub(super) fn new(
        file: Arc<SstFile>,
        projection: Projection,
        planner: Planner,
        sizes: UnitSizes,
    ) -> Self {
        Self {
            file,
            projection: Arc::new(projection),
            planner,
            sizes,
            unit_bytes: sizes.first_bytes,
            ready: VecDeque::new(),
            ahead: Ahead::Nothing,
            batches: 0,
        }
    }

    /// The next batch; `None` when all are given.
    pub(super) async fn next(&mut self) -> Result<Option<SortedBatch>, SstError> {
        loop {
            self.look_ahead()?;
            while let Some(reading) = self.ready.front_mut() {
                let batch = match reading {
                    Reading::Series(reading) => reading.next(&self.file, &self.projection)?,
                    Reading::Rows(reading) => {
                        reading.next(&self.file, &self.projection, &self.planner)?
                    }
                };
                if let Some(batch) = batch {
                    self.batches += 1;
                    return Ok(Some(batch));
                }
                self.ready.pop_front();
            }
            let unit = match std::mem::replace(&mut self.ahead, Ahead::Nothing) {
                Ahead::Fetched(unit) => unit?,
                Ahead::Fetching(unit) => unit.await?,
                Ahead::Nothing => match self.begin_unit()? {
                    Some(unit) => unit.await?,
                    None => return Ok(None),
                },
            };
            self.ready = unit.into();
            self.batches = 0;
        }
    }

    /// Begins to fetch the next unit, or sees whether it has come.
    fn look_ahead(&mut self) -> Result<(), SstError> {
        if matches!(self.ahead, Ahead::Nothing) && self.batches == 1 {
            self.batches += 1;
            if let Some(unit) = self.begin_unit()? {
                self.ahead = Ahead::Fetching(unit);
            }
        }
        if let Ahead::Fetching(unit) = &mut self.ahead
            && let Some(fetched) = unit.now_or_never()
        {
            self.ahead = Ahead::Fetched(fetched);
        }
        Ok(())
    }

    #[allow(
        clippy::type_complexity,
        reason = "the one place that names this future"
    )]
    fn begin_unit(
        &mut self,
    ) -> Result<Option<BoxFuture<'static, Result<Vec<Reading>, SstError>>>, SstError> {
        let mut groups = Vec::new();
        let mut bytes = 0;
        while bytes < self.unit_bytes && groups.len() < self.sizes.groups {
            let Some(plan) = self.planner.next(&self.file)? else {
                break;
            };
            let group = Group::new(&self.file, &self.projection, plan)?;
            bytes += group.needs().map(|need| need.end - need.start).sum::<u64>();
            groups.push(group);
        }
        self.unit_bytes = self.sizes.bytes;
        if groups.is_empty() {
            return Ok(None);
        }
        let (file, projection) = (self.file.clone(), self.projection.clone());
        let (time, eager) = (self.planner.time, self.sizes.eager_bytes);
        Ok(Some(
            async move { read(&file, &projection, time, eager, groups).await }.boxed(),
        ))
    }
}

impl Group {
    fn new(file: &SstFile, projection: &Projection, plan: GroupPlan) -> Result<Self, SstError> {
        let stored: Vec<Range<usize>> = match &plan.wanted {
            Wanted::Series(pieces) => pieces
                .iter()
                .filter(|piece| piece.is_stored())
                .map(|piece| piece.rows.clone())
                .collect(),
            Wanted::Rows(_) => Vec::new(),
        };
        let times = if stored.is_empty() {
            None
        } else {
            let rows = selection(stored.into_iter());
            Some(Waiting::new(file, plan.group, file.time_mask(), rows)?)
        };
        let mut group = Self {
            number: plan.group,
            wanted: plan.wanted,
            times,
            fields: None,
        };
        group.want_fields(file, projection)?;
        Ok(group)
    }

    fn want_fields(&mut self, file: &SstFile, projection: &Projection) -> Result<(), SstError> {
        let (rows, mask) = match &self.wanted {
            Wanted::Series(pieces) if projection.is_empty() || pieces.is_empty() => {
                self.fields = None;
                return Ok(());
            }
            Wanted::Series(pieces) => (
                selection(pieces.iter().map(|piece| piece.rows.clone())),
                projection.mask(file.parquet()),
            ),
            Wanted::Rows(rows) => (
                selection(rows.iter().cloned()),
                projection.mask_with_keys(file.parquet(), file.time_leaf()),
            ),
        };
        self.fields = Some(Waiting::new(file, self.number, mask, rows)?);
        Ok(())
    }

    fn has_edges(&self) -> bool {
        let edge = |piece: &Piece| matches!(piece.times, Times::Stored { edge: true });
        match &self.wanted {
            Wanted::Series(pieces) => pieces.iter().any(edge),
            Wanted::Rows(_) => false,
        }
    }

    fn needs(&self) -> impl Iterator<Item = &Range<u64>> {
        let waiting = self.times.iter().chain(&self.fields);
        waiting.flat_map(|waiting| &waiting.needs)
    }
}

impl Piece {
    fn is_stored(&self) -> bool {
        matches!(self.times, Times::Stored { .. })
    }
}

impl Waiting {
    fn new(
        file: &SstFile,
        group: usize,
        mask: ProjectionMask,
        rows: RowSelection,
    ) -> Result<Self, SstError> {
        let corrupt = |error| file.corrupt(error);
        let mut decoder = ParquetPushDecoderBuilder::new_with_metadata(file.parquet().clone())
            .with_row_groups(vec![group])
            .with_projection(mask)
            .with_row_selection(rows)
            .with_batch_size(PAGE_ROWS)
            .build()
            .map_err(corrupt)?;
        match decoder.try_next_reader().map_err(corrupt)? {
            DecodeResult::NeedsData(needs) => Ok(Self { decoder, needs }),
            _ => Err(file.corrupt("a row group needs no pages for the rows it should have")),
        }
    }

    fn into_reader(
        mut self,
        file: &SstFile,
        stretches: &[Stretch],
    ) -> Result<ParquetRecordBatchReader, SstError> {
        let corrupt = |error| file.corrupt(error);
        let used = |(range, _): &&Stretch| {
            let overlaps = |need: &Range<u64>| need.start < range.end && range.start < need.end;
            self.needs.iter().any(overlaps)
        };
        let (ranges, bytes) = stretches.iter().filter(used).cloned().unzip();
        self.decoder.push_ranges(ranges, bytes).map_err(corrupt)?;
        match self.decoder.try_next_reader().map_err(corrupt)? {
            DecodeResult::Data(reader) => Ok(reader),
            _ => Err(file.corrupt("a row group asks for pages twice")),
        }
    }
}

/// Steps 2 and 3 of the module, up to the decoders.
async fn read(
    file: &SstFile,
    projection: &Projection,
    time: TimeRange,
    eager_bytes: u64,
    mut groups: Vec<Group>,
) -> Result<Vec<Reading>, SstError> {
    let of_times = |group: &Group| group.times.iter().flat_map(|w| w.needs.clone()).collect();
    let of_fields = |group: &Group| group.fields.iter().flat_map(|w| w.needs.clone()).collect();
    let mut needs: Vec<Range<u64>> = groups.iter().flat_map::<Vec<_>, _>(of_times).collect();
    let fields: Vec<Range<u64>> = groups.iter().flat_map::<Vec<_>, _>(of_fields).collect();
    let size: u64 = fields.iter().map(|need| need.end - need.start).sum();
    if size <= eager_bytes || !groups.iter().any(Group::has_edges) {
        needs.extend(fields);
    }
    let mut stretches = file.data(&needs).await?;

    let mut stored = Vec::with_capacity(groups.len());
    for group in &mut groups {
        let mut times = VecDeque::new();
        let edges = group.has_edges();
        if let (Some(waiting), Wanted::Series(pieces)) = (group.times.take(), &mut group.wanted) {
            let column = decode_times(file, waiting.into_reader(file, &stretches)?)?;
            times = cut_edges(file, pieces, &column, time)?;
            if edges {
                group.want_fields(file, projection)?;
            }
        }
        stored.push(times);
    }

    let here = |need: &Range<u64>, stretches: &[Stretch]| {
        let holds = |(range, _): &Stretch| range.start <= need.start && need.end <= range.end;
        stretches.iter().any(holds)
    };
    let mut missing: Vec<Range<u64>> = groups.iter().flat_map::<Vec<_>, _>(of_fields).collect();
    missing.retain(|need| !here(need, &stretches));
    stretches.extend(file.data(&missing).await?);

    let mut readings = Vec::with_capacity(groups.len());
    for (group, stored_times) in groups.into_iter().zip(stored) {
        let fields = match group.fields {
            Some(waiting) => Some(waiting.into_reader(file, &stretches)?),
            None => None,
        };
        readings.push(match (group.wanted, fields) {
            (Wanted::Series(pieces), fields) => Reading::Series(SeriesReading {
                pieces: pieces.into(),
                stored_times,
                fields,
            }),
            (Wanted::Rows(_), Some(rows)) => Reading::Rows(RowsReading::new(rows)),
            (Wanted::Rows(_), None) => continue,
        });
    }
    Ok(readings)
}

fn decode_times(file: &SstFile, reader: ParquetRecordBatchReader) -> Result<Vec<i64>, SstError> {
    let mut times = Vec::new();
    for batch in reader {
        let batch = batch.map_err(|error| file.corrupt(error))?;
        let column = batch
            .column(0)
            .as_primitive_opt::<TimestampNanosecondType>()
            .ok_or_else(|| file.corrupt("its time column holds no times"))?;
        times.extend_from_slice(column.values());
    }
    Ok(times)
}

/// Gives each stored piece its times, and cuts rows that are not wanted off it.
fn cut_edges(
    file: &SstFile,
    pieces: &mut Vec<Piece>,
    mut column: &[i64],
    wanted: TimeRange,
) -> Result<VecDeque<Vec<i64>>, SstError> {
    let mut stored = VecDeque::new();
    for piece in pieces.iter_mut().filter(|piece| piece.is_stored()) {
        let (times, rest) = column
            .split_at_checked(piece.rows.len())
            .ok_or_else(|| file.corrupt("its time column is too short"))?;
        column = rest;
        let start = times.partition_point(|&time| time < wanted.start);
        let end = times.partition_point(|&time| i128::from(time) < wanted.end);
        piece.rows = piece.rows.start + start..piece.rows.start + end.max(start);
        if start < end {
            stored.push_back(times[start..end].to_vec());
        }
    }
    pieces.retain(|piece| !piece.rows.is_empty());
    Ok(stored)
}

impl SeriesReading {
    fn next(
        &mut self,
        file: &SstFile,
        projection: &Projection,
    ) -> Result<Option<SortedBatch>, SstError> {
        if self.pieces.is_empty() {
            return Ok(None);
        }
        let (batch, rows): (Option<RecordBatch>, usize) = match &mut self.fields {
            None => (None, PAGE_ROWS),
            Some(reader) => {
                let batch = reader
                    .next()
                    .ok_or_else(|| file.corrupt("a row group has too few rows"))?
                    .map_err(|error| file.corrupt(error))?;
                let rows = batch.num_rows();
                (Some(batch), rows)
            }
        };
        let (series, time) = self.take(rows);
        if batch.is_some() && time.len() != rows {
            return Err(file.corrupt("a row group has too many rows"));
        }
        let fields = projection
            .apply(batch.as_ref(), time.len())
            .map_err(|error| file.corrupt(error))?;
        Ok(Some(SortedBatch {
            series,
            time: time.into(),
            fields,
        }))
    }

    /// Series and times of the next rows, at most `rows`.
    fn take(&mut self, rows: usize) -> (Vec<SeriesSlice>, Vec<i64>) {
        let mut series = Vec::new();
        let mut time: Vec<i64> = Vec::with_capacity(rows);
        while let Some(piece) = self.pieces.front_mut()
            && time.len() < rows
        {
            let count = piece.rows.len().min(rows - time.len());
            // Page statistics may have cut one series into several pieces.
            if series
                .last()
                .is_none_or(|last: &SeriesSlice| last.key != piece.key)
            {
                series.push(SeriesSlice {
                    key: piece.key.clone(),
                    hash: piece.hash,
                    start: time.len() as u32,
                });
            }
            match &piece.times {
                Times::Regular { first, step } => {
                    let step = *step as i64;
                    time.extend(
                        (0..count as i64).map(|row| first.wrapping_add(row.wrapping_mul(step))),
                    );
                }
                Times::Stored { .. } => {
                    if let Some(times) = self.stored_times.front() {
                        let done = times.len() - piece.rows.len();
                        time.extend_from_slice(&times[done..done + count]);
                    }
                }
            }
            piece.advance(count);
            if piece.rows.is_empty() {
                if piece.is_stored() {
                    self.stored_times.pop_front();
                }
                self.pieces.pop_front();
            }
        }
        (series, time)
    }
}
