//! One row: a request, and what has to come back.

use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use integration::http::{Answer, Http};
use reqwest::Method;
use serde_json::Value;
use tokio::time::Instant;

use crate::Seen;

/// Longest time for an answer where a row does not say otherwise.
const WITHIN: Duration = Duration::from_secs(20);

/// A request and its promised answer.
pub(crate) struct Case {
    /// What is wrong with the request, in a few words.
    pub(crate) name: String,
    method: Method,
    path: String,
    headers: Vec<(&'static str, String)>,
    body: Vec<u8>,
    status: Vec<u16>,
    code: &'static str,
    holds: Vec<String>,
    place: Option<(u64, u64)>,
    rows: Option<Value>,
    header: Option<(&'static str, &'static str)>,
    within: Duration,
}

impl Case {
    /// Any request; expects 200.
    pub(crate) fn new(name: &str, method: Method, path: &str, body: impl Into<Vec<u8>>) -> Self {
        Self {
            name: name.to_owned(),
            method,
            path: path.to_owned(),
            headers: Vec::new(),
            body: body.into(),
            status: vec![200],
            code: "",
            holds: Vec::new(),
            place: None,
            rows: None,
            header: None,
            within: WITHIN,
        }
    }

    /// A statement by POST; expects 200.
    pub(crate) fn sql(name: &str, sql: impl Into<String>) -> Self {
        Self::new(name, Method::POST, "/v1/sql", sql.into())
    }

    /// Line protocol into the database `main`; expects 204.
    pub(crate) fn lines(name: &str, body: impl Into<Vec<u8>>) -> Self {
        Self::new(name, Method::POST, "/write?db=main", body).status(&[204])
    }

    /// Sends a header along.
    pub(crate) fn with(mut self, name: &'static str, value: impl Into<String>) -> Self {
        self.headers.push((name, value.into()));
        self
    }

    /// Expects one of these statuses.
    pub(crate) fn status(mut self, status: &[u16]) -> Self {
        self.status = status.to_vec();
        self
    }

    /// Expects a refusal with this status and code.
    pub(crate) fn refused(mut self, status: u16, code: &'static str) -> Self {
        self.code = code;
        self.status(&[status])
    }

    /// Expects this text in the body.
    pub(crate) fn holds(mut self, text: impl Into<String>) -> Self {
        self.holds.push(text.into());
        self
    }

    /// Expects the fault at this line and column.
    pub(crate) fn at(mut self, line: u64, column: u64) -> Self {
        self.place = Some((line, column));
        self
    }

    /// Expects these rows.
    pub(crate) fn rows(mut self, rows: Value) -> Self {
        self.rows = Some(rows);
        self
    }

    /// Expects this header in the answer.
    pub(crate) fn answers_with(mut self, name: &'static str, value: &'static str) -> Self {
        self.header = Some((name, value));
        self
    }

    /// Expects the answer within a second.
    pub(crate) fn at_once(mut self) -> Self {
        self.within = Duration::from_secs(1);
        self
    }

    /// Sends it and compares; afterwards the node has to be up.
    pub(crate) async fn check(self, http: &Http) -> Result<Seen> {
        let began = Instant::now();
        let mut request = http.request(self.method.clone(), &self.path);
        for (name, value) in &self.headers {
            request = request.header(*name, value);
        }
        let sent = http.send(request.body(self.body.clone())).await;
        let taken = began.elapsed();
        let answer = sent.context("no answer")?;
        let health = http.send(http.request(Method::GET, "/v1/health")).await;
        ensure!(
            health.context("the node is gone")?.status == 200,
            "the node is unwell"
        );
        let shown: String = answer.body.chars().take(400).collect();
        self.compare(&answer)
            .with_context(|| format!("{} {shown}", answer.status))?;
        ensure!(
            taken <= self.within,
            "answered after {taken:.1?}, not within {:?}",
            self.within
        );
        Ok(Seen {
            status: answer.status.to_string(),
            note: answer.code(),
        })
    }

    fn compare(&self, answer: &Answer) -> Result<()> {
        ensure!(
            self.status.contains(&answer.status),
            "expected status {:?}",
            self.status
        );
        ensure!(
            self.code.is_empty() || answer.code() == self.code,
            "expected code {}",
            self.code
        );
        if let Some(text) = self.holds.iter().find(|text| !answer.body.contains(*text)) {
            bail!("expected {text:?} in the body");
        }
        let json = answer.json();
        if let Some((line, column)) = self.place {
            let at = &json["position"];
            ensure!(
                at["line"] == line && at["column"] == column,
                "expected the fault at {line}:{column}"
            );
        }
        if let Some(rows) = &self.rows {
            ensure!(json["rows"] == *rows, "expected rows {rows}");
        }
        if let Some((name, value)) = self.header {
            let found = answer
                .headers
                .get(name)
                .and_then(|value| value.to_str().ok());
            ensure!(found == Some(value), "expected header {name}: {value}");
        }
        Ok(())
    }
}
