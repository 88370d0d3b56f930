//! `auxo compute`, and the compute node of any other process: engine, session with meta, queries and doors, put together in one
//! way whether meta is in the same process or elsewhere.
//!
//! Stop goes the other way round, in two halves: [`Compute::finish`] while meta is still there,
//! [`Compute::stop`] when nothing needs it any more.
//!
//! Never here: which log and store there are.

use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result};
use auxo_compute_node::channels::Channels;
use auxo_compute_node::forward::door::Door;
use auxo_compute_node::forward::peers::Peers;
use auxo_compute_node::node::{Node, NodeLimits, Parts};
use auxo_compute_node::protocols::body::BodyLimits;
use auxo_compute_node::protocols::{influx, listen, router};
use auxo_compute_node::reading;
use auxo_compute_node::session::client::MetaClient;
use auxo_compute_node::session::doors::{Dial, Doors};
use auxo_compute_node::session::{Session, SessionConfig};
use auxo_compute_node::verbs::EngineVerbs;
use auxo_engine::{Engine, Ground, LocalTerms, Settings, Shard};
use auxo_proto::clock::Clock;
use auxo_proto::pb::node::forwarding_server::ForwardingServer;
use auxo_proto::random::Random;
use auxo_query::{Query, QueryConfig, Threads};
use tokio::net::TcpListener;
use tokio_stream::wrappers::TcpListenerStream;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tonic::transport::{Channel, Endpoint, Server};

use crate::STACK_BYTES;
use crate::config::{Config, machine};
use crate::environment::Environment;
use crate::exit;
use crate::services::{Closing, Services};
use crate::standalone::data_dir::DataDir;
use crate::version::VERSION;

/// How a compute node reaches the others, and they it.
pub(crate) struct Network {
    /// Meta.
    pub(crate) doors: Doors,
    /// Internal listeners of other nodes.
    pub(crate) dial: Dial,
    /// Address of the own internal listener; empty where there is only one node.
    pub(crate) internal: String,
    /// For clients, bound already.
    pub(crate) listeners: Vec<TcpListener>,
}

/// A running compute node.
pub(crate) struct Compute {
    node: Node,
    engine: Engine,
    session: Session,
    addresses: Vec<String>,
    tasks: TaskTracker,
    stop: CancellationToken,
    doors_stop: CancellationToken,
    doors: TaskTracker,
    closing: Closing,
}

/// Time to reach another node, and how often a silent connection to one is probed.
const REACH_TIME: Duration = Duration::from_secs(2);

/// How long the flush before a hand-over may take, and how long others may take to lead then.
const HAND_OVER_TIME: (Duration, Duration) = (Duration::from_secs(10), Duration::from_secs(5));

/// How often it is looked whether others lead.
const HAND_OVER_PAUSE: Duration = Duration::from_millis(50);

/// How long statements may run on once the node is asked to end; then they are cancelled, and told so.
const STATEMENTS_TIME: Duration = Duration::from_secs(3);

/// Runs a compute node of a cluster until `shutdown` is cancelled.
pub(crate) async fn run(
    mut config: Config,
    environment: Environment,
    shutdown: CancellationToken,
) -> Result<()> {
    let (clock, random) = (Clock::system(), Random::from_system());
    if config.meta.members.is_empty() {
        return Err(exit::usage(
            "meta.members: a compute node needs a meta node".to_owned(),
        ));
    }
    let listeners = bind(&config).await?;
    let (internal, address) = bind_internal(&config).await?;
    let data_dir = DataDir::open(&config)?;
    config.node = data_dir.node().to_owned();
    let services = Services::open(&config, &environment, &random).await?;
    let dial: Dial = Arc::new(dial);
    let doors = Doors::dialled(&config.meta.members, Arc::clone(&dial))
        .map_err(|member| exit::usage(format!("meta.members: {member:?} is no HOST:PORT")))?;
    let network = Network {
        doors,
        dial,
        internal: address.clone(),
        listeners,
    };
    let compute = Compute::start(
        &config,
        &data_dir,
        services,
        network,
        (clock, random.clone()),
    )
    .await?;
    let stop = CancellationToken::new();
    let reading = compute.reading(random.clone(), stop.clone());
    let served = Server::builder()
        .http2_keepalive_interval(Some(REACH_TIME))
        .http2_keepalive_timeout(Some(REACH_TIME))
        .add_service(reading.holds())
        .add_service(reading.parts())
        .add_service(compute.forwarding(stop.clone()))
        .serve_with_incoming_shutdown(
            TcpListenerStream::new(internal),
            stop.clone().cancelled_owned(),
        );
    compute.tasks.spawn(async move {
        if let Err(error) = served.await {
            tracing::error!(%error, "the internal listener ended");
        }
    });
    compute.say(&config, "compute");
    shutdown.cancelled().await;
    compute.hand_over().await;
    let finished = compute.finish().await;
    stop.cancel();
    let ended = compute.stop().await.and(finished);
    drop(data_dir);
    ended
}

/// A channel to an internal listener; it connects when it is first used.
fn dial(address: &str) -> Option<Channel> {
    let endpoint = Endpoint::from_shared(format!("http://{address}")).ok()?;
    let endpoint = endpoint
        .connect_timeout(REACH_TIME)
        .tcp_nodelay(true)
        .http2_keep_alive_interval(REACH_TIME)
        .keep_alive_timeout(REACH_TIME)
        .keep_alive_while_idle(true);
    Some(endpoint.connect_lazy())
}

/// The internal listener and the address by which others reach it.
pub(crate) async fn bind_internal(config: &Config) -> Result<(TcpListener, String)> {
    let [address] = config.listen.internal.as_slice() else {
        return Err(exit::usage(
            "listen.internal: one address is needed".to_owned(),
        ));
    };
    let advertised = &config.listen.advertised;
    if address.ip().is_unspecified() && advertised.is_empty() {
        let detail = format!(
            "listen.internal: {address} tells other nodes nothing, name an interface, or set listen.advertised"
        );
        return Err(exit::usage(detail));
    }
    let listener = TcpListener::bind(address).await;
    let listener = listener.with_context(|| format!("listen.internal {address}"))?;
    let address = match advertised.is_empty() {
        true => listener.local_addr()?.to_string(),
        false => advertised.clone(),
    };
    Ok((listener, address))
}

/// Binds first: a port in use is found before anything is touched.
pub(crate) async fn bind(config: &Config) -> Result<Vec<TcpListener>> {
    let mut listeners = Vec::new();
    for address in &config.listen.public {
        let listener = TcpListener::bind(address).await;
        listeners.push(listener.with_context(|| format!("listen.public {address}"))?);
    }
    Ok(listeners)
}

impl Compute {
    /// Starts a node over its services.
    pub(crate) async fn start(
        config: &Config,
        data_dir: &DataDir,
        services: Services,
        network: Network,
        (clock, random): (Clock, Random),
    ) -> Result<Self> {
        let (tasks, stop) = (TaskTracker::new(), CancellationToken::new());
        let budget = config.memory.budget.of(machine::memory().0);
        let share = |percent: u64| (budget / 100 * percent) as usize;
        let ground = Ground {
            wal: services.wal,
            store: services.store,
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
        let addresses: Vec<String> = network
            .listeners
            .iter()
            .filter_map(|listener| listener.local_addr().ok())
            .map(|at| at.to_string())
            .collect();
        let session = Session::start(
            SessionConfig {
                name: config.node.clone(),
                public: addresses.first().cloned().unwrap_or_default(),
                internal: network.internal,
                zone: config.zone.clone(),
                labels: Default::default(),
                build: VERSION.to_owned(),
                directory: data_dir.path("node"),
            },
            network.doors.clone(),
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
            spill_bytes_max: config.limits.spill_bytes.0,
            partitions: std::thread::available_parallelism().map_or(2, usize::from),
            text_bytes_max: config.limits.sql_bytes.as_usize(),
        };
        // Each statement may keep a thread for longer than it should, and none keeps another's.
        let threads = config.limits.statements_running.max(query.partitions);
        let statements = Threads::start(threads, STACK_BYTES).context("threads of statements")?;
        let node = Node::new(Parts {
            name: config.node.clone(),
            version: VERSION.to_owned(),
            engine: engine.clone(),
            query: Arc::new(Query::new(&query, clock.clone(), statements)?),
            session: session.clone(),
            meta: MetaClient::new(network.doors, clock.clone(), random.clone()),
            cache: services.cache,
            requests: services.requests,
            channels: Channels::new(Arc::clone(&network.dial)),
            peers: Peers::new(network.dial, tasks.clone(), stop.clone()),
            clock,
            random,
            limits: limits(config, share(10)),
            tasks: tasks.clone(),
        });
        let (doors_stop, doors) = (CancellationToken::new(), TaskTracker::new());
        for listener in network.listeners {
            let router = router::router(node.clone());
            let most = config.limits.connections;
            doors.spawn(listen::serve(listener, router, most, doors_stop.clone()));
        }
        Ok(Self {
            node,
            engine,
            session,
            addresses,
            tasks,
            stop,
            doors_stop,
            doors,
            closing: services.closing,
        })
    }

    /// The service behind which other nodes' writes are applied; its streams end at `stop`.
    fn forwarding(&self, stop: CancellationToken) -> ForwardingServer<Door> {
        let catalog = self.node.catalogs();
        Door::new(self.engine.clone(), catalog, self.tasks.clone(), stop).service()
    }

    /// The services behind which other nodes read; what they hold ends at `stop`.
    fn reading(&self, random: Random, stop: CancellationToken) -> reading::door::Door {
        let (engine, query) = (self.engine.clone(), Arc::clone(self.node.query()));
        let catalog = self.node.catalogs();
        reading::door::Door::new(engine, query, catalog, random, self.tasks.clone(), stop)
    }

    /// Tells where it listens.
    pub(crate) fn say(&self, config: &Config, what: &str) {
        for address in &self.addresses {
            tracing::info!("SQL, line protocol and metrics at http://{address}");
        }
        tracing::info!(data = %config.data_dir.display(), node = self.node.name(), "{what}");
    }

    /// Has others lead what this node leads, and serves on until they do, as far as meta is there to see
    /// to it. What is flushed before they need not replay.
    async fn hand_over(&self) {
        if !*self.session.connected().borrow() {
            return;
        }
        let led = self.engine.shards();
        tracing::info!(
            shards = led.len(),
            "stopping: others are to lead what this node leads"
        );
        let flushed = futures::future::join_all(led.iter().map(Shard::flush));
        // A store that is away keeps nobody: the log has what is not flushed.
        let _ = tokio::time::timeout(HAND_OVER_TIME.0, flushed).await;
        self.session.leave();
        let handed_over = async {
            while !self.engine.shards().iter().all(Shard::is_fenced) {
                tokio::time::sleep(HAND_OVER_PAUSE).await;
            }
        };
        if tokio::time::timeout(HAND_OVER_TIME.1, handed_over)
            .await
            .is_err()
        {
            tracing::warn!("not all shards were taken over in time");
        }
    }

    /// Ends requests under way and gives up every shard, flushed.
    ///
    /// * errors: the first shard that could not be closed; the others are closed all the same.
    pub(crate) async fn finish(&self) -> Result<()> {
        tracing::info!("stopping: requests under way are finished, shards are flushed");
        self.node.drain();
        self.doors_stop.cancel();
        self.doors.close();
        let done = tokio::time::timeout(STATEMENTS_TIME, self.doors.wait()).await;
        if done.is_err() {
            tracing::info!("statements that still run are cancelled");
            self.node.running().end();
            self.doors.wait().await;
        }
        self.engine.close_all().await.context("closing shards")
    }

    /// Ends every task, then the log.
    pub(crate) async fn stop(self) -> Result<()> {
        self.stop.cancel();
        self.tasks.close();
        self.tasks.wait().await;
        self.closing.close().await?;
        tracing::info!("stopped");
        Ok(())
    }
}

/// * `bodies_bytes`: of all bodies of requests together.
fn limits(config: &Config, bodies_bytes: usize) -> NodeLimits {
    NodeLimits {
        body: BodyLimits {
            wire_bytes_max: config.limits.body_bytes.as_usize(),
            decoded_bytes_max: config.limits.decoded_bytes.as_usize(),
            together_bytes_max: bodies_bytes,
            time: config.limits.body_timeout.0,
        },
        lines: influx::Limits {
            line_bytes: config.limits.line_bytes.as_usize(),
            future_ns: i64::try_from(config.limits.future.0.as_nanos()).unwrap_or(i64::MAX),
            ..influx::Limits::default()
        },
        statement_time: config.limits.statement_timeout.0,
        result_rows: config.limits.result_rows,
        result_bytes: config.limits.result_bytes.0,
        statements_running: config.limits.statements_running,
        statements_queued: config.limits.statements_queued,
    }
}
