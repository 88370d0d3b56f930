//! Collects the side index while rows are written.
//!
//! Costs a few comparisons a row: whether the step of the times goes on, and what `min` and `max`
//! of a batch of each field are. Everything else happens per series.

use arrow::array::{Array, ArrayRef, ArrowPrimitiveType, AsArray, PrimitiveArray};
use arrow::compute::{max, min};
use arrow::datatypes::{
    Date32Type, Float32Type, Float64Type, Int8Type, Int16Type, Int32Type, Int64Type,
    TimestampNanosecondType, UInt8Type, UInt16Type, UInt32Type, UInt64Type,
};
use auxo_proto::ids::ColumnId;
use auxo_proto::key;
use auxo_proto::schema::{Column, ColumnType, HashRange};

use super::blocks::{self, SeriesEntry};
use super::heads::{BlockHead, FieldHead, Heads, TagHead};
use super::postings;
use crate::error::SstError;
use crate::format::{BLOCK_SERIES, SPARSE_ROWS};
use crate::predicate::Bound;

/// Largest integer up to which f64 counts by ones.
const EXACT_MAX: f64 = (1_u64 << 53) as f64;

/// Every series written so far, and the fields' statistics.
pub(crate) struct IndexBuilder {
    tags: Vec<ColumnId>,
    keys: Vec<u8>,
    ends: Vec<usize>,
    entries: Vec<SeriesEntry>,
    fields: Vec<FieldHead>,
    types: Vec<ColumnType>,
    rows: u64,
    may_repeat_times: bool,
    /// Whether all keys are text, so that tag columns hold exactly what the keys hold.
    text: bool,
}

/// The index sections of a finished file.
pub(crate) struct BuiltIndex {
    pub(crate) heads: Heads,
    pub(crate) postings: Vec<u8>,
    pub(crate) series: Vec<u8>,
}

impl IndexBuilder {
    /// * `tags`: in declared order; `may_repeat_times`: whether two rows of a series may have one time (`append`).
    pub(crate) fn new(tags: Vec<ColumnId>, fields: &[Column], may_repeat_times: bool) -> Self {
        let head = |column: &Column| FieldHead {
            column: column.id,
            nulls: 0,
            nan: false,
            infinite: false,
            large_sum: false,
            range: None,
        };
        Self {
            tags,
            keys: Vec::new(),
            ends: Vec::new(),
            entries: Vec::new(),
            fields: fields.iter().map(head).collect(),
            types: fields.iter().map(|column| column.ty).collect(),
            rows: 0,
            may_repeat_times,
            text: true,
        }
    }

    pub(crate) fn rows(&self) -> u64 {
        self.rows
    }

    pub(crate) fn series(&self) -> usize {
        self.entries.len()
    }

    pub(crate) fn key(&self, ordinal: usize) -> &[u8] {
        let start = if ordinal == 0 {
            0
        } else {
            self.ends[ordinal - 1]
        };
        &self.keys[start..self.ends[ordinal]]
    }

    /// Bytes that the index is expected to take in the file; rather too many.
    pub(crate) fn expected_bytes(&self) -> usize {
        self.keys.len() + 24 * self.entries.len()
    }

    /// Takes the next rows of a series.
    ///
    /// * errors: [`SstError::Rows`] when the key or a time falls, or a time repeats where it may
    ///   not.
    pub(crate) fn push_series(
        &mut self,
        key: &[u8],
        hash: u32,
        times: &[i64],
    ) -> Result<(), SstError> {
        let Some((&first, rest)) = times.split_first() else {
            return Err(SstError::rows("a series without rows"));
        };
        let last = self.entries.len().checked_sub(1);
        let order = last.map(|last| self.key(last).cmp(key));
        let (entry, rest) = match (order, self.entries.last_mut()) {
            (Some(std::cmp::Ordering::Equal), Some(entry)) if entry.hash == hash => (entry, times),
            (Some(std::cmp::Ordering::Less) | None, _) => {
                self.text &= is_text(key);
                self.keys.extend_from_slice(key);
                self.ends.push(self.keys.len());
                self.entries.push(SeriesEntry {
                    rows: 1,
                    hash,
                    t_min: first,
                    t_max: first,
                    step: 0,
                });
                match self.entries.last_mut() {
                    Some(entry) => (entry, rest),
                    None => return Ok(()),
                }
            }
            _ => return Err(SstError::rows("series out of order")),
        };
        extend(entry, rest, self.may_repeat_times)?;
        self.rows += times.len() as u64;
        Ok(())
    }

    /// Takes the values of one field of the next rows.
    pub(crate) fn push_field(&mut self, index: usize, array: &ArrayRef) {
        let head = &mut self.fields[index];
        head.nulls += array.null_count() as u64;
        match self.types[index] {
            ColumnType::Int8 => integers::<Int8Type>(head, array, Bound::I64),
            ColumnType::Int16 => integers::<Int16Type>(head, array, Bound::I64),
            ColumnType::Int32 => integers::<Int32Type>(head, array, Bound::I64),
            ColumnType::Int64 => integers::<Int64Type>(head, array, Bound::I64),
            ColumnType::Date => integers::<Date32Type>(head, array, Bound::I64),
            ColumnType::Timestamp(_) => {
                integers::<TimestampNanosecondType>(head, array, Bound::I64);
            }
            ColumnType::UInt8 => integers::<UInt8Type>(head, array, Bound::U64),
            ColumnType::UInt16 => integers::<UInt16Type>(head, array, Bound::U64),
            ColumnType::UInt32 => integers::<UInt32Type>(head, array, Bound::U64),
            ColumnType::UInt64 => integers::<UInt64Type>(head, array, Bound::U64),
            ColumnType::Float32 => floats::<Float32Type>(head, array),
            ColumnType::Float64 => floats::<Float64Type>(head, array),
            ColumnType::Bool
            | ColumnType::String
            | ColumnType::Binary
            | ColumnType::Decimal { .. } => {}
        }
    }

    /// Earliest and latest time of all rows; `None` without rows.
    pub(crate) fn time_range(&self) -> Option<(i64, i64)> {
        let first = self.entries.iter().map(|entry| entry.t_min).min()?;
        let last = self.entries.iter().map(|entry| entry.t_max).max()?;
        Some((first, last))
    }

    /// Encodes the index; in the sparse form only from that many series on.
    pub(crate) fn finish(mut self, sparse_series_min: usize) -> Result<BuiltIndex, SstError> {
        for field in &mut self.fields {
            let values = (self.rows - field.nulls) as f64;
            field.large_sum = field
                .range
                .is_some_and(|(min, max)| magnitude(min).max(magnitude(max)) * values >= EXACT_MAX);
        }
        let series = self.entries.len();
        let sparse =
            self.text && series >= sparse_series_min && self.rows < SPARSE_ROWS * series as u64;
        let (mut blocks, mut stored) = (Vec::new(), Vec::new());
        for first in (0..series).step_by(BLOCK_SERIES) {
            let ordinals = first..series.min(first + BLOCK_SERIES);
            let entries = &self.entries[ordinals.clone()];
            let mut head = BlockHead {
                first_key: bytes::Bytes::copy_from_slice(self.key(first)),
                rows: entries.iter().map(|entry| entry.rows).sum(),
                t_min: entries.iter().fold(i64::MAX, |t, entry| t.min(entry.t_min)),
                t_max: entries.iter().fold(i64::MIN, |t, entry| t.max(entry.t_max)),
                stored_length: 0,
                raw_length: 0,
            };
            if !sparse {
                let keys = ordinals.map(|ordinal| self.key(ordinal));
                let (block, raw) = blocks::encode(keys.zip(entries)).map_err(SstError::encode)?;
                (head.stored_length, head.raw_length) = (block.len(), raw);
                stored.extend_from_slice(&block);
            }
            blocks.push(head);
        }
        let (mut tags, mut postings) = (Vec::new(), Vec::new());
        let listed = if sparse { 0 } else { series };
        let of_tags = postings::encode(self.tags.len(), listed, |ordinal| self.key(ordinal))
            .map_err(|malformed| SstError::rows(malformed.to_string()))?;
        for (&column, (bytes, distinct)) in self.tags.iter().zip(of_tags) {
            tags.push(TagHead {
                column,
                distinct: distinct as u64,
                length: bytes.len(),
            });
            postings.extend_from_slice(&bytes);
        }
        let hashes = self.entries.iter().map(|entry| entry.hash);
        let heads = Heads {
            sparse,
            series: series as u64,
            rows: self.rows,
            hashes: HashRange {
                lo: hashes.clone().min().unwrap_or(0),
                hi: hashes.max().unwrap_or(0),
            },
            blocks,
            tags,
            fields: self.fields,
        };
        Ok(BuiltIndex {
            heads,
            postings,
            series: stored,
        })
    }
}

/// Whether every tag value of the key is UTF-8. Marks are ASCII, so a key that is text as a whole
/// needs no second look.
fn is_text(series_key: &[u8]) -> bool {
    let is_utf8 = |value: &[u8]| std::str::from_utf8(value).is_ok();
    is_utf8(series_key)
        || key::decode(series_key)
            .all(|value| value.is_ok_and(|value| value.is_none_or(|value| is_utf8(&value))))
}

/// Appends rows to a series, following whether their step goes on.
fn extend(entry: &mut SeriesEntry, times: &[i64], may_repeat: bool) -> Result<(), SstError> {
    let Some((&first, &last)) = times.first().zip(times.last()) else {
        return Ok(());
    };
    let rises = |before: i64, after: i64| before < after || (may_repeat && before == after);
    let falls = !rises(entry.t_max, first) || times.windows(2).any(|w| !rises(w[0], w[1]));
    if falls {
        return Err(SstError::rows("times of a series out of order"));
    }
    let gap = first.wrapping_sub(entry.t_max) as u64;
    let step = if entry.rows == 1 { gap } else { entry.step };
    let regular = (entry.is_regular() || entry.rows == 1)
        && gap == step
        && times
            .windows(2)
            .all(|w| w[1].wrapping_sub(w[0]) as u64 == step);
    entry.step = if regular { step } else { 0 };
    entry.rows += times.len() as u64;
    entry.t_max = last;
    Ok(())
}

fn integers<T>(head: &mut FieldHead, array: &ArrayRef, bound: fn(Wide<T>) -> Bound)
where
    T: ArrowPrimitiveType,
    T::Native: Into<Wide<T>>,
    T: Widens,
{
    let array: &PrimitiveArray<T> = array.as_primitive();
    if let Some((low, high)) = min(array).zip(max(array)) {
        widen(head, bound(low.into()), bound(high.into()));
    }
}

/// The 64-bit integer in which values of the type are compared.
trait Widens {
    type Wide;
}

type Wide<T> = <T as Widens>::Wide;

macro_rules! widens {
    ($wide:ty: $($arrow:ty)*) => { $(impl Widens for $arrow { type Wide = $wide; })* };
}
widens!(i64: Int8Type Int16Type Int32Type Int64Type Date32Type TimestampNanosecondType);
widens!(u64: UInt8Type UInt16Type UInt32Type UInt64Type);

fn floats<T>(head: &mut FieldHead, array: &ArrayRef)
where
    T: ArrowPrimitiveType,
    T::Native: Into<f64>,
{
    let array: &PrimitiveArray<T> = array.as_primitive();
    let Some((low, high)) = min(array).zip(max(array)) else {
        return;
    };
    let (mut low, mut high): (f64, f64) = (low.into(), high.into());
    if low.is_nan() || high.is_nan() {
        head.nan = true;
        let finite = || array.iter().flatten().map(Into::<f64>::into);
        low = finite().fold(f64::NAN, f64::min);
        high = finite().fold(f64::NAN, f64::max);
        if low.is_nan() {
            return;
        }
    }
    head.infinite |= low.is_infinite() || high.is_infinite();
    widen(head, Bound::F64(low), Bound::F64(high));
}

fn widen(head: &mut FieldHead, low: Bound, high: Bound) {
    let (old_low, old_high) = head.range.unwrap_or((low, high));
    let low = if low < old_low { low } else { old_low };
    let high = if high > old_high { high } else { old_high };
    head.range = Some((low, high));
}

fn magnitude(bound: Bound) -> f64 {
    match bound {
        Bound::I64(value) => value.unsigned_abs() as f64,
        Bound::U64(value) => value as f64,
        Bound::F64(value) => value.abs(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use arrow::array::{Float64Array, Int8Array};
    use auxo_proto::schema::ColumnKind;
    use std::sync::Arc;

    fn column(ty: ColumnType) -> Column {
        Column {
            id: ColumnId(7),
            name: "v".into(),
            kind: ColumnKind::Field,
            ty,
            nullable: true,
        }
    }

    fn steps(pieces: &[&[i64]], may_repeat: bool) -> Result<SeriesEntry, SstError> {
        let mut index = IndexBuilder::new(Vec::new(), &[], may_repeat);
        for piece in pieces {
            index.push_series(b"\x02a\x00", 1, piece)?;
        }
        Ok(index.entries[0])
    }

    #[test]
    fn steps_are_followed_over_pushes() {
        let of = |pieces: &[&[i64]]| steps(pieces, true).unwrap();
        assert_eq!(of(&[&[5]]).step, 0);
        assert!(of(&[&[5]]).is_regular());
        assert_eq!(of(&[&[5, 7, 9], &[11], &[13, 15]]).step, 2);
        assert_eq!(of(&[&[5], &[7]]).step, 2);
        assert_eq!(of(&[&[5, 7, 9], &[12]]).step, 0);
        assert!(!of(&[&[5, 7, 9], &[12]]).is_regular());
        assert_eq!(of(&[&[5, 5, 5]]).step, 0);
        assert!(of(&[&[5, 5], &[5]]).is_regular());
        assert!(!of(&[&[5, 5], &[6]]).is_regular());
        assert!(!of(&[&[5, 6, 6], &[7]]).is_regular());
        let wide = of(&[&[i64::MIN, i64::MAX]]);
        assert_eq!((wide.step, wide.time_of(1)), (u64::MAX, i64::MAX));
    }

    #[test]
    fn falling_keys_and_times_are_refused() {
        assert!(steps(&[&[5, 5]], false).is_err());
        assert!(steps(&[&[5], &[5]], false).is_err());
        assert!(steps(&[&[5, 4]], true).is_err());
        assert!(steps(&[&[]], true).is_err());
        let mut index = IndexBuilder::new(Vec::new(), &[], false);
        index.push_series(b"b", 1, &[1]).unwrap();
        assert!(index.push_series(b"a", 1, &[1]).is_err());
        assert!(index.push_series(b"b", 2, &[2]).is_err());
    }

    #[test]
    fn field_heads_see_nan_infinity_and_extremes() {
        let floats = [column(ColumnType::Float64)];
        let mut index = IndexBuilder::new(Vec::new(), &floats, false);
        let push = |index: &mut IndexBuilder, values: Vec<Option<f64>>| {
            index.push_field(0, &(Arc::new(Float64Array::from(values)) as ArrayRef));
        };
        push(&mut index, vec![Some(f64::NAN), None]);
        assert_eq!((index.fields[0].range, index.fields[0].nan), (None, true));
        push(&mut index, vec![Some(-f64::NAN), Some(2.0), Some(-3.0)]);
        push(&mut index, vec![Some(f64::INFINITY)]);
        let head = &index.fields[0];
        assert_eq!(
            head.range,
            Some((Bound::F64(-3.0), Bound::F64(f64::INFINITY)))
        );
        assert!(head.infinite && head.nulls == 1);

        let bytes = [column(ColumnType::Int8)];
        let mut index = IndexBuilder::new(Vec::new(), &bytes, false);
        let array = Int8Array::from(vec![Some(-128), None, Some(127)]);
        index.push_field(0, &(Arc::new(array) as ArrayRef));
        assert_eq!(
            index.fields[0].range,
            Some((Bound::I64(-128), Bound::I64(127)))
        );
    }
}
