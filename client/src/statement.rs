//! One SQL statement, ready to be sent.

use std::time::Duration;

use reqwest::{Method, header};
use serde::Serialize;
use serde_json::Value;
use uuid::Uuid;

use crate::endpoint::Client;
use crate::{Error, Reply};

/// What the head of a reply may take beyond the statement's own deadline: the node answers a
/// statement that ran out of time itself, and its answer says more than ours.
const GRACE: Duration = Duration::from_secs(5);

/// How a node writes the rows of a reply.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// One object with columns, rows and statistics.
    Json,
    /// A row a line, then one line that says that all were sent.
    Ndjson,
    /// Comma-separated, with a header row.
    Csv,
    /// Tab-separated, with a header row.
    Tsv,
}

impl Format {
    /// The word of the `format` field.
    pub fn name(self) -> &'static str {
        match self {
            Self::Json => "json",
            Self::Ndjson => "ndjson",
            Self::Csv => "csv",
            Self::Tsv => "tsv",
        }
    }
}

/// Values of the places a statement leaves open.
#[derive(Clone, Debug, PartialEq)]
pub enum Params {
    /// `$1`, `$2`, …
    Positional(Vec<Value>),
    /// `$name`
    Named(serde_json::Map<String, Value>),
}

impl Serialize for Params {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::Positional(list) => list.serialize(serializer),
            Self::Named(map) => map.serialize(serializer),
        }
    }
}

/// A statement and how its reply is wanted.
#[derive(Clone, Debug, Serialize)]
pub struct Statement {
    /// The text: one statement, with or without a trailing `;`.
    pub sql: String,
    /// Values of its open places.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub params: Option<Params>,
    /// Database of the names that are not qualified.
    #[serde(rename = "db")]
    pub database: String,
    /// How rows are written.
    #[serde(serialize_with = "format_name")]
    pub format: Format,
    /// How long the node may work on it.
    #[serde(rename = "timeout_ms", serialize_with = "milliseconds")]
    pub timeout: Duration,
    /// At most this many rows; the reply says whether there were more.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub row_limit: Option<u64>,
    /// `strong`, `bounded(MS)`, `token` or `eventual`; the node's default if absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub read_mode: Option<String>,
    /// Its name, chosen here so that it can be cancelled before it has answered.
    #[serde(serialize_with = "hyphenated")]
    pub query_id: Uuid,
}

fn format_name<S: serde::Serializer>(format: &Format, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(format.name())
}

fn milliseconds<S: serde::Serializer>(time: &Duration, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_u64(u64::try_from(time.as_millis()).unwrap_or(u64::MAX))
}

fn hyphenated<S: serde::Serializer>(id: &Uuid, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_str(id)
}

impl Client {
    /// A statement with a fresh id, JSON rows, 30 s to run, on this client's database.
    pub fn statement(&self, sql: impl Into<String>) -> Statement {
        Statement {
            sql: sql.into(),
            params: None,
            database: self.database().to_owned(),
            format: Format::Json,
            timeout: Duration::from_secs(30),
            row_limit: None,
            read_mode: None,
            query_id: self.fresh_id(),
        }
    }

    /// Sends a statement once and waits for the head of its reply.
    ///
    /// * shape: the reply is a stream; nothing of it is held here.
    /// * errors: any but `Cut`. Never sent again by this function: an INSERT that was lost may have
    ///   been carried out, see [`Error::outcome`].
    /// * effects: dropping the future or the reply closes the connection, which cancels the
    ///   statement on the node; [`Client::cancel`] does so by name.
    pub async fn sql(&self, statement: &Statement) -> Result<Reply, Error> {
        let request = self
            .request(Method::POST, &["v1", "sql"])
            .header("x-auxo-query-id", statement.query_id.to_string())
            .header(header::ACCEPT_ENCODING, "identity")
            .json(statement);
        let response = self.send(request, statement.timeout + GRACE).await?;
        Reply::of(response, statement.format, self.settings.idle_timeout)
    }
}

#[cfg(test)]
mod tests {
    use auxo_proto::{clock::Clock, random::Random};

    use super::*;
    use crate::Settings;

    #[test]
    fn the_body_carries_the_documented_fields_and_no_others() {
        let settings = Settings::new("http://n", Clock::from_fn(|| 0), Random::seeded(1));
        let client = Client::new(settings).unwrap().with_database("devops");
        let mut statement = client.statement("SELECT $h");
        let id = statement.query_id.to_string();
        assert_eq!(
            serde_json::to_value(&statement).unwrap(),
            serde_json::json!({"sql": "SELECT $h", "db": "devops", "format": "json",
                "timeout_ms": 30_000, "query_id": id})
        );
        let named = [("h".to_owned(), "web1".into())].into_iter().collect();
        statement.params = Some(Params::Named(named));
        statement.row_limit = Some(5);
        statement.read_mode = Some("eventual".to_owned());
        let body = serde_json::to_value(&statement).unwrap();
        assert_eq!(body["params"], serde_json::json!({"h": "web1"}));
        assert_eq!(body["row_limit"], 5);
        assert_eq!(body["read_mode"], "eventual");
    }
}
