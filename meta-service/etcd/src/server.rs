//! Starting a member, reaching it, stopping it.
//!
//! 1. The directory is locked, the state and the log are opened and compared.
//! 2. Raft starts on two threads of its own, elects itself, and everything the log holds is applied.
//! 3. The member publishes its name if it is not known yet.
//! 4. Only then is there anybody to talk to, so no client ever sees a revision go backwards.
//!
//! Stopping goes the other way. A server that is dropped instead loses nothing it has acknowledged.

use std::fs::{File, TryLockError};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

use etcd_client::proto::PbMember;
use hyper_util::rt::TokioIo;
use parking_lot::Mutex;
use rand::SeedableRng;
use rand::rngs::StdRng;
use redb::ReadableTable;
use tokio::io::DuplexStream;
use tokio::net::TcpListener;
use tokio::runtime::Runtime;
use tokio::sync::{mpsc, watch};
use tokio_stream::StreamExt;
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tonic::transport::Endpoint;
use tonic::transport::server::TcpIncoming;
use tower::service_fn;
use xxhash_rust::xxh3::xxh3_64;

use crate::apply::{Applier, Pace};
use crate::config::Config;
use crate::grpc::{Api, Limits, Shared};
use crate::lease::{Lessor, expire};
use crate::log::{FRAME_BODY_BYTES_MAX, LogError, LogStore};
use crate::mvcc::{Fault, Identity, Store, StoreError, View};
use crate::proposal::Op;
use crate::raft::types::Peer;
use crate::raft::{Machine, Node, Timing};
use crate::watch::Feed;

/// How long a member may take to lead and to apply what its log holds.
const READY_WITHIN: Duration = Duration::from_secs(60);
/// How long requests may take to end once the server stops.
const STOP_WITHIN: Duration = Duration::from_secs(5);
/// In-process connections that may wait to be accepted.
const CONNECTIONS_WAITING_MAX: usize = 64;
/// Bytes an in-process connection holds in each direction.
const PIPE_BYTES: usize = 256 << 10;
/// No request may be set to be longer: it must fit into a frame of the log.
const REQUEST_BYTES_MAX: usize = FRAME_BODY_BYTES_MAX / 2;
/// Threads of Raft.
const RAFT_THREADS: usize = 2;

/// Why a member does not start. Nothing it had is lost.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The operating system refused.
    #[error("{path}: {source}")]
    Io {
        /// The file or directory.
        path: PathBuf,
        /// What it said.
        source: std::io::Error,
    },
    /// A setting that cannot be.
    #[error("{0}")]
    Setting(String),
    /// Another process uses the directory.
    #[error("{path} is in use by another process")]
    Locked {
        /// The directory.
        path: PathBuf,
    },
    /// The log cannot be opened.
    #[error(transparent)]
    Log(#[from] LogError),
    /// The state cannot be opened.
    #[error(transparent)]
    State(#[from] StoreError),
    /// The log and the state do not belong together.
    #[error("{path}: {what}")]
    Mismatch {
        /// The directory of both.
        path: PathBuf,
        /// What does not fit.
        what: String,
    },
    /// Raft did not start.
    #[error("consensus: {0}")]
    Raft(String),
    /// No leader, or not everything applied, in time.
    #[error("the member is not ready: {0}")]
    NotReady(String),
}

/// Where in-process connections are handed over.
pub(crate) type Connections = mpsc::Sender<DuplexStream>;

/// A running member.
pub struct Server {
    connections: Connections,
    /// Its other end is the apply thread's.
    removed_upto: watch::Receiver<i64>,
    node: Arc<Node>,
    applier: Option<Applier>,
    stop: CancellationToken,
    tasks: TaskTracker,
    runtime: RaftRuntime,
    threads: Vec<JoinHandle<()>>,
}

/// Raft's threads. A runtime must not simply be dropped where others run, and any future may be.
struct RaftRuntime(Option<Runtime>);

impl RaftRuntime {
    fn new() -> std::io::Result<Self> {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(RAFT_THREADS)
            .thread_name("etcd-raft")
            .enable_all()
            .build()?;
        Ok(Self(Some(runtime)))
    }

    fn handle(&self) -> Option<tokio::runtime::Handle> {
        Some(self.0.as_ref()?.handle().clone())
    }

    /// Ends all tasks on it; waits for them, but not for ever.
    fn end(mut self) {
        if let Some(runtime) = self.0.take() {
            runtime.shutdown_timeout(STOP_WITHIN);
        }
    }
}

impl Drop for RaftRuntime {
    fn drop(&mut self) {
        if let Some(runtime) = self.0.take() {
            runtime.shutdown_background();
        }
    }
}

impl Server {
    /// Starts a member; a new directory becomes a cluster of one.
    ///
    /// * `listener`: clients are served on it too, without encryption, if there is one.
    /// * `seed`: for ids of leases and for jitter; should differ from start to start.
    /// * returns: once it leads and has applied everything its log held.
    /// * errors: [`StartError`]; what is corrupt or newer is named and left as it is.
    pub async fn start(
        config: Config,
        listener: Option<TcpListener>,
        seed: u64,
    ) -> Result<Self, StartError> {
        if config.max_request_bytes > REQUEST_BYTES_MAX {
            return Err(StartError::Setting(format!(
                "max_request_bytes is {}, at most {REQUEST_BYTES_MAX} are possible",
                config.max_request_bytes
            )));
        }
        let dir = config.data_dir.join("member");
        let opening = {
            let (dir, identity) = (dir.clone(), identity(&config));
            tokio::task::spawn_blocking(move || open(&dir, identity))
        };
        let opened = opening
            .await
            .map_err(|error| StartError::Raft(error.to_string()))??;
        let Opened {
            store,
            identity,
            log,
            log_thread,
            lessor,
            feed,
            lock,
        } = opened;

        let pace = Pace {
            durable_every: config.backend_batch_interval,
            durable_every_ops: config.backend_batch_limit,
            versions_per_step: config.compaction_batch_limit.max(1),
            pause: config.compaction_sleep_interval,
        };
        let spawned = Applier::spawn(store.clone(), feed.clone(), lessor.clone(), pace, lock);
        let (applier, removed_upto, apply_thread) = spawned.map_err(io(&dir))?;
        let runtime = RaftRuntime::new().map_err(io(&dir))?;
        let timing = Timing {
            heartbeat: config.heartbeat_interval,
            election: config.election_timeout,
            snapshot_count: config.snapshot_count,
            snapshot_catchup_entries: config.snapshot_catchup_entries,
        };
        let peer = Peer {
            urls: config.peer_urls.clone(),
        };
        let machine = Machine::new(store.clone(), applier.clone());
        let handle = runtime.handle();
        let handle = handle.ok_or_else(|| StartError::Raft("no runtime".to_owned()))?;
        let started = Node::start(handle, identity, peer, timing, log, machine).await;
        let node = Arc::new(started.map_err(StartError::Raft)?);
        let (connections, incoming) = mpsc::channel(CONNECTIONS_WAITING_MAX);
        let server = Self {
            connections,
            removed_upto: removed_upto.clone(),
            node: node.clone(),
            applier: Some(applier),
            stop: CancellationToken::new(),
            tasks: TaskTracker::new(),
            runtime,
            threads: vec![log_thread, apply_thread],
        };
        let not_ready = |error: &dyn std::fmt::Display| StartError::NotReady(error.to_string());
        node.recovered(READY_WITHIN)
            .await
            .map_err(|error| not_ready(&error))?;
        publish(&node, &store, &config)
            .await
            .map_err(|what| not_ready(&what))?;

        let api = Api::new(Shared {
            node: node.clone(),
            store,
            state_path: dir.join(STATE),
            feed,
            lessor: lessor.clone(),
            identity,
            limits: Limits {
                request_bytes: config.max_request_bytes,
                txn_ops: config.max_txn_ops,
                watch_progress_every: config.watch_progress_notify_interval,
            },
            removed_upto,
            random: Mutex::new(StdRng::seed_from_u64(seed)),
            tasks: server.tasks.clone(),
            stop: server.stop.clone(),
        });
        server
            .tasks
            .spawn(expire(node, lessor, server.stop.clone()));
        server.serve(&api, listener, incoming);
        Ok(server)
    }

    fn serve(
        &self,
        api: &Api,
        listener: Option<TcpListener>,
        incoming: mpsc::Receiver<DuplexStream>,
    ) {
        let incoming = ReceiverStream::new(incoming).map(Ok::<_, std::io::Error>);
        let stopped = self.stop.clone().cancelled_owned();
        let serving = api.router().serve_with_incoming_shutdown(incoming, stopped);
        self.tasks.spawn(async move {
            if let Err(error) = serving.await {
                tracing::error!(%error, "in-process clients are no longer served");
            }
        });
        if let Some(listener) = listener {
            let incoming = TcpIncoming::from(listener).with_nodelay(Some(true));
            let stopped = self.stop.clone().cancelled_owned();
            let serving = api.router().serve_with_incoming_shutdown(incoming, stopped);
            self.tasks.spawn(async move {
                if let Err(error) = serving.await {
                    tracing::error!(%error, "clients are no longer served");
                }
            });
        }
    }

    /// A way to this member that leaves no process: for [`etcd_client::Client::from_channel`]. It
    /// connects when it is first used, and again if need be; after the server has stopped, calls fail
    /// with Unavailable.
    pub fn channel(&self) -> etcd_client::Channel {
        let connections = self.connections();
        channel(move || Some(connections.clone()))
    }

    pub(crate) fn connections(&self) -> Connections {
        self.connections.clone()
    }

    /// Returns if the member has failed: its log or state can no longer be written or read. Every
    /// request is refused then, and only a new start can help. Pending while all is well.
    pub async fn failed(&self) {
        let (mut leading, mut removed) = (self.node.leading(), self.removed_upto.clone());
        tokio::select! {
            // A closed channel is the end of Raft too.
            _ = leading.wait_for(|leading| leading.ended) => {}
            () = async { while removed.changed().await.is_ok() {} } => {}
        }
    }

    /// Ends requests, makes the state durable and gives the directory back.
    pub async fn stop(mut self) {
        self.stop.cancel();
        self.tasks.close();
        if tokio::time::timeout(STOP_WITHIN, self.tasks.wait())
            .await
            .is_err()
        {
            tracing::warn!("some requests did not end in time");
        }
        self.node.stop().await;
        if let Some(applier) = self.applier.take()
            && let Err(error) = applier.make_durable().await
        {
            tracing::error!(%error, "cannot make the state durable");
        }
        let runtime = RaftRuntime(self.runtime.0.take());
        let threads = std::mem::take(&mut self.threads);
        let ended = tokio::task::spawn_blocking(move || {
            runtime.end();
            threads.into_iter().all(|thread| thread.join().is_ok())
        });
        if !ended.await.unwrap_or(false) {
            tracing::error!("a thread panicked");
        }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

/// A channel to whatever server takes connections when it makes one.
pub(crate) fn channel(
    server: impl Fn() -> Option<Connections> + Send + Sync + 'static,
) -> etcd_client::Channel {
    let connect = service_fn(move |_| {
        let connections = server();
        async move {
            let stopped = || std::io::Error::other("the server has stopped");
            let (ours, theirs) = tokio::io::duplex(PIPE_BYTES);
            let sent = connections.ok_or_else(stopped)?.send(theirs).await;
            sent.map_err(|_| stopped())?;
            Ok::<_, std::io::Error>(TokioIo::new(ours))
        }
    });
    let endpoint = Endpoint::from_static("http://in-process");
    etcd_client::Channel::Tonic(endpoint.connect_with_connector_lazy(connect))
}

const STATE: &str = "state.redb";

struct Opened {
    store: Store,
    identity: Identity,
    log: LogStore,
    log_thread: JoinHandle<()>,
    lessor: Arc<Lessor>,
    feed: Arc<Feed>,
    lock: Arc<File>,
}

/// Opens what the directory holds. May take long after a crash.
fn open(dir: &Path, identity: Identity) -> Result<Opened, StartError> {
    std::fs::create_dir_all(dir).map_err(io(dir))?;
    let lock_path = dir.join("lock");
    let lock = File::create(&lock_path).map_err(io(&lock_path))?;
    lock.try_lock().map_err(|error| match error {
        TryLockError::WouldBlock => StartError::Locked {
            path: dir.to_owned(),
        },
        TryLockError::Error(source) => io(&lock_path)(source),
    })?;
    let lock = Arc::new(lock);
    let state_path = dir.join(STATE);
    let (store, identity) = Store::open(&state_path, identity)?;
    let unreadable = |fault: Fault| StoreError::Corrupt {
        path: state_path.clone(),
        what: fault.to_string(),
    };
    let (log, log_thread) = LogStore::open(&dir.join("log"), lock.clone())?;
    let view = store.view().map_err(unreadable)?;
    let applied = view.applied().map_err(unreadable)?;
    fit(dir, log.bounds(), applied.map(|(_, index)| index))?;
    let lessor = Lessor::default();
    let leases = view
        .leases()
        .iter()
        .map_err(|error| unreadable(error.into()))?;
    for row in leases {
        let (lease, row) = row.map_err(|error| unreadable(error.into()))?;
        lessor.granted(lease.value(), row.value().0);
    }
    Ok(Opened {
        feed: Arc::new(Feed::new(store.clone(), view.revision(), view.compacted())),
        lessor: Arc::new(lessor),
        store,
        identity,
        log,
        log_thread,
        lock,
    })
}

/// Whether the log goes on where the state ends.
fn fit(
    dir: &Path,
    (purged, last): (Option<u64>, Option<u64>),
    applied: Option<u64>,
) -> Result<(), StartError> {
    let what = if purged > applied {
        format!("the log begins after entry {purged:?}, the state ends at entry {applied:?}")
    } else if applied > last {
        format!("the log ends at entry {last:?}, the state at entry {applied:?}")
    } else {
        return Ok(());
    };
    Err(StartError::Mismatch {
        path: dir.to_owned(),
        what,
    })
}

fn io(path: &Path) -> impl FnOnce(std::io::Error) -> StartError {
    let path = path.to_owned();
    move |source| StartError::Io { path, source }
}

/// Ids for a new directory, never 0.
fn identity(config: &Config) -> Identity {
    let mut urls = config.peer_urls.clone();
    urls.sort();
    let named = format!("{}{}", urls.concat(), config.cluster_token);
    let member = xxh3_64(named.as_bytes()).max(1);
    Identity {
        cluster: xxh3_64(&member.to_be_bytes()).max(1),
        member,
    }
}

/// Makes the member's name and URLs known, unless they are.
async fn publish(node: &Node, store: &Store, config: &Config) -> Result<(), String> {
    let member = PbMember {
        id: node.id(),
        name: config.name.clone(),
        peer_ur_ls: config.peer_urls.clone(),
        client_ur_ls: config.client_urls.clone(),
        is_learner: false,
    };
    let view = store.view().map_err(|fault| fault.to_string())?;
    let known = view.members().map_err(|fault| fault.to_string())?;
    drop(view);
    if known.contains(&member) {
        return Ok(());
    }
    let published = node.propose(Op::Publish(member)).await;
    published.map_err(|error| error.to_string())?;
    Ok(())
}
