//! Steps of making, opening and closing a shard.
//!
//! ```text
//! open   replica {replica Opening; a new shard Preparing, its epoch and log} ⟶ open
//!        → commit {Serving; a new shard Live; topology + 1}
//!        a new shard: undo {replica off} ⟶ close → commit {shard off}
//! failover
//!        replica {epoch + 1; leader and replica on the other node} ⟶ open → commit {as above}
//! close  retire {replica Closing, topology + 1} ⟶ 2 s for routes to move, close
//!        → commit {replica off}
//! ```
//! A leader that restarted is opened again under its epoch; a shard without a leader gets the next.
//!
//! Never here: which shard should be where ([`crate::scheduler`]).

use std::time::Duration;

use auxo_proto::error::{ErrorCode, Failure};
use auxo_proto::ids::{NodeId, ShardId};
use auxo_proto::pb::meta::order::Verb;
use auxo_proto::pb::meta::{self, Close, Open, Wal};

use super::{Around, Beginning, Data, Move, NotYet, Progress, Step, TRIES, Task, lost};
use crate::keys::{Counter, Key, Lock};
use crate::model::Model;
use crate::model::change::Change;
use crate::model::values::{
    Done, Epoch, Incarnation, Outcome, Procedure, ProcedureState, Replica, ReplicaState, Role,
    Shard, ShardLife, Unknown, Verdict, WalRegion,
};

/// Time for routes to move away before a replica is closed.
const ROUTES_MOVE: Duration = Duration::from_secs(2);

pub(super) fn make(
    node: NodeId,
    service: &str,
    fewer_than: u32,
    model: &Model,
    around: &Around,
) -> Result<Beginning, NotYet> {
    if model.shards.len() >= fewer_than as usize {
        return Err(NotYet::Satisfied(Done::default()));
    }
    if !model.nodes.contains_key(&node) {
        return Err(no_node(node));
    }
    let mut change = Change::new();
    let shard = ShardId(change.take_ids(model, Counter::Shard, 1));
    let value = Shard {
        epoch: Epoch::default().next(model.restored()),
        leader: Some(node),
        replicas: vec![Replica {
            node,
            role: Role::Leader,
            state: ReplicaState::Opening,
        }],
        wal: WalRegion {
            service: service.to_owned(),
            incarnation: Incarnation(around.random.next_u64()),
        },
        base_seq: 0,
        parents: Vec::new(),
        state: ShardLife::Preparing,
        unknown: Unknown::default(),
    };
    change
        .rests_on(Key::Node(node))
        .put(Key::Shard(shard), &value);
    Ok(beginning(change, Step::Replica, shard))
}

pub(super) fn open(
    shard: ShardId,
    node: NodeId,
    role: Role,
    model: &Model,
) -> Result<Beginning, NotYet> {
    let Some(mut value) = model.shards.get(&shard).cloned() else {
        return Err(no_shard(shard));
    };
    if !model.nodes.contains_key(&node) {
        return Err(no_node(node));
    }
    match (role, value.leader) {
        (Role::Leader, Some(leader)) if leader != node => {
            let detail = format!("shard {shard} is led by node {leader}");
            return Err(Failure::new(ErrorCode::AlreadyExists, detail).into());
        }
        (Role::Leader, None) => {
            value.epoch = value.epoch.next(model.restored());
            value.leader = Some(node);
        }
        (Role::Follower | Role::Compute, Some(leader)) if leader == node => {
            let detail = format!("node {node} leads shard {shard}");
            return Err(Failure::new(ErrorCode::AlreadyExists, detail).into());
        }
        _ => {}
    }
    value.set_replica(Replica {
        node,
        role,
        state: ReplicaState::Opening,
    });
    let mut change = Change::new();
    change
        .rests_on(Key::Node(node))
        .put(Key::Shard(shard), &value);
    Ok(beginning(change, Step::Replica, shard))
}

/// Takes a shard from a leader that is offline. Nothing waits for that one: if it goes on, the claim
/// of the next epoch fences it.
pub(super) fn fail_over(
    shard: ShardId,
    from: NodeId,
    node: NodeId,
    model: &Model,
) -> Result<Beginning, NotYet> {
    let Some(mut value) = model.shards.get(&shard).cloned() else {
        return Err(no_shard(shard));
    };
    if !model.nodes.contains_key(&node) {
        return Err(no_node(node));
    }
    let offline = model
        .liveness
        .get(&from)
        .is_some_and(|known| known.verdict == Verdict::Offline);
    if value.leader != Some(from) || !offline {
        return Err(NotYet::Satisfied(Done::default()));
    }
    value.epoch = value.epoch.next(model.restored());
    value.leader = Some(node);
    value.replicas.retain(|replica| replica.node != from);
    value.set_replica(Replica {
        node,
        role: Role::Leader,
        state: ReplicaState::Opening,
    });
    let mut change = Change::new();
    change
        .rests_on(Key::Node(node))
        .rests_on(Key::Liveness(from))
        .put(Key::Shard(shard), &value);
    Ok(beginning(change, Step::Replica, shard))
}

pub(super) fn go_on_open(
    node: NodeId,
    role: Role,
    record: &Procedure,
    progress: &Progress,
    model: &Model,
) -> Move {
    let shard = record.data.shard;
    let Some((shard, value)) = shard.and_then(|id| Some((id, model.shards.get(&id)?))) else {
        return lost(record);
    };
    let back = record.state == ProcedureState::Undoing;
    match (record.step, progress) {
        (Step::Replica, Progress::Entered) if !back => open_order(shard, node, role, value),
        (Step::Replica, Progress::Acted) if !back => {
            let mut next = value.clone();
            next.state = match value.state {
                ShardLife::Preparing => ShardLife::Live,
                other => other,
            };
            next.set_replica(Replica {
                node,
                role,
                state: ReplicaState::Serving,
            });
            let mut change = Change::new();
            // Whatever the last topology said of the shard, this one is right.
            let topology = change.raise_topology(model);
            change.put(Key::Shard(shard), &next);
            Move::End {
                change,
                outcome: Outcome::Done(Done {
                    topology,
                    shard: Some(shard),
                    ..Done::default()
                }),
            }
        }
        (Step::Replica, Progress::Failed(failure)) if value.state == ShardLife::Preparing => {
            let mut next = value.clone();
            next.leader = None;
            next.replicas.retain(|replica| replica.node != node);
            let mut change = Change::new();
            change.put(Key::Shard(shard), &next);
            Move::Write {
                change,
                step: Step::Undo,
                state: ProcedureState::Undoing,
                failure: Some(failure.clone()),
            }
        }
        // The replica stays as it is, and the scheduler tries again later.
        (Step::Replica, Progress::Failed(failure)) => Move::End {
            change: Change::new(),
            outcome: Outcome::Failed(failure.clone()),
        },
        (Step::Undo, Progress::Entered) => close_order(shard, node, value, Duration::ZERO),
        (Step::Undo, Progress::Acted) => {
            let Some(failure) = record.failure.clone() else {
                return lost(record);
            };
            let mut change = Change::new();
            change.delete(Key::Shard(shard));
            Move::End {
                change,
                outcome: Outcome::Failed(failure),
            }
        }
        (Step::Undo, Progress::Failed(failure)) => Move::Stick(failure.clone()),
        _ => lost(record),
    }
}

pub(super) fn close(shard: ShardId, node: NodeId, model: &Model) -> Result<Beginning, NotYet> {
    let Some(mut value) = model.shards.get(&shard).cloned() else {
        return Err(no_shard(shard));
    };
    let Some(mut replica) = value.replica(node).cloned() else {
        let detail = format!("node {node} does not have shard {shard}");
        return Err(Failure::new(ErrorCode::NotFound, detail).into());
    };
    replica.state = ReplicaState::Closing;
    value.set_replica(replica);
    value.leader = value.leader.filter(|leader| *leader != node);
    let mut change = Change::new();
    let topology = change.raise_topology(model);
    change.put(Key::Shard(shard), &value);
    let mut beginning = beginning(change, Step::Retire, shard);
    beginning.data.topology = Some(topology);
    Ok(beginning)
}

pub(super) fn go_on_close(
    shard: ShardId,
    node: NodeId,
    progress: &Progress,
    model: &Model,
) -> Move {
    let value = model.shards.get(&shard);
    match (progress, value) {
        (Progress::Entered, Some(value)) => close_order(shard, node, value, ROUTES_MOVE),
        (Progress::Failed(failure), _) => Move::Stick(failure.clone()),
        (_, value) => {
            let mut change = Change::new();
            if let Some(value) = value {
                let mut next = value.clone();
                next.replicas.retain(|replica| replica.node != node);
                change.put(Key::Shard(shard), &next);
            }
            Move::End {
                change,
                outcome: Outcome::Done(Done {
                    topology: model.topology_number(),
                    shard: Some(shard),
                    ..Done::default()
                }),
            }
        }
    }
}

pub(super) fn open_order(shard: ShardId, node: NodeId, role: Role, value: &Shard) -> Move {
    Move::Order {
        tasks: vec![Task {
            target: shard.to_string(),
            node: Some(node),
            shard,
            epoch: value.epoch.0,
            verb: Verb::Open(Open {
                role: wire_role(role).into(),
                wal: Some(Wal {
                    service: value.wal.service.clone(),
                    incarnation: value.wal.incarnation.0,
                }),
                base_seq: value.base_seq,
            }),
        }],
        after: Duration::ZERO,
        tries: TRIES,
    }
}

pub(super) fn close_order(shard: ShardId, node: NodeId, value: &Shard, after: Duration) -> Move {
    Move::Order {
        tasks: vec![Task {
            target: shard.to_string(),
            node: Some(node),
            shard,
            epoch: value.epoch.0,
            verb: Verb::Close(Close {}),
        }],
        after,
        tries: TRIES,
    }
}

pub(super) fn beginning(change: Change, step: Step, shard: ShardId) -> Beginning {
    Beginning {
        change,
        step,
        data: Data {
            shard: Some(shard),
            ..Data::default()
        },
        locks: vec![Lock::Shard(shard)],
    }
}

pub(super) fn no_shard(shard: ShardId) -> NotYet {
    Failure::new(ErrorCode::NotFound, format!("there is no shard {shard}")).into()
}

pub(super) fn no_node(node: NodeId) -> NotYet {
    Failure::new(ErrorCode::NotFound, format!("there is no node {node}")).into()
}

fn wire_role(role: Role) -> meta::Role {
    match role {
        Role::Leader => meta::Role::Leader,
        Role::Follower => meta::Role::Follower,
        Role::Compute => meta::Role::Compute,
    }
}
