//! What a cluster lacks, and what it does not.

use auxo_proto::pb::meta::ShardState;

use super::*;
use crate::model::tests::first_start;
use crate::model::values::{
    Epoch, Incarnation, Liveness, Node, Replica, ReplicaState, Shard, Unknown, WalRegion,
};

fn wishes() -> Wishes {
    Wishes {
        shards: 2,
        wal_service: "local".to_owned(),
    }
}

fn with_nodes(nodes: &[u64]) -> Model {
    let mut change = Change::new();
    for node in nodes {
        let value = Node {
            name: format!("node-{node}"),
            public: String::new(),
            internal: String::new(),
            zone: String::new(),
            labels: BTreeMap::new(),
            state: NodeState::Up,
            unknown: Unknown::default(),
        };
        change.put(Key::Node(NodeId(*node)), &value);
    }
    change.applied_to(&first_start())
}

fn with_shard(model: &Model, id: u64, leader: u64) -> Model {
    let value = Shard {
        epoch: Epoch(3),
        leader: Some(NodeId(leader)),
        replicas: vec![Replica {
            node: NodeId(leader),
            role: Role::Leader,
            state: ReplicaState::Serving,
        }],
        wal: WalRegion {
            service: "local".to_owned(),
            incarnation: Incarnation(1),
        },
        base_seq: 0,
        parents: Vec::new(),
        state: ShardLife::Live,
        unknown: Unknown::default(),
    };
    let mut change = Change::new();
    change.put(Key::Shard(ShardId(id)), &value);
    change.applied_to(model)
}

fn state(id: u64, epoch: u64, phase: ShardPhase) -> ShardState {
    ShardState {
        shard: id,
        role: meta::Role::Leader.into(),
        epoch,
        phase: phase.into(),
        ..ShardState::default()
    }
}

fn said_hello(nodes: &[(u64, Vec<ShardState>)]) -> View {
    let mut view = View::default();
    for (node, shards) in nodes {
        view.observe_hello(NodeId(*node), "boot", shards.clone(), Duration::ZERO);
    }
    view
}

fn shown(kinds: &[Kind]) -> Vec<String> {
    let show = |kind: &Kind| match kind {
        Kind::OpenShard {
            shard: Some(shard),
            node,
            ..
        } => format!("{shard} on {node}"),
        Kind::OpenShard {
            node, fewer_than, ..
        } => format!("new {fewer_than} on {node}"),
        Kind::Failover { shard, from, node } => format!("{shard} from {from} to {node}"),
        other => panic!("{other:?}"),
    };
    kinds.iter().map(show).collect()
}

#[test]
fn first_shards_are_spread_over_the_nodes_there_are() {
    let model = with_nodes(&[1, 2]);
    let none = repairs(&model, &View::default(), &wishes());
    assert_eq!(none, []);
    let one = said_hello(&[(1, vec![])]);
    assert_eq!(
        shown(&repairs(&model, &one, &wishes())),
        ["new 1 on 1", "new 2 on 1"]
    );
    let two = said_hello(&[(1, vec![]), (2, vec![])]);
    assert_eq!(
        shown(&repairs(&model, &two, &wishes())),
        ["new 1 on 1", "new 2 on 2"]
    );
    let model = with_shard(&model, 1, 1);
    let serving = vec![state(1, 3, ShardPhase::Serving)];
    let two = said_hello(&[(1, serving), (2, vec![])]);
    assert_eq!(shown(&repairs(&model, &two, &wishes())), ["new 2 on 2"]);
}

#[test]
fn a_leader_that_does_not_serve_is_told_to_open_unless_an_operator_is_waited_for() {
    let model = with_shard(&with_shard(&with_nodes(&[1]), 1, 1), 2, 1);
    let repaired = |states: Vec<ShardState>| {
        let view = said_hello(&[(1, states)]);
        shown(&repairs(&model, &view, &wishes()))
    };
    let serving = state(2, 3, ShardPhase::Serving);
    assert_eq!(repaired(vec![]), ["1 on 1", "2 on 1"]);
    assert_eq!(repaired(vec![serving.clone()]), ["1 on 1"]);
    let closed = state(1, 3, ShardPhase::Closed);
    assert_eq!(repaired(vec![serving.clone(), closed]), ["1 on 1"]);
    let older = state(1, 2, ShardPhase::Serving);
    assert_eq!(repaired(vec![serving.clone(), older]), ["1 on 1"]);
    let parked = state(1, 3, ShardPhase::Parked);
    assert!(repaired(vec![serving.clone(), parked]).is_empty());
    let fine = state(1, 3, ShardPhase::Serving);
    assert!(repaired(vec![serving, fine]).is_empty());
}

#[test]
fn a_shard_of_a_leader_that_is_offline_goes_to_the_node_that_leads_fewest() {
    let model = with_nodes(&[1, 2, 3]);
    let model = with_shard(&with_shard(&with_shard(&model, 1, 1), 2, 1), 3, 2);
    let serving = vec![state(3, 3, ShardPhase::Serving)];
    let view = said_hello(&[(2, serving), (3, vec![])]);
    let silent = repairs(&model, &view, &wishes());
    assert_eq!(silent, [], "silence alone is no verdict");
    let verdict = Liveness {
        verdict: Verdict::Offline,
        boot: "boot".to_owned(),
        since_ms: 0,
        unknown: Unknown::default(),
    };
    let mut change = Change::new();
    change.put(Key::Liveness(NodeId(1)), &verdict);
    let model = change.applied_to(&model);
    assert_eq!(
        shown(&repairs(&model, &view, &wishes())),
        ["1 from 1 to 3", "2 from 1 to 2"]
    );
}

#[test]
fn a_shard_that_a_procedure_holds_is_left_alone() {
    let model = with_shard(&with_shard(&with_nodes(&[1]), 1, 1), 2, 1);
    let mut change = Change::new();
    change.put(Key::Lock(Lock::Shard(ShardId(1))), &7);
    let model = change.applied_to(&model);
    let view = said_hello(&[(1, vec![])]);
    assert_eq!(shown(&repairs(&model, &view, &wishes())), ["2 on 1"]);
}
