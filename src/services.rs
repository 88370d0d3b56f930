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
use auxo_wal_adapters::kafka::{KafkaSettings, KafkaWal};
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
    /// The same log, to be closed.
    pub(crate) closing: Closing,
    /// Where files go, rooted at the cluster's prefix.
    pub(crate) store: Arc<dyn ObjectStore>,
}

impl Services {
    /// Connects to both and checks what they promise.
    ///
    /// * errors: name the key of the configuration and its URL.
    pub(crate) async fn open(config: &Config, random: &Random) -> Result<Self> {
        let (wal, closing) = wal(config, random).await?;
        let durability = wal.check().await;
        let durability = durability.with_context(|| format!("wal.url {}", config.wal.url))?;
        tracing::info!(url = %config.wal.url, ?durability, "write-ahead log");
        Ok(Self {
            wal,
            closing,
            store: store(config, random).await?,
        })
    }
}

/// A log that has something to give back when nothing writes to it any more.
pub(crate) enum Closing {
    /// It ends with the process.
    Memory,
    /// Its files are let go.
    Local(Arc<LocalWal>),
    /// Its clients are ended.
    Kafka(Arc<KafkaWal>),
}

impl Closing {
    /// Closes the log.
    pub(crate) async fn close(self) -> Result<()> {
        match self {
            Self::Memory => {}
            Self::Local(wal) => wal.close().await?,
            Self::Kafka(wal) => wal.close().await?,
        }
        Ok(())
    }
}

/// Directory behind a `local://` URL.
fn folder(url: &str) -> Option<PathBuf> {
    url.strip_prefix("local://")
        .map(|path| Path::new(path).to_owned())
}

async fn wal(config: &Config, random: &Random) -> Result<(Arc<dyn Wal>, Closing)> {
    let url = config.wal.url.as_str();
    let named = || format!("wal.url {url}");
    if let Some(folder) = folder(url) {
        let opened = LocalWal::open(&folder, LocalSettings::default(), Disk::real()).await;
        let wal = Arc::new(opened.with_context(named)?);
        return Ok((Arc::clone(&wal) as Arc<dyn Wal>, Closing::Local(wal)));
    }
    if let Some(brokers) = url.strip_prefix("kafka://") {
        let settings = KafkaSettings {
            bootstrap: brokers.trim_end_matches('/').to_owned(),
            cluster: config.cluster.clone(),
            allow_weak: config.wal.allow_weak,
            ..KafkaSettings::default()
        };
        let opened = KafkaWal::open(settings, random.clone()).await;
        let wal = Arc::new(opened.with_context(named)?);
        return Ok((Arc::clone(&wal) as Arc<dyn Wal>, Closing::Kafka(wal)));
    }
    if url == "memory://" {
        let wal = MemoryWal::new(MemorySettings::default());
        return Ok((Arc::new(wal), Closing::Memory));
    }
    bail!("wal.url {url}: this version has kafka://BROKERS, local://DIR or memory://")
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
