//! From series and times to rows: which rows of each row group a scan wants.

use std::ops::Range;
use std::sync::Arc;

use auxo_proto::schema::HashRange;
use bytes::Bytes;
use parquet::arrow::arrow_reader::{RowSelection, RowSelector};
use roaring::RoaringBitmap;

use super::SstFile;
use super::pages::{Judged, intersect};
use crate::error::SstError;
use crate::format::BLOCK_SERIES;
use crate::index::blocks::SeriesEntry;
use crate::predicate::{TagMatcher, TimeRange};

/// Wanted rows of one series within one row group.
#[derive(Clone, Debug)]
pub(super) struct Piece {
    pub(super) key: Bytes,
    pub(super) hash: u32,
    /// Counted from the start of the row group; not empty.
    pub(super) rows: Range<usize>,
    pub(super) times: Times,
}

/// Where the times of a piece come from.
#[derive(Clone, Copy, Debug)]
pub(super) enum Times {
    /// They are `first + i × step`.
    Regular { first: i64, step: u64 },
    /// They lie in the time column; with `edge`, some of the rows are outside the times wanted.
    Stored { edge: bool },
}

/// What a scan wants of one row group.
#[derive(Clone, Debug)]
pub(super) struct GroupPlan {
    pub(super) group: usize,
    pub(super) wanted: Wanted,
}

#[derive(Clone, Debug)]
pub(super) enum Wanted {
    /// Pieces of known series, in row order.
    Series(Vec<Piece>),
    /// In a sparse file: rows among which there may be wanted ones, ascending.
    Rows(Vec<Range<usize>>),
}

impl Wanted {
    fn is_empty(&self) -> bool {
        match self {
            Self::Series(pieces) => pieces.is_empty(),
            Self::Rows(rows) => rows.is_empty(),
        }
    }
}

/// Gives the plan of one row group after the other.
#[derive(Debug)]
pub(super) struct Planner {
    /// Series that pass the tag filter; `None` means all. Without meaning in a sparse file.
    pub(super) ordinals: Option<RoaringBitmap>,
    pub(super) matcher: Arc<TagMatcher>,
    pub(super) time: TimeRange,
    pub(super) range: HashRange,
    pub(super) bounds: Vec<Judged>,
    /// Row group to go on with.
    pub(super) next: usize,
}

impl Planner {
    /// The next row group of which rows are wanted, in order.
    pub(super) fn next(&mut self, file: &SstFile) -> Result<Option<GroupPlan>, SstError> {
        while self.next < file.group_count() {
            let group = self.next;
            self.next += 1;
            let left = file.rows_left(group, &self.bounds);
            if left.as_ref().is_some_and(Vec::is_empty) {
                continue;
            }
            if file.heads().sparse && !file.may_hold(group, &self.matcher)? {
                continue;
            }
            let wanted = if file.heads().sparse {
                Wanted::Rows(self.rows(file, group, left))
            } else {
                Wanted::Series(self.pieces(file, group, left.as_deref())?)
            };
            if !wanted.is_empty() {
                return Ok(Some(GroupPlan { group, wanted }));
            }
        }
        Ok(None)
    }

    fn rows(
        &self,
        file: &SstFile,
        group: usize,
        left: Option<Vec<Range<usize>>>,
    ) -> Vec<Range<usize>> {
        let group_rows = file.group_rows(group);
        let mut rows: Vec<Range<usize>> = Vec::new();
        for number in file.blocks_of(&group_rows) {
            let head = &file.heads().blocks[number];
            let next = file.heads().blocks.get(number + 1);
            let last_key = next.map(|next| &next.first_key[..]);
            if !self.time.overlaps(head.t_min, head.t_max)
                || !self.matcher.may_pass(&head.first_key, last_key)
            {
                continue;
            }
            let block = within(&file.block_rows(number), &group_rows);
            match rows.last_mut() {
                Some(last) if last.end == block.start => last.end = block.end,
                _ => rows.push(block),
            }
        }
        match left {
            Some(left) => intersect(&rows, &left),
            None => rows,
        }
    }

    fn pieces(
        &self,
        file: &SstFile,
        group: usize,
        left: Option<&[Range<usize>]>,
    ) -> Result<Vec<Piece>, SstError> {
        let mut pieces = Vec::new();
        let group_rows = file.group_rows(group);
        for number in file.blocks_of(&group_rows) {
            let head = &file.heads().blocks[number];
            let first = first_ordinal(number) as u32;
            let none = |ordinals: &RoaringBitmap| {
                ordinals.range_cardinality(first..first + BLOCK_SERIES as u32) == 0
            };
            if !self.time.overlaps(head.t_min, head.t_max)
                || self.ordinals.as_ref().is_some_and(none)
            {
                continue;
            }
            let block = file.block(number)?;
            for index in 0..block.len() {
                let entry = block.entry(index);
                let here = within(&block.rows(index), &group_rows);
                if here.is_empty() || !self.wants(first + index as u32, entry) {
                    continue;
                }
                let series = block.rows(index);
                let skipped = (group_rows.start + here.start as u64) - series.start;
                let piece = Piece {
                    key: block.key(index),
                    hash: entry.hash,
                    rows: here,
                    times: Times::of(entry, skipped, self.time),
                };
                let Some(mut piece) = piece.cut(entry, skipped, self.time) else {
                    continue;
                };
                if matches!(piece.times, Times::Stored { edge: true }) {
                    piece.rows = file.narrow_by_time(group, piece.rows, self.time);
                }
                match left {
                    Some(left) => pieces.extend(piece.split(left)),
                    None => pieces.push(piece),
                }
            }
        }
        pieces.retain(|piece| !piece.rows.is_empty());
        Ok(pieces)
    }

    fn wants(&self, ordinal: u32, entry: &SeriesEntry) -> bool {
        self.range.contains(entry.hash)
            && self.time.overlaps(entry.t_min, entry.t_max)
            && self
                .ordinals
                .as_ref()
                .is_none_or(|ordinals| ordinals.contains(ordinal))
    }
}

impl Times {
    fn of(entry: &SeriesEntry, skipped: u64, wanted: TimeRange) -> Self {
        if entry.is_regular() {
            Self::Regular {
                first: entry.time_of(skipped),
                step: entry.step,
            }
        } else {
            Self::Stored {
                edge: !wanted.covers(entry.t_min, entry.t_max),
            }
        }
    }
}

impl Piece {
    /// Cuts rows off a regular piece whose times are not wanted; `skipped` rows of the series lie
    /// before it. `None` when nothing is left.
    fn cut(mut self, entry: &SeriesEntry, skipped: u64, wanted: TimeRange) -> Option<Self> {
        if entry.step == 0 || wanted.covers(entry.t_min, entry.t_max) {
            return Some(self);
        }
        let count = self.rows.len() as u64;
        let from = rows_before(entry, wanted.start.into()).clamp(skipped, skipped + count);
        let to = rows_before(entry, wanted.end).clamp(from, skipped + count);
        self.advance((from - skipped) as usize);
        self.rows.end = self.rows.start + (to - from) as usize;
        (!self.rows.is_empty()).then_some(self)
    }

    /// Leaves out the first rows.
    pub(super) fn advance(&mut self, rows: usize) {
        self.rows.start += rows;
        if let Times::Regular { first, step } = &mut self.times {
            *first = first.wrapping_add((rows as i64).wrapping_mul(*step as i64));
        }
    }

    /// The parts that lie in the rows left over, which ascend.
    fn split(self, left: &[Range<usize>]) -> impl Iterator<Item = Self> {
        let rows = intersect(std::slice::from_ref(&self.rows), left);
        rows.into_iter().map(move |rows| {
            let mut part = self.clone();
            part.advance(rows.start - self.rows.start);
            part.rows.end = rows.end;
            part
        })
    }
}

/// The rows of the file that lie in the row group, counted from its start.
fn within(rows: &Range<u64>, group: &Range<u64>) -> Range<usize> {
    let start = rows.start.clamp(group.start, group.end) - group.start;
    let end = rows.end.clamp(group.start, group.end) - group.start;
    start as usize..end as usize
}

/// Rows of a series with a step whose time lies before `time`.
fn rows_before(entry: &SeriesEntry, time: i128) -> u64 {
    let distance = time - i128::from(entry.t_min);
    if distance <= 0 {
        return 0;
    }
    let step = i128::from(entry.step);
    let rows = (distance + step - 1) / step;
    rows.min(entry.rows.into()) as u64
}

/// The selection of rows that the Parquet decoder understands; `ranges` ascend.
pub(super) fn selection(ranges: impl Iterator<Item = Range<usize>>) -> RowSelection {
    let mut selectors: Vec<RowSelector> = Vec::new();
    let mut at = 0;
    for range in ranges.filter(|range| !range.is_empty()) {
        match selectors.last_mut() {
            Some(last) if range.start == at && !last.skip => last.row_count += range.len(),
            _ => {
                if range.start > at {
                    selectors.push(RowSelector::skip(range.start - at));
                }
                selectors.push(RowSelector::select(range.len()));
            }
        }
        at = range.end;
    }
    RowSelection::from(selectors)
}

/// Numbers of the blocks that hold the given ordinals' rows: used with block directories whose
/// entries start at `firsts`.
pub(super) fn overlapping(firsts: &[u64], rows: &Range<u64>) -> Range<usize> {
    let start = firsts.partition_point(|&first| first <= rows.start);
    let end = firsts.partition_point(|&first| first < rows.end);
    start.saturating_sub(1)..end
}

/// First ordinal of a block.
pub(super) fn first_ordinal(block: usize) -> u64 {
    (block * BLOCK_SERIES) as u64
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Times left of the rows `skipped..` of a regular series.
    fn times_left(entry: &SeriesEntry, skipped: u64, wanted: TimeRange) -> Vec<i64> {
        let piece = Piece {
            key: Bytes::new(),
            hash: 0,
            rows: 100..100 + (entry.rows - skipped) as usize,
            times: Times::of(entry, skipped, wanted),
        };
        match piece.cut(entry, skipped, wanted) {
            None => Vec::new(),
            Some(Piece {
                rows,
                times: Times::Regular { first, step },
                ..
            }) => (0..rows.len() as u64)
                .map(|row| first.wrapping_add(row.wrapping_mul(step) as i64))
                .collect(),
            Some(piece) => panic!("a regular series gives {piece:?}"),
        }
    }

    #[test]
    fn regular_times_are_cut_by_arithmetic() {
        let entry = SeriesEntry {
            rows: 10,
            hash: 0,
            t_min: -5,
            t_max: 22,
            step: 3,
        };
        for (start, end, skipped) in (-8..26_i64)
            .flat_map(|start| (-8..26_i64).map(move |end| (start, end)))
            .flat_map(|(start, end)| [0, 4, 9].map(|skipped| (start, end, skipped)))
        {
            let wanted = TimeRange {
                start,
                end: end.into(),
            };
            let expected: Vec<i64> = (skipped as i64..10)
                .map(|row| -5 + 3 * row)
                .filter(|&time| wanted.contains(time))
                .collect();
            let found = times_left(&entry, skipped, wanted);
            assert_eq!(found, expected, "{start}..{end} from row {skipped}");
        }
    }

    #[test]
    fn extremes_do_not_overflow() {
        let entry = SeriesEntry {
            rows: 2,
            hash: 0,
            t_min: i64::MIN,
            t_max: i64::MAX,
            step: u64::MAX,
        };
        let all = times_left(&entry, 0, TimeRange::ALL);
        assert_eq!(all, [i64::MIN, i64::MAX]);
        let late = TimeRange {
            start: 0,
            ..TimeRange::ALL
        };
        assert_eq!(times_left(&entry, 0, late), [i64::MAX]);
        assert_eq!(times_left(&entry, 1, late), [i64::MAX]);
    }

    #[test]
    fn a_piece_is_split_by_the_rows_left() {
        let piece = Piece {
            key: Bytes::new(),
            hash: 0,
            rows: 10..20,
            times: Times::Regular { first: 0, step: 5 },
        };
        let parts: Vec<_> = piece
            .split(&[0..12, 15..17, 19..30])
            .map(|part| match part.times {
                Times::Regular { first, .. } => (part.rows, first),
                Times::Stored { .. } => panic!("a regular series"),
            })
            .collect();
        assert_eq!(parts, [(10..12, 0), (15..17, 25), (19..20, 45)]);
    }

    #[test]
    fn blocks_overlapping_rows() {
        let firsts = [0, 10, 20];
        assert_eq!(overlapping(&firsts, &(0..5)), 0..1);
        assert_eq!(overlapping(&firsts, &(9..11)), 0..2);
        assert_eq!(overlapping(&firsts, &(10..20)), 1..2);
        assert_eq!(overlapping(&firsts, &(25..99)), 2..3);
    }
}
