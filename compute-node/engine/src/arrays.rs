//! A request's column vectors as arrow arrays of their declared types.
//!
//! Never here: order of rows (`auxo_sst::merge`), or checks of ranges, which the doors make.

use std::sync::Arc;

use arrow::array::{
    Array, ArrayRef, ArrowPrimitiveType, BinaryBuilder, BooleanArray, Decimal128Array,
    PrimitiveArray, StringBuilder, new_null_array,
};
use arrow::buffer::{BooleanBuffer, Buffer, NullBuffer, ScalarBuffer};
use arrow::datatypes::{
    Date32Type, Float32Type, Float64Type, Int8Type, Int16Type, Int32Type, Int64Type,
    TimestampNanosecondType, UInt8Type, UInt16Type, UInt32Type, UInt64Type,
};
use auxo_proto::rows::{BytesVec, FieldColumn, Rows, Validity, Values};
use auxo_proto::schema::{Column, ColumnType};
use auxo_sst::batch::{FieldSet, SortedBatch, arrow_type};
use auxo_sst::merge::UnsortedRows;
use bytes::Bytes;

/// The rows in the order in which they came, with the given fields; one that the request lacks is
/// all NULL.
pub(crate) fn unsorted(rows: &Rows, fields: &FieldSet) -> UnsortedRows {
    let series = rows.series.iter();
    UnsortedRows {
        series: series
            .map(|(key, hash)| (Bytes::copy_from_slice(key), hash))
            .collect(),
        series_of: rows.series_of.clone(),
        time: rows.time.clone(),
        fields: fields.iter().map(|field| array(rows, field)).collect(),
    }
}

fn array(rows: &Rows, field: &Column) -> ArrayRef {
    let column = rows.columns.iter().find(|column| column.id == field.id);
    let Some(FieldColumn {
        values, validity, ..
    }) = column
    else {
        return new_null_array(&arrow_type(field.ty), rows.len());
    };
    let nulls = validity.as_ref().map(nulls);
    match (values, field.ty) {
        (Values::Bool(values), _) => Arc::new(BooleanArray::new(
            BooleanBuffer::from(values.as_slice()),
            nulls,
        )),
        (Values::I64(values), ColumnType::Int8) => {
            narrow::<Int8Type, _>(values, nulls, |v| v as i8)
        }
        (Values::I64(values), ColumnType::Int16) => {
            narrow::<Int16Type, _>(values, nulls, |v| v as i16)
        }
        (Values::I64(values), ColumnType::Int32) => {
            narrow::<Int32Type, _>(values, nulls, |v| v as i32)
        }
        (Values::I64(values), ColumnType::Date) => {
            narrow::<Date32Type, _>(values, nulls, |v| v as i32)
        }
        (Values::I64(values), ColumnType::Timestamp(_)) => {
            narrow::<TimestampNanosecondType, _>(values, nulls, |v| v)
        }
        (Values::I64(values), _) => narrow::<Int64Type, _>(values, nulls, |v| v),
        (Values::U64(values), ColumnType::UInt8) => {
            narrow::<UInt8Type, _>(values, nulls, |v| v as u8)
        }
        (Values::U64(values), ColumnType::UInt16) => {
            narrow::<UInt16Type, _>(values, nulls, |v| v as u16)
        }
        (Values::U64(values), ColumnType::UInt32) => {
            narrow::<UInt32Type, _>(values, nulls, |v| v as u32)
        }
        (Values::U64(values), _) => narrow::<UInt64Type, _>(values, nulls, |v| v),
        (Values::F64(values), ColumnType::Float32) => {
            narrow::<Float32Type, _>(values, nulls, |v| v as f32)
        }
        (Values::F64(values), _) => narrow::<Float64Type, _>(values, nulls, |v| v),
        (Values::I128(values), ty) => {
            let values = ScalarBuffer::from(values.clone());
            Arc::new(Decimal128Array::new(values, nulls).with_data_type(arrow_type(ty)))
        }
        (Values::Bytes(values), ColumnType::String) => text(values, nulls),
        (Values::Bytes(values), _) => binary(values, nulls),
    }
}

fn nulls(validity: &Validity) -> NullBuffer {
    let bits = Buffer::from_slice_ref(validity.words());
    NullBuffer::new(BooleanBuffer::new(bits, 0, validity.len()))
}

/// Narrowing is exact because doors check ranges before they accept.
fn narrow<T: ArrowPrimitiveType, V: Copy>(
    values: &[V],
    nulls: Option<NullBuffer>,
    narrow: impl Fn(V) -> T::Native,
) -> ArrayRef {
    let values: Vec<T::Native> = values.iter().map(|&value| narrow(value)).collect();
    Arc::new(PrimitiveArray::<T>::new(ScalarBuffer::from(values), nulls))
}

/// Bytes that are no text become NULL; doors refuse them, so that is a second guard only.
fn text(values: &BytesVec, nulls: Option<NullBuffer>) -> ArrayRef {
    let mut builder = StringBuilder::with_capacity(values.len(), values.parts().0.len());
    for row in 0..values.len() {
        let valid = nulls.as_ref().is_none_or(|nulls| nulls.is_valid(row));
        builder.append_option(str::from_utf8(values.get(row)).ok().filter(|_| valid));
    }
    Arc::new(builder.finish())
}

fn binary(values: &BytesVec, nulls: Option<NullBuffer>) -> ArrayRef {
    let mut builder = BinaryBuilder::with_capacity(values.len(), values.parts().0.len());
    for row in 0..values.len() {
        let valid = nulls.as_ref().is_none_or(|nulls| nulls.is_valid(row));
        builder.append_option(valid.then(|| values.get(row)));
    }
    Arc::new(builder.finish())
}

/// Bytes that a batch holds in memory.
pub(crate) fn memory_bytes(batch: &SortedBatch) -> usize {
    let arrays: usize = batch
        .fields
        .iter()
        .map(|array| array.get_array_memory_size())
        .sum();
    let series: usize = batch.series.iter().map(|slice| slice.key.len() + 48).sum();
    arrays + series + 8 * batch.time.len()
}
