//! A member as its clients see it: everything here goes through `etcd-client` over an in-process
//! connection, as the meta service's calls do.

mod election;
mod kv;
mod lease;
mod restart;
mod tcp;
mod watch;

use std::path::Path;
use std::time::Duration;

use auxo_etcd::{Config, Server, StartError};
use etcd_client::Client;
use tempfile::TempDir;

/// How long anything here may take.
const PATIENCE: Duration = Duration::from_secs(20);

/// A member in a directory of its own.
struct Member {
    server: Server,
    dir: TempDir,
}

impl Member {
    async fn start() -> Self {
        let dir = tempfile::tempdir().expect("a directory");
        let server = start_in(dir.path()).await;
        Self { server, dir }
    }

    async fn client(&self) -> Client {
        client(&self.server).await
    }
}

async fn client(server: &Server) -> Client {
    Client::from_channel(server.channel(), None)
        .await
        .expect("a client")
}

fn config(dir: &Path) -> Config {
    Config {
        data_dir: dir.to_owned(),
        ..Config::default()
    }
}

/// Starts a member; waits for one that was dropped before to give the directory back.
async fn start_in(dir: &Path) -> Server {
    start_with(config(dir)).await
}

async fn start_with(config: Config) -> Server {
    let deadline = tokio::time::Instant::now() + PATIENCE;
    loop {
        match Server::start(config.clone(), None, 7).await {
            Ok(server) => return server,
            Err(StartError::Locked { .. }) if tokio::time::Instant::now() < deadline => {
                tokio::task::yield_now().await;
            }
            Err(error) => panic!("cannot start: {error}"),
        }
    }
}

/// The text of a refused call.
fn refused<T: std::fmt::Debug>(result: Result<T, etcd_client::Error>) -> String {
    match result.expect_err("a refusal") {
        etcd_client::Error::GRpcStatus(status) => {
            format!("{:?}: {}", status.code(), status.message())
        }
        other => panic!("not a status: {other}"),
    }
}

/// Waits for what a future gives, but not for ever.
async fn soon<T>(future: impl Future<Output = T>) -> T {
    tokio::time::timeout(PATIENCE, future)
        .await
        .expect("in time")
}
