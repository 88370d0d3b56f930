//! The fifteen queries over HTTP, warm, and the same beside the node, in turns.
//!
//! Before a time counts, the rows of all are equal, value by value. The first round is dropped.

use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use integration::http::{Answer, Http};
use integration::queries::{self, Dialect, Draw, Query};
use integration::standalone::Setup;
use integration::zero_line::ZeroLine;
use integration::{compare, process};
use serde_json::{Map, Value, json};
use tokio::time::Instant;

use crate::measure;
use crate::report::Report;
use crate::servers::has_database;
use crate::sides::Side;

/// Partitions of the zero line: the processors that both have.
const ZERO_LINE_PARTITIONS: usize = 2;

/// One that answers, its queries, and what came of them.
struct Column {
    side: Side,
    queries: Vec<Query>,
    ratios: Vec<(f64, &'static str)>,
}

/// Asks the node that ended in this folder, the zero line, and others beside them.
///
/// * `others`: with the same rows; `missing`: names of those who are not asked, and why.
pub(crate) async fn run(
    binary: &Path,
    folder: &Path,
    others: Vec<Side>,
    missing: &[(&str, String)],
    rounds: usize,
    report: &mut Report,
) -> Result<()> {
    let setup = Setup::new(binary, folder);
    let zero = ZeroLine::open(&setup.data().join("store"), ZERO_LINE_PARTITIONS).await?;
    let node = setup.start().await?;
    has_database(&node.http).await?;
    let draw = Draw::default();
    let mut columns: Vec<Column> = [Side::Zero(zero)]
        .into_iter()
        .chain(others)
        .map(|side| Column {
            queries: queries::all(side.dialect(), &draw),
            ratios: Vec::new(),
            side,
        })
        .collect();
    let heads = columns.iter().map(|column| column.side.name());
    let heads = heads.map(|name| format!(" {name:>12} {:>7}", "ratio"));
    println!(
        "{:22} {:>8} {:>10}{}",
        "query, ms",
        "rows",
        "AuxoDB",
        heads.collect::<String>()
    );
    let (mut found, mut best, mut empty) = (Vec::new(), Vec::new(), 0);
    for (at, query) in queries::all(Dialect::Auxo, &draw).iter().enumerate() {
        let rows = equal(&node.http, query, at, &mut columns).await?;
        empty += usize::from(rows == 0);
        let mut ours = Vec::new();
        let mut theirs = vec![Vec::new(); columns.len()];
        for round in 0..rounds.max(2) {
            let took = ask(&node.http, query).await?;
            let counts = round > 0;
            ours.extend(counts.then_some(took));
            for (column, times) in columns.iter_mut().zip(&mut theirs) {
                let took = column.side.took(&column.queries[at]).await?;
                times.extend(counts.then_some(took));
            }
        }
        let ours = median_ms(&ours);
        let mut line = format!("{:22} {rows:>8} {ours:>10.2}", query.name);
        let mut times = Map::from_iter([("AuxoDB".to_owned(), ours.into())]);
        for (column, theirs) in columns.iter_mut().zip(&theirs) {
            let theirs = median_ms(theirs);
            column.ratios.push((ours / theirs, query.name));
            line += &format!(" {theirs:>12.2} {:>7.2}", ours / theirs);
            times.insert(column.side.name().to_owned(), theirs.into());
        }
        println!("{line}");
        let peers = columns[1..].iter().flat_map(|column| column.ratios.last());
        best.extend(peers.copied().max_by(|a, b| a.0.total_cmp(&b.0)));
        found.push(json!({ "query": query.name, "rows": rows, "ms": times }));
    }
    let mut parts: Vec<String> = columns.iter().map(Column::summary).collect();
    if !best.is_empty() {
        let mean = geometric_mean(&best);
        parts.push(format!("{mean:.2}x the best peer of each"));
    }
    parts.extend(missing.iter().map(|(name, why)| format!("{name} {why}")));
    let mut means: Map<String, Value> = columns
        .iter()
        .map(|column| {
            let mean = geometric_mean(&column.ratios);
            (column.side.name().to_owned(), mean.into())
        })
        .collect();
    means.insert("best peer of each".to_owned(), geometric_mean(&best).into());
    let missing = missing
        .iter()
        .map(|(name, why)| json!({ "name": name, "missing": why }));
    report.add(
        "queries",
        json!({
            "rounds": rounds, "queries": found, "missing": missing.collect::<Vec<_>>(),
            "geometric_means": means,
        }),
    );
    report.line(format!(
        "queries: geometric mean {}; {} equal row by row, {empty} of them empty; load {:.2}",
        parts.join(", "),
        found.len(),
        process::load_average()?,
    ));
    Ok(())
}

impl Column {
    fn summary(&self) -> String {
        let worst = self.ratios.iter().max_by(|a, b| a.0.total_cmp(&b.0));
        let (worst, name) = worst.copied().unwrap_or_default();
        let mean = geometric_mean(&self.ratios);
        let side = self.side.name();
        format!("{mean:.2}x {side} (worst {worst:.2}x, {name})")
    }
}

pub(crate) fn geometric_mean(ratios: &[(f64, &str)]) -> f64 {
    let logs: f64 = ratios.iter().map(|(ratio, _)| ratio.ln()).sum();
    (logs / ratios.len() as f64).exp()
}

pub(crate) fn median_ms(times: &[Duration]) -> f64 {
    measure::median(times.iter().map(|took| took.as_secs_f64() * 1e3).collect())
}

/// Number of rows, once every side's answer is shown to be ours.
async fn equal(node: &Http, query: &Query, at: usize, columns: &mut [Column]) -> Result<usize> {
    let ours = rows(node, query).await?;
    for column in columns {
        let theirs = column.side.rows(&column.queries[at]).await?;
        let equal = compare::rows(query.name, &ours, &theirs, query.ordered);
        equal.with_context(|| format!("beside {}", column.side.name()))?;
    }
    Ok(ours.len())
}

/// How long a node takes to answer a query with a count of its rows.
pub(crate) async fn ask(node: &Http, query: &Query) -> Result<Duration> {
    let began = Instant::now();
    post(node, query, "null").await?;
    Ok(began.elapsed())
}

/// A node's rows of a query.
pub(crate) async fn rows(node: &Http, query: &Query) -> Result<Vec<Vec<Value>>> {
    let answer = post(node, query, "json").await?;
    serde_json::from_value(answer.json()["rows"].take()).with_context(|| query.name)
}

async fn post(node: &Http, query: &Query, format: &str) -> Result<Answer> {
    let request = json!({
        "sql": query.sql, "format": format, "time_format": "ns", "row_limit": 10_000_000,
    });
    let post = node.request(reqwest::Method::POST, "/v1/sql");
    let answer = node.send(post.json(&request)).await?;
    match answer.status {
        200 => Ok(answer),
        status => bail!("{}: {status} {}", query.name, answer.body),
    }
}
