//! The node's side of the session with meta: says Hello, reports each second, does what it is
//! ordered, and keeps the newest topology, also on disk.
//!
//! Meta away changes nothing for rows and queries: the node keeps its topology, its roles and its
//! epochs. Started without meta it opens the shards it led before by itself, after a while, under
//! the same epochs; if they were given to another meanwhile, the log says so.
//!
//! Rooms: [`doors`] (where meta is) · [`verbs`] (the six verbs, for the engine to do) · [`orders`]
//! (each done once, answered as often as asked) · [`kept`] (the two files) · [`client`] (changes of
//! the model, for statements) · [`in_process`] (meta in the same process) · `stream` (one
//! connection).
//!
//! Never here: a decision about where a shard is, or a shard's bytes.

pub mod client;
pub mod doors;
pub mod in_process;
pub mod kept;
pub mod orders;
mod stream;
pub mod verbs;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use auxo_proto::clock::Clock;
use auxo_proto::ids::NodeId;
use auxo_proto::random::Random;
use auxo_proto::topology::{Catalog, Topology};
use parking_lot::Mutex;
use tokio::sync::watch;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use doors::Doors;
use kept::{KeptError, KeptNode, NodeFile, TopologyFile};
use orders::Orders;
use verbs::{OpenShard, Verbs};

/// First and longest pause before another attempt to connect.
const PAUSE: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(1));
/// Pause after meta has said that the node cannot be part of the cluster.
const PAUSE_BYE: Duration = Duration::from_secs(5);
/// Time without meta after a start, before the node opens what it led before.
const ALONE_AFTER: Duration = Duration::from_secs(3);
/// Least time between two writes of the topology file.
const TOPOLOGY_EVERY: Duration = Duration::from_secs(1);

/// Who the node is.
#[derive(Clone, Debug)]
pub struct SessionConfig {
    /// Its name, by which meta knows it for ever.
    pub name: String,
    /// Address of its public listener.
    pub public: String,
    /// Address of its internal listener; empty where there is only one node.
    pub internal: String,
    /// Failure domain.
    pub zone: String,
    /// Set by the operator, matched by rules.
    pub labels: BTreeMap<String, String>,
    /// Version of the program.
    pub build: String,
    /// Where its two files are.
    pub directory: PathBuf,
}

/// The session of one node. Clones are handles of the same session.
#[derive(Clone)]
pub struct Session(Arc<Inner>);

struct Inner {
    config: SessionConfig,
    boot: String,
    doors: Doors,
    verbs: Arc<dyn Verbs>,
    orders: Orders,
    node_file: NodeFile,
    topology_file: TopologyFile,
    /// What is in the node file. Never locked over an await.
    kept: Mutex<KeptNode>,
    /// Orders the writes of the node file as the changes of `kept`.
    keeping: tokio::sync::Mutex<()>,
    catalog: watch::Sender<Arc<Catalog>>,
    node: watch::Sender<Option<NodeId>>,
    connected: watch::Sender<bool>,
    leaving: CancellationToken,
    stop: CancellationToken,
}

/// Leaves the shards without a leader that the topology says this node leads and its own file does not:
/// that file is written with each change, the topology up to a second later.
fn disown(topology: &mut Topology, node: Option<NodeId>, opens: &[OpenShard]) {
    for shard in &mut topology.shards {
        let led = opens.iter().any(|open| open.shard == shard.id);
        if node.is_some() && shard.leader == node && !led {
            shard.leader = None;
        }
    }
}

impl Session {
    /// Reads the node's files and connects to meta until `stop` is cancelled.
    ///
    /// * errors: the file that says who the node is cannot be read; see [`KeptError`].
    /// * effects: returns at once; a topology that was kept is in the catalog then.
    pub async fn start(
        config: SessionConfig,
        doors: Doors,
        verbs: Arc<dyn Verbs>,
        clock: Clock,
        random: Random,
        tasks: TaskTracker,
        stop: CancellationToken,
    ) -> Result<Self, KeptError> {
        let node_file = NodeFile::new(&config.directory);
        let topology_file = TopologyFile::new(&config.directory);
        let kept = node_file.read().await?.unwrap_or_default();
        let mut topology = match topology_file.read().await {
            Ok(topology) => topology.unwrap_or_default(),
            Err(error) => {
                tracing::warn!(%error, "kept topology not read, meta will send it");
                Topology::default()
            }
        };
        doors.learn(&kept.meta);
        let node = (kept.node != 0).then_some(NodeId(kept.node));
        disown(&mut topology, node, &kept.opens);
        let boot = random.uuid_v7(clock.now_ms()).to_string();
        let session = Self(Arc::new(Inner {
            orders: Orders::new(Arc::clone(&verbs), tasks.clone()),
            config,
            boot,
            doors,
            verbs,
            node_file,
            topology_file,
            kept: Mutex::new(kept),
            keeping: tokio::sync::Mutex::new(()),
            catalog: watch::Sender::new(Arc::new(Catalog::new(topology))),
            node: watch::Sender::new(node),
            connected: watch::Sender::new(false),
            leaving: CancellationToken::new(),
            stop,
        }));
        tasks.spawn(session.clone().run());
        tasks.spawn(session.clone().keep_topology());
        tasks.spawn(session.clone().open_alone());
        Ok(session)
    }

    /// The newest topology, indexed; wakes at every newer one.
    pub fn catalog(&self) -> watch::Receiver<Arc<Catalog>> {
        self.0.catalog.subscribe()
    }

    /// The node's id, once meta has given it one.
    pub fn node(&self) -> watch::Receiver<Option<NodeId>> {
        self.0.node.subscribe()
    }

    /// Whether meta knows the node now.
    pub fn connected(&self) -> watch::Receiver<bool> {
        self.0.connected.subscribe()
    }

    /// Tells meta that this node is about to stop, so that others lead what it leads. The session goes on
    /// to hear of topologies, and is not made again once it ends.
    pub fn leave(&self) {
        self.0.leaving.cancel();
    }

    /// Waits until the catalog is at least of that number; says whether it is by the deadline.
    pub async fn wait_topology(&self, number: u64, deadline: Instant) -> bool {
        let mut catalog = self.catalog();
        let newer = catalog.wait_for(|catalog| catalog.topology().number >= number);
        matches!(tokio::time::timeout_at(deadline, newer).await, Ok(Ok(_)))
    }

    /// Connects, again and again.
    async fn run(self) {
        let mut pause = PAUSE.0;
        loop {
            let (address, channel) = self.0.doors.next();
            let ended = tokio::select! {
                ended = stream::run(&self, channel) => ended,
                () = self.0.stop.cancelled() => return,
            };
            self.0.connected.send_replace(false);
            if self.0.leaving.is_cancelled() {
                return;
            }
            let wait = match ended {
                stream::End::Broke { welcomed, why } => {
                    tracing::info!(address, why, "session with meta ended");
                    self.0.doors.failed(&address);
                    if welcomed {
                        pause = PAUSE.0;
                    }
                    pause
                }
                stream::End::Redirect(leader) => {
                    self.0.doors.leads(&leader);
                    PAUSE.0
                }
                stream::End::Retry(after) => {
                    // It may be cut off from those who know better.
                    self.0.doors.failed(&address);
                    after.min(PAUSE.1)
                }
                stream::End::Bye(why) => {
                    tracing::error!(address, why, "meta does not take this node");
                    PAUSE_BYE
                }
            };
            pause = (pause * 2).min(PAUSE.1);
            tokio::select! {
                () = tokio::time::sleep(wait) => {}
                () = self.0.stop.cancelled() => return,
            }
        }
    }

    /// Changes what is kept of the node and writes it before it returns.
    async fn keep(&self, change: impl FnOnce(&mut KeptNode)) -> Result<(), KeptError> {
        let _in_order = self.0.keeping.lock().await;
        let kept = {
            let mut kept = self.0.kept.lock();
            let before = kept.clone();
            change(&mut kept);
            if *kept == before {
                return Ok(());
            }
            kept.clone()
        };
        self.0.node_file.write(&kept).await
    }

    /// Writes each newer topology to disk, at most one a second.
    async fn keep_topology(self) {
        let mut catalog = self.catalog();
        loop {
            tokio::select! {
                changed = catalog.changed() => if changed.is_err() { return },
                () = self.0.stop.cancelled() => return,
            }
            let newest = Arc::clone(&catalog.borrow_and_update());
            if let Err(error) = self.0.topology_file.write(newest.topology()).await {
                tracing::warn!(%error, "topology not kept on disk");
            }
            tokio::select! {
                () = tokio::time::sleep(TOPOLOGY_EVERY) => {}
                () = self.0.stop.cancelled() => return,
            }
        }
    }

    /// Opens what the node led before, if meta does not show up after the start.
    async fn open_alone(self) {
        let mut connected = self.connected();
        let welcomed = connected.wait_for(|connected| *connected);
        tokio::select! {
            _ = welcomed => return,
            () = tokio::time::sleep(ALONE_AFTER) => {}
            () = self.0.stop.cancelled() => return,
        }
        let opens = self.0.kept.lock().opens.clone();
        for open in opens {
            tracing::info!(shard = %open.shard, epoch = open.epoch, "meta is away, opening");
            if let Err(error) = self.0.verbs.open(open).await {
                tracing::warn!(%error, "shard not opened without meta");
            }
        }
    }
}
