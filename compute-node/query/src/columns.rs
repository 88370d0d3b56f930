//! Columns of a table in Arrow's words, and sorted batches turned into record batches.
//!
//! Tags become dictionaries: their values are decoded once per series, a row costs one number.
//! Times and timestamp fields come in nanoseconds and leave in the unit their column declares;
//! strings leave as views. Never here: a predicate, a merge, a copy of a value per row of a tag.

use std::collections::HashMap;
use std::sync::Arc;

use arrow::array::{
    Array, ArrayRef, AsArray, DictionaryArray, Int32Array, RecordBatch, RecordBatchOptions,
    StringArray, TimestampMicrosecondArray, TimestampMillisecondArray, TimestampNanosecondArray,
    TimestampSecondArray,
};
use arrow::buffer::{NullBuffer, ScalarBuffer};
use arrow::compute::cast;
use arrow::datatypes::{
    DataType, Field, Int32Type, Schema, SchemaRef, TimeUnit as ArrowTimeUnit,
    TimestampNanosecondType,
};
use arrow::error::ArrowError;
use auxo_proto::key;
use auxo_proto::schema::{Column, ColumnKind, ColumnType, TableSchema, TimeUnit};
use auxo_sst::batch::{FieldSet, SortedBatch, arrow_type};

/// Arrow's name of a time unit.
pub(crate) fn arrow_unit(unit: TimeUnit) -> ArrowTimeUnit {
    match unit {
        TimeUnit::Second => ArrowTimeUnit::Second,
        TimeUnit::Millisecond => ArrowTimeUnit::Millisecond,
        TimeUnit::Microsecond => ArrowTimeUnit::Microsecond,
        TimeUnit::Nanosecond => ArrowTimeUnit::Nanosecond,
    }
}

/// Type in which a column appears in plans and answers.
pub(crate) fn plan_type(column: &Column) -> DataType {
    match (column.kind, column.ty) {
        (ColumnKind::Tag, _) => {
            DataType::Dictionary(Box::new(DataType::Int32), Box::new(DataType::Utf8))
        }
        (_, ColumnType::String) => DataType::Utf8View,
        (_, ColumnType::Timestamp(unit)) => DataType::Timestamp(arrow_unit(unit), None),
        (_, ty) => arrow_type(ty),
    }
}

/// A table's columns as plans see them, in declared order.
pub(crate) fn plan_schema(table: &TableSchema) -> SchemaRef {
    let fields: Vec<Field> = table
        .columns
        .iter()
        .map(|column| Field::new(&column.name, plan_type(column), column.nullable))
        .collect();
    Arc::new(Schema::new(fields))
}

/// Where one column of an answer comes from.
#[derive(Clone, Copy, Debug)]
enum Origin {
    /// The tag at that place of the key.
    Tag(usize),
    /// The time of the row.
    Time(TimeUnit),
    /// The field at that place of the scan's field set.
    Field(usize, ColumnType),
}

/// How sorted batches become record batches with the columns a scan was asked for.
#[derive(Clone, Debug)]
pub(crate) struct Layout {
    schema: SchemaRef,
    origins: Vec<Origin>,
    fields: FieldSet,
    tags_end: usize,
    tags_in_table: usize,
}

impl Layout {
    /// The layout for some columns of a table, `projection` counting them in declared order.
    pub(crate) fn new(table: &TableSchema, projection: &[usize]) -> Self {
        let columns: Vec<&Column> = projection.iter().map(|&at| &table.columns[at]).collect();
        let mut fields = Vec::new();
        let mut origins = Vec::with_capacity(columns.len());
        for column in &columns {
            origins.push(match (column.kind, column.ty) {
                (ColumnKind::Tag, _) => {
                    Origin::Tag(table.tags().take_while(|tag| tag.id != column.id).count())
                }
                (ColumnKind::Time, ColumnType::Timestamp(unit)) => Origin::Time(unit),
                (_, ty) => {
                    fields.push((*column).clone());
                    Origin::Field(fields.len() - 1, ty)
                }
            });
        }
        let tags_end = origins.iter().fold(0, |end, origin| match origin {
            Origin::Tag(tag) => end.max(tag + 1),
            _ => end,
        });
        let shown = columns
            .iter()
            .map(|column| Field::new(&column.name, plan_type(column), column.nullable))
            .collect::<Vec<_>>();
        Self {
            schema: Arc::new(Schema::new(shown)),
            origins,
            fields: fields.into(),
            tags_end,
            tags_in_table: table.tags().count(),
        }
    }

    /// Columns of the record batches.
    pub(crate) fn schema(&self) -> &SchemaRef {
        &self.schema
    }

    /// Fields the engine has to return, in the order this layout expects.
    pub(crate) fn fields(&self) -> &FieldSet {
        &self.fields
    }

    /// Places of the columns by which rows come ordered: the leading tags that are shown, then the
    /// time if all tags of the table are.
    pub(crate) fn key_columns(&self) -> Vec<usize> {
        let mut key = Vec::new();
        for tag in 0.. {
            let shown = |origin: &Origin| matches!(origin, Origin::Tag(at) if *at == tag);
            match self.origins.iter().position(shown) {
                Some(at) => key.push(at),
                None => break,
            }
        }
        if key.len() == self.tags_in_table {
            let time = |origin: &Origin| matches!(origin, Origin::Time(_));
            key.extend(self.origins.iter().position(time));
        }
        key
    }

    /// The same rows with the columns of this layout.
    ///
    /// * errors: a key that breaks its grammar, or a tag that is not UTF-8: stored data is damaged.
    pub(crate) fn record_batch(&self, sorted: &SortedBatch) -> Result<RecordBatch, ArrowError> {
        let mut tags = self.tag_columns(sorted)?;
        let mut columns = Vec::with_capacity(self.origins.len());
        for origin in &self.origins {
            columns.push(match *origin {
                Origin::Tag(tag) => tags[tag]
                    .take()
                    .ok_or_else(|| ArrowError::ComputeError("tag asked for twice".into()))?
                    .finish(sorted)?,
                Origin::Time(unit) => time_array(&sorted.time, None, unit),
                Origin::Field(at, ty) => field_array(&sorted.fields[at], ty)?,
            });
        }
        let options = RecordBatchOptions::new().with_row_count(Some(sorted.rows()));
        RecordBatch::try_new_with_options(Arc::clone(&self.schema), columns, &options)
    }

    /// Walks each key once and numbers the distinct values of the tags that are wanted.
    fn tag_columns<'a>(
        &self,
        sorted: &'a SortedBatch,
    ) -> Result<Vec<Option<TagValues<'a>>>, ArrowError> {
        let mut tags: Vec<Option<TagValues<'a>>> = (0..self.tags_end).map(|_| None).collect();
        for origin in &self.origins {
            if let Origin::Tag(tag) = origin {
                tags[*tag] = Some(TagValues::with_capacity(sorted.series.len()));
            }
        }
        if self.tags_end == 0 {
            return Ok(tags);
        }
        for slice in &sorted.series {
            let mut values = key::decode(&slice.key);
            for tag in &mut tags {
                let value = values.next().transpose().map_err(damaged)?.flatten();
                if let Some(tag) = tag {
                    tag.push(value)?;
                }
            }
        }
        Ok(tags)
    }
}

fn damaged(error: impl std::error::Error + Send + Sync + 'static) -> ArrowError {
    ArrowError::ExternalError(Box::new(error))
}

/// Distinct values of one tag in one batch, and which of them each series has.
struct TagValues<'a> {
    distinct: Vec<std::borrow::Cow<'a, [u8]>>,
    number_of: HashMap<std::borrow::Cow<'a, [u8]>, i32>,
    of_series: Vec<Option<i32>>,
}

impl<'a> TagValues<'a> {
    fn with_capacity(series: usize) -> Self {
        Self {
            distinct: Vec::new(),
            number_of: HashMap::new(),
            of_series: Vec::with_capacity(series),
        }
    }

    fn push(&mut self, value: Option<std::borrow::Cow<'a, [u8]>>) -> Result<(), ArrowError> {
        let Some(value) = value else {
            self.of_series.push(None);
            return Ok(());
        };
        // Neighbouring series mostly share the values of leading tags.
        let last = self.of_series.last().copied().flatten();
        if let Some(last) = last
            && self.distinct[last as usize] == value
        {
            self.of_series.push(Some(last));
            return Ok(());
        }
        let number = match self.number_of.get(&value) {
            Some(&number) => number,
            None => {
                let number = i32::try_from(self.distinct.len()).map_err(damaged)?;
                self.distinct.push(value.clone());
                self.number_of.insert(value, number);
                number
            }
        };
        self.of_series.push(Some(number));
        Ok(())
    }

    fn finish(self, sorted: &SortedBatch) -> Result<ArrayRef, ArrowError> {
        let mut texts = Vec::with_capacity(self.distinct.len());
        for value in &self.distinct {
            texts.push(std::str::from_utf8(value).map_err(damaged)?);
        }
        let values: ArrayRef = Arc::new(StringArray::from(texts));
        let mut numbers = Vec::with_capacity(sorted.rows());
        for (series, number) in self.of_series.iter().enumerate() {
            let end = sorted.slice_rows(series).end;
            numbers.resize(end, number.unwrap_or(0));
        }
        let nulls = self.of_series.contains(&None).then(|| {
            let mut valid = Vec::with_capacity(sorted.rows());
            for (series, number) in self.of_series.iter().enumerate() {
                valid.resize(sorted.slice_rows(series).end, number.is_some());
            }
            NullBuffer::from(valid)
        });
        let numbers = Int32Array::new(numbers.into(), nulls);
        Ok(Arc::new(DictionaryArray::<Int32Type>::try_new(
            numbers, values,
        )?))
    }
}

/// Times in nanoseconds as an array of the unit, rounded down.
fn time_array(time: &ScalarBuffer<i64>, nulls: Option<NullBuffer>, unit: TimeUnit) -> ArrayRef {
    let ns = unit.ns();
    let scaled = || -> ScalarBuffer<i64> { time.iter().map(|time| time.div_euclid(ns)).collect() };
    match unit {
        TimeUnit::Nanosecond => Arc::new(TimestampNanosecondArray::new(time.clone(), nulls)),
        TimeUnit::Microsecond => Arc::new(TimestampMicrosecondArray::new(scaled(), nulls)),
        TimeUnit::Millisecond => Arc::new(TimestampMillisecondArray::new(scaled(), nulls)),
        TimeUnit::Second => Arc::new(TimestampSecondArray::new(scaled(), nulls)),
    }
}

fn field_array(stored: &ArrayRef, ty: ColumnType) -> Result<ArrayRef, ArrowError> {
    match ty {
        ColumnType::String => cast(stored, &DataType::Utf8View),
        ColumnType::Timestamp(unit) => {
            let stored = stored
                .as_primitive_opt::<TimestampNanosecondType>()
                .ok_or_else(|| ArrowError::SchemaError("timestamps are nanoseconds".into()))?;
            Ok(time_array(stored.values(), stored.nulls().cloned(), unit))
        }
        _ => Ok(Arc::clone(stored)),
    }
}
