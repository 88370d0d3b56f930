//! Looks each second, and at every Hello, for what the cluster lacks, and begins procedures.
//!
//! In this order: first shards of a new cluster; for each shard a leader that restarted and has not
//! been opened again, or one that is offline, whose shard goes to the node that leads fewest; shards of
//! nodes that are to be emptied; and when nothing of that is due, one node's surplus for another.
//! Deciding ([`repairs`], [`moves`]) is pure.
//!
//! Never here: how a procedure goes on.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use auxo_proto::ids::{NodeId, ShardId};
use auxo_proto::pb::meta::{self, ShardPhase};
use tokio::time::Instant;

use crate::cluster::View;
use crate::keys::{Key, Lock};
use crate::lead::Lead;
use crate::model::Model;
use crate::model::change::Change;
use crate::model::values::{NodeState, Role, ShardLife, Verdict};
use crate::procedure::{Kind, NotYet};

/// How often silence is judged.
const JUDGE_EVERY: Duration = Duration::from_millis(250);
/// How often the cluster is looked at.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// Shards that move at once.
const MOVES_MAX: usize = 4;
/// Longest pause before a failed repair is tried again.
const PAUSE_MAX: Duration = Duration::from_secs(60);

/// What a cluster should have.
#[derive(Clone, Debug)]
pub struct Wishes {
    /// Shards that a new cluster gets.
    pub shards: u32,
    /// Log service of new shards.
    pub wal_service: String,
}

/// Shards that each node leads which is there and takes shards; one that moves counts where it goes.
fn led(model: &Model, view: &View) -> BTreeMap<NodeId, usize> {
    let up = |node: &NodeId| {
        let known = model.nodes.get(node);
        known.is_some_and(|node| node.state == NodeState::Up)
    };
    let online = view.online().map(|(node, _)| node).filter(up);
    let mut led: BTreeMap<NodeId, usize> = online.map(|node| (node, 0)).collect();
    let goes = moving(model);
    for (id, shard) in &model.shards {
        let leader = goes.get(id).copied().or(shard.leader);
        if let Some(count) = leader.and_then(|leader| led.get_mut(&leader)) {
            *count += 1;
        }
    }
    led
}

/// Shards that move, and where to.
fn moving(model: &Model) -> BTreeMap<ShardId, NodeId> {
    let running = model.procedures.values();
    let moves = running.filter_map(|record| match record.kind {
        Kind::MoveShard { shard, node, .. } => Some((shard, node)),
        _ => None,
    });
    moves.collect()
}

/// Moves that empty nodes which are to be emptied, or else even out how many shards each node leads.
///
/// Counts of shards stand for load. Nothing moves unless it brings two nodes nearer to each other, so
/// that a cluster comes to rest.
pub fn moves(model: &Model, view: &View) -> Vec<Kind> {
    let mut led = led(model, view);
    let mut room = MOVES_MAX.saturating_sub(moving(model).len());
    let mut kinds: Vec<Kind> = Vec::new();
    let state = |node| model.nodes.get(&node).map(|node| node.state);
    let served: Vec<(ShardId, NodeId)> = model
        .shards
        .iter()
        .filter(|(id, shard)| {
            shard.state == ShardLife::Live && !model.locks.contains_key(&Lock::Shard(**id))
        })
        .filter_map(|(id, shard)| {
            let leader = shard.leader?;
            let (_, seen) = view.online().find(|(node, _)| *node == leader)?;
            leads(seen.shards.get(id), shard.epoch.0).then_some((*id, leader))
        })
        .collect();
    for &(shard, from) in &served {
        let drains = state(from) == Some(NodeState::Draining);
        if let Some((&node, count)) = led.iter_mut().min_by_key(|(_, count)| **count)
            && drains
            && room > 0
        {
            *count += 1;
            room -= 1;
            kinds.push(Kind::MoveShard { shard, from, node });
        }
    }
    if !kinds.is_empty() {
        return kinds;
    }
    let mut left = served;
    while room > 0 {
        let most = led.iter().max_by_key(|(_, count)| **count);
        let least = led.iter().min_by_key(|(_, count)| **count);
        let (Some((&from, &most)), Some((&node, &least))) = (most, least) else {
            break;
        };
        let movable = left.iter().position(|(_, leader)| *leader == from);
        let Some(at) = movable.filter(|_| most >= least + 2) else {
            break;
        };
        let (shard, _) = left.remove(at);
        led.insert(from, most - 1);
        led.insert(node, least + 1);
        room -= 1;
        kinds.push(Kind::MoveShard { shard, from, node });
    }
    kinds
}

/// Nodes that were to be emptied and are.
pub fn emptied(model: &Model) -> Vec<NodeId> {
    let draining = model.nodes.iter();
    let draining = draining.filter(|(_, node)| node.state == NodeState::Draining);
    let empty = draining.filter(|(id, _)| {
        let mut shards = model.shards.values();
        !shards.any(|shard| shard.leader == Some(**id) || shard.replica(**id).is_some())
    });
    empty.map(|(id, _)| *id).collect()
}

/// Procedures that would bring the cluster nearer to what it should be.
pub fn repairs(model: &Model, view: &View, wishes: &Wishes) -> Vec<Kind> {
    let mut kinds = Vec::new();
    let mut led = led(model, view);
    for have in model.shards.len() as u32..wishes.shards {
        let Some((node, count)) = led.iter_mut().min_by_key(|(_, count)| **count) else {
            break;
        };
        *count += 1;
        kinds.push(Kind::OpenShard {
            shard: None,
            node: *node,
            role: Role::Leader,
            service: wishes.wal_service.clone(),
            fewer_than: have + 1,
        });
    }
    for (id, shard) in &model.shards {
        let live = shard.state == ShardLife::Live;
        if !live || model.locks.contains_key(&Lock::Shard(*id)) {
            continue;
        }
        let Some(leader) = shard.leader else { continue };
        let Some((_, seen)) = view.online().find(|(node, _)| *node == leader) else {
            let offline = model.liveness.get(&leader);
            let offline = offline.is_some_and(|known| known.verdict == Verdict::Offline);
            if let Some((node, count)) = led.iter_mut().min_by_key(|(_, count)| **count)
                && offline
            {
                *count += 1;
                kinds.push(Kind::Failover {
                    shard: *id,
                    from: leader,
                    node: *node,
                });
            }
            continue;
        };
        if !leads(seen.shards.get(id), shard.epoch.0) {
            kinds.push(Kind::OpenShard {
                shard: Some(*id),
                node: leader,
                role: Role::Leader,
                service: shard.wal.service.clone(),
                fewer_than: 0,
            });
        }
    }
    kinds
}

/// Whether the node leads the shard, or waits for an operator, who alone may open it then.
fn leads(state: Option<&meta::ShardState>, epoch: u64) -> bool {
    state.is_some_and(|state| match state.phase() {
        ShardPhase::Parked => true,
        ShardPhase::Serving => state.role() == meta::Role::Leader && state.epoch == epoch,
        _ => false,
    })
}

/// Tells one repair from another, so that one that failed rests before it is tried again.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Repair {
    /// The shard that makes it so many.
    First(u32),
    Reopen(ShardId),
    Failover(ShardId),
    Move(ShardId),
}

/// Judges and repairs until the reign is over.
pub(crate) async fn run(lead: Arc<Lead>, wishes: Wishes) {
    let mut hellos = lead.sessions.hellos();
    let mut look_at = Instant::now();
    let mut resting: BTreeMap<Repair, (Instant, Duration)> = BTreeMap::new();
    loop {
        judge(&lead).await;
        if Instant::now() >= look_at {
            repair(&lead, &wishes, &mut resting).await;
            settle(&lead).await;
            look_at = Instant::now() + LOOK_EVERY;
        }
        tokio::select! {
            () = tokio::time::sleep(JUDGE_EVERY) => {}
            _ = hellos.changed() => {
                look_at = Instant::now();
                resting.clear();
            }
            () = lead.reign.over.cancelled() => return,
        }
    }
}

async fn judge(lead: &Lead) {
    let (silent, gone, back) = lead.sessions.view(|view, now| {
        let silent = view.expire(now);
        let read = |model: &Model| (gone(model, view), back(model, view));
        let (gone, back) = lead.reign.mirror.read(read);
        (silent, gone, back)
    });
    for node in silent {
        tracing::warn!(%node, "node does not beat any more");
    }
    for node in gone {
        write_verdict(lead, node, Verdict::Offline).await;
    }
    for node in back {
        tracing::info!(%node, "node beats again");
        write_verdict(lead, node, Verdict::Online).await;
    }
}

/// Nodes that are thought to be dead and are not judged so yet: a verdict that could not be written is
/// due again.
fn gone(model: &Model, view: &View) -> Vec<NodeId> {
    let online = |node: &NodeId| {
        let known = model.liveness.get(node);
        known.is_some_and(|known| known.verdict != Verdict::Offline)
    };
    view.dead().filter(online).collect()
}

/// Nodes that are judged offline and are heard again on a stream that never broke, so that no Hello of
/// theirs lifts the verdict.
fn back(model: &Model, view: &View) -> Vec<NodeId> {
    let offline = |node: &NodeId| {
        let known = model.liveness.get(node);
        known.is_some_and(|known| known.verdict == Verdict::Offline)
    };
    view.online()
        .map(|(node, _)| node)
        .filter(offline)
        .collect()
}

async fn write_verdict(lead: &Lead, node: NodeId, verdict: Verdict) {
    let now_ms = lead.reign.clock.now_ms();
    let written = lead.reign.write(|model| {
        let mut change = Change::new();
        if let Some(mut value) = model.liveness.get(&node).cloned()
            && value.verdict != verdict
        {
            value.verdict = verdict;
            value.since_ms = now_ms;
            change.put(Key::Liveness(node), &value);
        }
        Ok::<_, ()>((change, ()))
    });
    if let Err(error) = written.await {
        tracing::warn!(%node, %error, "verdict not written");
    }
}

/// Takes note of nodes that are empty, as they were to be.
async fn settle(lead: &Lead) {
    for node in lead.reign.mirror.read(emptied) {
        let written = lead.reign.write(|model| {
            let mut change = Change::new();
            let known = model.nodes.get(&node).cloned();
            if let Some(mut value) = known.filter(|_| emptied(model).contains(&node)) {
                value.state = NodeState::Drained;
                change.put(Key::Node(node), &value);
            }
            Ok::<_, ()>((change, ()))
        });
        match written.await {
            Ok(()) => tracing::info!(%node, "node is empty"),
            Err(error) => tracing::warn!(%node, %error, "node is empty, which is not written"),
        }
    }
}

async fn repair(lead: &Lead, wishes: &Wishes, resting: &mut BTreeMap<Repair, (Instant, Duration)>) {
    let kinds = lead.sessions.view(|view, _| {
        lead.reign.mirror.read(|model| {
            let repairs = repairs(model, view, wishes);
            match repairs.is_empty() {
                true => moves(model, view),
                false => repairs,
            }
        })
    });
    for kind in kinds {
        let repair = match &kind {
            Kind::OpenShard {
                shard, fewer_than, ..
            } => shard.map_or(Repair::First(*fewer_than), Repair::Reopen),
            Kind::Failover { shard, .. } => Repair::Failover(*shard),
            Kind::MoveShard { shard, .. } => Repair::Move(*shard),
            _ => continue,
        };
        let (until, pause) = resting
            .get(&repair)
            .copied()
            .unwrap_or((Instant::now(), LOOK_EVERY));
        if Instant::now() < until {
            continue;
        }
        match lead.runner.begin(&kind, None).await {
            Ok(procedure) => tracing::info!(%procedure, ?kind, "repair begins"),
            Err(NotYet::Satisfied(_) | NotYet::Later(_)) => continue,
            Err(NotYet::Never(failure)) => {
                tracing::warn!(%failure, ?kind, "repair cannot begin");
            }
        }
        // A repair that holds is not wanted again; one that does not rests longer each time.
        resting.insert(repair, (Instant::now() + pause, (pause * 2).min(PAUSE_MAX)));
    }
    let now = Instant::now();
    resting.retain(|_, (until, pause)| now < *until + 2 * *pause);
}

#[cfg(test)]
mod tests;
