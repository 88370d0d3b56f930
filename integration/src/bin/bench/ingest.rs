//! The same rows into each server in turn, A-B-C-A-B-C, each time into an empty one.
//!
//! 1. Start the server, bring it to speed, read its processor time and its blocks on the disk.
//! 2. Load; the wall clock stops at the last ack, and again once a count sees every row. What the
//!    server did until then, its threads in the background among it, is its processor time.
//! 3. Count every value of every row, and end it in good order: what it still owed to its files then
//!    is shown apart.
//!
//! Ratios are taken within a round, and their medians over the rounds. A peer that shows other counts
//! than were written voids the run; for ours that is an error.

use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use integration::queries::FIELDS;
use integration::{disk, process, wait};
use serde_json::{Map, Value, json};
use tempfile::TempDir;
use tokio::time::Instant;

use crate::data::Data;
use crate::loader::{self, LOADER_ROWS_PER_S_MIN, Load};
use crate::measure::{self, Ended};
use crate::report::Report;
use crate::servers::{Contestant, Field, Server};

/// Batches of the data that a server is warmed up with at most.
const WARM_UP_BATCHES: usize = 60;

/// How long acknowledged rows may take to be seen.
const SEEN_WITHIN: Duration = Duration::from_secs(300);

/// How long an orderly end may take.
const END_WITHIN: Duration = Duration::from_secs(300);

/// Peak memory of ours that a release may show.
const MEMORY_MIB_MAX: u64 = 1536;

/// What one load of one server came to.
#[derive(Debug)]
struct Outcome {
    rows: u64,
    load: Load,
    seen: Duration,
    cpu_seen: f64,
    cpu_ended: f64,
    memory_peak_bytes: u64,
    disk_seen_bytes: u64,
    disk_ended_bytes: u64,
}

/// Figures that are compared.
const FIGURES: [&str; 9] = [
    "rows_per_cpu_s",
    "rows_per_cpu_s_ended",
    "rows_per_s",
    "rows_per_s_acked",
    "ack_p50_ms",
    "ack_p99_ms",
    "memory_peak_mib",
    "disk_bytes_per_row",
    "disk_bytes_per_row_ended",
];

impl Outcome {
    /// In the order of [`FIGURES`].
    fn figures(&self) -> [f64; FIGURES.len()] {
        let rows = self.rows as f64;
        [
            rows / self.cpu_seen,
            rows / self.cpu_ended,
            rows / self.seen.as_secs_f64(),
            rows / self.load.wall.as_secs_f64(),
            self.load.ack_ms(0.5),
            self.load.ack_ms(0.99),
            (self.memory_peak_bytes >> 20) as f64,
            self.disk_seen_bytes as f64 / rows,
            self.disk_ended_bytes as f64 / rows,
        ]
    }

    fn report(&self) -> Value {
        let mut report: Map<String, Value> = FIGURES
            .iter()
            .zip(self.figures())
            .map(|(name, figure)| ((*name).to_owned(), figure.into()))
            .collect();
        report.insert("cpu_s".to_owned(), self.cpu_seen.into());
        report.insert("loader_cpu_s".to_owned(), self.load.cpu_seconds.into());
        report.insert("refused".to_owned(), self.load.refused.into());
        report.into()
    }

    fn print(&self, name: &str) {
        let [
            cpu,
            cpu_ended,
            seen,
            acked,
            p50,
            p99,
            memory,
            disk,
            disk_ended,
        ] = self.figures();
        println!(
            "  {name:15} {cpu:>10.0} {cpu_ended:>10.0} {seen:>10.0} {acked:>10.0} {p50:>8.1} {p99:>8.1} {memory:>7.0} {disk:>7.2} {disk_ended:>7.2} {:>8} {:>8.2}",
            self.load.refused, self.load.cpu_seconds,
        );
    }
}

/// Loads one alone and returns the folder it has ended in.
pub(crate) async fn load_one(contestant: &Contestant, data: &Data) -> Result<TempDir> {
    let folder = disk::folder("bench-load")?;
    measure(contestant, data, folder.path()).await?;
    Ok(folder)
}

/// Runs all rounds; returns the folders that the contestants ended in last, in their order, and none
/// for one whose last round is void.
pub(crate) async fn run(
    field: &Field,
    data: &Data,
    rounds: usize,
    report: &mut Report,
) -> Result<Vec<Option<TempDir>>> {
    let loader = loader::rows_per_s_max(data).await?;
    println!(
        "loader: {loader:.0} rows/s into a sink that discards (at least {LOADER_ROWS_PER_S_MIN:.0})"
    );
    if loader < LOADER_ROWS_PER_S_MIN {
        report.void(format!(
            "the loader passes {loader:.0} rows/s into a sink, less than {LOADER_ROWS_PER_S_MIN:.0}"
        ));
    }
    let mut kept = Vec::new();
    let mut outcomes: Vec<Vec<Option<Outcome>>> = Vec::new();
    for round in 1..=rounds {
        println!(
            "ingest, round {round} of {rounds}; load {:.2}\n  {:15} {:>10} {:>10} {:>10} {:>10} {:>8} {:>8} {:>7} {:>7} {:>7} {:>8} {:>8}",
            process::load_average()?,
            "",
            "rows/cpu-s",
            "..to end",
            "rows/s",
            "..to ack",
            "p50 ms",
            "p99 ms",
            "MiB",
            "B/row",
            "..end",
            "refused",
            "loader s",
        );
        let mut in_round = Vec::new();
        kept.clear();
        for contestant in &field.contestants {
            let folder = disk::folder("bench-load")?;
            let outcome = measure(contestant, data, folder.path()).await;
            let outcome = match (contestant, outcome) {
                (Contestant::Ours(_), outcome) => Some(outcome.context("AuxoDB")?),
                (Contestant::Peer(..), Ok(outcome)) => Some(outcome),
                (Contestant::Peer(kind, _), Err(error)) => {
                    report.void(format!("{}, round {round}: {error:#}", kind.name()));
                    None
                }
            };
            match &outcome {
                Some(outcome) => outcome.print(contestant.name()),
                None => println!("  {:15} void", contestant.name()),
            }
            kept.push(outcome.as_ref().map(|_| folder));
            in_round.push(outcome);
        }
        for (kind, why) in &field.missing {
            println!("  {:15} {why}", kind.name());
        }
        outcomes.push(in_round);
    }
    for contestant in &field.contestants {
        println!(
            "durable at ack, {}: {}",
            contestant.name(),
            contestant.durability()
        );
    }
    summarize(field, &outcomes, loader, report);
    Ok(kept)
}

async fn measure(contestant: &Contestant, data: &Data, folder: &Path) -> Result<Outcome> {
    let server = contestant.start(folder).await?;
    let warm = data.batches.len().min(WARM_UP_BATCHES);
    if let Server::Peer(peer) = &server {
        peer.warm_up(&data.batches[..warm]).await?;
    }
    let (pid, rows) = (server.pid(), data.rows);
    let disk_before = contestant.disk_bytes(folder)?;
    let cpu_before = process::cpu_seconds(pid)?;
    let began = Instant::now();
    let load = loader::load(&[server.target()], &data.batches, loader::WRITERS).await?;
    server.show().await?;
    let seen = wait::until("every row is seen", SEEN_WITHIN, || {
        let asked = (began.elapsed(), process::cpu_seconds(pid));
        let server = &server;
        async move {
            match server.rows(data.span).await? {
                seen if seen == rows => Ok(asked),
                seen => bail!("{seen} of {rows} rows are seen"),
            }
        }
    });
    let (seen, cpu_seen) = seen.await?;
    let memory_seen = process::memory_peak_bytes(pid)?;
    let disk_seen = contestant.disk_bytes(folder)?;
    let values = server.values(data.span).await?;
    if values != rows * FIELDS.len() as u64 {
        bail!("{values} values are seen, written were {rows} rows of ten");
    }
    let cpu_counted = process::cpu_seconds(pid)?;
    let ended = end(server).await?;
    let cpu_seen = cpu_seen? - cpu_before;
    Ok(Outcome {
        rows,
        load,
        seen,
        cpu_seen,
        cpu_ended: cpu_seen + ended.cpu_seconds - cpu_counted,
        memory_peak_bytes: match contestant {
            // The flush at the end is part of the bound that ours must keep.
            Contestant::Ours(_) => memory_seen.max(ended.memory_peak_bytes),
            Contestant::Peer(..) => memory_seen,
        },
        disk_seen_bytes: disk_seen.saturating_sub(disk_before),
        disk_ended_bytes: contestant.disk_bytes(folder)?.saturating_sub(disk_before),
    })
}

async fn end(server: Server) -> Result<Ended> {
    let ended = measure::end(server.pid(), END_WITHIN).await?;
    if let Server::Ours(mut node) = server {
        let status = node.exited(END_WITHIN).await?;
        if !status.success() {
            bail!("the node ended with {status}\n{}", node.log_tail());
        }
    }
    Ok(ended)
}

/// Medians of the ratios within each round, printed and reported.
fn summarize(field: &Field, outcomes: &[Vec<Option<Outcome>>], loader: f64, report: &mut Report) {
    let mut ratios = Map::new();
    let mut line = Vec::new();
    for (at, contestant) in field.contestants.iter().enumerate().skip(1) {
        let pairs: Vec<_> = outcomes
            .iter()
            .filter_map(|round| Some((round[0].as_ref()?.figures(), round[at].as_ref()?.figures())))
            .collect();
        if pairs.is_empty() {
            line.push(format!("{} void", contestant.name()));
            continue;
        }
        let of = |figure: usize| {
            let ratios = pairs
                .iter()
                .map(|(ours, theirs)| ours[figure] / theirs[figure]);
            ratios.collect::<Vec<f64>>()
        };
        let mut figures = Map::new();
        for (figure, name) in FIGURES.iter().enumerate() {
            let rounds = of(figure);
            let median = measure::median(rounds.clone());
            figures.insert(
                (*name).to_owned(),
                json!({ "rounds": rounds, "median": median }),
            );
        }
        let shown = |name: &str| figures[name]["median"].as_f64().unwrap_or_default();
        println!(
            "AuxoDB / {}, medians of {}: rows/cpu-s {:.2}, to the end {:.2}, rows/s {:.2}, ack p99 {:.2}, memory {:.2}, disk at the end {:.2}",
            contestant.name(),
            pairs.len(),
            shown("rows_per_cpu_s"),
            shown("rows_per_cpu_s_ended"),
            shown("rows_per_s"),
            shown("ack_p99_ms"),
            shown("memory_peak_mib"),
            shown("disk_bytes_per_row_ended"),
        );
        let target = match line.is_empty() {
            true => " per CPU-second (target >= 1.0)",
            false => "",
        };
        line.push(format!(
            "{:.2}x {}{target}, {:.2}x until all is in files",
            shown("rows_per_cpu_s"),
            contestant.name(),
            shown("rows_per_cpu_s_ended"),
        ));
        ratios.insert(contestant.name().to_owned(), figures.into());
    }
    for (kind, why) in &field.missing {
        line.push(format!("{} {why}", kind.name()));
    }
    let ours = outcomes.iter().filter_map(|round| round[0].as_ref());
    let memory_mib = ours.map(|ours| ours.memory_peak_bytes >> 20).max();
    let memory_mib = memory_mib.unwrap_or_default();
    line.push(format!(
        "peak memory {memory_mib} MiB (target <= {MEMORY_MIB_MAX})"
    ));
    let rounds: Vec<Value> = outcomes
        .iter()
        .map(|round| {
            let named = field.contestants.iter().zip(round);
            let named = named.map(|(who, outcome)| {
                let report = outcome.as_ref().map_or(Value::Null, Outcome::report);
                (who.name().to_owned(), report)
            });
            Value::Object(named.collect())
        })
        .collect();
    report.add(
        "ingest",
        json!({
            "writers": loader::WRITERS, "loader_rows_per_s_max": loader, "rounds": rounds,
            "ratios": ratios, "memory_peak_mib": memory_mib,
        }),
    );
    report.line(format!("ingest: {}", line.join(", ")));
}
