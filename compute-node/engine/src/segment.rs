//! Which time window a file covers.
//!
//! Set by hand: the table's `segment_duration`. Else the shortest of 6 h, 1 d, 7 d and 28 d in which
//! a series has at least 1,024 rows, decided at the first flush and kept for every window that has
//! files (measured: what costs is the jump between series, and a 12 h query should touch few files).
//!
//! A flush whose rows are strewn over many windows takes wider ones, so that one write cannot make
//! thousands of files.
//!
//! Never here: rows themselves.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use auxo_proto::schema::TableInfo;
use auxo_sst::entry::FileEntry;

use crate::memtable::{self, Piece};

const HOUR_NS: u64 = 3_600_000_000_000;

/// Lengths to choose from, in nanoseconds.
const LENGTHS: [u64; 4] = [
    6 * HOUR_NS,
    24 * HOUR_NS,
    7 * 24 * HOUR_NS,
    28 * 24 * HOUR_NS,
];

/// Rows a series should have in a file.
const ROWS_PER_SERIES: u64 = 1_024;

/// Segments one flush of a tablet may touch before wider ones are taken.
const SEGMENTS_MAX: usize = 64;

/// Pieces that go into one file.
#[derive(Debug)]
pub(crate) struct Segment {
    pub(crate) start: i64,
    pub(crate) length_ns: u64,
    /// From old to young.
    pub(crate) pieces: Vec<Arc<Piece>>,
}

/// Groups the windows of a tablet's memtable into segments.
pub(crate) fn of_windows(
    table: &TableInfo,
    files: &[Arc<FileEntry>],
    windows: BTreeMap<i64, Vec<Arc<Piece>>>,
) -> Vec<Segment> {
    let by_hand = table
        .options
        .segment_ms
        .map(|_| memtable::window_ns(table) as u64);
    let usual = by_hand
        .or_else(|| {
            files
                .iter()
                .max_by_key(|file| file.seq_max)
                .map(|file| file.segment_ns)
        })
        .unwrap_or_else(|| shortest(&windows));
    let mut length_ns = usual;
    for wider in LENGTHS {
        let starts: BTreeSet<i64> = windows
            .keys()
            .map(|&at| memtable::window_start(at, length_ns as i64))
            .collect();
        if starts.len() <= SEGMENTS_MAX {
            break;
        }
        length_ns = length_ns.max(wider);
    }
    let mut segments: BTreeMap<(i64, u64), Vec<Arc<Piece>>> = BTreeMap::new();
    for (window, pieces) in windows {
        let length = begun(files, window)
            .unwrap_or(length_ns)
            .max(length_ns.min(usual));
        let start = memtable::window_start(window, length as i64);
        segments.entry((start, length)).or_default().extend(pieces);
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

/// Length of the segment that a window lies in already.
fn begun(files: &[Arc<FileEntry>], window: i64) -> Option<u64> {
    let of = |file: &&Arc<FileEntry>| {
        let end = i128::from(file.segment_start) + i128::from(file.segment_ns);
        file.segment_start <= window && i128::from(window) < end
    };
    files.iter().filter(of).map(|file| file.segment_ns).max()
}

/// Shortest length in which a series has enough rows, judged by the rows at hand.
fn shortest(windows: &BTreeMap<i64, Vec<Arc<Piece>>>) -> u64 {
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
    let enough = |length: &u64| {
        let expected = i128::from(rows / series) * i128::from(*length) / span;
        expected >= i128::from(ROWS_PER_SERIES)
    };
    LENGTHS.into_iter().find(enough).unwrap_or(LENGTHS[3])
}
