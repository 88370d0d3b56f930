//! A small cluster of real processes: Kafka, one meta node on its own etcd or several on a real one, some
//! compute nodes on one store, which is a bucket or a folder; with proxies between them where wanted
//! ([`ways`]).
//!
//! Never here: what a test expects of it.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use etcd_client::{Client, GetOptions, SortOrder, SortTarget};
use reqwest::Method;
use rustix::process::Signal;
use serde_json::Value;

use crate::http::Http;
use crate::servers::etcd::Etcd;
use crate::servers::kafka::{self, Kafka};
use crate::servers::ports;
use crate::servers::s3::{self, Product, S3Server};
use crate::standalone::{Role, Setup, Standalone};
use crate::wait;

pub mod ways;

use ways::Ways;

/// Bucket and prefix of a cluster that has one.
pub const BUCKET: &str = "rows/cluster";

/// Where meta keeps what it knows in etcd.
pub const ROOT: &str = "/auxo/auxo/";

/// How long a node may take to end that was asked to: it flushes what it leads.
const STOPPED_WITHIN: Duration = Duration::from_secs(120);

/// How a cluster is made.
#[derive(Clone, Debug)]
pub struct Plan {
    /// Compute nodes.
    pub nodes: usize,
    /// Meta nodes; more than one need an etcd besides them.
    pub metas: usize,
    /// Members of a real etcd, 1 or 3; without it the one meta node brings its own.
    pub etcd: Option<usize>,
    /// Shards that meta begins with.
    pub shards: u32,
    /// Brokers of Kafka: 3, each row on at least two of them, or 1, which `wal.allow_weak` takes.
    pub brokers: u16,
    /// Whether its files lie in a bucket; else in a folder that all share.
    pub bucket: bool,
    /// Lines of configuration of every compute node besides addresses, log and store, as TOML.
    pub config: String,
    /// Proxies between its processes, with this seed of their dice; none unless set.
    pub proxies: Option<u64>,
}

impl Default for Plan {
    /// The smallest that has something to forward: two nodes, two shards, one broker, a folder.
    fn default() -> Self {
        Self {
            nodes: 2,
            metas: 1,
            etcd: None,
            shards: 2,
            brokers: 1,
            bucket: false,
            config: String::new(),
            proxies: None,
        }
    }
}

/// A running cluster; its processes end with it.
pub struct Cluster {
    /// The log service.
    pub kafka: Kafka,
    /// The server of its bucket, where it has one.
    pub s3: Option<S3Server>,
    /// Proxies between its processes, where it was planned with them.
    pub ways: Ways,
    /// The etcd, where it is a real one.
    pub etcd: Option<Etcd>,
    /// How the meta nodes are started; they are called `m0`, `m1`, ….
    pub meta_setups: Vec<Setup>,
    /// The meta nodes.
    pub metas: Vec<Standalone>,
    /// How the compute nodes are started; they are called `c0`, `c1`, ….
    pub setups: Vec<Setup>,
    /// The compute nodes.
    pub nodes: Vec<Standalone>,
}

impl Cluster {
    /// Starts everything and waits until each node serves.
    ///
    /// * `folder`: an empty directory for all of it but the files of Kafka and of the bucket.
    pub async fn start(binary: &Path, folder: &Path, plan: &Plan) -> Result<Self> {
        if plan.metas > 1 && plan.etcd.is_none() {
            bail!("{} meta nodes need an etcd", plan.metas);
        }
        if plan.metas > 1 && plan.proxies.is_some() {
            bail!("proxies lead to one meta node, not to {}", plan.metas);
        }
        let mut ways = match plan.proxies {
            Some(seed) => Ways::bind(plan.nodes, plan.brokers, seed).await?,
            None => Ways::default(),
        };
        let mut kafka = kafka::Setup::new(plan.brokers);
        kafka.doors = ways.doors();
        let kafka = kafka.start().await?;
        ways.to_brokers(&kafka);
        let etcd = match plan.etcd {
            Some(members) => Some(Etcd::start(members).await?),
            None => None,
        };
        let log = |bootstrap: &str| {
            let allow_weak = plan.brokers == 1;
            format!("[wal]\nurl = \"kafka://{bootstrap}\"\nallow_weak = {allow_weak}\n")
        };
        let make = |name: &str, role, port, config: String| -> Result<Setup> {
            let own = folder.join(name);
            std::fs::create_dir_all(&own).context("a folder of its own")?;
            let mut setup = Setup::new(binary, &own);
            setup.config = format!("node = \"{name}\"\n{config}");
            setup.role = role;
            setup.internal = Some(port);
            Ok(setup)
        };
        let endpoints = match (&etcd, plan.proxies) {
            (Some(etcd), Some(_)) => ways.before_etcd(etcd).await?,
            (Some(etcd), None) => etcd.endpoints(),
            (None, _) => Vec::new(),
        };
        let shards = plan.shards;
        let of_meta = log(&kafka.bootstrap());
        let of_meta = format!("{of_meta}[meta]\nshards = {shards}\netcd = {endpoints:?}\n");
        let (mut meta_setups, mut members) = (Vec::new(), Vec::new());
        for at in 0..plan.metas {
            let [port] = ports::free()?;
            let mut setup = make(&format!("m{at}"), Role::Meta, port, of_meta.clone())?;
            setup.advertised = ways.meta_advertised;
            members.push(format!("127.0.0.1:{port}"));
            meta_setups.push(setup);
        }
        let metas = meta_setups.iter().map(Setup::spawn);
        let metas = metas.collect::<Result<Vec<_>>>()?;
        let s3 = match plan.bucket {
            true => {
                let gateway = s3::Setup::new(Product::Versitygw).start().await?;
                let (bucket, _) = BUCKET.split_once('/').context("a prefix")?;
                gateway.make_bucket(bucket).await?;
                Some(gateway)
            }
            false => None,
        };
        let folder_store = format!("[store]\nurl = \"local://{}/store\"\n", folder.display());
        let mut setups = Vec::new();
        for at in 0..plan.nodes {
            let [port] = ports::free()?;
            let mut store = match &s3 {
                Some(gateway) => gateway.config(BUCKET),
                None => folder_store.clone(),
            };
            let (mut bootstrap, mut members) = (kafka.bootstrap(), members.clone());
            let mut advertised = None;
            if plan.proxies.is_some() {
                bootstrap = ways.bootstrap(at)?;
                ways.meta[at].target(&members[0]);
                members = vec![ways.meta[at].address()];
                ways.peers[at].target(&format!("127.0.0.1:{port}"));
                advertised = Some(ways.peers[at].port());
                if let Some(gateway) = &s3 {
                    let address = gateway.endpoint().trim_start_matches("http://");
                    ways.s3[at].target(address);
                    let endpoint = format!("http://{}", ways.s3[at].address());
                    store = gateway.config_through(&endpoint, BUCKET);
                }
            }
            let config = format!(
                "{}{store}[meta]\nmembers = {members:?}\n{}",
                log(&bootstrap),
                plan.config
            );
            let mut setup = make(&format!("c{at}"), Role::Compute, port, config)?;
            setup.advertised = advertised;
            setups.push(setup);
        }
        let started = setups.iter().map(Setup::start);
        let nodes = futures::future::try_join_all(started).await?;
        Ok(Self {
            kafka,
            s3,
            ways,
            etcd,
            meta_setups,
            metas,
            setups,
            nodes,
        })
    }

    /// Ends everything as an operator would: compute nodes all at once, then meta, then the servers.
    ///
    /// * errors: names the node that did not end in peace.
    pub async fn stop(&mut self) -> Result<()> {
        for node in &self.nodes {
            node.signal(Signal::TERM)?;
        }
        for (at, node) in self.nodes.iter_mut().enumerate() {
            let status = node.exited(STOPPED_WITHIN).await;
            let status = status.with_context(|| format!("c{at}\n{}", node.log_tail()))?;
            if !status.success() {
                bail!("c{at} ended with {status}\n{}", node.log_tail());
            }
        }
        for (at, meta) in self.metas.iter_mut().enumerate() {
            let status = meta.terminate(STOPPED_WITHIN).await;
            let status = status.with_context(|| format!("m{at}\n{}", meta.log_tail()))?;
            if !status.success() {
                bail!("m{at} ended with {status}\n{}", meta.log_tail());
            }
        }
        if let Some(etcd) = &mut self.etcd {
            etcd.stop().await?;
        }
        self.kafka.stop().await?;
        match &mut self.s3 {
            Some(gateway) => gateway.stop().await,
            None => Ok(()),
        }
    }

    /// Starts everything that was stopped, on the same data, and waits until each node serves.
    pub async fn start_again(&mut self) -> Result<()> {
        for broker in 0..self.kafka.addresses().len() {
            self.kafka.restart(broker)?;
        }
        if let Some(gateway) = &mut self.s3 {
            gateway.restart()?;
            gateway.ready().await?;
        }
        if let Some(etcd) = &mut self.etcd {
            for member in 0..etcd.endpoints().len() {
                etcd.restart(member)?;
            }
            etcd.ready().await?;
        }
        let ready = self.kafka.ready().await;
        ready.with_context(|| self.kafka.log_tail())?;
        let metas = self.meta_setups.iter().map(Setup::spawn);
        self.metas = metas.collect::<Result<_>>()?;
        let started = self.setups.iter().map(Setup::start);
        self.nodes = futures::future::try_join_all(started).await?;
        Ok(())
    }

    /// The doors of its compute nodes.
    pub fn doors(&self) -> Vec<Http> {
        self.nodes.iter().map(|node| node.http.clone()).collect()
    }

    /// Waits until that many shards are served, and no others are known, as every compute node hears it.
    pub async fn served(&self, shards: u32, within: Duration) -> Result<()> {
        wait::until("every shard is served", within, || async {
            for node in 0..self.nodes.len() {
                let led = self.shards(node).await?;
                let all = led.len() == shards as usize && led.iter().all(|led| led.served);
                ensure!(all, "c{node} hears of {led:?}");
            }
            Ok(())
        })
        .await
    }

    /// A client of the real etcd.
    pub async fn etcd_client(&self) -> Result<Client> {
        let etcd = self.etcd.as_ref().context("a real etcd")?;
        Ok(Client::connect(etcd.endpoints(), None).await?)
    }

    /// Which meta node leads, and the revision of etcd since which it does, as the real etcd says.
    pub async fn leading_meta(&self) -> Result<(usize, i64)> {
        let first = GetOptions::new()
            .with_prefix()
            .with_sort(SortTarget::Create, SortOrder::Ascend)
            .with_limit(1);
        let client = self.etcd_client().await?;
        let campaigns = format!("{ROOT}leader/");
        let found = client.kv_client().get(campaigns, Some(first)).await?;
        let first = found.kvs().first().context("nobody leads")?;
        let member: Value = serde_json::from_slice(first.value())?;
        let name = member["name"].as_str().unwrap_or_default();
        let number = name.strip_prefix('m').context("a meta node")?;
        Ok((number.parse()?, first.create_revision()))
    }

    /// What meta lists, as a compute node passes it on.
    async fn ask(&self, path: &str, told_by: usize) -> Result<Value> {
        let http = &self.nodes[told_by].http;
        let answer = http.send(http.request(Method::GET, path)).await?;
        if answer.status != 200 {
            bail!("{path} at c{told_by}: {} {}", answer.status, answer.body);
        }
        Ok(answer.json())
    }

    /// Each shard as meta shows it, in the order of their ids.
    pub async fn shards(&self, told_by: usize) -> Result<Vec<Led>> {
        let nodes = self.ask("/v1/nodes", told_by).await?;
        let mut numbers = BTreeMap::new();
        for node in nodes.as_array().context("a list of nodes")? {
            let name = node["name"].as_str().unwrap_or_default();
            let number = name.strip_prefix('c').context("a compute node")?;
            numbers.insert(node["id"].as_u64(), number.parse::<usize>()?);
        }
        let mut led = Vec::new();
        let listed = self.ask("/v1/shards", told_by).await?;
        for shard in listed.as_array().context("a list of shards")? {
            let leader = shard["leader"].as_u64();
            led.push(Led {
                shard: shard["id"].as_u64().context("id of a shard")?,
                leader: leader.and_then(|id| numbers.get(&Some(id)).copied()),
                served: shard["served"] == true,
            });
        }
        Ok(led)
    }

    /// Which of the compute nodes leads a shard, as another one tells it.
    pub async fn leader(&self, shard: u64, told_by: usize) -> Result<usize> {
        let shards = self.shards(told_by).await?;
        let found = shards.iter().find(|led| led.shard == shard);
        let leader = found.and_then(|led| led.leader);
        leader.with_context(|| format!("shard {shard} in {shards:?}"))
    }

    /// Hash ranges of the tablets of a shard, both ends included.
    pub async fn ranges(&self, shard: u64, told_by: usize) -> Result<Vec<(u32, u32)>> {
        let shown = self.ask(&format!("/v1/shards/{shard}"), told_by).await?;
        let end = |tablet: &Value, name: &str| -> Result<u32> {
            let end = tablet[name].as_u64();
            Ok(end
                .with_context(|| format!("{name} of {tablet}"))?
                .try_into()?)
        };
        let tablets = shown["tablets"].as_array().context("a list of tablets")?;
        let ranges = tablets
            .iter()
            .map(|tablet| Ok((end(tablet, "lo")?, end(tablet, "hi")?)));
        ranges.collect()
    }

    /// The files of Kafka, of the bucket and of the real etcd stay when this ends; returns where.
    pub fn keep_files(&mut self) -> Vec<String> {
        let gateway = self.s3.as_mut().map(S3Server::keep_files);
        let etcd = self.etcd.as_mut().map(Etcd::keep_files);
        let kafka = [self.kafka.keep_files()].into_iter();
        kafka.chain(gateway).chain(etcd).collect()
    }
}

/// Who leads a shard.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Led {
    /// Its id.
    pub shard: u64,
    /// Number of the compute node that is to lead it, if one is.
    pub leader: Option<usize>,
    /// Whether that node says that it does.
    pub served: bool,
}
