//! What the process says when it ends: the numbers of the exit codes, and which error means which.
//!
//! The numbers are an interface: scripts test them. None is ever given another meaning.

use std::process::ExitCode;

use auxo_client::write::Undelivered;
use auxo_client::{Error, Refusal};

use crate::config::load::Faults;

/// How a subcommand ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Exit {
    /// All that was asked for is done.
    Done = 0,
    /// A statement is wrong, or a request was refused.
    Refused = 1,
    /// The command line or the configuration is wrong.
    Usage = 2,
    /// Nobody answers.
    NoConnection = 3,
    /// The token does not allow it.
    NotAllowed = 4,
    /// It took too long.
    Timeout = 5,
    /// Some rows are stored, others are not.
    Partly = 6,
    /// Something is not as it should be.
    Unhealthy = 7,
    /// Stopped by the user.
    Cancelled = 130,
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        Self::from(exit as u8)
    }
}

/// A mistake on the command line that the parser cannot see.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub(crate) struct Usage(String);

/// An error that ends with [`Exit::Usage`].
pub(crate) fn usage(sentence: impl Into<String>) -> anyhow::Error {
    Usage(sentence.into()).into()
}

/// The user stopped it.
#[derive(Debug, thiserror::Error)]
#[error("cancelled")]
pub(crate) struct Cancelled {
    /// The node was waited for; if not, the user wants to leave.
    pub(crate) confirmed: bool,
}

impl Exit {
    /// Which end an error means.
    pub(crate) fn of(error: &anyhow::Error) -> Self {
        for cause in error.chain() {
            if cause.is::<Faults>() || cause.is::<Usage>() {
                return Self::Usage;
            }
            if cause.is::<Cancelled>() {
                return Self::Cancelled;
            }
            if let Some(undelivered) = cause.downcast_ref::<Undelivered>() {
                return Self::of_client(&undelivered.error);
            }
            if let Some(error) = cause.downcast_ref::<Error>() {
                return Self::of_client(error);
            }
            if let Some(error) = cause.downcast_ref::<std::io::Error>()
                && error.kind() == std::io::ErrorKind::BrokenPipe
            {
                return Self::Done;
            }
        }
        Self::Refused
    }

    /// Which end an error of the client means.
    pub(crate) fn of_client(error: &Error) -> Self {
        match error {
            Error::Address { .. } => Self::Usage,
            Error::Unreachable { .. } | Error::Lost { .. } => Self::NoConnection,
            Error::Timeout { .. } => Self::Timeout,
            Error::Refused(refusal) => Self::of_refusal(refusal),
            Error::Cut { .. } | Error::Reply { .. } => Self::Refused,
        }
    }

    fn of_refusal(refusal: &Refusal) -> Self {
        match refusal.status {
            401 | 403 => Self::NotAllowed,
            408 | 504 => Self::Timeout,
            499 => Self::Cancelled,
            _ => Self::Refused,
        }
    }
}

/// Whether an error only says that nobody reads our output any more.
pub(crate) fn is_broken_pipe(error: &anyhow::Error) -> bool {
    error.chain().any(|cause| {
        let io = cause.downcast_ref::<std::io::Error>();
        io.is_some_and(|error| error.kind() == std::io::ErrorKind::BrokenPipe)
    })
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn refused(status: u16) -> anyhow::Error {
        Error::Refused(Box::new(Refusal::read(status, None, b""))).into()
    }

    #[test]
    fn every_error_has_its_documented_code() {
        let what = "the answer";
        let limit = Duration::ZERO;
        let url = String::new;
        for (error, code) in [
            (refused(400), 1),
            (refused(503), 1),
            (usage("x"), 2),
            (
                Error::Address {
                    url: url(),
                    reason: url(),
                }
                .into(),
                2,
            ),
            (
                Error::Unreachable {
                    url: url(),
                    reason: url(),
                }
                .into(),
                3,
            ),
            (
                Error::Lost {
                    url: url(),
                    reason: url(),
                }
                .into(),
                3,
            ),
            (refused(401), 4),
            (refused(403), 4),
            (refused(504), 5),
            (Error::Timeout { what, limit }.into(), 5),
            (Cancelled { confirmed: true }.into(), 130),
            (refused(499), 130),
            (Error::Cut { reason: url() }.into(), 1),
            (anyhow::anyhow!("else"), 1),
        ] {
            assert_eq!(Exit::of(&error) as u8, code, "{error:?}");
            let wrapped = error.context("while");
            assert_eq!(Exit::of(&wrapped) as u8, code, "{wrapped:?}");
        }
    }
}
