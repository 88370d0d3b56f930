//! What the programs ask of a node, over its public door.

use std::time::Duration;

use anyhow::{Context, Result, bail};
use serde_json::Value;

/// Longest wait for an answer, where a request does not name one.
const ANSWERED_WITHIN: Duration = Duration::from_secs(120);

/// A node's public listener.
#[derive(Clone, Debug)]
pub struct Http {
    client: reqwest::Client,
    base: String,
}

/// Status, headers and body of an answer.
#[derive(Clone, Debug)]
pub struct Answer {
    /// HTTP status.
    pub status: u16,
    /// `Retry-After`, if any, in seconds.
    pub retry_after_s: Option<u64>,
    /// Every header.
    pub headers: reqwest::header::HeaderMap,
    /// The body as text.
    pub body: String,
}

impl Answer {
    /// The body as JSON; null if it is none.
    pub fn json(&self) -> Value {
        serde_json::from_str(&self.body).unwrap_or(Value::Null)
    }

    /// What it says if it is an error: the code of a problem object, else the sentence that clients of
    /// InfluxDB are told.
    pub fn said(&self) -> String {
        let body = self.json();
        let said = body["code"].as_str().or(body["error"].as_str());
        said.unwrap_or_default().to_owned()
    }

    /// The code of a problem object, empty if there is none.
    pub fn code(&self) -> String {
        self.json()["code"].as_str().unwrap_or_default().to_owned()
    }
}

impl Http {
    /// A client of the node at `base`, for example `http://127.0.0.1:7400`.
    pub fn new(base: &str) -> Self {
        Self {
            client: reqwest::Client::new(),
            base: base.to_owned(),
        }
    }

    /// The address it was made with.
    pub fn base(&self) -> &str {
        &self.base
    }

    /// A request to a path, not sent yet.
    pub fn request(&self, method: reqwest::Method, path: &str) -> reqwest::RequestBuilder {
        self.client.request(method, format!("{}{path}", self.base))
    }

    /// Sends a request, which has two minutes if it names no time of its own; any status is an answer.
    pub async fn send(&self, request: reqwest::RequestBuilder) -> Result<Answer> {
        let (client, request) = request.build_split();
        let mut request = request?;
        request.timeout_mut().get_or_insert(ANSWERED_WITHIN);
        let response = client.execute(request).await?;
        let retry_after = response.headers().get("retry-after");
        let retry_after_s = retry_after.and_then(|value| value.to_str().ok()?.parse().ok());
        let status = response.status().as_u16();
        let headers = response.headers().clone();
        let body = response.bytes().await.context("body")?;
        Ok(Answer {
            status,
            retry_after_s,
            headers,
            body: String::from_utf8_lossy(&body).into_owned(),
        })
    }

    /// Whether it serves.
    pub async fn ready(&self) -> Result<()> {
        let request = self.request(reqwest::Method::GET, "/v1/ready");
        let answer = self.send(request.timeout(Duration::from_secs(2))).await?;
        match answer.status {
            200 => Ok(()),
            status => bail!("/v1/ready answers {status}: {}", answer.body),
        }
    }

    /// Runs a statement in the database `main`; any status is an answer.
    pub async fn sql_answer(&self, sql: &str) -> Result<Answer> {
        self.send(
            self.request(reqwest::Method::POST, "/v1/sql")
                .body(sql.to_owned()),
        )
        .await
    }

    /// Rows of a statement as JSON values.
    pub async fn sql(&self, sql: &str) -> Result<Vec<Vec<Value>>> {
        let answer = self.sql_answer(sql).await?;
        if answer.status != 200 {
            bail!("{sql}: {} {}", answer.status, answer.body);
        }
        let rows = answer.json()["rows"].take();
        serde_json::from_value(rows).with_context(|| format!("{sql}: rows"))
    }

    /// Writes line protocol with timestamps in nanoseconds; any status is an answer.
    pub async fn write(&self, db: &str, lines: impl Into<reqwest::Body>) -> Result<Answer> {
        let path = format!("/write?db={db}");
        self.send(self.request(reqwest::Method::POST, &path).body(lines))
            .await
    }
}
