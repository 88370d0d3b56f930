//! One member's part in the cluster: propose, confirm leadership for a read, tell who leads.
//!
//! Raft runs on a runtime of its own, so that nothing its callers do delays a heartbeat; every method
//! here may be called from another runtime. Each wait has an end.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use openraft::async_runtime::watch::WatchReceiver;
use openraft::errors::{ClientWriteError, LinearizableReadError, RaftError};
use openraft::{ReadPolicy, ServerState, SnapshotPolicy};
use tokio::sync::{Semaphore, mpsc, oneshot, watch};
use tokio::time::{Instant, timeout, timeout_at};

use super::machine::Machine;
use super::network::NoPeers;
use super::types::{Peer, Proposal, TypeConfig};
use crate::apply::Applied;
use crate::log::LogStore;
use crate::mvcc::Identity;
use crate::proposal::Op;

/// Proposals under way at one time.
const PROPOSALS_MAX: usize = 5000;
/// Reads that may wait for one confirmation.
const READS_WAITING_MAX: usize = 8192;

type Raft = openraft::Raft<TypeConfig, Machine>;

/// Intervals of the consensus.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Timing {
    pub(crate) heartbeat: Duration,
    pub(crate) election: Duration,
    pub(crate) snapshot_count: u64,
    pub(crate) snapshot_catchup_entries: u64,
}

impl Timing {
    /// How long a request may take.
    pub(crate) fn request(&self) -> Duration {
        Duration::from_secs(5) + 2 * self.election
    }
}

/// Why a proposal or a confirmation came to nothing, or may have.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum NodeError {
    /// Not proposed.
    #[error("no leader")]
    NoLeader,
    /// Whether the entry is committed is unknown.
    #[error("leader changed")]
    LeaderChanged,
    /// Whether the entry is committed is unknown.
    #[error("request timed out")]
    Timeout,
    /// Not proposed.
    #[error("too many requests")]
    TooManyRequests,
    /// Not proposed, or unknown if it was under way.
    #[error("server stopped")]
    Stopped,
}

/// What this member knows about leadership.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Leading {
    /// The leader's id, while there is one.
    pub(crate) leader: Option<u64>,
    pub(crate) term: u64,
    /// This member leads, and has applied an entry of its own term.
    pub(crate) primary: bool,
    /// Index of the last entry of the log, and of the last one applied.
    pub(crate) last: u64,
    pub(crate) applied: u64,
    /// Raft has ended, by itself or because it was stopped.
    pub(crate) ended: bool,
}

/// A running member.
pub(crate) struct Node {
    raft: Raft,
    id: u64,
    timing: Timing,
    proposals: Semaphore,
    reads: mpsc::Sender<oneshot::Sender<Result<(), NodeError>>>,
    leading: watch::Receiver<Leading>,
    /// Raft's own tasks and the two of this file.
    runtime: tokio::runtime::Handle,
}

impl Node {
    /// Starts Raft on `runtime`; a member with an empty log becomes a cluster of one.
    ///
    /// * errors: what Raft says, as text: the log or the state cannot be read, or contradict each other.
    pub(crate) async fn start(
        runtime: tokio::runtime::Handle,
        identity: Identity,
        peer: Peer,
        timing: Timing,
        log: LogStore,
        machine: Machine,
    ) -> Result<Self, String> {
        let config = openraft::Config {
            cluster_name: format!("{:x}", identity.cluster),
            heartbeat_interval: timing.heartbeat.as_millis() as u64,
            election_timeout_min: timing.election.as_millis() as u64,
            election_timeout_max: 2 * timing.election.as_millis() as u64,
            enable_pre_vote: Some(true),
            enable_leader_restore: Some(false),
            allow_log_reversion: None,
            // A snapshot only makes the state durable (see `machine`), so Raft may decide when.
            snapshot_policy: SnapshotPolicy::LogsSinceLast(timing.snapshot_count),
            max_in_snapshot_log_to_keep: timing.snapshot_catchup_entries,
            ..openraft::Config::default()
        };
        let config = Arc::new(config.validate().map_err(|error| error.to_string())?);
        let id = identity.member;
        let started = runtime.spawn(async move {
            let raft = Raft::new(id, config, NoPeers, log, machine)
                .await
                .map_err(|error| error.to_string())?;
            if raft
                .is_initialized()
                .await
                .map_err(|error| error.to_string())?
            {
                // A lone voter need not wait for a leader it would have heard of.
                let voters: Vec<u64> = raft.voter_ids().collect();
                if voters == [id] {
                    let elected = raft.trigger().elect(false).await;
                    elected.map_err(|error| error.to_string())?;
                }
            } else {
                let members = BTreeMap::from([(id, peer)]);
                let made = raft.initialize(members).await;
                made.map_err(|error| error.to_string())?;
            }
            Ok::<Raft, String>(raft)
        });
        let raft = started.await.map_err(|error| error.to_string())??;
        let (leading_sender, leading) = watch::channel(Leading::default());
        runtime.spawn(follow(raft.clone(), leading_sender));
        let (reads, waiting) = mpsc::channel(READS_WAITING_MAX);
        runtime.spawn(confirm_reads(raft.clone(), timing.request(), waiting));
        Ok(Self {
            raft,
            id,
            timing,
            proposals: Semaphore::new(PROPOSALS_MAX),
            reads,
            leading,
            runtime,
        })
    }

    /// Waits until there is a leader and everything the log held at start is applied.
    pub(crate) async fn recovered(&self, within: Duration) -> Result<(), NodeError> {
        let recovered = self.raft.wait_for_recovery(Some(within)).await;
        recovered.map_err(|_| NodeError::Timeout)?;
        let mut leading = self.leading.clone();
        let led = leading.wait_for(|leading| leading.leader.is_some());
        match timeout(within, led).await {
            Ok(Ok(_)) => Ok(()),
            Ok(Err(_)) => Err(NodeError::Stopped),
            Err(_) => Err(NodeError::Timeout),
        }
    }

    pub(crate) fn id(&self) -> u64 {
        self.id
    }

    pub(crate) fn timing(&self) -> Timing {
        self.timing
    }

    pub(crate) fn leading(&self) -> watch::Receiver<Leading> {
        self.leading.clone()
    }

    /// Proposes encoded [`Op`] and waits until it is applied here.
    ///
    /// * cancel-safe: no; dropped midway the entry may still be committed.
    pub(crate) async fn propose(&self, op: Op) -> Result<Applied, NodeError> {
        self.propose_bytes(op.into_bytes()).await
    }

    /// As [`Self::propose`], with the bytes of the operation.
    pub(crate) async fn propose_bytes(&self, bytes: bytes::Bytes) -> Result<Applied, NodeError> {
        let Ok(_permit) = self.proposals.try_acquire() else {
            return Err(NodeError::TooManyRequests);
        };
        let deadline = Instant::now() + self.timing.request();
        let mut leading = self.leading.clone();
        loop {
            let written = self.raft.client_write(Proposal(bytes.clone()));
            match timeout_at(deadline, written).await {
                Err(_) => return Err(NodeError::Timeout),
                Ok(Ok(response)) => return Ok(response.data),
                Ok(Err(RaftError::Fatal(_))) => return Err(NodeError::Stopped),
                Ok(Err(RaftError::APIError(ClientWriteError::ForwardToLeader(_)))) => {}
                Ok(Err(RaftError::APIError(_))) => return Err(NodeError::LeaderChanged),
            }
            // Refused before it was appended: it may be tried again once this member leads.
            match timeout_at(deadline, leading.changed()).await {
                Ok(Ok(())) => {}
                Ok(Err(_)) => return Err(NodeError::Stopped),
                Err(_) => return Err(NodeError::NoLeader),
            }
        }
    }

    /// Returns once this member has applied everything that was committed when it was called, and
    /// was still the leader after that.
    pub(crate) async fn read_index(&self) -> Result<(), NodeError> {
        let (done, confirmed) = oneshot::channel();
        match self.reads.try_send(done) {
            Ok(()) => confirmed.await.map_err(|_| NodeError::Stopped)?,
            Err(mpsc::error::TrySendError::Full(_)) => Err(NodeError::TooManyRequests),
            Err(mpsc::error::TrySendError::Closed(_)) => Err(NodeError::Stopped),
        }
    }

    /// Stops Raft; its tasks have ended when this returns.
    pub(crate) async fn stop(&self) {
        let raft = self.raft.clone();
        let stopped = self.runtime.spawn(async move { raft.shutdown().await });
        if let Ok(Err(error)) = stopped.await {
            tracing::error!(%error, "Raft ended badly");
        }
    }
}

/// Keeps [`Leading`] up to date until Raft ends.
async fn follow(raft: Raft, leading: watch::Sender<Leading>) {
    let mut metrics = raft.metrics();
    loop {
        let now = {
            let seen = metrics.borrow_watched();
            let applied = seen.last_applied;
            let running = seen.running_state.is_ok();
            Leading {
                leader: seen.current_leader.filter(|_| running),
                term: seen.current_term,
                primary: running
                    && seen.state == ServerState::Leader
                    && applied.is_some_and(|at| at.leader_id.term == seen.current_term),
                last: seen.last_log_index.unwrap_or(0),
                applied: applied.map_or(0, |at| at.index),
                ended: !running,
            }
        };
        leading.send_if_modified(|before| std::mem::replace(before, now) != now);
        if metrics.changed().await.is_err() {
            leading.send_modify(|last| {
                last.leader = None;
                last.primary = false;
                last.ended = true;
            });
            return;
        }
    }
}

/// Confirms leadership in rounds, one at a time: each serves all reads that waited when it began.
async fn confirm_reads(
    raft: Raft,
    within: Duration,
    mut waiting: mpsc::Receiver<oneshot::Sender<Result<(), NodeError>>>,
) {
    let mut round = Vec::new();
    while waiting.recv_many(&mut round, READS_WAITING_MAX).await > 0 {
        let outcome = match timeout(within, raft.ensure_linearizable(ReadPolicy::ReadIndex)).await {
            Err(_) => Err(NodeError::Timeout),
            Ok(Ok(_)) => Ok(()),
            Ok(Err(RaftError::Fatal(_))) => Err(NodeError::Stopped),
            Ok(Err(RaftError::APIError(LinearizableReadError::ForwardToLeader(_)))) => {
                Err(NodeError::NoLeader)
            }
            Ok(Err(RaftError::APIError(LinearizableReadError::QuorumNotEnough(_)))) => {
                Err(NodeError::Timeout)
            }
        };
        for read in round.drain(..) {
            // A reader that has gone needs no answer.
            drop(read.send(outcome.clone()));
        }
    }
}
