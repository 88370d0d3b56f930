//! A node killed with much of its log in no file: how long until it has read it and serves again.
//!
//! A node is ready once every shard is claimed, replayed and serving; then the rows are counted, which
//! is timed apart, for a count of rows in memory is a query and no part of the replay.
//!
//! Rows come from the generator while they are sent, from more hosts than the other parts have, for a
//! batch then repeats little and takes more of the log. The bound beside it is this process reading
//! the same log once, from where the node finds it: the system's page cache, if memory suffices.

use std::fs::File;
use std::io::Read;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use integration::standalone::{Setup, Standalone};
use integration::{disk, process};
use serde_json::{Value, json};
use tokio::sync::Mutex;
use tokio::time::Instant;

use crate::data::{BATCH_LINES, Stream};
use crate::loader::{Target, WRITERS};
use crate::report::Report;
use crate::servers::{has_database, metric};

/// Sources of the rows.
const HOSTS: u32 = 5_000;

/// Batches between two looks at how long the log is.
const LOOK_EVERY: u64 = 20;

/// How long the replay may take.
const READY_WITHIN: Duration = Duration::from_secs(1_800);

/// How long the count of every row may take.
const COUNT_WITHIN: Duration = Duration::from_secs(600);

/// Memory that a node is given for each byte of log: rows in memory take four bytes for one of the
/// log, may take three tenths of the budget, and are flushed at seven tenths of that.
const BUDGET_PER_LOG_BYTE: u64 = 24;

/// The least budget: rows of the first minutes take more, for they bring every series.
const BUDGET_MIB_MIN: u64 = 4_096;

/// Fills the log to `log_mib`, kills the node and starts it again.
pub(crate) async fn run(binary: &Path, log_mib: u64, report: &mut Report) -> Result<()> {
    let folder = disk::folder("bench-restart")?;
    let mut setup = Setup::new(binary, folder.path());
    let budget_mib = (BUDGET_PER_LOG_BYTE * log_mib).max(BUDGET_MIB_MIN);
    let settings = [
        ("memory.budget", format!("{budget_mib}MiB")),
        ("flush.unflushed_bytes", format!("{}MiB", 4 * log_mib)),
        ("flush.unflushed_bytes_max", format!("{}MiB", 4 * log_mib)),
        ("flush.age", "1d".to_owned()),
        // The count behind the restart goes through every row in memory.
        ("limits.statement_timeout", "10m".to_owned()),
        (
            "limits.statement_memory",
            format!("{}MiB", (4 * log_mib).max(1_024)),
        ),
    ];
    for (key, value) in &settings {
        setup.config += &format!("{key} = {value:?}\n");
        println!("restart: {key} = {value}");
    }
    let mut node = setup.start().await?;
    has_database(&node.http).await?;
    let began = Instant::now();
    let rows = fill(&node, binary, log_mib << 20).await?;
    let loaded = began.elapsed().as_secs_f64();
    let unflushed = metric(&node.http, "auxo_wal_unflushed_bytes").await?;
    if unflushed < log_mib << 20 {
        bail!("the node flushed while {log_mib} MiB were written: {unflushed} bytes are left");
    }
    let memory = process::memory_peak_bytes(node.pid())? >> 20;
    println!(
        "restart: {rows} rows in {loaded:.0} s, {} MiB of log in no file, peak memory {memory} MiB",
        unflushed >> 20
    );
    node.kill()?;
    drop(node);

    let began = Instant::now();
    let read = read_all(&setup.data().join("wal"))?;
    let read_mb_per_s = read as f64 / 1e6 / began.elapsed().as_secs_f64();

    let began = Instant::now();
    let mut node = setup.spawn()?;
    node.ready(READY_WITHIN).await?;
    let ready = began.elapsed().as_secs_f64();
    let cpu = process::cpu_seconds(node.pid())?;
    let replayed = metric(&node.http, "auxo_wal_unflushed_bytes").await?;
    if replayed < unflushed {
        bail!("{replayed} bytes of log are replayed, {unflushed} were in no file");
    }
    has_database(&node.http).await?;
    let began = Instant::now();
    let counted = count(&node).await?;
    let count_s = began.elapsed().as_secs_f64();
    if counted != rows {
        bail!("{counted} rows after the restart, acknowledged were {rows}");
    }
    let mb_per_s = unflushed as f64 / 1e6 / ready;
    let rows_per_s = rows as f64 / ready;
    let memory_after = process::memory_peak_bytes(node.pid())? >> 20;
    let settings = settings.map(|(key, value)| format!("{key}={value}"));
    report.add(
        "restart",
        json!({
            "settings": settings, "hosts": HOSTS, "rows": rows, "log_bytes": unflushed,
            "load_s": loaded, "ready_s": ready, "ready_cpu_s": cpu, "rows_per_s": rows_per_s,
            "mb_per_s": mb_per_s, "read_mb_per_s": read_mb_per_s, "count_s": count_s,
            "memory_peak_before_mib": memory, "memory_peak_after_mib": memory_after,
        }),
    );
    report.line(format!(
        "restart: {} MiB of log ({rows} rows) replayed and ready {ready:.2} s after kill -9 ({cpu:.2} CPU-seconds): {rows_per_s:.0} rows/s, {mb_per_s:.0} MB/s; reading the log alone {read_mb_per_s:.0} MB/s; the first count took {count_s:.2} s; load {:.2}",
        unflushed >> 20,
        process::load_average()?,
    ));
    Ok(())
}

/// Sends rows until so many bytes of log are in no file; returns how many were acknowledged.
async fn fill(node: &Standalone, binary: &Path, log_bytes: u64) -> Result<u64> {
    let mut stream = Stream::start(binary, HOSTS)?;
    let target = Target {
        http: node.http.clone(),
        path: "/write?db=main".to_owned(),
    };
    let acked = AtomicU64::new(0);
    let full = AtomicBool::new(false);
    let batches = Mutex::new(&mut stream.batches);
    let writers = (0..WRITERS).map(|_| async {
        while !full.load(Ordering::Relaxed) {
            let next = batches.lock().await.recv().await;
            target.post(&next.context("the generator ended")?).await?;
            let sent = acked.fetch_add(1, Ordering::Relaxed) + 1;
            if sent.is_multiple_of(LOOK_EVERY) {
                let unflushed = metric(&node.http, "auxo_wal_unflushed_bytes").await?;
                full.fetch_or(unflushed >= log_bytes, Ordering::Relaxed);
            }
        }
        anyhow::Ok(())
    });
    futures::future::try_join_all(writers).await?;
    Ok(acked.into_inner() * BATCH_LINES as u64)
}

async fn count(node: &Standalone) -> Result<u64> {
    let statement = node.http.request(reqwest::Method::POST, "/v1/sql");
    let statement = statement.body("SELECT count(*) FROM cpu");
    let text = statement.timeout(COUNT_WITHIN).send().await?.text().await?;
    let answer: Value = serde_json::from_str(&text)?;
    answer["rows"][0][0].as_u64().context(text)
}

/// Reads every file of a folder once and returns the bytes.
fn read_all(folder: &Path) -> Result<u64> {
    let mut buffer = vec![0; 1 << 20];
    let mut total = 0;
    let mut folders = vec![folder.to_owned()];
    while let Some(at) = folders.pop() {
        for entry in std::fs::read_dir(&at).with_context(|| at.display().to_string())? {
            let path = entry?.path();
            if path.is_dir() {
                folders.push(path);
                continue;
            }
            let mut file = File::open(&path)?;
            loop {
                match file.read(&mut buffer)? {
                    0 => break,
                    read => total += read as u64,
                }
            }
        }
    }
    Ok(total)
}
