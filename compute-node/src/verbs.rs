//! What meta orders, done by the engine of this node.
//!
//! Never here: when to do it, or whether an order is new.

use async_trait::async_trait;
use auxo_engine::{Engine, OpenError, OpenLeader, Shard, WriteError};
use auxo_proto::ids::{ShardId, TabletId};
use auxo_proto::pb::meta::{NodeLoad, Role, ShardPhase, ShardState};
use auxo_proto::schema::TabletSpec;

use crate::session::verbs::{OpenShard, ShardRole, VerbError, Verbs};

/// The six verbs over one engine.
#[derive(Clone)]
pub struct EngineVerbs(Engine);

impl EngineVerbs {
    /// Verbs that act on this engine.
    pub fn new(engine: Engine) -> Self {
        Self(engine)
    }

    /// The shard, if it is led here under that epoch.
    fn led(&self, shard: ShardId, epoch: u64) -> Result<Shard, VerbError> {
        let not_open = || VerbError::passing("NOT_OPEN", format!("shard {shard} is not led here"));
        let led = self.0.shard(shard).ok_or_else(not_open)?;
        match led.status().term.epoch {
            term if term == epoch => Ok(led),
            term => {
                let detail =
                    format!("shard {shard} is led under epoch {term}, ordered was {epoch}");
                Err(VerbError::permanent("OTHER_EPOCH", detail))
            }
        }
    }
}

#[async_trait]
impl Verbs for EngineVerbs {
    async fn open(&self, open: OpenShard) -> Result<ShardState, VerbError> {
        if open.role != ShardRole::Leader {
            let detail = "this version opens shards as leader only";
            return Err(VerbError::permanent("ROLE_NOT_KNOWN", detail));
        }
        let order = OpenLeader {
            shard: open.shard,
            incarnation: open.incarnation,
            epoch: open.epoch,
        };
        match self.0.open(order).await {
            Ok(shard) => Ok(state(&shard)),
            Err(error) => Err(open_error(&error)),
        }
    }

    async fn close(&self, shard: ShardId, _epoch: u64) -> Result<(), VerbError> {
        match self.0.close(shard).await {
            // Let go of already, by a claim of the next leader perhaps.
            Ok(()) | Err(WriteError::NotLeader(_)) => Ok(()),
            Err(error) => Err(write_error(&error)),
        }
    }

    async fn switch(
        &self,
        shard: ShardId,
        epoch: u64,
        role: ShardRole,
    ) -> Result<ShardState, VerbError> {
        let led = self.led(shard, epoch)?;
        match role {
            ShardRole::Leader => Ok(state(&led)),
            ShardRole::Follower | ShardRole::Compute => {
                let detail = "this version opens shards as leader only";
                Err(VerbError::permanent("ROLE_NOT_KNOWN", detail))
            }
        }
    }

    async fn flush(
        &self,
        shard: ShardId,
        epoch: u64,
        through: u64,
    ) -> Result<ShardState, VerbError> {
        let led = self.led(shard, epoch)?;
        if led.status().flushed < through {
            led.flush().await.map_err(|error| write_error(&error))?;
        }
        Ok(state(&led))
    }

    async fn create_tablets(
        &self,
        shard: ShardId,
        epoch: u64,
        tablets: Vec<TabletSpec>,
    ) -> Result<(), VerbError> {
        let created = self.led(shard, epoch)?.create_tablets(tablets).await;
        created.map_err(|error| write_error(&error))
    }

    async fn drop_tablets(
        &self,
        shard: ShardId,
        epoch: u64,
        tablets: Vec<TabletId>,
    ) -> Result<(), VerbError> {
        let dropped = self.led(shard, epoch)?.drop_tablets(tablets).await;
        dropped.map_err(|error| write_error(&error))
    }

    fn shards(&self) -> Vec<ShardState> {
        self.0.shards().iter().map(state).collect()
    }

    fn load(&self) -> NodeLoad {
        let budget = self.0.budget();
        NodeLoad {
            memory_bytes: budget.used() as u64,
            memory_bytes_max: budget.limit() as u64,
            ..NodeLoad::default()
        }
    }
}

fn state(shard: &Shard) -> ShardState {
    let status = shard.status();
    let phase = match &status.ended {
        None => ShardPhase::Serving,
        Some(_) => ShardPhase::Parked,
    };
    ShardState {
        shard: status.shard.0,
        role: Role::Leader.into(),
        epoch: status.term.epoch,
        inc: status.term.inc,
        phase: phase.into(),
        manifest: status.manifest,
        flushed: status.flushed,
        applied: status.applied,
        unflushed_bytes: status.unflushed_bytes,
        rows_written: status.written.rows,
        bytes_written: status.written.bytes,
        rows_read: status.read.rows,
        bytes_read: status.read.bytes,
        why: status.ended.unwrap_or_default(),
    }
}

fn open_error(error: &OpenError) -> VerbError {
    let detail = error.to_string();
    match error {
        OpenError::NotLeader(term) => {
            let higher_epoch = term.epoch;
            VerbError {
                higher_epoch,
                ..VerbError::permanent("NOT_LEADER", detail)
            }
        }
        OpenError::EpochUsed(_) => VerbError::permanent("EPOCH_USED", detail),
        OpenError::Foreign { .. } => VerbError::permanent("FOREIGN", detail),
        OpenError::Parked(_) => VerbError::permanent("PARKED", detail),
        OpenError::Unavailable(_) => VerbError::passing("UNAVAILABLE", detail),
    }
}

fn write_error(error: &WriteError) -> VerbError {
    let detail = error.to_string();
    match error {
        WriteError::NotLeader(_) => VerbError::permanent("NOT_LEADER", detail),
        WriteError::Parked(_) => VerbError::permanent("PARKED", detail),
        WriteError::TooLarge(_) => VerbError::permanent("TOO_LARGE", detail),
        _ => VerbError::passing("UNAVAILABLE", detail),
    }
}
