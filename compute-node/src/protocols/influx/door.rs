//! `/write` and `/api/v2/write`: a body of line protocol in, 204 once every shard has acked.
//!
//! 1. The body is read within its limits, and parsed by what the catalog says of its tables.
//! 2. Lines that need a table or column that is not there wait for it: the change is made, the body
//!    parsed again, at most three times.
//! 3. Good lines are written as one batch; bad ones are answered by number, and so are those that need
//!    what their table does not get.
//!
//! If a change cannot be made now, lines that do not need it are stored only where sending them
//! again does no harm: not under a batch id, which would hide the others, and not into tables that
//! keep every row.
//!
//! Never here: grammar, routes of rows.

use std::collections::{HashMap, HashSet};
use std::sync::atomic::Ordering;
use std::time::Duration;

use auxo_proto::error::{ErrorCode, Failure, Outcome};
use auxo_proto::ids::BatchId;
use auxo_proto::schema::MergeMode;
use axum::body::Body;
use axum::extract::rejection::QueryRejection;
use axum::extract::{Query, State};
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse, Response};
use bytes::Bytes;

use super::precision::Precision;
use super::reply::{self, Api, Reply};
use super::{Parsed, Refused, Request, TableRows};
use crate::node::{DDL_TIME, DEFAULT_DATABASE, DEFAULT_TENANT, Node};
use crate::write::{self, WriteRequest, WriteSummary};

/// How often a body is parsed again after its tables were changed.
const CHANGES_MAX: usize = 3;
/// Most columns that a refusal names.
const NAMES_SHOWN: usize = 5;
/// Longest wait to hear of a change that was faster.
const NEWS_TIME: Duration = Duration::from_secs(1);

type Arguments = Query<HashMap<String, String>>;

/// `POST /write?db&rp&precision`.
pub async fn v1(
    State(node): State<Node>,
    arguments: Result<Arguments, QueryRejection>,
    headers: HeaderMap,
    body: Body,
) -> Response {
    let arguments = match understood(arguments) {
        Ok(arguments) => arguments,
        Err(failure) => return response(reply::failure(Api::V1, &failure)),
    };
    let db = arguments.get("db").filter(|db| !db.is_empty());
    let database = match arguments.get("rp").map(String::as_str) {
        None | Some("" | "autogen" | "default") => db.cloned(),
        Some(policy) => db.map(|db| format!("{db}/{policy}")),
    };
    answer(&node, Api::V1, database, &arguments, &headers, body).await
}

/// `POST /api/v2/write?org&bucket&precision`.
pub async fn v2(
    State(node): State<Node>,
    arguments: Result<Arguments, QueryRejection>,
    headers: HeaderMap,
    body: Body,
) -> Response {
    let arguments = match understood(arguments) {
        Ok(arguments) => arguments,
        Err(failure) => return response(reply::failure(Api::V2, &failure)),
    };
    let bucket = arguments
        .get("bucket")
        .filter(|bucket| !bucket.is_empty())
        .cloned();
    answer(&node, Api::V2, bucket, &arguments, &headers, body).await
}

/// The arguments of the URL; what cannot be read must not look as if it were not there.
fn understood(
    arguments: Result<Arguments, QueryRejection>,
) -> Result<HashMap<String, String>, Failure> {
    let refused = |error: QueryRejection| {
        let detail = format!("arguments: {error}");
        Failure::new(ErrorCode::BadRequest, detail).outcome(Outcome::Rejected)
    };
    arguments.map(|Query(arguments)| arguments).map_err(refused)
}

async fn answer(
    node: &Node,
    api: Api,
    database: Option<String>,
    arguments: &HashMap<String, String>,
    headers: &HeaderMap,
    body: Body,
) -> Response {
    let database = database
        .or_else(|| text(headers, "x-auxo-database").map(str::to_owned))
        .unwrap_or_else(|| DEFAULT_DATABASE.to_owned());
    match take(node, &database, arguments, headers, body).await {
        Ok(Taken { summary, bad: None }) => accepted(&summary),
        Ok(Taken {
            bad: Some(errors), ..
        }) => {
            node.counters()
                .lines_refused
                .fetch_add(errors.total(), Ordering::Relaxed);
            response(reply::bad_lines(api, &errors, true))
        }
        Err(failure) => {
            node.counters()
                .writes_failed
                .fetch_add(1, Ordering::Relaxed);
            response(reply::failure(api, &failure))
        }
    }
}

/// What became of a body that was not refused whole.
struct Taken {
    summary: WriteSummary,
    bad: Option<super::faults::LineErrors>,
}

async fn take(
    node: &Node,
    database: &str,
    arguments: &HashMap<String, String>,
    headers: &HeaderMap,
    body: Body,
) -> Result<Taken, Failure> {
    node.admit()?;
    let bad = |detail: String| Failure::new(ErrorCode::BadRequest, detail);
    let precision = match arguments.get("precision") {
        None => Precision::default(),
        Some(name) => name
            .parse()
            .map_err(|_| bad(format!("precision {name:?} is not known")))?,
    };
    let id = batch_id(headers)?;
    let body = node.intake().read(headers, body).await?;
    node.counters()
        .bytes_written
        .fetch_add(body.len() as u64, Ordering::Relaxed);
    // The same lines mean other rows in another database or with another precision.
    let body_hash = id.map_or(0, |_| {
        let mut hash = xxhash_rust::xxh3::Xxh3::new();
        hash.update(format!("{database:?} {precision:?} ").as_bytes());
        hash.update(&body);
        hash.digest()
    });
    let mut changes = 0;
    let mut refused = Refused::default();
    let mut overtaken = HashSet::new();
    loop {
        let catalog = node.catalog()?;
        let parsed = parse(node, database, &catalog, precision, &body, &refused).await?;
        let mut failed = None;
        for need in &parsed.needs {
            if changes >= CHANGES_MAX {
                let detail = format!("table {} does not come to rest", need.measurement);
                failed = Some(Failure::new(ErrorCode::SchemaChanging, detail));
                break;
            }
            let changed = node.change(DEFAULT_TENANT, need.ddl(database), DDL_TIME);
            let Err(failure) = changed.await else {
                continue;
            };
            if failure.retryable() {
                failed = Some(about(need, failure));
                break;
            }
            let number = catalog.topology().number;
            // Whoever dropped the table did so meanwhile: these lines make it again.
            if failure.code == ErrorCode::TableNotFound && need.table.is_some() {
                if news(node, number).await {
                    continue;
                }
                let detail = format!("table {} was dropped meanwhile", need.measurement);
                failed = Some(Failure::new(ErrorCode::SchemaChanging, detail));
                break;
            }
            // Somebody else may have changed the table: then its lines are judged by what it is now.
            let first = overtaken.insert(need.measurement.clone());
            if !(first && overtook(&failure) && news(node, number).await) {
                let why = about(need, failure).detail.into();
                refused.insert(need.measurement.clone(), why);
            }
        }
        if parsed.needs.is_empty() || failed.is_some() {
            let Parsed { tables, errors, .. } = parsed;
            let summary = store(node, &catalog, id, body_hash, tables, failed.is_some()).await?;
            if let Some(failure) = failed {
                return Err(match summary.rows {
                    0 => failure.outcome(Outcome::Rejected),
                    _ => failure.outcome(Outcome::Partial),
                });
            }
            let bad = (!errors.is_empty()).then_some(errors);
            return Ok(Taken { summary, bad });
        }
        changes += 1;
    }
}

/// Whether a change was refused because another one was faster.
fn overtook(failure: &Failure) -> bool {
    matches!(
        failure.code,
        ErrorCode::AlreadyExists | ErrorCode::TypeMismatch
    )
}

/// Whether this node hears soon of a newer state of tables than that of the number.
async fn news(node: &Node, number: u64) -> bool {
    let mut catalogs = node.catalogs();
    let newer = catalogs.wait_for(|catalog| catalog.topology().number > number);
    matches!(tokio::time::timeout(NEWS_TIME, newer).await, Ok(Ok(_)))
}

/// Names the columns that a change was for.
fn about(need: &super::needs::Need, failure: Failure) -> Failure {
    let names = need.columns.iter().map(|column| column.name.as_str());
    let mut names: Vec<&str> = names.take(NAMES_SHOWN).collect();
    let more = need.columns.len() - names.len();
    let others = format!("{more} others");
    if more > 0 {
        names.push(&others);
    }
    let detail = format!(
        "{} needs {} (line {}): {}",
        need.measurement,
        names.join(", "),
        need.line,
        failure.detail
    );
    Failure { detail, ..failure }
}

async fn parse(
    node: &Node,
    database: &str,
    catalog: &auxo_proto::topology::Catalog,
    precision: Precision,
    body: &Bytes,
    refused: &Refused,
) -> Result<Parsed, Failure> {
    let Some(database) = catalog.database(DEFAULT_TENANT, database) else {
        let hint = format!("CREATE DATABASE \"{database}\"");
        return Err(Failure::new(ErrorCode::DatabaseNotFound, format!("{database:?}")).hint(hint));
    };
    let mut parser = node.parsers().take();
    let request = Request {
        database: database.id,
        precision,
        now_ns: node.clock().now_ns(),
        table: &|name| catalog.table(database.id, name).cloned(),
        refused,
    };
    let parsed = parser.parse(body, &request);
    node.parsers().give_back(parser);
    parsed.map_err(|error| Failure::new(ErrorCode::BodyTooLarge, error.to_string()))
}

/// Writes what was understood.
///
/// * `waits`: other lines of the body will be sent again.
async fn store(
    node: &Node,
    catalog: &auxo_proto::topology::Catalog,
    id: Option<BatchId>,
    body_hash: u64,
    tables: Vec<TableRows>,
    waits: bool,
) -> Result<WriteSummary, Failure> {
    let harmless = |rows: &TableRows| {
        !waits || (id.is_none() && rows.table.options.merge_mode != MergeMode::Append)
    };
    let tables: Vec<_> = tables
        .into_iter()
        .filter(harmless)
        .map(|TableRows { table, rows }| write::TableRows { table, rows })
        .collect();
    if tables.is_empty() {
        return Ok(WriteSummary::default());
    }
    let request = WriteRequest {
        tenant: DEFAULT_TENANT,
        id,
        body_hash,
        tables,
    };
    let summary = node.writer().write(catalog, request).await?;
    node.counters()
        .rows_written
        .fetch_add(summary.rows, Ordering::Relaxed);
    Ok(summary)
}

/// The caller's name for a write, from `Idempotency-Key`.
pub(crate) fn batch_id(headers: &HeaderMap) -> Result<Option<BatchId>, Failure> {
    let Some(key) = text(headers, "idempotency-key") else {
        return Ok(None);
    };
    match uuid::Uuid::parse_str(key) {
        Ok(id) if id.get_version_num() == 7 => Ok(Some(BatchId(id.as_u128()))),
        _ => {
            let detail = format!("Idempotency-Key {key:?} of a write is no UUIDv7");
            Err(Failure::new(ErrorCode::BadRequest, detail).outcome(Outcome::Rejected))
        }
    }
}

fn text<'h>(headers: &'h HeaderMap, name: &str) -> Option<&'h str> {
    headers
        .get(name)?
        .to_str()
        .ok()
        .filter(|value| !value.is_empty())
}

fn accepted(summary: &WriteSummary) -> Response {
    let mut response = StatusCode::NO_CONTENT.into_response();
    let headers = response.headers_mut();
    if let Ok(token) = write::read_token(summary).parse() {
        headers.insert("x-auxo-read-token", token);
    }
    if summary.replayed {
        headers.insert("x-auxo-replayed", header::HeaderValue::from_static("1"));
    }
    response
}

fn response(reply: Reply) -> Response {
    let status = StatusCode::from_u16(reply.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    let mut response = (
        status,
        [(header::CONTENT_TYPE, "application/json")],
        reply.body,
    )
        .into_response();
    if let Some(seconds) = reply.retry_after_s {
        response
            .headers_mut()
            .insert(header::RETRY_AFTER, seconds.into());
    }
    response
}
