//! What a cluster lacks, and what it does not.

use auxo_proto::pb::meta::ShardState;

use super::*;
use crate::cluster::detector::Stream;
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
        Kind::MoveShard { shard, from, node } => format!("{shard} moves from {from} to {node}"),
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
fn the_verdict_on_a_node_ends_when_it_is_heard_again() {
    let verdict = |verdict| Liveness {
        verdict,
        boot: "boot".to_owned(),
        since_ms: 0,
        unknown: Unknown::default(),
    };
    let mut change = Change::new();
    change.put(Key::Liveness(NodeId(1)), &verdict(Verdict::Offline));
    change.put(Key::Liveness(NodeId(2)), &verdict(Verdict::Online));
    change.put(Key::Liveness(NodeId(3)), &verdict(Verdict::Offline));
    let model = change.applied_to(&with_nodes(&[1, 2, 3]));
    let mut view = said_hello(&[(1, vec![]), (2, vec![]), (3, vec![])]);
    view.observe_stream(NodeId(3), Stream::Broken);
    assert_eq!(back(&model, &view), [NodeId(1)]);
    assert_eq!(gone(&model, &view), []);
}

#[test]
fn a_verdict_that_was_not_written_stays_due() {
    let online = Liveness {
        verdict: Verdict::Online,
        boot: "boot".to_owned(),
        since_ms: 0,
        unknown: Unknown::default(),
    };
    let mut change = Change::new();
    change.put(Key::Liveness(NodeId(1)), &online);
    let model = change.applied_to(&with_nodes(&[1, 2]));
    let mut view = said_hello(&[(1, vec![]), (2, vec![])]);
    let later = Duration::from_secs(60);
    view.expire(Duration::ZERO);
    view.observe_stream(NodeId(1), Stream::Left);
    view.observe_stream(NodeId(2), Stream::Left);
    assert_eq!(view.expire(Duration::ZERO), [NodeId(1), NodeId(2)]);
    assert_eq!(view.expire(later), []);
    // Of the second no verdict was ever written that could be another now.
    assert_eq!(gone(&model, &view), [NodeId(1)]);
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

/// Shards 1, 2, … each led by the node named, all served.
fn led_by(model: &Model, leaders: &[u64]) -> (Model, Vec<(u64, Vec<ShardState>)>) {
    let mut model = model.clone();
    let mut seen: BTreeMap<u64, Vec<ShardState>> = BTreeMap::new();
    for node in model.nodes.keys() {
        seen.insert(node.0, Vec::new());
    }
    for (at, leader) in leaders.iter().enumerate() {
        let id = at as u64 + 1;
        model = with_shard(&model, id, *leader);
        let states = seen.entry(*leader).or_default();
        states.push(state(id, 3, ShardPhase::Serving));
    }
    (model, seen.into_iter().collect())
}

fn in_state(model: &Model, id: u64, state: NodeState) -> Model {
    let mut node = model.nodes[&NodeId(id)].clone();
    node.state = state;
    let mut change = Change::new();
    change.put(Key::Node(NodeId(id)), &node);
    change.applied_to(model)
}

#[test]
fn a_surplus_moves_until_no_two_nodes_differ_by_two() {
    let (model, seen) = led_by(&with_nodes(&[1, 2, 3]), &[1, 1, 1, 1, 1, 2]);
    assert_eq!(
        shown(&moves(&model, &said_hello(&seen))),
        [
            "1 moves from 1 to 3",
            "2 moves from 1 to 2",
            "3 moves from 1 to 3"
        ]
    );
    for even in [&[1, 2, 3][..], &[1, 1, 2, 3], &[1, 1, 2, 2, 3]] {
        let (model, seen) = led_by(&with_nodes(&[1, 2, 3]), even);
        assert_eq!(moves(&model, &said_hello(&seen)), [], "{even:?}");
    }
}

#[test]
fn only_so_many_move_at_once_and_none_that_is_held_or_not_served() {
    let (model, seen) = led_by(&with_nodes(&[1, 2]), &[1; 20]);
    assert_eq!(moves(&model, &said_hello(&seen)).len(), MOVES_MAX);
    let (model, mut seen) = led_by(&with_nodes(&[1, 2]), &[1, 1, 1]);
    let mut change = Change::new();
    change.put(Key::Lock(Lock::Shard(ShardId(1))), &7);
    let model = change.applied_to(&model);
    seen[0].1.remove(1);
    assert_eq!(
        shown(&moves(&model, &said_hello(&seen))),
        ["3 moves from 1 to 2"]
    );
    let (model, mut seen) = led_by(&with_nodes(&[1, 2]), &[1, 1, 1]);
    seen.pop();
    assert_eq!(
        moves(&model, &said_hello(&seen)),
        [],
        "nobody else is there"
    );
}

#[test]
fn a_node_that_is_to_be_emptied_gives_its_shards_to_those_that_lead_fewest() {
    let (model, seen) = led_by(&with_nodes(&[1, 2, 3]), &[1, 1, 2]);
    let model = in_state(&model, 1, NodeState::Draining);
    assert_eq!(
        shown(&moves(&model, &said_hello(&seen))),
        ["1 moves from 1 to 3", "2 moves from 1 to 2"]
    );
    assert_eq!(emptied(&model), []);
    let (model, seen) = led_by(&with_nodes(&[1, 2, 3]), &[2, 2, 2, 3, 3]);
    let model = in_state(&model, 1, NodeState::Draining);
    assert_eq!(moves(&model, &said_hello(&seen)), [], "it gets none back");
    assert_eq!(emptied(&model), [NodeId(1)]);
}
