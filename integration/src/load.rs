//! Writers that go on whatever happens to the nodes, and the judge of what they wrote.
//!
//! Batches go into a table that keeps every row (`append`), each under an id of its own and sent again
//! under the same id, to any node, until it is acked. A row's value names its writer and number, so that
//! each row can be asked for and a second copy of it is seen. Beside them rows of another table are
//! overwritten and deleted (`rewrite`).
//!
//! Never here: what happens to the nodes meanwhile.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use auxo_proto::clock::Clock;
use auxo_proto::random::Random;
use parking_lot::{Mutex, RwLock};
use reqwest::{Method, RequestBuilder};
use tokio::task::JoinSet;
use tokio::time::Instant;

use crate::http::Http;
use crate::told::ByNode;
use crate::wait;
use rewrite::Rewritten;

mod rewrite;

/// The table.
pub const TABLE: &str = "numbered";

/// Rows of one batch.
pub const BATCH_ROWS: u64 = 40;

/// Time of a writer's row 0, and from one row to the next: a row's time follows from its number.
const FIRST_NS: i64 = 1_700_000_000_000_000_000;
const STEP_NS: i64 = 1_000_000;

/// How long a batch may be sent again before the round has failed.
const ACKED_WITHIN: Duration = Duration::from_secs(120);

/// How long a node may take to answer a batch before it is sent to another one.
const ANSWERED_WITHIN: Duration = Duration::from_secs(15);

/// Those who overwrite and delete.
const REWRITERS: usize = 3;

/// Rows that are named of each kind of fault and writer.
const NAMED: usize = 10;

/// Settings that make flushes and compactions fall into every round.
pub const CONFIG: &str = "
[flush]
unflushed_bytes = \"48KiB\"
age = \"1s\"
compact_every = \"300ms\"
";

/// What became of the rows.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Verdict {
    /// Rows that were acked and are not there.
    pub lost: u64,
    /// Rows that are there again.
    pub doubled: u64,
    /// Some of both, by writer and number.
    pub named: Vec<String>,
}

impl Verdict {
    /// Counts of another verdict on top.
    pub fn add(&mut self, other: Self) {
        self.lost += other.lost;
        self.doubled += other.doubled;
        self.named.extend(other.named);
    }
}

/// What the writers share.
pub struct Load {
    /// Where nodes are now; they may have other ports after a start.
    nodes: RwLock<Vec<Http>>,
    /// Whether writers go on after the batch they have in hand.
    going: AtomicBool,
    /// Per writer, rows that are acked; all below the number are.
    acked: Vec<AtomicU64>,
    /// The round whose column rows have, if not 0, and the rows that were acked before it.
    round: AtomicU64,
    acked_before: AtomicU64,
    /// Per rewriter, what is acked.
    rewritten: Vec<Mutex<Rewritten>>,
    /// What writers were told.
    pub told: ByNode,
    /// Dice of the writers and of the rounds.
    pub dice: Random,
}

/// A writer's name, which is also the tag by which its rows are spread.
pub fn writer(number: usize) -> String {
    format!("w{number}")
}

/// The line of a row.
pub fn line(writer: &str, n: u64) -> String {
    with_fields(writer, n, "")
}

/// * fields: more of them, each behind a comma.
fn with_fields(writer: &str, n: u64, fields: &str) -> String {
    let ts = FIRST_NS + n as i64 * STEP_NS;
    format!("{TABLE},writer={writer} n={n}i{fields} {ts}\n")
}

impl Load {
    /// A load of so many writers on nodes.
    pub fn new(nodes: Vec<Http>, writers: u64, seed: u64) -> Arc<Self> {
        Arc::new(Self {
            nodes: RwLock::new(nodes),
            going: AtomicBool::new(true),
            acked: (0..writers).map(|_| AtomicU64::new(0)).collect(),
            round: AtomicU64::new(0),
            acked_before: AtomicU64::new(0),
            rewritten: (0..REWRITERS).map(|_| Mutex::default()).collect(),
            told: ByNode::default(),
            dice: Random::seeded(seed),
        })
    }

    /// Makes the tables.
    ///
    /// * spread: `PARTITION BY …`, or nothing for one tablet.
    pub async fn create(&self, spread: &str) -> Result<()> {
        for (table, merge_mode) in [(TABLE, "append"), (rewrite::TABLE, "last_row")] {
            let create = format!(
                "CREATE TABLE {table} (writer STRING TAG, ts TIMESTAMP(9) NOT NULL, n BIGINT, \
                 TIMESTAMP KEY (ts)) {spread} WITH (merge_mode = '{merge_mode}')"
            );
            let created = self.node().sql_answer(&create).await?;
            if created.status != 200 {
                bail!("CREATE TABLE {table}: {} {}", created.status, created.body);
            }
        }
        Ok(())
    }

    /// One of the nodes.
    pub fn node(&self) -> Http {
        let nodes = self.nodes.read();
        nodes[self.dice.below(nodes.len() as u64) as usize].clone()
    }

    /// All nodes.
    pub fn nodes(&self) -> Vec<Http> {
        self.nodes.read().clone()
    }

    /// Whether the writers go on.
    pub fn is_going(&self) -> bool {
        self.going.load(Ordering::SeqCst)
    }

    /// Nodes are elsewhere now.
    pub fn moved(&self, nodes: Vec<Http>) {
        *self.nodes.write() = nodes;
    }

    /// Starts the writers.
    pub fn start(self: &Arc<Self>) -> JoinSet<Result<()>> {
        self.going.store(true, Ordering::SeqCst);
        let mut writers = JoinSet::new();
        for writer in 0..self.acked.len() {
            writers.spawn(write(Arc::clone(self), writer));
        }
        for rewriter in 0..self.rewritten.len() {
            writers.spawn(rewrite(Arc::clone(self), rewriter));
        }
        writers
    }

    /// Starts the writers of a round, whose rows have a column that no row had before: tables change
    /// while something happens to the nodes.
    ///
    /// * round: from 1, another one each time.
    pub fn start_round(self: &Arc<Self>, round: u32) -> JoinSet<Result<()>> {
        self.acked_before
            .store(self.acked().iter().sum(), Ordering::SeqCst);
        self.round.store(round.into(), Ordering::SeqCst);
        self.start()
    }

    /// Lets the writers have their last batch acked.
    pub async fn stop(&self, mut writers: JoinSet<Result<()>>, round: u32) -> Result<()> {
        self.going.store(false, Ordering::SeqCst);
        while let Some(ended) = writers.join_next().await {
            ended?.with_context(|| format!("writer in round {round}"))?;
        }
        Ok(())
    }

    /// Rows that are acked, per writer.
    pub fn acked(&self) -> Vec<u64> {
        let acked = self.acked.iter();
        acked.map(|acked| acked.load(Ordering::SeqCst)).collect()
    }

    /// Changes of the rows that are overwritten and deleted, and how many of them were deletes.
    pub fn rewritten(&self) -> (u64, u64) {
        let counts = self.rewritten.iter().map(|rewritten| {
            let rewritten = rewritten.lock();
            (rewritten.changes, rewritten.deletes)
        });
        counts.fold((0, 0), |sum, next| (sum.0 + next.0, sum.1 + next.1))
    }

    /// Waits until each writer has that many more batches acked; the second of them was sent after now.
    pub async fn gone_on(&self, batches: u64, within: Duration) -> Result<()> {
        let before = self.acked();
        wait::until("every writer goes on", within, || {
            let now = self.acked();
            let mut pairs = before.iter().zip(&now);
            let gone_on = pairs.all(|(before, now)| *now >= before + batches * BATCH_ROWS);
            async move {
                ensure!(gone_on, "acked {now:?}");
                Ok(())
            }
        })
        .await
    }

    /// Rows that are missing and rows that stand more than once, over all writers; asked for one writer
    /// at a time, for distinct numbers take memory. Writers must have stopped.
    ///
    /// * errors: rows that nobody wrote, or rows of this round without its column.
    pub async fn judge(&self, node: &Http) -> Result<Verdict> {
        let mut verdict = Verdict::default();
        for (number, acked) in self.acked().into_iter().enumerate() {
            let writer = writer(number);
            let sql = format!(
                "SELECT count(*), count(DISTINCT n), min(n), max(n), \
                 count(*) FILTER (WHERE CAST(ts AS BIGINT) <> {FIRST_NS} + n * {STEP_NS}) \
                 FROM {TABLE} WHERE writer = '{writer}'"
            );
            let rows = node.sql(&sql).await?;
            let row = rows.first().context("a row of counts")?;
            let number = |at: usize| row[at].as_u64().unwrap_or(0);
            let (count, distinct, misplaced) = (number(0), number(1), number(4));
            let strange = count > 0 && (row[2].as_i64() < Some(0) || number(3) >= acked);
            if misplaced > 0 || strange {
                bail!("writer {writer}: {acked} acked, found {row:?}");
            }
            let found = Verdict {
                lost: acked - distinct,
                doubled: count - distinct,
                named: Vec::new(),
            };
            if found.lost + found.doubled > 0 {
                verdict.named.extend(faults(node, &writer, acked).await?);
            }
            verdict.add(found);
        }
        let round = self.round.load(Ordering::SeqCst);
        if round > 0 && verdict == Verdict::default() {
            let sql = format!("SELECT count(r{round}), sum(r{round}) FROM {TABLE}");
            let found = node.sql(&sql).await?;
            let acked: u64 = self.acked().iter().sum();
            let acked = acked - self.acked_before.load(Ordering::SeqCst);
            let wanted = [acked, acked * round].map(serde_json::Value::from);
            ensure!(
                found == [wanted],
                "column r{round}: {acked} rows were acked with it, found {found:?}"
            );
        }
        for (number, rewritten) in self.rewritten.iter().enumerate() {
            let wanted = rewritten.lock().rows();
            let found = rewrite::judge(&rewrite::name(number), &wanted, node).await;
            verdict.add(found?);
        }
        Ok(verdict)
    }
}

/// The first rows of a writer that are missing or stand more than once.
async fn faults(node: &Http, writer: &str, acked: u64) -> Result<Vec<String>> {
    let sql = |having: &str| {
        format!(
            "SELECT n, count(*) FROM {TABLE} WHERE writer = '{writer}' GROUP BY n {having} ORDER BY n"
        )
    };
    let twice = node.sql(&sql("HAVING count(*) > 1")).await?;
    let twice = twice
        .iter()
        .take(NAMED)
        .map(|row| format!("{writer} {}: {} times", row[0], row[1]));
    let mut named: Vec<String> = twice.collect();
    let there = node.sql(&sql("")).await?;
    let mut there = there.iter().map(|row| row[0].as_u64()).peekable();
    let missing = (0..acked).filter(|n| there.next_if_eq(&Some(*n)).is_none());
    named.extend(
        missing
            .take(NAMED)
            .map(|n| format!("{writer} {n}: missing")),
    );
    Ok(named)
}

/// Sends batches until told to stop; the last one is sent until it is acked.
async fn write(load: Arc<Load>, number: usize) -> Result<()> {
    let writer = writer(number);
    while load.going.load(Ordering::SeqCst) {
        let first = load.acked[number].load(Ordering::SeqCst);
        let fields = match load.round.load(Ordering::SeqCst) {
            0 => String::new(),
            round => format!(",r{round}={round}i"),
        };
        let lines: String = (first..first + BATCH_ROWS)
            .map(|n| with_fields(&writer, n, &fields))
            .collect();
        let post = |node: &Http| {
            let post = node.request(Method::POST, "/write?db=main");
            post.body(lines.clone())
        };
        let sent = until_acked(&load, Some(&load.told), post).await;
        sent.with_context(|| format!("batch of {writer} at {first}"))?;
        load.acked[number].store(first + BATCH_ROWS, Ordering::SeqCst);
    }
    Ok(())
}

/// Makes changes until told to stop; the last one is sent until it is acked.
async fn rewrite(load: Arc<Load>, number: usize) -> Result<()> {
    let name = rewrite::name(number);
    while load.going.load(Ordering::SeqCst) {
        let change = load.rewritten[number].lock().draw(&load.dice);
        let sent = until_acked(&load, None, |node| change.ask(&name, node)).await;
        sent.with_context(|| format!("{change:?} of {name}"))?;
        load.rewritten[number].lock().acked(change);
    }
    Ok(())
}

/// Sends a request under an id, to one node after another, until one of them acks it.
///
/// * told: notes every answer.
async fn until_acked(
    load: &Load,
    told: Option<&ByNode>,
    ask: impl Fn(&Http) -> RequestBuilder,
) -> Result<()> {
    let id = load.dice.uuid_v7(Clock::system().now_ms()).to_string();
    let deadline = Instant::now() + ACKED_WITHIN;
    loop {
        let http = load.node();
        let request = ask(&http).header("Idempotency-Key", &id);
        let sent = Instant::now();
        let answer = http.send(request.timeout(ANSWERED_WITHIN)).await;
        if let Some(told) = told {
            told.note(&http, &answer, sent.elapsed());
        }
        let last = match answer {
            Ok(answer) if matches!(answer.status, 200 | 204) => return Ok(()),
            Ok(answer) if answer.status == 503 => answer.body,
            Ok(answer) => bail!("{} {}", answer.status, answer.body),
            Err(error) => format!("{error:#}"),
        };
        if Instant::now() > deadline {
            bail!("not acked in time: {last}");
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}
