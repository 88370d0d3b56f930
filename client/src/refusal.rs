//! A node's "no", read from the bodies its doors send: the problem object of `/v1`, and the three
//! shapes of InfluxDB's doors.
//!
//! Never fails: a body that nobody understands (a proxy's page, an empty one) still becomes a
//! refusal with its status and the beginning of its text.

use std::time::Duration;

use auxo_proto::error::{Outcome, Position};
use serde::Deserialize;
use serde_json::Value;

/// The longest part of an unknown body that is shown, in bytes.
const SHOWN_BYTES_MAX: usize = 300;

/// A line that was not stored.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct RejectedLine {
    /// Line in the body, counted from 1; 0 if the node did not say.
    #[serde(default, alias = "line_number")]
    pub line: u64,
    /// What is wrong with it.
    #[serde(default, alias = "error_message")]
    pub error: String,
    /// The line as it was sent, perhaps shortened.
    #[serde(default, alias = "original_line")]
    pub original: String,
}

/// A node's answer that a request was not carried out, or not wholly.
#[derive(Clone, Debug, PartialEq)]
pub struct Refusal {
    /// HTTP status.
    pub status: u16,
    /// Name of the failure for programs; empty if the body had none.
    pub code: String,
    /// What happened.
    pub detail: String,
    /// Where in the statement.
    pub position: Option<Position>,
    /// What would probably help.
    pub hint: Option<String>,
    /// Whether the same request may succeed later.
    pub retryable: bool,
    /// How long to wait before that.
    pub retry_after: Option<Duration>,
    /// What became of a write, as the node says.
    pub outcome: Option<Outcome>,
    /// How many lines were not stored, if the node says.
    pub rejected_count: u64,
    /// Lines that were not stored; may be fewer than `rejected_count`.
    pub rejected: Vec<RejectedLine>,
    /// Which statement.
    pub query_id: Option<String>,
    /// Which node.
    pub node: Option<String>,
}

impl std::fmt::Display for Refusal {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        if !self.code.is_empty() {
            return write!(f, "{}: {}", self.code, self.detail);
        }
        write!(f, "status {}", self.status)?;
        if !self.detail.is_empty() {
            write!(f, ": {}", self.detail)?;
        }
        Ok(())
    }
}

/// Every field of every shape; each is optional.
#[derive(Default, Deserialize)]
#[serde(default)]
struct Body {
    title: Option<String>,
    code: Option<String>,
    detail: Option<String>,
    position: Option<Position>,
    hint: Option<String>,
    retryable: Option<bool>,
    retry_after_ms: Option<u64>,
    outcome: Option<Outcome>,
    rejected_count: Option<u64>,
    rejected: Vec<RejectedLine>,
    query_id: Option<String>,
    node: Option<String>,
    /// InfluxDB 1 and 3.
    error: Option<String>,
    /// InfluxDB 2.
    message: Option<String>,
    line: Option<u64>,
    /// InfluxDB 3: a list, or one object if nothing was stored.
    data: Value,
}

impl Refusal {
    /// Reads a reply whose status is not a success.
    ///
    /// * `retry_after_s`: the `Retry-After` header in whole seconds; the body's milliseconds win.
    pub fn read(status: u16, retry_after_s: Option<u64>, body: &[u8]) -> Self {
        let (body, understood) = match serde_json::from_slice::<Body>(body) {
            Ok(read) => (read, true),
            Err(_) => (
                Body {
                    detail: Some(beginning(body)),
                    ..Body::default()
                },
                false,
            ),
        };
        let detail = [body.detail, body.error, body.message, body.title]
            .into_iter()
            .flatten()
            .next()
            .unwrap_or_default();
        let mut rejected = body.rejected;
        rejected.extend(lines_of(body.data));
        if let (true, Some(line)) = (rejected.is_empty(), body.line) {
            rejected.push(RejectedLine {
                line,
                error: detail.clone(),
                original: String::new(),
            });
        }
        let rejected_count = body
            .rejected_count
            .or_else(|| dropped(&detail))
            .unwrap_or(rejected.len() as u64);
        let retry_after = match (body.retry_after_ms, retry_after_s) {
            (Some(ms), _) => Some(Duration::from_millis(ms)),
            (None, Some(s)) => Some(Duration::from_secs(s)),
            (None, None) => None,
        };
        Self {
            status,
            code: body.code.unwrap_or_default(),
            detail,
            position: body.position,
            hint: body.hint,
            retryable: match body.retryable {
                Some(said) if understood => said,
                _ => matches!(status, 429 | 502 | 503 | 504),
            },
            retry_after,
            outcome: body.outcome,
            rejected_count,
            rejected,
            query_id: body.query_id,
            node: body.node,
        }
    }

    /// What became of a write: what the node says, or what its status must mean.
    pub fn certain_outcome(&self) -> Outcome {
        match (self.outcome, self.status) {
            (Some(said), _) => said,
            (None, 400) if self.rejected_count > 0 => Outcome::Partial,
            (None, 400..=499) => Outcome::Rejected,
            (None, _) => Outcome::Unknown,
        }
    }
}

fn lines_of(data: Value) -> Vec<RejectedLine> {
    let list = match data {
        Value::Array(list) => list,
        one @ Value::Object(_) => vec![one],
        _ => return Vec::new(),
    };
    list.into_iter()
        .filter_map(|line| serde_json::from_value(line).ok())
        .collect()
}

/// InfluxDB 1 counts the lines only in its sentence: `partial write: … dropped=3`.
fn dropped(sentence: &str) -> Option<u64> {
    let (_, after) = sentence.rsplit_once("dropped=")?;
    let digits = after.find(|c: char| !c.is_ascii_digit());
    after[..digits.unwrap_or(after.len())].parse().ok()
}

fn beginning(body: &[u8]) -> String {
    let shown = &body[..body.len().min(SHOWN_BYTES_MAX)];
    String::from_utf8_lossy(shown).trim().to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_problem_object_is_read_whole() {
        let body = br#"{"type":"/v1/errors/COLUMN_NOT_FOUND","title":"Column not found","status":400,
            "code":"COLUMN_NOT_FOUND","number":1203,"detail":"table cpu has no column usr",
            "position":{"offset":7,"line":1,"column":8},"hint":"did you mean user?","retryable":false,
            "retry_after_ms":null,"outcome":"rejected","rejected_count":0,"rejected":[],
            "query_id":"q","node":"c1"}"#;
        let refusal = Refusal::read(400, None, body);
        assert_eq!(
            refusal.to_string(),
            "COLUMN_NOT_FOUND: table cpu has no column usr"
        );
        assert_eq!(refusal.position.unwrap().column, 8);
        assert_eq!(refusal.hint.as_deref(), Some("did you mean user?"));
        assert!(!refusal.retryable);
        assert_eq!(refusal.certain_outcome(), Outcome::Rejected);
        assert_eq!(refusal.node.as_deref(), Some("c1"));
    }

    #[test]
    fn a_throttle_says_when_to_come_back() {
        let body =
            br#"{"code":"MEMORY_FULL","detail":"short","retryable":true,"retry_after_ms":250}"#;
        let refusal = Refusal::read(503, Some(1), body);
        assert_eq!(refusal.retry_after, Some(Duration::from_millis(250)));
        assert!(refusal.retryable);
        let bare = Refusal::read(503, Some(7), b"");
        assert_eq!(bare.retry_after, Some(Duration::from_secs(7)));
        assert!(bare.retryable);
        assert_eq!(bare.to_string(), "status 503");
    }

    #[test]
    fn influx_bodies_of_all_three_versions_are_read() {
        let one = Refusal::read(400, None, br#"{"error":"partial write: bad x dropped=12"}"#);
        assert_eq!((one.rejected_count, one.rejected.len()), (12, 0));
        assert_eq!(one.certain_outcome(), Outcome::Partial);
        let two = Refusal::read(
            400,
            None,
            br#"{"code":"invalid","message":"no field","line":2}"#,
        );
        assert_eq!(
            two.rejected,
            [RejectedLine {
                line: 2,
                error: "no field".into(),
                original: String::new()
            }]
        );
        let three = Refusal::read(
            400,
            None,
            br#"{"error":"partial write of line protocol occurred",
                "data":[{"original_line":"x","line_number":2,"error_message":"no field"}]}"#,
        );
        assert_eq!(three.rejected_count, 1);
        assert_eq!(three.rejected[0].original, "x");
    }

    #[test]
    fn a_page_of_a_proxy_is_shown_from_its_beginning() {
        let page = format!("<html>{}", "x".repeat(1_000));
        let refusal = Refusal::read(502, None, page.as_bytes());
        assert_eq!(refusal.detail.len(), SHOWN_BYTES_MAX);
        assert!(refusal.retryable);
        assert_eq!(refusal.certain_outcome(), Outcome::Unknown);
    }
}
