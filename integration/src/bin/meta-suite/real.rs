//! A real etcd as an engine of the suite: one member as a process.

use async_trait::async_trait;
use auxo_meta_service::conformance::{Engine, Etcd};
use integration::servers::etcd;

/// Starts a process for each case.
pub(crate) struct Real;

#[async_trait]
impl Engine for Real {
    fn name(&self) -> &'static str {
        "etcd"
    }

    async fn make(&self) -> Result<Box<dyn Etcd>, String> {
        let etcd = etcd::Etcd::start(1).await.map_err(text)?;
        Ok(Box::new(Member(etcd)))
    }
}

struct Member(etcd::Etcd);

#[async_trait]
impl Etcd for Member {
    fn endpoint(&self) -> String {
        self.0.endpoints().concat()
    }

    async fn stop(&mut self) -> Result<(), String> {
        self.0.stop().await.map_err(text)
    }

    async fn start(&mut self) -> Result<(), String> {
        self.0.restart(0).map_err(text)?;
        self.0.ready().await.map_err(text)
    }
}

fn text(error: anyhow::Error) -> String {
    format!("{error:#}")
}
