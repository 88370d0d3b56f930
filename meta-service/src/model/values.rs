//! The values behind the keys: one-line JSON with a type each.
//!
//! A reader keeps the fields it does not know (`unknown`) and writes them back, so that a cluster
//! may run two versions at once. Fields are added, never renamed or given another meaning.
//!
//! Never here: which key a value belongs to ([`crate::keys`]), or when it is written.

use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;

use auxo_proto::ids::{DatabaseId, NodeId, ProcedureId, SchemaNumber, ShardId, TableId, TenantId};
use auxo_proto::schema::{Column, Partition, TableOptions};
use serde::{Deserialize, Serialize};

use crate::keys::Lock;
use crate::procedure::{Data, Kind, Step};

/// Fields of a newer version, kept as they are.
pub type Unknown = serde_json::Map<String, serde_json::Value>;

/// Layout of all keys and values.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Format {
    /// Number of the layout; this version writes [`LAYOUT`].
    pub layout: u32,
    /// The oldest layout whose readers can still read this.
    pub oldest_reader: u32,
    /// Version of the program that wrote it first.
    pub made_by: String,
    /// Fields of a newer version.
    #[serde(flatten)]
    pub unknown: Unknown,
}

/// The layout this version writes, and the newest it reads.
pub const LAYOUT: u32 = 1;

/// Identity of the cluster.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Identity {
    /// UUID drawn at the first start.
    pub cluster_uuid: String,
    /// Milliseconds since 1970 of the first start.
    pub made_ms: i64,
    /// How often the cluster was restored: rebuild, restore or import.
    pub restored: u32,
    /// Fields of a newer version.
    #[serde(flatten)]
    pub unknown: Unknown,
}

/// A meta node.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct MetaMember {
    /// Its configured name.
    pub name: String,
    /// Address of its API, for nodes and operators.
    pub api: String,
    /// Version of the program.
    pub build: String,
    /// Fields of a newer version.
    #[serde(flatten)]
    pub unknown: Unknown,
}

/// A number with a key of its own.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Number {
    /// The number.
    pub number: u64,
    /// Fields of a newer version.
    #[serde(flatten)]
    pub unknown: Unknown,
}

/// What an operator wants of a node.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum NodeState {
    /// Takes shards.
    Up,
    /// Its shards move away.
    Draining,
    /// Has none and gets none.
    Drained,
    /// May not come again.
    Removed,
}

/// A compute node.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Node {
    /// Its configured name.
    pub name: String,
    /// Address of its public listener.
    pub public: String,
    /// Address of its internal listener.
    pub internal: String,
    /// Failure domain.
    pub zone: String,
    /// Set by the operator.
    pub labels: BTreeMap<String, String>,
    /// What an operator wants of it.
    pub state: NodeState,
    /// Fields of a newer version.
    #[serde(flatten)]
    pub unknown: Unknown,
}

/// What the detector last said of a node.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Verdict {
    /// Beats arrive.
    Online,
    /// Thought to be dead.
    Offline,
}

/// The judgement on a node, written when it changes.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Liveness {
    /// The judgement.
    pub verdict: Verdict,
    /// UUID of the process it is about.
    pub boot: String,
    /// Milliseconds since 1970 of the change.
    pub since_ms: i64,
    /// Fields of a newer version.
    #[serde(flatten)]
    pub unknown: Unknown,
}

/// Whether something may be used.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Life {
    /// Being made; nobody sees it.
    Creating,
    /// In use.
    Live,
    /// Being dropped; nobody sees it.
    Dropping,
}

/// A customer.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Tenant {
    /// Unique.
    pub name: String,
    /// Whether it may be used.
    pub state: Life,
    /// Set by the operator.
    pub labels: BTreeMap<String, String>,
    /// Fields of a newer version.
    #[serde(flatten)]
    pub unknown: Unknown,
}

/// A database.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Database {
    /// Who owns it.
    pub tenant: TenantId,
    /// Unique in the tenant.
    pub name: String,
    /// Whether it may be used.
    pub state: Life,
    /// Fields of a newer version.
    #[serde(flatten)]
    pub unknown: Unknown,
}

/// A table.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Table {
    /// Where it lies.
    pub database: DatabaseId,
    /// Unique in the database.
    pub name: String,
    /// Number of its newest committed schema.
    pub schema: SchemaNumber,
    /// How its rows are spread.
    pub partition: Partition,
    /// What the user set.
    pub options: TableOptions,
    /// Whether it may be used.
    pub state: Life,
    /// Fields of a newer version.
    #[serde(flatten)]
    pub unknown: Unknown,
}

/// The columns of a table at one number.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Schema {
    /// All columns, in the order in which a user sees them.
    pub columns: Vec<Column>,
    /// Milliseconds since 1970.
    pub made_ms: i64,
    /// Fields of a newer version.
    #[serde(flatten)]
    pub unknown: Unknown,
}

/// A tablet; as live as its table.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Tablet {
    /// First hash.
    pub lo: u32,
    /// Last hash.
    pub hi: u32,
    /// The shard it is in.
    pub shard: ShardId,
    /// Fields of a newer version.
    #[serde(flatten)]
    pub unknown: Unknown,
}

/// Number of a shard's leadership; as text `{restored}:{count}`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Epoch(pub u64);

impl Epoch {
    /// The epoch after this one: above it, and above all of earlier restore generations.
    pub fn next(self, restored: u32) -> Self {
        Self((self.0 + 1).max(u64::from(restored) << 32))
    }
}

impl fmt::Display for Epoch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.0 >> 32, self.0 & u64::from(u32::MAX))
    }
}

impl FromStr for Epoch {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let parts = text.split_once(':').and_then(|(restored, count)| {
            let restored: u32 = restored.parse().ok()?;
            let count: u32 = count.parse().ok()?;
            Some(u64::from(restored) << 32 | u64::from(count))
        });
        parts
            .map(Self)
            .ok_or_else(|| format!("{text:?} is not an epoch"))
    }
}

/// Tells a region from an earlier one of the same shard; as text 16 hexadecimal digits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Incarnation(pub u64);

impl fmt::Display for Incarnation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}", self.0)
    }
}

impl FromStr for Incarnation {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        u64::from_str_radix(text, 16)
            .map(Self)
            .map_err(|_| format!("{text:?} is not an incarnation"))
    }
}

macro_rules! as_text {
    ($($name:ty)*) => {$(
        impl Serialize for $name {
            fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.collect_str(self)
            }
        }

        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                let text = String::deserialize(deserializer)?;
                text.parse().map_err(serde::de::Error::custom)
            }
        }
    )*};
}
as_text!(Epoch Incarnation ReignNumber);

/// What a node is for a shard.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Role {
    /// Takes writes.
    Leader,
    /// Tails the log.
    Follower,
    /// Reads files, and newer rows from another.
    Compute,
}

/// How far a replica is, as far as procedures have brought it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ReplicaState {
    /// Ordered to open.
    Opening,
    /// Open.
    Serving,
    /// Ordered to close.
    Closing,
    /// On a node thought to be dead.
    Lost,
}

/// A shard on a node.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Replica {
    /// The node.
    pub node: NodeId,
    /// What it is for the shard.
    pub role: Role,
    /// How far it is.
    pub state: ReplicaState,
}

/// Where a shard's log is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct WalRegion {
    /// Name of the service.
    pub service: String,
    /// Drawn by the procedure that made the shard.
    pub incarnation: Incarnation,
}

/// Whether a shard may be used.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ShardLife {
    /// Being made; holds nothing yet.
    Preparing,
    /// In use.
    Live,
    /// Split or merged; its children have its rows.
    Sealed,
    /// Sealed, and its log is gone.
    Detached,
}

/// A shard.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Shard {
    /// Number of its leadership.
    pub epoch: Epoch,
    /// The node that should lead it.
    pub leader: Option<NodeId>,
    /// Where it is.
    pub replicas: Vec<Replica>,
    /// Its log.
    pub wal: WalRegion,
    /// Added to offsets to give sequence numbers.
    pub base_seq: u64,
    /// Shards it was split or merged from.
    pub parents: Vec<ShardId>,
    /// Whether it may be used.
    pub state: ShardLife,
    /// Fields of a newer version.
    #[serde(flatten)]
    pub unknown: Unknown,
}

impl Shard {
    /// The replica on that node.
    pub fn replica(&self, node: NodeId) -> Option<&Replica> {
        self.replicas.iter().find(|replica| replica.node == node)
    }

    /// Puts the replica on its node, in place of the one there.
    pub fn set_replica(&mut self, replica: Replica) {
        self.replicas.retain(|other| other.node != replica.node);
        self.replicas.push(replica);
        self.replicas.sort_by_key(|replica| replica.node);
    }
}

/// Number of a meta leadership, compared in the order of its fields; as text
/// `{restored}:{revision}`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct ReignNumber {
    /// Restore generation of the cluster.
    pub restored: u32,
    /// Create revision of the leader's own key.
    pub revision: i64,
}

impl fmt::Display for ReignNumber {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.restored, self.revision)
    }
}

impl FromStr for ReignNumber {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let parts = text.split_once(':').and_then(|(restored, revision)| {
            Some(Self {
                restored: restored.parse().ok()?,
                revision: revision.parse().ok()?,
            })
        });
        parts.ok_or_else(|| format!("{text:?} is not a reign"))
    }
}

/// Whether a procedure goes on by itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ProcedureState {
    /// Goes forward.
    Running,
    /// Goes back.
    Undoing,
    /// Waits for an operator, with its locks.
    Stuck,
}

/// A step and when it was written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct StepAt {
    /// The step.
    pub step: Step,
    /// Milliseconds since 1970.
    pub at_ms: i64,
}

/// A failure as it is kept.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct KeptFailure {
    /// Text of the error code.
    pub code: String,
    /// For people.
    pub detail: String,
}

/// A procedure that has not ended.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Procedure {
    /// What it does, to what.
    #[serde(flatten)]
    pub kind: Kind,
    /// The step whose changes are written, and whose orders may be out.
    pub step: Step,
    /// What earlier steps chose.
    pub data: Data,
    /// The leadership that wrote the step.
    pub reign: ReignNumber,
    /// Locks it holds.
    pub locks: Vec<Lock>,
    /// The procedure that started it.
    pub parent: Option<ProcedureId>,
    /// The caller's own key.
    pub request: Option<String>,
    /// Milliseconds since 1970.
    pub started_ms: i64,
    /// Whether it goes on by itself.
    pub state: ProcedureState,
    /// Why it goes back or waits.
    pub failure: Option<KeptFailure>,
    /// Steps so far.
    pub trail: Vec<StepAt>,
    /// Fields of a newer version.
    #[serde(flatten)]
    pub unknown: Unknown,
}

/// How a procedure ended.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "result")]
pub enum Outcome {
    /// It did what it was for.
    Done(Done),
    /// It did not, and left nothing behind.
    Failed(KeptFailure),
}

/// What a change left in the model.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Done {
    /// Number of a topology that shows it.
    pub topology: u64,
    /// The table it was about.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub table: Option<TableId>,
    /// The database it was about.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub database: Option<DatabaseId>,
    /// The shard it was about.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub shard: Option<ShardId>,
}

/// A procedure that has ended.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Past {
    /// What it did, to what.
    #[serde(flatten)]
    pub kind: Kind,
    /// How it ended.
    pub outcome: Outcome,
    /// The procedure that started it.
    pub parent: Option<ProcedureId>,
    /// Milliseconds since 1970.
    pub started_ms: i64,
    /// Milliseconds since 1970.
    pub ended_ms: i64,
    /// Its steps.
    pub trail: Vec<StepAt>,
    /// Fields of a newer version.
    #[serde(flatten)]
    pub unknown: Unknown,
}

/// What a caller's own key was used for.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Request {
    /// The procedure it started; `None` when one txn did it.
    pub procedure: Option<ProcedureId>,
    /// XXH3-64 of the request's JSON, 16 hexadecimal digits.
    pub hash: String,
    /// How it ended, once it has.
    pub outcome: Option<Outcome>,
    /// Fields of a newer version.
    #[serde(flatten)]
    pub unknown: Unknown,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn epochs_rise_also_over_a_restore() {
        assert_eq!(Epoch(0).next(0), Epoch(1));
        assert_eq!(Epoch(7).next(1).to_string(), "1:0");
        assert_eq!(Epoch(7).next(1).next(1).to_string(), "1:1");
        let epoch = Epoch(3 << 32 | 9);
        assert_eq!(epoch.to_string().parse(), Ok(epoch));
        assert!("3".parse::<Epoch>().is_err());
        assert!("0:4294967296".parse::<Epoch>().is_err());
    }
}
