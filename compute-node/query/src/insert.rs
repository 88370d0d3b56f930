//! INSERT: a query whose rows become rows of a table.

use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, RecordBatch};
use arrow::compute::cast;
use arrow::datatypes::{
    DataType, Date32Type, Decimal128Type, Float64Type, Int64Type, TimeUnit as ArrowTimeUnit,
    TimestampNanosecondType, UInt64Type,
};
use arrow::error::ArrowError;
use auxo_proto::error::{ErrorCode, Failure};
use auxo_proto::key::{self, KeyBuilder};
use auxo_proto::rows::{BytesVec, FieldColumn, Rows, SeriesList, Validity, Values};
use auxo_proto::schema::{Column, ColumnKind, ColumnType, Physical, TableInfo};
use datafusion::catalog::default_table_source::source_as_provider;
use datafusion::common::tree_node::TreeNodeRecursion;
use datafusion::logical_expr::LogicalPlan;
use std::collections::HashMap;

use crate::columns::plan_type;
use crate::failure::shortened;
use crate::functions::fitted;
use crate::run::QueryPlan;
use crate::table::SeriesTable;

/// Rows for a table, from VALUES or from a query.
#[derive(Debug)]
pub struct Insert {
    /// Where they go.
    pub table: Arc<TableInfo>,
    /// Yields them: all columns of the table in declared order, what was not named as NULL.
    pub query: Box<QueryPlan>,
}

impl Insert {
    /// Whether its rows come from stored ones, so that they may be others the next time.
    pub fn reads_rows(&self) -> bool {
        let mut reads = false;
        let walked = self.query.plan.apply_with_subqueries(|node| {
            let LogicalPlan::TableScan(scan) = node else {
                return Ok(TreeNodeRecursion::Continue);
            };
            let provider = source_as_provider(&scan.source);
            reads = provider.is_ok_and(|provider| provider.is::<SeriesTable>());
            Ok(match reads {
                true => TreeNodeRecursion::Stop,
                false => TreeNodeRecursion::Continue,
            })
        });
        // A plan that cannot be walked may read anything.
        reads || walked.is_err()
    }
}

/// One batch of an INSERT's query as rows of its table.
///
/// * `batch`: all columns of the table in declared order.
/// * errors: a row without its time, a column that may not be NULL, text above the limit of a
///   batch.
pub fn rows_of(table: &TableInfo, batch: &RecordBatch) -> Result<Rows, Failure> {
    let columns = || table.schema.columns.iter().zip(batch.columns());
    for (column, values) in columns() {
        if !column.nullable && values.logical_null_count() > 0 {
            let detail = format!(
                "column {} of table {} may not be NULL",
                column.name, table.name
            );
            return Err(Failure::new(ErrorCode::TypeMismatch, detail));
        }
    }
    let mut rows = Rows::default();
    let mut tags = Vec::new();
    for (column, values) in columns() {
        let values = &of_column(column, values)?;
        match column.kind {
            ColumnKind::Tag => tags.push(as_type(values, &DataType::Utf8)?),
            ColumnKind::Time => rows.time = times(column, values)?,
            ColumnKind::Field => rows.columns.extend(field(column, values)?),
        }
    }
    (rows.series, rows.series_of) = series(table, &tags, batch.num_rows());
    Ok(rows)
}

/// The distinct series of the rows, and which of them each row has.
fn series(table: &TableInfo, tags: &[ArrayRef], rows: usize) -> (SeriesList, Vec<u32>) {
    let tags: Vec<_> = tags.iter().map(|tag| tag.as_string::<i32>()).collect();
    let hashed: Vec<usize> = table
        .partition
        .columns
        .iter()
        .filter_map(|&column| table.schema.tag_index(column))
        .collect();
    let mut series = SeriesList::new();
    let mut series_of = Vec::with_capacity(rows);
    let mut numbers: HashMap<Vec<u8>, u32> = HashMap::new();
    let mut key = KeyBuilder::new();
    for row in 0..rows {
        let value = |tag: usize| {
            tags[tag]
                .is_valid(row)
                .then(|| tags[tag].value(row).as_bytes())
        };
        key.clear();
        (0..tags.len()).for_each(|tag| key.push(value(tag)));
        let number = match numbers.get(key.as_bytes()) {
            Some(&number) => number,
            None => {
                let hash = if hashed.is_empty() {
                    key::partition_hash(key.as_bytes())
                } else {
                    key::partition_hash(&key::encode(hashed.iter().map(|&tag| value(tag))))
                };
                let number = series.push(key.as_bytes(), hash);
                numbers.insert(key.as_bytes().to_vec(), number);
                number
            }
        };
        series_of.push(number);
    }
    (series, series_of)
}

/// The values as the column's own; texts and times may stand in any of the types that hold such.
fn of_column(column: &Column, values: &ArrayRef) -> Result<ArrayRef, Failure> {
    let given = match values.data_type() {
        DataType::Dictionary(_, of) => of.as_ref(),
        given => given,
    };
    let text = given.is_string() || given.is_binary();
    let time = matches!(
        given,
        DataType::Timestamp(..) | DataType::Date32 | DataType::Date64
    );
    match column.ty {
        ColumnType::String | ColumnType::Binary if text => Ok(Arc::clone(values)),
        ColumnType::Timestamp(_) if time => Ok(Arc::clone(values)),
        ColumnType::String => fitted(&column.name, values, &DataType::Utf8),
        _ => fitted(&column.name, values, &plan_type(column)),
    }
}

fn as_type(values: &ArrayRef, ty: &DataType) -> Result<ArrayRef, Failure> {
    let unfit =
        |error: ArrowError| Failure::new(ErrorCode::ValueOutOfRange, shortened(&error.to_string()));
    cast(values, ty).map_err(unfit)
}

/// Times in nanoseconds, from whatever unit the column declares.
fn times(column: &Column, values: &ArrayRef) -> Result<Vec<i64>, Failure> {
    let wanted = DataType::Timestamp(ArrowTimeUnit::Nanosecond, None);
    let stored = as_type(values, &wanted)?;
    if stored.null_count() > values.logical_null_count() {
        let detail = format!(
            "a value of {} lies outside the years 1677 to 2262",
            column.name
        );
        return Err(Failure::new(ErrorCode::BadTimestamp, detail));
    }
    let ColumnType::Timestamp(unit) = column.ty else {
        unreachable!("a column of times has a unit")
    };
    let stored = stored.as_primitive::<TimestampNanosecondType>().values();
    let whole = |&time: &i64| time.checked_sub(time.rem_euclid(unit.ns())).unwrap_or(time);
    Ok(stored.iter().map(whole).collect())
}

/// A field with its values; `None` when no row has one.
fn field(column: &Column, values: &ArrayRef) -> Result<Option<FieldColumn>, Failure> {
    if values.logical_null_count() == values.len() {
        return Ok(None);
    }
    let values_of = match (column.ty.physical(), column.ty) {
        (Physical::Bool, _) => Values::Bool(values.as_boolean().values().iter().collect()),
        (_, ColumnType::Timestamp(_)) => Values::I64(times(column, values)?),
        (_, ColumnType::Date) => {
            let days = values.as_primitive::<Date32Type>().values();
            Values::I64(days.iter().map(|&day| day.into()).collect())
        }
        (Physical::I64, _) => {
            let wide = as_type(values, &DataType::Int64)?;
            Values::I64(wide.as_primitive::<Int64Type>().values().to_vec())
        }
        (Physical::U64, _) => {
            let wide = as_type(values, &DataType::UInt64)?;
            Values::U64(wide.as_primitive::<UInt64Type>().values().to_vec())
        }
        (Physical::F64, _) => {
            let wide = as_type(values, &DataType::Float64)?;
            Values::F64(wide.as_primitive::<Float64Type>().values().to_vec())
        }
        (Physical::I128, _) => {
            Values::I128(values.as_primitive::<Decimal128Type>().values().to_vec())
        }
        (Physical::Bytes, _) => Values::Bytes(bytes(values)?),
    };
    let validity = values.logical_nulls().map(|nulls| {
        let mut validity = Validity::default();
        nulls.iter().for_each(|valid| validity.push(valid));
        validity
    });
    Ok(Some(FieldColumn {
        id: column.id,
        values: values_of,
        validity,
    }))
}

fn bytes(values: &ArrayRef) -> Result<BytesVec, Failure> {
    let binary = as_type(values, &DataType::LargeBinary)?;
    let binary = binary.as_binary::<i64>();
    let total: usize = (0..binary.len())
        .map(|row| binary.value_length(row) as usize)
        .sum();
    if u32::try_from(total).is_err() {
        let detail = format!("text of {total} bytes in one batch");
        return Err(Failure::new(ErrorCode::BatchTooLarge, detail));
    }
    let mut bytes = BytesVec::new();
    for row in 0..binary.len() {
        let value: &[u8] = if binary.is_valid(row) {
            binary.value(row)
        } else {
            b""
        };
        bytes.push(value);
    }
    Ok(bytes)
}
