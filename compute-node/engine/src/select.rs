//! Leaves rows out of sorted batches: those a scan did not ask for, those a delete has hit.
//!
//! Works on whole slices of series and, inside one, on ranges of rows found by binary search; no
//! row is judged by itself.
//!
//! Never here: files, versions, or the order of sources.

use std::ops::Range;
use std::sync::Arc;

use arrow::array::{Array, ArrayRef, MutableArrayData, make_array, new_null_array};
use arrow::buffer::ScalarBuffer;
use arrow::compute::cast;
use auxo_sst::SstError;
use auxo_sst::batch::{FieldSet, SeriesSlice, SortedBatch, arrow_type};
use auxo_sst::predicate::{ScanSpec, TagMatcher, TimeRange};
use futures::StreamExt;

use crate::deletes::{Hit, Hits};
use crate::read::RowStream;

/// Rows of `batch` that the scan wants, with the fields it wants; `None` when there are none.
///
/// * `have`: fields of the batch, in its order. One that the scan wants and the batch lacks comes
///   back as NULLs, one of a narrower type is widened.
pub(crate) fn wanted(
    batch: &SortedBatch,
    have: &FieldSet,
    spec: &ScanSpec,
    tags: &TagMatcher,
) -> Result<Option<SortedBatch>, SstError> {
    let mut ranges = Vec::with_capacity(batch.series.len());
    for (index, slice) in batch.series.iter().enumerate() {
        if spec.range.contains(slice.hash) && tags.matches(&slice.key) {
            push_range(&mut ranges, index, within(batch, index, spec.time));
        }
    }
    let rows: usize = ranges.iter().map(|(_, rows)| rows.len()).sum();
    if rows == 0 {
        return Ok(None);
    }
    let fields = spec.fields.iter().map(|field| {
        let ty = arrow_type(field.ty);
        match have.iter().position(|column| column.id == field.id) {
            None => new_null_array(&ty, batch.rows()),
            Some(at) => {
                let array = &batch.fields[at];
                match array.data_type() == &ty {
                    true => Arc::clone(array),
                    false => cast(array, &ty).unwrap_or_else(|_| new_null_array(&ty, array.len())),
                }
            }
        }
    });
    let projected = SortedBatch {
        series: batch.series.clone(),
        time: batch.time.clone(),
        fields: fields.collect(),
    };
    match rows == batch.rows() {
        true => Ok(Some(projected)),
        false => keep(&projected, &ranges).map(Some),
    }
}

/// The stream without the rows that the deletes hit.
pub(crate) fn without_deleted(rows: RowStream, hits: Hits) -> RowStream {
    if hits.is_empty() {
        return rows;
    }
    rows.filter_map(move |batch| {
        let left = batch.and_then(|batch| left(&batch, &hits)).transpose();
        futures::future::ready(left)
    })
    .boxed()
}

/// What the deletes leave of a batch.
fn left(batch: &SortedBatch, hits: &[Arc<Hit>]) -> Result<Option<SortedBatch>, SstError> {
    let mut ranges = Vec::with_capacity(batch.series.len());
    for (index, slice) in batch.series.iter().enumerate() {
        let mut alive = vec![batch.slice_rows(index)];
        for hit in hits {
            if !hit.takes(&slice.key)? {
                continue;
            }
            let dead = within(batch, index, hit.time);
            // At most one more for each delete: an empty range that stayed would double each time.
            let left = alive.into_iter().flat_map(|rows| minus(rows, &dead));
            alive = left.filter(|rows| !rows.is_empty()).collect();
        }
        for rows in alive {
            push_range(&mut ranges, index, rows);
        }
    }
    let rows: usize = ranges.iter().map(|(_, rows)| rows.len()).sum();
    match rows {
        0 => Ok(None),
        rows if rows == batch.rows() => Ok(Some(batch.clone())),
        _ => keep(batch, &ranges).map(Some),
    }
}

fn minus(rows: Range<usize>, dead: &Range<usize>) -> [Range<usize>; 2] {
    let before = rows.start..rows.end.min(dead.start.max(rows.start));
    let after = rows.start.max(dead.end.min(rows.end))..rows.end;
    match dead.is_empty() {
        true => [rows, 0..0],
        false => [before, after],
    }
}

/// Rows of one slice whose time lies in the range.
fn within(batch: &SortedBatch, index: usize, time: TimeRange) -> Range<usize> {
    let rows = batch.slice_rows(index);
    let times = &batch.time[rows.clone()];
    let from = times.partition_point(|&at| at < time.start);
    let to = times.partition_point(|&at| i128::from(at) < time.end);
    rows.start + from..rows.start + to.max(from)
}

fn push_range(ranges: &mut Vec<(usize, Range<usize>)>, slice: usize, rows: Range<usize>) {
    if !rows.is_empty() {
        ranges.push((slice, rows));
    }
}

/// The first `count` series of a batch, and the others.
pub(crate) fn split_series(
    batch: &SortedBatch,
    count: usize,
) -> Result<(SortedBatch, SortedBatch), SstError> {
    let part = |slices: Range<usize>| {
        let ranges: Vec<_> = slices
            .map(|slice| (slice, batch.slice_rows(slice)))
            .collect();
        keep(batch, &ranges)
    };
    Ok((part(0..count)?, part(count..batch.series.len())?))
}

/// Rows of the given ranges, which ascend; a slice may have several.
fn keep(batch: &SortedBatch, ranges: &[(usize, Range<usize>)]) -> Result<SortedBatch, SstError> {
    let mut series: Vec<SeriesSlice> = Vec::with_capacity(ranges.len());
    let mut time = Vec::with_capacity(ranges.iter().map(|(_, rows)| rows.len()).sum());
    let mut joined: Vec<Range<usize>> = Vec::with_capacity(ranges.len());
    let mut last_slice = None;
    for (slice, rows) in ranges {
        if last_slice != Some(*slice) {
            let SeriesSlice { key, hash, .. } = batch.series[*slice].clone();
            series.push(SeriesSlice {
                key,
                hash,
                start: time.len() as u32,
            });
            last_slice = Some(*slice);
        }
        time.extend_from_slice(&batch.time[rows.clone()]);
        match joined.last_mut() {
            Some(last) if last.end == rows.start => last.end = rows.end,
            _ => joined.push(rows.clone()),
        }
    }
    let fields = batch
        .fields
        .iter()
        .map(|array| keep_ranges(array, &joined, time.len()));
    let fields = fields.collect::<Result<_, _>>()?;
    Ok(SortedBatch {
        fields,
        series,
        time: ScalarBuffer::from(time),
    })
}

fn keep_ranges(
    array: &ArrayRef,
    ranges: &[Range<usize>],
    rows: usize,
) -> Result<ArrayRef, SstError> {
    if let [only] = ranges {
        return Ok(array.slice(only.start, only.len()));
    }
    let data = array.to_data();
    let mut kept = MutableArrayData::new(vec![&data], false, rows);
    for range in ranges {
        let extended = kept.try_extend(0, range.start, range.end);
        extended.map_err(|error| SstError::Rows(error.to_string()))?;
    }
    Ok(make_array(kept.freeze()))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use auxo_proto::ids::{Seq, TabletId};
    use auxo_sst::manifest::Delete;
    use auxo_sst::predicate::TagFilter;

    use super::*;
    use crate::deletes::Deletes;

    /// Far more deletes than rows: what is left is one range for each gap, however many there are.
    #[test]
    fn many_deletes_leave_what_none_of_them_hit() {
        let slice = |key: &[u8], start| SeriesSlice {
            key: key.to_vec().into(),
            hash: 0,
            start,
        };
        let batch = SortedBatch {
            series: vec![slice(b"a", 0), slice(b"b", 10)],
            time: (0..10).chain(0..10).collect::<Vec<i64>>().into(),
            fields: Vec::new(),
        };
        let hits = |ranges: &[(i64, i64)]| {
            let delete = |&(start, end): &(i64, i64)| Delete {
                tablet: TabletId(1),
                filter: TagFilter::Any,
                time: TimeRange {
                    start,
                    end: end.into(),
                },
                seq: Seq(2),
            };
            let deletes: Vec<_> = ranges.iter().map(delete).collect();
            Deletes::of(TabletId(1), &deletes).after(Seq(1), (0, 9))
        };
        let ranges = [(2, 4), (6, 7), (-5, 0), (20, 30), (3, 4), (9, 9)];
        let kept = left(&batch, &hits(&ranges.repeat(17))).unwrap().unwrap();
        let dead = BTreeSet::from([2, 3, 6]);
        let alive: Vec<i64> = (0..10).filter(|time| !dead.contains(time)).collect();
        assert_eq!(kept.time.to_vec(), [alive.clone(), alive].concat());
        assert_eq!(kept.series.len(), 2);
        assert!(left(&batch, &hits(&[(0, 10)])).unwrap().is_none());
    }
}
