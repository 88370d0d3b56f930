//! Unsorted rows, as they arrived, to one batch in key order.

use std::ops::Range;

use arrow::array::{Array, ArrayRef, UInt32Array};
use arrow::compute::take;
use auxo_proto::schema::MergeMode;
use bytes::Bytes;

use crate::batch::{SeriesSlice, SortedBatch};
use crate::error::SstError;

/// Rows in order of arrival.
///
/// * shape: `series_of`, `time` and every array have one length; each entry of `series_of` is
///   below `series.len()`. A key may stand in `series` more than once, so the rows of several
///   batches can be laid one after the other.
pub struct UnsortedRows {
    /// Canonical keys and their partition hashes.
    pub series: Vec<(Bytes, u32)>,
    /// Per row, the number of its series.
    pub series_of: Vec<u32>,
    /// Per row, its time in nanoseconds since 1970.
    pub time: Vec<i64>,
    /// One array per field.
    pub fields: Vec<ArrayRef>,
}

/// Sorts rows by (series, time). Of rows with one key `append` keeps all in order of arrival,
/// `last_row` the last to arrive, `last_non_null` per field the last value that is not NULL.
///
/// * errors: [`SstError::Rows`] when the shape is broken.
pub fn sort_rows(rows: &UnsortedRows, mode: MergeMode) -> Result<SortedBatch, SstError> {
    check(rows)?;
    let Sorted { slices, order } = order(rows);
    let (slices, order, later) = match mode {
        MergeMode::Append => (slices, order, Vec::new()),
        MergeMode::LastRow | MergeMode::LastNonNull => dedup(rows, &slices, &order, mode),
    };
    let arrived = order
        .iter()
        .enumerate()
        .all(|(at, &row)| at == row as usize);
    let series = slices
        .iter()
        .map(|(number, slice)| {
            let (key, hash) = &rows.series[*number as usize];
            SeriesSlice {
                key: key.clone(),
                hash: *hash,
                start: slice.start as u32,
            }
        })
        .collect();
    let time: Vec<i64> = order.iter().map(|&row| rows.time[row as usize]).collect();
    let mut fields = Vec::with_capacity(rows.fields.len());
    for (field, array) in rows.fields.iter().enumerate() {
        let patches = later.iter().filter(|patch| patch.field == field);
        if arrived && order.len() == array.len() && patches.clone().next().is_none() {
            fields.push(array.clone());
            continue;
        }
        let mut from = order.clone();
        patches.for_each(|patch| from[patch.at] = patch.row);
        let indices = UInt32Array::from(from);
        fields
            .push(take(array, &indices, None).map_err(|error| SstError::rows(error.to_string()))?);
    }
    Ok(SortedBatch {
        series,
        time: time.into(),
        fields,
    })
}

fn check(rows: &UnsortedRows) -> Result<(), SstError> {
    let count = rows.time.len();
    let same =
        rows.series_of.len() == count && rows.fields.iter().all(|array| array.len() == count);
    if !same || u32::try_from(count).is_err() {
        return Err(SstError::rows("columns of different lengths"));
    }
    if rows
        .series_of
        .iter()
        .any(|&number| number as usize >= rows.series.len())
    {
        return Err(SstError::rows("a row of an unknown series"));
    }
    Ok(())
}

/// Rows in key order: slices of `order` per series, by the number of one entry of that key.
struct Sorted {
    slices: Vec<(u32, Range<usize>)>,
    order: Vec<u32>,
}

fn order(rows: &UnsortedRows) -> Sorted {
    let mut by_key: Vec<u32> = (0..rows.series.len() as u32).collect();
    by_key.sort_unstable_by(|&a, &b| rows.series[a as usize].0.cmp(&rows.series[b as usize].0));
    let mut rank = vec![0_u32; rows.series.len()];
    let mut first_of_rank: Vec<u32> = Vec::new();
    for &number in &by_key {
        let key = &rows.series[number as usize].0;
        let same = first_of_rank
            .last()
            .is_some_and(|&first| rows.series[first as usize].0 == *key);
        if !same {
            first_of_rank.push(number);
        }
        rank[number as usize] = first_of_rank.len() as u32 - 1;
    }

    let mut ends = vec![0_usize; first_of_rank.len()];
    for &number in &rows.series_of {
        ends[rank[number as usize] as usize] += 1;
    }
    let mut start = 0;
    for end in &mut ends {
        let count = *end;
        *end = start;
        start += count;
    }
    let mut order = vec![0_u32; rows.time.len()];
    for (row, &number) in rows.series_of.iter().enumerate() {
        let end = &mut ends[rank[number as usize] as usize];
        order[*end] = row as u32;
        *end += 1;
    }

    let mut slices = Vec::with_capacity(first_of_rank.len());
    let mut start = 0;
    for (number, end) in first_of_rank.into_iter().zip(ends) {
        let slice = &mut order[start..end];
        let time = |row: &u32| rows.time[*row as usize];
        if !slice.is_sorted_by_key(time) {
            slice.sort_by_key(time);
        }
        if start < end {
            slices.push((number, start..end));
        }
        start = end;
    }
    Sorted { slices, order }
}

/// A value that comes from an earlier row of the same key.
struct Patch {
    /// Place in the order after deduplication.
    at: usize,
    field: usize,
    row: u32,
}

type Deduplicated = (Vec<(u32, Range<usize>)>, Vec<u32>, Vec<Patch>);

fn dedup(
    rows: &UnsortedRows,
    slices: &[(u32, Range<usize>)],
    order: &[u32],
    mode: MergeMode,
) -> Deduplicated {
    let mut kept = Vec::with_capacity(order.len());
    let mut patches = Vec::new();
    let mut kept_slices = Vec::with_capacity(slices.len());
    for (number, slice) in slices {
        let start = kept.len();
        let same_time = |a: &u32, b: &u32| rows.time[*a as usize] == rows.time[*b as usize];
        for group in order[slice.clone()].chunk_by(same_time) {
            let Some((&last, earlier)) = group.split_last() else {
                continue;
            };
            if mode == MergeMode::LastNonNull && !earlier.is_empty() {
                for (field, array) in rows.fields.iter().enumerate() {
                    if array.is_valid(last as usize) {
                        continue;
                    }
                    let found = earlier
                        .iter()
                        .rev()
                        .find(|&&row| array.is_valid(row as usize));
                    patches.extend(found.map(|&row| Patch {
                        at: kept.len(),
                        field,
                        row,
                    }));
                }
            }
            kept.push(last);
        }
        kept_slices.push((*number, start..kept.len()));
    }
    (kept_slices, kept, patches)
}
