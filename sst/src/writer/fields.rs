//! What the file says of all values of a field: taken from the statistics that the encoder makes
//! anyway, so only NaN costs a look at the values.

use arrow::array::{Array, ArrayRef, ArrowPrimitiveType, AsArray};
use arrow::datatypes::{Float32Type, Float64Type};
use auxo_proto::schema::{Column, ColumnType};
use parquet::file::statistics::Statistics;

use crate::index::FieldHead;
use crate::predicate::Bound;

/// Largest integer up to which f64 counts by ones.
const EXACT_MAX: f64 = (1_u64 << 53) as f64;

/// The head of one field in the making.
pub(super) struct FieldStatistics {
    head: FieldHead,
    ty: ColumnType,
}

impl FieldStatistics {
    pub(super) fn new(column: &Column) -> Self {
        Self {
            head: FieldHead {
                column: column.id,
                nulls: 0,
                nan: false,
                infinite: false,
                large_sum: false,
                range: None,
            },
            ty: column.ty,
        }
    }

    /// Looks at the next values.
    pub(super) fn look(&mut self, array: &ArrayRef) {
        self.head.nulls += array.null_count() as u64;
        self.head.nan |= match self.ty {
            ColumnType::Float32 => has_nan::<Float32Type>(array),
            ColumnType::Float64 => has_nan::<Float64Type>(array),
            _ => false,
        };
    }

    /// Takes what the encoder found in one row group.
    pub(super) fn add(&mut self, found: Option<&Statistics>) {
        let range = match found {
            Some(Statistics::Int32(found)) => found
                .min_opt()
                .zip(found.max_opt())
                .and_then(|(&min, &max)| Some((self.bound_of_i32(min)?, self.bound_of_i32(max)?))),
            Some(Statistics::Int64(found)) => found
                .min_opt()
                .zip(found.max_opt())
                .and_then(|(&min, &max)| Some((self.bound_of_i64(min)?, self.bound_of_i64(max)?))),
            Some(Statistics::Float(found)) => found
                .min_opt()
                .zip(found.max_opt())
                .map(|(&min, &max)| (Bound::F64(min.into()), Bound::F64(max.into()))),
            Some(Statistics::Double(found)) => found
                .min_opt()
                .zip(found.max_opt())
                .map(|(&min, &max)| (Bound::F64(min), Bound::F64(max))),
            _ => None,
        };
        let Some((low, high)) = range else { return };
        let (old_low, old_high) = self.head.range.unwrap_or((low, high));
        let low = if low < old_low { low } else { old_low };
        let high = if high > old_high { high } else { old_high };
        self.head.range = Some((low, high));
    }

    /// * `rows`: of the whole file.
    pub(super) fn finish(mut self, rows: u64) -> FieldHead {
        if let Some((min, max)) = self.head.range {
            let largest = magnitude(min).max(magnitude(max));
            self.head.infinite = largest.is_infinite();
            self.head.large_sum = largest * (rows - self.head.nulls) as f64 >= EXACT_MAX;
        }
        self.head
    }

    fn bound_of_i32(&self, value: i32) -> Option<Bound> {
        match self.ty {
            ColumnType::UInt8 | ColumnType::UInt16 | ColumnType::UInt32 => {
                Some(Bound::U64((value as u32).into()))
            }
            ColumnType::Decimal { .. } => None,
            _ => Some(Bound::I64(value.into())),
        }
    }

    fn bound_of_i64(&self, value: i64) -> Option<Bound> {
        match self.ty {
            ColumnType::UInt64 => Some(Bound::U64(value as u64)),
            ColumnType::Decimal { .. } => None,
            _ => Some(Bound::I64(value)),
        }
    }
}

/// Whether a value is NaN. What stands at rows without one is looked at only when it has to be.
fn has_nan<T>(array: &ArrayRef) -> bool
where
    T: ArrowPrimitiveType,
    T::Native: Into<f64>,
{
    let array = array.as_primitive::<T>();
    let is_nan = |value: T::Native| Into::<f64>::into(value).is_nan();
    array
        .values()
        .iter()
        .fold(false, |nan, &value| nan | is_nan(value))
        && array.iter().flatten().any(is_nan)
}

fn magnitude(bound: Bound) -> f64 {
    match bound {
        Bound::I64(value) => value.unsigned_abs() as f64,
        Bound::U64(value) => value as f64,
        Bound::F64(value) => value.abs(),
    }
}
