//! Where new tablets go: pure, and the same for the same model and scores.
//!
//! The shards whose leaders serve are candidates. The partitions of one table are spread over nodes
//! first, then the less busy node wins, then the shard with fewer tablets.
//!
//! Never here: the moving of shards.

use std::collections::BTreeMap;

use auxo_proto::ids::{NodeId, ShardId, TableId};

use crate::model::Model;
use crate::model::values::{ReplicaState, ShardLife};

/// A shard that may take tablets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Candidate {
    /// The shard.
    pub shard: ShardId,
    /// Its leader.
    pub node: NodeId,
}

/// Live shards whose leader has opened them.
pub fn shards(model: &Model) -> Vec<Candidate> {
    model
        .shards
        .iter()
        .filter(|(_, shard)| shard.state == ShardLife::Live)
        .filter_map(|(id, shard)| {
            let node = shard.leader?;
            let serves = shard.replica(node)?.state != ReplicaState::Lost;
            serves.then_some(Candidate { shard: *id, node })
        })
        .collect()
}

/// A shard for each of `count` new tablets of a table; none if there is no candidate.
///
/// * `scores`: how busy each node is; one without a score counts as idle.
pub fn place(
    model: &Model,
    table: TableId,
    count: usize,
    scores: &BTreeMap<NodeId, f64>,
) -> Vec<ShardId> {
    let candidates = shards(model);
    let mut on_node: BTreeMap<NodeId, usize> = BTreeMap::new();
    let mut on_shard: BTreeMap<ShardId, usize> = BTreeMap::new();
    let mut in_all: BTreeMap<ShardId, usize> = BTreeMap::new();
    for ((owner, _), tablet) in &model.tablets {
        *in_all.entry(tablet.shard).or_default() += 1;
        if *owner == table {
            *on_shard.entry(tablet.shard).or_default() += 1;
        }
    }
    for candidate in &candidates {
        let here = on_shard.get(&candidate.shard).copied().unwrap_or(0);
        *on_node.entry(candidate.node).or_default() += here;
    }
    let mut chosen = Vec::with_capacity(count);
    for _ in 0..count {
        let best = candidates.iter().min_by(|a, b| {
            let rank = |candidate: &Candidate| {
                (
                    on_node.get(&candidate.node).copied().unwrap_or(0),
                    on_shard.get(&candidate.shard).copied().unwrap_or(0),
                    in_all.get(&candidate.shard).copied().unwrap_or(0),
                    candidate.shard,
                )
            };
            let score = |candidate: &Candidate| scores.get(&candidate.node).copied().unwrap_or(0.0);
            let (a_rank, b_rank) = (rank(a), rank(b));
            a_rank
                .0
                .cmp(&b_rank.0)
                .then(score(a).total_cmp(&score(b)))
                .then(a_rank.cmp(&b_rank))
        });
        let Some(best) = best else { break };
        *on_node.entry(best.node).or_default() += 1;
        *on_shard.entry(best.shard).or_default() += 1;
        *in_all.entry(best.shard).or_default() += 1;
        chosen.push(best.shard);
    }
    chosen
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::keys::Key;
    use crate::model::change::Change;
    use crate::model::tests::first_start;
    use crate::model::values::{
        Epoch, Incarnation, Replica, Role, Shard, Tablet, Unknown, WalRegion,
    };
    use auxo_proto::ids::TabletId;

    const TABLE: TableId = TableId(1);

    /// A model in which these shards are led by these nodes.
    fn led(shards: &[(u64, u64)]) -> Model {
        let mut change = Change::new();
        for (shard, node) in shards {
            let value = Shard {
                epoch: Epoch(1),
                leader: Some(NodeId(*node)),
                replicas: vec![Replica {
                    node: NodeId(*node),
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
            change.put(Key::Shard(ShardId(*shard)), &value);
        }
        change.applied_to(&first_start())
    }

    fn with_tablets(model: &Model, table: TableId, shards: &[u64]) -> Model {
        let mut change = Change::new();
        for (shard, id) in shards.iter().zip(1..) {
            let value = Tablet {
                lo: 0,
                hi: 0,
                shard: ShardId(*shard),
                unknown: Unknown::default(),
            };
            change.put(Key::Tablet(table, TabletId(id)), &value);
        }
        change.applied_to(model)
    }

    fn placed(model: &Model, count: usize, scores: &[(u64, f64)]) -> Vec<u64> {
        let scores = scores.iter().map(|(node, score)| (NodeId(*node), *score));
        let shards = place(model, TABLE, count, &scores.collect());
        shards.into_iter().map(|shard| shard.0).collect()
    }

    #[test]
    fn partitions_are_spread_over_nodes_before_shards() {
        let model = led(&[(1, 1), (2, 1), (3, 2), (4, 2)]);
        assert_eq!(placed(&model, 4, &[]), [1, 3, 2, 4]);
        let mut many = placed(&model, 100, &[]);
        many.sort_unstable();
        for shard in 1..=4 {
            assert_eq!(many.iter().filter(|one| **one == shard).count(), 25);
        }
    }

    #[test]
    fn the_less_busy_node_and_the_emptier_shard_come_first() {
        let model = led(&[(1, 1), (2, 2)]);
        assert_eq!(placed(&model, 1, &[(1, 0.9), (2, 0.1)]), [2]);
        let model = with_tablets(&led(&[(1, 1), (2, 1)]), TableId(9), &[1, 1, 2]);
        assert_eq!(placed(&model, 1, &[]), [2]);
    }

    #[test]
    fn tablets_that_come_in_two_parts_lie_as_if_they_came_in_one() {
        let model = led(&[(1, 1), (2, 2), (3, 3)]);
        let all = placed(&model, 7, &[]);
        let first = placed(&model, 3, &[]);
        let rest = placed(&with_tablets(&model, TABLE, &first), 4, &[]);
        assert_eq!([first, rest].concat(), all);
    }

    #[test]
    fn without_a_shard_there_is_no_place() {
        assert!(placed(&first_start(), 3, &[]).is_empty());
    }
}
