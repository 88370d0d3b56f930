//! Steps of moving a shard from a leader that serves it to another node.
//!
//! ```text
//! warm ⟶ flush at the old leader: little of the log is left to replay
//! → hand_over {epoch + 1; leader and replica on the other node} ⟶ open there: its claim fences the
//!   old leader, which was not stopped before
//! → retire {replica Serving there, Closing here; topology + 1} ⟶ close here
//! → commit {the old replica off}
//! undo, while the new node cannot open it: {epoch + 1; leader and replica back} ⟶ open here
//! → commit {topology + 1}
//! ```
//! Between the claim and the new topology writes are refused and wait for news; none is lost, whoever
//! stops where.
//!
//! Never here: which shard should move where ([`crate::scheduler`]).

use std::time::Duration;

use auxo_proto::error::{ErrorCode, Failure};
use auxo_proto::ids::{NodeId, ShardId};
use auxo_proto::pb::meta::Flush;
use auxo_proto::pb::meta::order::Verb;

use super::shard::{beginning, close_order, no_node, no_shard, open_order};
use super::{Beginning, Move, NotYet, Progress, Step, Task, lost};
use crate::keys::Key;
use crate::model::Model;
use crate::model::change::Change;
use crate::model::values::{
    Done, NodeState, Outcome, Procedure, ProcedureState, Replica, ReplicaState, Role, Shard,
    ShardLife,
};

/// Tries of what makes a move cheaper, and of what tidies up behind it.
const FEW_TRIES: Option<u32> = Some(3);

pub(super) fn begin(
    shard: ShardId,
    from: NodeId,
    node: NodeId,
    model: &Model,
) -> Result<Beginning, NotYet> {
    let value = model.shards.get(&shard).ok_or_else(|| no_shard(shard))?;
    let target = model.nodes.get(&node).ok_or_else(|| no_node(node))?;
    if value.leader == Some(node) {
        return Err(NotYet::Satisfied(Done {
            shard: Some(shard),
            topology: model.topology_number(),
            ..Done::default()
        }));
    }
    let refused = |detail: String| Err(Failure::new(ErrorCode::NotAllowed, detail).into());
    if value.leader != Some(from) || value.state != ShardLife::Live {
        return refused(format!("shard {shard} is not led by node {from}"));
    }
    if target.state != NodeState::Up {
        return refused(format!("node {node} takes no shards"));
    }
    let mut change = Change::new();
    change.rests_on(Key::Node(node)).rests_on(Key::Shard(shard));
    Ok(beginning(change, Step::Warm, shard))
}

pub(super) fn go_on(
    (shard, from, node): (ShardId, NodeId, NodeId),
    record: &Procedure,
    progress: &Progress,
    model: &Model,
) -> Move {
    let Some(value) = model.shards.get(&shard) else {
        return lost(record);
    };
    match (record.step, progress) {
        (Step::Warm, Progress::Entered) => Move::Order {
            tasks: vec![Task {
                target: shard.to_string(),
                node: Some(from),
                shard,
                epoch: value.epoch.0,
                verb: Verb::Flush(Flush {
                    through: u64::MAX,
                    why: "the shard moves".to_owned(),
                }),
            }],
            after: Duration::ZERO,
            tries: FEW_TRIES,
        },
        // A leader that cannot flush is one more reason to move: the new one replays a longer log.
        (Step::Warm, Progress::Acted | Progress::Failed(_)) => {
            let next = led_by(value, node, model);
            write(shard, &next, Step::HandOver, record.state, None)
        }
        (Step::HandOver, Progress::Entered) => open_order(shard, node, Role::Leader, value),
        (Step::HandOver, Progress::Acted) => {
            let mut next = value.clone();
            next.set_replica(replica(node, ReplicaState::Serving));
            next.set_replica(replica(from, ReplicaState::Closing));
            let mut change = Change::new();
            change.raise_topology(model);
            change.put(Key::Shard(shard), &next);
            Move::Write {
                change,
                step: Step::Retire,
                state: record.state,
                failure: None,
            }
        }
        (Step::HandOver, Progress::Failed(failure)) => {
            let mut next = led_by(value, from, model);
            next.replicas.retain(|replica| replica.node != node);
            let (state, why) = (ProcedureState::Undoing, Some(failure.clone()));
            write(shard, &next, Step::Undo, state, why)
        }
        (Step::Retire, Progress::Entered) => {
            let Move::Order { tasks, after, .. } = close_order(shard, from, value, Duration::ZERO)
            else {
                return lost(record);
            };
            Move::Order {
                tasks,
                after,
                tries: FEW_TRIES,
            }
        }
        // An old leader that does not answer is fenced all the same.
        (Step::Retire, Progress::Acted | Progress::Failed(_)) => {
            let mut next = value.clone();
            next.replicas.retain(|replica| replica.node != from);
            let mut change = Change::new();
            change.put(Key::Shard(shard), &next);
            Move::End {
                change,
                outcome: Outcome::Done(Done {
                    topology: model.topology_number(),
                    shard: Some(shard),
                    ..Done::default()
                }),
            }
        }
        (Step::Undo, Progress::Entered) => open_order(shard, from, Role::Leader, value),
        // Back where it was, or for the scheduler to repair.
        (Step::Undo, progress) => {
            let Some(failure) = record.failure.clone() else {
                return lost(record);
            };
            let mut change = Change::new();
            if *progress == Progress::Acted {
                let mut next = value.clone();
                next.set_replica(replica(from, ReplicaState::Serving));
                change.put(Key::Shard(shard), &next);
            }
            change.raise_topology(model);
            Move::End {
                change,
                outcome: Outcome::Failed(failure),
            }
        }
        _ => lost(record),
    }
}

/// The shard under its next leadership.
fn led_by(value: &Shard, node: NodeId, model: &Model) -> Shard {
    let mut next = value.clone();
    next.epoch = value.epoch.next(model.restored());
    next.leader = Some(node);
    next.set_replica(replica(node, ReplicaState::Opening));
    next
}

fn replica(node: NodeId, state: ReplicaState) -> Replica {
    Replica {
        node,
        role: Role::Leader,
        state,
    }
}

fn write(
    shard: ShardId,
    next: &Shard,
    step: Step,
    state: ProcedureState,
    failure: Option<crate::model::values::KeptFailure>,
) -> Move {
    let mut change = Change::new();
    change.put(Key::Shard(shard), next);
    Move::Write {
        change,
        step,
        state,
        failure,
    }
}
