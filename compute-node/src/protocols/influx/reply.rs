//! Bodies of error replies, as clients of InfluxDB's three write APIs know them.
//!
//! Two laws about clients that drop what they should send again: a fault that passes never has a
//! 4xx status (but 429 where clients keep their data at it), and its body never holds a phrase at
//! which Telegraf gives up.

use auxo_proto::error::{ErrorCode, ErrorKind, Failure, Outcome};
use serde_json::{Value, json};

use super::faults::{LineError, LineErrors};

/// Which write API the client called.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Api {
    /// `/write`.
    V1,
    /// `/api/v2/write`.
    V2,
    /// `/api/v3/write_lp`.
    V3,
}

/// An error reply without its headers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reply {
    /// HTTP status.
    pub status: u16,
    /// Value of `Retry-After` in whole seconds, at least 1.
    pub retry_after_s: Option<u64>,
    /// JSON.
    pub body: String,
}

/// Phrases in the body of a 5xx at which Telegraf drops the batch.
const GIVE_UP_PHRASES: [&str; 5] = [
    "partial write",
    "unable to parse",
    "points beyond retention policy",
    "retention policy not found",
    "hinted handoff queue not empty",
];

/// The reply to a body with bad lines.
///
/// * `stored`: whether the good lines were stored; `false` where the client asked for all or none.
/// * shape: `errors` has at least one line.
pub fn bad_lines(api: Api, errors: &LineErrors, stored: bool) -> Reply {
    let body = match api {
        Api::V1 => {
            let prefix = if stored {
                "partial write"
            } else {
                "unable to parse"
            };
            // Clients of InfluxDB read the sentence; ours reads the members behind it.
            json!({
                "error": format!("{prefix}: {} dropped={}", summary(errors), errors.total()),
                "rejected_count": errors.total(),
                "rejected": errors.kept().iter().map(rejected).collect::<Vec<_>>(),
            })
        }
        Api::V2 => json!({
            "code": "invalid",
            "message": summary(errors),
            "line": errors.kept().first().map(|first| first.line),
        }),
        Api::V3 if stored => json!({
            "error": "partial write of line protocol occurred",
            "data": errors.kept().iter().map(line).collect::<Vec<_>>(),
        }),
        Api::V3 => json!({
            "error": "parsing failed for write_lp endpoint",
            "data": errors.kept().first().map(line),
        }),
    };
    Reply {
        status: 400,
        retry_after_s: None,
        body: body.to_string(),
    }
}

fn line(error: &LineError) -> Value {
    json!({
        "original_line": error.text,
        "line_number": error.line,
        "error_message": error.message,
    })
}

/// A bad line as `/v1` tells it.
fn rejected(error: &LineError) -> Value {
    json!({"line": error.line, "error": error.message, "original": error.text})
}

/// The first bad line, and how many follow.
fn summary(errors: &LineErrors) -> String {
    let first = errors.kept().first();
    let first = first.map_or_else(String::new, |first| {
        format!("line {}: {}", first.line, first.message)
    });
    match errors.total() {
        0 | 1 => first,
        total => format!("{first}; {} more bad lines", total - 1),
    }
}

/// The reply to a request that failed as a whole.
pub fn failure(api: Api, failure: &Failure) -> Reply {
    let status = status(api, failure.code);
    let comes_again = status >= 500 || status == 429;
    let gives_up = |text: &str| GIVE_UP_PHRASES.iter().any(|phrase| text.contains(phrase));
    let text = match &failure.detail {
        detail if comes_again && gives_up(detail) => failure.code.title().to_owned(),
        // At these words Telegraf creates the database.
        detail if failure.code == ErrorCode::DatabaseNotFound => {
            format!("database not found: {detail}")
        }
        detail => detail.clone(),
    };
    let text = match failure.outcome {
        Some(Outcome::Partial) => format!("{text}; some of its rows are stored"),
        _ => text,
    };
    let body = match api {
        Api::V1 => json!({"error": text}),
        Api::V2 => json!({"code": word(status), "message": text}),
        Api::V3 => json!({"error": text, "data": null}),
    };
    let retry_after_ms = failure.retry_after_ms.filter(|_| comes_again);
    Reply {
        status,
        retry_after_s: retry_after_ms.map(|ms| ms.div_ceil(1_000).max(1)),
        body: body.to_string(),
    }
}

fn status(api: Api, code: ErrorCode) -> u16 {
    match (code, code.kind()) {
        (ErrorCode::DatabaseNotFound, _) => 404,
        (ErrorCode::MethodNotAllowed, _) => 405,
        (ErrorCode::NotAcceptable, _) => 406,
        (ErrorCode::UnsupportedMediaType, _) => 415,
        (_, ErrorKind::Invalid) => 400,
        (_, ErrorKind::Auth) => 401,
        (_, ErrorKind::Denied) => 403,
        (_, ErrorKind::Missing) => 404,
        (_, ErrorKind::Conflict) => 409,
        (_, ErrorKind::TooLarge) => 413,
        // Clients of the oldest API drop their data at every 4xx.
        (_, ErrorKind::Throttled) if api != Api::V1 => 429,
        (_, ErrorKind::Throttled | ErrorKind::Unavailable | ErrorKind::Cancelled) => 503,
        (_, ErrorKind::Deadline) if api != Api::V1 => 504,
        (_, ErrorKind::Deadline) => 503,
        (_, ErrorKind::Internal) => 500,
    }
}

/// InfluxDB's word for a status.
fn word(status: u16) -> &'static str {
    match status {
        401 => "unauthorized",
        403 => "forbidden",
        404 => "not found",
        405 => "method not allowed",
        409 => "conflict",
        413 => "request too large",
        415 => "unsupported media type",
        429 => "too many requests",
        500 => "internal error",
        503 | 504 => "unavailable",
        _ => "invalid",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn two_errors() -> LineErrors {
        let mut errors = LineErrors::default();
        errors.push(2, b"cpu \"", &"fields are missing");
        errors.push(7, b"x", &"fields are missing");
        errors
    }

    #[test]
    fn bodies_of_bad_lines() {
        let body = |api, stored| {
            let reply = bad_lines(api, &two_errors(), stored);
            assert_eq!((reply.status, reply.retry_after_s), (400, None));
            reply.body
        };
        assert_eq!(
            body(Api::V1, true),
            concat!(
                r#"{"error":"partial write: line 2: fields are missing; 1 more bad lines dropped=2","#,
                r#""rejected_count":2,"rejected":["#,
                r#"{"line":2,"error":"fields are missing","original":"cpu \""},"#,
                r#"{"line":7,"error":"fields are missing","original":"x"}]}"#
            )
        );
        assert!(body(Api::V1, false).starts_with(
            r#"{"error":"unable to parse: line 2: fields are missing; 1 more bad lines dropped=2""#
        ));
        assert_eq!(
            body(Api::V2, true),
            r#"{"code":"invalid","message":"line 2: fields are missing; 1 more bad lines","line":2}"#
        );
        assert_eq!(
            body(Api::V3, true),
            concat!(
                r#"{"error":"partial write of line protocol occurred","data":["#,
                r#"{"original_line":"cpu \"","line_number":2,"error_message":"fields are missing"},"#,
                r#"{"original_line":"x","line_number":7,"error_message":"fields are missing"}]}"#
            )
        );
        assert_eq!(
            body(Api::V3, false),
            concat!(
                r#"{"error":"parsing failed for write_lp endpoint","data":"#,
                r#"{"original_line":"cpu \"","line_number":2,"error_message":"fields are missing"}}"#
            )
        );
    }

    #[test]
    fn bodies_of_failures() {
        let reply = |api, code, detail: &str| {
            let reply = failure(api, &Failure::new(code, detail));
            (reply.status, reply.retry_after_s, reply.body)
        };
        assert_eq!(
            reply(Api::V1, ErrorCode::NoLeader, "shard 7 has no leader"),
            (503, Some(1), r#"{"error":"shard 7 has no leader"}"#.into())
        );
        assert_eq!(
            reply(Api::V2, ErrorCode::BodyTooLarge, "body is above 16 MiB"),
            (
                413,
                None,
                r#"{"code":"request too large","message":"body is above 16 MiB"}"#.into()
            )
        );
        assert_eq!(
            reply(Api::V1, ErrorCode::DatabaseNotFound, "\"x\""),
            (404, None, r#"{"error":"database not found: \"x\""}"#.into())
        );
        assert_eq!(
            reply(Api::V3, ErrorCode::BadParameter, "precision"),
            (400, None, r#"{"error":"precision","data":null}"#.into())
        );
    }

    #[test]
    fn a_fault_that_passes_is_sent_again() {
        for &code in ErrorCode::ALL {
            let passes = matches!(
                code.kind(),
                ErrorKind::Throttled | ErrorKind::Unavailable | ErrorKind::Deadline
            );
            for phrase in GIVE_UP_PHRASES {
                let failed = Failure::new(code, format!("x {phrase} y")).retry_after_ms(1_001);
                let old = failure(Api::V1, &failed);
                assert!(!passes || old.status == 503, "{code:?}: {}", old.status);
                for api in [Api::V1, Api::V2, Api::V3] {
                    let reply = failure(api, &failed);
                    let keeps = reply.status >= 500 || reply.status == 429;
                    assert!(!passes || keeps, "{code:?}: {}", reply.status);
                    assert!(!keeps || !reply.body.contains(phrase), "{}", reply.body);
                    assert_eq!(reply.retry_after_s, keeps.then_some(2));
                }
            }
        }
    }
}
