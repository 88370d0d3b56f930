//! The services a compute node stands on, from their URLs: the log and the object store, each
//! checked before anything is written.
//!
//! Never here: what is kept in them.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use auxo_proto::random::Random;
use auxo_sst::cache::{BLOCK, CachedStore};
use auxo_sst::local_store::LocalStore;
use auxo_sst::s3::address::Bucket;
use auxo_sst::s3::credentials::Credentials as Keys;
use auxo_sst::s3::requests::Requests;
use auxo_sst::s3::{S3Settings, S3Store, SetupError};
use auxo_sst::store_check::{self, CheckError};
use auxo_wal_adapters::Wal;
use auxo_wal_adapters::kafka::{KafkaSettings, KafkaWal};
use auxo_wal_adapters::local::{Disk, LocalSettings, LocalWal};
use auxo_wal_adapters::memory::{MemorySettings, MemoryWal};
use object_store::ObjectStore;
use object_store::memory::InMemory;
use tokio::time::Instant;

use crate::config::references::Credentials;
use crate::config::{Config, Store};
use crate::environment::Environment;

/// Longest time for the checks of a start.
const START_TIME: Duration = Duration::from_secs(30);

/// The log and the store of a process.
pub(crate) struct Services {
    /// Where writes go first.
    pub(crate) wal: Arc<dyn Wal>,
    /// The same log, to be closed.
    pub(crate) closing: Closing,
    /// The own disk's part of the store, where there is one.
    pub(crate) cache: Option<Arc<CachedStore>>,
    /// Where files go, rooted at the cluster's prefix.
    pub(crate) store: Arc<dyn ObjectStore>,
    /// How often the bucket was asked, where there is one.
    pub(crate) requests: Requests,
}

impl Services {
    /// Connects to both and checks what they promise.
    ///
    /// * errors: name the key of the configuration and its URL.
    pub(crate) async fn open(
        config: &Config,
        environment: &Environment,
        random: &Random,
    ) -> Result<Self> {
        let (wal, closing) = wal(config, random).await?;
        let durability = wal.check().await;
        let durability = durability.with_context(|| format!("wal.url {}", config.wal.url))?;
        tracing::info!(url = %config.wal.url, ?durability, "write-ahead log");
        let (store, requests) = store(&config.store, environment, random).await?;
        let cache = cache(config, &store)?;
        Ok(Self {
            wal,
            closing,
            cache: cache.clone(),
            store: cache.map_or(store, |cache| cache as _),
            requests,
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

/// The log that is configured.
///
/// * errors: name the key of the configuration and its URL.
pub(crate) async fn wal(config: &Config, random: &Random) -> Result<(Arc<dyn Wal>, Closing)> {
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

/// The store that is configured, checked.
///
/// * errors: name the keys of the configuration, and what the store lacks.
pub(crate) async fn store(
    config: &Store,
    environment: &Environment,
    random: &Random,
) -> Result<(Arc<dyn ObjectStore>, Requests)> {
    let url = config.url.as_str();
    let named = || format!("store.url {url}");
    let mut requests = Requests::default();
    let store: Arc<dyn ObjectStore> = match (folder(url), config.url.bucket()) {
        (Some(folder), _) => Arc::new(LocalStore::open(&folder).with_context(named)?),
        (_, Some(bucket)) => {
            let store = bucket_store(config, bucket, environment)?;
            requests = store.requests();
            Arc::new(store)
        }
        _ if url == "memory://" => Arc::new(InMemory::new()),
        _ => {
            bail!("store.url {url}: this version has s3://BUCKET/PREFIX, local://DIR or memory://")
        }
    };
    let deadline = Instant::now() + START_TIME;
    match store_check::check(&*store, random, deadline).await {
        Ok(()) => {}
        Err(error @ CheckError::Denied(_)) => {
            let credentials = &config.credentials;
            return Err(error)
                .with_context(|| format!("{}, store.credentials {credentials}", named()));
        }
        Err(error) => return Err(error).with_context(named),
    }
    tracing::info!(url, endpoint = %config.endpoint, "object store");
    Ok((store, requests))
}

/// The same store, read through blocks on disk, where it is far and there is room for one.
fn cache(config: &Config, store: &Arc<dyn ObjectStore>) -> Result<Option<Arc<CachedStore>>> {
    let (folder, bytes) = (&config.cache.dir, config.cache.size.0);
    if config.store.url.bucket().is_none() || bytes < BLOCK {
        return Ok(None);
    }
    let cache = CachedStore::open(Arc::clone(store), folder, bytes);
    let cache = cache.with_context(|| format!("cache.dir {}", folder.display()))?;
    tracing::info!(dir = %folder.display(), size = %config.cache.size, "cache of the store");
    Ok(Some(Arc::new(cache)))
}

fn bucket_store(config: &Store, bucket: Bucket, environment: &Environment) -> Result<S3Store> {
    let mut settings = S3Settings::new(bucket, keys(config, environment));
    settings.endpoint = config.endpoint.given().cloned();
    settings.virtual_hosted = config.virtual_hosted;
    settings.allow_http = config.allow_http;
    settings.request_time = config.request_timeout.0;
    if let Some(region) = region(config, environment) {
        settings.region = region.to_owned();
    }
    S3Store::open(&settings).map_err(|error| {
        let key = match error {
            SetupError::PlainHttp => format!("store.endpoint {}", config.endpoint),
            SetupError::Credentials(_) => format!("store.credentials {}", config.credentials),
            SetupError::Client(_) => format!("store.url {}", config.url),
        };
        anyhow::Error::new(error).context(key)
    })
}

fn keys(config: &Store, environment: &Environment) -> Keys {
    match &config.credentials {
        Credentials::Env => Keys::from_variables(environment.iter()),
        Credentials::File(path) => Keys::File(path.clone()),
    }
}

/// The region that is named, else the one in which AWS's own tools would look.
fn region<'a>(config: &'a Store, environment: &'a Environment) -> Option<&'a str> {
    let variables = ["AWS_REGION", "AWS_DEFAULT_REGION"];
    let told = variables.iter().filter_map(|name| environment.get(name));
    let mut named = [config.region.as_str()].into_iter().chain(told);
    named.find(|region| !region.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bucket(credentials: &str, environment: &Environment) -> String {
        let config = Store {
            url: "s3://rows".parse().unwrap(),
            credentials: credentials.parse().unwrap(),
            endpoint: "http://127.0.0.1:1".parse().unwrap(),
            ..Store::default()
        };
        match bucket_store(&config, config.url.bucket().unwrap(), environment) {
            Ok(store) => store.to_string(),
            Err(error) => format!("{error:#}"),
        }
    }

    #[test]
    fn what_is_wrong_with_credentials_names_its_key() {
        let half = Environment::of([("AWS_SECRET_ACCESS_KEY", "canary")]);
        assert_eq!(
            bucket("env", &half),
            "store.credentials env: AWS_SECRET_ACCESS_KEY is set and AWS_ACCESS_KEY_ID is not"
        );
        let none = Environment::default();
        let said = bucket("file:/no/such/file", &none);
        assert!(
            said.starts_with("store.credentials file:/no/such/file: /no/such/file cannot be read"),
            "{said}"
        );
        assert_eq!(bucket("env", &none), "s3://rows at http://127.0.0.1:1");
    }

    #[test]
    fn the_region_is_named_or_that_of_the_tools() {
        let mut config = Store::default();
        let variables = [("AWS_REGION", ""), ("AWS_DEFAULT_REGION", "eu-west-1")];
        let environment = Environment::of(variables);
        assert_eq!(region(&config, &environment), Some("eu-west-1"));
        assert_eq!(region(&config, &Environment::default()), None);
        config.region = "eu-north-1".to_owned();
        assert_eq!(region(&config, &environment), Some("eu-north-1"));
    }
}
