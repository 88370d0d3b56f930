//! Changes of the model that need the nodes: persisted, resumable, each step idempotent.
//!
//! 1. The record with its step is written before the step's orders are sent; the step and what it
//!    changes in the model share one txn.
//! 2. A new leader reads the records and sends the current step's orders again, under the same ids.
//! 3. Locks are keys, taken all or none with the first step, given back with the last.
//! 4. A permanent failure before the point of no return undoes; after it the procedure is stuck,
//!    keeps its locks and waits for an operator.
//!
//! Deciding is pure: [`begin`] and [`decide`] look at the model and say what to do next, so that
//! any leader, and any test, comes to the same. The loop around them is [`runner`].
//!
//! Rooms: [`table`], [`database`], [`shard`] and [`shard_move`] (the steps), [`record`] (what is written beside
//! them), [`runner`] (the loop).
//!
//! Never here, but in the runner: a call to etcd or to a node.

pub mod database;
pub mod record;
pub mod runner;
pub mod shard;
pub mod shard_move;
pub mod table;

use std::collections::BTreeMap;
use std::time::Duration;

use auxo_proto::ddl::NewColumn;
use auxo_proto::error::{ErrorCode, Failure};
use auxo_proto::ids::{DatabaseId, NodeId, SchemaNumber, ShardId, TableId};
use auxo_proto::pb::meta::order::Verb;
use auxo_proto::random::Random;
use auxo_proto::schema::{Column, Partition, TableOptions};
use serde::{Deserialize, Serialize};

use crate::keys::Lock;
use crate::model::Model;
use crate::model::change::Change;
use crate::model::values::{Done, KeptFailure, Outcome, Procedure, ProcedureState, Role};

/// What a procedure does, to what.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "kind", content = "args")]
pub enum Kind {
    /// Makes a table.
    CreateTable(NewTable),
    /// Removes a table.
    DropTable {
        /// The table.
        table: TableId,
    },
    /// Gives a table more columns, or other options.
    AlterTable {
        /// The table.
        table: TableId,
        /// Columns to add.
        columns: Vec<NewColumn>,
        /// All options, if they change.
        options: Option<TableOptions>,
    },
    /// Removes a database with its tables.
    DropDatabase {
        /// The database.
        database: DatabaseId,
    },
    /// Opens a shard on a node; makes it, if none is named.
    OpenShard {
        /// The shard; `None` makes a new one.
        shard: Option<ShardId>,
        /// The node.
        node: NodeId,
        /// What the node is to be for it.
        role: Role,
        /// Name of the log service of a new shard.
        service: String,
        /// A new shard is made only while there are fewer than this.
        fewer_than: u32,
    },
    /// Gives a shard to another node because its leader does not beat any more.
    Failover {
        /// The shard.
        shard: ShardId,
        /// The leader that is offline.
        from: NodeId,
        /// The node that opens it.
        node: NodeId,
    },
    /// Gives a shard that is served to another node.
    MoveShard {
        /// The shard.
        shard: ShardId,
        /// Its leader.
        from: NodeId,
        /// The node that is to lead it.
        node: NodeId,
    },
    /// Closes a shard on a node.
    CloseShard {
        /// The shard.
        shard: ShardId,
        /// The node.
        node: NodeId,
    },
}

/// A table that has columns with ids, and no id itself.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct NewTable {
    /// Where it goes.
    pub database: DatabaseId,
    /// Its name.
    pub name: String,
    /// Its columns.
    pub columns: Vec<Column>,
    /// How its rows are spread.
    pub partition: Partition,
    /// What the user set.
    pub options: TableOptions,
}

impl Kind {
    /// Its name.
    pub fn name(&self) -> &'static str {
        match self {
            Self::CreateTable(_) => "create_table",
            Self::DropTable { .. } => "drop_table",
            Self::AlterTable { .. } => "alter_table",
            Self::DropDatabase { .. } => "drop_database",
            Self::OpenShard { .. } => "open_shard",
            Self::Failover { .. } => "failover",
            Self::MoveShard { .. } => "move_shard",
            Self::CloseShard { .. } => "close_shard",
        }
    }
}

/// A step of a procedure.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Step {
    /// Ids, names and places are given; tablets are being made.
    Assign,
    /// The thing is out of sight; tablets are being dropped.
    Drop,
    /// The new schema is written; leaders are being told.
    Schema,
    /// Nothing is changed yet; the leader writes what it has in memory to files.
    Warm,
    /// The next leader is written; it opens the shard.
    HandOver,
    /// The replica is written; the node opens it.
    Replica,
    /// The replica is out of sight; the node closes it.
    Retire,
    /// Keys are being removed.
    Tidy,
    /// What was done is being taken back.
    Undo,
    /// The last one.
    Commit,
}

impl Step {
    /// Its name.
    pub fn name(self) -> &'static str {
        match self {
            Self::Assign => "assign",
            Self::Drop => "drop",
            Self::Schema => "schema",
            Self::Warm => "warm",
            Self::HandOver => "hand_over",
            Self::Replica => "replica",
            Self::Retire => "retire",
            Self::Tidy => "tidy",
            Self::Undo => "undo",
            Self::Commit => "commit",
        }
    }
}

/// What earlier steps of a procedure chose.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Data {
    /// The table that was given an id.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub table: Option<TableId>,
    /// The shard that was given an id.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub shard: Option<ShardId>,
    /// Number of the schema that was written.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub schema: Option<SchemaNumber>,
    /// Number of the topology in which the change shows already.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub topology: Option<u64>,
}

/// What deciding needs beside the model.
#[derive(Clone, Debug)]
pub struct Around {
    /// Milliseconds since 1970, for times that people read.
    pub now_ms: i64,
    /// Dice.
    pub random: Random,
    /// How busy each node is; more is busier.
    pub scores: BTreeMap<NodeId, f64>,
}

/// The first step of a procedure.
#[derive(Clone, Debug, PartialEq)]
pub struct Beginning {
    /// What its txn writes, beside the record and the locks.
    pub change: Change,
    /// The step.
    pub step: Step,
    /// What it chose.
    pub data: Data,
    /// What it locks.
    pub locks: Vec<Lock>,
}

/// Why a procedure cannot begin.
#[derive(Clone, Debug, PartialEq)]
pub enum NotYet {
    /// It can once the model has changed; the text says what it waits for.
    Later(String),
    /// It cannot.
    Never(Failure),
    /// What it is for is so already.
    Satisfied(Done),
}

impl From<Failure> for NotYet {
    fn from(failure: Failure) -> Self {
        Self::Never(failure)
    }
}

/// How the current step goes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Progress {
    /// It is written; its orders may or may not have been sent.
    Entered,
    /// Its orders are done.
    Acted,
    /// One of its orders will never be done.
    Failed(KeptFailure),
}

/// One verb for one node.
#[derive(Clone, Debug, PartialEq)]
pub struct Task {
    /// Tells it from the others of the step.
    pub target: String,
    /// Who is to do it; `None` if nobody is known to.
    pub node: Option<NodeId>,
    /// The shard it is about.
    pub shard: ShardId,
    /// Number of the shard's leadership.
    pub epoch: u64,
    /// The verb.
    pub verb: Verb,
}

/// What to do next.
#[derive(Clone, Debug, PartialEq)]
pub enum Move {
    /// Write this with the record at that step.
    Write {
        /// What the txn writes beside the record.
        change: Change,
        /// The step it enters.
        step: Step,
        /// Whether it goes forward or back from here.
        state: ProcedureState,
        /// Why it goes back.
        failure: Option<KeptFailure>,
    },
    /// Have all of this done, not before a pause.
    Order {
        /// What; none at all is done at once.
        tasks: Vec<Task>,
        /// Time for routes to move first.
        after: Duration,
        /// How often it is tried before it counts as failed; `None` is for ever.
        tries: Option<u32>,
    },
    /// Begin these if they can, and wait until the model changes.
    Await {
        /// Children.
        start: Vec<Kind>,
    },
    /// Write this and end.
    End {
        /// What the txn writes beside the record of the past.
        change: Change,
        /// How it ended.
        outcome: Outcome,
    },
    /// Keep the locks and wait for an operator.
    Stick(KeptFailure),
}

/// Tries of a step with a deadline.
pub const TRIES: Option<u32> = Some(20);

/// Decides whether and how a procedure begins.
pub fn begin(kind: &Kind, model: &Model, around: &Around) -> Result<Beginning, NotYet> {
    let beginning = match kind {
        Kind::CreateTable(new) => table::create(new, model, around),
        Kind::DropTable { table } => table::drop(*table, model),
        Kind::AlterTable {
            table,
            columns,
            options,
        } => table::alter(*table, columns, options.is_some(), model, around),
        Kind::DropDatabase { database } => database::drop(*database, model),
        Kind::OpenShard {
            shard,
            node,
            role,
            service,
            fewer_than,
        } => match shard {
            Some(shard) => shard::open(*shard, *node, *role, model),
            None => shard::make(*node, service, *fewer_than, model, around),
        },
        Kind::Failover { shard, from, node } => shard::fail_over(*shard, *from, *node, model),
        Kind::MoveShard { shard, from, node } => shard_move::begin(*shard, *from, *node, model),
        Kind::CloseShard { shard, node } => shard::close(*shard, *node, model),
    }?;
    for lock in &beginning.locks {
        if let Some(holder) = model.locks.get(lock) {
            return Err(NotYet::Later(format!("procedure {holder} to end")));
        }
    }
    Ok(beginning)
}

/// Decides what a procedure does next.
pub fn decide(record: &Procedure, progress: &Progress, model: &Model, around: &Around) -> Move {
    let back = record.state == ProcedureState::Undoing;
    match &record.kind {
        Kind::CreateTable(new) if back => table::undo_create(new, record, progress, model),
        Kind::CreateTable(new) => table::go_on_create(new, record, progress, model, around),
        Kind::DropTable { table } => table::go_on_drop(*table, record, progress, model),
        Kind::AlterTable { table, options, .. } => {
            table::go_on_alter(*table, options.as_ref(), record, progress, model)
        }
        Kind::DropDatabase { database } => database::go_on_drop(*database, record, model),
        Kind::OpenShard { node, role, .. } => {
            shard::go_on_open(*node, *role, record, progress, model)
        }
        Kind::Failover { node, .. } => {
            shard::go_on_open(*node, Role::Leader, record, progress, model)
        }
        Kind::MoveShard { shard, from, node } => {
            shard_move::go_on((*shard, *from, *node), record, progress, model)
        }
        Kind::CloseShard { shard, node } => shard::go_on_close(*shard, *node, progress, model),
    }
}

/// What the caller of a procedure that has not ended can be told already.
pub fn answered(record: &Procedure) -> Option<Done> {
    match &record.kind {
        Kind::DropTable { .. } | Kind::DropDatabase { .. } => Some(Done {
            topology: record.data.topology?,
            ..Done::default()
        }),
        _ => None,
    }
}

/// A procedure that is at a step it does not have: only a bug or a hand in etcd does that.
fn lost(record: &Procedure) -> Move {
    Move::Stick(KeptFailure {
        code: ErrorCode::Internal.text().to_owned(),
        detail: format!(
            "{} has no step {} in this state",
            record.kind.name(),
            record.step.name()
        ),
    })
}

impl From<&Failure> for KeptFailure {
    fn from(failure: &Failure) -> Self {
        Self {
            code: failure.code.text().to_owned(),
            detail: failure.detail.clone(),
        }
    }
}

impl From<&KeptFailure> for Failure {
    fn from(kept: &KeptFailure) -> Self {
        let code = ErrorCode::ALL
            .iter()
            .find(|code| code.text() == kept.code)
            .copied()
            .unwrap_or(ErrorCode::Internal);
        Self::new(code, kept.detail.clone())
    }
}

#[cfg(test)]
mod tests;
