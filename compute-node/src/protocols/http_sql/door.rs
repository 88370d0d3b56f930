//! `GET` and `POST /v1/sql`, `GET` and `DELETE /v1/queries/{id}`.
//!
//! Never here: what a statement does, how its answer becomes bytes.

use std::convert::Infallible;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use auxo_proto::error::{ErrorCode, Failure};
use auxo_query::Limits;
use axum::body::Body;
use axum::extract::{Path, State};
use axum::http::{HeaderMap, HeaderValue, Method, StatusCode, Uri, header};
use axum::response::{IntoResponse, Response};
use serde_json::{Value, json};
use tokio::time::Instant;

use super::failed::{cancelled_on, note, nothing_changed};
use super::request::{self, SqlRequest};
use super::writing::{Timing, rows};
use crate::node::{DEFAULT_DATABASE, DEFAULT_TENANT, Node};
use crate::protocols::influx::door::batch_id;
use crate::protocols::problem;
use crate::reading::places::Freshness;
use crate::running::Known;
use crate::statements::{Ask, Done};
use crate::write::{self, WriteSummary};

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
        Ok((request::understand(&arguments?, &headers, &body)?, body))
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
            rows(node, *answer, &request, id, timing, (entry, slot)).await?
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

fn reply_json(reply: &Value) -> Response {
    (
        [(header::CONTENT_TYPE, "application/json")],
        reply.to_string(),
    )
        .into_response()
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
