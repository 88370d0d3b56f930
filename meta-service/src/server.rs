//! One meta node: mirror, campaign, leadership, and the listener that nodes and operators reach.
//!
//! Everything is handed in, so that a test can run three of them in one process.
//!
//! Never here: a decision.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use auxo_proto::clock::Clock;
use auxo_proto::pb::meta::meta_server;
use auxo_proto::pb::meta::sessions_server;
use auxo_proto::random::Random;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::watch;
use tokio_stream::Stream;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tonic::transport::Server;
use tonic::transport::server::Connected;

use crate::api::{Api, Standing};
use crate::election::Candidate;
use crate::keys::Keys;
use crate::lead::Lead;
use crate::model::mirror::Mirror;
use crate::model::values::{Format, LAYOUT, MetaMember, Unknown};
use crate::procedure::runner::Trap;
use crate::scheduler::Wishes;
use crate::store::lease::Lease;
use crate::store::{ReadError, Store};

/// Pause after a campaign that failed.
const PAUSE: Duration = Duration::from_millis(200);
/// Largest message from a node or operator.
const MESSAGE_BYTES_MAX: usize = 64 << 20;
/// How often a silent connection is probed, and how long the answer may take.
const PROBE: (Duration, Duration) = (Duration::from_secs(5), Duration::from_secs(5));

/// What one meta node is told.
#[derive(Clone, Debug)]
pub struct MetaConfig {
    /// Name of the cluster; the root of its keys.
    pub cluster: String,
    /// Name of this meta node.
    pub name: String,
    /// Address of its API as nodes reach it; empty where there is only one process.
    pub api: String,
    /// Version of the program.
    pub build: String,
    /// Shards that a new cluster gets. Each has a log of its own, and each log is a file to sync
    /// on a local disk: two let reads and flushes of one go on beside the other and cost little.
    pub shards: u32,
    /// Log service of new shards.
    pub wal_service: String,
}

impl Default for MetaConfig {
    fn default() -> Self {
        Self {
            cluster: "main".to_owned(),
            name: "meta".to_owned(),
            api: String::new(),
            build: String::new(),
            shards: 2,
            wal_service: "local".to_owned(),
        }
    }
}

/// Why a meta node cannot start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// What etcd holds was written by a version that this one cannot read.
    #[error("the model has layout {found}, this version reads up to {LAYOUT}")]
    Layout {
        /// Layout in etcd.
        found: u32,
    },
    /// What etcd holds is not what meta wrote.
    #[error("the model's format cannot be read: {0}")]
    Unreadable(String),
    /// etcd did not answer.
    #[error(transparent)]
    Etcd(#[from] ReadError),
}

/// One running meta node.
pub struct MetaServer {
    standing: watch::Receiver<Standing>,
    stop: CancellationToken,
    tasks: TaskTracker,
}

impl MetaServer {
    /// Starts a meta node: serves on `incoming` until `stop` is cancelled.
    ///
    /// * `etcd`: connected to the embedded etcd or a real one.
    /// * errors: see [`StartError`]; nothing runs then.
    pub async fn start<I, C>(
        config: MetaConfig,
        etcd: etcd_client::Client,
        clock: Clock,
        random: Random,
        incoming: I,
        stop: CancellationToken,
    ) -> Result<Self, StartError>
    where
        I: Stream<Item = io::Result<C>> + Send + 'static,
        C: AsyncRead + AsyncWrite + Connected + Unpin + Send + 'static,
        C::ConnectInfo: Clone + Send + Sync + 'static,
    {
        let trap: Trap = Arc::new(|_| false);
        Self::start_with_trap(config, etcd, clock, random, incoming, stop, trap).await
    }

    /// The same, with a trap that ends reigns where a test says so.
    pub async fn start_with_trap<I, C>(
        config: MetaConfig,
        etcd: etcd_client::Client,
        clock: Clock,
        random: Random,
        incoming: I,
        stop: CancellationToken,
        trap: Trap,
    ) -> Result<Self, StartError>
    where
        I: Stream<Item = io::Result<C>> + Send + 'static,
        C: AsyncRead + AsyncWrite + Connected + Unpin + Send + 'static,
        C::ConnectInfo: Clone + Send + Sync + 'static,
    {
        let keys = Keys::new(&config.cluster);
        let store = Store::new(etcd, random.clone());
        check_format(&store, &keys).await?;
        let tasks = TaskTracker::new();
        let mirror = Arc::new(Mirror::new(keys.clone()));
        let following = Arc::clone(&mirror);
        let (followed, mirror_stop) = (store.clone(), stop.clone());
        tasks.spawn(async move { following.run(followed, mirror_stop).await });
        let (publish, standing) = watch::channel(Standing::Following(None));
        let candidate = Candidate {
            keys,
            store,
            mirror,
            me: MetaMember {
                name: config.name.clone(),
                api: config.api.clone(),
                build: config.build.clone(),
                unknown: Unknown::default(),
            },
            clock,
            random,
        };
        let wishes = Wishes {
            shards: config.shards,
            wal_service: config.wal_service.clone(),
        };
        tasks.spawn(campaigns(
            candidate,
            wishes,
            trap,
            publish,
            tasks.clone(),
            stop.clone(),
        ));
        let api = Api::new(standing.clone(), tasks.clone());
        let sessions = sessions_server::SessionsServer::new(api.clone())
            .max_decoding_message_size(MESSAGE_BYTES_MAX);
        let meta = meta_server::MetaServer::new(api).max_decoding_message_size(MESSAGE_BYTES_MAX);
        let served = Server::builder()
            .http2_keepalive_interval(Some(PROBE.0))
            .http2_keepalive_timeout(Some(PROBE.1))
            .add_service(sessions)
            .add_service(meta)
            .serve_with_incoming_shutdown(incoming, stop.clone().cancelled_owned());
        tasks.spawn(async move {
            if let Err(error) = served.await {
                tracing::error!(%error, "the meta listener ended");
            }
        });
        tasks.close();
        Ok(Self {
            standing,
            stop,
            tasks,
        })
    }

    /// Whether it leads, and what it does then.
    pub fn standing(&self) -> watch::Receiver<Standing> {
        self.standing.clone()
    }

    /// Stops it, gives its lease back and waits until all its tasks have ended.
    pub async fn stop(self) {
        self.stop.cancel();
        self.tasks.wait().await;
    }
}

async fn check_format(store: &Store, keys: &Keys) -> Result<(), StartError> {
    let Some(entry) = store.get(&keys.path(&crate::keys::Key::Format)).await? else {
        return Ok(());
    };
    let format: Format = serde_json::from_slice(&entry.value)
        .map_err(|error| StartError::Unreadable(error.to_string()))?;
    match format.oldest_reader <= LAYOUT {
        true => Ok(()),
        false => Err(StartError::Layout {
            found: format.layout,
        }),
    }
}

/// Campaigns, leads, loses, and campaigns again, until stopped.
async fn campaigns(
    candidate: Candidate,
    wishes: Wishes,
    trap: Trap,
    publish: watch::Sender<Standing>,
    tasks: TaskTracker,
    stop: CancellationToken,
) {
    let mut first = true;
    while !stop.is_cancelled() {
        let campaign = tokio::select! {
            campaign = campaign(&candidate, first) => campaign,
            () = stop.cancelled() => return,
        };
        match campaign {
            Some((lease, revision)) => {
                first = false;
                let over = stop.child_token();
                tokio::select! {
                    why = candidate.store.hold(lease) => {
                        tracing::warn!(why, "the leader's lease is lost");
                    }
                    () = lead(&candidate, lease, revision, &wishes, &trap, &publish, &tasks, &over) => {}
                }
                over.cancel();
                publish.send_replace(Standing::Following(None));
                candidate.store.revoke(lease).await;
            }
            None => tokio::select! {
                () = tokio::time::sleep(PAUSE) => {}
                () = stop.cancelled() => return,
            },
        }
    }
}

async fn campaign(candidate: &Candidate, first: bool) -> Option<(Lease, i64)> {
    // The mirror must know the campaigns of earlier lives before the first one.
    candidate.mirror.reached(1).await;
    match candidate.campaign(first).await {
        Ok(campaign) => Some(campaign),
        Err(error) => {
            tracing::warn!(%error, "cannot campaign");
            None
        }
    }
}

/// Waits to be the leader, then leads until the reign is over.
#[allow(
    clippy::too_many_arguments,
    reason = "one caller, one line; each is a different thing"
)]
async fn lead(
    candidate: &Candidate,
    lease: Lease,
    revision: i64,
    wishes: &Wishes,
    trap: &Trap,
    publish: &watch::Sender<Standing>,
    tasks: &TaskTracker,
    over: &CancellationToken,
) {
    let won = {
        let won = candidate.won(lease, revision, over.clone());
        tokio::pin!(won);
        let mut changes = candidate.mirror.changes();
        loop {
            changes.borrow_and_update();
            let leader = candidate.mirror.read(|model| {
                let (first, _, leader) = model.leader()?;
                (first != lease.id).then(|| leader.api.clone())
            });
            publish.send_replace(Standing::Following(leader));
            tokio::select! {
                won = &mut won => break won,
                _ = changes.changed() => {}
                () = over.cancelled() => return,
            }
        }
    };
    let Some(reign) = won else { return };
    tracing::info!(reign = %reign.number, "leading");
    let build = candidate.me.build.as_str();
    let reign = Arc::new(reign);
    let lead = Lead::take_up(reign, build, wishes.clone(), Arc::clone(trap), tasks).await;
    let Some(lead) = lead else { return };
    publish.send_replace(Standing::Leading(lead));
    over.cancelled().await;
}
