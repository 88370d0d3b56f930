//! etcd's API: checks requests, proposes or reads, fills headers, names errors.
//!
//! One type, [`Api`], is the server of every service. `check` refuses what is malformed before it
//! costs anything; `error` is the one table of codes and texts; the other files are a service each.
//!
//! Never here: what an operation does to the state.

mod auth;
mod check;
mod cluster;
mod election;
mod error;
mod kv;
mod lease;
mod lock;
mod maintenance;
mod turn;
mod watch;

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use etcd_client::proto::{
    PbClusterServer, PbKvServer, PbLeaseServer, PbMaintenanceServer, PbResponseHeader,
    PbWatchServer,
};
use parking_lot::Mutex;
use rand::{Rng, rngs::StdRng};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tonic::Status;
use tonic::transport::server::Router;

use crate::apply::{Answer, Applied};
use crate::lease::Lessor;
use crate::mvcc::{Identity, ReadView, Store};
use crate::proposal::Op;
use crate::raft::Node;
use crate::watch::Feed;

/// Generated from proto/lock.proto.
#[allow(
    missing_docs,
    unreachable_pub,
    dead_code,
    clippy::all,
    reason = "generated code"
)]
mod v3lockpb {
    tonic::include_proto!("v3lockpb");
}

/// Generated from proto/election.proto.
#[allow(
    missing_docs,
    unreachable_pub,
    dead_code,
    clippy::all,
    reason = "generated code"
)]
mod v3electionpb {
    tonic::include_proto!("v3electionpb");
}

/// Calls and streams that one connection may have open.
const STREAMS_PER_CONNECTION_MAX: u32 = 100_000;
/// A connection that has been silent this long is asked whether anybody is there.
const ASK_AFTER: Duration = Duration::from_secs(60);
const ANSWER_WITHIN: Duration = Duration::from_secs(20);
/// What a message may be longer than the request in it.
const MESSAGE_OVERHEAD_BYTES: usize = 512 << 10;

/// What requests may ask for.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Limits {
    pub(crate) request_bytes: usize,
    pub(crate) txn_ops: usize,
    pub(crate) watch_progress_every: Duration,
}

/// Everything a request needs.
pub(crate) struct Shared {
    pub(crate) node: Arc<Node>,
    pub(crate) store: Store,
    pub(crate) state_path: PathBuf,
    pub(crate) feed: Arc<Feed>,
    pub(crate) lessor: Arc<Lessor>,
    pub(crate) identity: Identity,
    pub(crate) limits: Limits,
    /// Boundary up to which compacted versions are gone.
    pub(crate) removed_upto: tokio::sync::watch::Receiver<i64>,
    pub(crate) random: Mutex<StdRng>,
    pub(crate) tasks: TaskTracker,
    pub(crate) stop: CancellationToken,
}

/// All services of one member.
#[derive(Clone)]
pub(crate) struct Api(Arc<Shared>);

impl std::ops::Deref for Api {
    type Target = Shared;

    fn deref(&self) -> &Shared {
        &self.0
    }
}

impl Api {
    pub(crate) fn new(shared: Shared) -> Self {
        Self(Arc::new(shared))
    }

    /// All services, ready to be served.
    pub(crate) fn router(&self) -> Router {
        let message_bytes = self.limits.request_bytes + MESSAGE_OVERHEAD_BYTES;
        let lock = v3lockpb::lock_server::LockServer::new(self.clone());
        let election = v3electionpb::election_server::ElectionServer::new(self.clone());
        tonic::transport::Server::builder()
            .max_concurrent_streams(STREAMS_PER_CONNECTION_MAX)
            .http2_keepalive_interval(Some(ASK_AFTER))
            .http2_keepalive_timeout(Some(ANSWER_WITHIN))
            .add_service(PbKvServer::new(self.clone()).max_decoding_message_size(message_bytes))
            .add_service(PbWatchServer::new(self.clone()).max_decoding_message_size(message_bytes))
            .add_service(PbLeaseServer::new(self.clone()))
            .add_service(PbClusterServer::new(self.clone()))
            .add_service(PbMaintenanceServer::new(self.clone()))
            .add_service(lock)
            .add_service(election)
            .add_service(auth::NotEnabled)
    }

    fn header(&self, revision: i64) -> PbResponseHeader {
        PbResponseHeader {
            cluster_id: self.identity.cluster,
            member_id: self.identity.member,
            revision,
            raft_term: self.node.leading().borrow().term,
        }
    }

    /// Completes a header that carries the revision alone.
    fn complete(&self, header: &mut Option<PbResponseHeader>) {
        let revision = header.as_ref().map_or(0, |header| header.revision);
        *header = Some(self.header(revision));
    }

    /// A view to read from: current, or whatever this member has if `serializable`.
    async fn view(&self, serializable: bool) -> Result<ReadView, Status> {
        if !serializable {
            self.node.read_index().await.map_err(error::of_node)?;
        }
        self.store.view().map_err(error::of_fault)
    }

    /// Proposes an operation and waits until it is applied.
    ///
    /// * returns: its answer and the revision after it.
    async fn propose(&self, op: Op) -> Result<(Answer, i64), Status> {
        let bytes = op.into_bytes();
        if bytes.len() > self.limits.request_bytes {
            return Err(error::TOO_LARGE.into());
        }
        let applied = self.node.propose_bytes(bytes).await;
        let Applied { revision, outcome } = applied.map_err(error::of_node)?;
        Ok((outcome.map_err(error::of_refusal)?, revision))
    }

    /// A number above 0 that nobody uses yet, as far as chance allows.
    fn draw_id(&self) -> i64 {
        let drawn = self.random.lock().next_u64();
        ((drawn >> 1) as i64).max(1)
    }
}
