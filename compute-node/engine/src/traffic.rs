//! How much a shard has taken and given since it was opened.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use auxo_sst::batch::SortedBatch;

use crate::payload::{Batch, EncodedBatch, Entry};

/// Rows, and their bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Amount {
    /// Rows.
    pub rows: u64,
    /// Bytes: of records as they go to the log, of scans as they stand in memory.
    pub bytes: u64,
}

/// Clones count together.
#[derive(Clone, Debug, Default)]
pub(crate) struct Traffic(Arc<Counts>);

#[derive(Debug, Default)]
struct Counts {
    written: Count,
    read: Count,
}

#[derive(Debug, Default)]
struct Count {
    rows: AtomicU64,
    bytes: AtomicU64,
}

impl Count {
    fn add(&self, amount: Amount) {
        self.rows.fetch_add(amount.rows, Ordering::Relaxed);
        self.bytes.fetch_add(amount.bytes, Ordering::Relaxed);
    }

    fn get(&self) -> Amount {
        Amount {
            rows: self.rows.load(Ordering::Relaxed),
            bytes: self.bytes.load(Ordering::Relaxed),
        }
    }
}

impl Traffic {
    /// Takes note of rows that were acked.
    pub(crate) fn wrote(&self, amount: Amount) {
        self.0.written.add(amount);
    }

    /// Takes note of rows that a scan gave.
    pub(crate) fn gave(&self, batch: &SortedBatch) {
        let fields = batch.fields.iter().map(|field| {
            let bytes = field.to_data().get_slice_memory_size();
            // Counts of what has no size that can be told are a little short.
            bytes.unwrap_or_default()
        });
        let bytes = size_of_val(&batch.time[..]) + fields.sum::<usize>();
        self.0.read.add(Amount {
            rows: batch.rows() as u64,
            bytes: bytes as u64,
        });
    }

    /// What was acked.
    pub(crate) fn written(&self) -> Amount {
        self.0.written.get()
    }

    /// What scans gave.
    pub(crate) fn read(&self) -> Amount {
        self.0.read.get()
    }
}

/// What a batch would write.
pub(crate) fn amount(batch: &Batch, encoded: &EncodedBatch) -> Amount {
    let rows = batch.entries.iter().map(|entry| match entry {
        Entry::Rows { rows, .. } => rows.time.len() as u64,
        _ => 0,
    });
    Amount {
        rows: rows.sum(),
        bytes: encoded.encoded_bytes() as u64,
    }
}
