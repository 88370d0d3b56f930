//! The suite of the write-ahead log over every adapter: 38 cases each, at full scale.
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
use auxo_wal_adapters::conformance::{self, Adapter, Ended, Scale, child};
use clap::Parser;
use integration::disk;

/// Runs the suite of the write-ahead log.
#[derive(Debug, Parser)]
struct Arguments {
    /// Only cases whose "adapter number name" holds this text.
    filter: Option<String>,
    /// Seed of the random cases.
    #[arg(long, default_value_t = 1)]
    seed: u64,
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
    let local = Local {
        root: folder.path().to_owned(),
        child: vec![program.to_string_lossy().into_owned(), "child".to_owned()],
    };
    let scale = Scale {
        seed: arguments.seed,
        images: 200,
        kills: 20,
        operations: 10_000,
        idle_regions: 10_000,
        away: Duration::from_secs(60),
        ..Scale::default()
    };
    let mut summaries = Vec::new();
    let mut failures = 0;
    for adapter in [&Memory as &dyn Adapter, &local] {
        let name = adapter.name();
        let outcomes = conformance::run(adapter, &scale, |case| {
            let shown = format!("{name} {} {}", case.number, case.name);
            arguments
                .filter
                .as_ref()
                .is_none_or(|filter| shown.contains(filter))
        })
        .await;
        for outcome in &outcomes {
            println!("{name} {outcome}");
        }
        let count = |is: fn(&Ended) -> bool| outcomes.iter().filter(|o| is(&o.ended)).count();
        let passed = count(|ended| *ended == Ended::Passed);
        let not_applicable = count(|ended| matches!(ended, Ended::NotApplicable(_)));
        let failed = count(|ended| matches!(ended, Ended::Failed(_)));
        failures += failed;
        summaries.push(format!(
            "{name} {passed} passed, {not_applicable} not applicable, {failed} failed"
        ));
    }
    println!("conformance: {}", summaries.join("; "));
    Ok(ExitCode::from(u8::from(failures > 0)))
}
