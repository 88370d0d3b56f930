//! Why a request failed, told to its end.
//!
//! The client's own sentences stop at "error sending request": whether nobody listens, a name is not
//! known or a certificate is not trusted stands only in the causes below. Whoever reads a log or a refusal
//! needs that one word, so it is put behind the sentence here, once, for all that is asked of a bucket.
//!
//! Never here: what follows from an error. Causes stay for those who look at them.

use std::error::Error as Cause;
use std::fmt;

use futures::StreamExt;
use futures::stream::BoxStream;
use object_store::{Error, GetResult, GetResultPayload, Result};

/// An error of a request with the last of its causes in its sentence.
#[derive(Debug)]
struct Told {
    source: Box<dyn Cause + Send + Sync>,
    last: String,
}

impl fmt::Display for Told {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.source, self.last)
    }
}

impl Cause for Told {
    fn source(&self) -> Option<&(dyn Cause + 'static)> {
        Some(&*self.source)
    }
}

/// What a sentence says where a right is missing, as far as the client keeps that to sentences: of one
/// object among those that one request deletes, and of a LIST.
const DENIED: [&str; 2] = ["(code: AccessDenied)", "code: 403 Forbidden"];

/// The same error, whose sentence ends with its last cause where it left that out; a missing right is of the
/// kind that says so.
pub(super) fn told(error: Error) -> Error {
    let Error::Generic { store, source } = error else {
        return error;
    };
    let said = source.to_string();
    if DENIED.iter().any(|sign| said.contains(sign)) {
        // Which object it was stands in the sentence, if it was one.
        let path = "*".to_owned();
        return Error::PermissionDenied { path, source };
    }
    let mut cause: &dyn Cause = &*source;
    while let Some(deeper) = cause.source() {
        cause = deeper;
    }
    let last = cause.to_string();
    if said.contains(&last) {
        return Error::Generic { store, source };
    }
    let source = Box::new(Told { source, last });
    Error::Generic { store, source }
}

/// What comes one by one, with errors told.
pub(super) fn each_told<T: 'static>(
    stream: BoxStream<'static, Result<T>>,
) -> BoxStream<'static, Result<T>> {
    stream.map(|one| one.map_err(told)).boxed()
}

/// An object whose bytes come with errors told.
pub(super) fn body_told(mut found: GetResult) -> GetResult {
    found.payload = match found.payload {
        GetResultPayload::Stream(bytes) => GetResultPayload::Stream(each_told(bytes)),
        file @ GetResultPayload::File(..) => file,
    };
    found
}

#[cfg(test)]
mod tests {
    use std::io;

    use super::*;

    /// A sentence that keeps its cause to itself, as the HTTP library's do.
    #[derive(Debug, thiserror::Error)]
    #[error("error sending request")]
    struct Request(#[source] io::Error);

    fn generic(source: impl Cause + Send + Sync + 'static) -> Error {
        Error::Generic {
            store: "S3",
            source: Box::new(source),
        }
    }

    #[test]
    fn the_last_cause_ends_the_sentence_and_stays_a_cause() {
        let refused = || io::Error::new(io::ErrorKind::StorageFull, "no room");
        let error = told(generic(Request(refused())));
        let expected = "Generic S3 error: error sending request: no room";
        assert_eq!(error.to_string(), expected);
        assert_eq!(told(error).to_string(), expected, "it is told once");

        let error = told(generic(Request(refused())));
        let mut cause = error.source();
        let mut kinds = Vec::new();
        while let Some(one) = cause {
            kinds.extend(one.downcast_ref().map(io::Error::kind));
            cause = one.source();
        }
        assert_eq!(kinds, [io::ErrorKind::StorageFull]);
    }

    #[test]
    fn what_is_not_allowed_is_told_as_such() {
        let kind = |said: &str| told(generic(io::Error::other(said.to_owned())));
        let denied = [
            "DeleteObjects request failed for key eu/a: Access Denied. (code: AccessDenied)",
            "Error performing list request: Server returned non-2xx status code: 403 Forbidden: ",
        ];
        for said in denied {
            assert!(
                matches!(kind(said), Error::PermissionDenied { .. }),
                "{said}"
            );
        }
        let busy = "DeleteObjects request failed for key eu/a: Later. (code: SlowDown)";
        assert!(matches!(kind(busy), Error::Generic { .. }));
    }

    #[test]
    fn what_says_all_and_other_kinds_stay_as_they_are() {
        let whole = told(generic(io::Error::other("no room")));
        assert_eq!(whole.to_string(), "Generic S3 error: no room");
        let missing = told(Error::NotFound {
            path: "a".to_owned(),
            source: Box::new(Request(io::Error::other("gone"))),
        });
        assert!(matches!(missing, Error::NotFound { .. }));
    }
}
