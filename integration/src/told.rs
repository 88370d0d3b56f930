//! What clients were told, counted: by status and words, with the longest wait for an answer.
//!
//! Never here: whether that was right.

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::Result;
use parking_lot::Mutex;

use crate::http::{Answer, Http};

/// Letters of what an answer says by which answers are counted.
const SAID_CHARS: usize = 70;

/// What clients were told.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Told {
    /// How often each answer came, by its status and what it says, with `#` for numbers.
    pub counts: BTreeMap<String, u64>,
    /// Answers that were none, or neither a success nor 503 with a time to wait nor 504.
    pub unclear: u64,
    /// Longest wait for an answer, whatever it was.
    pub longest: Duration,
}

impl Told {
    /// Takes note of an answer, or of its failing to come, after that time.
    pub fn note(&mut self, answer: &Result<Answer>, after: Duration) {
        let (said, clear) = match answer {
            Ok(answer) => {
                let clear = match answer.status {
                    200..300 | 504 => true,
                    503 => answer.retry_after_s.is_some(),
                    _ => false,
                };
                let said = without_numbers(&answer.said());
                (format!("{} {said}", answer.status), clear)
            }
            Err(error) => (no_answer(error).to_owned(), false),
        };
        let said = said.chars().take(SAID_CHARS).collect::<String>();
        *self.counts.entry(said.trim_end().to_owned()).or_default() += 1;
        self.unclear += u64::from(!clear);
        self.longest = self.longest.max(after);
    }

    /// Takes over what others were told.
    pub fn add(&mut self, other: &Self) {
        for (said, count) in &other.counts {
            *self.counts.entry(said.clone()).or_default() += count;
        }
        self.unclear += other.unclear;
        self.longest = self.longest.max(other.longest);
    }

    /// The answers that were not a success.
    pub fn failures(&self) -> BTreeMap<String, u64> {
        let mut failures = self.counts.clone();
        failures.retain(|said, _| !said.starts_with('2'));
        failures
    }

    /// How many of the answers were not a success.
    pub fn failed(&self) -> u64 {
        self.failures().values().sum()
    }

    /// How many of the answers were a success.
    pub fn succeeded(&self) -> u64 {
        self.counts.values().sum::<u64>() - self.failed()
    }
}

fn without_numbers(said: &str) -> String {
    let mut without = String::new();
    for letter in said.chars() {
        match letter.is_ascii_digit() {
            true if without.ends_with('#') => {}
            true => without.push('#'),
            false => without.push(letter),
        }
    }
    without
}

/// Why there was no answer.
fn no_answer(error: &anyhow::Error) -> &'static str {
    match error.downcast_ref::<reqwest::Error>() {
        Some(error) if error.is_connect() => "no connection",
        Some(error) if error.is_timeout() => "no answer in time",
        _ => "broken connection",
    }
}

/// What was told by each node, by its address.
#[derive(Debug, Default)]
pub struct ByNode(Mutex<BTreeMap<String, Told>>);

impl ByNode {
    /// Takes note of what a node answered after that time.
    pub fn note(&self, node: &Http, answer: &Result<Answer>, after: Duration) {
        let mut nodes = self.0.lock();
        let told = nodes.entry(node.base().to_owned()).or_default();
        told.note(answer, after);
    }

    /// All that was noted since it was last forgotten.
    pub fn all(&self) -> BTreeMap<String, Told> {
        self.0.lock().clone()
    }

    /// Forgets what was noted.
    pub fn forget(&self) {
        self.0.lock().clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answer(status: u16, retry_after_s: Option<u64>, body: &str) -> Result<Answer> {
        Ok(Answer {
            status,
            retry_after_s,
            headers: Default::default(),
            body: body.to_owned(),
        })
    }

    #[test]
    fn answers_are_counted_by_what_they_say_and_unclear_ones_are_seen() {
        let mut told = Told::default();
        let ms = Duration::from_millis;
        told.note(&answer(204, None, ""), ms(1));
        let refused = r#"{"error":"shard 12 is not led here"}"#;
        told.note(&answer(503, Some(1), refused), ms(7));
        told.note(&answer(503, Some(1), &refused.replace("12", "3")), ms(2));
        told.note(&answer(504, None, r#"{"code":"TIMEOUT"}"#), ms(2));
        assert_eq!((told.unclear, told.succeeded(), told.failed()), (0, 1, 3));
        assert_eq!(told.counts["503 shard # is not led here"], 2);
        assert_eq!((told.counts["504 TIMEOUT"], told.longest), (1, ms(7)));
        for unclear in [
            answer(503, None, refused),
            answer(500, None, "{}"),
            Err(anyhow::anyhow!("reset")),
        ] {
            let before = told.unclear;
            told.note(&unclear, ms(1));
            assert_eq!(told.unclear, before + 1);
        }
    }
}
