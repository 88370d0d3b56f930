//! Readers beside the writers: one for each node and mode, who hold every answer against what was acked
//! before they asked.

use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result};
use integration::http::{Answer, Http};
use integration::load::{BATCH_ROWS, Load, TABLE};
use integration::told::ByNode;
use parking_lot::Mutex;
use reqwest::Method;
use tokio::task::JoinSet;
use tokio::time::Instant;

use crate::row::ToldBy;

/// Pause of a reader between two statements.
const PAUSE: Duration = Duration::from_millis(100);

/// Time of one statement.
const STATEMENT_MS: u64 = 15_000;

/// Readers that ask in one mode.
pub(crate) struct Reads {
    mode: &'static str,
    load: Arc<Load>,
    told: ByNode,
    /// Answers that left out what was acked, or had a row twice.
    wrong: Mutex<Vec<String>>,
    /// Rows that are seen by whoever asks from now on, per writer; for modes that may see old rows.
    floor: Mutex<Vec<u64>>,
}

impl Reads {
    /// Starts one reader for each node, who reads as long as the load goes on.
    pub(crate) fn start(
        mode: &'static str,
        load: &Arc<Load>,
        tasks: &mut JoinSet<Result<()>>,
    ) -> Arc<Self> {
        let reads = Arc::new(Self {
            mode,
            load: Arc::clone(load),
            told: ByNode::default(),
            wrong: Mutex::default(),
            floor: Mutex::new(load.acked()),
        });
        for node in 0..load.nodes().len() {
            tasks.spawn(Arc::clone(&reads).read(node));
        }
        reads
    }

    /// How they ask.
    pub(crate) fn mode(&self) -> &'static str {
        self.mode
    }

    /// From now on nobody may see less than what is acked now.
    pub(crate) fn begin(&self) {
        *self.floor.lock() = self.load.acked();
        self.told.forget();
    }

    /// What they were told since they began.
    pub(crate) fn told(&self) -> ToldBy {
        self.told.all()
    }

    /// Answers that were wrong, ever.
    pub(crate) fn wrong(&self) -> Vec<String> {
        self.wrong.lock().clone()
    }

    async fn read(self: Arc<Self>, node: usize) -> Result<()> {
        while self.load.is_going() {
            let nodes = self.load.nodes();
            let http = nodes.get(node).context("a node")?;
            let writer = self.load.dice.below(self.load.acked().len() as u64) as usize;
            let least = match self.mode {
                "strong" => self.load.acked()[writer],
                _ => self.floor.lock()[writer],
            };
            let asked = Instant::now();
            let answer = self.ask(http, writer).await;
            let most = self.load.acked()[writer] + BATCH_ROWS;
            let took = asked.elapsed();
            if let Ok(answer) = &answer
                && answer.status == 200
                && let Some(wrong) = wrong(answer, least, most)
            {
                let wrong = format!("w{writer} {} at c{node}: {wrong}", self.mode);
                self.wrong.lock().push(wrong);
            }
            self.told.note(http, &answer, took);
            tokio::time::sleep(PAUSE).await;
        }
        Ok(())
    }

    async fn ask(&self, http: &Http, writer: usize) -> Result<Answer> {
        let mode = self.mode;
        let path = format!("/v1/sql?read_mode={mode}&timeout_ms={STATEMENT_MS}");
        let sql =
            format!("SELECT count(*), count(DISTINCT n) FROM {TABLE} WHERE writer = 'w{writer}'");
        let asked = http.request(Method::POST, &path).body(sql);
        http.send(asked.timeout(2 * Duration::from_millis(STATEMENT_MS)))
            .await
    }
}

/// What is wrong with an answer that should count between so many rows.
fn wrong(answer: &Answer, least: u64, most: u64) -> Option<String> {
    let rows = answer.json()["rows"].take();
    let (count, distinct) = (rows[0][0].as_u64()?, rows[0][1].as_u64()?);
    let right = count == distinct && (least..=most).contains(&count);
    (!right).then(|| format!("{count} rows, {distinct} distinct, of {least} to {most}"))
}
