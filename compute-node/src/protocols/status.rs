//! What a node says of itself and what meta shows of the cluster.

use std::collections::HashMap;

use auxo_proto::error::{ErrorCode, Failure};
use axum::extract::{Path, Query, State};
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde_json::json;

use super::problem;
use crate::metrics;
use crate::node::Node;

/// `GET /v1/health`: 200 while the process lives.
pub async fn health(State(node): State<Node>) -> Response {
    json_reply(
        StatusCode::OK,
        &json!({
            "status": "ok", "node": node.name(), "version": node.version(), "uptime_s": node.uptime_s(),
            "now_ms": node.clock().now_ms(),
        }),
    )
}

/// `GET /v1/ready`: 200 when the node serves, 503 otherwise, and why.
pub async fn ready(State(node): State<Node>) -> Response {
    let checks = node.checks();
    let ready = checks.iter().all(|(_, check)| check.is_ok());
    let checks: Vec<_> = checks
        .into_iter()
        .map(|(name, check)| match check {
            Ok(()) => json!({ "name": name, "ok": true }),
            Err(why) => json!({ "name": name, "ok": false, "detail": why }),
        })
        .collect();
    let status = if ready {
        StatusCode::OK
    } else {
        StatusCode::SERVICE_UNAVAILABLE
    };
    json_reply(status, &json!({ "ready": ready, "checks": checks }))
}

/// `GET /health`, as InfluxDB clients ask for it.
pub async fn influx_health(State(node): State<Node>) -> Response {
    json_reply(
        StatusCode::OK,
        &json!({
            "name": "influxdb", "status": "pass", "message": "ready for queries and writes",
            "checks": [], "version": node.version(),
        }),
    )
}

/// `GET` and `HEAD /ping`, as InfluxDB clients ask for it.
pub async fn ping(
    State(node): State<Node>,
    Query(arguments): Query<HashMap<String, String>>,
) -> Response {
    let version = [
        ("x-influxdb-version", "1.8.10-auxo"),
        ("x-influxdb-build", "OSS"),
    ];
    match arguments.get("verbose").map(String::as_str) {
        Some("true" | "1") => {
            let body = json!({ "version": node.version() }).to_string();
            (
                StatusCode::OK,
                version,
                [(header::CONTENT_TYPE, "application/json")],
                body,
            )
                .into_response()
        }
        _ => (StatusCode::NO_CONTENT, version).into_response(),
    }
}

/// `GET /metrics`.
pub async fn metrics(State(node): State<Node>) -> Response {
    let text = (
        header::CONTENT_TYPE,
        "text/plain; version=0.0.4; charset=utf-8",
    );
    ([text], metrics::page(&node)).into_response()
}

/// `GET /v1/errors`: the catalogue.
pub async fn errors() -> Response {
    let all: Vec<_> = ErrorCode::ALL
        .iter()
        .copied()
        .map(problem::explained)
        .collect();
    json_reply(StatusCode::OK, &json!({ "items": all }))
}

/// `GET /v1/errors/{code}`: one of them, by its text or its number.
pub async fn error(State(node): State<Node>, Path(code): Path<String>) -> Response {
    let number = code.parse().ok().and_then(ErrorCode::of_number);
    let by_text = || {
        ErrorCode::ALL
            .iter()
            .copied()
            .find(|known| known.text() == code)
    };
    match number.or_else(by_text) {
        Some(code) => json_reply(StatusCode::OK, &problem::explained(code)),
        None => {
            let failure = Failure::new(ErrorCode::NotFound, format!("no error {code}"));
            problem::response(&failure, None, node.name())
        }
    }
}

/// `GET /v1/cluster`, `/v1/nodes`, `/v1/shards`, `/v1/tables`, `/v1/procedures`: what meta lists.
pub async fn list(State(node): State<Node>, Path(kind): Path<String>) -> Response {
    let verb = match kind.as_str() {
        "cluster" => "status",
        "nodes" => "node list",
        "shards" => "shard list",
        "tables" => "table list",
        "procedures" => "procedure list",
        _ => return unknown(&node, &kind),
    };
    shown(&node, verb, "").await
}

/// One of them by its id or name; `/v1/meta/check` is what does not hold of all of them.
pub async fn show(
    State(node): State<Node>,
    Path((kind, target)): Path<(String, String)>,
) -> Response {
    let verb = match kind.as_str() {
        "nodes" => "node show",
        "shards" => "shard show",
        "tables" => "table show",
        "procedures" => "procedure show",
        "meta" if target == "check" => return shown(&node, "meta check", "").await,
        _ => return unknown(&node, &kind),
    };
    shown(&node, verb, &target).await
}

/// `POST /v1/shards/{shard}/move?to=NODE`, `/v1/nodes/{node}/drain`, `/v1/nodes/{node}/undrain`,
/// `/v1/procedures/{procedure}/retry`: 202 with what meta says of it.
pub async fn act(
    State(node): State<Node>,
    Path((kind, target, action)): Path<(String, String, String)>,
    Query(arguments): Query<HashMap<String, String>>,
) -> Response {
    let Some(verb) = verb_of(&kind, &action) else {
        return unknown(&node, &format!("{kind}/{target}/{action}"));
    };
    let target = match arguments.get("to") {
        Some(to) if verb == "shard move" => format!("{target}/{to}"),
        _ => target,
    };
    let mut response = shown(&node, verb, &target).await;
    if response.status() == StatusCode::OK {
        *response.status_mut() = StatusCode::ACCEPTED;
    }
    response
}

/// The same routes by another method.
pub async fn acts_by_post(
    State(node): State<Node>,
    Path((kind, target, action)): Path<(String, String, String)>,
) -> Response {
    match verb_of(&kind, &action) {
        Some(verb) => {
            let failure = Failure::new(ErrorCode::MethodNotAllowed, format!("{verb} needs POST"));
            problem::response(&failure, None, node.name())
        }
        None => unknown(&node, &format!("{kind}/{target}/{action}")),
    }
}

fn verb_of(kind: &str, action: &str) -> Option<&'static str> {
    match (kind, action) {
        ("nodes", "drain") => Some("node drain"),
        ("nodes", "undrain") => Some("node undrain"),
        ("shards", "move") => Some("shard move"),
        ("procedures", "retry") => Some("procedure retry"),
        _ => None,
    }
}

async fn shown(node: &Node, verb: &str, target: &str) -> Response {
    match node.show(verb, target).await {
        Ok(body) => ([(header::CONTENT_TYPE, "application/json")], body).into_response(),
        Err(failure) => problem::response(&failure, None, node.name()),
    }
}

fn unknown(node: &Node, kind: &str) -> Response {
    let failure = Failure::new(ErrorCode::NotFound, format!("no route /v1/{kind}"));
    problem::response(&failure, None, node.name())
}

fn json_reply(status: StatusCode, body: &serde_json::Value) -> Response {
    (
        status,
        [(header::CONTENT_TYPE, "application/json")],
        body.to_string(),
    )
        .into_response()
}
