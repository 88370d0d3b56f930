//! The fifteen queries over HTTP beside plain DataFusion on the same files in this process, and beside
//! DuckDB on the same rows, in turns.
//!
//! Before a time counts, the rows of all are equal, value by value. The first round is dropped. Times
//! are until the whole result is there; none is written as text.

use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use arrow::array::{Array, ArrayRef, AsArray, RecordBatch};
use arrow::compute::cast;
use arrow::datatypes::{DataType, Float64Type, Int64Type, TimeUnit};
use integration::http::Answer;
use integration::peers::duckdb::DuckDb;
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

/// Who answers.
struct Sides {
    node: Standalone,
    zero: ZeroLine,
    duckdb: Option<DuckDb>,
}

/// Milliseconds of each side for one query.
struct Times {
    ours: f64,
    zero: f64,
    duckdb: Option<f64>,
}

/// Asks the node that ended in this folder, and beside it the zero line and DuckDB.
///
/// * `duckdb`: DuckDB with the same rows, or why there is none.
pub(crate) async fn run(
    binary: &Path,
    folder: &Path,
    duckdb: Result<DuckDb, String>,
    rounds: usize,
    report: &mut Report,
) -> Result<()> {
    let setup = Setup::new(binary, folder);
    let zero = ZeroLine::open(&setup.data().join("store"), ZERO_LINE_PARTITIONS).await?;
    let node = setup.start().await?;
    has_database(&node.http).await?;
    let missing = duckdb.as_ref().err().cloned();
    let duckdb = duckdb.ok();
    let mut sides = Sides { node, zero, duckdb };
    println!(
        "{:24} {:>8} {:>10} {:>10} {:>7} {:>10} {:>7}",
        "query", "rows", "ours ms", "zero ms", "ratio", "DuckDB ms", "ratio"
    );
    let (mut found, mut to_zero, mut to_duckdb) = (Vec::new(), Vec::new(), Vec::new());
    let mut empty = 0;
    let draw = Draw::default();
    let both = queries::all(Dialect::Auxo, &draw).into_iter();
    for (query, theirs) in both.zip(queries::all(Dialect::DuckDb, &draw)) {
        let rows = sides.equal(&query, &theirs).await?;
        empty += usize::from(rows == 0);
        let mut times = Vec::new();
        for _ in 0..rounds.max(2) {
            times.push(sides.ask(&query, &theirs).await?);
        }
        let counted = &times[1..];
        let median = |of: fn(&Times) -> Option<f64>| {
            let of: Vec<f64> = counted.iter().filter_map(of).collect();
            (!of.is_empty()).then(|| measure::median(of))
        };
        let ours = median(|times| Some(times.ours)).unwrap_or_default();
        let zero = median(|times| Some(times.zero)).unwrap_or_default();
        let duckdb = median(|times| times.duckdb);
        to_zero.push((ours / zero, query.name));
        to_duckdb.extend(duckdb.map(|duckdb| (ours / duckdb, query.name)));
        let shown =
            |value: Option<f64>| value.map_or("-".to_owned(), |value| format!("{value:.2}"));
        println!(
            "{:24} {rows:>8} {ours:>10.2} {zero:>10.2} {:>7.2} {:>10} {:>7}",
            query.name,
            ours / zero,
            shown(duckdb),
            shown(duckdb.map(|duckdb| ours / duckdb)),
        );
        found.push(json!({
            "query": query.name, "rows": rows, "ours_ms": ours, "zero_ms": zero, "duckdb_ms": duckdb,
        }));
    }
    let duckdb = match &missing {
        None => format!("{} (1 thread, in process)", summary("DuckDB", &to_duckdb)),
        Some(why) => format!("DuckDB {why}"),
    };
    report.add(
        "queries",
        json!({
            "rounds": rounds, "queries": found, "duckdb_missing": missing,
            "zero_geometric_mean": geometric_mean(&to_zero),
            "duckdb_geometric_mean": geometric_mean(&to_duckdb),
        }),
    );
    report.line(format!(
        "queries: {}, {duckdb}; {} equal row by row, {empty} of them empty; load {:.2}",
        summary("the zero line", &to_zero),
        to_zero.len(),
        process::load_average()?,
    ));
    Ok(())
}

fn geometric_mean(ratios: &[(f64, &str)]) -> f64 {
    let logs: f64 = ratios.iter().map(|(ratio, _)| ratio.ln()).sum();
    (logs / ratios.len() as f64).exp()
}

fn summary(peer: &str, ratios: &[(f64, &str)]) -> String {
    let worst = ratios.iter().max_by(|a, b| a.0.total_cmp(&b.0));
    let (worst, name) = worst.copied().unwrap_or_default();
    let mean = geometric_mean(ratios);
    format!("geometric mean {mean:.2}x {peer}, worst {worst:.2}x ({name})")
}

impl Sides {
    /// Number of rows, once every side's answer is shown to be ours.
    async fn equal(&mut self, query: &Query, theirs: &Query) -> Result<usize> {
        let answer = post(&self.node, query, "json").await?;
        let ours: Vec<Vec<Value>> =
            serde_json::from_value(answer.json()["rows"].take()).with_context(|| query.name)?;
        let batches = self.zero.context().sql(&query.sql).await?.collect().await;
        let zero = rows(&batches.with_context(|| query.name)?)?;
        compare::rows(query.name, &ours, &zero, query.ordered).context("the zero line")?;
        if let Some(duckdb) = &mut self.duckdb {
            let answer = tokio::task::block_in_place(|| duckdb.ask(theirs, true))?;
            let rows = answer.rows.context("rows")?;
            compare::rows(query.name, &ours, &rows, query.ordered).context("DuckDB")?;
        }
        Ok(ours.len())
    }

    /// Each side once, one after the other.
    async fn ask(&mut self, query: &Query, theirs: &Query) -> Result<Times> {
        let ms = |took: Duration| took.as_secs_f64() * 1e3;
        let began = Instant::now();
        post(&self.node, query, "null").await?;
        let ours = ms(began.elapsed());
        let began = Instant::now();
        self.zero.rows(query).await?;
        let zero = ms(began.elapsed());
        let duckdb = match &mut self.duckdb {
            None => None,
            Some(duckdb) => {
                let answer = tokio::task::block_in_place(|| duckdb.ask(theirs, false))?;
                Some(ms(answer.took()))
            }
        };
        Ok(Times { ours, zero, duckdb })
    }
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
