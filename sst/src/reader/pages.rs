//! Which rows of a row group page statistics leave over.
//!
//! Only pages are left out that certainly hold nothing that matters. A field that holds NaN
//! anywhere in the file is never judged: orders disagree on where NaN stands.

use std::ops::Range;

use arrow::datatypes::DataType;
use auxo_proto::ids::ColumnId;
use parquet::file::page_index::column_index::ColumnIndexMetaData;
use parquet::file::page_index::offset_index::PageLocation;

use super::SstFile;
use crate::predicate::{Bound, FieldBounds, TimeRange};

/// A page: its rows within the row group, and what its values lie between, if that is known.
struct Page {
    rows: Range<usize>,
    holds: Holds,
}

enum Holds {
    Unknown,
    OnlyNulls,
    Between(Bound, Bound),
}

/// Bounds that a file can be judged by, with the place of their column.
#[derive(Clone, Debug)]
pub(super) struct Judged {
    bounds: FieldBounds,
    leaf: usize,
}

impl SstFile {
    /// The bounds by which pages can be judged; `None` when no row of the file matters.
    pub(super) fn judge(&self, bounds: &[FieldBounds]) -> Option<Vec<Judged>> {
        let mut judged = Vec::new();
        for bounds in bounds {
            let leaf = self.leaf_of(bounds.column)?;
            let head = self
                .field_heads()
                .iter()
                .find(|head| head.column == bounds.column);
            let Some(head) = head else { continue };
            if head.nan {
                continue;
            }
            match head.range {
                Some((min, max)) if !bounds.may_hold(min, max) => return None,
                None if head.nulls == self.entry().rows => return None,
                _ => judged.push(Judged {
                    bounds: bounds.clone(),
                    leaf,
                }),
            }
        }
        Some(judged)
    }

    /// Rows of the group that may matter, ascending; `None` means all.
    pub(super) fn rows_left(&self, group: usize, judged: &[Judged]) -> Option<Vec<Range<usize>>> {
        let mut left: Option<Vec<Range<usize>>> = None;
        for Judged { bounds, leaf } in judged {
            let mut rows: Vec<Range<usize>> = Vec::new();
            for page in self.pages(group, *leaf) {
                let matters = match page.holds {
                    Holds::Unknown => true,
                    Holds::OnlyNulls => false,
                    Holds::Between(min, max) => bounds.may_hold(min, max),
                };
                match rows.last_mut() {
                    _ if !matters => {}
                    Some(last) if last.end == page.rows.start => last.end = page.rows.end,
                    _ => rows.push(page.rows),
                }
            }
            left = Some(match left {
                Some(before) => intersect(&before, &rows),
                None => rows,
            });
        }
        left
    }

    /// The part of `rows`, which belong to one series, that is left without the pages that lie
    /// wholly in it and wholly outside the time range.
    pub(super) fn narrow_by_time(
        &self,
        group: usize,
        mut rows: Range<usize>,
        wanted: TimeRange,
    ) -> Range<usize> {
        let whole = rows.clone();
        for page in self.pages(group, self.time_leaf()) {
            let inside = whole.start <= page.rows.start && page.rows.end <= whole.end;
            let Holds::Between(Bound::I64(min), Bound::I64(max)) = page.holds else {
                continue;
            };
            if inside && max < wanted.start {
                rows.start = page.rows.end;
            } else if inside && i128::from(min) >= wanted.end {
                rows.end = rows.end.min(page.rows.start).max(rows.start);
            }
        }
        rows
    }

    fn leaf_of(&self, column: ColumnId) -> Option<usize> {
        let columns = self.parquet().parquet_schema().columns();
        columns.iter().position(|leaf| {
            let info = leaf.self_type().get_basic_info();
            info.has_id() && info.id() as u32 == column.0
        })
    }

    fn pages(&self, group: usize, leaf: usize) -> impl Iterator<Item = Page> {
        let metadata = self.parquet().metadata();
        let locations = metadata
            .offset_index()
            .and_then(|index| index.get(group)?.get(leaf))
            .map_or(&[][..], |index| index.page_locations());
        let statistics = metadata
            .column_index()
            .and_then(|index| index.get(group)?.get(leaf));
        let ty = self.parquet().schema().field(leaf).data_type();
        let group_rows = self.group_rows(group);
        let total = (group_rows.end - group_rows.start) as usize;
        let start = |page: &PageLocation| page.first_row_index as usize;
        (0..locations.len()).map(move |number| Page {
            rows: start(&locations[number])..locations.get(number + 1).map_or(total, start),
            holds: statistics.map_or(Holds::Unknown, |index| holds(index, number, ty)),
        })
    }
}

fn holds(index: &ColumnIndexMetaData, page: usize, ty: &DataType) -> Holds {
    if matches!(index, ColumnIndexMetaData::NONE) {
        return Holds::Unknown;
    }
    if page as u64 >= index.num_pages() {
        return Holds::Unknown;
    }
    if index.is_null_page(page) {
        return Holds::OnlyNulls;
    }
    let range = match index {
        ColumnIndexMetaData::INT32(index) => index
            .min_value(page)
            .zip(index.max_value(page))
            .and_then(|(&min, &max)| Some((from_i32(min, ty)?, from_i32(max, ty)?))),
        ColumnIndexMetaData::INT64(index) => index
            .min_value(page)
            .zip(index.max_value(page))
            .and_then(|(&min, &max)| Some((from_i64(min, ty)?, from_i64(max, ty)?))),
        ColumnIndexMetaData::FLOAT(index) => index
            .min_value(page)
            .zip(index.max_value(page))
            .map(|(&min, &max)| (Bound::F64(min.into()), Bound::F64(max.into()))),
        ColumnIndexMetaData::DOUBLE(index) => index
            .min_value(page)
            .zip(index.max_value(page))
            .map(|(&min, &max)| (Bound::F64(min), Bound::F64(max))),
        _ => None,
    };
    range.map_or(Holds::Unknown, |(min, max)| Holds::Between(min, max))
}

fn from_i32(value: i32, ty: &DataType) -> Option<Bound> {
    match ty {
        DataType::UInt8 | DataType::UInt16 | DataType::UInt32 => {
            Some(Bound::U64((value as u32).into()))
        }
        DataType::Decimal128(..) => None,
        _ => Some(Bound::I64(value.into())),
    }
}

fn from_i64(value: i64, ty: &DataType) -> Option<Bound> {
    match ty {
        DataType::UInt64 => Some(Bound::U64(value as u64)),
        DataType::Decimal128(..) => None,
        _ => Some(Bound::I64(value)),
    }
}

/// Rows in both lists; both ascend.
pub(super) fn intersect(a: &[Range<usize>], b: &[Range<usize>]) -> Vec<Range<usize>> {
    let (mut at_a, mut at_b, mut both) = (0, 0, Vec::new());
    while let (Some(x), Some(y)) = (a.get(at_a), b.get(at_b)) {
        let shared = x.start.max(y.start)..x.end.min(y.end);
        if !shared.is_empty() {
            both.push(shared);
        }
        if x.end <= y.end {
            at_a += 1;
        } else {
            at_b += 1;
        }
    }
    both
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_of_rows_intersect() {
        let both = intersect(&[0..10, 20..30, 40..50], &[5..25, 29..41]);
        assert_eq!(both, [5..10, 20..25, 29..30, 40..41]);
        assert!(intersect(&[], std::slice::from_ref(&(0..1))).is_empty());
    }
}
