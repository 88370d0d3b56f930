//! A cluster of which something is killed: a compute node, the meta node, a broker, or everything.
//!
//! Whatever it was, every writer must have a batch acked again that was sent after the kill, before what
//! was killed is started again; only where everything was killed it is started first. How long that took
//! is told for each kind. Rows are judged at a node that is drawn, once everything runs again.

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use integration::cluster::{Cluster, Plan};
use integration::load::{CONFIG, Load, Verdict};
use integration::{binary, disk};
use tokio::time::Instant;

use crate::Arguments;

/// Compute nodes, shards and tablets.
const NODES: usize = 3;
const SHARDS: u32 = 6;

/// How long the cluster may take until every writer goes on.
const RECOVERED_WITHIN: Duration = Duration::from_secs(120);

/// What is killed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Victim {
    Compute(usize),
    Meta,
    Broker(usize),
    Everything,
}

impl Victim {
    fn drawn(load: &Load) -> Self {
        let which = |count: usize| load.dice.below(count as u64) as usize;
        match which(8) {
            0..4 => Self::Compute(which(NODES)),
            4 => Self::Meta,
            5 | 6 => Self::Broker(which(3)),
            _ => Self::Everything,
        }
    }

    fn kind(self) -> &'static str {
        match self {
            Self::Compute(_) => "compute node",
            Self::Meta => "meta node",
            Self::Broker(_) => "broker",
            Self::Everything => "everything",
        }
    }

    fn kill(self, cluster: &mut Cluster) -> Result<()> {
        match self {
            Self::Compute(node) => cluster.nodes[node].kill(),
            Self::Meta => cluster.metas[0].kill(),
            Self::Broker(broker) => cluster.kafka.kill(broker),
            Self::Everything => {
                for node in &mut cluster.nodes {
                    node.kill()?;
                }
                cluster.metas[0].kill()?;
                for broker in 0..cluster.kafka.addresses().len() {
                    cluster.kafka.kill(broker)?;
                }
                Ok(())
            }
        }
    }

    /// Starts what was killed and waits until it serves.
    async fn start(self, cluster: &mut Cluster) -> Result<()> {
        match self {
            Self::Compute(node) => {
                cluster.nodes[node] = cluster.setups[node].start().await?;
            }
            Self::Meta => cluster.metas[0] = cluster.meta_setups[0].spawn()?,
            Self::Broker(broker) => {
                cluster.kafka.restart(broker)?;
                cluster.kafka.ready().await?;
            }
            Self::Everything => {
                for broker in 0..cluster.kafka.addresses().len() {
                    cluster.kafka.restart(broker)?;
                }
                cluster.kafka.ready().await?;
                cluster.metas[0] = cluster.meta_setups[0].spawn()?;
                let started = cluster.setups.iter().map(|setup| setup.start());
                cluster.nodes = futures::future::try_join_all(started).await?;
            }
        }
        Ok(())
    }
}

/// All rounds.
pub(crate) async fn run(arguments: &Arguments) -> Result<Verdict> {
    let folder = disk::folder("kill-loop")?;
    let plan = Plan {
        nodes: NODES,
        shards: SHARDS,
        brokers: 3,
        bucket: true,
        config: CONFIG.to_owned(),
        ..Plan::default()
    };
    let binary = binary::auxo(arguments.auxo.as_deref())?;
    let mut cluster = Cluster::start(&binary, folder.path(), &plan).await?;
    let rounds = rounds(arguments, &mut cluster).await;
    if rounds.is_err() {
        let kept = cluster.keep_files();
        println!("files are kept in {} and {kept:?}", folder.keep().display());
    }
    rounds
}

async fn rounds(arguments: &Arguments, cluster: &mut Cluster) -> Result<Verdict> {
    cluster.served(SHARDS, RECOVERED_WITHIN).await?;
    // Enough that every tablet has one, or nearly: a node that leads none of them is not missed.
    let writers = arguments.writers.max(4 * u64::from(SHARDS));
    let load = Load::new(cluster.doors(), writers, arguments.seed);
    load.create(&format!("PARTITION BY HASH(writer) PARTITIONS {SHARDS}"))
        .await?;
    let mut verdict = Verdict::default();
    let mut times: BTreeMap<&str, Vec<Duration>> = BTreeMap::new();
    for round in 1..=arguments.rounds {
        let writers = load.start_round(round);
        tokio::time::sleep(Duration::from_millis(300 + load.dice.below(2_000))).await;
        let victim = Victim::drawn(&load);
        victim.kill(cluster)?;
        let killed = Instant::now();
        if victim == Victim::Everything {
            victim.start(cluster).await?;
            load.moved(cluster.doors());
        }
        let gone_on = load.gone_on(2, RECOVERED_WITHIN).await;
        gone_on.with_context(|| format!("round {round}, {victim:?} was killed"))?;
        let took = killed.elapsed();
        times.entry(victim.kind()).or_default().push(took);
        if victim != Victim::Everything {
            victim.start(cluster).await?;
            load.moved(cluster.doors());
        }
        load.stop(writers, round).await?;
        cluster.served(SHARDS, RECOVERED_WITHIN).await?;
        let found = load.judge(&load.node()).await?;
        println!(
            "round {round}: {victim:?}, {} rows acked, lost {}, doubled {}, all writers go on after {:.1} s",
            load.acked().iter().sum::<u64>(),
            found.lost,
            found.doubled,
            took.as_secs_f64(),
        );
        verdict.add(found);
    }
    for (kind, mut times) in times {
        times.sort();
        let at =
            |share: f64| times[((times.len() - 1) as f64 * share).round() as usize].as_secs_f64();
        println!(
            "{kind}: killed {} times, all writers go on after: median {:.1} s, p95 {:.1} s",
            times.len(),
            at(0.5),
            at(0.95)
        );
    }
    let (changes, deletes) = load.rewritten();
    println!("rows overwritten and deleted: {changes} changes, {deletes} of them deletes");
    ensure!(deletes > 0, "nothing was deleted");
    Ok(verdict)
}
