//! Settings of one member.

use std::path::PathBuf;
use std::time::Duration;

/// Settings of one member. The defaults are etcd's own, but for `snapshot_count`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Config {
    /// Where everything is kept; made if it is not there.
    pub data_dir: PathBuf,
    /// The member's name, for people.
    pub name: String,
    /// Part of what the ids of cluster and member are made from, at the first start.
    pub cluster_token: String,
    /// Where other members reach this one; also part of what the ids are made from.
    pub peer_urls: Vec<String>,
    /// Where clients reach this member, for MemberList.
    pub client_urls: Vec<String>,
    /// Time between two heartbeats of a leader.
    pub heartbeat_interval: Duration,
    /// Time without heartbeat, and up to twice as long, after which a new leader is elected.
    pub election_timeout: Duration,
    /// Entries after which the state is made durable and the log before them may go.
    pub snapshot_count: u64,
    /// Entries the log keeps all the same.
    pub snapshot_catchup_entries: u64,
    /// Longest time between two durable commits of the state; what is not in it is in the log.
    pub backend_batch_interval: Duration,
    /// Most operations between two durable commits of the state.
    pub backend_batch_limit: usize,
    /// Longest request, in bytes.
    pub max_request_bytes: usize,
    /// Most compares, or operations of a branch, of a txn.
    pub max_txn_ops: usize,
    /// How often an idle watcher that wants it is told how far it has come.
    pub watch_progress_notify_interval: Duration,
    /// Versions removed at a time after a compaction.
    pub compaction_batch_limit: usize,
    /// Pause between two removals.
    pub compaction_sleep_interval: Duration,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            data_dir: PathBuf::from("default.etcd"),
            name: "default".to_owned(),
            cluster_token: "etcd-cluster".to_owned(),
            peer_urls: vec!["http://localhost:2380".to_owned()],
            client_urls: Vec::new(),
            heartbeat_interval: Duration::from_millis(100),
            election_timeout: Duration::from_millis(1000),
            snapshot_count: 10_000,
            snapshot_catchup_entries: 5000,
            backend_batch_interval: Duration::from_millis(100),
            backend_batch_limit: 10_000,
            max_request_bytes: 3 << 19,
            max_txn_ops: 128,
            watch_progress_notify_interval: Duration::from_secs(600),
            compaction_batch_limit: 1000,
            compaction_sleep_interval: Duration::from_millis(10),
        }
    }
}
