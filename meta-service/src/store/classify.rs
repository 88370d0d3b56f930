//! What an error of etcd means for the call that got it.
//!
//! Codes alone do not say it: `Unavailable` covers "never left this machine", "certainly not
//! applied" and "nobody knows", and only the text tells them apart.
//!
//! Never here: what is done about it.

use etcd_client::Error;
use tonic::Code;

/// What became of the call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Class {
    /// It never reached etcd.
    NotSent,
    /// etcd said that it did not apply it.
    NotApplied,
    /// It may have been applied, or may still be.
    Unknown,
    /// The revision is compacted.
    Compacted,
    /// The lease does not exist.
    LeaseGone,
    /// It is wrong, or not allowed.
    Refused,
    /// etcd says something that cannot be.
    Fatal,
}

/// What became of the call that got this error.
pub fn classify(error: &Error) -> Class {
    match error {
        Error::GRpcStatus(status) => of_status(status.code(), status.message()),
        Error::TransportError(_) | Error::IoError(_) => Class::NotSent,
        Error::InvalidArgs(_)
        | Error::InvalidUri(_)
        | Error::InvalidMetadataValue(_)
        | Error::EndpointError(_)
        | Error::EndpointsNotManaged => Class::Refused,
        Error::LeaseKeepAliveError(text) if text.contains("not found") => Class::LeaseGone,
        _ => Class::Unknown,
    }
}

fn of_status(code: Code, text: &str) -> Class {
    match code {
        Code::NotFound if text.contains("lease not found") => Class::LeaseGone,
        Code::OutOfRange if text.contains("compacted") => Class::Compacted,
        Code::ResourceExhausted if text.contains("too many requests") => Class::NotApplied,
        Code::ResourceExhausted => Class::Refused,
        Code::Unavailable if text.contains("no leader") || text.contains("not capable") => {
            Class::NotApplied
        }
        Code::Unavailable if NEVER_SENT.iter().any(|sign| text.contains(sign)) => Class::NotSent,
        Code::Unavailable
        | Code::DeadlineExceeded
        | Code::Cancelled
        | Code::Unknown
        | Code::Internal
        | Code::Aborted => Class::Unknown,
        Code::NotFound
        | Code::InvalidArgument
        | Code::FailedPrecondition
        | Code::AlreadyExists
        | Code::PermissionDenied
        | Code::Unauthenticated => Class::Refused,
        Code::OutOfRange | Code::DataLoss | Code::Unimplemented | Code::Ok => Class::Fatal,
    }
}

/// How the transport says that it found nobody to send to.
const NEVER_SENT: [&str; 3] = ["tcp connect error", "error trying to connect", "dns error"];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_text_decides_where_the_code_does_not() {
        let cases = [
            (
                Code::Unavailable,
                "etcdserver: no leader",
                Class::NotApplied,
            ),
            (
                Code::Unavailable,
                "etcdserver: request timed out",
                Class::Unknown,
            ),
            (
                Code::Unavailable,
                "etcdserver: leader changed",
                Class::Unknown,
            ),
            (Code::Unavailable, "tcp connect error", Class::NotSent),
            (Code::Unavailable, "connection reset", Class::Unknown),
            (
                Code::ResourceExhausted,
                "etcdserver: too many requests",
                Class::NotApplied,
            ),
            (
                Code::ResourceExhausted,
                "etcdserver: mvcc: database space exceeded",
                Class::Refused,
            ),
            (
                Code::OutOfRange,
                "etcdserver: mvcc: required revision has been compacted",
                Class::Compacted,
            ),
            (
                Code::OutOfRange,
                "etcdserver: mvcc: required revision is a future revision",
                Class::Fatal,
            ),
            (
                Code::NotFound,
                "etcdserver: requested lease not found",
                Class::LeaseGone,
            ),
            (
                Code::InvalidArgument,
                "etcdserver: duplicate key given in txn request",
                Class::Refused,
            ),
            (Code::Internal, "h2 protocol error", Class::Unknown),
        ];
        for (code, text, class) in cases {
            assert_eq!(of_status(code, text), class, "{code:?} {text}");
        }
    }
}
