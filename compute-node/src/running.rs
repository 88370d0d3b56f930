//! Statements that run on this node, by the id under which they can be cancelled, and how those ended
//! that failed: whoever was given a body that looks cut can ask why.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

/// How long a failure can be asked for.
const KEPT: Duration = Duration::from_secs(600);
/// Bytes of failures that are kept; the oldest go first.
const KEPT_BYTES: usize = 1 << 20;

/// The statements of a node. Clones share them.
#[derive(Clone, Debug, Default)]
pub struct Running(Arc<Mutex<Statements>>);

#[derive(Debug, Default)]
struct Statements {
    running: HashMap<String, CancellationToken>,
    /// Whether all were told to end, so that none may begin.
    ended: bool,
    /// Oldest first.
    failed: VecDeque<Failed>,
    failed_bytes: usize,
}

#[derive(Debug)]
struct Failed {
    at: Instant,
    id: String,
    problem: Arc<str>,
}

impl Failed {
    fn bytes(&self) -> usize {
        self.id.len() + self.problem.len()
    }
}

/// What is known of a statement.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Known {
    /// It runs.
    Runs,
    /// It failed within the last ten minutes: its problem object, as JSON.
    Failed(Arc<str>),
}

/// A statement's entry; it leaves the list when dropped.
#[derive(Debug)]
pub struct Entry {
    running: Running,
    id: String,
    cancelled: CancellationToken,
}

impl Running {
    /// Lists a statement; `None` when one with that id runs already.
    pub fn enter(&self, id: &str) -> Option<Entry> {
        let cancelled = CancellationToken::new();
        let statements = &mut *self.0.lock();
        if statements.running.contains_key(id) {
            return None;
        }
        if statements.ended {
            cancelled.cancel();
        }
        statements.running.insert(id.to_owned(), cancelled.clone());
        Some(Entry {
            running: self.clone(),
            id: id.to_owned(),
            cancelled,
        })
    }

    /// Cancels a statement; says whether there was one.
    pub fn cancel(&self, id: &str) -> bool {
        match self.0.lock().running.get(id) {
            Some(cancelled) => {
                cancelled.cancel();
                true
            }
            None => false,
        }
    }

    /// Cancels every statement, and every one that comes later: the node stops.
    pub fn end(&self) {
        let statements = &mut *self.0.lock();
        statements.ended = true;
        statements
            .running
            .values()
            .for_each(CancellationToken::cancel);
    }

    /// Whether statements are cancelled because the node stops.
    pub fn ended(&self) -> bool {
        self.0.lock().ended
    }

    /// Keeps for a while why a statement failed.
    ///
    /// * `problem`: its problem object, as JSON.
    pub fn failed(&self, id: &str, problem: String, now: Instant) {
        let failed = Failed {
            at: now,
            id: id.to_owned(),
            problem: problem.into(),
        };
        let statements = &mut *self.0.lock();
        statements.failed_bytes += failed.bytes();
        statements.failed.push_back(failed);
        while let Some(oldest) = statements.failed.front() {
            if now - oldest.at < KEPT && statements.failed_bytes <= KEPT_BYTES {
                return;
            }
            statements.failed_bytes -= oldest.bytes();
            statements.failed.pop_front();
        }
    }

    /// What is known of a statement; `None` also for one that ended well.
    pub fn known(&self, id: &str, now: Instant) -> Option<Known> {
        let statements = self.0.lock();
        if statements.running.contains_key(id) {
            return Some(Known::Runs);
        }
        let mut newest_first = statements.failed.iter().rev();
        let failed = newest_first.find(|failed| failed.id == id)?;
        (now - failed.at < KEPT).then(|| Known::Failed(Arc::clone(&failed.problem)))
    }

    /// Number of statements that run.
    pub fn len(&self) -> usize {
        self.0.lock().running.len()
    }

    /// Whether none runs.
    pub fn is_empty(&self) -> bool {
        self.0.lock().running.is_empty()
    }
}

impl Entry {
    /// Ends when somebody cancels the statement.
    pub fn cancelled(&self) -> CancellationToken {
        self.cancelled.clone()
    }
}

impl Drop for Entry {
    fn drop(&mut self) {
        self.running.0.lock().running.remove(&self.id);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_statement_is_listed_once_and_only_while_it_runs() {
        let running = Running::default();
        let entry = running.enter("q1").expect("new");
        assert!(running.enter("q1").is_none());
        let now = Instant::now();
        assert_eq!(running.known("q1", now), Some(Known::Runs));
        assert!(running.cancel("q1") && entry.cancelled().is_cancelled());
        drop(entry);
        assert!(!running.cancel("q1") && running.is_empty());
        assert_eq!(running.known("q1", now), None);
        assert!(running.enter("q1").is_some());
    }

    #[test]
    fn at_the_end_nothing_runs_on_and_nothing_begins() {
        let running = Running::default();
        let entry = running.enter("q1").expect("new");
        assert!(!running.ended() && !entry.cancelled().is_cancelled());
        running.end();
        let late = running.enter("q2").expect("new");
        assert!(running.ended() && entry.cancelled().is_cancelled());
        assert!(late.cancelled().is_cancelled());
    }

    #[test]
    fn the_newest_failure_of_an_id_is_kept_for_ten_minutes() {
        let (running, began) = (Running::default(), Instant::now());
        running.failed("q1", "first".to_owned(), began);
        running.failed("q1", "second".to_owned(), began);
        let second = Known::Failed("second".into());
        assert_eq!(running.known("q1", began), Some(second));
        assert_eq!(running.known("q1", began + KEPT), None);
        running.failed("q2", "third".to_owned(), began + KEPT);
        assert_eq!(running.0.lock().failed.len(), 1);
    }

    #[test]
    fn failures_take_no_more_than_their_bytes() {
        let (running, now) = (Running::default(), Instant::now());
        for number in 0..20 {
            running.failed(&format!("q{number:02}"), "x".repeat(100 << 10), now);
        }
        assert_eq!(running.known("q00", now), None);
        assert!(matches!(running.known("q19", now), Some(Known::Failed(_))));
        let kept = &running.0.lock();
        assert!(kept.failed_bytes <= KEPT_BYTES);
        let bytes: usize = kept.failed.iter().map(Failed::bytes).sum();
        assert_eq!((bytes, kept.failed.len()), (kept.failed_bytes, 10));
    }
}
