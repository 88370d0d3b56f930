//! What tests compare with: rows as plain values, and everything a file, a scan or a merge does to
//! them said in the simplest way.

mod store;

use std::collections::BTreeMap;
use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, new_null_array};
use arrow::compute::cast;
use arrow::datatypes::{DataType, Decimal128Type, Float32Type, Float64Type, Int64Type, UInt64Type};
use auxo_proto::ids::{ColumnId, SchemaNumber, Seq, TableId, TabletId, TenantId, Term};
use auxo_proto::key;
use auxo_proto::schema::{
    Column, ColumnKind, ColumnType, HashRange, MergeMode, TableSchema, TimeUnit,
};
use bytes::Bytes;
use proptest::prelude::*;

use crate::batch::{FieldSet, SeriesSlice, SortedBatch, arrow_type};
use crate::predicate::{ScanSpec, TagMatcher};
use crate::writer::{FileSpec, Layout, SstWriter};
pub(crate) use store::Counting;

/// One value; floats by their bits, so that NaN equals itself and −0 is not 0.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Cell {
    Bool(bool),
    Signed(i64),
    Unsigned(u64),
    Float(u64),
    Float32(u32),
    Bytes(Vec<u8>),
    Decimal(i128),
}

/// One row.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Row {
    pub(crate) key: Vec<u8>,
    pub(crate) time: i64,
    pub(crate) values: Vec<Option<Cell>>,
}

pub(crate) const TYPES: &[ColumnType] = &[
    ColumnType::Int64,
    ColumnType::Float64,
    ColumnType::String,
    ColumnType::Bool,
    ColumnType::Int8,
    ColumnType::Int16,
    ColumnType::Int32,
    ColumnType::UInt8,
    ColumnType::UInt16,
    ColumnType::UInt32,
    ColumnType::UInt64,
    ColumnType::Float32,
    ColumnType::Binary,
    ColumnType::Timestamp(TimeUnit::Millisecond),
    ColumnType::Date,
    ColumnType::Decimal {
        precision: 9,
        scale: 2,
    },
    ColumnType::Decimal {
        precision: 18,
        scale: 0,
    },
    ColumnType::Decimal {
        precision: 38,
        scale: 10,
    },
];

/// A table with `tags` tags (ids 1…), a time column (id 100) and fields (ids 101…).
pub(crate) fn table(tags: usize, types: &[ColumnType]) -> (Arc<TableSchema>, FieldSet) {
    let column = |id: u32, name: String, kind, ty| Column {
        id: ColumnId(id),
        name,
        kind,
        ty,
        nullable: kind != ColumnKind::Time,
    };
    let mut columns: Vec<Column> = (1..=tags as u32)
        .map(|id| column(id, format!("tag.{id}"), ColumnKind::Tag, ColumnType::String))
        .collect();
    let time = ColumnType::Timestamp(TimeUnit::Nanosecond);
    columns.push(column(100, "time".into(), ColumnKind::Time, time));
    let fields: Vec<Column> = (101..)
        .zip(types)
        .map(|(id, &ty)| column(id, format!("field.{id}"), ColumnKind::Field, ty))
        .collect();
    columns.extend(fields.iter().cloned());
    let schema = TableSchema {
        number: SchemaNumber(3),
        columns,
    };
    (Arc::new(schema), fields.into())
}

pub(crate) fn spec(schema: &Arc<TableSchema>, mode: MergeMode) -> FileSpec {
    FileSpec {
        key: "1/sst/1.0-7/1-2-01.parquet".into(),
        tenant: TenantId(1),
        table: TableId(2),
        tablet: TabletId(4),
        schema: schema.clone(),
        partition: schema.tags().map(|tag| tag.id).collect(),
        merge_mode: mode,
        segment_start: 0,
        segment_ns: 3_600_000_000_000,
        seq_min: Seq(10),
        seq_max: Seq(20),
        range: HashRange::FULL,
        term: Term { epoch: 1, inc: 0 },
        writer: 7,
        is_final: false,
    }
}

/// Partition hash as the model's table has it: over all tags.
pub(crate) fn hash(series_key: &[u8]) -> u32 {
    key::partition_hash(series_key)
}

/// Rows, in key order, as one batch.
pub(crate) fn batch(rows: &[Row], fields: &FieldSet) -> SortedBatch {
    let mut series: Vec<SeriesSlice> = Vec::new();
    for (index, row) in rows.iter().enumerate() {
        if series.last().is_none_or(|last| last.key != row.key) {
            series.push(SeriesSlice {
                key: Bytes::copy_from_slice(&row.key),
                hash: hash(&row.key),
                start: index as u32,
            });
        }
    }
    let field = |(index, column): (usize, &Column)| {
        array(rows.iter().map(|row| row.values[index].as_ref()), column.ty)
    };
    SortedBatch {
        series,
        time: rows.iter().map(|row| row.time).collect(),
        fields: fields.iter().enumerate().map(field).collect(),
    }
}

/// An array of the type; cells are of its kind.
pub(crate) fn array<'a>(
    cells: impl Iterator<Item = Option<&'a Cell>> + Clone,
    ty: ColumnType,
) -> ArrayRef {
    use arrow::array as a;
    macro_rules! build {
        ($array:ty, $pattern:pat => $value:expr) => {{
            let values: Vec<_> = cells
                .map(|cell| {
                    cell.map(|cell| match cell {
                        $pattern => $value,
                        other => panic!("{other:?} in a column of {ty}"),
                    })
                })
                .collect();
            Arc::new(<$array>::from(values)) as ArrayRef
        }};
    }
    match ty {
        ColumnType::Bool => build!(a::BooleanArray, Cell::Bool(value) => *value),
        ColumnType::Int8 => build!(a::Int8Array, Cell::Signed(value) => *value as i8),
        ColumnType::Int16 => build!(a::Int16Array, Cell::Signed(value) => *value as i16),
        ColumnType::Int32 => build!(a::Int32Array, Cell::Signed(value) => *value as i32),
        ColumnType::Int64 => build!(a::Int64Array, Cell::Signed(value) => *value),
        ColumnType::UInt8 => build!(a::UInt8Array, Cell::Unsigned(value) => *value as u8),
        ColumnType::UInt16 => build!(a::UInt16Array, Cell::Unsigned(value) => *value as u16),
        ColumnType::UInt32 => build!(a::UInt32Array, Cell::Unsigned(value) => *value as u32),
        ColumnType::UInt64 => build!(a::UInt64Array, Cell::Unsigned(value) => *value),
        ColumnType::Float32 => {
            build!(a::Float32Array, Cell::Float32(bits) => f32::from_bits(*bits))
        }
        ColumnType::Float64 => build!(a::Float64Array, Cell::Float(bits) => f64::from_bits(*bits)),
        ColumnType::String => build!(
            a::StringArray,
            Cell::Bytes(bytes) => std::str::from_utf8(bytes).unwrap()
        ),
        ColumnType::Binary => build!(a::BinaryArray, Cell::Bytes(bytes) => &bytes[..]),
        ColumnType::Timestamp(_) => {
            build!(a::TimestampNanosecondArray, Cell::Signed(value) => *value)
        }
        ColumnType::Date => build!(a::Date32Array, Cell::Signed(value) => *value as i32),
        ColumnType::Decimal { precision, scale } => {
            let array = build!(a::Decimal128Array, Cell::Decimal(value) => *value);
            let array = array.as_primitive::<Decimal128Type>().clone();
            Arc::new(array.with_precision_and_scale(precision, scale).unwrap())
        }
    }
}

fn cell(array: &ArrayRef, row: usize) -> Option<Cell> {
    if array.is_null(row) {
        return None;
    }
    let signed = || cast(&array.slice(row, 1), &DataType::Int64).unwrap();
    let unsigned = || cast(&array.slice(row, 1), &DataType::UInt64).unwrap();
    Some(match array.data_type() {
        DataType::Boolean => Cell::Bool(array.as_boolean().value(row)),
        DataType::Int8 | DataType::Int16 | DataType::Int32 | DataType::Int64 => {
            Cell::Signed(signed().as_primitive::<Int64Type>().value(0))
        }
        DataType::Date32 => {
            let days = array.as_primitive::<arrow::datatypes::Date32Type>();
            Cell::Signed(days.value(row).into())
        }
        DataType::Timestamp(..) => Cell::Signed(signed().as_primitive::<Int64Type>().value(0)),
        DataType::Float32 => {
            Cell::Float32(array.as_primitive::<Float32Type>().value(row).to_bits())
        }
        DataType::Float64 => Cell::Float(array.as_primitive::<Float64Type>().value(row).to_bits()),
        DataType::Utf8 => Cell::Bytes(array.as_string::<i32>().value(row).into()),
        DataType::Binary => Cell::Bytes(array.as_binary::<i32>().value(row).into()),
        DataType::Decimal128(..) => {
            Cell::Decimal(array.as_primitive::<Decimal128Type>().value(row))
        }
        _ => Cell::Unsigned(unsigned().as_primitive::<UInt64Type>().value(0)),
    })
}

/// The rows of batches, after checking their shape.
pub(crate) fn rows(batches: &[SortedBatch], fields: &FieldSet) -> Vec<Row> {
    let mut rows: Vec<Row> = Vec::new();
    for batch in batches {
        assert!(batch.rows() > 0, "an empty batch");
        assert_eq!(batch.fields.len(), fields.len());
        for (array, column) in batch.fields.iter().zip(fields.iter()) {
            assert_eq!(*array.data_type(), arrow_type(column.ty));
            assert_eq!(array.len(), batch.rows());
        }
        for pair in batch.series.windows(2) {
            assert!(pair[0].key < pair[1].key, "series out of order");
        }
        assert_eq!(batch.series[0].start, 0);
        for (index, series) in batch.series.iter().enumerate() {
            assert_eq!(series.hash, hash(&series.key));
            let slice = batch.slice_rows(index);
            assert!(!slice.is_empty(), "an empty slice");
            for row in slice {
                rows.push(Row {
                    key: series.key.to_vec(),
                    time: batch.time[row],
                    values: batch.fields.iter().map(|array| cell(array, row)).collect(),
                });
            }
        }
    }
    rows
}

/// What a scan of a file with those rows and fields has to give.
pub(crate) fn scanned(
    rows: &[Row],
    stored: &FieldSet,
    range: HashRange,
    spec: &ScanSpec,
) -> Vec<Row> {
    let matcher = TagMatcher::new(&spec.tags).unwrap();
    let wanted = |row: &&Row| {
        let hash = hash(&row.key);
        spec.time.contains(row.time)
            && range.contains(hash)
            && spec.range.contains(hash)
            && matcher.matches(&row.key)
    };
    let place = |id| stored.iter().position(|column| column.id == id);
    let places: Vec<_> = spec
        .fields
        .iter()
        .map(|column| (column.ty, place(column.id)))
        .collect();
    let value = |row: &Row, &(ty, place): &(ColumnType, Option<usize>)| {
        let place = place?;
        widened(row.values[place].as_ref()?, stored[place].ty, ty)
    };
    rows.iter()
        .filter(wanted)
        .map(|row| Row {
            values: places.iter().map(|place| value(row, place)).collect(),
            ..row.clone()
        })
        .collect()
}

fn widened(value: &Cell, from: ColumnType, to: ColumnType) -> Option<Cell> {
    let single = array([Some(value)].into_iter(), from);
    let wide =
        cast(&single, &arrow_type(to)).unwrap_or_else(|_| new_null_array(&arrow_type(to), 1));
    cell(&wide, 0)
}

/// What a merge has to give; `sources` oldest first, each sorted.
pub(crate) fn merged(sources: &[Vec<Row>], mode: MergeMode) -> Vec<Row> {
    let mut map: BTreeMap<(Vec<u8>, i64), Vec<Row>> = BTreeMap::new();
    for row in sources.iter().flatten() {
        let place = map.entry((row.key.clone(), row.time)).or_default();
        match (mode, place.last_mut()) {
            (MergeMode::Append, _) | (_, None) => place.push(row.clone()),
            (MergeMode::LastRow, Some(old)) => *old = row.clone(),
            (MergeMode::LastNonNull, Some(old)) => {
                for (old, new) in old.values.iter_mut().zip(&row.values) {
                    if new.is_some() {
                        old.clone_from(new);
                    }
                }
            }
        }
    }
    map.into_values().flatten().collect()
}

/// A value of the type; small numbers, extremes and NULL all come up.
pub(crate) fn value(ty: ColumnType) -> BoxedStrategy<Option<Cell>> {
    let some = match ty {
        ColumnType::Bool => any::<bool>().prop_map(Cell::Bool).boxed(),
        ColumnType::String => "[a-c\u{0}é]{0,3}"
            .prop_map(|text: String| Cell::Bytes(text.into_bytes()))
            .boxed(),
        ColumnType::Binary => proptest::collection::vec(any::<u8>(), 0..4)
            .prop_map(Cell::Bytes)
            .boxed(),
        ColumnType::Float32 => prop_oneof![
            Just(f32::NAN),
            Just(-f32::NAN),
            Just(-0.0),
            Just(f32::INFINITY),
            (-9..9_i8).prop_map(f32::from),
            any::<f32>(),
        ]
        .prop_map(|value| Cell::Float32(value.to_bits()))
        .boxed(),
        ColumnType::Float64 => prop_oneof![
            Just(f64::NAN),
            Just(-f64::NAN),
            Just(-0.0),
            Just(f64::NEG_INFINITY),
            (-9..9_i8).prop_map(f64::from),
            any::<f64>(),
        ]
        .prop_map(|value| Cell::Float(value.to_bits()))
        .boxed(),
        ColumnType::Decimal { precision, .. } => {
            let limit = 10_i128.pow(precision.into()) - 1;
            prop_oneof![Just(limit), Just(-limit), -9..9_i128, -limit..=limit]
                .prop_map(Cell::Decimal)
                .boxed()
        }
        _ => match (ty.signed_range(), ty.unsigned_max()) {
            (_, Some(max)) => prop_oneof![Just(max), 0..9_u64, 0..=max]
                .prop_map(Cell::Unsigned)
                .boxed(),
            (range, None) => {
                let days = (i32::MIN.into(), i32::MAX.into());
                let whole = match ty {
                    ColumnType::Date => days,
                    _ => (i64::MIN, i64::MAX),
                };
                let (min, max) = range.unwrap_or(whole);
                prop_oneof![Just(min), Just(max), -9..9_i64, min..=max]
                    .prop_map(Cell::Signed)
                    .boxed()
            }
        },
    };
    proptest::option::weighted(0.8, some).boxed()
}

/// Times of one series, ascending and distinct: with a step, without, or at the extremes.
pub(crate) fn times() -> impl Strategy<Value = Vec<i64>> {
    let regular = (-50..50_i64, 1..9_i64, 1..40_i64)
        .prop_map(|(start, step, count)| (0..count).map(|row| start + row * step).collect());
    let loose = proptest::collection::btree_set(-50..150_i64, 1..30)
        .prop_map(|times| times.into_iter().collect());
    let wide = proptest::collection::btree_set(
        prop_oneof![Just(i64::MIN), Just(i64::MAX), any::<i64>()],
        1..4,
    )
    .prop_map(|times| times.into_iter().collect());
    prop_oneof![4 => regular, 4 => loose, 1 => wide]
}

pub(crate) fn tag_values(tags: usize) -> impl Strategy<Value = Vec<Option<String>>> {
    proptest::collection::vec(proptest::option::weighted(0.8, "[a-c\u{0}]{0,2}"), tags)
}

pub(crate) fn series_key(tags: &[Option<String>]) -> Vec<u8> {
    key::encode(tags.iter().map(|tag| tag.as_ref().map(String::as_bytes)))
}

/// Sorted rows of a table, a key at most once.
pub(crate) fn sorted_rows(
    tags: usize,
    types: Vec<ColumnType>,
    series_max: usize,
) -> impl Strategy<Value = Vec<Row>> {
    let row_values: Vec<_> = types.into_iter().map(value).collect();
    let series = proptest::collection::btree_map(
        tag_values(tags).prop_map(|tags| series_key(&tags)),
        times(),
        0..=series_max,
    );
    series.prop_flat_map(move |series| {
        let places: Vec<(Vec<u8>, i64)> = series
            .into_iter()
            .flat_map(|(key, times)| times.into_iter().map(move |time| (key.clone(), time)))
            .collect();
        let values = proptest::collection::vec(row_values.clone(), places.len());
        values.prop_map(move |values| {
            let rows = places.iter().zip(values);
            rows.map(|((key, time), values)| Row {
                key: key.clone(),
                time: *time,
                values,
            })
            .collect()
        })
    })
}

/// Cuts rows into batches at the given places.
pub(crate) fn batches(rows: &[Row], fields: &FieldSet, cuts: &[usize]) -> Vec<SortedBatch> {
    let mut cuts: Vec<usize> = cuts.iter().map(|cut| cut % (rows.len() + 1)).collect();
    cuts.extend([0, rows.len()]);
    cuts.sort_unstable();
    cuts.dedup();
    cuts.windows(2)
        .map(|pair| batch(&rows[pair[0]..pair[1]], fields))
        .collect()
}

/// A small file: pages and row groups end early, and with `sparse` there is no entry per series
/// when rows are few enough.
pub(crate) fn write(
    spec: FileSpec,
    fields: &FieldSet,
    batches: &[SortedBatch],
    sparse: bool,
) -> (Bytes, crate::entry::FileEntry) {
    let layout = Layout {
        group_rows: 32,
        page_rows: 8,
        sample_rows: 20,
        sparse_series_min: if sparse { 1 } else { usize::MAX },
    };
    let mut writer = SstWriter::with_layout(spec, fields.clone(), layout);
    for batch in batches {
        writer.push(batch).unwrap();
    }
    writer.finish().unwrap()
}
