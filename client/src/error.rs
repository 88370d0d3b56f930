//! What can go wrong between a caller and a node.

use std::time::Duration;

use auxo_proto::error::Outcome;

use crate::refusal::Refusal;

/// Why a request has no good answer.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The address cannot be used as it is written.
    #[error("{url:?} is not an address: {reason}")]
    Address {
        /// What was given.
        url: String,
        /// What is wrong with it.
        reason: String,
    },
    /// Nobody took the connection; nothing was sent.
    #[error("no connection to {url}: {reason}")]
    Unreachable {
        /// Who was called.
        url: String,
        /// What the system said.
        reason: String,
    },
    /// The connection ended after something may have been sent and before a status came back.
    #[error("connection to {url} was lost before an answer: {reason}")]
    Lost {
        /// Who was called.
        url: String,
        /// What the system said.
        reason: String,
    },
    /// No answer, or no next piece of it, in time.
    #[error("{what} took longer than {} s", limit.as_secs_f64())]
    Timeout {
        /// What was waited for.
        what: &'static str,
        /// How long.
        limit: Duration,
    },
    /// The node answered, and said no.
    #[error("{0}")]
    Refused(Box<Refusal>),
    /// The body of a good answer ended before it was whole.
    #[error("the reply was cut: {reason}")]
    Cut {
        /// How that was seen.
        reason: String,
    },
    /// The answer is not what this client understands.
    #[error("the reply cannot be understood: {reason}")]
    Reply {
        /// What was unexpected.
        reason: String,
    },
}

impl Error {
    /// Whether the same request may succeed later, as far as the answer tells.
    pub fn retryable(&self) -> bool {
        match self {
            Self::Unreachable { .. } | Self::Lost { .. } | Self::Timeout { .. } => true,
            Self::Refused(refusal) => refusal.retryable,
            Self::Address { .. } | Self::Cut { .. } | Self::Reply { .. } => false,
        }
    }

    /// How long the node asked to be left alone.
    pub fn retry_after(&self) -> Option<Duration> {
        match self {
            Self::Refused(refusal) => refusal.retry_after,
            _ => None,
        }
    }

    /// What became of a write that ended like this.
    ///
    /// `Rejected` only where that is certain; a good status followed by a body that was cut is `Ok`
    /// for a write, because the status is sent after the rows are durable.
    pub fn outcome(&self) -> Outcome {
        match self {
            Self::Address { .. } | Self::Unreachable { .. } => Outcome::Rejected,
            Self::Lost { .. } | Self::Timeout { .. } => Outcome::Unknown,
            Self::Refused(refusal) => refusal.certain_outcome(),
            Self::Cut { .. } | Self::Reply { .. } => Outcome::Ok,
        }
    }

    /// Sorts an error of the HTTP library that came before the head of the reply.
    pub(crate) fn before_head(url: &str, limit: Duration, error: &reqwest::Error) -> Self {
        let url = url.to_owned();
        if error.is_connect() {
            let reason = innermost(error);
            Self::Unreachable { url, reason }
        } else if error.is_timeout() {
            let what = "the answer";
            Self::Timeout { what, limit }
        } else if error.is_builder() {
            let reason = innermost(error);
            Self::Address { url, reason }
        } else {
            let reason = innermost(error);
            Self::Lost { url, reason }
        }
    }

    /// Sorts an error of the HTTP library that came while the body was read.
    pub(crate) fn in_body(limit: Duration, error: &reqwest::Error) -> Self {
        if error.is_timeout() {
            let what = "the next piece of the reply";
            Self::Timeout { what, limit }
        } else {
            let reason = innermost(error);
            Self::Cut { reason }
        }
    }
}

/// The last cause, which is the sentence of the system; the ones above only say "error sending".
fn innermost(error: &reqwest::Error) -> String {
    let mut cause: &dyn std::error::Error = error;
    while let Some(deeper) = cause.source() {
        cause = deeper;
    }
    cause.to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_nobody_took_is_certainly_rejected() {
        let url = || "http://n:1".to_owned();
        let reason = || "gone".to_owned();
        let unreachable = Error::Unreachable {
            url: url(),
            reason: reason(),
        };
        assert_eq!(unreachable.outcome(), Outcome::Rejected);
        assert!(unreachable.retryable());
        let lost = Error::Lost {
            url: url(),
            reason: reason(),
        };
        assert_eq!(lost.outcome(), Outcome::Unknown);
        let slow = Error::Timeout {
            what: "the answer",
            limit: Duration::from_millis(1_500),
        };
        assert_eq!(slow.outcome(), Outcome::Unknown);
        assert_eq!(slow.to_string(), "the answer took longer than 1.5 s");
        assert!(!Error::Cut { reason: reason() }.retryable());
    }
}
