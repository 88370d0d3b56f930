//! `auxo bench query`: each kind of query some rounds long, one after the other.
//!
//! A round is timed from the sending of the statement to the last byte of its reply. Warm rounds
//! come first and are not counted; every round, warm or not, draws its own statement.

use std::io::Write as _;
use std::time::Duration;

use auxo_client::{Answer, Client};
use auxo_proto::random::Random;
use chrono::DateTime;
use clap::Args;
use serde_json::{Value, json};
use tokio::time::Instant;

use super::milliseconds;
use super::queries::{Data, KINDS, Kind};
use crate::config::units::Period;
use crate::connection::reach;
use crate::exit::{Cancelled, Exit, usage};
use crate::interrupt::Interrupts;
use crate::output::{Output, notice};

#[derive(Debug, Args)]
pub(crate) struct QueryArgs {
    /// Only these kinds, separated by commas
    #[arg(long, value_name = "KINDS", value_delimiter = ',')]
    only: Vec<String>,
    /// Rounds of each kind that count
    #[arg(long, value_name = "N", default_value_t = 20, value_parser = clap::value_parser!(u32).range(1..))]
    rounds: u32,
    /// Rounds before those
    #[arg(long, value_name = "N", default_value_t = 3)]
    warm: u32,
    /// Chooses windows and hosts
    #[arg(long, value_name = "N", default_value_t = 123)]
    seed: u64,
    /// Table of the measurements
    #[arg(long, value_name = "NAME", default_value = "cpu")]
    table: String,
    /// Hosts in the data, host_0 and on
    #[arg(long, value_name = "N", default_value_t = 100, value_parser = clap::value_parser!(u64).range(1..))]
    hosts: u64,
    /// First time of the data
    #[arg(long, value_name = "TIME", default_value = "2026-01-01T00:00:00Z")]
    start: String,
    /// The time behind its last
    #[arg(long, value_name = "TIME", default_value = "2026-01-02T00:00:00Z")]
    end: String,
    /// How long a statement may run
    #[arg(long, value_name = "TIME", default_value = "60s")]
    timeout: Period,
}

/// Runs the measurement.
pub(super) async fn run(args: &QueryArgs, client: &Client, quiet: bool) -> anyhow::Result<Exit> {
    let data = args.data()?;
    let kinds = args.kinds()?;
    let mut interrupts = Interrupts::listen()?;
    let report = tokio::select! {
        report = measure(args, &data, &kinds, client, quiet) => report?,
        // Dropping a reply closes its connection, which cancels the statement.
        () = interrupts.next() => return Err(Cancelled { confirmed: true }.into()),
    };
    let mut output = Output::stdout();
    writeln!(output, "{report}")?;
    output.finish()?;
    Ok(Exit::Done)
}

impl QueryArgs {
    fn data(&self) -> anyhow::Result<Data> {
        let (start_ns, end_ns) = (time(&self.start)?, time(&self.end)?);
        if start_ns >= end_ns {
            return Err(usage("--end is not behind --start"));
        }
        Ok(Data {
            table: self.table.clone(),
            hosts: self.hosts,
            start_ns,
            end_ns,
        })
    }

    /// The wanted kinds with their places among all, which choose their dice.
    fn kinds(&self) -> anyhow::Result<Vec<(u64, Kind)>> {
        if let Some(unknown) = self
            .only
            .iter()
            .find(|name| KINDS.iter().all(|kind| kind.name != **name))
        {
            let names: Vec<_> = KINDS.iter().map(|kind| kind.name).collect();
            return Err(usage(format!("no kind {unknown:?}: {}", names.join(", "))));
        }
        let wanted =
            |kind: &Kind| self.only.is_empty() || self.only.iter().any(|name| name == kind.name);
        let numbered = (0..).zip(KINDS);
        Ok(numbered.filter(|(_, kind)| wanted(kind)).collect())
    }
}

fn time(text: &str) -> anyhow::Result<i64> {
    let read = DateTime::parse_from_rfc3339(text).ok();
    let ns = read.and_then(|time| time.timestamp_nanos_opt());
    ns.ok_or_else(|| usage(format!("{text:?} is not a time like 2026-01-01T00:00:00Z")))
}

async fn measure(
    args: &QueryArgs,
    data: &Data,
    kinds: &[(u64, Kind)],
    client: &Client,
    quiet: bool,
) -> anyhow::Result<Value> {
    reach(client).await?;
    let mut results = Vec::new();
    for (place, kind) in kinds {
        // Dice of its own for each kind: leaving one out changes no other.
        let random = Random::seeded(args.seed.wrapping_add(place << 32));
        let mut rounds = Rounds::default();
        for round in 0..args.warm + args.rounds {
            let sql = kind.draw(data, &random);
            let taken = ask(client, &sql, args.timeout.0, &mut rounds).await;
            let taken = taken.map_err(|error| error.context(format!("{}: {sql}", kind.name)))?;
            if round >= args.warm {
                rounds.latencies.push(taken);
            }
        }
        let result = rounds.report(kind.name);
        if !quiet {
            notice(format_args!(
                "{:24} p50 {:>10} ms  p95 {:>10} ms  {:>8} rows",
                kind.name, result["p50_ms"], result["p95_ms"], result["rows"]
            ));
        }
        results.push(result);
    }
    Ok(json!({
        "benchmark": "query",
        "url": client.url(),
        "database": client.database(),
        "table": args.table,
        "hosts": args.hosts,
        "start": args.start,
        "end": args.end,
        "seed": args.seed,
        "warm": args.warm,
        "rounds": args.rounds,
        "queries": results,
    }))
}

/// Asks once; what came back last is kept in `rounds`.
async fn ask(
    client: &Client,
    sql: &str,
    timeout: Duration,
    rounds: &mut Rounds,
) -> anyhow::Result<Duration> {
    let mut statement = client.statement(sql);
    statement.timeout = timeout;
    let began = Instant::now();
    let body = client.sql(&statement).await?.body().await?;
    let taken = began.elapsed();
    rounds.bytes = body.len();
    rounds.rows = Answer::read(&body)?.row_count();
    Ok(taken)
}

#[derive(Default)]
struct Rounds {
    latencies: Vec<Duration>,
    rows: usize,
    bytes: usize,
}

impl Rounds {
    fn report(&mut self, name: &str) -> Value {
        self.latencies.sort_unstable();
        let ms = |taken: Duration| milliseconds(taken.as_micros() as f64);
        let at = |per_cent| ms(nearest_rank(&self.latencies, per_cent));
        let sum: Duration = self.latencies.iter().sum();
        json!({
            "name": name,
            "rows": self.rows,
            "bytes": self.bytes,
            "p50_ms": at(50),
            "p95_ms": at(95),
            "min_ms": at(0),
            "max_ms": at(100),
            "mean_ms": ms(sum / self.latencies.len().max(1) as u32),
        })
    }
}

/// The value at this rank among sorted ones.
fn nearest_rank(sorted: &[Duration], per_cent: usize) -> Duration {
    let rank = (sorted.len() * per_cent).div_ceil(100).max(1);
    sorted.get(rank - 1).copied().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranks_are_those_of_the_values() {
        let sorted: Vec<_> = (1..=20).map(Duration::from_millis).collect();
        assert_eq!(nearest_rank(&sorted, 50), Duration::from_millis(10));
        assert_eq!(nearest_rank(&sorted, 95), Duration::from_millis(19));
        assert_eq!(nearest_rank(&sorted, 0), Duration::from_millis(1));
        assert_eq!(nearest_rank(&sorted, 100), Duration::from_millis(20));
        assert_eq!(nearest_rank(&[], 50), Duration::ZERO);
    }

    #[test]
    fn times_are_read() {
        assert_eq!(
            time("2026-01-01T00:00:00Z").unwrap(),
            1_767_225_600_000_000_000
        );
        assert_eq!(Exit::of(&time("yesterday").unwrap_err()), Exit::Usage);
    }
}
