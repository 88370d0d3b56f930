//! Speed and memory of one node or a cluster, as ratios to its peers or to a physical limit in the same run.
//!
//! Rooms: [`data`] (the rows), [`loader`] (sends them; [`sink`] shows what it can do), [`servers`]
//! (ours and the peers behind one face), [`ingest`], [`footprint`], [`queries`] (with [`sides`], who
//! is asked) and [`restart`] (the parts), [`cluster`] (a cluster beside one process), [`measure`] and
//! [`report`]. What is measured and how is in `docs/benchmarks.md`.
//!
//! Never here: a figure without its peer and its machine, or a failure because a machine is slow.

#![allow(
    clippy::print_stdout,
    reason = "the report is what this program is for"
)]

mod cluster;
mod data;
mod footprint;
mod ingest;
mod loader;
mod measure;
mod queries;
mod report;
mod restart;
mod servers;
mod sides;
mod sink;

use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use clap::{Parser, ValueEnum};
use integration::peers::Kind;
use integration::peers::duckdb::DuckDb;
use integration::{binary, disk};
use serde_json::json;
use tempfile::TempDir;

use crate::data::Data;
use crate::report::Report;
use crate::servers::{Contestant, Field, Server};
use crate::sides::Side;

/// Measures a node beside its peers.
#[derive(Debug, Parser)]
struct Arguments {
    /// What runs.
    #[arg(value_enum)]
    shape: Shape,
    /// The binary under test; built if not given.
    #[arg(long)]
    auxo: Option<PathBuf>,
    /// Parts to run; all unless given. A cluster has ingest and queries.
    #[arg(long, value_enum, value_delimiter = ',')]
    only: Vec<Part>,
    /// Peers to load or to ask beside ours; fetched at the first use on a machine.
    #[arg(long, value_enum, value_delimiter = ',', default_values = ["vm", "questdb", "duckdb"])]
    peers: Vec<PeerName>,
    /// Hosts in the data.
    #[arg(long, default_value_t = 400, value_parser = clap::value_parser!(u32).range(1..))]
    hosts: u32,
    /// Hours of data.
    #[arg(long, default_value_t = 24, value_parser = clap::value_parser!(u32).range(1..=720))]
    hours: u32,
    /// Rounds of the ingest.
    #[arg(long, default_value_t = 3)]
    rounds: usize,
    /// Rounds of each query; the first is dropped.
    #[arg(long, default_value_t = 6)]
    query_rounds: usize,
    /// Log in no file when the node is killed, in MiB.
    #[arg(long, default_value_t = 1_024)]
    log_mib: u64,
    /// File for the report as JSON.
    #[arg(long)]
    json: Option<PathBuf>,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum Shape {
    /// One process with everything in it.
    Standalone,
    /// Three compute nodes on three brokers and a bucket, beside one process.
    Cluster,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Part {
    Ingest,
    Disk,
    Queries,
    Restart,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum PeerName {
    None,
    Vm,
    Questdb,
    Duckdb,
}

impl PeerName {
    /// The server that rows are loaded into, if it is one.
    fn kind(self) -> Option<Kind> {
        match self {
            Self::None | Self::Duckdb => None,
            Self::Vm => Some(Kind::VictoriaMetrics),
            Self::Questdb => Some(Kind::QuestDb),
        }
    }
}

impl Arguments {
    fn wants(&self, part: Part) -> bool {
        self.only.is_empty() || self.only.contains(&part)
    }
}

#[tokio::main]
async fn main() -> Result<()> {
    let arguments = Arguments::parse();
    let binary = binary::auxo(arguments.auxo.as_deref())?;
    let mut report = Report::default();
    let machine = measure::machine()?;
    let version = measure::version(&binary, "--version");
    println!("{version}; {machine}");
    let shape = arguments.shape.to_possible_value();
    let shape = shape.map(|shape| shape.get_name().to_owned());
    report.add("shape", json!(shape));
    report.add("auxo", version.into());
    report.add("machine", machine);
    // What was measured before a part fails is still shown and written.
    let ran = match arguments.shape {
        Shape::Standalone => standalone(&arguments, &binary, &mut report).await,
        Shape::Cluster => cluster::run(&arguments, &binary, &mut report).await,
    };
    if let Err(error) = &ran {
        report.void(format!("{error:#}"));
    }
    report.add(
        "load_average_at_end",
        json!(integration::process::load_average()?),
    );
    let report = report.finish();
    if let Some(path) = &arguments.json {
        let text = serde_json::to_string_pretty(&report)?;
        std::fs::write(path, text).with_context(|| path.display().to_string())?;
    }
    ran
}

async fn standalone(arguments: &Arguments, binary: &Path, report: &mut Report) -> Result<()> {
    loaded_parts(arguments, binary, report).await?;
    match arguments.wants(Part::Restart) {
        true => restart::run(binary, arguments.log_mib, report).await,
        false => Ok(()),
    }
}

/// The parts that work on the day of data.
async fn loaded_parts(arguments: &Arguments, binary: &Path, report: &mut Report) -> Result<()> {
    let wanted = [Part::Ingest, Part::Disk, Part::Queries].map(|part| arguments.wants(part));
    if wanted == [false; 3] {
        return Ok(());
    }
    let folder = disk::folder("bench-data")?;
    let data = Data::make(binary, arguments.hosts, arguments.hours, folder.path())?;
    println!("data: {}", data.report());
    report.add("data", data.report());
    let peers: Vec<Kind> = arguments
        .peers
        .iter()
        .filter_map(|peer| peer.kind())
        .collect();
    let field = Field::gather(binary, &peers);
    report.add("peers", field.report());
    let mut ended: Vec<Option<TempDir>> = field.contestants.iter().map(|_| None).collect();
    if arguments.wants(Part::Ingest) {
        ended = ingest::run(&field, &data, arguments.rounds.max(1), report).await?;
    }
    if wanted[1..] == [false; 2] {
        return Ok(());
    }
    // What is weighed and asked is what ingest left, or is loaded now.
    let (mut others, mut missing) = (Vec::new(), Vec::new());
    for (contestant, folder) in field.contestants.iter().zip(&mut ended) {
        let ours = matches!(contestant, Contestant::Ours(_));
        let asked = arguments.wants(Part::Queries) && contestant.has_sql();
        if folder.is_none() && (ours || asked) {
            match ingest::load_one(contestant, &data).await {
                Ok(loaded) => *folder = Some(loaded),
                Err(error) if ours => return Err(error),
                Err(error) => missing.push((contestant.name(), format!("not loaded: {error:#}"))),
            }
        }
    }
    let ours = ended[0].as_ref().context("ours is loaded")?;
    if arguments.wants(Part::Disk) {
        footprint::run(binary, ours.path(), &data, report)?;
    }
    drop(data);
    if !arguments.wants(Part::Queries) {
        return Ok(());
    }
    if arguments.peers.contains(&PeerName::Duckdb) {
        let csv = folder.path().join("data.csv");
        data::generate(binary, arguments.hosts, arguments.hours, "csv", &csv)?;
        match DuckDb::start(&csv) {
            Ok(duckdb) => others.push(Side::DuckDb(duckdb)),
            Err(error) => missing.push(("DuckDB", format!("not run: {error:#}"))),
        }
    }
    for (contestant, folder) in field.contestants.iter().zip(&ended) {
        if let (true, Some(folder)) = (contestant.has_sql(), folder)
            && let Server::Peer(peer) = contestant.start(folder.path()).await?
        {
            others.push(Side::QuestDb(peer));
        }
    }
    let without = field
        .missing
        .iter()
        .map(|(kind, why)| (kind.name(), why.clone()));
    missing.extend(without.filter(|(name, _)| *name == Kind::QuestDb.name()));
    let rounds = arguments.query_rounds;
    queries::run(binary, ours.path(), others, &missing, rounds, report).await
}
