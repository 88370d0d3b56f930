//! A leader that is stopped, replaced, and goes on as if nothing had happened.
//!
//! Rounds on a cluster of three compute nodes, a meta node, three brokers and a bucket. In each:
//! 1. Writers write to all nodes ([`crate::load`]), *visitors* to one that leads shards, and only rows
//!    of those shards.
//! 2. That node is stopped (SIGSTOP): its connections stay, whatever was in them stays unread, and it
//!    still believes that it leads. More visitors send what it will read first when it is woken.
//! 3. When others lead every shard that it led, and have flushed and cut their logs behind everything it
//!    could know ([`Wake::Cut`]), it is asked for rows as well, and woken (SIGCONT).
//! 4. Once everybody is answered and the writers have stopped, all rows are read back, at any node.
//!
//! What must hold: no acked row is missing and none stands twice, whoever acked it; a row that was
//! refused is not there; a read misses no row that was acked before it was asked for, whoever answers.
//!
//! Rooms: this file (a round), `visits` (requests to the stopped node, and whether their answers were
//! true), `tail` (what the woken one appends behind its successor's claim).
//!
//! # Without the fence
//!
//! The check must be able to fail: with an `auxo` of which the leader acknowledges without looking at what
//! lies below its frame in the log ([`auxo_engine::UNFENCED`]), rows are lost in this way.
//!
//! Never here: a node that is killed (that is `kill-loop`), or a verdict that rests on who led when.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use auxo_proto::key;
use auxo_proto::random::Random;
use auxo_wal_adapters::kafka::{KafkaSettings, KafkaWal};
use rustix::process::Signal;
use tempfile::TempDir;
use tokio::task::JoinSet;
use tokio::time::Instant;

use crate::cluster::{Cluster, Plan};
use crate::http::Http;
use crate::load::{self, CONFIG, Load, TABLE, Verdict};
use crate::{disk, process, wait};
use tail::Tails;
use visits::{Answer, Visit, Visitors};

mod tail;
mod visits;

/// Compute nodes, and shards, each with a tablet.
const NODES: usize = 3;
const SHARDS: u32 = 6;

/// Writers of the load: several for each tablet.
const WRITERS: u64 = 4 * SHARDS as u64;

/// Visitors who come before the node is stopped, and after.
const VISITORS: (u64, u64) = (16, 32);

/// How long the cluster may take to come to rest, shards to be taken over and logs to be cut.
const SETTLED_WITHIN: Duration = Duration::from_secs(120);

/// When a node that is stopped is woken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wake {
    /// Others lead; their claims are still in the logs, and it comes across them.
    TakenOver,
    /// The logs begin behind those claims: all that it knew of them is gone.
    Cut,
}

/// A cluster under load whose nodes are stopped and woken.
pub struct Zombies {
    wake: Wake,
    cluster: Cluster,
    wal: KafkaWal,
    load: Arc<Load>,
    visits: Vec<Visit>,
    round: u32,
    folder: TempDir,
}

/// What a round was like, and what was found after it.
#[derive(Debug)]
pub struct Round {
    number: u32,
    node: usize,
    shards: usize,
    taken_over: Duration,
    /// When it was woken, after it was stopped.
    slept: Duration,
    unread: usize,
    parked: BTreeMap<Answer, usize>,
    reads: Reads,
    /// Frames that the woken node appended behind its successors' claims, as far as they were seen.
    pub late: u64,
    acked: u64,
    /// Rows of all rounds so far.
    pub verdict: Verdict,
    /// What else was not as promised, in this round.
    pub broken: Vec<String>,
}

/// What became of reads that the stopped node was asked for.
#[derive(Debug, Default)]
struct Reads {
    answered: usize,
    refused: usize,
    stale: Vec<String>,
}

impl std::fmt::Display for Round {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { number, node, .. } = self;
        let parked = self.parked.iter();
        let parked = parked.map(|(answer, count)| format!("{answer}: {count}"));
        write!(
            f,
            "round {number}: c{node} stopped, its {} shards taken over after {:.1} s; woken after {:.1} s \
             with {} connections unread; writes parked there: {{{}}}, of {} reads {} were answered, {} frames \
             appended behind a newer claim; {} rows acked, lost {}, doubled {}",
            self.shards,
            self.taken_over.as_secs_f64(),
            self.slept.as_secs_f64(),
            self.unread,
            parked.collect::<Vec<_>>().join(", "),
            self.reads.answered + self.reads.refused,
            self.reads.answered,
            self.late,
            self.acked,
            self.verdict.lost,
            self.verdict.doubled,
        )
    }
}

impl Zombies {
    /// Starts the cluster and makes the table.
    ///
    /// * binary: the `auxo` of all its nodes.
    pub async fn start(binary: &Path, wake: Wake, seed: u64) -> Result<Self> {
        let folder = disk::folder("zombie")?;
        let plan = Plan {
            nodes: NODES,
            shards: SHARDS,
            brokers: 3,
            bucket: true,
            config: CONFIG.to_owned(),
            ..Plan::default()
        };
        let cluster = Cluster::start(binary, folder.path(), &plan).await?;
        cluster.served(SHARDS, SETTLED_WITHIN).await?;
        let settings = KafkaSettings {
            bootstrap: cluster.kafka.bootstrap(),
            ..KafkaSettings::default()
        };
        let wal = KafkaWal::open(settings, Random::from_system()).await?;
        let load = Load::new(doors(&cluster, None), WRITERS, seed);
        load.create(&format!("PARTITION BY HASH(writer) PARTITIONS {SHARDS}"))
            .await?;
        Ok(Self {
            wake,
            cluster,
            wal,
            load,
            visits: Vec::new(),
            round: 0,
            folder,
        })
    }

    /// One round; the cluster is whole again afterwards.
    ///
    /// * errors: something did not come to pass, or could not be asked for: nothing is said of rows.
    pub async fn round(&mut self) -> Result<Round> {
        self.round += 1;
        let number = self.round;
        let round = self.stop_and_wake().await;
        round.with_context(|| format!("round {number}"))
    }

    async fn stop_and_wake(&mut self) -> Result<Round> {
        let (cluster, load, number) = (&self.cluster, &self.load, self.round);
        cluster.served(SHARDS, SETTLED_WITHIN).await?;
        let (node, shards) = self.victim().await?;
        let ranges = Ranges::of(cluster, &shards).await?;
        let victim = &cluster.nodes[node];

        let bootstrap = cluster.kafka.bootstrap();
        let regions = tokio::task::spawn_blocking(move || tail::regions(&bootstrap)).await??;
        let regions = shards
            .iter()
            .filter_map(|shard| regions.get(shard).copied());
        let tails = Tails::follow(&self.wal, &regions.collect::<Vec<_>>()).await?;

        let writers = load.start();
        let mut visitors = Visitors::new(&victim.http);
        let mut names = 0;
        let mut come = |visitors: &mut Visitors, count| {
            for _ in 0..count {
                let (name, found) = visits::named(number, names, |name| ranges.hold(name));
                names = found + 1;
                visitors.come(name);
            }
        };
        come(&mut visitors, VISITORS.0);
        tokio::time::sleep(Duration::from_millis(500 + load.dice.below(1_500))).await;

        victim.signal(Signal::STOP)?;
        let stopped = Instant::now();
        visitors.stopped();
        load.moved(doors(cluster, Some(node)));
        come(&mut visitors, VISITORS.1);
        self.taken_over(node).await?;
        let taken_over = stopped.elapsed();
        if self.wake == Wake::Cut {
            let ends = tails.ends().await?;
            wait::until("logs are cut", SETTLED_WITHIN, || tails.cut(&ends)).await?;
        }
        let reads = ask(&victim.http, load, |writer| ranges.hold(writer));
        let parked = VISITORS.1 as usize + reads.len();
        let unread = unread(&victim.http, parked).await?;
        let slept = stopped.elapsed();

        victim.signal(Signal::CONT)?;
        load.moved(doors(cluster, None));
        let visits = visitors.answered().await?;
        let reads = answered(reads).await?;
        load.stop(writers, number).await?;
        cluster.served(SHARDS, SETTLED_WITHIN).await?;
        let late = tails.late();
        let parked = visits::counted(&visits);
        self.visits.extend(visits);
        let (verdict, mut broken) = self.judge().await?;
        broken.extend(reads.stale.iter().cloned());
        Ok(Round {
            number,
            node,
            shards: shards.len(),
            taken_over,
            slept,
            unread,
            parked,
            reads,
            late,
            acked: self.load.acked().iter().sum(),
            verdict,
            broken,
        })
    }

    /// One of the nodes that lead something, and what it leads.
    async fn victim(&self) -> Result<(usize, BTreeSet<u64>)> {
        let mut led: BTreeMap<usize, BTreeSet<u64>> = BTreeMap::new();
        for shard in self.cluster.shards(0).await? {
            let leader = shard.leader.context("a shard without a leader")?;
            led.entry(leader).or_default().insert(shard.shard);
        }
        let drawn = self.load.dice.below(led.len() as u64) as usize;
        led.into_iter().nth(drawn).context("a node that leads")
    }

    /// Waits until others serve every shard, as each of them hears it.
    async fn taken_over(&self, from: usize) -> Result<()> {
        wait::until("its shards are taken over", SETTLED_WITHIN, || async {
            for told_by in (0..NODES).filter(|node| *node != from) {
                for led in self.cluster.shards(told_by).await? {
                    let elsewhere = led.leader.is_some_and(|leader| leader != from);
                    ensure!(elsewhere && led.served, "c{told_by} hears of {led:?}");
                }
            }
            Ok(())
        })
        .await
    }

    async fn judge(&self) -> Result<(Verdict, Vec<String>)> {
        let node = self.load.node();
        let mut verdict = self.load.judge(&node).await?;
        let (of_visits, broken) = visits::judge(&self.visits, &node).await?;
        verdict.add(of_visits);
        Ok((verdict, broken))
    }

    /// Ends the cluster; its files stay if something was wrong. Returns where.
    pub async fn end(mut self, keep: bool) -> Result<Vec<String>> {
        self.wal.close().await?;
        if !keep {
            self.cluster.stop().await?;
            return Ok(Vec::new());
        }
        let mut places = self.cluster.keep_files();
        places.push(self.folder.keep().display().to_string());
        Ok(places)
    }
}

/// Where nodes can be asked, but for one of them.
fn doors(cluster: &Cluster, without: Option<usize>) -> Vec<Http> {
    let nodes = cluster.nodes.iter().enumerate();
    let nodes = nodes.filter(|(at, _)| Some(*at) != without);
    nodes.map(|(_, node)| node.http.clone()).collect()
}

/// Hash ranges of the tablets of some shards.
struct Ranges(Vec<(u32, u32)>);

impl Ranges {
    async fn of(cluster: &Cluster, shards: &BTreeSet<u64>) -> Result<Self> {
        let mut ranges = Vec::new();
        for &shard in shards {
            ranges.extend(cluster.ranges(shard, 0).await?);
        }
        ensure!(!ranges.is_empty(), "no tablet lies in {shards:?}");
        Ok(Self(ranges))
    }

    /// Whether the rows of a writer lie there.
    fn hold(&self, writer: &str) -> bool {
        let hash = key::partition_hash(&key::encode([Some(writer.as_bytes())]));
        self.0.iter().any(|&(lo, hi)| (lo..=hi).contains(&hash))
    }
}

/// Waits until something lies unread on that many connections to a node; returns on how many.
async fn unread(node: &Http, connections: usize) -> Result<usize> {
    let port = node.base().rsplit_once(':').context("a port")?.1;
    let port: u16 = port.parse().context("a port")?;
    wait::until("requests are parked", SETTLED_WITHIN, || async {
        let unread = process::unread(port)?;
        ensure!(unread >= connections, "{unread} of {connections}");
        Ok(unread)
    })
    .await
}

/// Asks a node for the rows of writers, each as many as are acked by now at least.
fn ask(
    node: &Http,
    load: &Load,
    lies_there: impl Fn(&str) -> bool,
) -> JoinSet<(String, u64, Result<Option<u64>>)> {
    let mut asked = JoinSet::new();
    for (number, acked) in load.acked().into_iter().enumerate() {
        let writer = load::writer(number);
        if !lies_there(&writer) {
            continue;
        }
        let node = Http::new(node.base());
        asked.spawn(async move {
            let count = count(&node, &writer).await;
            (writer, acked, count)
        });
    }
    asked
}

/// Rows of a writer, `None` if the node says that it cannot tell now.
async fn count(node: &Http, writer: &str) -> Result<Option<u64>> {
    let sql = format!("SELECT count(DISTINCT n) FROM {TABLE} WHERE writer = '{writer}'");
    let answer = node.sql_answer(&sql).await?;
    match answer.status {
        200 => {
            let count = answer.json()["rows"][0][0].as_u64();
            Ok(Some(count.context("a count")?))
        }
        503 => Ok(None),
        status => bail!("{sql}: {status} {}", answer.body),
    }
}

async fn answered(mut asked: JoinSet<(String, u64, Result<Option<u64>>)>) -> Result<Reads> {
    let mut reads = Reads::default();
    while let Some(ended) = asked.join_next().await {
        let (writer, acked, count) = ended.context("a reader")?;
        let Some(count) = count? else {
            reads.refused += 1;
            continue;
        };
        reads.answered += 1;
        if count < acked {
            let stale = format!("{writer}: {acked} rows were acked before {count} were read");
            reads.stale.push(stale);
        }
    }
    Ok(reads)
}
