//! Statements that run on this node, by the id under which they can be cancelled.

use std::collections::HashMap;
use std::sync::Arc;

use parking_lot::Mutex;
use tokio_util::sync::CancellationToken;

/// The statements of a node. Clones share them.
#[derive(Clone, Debug, Default)]
pub struct Running(Arc<Mutex<HashMap<String, CancellationToken>>>);

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
        let mut running = self.0.lock();
        if running.contains_key(id) {
            return None;
        }
        running.insert(id.to_owned(), cancelled.clone());
        Some(Entry {
            running: self.clone(),
            id: id.to_owned(),
            cancelled,
        })
    }

    /// Cancels a statement; says whether there was one.
    pub fn cancel(&self, id: &str) -> bool {
        match self.0.lock().get(id) {
            Some(cancelled) => {
                cancelled.cancel();
                true
            }
            None => false,
        }
    }

    /// Number of statements.
    pub fn len(&self) -> usize {
        self.0.lock().len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.0.lock().is_empty()
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
        self.running.0.lock().remove(&self.id);
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
        assert!(running.cancel("q1") && entry.cancelled().is_cancelled());
        drop(entry);
        assert!(!running.cancel("q1") && running.is_empty());
        assert!(running.enter("q1").is_some());
    }
}
