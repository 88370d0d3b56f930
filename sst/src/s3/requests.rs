//! How often a bucket was asked, by kind: what a bill is made of.
//!
//! Counted are calls, not what the client makes of them: repetitions are not counted, a list of several
//! pages is one, and each object that is deleted is one although a request deletes up to a thousand.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// Counters of one store; all zero for one that is no bucket. Clones share them.
#[derive(Clone, Debug, Default)]
pub struct Requests(Arc<Counters>);

#[derive(Debug, Default)]
struct Counters {
    puts: AtomicU64,
    gets: AtomicU64,
    lists: AtomicU64,
    deletes: AtomicU64,
}

/// Calls since the store was opened.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Asked {
    /// Objects written, creates among them.
    pub puts: u64,
    /// Objects read, whole or in part, or looked at.
    pub gets: u64,
    /// Lists.
    pub lists: u64,
    /// Objects deleted.
    pub deletes: u64,
}

impl Requests {
    /// What was asked so far.
    pub fn asked(&self) -> Asked {
        let count = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        Asked {
            puts: count(&self.0.puts),
            gets: count(&self.0.gets),
            lists: count(&self.0.lists),
            deletes: count(&self.0.deletes),
        }
    }

    pub(super) fn put(&self) {
        self.0.puts.fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn get(&self) {
        self.0.gets.fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn list(&self) {
        self.0.lists.fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn delete(&self) {
        self.0.deletes.fetch_add(1, Ordering::Relaxed);
    }
}
