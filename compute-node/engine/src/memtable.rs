//! Rows that are in the log but not yet in a file: per tablet and window a list of immutable pieces.
//!
//! A *part* is a request's own columns as they came; a *run* is sorted and holds what several parts
//! held. Applying a record only pushes parts, so readers never wait and a snapshot is one `Arc`.
//!
//! Invariants: pieces of a window stand in the order of their sequences, and the sequence ranges of
//! two pieces do not overlap, except that one record may leave several parts with the same one
//! (then the later wins); a run never joins pieces on both sides of a delete.
//!
//! Never here: files, the log, or a decision when to flush.

use std::collections::BTreeMap;
use std::sync::{Arc, OnceLock};

use auxo_proto::ids::{Seq, TabletId};
use auxo_proto::rows::Rows;
use auxo_proto::schema::TableInfo;
use auxo_sst::SstError;
use auxo_sst::batch::{FieldSet, SortedBatch};
use auxo_sst::merge;

use crate::arrays;

/// Width of a memtable's windows when the table's segments are not set by hand: the narrowest
/// segment there is, which all others are multiples of.
pub const WINDOW_NS: i64 = 6 * 3_600 * 1_000_000_000;

/// First nanosecond of the window of the given width that holds `time`; clamped to the first
/// representable one, where the window is cut short.
pub fn window_start(time: i64, width_ns: i64) -> i64 {
    time.checked_sub(time.rem_euclid(width_ns))
        .unwrap_or(i64::MIN)
}

/// Width of the memtable windows of a table, in nanoseconds.
pub fn window_ns(table: &TableInfo) -> i64 {
    let by_hand = table
        .options
        .segment_ms
        .and_then(|ms| i64::try_from(ms).ok());
    by_hand
        .and_then(|ms| ms.checked_mul(1_000_000))
        .filter(|&ns| ns > 0)
        .unwrap_or(WINDOW_NS)
}

/// An immutable piece of a memtable.
#[derive(Debug)]
pub struct Piece {
    /// Lowest sequence of its rows.
    pub seq_min: Seq,
    /// Highest sequence of its rows.
    pub seq_max: Seq,
    /// Time of its earliest row.
    pub t_min: i64,
    /// Time of its latest row.
    pub t_max: i64,
    /// Number of rows, before equal keys are joined.
    pub rows: usize,
    /// Bytes it holds.
    pub bytes: usize,
    content: Content,
}

#[derive(Debug)]
enum Content {
    Part(Box<Part>),
    Run(Sorted),
}

/// A request's own columns, and their sorted copy once somebody has asked for it.
#[derive(Debug)]
struct Part {
    rows: Rows,
    table: Arc<TableInfo>,
    sorted: OnceLock<Result<Sorted, SstError>>,
}

/// Rows in key order with the fields they have.
#[derive(Clone, Debug)]
pub struct Sorted {
    /// Fields of every batch, in order.
    pub fields: FieldSet,
    /// Batches in key order; equal keys joined unless the table appends.
    pub batches: Arc<[SortedBatch]>,
}

impl Piece {
    /// Whether it is sorted for good.
    pub fn is_run(&self) -> bool {
        matches!(self.content, Content::Run(_))
    }

    /// Number of distinct series, counted again in each batch of a run.
    pub fn series(&self) -> usize {
        match &self.content {
            Content::Part(part) => part.rows.series.len(),
            Content::Run(sorted) => sorted.batches.iter().map(|batch| batch.series.len()).sum(),
        }
    }

    /// Its rows in key order; a part is sorted at the first call and remembers it.
    ///
    /// * errors: [`SstError::Rows`] when a request's rows break their shape: a bug.
    pub fn sorted(&self) -> Result<Sorted, SstError> {
        match &self.content {
            Content::Run(sorted) => Ok(sorted.clone()),
            Content::Part(part) => {
                let sort = || sort_part(&part.rows, &part.table);
                part.sorted.get_or_init(sort).clone()
            }
        }
    }

    /// A run of the given rows; `None` when there are none.
    pub fn run(sorted: Sorted, seq_min: Seq, seq_max: Seq) -> Option<Self> {
        let times = || {
            sorted
                .batches
                .iter()
                .flat_map(|batch| batch.time.iter().copied())
        };
        let (t_min, t_max) = (times().min()?, times().max()?);
        let rows = sorted.batches.iter().map(SortedBatch::rows).sum();
        let bytes = sorted.batches.iter().map(arrays::memory_bytes).sum();
        Some(Self {
            seq_min,
            seq_max,
            t_min,
            t_max,
            rows,
            bytes,
            content: Content::Run(sorted),
        })
    }
}

fn sort_part(rows: &Rows, table: &TableInfo) -> Result<Sorted, SstError> {
    let present = |id| rows.columns.iter().any(|column| column.id == id);
    let fields: FieldSet = table
        .schema
        .fields()
        .filter(|field| present(field.id))
        .cloned()
        .collect();
    let unsorted = arrays::unsorted(rows, &fields);
    let batch = merge::sort_rows(&unsorted, table.options.merge_mode)?;
    Ok(Sorted {
        fields,
        batches: Arc::from([batch]),
    })
}

/// Cuts a request's rows by window: one part per window, earliest window first.
pub fn parts(rows: Rows, table: &Arc<TableInfo>, seq: Seq) -> Vec<(i64, Piece)> {
    let width = window_ns(table);
    let (Some(&t_min), Some(&t_max)) = (rows.time.iter().min(), rows.time.iter().max()) else {
        return Vec::new();
    };
    let first = window_start(t_min, width);
    if first == window_start(t_max, width) {
        return vec![(first, part(rows, table, seq, t_min, t_max))];
    }
    let mut windows: BTreeMap<i64, (Vec<u32>, i64, i64)> = BTreeMap::new();
    for (row, &time) in rows.time.iter().enumerate() {
        let window = windows.entry(window_start(time, width));
        let (pick, t_min, t_max) = window.or_insert_with(|| (Vec::new(), time, time));
        pick.push(row as u32);
        *t_min = time.min(*t_min);
        *t_max = time.max(*t_max);
    }
    windows
        .into_iter()
        .map(|(start, (pick, t_min, t_max))| {
            (start, part(rows.take(&pick), table, seq, t_min, t_max))
        })
        .collect()
}

fn part(rows: Rows, table: &Arc<TableInfo>, seq: Seq, t_min: i64, t_max: i64) -> Piece {
    let (count, bytes) = (rows.len(), part_bytes(&rows));
    let content = Content::Part(Box::new(Part {
        rows,
        table: Arc::clone(table),
        sorted: OnceLock::new(),
    }));
    Piece {
        seq_min: seq,
        seq_max: seq,
        t_min,
        t_max,
        rows: count,
        bytes,
        content,
    }
}

/// Bytes that a request's rows take while they are parts, with room for their sorted copy.
fn part_bytes(rows: &Rows) -> usize {
    let values: usize = rows
        .columns
        .iter()
        .map(|column| match &column.values {
            auxo_proto::rows::Values::Bytes(values) => values.parts().0.len() + 4 * values.len(),
            auxo_proto::rows::Values::Bool(values) => values.len(),
            auxo_proto::rows::Values::I128(values) => 16 * values.len(),
            other => 8 * other.len(),
        })
        .sum();
    2 * (values + 12 * rows.len() + rows.series.memory_bytes())
}

/// Pieces of one tablet, by window.
#[derive(Clone, Debug, Default)]
pub struct TabletRows {
    windows: BTreeMap<i64, Arc<Vec<Arc<Piece>>>>,
}

impl TabletRows {
    /// Adds a part as the youngest of its window.
    pub fn push(&mut self, window: i64, piece: Piece) {
        let pieces = self.windows.entry(window).or_default();
        Arc::make_mut(pieces).push(Arc::new(piece));
    }

    /// The windows with their pieces, oldest piece first.
    pub fn windows(&self) -> impl Iterator<Item = (i64, &Arc<Vec<Arc<Piece>>>)> {
        self.windows.iter().map(|(&start, pieces)| (start, pieces))
    }

    /// Puts `run` where exactly the pieces `joined` stand now; says no if they no longer do.
    pub fn replace(&mut self, window: i64, joined: &[Arc<Piece>], run: Option<Piece>) -> bool {
        let Some(pieces) = self.windows.get_mut(&window) else {
            return false;
        };
        let at = pieces.windows(joined.len()).position(|stretch| {
            stretch
                .iter()
                .zip(joined)
                .all(|(piece, joined)| Arc::ptr_eq(piece, joined))
        });
        let Some(at) = at else {
            return false;
        };
        let run = run.map(Arc::new);
        Arc::make_mut(pieces).splice(at..at + joined.len(), run);
        true
    }

    /// Number of rows, before equal keys are joined.
    pub fn rows(&self) -> usize {
        self.pieces().map(|piece| piece.rows).sum()
    }

    /// Bytes of all pieces.
    pub fn bytes(&self) -> usize {
        self.pieces().map(|piece| piece.bytes).sum()
    }

    /// Every piece, window by window.
    pub fn pieces(&self) -> impl Iterator<Item = &Arc<Piece>> {
        self.windows.values().flat_map(|pieces| pieces.iter())
    }
}

/// Number of branches between which the tablets of a memtable are spread.
const BRANCHES: u64 = 64;

/// Some tablets of a shard with their rows.
type Branch = BTreeMap<TabletId, Arc<TabletRows>>;

/// The memtables of a shard: a list of two levels, so that pushing a part copies one branch only.
#[derive(Clone, Debug)]
pub struct Memtables {
    branches: Arc<Vec<Arc<Branch>>>,
}

impl Default for Memtables {
    fn default() -> Self {
        Self {
            branches: Arc::new(vec![Arc::default(); BRANCHES as usize]),
        }
    }
}

impl Memtables {
    /// The rows of a tablet.
    pub fn tablet(&self, tablet: TabletId) -> Option<&Arc<TabletRows>> {
        self.branch(tablet).get(&tablet)
    }

    /// All tablets with rows.
    pub fn tablets(&self) -> impl Iterator<Item = (TabletId, &Arc<TabletRows>)> {
        self.branches
            .iter()
            .flat_map(|branch| branch.iter().map(|(&id, rows)| (id, rows)))
    }

    /// Whether no tablet has rows.
    pub fn is_empty(&self) -> bool {
        self.branches.iter().all(|branch| branch.is_empty())
    }

    /// Bytes of all pieces.
    pub fn bytes(&self) -> usize {
        self.tablets().map(|(_, rows)| rows.bytes()).sum()
    }

    /// Number of rows, before equal keys are joined.
    pub fn rows(&self) -> usize {
        self.tablets().map(|(_, rows)| rows.rows()).sum()
    }

    /// Changes the rows of one tablet; earlier snapshots keep theirs.
    pub fn edit<R>(&mut self, tablet: TabletId, edit: impl FnOnce(&mut TabletRows) -> R) -> R {
        let branches = Arc::make_mut(&mut self.branches);
        let branch = Arc::make_mut(&mut branches[(tablet.0 % BRANCHES) as usize]);
        edit(Arc::make_mut(branch.entry(tablet).or_default()))
    }

    /// Forgets a tablet.
    pub fn remove(&mut self, tablet: TabletId) {
        if self.tablet(tablet).is_some() {
            let branches = Arc::make_mut(&mut self.branches);
            Arc::make_mut(&mut branches[(tablet.0 % BRANCHES) as usize]).remove(&tablet);
        }
    }

    fn branch(&self, tablet: TabletId) -> &Branch {
        &self.branches[(tablet.0 % BRANCHES) as usize]
    }
}

/// Parts of one window that are worth joining into a run.
pub const PARTS_MAX: usize = 16;

/// Unsorted rows of one window that are worth joining into a run.
pub const UNSORTED_ROWS_MAX: usize = 16_384;

/// How many runs of like size become one.
pub const RUNS_JOINED: usize = 8;

/// Which pieces of a window should become one run now, if any: the parts behind the last run once
/// they are many, else the youngest eight runs of like size.
///
/// * `barriers`: sequences of deletes that hit the tablet; pieces on both sides of one stay apart.
pub fn to_join(pieces: &[Arc<Piece>], barriers: &[Seq]) -> Option<std::ops::Range<usize>> {
    let parts_from = pieces
        .iter()
        .rposition(|piece| piece.is_run())
        .map_or(0, |last| last + 1);
    let parts = &pieces[parts_from..];
    let rows: usize = parts.iter().map(|piece| piece.rows).sum();
    let range = if parts.len() > PARTS_MAX || (parts.len() > 1 && rows > UNSORTED_ROWS_MAX) {
        parts_from..pieces.len()
    } else {
        like_sized_runs(&pieces[..parts_from])?
    };
    let crossed = |seq: &Seq| {
        let joined = &pieces[range.clone()];
        joined[0].seq_max < *seq && joined[joined.len() - 1].seq_max >= *seq
    };
    match barriers.iter().filter(|seq| crossed(seq)).max() {
        None => Some(range),
        Some(barrier) => {
            let behind = range.clone().find(|&at| pieces[at].seq_max >= *barrier)?;
            (range.end - behind > 1).then_some(behind..range.end)
        }
    }
}

/// The youngest [`RUNS_JOINED`] runs, if the largest of them is at most eight times the smallest.
fn like_sized_runs(runs: &[Arc<Piece>]) -> Option<std::ops::Range<usize>> {
    let from = runs.len().checked_sub(RUNS_JOINED)?;
    let sizes = || runs[from..].iter().map(|run| run.rows);
    (sizes().max()? <= sizes().min()?.max(1) * RUNS_JOINED).then_some(from..runs.len())
}
