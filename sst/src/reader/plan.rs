//! From series and times to rows: which rows of each row group a scan wants.

use std::ops::Range;

use auxo_proto::schema::HashRange;
use bytes::Bytes;
use parquet::arrow::arrow_reader::{RowSelection, RowSelector};

use super::SstFile;
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
    /// In row order; not empty.
    pub(super) pieces: Vec<Piece>,
}

/// Gives the plan of one row group after the other.
#[derive(Debug)]
pub(super) struct Planner {
    matcher: TagMatcher,
    time: TimeRange,
    range: HashRange,
    next: usize,
}

impl Planner {
    pub(super) fn new(matcher: TagMatcher, time: TimeRange, range: HashRange) -> Self {
        Self {
            matcher,
            time,
            range,
            next: 0,
        }
    }

    /// The next row group of which rows are wanted, in order.
    pub(super) fn next(&mut self, file: &SstFile) -> Result<Option<GroupPlan>, SstError> {
        while self.next < file.group_count() {
            let group = self.next;
            self.next += 1;
            let pieces = self.pieces(file, file.group_rows(group))?;
            if !pieces.is_empty() {
                return Ok(Some(GroupPlan { group, pieces }));
            }
        }
        Ok(None)
    }

    fn pieces(&self, file: &SstFile, group: Range<u64>) -> Result<Vec<Piece>, SstError> {
        let mut pieces = Vec::new();
        for number in file.blocks_of(&group) {
            let head = &file.heads().blocks[number];
            if !self.time.overlaps(head.t_min, head.t_max) {
                continue;
            }
            let block = file.block(number)?;
            for index in 0..block.len() {
                let entry = block.entry(index);
                let series = block.rows(index);
                let within = series.start.max(group.start)..series.end.min(group.end);
                if within.is_empty()
                    || !self.range.contains(entry.hash)
                    || !self.time.overlaps(entry.t_min, entry.t_max)
                {
                    continue;
                }
                let key = block.key(index);
                if !self.matcher.is_any() && !self.matcher.matches(&key) {
                    continue;
                }
                if let Some((rows, times)) = cut(entry, &series, within, self.time) {
                    pieces.push(Piece {
                        key,
                        hash: entry.hash,
                        rows: (rows.start - group.start) as usize
                            ..(rows.end - group.start) as usize,
                        times,
                    });
                }
            }
        }
        Ok(pieces)
    }
}

/// The part of `within` whose times are wanted, as far as the entry tells.
fn cut(
    entry: &SeriesEntry,
    series: &Range<u64>,
    within: Range<u64>,
    wanted: TimeRange,
) -> Option<(Range<u64>, Times)> {
    let covered = wanted.covers(entry.t_min, entry.t_max);
    if !entry.is_regular() {
        return Some((within, Times::Stored { edge: !covered }));
    }
    let rows = if covered || entry.step == 0 {
        within
    } else {
        let first = rows_before(entry, wanted.start.into());
        let end = rows_before(entry, wanted.end);
        within.start.max(series.start + first)..within.end.min(series.start + end)
    };
    let times = Times::Regular {
        first: entry.time_of(rows.start - series.start),
        step: entry.step,
    };
    (!rows.is_empty()).then_some((rows, times))
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

    #[test]
    fn regular_times_are_cut_by_arithmetic() {
        let entry = SeriesEntry {
            rows: 10,
            hash: 0,
            t_min: -5,
            t_max: 22,
            step: 3,
        };
        for start in -8..26_i64 {
            for end in -8..26_i64 {
                let wanted = TimeRange {
                    start,
                    end: end.into(),
                };
                let expected: Vec<i64> = (0..10)
                    .map(|row| -5 + 3 * row)
                    .filter(|&time| wanted.contains(time))
                    .collect();
                let found = cut(&entry, &(100..110), 100..110, wanted);
                let found: Vec<i64> = found.map_or(vec![], |(rows, times)| match times {
                    Times::Regular { first, step } => (0..rows.end - rows.start)
                        .map(|row| first + (row * step) as i64)
                        .collect(),
                    Times::Stored { .. } => panic!("a regular series"),
                });
                assert_eq!(found, expected, "{start}..{end}");
            }
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
        let (rows, times) = cut(&entry, &(0..2), 0..2, TimeRange::ALL).unwrap();
        assert_eq!(rows, 0..2);
        assert!(matches!(
            times,
            Times::Regular {
                first: i64::MIN,
                step: u64::MAX
            }
        ));
        let late = TimeRange {
            start: 0,
            end: TimeRange::ALL.end,
        };
        assert_eq!(cut(&entry, &(0..2), 0..2, late).unwrap().0, 1..2);
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
