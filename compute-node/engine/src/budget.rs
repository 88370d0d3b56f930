//! Memory that rows may take before writers are told to wait.
//!
//! One counter per node; shards add what they apply and take off what they flush. Below the flush
//! line nothing happens, above it the shard with most bytes is flushed, above the refuse line
//! writes get a retryable error. Nothing here blocks.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

/// Bytes of memtables on this node, against their share of the memory budget.
#[derive(Clone, Debug)]
pub struct MemtableBudget(Arc<Counters>);

#[derive(Debug)]
struct Counters {
    limit: usize,
    used: AtomicUsize,
    requests_limit: usize,
    requests: AtomicUsize,
}

/// Bytes of one request in flight; given back when dropped.
#[derive(Debug)]
pub struct RequestPermit {
    budget: MemtableBudget,
    bytes: usize,
}

impl Drop for RequestPermit {
    fn drop(&mut self) {
        self.budget
            .0
            .requests
            .fetch_sub(self.bytes, Ordering::Relaxed);
    }
}

impl MemtableBudget {
    /// * `limit`: bytes that memtables may take; `requests_limit`: bytes of requests in flight.
    pub fn new(limit: usize, requests_limit: usize) -> Self {
        Self(Arc::new(Counters {
            limit: limit.max(1),
            used: AtomicUsize::new(0),
            requests_limit: requests_limit.max(1),
            requests: AtomicUsize::new(0),
        }))
    }

    /// Takes room for a request, `None` when there is none or memtables are above nine tenths.
    pub fn admit(&self, bytes: usize) -> Option<RequestPermit> {
        if self.used() > self.0.limit / 10 * 9 {
            return None;
        }
        let before = self.0.requests.fetch_add(bytes, Ordering::Relaxed);
        let permit = RequestPermit {
            budget: self.clone(),
            bytes,
        };
        (before == 0 || before + bytes <= self.0.requests_limit).then_some(permit)
    }

    /// Whether the largest shard should be flushed: above seven tenths.
    pub fn wants_flush(&self) -> bool {
        self.used() > self.0.limit / 10 * 7
    }

    /// Bytes that memtables hold now.
    pub fn used(&self) -> usize {
        self.0.used.load(Ordering::Relaxed)
    }

    /// Bytes of requests in flight now.
    pub fn requests(&self) -> usize {
        self.0.requests.load(Ordering::Relaxed)
    }

    /// Bytes that memtables may hold.
    pub fn limit(&self) -> usize {
        self.0.limit
    }

    pub(crate) fn add(&self, bytes: usize) {
        self.0.used.fetch_add(bytes, Ordering::Relaxed);
    }

    pub(crate) fn sub(&self, bytes: usize) {
        self.0.used.fetch_sub(bytes, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn refuses_above_the_lines_and_gives_back() {
        let budget = MemtableBudget::new(100, 50);
        let first = budget.admit(40).expect("room");
        assert!(budget.admit(20).is_none(), "40 + 20 > 50");
        drop(first);
        assert!(
            budget.admit(500).is_some(),
            "one request alone may be larger than the pool"
        );
        budget.add(71);
        assert!(budget.wants_flush());
        assert!(budget.admit(1).is_some());
        budget.add(20);
        assert!(budget.admit(1).is_none(), "above nine tenths");
        budget.sub(91);
        assert!(!budget.wants_flush());
        assert!(budget.admit(50).is_some());
    }
}
