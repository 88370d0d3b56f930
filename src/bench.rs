//! `auxo bench`: how fast a node takes rows and answers, measured from outside.
//!
//! Rooms: [`generate`] (data), [`ingest`] and [`query`] (the two measurements), [`queries`] (what is
//! asked), [`histogram`]. A report is one JSON object on the standard output; the same arguments
//! write and ask the same. Never here: a judgement. A number without its machine, data and spread
//! says nothing.

mod generate;
mod histogram;
mod ingest;
mod queries;
mod query;

use std::fs::File;
use std::io::{self, BufWriter, Write as _};
use std::path::PathBuf;

use auxo_client::Client;
use clap::{Args, Subcommand};

use crate::exit::{Exit, usage};
use crate::flags::{Assigned, ConnectionArgs};
use crate::output::{Output, notice};

#[derive(Debug, Args)]
pub(crate) struct BenchArgs {
    #[command(subcommand)]
    command: BenchCommand,
    #[command(flatten)]
    connection: ConnectionArgs,
}

#[derive(Debug, Subcommand)]
enum BenchCommand {
    /// Make data: the same bytes for the same options
    Gen(GenArgs),
    /// Write line protocol at a rate, or as fast as it is acknowledged
    Ingest(ingest::IngestArgs),
    /// Ask the fifteen kinds of query of a monitoring benchmark
    Query(query::QueryArgs),
}

#[derive(Debug, Args)]
struct GenArgs {
    #[command(flatten)]
    options: generate::GenerateOptions,
    /// File to write instead of the standard output
    #[arg(long, value_name = "FILE")]
    out: Option<PathBuf>,
}

impl BenchArgs {
    /// The flags that are keys of the configuration.
    pub(crate) fn assignments(&self) -> Vec<Assigned> {
        self.connection.assignments()
    }
}

/// Runs the subcommand.
pub(crate) async fn run(args: &BenchArgs, client: &Client, quiet: bool) -> anyhow::Result<Exit> {
    match &args.command {
        BenchCommand::Gen(args) => tokio::task::block_in_place(|| generate_to(args, quiet)),
        BenchCommand::Ingest(args) => ingest::run(args, client, quiet).await,
        BenchCommand::Query(args) => query::run(args, client, quiet).await,
    }
}

fn generate_to(args: &GenArgs, quiet: bool) -> anyhow::Result<Exit> {
    let made = match &args.out {
        None => {
            let mut output = Output::stdout();
            let made = generate::generate(&args.options, &mut output);
            output.finish()?;
            made
        }
        Some(path) => {
            let shown = path.display();
            let file = File::create(path).map_err(|error| usage(format!("{shown}: {error}")))?;
            let mut file = BufWriter::with_capacity(1 << 20, file);
            let made = generate::generate(&args.options, &mut file);
            file.flush()?;
            made
        }
    };
    let made = made.map_err(|error| match error.kind() {
        io::ErrorKind::InvalidInput => usage(error.to_string()),
        _ => error.into(),
    })?;
    if !quiet {
        notice(format_args!(
            "{} rows, {} of them late, {} values, {} bytes",
            made.rows, made.late_rows, made.values, made.bytes
        ));
    }
    Ok(Exit::Done)
}

/// Milliseconds with three places, for reports.
fn milliseconds(microseconds: f64) -> f64 {
    microseconds.round() / 1e3
}
