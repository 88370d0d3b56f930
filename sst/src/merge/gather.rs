//! Collects runs of rows out of many batches, and copies them together once.

use std::ops::Range;
use std::sync::Arc;

use arrow::array::{Array, ArrayRef, MutableArrayData, make_array};
use arrow::compute::interleave;
use arrow::error::ArrowError;

use crate::batch::{SeriesSlice, SortedBatch};
use crate::error::SstError;
use crate::format::PAGE_ROWS;

/// Runs of fewer rows than this on average are copied row by row.
const SHORT_RUN: usize = 8;
/// A batch of at least this many rows is passed on as it is.
const WHOLE_BATCH_MIN: usize = PAGE_ROWS / 4;

/// A batch in the making.
pub(super) struct Gather {
    fields: usize,
    rows: usize,
    series: Vec<SeriesSlice>,
    batches: Vec<Arc<SortedBatch>>,
    runs: Vec<Run>,
    /// Per field, in row order.
    patches: Vec<Vec<Patch>>,
}

/// Rows of one of the batches.
#[derive(Clone)]
struct Run {
    batch: usize,
    rows: Range<usize>,
}

/// One value that comes from elsewhere than the rest of its row.
struct Patch {
    /// Row of the batch in the making.
    row: usize,
    batch: usize,
    from: usize,
}

impl Gather {
    pub(super) fn new(fields: usize) -> Self {
        Self {
            fields,
            rows: 0,
            series: Vec::new(),
            batches: Vec::new(),
            runs: Vec::new(),
            patches: (0..fields).map(|_| Vec::new()).collect(),
        }
    }

    pub(super) fn rows(&self) -> usize {
        self.rows
    }

    /// Whether the rows are exactly one batch, and not a small one: then nothing is copied.
    pub(super) fn is_whole_batch(&self) -> bool {
        match &self.runs[..] {
            [only] => {
                let whole =
                    only.rows.start == 0 && only.rows.end == self.batches[only.batch].rows();
                whole && self.rows >= WHOLE_BATCH_MIN && self.patches.iter().all(Vec::is_empty)
            }
            _ => false,
        }
    }

    /// Appends rows of one series; `series` is its slice in the batch.
    pub(super) fn push(
        &mut self,
        batch: &Arc<SortedBatch>,
        series: &SeriesSlice,
        rows: Range<usize>,
    ) {
        if self
            .series
            .last()
            .is_none_or(|last| !same_key(last, series))
        {
            self.series.push(SeriesSlice {
                start: self.rows as u32,
                ..series.clone()
            });
        }
        self.rows += rows.len();
        let batch = self.number(batch);
        match self.runs.last_mut() {
            Some(last) if last.batch == batch && last.rows.end == rows.start => {
                last.rows.end = rows.end;
            }
            _ => self.runs.push(Run { batch, rows }),
        }
    }

    /// Replaces a field of the row pushed last.
    pub(super) fn patch(&mut self, field: usize, batch: &Arc<SortedBatch>, from: usize) {
        let batch = self.number(batch);
        self.patches[field].push(Patch {
            row: self.rows - 1,
            batch,
            from,
        });
    }

    fn number(&mut self, batch: &Arc<SortedBatch>) -> usize {
        let known = self
            .batches
            .iter()
            .rposition(|known| Arc::ptr_eq(known, batch));
        known.unwrap_or_else(|| {
            self.batches.push(batch.clone());
            self.batches.len() - 1
        })
    }

    /// The batch, if it has rows; begins a new one.
    pub(super) fn take(&mut self) -> Result<Option<SortedBatch>, SstError> {
        if self.rows == 0 {
            return Ok(None);
        }
        let done = std::mem::replace(self, Self::new(self.fields));
        let time = match &done.runs[..] {
            [only] => done.batches[only.batch]
                .time
                .slice(only.rows.start, only.rows.len()),
            runs => {
                let mut time = Vec::with_capacity(done.rows);
                for run in runs {
                    time.extend_from_slice(&done.batches[run.batch].time[run.rows.clone()]);
                }
                time.into()
            }
        };
        let places = Places::of(&done.runs, done.rows);
        let fields: Result<_, _> = (0..done.fields)
            .map(|field| done.field(field, &places))
            .collect();
        let fields = fields.map_err(|error| SstError::rows(error.to_string()))?;
        Ok(Some(SortedBatch {
            series: done.series,
            time,
            fields,
        }))
    }

    fn field(&self, field: usize, places: &Places) -> Result<ArrayRef, ArrowError> {
        let arrays: Vec<&dyn Array> = self
            .batches
            .iter()
            .map(|batch| batch.fields[field].as_ref())
            .collect();
        if self.patches[field].is_empty() {
            return copy(&arrays, &self.runs, places, self.rows);
        }
        let runs = self.patched_runs(field);
        copy(&arrays, &runs, &Places::of(&runs, self.rows), self.rows)
    }

    /// The runs for one field, cut where its patches stand.
    fn patched_runs(&self, field: usize) -> Vec<Run> {
        let mut patches = self.patches[field].iter().peekable();
        let mut runs = Vec::with_capacity(self.runs.len());
        let mut row = 0;
        for run in &self.runs {
            let mut at = run.rows.start;
            let end = row + run.rows.len();
            while let Some(patch) = patches.next_if(|patch| patch.row < end) {
                let here = run.rows.start + (patch.row - row);
                if at < here {
                    runs.push(Run {
                        batch: run.batch,
                        rows: at..here,
                    });
                }
                runs.push(Run {
                    batch: patch.batch,
                    rows: patch.from..patch.from + 1,
                });
                at = here + 1;
            }
            if at < run.rows.end {
                runs.push(Run {
                    batch: run.batch,
                    rows: at..run.rows.end,
                });
            }
            row = end;
        }
        runs
    }
}

/// (batch, row) of each row, where runs are too short to be worth copying as runs.
struct Places(Option<Vec<(usize, usize)>>);

impl Places {
    fn of(runs: &[Run], rows: usize) -> Self {
        let short = runs.len() > 1 && runs.len() * SHORT_RUN > rows;
        Self(short.then(|| {
            let mut places = Vec::with_capacity(rows);
            for run in runs {
                places.extend(run.rows.clone().map(|row| (run.batch, row)));
            }
            places
        }))
    }
}

fn copy(
    arrays: &[&dyn Array],
    runs: &[Run],
    places: &Places,
    rows: usize,
) -> Result<ArrayRef, ArrowError> {
    if let [only] = runs {
        return Ok(arrays[only.batch].slice(only.rows.start, only.rows.len()));
    }
    if let Places(Some(places)) = places {
        return interleave(arrays, places);
    }
    let data: Vec<_> = arrays.iter().map(|array| array.to_data()).collect();
    let mut copy = MutableArrayData::new(data.iter().collect(), false, rows);
    for run in runs {
        copy.try_extend(run.batch, run.rows.start, run.rows.end)?;
    }
    Ok(make_array(copy.freeze()))
}

/// Mostly the two keys are one piece of memory.
fn same_key(a: &SeriesSlice, b: &SeriesSlice) -> bool {
    std::ptr::eq(&*a.key, &*b.key) || a.key == b.key
}
