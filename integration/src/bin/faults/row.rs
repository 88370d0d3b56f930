//! One row: what was broken and for how long, what clients saw, and whether what is promised held.

use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

use anyhow::Result;
use integration::load::Verdict;
use integration::told::Told;

/// Answers that are shown of each kind; the rest is counted together.
const SHOWN: usize = 4;

/// What was told by each node, by its address.
pub(crate) type ToldBy = BTreeMap<String, Told>;

/// What became of one fault.
#[derive(Debug, Default)]
pub(crate) struct Row {
    /// How long it was broken.
    pub(crate) broken: Duration,
    /// What writers were told from the break on.
    pub(crate) writes: ToldBy,
    /// What readers were told from the break on, by how they asked.
    pub(crate) reads: BTreeMap<&'static str, ToldBy>,
    /// From healing to the first ack of every writer; `None` if there was no load, or no such moment.
    pub(crate) goes_on: Option<Duration>,
    /// What became of the rows; `None` where nothing was written.
    pub(crate) verdict: Option<Verdict>,
    /// What else was seen.
    pub(crate) seen: Vec<String>,
    /// Promises that were not kept.
    pub(crate) unkept: Vec<String>,
}

impl Row {
    /// A row of something that was refused, without load.
    pub(crate) fn refused(said: &str, expected: &str) -> Self {
        let mut row = Self::default();
        let line = said.lines().find(|line| line.contains(expected));
        row.seen
            .push(format!("refused: {}", line.unwrap_or("otherwise").trim()));
        row.promise(said.contains(expected), || {
            format!("the refusal says {expected:?}")
        });
        row
    }

    /// Holds the row to a promise.
    pub(crate) fn promise(&mut self, kept: bool, promise: impl FnOnce() -> String) {
        if !kept {
            self.unkept.push(promise());
        }
    }

    /// Holds the row to something that should have come about.
    pub(crate) fn promise_done<T>(&mut self, done: &Result<T>, promise: &str) {
        if let Err(error) = done {
            self.unkept.push(format!("{promise}: {error:#}"));
        }
    }

    /// Everybody was told something clear: a success, 503 with a time to wait, or 504; but for those who
    /// asked a node that is gone.
    pub(crate) fn promise_clear(&mut self, gone: Option<&str>) {
        let mut unclear = Vec::new();
        let all = self.reads.iter().map(|(mode, told)| (*mode, told));
        for (what, told) in all.chain([("writes", &self.writes)]) {
            for (node, told) in told {
                if gone != Some(node) && told.unclear > 0 {
                    unclear.push(format!("{} of {what} at {node}", told.unclear));
                }
            }
        }
        self.promise(unclear.is_empty(), || {
            format!(
                "every answer is a success, 503 with Retry-After or 504; not so: {}",
                unclear.join(", ")
            )
        });
    }

    /// No writer waited longer for an answer.
    pub(crate) fn promise_answered(&mut self, within: Duration) {
        let longest = all(&self.writes).longest;
        self.promise(longest <= within, || {
            format!("a write is answered within {within:?}, one took {longest:.1?}")
        });
    }

    /// Every writer went on soon after healing.
    pub(crate) fn promise_going_on(&mut self, within: Duration) {
        let goes_on = self.goes_on;
        self.promise(goes_on.is_some_and(|after| after <= within), || {
            format!("every writer goes on within {within:?}")
        });
    }

    /// What readers of a kind were told, by all nodes together.
    pub(crate) fn of_reads(&self, mode: &str) -> Told {
        self.reads.get(mode).map(all).unwrap_or_default()
    }
}

/// What all nodes together told.
pub(crate) fn all(told: &ToldBy) -> Told {
    let mut together = Told::default();
    for told in told.values() {
        together.add(told);
    }
    together
}

/// The most frequent answers, and the longest wait for one.
struct Shown(Told);

impl fmt::Display for Shown {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut counts: Vec<_> = self.0.counts.iter().collect();
        counts.sort_by_key(|(_, count)| std::cmp::Reverse(**count));
        let shown = counts.iter().take(SHOWN);
        let shown: Vec<String> = shown
            .map(|(said, count)| format!("{count}× {said}"))
            .collect();
        write!(f, "{}", shown.join(", "))?;
        let rest: u64 = counts.iter().skip(SHOWN).map(|(_, count)| **count).sum();
        if rest > 0 {
            write!(f, ", {rest}× others")?;
        }
        write!(f, "; longest {:.1} s", self.0.longest.as_secs_f64())
    }
}

impl fmt::Display for Row {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if !self.broken.is_zero() {
            write!(f, "broken for {:.1} s | ", self.broken.as_secs_f64())?;
        }
        if !self.writes.is_empty() {
            write!(f, "writes: {} | ", Shown(all(&self.writes)))?;
        }
        for (mode, told) in &self.reads {
            write!(f, "{mode} reads: {} | ", Shown(all(told)))?;
        }
        for seen in &self.seen {
            write!(f, "{seen} | ")?;
        }
        if let Some(after) = self.goes_on {
            write!(f, "all writers go on after {:.1} s | ", after.as_secs_f64())?;
        }
        if let Some(Verdict { lost, doubled, .. }) = &self.verdict {
            write!(f, "lost {lost}, doubled {doubled} | ")?;
        }
        match self.unkept.is_empty() {
            true => write!(f, "as promised"),
            false => write!(f, "NOT AS PROMISED: {}", self.unkept.join("; ")),
        }
    }
}
