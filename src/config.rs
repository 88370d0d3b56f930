//! The settings of a process: one tree of plain values, each key a documented field.
//!
//! Rooms: [`load`] (files, environment and flags on top of the defaults here), [`units`] (sizes and
//! times), [`references`] (URLs and secrets), [`machine`] (how much memory there is), [`show`] (the
//! subcommand). Never here: what a setting does, and never a secret itself.

pub(crate) mod load;
pub(crate) mod machine;
pub(crate) mod references;
pub(crate) mod show;
pub(crate) mod units;

#[cfg(test)]
mod tests;

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use auxo_sst::s3::S3Settings;
use serde::{Deserialize, Serialize};

use references::{Credentials, Directives, SecretRef, StoreEndpoint, StoreUrl, WalUrl};
use units::{Budget, Period, Size};

/// Everything that can be set. The defaults are those of one process on one machine.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct Config {
    /// Name of the cluster, used by federation and in the names of its topics.
    pub(crate) cluster: String,
    /// Name of this node, unique in its cluster; the host's name unless set.
    pub(crate) node: String,
    /// Whether `node` is only the host's name, because none was set.
    #[serde(skip)]
    pub(crate) node_is_host: bool,
    /// Failure domain; replicas of a shard are kept in different ones.
    pub(crate) zone: String,
    /// Directory of everything this node keeps on its own disk.
    pub(crate) data_dir: PathBuf,
    /// Addresses this node listens on.
    pub(crate) listen: Listen,
    /// Where the meta service is.
    pub(crate) meta: Meta,
    /// Where the write-ahead log is.
    pub(crate) wal: Wal,
    /// Where the sorted files are.
    pub(crate) store: Store,
    /// How much memory this node plans with.
    pub(crate) memory: Memory,
    /// The local copy of parts of the store.
    pub(crate) cache: Cache,
    /// What a request may ask for.
    pub(crate) limits: Limits,
    /// When memory becomes files.
    pub(crate) flush: Flush,
    /// What is written to the standard error stream.
    pub(crate) log: Log,
    /// How the subcommands that are clients reach a node.
    pub(crate) client: ClientConfig,
}

/// `[listen]`
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct Listen {
    /// For tenants: SQL over HTTP, line protocol and every compatibility door.
    pub(crate) public: Vec<SocketAddr>,
    /// For nodes among each other.
    pub(crate) internal: Vec<SocketAddr>,
    /// Where other nodes find `internal`, as `HOST:PORT`; at its own address unless set.
    pub(crate) advertised: String,
}

/// `[meta]`
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct Meta {
    /// Meta nodes as `HOST:PORT`; none for a process that is its own.
    pub(crate) members: Vec<String>,
    /// A real etcd as URLs, in place of the one that a meta node brings.
    pub(crate) etcd: Vec<String>,
    /// Shards of a new cluster.
    pub(crate) shards: u32,
}

/// `[wal]`
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct Wal {
    /// The log service; `wal` below `data_dir` unless set.
    pub(crate) url: WalUrl,
    /// Accept a log service that loses rows when one of its machines is lost; for tests.
    pub(crate) allow_weak: bool,
}

/// `[store]`
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct Store {
    /// The object store; `store` below `data_dir` unless set.
    pub(crate) url: StoreUrl,
    /// Where its credentials come from.
    pub(crate) credentials: Credentials,
    /// The server of a bucket; that of AWS for the region unless set.
    pub(crate) endpoint: StoreEndpoint,
    /// The region of a bucket; `AWS_REGION`, `AWS_DEFAULT_REGION` or `us-east-1` unless set.
    pub(crate) region: String,
    /// Whether the bucket is asked for in the server's name, not in the path.
    pub(crate) virtual_hosted: bool,
    /// Accept plain HTTP to a server on another machine.
    pub(crate) allow_http: bool,
    /// How long one request may take, with its body.
    pub(crate) request_timeout: Period,
}

/// `[memory]`
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct Memory {
    /// What all pools share: bytes, or a share of the control group's limit, else of the machine.
    pub(crate) budget: Budget,
}

/// `[cache]`
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct Cache {
    /// Where it is kept; `cache` below `data_dir` unless set.
    pub(crate) dir: PathBuf,
    /// How much of the disk it may take.
    pub(crate) size: Size,
}

/// `[limits]`: the most that one request may bring or ask for.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct Limits {
    /// Body of a request, as it is sent.
    pub(crate) body_bytes: Size,
    /// The same once it is decompressed.
    pub(crate) decoded_bytes: Size,
    /// How long a body may take to arrive.
    pub(crate) body_timeout: Period,
    /// One line of line protocol.
    pub(crate) line_bytes: Size,
    /// How far ahead of the node's clock the time of a new row may lie.
    pub(crate) future: Period,
    /// Text of a statement.
    pub(crate) sql_bytes: Size,
    /// How long a statement may run.
    pub(crate) statement_timeout: Period,
    /// How much memory a statement may hold.
    pub(crate) statement_memory: Size,
    /// How much the statements of this node may spill to its disk together.
    pub(crate) spill_bytes: Size,
    /// Rows of one reply.
    pub(crate) result_rows: u64,
    /// Bytes of one reply.
    pub(crate) result_bytes: Size,
    /// Statements that run at once.
    pub(crate) statements_running: usize,
    /// Statements that wait for one of those to end; the next one is refused.
    pub(crate) statements_queued: usize,
    /// Bytes of batches that are being written at once; the next one is refused.
    pub(crate) write_queue_bytes: Size,
    /// Open connections.
    pub(crate) connections: usize,
}

/// `[flush]`
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct Flush {
    /// Log bytes of a shard that are in no file yet, at which a flush begins.
    pub(crate) unflushed_bytes: Size,
    /// The same, at which writes to the shard are refused; bounds how long a replay takes.
    pub(crate) unflushed_bytes_max: Size,
    /// Age of the oldest row in memory at which a flush begins.
    pub(crate) age: Period,
    /// How often a shard looks for files that are worth rewriting together.
    pub(crate) compact_every: Period,
}

/// `[log]`
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct Log {
    /// `error`, `warn`, `info`, `debug` or `trace`, or levels by module.
    pub(crate) level: Directives,
    /// `text` for people, `json` for programs.
    pub(crate) format: LogFormat,
}

/// How an event is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum LogFormat {
    Text,
    Json,
}

/// `[client]`
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct ClientConfig {
    /// Any node.
    pub(crate) url: String,
    /// Database of statements and lines that name none.
    pub(crate) database: String,
    /// The token to show: `env:NAME`, `file:PATH`, or empty for none.
    pub(crate) token: SecretRef,
    /// How long a connection may take to be made.
    pub(crate) connect_timeout: Period,
    /// How long one request may take that is no statement.
    pub(crate) request_timeout: Period,
}

const fn period_s(seconds: u64) -> Period {
    Period(Duration::from_secs(seconds))
}

impl Default for Config {
    fn default() -> Self {
        Self {
            cluster: "auxo".to_owned(),
            node: String::new(),
            node_is_host: false,
            zone: "local".to_owned(),
            data_dir: "./auxo-data".into(),
            listen: Listen::default(),
            meta: Meta::default(),
            wal: Wal::default(),
            store: Store::default(),
            memory: Memory::default(),
            cache: Cache::default(),
            limits: Limits::default(),
            flush: Flush::default(),
            log: Log::default(),
            client: ClientConfig::default(),
        }
    }
}

impl Default for Listen {
    fn default() -> Self {
        let loopback = |port| vec![SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), port)];
        Self {
            public: loopback(7400),
            internal: loopback(7401),
            advertised: String::new(),
        }
    }
}

impl Default for Meta {
    fn default() -> Self {
        Self {
            members: Vec::new(),
            etcd: Vec::new(),
            shards: 2,
        }
    }
}

impl Default for Wal {
    fn default() -> Self {
        Self {
            url: WalUrl::derived(),
            allow_weak: false,
        }
    }
}

impl Default for Store {
    fn default() -> Self {
        Self {
            url: StoreUrl::derived(),
            credentials: Credentials::Env,
            endpoint: StoreEndpoint::default(),
            region: String::new(),
            virtual_hosted: false,
            allow_http: false,
            request_timeout: Period(S3Settings::REQUEST_TIME),
        }
    }
}

impl Default for Memory {
    fn default() -> Self {
        Self {
            budget: Budget::Percent(60),
        }
    }
}

impl Default for Cache {
    fn default() -> Self {
        Self {
            dir: PathBuf::new(),
            size: Size(8 << 30),
        }
    }
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            body_bytes: Size(16 << 20),
            decoded_bytes: Size(64 << 20),
            body_timeout: period_s(60),
            line_bytes: Size(64 << 10),
            future: period_s(600),
            sql_bytes: Size(256 << 10),
            statement_timeout: period_s(30),
            statement_memory: Size(1 << 30),
            spill_bytes: Size(2 << 30),
            result_rows: 1_000_000,
            result_bytes: Size(256 << 20),
            statements_running: 8,
            statements_queued: 32,
            write_queue_bytes: Size(256 << 20),
            connections: 10_000,
        }
    }
}

impl Default for Flush {
    fn default() -> Self {
        Self {
            unflushed_bytes: Size(256 << 20),
            unflushed_bytes_max: Size(1 << 30),
            age: period_s(30 * 60),
            compact_every: period_s(10),
        }
    }
}

impl Default for Log {
    fn default() -> Self {
        let level = "info,openraft=warn".parse();
        Self {
            level: level.expect("a level of the library's own"),
            format: LogFormat::Text,
        }
    }
}

impl Default for ClientConfig {
    fn default() -> Self {
        Self {
            url: "http://127.0.0.1:7400".to_owned(),
            database: "main".to_owned(),
            token: SecretRef::Env("AUXO_TOKEN".to_owned()),
            connect_timeout: period_s(5),
            request_timeout: period_s(60),
        }
    }
}

impl Config {
    /// Fills in what follows from other keys and was not set.
    fn derive(&mut self, host_name: &str) -> Result<(), String> {
        if self.node.is_empty() {
            self.node = host_name.to_owned();
            self.node_is_host = true;
        }
        let below = |name: &str| self.data_dir.join(name);
        if self.cache.dir.as_os_str().is_empty() {
            self.cache.dir = below("cache");
        }
        if self.wal.url.as_str().is_empty() {
            self.wal.url = format!("local://{}", below("wal").display()).parse()?;
        }
        if self.store.url.as_str().is_empty() {
            self.store.url = format!("local://{}", below("store").display()).parse()?;
        }
        Ok(())
    }

    /// What does not fit together, a sentence for each; keys are named.
    fn contradictions(&self) -> Vec<String> {
        let mut found = Vec::new();
        if self.listen.public.is_empty() {
            found.push("\"listen.public\" is empty: nobody could connect".to_owned());
        }
        if self.limits.connections == 0 {
            found.push("\"limits.connections\" is 0: nobody could connect".to_owned());
        }
        if self.meta.shards == 0 {
            found.push("\"meta.shards\" is 0: rows would have no place".to_owned());
        }
        if !self.client.url.starts_with("http://") {
            found.push(format!(
                "\"client.url\" is {:?}, which does not begin with http://",
                self.client.url
            ));
        }
        let advertised = &self.listen.advertised;
        if !advertised.is_empty() && !is_host_and_port(advertised) {
            found.push(format!(
                "\"listen.advertised\" is {advertised:?}, which is no HOST:PORT"
            ));
        }
        let store = &self.store;
        if let Some(endpoint) = store.endpoint.given() {
            if store.url.bucket().is_none() {
                found.push(format!(
                    "\"store.endpoint\" is set, but \"store.url\" is {}, which is no bucket",
                    store.url
                ));
            }
            if endpoint.is_plain() && !endpoint.is_loopback() && !store.allow_http {
                found.push(format!(
                    "\"store.endpoint\" is {endpoint}: rows and signatures would travel in the open; \
                     use https://, or set \"store.allow_http\""
                ));
            }
        }
        if store.request_timeout.0.is_zero() {
            found.push("\"store.request_timeout\" is 0: no request would be answered".to_owned());
        }
        if self.limits.body_timeout.0.is_zero() {
            found.push("\"limits.body_timeout\" is 0: no body would arrive in time".to_owned());
        }
        if self.flush.unflushed_bytes > self.flush.unflushed_bytes_max {
            found.push(format!(
                "\"flush.unflushed_bytes\" is {}, above \"flush.unflushed_bytes_max\", which is {}",
                self.flush.unflushed_bytes, self.flush.unflushed_bytes_max
            ));
        }
        if self.limits.body_bytes > self.limits.decoded_bytes {
            found.push(format!(
                "\"limits.body_bytes\" is {}, above \"limits.decoded_bytes\", which is {}",
                self.limits.body_bytes, self.limits.decoded_bytes
            ));
        }
        if self.limits.line_bytes > self.limits.body_bytes {
            found.push(format!(
                "\"limits.line_bytes\" is {}, above \"limits.body_bytes\", which is {}",
                self.limits.line_bytes, self.limits.body_bytes
            ));
        }
        found
    }
}

fn is_host_and_port(address: &str) -> bool {
    let parts = address.rsplit_once(':');
    parts.is_some_and(|(host, port)| {
        !host.is_empty() && port.parse::<u16>().is_ok_and(|port| port > 0)
    })
}
