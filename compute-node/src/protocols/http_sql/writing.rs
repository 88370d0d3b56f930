//! The rows of an answer on their way into bytes, and to a reader.
//!
//! The status line waits for the first batch or the end, so that what fails by then has a true
//! status. What fails later must look cut: the body ends with an error, which closes the connection
//! without its last chunk; why, can be asked for by the statement's id. A client that goes away drops
//! the body and with it the query.
//!
//! Never here: what was asked, where a statement runs.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use auxo_proto::error::{ErrorCode, Failure};
use auxo_query::{Answer, QueryStats, Slot};
use axum::body::Body;
use axum::http::{HeaderName, HeaderValue, header};
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use futures::StreamExt;
use http_body_util::StreamBody;
use hyper::body::Frame;
use serde_json::{Value, json};
use tokio::sync::mpsc;
use tokio::time::Instant;
use tokio_stream::wrappers::ReceiverStream;

use super::failed::{cancelled_on, note, nothing_changed};
use super::format::{self, Encoder, Head, Tail};
use super::request::SqlRequest;
use crate::node::Node;
use crate::running::Entry;

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

#[derive(Clone, Copy)]
pub(super) struct Timing {
    pub(super) asked: Instant,
    pub(super) queued: Duration,
    pub(super) staleness_ms: Option<u64>,
}

/// What ends with the answer: its place among the running statements.
pub(super) type Held = (Entry, Slot);

/// The answer to a query, which ends itself or goes on as a body.
pub(super) async fn rows(
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
    Ok(response)
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
