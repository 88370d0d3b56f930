//! Kills nodes at random moments under load and reads every acknowledged row back.
//!
//! Writers send small batches, each sent again until it is acked ([`integration::load`]). Flushes and
//! compactions are forced often, so that kills fall into them. After each round every writer's numbers
//! must be there exactly once, and the rows that are overwritten and deleted beside them as the last acked
//! change left them.
//!
//! Rooms: [`single`] (one process, and losses of power of its disk), [`cluster`] (three compute nodes,
//! meta, three brokers).
//!
//! Ends with `lost=0 doubled=0 rounds=N`.

#![allow(clippy::print_stdout, reason = "a program that reports")]

mod cluster;
mod single;

use std::path::PathBuf;

use anyhow::{Result, bail};
use clap::Parser;

/// Kills nodes again and again.
#[derive(Debug, Parser)]
struct Arguments {
    /// One process with everything in it; without it a cluster of three compute nodes on three brokers.
    #[arg(long)]
    standalone: bool,
    /// How often something is killed.
    #[arg(long, default_value_t = 50)]
    rounds: u32,
    /// With --standalone: losses of power, each at another moment of one recording; 0 for none.
    #[arg(long, default_value_t = 200)]
    images: u64,
    /// The binary under test; built if not given.
    #[arg(long)]
    auxo: Option<PathBuf>,
    /// Writers at once.
    #[arg(long, default_value_t = 4)]
    writers: u64,
    /// Seed of the moments, and of what is killed.
    #[arg(long, default_value_t = 1)]
    seed: u64,
}

#[tokio::main]
async fn main() -> Result<()> {
    let arguments = Arguments::parse();
    let verdict = match arguments.standalone {
        true => single::run(&arguments).await?,
        false => cluster::run(&arguments).await?,
    };
    let (lost, doubled) = (verdict.lost, verdict.doubled);
    for row in &verdict.named {
        println!("{row}");
    }
    println!("lost={lost} doubled={doubled} rounds={}", arguments.rounds);
    match (lost, doubled) {
        (0, 0) => Ok(()),
        _ => bail!("rows are missing or stand twice"),
    }
}
