//! The model: what callers were told of each write, held against what is there.
//!
//! * P1: what was answered `Ok` is there, once, now and at every later leader.
//! * P3: what was only ever rejected is in no state, now or ever.
//! * `Unknown` may be either, but never twice.

use std::collections::BTreeMap;

use auxo_engine::{Shard, WriteError, Written};

use super::{Node, batch, row};

/// How a write ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Answer {
    Ok,
    Rejected,
    Unknown,
}

impl Answer {
    pub(crate) fn of(result: &Result<Written, WriteError>) -> Self {
        match result {
            Ok(_) => Self::Ok,
            Err(WriteError::Unknown) => Self::Unknown,
            Err(_) => Self::Rejected,
        }
    }
}

/// What callers were told of each write; the number of a write is the value of its one row.
#[derive(Clone, Debug, Default)]
pub(crate) struct Told(pub(crate) BTreeMap<i64, Vec<Answer>>);

impl Told {
    pub(crate) fn note(&mut self, write: i64, answer: Answer) {
        self.0.entry(write).or_default().push(answer);
    }

    /// Only what was acked so far.
    pub(crate) fn acked(&self) -> Self {
        let acked = self.0.iter().filter(|(_, told)| told.contains(&Answer::Ok));
        Self(acked.map(|(write, told)| (*write, told.clone())).collect())
    }

    /// Holds what any node reads, also one that was deposed, against what was rejected.
    pub(crate) fn check_nothing_rejected(
        &self,
        there: &BTreeMap<i64, usize>,
    ) -> Result<(), String> {
        for (write, answers) in &self.0 {
            let times = there.get(write).copied().unwrap_or(0);
            let only_rejected = answers.iter().all(|answer| *answer == Answer::Rejected);
            if times > 1 || only_rejected && times > 0 {
                return Err(format!(
                    "write {write} is there {times} times, told were {answers:?}"
                ));
            }
        }
        Ok(())
    }

    /// Holds what a leader reads against what callers were told.
    pub(crate) fn check(&self, there: &BTreeMap<i64, usize>) -> Result<(), String> {
        for (write, answers) in &self.0 {
            let times = there.get(write).copied().unwrap_or(0);
            let right = if answers.contains(&Answer::Ok) {
                times == 1
            } else if answers.contains(&Answer::Unknown) {
                times <= 1
            } else {
                times == 0
            };
            if !right {
                return Err(format!(
                    "write {write} is there {times} times, told were {answers:?}"
                ));
            }
        }
        Ok(())
    }
}

pub(crate) async fn write(
    shard: &Shard,
    number: i64,
    id: Option<u128>,
) -> Result<Written, WriteError> {
    let rows = [row(1, number, Some(number), None)];
    shard.write(batch(&rows, id)).await
}

/// How often each write is there.
pub(crate) async fn seen(node: &Node) -> BTreeMap<i64, usize> {
    let mut seen = BTreeMap::new();
    for (_, _, number, _) in node.read().await {
        *seen.entry(number.unwrap_or_default()).or_default() += 1;
    }
    seen
}
