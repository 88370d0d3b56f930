//! `auxo standalone`: everything in one process, each part as it would stand in a cluster.
//!
//! Start, from the ground up: data directory (locked, checked) → embedded etcd → meta → log and
//! store (checked) → compute node. Stop, the other way round: the doors finish what they have, shards
//! are flushed and closed, meta gives its lease back, etcd makes its state durable.
//!
//! Rooms: [`data_dir`] (whose directory it is).

pub(crate) mod data_dir;

use std::sync::Arc;

use anyhow::Result;
use auxo_compute_node::session::doors::Doors;
use auxo_compute_node::session::in_process::in_process;
use auxo_meta_service::{MetaConfig, MetaServer};
use auxo_proto::clock::Clock;
use auxo_proto::random::Random;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use crate::compute::{Compute, Network, bind};
use crate::config::Config;
use crate::environment::Environment;
use crate::services::Services;
use crate::version::VERSION;
use data_dir::DataDir;

/// Runs a node of every kind in this process until `shutdown` is cancelled.
pub(crate) async fn run(
    mut config: Config,
    environment: Environment,
    shutdown: CancellationToken,
) -> Result<()> {
    let (clock, random) = (Clock::system(), Random::from_system());
    let listeners = bind(&config).await?;
    let data_dir = DataDir::open(&config)?;
    config.node = data_dir.node().to_owned();
    let etcd = auxo_etcd::Config {
        data_dir: data_dir.path("etcd"),
        name: config.node.clone(),
        cluster_token: config.cluster.clone(),
        ..auxo_etcd::Config::default()
    };
    let etcd = auxo_etcd::Supervised::start(etcd, random.next_u64()).await?;
    let sources = (clock, random);
    let started = start(&config, &environment, &data_dir, &etcd, sources, listeners);
    let started = started.await;
    let ended = match started {
        Ok((compute, meta)) => {
            compute.say(&config, "standalone");
            shutdown.cancelled().await;
            let finished = compute.finish().await;
            meta.stop().await;
            compute.stop().await.and(finished)
        }
        Err(error) => Err(error),
    };
    etcd.stop().await;
    drop(data_dir);
    ended
}

/// What runs above etcd.
async fn start(
    config: &Config,
    environment: &Environment,
    data_dir: &DataDir,
    etcd: &auxo_etcd::Supervised,
    (clock, random): (Clock, Random),
    listeners: Vec<TcpListener>,
) -> Result<(Compute, MetaServer)> {
    let (channel, incoming) = in_process();
    let meta = MetaServer::start(
        MetaConfig {
            cluster: config.cluster.clone(),
            name: config.node.clone(),
            build: VERSION.to_owned(),
            shards: config.meta.shards,
            wal_service: config.wal.url.service().to_owned(),
            ..MetaConfig::default()
        },
        etcd_client::Client::from_channel(etcd.channel(), None).await?,
        clock.clone(),
        random.clone(),
        incoming,
        CancellationToken::new(),
    )
    .await?;
    let network = Network {
        doors: Doors::one(channel),
        // There is no other node.
        dial: Arc::new(|_| None),
        internal: String::new(),
        listeners,
    };
    let compute = async {
        let services = Services::open(config, environment, &random).await?;
        Compute::start(config, data_dir, services, network, (clock, random.clone())).await
    };
    match compute.await {
        Ok(compute) => Ok((compute, meta)),
        Err(error) => {
            meta.stop().await;
            Err(error)
        }
    }
}
