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
