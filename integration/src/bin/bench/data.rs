//! The benchmark's rows as batches of line protocol, made by the binary's own generator.

use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Child, Command, Stdio};

use anyhow::{Context, Result, bail};
use bytes::Bytes;
use integration::peers::Span;
use serde_json::{Value, json};
use tokio::sync::mpsc;

/// Lines in one request.
pub(crate) const BATCH_LINES: usize = 5_000;

/// Rows of one host in an hour.
const ROWS_AN_HOUR: u64 = 360;

/// First time of the data, 2026-01-01T00:00:00Z.
const START_S: i64 = 1_767_225_600;

/// Rows to load, cut into batches before any clock runs.
pub(crate) struct Data {
    pub(crate) batches: Vec<Bytes>,
    pub(crate) rows: u64,
    pub(crate) span: Span,
    bytes: usize,
    hosts: u32,
    hours: u32,
}

impl Data {
    /// The day of the benchmark, or less of it.
    pub(crate) fn make(binary: &Path, hosts: u32, hours: u32, folder: &Path) -> Result<Self> {
        let path = folder.join("data.lp");
        generate(binary, hosts, hours, "lp", &path)?;
        let text = Bytes::from(std::fs::read(&path)?);
        std::fs::remove_file(&path)?;
        Ok(Self {
            batches: cut(&text),
            rows: u64::from(hosts) * u64::from(hours) * ROWS_AN_HOUR,
            span: Span {
                start_s: START_S,
                end_s: START_S + i64::from(hours) * 3_600,
            },
            bytes: text.len(),
            hosts,
            hours,
        })
    }

    /// What it is, for the report.
    pub(crate) fn report(&self) -> Value {
        json!({
            "hosts": self.hosts, "hours": self.hours, "rows": self.rows, "text_bytes": self.bytes,
            "batch_lines": BATCH_LINES,
        })
    }
}

/// Has the binary write the rows; every format holds the same.
pub(crate) fn generate(
    binary: &Path,
    hosts: u32,
    hours: u32,
    format: &str,
    path: &Path,
) -> Result<()> {
    let (days, rest) = (hours / 24, hours % 24);
    let end = format!("2026-01-{:02}T{rest:02}:00:00Z", 1 + days);
    let made = Command::new(binary)
        .args(["--quiet", "bench", "gen", "--hosts", &hosts.to_string()])
        .args(["--end", &end, "--format", format, "--out"])
        .arg(path)
        .status()
        .context("bench gen")?;
    match made.success() {
        true => Ok(()),
        false => bail!("bench gen ended with {made}"),
    }
}

/// Slices of `BATCH_LINES` lines each, the last one shorter.
fn cut(text: &Bytes) -> Vec<Bytes> {
    let mut batches = Vec::new();
    let (mut start, mut lines) = (0, 0);
    for (at, _) in text.iter().enumerate().filter(|(_, byte)| **byte == b'\n') {
        lines += 1;
        if lines == BATCH_LINES {
            batches.push(text.slice(start..=at));
            (start, lines) = (at + 1, 0);
        }
    }
    if start < text.len() {
        batches.push(text.slice(start..));
    }
    batches
}

/// Batches that are made while they are sent; the generator ends with this.
pub(crate) struct Stream {
    generator: Child,
    pub(crate) batches: mpsc::Receiver<Bytes>,
}

impl Stream {
    /// A year of rows of so many hosts: more than anyone takes.
    pub(crate) fn start(binary: &Path, hosts: u32) -> Result<Self> {
        let mut generator = Command::new(binary)
            .args(["--quiet", "bench", "gen", "--hosts", &hosts.to_string()])
            .args(["--end", "2027-01-01T00:00:00Z"])
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .context("bench gen")?;
        let output = generator.stdout.take().context("output of bench gen")?;
        let (sender, batches) = mpsc::channel(8);
        tokio::task::spawn_blocking(move || {
            feed(BufReader::with_capacity(1 << 20, output), &sender)
        });
        Ok(Self { generator, batches })
    }
}

impl Drop for Stream {
    fn drop(&mut self) {
        if self.generator.kill().is_ok() {
            let _ = self.generator.wait();
        }
    }
}

/// Sends whole batches until nobody takes them or the text ends.
fn feed(mut text: impl BufRead, batches: &mpsc::Sender<Bytes>) {
    loop {
        let mut batch = Vec::with_capacity(BATCH_LINES * 400);
        for _ in 0..BATCH_LINES {
            match text.read_until(b'\n', &mut batch) {
                Ok(1..) => {}
                // The generator is killed when enough was sent: what is half made is not sent.
                Ok(0) | Err(_) => return,
            }
        }
        if batches.blocking_send(batch.into()).is_err() {
            return;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn batches_are_whole_lines_and_everything() {
        let text = Bytes::from("row\n".repeat(2 * BATCH_LINES + 1));
        let batches = cut(&text);
        let lengths: Vec<_> = batches.iter().map(Bytes::len).collect();
        assert_eq!(lengths, [4 * BATCH_LINES, 4 * BATCH_LINES, 4]);
        assert_eq!(batches.concat(), text);
        assert!(cut(&Bytes::new()).is_empty());
    }

    #[test]
    fn a_stream_ends_with_its_last_whole_batch() {
        let text = "row\n".repeat(2 * BATCH_LINES + 1);
        let (sender, mut receiver) = mpsc::channel(8);
        feed(text.as_bytes(), &sender);
        drop(sender);
        assert_eq!(receiver.blocking_recv().unwrap().len(), 4 * BATCH_LINES);
        assert!(receiver.blocking_recv().is_some());
        assert!(receiver.blocking_recv().is_none());
    }
}
