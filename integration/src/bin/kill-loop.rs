//! Kills the node at random moments under load and reads every acknowledged row back.
//!
//! Writers send small batches into a table that keeps every row (`append`), each batch under an id
//! of its own and sent again under the same id until it is acked. A row's value names its writer and
//! number. Flushes and compactions are forced often, so that kills fall into them. After each round
//! every writer's numbers must be there exactly once.
//!
//! Before that, in this process: some seconds of work on a recorded disk, which is then opened as a
//! loss of power would have left it, at as many moments as wanted.
//!
//! Prints `lost=0 images=N` for the one, and ends with `lost=0 doubled=0 rounds=N` for the other.

#![allow(clippy::print_stdout, reason = "a program that reports")]

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use auxo_proto::clock::Clock;
use auxo_proto::random::Random;
use clap::Parser;
use integration::http::Http;
use integration::standalone::{Setup, Standalone};
use integration::{binary, disk, power_loss};
use parking_lot::RwLock;
use tokio::time::Instant;

/// Rows of one batch.
const BATCH_ROWS: u64 = 40;

/// Time of a writer's row 0, and from one row to the next: a row's time follows from its number.
const FIRST_NS: i64 = 1_700_000_000_000_000_000;
const STEP_NS: i64 = 1_000_000;

/// Settings that make flushes and compactions fall into every round.
const CONFIG: &str = "
[flush]
unflushed_bytes = \"48KiB\"
age = \"1s\"
compact_every = \"300ms\"
";

/// Kills a node again and again.
#[derive(Debug, Parser)]
struct Arguments {
    /// One process with everything in it.
    #[arg(long)]
    standalone: bool,
    /// How often it is killed.
    #[arg(long, default_value_t = 50)]
    rounds: u32,
    /// Losses of power, each at another moment of one recording; 0 for none.
    #[arg(long, default_value_t = 200)]
    images: u64,
    /// The binary under test; built if not given.
    #[arg(long)]
    auxo: Option<PathBuf>,
    /// Writers at once.
    #[arg(long, default_value_t = 4)]
    writers: u64,
    /// Seed of the moments.
    #[arg(long, default_value_t = 1)]
    seed: u64,
}

/// What the writers share.
struct Load {
    /// Where the node is now; it has another port after each start.
    http: RwLock<Http>,
    /// Whether writers go on after the batch they have in hand.
    going: AtomicBool,
    /// Per writer, rows that are acked; all below the number are.
    acked: Vec<AtomicU64>,
    dice: Random,
}

#[tokio::main]
async fn main() -> Result<()> {
    let arguments = Arguments::parse();
    if !arguments.standalone {
        bail!("say --standalone");
    }
    if arguments.images > 0 {
        images(arguments.images, arguments.seed).await?;
    }
    if arguments.rounds == 0 {
        return Ok(());
    }
    let folder = disk::folder("kill-loop")?;
    let mut setup = Setup::new(&binary::auxo(arguments.auxo.as_deref())?, folder.path());
    setup.config = CONFIG.to_owned();
    let mut node = setup.start().await?;
    let create = "CREATE TABLE kill (writer STRING TAG, ts TIMESTAMP(9) NOT NULL, n BIGINT, \
                  TIMESTAMP KEY (ts)) WITH (merge_mode = 'append')";
    let created = node.http.sql_answer(create).await?;
    if created.status != 200 {
        bail!("CREATE TABLE: {} {}", created.status, created.body);
    }
    let load = Arc::new(Load {
        http: RwLock::new(node.http.clone()),
        going: AtomicBool::new(true),
        acked: (0..arguments.writers).map(|_| AtomicU64::new(0)).collect(),
        dice: Random::seeded(arguments.seed),
    });
    let (mut lost, mut doubled, mut opens) = (0, 0, Vec::new());
    for round in 1..=arguments.rounds {
        load.going.store(true, Ordering::SeqCst);
        let mut writers = tokio::task::JoinSet::new();
        for writer in 0..arguments.writers {
            writers.spawn(write(Arc::clone(&load), writer));
        }
        tokio::time::sleep(Duration::from_millis(300 + load.dice.below(1_500))).await;
        node.kill()?;
        let began = Instant::now();
        node = setup
            .start()
            .await
            .with_context(|| format!("start after kill {round}"))?;
        opens.push(began.elapsed());
        *load.http.write() = node.http.clone();
        load.going.store(false, Ordering::SeqCst);
        while let Some(ended) = writers.join_next().await {
            ended?.with_context(|| format!("writer in round {round}"))?;
        }
        let (missing, extra) = judge(&node, &load).await?;
        lost += missing;
        doubled += extra;
        let acked: u64 = load
            .acked
            .iter()
            .map(|acked| acked.load(Ordering::SeqCst))
            .sum();
        println!(
            "round {round}: {acked} rows acked, lost {missing}, doubled {extra}, open {:.0} ms",
            opens[opens.len() - 1].as_secs_f64() * 1e3,
        );
    }
    let (files, made) = files(&node).await?;
    println!("files: {files} now, manifests: {made}");
    if made <= u64::from(arguments.rounds) {
        bail!(
            "{made} manifests in {} rounds: nothing was flushed under load",
            arguments.rounds
        );
    }
    node.terminate(Duration::from_secs(60)).await?;
    opens.sort();
    let at = |share: f64| opens[((opens.len() - 1) as f64 * share) as usize].as_secs_f64() * 1e3;
    println!(
        "open: p50 {:.0} ms, p95 {:.0} ms, most {:.0} ms",
        at(0.5),
        at(0.95),
        at(1.0)
    );
    println!("lost={lost} doubled={doubled} rounds={}", arguments.rounds);
    match (lost, doubled) {
        (0, 0) => Ok(()),
        _ => bail!("rows are missing or stand twice"),
    }
}

/// Files of all shards, and the manifests that were committed for them.
async fn files(node: &Standalone) -> Result<(u64, u64)> {
    let request = node.http.request(reqwest::Method::GET, "/metrics");
    let page = node.http.send(request).await?.body;
    let sum = |name: &str| -> u64 {
        let lines = page.lines().filter(|line| line.starts_with(name));
        lines
            .filter_map(|line| line.rsplit(' ').next()?.parse::<f64>().ok())
            .sum::<f64>() as u64
    };
    Ok((sum("auxo_store_files{"), sum("auxo_flush_manifest{")))
}

async fn images(images: u64, seed: u64) -> Result<()> {
    let folder = disk::folder("power-loss")?;
    let verdict = power_loss::run(images, seed, folder.path()).await?;
    println!(
        "recorded {} changes of files: {} rows acked, {} manifests",
        verdict.steps, verdict.acked, verdict.manifests
    );
    println!("lost={} images={}", verdict.lost, verdict.images);
    match (verdict.lost, verdict.doubled) {
        (0, 0) => Ok(()),
        (_, doubled) => bail!("rows are missing, or stand twice: {doubled}"),
    }
}

/// Sends batches until told to stop; the last one is sent until it is acked.
async fn write(load: Arc<Load>, writer: u64) -> Result<()> {
    let clock = Clock::system();
    while load.going.load(Ordering::SeqCst) {
        let first = load.acked[writer as usize].load(Ordering::SeqCst);
        let id = load.dice.uuid_v7(clock.now_ms()).to_string();
        let mut lines = String::new();
        for n in first..first + BATCH_ROWS {
            let ts = FIRST_NS + n as i64 * STEP_NS;
            lines.push_str(&format!("kill,writer=w{writer} n={n}i {ts}\n"));
        }
        let deadline = Instant::now() + Duration::from_secs(90);
        loop {
            let http = load.http.read().clone();
            let post = http.request(reqwest::Method::POST, "/write?db=main");
            let post = post
                .header("Idempotency-Key", &id)
                .timeout(Duration::from_secs(15));
            match http.send(post.body(lines.clone())).await {
                Ok(answer) if answer.status == 204 => break,
                Ok(answer) if answer.status == 503 => {}
                Ok(answer) => bail!("write: {} {}", answer.status, answer.body),
                Err(_) => {}
            }
            if Instant::now() > deadline {
                bail!("batch of writer {writer} at {first} was not acked in time");
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        load.acked[writer as usize].store(first + BATCH_ROWS, Ordering::SeqCst);
    }
    Ok(())
}

/// Rows that are missing and rows that stand more than once, over all writers; asked for one writer at
/// a time, for distinct numbers take memory.
async fn judge(node: &Standalone, load: &Load) -> Result<(u64, u64)> {
    let (mut missing, mut extra) = (0, 0);
    for (writer, acked) in load.acked.iter().enumerate() {
        let acked = acked.load(Ordering::SeqCst);
        let sql = format!(
            "SELECT count(*), count(DISTINCT n), min(n), max(n), \
             count(*) FILTER (WHERE CAST(ts AS BIGINT) <> {FIRST_NS} + n * {STEP_NS}) \
             FROM kill WHERE writer = 'w{writer}'"
        );
        let rows = node.http.sql(&sql).await?;
        let row = rows.first().context("a row of counts")?;
        let number = |at: usize| row[at].as_u64().unwrap_or(0);
        let (count, distinct, misplaced) = (number(0), number(1), number(4));
        missing += acked.saturating_sub(distinct);
        extra += count.saturating_sub(distinct);
        let gaps = acked > 0 && (number(2) != 0 || number(3) + 1 != distinct);
        if misplaced > 0 || distinct > acked || gaps {
            bail!("writer w{writer}: {acked} acked, found {row:?}");
        }
    }
    Ok((missing, extra))
}
