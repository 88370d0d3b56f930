//! The suite of meta over both etcds: the embedded one, and a real one as its makers build it.
//!
//! Each case gets an etcd of its own. Prints a line for each case and engine, and at the end
//! `meta-suite: embedded N passed, etcd N passed, F failed`.

#![allow(
    clippy::print_stdout,
    reason = "the report is what this program is for"
)]

use std::process::ExitCode;

use anyhow::Result;
use auxo_meta_service::conformance::{self, Engine};
use clap::{Parser, ValueEnum};

use embedded::Embedded;
use real::Real;

// The engine that the suite runs over beside meta's code.
#[path = "../../../../meta-service/tests/suite/embedded.rs"]
mod embedded;
mod real;

/// Runs the suite of meta.
#[derive(Debug, Parser)]
struct Arguments {
    /// Only cases whose name holds this text.
    filter: Option<String>,
    /// Only this engine.
    #[arg(long)]
    engine: Option<Only>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Only {
    Embedded,
    Etcd,
}

#[tokio::main]
async fn main() -> Result<ExitCode> {
    let arguments = Arguments::parse();
    let engines = [
        (Only::Embedded, &Embedded as &dyn Engine),
        (Only::Etcd, &Real),
    ];
    let asked = |only: &Only| arguments.engine.is_none_or(|engine| engine == *only);
    let (mut summaries, mut failed) = (Vec::new(), 0);
    for (_, engine) in engines.into_iter().filter(|(only, _)| asked(only)) {
        let (name, mut passed) = (engine.name(), 0);
        for case in conformance::cases() {
            let filter = arguments.filter.as_ref();
            if filter.is_none_or(|part| case.name.contains(part)) {
                let outcome = conformance::run(engine, &case).await;
                println!("{name} {outcome}");
                match outcome.failed {
                    None => passed += 1,
                    Some(_) => failed += 1,
                }
            }
        }
        summaries.push(format!("{name} {passed} passed"));
    }
    println!("meta-suite: {}, {failed} failed", summaries.join(", "));
    Ok(ExitCode::from(u8::from(failed > 0)))
}
