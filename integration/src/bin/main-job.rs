//! The main job end to end: the benchmark's day of data through line protocol, its fifteen queries
//! compared row by row with DuckDB on the same data, a restart, and compared again.
//!
//! Ends with `main-job: N rows, 15/15 equal before restart, 15/15 after`.

#![allow(
    clippy::print_stdout,
    reason = "the report is what this program is for"
)]

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use bytes::Bytes;
use clap::{Parser, ValueEnum};
use integration::queries::{self, Dialect, Draw};
use integration::standalone::{Setup, Standalone};
use integration::{binary, compare, disk, duckdb};
use serde_json::{Value, json};
use tokio::sync::{Mutex, mpsc};
use tokio::time::Instant;

/// Lines in one request.
const BATCH_LINES: usize = 5_000;

/// Compares a day of data with DuckDB.
#[derive(Debug, Parser)]
struct Arguments {
    /// What runs.
    #[arg(value_enum)]
    shape: Shape,
    /// The binary under test; built if not given.
    #[arg(long)]
    auxo: Option<PathBuf>,
    /// Hosts in the data.
    #[arg(long, default_value_t = 400)]
    hosts: u32,
    /// Hours of data.
    #[arg(long, default_value_t = 24)]
    hours: u32,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum Shape {
    /// One process with everything in it.
    Standalone,
}

#[tokio::main]
async fn main() -> Result<()> {
    let arguments = Arguments::parse();
    let Shape::Standalone = arguments.shape;
    let folder = disk::folder("main-job")?;
    let binary = binary::auxo(arguments.auxo.as_deref())?;
    let (lines, csv) = (
        folder.path().join("data.lp"),
        folder.path().join("data.csv"),
    );
    make(&binary, &arguments, "lp", &lines)?;
    make(&binary, &arguments, "csv", &csv)?;
    let rows = u64::from(arguments.hosts) * u64::from(arguments.hours) * 360;
    println!(
        "data: {rows} rows, {} MB of line protocol",
        std::fs::metadata(&lines)?.len() >> 20
    );

    let theirs = duckdb::answers(&csv, &queries::all(Dialect::DuckDb, &Draw::default()))?;
    let setup = Setup::new(&binary, folder.path());
    let mut node = setup.start().await?;
    let began = Instant::now();
    load(&node, &lines).await?;
    let seconds = began.elapsed().as_secs_f64();
    println!(
        "loaded in {seconds:.1} s: {:.0} rows/s",
        rows as f64 / seconds
    );
    let before = equal(&node, &theirs, rows).await?;
    let began = Instant::now();
    let status = node.terminate(Duration::from_secs(60)).await?;
    println!(
        "stopped in {:.1} s with {status}",
        began.elapsed().as_secs_f64()
    );
    if !status.success() {
        bail!("the node ended with {status}");
    }
    let began = Instant::now();
    let node = setup.start().await?;
    println!("started again in {:.1} s", began.elapsed().as_secs_f64());
    let after = equal(&node, &theirs, rows).await?;
    let bytes = disk::bytes(&setup.data().join("store"))?;
    println!(
        "files: {bytes} bytes, {:.2} a row",
        bytes as f64 / rows as f64
    );
    println!("main-job: {rows} rows, {before}/15 equal before restart, {after}/15 after");
    match (before, after) {
        (15, 15) => Ok(()),
        _ => bail!("answers differ"),
    }
}

/// Has the binary write the data in one format; every format holds the same rows.
fn make(binary: &Path, arguments: &Arguments, format: &str, path: &Path) -> Result<()> {
    let hosts = arguments.hosts.to_string();
    let (days, hours) = (arguments.hours / 24, arguments.hours % 24);
    let end = format!("2026-01-{:02}T{hours:02}:00:00Z", 1 + days);
    let made = Command::new(binary)
        .args([
            "bench", "gen", "--hosts", &hosts, "--end", &end, "--format", format,
        ])
        .stdout(File::create(path)?)
        .status()
        .context("bench gen")?;
    match made.success() {
        true => Ok(()),
        false => bail!("bench gen ended with {made}"),
    }
}

/// Sends the file in batches, four at a time, each until it is acked.
async fn load(node: &Standalone, lines: &Path) -> Result<()> {
    let text = Bytes::from(std::fs::read(lines).with_context(|| lines.display().to_string())?);
    let (sender, receiver) = mpsc::channel(8);
    let feed = tokio::task::spawn_blocking(move || {
        let mut start = 0;
        while start < text.len() {
            let mut end = start;
            for _ in 0..BATCH_LINES {
                end += text[end..]
                    .iter()
                    .position(|&byte| byte == b'\n')
                    .map_or(0, |at| at + 1);
            }
            let end = if end == start { text.len() } else { end };
            if sender.blocking_send(text.slice(start..end)).is_err() {
                return;
            }
            start = end;
        }
    });
    let receiver = Arc::new(Mutex::new(receiver));
    let writers = (0..4).map(|_| write(node, Arc::clone(&receiver)));
    futures::future::try_join_all(writers).await?;
    feed.await.context("reader of the data")
}

async fn write(node: &Standalone, batches: Arc<Mutex<mpsc::Receiver<Bytes>>>) -> Result<()> {
    loop {
        let next = batches.lock().await.recv().await;
        let Some(batch) = next else {
            return Ok(());
        };
        let answer = loop {
            let answer = node.http.write("main", batch.clone()).await?;
            match answer.retry_after_s {
                Some(seconds) => tokio::time::sleep(Duration::from_secs(seconds)).await,
                None => break answer,
            }
        };
        if answer.status != 204 {
            bail!("write: {} {}", answer.status, answer.body);
        }
    }
}

/// Number of queries whose rows are those of the oracle; differences are printed.
async fn equal(node: &Standalone, theirs: &[Vec<Vec<Value>>], rows: u64) -> Result<usize> {
    let count = node.http.sql("SELECT count(*) FROM cpu").await?;
    if count != [[json!(rows)]] {
        bail!("count(*) is {count:?}, written were {rows}");
    }
    let mut equal = 0;
    for (query, theirs) in queries::all(Dialect::Auxo, &Draw::default())
        .iter()
        .zip(theirs)
    {
        let began = Instant::now();
        let request = json!({ "sql": query.sql, "time_format": "ns", "row_limit": 10_000_000 });
        let post = node
            .http
            .request(reqwest::Method::POST, "/v1/sql")
            .json(&request);
        let answer = node.http.send(post).await?;
        if answer.status != 200 {
            println!("  {}: {} {}", query.name, answer.status, answer.body);
            continue;
        }
        let ours: Vec<Vec<Value>> = serde_json::from_value(answer.json()["rows"].take())?;
        let ms = began.elapsed().as_secs_f64() * 1e3;
        match compare::rows(query.name, &ours, theirs, query.ordered) {
            Ok(()) => {
                println!("  {}: {} rows equal, {ms:.1} ms", query.name, ours.len());
                equal += 1;
            }
            Err(error) => println!("  {error}"),
        }
    }
    Ok(equal)
}
