//! The benchmark's data: made by the binary's own generator as line protocol and as CSV, and loaded
//! over the doors of nodes in turn.
//!
//! Never here: another way to the rows than the public listener.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use bytes::Bytes;
use integration::http::Http;
use tokio::sync::{Mutex, mpsc};
use tokio::time::Instant;

/// Lines in one request.
const BATCH_LINES: usize = 5_000;

/// Requests that are on their way at once.
const WRITERS: usize = 4;

/// How long one batch may be told to come again.
const TAKEN_WITHIN: Duration = Duration::from_secs(120);

/// Rows every ten seconds from each host, in two forms that hold the same.
pub(crate) struct Data {
    pub(crate) lines: PathBuf,
    pub(crate) csv: PathBuf,
    pub(crate) rows: u64,
}

/// Batches and the numbers they have in the data.
type Batches = mpsc::Receiver<(usize, Bytes)>;

impl Data {
    /// Has the binary write the data.
    pub(crate) fn make(binary: &Path, folder: &Path, hosts: u32, hours: u32) -> Result<Self> {
        let data = Self {
            lines: folder.join("data.lp"),
            csv: folder.join("data.csv"),
            rows: u64::from(hosts) * u64::from(hours) * 360,
        };
        for (format, path) in [("lp", &data.lines), ("csv", &data.csv)] {
            generate(binary, hosts, hours, format, path)?;
        }
        println!(
            "data: {} rows, {} MB of line protocol",
            data.rows,
            std::fs::metadata(&data.lines)?.len() >> 20
        );
        Ok(data)
    }

    /// Sends the lines in batches, the first to the first door, the next to the next, some at a time,
    /// each until it is acked.
    pub(crate) async fn load(&self, doors: &[&Http]) -> Result<()> {
        let began = Instant::now();
        let text = std::fs::read(&self.lines);
        let text = Bytes::from(text.with_context(|| self.lines.display().to_string())?);
        let (sender, receiver) = mpsc::channel(2 * WRITERS);
        let feed = tokio::task::spawn_blocking(move || feed(&text, &sender));
        let receiver = Mutex::new(receiver);
        let writers = (0..WRITERS).map(|_| write(doors, &receiver));
        futures::future::try_join_all(writers).await?;
        feed.await.context("reader of the data")?;
        let seconds = began.elapsed().as_secs_f64();
        println!(
            "loaded in {seconds:.1} s: {:.0} rows/s",
            self.rows as f64 / seconds
        );
        Ok(())
    }
}

fn generate(binary: &Path, hosts: u32, hours: u32, format: &str, path: &Path) -> Result<()> {
    let hosts = hosts.to_string();
    let (days, hours) = (hours / 24, hours % 24);
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

/// Cuts the text into batches of whole lines, until nobody takes them.
fn feed(text: &Bytes, batches: &mpsc::Sender<(usize, Bytes)>) {
    let mut start = 0;
    for number in 0.. {
        let mut end = start;
        for _ in 0..BATCH_LINES {
            end += text[end..]
                .iter()
                .position(|&byte| byte == b'\n')
                .map_or(0, |at| at + 1);
        }
        let end = if end == start { text.len() } else { end };
        if end == start
            || batches
                .blocking_send((number, text.slice(start..end)))
                .is_err()
        {
            return;
        }
        start = end;
    }
}

async fn write(doors: &[&Http], batches: &Mutex<Batches>) -> Result<()> {
    loop {
        let next = batches.lock().await.recv().await;
        let Some((number, batch)) = next else {
            return Ok(());
        };
        let at = number % doors.len();
        let deadline = Instant::now() + TAKEN_WITHIN;
        let answer = loop {
            let answer = doors[at].write("main", batch.clone()).await;
            let answer = answer.with_context(|| format!("batch {number} at node {at}"))?;
            match answer.retry_after_s {
                Some(seconds) if Instant::now() < deadline => {
                    tokio::time::sleep(Duration::from_secs(seconds)).await;
                }
                _ => break answer,
            }
        };
        if answer.status != 204 {
            let (status, body) = (answer.status, answer.body);
            bail!("batch {number} at node {at}: {status} {body}");
        }
    }
}
