//! Memory of statements: each has a share of its own under the node's pool for queries.
//!
//! * An operator that is refused memory spills if it can; if it cannot, the statement ends with an
//!   error that says whose limit it was.
//! * What a dropped statement held is given back by its reservations.
//! * Never here: waiting. Who exceeds is refused first, nobody queues for memory.

use std::fmt;
use std::num::NonZeroUsize;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use datafusion::common::Result;
use datafusion::error::DataFusionError;
use datafusion::execution::memory_pool::{
    FairSpillPool, MemoryConsumer, MemoryLimit, MemoryPool, MemoryReservation, TrackConsumersPool,
};

use auxo_proto::error::{ErrorCode, Failure};

/// Bytes that all statements of a node may hold together.
#[derive(Debug)]
pub(crate) struct NodePool {
    limit: usize,
    used: AtomicUsize,
}

impl NodePool {
    pub(crate) fn new(limit: usize) -> Self {
        Self {
            limit,
            used: AtomicUsize::new(0),
        }
    }

    /// Bytes held now.
    pub(crate) fn used(&self) -> usize {
        self.used.load(Ordering::Relaxed)
    }

    fn try_take(&self, bytes: usize) -> bool {
        let take = |used: usize| used.checked_add(bytes).filter(|&used| used <= self.limit);
        self.used
            .try_update(Ordering::Relaxed, Ordering::Relaxed, take)
            .is_ok()
    }

    fn take(&self, bytes: usize) {
        self.used.fetch_add(bytes, Ordering::Relaxed);
    }

    fn give(&self, bytes: usize) {
        self.used.fetch_sub(bytes, Ordering::Relaxed);
    }
}

/// Memory of one statement: shared fairly between its operators that can spill.
pub(crate) struct StatementPool {
    node: Arc<NodePool>,
    own: TrackConsumersPool<FairSpillPool>,
    limit: usize,
    peak: AtomicUsize,
}

/// Operators named in the message of a refusal.
const CONSUMERS_NAMED: NonZeroUsize = NonZeroUsize::new(3).unwrap();

impl StatementPool {
    pub(crate) fn new(node: Arc<NodePool>, limit: usize) -> Self {
        Self {
            node,
            own: TrackConsumersPool::new(FairSpillPool::new(limit), CONSUMERS_NAMED),
            limit,
            peak: AtomicUsize::new(0),
        }
    }

    /// Bytes that the statement may hold.
    pub(crate) fn limit(&self) -> usize {
        self.limit
    }

    /// Most bytes the statement has held at once.
    pub(crate) fn peak(&self) -> usize {
        self.peak.load(Ordering::Relaxed)
    }

    fn exceeded(&self) -> DataFusionError {
        let consumers = self.own.report_top(CONSUMERS_NAMED.get());
        let consumers: Vec<&str> = consumers.split_whitespace().collect();
        DataFusionError::ResourcesExhausted(format!(
            "statement needs more than its {} bytes of limits.statement_memory: {}",
            self.limit,
            consumers.join(" ").trim_end_matches(','),
        ))
    }

    fn note_peak(&self) {
        self.peak.fetch_max(self.own.reserved(), Ordering::Relaxed);
    }
}

impl fmt::Debug for StatementPool {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("StatementPool")
            .field("limit", &self.limit)
            .finish_non_exhaustive()
    }
}

impl fmt::Display for StatementPool {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "statement memory of {} bytes", self.limit)
    }
}

impl MemoryPool for StatementPool {
    fn name(&self) -> &str {
        "statement"
    }

    fn register(&self, consumer: &MemoryConsumer) {
        self.own.register(consumer);
    }

    fn unregister(&self, consumer: &MemoryConsumer) {
        self.own.unregister(consumer);
    }

    fn grow(&self, reservation: &MemoryReservation, additional: usize) {
        self.node.take(additional);
        self.own.grow(reservation, additional);
        self.note_peak();
    }

    fn shrink(&self, reservation: &MemoryReservation, shrink: usize) {
        self.own.shrink(reservation, shrink);
        self.node.give(shrink);
    }

    fn try_grow(&self, reservation: &MemoryReservation, additional: usize) -> Result<()> {
        // What is too much for the statement alone does not fit later either.
        if self.own.reserved().saturating_add(additional) > self.limit {
            return Err(self.exceeded());
        }
        if !self.node.try_take(additional) {
            let text = format!(
                "queries on this node hold {} of {} bytes (limit query memory of the node)",
                self.node.used(),
                self.node.limit
            );
            let failure = Failure::new(ErrorCode::MemoryFull, text);
            // Only this kind makes an operator spill instead of failing.
            return Err(DataFusionError::ResourcesExhausted(failure.to_string()));
        }
        match self.own.try_grow(reservation, additional) {
            Ok(()) => {
                self.note_peak();
                Ok(())
            }
            Err(_) => {
                self.node.give(additional);
                Err(self.exceeded())
            }
        }
    }

    fn reserved(&self) -> usize {
        self.own.reserved()
    }

    fn memory_limit(&self) -> MemoryLimit {
        MemoryLimit::Finite(self.limit)
    }
}
