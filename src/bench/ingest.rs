//! `auxo bench ingest`: batches sent at a rate, or as fast as they are acknowledged.
//!
//! 1. With a rate the load is open: batch `k` is due when the rows before it should have been sent,
//!    whether or not earlier ones were acknowledged, and its latency counts from then. A node that
//!    falls behind cannot hide it by slowing the sender down.
//! 2. Without a rate each writer sends its next batch when the last one was acknowledged, and
//!    latency counts from the sending.
//!
//! The source is read and cut while it is sent; a file in the page cache costs the least.

use std::io::Write as _;
use std::path::PathBuf;
use std::time::Duration;

use auxo_client::Client;
use auxo_client::lines::CutAt;
use auxo_client::retry::Patience;
use auxo_client::write::{Sending, Undelivered, Written};
use clap::Args;
use futures::{Stream, StreamExt as _, TryStreamExt as _};
use serde_json::json;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::histogram::Histogram;
use super::milliseconds;
use crate::connection::reach;
use crate::exit::Exit;
use crate::interrupt::Interrupts;
use crate::output::{Output, notice};
use crate::write::Unit;
use crate::write::source::{Piece, Source};

/// How often the state is told.
const TICK: Duration = Duration::from_secs(1);

#[derive(Debug, Args)]
pub(crate) struct IngestArgs {
    /// Files of line protocol; - or none for the standard input
    #[arg(value_name = "FILE")]
    files: Vec<PathBuf>,
    /// Rows per second; 0 for as many as are acknowledged
    #[arg(long, value_name = "ROWS", default_value_t = 0)]
    rate: u64,
    /// Batches in flight at most
    #[arg(long, value_name = "N", default_value_t = 4, value_parser = clap::value_parser!(u16).range(1..=4096))]
    writers: u16,
    /// Rows in a batch
    #[arg(long, value_name = "ROWS", default_value_t = 5_000, value_parser = clap::value_parser!(u64).range(1..))]
    batch_rows: u64,
    /// Unit of the timestamps
    #[arg(long, value_enum, default_value = "ns")]
    precision: Unit,
}

/// One batch, measured.
struct Sent {
    bytes: u64,
    latency: Duration,
    answer: Result<Written, Undelivered>,
}

/// What has been measured so far.
struct Measured {
    began: Instant,
    latencies_us: Histogram,
    batches: u64,
    bytes: u64,
    rows: u64,
    rejected_rows: u64,
    retries: u64,
    failed_batches: u64,
    failure: Option<anyhow::Error>,
}

/// Runs the measurement.
pub(super) async fn run(args: &IngestArgs, client: &Client, quiet: bool) -> anyhow::Result<Exit> {
    let cut_at = CutAt {
        rows: args.batch_rows,
        bytes: 16 << 20,
        ..CutAt::default()
    };
    let source = Source::open(&args.files, cut_at).await?;
    let mut interrupts = Interrupts::listen()?;
    tokio::select! {
        reached = reach(client) => reached?,
        () = interrupts.next() => return Ok(Exit::Cancelled),
    }
    let stop = CancellationToken::new();
    let mut measured = Measured::new();
    let sent = send_all(source, args, client, measured.began, &stop);
    let mut sent = std::pin::pin!(sent);
    let mut ticks = tokio::time::interval(TICK);
    let mut interrupted = false;
    loop {
        tokio::select! {
            biased;
            () = interrupts.next() => {
                if interrupted {
                    break;
                }
                interrupted = true;
                stop.cancel();
            }
            next = sent.next() => match next {
                None => break,
                Some(Ok(sent)) => measured.add(sent),
                Some(Err(unreadable)) => {
                    stop.cancel();
                    measured.failure.get_or_insert(unreadable);
                }
            },
            _ = ticks.tick() => measured.tell(quiet),
        }
    }
    let mut output = Output::stdout();
    writeln!(output, "{}", measured.report(args, client.url()))?;
    output.finish()?;
    if let Some(error) = &measured.failure {
        notice(format_args!("error: {error:#}"));
    }
    Ok(match (&measured.failure, interrupted) {
        (_, true) => Exit::Cancelled,
        (Some(_), _) if measured.rows > 0 => Exit::Partly,
        (Some(error), _) => Exit::of(error),
        (None, _) => Exit::Done,
    })
}

/// Sends every batch of the source when it is due.
fn send_all(
    source: Source,
    args: &IngestArgs,
    client: &Client,
    began: Instant,
    stop: &CancellationToken,
) -> impl Stream<Item = anyhow::Result<Sent>> {
    let sending = Sending {
        precision: args.precision.into(),
        patience: Patience::default(),
    };
    let rate = args.rate;
    let batches =
        futures::stream::try_unfold((source, 0_u64), move |(mut source, rows)| async move {
            match source.next().await? {
                None => Ok(None),
                Some(Piece::TooLong(line)) => Err(anyhow::anyhow!(
                    "{}:{}: line is too long",
                    line.file,
                    line.line
                )),
                Some(Piece::Batch(batch)) => {
                    let due = (rate > 0).then(|| began + after(rows, rate));
                    let rows = rows + batch.lines.rows;
                    Ok(Some(((batch, due), (source, rows))))
                }
            }
        });
    batches
        .take_until(stop.clone().cancelled_owned())
        .map_ok(move |(batch, due)| async move {
            if let Some(due) = due {
                tokio::time::sleep_until(due).await;
            }
            let from = due.unwrap_or_else(Instant::now);
            let answer = client.write(&batch.lines, &sending).await;
            Ok(Sent {
                bytes: batch.lines.text.len() as u64,
                latency: from.elapsed(),
                answer,
            })
        })
        .try_buffer_unordered(args.writers.into())
}

/// When so many rows have been sent at this rate.
fn after(rows: u64, rate: u64) -> Duration {
    let whole = Duration::from_secs(rows / rate);
    let rest_ns = u128::from(rows % rate) * 1_000_000_000 / u128::from(rate);
    whole + Duration::from_nanos(rest_ns as u64)
}

impl Measured {
    fn new() -> Self {
        Self {
            began: Instant::now(),
            latencies_us: Histogram::new(),
            batches: 0,
            bytes: 0,
            rows: 0,
            rejected_rows: 0,
            retries: 0,
            failed_batches: 0,
            failure: None,
        }
    }

    fn add(&mut self, sent: Sent) {
        self.batches += 1;
        let written = match sent.answer {
            Ok(written) => {
                let latency_us = u64::try_from(sent.latency.as_micros()).unwrap_or(u64::MAX);
                self.latencies_us.record(latency_us);
                self.bytes += sent.bytes;
                written
            }
            Err(mut undelivered) => {
                self.failed_batches += 1;
                let written = std::mem::take(&mut undelivered.written);
                self.failure.get_or_insert(undelivered.into());
                written
            }
        };
        self.rows += written.rows;
        self.rejected_rows += written.rejected_rows;
        self.retries += written.retries;
    }

    fn seconds(&self) -> f64 {
        self.began.elapsed().as_secs_f64().max(1e-6)
    }

    fn tell(&self, quiet: bool) {
        if self.batches > 0 && !quiet {
            notice(format_args!(
                "{:.0} s: {} rows, {:.0} rows/s, p99 {} ms",
                self.seconds(),
                self.rows,
                self.rows as f64 / self.seconds(),
                milliseconds(self.latencies_us.quantile(990) as f64),
            ));
        }
    }

    fn report(&self, args: &IngestArgs, url: &str) -> serde_json::Value {
        let seconds = self.seconds();
        let quantile = |per_mille| milliseconds(self.latencies_us.quantile(per_mille) as f64);
        json!({
            "benchmark": "ingest",
            "url": url,
            "writers": args.writers,
            "batch_rows": args.batch_rows,
            "rate_rows_per_s": args.rate,
            "rows": self.rows,
            "rejected_rows": self.rejected_rows,
            "bytes": self.bytes,
            "batches": self.batches,
            "failed_batches": self.failed_batches,
            "retries": self.retries,
            "seconds": (seconds * 1e3).round() / 1e3,
            "rows_per_s": (self.rows as f64 / seconds).round(),
            "bytes_per_s": (self.bytes as f64 / seconds).round(),
            "latency_ms": {
                "p50": quantile(500),
                "p90": quantile(900),
                "p99": quantile(990),
                "p999": quantile(999),
                "max": milliseconds(self.latencies_us.max() as f64),
                "mean": milliseconds(self.latencies_us.mean()),
            },
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_batch_is_due_when_the_rows_before_it_are_sent() {
        assert_eq!(after(0, 3), Duration::ZERO);
        assert_eq!(after(7, 2), Duration::from_millis(3_500));
        assert_eq!(after(u64::MAX, 1).as_secs(), u64::MAX);
    }
}
