//! Stops leaders, lets others take over, wakes them, and reads every acknowledged row back; what a round
//! is stands in [`integration::zombie`].
//!
//! Ends with `lost=0 doubled=0 rounds=N`. With `--unfenced` the nodes run without the fence, rows must be
//! lost, and it ends with `lost=N doubled=M rounds=R, as it must be without the fence`.

#![allow(clippy::print_stdout, reason = "a program that reports")]

use std::path::PathBuf;

use anyhow::{Result, bail};
use clap::Parser;
use integration::binary;
use integration::load::Verdict;
use integration::zombie::{Wake, Zombies};

/// Stops leaders and wakes them once others lead.
#[derive(Debug, Parser)]
struct Arguments {
    /// How often a leader is stopped and woken.
    #[arg(long, default_value_t = 20)]
    rounds: u32,
    /// The binary under test; built if not given.
    #[arg(long)]
    auxo: Option<PathBuf>,
    /// Nodes without the fence: rows must be lost, and it is a failure if none are.
    ///
    /// The binary is built with the feature `unfenced` of `auxo-engine`, into a folder of its own below
    /// the target directory; one that --auxo names must have been built with it. The rounds end with the
    /// first one that lost a row.
    #[arg(long)]
    unfenced: bool,
    /// Wake it as soon as others lead, while their claims are still in the logs; without it they have
    /// cut the logs behind them.
    #[arg(long)]
    early: bool,
    /// Seed of the moments, and of who is stopped.
    #[arg(long, default_value_t = 1)]
    seed: u64,
}

#[tokio::main]
async fn main() -> Result<()> {
    let arguments = Arguments::parse();
    let given = arguments.auxo.as_deref();
    let auxo = match arguments.unfenced {
        true => binary::unfenced(given)?,
        false => binary::auxo(given)?,
    };
    let wake = match arguments.early {
        true => Wake::TakenOver,
        false => Wake::Cut,
    };
    let mut zombies = Zombies::start(&auxo, wake, arguments.seed).await?;
    let (mut verdict, mut broken, mut late, mut rounds) = (Verdict::default(), 0, 0, 0);
    let mut failed = None;
    while rounds < arguments.rounds && !(arguments.unfenced && verdict.lost > 0) {
        let round = match zombies.round().await {
            Ok(round) => round,
            Err(error) => {
                failed = Some(error);
                break;
            }
        };
        println!("{round}");
        for what in &round.broken {
            println!("  {what}");
        }
        rounds += 1;
        broken += round.broken.len();
        late += round.late;
        verdict = round.verdict;
    }
    let (lost, doubled) = (verdict.lost, verdict.doubled);
    let right = lost == 0 && doubled == 0 && broken == 0;
    let keep = failed.is_some() || !(right || arguments.unfenced);
    match zombies.end(keep).await {
        Ok(places) => {
            for place in places {
                println!("files are kept in {place}");
            }
        }
        Err(error) => failed = failed.or(Some(error)),
    }
    for row in &verdict.named {
        println!("{row}");
    }
    let counts = format!("lost={lost} doubled={doubled} rounds={rounds}");
    match arguments.unfenced && lost > 0 {
        true => println!("{counts}, as it must be without the fence"),
        false => println!("{counts}"),
    }
    if let Some(error) = failed {
        return Err(error);
    }
    match (arguments.unfenced, right) {
        (true, _) if lost == 0 => {
            bail!("nothing was lost without the fence: the check shows nothing")
        }
        (false, false) => {
            bail!("rows are missing or stand twice, or {broken} answers were not true")
        }
        _ if late == 0 => bail!("no woken node appended anything: the rounds show nothing"),
        _ => Ok(()),
    }
}
