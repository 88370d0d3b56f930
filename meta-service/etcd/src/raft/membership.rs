//! Who votes and who learns, as bytes.
//!
//! Protobuf: `configs` (one, or two while it changes) each a list of voters' ids, and `nodes`, id and
//! URLs of every member; one in no config is a learner. Layout: docs/formats/etcd-log.md.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use prost::Message;

use super::types::{Membership, Peer};

#[derive(Clone, PartialEq, prost::Message)]
struct Stored {
    #[prost(message, repeated, tag = "1")]
    configs: Vec<Voters>,
    #[prost(btree_map = "uint64, message", tag = "2")]
    nodes: BTreeMap<u64, Peer>,
}

#[derive(Clone, PartialEq, prost::Message)]
struct Voters {
    #[prost(uint64, repeated, tag = "1")]
    ids: Vec<u64>,
}

/// Why bytes are no membership.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Unreadable {
    #[error("not a membership: {0}")]
    Malformed(#[from] prost::DecodeError),
    #[error("not a membership: {0}")]
    Invalid(String),
}

pub(crate) fn encode(membership: &Membership) -> Bytes {
    let voters = |config: &BTreeSet<u64>| Voters {
        ids: config.iter().copied().collect(),
    };
    let nodes = membership.nodes().map(|(id, peer)| (*id, peer.clone()));
    Stored {
        configs: membership.get_joint_config().iter().map(voters).collect(),
        nodes: nodes.collect(),
    }
    .encode_to_vec()
    .into()
}

pub(crate) fn decode(bytes: &[u8]) -> Result<Membership, Unreadable> {
    let stored = Stored::decode(bytes)?;
    let configs = stored.configs.into_iter();
    let configs = configs
        .map(|voters| voters.ids.into_iter().collect())
        .collect();
    Membership::new(configs, stored.nodes).map_err(|error| Unreadable::Invalid(error.to_string()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_membership_survives() {
        let peer = Peer {
            urls: vec!["http://localhost:2380".to_owned()],
        };
        let nodes = BTreeMap::from([(3, peer.clone()), (9, peer.clone()), (12, peer)]);
        let configs = vec![BTreeSet::from([3]), BTreeSet::from([3, 9])];
        let membership = Membership::new(configs, nodes).unwrap();
        assert_eq!(decode(&encode(&membership)).unwrap(), membership);
        assert!(matches!(decode(&[0xff]), Err(Unreadable::Malformed(_))));
    }
}
