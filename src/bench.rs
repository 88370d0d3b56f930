//! `auxo bench`: how fast a node takes rows and answers, measured from outside.
//!
//! Rooms: [`ingest`] and [`query`] (the two measurements), [`queries`] (what is asked),
//! [`histogram`]. A report is one JSON object on the standard output; the same arguments ask the
//! same. Never here: a judgement. A number without its machine, data and spread says nothing.

mod histogram;
mod ingest;
mod queries;
mod query;

use auxo_client::Client;
use clap::{Args, Subcommand};

use crate::exit::Exit;
use crate::flags::{Assigned, ConnectionArgs};

#[derive(Debug, Args)]
pub(crate) struct BenchArgs {
    #[command(subcommand)]
    command: BenchCommand,
    #[command(flatten)]
    connection: ConnectionArgs,
}

#[derive(Debug, Subcommand)]
enum BenchCommand {
    /// Write line protocol at a rate, or as fast as it is acknowledged
    Ingest(ingest::IngestArgs),
    /// Ask the fifteen kinds of query of a monitoring benchmark
    Query(query::QueryArgs),
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
        BenchCommand::Ingest(args) => ingest::run(args, client, quiet).await,
        BenchCommand::Query(args) => query::run(args, client, quiet).await,
    }
}

/// Milliseconds with three places, for reports.
fn milliseconds(microseconds: f64) -> f64 {
    microseconds.round() / 1e3
}
