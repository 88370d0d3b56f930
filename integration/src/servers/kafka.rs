//! Apache Kafka: one node, or three with a replication factor of three.
//!
//! 1. `install` brings the jars and an archive of their loaded classes into the cache, once a machine.
//! 2. A node's directory is written as the formatting tool would, from a checkpoint kept in the cache:
//!    no second Java per node.
//! 3. All nodes start together; the cluster is ready when each answers with the cluster's own id and
//!    with all brokers, so that another server on the same port is never taken for it.
//!
//! Rooms: this file (the cluster and what can be done to it), `install`, `node` (files and command
//! line of one node), [`wire`] (the one request that is asked over a socket).

use std::collections::BTreeMap;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use auxo_proto::random::Random;
use rustix::process::Signal;
use tempfile::TempDir;

use super::watched::Watched;
use crate::{disk, wait};
use node::{Node, Ports};

mod install;
mod node;
pub mod wire;

pub use install::install;

/// How long a cluster may take until it is ready, on a machine that has other things to do.
const READY_WITHIN: Duration = Duration::from_secs(120);

/// How long nodes may take to stop before they are killed.
const STOPPED_WITHIN: Duration = Duration::from_secs(15);

/// How often other ports are tried when somebody else was faster.
const ATTEMPTS: usize = 3;

/// What a cluster is like.
#[derive(Clone, Debug)]
pub struct Setup {
    /// Brokers, each a controller too: 1 or 3. Topics get as many replicas.
    pub nodes: u16,
    /// Settings of the brokers besides those of a test node; the later of two wins.
    pub settings: BTreeMap<String, String>,
    /// Further ways in: for each, the ports at which who comes that way is told to find the brokers. A
    /// proxy stands there that goes on to [`Kafka::behind`].
    pub doors: Vec<Vec<u16>>,
}

impl Setup {
    /// A cluster of that many nodes with the settings of a test node.
    pub fn new(nodes: u16) -> Self {
        Self {
            nodes,
            settings: BTreeMap::new(),
            doors: Vec::new(),
        }
    }

    /// Starts it and waits until it is ready; installs Kafka at the first call on a machine.
    ///
    /// * errors: end with the last lines of each node's log.
    pub async fn start(&self) -> Result<Kafka> {
        if !matches!(self.nodes, 1 | 3) {
            bail!("a cluster has 1 or 3 nodes");
        }
        let installed = install().await?;
        let mut attempt = 1;
        loop {
            let mut kafka = Kafka::new(self, &installed)?;
            let Err(error) = kafka.start_all().await else {
                return Ok(kafka);
            };
            let log = kafka.log_tail();
            if attempt == ATTEMPTS || !log.contains("Address already in use") {
                let kept = kafka.keep_files();
                bail!("{error:#}\n{log}\nfiles are kept in {kept}");
            }
            attempt += 1;
        }
    }
}

/// A cluster and its files; both end with it, but for the files when a test panics.
pub struct Kafka {
    id: String,
    nodes: Vec<Node>,
    /// `None` once the files are to stay.
    folder: Option<TempDir>,
}

impl Kafka {
    fn new(setup: &Setup, installed: &install::Installed) -> Result<Self> {
        let random = Random::from_system();
        let id = node::uuid(&random);
        let folder = disk::folder("kafka")?;
        let mut ports = Vec::new();
        for _ in 0..setup.nodes {
            ports.push(Ports::free(setup.doors.len())?);
        }
        let mut nodes = Vec::new();
        for index in 0..usize::from(setup.nodes) {
            let place = folder.path().join(format!("node-{}", index + 1));
            let node = Node::prepare(setup, installed, &place, &id, index, &ports, &random);
            nodes.push(node.with_context(|| place.display().to_string())?);
        }
        Ok(Self {
            id,
            nodes,
            folder: Some(folder),
        })
    }

    async fn start_all(&mut self) -> Result<()> {
        for node in &mut self.nodes {
            node.start()?;
        }
        self.ready().await
    }

    /// Where clients begin that come straight.
    pub fn bootstrap(&self) -> String {
        self.addresses().join(",")
    }

    /// Where clients of each node come straight.
    pub fn addresses(&self) -> Vec<String> {
        let own = self.nodes.iter();
        own.map(|node| format!("127.0.0.1:{}", node.ports.client))
            .collect()
    }

    /// Where each node listens for those who come through that one of its doors.
    pub fn behind(&self, door: usize) -> Vec<String> {
        let own = self.nodes.iter();
        own.map(|node| format!("127.0.0.1:{}", node.ports.doors[door]))
            .collect()
    }

    /// Waits until every node that runs answers with all that run.
    pub async fn ready(&mut self) -> Result<()> {
        let (id, mut running) = (self.id.clone(), 0);
        for node in &self.nodes {
            running += usize::from(node.process.is_some());
        }
        for node in self.nodes.iter_mut() {
            let Some(process) = &mut node.process else {
                continue;
            };
            let address = format!("127.0.0.1:{}", node.ports.client);
            let what = format!("node {} is ready", node.number);
            let answered = wait::until(&what, READY_WITHIN, || {
                let (address, id) = (&address, &id);
                let ended = process.ended();
                async move {
                    if let Some(status) = ended? {
                        return Ok(Err(anyhow::anyhow!("Kafka ended with {status}")));
                    }
                    let cluster = wire::cluster(address, &[]).await?;
                    if cluster.id.as_ref() != Some(id) || cluster.brokers.len() < running {
                        bail!("{address} answers as {cluster:?}");
                    }
                    Ok(Ok(()))
                }
            });
            answered.await??;
        }
        Ok(())
    }

    /// The node, from 0 on, that leads partition 0 of the topic.
    pub async fn leader(&self, topic: &str) -> Result<usize> {
        let mut last = None;
        for address in self.addresses() {
            match wire::cluster(&address, &[topic]).await {
                Ok(cluster) => last = cluster.leaders.get(topic).copied().or(last),
                Err(_) => continue,
            }
        }
        let number = last.with_context(|| format!("nobody leads {topic}"))?;
        Ok(usize::try_from(number - 1)?)
    }

    /// Stops its processor time (SIGSTOP): connections stay, nothing is answered.
    pub fn pause(&self, node: usize) -> Result<()> {
        self.process(node)?.signal(Signal::STOP)
    }

    /// Ends a pause.
    pub fn resume(&self, node: usize) -> Result<()> {
        self.process(node)?.signal(Signal::CONT)
    }

    /// Ends the node at once, as a crash would.
    pub fn kill(&mut self, node: usize) -> Result<()> {
        match self.nodes[node].process.take() {
            Some(mut process) => process.kill(),
            None => bail!("node {} does not run", node + 1),
        }
    }

    /// Starts a node that was killed, on the same ports and data; does not wait.
    pub fn restart(&mut self, node: usize) -> Result<()> {
        self.nodes[node].start()
    }

    /// Stops all nodes together, as one alone may not get through a controlled stop; one that does not
    /// get through it all the same is killed.
    pub async fn stop(&mut self) -> Result<()> {
        for node in &self.nodes {
            if let Some(process) = &node.process {
                process.signal(Signal::TERM)?;
            }
        }
        for node in &mut self.nodes {
            if let Some(mut process) = node.process.take()
                && process.exited(STOPPED_WITHIN).await.is_err()
            {
                process.kill()?;
            }
        }
        Ok(())
    }

    /// Directory of a node's logs, one folder per partition.
    pub fn data(&self, node: usize) -> &Path {
        &self.nodes[node].data
    }

    /// The end of each node's log.
    pub fn log_tail(&self) -> String {
        let tails = self.nodes.iter().map(|node| {
            let tail = node.log_tail();
            format!("--- node {}\n{tail}", node.number)
        });
        tails.collect::<Vec<_>>().join("\n")
    }

    /// The files stay when this ends; returns where.
    pub fn keep_files(&mut self) -> String {
        match self.folder.take() {
            Some(folder) => folder.keep().display().to_string(),
            None => "the place already named".to_owned(),
        }
    }

    fn process(&self, node: usize) -> Result<&Watched> {
        let process = self.nodes[node].process.as_ref();
        process.with_context(|| format!("node {} does not run", node + 1))
    }
}

impl Drop for Kafka {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("files of Kafka are kept in {}", self.keep_files());
        }
    }
}
