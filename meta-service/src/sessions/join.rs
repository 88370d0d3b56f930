//! What a Hello changes in the model: a new node gets an id, a known one its new addresses, and
//! either is Online.
//!
//! Never here: the stream.

use auxo_proto::ids::NodeId;
use auxo_proto::pb::meta::Hello;

use crate::keys::{Counter, Key};
use crate::model::Model;
use crate::model::change::Change;
use crate::model::values::{Liveness, Node, NodeState, Unknown, Verdict};

/// The only version of the session protocol.
pub const PROTOCOL: u32 = 1;

/// Checks a Hello and says which node it is and what it changes.
///
/// * errors: a sentence for the operator; the node may not come again as it is.
pub fn join(hello: &Hello, model: &Model, now_ms: i64) -> Result<(Change, NodeId), String> {
    if !(hello.protocol_least..=hello.protocol_most).contains(&PROTOCOL) {
        return Err(format!(
            "session protocol {PROTOCOL} is not among {} to {} of the node",
            hello.protocol_least, hello.protocol_most
        ));
    }
    if hello.name.is_empty() || hello.boot.is_empty() {
        return Err("the Hello lacks a name or a boot id".to_owned());
    }
    if let Some(identity) = &model.identity
        && !hello.cluster.is_empty()
        && hello.cluster != identity.cluster_uuid
    {
        return Err(format!(
            "the node belongs to cluster {}, this is {}",
            hello.cluster, identity.cluster_uuid
        ));
    }
    let mut change = Change::new();
    let id = match model.node_names.get(&hello.name) {
        Some(id) if hello.node != 0 && hello.node != id.0 => {
            return Err(format!(
                "node {} has the id {id}, not {}",
                hello.name, hello.node
            ));
        }
        Some(id) => *id,
        None if hello.node != 0 => {
            return Err(format!(
                "no node is called {}, so none has the id {}",
                hello.name, hello.node
            ));
        }
        None => {
            let id = NodeId(change.take_ids(model, Counter::Node, 1));
            change.put(Key::NodeName(hello.name.clone()), &id);
            id
        }
    };
    let known = model.nodes.get(&id);
    if known.is_some_and(|node| node.state == NodeState::Removed) {
        return Err(format!("node {} was removed", hello.name));
    }
    let node = Node {
        name: hello.name.clone(),
        public: hello.public_address.clone(),
        internal: hello.internal_address.clone(),
        zone: hello.zone.clone(),
        labels: hello.labels.clone().into_iter().collect(),
        state: known.map_or(NodeState::Up, |node| node.state),
        unknown: known.map_or_else(Unknown::default, |node| node.unknown.clone()),
    };
    if known != Some(&node) {
        let moved = known.is_some_and(|known| {
            (&known.public, &known.internal) != (&node.public, &node.internal)
        });
        if moved {
            change.raise_topology(model);
        }
        change.put(Key::Node(id), &node);
    }
    let liveness = model.liveness.get(&id);
    if liveness.is_none_or(|known| known.verdict != Verdict::Online || known.boot != hello.boot) {
        let value = Liveness {
            verdict: Verdict::Online,
            boot: hello.boot.clone(),
            since_ms: now_ms,
            unknown: liveness.map_or_else(Unknown::default, |known| known.unknown.clone()),
        };
        change.put(Key::Liveness(id), &value);
    }
    Ok((change, id))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::tests::first_start;

    fn hello(name: &str, node: u64) -> Hello {
        Hello {
            name: name.to_owned(),
            node,
            boot: "boot".to_owned(),
            public_address: "127.0.0.1:1".to_owned(),
            protocol_least: 1,
            protocol_most: 1,
            ..Hello::default()
        }
    }

    #[test]
    fn a_new_node_gets_an_id_and_keeps_it() {
        let model = first_start();
        let (change, id) = join(&hello("a", 0), &model, 5).unwrap();
        assert_eq!(id, NodeId(1));
        let model = change.applied_to(&model);
        assert_eq!(model.liveness[&id].since_ms, 5);
        let (again, same) = join(&hello("a", 1), &model, 9).unwrap();
        assert_eq!(same, id);
        assert!(again.writes().is_empty());
        let (_, without_disk) = join(&hello("a", 0), &model, 9).unwrap();
        assert_eq!(without_disk, id);
        let (_, other) = join(&hello("b", 0), &model, 9).unwrap();
        assert_eq!(other, NodeId(2));
    }

    #[test]
    fn a_move_raises_the_topology() {
        let model = first_start();
        let (change, id) = join(&hello("a", 0), &model, 5).unwrap();
        let model = change.applied_to(&model);
        let moved = Hello {
            public_address: "127.0.0.1:2".to_owned(),
            ..hello("a", 1)
        };
        let (change, _) = join(&moved, &model, 9).unwrap();
        let after = change.applied_to(&model);
        assert_eq!(after.topology_number(), model.topology_number() + 1);
        assert_eq!(after.nodes[&id].public, "127.0.0.1:2");
    }

    #[test]
    fn what_cannot_be_of_this_cluster_is_turned_away() {
        let model = first_start();
        let refused = |hello: Hello| join(&hello, &model, 5).unwrap_err();
        assert!(refused(hello("a", 7)).contains("no node is called a"));
        let other = Hello {
            cluster: "other".to_owned(),
            ..hello("a", 0)
        };
        assert!(refused(other).contains("belongs to cluster other"));
        let old = Hello {
            protocol_most: 0,
            protocol_least: 0,
            ..hello("a", 0)
        };
        assert!(refused(old).contains("session protocol 1"));
    }
}
