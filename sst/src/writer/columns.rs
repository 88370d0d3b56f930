//! Columns of the Parquet file: their schema, and how each is encoded.

use std::collections::HashMap;
use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, TimestampNanosecondArray};
use arrow::buffer::ScalarBuffer;
use arrow::compute::concat;
use arrow::datatypes::{
    DataType, Field, Schema, SchemaRef, TimeUnit as ArrowTimeUnit, TimestampNanosecondType,
};
use auxo_proto::schema::{Column, ColumnType, TableSchema};
use parquet::arrow::PARQUET_FIELD_ID_META_KEY;
use parquet::arrow::arrow_writer::{ArrowRowGroupWriterFactory, compute_leaves};
use parquet::basic::{Compression, Encoding, ZstdLevel};
use parquet::file::metadata::SortingColumn;
use parquet::file::properties::{
    BloomFilterPosition, EnabledStatistics, WriterProperties, WriterPropertiesBuilder,
    WriterVersion,
};
use parquet::file::writer::SerializedFileWriter;
use parquet::schema::types::ColumnPath;

use super::Layout;
use crate::batch::{SortedBatch, arrow_type};
use crate::error::SstError;
use crate::format::PAGE_ROWS;

/// Below this many rows the usual encoding is taken without trying others.
const TRIED_ROWS_MIN: usize = 1_024;
/// Values that the encoder takes between two looks at the size of the page.
const WRITE_BATCH_ROWS: usize = 1_024;
/// Largest dictionary of a column chunk.
pub(super) const DICTIONARY_BYTES_MAX: usize = 1024 * 1024;
/// Longest minimum or maximum that statistics keep.
pub(super) const STATISTICS_BYTES_MAX: usize = 64;
pub(super) const ZSTD_LEVEL: i32 = 1;
/// Strings are worth a dictionary while fewer than one in eight differs.
const DISTINCT_SHARE: usize = 8;

/// How one column is encoded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Coding {
    Dictionary,
    Direct(Encoding),
}

/// Schema of the file: tags in declared order, time, fields in the order given.
pub(super) fn arrow_schema(table: &TableSchema, fields: &[Column]) -> Result<SchemaRef, SstError> {
    let time = table
        .time()
        .ok_or_else(|| SstError::rows("a table without a time column"))?;
    let utf8 = Box::new(DataType::Utf8);
    let tag_type = DataType::Dictionary(Box::new(DataType::Int32), utf8);
    let tags = table.tags().map(|tag| field(tag, tag_type.clone(), true));
    let time = field(time, utc(), false);
    let fields = fields
        .iter()
        .map(|column| field(column, stored_type(column.ty), true));
    let all: Vec<Field> = tags.chain([time]).chain(fields).collect();
    Ok(Arc::new(Schema::new(all)))
}

fn field(column: &Column, data_type: DataType, nullable: bool) -> Field {
    let id = (
        PARQUET_FIELD_ID_META_KEY.to_owned(),
        column.id.0.to_string(),
    );
    Field::new(&column.name, data_type, nullable).with_metadata(HashMap::from([id]))
}

/// Points in time are marked as UTC in files, so that other tools show them right.
fn utc() -> DataType {
    DataType::Timestamp(ArrowTimeUnit::Nanosecond, Some("UTC".into()))
}

fn stored_type(ty: ColumnType) -> DataType {
    match ty {
        ColumnType::Timestamp(_) => utc(),
        other => arrow_type(other),
    }
}

/// The array as it is written: points in time get their zone.
pub(super) fn stored_array(array: &ArrayRef) -> ArrayRef {
    match array.as_primitive_opt::<TimestampNanosecondType>() {
        Some(times) => Arc::new(times.clone().with_timezone_opt(Some("UTC"))),
        None => array.clone(),
    }
}

pub(super) fn time_array(time: ScalarBuffer<i64>) -> ArrayRef {
    let array = TimestampNanosecondArray::new(time, None);
    Arc::new(array.with_timezone_opt(Some("UTC")))
}

/// Properties of the whole file; encodings come from the sample.
pub(super) fn properties(
    table: &TableSchema,
    fields: &[Column],
    sample: &[SortedBatch],
    layout: Layout,
) -> Result<WriterProperties, SstError> {
    let tags = table.tags().count();
    let sorting = (0..=tags as i32).map(|column_idx| SortingColumn {
        column_idx,
        descending: false,
        nulls_first: true,
    });
    let mut builder = basics()?
        .set_sorting_columns(Some(sorting.collect()))
        .set_data_page_row_count_limit(layout.page_rows)
        .set_write_batch_size(layout.page_rows.min(WRITE_BATCH_ROWS));
    for tag in table.tags() {
        builder = builder.set_column_dictionary_enabled(path(&tag.name), true);
    }
    if let Some(time) = table.time() {
        builder = builder.set_column_statistics_enabled(path(&time.name), EnabledStatistics::Page);
        builder = with_coding(
            builder,
            &time.name,
            Coding::Direct(Encoding::DELTA_BINARY_PACKED),
        );
    }
    for (index, column) in fields.iter().enumerate() {
        let coding = coding(column, &first_rows(sample, index, layout.sample_rows))?;
        builder = with_coding(builder, &column.name, coding);
        if is_number(column.ty) {
            builder =
                builder.set_column_statistics_enabled(path(&column.name), EnabledStatistics::Page);
        }
    }
    Ok(builder.build())
}

fn basics() -> Result<WriterPropertiesBuilder, SstError> {
    let level = ZstdLevel::try_new(ZSTD_LEVEL).map_err(SstError::encode)?;
    Ok(WriterProperties::builder()
        .set_created_by("auxo".to_owned())
        .set_writer_version(WriterVersion::PARQUET_2_0)
        .set_compression(Compression::ZSTD(level))
        .set_data_page_row_count_limit(PAGE_ROWS)
        .set_dictionary_enabled(false)
        .set_dictionary_page_size_limit(DICTIONARY_BYTES_MAX)
        .set_statistics_enabled(EnabledStatistics::Chunk)
        .set_statistics_truncate_length(Some(STATISTICS_BYTES_MAX))
        .set_column_index_truncate_length(Some(STATISTICS_BYTES_MAX))
        .set_bloom_filter_position(BloomFilterPosition::End))
}

fn with_coding(
    builder: WriterPropertiesBuilder,
    name: &str,
    coding: Coding,
) -> WriterPropertiesBuilder {
    match coding {
        Coding::Dictionary => builder.set_column_dictionary_enabled(path(name), true),
        Coding::Direct(encoding) => builder.set_column_encoding(path(name), encoding),
    }
}

/// Names may hold dots, so a path is never parsed.
fn path(name: &str) -> ColumnPath {
    ColumnPath::new(vec![name.to_owned()])
}

fn is_number(ty: ColumnType) -> bool {
    !matches!(
        ty,
        ColumnType::Bool | ColumnType::String | ColumnType::Binary
    )
}

/// The encodings worth trying for a type, the usual one first.
fn candidates(ty: ColumnType) -> &'static [Coding] {
    const INTEGER: &[Coding] = &[
        Coding::Direct(Encoding::DELTA_BINARY_PACKED),
        Coding::Direct(Encoding::PLAIN),
    ];
    const FLOAT: &[Coding] = &[
        Coding::Direct(Encoding::BYTE_STREAM_SPLIT),
        Coding::Dictionary,
        Coding::Direct(Encoding::PLAIN),
    ];
    match ty {
        ColumnType::Bool => &[Coding::Direct(Encoding::RLE)],
        ColumnType::Float32 | ColumnType::Float64 => FLOAT,
        // Sixteen bytes each. BYTE_STREAM_SPLIT would suit them, but DuckDB does not read it here.
        ColumnType::Decimal { precision, .. } if precision > 18 => {
            &[Coding::Direct(Encoding::PLAIN), Coding::Dictionary]
        }
        ColumnType::String | ColumnType::Binary => {
            &[Coding::Direct(Encoding::DELTA_LENGTH_BYTE_ARRAY)]
        }
        _ => INTEGER,
    }
}

/// One field of the first rows.
fn first_rows(batches: &[SortedBatch], field: usize, mut rows: usize) -> Vec<ArrayRef> {
    let mut arrays = Vec::new();
    for batch in batches {
        let count = batch.rows().min(rows);
        arrays.push(batch.fields[field].slice(0, count));
        rows -= count;
    }
    arrays
}

/// The encoding that makes the sample smallest.
fn coding(column: &Column, sample: &[ArrayRef]) -> Result<Coding, SstError> {
    let arrays: Vec<&dyn Array> = sample.iter().map(AsRef::as_ref).collect();
    let candidates = candidates(column.ty);
    let rows: usize = arrays.iter().map(|array| array.len()).sum();
    if matches!(column.ty, ColumnType::String | ColumnType::Binary) {
        let coding = if few_distinct(&arrays) {
            Coding::Dictionary
        } else {
            candidates[0]
        };
        return Ok(coding);
    }
    if candidates.len() == 1 || rows < TRIED_ROWS_MIN {
        return Ok(candidates[0]);
    }
    let sample = stored_array(&concat(&arrays).map_err(SstError::encode)?);
    let mut best = (usize::MAX, candidates[0]);
    for &coding in candidates {
        let size = encoded_size(column, coding, &sample)?;
        if size < best.0 {
            best = (size, coding);
        }
    }
    Ok(best.1)
}

fn few_distinct(arrays: &[&dyn Array]) -> bool {
    let mut distinct = std::collections::HashSet::new();
    let mut values = 0;
    for array in arrays {
        if let Some(strings) = array.as_string_opt::<i32>() {
            distinct.extend(strings.iter().flatten().map(str::as_bytes));
        } else if let Some(binary) = array.as_binary_opt::<i32>() {
            distinct.extend(binary.iter().flatten());
        }
        values += array.len() - array.null_count();
    }
    distinct.len() * DISTINCT_SHARE < values
}

fn encoded_size(column: &Column, coding: Coding, sample: &ArrayRef) -> Result<usize, SstError> {
    let properties = with_coding(basics()?, &column.name, coding).build();
    let field = field(column, stored_type(column.ty), true);
    let schema = Arc::new(Schema::new(vec![field.clone()]));
    let parquet_schema = parquet::arrow::ArrowSchemaConverter::new()
        .convert(&schema)
        .map_err(SstError::encode)?;
    let root = parquet_schema.root_schema_ptr();
    let file = SerializedFileWriter::new(std::io::sink(), root, Arc::new(properties))
        .map_err(SstError::encode)?;
    let mut size = 0;
    let writers = ArrowRowGroupWriterFactory::new(&file, schema)
        .create_column_writers(0)
        .map_err(SstError::encode)?;
    for mut writer in writers {
        for leaf in compute_leaves(&field, sample).map_err(SstError::encode)? {
            writer.write(&leaf).map_err(SstError::encode)?;
        }
        let chunk = writer.close().map_err(SstError::encode)?;
        size += chunk.close().metadata.compressed_size() as usize;
    }
    Ok(size)
}
