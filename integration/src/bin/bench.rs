//! Speed and memory of one node, as ratios to a peer or a physical limit in the same run.
//!
//! - Ingest: the benchmark's day of data over line protocol, two writers of 5,000-row batches: rows a
//!   second, rows a processor second of the server, ack p50 and p99, peak memory.
//! - Disk: bytes a row once the node has flushed and compacted.
//! - Queries: the fifteen, over HTTP, against plain DataFusion in this process on the same files, one
//!   after the other in turns; medians, their ratio, and the geometric mean of the ratios.
//! - Restart: `kill -9` with everything unflushed, rows replayed a second.
//!
//! Every figure is printed with the machine's load; nothing here fails on a slow machine.

#![allow(
    clippy::print_stdout,
    reason = "the report is what this program is for"
)]

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use bytes::Bytes;
use clap::{Parser, ValueEnum};
use integration::queries::{self, Dialect, Draw};
use integration::standalone::{Setup, Standalone};
use integration::zero_line::ZeroLine;
use integration::{binary, disk, process};
use serde_json::json;
use tokio::sync::{Mutex, mpsc};
use tokio::time::Instant;

/// Lines in one request.
const BATCH_LINES: usize = 5_000;

/// Measures a node beside the zero line.
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
    /// Hours of data, at most 24.
    #[arg(long, default_value_t = 24)]
    hours: u32,
    /// Rounds of each query; the first is dropped.
    #[arg(long, default_value_t = 6)]
    rounds: usize,
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
    let folder = disk::folder("bench")?;
    let binary = binary::auxo(arguments.auxo.as_deref())?;
    let lines = data(&binary, &arguments, folder.path())?;
    let rows = u64::from(arguments.hosts) * u64::from(arguments.hours) * 360;
    println!(
        "data: {rows} rows, {} MB; load {:.2}",
        lines.len() >> 20,
        process::load_average()?
    );

    let setup = Setup::new(&binary, folder.path());
    let mut node = setup.start().await?;
    ingest(&node, &lines, rows).await?;

    let began = Instant::now();
    node.kill()?;
    let killed = began.elapsed();
    let began = Instant::now();
    let mut node = setup.start().await?;
    let seconds = began.elapsed().as_secs_f64();
    println!(
        "restart after kill -9 ({} ms): {seconds:.2} s, {:.0} rows/s replayed",
        killed.as_millis(),
        rows as f64 / seconds
    );
    let status = node.terminate(Duration::from_secs(120)).await?;
    if !status.success() {
        bail!("the node ended with {status}");
    }
    let store = setup.data().join("store");
    let bytes = disk::bytes(&store)?;
    println!(
        "disk: {bytes} bytes in the store, {:.2} a row",
        bytes as f64 / rows as f64
    );

    let node = setup.start().await?;
    let zero = ZeroLine::open(&store, 2).await?;
    compare(&node, &zero, arguments.rounds).await
}

fn data(binary: &Path, arguments: &Arguments, folder: &Path) -> Result<Bytes> {
    let path = folder.join("data.lp");
    let (days, hours) = (arguments.hours / 24, arguments.hours % 24);
    let end = format!("2026-01-{:02}T{hours:02}:00:00Z", 1 + days);
    let hosts = arguments.hosts.to_string();
    let made = Command::new(binary)
        .args(["bench", "gen", "--hosts", &hosts, "--end", &end])
        .stdout(std::fs::File::create(&path)?)
        .status()
        .context("bench gen")?;
    match made.success() {
        true => Ok(std::fs::read(&path)?.into()),
        false => bail!("bench gen ended with {made}"),
    }
}

/// Loads the data with two writers and prints what that took.
async fn ingest(node: &Standalone, lines: &Bytes, rows: u64) -> Result<()> {
    let mut batches = Vec::new();
    let mut start = 0;
    while start < lines.len() {
        let mut end = start;
        for _ in 0..BATCH_LINES {
            end += lines[end..]
                .iter()
                .position(|&byte| byte == b'\n')
                .map_or(0, |at| at + 1);
        }
        batches.push(lines.slice(start..end));
        start = end;
    }
    let (sender, receiver) = mpsc::channel(batches.len().max(1));
    for batch in batches {
        sender.send(batch).await?;
    }
    drop(sender);
    let receiver = Arc::new(Mutex::new(receiver));
    let acks = Arc::new(Mutex::new(Vec::new()));
    let cpu = process::cpu_seconds(node.pid())?;
    let began = Instant::now();
    let writers = (0..2).map(|_| {
        let (receiver, acks) = (Arc::clone(&receiver), Arc::clone(&acks));
        async move {
            loop {
                let next = receiver.lock().await.recv().await;
                let Some(batch) = next else {
                    return Ok(());
                };
                let sent = Instant::now();
                let answer = node.http.write("main", batch).await?;
                if answer.status != 204 {
                    bail!("write: {} {}", answer.status, answer.body);
                }
                acks.lock().await.push(sent.elapsed());
            }
        }
    });
    futures::future::try_join_all(writers).await?;
    let wall = began.elapsed().as_secs_f64();
    let cpu = process::cpu_seconds(node.pid())? - cpu;
    let mut acks = acks.lock().await;
    acks.sort();
    let at = |share: f64| acks[((acks.len() - 1) as f64 * share) as usize].as_secs_f64() * 1e3;
    println!(
        "ingest: {:.0} rows/s wall, {:.0} rows a processor second of the server ({cpu:.1} s), ack p50 {:.1} ms, p99 {:.1} ms, peak memory {} MiB; durable at ack: yes; load {:.2}",
        rows as f64 / wall,
        rows as f64 / cpu,
        at(0.5),
        at(0.99),
        process::memory_peak_bytes(node.pid())? >> 20,
        process::load_average()?,
    );
    Ok(())
}

/// Runs every query here and there in turns.
async fn compare(node: &Standalone, zero: &ZeroLine, rounds: usize) -> Result<()> {
    let mut logs = 0.0;
    let mut worst = (0.0_f64, "");
    let queries = queries::all(Dialect::Auxo, &Draw::default());
    println!(
        "{:24} {:>8} {:>10} {:>10} {:>7}",
        "query", "rows", "ours ms", "zero ms", "ratio"
    );
    for query in &queries {
        let (mut ours, mut theirs, mut rows) = (Vec::new(), Vec::new(), 0);
        for round in 0..rounds.max(2) {
            let began = Instant::now();
            let request = json!({ "sql": query.sql, "format": "null", "row_limit": 10_000_000 });
            let post = node
                .http
                .request(reqwest::Method::POST, "/v1/sql")
                .json(&request);
            let answer = node.http.send(post).await?;
            let took = began.elapsed();
            if answer.status != 200 {
                bail!("{}: {} {}", query.name, answer.status, answer.body);
            }
            rows = answer.json()["row_count"].as_u64().context("row_count")? as usize;
            let began = Instant::now();
            let same = zero.rows(query).await?;
            let zero_took = began.elapsed();
            if rows != same {
                bail!("{}: {rows} rows, the zero line has {same}", query.name);
            }
            if round > 0 {
                ours.push(took);
                theirs.push(zero_took);
            }
        }
        ours.sort();
        theirs.sort();
        let median = |times: &[Duration]| times[times.len() / 2].as_secs_f64() * 1e3;
        let (ours, theirs) = (median(&ours), median(&theirs));
        let ratio = ours / theirs;
        logs += ratio.ln();
        if ratio > worst.0 {
            worst = (ratio, query.name);
        }
        println!(
            "{:24} {rows:>8} {ours:>10.2} {theirs:>10.2} {ratio:>7.2}",
            query.name
        );
    }
    println!(
        "queries: geometric mean {:.2}x the zero line, worst {:.2}x ({}); load {:.2}",
        (logs / queries.len() as f64).exp(),
        worst.0,
        worst.1,
        process::load_average()?,
    );
    Ok(())
}
