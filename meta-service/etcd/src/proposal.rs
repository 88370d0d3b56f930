//! What a log entry carries, above all one operation as bytes.
//!
//! The bytes of an operation are protobuf: a `Proposal` with exactly one field set, whose number says which
//! operation it is and whose value is etcd's own request message. They are encoded once, by
//! whoever proposes, and decoded once, by apply; the log and Raft in between see only bytes.
//! Field numbers are never used for anything else again. Layout: docs/formats/etcd-log.md.

use bytes::Bytes;
use etcd_client::proto::{
    PbCompactionRequest, PbDeleteRequest, PbLeaseGrantRequest, PbLeaseRevokeRequest, PbMember,
    PbPutRequest, PbTxnRequest,
};
use prost::Message;

/// The payload of a log entry.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Content {
    /// The first entry of a leader's term.
    Blank,
    /// An [`Op`].
    Normal(Bytes),
    /// Who votes and who learns, in the encoding of `raft::membership`.
    Membership(Bytes),
}

impl Content {
    /// Length in bytes.
    pub(crate) fn len(&self) -> usize {
        match self {
            Self::Blank => 0,
            Self::Normal(bytes) | Self::Membership(bytes) => bytes.len(),
        }
    }
}

/// One operation of the replicated state.
#[derive(Clone, PartialEq, prost::Oneof)]
pub(crate) enum Op {
    #[prost(message, tag = "1")]
    Put(PbPutRequest),
    #[prost(message, tag = "2")]
    Delete(PbDeleteRequest),
    #[prost(message, tag = "3")]
    Txn(PbTxnRequest),
    #[prost(message, tag = "4")]
    Compact(PbCompactionRequest),
    /// TTL and id are final: the proposer has applied the minimum and drawn the id.
    #[prost(message, tag = "5")]
    Grant(PbLeaseGrantRequest),
    #[prost(message, tag = "6")]
    Revoke(PbLeaseRevokeRequest),
    #[prost(message, tag = "7")]
    Expire(Expire),
    /// A member's name and client URLs.
    #[prost(message, tag = "8")]
    Publish(PbMember),
}

/// A revoke by the primary of one Raft term, void in any other term.
#[derive(Clone, PartialEq, prost::Message)]
pub(crate) struct Expire {
    #[prost(int64, tag = "1")]
    pub(crate) lease: i64,
    #[prost(uint64, tag = "2")]
    pub(crate) raft_term: u64,
}

#[derive(Clone, PartialEq, prost::Message)]
struct Proposal {
    #[prost(oneof = "Op", tags = "1, 2, 3, 4, 5, 6, 7, 8")]
    op: Option<Op>,
}

/// Why bytes are no operation this program can apply.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Unreadable {
    #[error("not a proposal: {0}")]
    Malformed(#[from] prost::DecodeError),
    #[error("an operation this version does not know")]
    Unknown,
}

impl Op {
    /// The bytes of a log entry.
    pub(crate) fn into_bytes(self) -> Bytes {
        Proposal { op: Some(self) }.encode_to_vec().into()
    }

    pub(crate) fn from_bytes(bytes: &[u8]) -> Result<Self, Unreadable> {
        Proposal::decode(bytes)?.op.ok_or(Unreadable::Unknown)
    }
}

#[cfg(test)]
mod tests {
    use std::fmt::Write;

    use etcd_client::proto::{PbTxnOpRequest, PbTxnRequestOp};

    use super::*;

    /// One operation of each kind, and its bytes in hexadecimal.
    fn golden() -> Vec<(Op, &'static str)> {
        let lines = include_str!("../testdata/proposal-format-1.txt").lines();
        let bytes = lines.map(|line| line.split_once(' ').unwrap().1);
        let ops = [
            Op::Put(PbPutRequest {
                key: b"k".to_vec(),
                value: b"v".to_vec(),
                lease: 7,
                prev_kv: true,
                ..Default::default()
            }),
            Op::Delete(PbDeleteRequest {
                key: b"a".to_vec(),
                range_end: b"b".to_vec(),
                ..Default::default()
            }),
            Op::Txn(PbTxnRequest {
                success: vec![PbTxnRequestOp {
                    request: Some(PbTxnOpRequest::RequestPut(PbPutRequest {
                        key: b"k".to_vec(),
                        ..Default::default()
                    })),
                }],
                ..Default::default()
            }),
            Op::Compact(PbCompactionRequest {
                revision: 300,
                physical: false,
            }),
            Op::Grant(PbLeaseGrantRequest { ttl: 60, id: 7 }),
            Op::Revoke(PbLeaseRevokeRequest { id: 7 }),
            Op::Expire(Expire {
                lease: 7,
                raft_term: 3,
            }),
            Op::Publish(PbMember {
                id: 9,
                name: "m".to_owned(),
                client_ur_ls: vec!["http://c".to_owned()],
                ..Default::default()
            }),
        ];
        ops.into_iter().zip(bytes).collect()
    }

    #[test]
    fn golden_bytes_of_every_operation() {
        for (op, expected) in golden() {
            let bytes = op.clone().into_bytes();
            let found = bytes.iter().fold(String::new(), |mut found, byte| {
                write!(found, "{byte:02x}").unwrap();
                found
            });
            assert_eq!(found, expected, "{op:?}");
            assert_eq!(Op::from_bytes(&bytes).unwrap(), op);
        }
        assert_eq!(golden().len(), 8);
    }

    #[test]
    fn an_operation_of_a_newer_version_is_refused() {
        // Field 100, length-delimited, empty.
        let newer = [0xa2, 0x06, 0x00];
        assert!(matches!(Op::from_bytes(&newer), Err(Unreadable::Unknown)));
        assert!(matches!(
            Op::from_bytes(&[0xff]),
            Err(Unreadable::Malformed(_))
        ));
    }
}
