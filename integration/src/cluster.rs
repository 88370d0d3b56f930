//! A small cluster of real processes: Kafka, one meta node, some compute nodes on one store, which is
//! a bucket or a folder.
//!
//! Never here: what a test expects of it.

use std::path::Path;

use anyhow::{Context, Result};
use serde_json::Value;

use crate::servers::kafka::{self, Kafka};
use crate::servers::ports;
use crate::servers::versitygw::Versitygw;
use crate::standalone::{Role, Setup, Standalone};

/// Bucket and prefix of a cluster that has one.
pub const BUCKET: &str = "rows/cluster";

/// How a cluster is made.
#[derive(Clone, Debug)]
pub struct Plan {
    /// Compute nodes.
    pub nodes: usize,
    /// Whether its files lie in a bucket; else in a folder that all share.
    pub bucket: bool,
    /// Lines of configuration of every compute node besides addresses, log and store, as TOML.
    pub config: String,
}

/// A running cluster; its processes end with it.
pub struct Cluster {
    /// The log service: one broker.
    pub kafka: Kafka,
    /// The server of its bucket, where it has one.
    pub s3: Option<Versitygw>,
    /// The meta node.
    pub meta: Standalone,
    /// How the compute nodes are started; they are called `c0`, `c1`, ….
    pub setups: Vec<Setup>,
    /// The compute nodes.
    pub nodes: Vec<Standalone>,
}

impl Cluster {
    /// Starts everything and waits until each node serves.
    ///
    /// * `folder`: an empty directory for all of it.
    pub async fn start(binary: &Path, folder: &Path, plan: &Plan) -> Result<Self> {
        let kafka = kafka::Setup::new(1).start().await?;
        let log = format!(
            "[wal]\nurl = \"kafka://{}\"\nallow_weak = true\n",
            kafka.bootstrap()
        );
        let [meta_port] = ports::free()?;
        let make = |name: &str, role, config: String| -> Result<Setup> {
            let own = folder.join(name);
            std::fs::create_dir_all(&own).context("a folder of its own")?;
            let [internal] = ports::free()?;
            let mut setup = Setup::new(binary, &own);
            setup.config = format!("node = \"{name}\"\n{config}");
            setup.role = role;
            setup.internal = Some(internal);
            Ok(setup)
        };
        let mut meta = make("m0", Role::Meta, log.clone())?;
        meta.internal = Some(meta_port);
        let meta = meta.spawn()?;
        let (s3, store) = match plan.bucket {
            true => {
                let gateway = Versitygw::start().await?;
                let (bucket, _) = BUCKET.split_once('/').context("a prefix")?;
                gateway.make_bucket(bucket).await?;
                let store = gateway.config(BUCKET);
                (Some(gateway), store)
            }
            false => {
                let store = folder.join("store");
                (
                    None,
                    format!("[store]\nurl = \"local://{}\"\n", store.display()),
                )
            }
        };
        let config = format!(
            "{log}{store}[meta]\nmembers = [\"127.0.0.1:{meta_port}\"]\n{}",
            plan.config
        );
        let mut setups = Vec::new();
        for at in 0..plan.nodes {
            setups.push(make(&format!("c{at}"), Role::Compute, config.clone())?);
        }
        let started = setups.iter().map(Setup::start);
        let nodes = futures::future::try_join_all(started).await?;
        Ok(Self {
            kafka,
            s3,
            meta,
            setups,
            nodes,
        })
    }

    /// Which of the compute nodes leads a shard, as another one tells it.
    pub async fn leader(&self, shard: u64, told_by: usize) -> Result<usize> {
        let ask = async |path: &str| {
            let http = &self.nodes[told_by].http;
            let answer = http.send(http.request(reqwest::Method::GET, path)).await?;
            anyhow::Ok(answer.json())
        };
        let id = ask(&format!("/v1/shards/{shard}")).await?["leader"].take();
        let nodes = ask("/v1/nodes").await?;
        let named = |node: &&Value| node["id"] == id;
        let node = nodes.as_array().and_then(|all| all.iter().find(named));
        let name = node.and_then(|node| node["name"].as_str());
        let name = name.with_context(|| format!("shard {shard}: {id} among {nodes}"))?;
        let number = name.strip_prefix('c').context("a compute node")?;
        Ok(number.parse()?)
    }
}
