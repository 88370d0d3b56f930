//! DuckDB's answers to the fifteen queries, and how many of a node's are equal to them.

use std::time::Duration;

use anyhow::{Context, Result, bail};
use integration::http::Http;
use integration::queries::{self, Dialect, Draw, Query};
use integration::{compare, duckdb};
use reqwest::Method;
use serde_json::{Value, json};
use tokio::time::Instant;

use crate::data::Data;

/// Most rows of an answer; none of the fifteen has as many.
const ROW_LIMIT: u32 = 10_000_000;

/// How long a node may say that it will know later.
const ANSWERED_WITHIN: Duration = Duration::from_secs(30);

/// What is right.
pub(crate) struct Oracle {
    rows: u64,
    answers: Vec<Vec<Vec<Value>>>,
}

impl Oracle {
    /// Has DuckDB answer over the CSV.
    pub(crate) fn ask(data: &Data) -> Result<Self> {
        let theirs = queries::all(Dialect::DuckDb, &Draw::default());
        Ok(Self {
            rows: data.rows,
            answers: duckdb::answers(&data.csv, &theirs)?,
        })
    }

    /// Number of queries whose rows are the oracle's; differences are printed.
    ///
    /// * `doors`: nodes that are asked in turn, beginning with the one at `first`.
    /// * errors: a node that does not count every row.
    pub(crate) async fn equal(&self, doors: &[&Http], first: usize) -> Result<usize> {
        for (at, door) in doors.iter().enumerate() {
            let request = json!({ "sql": "SELECT count(*) FROM cpu" });
            let count = answered(door, &request).await?;
            if count != [[json!(self.rows)]] {
                let rows = self.rows;
                bail!("count(*) at node {at} is {count:?}, written were {rows}");
            }
        }
        let mut equal = 0;
        let ours = queries::all(Dialect::Auxo, &Draw::default());
        for (number, (query, theirs)) in ours.iter().zip(&self.answers).enumerate() {
            let at = (first + number) % doors.len();
            match same(doors[at], query, theirs).await {
                Ok(said) => {
                    println!("  node {at} {said}");
                    equal += 1;
                }
                Err(error) => println!("  node {at} {error:#}"),
            }
        }
        Ok(equal)
    }
}

/// Asks one query; how many rows are equal and how long it took.
async fn same(door: &Http, query: &Query, theirs: &[Vec<Value>]) -> Result<String> {
    let began = Instant::now();
    let request = json!({ "sql": query.sql, "time_format": "ns", "row_limit": ROW_LIMIT });
    let ours = answered(door, &request).await.context(query.name)?;
    let ms = began.elapsed().as_secs_f64() * 1e3;
    compare::rows(query.name, &ours, theirs, query.ordered)?;
    Ok(format!(
        "{}: {} rows equal, {ms:.1} ms",
        query.name,
        ours.len()
    ))
}

/// Rows of a statement. What may be asked again is, as a client would: a shard may be moving.
async fn answered(door: &Http, request: &Value) -> Result<Vec<Vec<Value>>> {
    let deadline = Instant::now() + ANSWERED_WITHIN;
    loop {
        let post = door.request(Method::POST, "/v1/sql").json(request);
        let answer = door.send(post).await?;
        match (answer.status, answer.retry_after_s) {
            (200, _) => return Ok(serde_json::from_value(answer.json()["rows"].take())?),
            (503, Some(seconds)) if Instant::now() < deadline => {
                println!("  asked again after {}", answer.body);
                tokio::time::sleep(Duration::from_secs(seconds)).await;
            }
            (status, _) => bail!("{status} {}", answer.body),
        }
    }
}
