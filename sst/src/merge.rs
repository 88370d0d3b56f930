//! Several sources in key order become one, by the rules of the table's merge mode.
//!
//! 1. A heap holds, per source, the key of its next series; of a source that is not opened yet, a
//!    lower bound of it. So a source whose keys come later is not even asked for its first batch.
//! 2. The sources that stand at the smallest key are *active*. A lone one gives its whole slice.
//! 3. Of several, kept in a second heap by time, the one with the earliest gives rows up to the
//!    earliest time of the others, found by galloping. So a row costs the logarithm of their number.
//! 4. Equal times clash. `last_row`: the youngest source gives the row. `last_non_null`: it gives
//!    the row, and each field that is NULL in it comes from the youngest source that has a value.
//!    `append`: all rows stay, the oldest source's first.
//!
//! Rooms: `gather` (runs of rows to arrays), `sort` (unsorted rows to one sorted batch).
//!
//! Within one source of a `last_row` or `last_non_null` table a key (series, time) stands once.

mod gather;
mod sort;

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::sync::Arc;

use arrow::array::Array;
use auxo_proto::schema::MergeMode;
use bytes::Bytes;
use futures::stream::{self, BoxStream};
use futures::{StreamExt, TryStreamExt};

use crate::batch::{FieldSet, SortedBatch};
use crate::error::SstError;
use crate::format::PAGE_ROWS;
use gather::Gather;
pub use sort::{UnsortedRows, sort_rows};

/// One of the inputs of a merge.
pub struct MergeSource {
    /// Rows in key order, with the fields of the merge.
    pub rows: BoxStream<'static, Result<SortedBatch, SstError>>,
    /// No series of the source has a smaller key. Empty when nothing is known.
    pub first_key: Bytes,
}

/// Merges sources.
///
/// * `sources`: oldest first: a later one wins.
/// * shape: batches of at most 8,192 rows (a single source passes as it is), none empty, in key
///   order; times ascend within a series, and are distinct but in `append`.
/// * errors: the first one of any source, then the stream ends.
pub fn merge(
    mut sources: Vec<MergeSource>,
    mode: MergeMode,
    fields: &FieldSet,
) -> BoxStream<'static, Result<SortedBatch, SstError>> {
    if sources.len() <= 1 {
        return sources
            .pop()
            .map_or_else(|| stream::empty().boxed(), |only| only.rows);
    }
    let merger = Merger::new(sources, mode, fields.len());
    stream::try_unfold(merger, |mut merger| async move {
        Ok(merger.next().await?.map(|batch| (batch, merger)))
    })
    .boxed()
}

/// Where one source stands.
struct Cursor {
    rows: BoxStream<'static, Result<SortedBatch, SstError>>,
    /// `None` before it is opened, and when it has ended.
    batch: Option<Arc<SortedBatch>>,
    series: usize,
    row: usize,
    /// End of the slice of that series in the batch.
    end: usize,
}

struct Merger {
    cursors: Vec<Cursor>,
    waiting: BinaryHeap<Reverse<(Bytes, usize)>>,
    /// Sources that stand at `key`, by their next time, then from old to young.
    active: BinaryHeap<Reverse<(i64, usize)>>,
    /// Room for the sources that stand at one time.
    clash: Vec<usize>,
    key: Bytes,
    mode: MergeMode,
    out: Gather,
}

impl Cursor {
    /// Goes on to the next batch.
    async fn load(&mut self) -> Result<(), SstError> {
        loop {
            self.batch = self.rows.try_next().await?.map(Arc::new);
            if self.batch.as_ref().is_none_or(|batch| batch.rows() > 0) {
                break;
            }
        }
        self.series = 0;
        self.row = 0;
        self.end = match &self.batch {
            Some(batch) => batch.slice_rows(0).end,
            None => 0,
        };
        Ok(())
    }

    /// Goes on over rows of the slice; at its end to the next slice or batch.
    ///
    /// * returns: whether it is still in the slice.
    async fn advance(&mut self, rows: usize) -> Result<bool, SstError> {
        self.row += rows;
        if self.row < self.end {
            return Ok(true);
        }
        match &self.batch {
            Some(batch) if self.series + 1 < batch.series.len() => {
                self.series += 1;
                self.end = batch.slice_rows(self.series).end;
            }
            _ => self.load().await?,
        }
        Ok(false)
    }

    fn key(&self) -> Option<&Bytes> {
        let batch = self.batch.as_ref()?;
        Some(&batch.series[self.series].key)
    }

    /// Times of the rest of the slice.
    fn times(&self) -> &[i64] {
        match &self.batch {
            Some(batch) => &batch.time[self.row..self.end],
            None => &[],
        }
    }
}

impl Merger {
    fn new(sources: Vec<MergeSource>, mode: MergeMode, fields: usize) -> Self {
        let mut waiting = BinaryHeap::new();
        let mut cursors = Vec::with_capacity(sources.len());
        for (index, source) in sources.into_iter().enumerate() {
            waiting.push(Reverse((source.first_key, index)));
            cursors.push(Cursor {
                rows: source.rows,
                batch: None,
                series: 0,
                row: 0,
                end: 0,
            });
        }
        Self {
            cursors,
            waiting,
            active: BinaryHeap::new(),
            clash: Vec::new(),
            key: Bytes::new(),
            mode,
            out: Gather::new(fields),
        }
    }

    async fn next(&mut self) -> Result<Option<SortedBatch>, SstError> {
        while self.out.rows() < PAGE_ROWS && !self.out.is_whole_batch() {
            if self.active.is_empty() && !self.next_series().await? {
                break;
            }
            match self.mode {
                MergeMode::Append => self.step_append().await?,
                MergeMode::LastRow | MergeMode::LastNonNull => self.step_last().await?,
            }
        }
        self.out.take()
    }

    /// Makes the sources at the smallest key active; false when all have ended.
    async fn next_series(&mut self) -> Result<bool, SstError> {
        while let Some(Reverse((key, index))) = self.waiting.pop() {
            if !self.active.is_empty() && key != self.key {
                self.waiting.push(Reverse((key, index)));
                break;
            }
            if self.cursors[index].batch.is_none() {
                self.cursors[index].load().await?;
                self.wait(index);
                continue;
            }
            self.key = key;
            self.stand(index);
        }
        Ok(!self.active.is_empty())
    }

    /// Puts a source back among the waiting, unless it has ended.
    fn wait(&mut self, index: usize) {
        if let Some(key) = self.cursors[index].key() {
            self.waiting.push(Reverse((key.clone(), index)));
        }
    }

    /// Puts a source among the active ones, at its next time.
    fn stand(&mut self, index: usize) {
        let time = self.cursors[index].times()[0];
        self.active.push(Reverse((time, index)));
    }

    /// Gives rows of a source that was taken from the active ones, as long as `holds` is true of
    /// their times and there is room, then puts it back where it belongs.
    async fn run(&mut self, index: usize, holds: impl Fn(i64) -> bool) -> Result<(), SstError> {
        let cursor = &self.cursors[index];
        let rows = gallop(cursor.times(), holds).min(PAGE_ROWS - self.out.rows());
        if let Some(batch) = &cursor.batch {
            let series = &batch.series[cursor.series];
            self.out.push(batch, series, cursor.row..cursor.row + rows);
        }
        self.advance(index, rows).await
    }

    /// Advances a source that was taken from the active ones and puts it back where it belongs.
    async fn advance(&mut self, index: usize, rows: usize) -> Result<(), SstError> {
        let cursor = &mut self.cursors[index];
        if cursor.advance(rows).await? || cursor.key() == Some(&self.key) {
            self.stand(index);
        } else {
            self.wait(index);
        }
        Ok(())
    }

    /// Equal times of a key all stay, those of the oldest source first.
    async fn step_append(&mut self) -> Result<(), SstError> {
        let Some(Reverse((_, first))) = self.active.pop() else {
            return Ok(());
        };
        match self.active.peek() {
            None => self.run(first, |_| true).await,
            Some(&Reverse(next)) => self.run(first, |time| (time, first) < next).await,
        }
    }

    async fn step_last(&mut self) -> Result<(), SstError> {
        let Some(Reverse((earliest, first))) = self.active.pop() else {
            return Ok(());
        };
        match self.active.peek() {
            None => return self.run(first, |_| true).await,
            Some(&Reverse((next, _))) if next > earliest => {
                return self.run(first, |time| time < next).await;
            }
            Some(_) => {}
        }
        let mut clash = std::mem::take(&mut self.clash);
        clash.push(first);
        while let Some(&Reverse((time, index))) = self.active.peek()
            && time == earliest
        {
            self.active.pop();
            clash.push(index);
        }
        self.give_clash(&clash);
        for &index in &clash {
            self.advance(index, 1).await?;
        }
        clash.clear();
        self.clash = clash;
        Ok(())
    }

    /// Gives the row of the youngest of the sources, which stand at one time, oldest first; with
    /// `last_non_null`, its missing values come from the others.
    fn give_clash(&mut self, clash: &[usize]) {
        let Some((&youngest, older)) = clash.split_last() else {
            return;
        };
        let cursor = &self.cursors[youngest];
        let Some(batch) = &cursor.batch else { return };
        let row = cursor.row;
        self.out
            .push(batch, &batch.series[cursor.series], row..row + 1);
        if self.mode != MergeMode::LastNonNull {
            return;
        }
        for field in 0..batch.fields.len() {
            if batch.fields[field].is_valid(row) {
                continue;
            }
            for &index in older.iter().rev() {
                let older = &self.cursors[index];
                let Some(batch) = &older.batch else { continue };
                if batch.fields[field].is_valid(older.row) {
                    self.out.patch(field, batch, older.row);
                    break;
                }
            }
        }
    }
}

/// Number of leading times for which `holds`, which turns false once; quick when there are few.
fn gallop(times: &[i64], holds: impl Fn(i64) -> bool) -> usize {
    let mut reach = 1;
    while reach <= times.len() && holds(times[reach - 1]) {
        reach *= 2;
    }
    let known = reach / 2;
    let end = times.len().min(reach);
    known + times[known..end].partition_point(|&time| holds(time))
}

#[cfg(test)]
mod tests;
