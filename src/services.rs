//! The services a compute node stands on, from their URLs: the log and the object store, each
//! checked before anything is written.
//!
//! Never here: what is kept in them.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use auxo_proto::random::Random;
use auxo_sst::local_store::LocalStore;
use auxo_sst::store_check;
use auxo_wal_adapters::Wal;
use auxo_wal_adapters::local::{Disk, LocalSettings, LocalWal};
use auxo_wal_adapters::memory::{MemorySettings, MemoryWal};
use object_store::ObjectStore;
use object_store::memory::InMemory;
use tokio::time::Instant;

use crate::config::Config;

/// Longest time for the checks of a start.
const START_TIME: Duration = Duration::from_secs(30);

/// The log and the store of a process.
pub(crate) struct Services {
    /// Where writes go first.
    pub(crate) wal: Arc<dyn Wal>,
    /// The same log, if it is this process's own and has to be closed.
    pub(crate) local_wal: Option<Arc<LocalWal>>,
    /// Where files go, rooted at the cluster's prefix.
    pub(crate) store: Arc<dyn ObjectStore>,
}

impl Services {
    /// Connects to both and checks what they promise.
    ///
    /// * errors: name the key of the configuration and its URL.
    pub(crate) async fn open(config: &Config, random: &Random) -> Result<Self> {
        let (wal, local_wal) = wal(config).await?;
        let durability = wal.check().await;
        let durability = durability.with_context(|| format!("wal.url {}", config.wal.url))?;
        tracing::info!(url = %config.wal.url, ?durability, "write-ahead log");
        Ok(Self {
            wal,
            local_wal,
            store: store(config, random).await?,
        })
    }
}

/// Directory behind a `local://` URL.
fn folder(url: &str) -> Option<PathBuf> {
    url.strip_prefix("local://")
        .map(|path| Path::new(path).to_owned())
}

async fn wal(config: &Config) -> Result<(Arc<dyn Wal>, Option<Arc<LocalWal>>)> {
    let url = config.wal.url.as_str();
    let Some(folder) = folder(url) else {
        if url == "memory://" {
            return Ok((Arc::new(MemoryWal::new(MemorySettings::default())), None));
        }
        bail!("wal.url {url}: this version has local://DIR or memory://");
    };
    let opened = LocalWal::open(&folder, LocalSettings::default(), Disk::real()).await;
    let local = Arc::new(opened.with_context(|| format!("wal.url {url}"))?);
    Ok((Arc::clone(&local) as Arc<dyn Wal>, Some(local)))
}

async fn store(config: &Config, random: &Random) -> Result<Arc<dyn ObjectStore>> {
    let url = config.store.url.as_str();
    let store: Arc<dyn ObjectStore> = match folder(url) {
        Some(folder) => {
            Arc::new(LocalStore::open(&folder).with_context(|| format!("store.url {url}"))?)
        }
        None if url == "memory://" => Arc::new(InMemory::new()),
        None => bail!("store.url {url}: this version has local://DIR or memory://"),
    };
    let deadline = Instant::now() + START_TIME;
    let checked = store_check::check(&*store, random, deadline).await;
    checked.with_context(|| format!("store.url {url}"))?;
    Ok(store)
}
