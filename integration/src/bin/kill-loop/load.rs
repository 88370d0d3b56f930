//! Writers that go on through kills, and the judge of what they wrote.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use auxo_proto::clock::Clock;
use auxo_proto::random::Random;
use integration::http::Http;
use parking_lot::RwLock;
use tokio::task::JoinSet;
use tokio::time::Instant;

use crate::Verdict;

/// Rows of one batch.
pub(crate) const BATCH_ROWS: u64 = 40;

/// Time of a writer's row 0, and from one row to the next: a row's time follows from its number.
const FIRST_NS: i64 = 1_700_000_000_000_000_000;
const STEP_NS: i64 = 1_000_000;

/// How long a batch may be sent again before the round has failed.
const ACKED_WITHIN: Duration = Duration::from_secs(120);

/// Settings that make flushes and compactions fall into every round.
pub(crate) const CONFIG: &str = "
[flush]
unflushed_bytes = \"48KiB\"
age = \"1s\"
compact_every = \"300ms\"
";

/// What the writers share.
pub(crate) struct Load {
    /// Where nodes are now; they may have other ports after a start.
    nodes: RwLock<Vec<Http>>,
    /// Whether writers go on after the batch they have in hand.
    going: AtomicBool,
    /// Per writer, rows that are acked; all below the number are.
    acked: Vec<AtomicU64>,
    /// The round that runs, from 1, and the rows that were acked before it.
    round: AtomicU64,
    acked_before: AtomicU64,
    /// Dice of the writers and of the rounds.
    pub(crate) dice: Random,
}

impl Load {
    /// A load of so many writers on nodes.
    pub(crate) fn new(nodes: Vec<Http>, writers: u64, seed: u64) -> Arc<Self> {
        Arc::new(Self {
            nodes: RwLock::new(nodes),
            going: AtomicBool::new(true),
            acked: (0..writers).map(|_| AtomicU64::new(0)).collect(),
            round: AtomicU64::new(0),
            acked_before: AtomicU64::new(0),
            dice: Random::seeded(seed),
        })
    }

    /// Makes the table.
    ///
    /// * spread: `PARTITION BY …`, or nothing for one tablet.
    pub(crate) async fn create(&self, spread: &str) -> Result<()> {
        let create = format!(
            "CREATE TABLE kill (writer STRING TAG, ts TIMESTAMP(9) NOT NULL, n BIGINT, \
             TIMESTAMP KEY (ts)) {spread} WITH (merge_mode = 'append')"
        );
        let created = self.node().sql_answer(&create).await?;
        if created.status != 200 {
            bail!("CREATE TABLE: {} {}", created.status, created.body);
        }
        Ok(())
    }

    /// One of the nodes.
    pub(crate) fn node(&self) -> Http {
        let nodes = self.nodes.read();
        nodes[self.dice.below(nodes.len() as u64) as usize].clone()
    }

    /// Nodes are elsewhere now.
    pub(crate) fn moved(&self, nodes: Vec<Http>) {
        *self.nodes.write() = nodes;
    }

    /// Starts the writers of the next round. Their rows have a column that no row had before, so that
    /// tables change while nodes are killed.
    pub(crate) fn start(self: &Arc<Self>) -> JoinSet<Result<()>> {
        self.round.fetch_add(1, Ordering::SeqCst);
        let before = self.acked().iter().sum();
        self.acked_before.store(before, Ordering::SeqCst);
        self.going.store(true, Ordering::SeqCst);
        let mut writers = JoinSet::new();
        for writer in 0..self.acked.len() {
            writers.spawn(write(Arc::clone(self), writer));
        }
        writers
    }

    /// Lets the writers have their last batch acked.
    pub(crate) async fn stop(&self, mut writers: JoinSet<Result<()>>, round: u32) -> Result<()> {
        self.going.store(false, Ordering::SeqCst);
        while let Some(ended) = writers.join_next().await {
            ended?.with_context(|| format!("writer in round {round}"))?;
        }
        Ok(())
    }

    /// Rows that are acked, per writer.
    pub(crate) fn acked(&self) -> Vec<u64> {
        let acked = self.acked.iter();
        acked.map(|acked| acked.load(Ordering::SeqCst)).collect()
    }

    /// Rows that are missing and rows that stand more than once, over all writers; asked for one writer
    /// at a time, for distinct numbers take memory. All rows of the round must have its column.
    pub(crate) async fn judge(&self, node: &Http) -> Result<Verdict> {
        let mut verdict = Verdict::default();
        for (writer, acked) in self.acked().into_iter().enumerate() {
            let sql = format!(
                "SELECT count(*), count(DISTINCT n), min(n), max(n), \
                 count(*) FILTER (WHERE CAST(ts AS BIGINT) <> {FIRST_NS} + n * {STEP_NS}) \
                 FROM kill WHERE writer = 'w{writer}'"
            );
            let rows = node.sql(&sql).await?;
            let row = rows.first().context("a row of counts")?;
            let number = |at: usize| row[at].as_u64().unwrap_or(0);
            let (count, distinct, misplaced) = (number(0), number(1), number(4));
            verdict.lost += acked.saturating_sub(distinct);
            verdict.doubled += count.saturating_sub(distinct);
            let gaps = acked > 0 && (number(2) != 0 || number(3) + 1 != distinct);
            if misplaced > 0 || distinct > acked || gaps {
                bail!("writer w{writer}: {acked} acked, found {row:?}");
            }
        }
        let round = self.round.load(Ordering::SeqCst);
        let rows = node
            .sql(&format!("SELECT count(r{round}), sum(r{round}) FROM kill"))
            .await?;
        let in_round = self.acked().iter().sum::<u64>() - self.acked_before.load(Ordering::SeqCst);
        let marked = [in_round, in_round * round].map(serde_json::Value::from);
        if rows != [marked.to_vec()] {
            bail!("column r{round}: {in_round} rows were acked with it, found {rows:?}");
        }
        Ok(verdict)
    }
}

/// Sends batches until told to stop; the last one is sent until it is acked.
async fn write(load: Arc<Load>, writer: usize) -> Result<()> {
    let clock = Clock::system();
    while load.going.load(Ordering::SeqCst) {
        let first = load.acked[writer].load(Ordering::SeqCst);
        let id = load.dice.uuid_v7(clock.now_ms()).to_string();
        let round = load.round.load(Ordering::SeqCst);
        let mut lines = String::new();
        for n in first..first + BATCH_ROWS {
            let ts = FIRST_NS + n as i64 * STEP_NS;
            lines.push_str(&format!(
                "kill,writer=w{writer} n={n}i,r{round}={round}i {ts}\n"
            ));
        }
        let deadline = Instant::now() + ACKED_WITHIN;
        loop {
            let http = load.node();
            let post = http.request(reqwest::Method::POST, "/write?db=main");
            let post = post
                .header("Idempotency-Key", &id)
                .timeout(Duration::from_secs(15));
            let last = match http.send(post.body(lines.clone())).await {
                Ok(answer) if answer.status == 204 => break,
                Ok(answer) if answer.status == 503 => answer.body,
                Ok(answer) => bail!("write: {} {}", answer.status, answer.body),
                Err(error) => format!("{error:#}"),
            };
            if Instant::now() > deadline {
                bail!("batch of writer {writer} at {first} was not acked in time: {last}");
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        load.acked[writer].store(first + BATCH_ROWS, Ordering::SeqCst);
    }
    Ok(())
}
