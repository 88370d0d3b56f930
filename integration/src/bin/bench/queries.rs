//! The fifteen queries over HTTP beside plain DataFusion on the same files in this process, in turns.
//!
//! Before a time counts, the rows of both are equal, value by value. The first round is dropped.

use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use arrow::array::{Array, ArrayRef, AsArray, RecordBatch};
use arrow::compute::cast;
use arrow::datatypes::{DataType, Float64Type, Int64Type, TimeUnit};
use integration::http::Answer;
use integration::queries::{self, Dialect, Draw, Query};
use integration::standalone::{Setup, Standalone};
use integration::zero_line::ZeroLine;
use integration::{compare, process};
use serde_json::{Value, json};
use tokio::time::Instant;

use crate::measure;
use crate::report::Report;
use crate::servers::has_database;

/// Partitions of the zero line: the processors that both have.
const ZERO_LINE_PARTITIONS: usize = 2;

/// Asks the node that ended in this folder, and the zero line.
pub(crate) async fn run(
    binary: &Path,
    folder: &Path,
    rounds: usize,
    report: &mut Report,
) -> Result<()> {
    let setup = Setup::new(binary, folder);
    let zero = ZeroLine::open(&setup.data().join("store"), ZERO_LINE_PARTITIONS).await?;
    let node = setup.start().await?;
    has_database(&node.http).await?;
    println!(
        "{:24} {:>8} {:>10} {:>10} {:>7}",
        "query", "rows", "ours ms", "zero ms", "ratio"
    );
    let (mut found, mut ratios) = (Vec::new(), Vec::new());
    let (mut worst, mut empty) = ((0.0_f64, ""), 0);
    for query in queries::all(Dialect::Auxo, &Draw::default()) {
        let rows = equal(&node, &zero, &query).await?;
        empty += usize::from(rows == 0);
        let (mut ours, mut theirs) = (Vec::new(), Vec::new());
        for round in 0..rounds.max(2) {
            let (our, their) = (ask(&node, &query).await?, ask_zero(&zero, &query).await?);
            if round > 0 {
                ours.push(our.as_secs_f64() * 1e3);
                theirs.push(their.as_secs_f64() * 1e3);
            }
        }
        let (ours, theirs) = (measure::median(ours), measure::median(theirs));
        let ratio = ours / theirs;
        if ratio > worst.0 {
            worst = (ratio, query.name);
        }
        println!(
            "{:24} {rows:>8} {ours:>10.2} {theirs:>10.2} {ratio:>7.2}",
            query.name
        );
        ratios.push(ratio);
        found.push(json!({
            "query": query.name, "rows": rows, "ours_ms": ours, "zero_ms": theirs, "ratio": ratio,
        }));
    }
    let logs: f64 = ratios.iter().map(|ratio| ratio.ln()).sum();
    let mean = (logs / ratios.len() as f64).exp();
    report.add(
        "queries",
        json!({ "rounds": rounds, "geometric_mean": mean, "queries": found }),
    );
    report.line(format!(
        "queries: geometric mean {mean:.2}x the zero line, worst {:.2}x ({}), {} equal row by row, {empty} of them empty; load {:.2}",
        worst.0,
        worst.1,
        ratios.len(),
        process::load_average()?,
    ));
    Ok(())
}

/// Number of rows, once both answers are shown to be equal.
async fn equal(node: &Standalone, zero: &ZeroLine, query: &Query) -> Result<usize> {
    let answer = post(node, query, "json").await?;
    let ours: Vec<Vec<Value>> =
        serde_json::from_value(answer.json()["rows"].take()).with_context(|| query.name)?;
    let batches = zero.context().sql(&query.sql).await?.collect().await;
    let theirs = rows(&batches.with_context(|| query.name)?)?;
    compare::rows(query.name, &ours, &theirs, query.ordered)?;
    Ok(ours.len())
}

async fn post(node: &Standalone, query: &Query, format: &str) -> Result<Answer> {
    let request = json!({
        "sql": query.sql, "format": format, "time_format": "ns", "row_limit": 10_000_000,
    });
    let post = node.http.request(reqwest::Method::POST, "/v1/sql");
    let answer = node.http.send(post.json(&request)).await?;
    match answer.status {
        200 => Ok(answer),
        status => bail!("{}: {status} {}", query.name, answer.body),
    }
}

async fn ask(node: &Standalone, query: &Query) -> Result<Duration> {
    let began = Instant::now();
    post(node, query, "null").await?;
    Ok(began.elapsed())
}

async fn ask_zero(zero: &ZeroLine, query: &Query) -> Result<Duration> {
    let began = Instant::now();
    zero.rows(query).await?;
    Ok(began.elapsed())
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
