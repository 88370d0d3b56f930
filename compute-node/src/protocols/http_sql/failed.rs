//! What becomes of a statement that failed, wherever it did.
//!
//! Never here: the answer itself.

use std::sync::atomic::Ordering;

use auxo_proto::error::{ErrorCode, Failure, Outcome};
use serde_json::Value;
use tokio::time::Instant;

use crate::node::Node;
use crate::protocols::problem;

/// Counts a failure and keeps it for who asks later.
///
/// * returns: its problem object.
pub(super) fn note(node: &Node, failure: &Failure, id: &str) -> Value {
    let failed = &node.counters().statements_failed;
    failed.fetch_add(1, Ordering::Relaxed);
    let problem = problem::body(failure, Some(id), node.name());
    node.running()
        .failed(id, problem.to_string(), Instant::now());
    problem
}

/// What a statement is told that was cancelled, by its user or because the node stops.
///
/// * `changed`: whether it may have changed something.
pub(super) fn cancelled_on(node: &Node, changed: bool) -> Failure {
    let failure = match node.running().ended() {
        true => Failure::new(ErrorCode::Draining, "the node is shutting down"),
        false => Failure::new(ErrorCode::Cancelled, "the query was cancelled"),
    };
    match changed {
        true => failure.outcome(Outcome::Unknown),
        false => nothing_changed(failure),
    }
}

/// A failure of what was a query, or was not begun.
pub(super) fn nothing_changed(failure: Failure) -> Failure {
    match failure.outcome {
        Some(_) => failure,
        None => failure.outcome(Outcome::Rejected),
    }
}
