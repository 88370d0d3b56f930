//! A failure as the status that ends a stream of gRPC, and back.
//!
//! The catalogue's code and its detail travel as a `HoldRefused` in the status's details; a status
//! without them comes from the transport: the other node is gone, or does not answer.

use auxo_proto::error::{ErrorCode, Failure};
use auxo_proto::pb::node::HoldRefused;
use prost::Message;
use tonic::{Code, Status};

/// The refusal that a failure is told as.
///
/// * topology: number of the topology by which this node judged.
pub(crate) fn refusal(failure: Failure, topology: u64) -> HoldRefused {
    HoldRefused {
        code: failure.code.number().into(),
        detail: failure.detail,
        topology,
        retry_after_ms: failure.retry_after_ms.unwrap_or_default(),
    }
}

/// The failure that a refusal tells.
pub(crate) fn failure(refusal: HoldRefused) -> Failure {
    let code = ErrorCode::of_number(refusal.code).unwrap_or(ErrorCode::Internal);
    let failure = Failure::new(code, refusal.detail);
    match refusal.retry_after_ms {
        0 => failure,
        ms => failure.retry_after_ms(ms),
    }
}

/// The status that ends a stream with a failure.
pub(crate) fn status(failure: Failure) -> Status {
    let message = failure.to_string();
    let details = refusal(failure, 0).encode_to_vec();
    Status::with_details(Code::Aborted, message, details.into())
}

/// Why a stream of a node ended.
pub(crate) fn of_status(status: &Status, node: &str) -> Failure {
    let told = status.details();
    if status.code() == Code::Aborted
        && let Ok(refusal) = HoldRefused::decode(told)
        && !told.is_empty()
    {
        return failure(refusal);
    }
    gone(node, status.message())
}

/// A node that does not answer.
pub(crate) fn gone(node: &str, why: &str) -> Failure {
    Failure::new(
        ErrorCode::NoLeader,
        format!("node {node} does not answer: {why}"),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failure_arrives_with_its_code_and_one_of_the_transport_as_a_node_that_is_gone() {
        let sent = Failure::new(ErrorCode::QueryLimit, "too much").retry_after_ms(7);
        let arrived = of_status(&status(sent.clone()), "b");
        assert_eq!(arrived, sent);
        let broken = of_status(&Status::unavailable("broken pipe"), "b");
        assert_eq!(broken.code, ErrorCode::NoLeader);
        assert_eq!(broken.detail, "node b does not answer: broken pipe");
        let other = of_status(&Status::aborted("for its own reasons"), "b");
        assert_eq!(other.code, ErrorCode::NoLeader);
    }
}
