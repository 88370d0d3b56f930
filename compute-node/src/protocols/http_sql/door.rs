//! `GET` and `POST /v1/sql`, `GET` and `DELETE /v1/queries/{id}`.
//!
//! The status line waits for the first batch or the end, so that what fails by then has a true
//! status. What fails later must look cut: the body ends with an error, which closes the connection
//! without its last chunk; why, can be asked for by the statement's id. A client that goes away drops the body and with it the query.
//!
//! Never here: what a statement does.

use std::convert::Infallible;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use auxo_proto::error::{ErrorCode, Failure, Outcome};
use auxo_query::{Answer, Limits, QueryStats, Slot};
use axum::body::Body;
use axum::extract::{Path, State};
use axum::http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, Uri, header};
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use futures::StreamExt;
use http_body_util::StreamBody;
use hyper::body::Frame;
use serde_json::{Value, json};
use tokio::sync::mpsc;
use tokio::time::Instant;
use tokio_stream::wrappers::ReceiverStream;

use super::format::{self, Encoder, Head, Tail};
use super::request::{self, SqlRequest};
use crate::node::{DEFAULT_DATABASE, DEFAULT_TENANT, Node};
use crate::protocols::influx::door::batch_id;
use crate::protocols::problem;
use crate::reading::places::Freshness;
use crate::running::{Entry, Known};
use crate::statements::{Ask, Done};
use crate::write::{self, WriteSummary};

/// Encoded pieces that wait for a slow reader; then the query waits.
const PIECES: usize = 4;
/// Longest wait for a reader that does not read.
const STALLED: Duration = Duration::from_secs(60);
/// Time in which the last words of a failed answer leave, before its body is cut.
const LAST_WORDS: Duration = Duration::from_millis(100);
/// Header, or trailer, with what is known at the end of an answer.
const SUMMARY: &str = "x-auxo-summary";
/// Bytes of a piece that is worth sending.
const PIECE_BYTES: usize = 64 << 10;

/// The route.
pub async fn sql(
    State(node): State<Node>,
    method: Method,
    uri: Uri,
    headers: HeaderMap,
    body: Body,
) -> Response {
    let asked = Instant::now();
    let fresh_id = || node.random().uuid_v7(node.clock().now_ms()).to_string();
    let understood = async {
        let arguments = request::form(uri.query().unwrap_or_default());
        let body = node.intake().read(&headers, body).await?;
        Ok((request::understand(&arguments, &headers, &body)?, body))
    };
    // What was understood is as large as the body, so that its room stays taken.
    let (request, _body) = match understood.await {
        Ok(understood) => understood,
        Err(failure) => return failed(&node, &failure, &fresh_id()),
    };
    let id = request.query_id.clone().unwrap_or_else(fresh_id);
    let may_write = method == Method::POST;
    match run(&node, request, &headers, may_write, &id, asked).await {
        Ok(response) => response,
        Err(failure) => failed(&node, &failure, &id),
    }
}

/// `GET /v1/queries/{id}`: that a statement runs, or why it failed.
pub async fn known(State(node): State<Node>, Path(id): Path<String>) -> Response {
    match node.running().known(&id, Instant::now()) {
        Some(Known::Runs) => reply_json(&json!({ "query_id": id, "state": "running" })),
        Some(Known::Failed(problem)) => {
            let error = serde_json::from_str::<Value>(&problem).unwrap_or_default();
            reply_json(&json!({ "query_id": id, "state": "failed", "error": error }))
        }
        None => {
            let detail = format!("no query {id} runs here or failed in the last ten minutes");
            let failure = Failure::new(ErrorCode::NotFound, detail);
            problem::response(&failure, Some(&id), node.name())
        }
    }
}

/// `DELETE /v1/queries/{id}`.
pub async fn cancel(State(node): State<Node>, Path(id): Path<String>) -> Response {
    match node.running().cancel(&id) {
        true => StatusCode::NO_CONTENT.into_response(),
        false => {
            let failure = Failure::new(ErrorCode::NotFound, format!("no query {id} runs here"));
            problem::response(&failure, Some(&id), node.name())
        }
    }
}

fn failed(node: &Node, failure: &Failure, id: &str) -> Response {
    note(node, failure, id);
    with_id(problem::response(failure, Some(id), node.name()), id)
}

/// Counts a failure and keeps it for who asks later.
///
/// * returns: its problem object.
fn note(node: &Node, failure: &Failure, id: &str) -> Value {
    let failed = &node.counters().statements_failed;
    failed.fetch_add(1, Ordering::Relaxed);
    let problem = problem::body(failure, Some(id), node.name());
    node.running()
        .failed(id, problem.to_string(), Instant::now());
    problem
}

fn with_id(mut response: Response, id: &str) -> Response {
    if let Ok(id) = HeaderValue::from_str(id) {
        response.headers_mut().insert("x-auxo-query-id", id);
    }
    response
}

async fn run(
    node: &Node,
    request: SqlRequest,
    headers: &HeaderMap,
    may_write: bool,
    id: &str,
    asked: Instant,
) -> Result<Response, Failure> {
    let of_node = node.limits();
    let timeout = request
        .timeout
        .unwrap_or(of_node.statement_time)
        .min(of_node.statement_time);
    let deadline = asked + timeout;
    let taken = || Failure::new(ErrorCode::AlreadyExists, format!("query {id} runs already"));
    let entry = node.running().enter(id).ok_or_else(taken)?;
    let cancelled = entry.cancelled();
    let slot = tokio::select! {
        biased;
        () = cancelled.cancelled() => return Err(cancelled_on(node, false)),
        slot = node.statement_slot(deadline) => slot?,
    };
    let queued = asked.elapsed();
    let changes = AtomicBool::new(false);
    let ask = Ask {
        tenant: DEFAULT_TENANT,
        database: request.database.as_deref().unwrap_or(DEFAULT_DATABASE),
        sql: &request.sql,
        params: &request.params,
        may_write,
        changes: &changes,
        batch: batch_id(headers)?,
        limits: Limits {
            deadline,
            rows: request
                .row_limit
                .unwrap_or(u64::MAX)
                .min(of_node.result_rows),
            bytes: request
                .byte_limit
                .unwrap_or(u64::MAX)
                .min(of_node.result_bytes),
        },
        freshness: request.freshness,
        slot: Arc::clone(&slot),
    };
    let done = tokio::select! {
        biased;
        () = cancelled.cancelled() => Err(cancelled_on(node, changes.load(Ordering::Relaxed))),
        done = node.statement(ask) => done,
    };
    let done = done.map_err(|failure| match changes.load(Ordering::Relaxed) {
        true => failure,
        false => nothing_changed(failure),
    })?;
    node.counters().statements.fetch_add(1, Ordering::Relaxed);
    let elapsed = || asked.elapsed().as_secs_f64() * 1e3;
    let response = match done {
        Done::Rows(answer) => {
            let timing = Timing {
                asked,
                queued,
                // What a strong answer shows is as it was when it was asked for; of another nobody knows.
                staleness_ms: (request.freshness == Freshness::Strong).then_some(0),
            };
            return rows(node, *answer, &request, id, timing, (entry, slot)).await;
        }
        Done::Wrote(summary) => {
            let written = &node.counters().rows_written;
            written.fetch_add(summary.rows, Ordering::Relaxed);
            wrote(&summary, Some(summary.rows), id, elapsed())
        }
        Done::Deleted(summary) => wrote(&summary, None, id, elapsed()),
        Done::Changed => reply_json(&json!({
            "query_id": id, "affected_rows": 0, "warnings": [],
            "stats": { "elapsed_ms": elapsed() },
        })),
    };
    Ok(with_id(response, id))
}

/// The answer of a write.
///
/// * `rows`: how many it changed, where that is known.
fn wrote(summary: &WriteSummary, rows: Option<u64>, id: &str, elapsed_ms: f64) -> Response {
    let token = write::read_token(summary);
    let mut response = reply_json(&json!({
        "query_id": id, "affected_rows": rows, "read_token": token,
        "warnings": [], "stats": { "elapsed_ms": elapsed_ms },
    }));
    if let Ok(token) = HeaderValue::from_str(&token) {
        response.headers_mut().insert("x-auxo-read-token", token);
    }
    if summary.replayed {
        let once = HeaderValue::from_static("1");
        response.headers_mut().insert("x-auxo-replayed", once);
    }
    response
}

/// What a statement is told that was cancelled, by its user or because the node stops.
///
/// * `changed`: whether it may have changed something.
fn cancelled_on(node: &Node, changed: bool) -> Failure {
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
fn nothing_changed(failure: Failure) -> Failure {
    match failure.outcome {
        Some(_) => failure,
        None => failure.outcome(Outcome::Rejected),
    }
}

fn reply_json(reply: &Value) -> Response {
    (
        [(header::CONTENT_TYPE, "application/json")],
        reply.to_string(),
    )
        .into_response()
}

#[derive(Clone, Copy)]
struct Timing {
    asked: Instant,
    queued: Duration,
    staleness_ms: Option<u64>,
}

/// What ends with the answer: its place among the running statements.
type Held = (Entry, Slot);

async fn rows(
    node: &Node,
    answer: Answer,
    request: &SqlRequest,
    id: &str,
    timing: Timing,
    held: Held,
) -> Result<Response, Failure> {
    let head = Head {
        query_id: id.to_owned(),
        columns: answer.columns.clone(),
        schema: Arc::clone(&answer.schema),
    };
    let encoder = format::encoder(request.format, head, request.values);
    let mut writing = Writing {
        node: node.clone(),
        id: id.to_owned(),
        answer,
        encoder,
        says_truncated: request.format.says_truncated(),
        limits_asked: (request.row_limit, request.byte_limit),
        summary: None,
        out: Vec::new(),
        timing,
        held,
    };
    writing.encoder.start(&mut writing.out).map_err(internal)?;
    let mut ended = false;
    while !ended && (request.buffer || writing.out.len() < PIECE_BYTES) {
        ended = writing.next().await?;
        if !request.buffer {
            break;
        }
    }
    let content_type = HeaderValue::from_static(request.format.content_type());
    let mut response = match ended {
        true => {
            let mut response = Body::from(std::mem::take(&mut writing.out)).into_response();
            if let Some(summary) = &writing.summary {
                response.headers_mut().insert(SUMMARY, summary.clone());
            }
            response
        }
        false => {
            let (sender, receiver) = mpsc::channel(PIECES);
            node.tasks().spawn(writing.stream(sender));
            let body = StreamBody::new(ReceiverStream::new(receiver));
            let mut response = Body::new(body).into_response();
            let named = HeaderValue::from_static(SUMMARY);
            response.headers_mut().insert(header::TRAILER, named);
            response
        }
    };
    response
        .headers_mut()
        .insert(header::CONTENT_TYPE, content_type);
    Ok(with_id(response, id))
}

fn internal(error: arrow::error::ArrowError) -> Failure {
    Failure::new(ErrorCode::Internal, error.to_string())
}

/// An answer on its way into bytes.
struct Writing {
    node: Node,
    id: String,
    answer: Answer,
    encoder: Box<dyn Encoder>,
    /// Whether the format can say that a limit cut it short.
    says_truncated: bool,
    /// Rows and bytes that the request itself wants at most.
    limits_asked: (Option<u64>, Option<u64>),
    /// What is known at the end, for the header or trailer of that name.
    summary: Option<HeaderValue>,
    out: Vec<u8>,
    timing: Timing,
    held: Held,
}

/// Ends a body so that a reader sees that it was cut.
#[derive(Debug, thiserror::Error)]
#[error("the query failed: {0}")]
struct Cut(Failure);

/// A part of a body.
type Piece = Result<Frame<Bytes>, Cut>;

impl Writing {
    /// Encodes one more batch, or the end; says whether it was the end.
    async fn next(&mut self) -> Result<bool, Failure> {
        self.encode_next().await.map_err(nothing_changed)
    }

    async fn encode_next(&mut self) -> Result<bool, Failure> {
        let cancelled = self.held.0.cancelled();
        let batch = tokio::select! {
            biased;
            () = cancelled.cancelled() => return Err(cancelled_on(&self.node, false)),
            batch = self.answer.batches.next() => batch,
        };
        match batch {
            Some(batch) => {
                self.encoder
                    .batch(&batch?, &mut self.out)
                    .map_err(internal)?;
                Ok(false)
            }
            None => {
                let stats = &self.answer.stats;
                let scanned = &self.node.counters().rows_scanned;
                scanned.fetch_add(stats.rows_scanned(), Ordering::Relaxed);
                let moved = &self.node.counters().bytes_moved;
                moved.fetch_add(stats.bytes_moved(), Ordering::Relaxed);
                if stats.truncated() && !self.says_truncated && !self.limited_by_request() {
                    return Err(self.too_many());
                }
                let tail = Tail {
                    row_count: stats.rows(),
                    truncated: stats.truncated(),
                    stats: stats_json(stats, self.timing),
                    ..Tail::default()
                };
                self.encoder.end(&tail, &mut self.out).map_err(internal)?;
                let summary = json!({
                    "row_count": tail.row_count, "truncated": tail.truncated, "stats": tail.stats,
                });
                self.summary = HeaderValue::from_str(&summary.to_string()).ok();
                Ok(true)
            }
        }
    }

    /// Whether it was the request that wanted no more rows or bytes than there are.
    fn limited_by_request(&self) -> bool {
        let (limits, (rows, bytes)) = (self.node.limits(), self.limits_asked);
        rows.is_some_and(|rows| rows <= limits.result_rows)
            || bytes.is_some_and(|bytes| bytes <= limits.result_bytes)
    }

    /// What ends an answer that is longer than the node gives, in a format without a word for that.
    fn too_many(&self) -> Failure {
        let limits = self.node.limits();
        let detail = format!(
            "the answer has more than {} rows or {} bytes (limits.result_rows, limits.result_bytes)",
            limits.result_rows, limits.result_bytes
        );
        Failure::new(ErrorCode::QueryLimit, detail)
            .hint("ask for a row_limit, for fewer rows, or for ndjson, which says where it stopped")
    }

    /// Sends the rest; the reader that stops reading stops the query.
    async fn stream(mut self, pieces: mpsc::Sender<Piece>) {
        loop {
            if self.out.len() >= PIECE_BYTES {
                let piece = Bytes::from(std::mem::take(&mut self.out));
                if send(&pieces, Ok(Frame::data(piece))).await.is_err() {
                    return;
                }
            }
            let next = tokio::select! {
                biased;
                () = pieces.closed() => return,
                next = self.next() => next,
            };
            match next {
                Ok(false) => {}
                Ok(true) => {
                    let sent = send(&pieces, Ok(Frame::data(Bytes::from(self.out)))).await;
                    if let (Ok(()), Some(summary)) = (sent, self.summary) {
                        let trailers = [(HeaderName::from_static(SUMMARY), summary)];
                        let trailers = Frame::trailers(trailers.into_iter().collect());
                        let _ = send(&pieces, Ok(trailers)).await;
                    }
                    return;
                }
                Err(failure) => {
                    let problem = note(&self.node, &failure, &self.id);
                    self.encoder.error(&problem, &mut self.out);
                    if !self.out.is_empty() {
                        let _ = send(&pieces, Ok(Frame::data(Bytes::from(self.out)))).await;
                        left(&pieces).await;
                    }
                    let _ = send(&pieces, Err(Cut(failure))).await;
                    return;
                }
            }
        }
    }
}

/// Waits until the last words are on their way: a connection that is cut forgets what it has not
/// written yet, and nothing tells when it has.
async fn left(pieces: &mpsc::Sender<Piece>) {
    let taken = pieces.reserve_many(PIECES);
    if let Ok(Ok(_)) = tokio::time::timeout(STALLED, taken).await {
        tokio::time::sleep(LAST_WORDS).await;
    }
}

async fn send(pieces: &mpsc::Sender<Piece>, piece: Piece) -> Result<(), ()> {
    match tokio::time::timeout(STALLED, pieces.send(piece)).await {
        Ok(Ok(())) => Ok(()),
        Ok(Err(_)) | Err(_) => Err(()),
    }
}

fn stats_json(stats: &QueryStats, timing: Timing) -> Value {
    json!({
        "elapsed_ms": timing.asked.elapsed().as_secs_f64() * 1e3,
        "queue_ms": timing.queued.as_secs_f64() * 1e3,
        "rows_scanned": stats.rows_scanned(),
        "bytes_scanned": stats.bytes_scanned(),
        "files_considered": stats.files_considered(),
        "files_read": stats.files_read(),
        "bytes_moved": stats.bytes_moved(),
        "memory_peak_bytes": stats.memory_peak_bytes(),
        "staleness_ms": timing.staleness_ms,
    })
}

/// Answers that never fail, for routes without one.
pub async fn no_such_route(State(node): State<Node>, uri: Uri) -> Result<Response, Infallible> {
    let failure = Failure::new(ErrorCode::NotFound, format!("no route {}", uri.path()));
    Ok(problem::response(&failure, None, node.name()))
}

/// The same for a route that is there, by another method.
pub async fn no_such_method(
    State(node): State<Node>,
    method: Method,
    uri: Uri,
) -> Result<Response, Infallible> {
    let detail = format!("{} does not take {method}", uri.path());
    let failure = Failure::new(ErrorCode::MethodNotAllowed, detail);
    Ok(problem::response(&failure, None, node.name()))
}
