//! A member that is started again when it has failed.
//!
//! A member whose log or state could not be written refuses everything from then on: nothing is ever
//! built upon half a change. What it has on its disk is whole, and what made it fail may pass, as a full
//! disk does; so it is stopped, and started again until that succeeds. Its clients see calls fail
//! meanwhile, as those of any member that is restarted.
//!
//! Never here: what a member does. It has no listener, which would belong to one start.

use std::time::Duration;

use tokio::sync::watch;
use tokio_util::sync::{CancellationToken, DropGuard};
use tokio_util::task::TaskTracker;

use crate::config::Config;
use crate::server::{Connections, Server, StartError, channel};

/// First and longest pause before a member is started again.
const PAUSE: (Duration, Duration) = (Duration::from_millis(500), Duration::from_secs(10));

/// A running member, or one that will run again.
pub struct Supervised {
    connections: watch::Receiver<Option<Connections>>,
    stop: DropGuard,
    tasks: TaskTracker,
}

impl Supervised {
    /// Starts a member; a new directory becomes a cluster of one.
    ///
    /// * `seed`: for ids of leases and for jitter; should differ from start to start.
    /// * returns: once it leads and has applied everything its log held.
    /// * errors: [`StartError`], for the first start alone.
    pub async fn start(config: Config, seed: u64) -> Result<Self, StartError> {
        let server = Server::start(config.clone(), None, seed).await?;
        let (current, connections) = watch::channel(Some(server.connections()));
        let stop = CancellationToken::new();
        let tasks = TaskTracker::new();
        tasks.spawn(supervise(server, config, seed, current, stop.clone()));
        Ok(Self {
            connections,
            stop: stop.drop_guard(),
            tasks,
        })
    }

    /// A way to the member that leaves no process, over all its starts; else as [`Server::channel`].
    pub fn channel(&self) -> etcd_client::Channel {
        let connections = self.connections.clone();
        channel(move || connections.borrow().clone())
    }

    /// Stops it as [`Server::stop`] does.
    pub async fn stop(self) {
        drop(self.stop);
        self.tasks.close();
        self.tasks.wait().await;
    }
}

async fn supervise(
    mut server: Server,
    config: Config,
    mut seed: u64,
    current: watch::Sender<Option<Connections>>,
    stop: CancellationToken,
) {
    loop {
        tokio::select! {
            biased;
            () = stop.cancelled() => return server.stop().await,
            () = server.failed() => {}
        }
        tracing::error!("the member has failed, and will be started again");
        current.send_replace(None);
        server.stop().await;
        let mut pause = PAUSE.0;
        server = loop {
            tokio::select! {
                biased;
                () = stop.cancelled() => return,
                () = tokio::time::sleep(pause) => {}
            }
            seed = seed.wrapping_add(1);
            match Server::start(config.clone(), None, seed).await {
                Ok(server) => break server,
                Err(error) => tracing::warn!(%error, "the member does not start yet"),
            }
            pause = (pause * 2).min(PAUSE.1);
        };
        tracing::info!("the member runs again");
        current.send_replace(Some(server.connections()));
    }
}
