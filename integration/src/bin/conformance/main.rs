//! The suite of the write-ahead log over every adapter: 38 cases each, at full scale.
//!
//! `memory` and `local` run in this process; `kafka` on a real broker, and as `kafka-3` those cases
//! once more on three that are about copies, with a row of its own for the loss of the leading one.
//! Kafka is left out only with `--without-kafka`.
//!
//! Ends with `conformance: ADAPTER P passed, N not applicable, F failed; …`. A case that cannot
//! apply to an adapter says why in its row. Run with `child …` this program is the writer that the
//! suite kills.

#![allow(
    clippy::print_stdout,
    reason = "the report is what this program is for"
)]

use std::process::ExitCode;
use std::time::Duration;

use anyhow::Result;
use auxo_wal_adapters::conformance::subjects::{Local, Memory};
use auxo_wal_adapters::conformance::{self, Adapter, Case, Ended, Scale, child};
use clap::Parser;
use integration::disk;

use kafka::KafkaAdapter;

mod kafka;
mod leader;
mod segment;

/// Cases on three brokers: those in which a copy, or the number of them, makes a difference.
const COPIES: [u8; 10] = [1, 3, 4, 7, 8, 10, 19, 26, 27, 34];

/// What is shown besides the suite.
const LEADER: &str = "kafka-3 the leading broker is killed, and hangs, under load";

/// Runs the suite of the write-ahead log.
#[derive(Debug, Parser)]
struct Arguments {
    /// Only cases whose "adapter number name" holds this text.
    filter: Option<String>,
    /// Seed of the random cases.
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Leaves Kafka out, which needs Java and, once a machine, Maven.
    #[arg(long)]
    without_kafka: bool,
    /// Seconds that the service stays away in case 27.
    #[arg(long, default_value_t = 60)]
    away_s: u64,
    /// Idle regions in case 29 on Kafka, each of which is a topic; elsewhere 10,000.
    #[arg(long, default_value_t = 500)]
    idle_topics: u32,
    /// How often the leading one of three brokers is killed under load.
    #[arg(long, default_value_t = 3)]
    leader_kills: u32,
}

/// Runs one adapter and prints its rows; its part of the last line, and how many failed.
async fn run(
    adapter: &dyn Adapter,
    scale: &Scale,
    arguments: &Arguments,
    wanted: impl Fn(&Case) -> bool,
) -> (String, usize) {
    let name = adapter.name();
    let mut outcomes = Vec::new();
    for case in conformance::cases().iter().filter(|case| wanted(case)) {
        let shown = format!("{name} {} {}", case.number, case.name);
        let asked = arguments.filter.as_ref();
        if asked.is_none_or(|filter| shown.contains(filter)) {
            let ran = conformance::run(adapter, scale, |one| one.number == case.number).await;
            for outcome in &ran {
                println!("{name} {outcome}");
            }
            outcomes.extend(ran);
        }
    }
    let count = |is: fn(&Ended) -> bool| outcomes.iter().filter(|o| is(&o.ended)).count();
    let passed = count(|ended| *ended == Ended::Passed);
    let not_applicable = count(|ended| matches!(ended, Ended::NotApplicable(_)));
    let failed = count(|ended| matches!(ended, Ended::Failed(_)));
    let summary =
        format!("{name} {passed} passed, {not_applicable} not applicable, {failed} failed");
    (summary, failed)
}

#[tokio::main]
async fn main() -> Result<ExitCode> {
    let words: Vec<String> = std::env::args().skip(1).collect();
    if let [first, child @ ..] = words.as_slice()
        && first == "child"
    {
        let ended = child::child_main(child).await;
        return Ok(ExitCode::from(u8::from(ended.is_err())));
    }
    let arguments = Arguments::parse();
    let folder = disk::folder("conformance")?;
    let program = std::env::current_exe()?;
    let child = vec![program.to_string_lossy().into_owned(), "child".to_owned()];
    let local = Local {
        root: folder.path().to_owned(),
        child: child.clone(),
    };
    let scale = Scale {
        seed: arguments.seed,
        images: 200,
        kills: 20,
        operations: 10_000,
        idle_regions: 10_000,
        away: Duration::from_secs(arguments.away_s),
        ..Scale::default()
    };
    let mut summaries = Vec::new();
    let mut failures = 0;
    for adapter in [&Memory as &dyn Adapter, &local] {
        let (summary, failed) = run(adapter, &scale, &arguments, |_| true).await;
        summaries.push(summary);
        failures += failed;
    }
    let nodes = match arguments.without_kafka {
        true => Vec::new(),
        false => vec![1, 3],
    };
    if !nodes.is_empty() {
        let scale = Scale {
            idle_regions: arguments.idle_topics,
            deadline: Duration::from_secs(300),
            ..scale
        };
        for nodes in nodes {
            let kafka = KafkaAdapter::start(nodes, child.clone()).await?;
            let wanted = |case: &Case| nodes == 1 || COPIES.contains(&case.number);
            if nodes == 1 {
                // The name of the case promises more, and each region here is a topic.
                let idle = scale.idle_regions;
                println!("{}: case 29 with {idle} idle regions", kafka.name());
            }
            let (summary, failed) = run(&kafka, &scale, &arguments, wanted).await;
            summaries.push(summary);
            failures += failed;
            if failed > 0 {
                println!("files of Kafka are kept in {}", kafka.keep_files().await);
            }
            if nodes == 3
                && arguments
                    .filter
                    .as_ref()
                    .is_none_or(|filter| LEADER.contains(filter))
            {
                let seen = leader::killed(&kafka, arguments.leader_kills).await?;
                println!("{LEADER}: {seen}");
                failures += usize::from(!seen.whole());
            }
        }
    }
    println!("conformance: {}", summaries.join("; "));
    Ok(ExitCode::from(u8::from(failures > 0)))
}
