//! What a fault is tried on: a cluster of its own, writers and readers on it.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use integration::cluster::{Cluster, Plan};
use integration::load::{CONFIG, Load};
use integration::{disk, topics, wait};
use reqwest::Method;
use tempfile::TempDir;
use tokio::task::JoinSet;
use tokio::time::Instant;

use crate::Settings;
use crate::reads::Reads;
use crate::row::Row;

/// Compute nodes.
pub(crate) const NODES: usize = 3;

/// Shards, and tablets of the writers' table.
pub(crate) const SHARDS: u32 = 6;

/// How long a cluster may take until it serves, or until all writers go on.
const SERVED_WITHIN: Duration = Duration::from_secs(120);

/// A cluster under load.
pub(crate) struct Ground {
    pub(crate) cluster: Cluster,
    pub(crate) load: Arc<Load>,
    pub(crate) reads: Vec<Arc<Reads>>,
    tasks: JoinSet<Result<()>>,
    began: Instant,
    folder: Option<TempDir>,
}

/// A plan of three nodes, a bucket and proxies.
pub(crate) fn plan(settings: &Settings, brokers: u16, config: &str) -> Plan {
    Plan {
        nodes: NODES,
        shards: SHARDS,
        brokers,
        bucket: true,
        config: config.to_owned(),
        proxies: Some(settings.seed),
        ..Plan::default()
    }
}

impl Ground {
    /// Starts a cluster of which everything is flushed and compacted again and again, and a load.
    ///
    /// * modes: how readers ask.
    /// * returns: once every writer was acked.
    pub(crate) async fn start(
        settings: &Settings,
        brokers: u16,
        modes: &[&'static str],
    ) -> Result<Self> {
        Self::start_as(settings, &plan(settings, brokers, CONFIG), modes).await
    }

    /// The same by another plan.
    pub(crate) async fn start_as(
        settings: &Settings,
        plan: &Plan,
        modes: &[&'static str],
    ) -> Result<Self> {
        let folder = disk::folder("faults")?;
        let cluster = Cluster::start(&settings.binary, folder.path(), plan).await?;
        cluster.served(SHARDS, SERVED_WITHIN).await?;
        wait::until("shards are spread evenly", SERVED_WITHIN, || async {
            let shards = cluster.shards(0).await?;
            for node in 0..NODES {
                let led = shards.iter().filter(|led| led.leader == Some(node));
                let led = led.count();
                ensure!(led == SHARDS as usize / NODES, "c{node} leads {led}");
            }
            Ok(())
        })
        .await?;
        let load = Load::new(cluster.doors(), settings.writers, settings.seed);
        load.create(&format!("PARTITION BY HASH(writer) PARTITIONS {SHARDS}"))
            .await?;
        let mut tasks = load.start();
        load.gone_on(2, SERVED_WITHIN).await?;
        let reads = modes
            .iter()
            .map(|mode| Reads::start(mode, &load, &mut tasks));
        let reads = reads.collect();
        let mut ground = Self {
            cluster,
            load,
            reads,
            tasks,
            began: Instant::now(),
            folder: Some(folder),
        };
        if settings.keep {
            ground.keep();
        }
        Ok(ground)
    }

    /// The fault begins: from here on what clients are told is in the row.
    pub(crate) fn breaks(&mut self) {
        self.load.told.forget();
        for reads in &self.reads {
            reads.begin();
        }
        self.began = Instant::now();
    }

    /// The fault is over: waits until every writer goes on, lets them end, judges all rows.
    ///
    /// * returns: a row that is held already to what every row promises: nothing is lost or doubled, no
    ///   answer is partial, every writer goes on.
    pub(crate) async fn heals(&mut self) -> Result<Row> {
        let mut row = Row {
            broken: self.began.elapsed(),
            ..Row::default()
        };
        let healed = Instant::now();
        match self.load.gone_on(1, SERVED_WITHIN).await {
            Ok(()) => row.goes_on = Some(healed.elapsed()),
            Err(error) => row.unkept.push(format!("{error:#}")),
        }
        row.writes = self.load.told.all();
        for reads in &self.reads {
            row.reads.insert(reads.mode(), reads.told());
        }
        if row.goes_on.is_none() {
            self.keep();
            self.tasks.shutdown().await;
            return Ok(row);
        }
        if let Err(error) = self.load.stop(std::mem::take(&mut self.tasks), 1).await {
            row.unkept.push(format!("{error:#}"));
        }
        for reads in &self.reads {
            for wrong in reads.wrong() {
                row.unkept.push(format!("no answer is partial: {wrong}"));
            }
        }
        self.cluster.served(SHARDS, SERVED_WITHIN).await?;
        // Shards may move back to where they were: a node may say later for a moment.
        let verdict = wait::until("all rows are judged", SERVED_WITHIN, || async {
            self.load.judge(&self.load.node()).await
        })
        .await?;
        row.promise(verdict.lost == 0 && verdict.doubled == 0, || {
            format!("no row is lost or doubled: {verdict:?}")
        });
        row.verdict = Some(verdict);
        if !row.unkept.is_empty() {
            self.keep();
        }
        Ok(row)
    }

    /// Waits until each shard has committed a manifest after this call.
    pub(crate) async fn flushed(&self, within: Duration) -> Result<()> {
        let before = self.manifests().await?;
        wait::until("every shard has flushed", within, || async {
            let now = self.manifests().await?;
            let further = before.iter().zip(&now).all(|(before, now)| {
                let (shard, before) = before;
                now.0 == shard && now.1 > before
            });
            ensure!(further && now.len() == before.len(), "{before:?}, {now:?}");
            Ok(())
        })
        .await
    }

    /// Number of the newest manifest of each shard, as its leader shows it.
    async fn manifests(&self) -> Result<BTreeMap<String, u64>> {
        let mut newest = BTreeMap::new();
        for node in &self.cluster.nodes {
            let page = node
                .http
                .send(node.http.request(Method::GET, "/metrics"))
                .await?;
            for line in page.body.lines() {
                let Some(rest) = line.strip_prefix("auxo_flush_manifest{") else {
                    continue;
                };
                let (shard, number) = rest.rsplit_once(' ').context("a number")?;
                let number = number.parse::<f64>()? as u64;
                let known: &mut u64 = newest.entry(shard.to_owned()).or_default();
                *known = number.max(*known);
            }
        }
        ensure!(newest.len() == SHARDS as usize, "{newest:?}");
        Ok(newest)
    }

    /// First offset of each shard's log.
    pub(crate) async fn first_offsets(&self) -> Result<Vec<u64>> {
        let topics = topics::of_shards(&self.cluster.kafka.bootstrap()).await?;
        Ok(topics.into_values().map(|topic| topic.first).collect())
    }

    /// Nobody reads or writes any more, whatever they wait for.
    pub(crate) async fn abandon(&mut self) {
        self.tasks.shutdown().await;
    }

    /// The files of this ground stay, and it is said where.
    pub(crate) fn keep(&mut self) {
        if let Some(folder) = self.folder.take() {
            let servers = self.cluster.keep_files();
            println!(
                "files are kept in {} and {servers:?}",
                folder.keep().display()
            );
        }
    }
}
