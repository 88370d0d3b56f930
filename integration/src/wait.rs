//! Conditions with a deadline.

use std::future::Future;
use std::time::Duration;

use anyhow::{Result, bail};
use tokio::time::Instant;

/// Asks again every 20 ms until the answer is there.
///
/// * errors: names `what` and the last failure once `within` has passed.
pub async fn until<T, F: Future<Output = Result<T>>>(
    what: &str,
    within: Duration,
    mut ask: impl FnMut() -> F,
) -> Result<T> {
    let deadline = Instant::now() + within;
    loop {
        let error = match ask().await {
            Ok(found) => return Ok(found),
            Err(error) => error,
        };
        if Instant::now() > deadline {
            bail!("{what}: not within {within:?}: {error:#}");
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}
