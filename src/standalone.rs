//! `auxo standalone`: everything in one process, each part as it would stand in a cluster.
//!
//! Start, from the ground up: data directory (locked, checked) → embedded etcd → meta → log and
//! store (checked) → engine → session with meta → doors. Stop, the other way round: the doors finish
//! what they have, shards are flushed and closed, meta gives its lease back, etcd makes its state
//! durable.
//!
//! Rooms: [`data_dir`] (whose directory it is).

mod data_dir;

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use auxo_compute_node::node::{Node, NodeLimits, Parts};
use auxo_compute_node::protocols::body::BodyLimits;
use auxo_compute_node::protocols::{influx, listen, router};
use auxo_compute_node::session::client::MetaClient;
use auxo_compute_node::session::doors::Doors;
use auxo_compute_node::session::in_process::in_process;
use auxo_compute_node::session::{Session, SessionConfig};
use auxo_compute_node::verbs::EngineVerbs;
use auxo_engine::{Engine, Ground, LocalTerms, Settings};
use auxo_meta_service::{MetaConfig, MetaServer};
use auxo_proto::clock::Clock;
use auxo_proto::random::Random;
use auxo_query::{Query, QueryConfig};
use auxo_sst::local_store::LocalStore;
use auxo_sst::store_check;
use auxo_wal_adapters::Wal;
use auxo_wal_adapters::local::{Disk, LocalSettings, LocalWal};
use auxo_wal_adapters::memory::{MemorySettings, MemoryWal};
use object_store::ObjectStore;
use object_store::memory::InMemory;
use tokio::net::TcpListener;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::config::{Config, machine};
use data_dir::DataDir;

/// Longest time for the checks of a start.
const START_TIME: Duration = Duration::from_secs(30);

/// Runs a node of every kind in this process until `shutdown` is cancelled.
pub(crate) async fn run(config: Config, shutdown: CancellationToken) -> Result<()> {
    let (clock, random) = (Clock::system(), Random::from_system());
    let listeners = bind(&config).await?;
    let data_dir = DataDir::open(&config.data_dir, &config.cluster)?;
    let etcd = auxo_etcd::Config {
        data_dir: data_dir.path("etcd"),
        name: config.node.clone(),
        cluster_token: config.cluster.clone(),
        ..auxo_etcd::Config::default()
    };
    let etcd = auxo_etcd::Server::start(etcd, None, random.next_u64()).await?;
    let started = start(&config, &data_dir, &etcd, (clock, random), listeners).await;
    let ended = match started {
        Ok(running) => {
            running.say(&config);
            shutdown.cancelled().await;
            running.stop().await
        }
        Err(error) => Err(error),
    };
    etcd.stop().await;
    drop(data_dir);
    ended
}

/// Binds first: a port in use is found before anything is touched.
async fn bind(config: &Config) -> Result<Vec<TcpListener>> {
    let mut listeners = Vec::new();
    for address in &config.listen.public {
        let listener = TcpListener::bind(address).await;
        listeners.push(listener.with_context(|| format!("listen.public {address}"))?);
    }
    Ok(listeners)
}

/// What runs above etcd.
struct Running {
    node: Node,
    engine: Engine,
    meta: MetaServer,
    wal: Option<LocalWalHandle>,
    addresses: Vec<String>,
    doors_stop: CancellationToken,
    doors: TaskTracker,
    stop: CancellationToken,
    tasks: TaskTracker,
}

type LocalWalHandle = Arc<LocalWal>;

async fn start(
    config: &Config,
    data_dir: &DataDir,
    etcd: &auxo_etcd::Server,
    (clock, random): (Clock, Random),
    listeners: Vec<TcpListener>,
) -> Result<Running> {
    let (tasks, stop) = (TaskTracker::new(), CancellationToken::new());
    let (channel, incoming) = in_process();
    let meta = MetaServer::start(
        MetaConfig {
            cluster: config.cluster.clone(),
            name: config.node.clone(),
            build: env!("CARGO_PKG_VERSION").to_owned(),
            ..MetaConfig::default()
        },
        etcd_client::Client::from_channel(etcd.channel(), None).await?,
        clock.clone(),
        random.clone(),
        incoming,
        CancellationToken::new(),
    )
    .await?;
    let (wal, local_wal) = wal(config).await?;
    let store = store(config, &random).await?;
    let budget = config.memory.budget.of(machine::memory().0);
    let share = |percent: u64| (budget / 100 * percent) as usize;
    let ground = Ground {
        wal,
        store,
        terms: LocalTerms::open(&data_dir.path("terms"))?,
        clock: clock.clone(),
        random: random.clone(),
        tasks: tasks.clone(),
        stop: stop.clone(),
    };
    let settings = Settings {
        flush_bytes: config.flush.unflushed_bytes.0,
        flush_age_ms: config.flush.age.0.as_millis() as u64,
        unflushed_bytes_max: config.flush.unflushed_bytes_max.0,
        compact_every_ms: config.flush.compact_every.0.as_millis() as u64,
        memtable_bytes: share(30),
        request_bytes: config.limits.write_queue_bytes.as_usize(),
        tails_bytes: share(10) as u64,
        ..Settings::default()
    };
    let engine = Engine::new(ground, settings);
    tasks.spawn(engine.clone().keep_within_budget());
    let addresses: Vec<String> = listeners
        .iter()
        .filter_map(|l| l.local_addr().ok())
        .map(|at| at.to_string())
        .collect();
    let doors = Doors::one(channel);
    let session = Session::start(
        SessionConfig {
            name: config.node.clone(),
            public: addresses.first().cloned().unwrap_or_default(),
            internal: String::new(),
            zone: config.zone.clone(),
            labels: Default::default(),
            build: env!("CARGO_PKG_VERSION").to_owned(),
            directory: data_dir.path("node"),
        },
        doors.clone(),
        Arc::new(EngineVerbs::new(engine.clone())),
        clock.clone(),
        random.clone(),
        tasks.clone(),
        stop.clone(),
    )
    .await?;
    let query = QueryConfig {
        memory_bytes: share(20),
        statement_memory_bytes: config.limits.statement_memory.as_usize().min(share(20) / 4),
        spill_dir: Some(data_dir.path("spill")),
        partitions: std::thread::available_parallelism().map_or(2, usize::from),
        ..QueryConfig::default()
    };
    let node = Node::new(Parts {
        name: config.node.clone(),
        version: env!("CARGO_PKG_VERSION").to_owned(),
        engine: engine.clone(),
        query: Query::new(&query, clock.clone())?,
        session,
        meta: MetaClient::new(doors, clock.clone(), random.clone()),
        clock,
        random,
        limits: limits(config),
        tasks: tasks.clone(),
    });
    let (doors_stop, doors) = (CancellationToken::new(), TaskTracker::new());
    for listener in listeners {
        let router = router::router(node.clone());
        let most = config.limits.connections;
        doors.spawn(listen::serve(listener, router, most, doors_stop.clone()));
    }
    Ok(Running {
        node,
        engine,
        meta,
        wal: local_wal,
        addresses,
        doors_stop,
        doors,
        stop,
        tasks,
    })
}

fn limits(config: &Config) -> NodeLimits {
    NodeLimits {
        body: BodyLimits {
            wire_bytes_max: config.limits.body_bytes.as_usize(),
            decoded_bytes_max: config.limits.decoded_bytes.as_usize(),
        },
        lines: influx::Limits {
            line_bytes: config.limits.line_bytes.as_usize(),
            ..influx::Limits::default()
        },
        statement_time: config.limits.statement_timeout.0,
        result_rows: config.limits.result_rows,
        result_bytes: config.limits.result_bytes.0,
        statements_running: config.limits.statements_running,
        statements_queued: config.limits.statements_queued,
    }
}

/// Directory behind a `local://` URL.
fn folder(url: &str) -> Option<PathBuf> {
    url.strip_prefix("local://")
        .map(|path| Path::new(path).to_owned())
}

async fn wal(config: &Config) -> Result<(Arc<dyn Wal>, Option<LocalWalHandle>)> {
    let url = config.wal.url.as_str();
    let Some(folder) = folder(url) else {
        if url == "memory://" {
            return Ok((Arc::new(MemoryWal::new(MemorySettings::default())), None));
        }
        bail!("wal.url {url}: one process has local://DIR or memory://");
    };
    let opened = LocalWal::open(&folder, LocalSettings::default(), Disk::real()).await;
    let local = Arc::new(opened.with_context(|| format!("wal.url {url}"))?);
    let durability = local
        .check()
        .await
        .with_context(|| format!("wal.url {url}"))?;
    tracing::info!(url, ?durability, "write-ahead log");
    Ok((Arc::clone(&local) as Arc<dyn Wal>, Some(local)))
}

async fn store(config: &Config, random: &Random) -> Result<Arc<dyn ObjectStore>> {
    let url = config.store.url.as_str();
    let store: Arc<dyn ObjectStore> = match folder(url) {
        Some(folder) => {
            Arc::new(LocalStore::open(&folder).with_context(|| format!("store.url {url}"))?)
        }
        None if url == "memory://" => Arc::new(InMemory::new()),
        None => bail!("store.url {url}: one process has local://DIR or memory://"),
    };
    let deadline = Instant::now() + START_TIME;
    let checked = store_check::check(&*store, random, deadline).await;
    checked.with_context(|| format!("store.url {url}"))?;
    Ok(store)
}

impl Running {
    /// Tells where it listens.
    fn say(&self, config: &Config) {
        for address in &self.addresses {
            tracing::info!("SQL, line protocol and metrics at http://{address}");
        }
        tracing::info!(data = %config.data_dir.display(), node = self.node.name(), "standalone");
    }

    async fn stop(self) -> Result<()> {
        tracing::info!("stopping: requests under way are finished, shards are flushed");
        self.node.drain();
        self.doors_stop.cancel();
        self.doors.close();
        self.doors.wait().await;
        let closed = self.engine.close_all().await;
        self.meta.stop().await;
        self.stop.cancel();
        self.tasks.close();
        self.tasks.wait().await;
        if let Some(wal) = &self.wal {
            wal.close().await?;
        }
        closed.context("closing shards")?;
        tracing::info!("stopped");
        Ok(())
    }
}
