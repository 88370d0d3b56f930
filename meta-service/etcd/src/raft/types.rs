//! The types Raft is instantiated with.

use std::fmt;

use bytes::Bytes;
use openraft::RaftTypeConfig;
use openraft::vote::RaftLeaderId;

use crate::apply::Applied;

openraft::declare_raft_types!(
    /// One leader per term, so that a term means what it means to clients of etcd.
    pub(crate) TypeConfig:
        D = Proposal,
        R = Applied,
        NodeId = u64,
        Node = Peer,
        LeaderId = openraft::impls::leader_id_std::LeaderId<u64, u64>,
);

pub(crate) type Leader = <<TypeConfig as RaftTypeConfig>::LeaderId as RaftLeaderId>::Committed;
pub(crate) type LogId = openraft::LogId<Leader>;
pub(crate) type Vote = <TypeConfig as RaftTypeConfig>::Vote;
pub(crate) type Entry = <TypeConfig as RaftTypeConfig>::Entry;
pub(crate) type Payload = <TypeConfig as RaftTypeConfig>::Payload;
pub(crate) type Membership = openraft::Membership<u64, Peer>;
pub(crate) type StoredMembership = openraft::StoredMembership<Leader, u64, Peer>;
pub(crate) type SnapshotMeta = openraft::SnapshotMeta<Leader, u64, Peer>;
pub(crate) type Snapshot = openraft::Snapshot<Leader, u64, Peer, ()>;

/// The bytes of an operation; cheap to clone.
#[derive(Debug, Clone)]
pub(crate) struct Proposal(pub(crate) Bytes);

impl fmt::Display for Proposal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} bytes", self.0.len())
    }
}

/// Where a member is reached by other members.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub(crate) struct Peer {
    #[prost(string, repeated, tag = "1")]
    pub(crate) urls: Vec<String>,
}
