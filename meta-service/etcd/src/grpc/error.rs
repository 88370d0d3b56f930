//! Codes and texts of errors: the one table, equal to that of etcd 3.5, since clients compare texts.

use tonic::{Code, Status};

use crate::mvcc::{Fault, Refusal};
use crate::raft::NodeError;

/// One error a client can tell from others.
#[derive(Debug, Clone, Copy)]
pub(super) struct Said {
    code: Code,
    text: &'static str,
}

impl From<Said> for Status {
    fn from(said: Said) -> Self {
        Self::new(said.code, said.text)
    }
}

macro_rules! said {
    ($($name:ident = $code:ident, $text:literal;)*) => {
        $(pub(super) const $name: Said = Said { code: Code::$code, text: $text };)*
    };
}

said! {
    EMPTY_KEY = InvalidArgument, "etcdserver: key is not provided";
    KEY_NOT_FOUND = InvalidArgument, "etcdserver: key not found";
    VALUE_PROVIDED = InvalidArgument, "etcdserver: value is provided";
    LEASE_PROVIDED = InvalidArgument, "etcdserver: lease is provided";
    TOO_MANY_OPS = InvalidArgument, "etcdserver: too many operations in txn request";
    DUPLICATE_KEY = InvalidArgument, "etcdserver: duplicate key given in txn request";
    INVALID_SORT = InvalidArgument, "etcdserver: invalid sort option";
    TOO_LARGE = InvalidArgument, "etcdserver: request is too large";
    COMPACTED = OutOfRange, "etcdserver: mvcc: required revision has been compacted";
    FUTURE_REVISION = OutOfRange, "etcdserver: mvcc: required revision is a future revision";
    TTL_TOO_LARGE = OutOfRange, "etcdserver: too large lease TTL";
    LEASE_NOT_FOUND = NotFound, "etcdserver: requested lease not found";
    LEASE_EXISTS = FailedPrecondition, "etcdserver: lease already exists";
    AUTH_NOT_ENABLED = FailedPrecondition, "etcdserver: authentication is not enabled";
    TOO_MANY_REQUESTS = ResourceExhausted, "etcdserver: too many requests";
    NO_LEADER = Unavailable, "etcdserver: no leader";
    LEADER_CHANGED = Unavailable, "etcdserver: leader changed";
    STOPPED = Unavailable, "etcdserver: server stopped";
    TIMEOUT = Unavailable, "etcdserver: request timed out";
    SESSION_EXPIRED = Unknown, "mutex: session is expired";
    ELECTION_LOST = Unknown, "election: session is expired";
    NO_LEADER_ELECTED = Unknown, "election: no leader";
    NOT_ELECTED = Unknown, "election: not leader";
    LEADER_MISSING = Unknown, "\"leader\" field must be provided";
}

pub(super) fn of_refusal(refusal: Refusal) -> Status {
    match refusal {
        Refusal::KeyNotFound => KEY_NOT_FOUND,
        Refusal::Compacted => COMPACTED,
        Refusal::FutureRevision => FUTURE_REVISION,
        Refusal::LeaseNotFound => LEASE_NOT_FOUND,
        Refusal::LeaseExists => LEASE_EXISTS,
        Refusal::Superseded => LEADER_CHANGED,
    }
    .into()
}

pub(super) fn of_node(error: NodeError) -> Status {
    match error {
        NodeError::NoLeader => NO_LEADER,
        NodeError::LeaderChanged => LEADER_CHANGED,
        NodeError::Timeout => TIMEOUT,
        NodeError::TooManyRequests => TOO_MANY_REQUESTS,
        NodeError::Stopped => STOPPED,
    }
    .into()
}

pub(super) fn of_fault(fault: Fault) -> Status {
    match fault {
        Fault::Refused(refusal) => of_refusal(refusal),
        Fault::Store(error) => {
            tracing::error!(%error, "cannot read the state");
            Status::internal("etcdserver: the state cannot be read")
        }
    }
}

/// A service that a later version will have.
pub(super) fn not_yet(what: &str) -> Status {
    Status::unimplemented(format!("etcdserver: {what} is not implemented"))
}
