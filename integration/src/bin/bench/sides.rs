//! Who is asked the fifteen queries beside the node, behind one face.
//!
//! A time is until the whole result is there. The node is asked for a count of its result only; the
//! zero line and DuckDB hold theirs in memory; QuestDB has no way not to write its rows as JSON, which
//! counts where there are many.

use std::time::Duration;

use anyhow::{Context, Result};
use arrow::array::{Array, ArrayRef, AsArray, RecordBatch};
use arrow::compute::cast;
use arrow::datatypes::{DataType, Float64Type, Int64Type, TimeUnit};
use integration::peers::Peer;
use integration::peers::duckdb::DuckDb;
use integration::queries::{Dialect, Query};
use integration::zero_line::ZeroLine;
use serde_json::Value;
use tokio::task::block_in_place;
use tokio::time::Instant;

/// One that answers beside the node.
pub(crate) enum Side {
    /// Plain DataFusion on the node's files, in this process.
    Zero(ZeroLine),
    /// DuckDB on the same rows, in a process of its own.
    DuckDb(DuckDb),
    /// QuestDB over HTTP, with the rows that ingest loaded.
    QuestDb(Peer),
}

impl Side {
    pub(crate) fn name(&self) -> &'static str {
        match self {
            Self::Zero(_) => "zero line",
            Self::DuckDb(_) => "DuckDB",
            Self::QuestDb(_) => "QuestDB",
        }
    }

    /// How its queries are written.
    pub(crate) fn dialect(&self) -> Dialect {
        match self {
            Self::Zero(_) => Dialect::Auxo,
            Self::DuckDb(_) => Dialect::DuckDb,
            Self::QuestDb(_) => Dialect::QuestDb,
        }
    }

    /// Rows of a query, times as nanoseconds since 1970.
    pub(crate) async fn rows(&mut self, query: &Query) -> Result<Vec<Vec<Value>>> {
        match self {
            Self::Zero(zero) => {
                let batches = zero.context().sql(&query.sql).await?.collect().await;
                rows(&batches.with_context(|| query.name)?)
            }
            Self::DuckDb(duckdb) => {
                let answer = block_in_place(|| duckdb.ask(query, true))?;
                answer.rows.context("rows")
            }
            Self::QuestDb(peer) => peer.sql(&query.sql).await,
        }
    }

    /// How long a query takes.
    pub(crate) async fn took(&mut self, query: &Query) -> Result<Duration> {
        match self {
            Self::Zero(zero) => {
                let began = Instant::now();
                zero.rows(query).await?;
                Ok(began.elapsed())
            }
            Self::DuckDb(duckdb) => Ok(block_in_place(|| duckdb.ask(query, false))?.took()),
            Self::QuestDb(peer) => peer.sql_took(&query.sql).await,
        }
    }
}

/// Rows as JSON values; times as nanoseconds since 1970.
fn rows(batches: &[RecordBatch]) -> Result<Vec<Vec<Value>>> {
    let mut rows = Vec::new();
    for batch in batches {
        let columns = batch.columns().iter().map(column);
        let columns = columns.collect::<Result<Vec<_>>>()?;
        for row in 0..batch.num_rows() {
            rows.push(columns.iter().map(|column| column[row].clone()).collect());
        }
    }
    Ok(rows)
}

fn column(array: &ArrayRef) -> Result<Vec<Value>> {
    let nanoseconds = DataType::Timestamp(TimeUnit::Nanosecond, None);
    Ok(match array.data_type() {
        DataType::Timestamp(..) => integers(&cast(array, &nanoseconds)?)?,
        kind if kind.is_integer() => integers(array)?,
        kind if kind.is_floating() => {
            let array = cast(array, &DataType::Float64)?;
            let values = array.as_primitive::<Float64Type>().iter();
            values.map(Value::from).collect()
        }
        _ => {
            let array = cast(array, &DataType::Utf8)?;
            array.as_string::<i32>().iter().map(Value::from).collect()
        }
    })
}

fn integers(array: &dyn Array) -> Result<Vec<Value>> {
    let array = cast(array, &DataType::Int64)?;
    let values = array.as_primitive::<Int64Type>().iter();
    Ok(values.map(Value::from).collect())
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use arrow::array::{
        Float64Array, Int64Array, StringDictionaryBuilder, TimestampMicrosecondArray,
    };
    use arrow::datatypes::Int32Type;
    use serde_json::json;

    use super::*;

    #[test]
    fn every_kind_of_column_becomes_json() {
        let mut names = StringDictionaryBuilder::<Int32Type>::new();
        names.append_value("a");
        names.append_null();
        let columns: Vec<(&str, ArrayRef)> = vec![
            (
                "t",
                Arc::new(TimestampMicrosecondArray::from(vec![Some(5), None])),
            ),
            ("i", Arc::new(Int64Array::from(vec![-1, 2]))),
            ("f", Arc::new(Float64Array::from(vec![Some(0.5), None]))),
            ("s", Arc::new(names.finish())),
        ];
        let batch = RecordBatch::try_from_iter_with_nullable(
            columns
                .into_iter()
                .map(|(name, column)| (name, column, true)),
        );
        let found = rows(&[batch.unwrap()]).unwrap();
        let wanted = json!([[5_000, -1, 0.5, "a"], [null, 2, null, null]]);
        assert_eq!(json!(found), wanted);
    }
}
