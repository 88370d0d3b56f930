//! Dice as an argument.

use std::sync::Arc;

use parking_lot::Mutex;
use rand::{Rng, RngExt, SeedableRng, rngs::StdRng};

/// Source of random numbers, shared by clones; seeded in tests, from the system otherwise.
#[derive(Clone)]
pub struct Random(Arc<Mutex<StdRng>>);

impl Random {
    /// Numbers nobody can foresee.
    pub fn from_system() -> Self {
        Self(Arc::new(Mutex::new(rand::make_rng())))
    }

    /// The same numbers for the same seed.
    pub fn seeded(seed: u64) -> Self {
        Self(Arc::new(Mutex::new(StdRng::seed_from_u64(seed))))
    }

    /// A uniformly drawn number.
    pub fn next_u64(&self) -> u64 {
        self.0.lock().next_u64()
    }

    /// A uniformly drawn number.
    pub fn next_u128(&self) -> u128 {
        self.0.lock().random()
    }

    /// A uniformly drawn number below `bound`, which is at least 1.
    pub fn below(&self, bound: u64) -> u64 {
        self.0.lock().random_range(0..bound.max(1))
    }

    /// A fresh UUIDv7 for the given wall time.
    pub fn uuid_v7(&self, now_ms: i64) -> uuid::Uuid {
        let bytes = self.next_u128().to_be_bytes();
        let mut tail = [0_u8; 10];
        tail.copy_from_slice(&bytes[..10]);
        uuid::Builder::from_unix_timestamp_millis(now_ms.max(0) as u64, &tail).into_uuid()
    }
}

impl std::fmt::Debug for Random {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Random")
    }
}
