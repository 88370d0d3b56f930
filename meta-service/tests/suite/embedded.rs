//! The embedded etcd as an engine of the suite, reached over the loopback as any etcd.

use std::net::SocketAddr;

use async_trait::async_trait;
use auxo_etcd::{Config, Server};
use auxo_meta_service::conformance::{Engine, Etcd};
use auxo_proto::random::Random;
use tempfile::TempDir;
use tokio::net::TcpListener;

/// Makes servers of one member in this process.
pub(crate) struct Embedded;

#[async_trait]
impl Engine for Embedded {
    fn name(&self) -> &'static str {
        "embedded"
    }

    async fn make(&self) -> Result<Box<dyn Etcd>, String> {
        let listener = TcpListener::bind("127.0.0.1:0").await.map_err(text)?;
        let mut member = Member {
            directory: tempfile::tempdir().map_err(text)?,
            address: listener.local_addr().map_err(text)?,
            server: None,
        };
        member.serve(listener).await?;
        Ok(Box::new(member))
    }
}

struct Member {
    directory: TempDir,
    address: SocketAddr,
    server: Option<Server>,
}

impl Member {
    async fn serve(&mut self, listener: TcpListener) -> Result<(), String> {
        let config = Config {
            data_dir: self.directory.path().to_owned(),
            ..Config::default()
        };
        let seed = Random::from_system().next_u64();
        let server = Server::start(config, Some(listener), seed).await;
        self.server = Some(server.map_err(text)?);
        Ok(())
    }
}

#[async_trait]
impl Etcd for Member {
    fn endpoint(&self) -> String {
        format!("http://{}", self.address)
    }

    async fn stop(&mut self) -> Result<(), String> {
        if let Some(server) = self.server.take() {
            server.stop().await;
        }
        Ok(())
    }

    async fn start(&mut self) -> Result<(), String> {
        let listener = TcpListener::bind(self.address).await.map_err(text)?;
        self.serve(listener).await
    }
}

fn text(error: impl std::fmt::Display) -> String {
    error.to_string()
}
