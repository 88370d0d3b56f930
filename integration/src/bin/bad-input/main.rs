//! Sends a real node what nobody should send, and holds it to what it promises to answer.
//!
//! One table: request → status, code, words, rows. First against one running node, which has to stay
//! up throughout; then whole processes with a bad configuration, a bad place or damaged files. Every
//! row is printed with `ok` or `FAILED`, what was asked, the status it was answered with (or how the
//! process ended), and the code or a note.
//!
//! Ends with `bad-input: N of N as promised`.

#![allow(clippy::print_stdout, reason = "a program that reports")]

mod case;
mod damage;
mod lines;
mod places;
mod statements;

use std::path::PathBuf;
use std::process::{ExitCode, ExitStatus};
use std::time::Duration;

use anyhow::{Result, ensure};
use clap::Parser;
use integration::standalone::Setup;
use integration::{binary, disk};

/// Sends bad input to a node of its own.
#[derive(Debug, Parser)]
struct Arguments {
    /// The binary under test; built if not given.
    #[arg(long)]
    auxo: Option<PathBuf>,
    /// Rows to run: requests, places, damage; all unless given.
    #[arg(long)]
    only: Option<String>,
}

/// What became of the rows so far.
#[derive(Debug, Default)]
struct Report {
    kept: usize,
    broken: usize,
}

/// What a row was answered with.
#[derive(Debug)]
struct Seen {
    /// HTTP status, or how the process ended.
    status: String,
    /// Code of the failure, or what was counted.
    note: String,
}

impl Seen {
    fn ended(status: ExitStatus, note: impl Into<String>) -> Self {
        let status = match status.code() {
            Some(code) => format!("exit {code}"),
            None => status.to_string(),
        };
        Self {
            status,
            note: note.into(),
        }
    }
}

impl Report {
    fn row(&mut self, name: &str, result: Result<Seen>) {
        match &result {
            Ok(Seen { status, note }) => println!("ok      {name:66} {status:>8}  {note}"),
            Err(error) => println!("FAILED  {name}: {error:#}"),
        }
        match result {
            Ok(_) => self.kept += 1,
            Err(_) => self.broken += 1,
        }
    }
}

#[tokio::main]
async fn main() -> Result<ExitCode> {
    let arguments = Arguments::parse();
    let auxo = binary::auxo(arguments.auxo.as_deref())?;
    let wanted = |part: &str| arguments.only.as_deref().is_none_or(|only| only == part);
    let mut report = Report::default();
    if wanted("requests") {
        requests(&auxo, &mut report).await?;
    }
    if wanted("places") {
        places::run(&auxo, &mut report).await?;
    }
    if wanted("damage") {
        damage::run(&auxo, &mut report).await?;
    }
    ensure!(report.kept + report.broken > 0, "no part is called so");
    let all = report.kept + report.broken;
    println!("bad-input: {} of {all} as promised", report.kept);
    Ok(ExitCode::from(u8::from(report.broken > 0)))
}

/// Every request against one node.
async fn requests(auxo: &std::path::Path, report: &mut Report) -> Result<()> {
    let folder = disk::folder("bad-input")?;
    let mut setup = Setup::new(auxo, folder.path());
    let memory = statements::STATEMENT_MEMORY;
    setup.config = format!("[limits]\nline_bytes = \"6MiB\"\nstatement_memory = \"{memory}\"\n");
    let mut node = setup.start().await?;
    for case in lines::cases()?.into_iter().chain(statements::cases()) {
        let name = case.name.clone();
        report.row(&name, case.check(&node.http).await);
    }
    let ended = async {
        let status = node.terminate(Duration::from_secs(30)).await?;
        ensure!(status.success(), "it ended with {status}");
        let log = node.log();
        ensure!(
            !log.contains("panicked"),
            "something panicked:\n{}",
            node.log_tail()
        );
        Ok(Seen::ended(status, ""))
    };
    report.row(
        "after all that the node ends in peace, without a panic",
        ended.await,
    );
    Ok(())
}
