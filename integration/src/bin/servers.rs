//! Brings the real servers that tests run on to this machine, and runs one by hand.
//!
//! ```text
//! servers install               everything into the cache, with a line for each
//! servers run kafka --nodes 3   prints where it listens
//! servers run s3 --bucket a     prints what a node's configuration needs
//! servers run etcd --members 3  prints what a meta node's `--etcd` takes
//! ```
//! What runs ends with SIGINT or when its input closes.

#![allow(clippy::print_stdout, reason = "a program that reports")]

use anyhow::Result;
use clap::{Parser, Subcommand};
use integration::servers::etcd::{self, Etcd};
use integration::servers::kafka::{self, Setup};
use integration::servers::s3::{self, Product};
use integration::servers::{ETCD, KAFKA};
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
    #[command(subcommand)]
    Run(Server),
}

#[derive(Clone, Debug, Subcommand)]
enum Server {
    /// Apache Kafka.
    Kafka {
        /// Brokers: 1 or 3.
        #[arg(long, default_value_t = 1)]
        nodes: u16,
    },
    /// Buckets, by versitygw.
    S3 {
        /// A bucket that is made.
        #[arg(long, default_value = "auxo")]
        bucket: String,
    },
    /// etcd.
    Etcd {
        /// Members: 1 or 3.
        #[arg(long, default_value_t = 1)]
        members: usize,
    },
}

#[tokio::main]
async fn main() -> Result<()> {
    let began = Instant::now();
    match Arguments::parse().action {
        Action::Install => {
            kafka::install().await?;
            println!(
                "Apache Kafka {KAFKA} is installed ({:.1?})",
                began.elapsed()
            );
            let mut began = Instant::now();
            for product in Product::ALL {
                product.install().await?;
                let (name, version) = (product.name(), product.version());
                println!("{name} {version} is installed ({:.1?})", began.elapsed());
                began = Instant::now();
            }
            etcd::install().await?;
            println!("etcd {ETCD} is installed ({:.1?})", began.elapsed());
            Ok(())
        }
        Action::Run(Server::Kafka { nodes }) => {
            let mut kafka = Setup::new(nodes).start().await?;
            println!("{}", kafka.bootstrap());
            eprintln!("ready after {:.1?}", began.elapsed());
            told_to_end().await?;
            kafka.stop().await
        }
        Action::Run(Server::S3 { bucket }) => {
            let mut gateway = s3::Setup::new(Product::Versitygw).start().await?;
            gateway.make_bucket(&bucket).await?;
            print!("{}", gateway.config(&bucket));
            eprintln!("ready after {:.1?}", began.elapsed());
            told_to_end().await?;
            gateway.stop().await
        }
        Action::Run(Server::Etcd { members }) => {
            let mut etcd = Etcd::start(members).await?;
            println!("{}", etcd.endpoints().join(","));
            eprintln!("ready after {:.1?}", began.elapsed());
            told_to_end().await?;
            etcd.stop().await
        }
    }
}

/// Waits for the end of the input or an interrupt.
async fn told_to_end() -> Result<()> {
    let mut input = tokio::io::stdin();
    let mut ignored = [0; 256];
    let closed = async { while !matches!(input.read(&mut ignored).await, Ok(0) | Err(_)) {} };
    tokio::select! {
        () = closed => {}
        interrupted = tokio::signal::ctrl_c() => interrupted?,
    }
    Ok(())
}
