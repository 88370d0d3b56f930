//! Brings the real servers that tests run on to this machine, and runs one by hand.
//!
//! ```text
//! servers install             everything into the cache, with a line for each
//! servers run kafka --nodes 3 prints where it listens; ends with SIGINT or when its input closes
//! ```

#![allow(clippy::print_stdout, reason = "a program that reports")]

use anyhow::Result;
use clap::{Parser, Subcommand, ValueEnum};
use integration::servers::KAFKA;
use integration::servers::kafka::{self, Setup};
use tokio::io::AsyncReadExt;
use tokio::time::Instant;

/// Real servers for tests.
#[derive(Debug, Parser)]
struct Arguments {
    #[command(subcommand)]
    action: Action,
}

#[derive(Debug, Subcommand)]
enum Action {
    /// Fetches what is missing into the cache.
    Install,
    /// Starts a server and runs it until its input closes or it is interrupted.
    Run {
        server: Server,
        /// Brokers: 1 or 3.
        #[arg(long, default_value_t = 1)]
        nodes: u16,
    },
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum Server {
    Kafka,
}

#[tokio::main]
async fn main() -> Result<()> {
    match Arguments::parse().action {
        Action::Install => {
            let began = Instant::now();
            kafka::install().await?;
            println!(
                "Apache Kafka {KAFKA} is installed ({:.1?})",
                began.elapsed()
            );
            Ok(())
        }
        Action::Run {
            server: Server::Kafka,
            nodes,
        } => {
            let began = Instant::now();
            let mut kafka = Setup::new(nodes).start().await?;
            println!("{}", kafka.bootstrap());
            eprintln!("ready after {:.1?}", began.elapsed());
            let mut input = tokio::io::stdin();
            let mut ignored = [0; 256];
            let closed =
                async { while !matches!(input.read(&mut ignored).await, Ok(0) | Err(_)) {} };
            tokio::select! {
                () = closed => {}
                interrupted = tokio::signal::ctrl_c() => interrupted?,
            }
            kafka.stop().await
        }
    }
}
