//! A failure as an HTTP answer: status, headers, and the problem object of RFC 9457.
//!
//! The only place that knows SQLSTATEs, and HTTP statuses but those that InfluxDB's clients expect
//! (`influx::reply`).

use auxo_proto::error::{ErrorCode, ErrorKind, Failure, Outcome};
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde_json::{Value, json};

/// HTTP status of a failure.
pub fn status(failure: &Failure) -> StatusCode {
    match failure.code {
        ErrorCode::MethodNotAllowed => return StatusCode::METHOD_NOT_ALLOWED,
        ErrorCode::NotAcceptable => return StatusCode::NOT_ACCEPTABLE,
        ErrorCode::UnsupportedMediaType => return StatusCode::UNSUPPORTED_MEDIA_TYPE,
        _ => {}
    }
    match failure.code.kind() {
        ErrorKind::Invalid => StatusCode::BAD_REQUEST,
        ErrorKind::Auth => StatusCode::UNAUTHORIZED,
        ErrorKind::Denied => StatusCode::FORBIDDEN,
        ErrorKind::Missing => StatusCode::NOT_FOUND,
        ErrorKind::Conflict => StatusCode::CONFLICT,
        ErrorKind::TooLarge => StatusCode::PAYLOAD_TOO_LARGE,
        ErrorKind::Throttled => StatusCode::TOO_MANY_REQUESTS,
        ErrorKind::Unavailable => StatusCode::SERVICE_UNAVAILABLE,
        ErrorKind::Deadline => StatusCode::GATEWAY_TIMEOUT,
        ErrorKind::Cancelled => client_closed_request(),
        ErrorKind::Internal => StatusCode::INTERNAL_SERVER_ERROR,
    }
}

/// 499, which web servers use for a client that went away; nobody is left to read it.
fn client_closed_request() -> StatusCode {
    StatusCode::from_u16(499).unwrap_or(StatusCode::BAD_REQUEST)
}

/// SQLSTATE of a failure, as PostgreSQL names classes (appendix A of its manual).
pub fn sqlstate(code: ErrorCode) -> &'static str {
    match code {
        ErrorCode::Parse | ErrorCode::MultipleStatements => "42601",
        ErrorCode::Unsupported => "0A000",
        ErrorCode::ColumnNotFound => "42703",
        ErrorCode::TableNotFound => "42P01",
        ErrorCode::DatabaseNotFound => "3D000",
        ErrorCode::FunctionNotFound => "42883",
        ErrorCode::AmbiguousColumn => "42702",
        ErrorCode::TypeMismatch => "42804",
        ErrorCode::ValueOutOfRange => "22003",
        ErrorCode::BadTimestamp => "22008",
        ErrorCode::DivisionByZero => "22012",
        ErrorCode::BadParameter => "22023",
        ErrorCode::TooComplex => "54001",
        ErrorCode::AlreadyExists => "42P07",
        ErrorCode::QueryLimit => "54000",
        _ => match code.kind() {
            ErrorKind::Invalid => "42000",
            ErrorKind::Auth => "28000",
            ErrorKind::Denied => "42501",
            ErrorKind::Missing => "42704",
            ErrorKind::Conflict => "40001",
            ErrorKind::TooLarge => "54000",
            ErrorKind::Throttled => "53400",
            ErrorKind::Unavailable => "57P03",
            ErrorKind::Deadline | ErrorKind::Cancelled => "57014",
            ErrorKind::Internal => "XX000",
        },
    }
}

/// `Retry-After` of a failure: whole seconds, at least 1.
pub fn retry_after_s(failure: &Failure) -> Option<u64> {
    failure.retry_after_ms.map(|ms| ms.div_ceil(1_000).max(1))
}

/// What became of a change whose failure does not say: one that was broken off may have been made.
fn unsaid(code: ErrorCode) -> Outcome {
    match code.kind() {
        ErrorKind::Deadline | ErrorKind::Cancelled | ErrorKind::Internal => Outcome::Unknown,
        _ => Outcome::Rejected,
    }
}

/// The problem object.
pub fn body(failure: &Failure, query_id: Option<&str>, node: &str) -> Value {
    let position = failure
        .position
        .map(|at| json!({ "offset": at.offset, "line": at.line, "column": at.column }));
    json!({
        "type": format!("/v1/errors/{}", failure.code.text()),
        "title": failure.code.title(),
        "status": status(failure).as_u16(),
        "code": failure.code.text(),
        "number": failure.code.number(),
        "sqlstate": sqlstate(failure.code),
        "detail": failure.detail,
        "position": position,
        "hint": failure.hint,
        "retryable": failure.retryable(),
        "retry_after_ms": failure.retry_after_ms,
        "outcome": failure.outcome.unwrap_or_else(|| unsaid(failure.code)),
        "rejected_count": 0,
        "rejected": [],
        "query_id": query_id,
        "node": node,
    })
}

/// What a code means, as `/v1/errors` tells it.
pub fn explained(code: ErrorCode) -> Value {
    let failure = Failure::new(code, code.title());
    json!({
        "code": code.text(),
        "number": code.number(),
        "title": code.title(),
        "status": status(&failure).as_u16(),
        "sqlstate": sqlstate(code),
        "retryable": failure.retryable(),
    })
}

/// The whole answer.
pub fn response(failure: &Failure, query_id: Option<&str>, node: &str) -> Response {
    let body = body(failure, query_id, node).to_string();
    let content_type = (header::CONTENT_TYPE, "application/problem+json");
    let mut response = (status(failure), [content_type], body).into_response();
    if let Some(seconds) = retry_after_s(failure) {
        response
            .headers_mut()
            .insert(header::RETRY_AFTER, HeaderValue::from(seconds));
    }
    response
}

#[cfg(test)]
mod tests {
    use super::*;
    use auxo_proto::error::Position;

    #[test]
    fn every_code_has_a_status_that_fits_its_kind() {
        for &code in ErrorCode::ALL {
            let failure = Failure::new(code, "x");
            let status = status(&failure).as_u16();
            let retryable = matches!(status, 429 | 503);
            assert_eq!(failure.retryable(), retryable, "{code:?} {status}");
            assert_eq!(retry_after_s(&failure).is_some(), retryable, "{code:?}");
            assert_eq!(sqlstate(code).len(), 5, "{code:?}");
        }
    }

    #[test]
    fn the_object_has_every_member_a_client_may_read() {
        let failure = Failure::new(
            ErrorCode::ColumnNotFound,
            "table cpu has no column usage_usr",
        )
        .at(Position {
            offset: 7,
            line: 1,
            column: 8,
        })
        .hint("did you mean usage_user?")
        .outcome(Outcome::Rejected);
        let body = body(&failure, Some("q1"), "c1");
        assert_eq!(body["code"], "COLUMN_NOT_FOUND");
        assert_eq!(body["number"], 1203);
        assert_eq!(body["sqlstate"], "42703");
        assert_eq!(
            body["position"],
            json!({"offset": 7, "line": 1, "column": 8})
        );
        assert_eq!(body["outcome"], "rejected");
        assert_eq!(body["rejected_count"], 0);
        assert_eq!(body["rejected"], json!([]));
        assert_eq!(body["retryable"], false);
        assert_eq!(body["query_id"], "q1");
    }

    #[test]
    fn waiting_times_round_up_to_whole_seconds() {
        let failure = |ms| Failure::new(ErrorCode::Busy, "").retry_after_ms(ms);
        assert_eq!(retry_after_s(&failure(1)), Some(1));
        assert_eq!(retry_after_s(&failure(1_001)), Some(2));
        assert_eq!(retry_after_s(&failure(0)), Some(1));
    }
}
