//! `auxo standalone`: everything in one process.

use tokio_util::sync::CancellationToken;

use crate::config::Config;

/// Runs a node of every kind in this process until `shutdown` is cancelled.
pub(crate) async fn run(_config: Config, _shutdown: CancellationToken) -> anyhow::Result<()> {
    anyhow::bail!("not built yet")
}
