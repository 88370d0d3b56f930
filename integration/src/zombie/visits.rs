//! Requests to the one node that is to be stopped, with the patience to wait until it is woken.
//!
//! A write of these is one row, has no id and is never sent again: whatever was answered must be the
//! truth about it, and no table of ids hides that it was applied twice.
//!
//! Never here: when the node is stopped, or what writers of the load do.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use anyhow::{Context, Result};
use auxo_engine::WriteError;
use reqwest::Method;
use tokio::task::JoinSet;

use crate::http::Http;
use crate::load::{self, TABLE, Verdict};

/// What the names of visitors begin with.
const PREFIX: &str = "v";

/// How long an answer is waited for.
const PATIENCE: Duration = Duration::from_secs(180);

/// What a node said of a write.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Answer {
    /// The row is stored.
    Acked,
    /// The row is in no state, now or ever.
    Refused(u16),
    /// Nobody knows.
    Unknown(u16),
    /// The connection ended without one.
    None,
}

impl std::fmt::Display for Answer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Acked => write!(f, "204"),
            Self::Refused(status) => write!(f, "{status} refused"),
            Self::Unknown(status) => write!(f, "{status} unknown"),
            Self::None => write!(f, "none"),
        }
    }
}

/// One write of one row.
#[derive(Clone, Debug)]
pub(super) struct Visit {
    writer: String,
    n: u64,
    /// Whether the node was stopped before the answer came.
    pub(super) parked: bool,
    pub(super) answer: Answer,
}

/// Name of a visitor whose rows lie in a tablet, the first from `number` on, and its number.
pub(super) fn named(
    round: u32,
    mut number: u64,
    lies_there: impl Fn(&str) -> bool,
) -> (String, u64) {
    loop {
        let name = format!("{PREFIX}{round}-{number}");
        if lies_there(&name) {
            return (name, number);
        }
        number += 1;
    }
}

/// The visitors of one round.
pub(super) struct Visitors {
    node: Http,
    stopped: Arc<AtomicBool>,
    running: JoinSet<Vec<Visit>>,
}

impl Visitors {
    /// Nobody yet.
    pub(super) fn new(node: &Http) -> Self {
        Self {
            node: node.clone(),
            stopped: Arc::default(),
            running: JoinSet::new(),
        }
    }

    /// Lets one come, who writes rows one after another, on a connection of its own; its last one is
    /// the one that it waits for when it learns that the node was stopped.
    pub(super) fn come(&mut self, writer: String) {
        let node = Http::new(self.node.base());
        self.running
            .spawn(visit(node, writer, Arc::clone(&self.stopped)));
    }

    /// The node is stopped now.
    pub(super) fn stopped(&self) {
        self.stopped.store(true, Ordering::SeqCst);
    }

    /// What each of them was answered.
    pub(super) async fn answered(mut self) -> Result<Vec<Visit>> {
        let mut visits = Vec::new();
        while let Some(ended) = self.running.join_next().await {
            visits.extend(ended.context("a visitor")?);
        }
        Ok(visits)
    }
}

async fn visit(node: Http, writer: String, stopped: Arc<AtomicBool>) -> Vec<Visit> {
    let mut visits = Vec::new();
    for n in 0.. {
        let post = node.request(Method::POST, "/write?db=main");
        let post = post.timeout(PATIENCE).body(load::line(&writer, n));
        let answer = match node.send(post).await {
            Err(_) => Answer::None,
            Ok(answer) => match answer.status {
                204 => Answer::Acked,
                status if is_unknown(&answer.json()) => Answer::Unknown(status),
                status => Answer::Refused(status),
            },
        };
        let parked = stopped.load(Ordering::SeqCst);
        let writer = writer.clone();
        visits.push(Visit {
            writer,
            n,
            parked,
            answer,
        });
        if parked {
            break;
        }
    }
    visits
}

/// Whether an answer of `/write` leaves open what became of the rows; it says so in words only.
fn is_unknown(answer: &serde_json::Value) -> bool {
    let text = answer["error"].as_str().unwrap_or_default();
    text == WriteError::Unknown.to_string()
}

/// How many of the parked requests were answered how.
pub(super) fn counted(visits: &[Visit]) -> BTreeMap<Answer, usize> {
    let mut counts = BTreeMap::new();
    for visit in visits.iter().filter(|visit| visit.parked) {
        *counts.entry(visit.answer).or_default() += 1;
    }
    counts
}

/// Rows that were acked and are not there or stand twice, and those that are there against what was
/// said of them.
pub(super) async fn judge(visits: &[Visit], node: &Http) -> Result<(Verdict, Vec<String>)> {
    let sql = format!(
        "SELECT writer, n, count(*) FROM {TABLE} WHERE writer LIKE '{PREFIX}%' GROUP BY writer, n"
    );
    let rows = node.sql(&sql).await?;
    let mut there = HashMap::with_capacity(rows.len());
    for row in rows {
        let writer = row[0].as_str().context("name of a visitor")?.to_owned();
        let (n, count) = (row[1].as_u64(), row[2].as_u64());
        let key = (writer, n.context("number of a row")?);
        there.insert(key, count.context("count of a row")?);
    }
    Ok(compare(visits, there))
}

fn compare(visits: &[Visit], mut there: HashMap<(String, u64), u64>) -> (Verdict, Vec<String>) {
    let (mut verdict, mut broken) = (Verdict::default(), Vec::new());
    for Visit {
        writer, n, answer, ..
    } in visits
    {
        let count = there.remove(&(writer.clone(), *n)).unwrap_or(0);
        verdict.doubled += count.saturating_sub(1);
        if count > 1 {
            verdict.named.push(format!("{writer} {n}: {count} times"));
        }
        match answer {
            Answer::Acked if count == 0 => {
                verdict.lost += 1;
                verdict.named.push(format!("{writer} {n}: missing"));
            }
            Answer::Refused(_) if count > 0 => {
                broken.push(format!("{writer} {n} was refused and is there"));
            }
            _ => {}
        }
    }
    let unsent = there.into_keys();
    broken.extend(unsent.map(|(writer, n)| format!("{writer} {n} is there and was never sent")));
    (verdict, broken)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_way_of_being_wrong_is_told() {
        let visit = |n, answer| Visit {
            writer: "v1-0".to_owned(),
            n,
            parked: true,
            answer,
        };
        let visits = [
            visit(0, Answer::Acked),
            visit(1, Answer::Acked),
            visit(2, Answer::Acked),
            visit(3, Answer::Refused(503)),
            visit(4, Answer::Refused(503)),
            visit(5, Answer::Unknown(503)),
            visit(6, Answer::None),
        ];
        let counts = [(0, 1), (2, 3), (4, 1), (5, 1), (7, 1)];
        let there = counts.map(|(n, count)| (("v1-0".to_owned(), n), count));
        let (verdict, mut broken) = compare(&visits, there.into());
        broken.sort();
        assert_eq!((verdict.lost, verdict.doubled), (1, 2));
        assert_eq!(verdict.named, ["v1-0 1: missing", "v1-0 2: 3 times"]);
        assert_eq!(
            broken,
            [
                "v1-0 4 was refused and is there",
                "v1-0 7 is there and was never sent"
            ]
        );
        let counts = counted(&visits);
        assert_eq!((counts[&Answer::Acked], counts.len()), (3, 4));
    }

    #[test]
    fn the_words_for_an_unknown_outcome_are_known() {
        let said = WriteError::Unknown.to_string();
        assert!(is_unknown(&serde_json::json!({ "error": said })));
        assert!(!is_unknown(
            &serde_json::json!({ "error": "shard 7 is not led here" })
        ));
    }
}
