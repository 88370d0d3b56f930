//! Rows that are overwritten and deleted over and over, in a table that keeps the last row of a key.
//!
//! One rewriter owns the rows of one tag and makes one change at a time: some rows of any age, or a
//! DELETE of a range of times. Each is sent under an id of its own until it is acked, so that what has to
//! be there afterwards is known row by row. Times lie hours apart: changes reach old files all the time.
//!
//! Never here: rows that are only added (`load`).

use std::collections::BTreeMap;
use std::ops::Range;

use anyhow::{Context, Result};
use auxo_proto::random::Random;
use reqwest::{Method, RequestBuilder};

use super::Verdict;
use crate::http::Http;

/// The table.
pub(super) const TABLE: &str = "rewritten";

/// Rows of a rewriter, counted by time from [`FIRST_NS`] on.
const SLOTS: u64 = 64;
const FIRST_NS: i64 = 1_700_000_000_000_000_000;
const STEP_NS: i64 = 6 * 3_600 * 1_000_000_000;

/// One change in so many is a DELETE.
const DELETES: u64 = 4;

/// Name of a rewriter, which is the tag of its rows.
pub(super) fn name(number: usize) -> String {
    format!("x{number}")
}

/// What one rewriter has been acked.
#[derive(Debug, Default)]
pub(super) struct Rewritten {
    rows: BTreeMap<u64, u64>,
    /// The newest value, acked or not; none is used twice.
    last: u64,
    pub(super) changes: u64,
    pub(super) deletes: u64,
}

/// Something to be done to the rows of a rewriter.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Change {
    Rows(BTreeMap<u64, u64>),
    Delete(Range<u64>),
}

impl Rewritten {
    /// The next change.
    pub(super) fn draw(&mut self, dice: &Random) -> Change {
        if dice.below(DELETES) == 0 {
            let first = dice.below(SLOTS);
            return Change::Delete(first..first + 1 + dice.below(SLOTS / 4));
        }
        let count = 1 + dice.below(20);
        let slots = (0..count).map(|_| dice.below(SLOTS));
        let rows = slots.zip(self.last + 1..).collect();
        self.last += count;
        Change::Rows(rows)
    }

    /// The change is acked.
    pub(super) fn acked(&mut self, change: Change) {
        self.changes += 1;
        match change {
            Change::Rows(rows) => self.rows.extend(rows),
            Change::Delete(slots) => {
                self.rows.retain(|slot, _| !slots.contains(slot));
                self.deletes += 1;
            }
        }
    }

    /// The rows that have to be there: values by slot.
    pub(super) fn rows(&self) -> BTreeMap<u64, u64> {
        self.rows.clone()
    }
}

/// Compares the rows that a rewriter should have with those that a node has.
pub(super) async fn judge(name: &str, wanted: &BTreeMap<u64, u64>, node: &Http) -> Result<Verdict> {
    let sql = format!("SELECT CAST(ts AS BIGINT), n FROM {TABLE} WHERE writer = '{name}'");
    let mut found = Vec::new();
    for row in node.sql(&sql).await? {
        let ts = row[0].as_i64().context("time of a row")?;
        let slot = (ts - FIRST_NS) / STEP_NS;
        let slot = u64::try_from(slot).with_context(|| format!("{name}: time {ts}"))?;
        found.push((slot, row[1].as_u64().context("value of a row")?));
    }
    Ok(compare(name, wanted, found))
}

fn compare(name: &str, wanted: &BTreeMap<u64, u64>, found: Vec<(u64, u64)>) -> Verdict {
    let (mut verdict, mut missing) = (Verdict::default(), wanted.clone());
    for (slot, value) in found {
        if missing.get(&slot) == Some(&value) {
            missing.remove(&slot);
            continue;
        }
        verdict.doubled += 1;
        let wanted = wanted.get(&slot);
        let named = format!("{name} slot {slot}: {value} is there, {wanted:?} should be");
        verdict.named.push(named);
    }
    verdict.lost = missing.len() as u64;
    let missing = missing.into_iter();
    let missing = missing.map(|(slot, value)| format!("{name} slot {slot}: {value} is missing"));
    verdict.named.extend(missing);
    verdict
}

impl Change {
    /// The request that makes it.
    pub(super) fn ask(&self, name: &str, node: &Http) -> RequestBuilder {
        let ts = |slot: u64| FIRST_NS + slot as i64 * STEP_NS;
        match self {
            Self::Rows(rows) => {
                let lines = rows.iter();
                let lines =
                    lines.map(|(slot, n)| format!("{TABLE},writer={name} n={n}i {}\n", ts(*slot)));
                let post = node.request(Method::POST, "/write?db=main");
                post.body(lines.collect::<String>())
            }
            Self::Delete(slots) => {
                let (from, to) = (ts(slots.start), ts(slots.end));
                let sql = format!(
                    "DELETE FROM {TABLE} WHERE writer = '{name}' \
                     AND ts >= to_timestamp_nanos({from}) AND ts < to_timestamp_nanos({to})"
                );
                node.request(Method::POST, "/v1/sql").body(sql)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_missing_and_what_is_back_are_told_apart() {
        let mut rewritten = Rewritten::default();
        rewritten.acked(Change::Rows([(1, 10), (2, 11), (3, 12)].into()));
        rewritten.acked(Change::Delete(2..3));
        rewritten.acked(Change::Rows([(1, 13)].into()));
        let right = vec![(3, 12), (1, 13)];
        assert_eq!(compare("x0", &rewritten.rows, right), Verdict::default());
        // An old value in the place of a new one, a deleted row, one of two copies.
        let wrong = vec![(1, 10), (2, 11), (3, 12), (3, 12)];
        let verdict = compare("x0", &rewritten.rows, wrong);
        assert_eq!((verdict.lost, verdict.doubled), (1, 3));
        assert_eq!(verdict.named.len(), 4, "{:?}", verdict.named);
        assert_eq!((rewritten.changes, rewritten.deletes), (3, 1));
    }

    #[test]
    fn values_are_never_used_twice() {
        let (dice, mut rewritten) = (Random::seeded(1), Rewritten::default());
        let mut seen = std::collections::BTreeSet::new();
        let mut deletes = 0;
        for _ in 0..200 {
            match rewritten.draw(&dice) {
                Change::Rows(rows) => assert!(rows.values().all(|value| seen.insert(*value))),
                Change::Delete(slots) => deletes += u32::from(!slots.is_empty()),
            }
        }
        assert!((20..100).contains(&deletes), "{deletes}");
    }
}
