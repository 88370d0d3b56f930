//! Sending batches of line protocol until each is durable or certainly refused.
//!
//! 1. A batch gets an id once, and keeps it over every attempt: a node that has it already
//!    acknowledges it again and stores nothing twice.
//! 2. Refusals that pass (429, 502, 503, 504) and lost connections are tried again with growing,
//!    spread delays, never earlier than the node asked, until the patience ends.
//! 3. A batch above a node's limit is halved, each half with an id of its own; its rows are
//!    certainly not stored when that happens.
//! 4. Whatever cannot be sent ends as an error that says what became of it: `unknown` if any
//!    attempt may have reached the log.

use std::time::Duration;

use auxo_proto::error::Outcome;
use bytes::Bytes;
use reqwest::{Method, header};
use tokio::time::Instant;
use uuid::Uuid;

use crate::endpoint::{Client, read_whole};
use crate::lines::{Cut, CutAt, Cutter, Lines};
use crate::retry::Patience;
use crate::{Error, Refusal, RejectedLine};

/// Of the doors that take line protocol, the one that names the lines it refuses.
const DOOR: [&str; 3] = ["api", "v3", "write_lp"];

/// Unit of the timestamps in a batch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Precision {
    /// 10⁻⁹ s
    Nanoseconds,
    /// 10⁻⁶ s
    Microseconds,
    /// 10⁻³ s
    Milliseconds,
    /// 1 s
    Seconds,
}

impl Precision {
    /// The word of the `precision` argument.
    pub fn name(self) -> &'static str {
        match self {
            Self::Nanoseconds => "nanosecond",
            Self::Microseconds => "microsecond",
            Self::Milliseconds => "millisecond",
            Self::Seconds => "second",
        }
    }
}

/// How batches are sent.
#[derive(Clone, Copy, Debug)]
pub struct Sending {
    /// Unit of the timestamps.
    pub precision: Precision,
    /// How long and how often to try.
    pub patience: Patience,
}

/// What became of a batch that was answered.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Written {
    /// Rows that are durable.
    pub rows: u64,
    /// Rows that were refused and never will be stored.
    pub rejected_rows: u64,
    /// The refused lines the node named, numbered as in the source; may be fewer.
    pub rejected: Vec<RejectedLine>,
    /// The node's sentence about the refused lines; empty if there are none.
    pub reason: String,
    /// Attempts beyond the first.
    pub retries: u64,
}

impl Written {
    /// Counts a part of which some lines were refused and the others stored.
    fn add_partial(&mut self, part: &Lines, refusal: Refusal) {
        let rejected = refusal.rejected_count.min(part.rows);
        self.rows += part.rows - rejected;
        self.rejected_rows += rejected;
        self.reason = refusal.detail;
        for mut line in refusal.rejected {
            line.line += part.first_line - 1;
            self.rejected.push(line);
        }
    }
}

/// A batch that was given up, wholly or in part.
#[derive(Debug, thiserror::Error)]
#[error("{error}")]
pub struct Undelivered {
    /// The last failure.
    pub error: Error,
    /// What became of the rows that are not in `written`.
    pub outcome: Outcome,
    /// What had been stored of it: halves that were answered before one failed.
    pub written: Written,
}

impl Client {
    /// Sends lines to this client's database, again and again where that may help.
    ///
    /// * shape: any number of whole lines; a node's own limit halves them where needed.
    /// * returns: once every line is durable or refused.
    /// * errors: `Undelivered`; with outcome `Unknown` the lines may be stored, and sending them
    ///   again by another call is harmless only for tables that replace rows of the same key.
    /// * effects: dropping the future leaves the batch as after an `Unknown`.
    pub async fn write(&self, lines: &Lines, sending: &Sending) -> Result<Written, Undelivered> {
        let mut written = Written::default();
        // Later parts lie deeper, so that rows go out in the order they came.
        let mut parts = vec![lines.clone()];
        while let Some(part) = parts.pop() {
            let Err((error, outcome)) = self.deliver(&part, sending, &mut written).await else {
                continue;
            };
            match &error {
                Error::Refused(refusal)
                    if refusal.status == 413 && part.rows > 1 && outcome == Outcome::Rejected =>
                {
                    tracing::debug!(rows = part.rows, "batch is above the node's limit: halved");
                    parts.extend(halves(&part).into_iter().rev());
                }
                _ => {
                    return Err(Undelivered {
                        error,
                        outcome,
                        written,
                    });
                }
            }
        }
        Ok(written)
    }

    /// Sends one part under one id until it is answered or the patience ends.
    async fn deliver(
        &self,
        part: &Lines,
        sending: &Sending,
        written: &mut Written,
    ) -> Result<(), (Error, Outcome)> {
        let id = self.fresh_id();
        let began = Instant::now();
        let mut tried = 0;
        // A certain refusal says nothing about an earlier attempt that got no answer.
        let mut outcome = Outcome::Rejected;
        loop {
            tried += 1;
            let error = match self.attempt(&part.text, sending.precision, id).await {
                Ok(()) => {
                    written.rows += part.rows;
                    return Ok(());
                }
                Err(Error::Refused(refusal)) if refused_lines_only(&refusal) => {
                    written.add_partial(part, *refusal);
                    return Ok(());
                }
                Err(error) => error,
            };
            if error.outcome() != Outcome::Rejected {
                outcome = Outcome::Unknown;
            }
            if !error.retryable() {
                return Err((error, outcome));
            }
            let random = &self.settings.random;
            let asked = error.retry_after();
            let waited = began.elapsed();
            let Some(wait) = sending.patience.wait(tried, waited, asked, random) else {
                return Err((error, outcome));
            };
            tracing::debug!(%id, tried, ?wait, %error, "batch will be sent again");
            written.retries += 1;
            tokio::time::sleep(wait).await;
        }
    }

    /// Sends once.
    async fn attempt(&self, text: &Bytes, precision: Precision, id: Uuid) -> Result<(), Error> {
        let limit = self.settings.request_timeout;
        let request = self
            .request(Method::POST, &DOOR)
            .query(&[
                ("db", self.database()),
                ("precision", precision.name()),
                ("accept_partial", "true"),
            ])
            .header("idempotency-key", id.to_string())
            .header(header::CONTENT_TYPE, "text/plain; charset=utf-8")
            .body(text.clone());
        let response = self.send(request, limit).await?;
        // The status is the acknowledgement; the body is read so that the connection can be used
        // again, and what is wrong with it does not matter.
        let body = read_whole(response, self.settings.idle_timeout);
        let _ = tokio::time::timeout(Duration::from_secs(1), body).await;
        Ok(())
    }
}

/// The good lines are stored, the bad ones never will be: an answer, not a failure.
fn refused_lines_only(refusal: &Refusal) -> bool {
    refusal.certain_outcome() == Outcome::Partial && !refusal.retryable
}

/// Two parts of about the same number of rows, in order; a part that cannot be cut stays one.
fn halves(part: &Lines) -> Vec<Lines> {
    let mut cutter = Cutter::new(CutAt {
        rows: part.rows.div_ceil(2),
        bytes: usize::MAX,
        line_bytes: part.text.len(),
    });
    cutter.push(&part.text);
    let mut found = Vec::new();
    while let Some(cut) = cutter.rest() {
        if let Cut::Batch(mut half) = cut {
            half.first_line += part.first_line - 1;
            found.push(half);
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lines(text: &str, rows: u64, first_line: u64) -> Lines {
        Lines {
            text: Bytes::copy_from_slice(text.as_bytes()),
            rows,
            first_line,
        }
    }

    #[test]
    fn halves_keep_order_and_line_numbers() {
        let part = lines("a f=1\n# c\nb f=1\nc f=1\n", 3, 11);
        assert_eq!(
            halves(&part),
            [lines("a f=1\n# c\nb f=1\n", 2, 11), lines("c f=1\n", 1, 14)]
        );
    }
}
