//! Other databases as processes, to be measured beside ours.
//!
//! Each comes from a package registry in the version pinned here, into the cache at its first use on
//! a machine; it gets a free port on the loopback, a folder of its own, and ends with its [`Peer`].
//!
//! Rooms: [`victoria_metrics`] and [`questdb`] (how each is got, started and asked), [`spawned`] (a
//! process with a log that does not outlive its owner); [`duckdb`], which takes no rows and is only
//! asked.
//!
//! Never here: a measurement, or a setting that makes a peer slower than its defaults do.

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use bytes::Bytes;
use serde_json::Value;
use tokio::time::Instant;

use crate::http::Http;
use crate::standalone::free_port;
use crate::wait;
use spawned::Spawned;

pub mod duckdb;
pub mod questdb;
pub mod spawned;
pub mod victoria_metrics;

/// Release of VictoriaMetrics, from the Go module proxy.
pub const VICTORIA_METRICS: &str = "1.150.0";

/// Release of QuestDB, from Maven Central.
pub const QUESTDB: &str = "9.3.1";

/// A peer's data below the folder it was given.
const DATA: &str = "data";

/// How long a peer may take until it answers.
const READY_WITHIN: Duration = Duration::from_secs(60);

/// Which database.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// VictoriaMetrics, single node.
    VictoriaMetrics,
    /// QuestDB, open source.
    QuestDb,
}

impl Kind {
    /// Its name.
    pub fn name(self) -> &'static str {
        match self {
            Self::VictoriaMetrics => "VictoriaMetrics",
            Self::QuestDb => "QuestDB",
        }
    }

    /// The release that is measured.
    pub fn version(self) -> &'static str {
        match self {
            Self::VictoriaMetrics => VICTORIA_METRICS,
            Self::QuestDb => QUESTDB,
        }
    }

    /// What an acknowledged row survives with the settings of [`Peer::start`].
    pub fn durability(self) -> &'static str {
        match self {
            Self::VictoriaMetrics => victoria_metrics::DURABILITY,
            Self::QuestDb => questdb::DURABILITY,
        }
    }

    /// Where a peer started in `folder` keeps the benchmark's table: what is weighed.
    pub fn table(self, folder: &Path) -> Result<Vec<PathBuf>> {
        let data = folder.join(DATA);
        match self {
            Self::VictoriaMetrics => Ok(vec![data]),
            Self::QuestDb => questdb::table(&data),
        }
    }

    /// What is started; fetched and built at the first call on a machine.
    ///
    /// * errors: says which program is missing or what failed; another peer may still run.
    /// * effects: may take minutes and use the network.
    pub fn install(self) -> Result<PathBuf> {
        match self {
            Self::VictoriaMetrics => victoria_metrics::install(),
            Self::QuestDb => questdb::install(),
        }
    }
}

/// The stretch of time that rows lie in, whole seconds since 1970.
#[derive(Clone, Copy, Debug)]
pub struct Span {
    /// First second.
    pub start_s: i64,
    /// First second behind it.
    pub end_s: i64,
}

/// A running peer.
#[derive(Debug)]
pub struct Peer {
    /// Which database.
    pub kind: Kind,
    /// Its listener.
    pub http: Http,
    process: Spawned,
}

impl Peer {
    /// Starts what [`Kind::install`] gave and waits until it answers.
    ///
    /// * `folder`: an empty directory for its data and its log.
    pub async fn start(kind: Kind, installed: &Path, folder: &Path) -> Result<Self> {
        let (port, data) = (free_port()?, folder.join(DATA));
        let command = match kind {
            Kind::VictoriaMetrics => victoria_metrics::command(installed, &data, port),
            Kind::QuestDb => questdb::command(installed, &data, port)?,
        };
        let log = folder.join("peer.log");
        let process = Spawned::start(&command, &log).with_context(|| kind.name())?;
        let http = Http::new(&format!("http://127.0.0.1:{port}"));
        let mut peer = Self {
            kind,
            http,
            process,
        };
        peer.ready().await?;
        Ok(peer)
    }

    async fn ready(&mut self) -> Result<()> {
        let path = match self.kind {
            Kind::VictoriaMetrics => "/health",
            Kind::QuestDb => "/ping",
        };
        let (process, http) = (&mut self.process, &self.http);
        let found = wait::until(self.kind.name(), READY_WITHIN, || {
            let ended = process.ended();
            async move {
                if let Some(status) = ended? {
                    return Ok(Err(anyhow::anyhow!("ended with {status}")));
                }
                let request = http.request(reqwest::Method::GET, path);
                let request = request.timeout(Duration::from_secs(2));
                match http.send(request).await?.status {
                    200 | 204 => Ok(Ok(())),
                    status => bail!("{path} answers {status}"),
                }
            }
        });
        let found = found.await.and_then(|ready| ready);
        let tail = || format!("{}: {}", self.kind.name(), self.process.log_tail());
        found.with_context(tail)
    }

    /// Its process id.
    pub fn pid(&self) -> u32 {
        self.process.pid()
    }

    /// Where line protocol with times in nanoseconds is posted.
    pub fn write_path(&self) -> &'static str {
        match self.kind {
            Kind::VictoriaMetrics => "/write",
            Kind::QuestDb => "/write?precision=n",
        }
    }

    /// Brings it to the speed it keeps, where it starts below that.
    ///
    /// * `batches`: line protocol of the benchmark's table; nothing of it stays.
    pub async fn warm_up(&self, batches: &[Bytes]) -> Result<()> {
        match self.kind {
            Kind::VictoriaMetrics => Ok(()),
            Kind::QuestDb => questdb::warm_up(&self.http, self.write_path(), batches).await,
        }
    }

    /// Has rows that are acknowledged shown to queries now, where the peer has a call for that; it
    /// does the same by itself a moment later.
    pub async fn show(&self) -> Result<()> {
        match self.kind {
            Kind::VictoriaMetrics => victoria_metrics::show(&self.http).await,
            Kind::QuestDb => Ok(()),
        }
    }

    /// Rows of the benchmark's table that queries see now.
    pub async fn rows(&self, span: Span) -> Result<u64> {
        match self.kind {
            Kind::VictoriaMetrics => {
                victoria_metrics::points(&self.http, "cpu_usage_user", span).await
            }
            Kind::QuestDb => questdb::number(&self.http, "SELECT count() FROM cpu").await,
        }
    }

    /// Rows of a statement in the peer's SQL, times as nanoseconds since 1970.
    ///
    /// * errors: VictoriaMetrics has no SQL.
    pub async fn sql(&self, sql: &str) -> Result<Vec<Vec<Value>>> {
        match self.kind {
            Kind::VictoriaMetrics => bail!("VictoriaMetrics has no SQL"),
            Kind::QuestDb => questdb::rows(&self.http, sql).await,
        }
    }

    /// How long a statement takes until its last row has come, as the peer writes it.
    ///
    /// * errors: VictoriaMetrics has no SQL.
    pub async fn sql_took(&self, sql: &str) -> Result<Duration> {
        match self.kind {
            Kind::VictoriaMetrics => bail!("VictoriaMetrics has no SQL"),
            Kind::QuestDb => {
                let began = Instant::now();
                questdb::execute(&self.http, sql).await?;
                Ok(began.elapsed())
            }
        }
    }

    /// Values of the ten fields together that queries see now.
    pub async fn values(&self, span: Span) -> Result<u64> {
        match self.kind {
            Kind::VictoriaMetrics => {
                victoria_metrics::points(&self.http, r#"{__name__=~"cpu_.+"}"#, span).await
            }
            Kind::QuestDb => {
                let counts = crate::queries::FIELDS.map(|field| format!("count({field})"));
                let sql = format!("SELECT {} FROM cpu", counts.join(" + "));
                questdb::number(&self.http, &sql).await
            }
        }
    }
}
