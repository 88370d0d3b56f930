//! What meta can have a node do: the six verbs, as the engine carries them out.
//!
//! Every verb is idempotent: the same order may come again after a lost answer, a new connection or
//! a new meta leader, and a verb on what is so already is done at once.
//!
//! Never here: an order's id, or the wire.

use async_trait::async_trait;
use auxo_proto::ids::{ShardId, TabletId};
use auxo_proto::pb::meta::{NodeLoad, ShardState};
use auxo_proto::schema::TabletSpec;
use serde::{Deserialize, Serialize};

/// What the node is to be for a shard.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ShardRole {
    /// Takes writes.
    Leader,
    /// Tails the log.
    Follower,
    /// Reads files, and newer rows from another.
    Compute,
}

/// Which shard to open, as what.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct OpenShard {
    /// The shard.
    pub shard: ShardId,
    /// Number of its leadership.
    pub epoch: u64,
    /// What the node is to be for it.
    pub role: ShardRole,
    /// Name of its log service.
    pub wal_service: String,
    /// Tells its region from an earlier one of the same shard.
    pub incarnation: u64,
    /// Added to offsets to give sequence numbers.
    pub base_seq: u64,
}

/// Why a verb was not done.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{code}: {detail}")]
pub struct VerbError {
    /// Name of the failure, for programs.
    pub code: String,
    /// For people.
    pub detail: String,
    /// Whether the same verb would fail again.
    pub permanent: bool,
    /// How long to wait before it is tried again, in milliseconds; 0 leaves it to meta.
    pub retry_after_ms: u64,
    /// Epoch of the claim or seal that came first, 0 if none did.
    pub higher_epoch: u64,
}

impl VerbError {
    /// A failure that trying again would not help.
    pub fn permanent(code: &str, detail: impl Into<String>) -> Self {
        Self {
            code: code.to_owned(),
            detail: detail.into(),
            permanent: true,
            retry_after_ms: 0,
            higher_epoch: 0,
        }
    }

    /// A failure that may pass.
    pub fn passing(code: &str, detail: impl Into<String>) -> Self {
        Self {
            permanent: false,
            ..Self::permanent(code, detail)
        }
    }
}

/// The six verbs, and what the node tells of itself.
///
/// A verb's future is never dropped before it ends, unless the process stops. Verbs on one shard
/// may come at once, and then in any order.
#[async_trait]
pub trait Verbs: Send + Sync + 'static {
    /// Makes the shard serve in a role.
    ///
    /// * returns: once a leader has claimed, replayed and serves, or a follower tails.
    /// * effects: makes the region if it is absent. An open shard of the same epoch and role is done.
    async fn open(&self, open: OpenShard) -> Result<ShardState, VerbError>;

    /// Flushes the shard and lets it go. A shard that is not open is done.
    async fn close(&self, shard: ShardId, epoch: u64) -> Result<(), VerbError>;

    /// Changes the role of an open shard.
    async fn switch(
        &self,
        shard: ShardId,
        epoch: u64,
        role: ShardRole,
    ) -> Result<ShardState, VerbError>;

    /// Flushes until a committed manifest covers every offset below `through`.
    async fn flush(
        &self,
        shard: ShardId,
        epoch: u64,
        through: u64,
    ) -> Result<ShardState, VerbError>;

    /// Makes tablets in a shard the node leads, or gives them a newer schema or other options.
    ///
    /// * effects: durable when it returns; an older schema than the tablet has changes nothing.
    async fn create_tablets(
        &self,
        shard: ShardId,
        epoch: u64,
        tablets: Vec<TabletSpec>,
    ) -> Result<(), VerbError>;

    /// Drops tablets of a shard the node leads; ones it does not have are done.
    ///
    /// * effects: durable when it returns; files go later.
    async fn drop_tablets(
        &self,
        shard: ShardId,
        epoch: u64,
        tablets: Vec<TabletId>,
    ) -> Result<(), VerbError>;

    /// Every open or opening shard; must not block.
    fn shards(&self) -> Vec<ShardState>;

    /// How busy the node is; must not block.
    fn load(&self) -> NodeLoad;
}
