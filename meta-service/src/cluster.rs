//! What is: what the nodes' sessions say, in memory only, and the judgement of their silence.
//!
//! Pure: sessions call `observe…`, the scheduler calls [`View::expire`], and every time is an
//! argument, counted from any fixed start.
//!
//! Rooms: [`detector`] (the silence of one node).
//!
//! Never here: etcd, a clock, or what is done about a verdict.

pub mod detector;

use std::collections::BTreeMap;
use std::time::Duration;

use auxo_proto::ids::{NodeId, ShardId};
use auxo_proto::pb::meta::{NodeLoad, ShardState};

use detector::{Detector, Stream};

/// A gap between two evaluations beyond which meta itself was paused.
const OWN_PAUSE: Duration = Duration::from_secs(1);

/// What is known of one node.
#[derive(Clone, Debug)]
pub struct Seen {
    /// UUID of its process; empty until it said Hello under this reign.
    pub boot: String,
    /// What its connection says.
    pub stream: Stream,
    /// Whether it is thought to be dead.
    pub dead: bool,
    /// Its shards, as it last told.
    pub shards: BTreeMap<ShardId, ShardState>,
    /// How busy it is, as it last told.
    pub load: NodeLoad,
    detector: Detector,
}

/// What is known of all nodes.
#[derive(Clone, Debug, Default)]
pub struct View {
    nodes: BTreeMap<NodeId, Seen>,
    evaluated: Option<Duration>,
}

impl View {
    /// Begins to listen for a node that was there before this reign.
    pub fn expect(&mut self, node: NodeId, now: Duration) {
        self.nodes.entry(node).or_insert_with(|| Seen {
            boot: String::new(),
            stream: Stream::Open,
            dead: false,
            shards: BTreeMap::new(),
            load: NodeLoad::default(),
            detector: Detector::new(now),
        });
    }

    /// A node said Hello.
    pub fn observe_hello(
        &mut self,
        node: NodeId,
        boot: &str,
        shards: Vec<ShardState>,
        now: Duration,
    ) {
        self.expect(node, now);
        let Some(seen) = self.nodes.get_mut(&node) else {
            return;
        };
        if seen.boot != boot {
            seen.detector = Detector::new(now);
        }
        seen.detector.heard(now);
        seen.boot = boot.to_owned();
        seen.stream = Stream::Open;
        seen.dead = false;
        seen.shards = by_id(shards);
    }

    /// A node sent a report.
    pub fn observe_report(
        &mut self,
        node: NodeId,
        load: Option<NodeLoad>,
        shards: Vec<ShardState>,
        now: Duration,
    ) {
        let Some(seen) = self.nodes.get_mut(&node) else {
            return;
        };
        seen.detector.beat(now);
        seen.dead = false;
        seen.load = load.unwrap_or(seen.load);
        seen.shards.extend(by_id(shards));
    }

    /// A node answered an order about a shard; `None` means that it has it no longer.
    pub fn observe_shard(&mut self, node: NodeId, shard: ShardId, state: Option<ShardState>) {
        let Some(seen) = self.nodes.get_mut(&node) else {
            return;
        };
        match state {
            Some(state) => seen.shards.insert(shard, state),
            None => seen.shards.remove(&shard),
        };
    }

    /// The node's newest connection changed.
    pub fn observe_stream(&mut self, node: NodeId, stream: Stream) {
        if let Some(seen) = self.nodes.get_mut(&node)
            && seen.stream != Stream::Left
        {
            seen.stream = stream;
        }
    }

    /// Judges every node's silence and returns those newly thought to be dead.
    pub fn expire(&mut self, now: Duration) -> Vec<NodeId> {
        let gap = self
            .evaluated
            .map_or(Duration::ZERO, |last| now.saturating_sub(last));
        self.evaluated = Some(now);
        let mut dead = Vec::new();
        for (node, seen) in &mut self.nodes {
            if gap > OWN_PAUSE {
                seen.detector.skip(gap);
            }
            if !seen.dead && seen.detector.is_dead(now, seen.stream) {
                seen.dead = true;
                dead.push(*node);
            }
        }
        dead
    }

    /// What is known of a node.
    pub fn node(&self, node: NodeId) -> Option<&Seen> {
        self.nodes.get(&node)
    }

    /// Nodes that are thought to be dead.
    pub fn dead(&self) -> impl Iterator<Item = NodeId> {
        let dead = self.nodes.iter().filter(|(_, seen)| seen.dead);
        dead.map(|(node, _)| *node)
    }

    /// Nodes that said Hello under this reign and are not thought to be dead.
    pub fn online(&self) -> impl Iterator<Item = (NodeId, &Seen)> {
        self.nodes
            .iter()
            .filter(|(_, seen)| !seen.dead && !seen.boot.is_empty() && seen.stream == Stream::Open)
            .map(|(node, seen)| (*node, seen))
    }
}

fn by_id(shards: Vec<ShardState>) -> BTreeMap<ShardId, ShardState> {
    shards
        .into_iter()
        .map(|state| (ShardId(state.shard), state))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const NODE: NodeId = NodeId(1);

    fn s(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    fn beating_until(second: u64) -> View {
        let mut view = View::default();
        view.observe_hello(NODE, "boot", vec![], s(0));
        for now in 1..=second {
            view.observe_report(NODE, None, vec![], s(now));
            assert_eq!(view.expire(s(now)), []);
        }
        view
    }

    #[test]
    fn a_silent_node_is_reported_once_and_comes_back_with_a_beat() {
        let mut view = beating_until(10);
        assert_eq!(view.expire(s(11)), []);
        assert_eq!(view.expire(s(12)), []);
        assert_eq!(view.expire(s(13)), [NODE]);
        assert_eq!(view.expire(s(14)), []);
        assert_eq!(view.online().count(), 0);
        view.observe_report(NODE, None, vec![], s(15));
        assert_eq!(view.online().count(), 1);
    }

    #[test]
    fn after_a_pause_of_our_own_every_node_gets_its_time_again() {
        let mut view = beating_until(10);
        assert_eq!(view.expire(s(60)), []);
        assert_eq!(view.expire(s(61)), []);
        assert_eq!(view.expire(s(62)), []);
        assert_eq!(view.expire(s(63)), [NODE]);
    }

    #[test]
    fn a_node_that_the_model_names_is_missed_even_if_it_never_said_hello() {
        let mut view = View::default();
        view.expect(NODE, s(0));
        assert_eq!(view.online().count(), 0);
        for now in 1..=2 {
            assert_eq!(view.expire(s(now)), []);
        }
        assert_eq!(view.expire(s(3)), [NODE]);
    }

    #[test]
    fn a_broken_stream_is_noticed_sooner_and_mended_by_a_hello() {
        let mut view = beating_until(3);
        view.observe_stream(NODE, Stream::Broken);
        assert_eq!(view.online().count(), 0);
        view.observe_hello(NODE, "boot", vec![], s(4));
        assert_eq!(view.online().count(), 1);
        view.observe_stream(NODE, Stream::Broken);
        assert_eq!(view.expire(s(4)), []);
        assert_eq!(view.expire(s(5)), []);
        assert_eq!(view.expire(s(6)), [NODE]);
    }

    #[test]
    fn a_node_that_leaves_is_gone_at_once_and_its_stream_cannot_end_twice() {
        let mut view = beating_until(3);
        view.observe_stream(NODE, Stream::Left);
        view.observe_stream(NODE, Stream::Broken);
        assert_eq!(view.node(NODE).unwrap().stream, Stream::Left);
        assert_eq!(view.expire(s(3)), [NODE]);
    }
}
