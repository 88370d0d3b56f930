//! Breaks one thing after the other under load and holds what clients see against what is promised.
//!
//! Each fault has a cluster of its own: three compute nodes, a meta node, one or three brokers and a
//! bucket, with proxies between them. Writers send batches under ids of their own, to any node, until
//! they are acked; readers hold each answer against what was acked before they asked. A fault is one
//! row: what was broken and for how long, what clients were told, how soon all went on, what became of
//! the rows. Whatever is promised and did not hold stands in the row, and the program ends with 1.
//!
//! Rooms: [`kafka`], [`topics`], [`store`], [`meta`], [`steps`], [`nodes`] (the faults), [`ground`] (the cluster
//! and its load), [`reads`] (the readers), [`row`] (what became of it).
//!
//! Ends with `faults: N of N as promised, lost=0 doubled=0`.

#![allow(clippy::print_stdout, reason = "a program that reports")]

mod ground;
mod kafka;
mod meta;
mod nodes;
mod reads;
mod row;
mod steps;
mod store;
mod topics;

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Result, bail};
use clap::Parser;
use futures::future::{BoxFuture, FutureExt};
use integration::binary;

use row::Row;

/// How long things are broken with --short.
const SHORT_S: u64 = 10;

/// Breaks one thing after the other.
#[derive(Debug, Parser)]
struct Arguments {
    /// Only the fault of that name.
    #[arg(long)]
    only: Option<String>,
    /// Says which faults there are and what is promised, and breaks nothing.
    #[arg(long)]
    list: bool,
    /// The binary under test; built if not given.
    #[arg(long)]
    auxo: Option<PathBuf>,
    /// How long a service is away, in seconds.
    #[arg(long, default_value_t = 60)]
    away_s: u64,
    /// How long all of meta is away, in seconds.
    #[arg(long, default_value_t = 600)]
    meta_away_s: u64,
    /// Nothing is broken for longer than 10 s.
    #[arg(long)]
    short: bool,
    /// Writers at once; enough that every tablet has one, or nearly.
    #[arg(long, default_value_t = 24)]
    writers: u64,
    /// Seed of what is drawn.
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Files of every cluster stay, not only where something was not as promised.
    #[arg(long)]
    keep: bool,
}

/// What faults are told.
struct Settings {
    binary: PathBuf,
    away: Duration,
    meta_away: Duration,
    writers: u64,
    seed: u64,
    keep: bool,
}

/// One fault.
struct Fault {
    name: &'static str,
    /// What is broken.
    breaks: &'static str,
    /// What is promised then.
    promise: &'static str,
    run: for<'a> fn(&'a Settings) -> BoxFuture<'a, Result<Row>>,
}

macro_rules! faults {
    ($($name:literal $run:path: $breaks:literal => $promise:literal;)*) => {
        const FAULTS: &[Fault] = &[$(Fault {
            name: $name,
            breaks: $breaks,
            promise: $promise,
            run: |settings| $run(settings).boxed(),
        }),*];
    };
}

faults! {
    "broker-killed" kafka::broker_killed:
        "each of three brokers is killed in turn" =>
        "all writers go on within 10 s without it";
    "kafka-away" kafka::away:
        "the only broker is killed and comes back" =>
        "writes get 503 with Retry-After within 2 s, eventual reads go on, it recovers alone";
    "kafka-silent" kafka::silent:
        "connections to all brokers stay, and nothing is heard on them" =>
        "every write is answered within 11 s, eventual reads go on, it recovers alone";
    "kafka-slow" kafka::slow:
        "every round trip to the brokers takes 2 s, and clients write more than they can take" =>
        "no node takes more memory than its budget, what is refused is told clearly";
    "topic-slow" kafka::topic_slow:
        "appends to one shard's topic hang" =>
        "shards of other producers are not held up";
    "topic-wrong-start" topics::wrong_at_start:
        "Kafka has one copy, or a topic has a setting under which rows would be lost" =>
        "a node does not start and names the setting";
    "topic-wrong-open" topics::wrong_at_open:
        "a shard's topic gets a wrong setting, then its leader dies" =>
        "who is to open the shard refuses and names the setting; right again, it opens alone";
    "topic-remade" topics::remade:
        "a shard's topic is deleted and made again with the same settings" =>
        "the shard is parked, with its reason; no read is empty or partial, other shards go on";
    "topic-emptied" topics::emptied:
        "all nodes end in peace, which leaves nothing in any log" =>
        "they open and serve all rows from files";
    "s3-away" store::away:
        "the bucket's server is killed and comes back" =>
        "every write is acked, reads are whole or an error, flushes catch up";
    "s3-full" store::full:
        "the same, and little may be unflushed" =>
        "at the cap writes get 503 with Retry-After, it recovers alone";
    "s3-errors" store::errors:
        "the bucket's server answers one request in five with 500 or 503" =>
        "every write is acked, every shard flushes within 60 s";
    "bucket-missing" store::bucket_missing:
        "there is no such bucket" =>
        "a node does not start and names it";
    "store-not-atomic" store::not_atomic:
        "the bucket's server tells every create that it won" =>
        "a node does not start and says so";
    "meta-away" meta::away:
        "the only meta node is killed and comes back" =>
        "every write is acked and every read answered, flushes and truncation go on, changes of the model get a retryable error";
    "meta-away-restart" meta::away_and_restart:
        "the meta node and a compute node are killed, the compute node is started without meta" =>
        "it serves what it led";
    "etcd-away" meta::etcd_away:
        "the only member of meta's etcd is killed and comes back" =>
        "the same as without meta";
    "etcd-slow" meta::etcd_slow:
        "every round trip from meta to its etcd takes 0.5 s" =>
        "every write is acked and every read answered, no shard moves, changes are made or get a retryable error";
    "meta-killed" steps::killed_in_steps:
        "the leading one of three meta nodes is killed in the middle of each step of a change" =>
        "the next one ends the change, and nothing is left of it";
    "sigterm" nodes::sigterm:
        "one compute node is asked to end" =>
        "it ends with 0, and clients of the others get no error";
    "cut-meta" nodes::cut_from_meta:
        "a compute node hears nothing from meta, nor meta from it" =>
        "others lead its shards, all writers go on within 10 s";
    "cut-s3" nodes::cut_from_s3:
        "a compute node hears nothing from the bucket" =>
        "every write is acked";
    "cut-kafka" nodes::cut_from_kafka:
        "a compute node hears nothing from the brokers" =>
        "every write is answered within 11 s, it recovers alone";
    "cut-peers" nodes::cut_from_peers:
        "the others reach a compute node no more; it reaches them" =>
        "the node itself acks what it is sent, through others it is 503 within 11 s";
}

#[tokio::main]
async fn main() -> Result<ExitCode> {
    let arguments = Arguments::parse();
    let wanted = |fault: &&Fault| {
        arguments
            .only
            .as_deref()
            .is_none_or(|only| only == fault.name)
    };
    let wanted: Vec<&Fault> = FAULTS.iter().filter(wanted).collect();
    if wanted.is_empty() {
        bail!("there is no such fault; see --list");
    }
    if arguments.list {
        for Fault {
            name,
            breaks,
            promise,
            ..
        } in wanted
        {
            println!("{name}: {breaks}: {promise}");
        }
        return Ok(ExitCode::SUCCESS);
    }
    let bounded = |seconds: u64| match arguments.short {
        true => Duration::from_secs(seconds.min(SHORT_S)),
        false => Duration::from_secs(seconds),
    };
    let settings = Settings {
        binary: binary::auxo(arguments.auxo.as_deref())?,
        away: bounded(arguments.away_s),
        meta_away: bounded(arguments.meta_away_s),
        writers: arguments.writers,
        seed: arguments.seed,
        keep: arguments.keep,
    };
    let (mut kept, mut lost, mut doubled) = (0, 0, 0);
    for fault in &wanted {
        let row = match (fault.run)(&settings).await {
            Ok(row) => row,
            Err(error) => Row {
                unkept: vec![format!("the row could not be tried: {error:#}")],
                ..Row::default()
            },
        };
        println!("{}: {} | {row}", fault.name, fault.breaks);
        let verdict = row.verdict.unwrap_or_default();
        lost += verdict.lost;
        doubled += verdict.doubled;
        kept += usize::from(row.unkept.is_empty());
    }
    println!(
        "faults: {kept} of {} as promised, lost={lost} doubled={doubled}",
        wanted.len()
    );
    Ok(ExitCode::from(u8::from(kept < wanted.len())))
}
