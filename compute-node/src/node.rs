//! What every door of a compute node stands on: the engine, the query engine, the catalog, the way
//! to meta, and the numbers it shows.
//!
//! Never here: bytes of a protocol.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use auxo_engine::Engine;
use auxo_proto::clock::Clock;
use auxo_proto::ddl::{Ddl, DdlRequest};
use auxo_proto::error::{ErrorCode, Failure, Outcome};
use auxo_proto::ids::TenantId;
use auxo_proto::random::Random;
use auxo_proto::topology::Catalog;
use auxo_query::{Query, Slot};
use auxo_sst::cache::{CachedStore, Counts};
use auxo_sst::s3::requests::{Asked, Requests};
use tokio::sync::{Semaphore, watch};
use tokio::time::Instant;
use tokio_util::task::TaskTracker;

use crate::channels::Channels;
use crate::forward::peers::Peers;
use crate::metrics::Counters;
use crate::protocols::body::{BodyLimits, Intake};
use crate::protocols::influx;
use crate::reading::places::Places;
use crate::running::Running;
use crate::session::Session;
use crate::session::client::{Changed, MetaClient};
use crate::write::{Routes, Writer};

/// The tenant of a process that knows no tokens.
pub const DEFAULT_TENANT: TenantId = TenantId(1);

/// Database of requests that name none.
pub const DEFAULT_DATABASE: &str = "main";

/// Longest wait for a change of the model.
pub const DDL_TIME: Duration = Duration::from_secs(30);

/// What requests may ask for.
#[derive(Clone, Debug)]
pub struct NodeLimits {
    /// Bodies of requests.
    pub body: BodyLimits,
    /// Lines of line protocol.
    pub lines: influx::Limits,
    /// How long a statement may run unless it asks for less.
    pub statement_time: Duration,
    /// Rows of one reply.
    pub result_rows: u64,
    /// Bytes of one reply, as Arrow arrays.
    pub result_bytes: u64,
    /// Statements that run at once.
    pub statements_running: usize,
    /// Statements that wait for one of those to end.
    pub statements_queued: usize,
}

/// Everything a node is made of; all handed in.
pub struct Parts {
    /// Shown in replies and logs.
    pub name: String,
    /// Version of the program.
    pub version: String,
    /// The shards.
    pub engine: Engine,
    /// Statements.
    pub query: Arc<Query>,
    /// The session with meta.
    pub session: Session,
    /// Changes of the model.
    pub meta: MetaClient,
    /// Streams to the other nodes.
    pub peers: Peers,
    /// Channels to the other nodes.
    pub channels: Channels,
    /// The own disk's part of the store, where there is one.
    pub cache: Option<Arc<CachedStore>>,
    /// How often the bucket was asked, where there is one.
    pub requests: Requests,
    /// Wall time.
    pub clock: Clock,
    /// Dice.
    pub random: Random,
    /// What requests may ask for.
    pub limits: NodeLimits,
    /// Answers that outlive their handler are written here.
    pub tasks: TaskTracker,
}

/// One compute node. Clones are handles of the same node.
#[derive(Clone)]
pub struct Node(Arc<Inner>);

struct Inner {
    parts: Parts,
    catalog: watch::Receiver<Arc<Catalog>>,
    writer: Writer,
    places: Places,
    parsers: influx::pool::Pool,
    intake: Intake,
    running: Running,
    counters: Counters,
    slots: Arc<Semaphore>,
    queue: Arc<Semaphore>,
    draining: AtomicBool,
    started: Instant,
}

impl Node {
    /// A node over its parts.
    pub fn new(parts: Parts) -> Self {
        let limits = &parts.limits;
        let slots = limits.statements_running.max(1);
        Self(Arc::new(Inner {
            catalog: parts.session.catalog(),
            writer: Writer::new(
                parts.engine.clone(),
                parts.clock.clone(),
                Routes {
                    peers: parts.peers.clone(),
                    catalog: parts.session.catalog(),
                    node: parts.session.node(),
                },
            ),
            places: Places {
                engine: parts.engine.clone(),
                catalog: parts.session.catalog(),
                node: parts.session.node(),
                channels: parts.channels.clone(),
            },
            parsers: influx::pool::Pool::new(limits.lines, parts.random.clone()),
            intake: Intake::new(limits.body),
            running: Running::default(),
            counters: Counters::default(),
            slots: Arc::new(Semaphore::new(slots)),
            queue: Arc::new(Semaphore::new(slots + limits.statements_queued)),
            draining: AtomicBool::new(false),
            started: Instant::now(),
            parts,
        }))
    }

    /// Its name.
    pub fn name(&self) -> &str {
        &self.0.parts.name
    }

    /// Version of the program.
    pub fn version(&self) -> &str {
        &self.0.parts.version
    }

    /// The shards.
    pub fn engine(&self) -> &Engine {
        &self.0.parts.engine
    }

    /// Statements.
    pub fn query(&self) -> &Arc<Query> {
        &self.0.parts.query
    }

    /// Writes.
    pub fn writer(&self) -> &Writer {
        &self.0.writer
    }

    /// Where tablets are read.
    pub(crate) fn places(&self) -> &Places {
        &self.0.places
    }

    /// Parsers of line protocol, kept warm.
    pub(crate) fn parsers(&self) -> &influx::pool::Pool {
        &self.0.parsers
    }

    /// Bodies of requests.
    pub(crate) fn intake(&self) -> &Intake {
        &self.0.intake
    }

    /// What the cache of the store has done; nothing where there is none.
    pub(crate) fn cache_counts(&self) -> Counts {
        let cache = self.0.parts.cache.as_ref();
        cache.map(|cache| cache.counts()).unwrap_or_default()
    }

    /// How often the bucket was asked.
    pub(crate) fn asked(&self) -> Asked {
        self.0.parts.requests.asked()
    }

    /// Writes handed to other nodes, and their bytes.
    pub(crate) fn forwarded(&self) -> (u64, u64) {
        self.0.parts.peers.forwarded()
    }

    /// What `/metrics` counts.
    pub fn counters(&self) -> &Counters {
        &self.0.counters
    }

    /// Statements that run now.
    pub fn running(&self) -> &Running {
        &self.0.running
    }

    /// Wall time.
    pub fn clock(&self) -> &Clock {
        &self.0.parts.clock
    }

    /// Where tasks of requests are spawned.
    pub fn tasks(&self) -> &TaskTracker {
        &self.0.parts.tasks
    }

    /// Dice.
    pub fn random(&self) -> &Random {
        &self.0.parts.random
    }

    /// What requests may ask for.
    pub fn limits(&self) -> &NodeLimits {
        &self.0.parts.limits
    }

    /// Seconds since the node was made.
    pub fn uptime_s(&self) -> u64 {
        self.0.started.elapsed().as_secs()
    }

    /// The newest catalog.
    ///
    /// * errors: `META_UNAVAILABLE` as long as this node never heard of a topology: what it does not
    ///   know yet must not look as if it did not exist.
    pub fn catalog(&self) -> Result<Arc<Catalog>, Failure> {
        let catalog = Arc::clone(&self.0.catalog.borrow());
        match catalog.topology().number {
            0 => Err(Failure::new(
                ErrorCode::MetaUnavailable,
                "this node waits for its first topology",
            )
            .outcome(Outcome::Rejected)),
            _ => Ok(catalog),
        }
    }

    /// The newest catalog, each time there is one.
    pub fn catalogs(&self) -> watch::Receiver<Arc<Catalog>> {
        self.0.catalog.clone()
    }

    /// From now on the node is not ready and takes no new work.
    pub fn drain(&self) {
        self.0.draining.store(true, Ordering::Relaxed);
    }

    /// Whether the node is about to stop.
    pub fn draining(&self) -> bool {
        self.0.draining.load(Ordering::Relaxed)
    }

    /// Refuses work while the node is about to stop.
    pub fn admit(&self) -> Result<(), Failure> {
        match self.draining() {
            true => Err(Failure::new(
                ErrorCode::Draining,
                "the node is shutting down",
            )),
            false => Ok(()),
        }
    }

    /// A place among the running statements, waited for in a bounded queue.
    ///
    /// * errors: `BUSY` when the queue is full, `TIMEOUT` at the deadline.
    pub async fn statement_slot(&self, deadline: Instant) -> Result<Slot, Failure> {
        let queued = Arc::clone(&self.0.queue).try_acquire_owned().map_err(|_| {
            Failure::new(
                ErrorCode::Busy,
                "too many statements run or wait on this node",
            )
        })?;
        let running = Arc::clone(&self.0.slots).acquire_owned();
        match tokio::time::timeout_at(deadline, running).await {
            Ok(Ok(running)) => Ok(Arc::new((queued, running))),
            Ok(Err(_)) => Err(Failure::new(
                ErrorCode::Draining,
                "the node is shutting down",
            )),
            Err(_) => Err(
                Failure::new(ErrorCode::Timeout, "no statement ended in time")
                    .outcome(Outcome::Rejected),
            ),
        }
    }

    /// Has a change of the model carried out and waits until this node's catalog shows it, `within` at
    /// most.
    pub async fn change(
        &self,
        tenant: TenantId,
        ddl: Ddl,
        within: Duration,
    ) -> Result<Changed, Failure> {
        let request = DdlRequest {
            tenant,
            ddl,
            request_key: None,
        };
        let deadline = Instant::now() + within;
        let changed = self.0.parts.meta.ddl(request, within).await?;
        match self
            .0
            .parts
            .session
            .wait_topology(changed.topology, deadline)
            .await
        {
            true => Ok(changed),
            false => Err(Failure::new(
                ErrorCode::SchemaChanging,
                "the change is made, but this node has not heard of it yet",
            )),
        }
    }

    /// What meta shows of a part of the cluster, as JSON.
    pub async fn show(&self, verb: &str, target: &str) -> Result<String, Failure> {
        self.0
            .parts
            .meta
            .admin(verb, target, Duration::from_secs(10))
            .await
    }

    /// What has to hold for the node to serve, each with a word on why it does not.
    pub fn checks(&self) -> Vec<(&'static str, Result<(), String>)> {
        let catalog = self.0.catalog.borrow().clone();
        let me = *self.0.parts.session.node().borrow();
        let all = &catalog.topology().shards;
        let shards: Vec<_> = all.iter().filter(|shard| shard.leader == me).collect();
        let closed = shards
            .iter()
            .filter(|shard| {
                let led = self.engine().shard(shard.id);
                led.is_none_or(|led| led.status().ended.is_some())
            })
            .count();
        let open = match (shards.len(), closed) {
            // Led elsewhere, all of them: this node forwards.
            (0, _) if me.is_some() && all.iter().any(|shard| shard.leader.is_some()) => Ok(()),
            (0, _) => Err("no shard was assigned yet".to_owned()),
            (_, 0) => Ok(()),
            (all, closed) => {
                let parked = shards.iter().find_map(|shard| {
                    let why = self.engine().parked(shard.id)?;
                    Some(format!(", shard {} is parked: {why}", shard.id))
                });
                Err(format!(
                    "{}/{all}{}",
                    all - closed,
                    parked.unwrap_or_default()
                ))
            }
        };
        let draining = match self.draining() {
            true => Err("shutting down".to_owned()),
            false => Ok(()),
        };
        let refused = self.engine().shards().into_iter().find_map(|shard| {
            let why = shard.status().flush_refused?;
            Some(format!("shard {} cannot be flushed: {why}", shard.id()))
        });
        vec![
            ("shards_open", open),
            ("flush", refused.map_or(Ok(()), Err)),
            ("draining", draining),
        ]
    }
}
