//! Which window of time a file covers.
//!
//! Lengths are rungs of a ladder, each a multiple of the one below and the lowest that of a memtable's
//! window: 6 h, 1 d, 7 d and 28 d, or the table's `segment_duration` and the same multiples of it. All
//! segments begin at multiples of their length, so two of them are apart, equal, or one is part of the
//! other, and the last must not be: a stack of files would miss rows of the same key.
//!
//! 1. A window that lies in a segment which has files goes into that one.
//! 2. Else into a new one of the usual length: that by hand, or of the newest times that have files, or the
//!    shortest in which a series has at least 1,024 rows (measured: what costs is the jump between series,
//!    and a 12 h query should touch few files).
//! 3. A flush whose rows are strewn over many windows takes longer ones, so that one write cannot make
//!    thousands of files.
//! 4. A new one that would cover a segment which has files is shorter, down to the window itself.
//!
//! Never here: rows themselves.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use auxo_proto::schema::TableInfo;
use auxo_sst::entry::FileEntry;

use crate::memtable::{self, Piece};

/// Rungs of the ladder, in windows.
const RUNGS: [i64; 4] = [1, 4, 28, 112];

/// Rows a series should have in a file.
const ROWS_PER_SERIES: u64 = 1_024;

/// Segments one flush of a tablet may touch before longer ones are taken.
const SEGMENTS_MAX: usize = 64;

/// Pieces that go into one file.
#[derive(Debug)]
pub(crate) struct Segment {
    pub(crate) start: i64,
    pub(crate) length_ns: u64,
    /// From old to young.
    pub(crate) pieces: Vec<Arc<Piece>>,
}

/// Where a segment begins, and how many nanoseconds later it ends.
type Span = (i64, u64);

/// Groups the windows of a tablet's memtable into segments.
///
/// * files: all that the tablet has.
pub(crate) fn of_windows(
    table: &TableInfo,
    files: &[Arc<FileEntry>],
    windows: BTreeMap<i64, Vec<Arc<Piece>>>,
) -> Vec<Segment> {
    let width = memtable::window_ns(table);
    let ladder: Vec<i64> = RUNGS
        .iter()
        .filter_map(|rung| width.checked_mul(*rung))
        .collect();
    let usual = match (table.options.segment_ms, newest(files)) {
        (Some(_), _) => width,
        (None, Some(length_ns)) => rung_of(&ladder, length_ns),
        (None, None) => shortest(&ladder, &windows),
    };
    let taken: BTreeMap<i64, u64> = files
        .iter()
        .map(|file| (file.segment_start, file.segment_ns))
        .collect();
    let mut segments: BTreeMap<Span, Vec<Arc<Piece>>> = BTreeMap::new();
    let spans = spans(&ladder, usual, &taken, windows.keys().copied());
    for ((_, pieces), span) in windows.into_iter().zip(spans) {
        segments.entry(span).or_default().extend(pieces);
    }
    segments
        .into_iter()
        .map(|((start, length_ns), mut pieces)| {
            pieces.sort_by_key(|piece| piece.seq_min);
            Segment {
                start,
                length_ns,
                pieces,
            }
        })
        .collect()
}

/// The segment of each window, in their order.
///
/// * taken: segments that have files, by where they begin.
/// * windows: where they begin, in rising order.
fn spans(
    ladder: &[i64],
    usual: i64,
    taken: &BTreeMap<i64, u64>,
    windows: impl Iterator<Item = i64> + Clone,
) -> Vec<Span> {
    let longer = || ladder.iter().copied().filter(|length| *length >= usual);
    let few = |length: &i64| {
        let spans: BTreeSet<Span> = windows.clone().map(|at| span(at, *length)).collect();
        spans.len() <= SEGMENTS_MAX
    };
    let longest = longer().find(few).or_else(|| longer().next_back());
    let longest = longest.unwrap_or(usual);
    let shorter = || ladder.iter().rev().copied().filter(|one| *one <= longest);
    let of = |window: i64| {
        let begun = taken.range(..=window).next_back();
        let begun = begun.map(|(start, length_ns)| (*start, *length_ns));
        if let Some(begun) = begun.filter(|begun| i128::from(window) < end(*begun)) {
            return begun;
        }
        let covers_none = |new: &Span| {
            let last = i64::try_from(end(*new) - 1).unwrap_or(i64::MAX);
            let before = taken.range(..=last).next_back();
            before.is_none_or(|(start, length_ns)| end((*start, *length_ns)) <= new.0.into())
        };
        let new = shorter()
            .map(|length| span(window, length))
            .find(covers_none);
        new.unwrap_or_else(|| span(window, ladder.first().copied().unwrap_or(usual)))
    };
    windows.clone().map(of).collect()
}

/// The segment of that length in which a time lies; the first one is cut at the first time that can be
/// told.
fn span(at: i64, length: i64) -> Span {
    let (at, length) = (i128::from(at), i128::from(length));
    let begin = at.div_euclid(length) * length;
    let start = begin.max(i64::MIN.into());
    (start as i64, (begin + length - start) as u64)
}

fn end((start, length_ns): Span) -> i128 {
    i128::from(start) + i128::from(length_ns)
}

/// Length of the segment whose times are the newest.
fn newest(files: &[Arc<FileEntry>]) -> Option<u64> {
    let newest = files.iter().max_by_key(|file| file.segment_start);
    newest.map(|file| file.segment_ns)
}

/// The lowest rung that is as long.
fn rung_of(ladder: &[i64], length_ns: u64) -> i64 {
    let long = |rung: &&i64| rung.unsigned_abs() >= length_ns;
    let rung = ladder.iter().find(long).or_else(|| ladder.last());
    rung.copied().unwrap_or(memtable::WINDOW_NS)
}

/// Shortest length in which a series has enough rows, judged by the rows at hand.
fn shortest(ladder: &[i64], windows: &BTreeMap<i64, Vec<Arc<Piece>>>) -> i64 {
    let pieces = || windows.values().flatten();
    let rows: u64 = pieces().map(|piece| piece.rows as u64).sum();
    let series: u64 = pieces()
        .map(|piece| piece.series() as u64)
        .max()
        .unwrap_or(1)
        .max(1);
    let t_min = pieces().map(|piece| piece.t_min).min().unwrap_or(0);
    let t_max = pieces().map(|piece| piece.t_max).max().unwrap_or(0);
    let span = (i128::from(t_max) - i128::from(t_min)).max(1);
    let enough = |length: &&i64| {
        let expected = i128::from(rows / series) * i128::from(**length) / span;
        expected >= i128::from(ROWS_PER_SERIES)
    };
    let long = ladder.iter().find(enough).or_else(|| ladder.last());
    long.copied().unwrap_or(memtable::WINDOW_NS)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const WIDTH: i64 = memtable::WINDOW_NS;
    const LADDER: [i64; 4] = [WIDTH, 4 * WIDTH, 28 * WIDTH, 112 * WIDTH];

    /// Windows by how far they are from some place: near each other, or strewn over years, or at the ends
    /// of time.
    fn windows() -> impl Strategy<Value = BTreeSet<i64>> {
        let places = prop_oneof![
            Just(0_i64),
            Just(81_800),
            Just(i64::MAX / WIDTH),
            Just(i64::MIN / WIDTH)
        ];
        let reach = prop_oneof![Just(4_i64), Just(300), Just(3_000)];
        (places, reach).prop_flat_map(|(place, reach)| {
            let window = (-reach..reach).prop_map(move |by| {
                let near = i128::from(place + by) * i128::from(WIDTH);
                let time = near.clamp(i64::MIN.into(), i64::MAX.into()) as i64;
                memtable::window_start(time, WIDTH)
            });
            prop::collection::btree_set(window, 1..120)
        })
    }

    proptest! {
        #[test]
        fn segments_of_flushes_are_equal_or_apart(
            flushes in prop::collection::vec((windows(), 0_usize..4), 1..8)
        ) {
            let mut taken: BTreeMap<i64, u64> = BTreeMap::new();
            for (windows, usual) in flushes {
                let spans = spans(&LADDER, LADDER[usual], &taken, windows.iter().copied());
                for (window, span) in windows.into_iter().zip(spans) {
                    prop_assert!(span.0 <= window, "{window} in {span:?}");
                    let window_end = end(super::span(window, WIDTH));
                    prop_assert!(window_end <= end(span), "{window} in {span:?}");
                    prop_assert_eq!(*taken.entry(span.0).or_insert(span.1), span.1);
                }
                let ends = taken.iter().map(|(start, length_ns)| end((*start, *length_ns)));
                let next = taken.keys().skip(1).map(|start| i128::from(*start));
                for (end, next) in ends.zip(next) {
                    prop_assert!(end <= next, "{taken:?}");
                }
            }
        }
    }

    #[test]
    fn a_flush_that_is_strewn_takes_longer_segments_but_where_there_are_files() {
        let day = 4 * WIDTH;
        let strewn = || (0..100).map(|number| number * WIDTH);
        let fresh = spans(&LADDER, WIDTH, &BTreeMap::new(), strewn());
        let fresh: BTreeSet<Span> = fresh.into_iter().collect();
        assert_eq!(fresh.len(), 25);
        assert!(fresh.iter().all(|span| span.1 == day.unsigned_abs()));

        let taken = BTreeMap::from([(0, WIDTH.unsigned_abs())]);
        let beside: BTreeSet<Span> = spans(&LADDER, WIDTH, &taken, strewn())
            .into_iter()
            .collect();
        let short = (0..4).map(|number| (number * WIDTH, WIDTH.unsigned_abs()));
        let long = (1..25).map(|number| (number * day, day.unsigned_abs()));
        assert_eq!(beside, short.chain(long).collect());
        // What is written later into the part that has files keeps to them.
        let again = spans(&LADDER, day, &taken, [0, day].into_iter());
        assert_eq!(
            again,
            [(0, WIDTH.unsigned_abs()), (day, day.unsigned_abs())]
        );
    }
}
