//! The main job end to end: the benchmark's day of data through line protocol, its fifteen queries
//! compared row by row with DuckDB on the same data, a restart, and compared again.
//!
//! `standalone` is one process. `cluster` is three compute nodes, a meta node, three brokers of Kafka
//! and a bucket: rows and queries go to all nodes in turn, and everything is restarted.
//!
//! Ends with `main-job: N rows, 15/15 equal before restart, 15/15 after`. Where that is not so, the
//! files and logs of everything stay, and their places are printed.
//!
//! Rooms: this file (arguments, the verdict), `data` (made and loaded), `oracle` (answers compared),
//! `single` and `cluster` (the two shapes), `census` (what a cluster holds, and where).

#![allow(
    clippy::print_stdout,
    reason = "the report is what this program is for"
)]

use std::path::{Path, PathBuf};

use anyhow::{Result, bail};
use clap::{Parser, ValueEnum};
use integration::{binary, disk};

use data::Data;
use oracle::Oracle;

mod census;
mod cluster;
mod data;
mod oracle;
mod single;

/// Compares a day of data with DuckDB.
#[derive(Debug, Parser)]
struct Arguments {
    /// What runs.
    #[arg(value_enum)]
    shape: Shape,
    /// The binary under test; built if not given.
    #[arg(long)]
    auxo: Option<PathBuf>,
    /// Hosts in the data.
    #[arg(long, default_value_t = 400)]
    hosts: u32,
    /// Hours of data.
    #[arg(long, default_value_t = 24)]
    hours: u32,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum Shape {
    /// One process with everything in it.
    Standalone,
    /// Three compute nodes on Kafka and S3.
    Cluster,
}

/// How many of the fifteen answers were equal.
struct Equal {
    before: usize,
    after: usize,
}

#[tokio::main]
async fn main() -> Result<()> {
    let arguments = Arguments::parse();
    let folder = disk::folder("main-job")?;
    let ran = run(&arguments, folder.path()).await;
    if ran.is_err() {
        println!("data and logs are kept in {}", folder.keep().display());
    }
    ran
}

async fn run(arguments: &Arguments, folder: &Path) -> Result<()> {
    let binary = binary::auxo(arguments.auxo.as_deref())?;
    let data = Data::make(&binary, folder, arguments.hosts, arguments.hours)?;
    let oracle = Oracle::ask(&data)?;
    let equal = match arguments.shape {
        Shape::Standalone => single::run(&binary, folder, &data, &oracle).await?,
        Shape::Cluster => cluster::run(&binary, folder, &data, &oracle).await?,
    };
    let (rows, Equal { before, after }) = (data.rows, equal);
    println!("main-job: {rows} rows, {before}/15 equal before restart, {after}/15 after");
    match (before, after) {
        (15, 15) => Ok(()),
        _ => bail!("answers differ"),
    }
}
