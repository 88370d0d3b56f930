//! Wall time as an argument.

use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

/// Wall clock handed to whatever needs one: TTL, default timestamps, audit, delays.
///
/// No clock ever makes an ack, a commit, a truncation or a deletion allowed; it may only delay.
/// Monotonic time is `tokio::time`, which a test can hold still.
#[derive(Clone)]
pub struct Clock(Arc<dyn Fn() -> i64 + Send + Sync>);

impl Clock {
    /// The machine's clock.
    pub fn system() -> Self {
        #[allow(
            clippy::disallowed_methods,
            reason = "the one place that reads the machine's clock"
        )]
        Self(Arc::new(|| {
            match SystemTime::now().duration_since(UNIX_EPOCH) {
                Ok(since) => since.as_nanos() as i64,
                Err(before) => -(before.duration().as_nanos() as i64),
            }
        }))
    }

    /// A clock that shows what `read` returns, in nanoseconds since 1970.
    pub fn from_fn(read: impl Fn() -> i64 + Send + Sync + 'static) -> Self {
        Self(Arc::new(read))
    }

    /// Nanoseconds since 1970-01-01T00:00:00Z.
    pub fn now_ns(&self) -> i64 {
        (self.0)()
    }

    /// Milliseconds since 1970-01-01T00:00:00Z.
    pub fn now_ms(&self) -> i64 {
        self.now_ns().div_euclid(1_000_000)
    }
}

impl std::fmt::Debug for Clock {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Clock")
    }
}
