//! `auxo meta`: one meta node, on its embedded etcd or on a real one.
//!
//! Start: data directory → etcd (embedded, or reached by URL) → meta, whose listener compute nodes and
//! other meta nodes reach. Of several meta nodes on one etcd one leads, the others redirect to it.
//!
//! Never here: what meta decides.

use anyhow::{Context, Result};
use auxo_meta_service::store::connect;
use auxo_meta_service::{MetaConfig, MetaServer};
use auxo_proto::clock::Clock;
use auxo_proto::random::Random;
use tokio_stream::wrappers::TcpListenerStream;
use tokio_util::sync::CancellationToken;

use crate::compute::bind_internal;
use crate::config::Config;
use crate::standalone::data_dir::DataDir;
use crate::version::VERSION;

/// Runs a meta node until `shutdown` is cancelled.
pub(crate) async fn run(mut config: Config, shutdown: CancellationToken) -> Result<()> {
    let (clock, random) = (Clock::system(), Random::from_system());
    let (listener, address) = bind_internal(&config).await?;
    let data_dir = DataDir::open(&config)?;
    config.node = data_dir.node().to_owned();
    let embedded = match config.meta.etcd.is_empty() {
        false => None,
        true => {
            let etcd = auxo_etcd::Config {
                data_dir: data_dir.path("etcd"),
                name: config.node.clone(),
                cluster_token: config.cluster.clone(),
                ..auxo_etcd::Config::default()
            };
            Some(auxo_etcd::Supervised::start(etcd, random.next_u64()).await?)
        }
    };
    let client = match &embedded {
        Some(etcd) => etcd_client::Client::from_channel(etcd.channel(), None).await,
        None => connect(&config.meta.etcd).await,
    };
    let etcd = match embedded {
        Some(_) => "embedded".to_owned(),
        None => config.meta.etcd.join(", "),
    };
    let started = async {
        let client = client.with_context(|| format!("meta.etcd {etcd}"))?;
        let meta = MetaConfig {
            cluster: config.cluster.clone(),
            name: config.node.clone(),
            api: address.clone(),
            build: VERSION.to_owned(),
            shards: config.meta.shards,
            wal_service: config.wal.url.service().to_owned(),
        };
        let incoming = TcpListenerStream::new(listener);
        let stop = CancellationToken::new();
        let started = MetaServer::start(meta, client, clock, random, incoming, stop).await;
        started.with_context(|| format!("meta.etcd {etcd}"))
    };
    let ended = match started.await {
        Ok(meta) => {
            tracing::info!(node = config.node, address, etcd, "meta");
            shutdown.cancelled().await;
            meta.stop().await;
            tracing::info!("stopped");
            Ok(())
        }
        Err(error) => Err(error),
    };
    if let Some(etcd) = embedded {
        etcd.stop().await;
    }
    drop(data_dir);
    ended
}
