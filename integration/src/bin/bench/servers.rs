//! Ours and the peers behind one face: what a load needs of a server.

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use integration::http::Http;
use integration::peers::{Kind, Peer, Span};
use integration::queries::FIELDS;
use integration::standalone::{Setup, Standalone};
use integration::wait;
use serde_json::{Value, json};

use crate::loader::Target;
use crate::measure;

/// Who is measured.
#[derive(Clone, Debug)]
pub(crate) enum Contestant {
    /// The binary under test.
    Ours(PathBuf),
    /// A peer and what its installation gave.
    Peer(Kind, PathBuf),
}

impl Contestant {
    pub(crate) fn name(&self) -> &'static str {
        match self {
            Self::Ours(_) => "AuxoDB",
            Self::Peer(kind, _) => kind.name(),
        }
    }

    /// What an acknowledged row survives.
    pub(crate) fn durability(&self) -> &'static str {
        match self {
            Self::Ours(_) => "yes: fsync of the log before the ack",
            Self::Peer(kind, _) => kind.durability(),
        }
    }

    /// Whether it is a peer that can be asked the fifteen queries.
    pub(crate) fn has_sql(&self) -> bool {
        matches!(self, Self::Peer(Kind::QuestDb, _))
    }

    /// Bytes on the disk that its rows take, and whatever else it keeps beside them.
    pub(crate) fn disk_bytes(&self, folder: &Path) -> Result<u64> {
        let folders = match self {
            Self::Ours(binary) => vec![Setup::new(binary, folder).data()],
            Self::Peer(kind, _) => kind.table(folder)?,
        };
        folders.iter().map(|at| measure::blocks_bytes(at)).sum()
    }

    /// Starts it in an empty folder and waits until it takes rows.
    pub(crate) async fn start(&self, folder: &Path) -> Result<Server> {
        match self {
            Self::Ours(binary) => {
                let node = Setup::new(binary, folder).start().await?;
                has_database(&node.http).await?;
                Ok(Server::Ours(node))
            }
            Self::Peer(kind, installed) => {
                Ok(Server::Peer(Peer::start(*kind, installed, folder).await?))
            }
        }
    }
}

/// Waits until a node that is ready also knows the database `main`.
pub(crate) async fn has_database(http: &Http) -> Result<()> {
    let asked = wait::until("SELECT 1", Duration::from_secs(30), || http.sql("SELECT 1"));
    asked.await.map(|_| ())
}

/// A running server.
pub(crate) enum Server {
    Ours(Standalone),
    Peer(Peer),
}

impl Server {
    pub(crate) fn pid(&self) -> u32 {
        match self {
            Self::Ours(node) => node.pid(),
            Self::Peer(peer) => peer.pid(),
        }
    }

    pub(crate) fn target(&self) -> Target {
        let (http, path) = match self {
            Self::Ours(node) => (&node.http, "/write?db=main"),
            Self::Peer(peer) => (&peer.http, peer.write_path()),
        };
        Target {
            http: http.clone(),
            path: path.to_owned(),
        }
    }

    /// Has acknowledged rows shown to queries at once where that is not so anyway.
    pub(crate) async fn show(&self) -> Result<()> {
        match self {
            Self::Ours(_) => Ok(()),
            Self::Peer(peer) => peer.show().await,
        }
    }

    /// Rows that queries see.
    pub(crate) async fn rows(&self, span: Span) -> Result<u64> {
        match self {
            Self::Ours(node) => number(&node.http, "SELECT count(*) FROM cpu").await,
            Self::Peer(peer) => peer.rows(span).await,
        }
    }

    /// Values of all fields that queries see.
    pub(crate) async fn values(&self, span: Span) -> Result<u64> {
        match self {
            Self::Ours(node) => {
                let counts = FIELDS.map(|field| format!("count({field})"));
                let sql = format!("SELECT {} FROM cpu", counts.join(" + "));
                number(&node.http, &sql).await
            }
            Self::Peer(peer) => peer.values(span).await,
        }
    }
}

/// The one number that a statement answers.
async fn number(http: &Http, sql: &str) -> Result<u64> {
    let rows = http.sql(sql).await?;
    let number = rows.first().and_then(|row| row.first());
    number
        .and_then(Value::as_u64)
        .with_context(|| format!("{sql}: {rows:?}"))
}

/// Sum over all shards of a metric of ours.
pub(crate) async fn metric(http: &Http, name: &str) -> Result<u64> {
    let answer = http
        .send(http.request(reqwest::Method::GET, "/metrics"))
        .await?;
    if answer.status != 200 {
        bail!("/metrics: {} {}", answer.status, answer.body);
    }
    let lines = answer.body.lines().filter_map(|line| {
        let (labelled, value) = line.split_once(' ')?;
        let bare = labelled.split('{').next()?;
        (bare == name).then(|| value.parse::<u64>())
    });
    let sum = lines.sum::<Result<u64, _>>();
    sum.with_context(|| format!("metric {name}"))
}

/// Who runs and who does not, and why.
pub(crate) struct Field {
    pub(crate) contestants: Vec<Contestant>,
    pub(crate) missing: Vec<(Kind, String)>,
}

impl Field {
    /// Ours first, then those of the peers that can be had on this machine.
    pub(crate) fn gather(binary: &Path, peers: &[Kind]) -> Self {
        let mut field = Self {
            contestants: vec![Contestant::Ours(binary.to_owned())],
            missing: Vec::new(),
        };
        for kind in peers {
            match kind.install() {
                Ok(installed) => field.contestants.push(Contestant::Peer(*kind, installed)),
                Err(error) => field.missing.push((*kind, format!("not run: {error:#}"))),
            }
        }
        field
    }

    /// Peers with their versions, for the report.
    pub(crate) fn report(&self) -> Value {
        let running = self.contestants.iter().filter_map(|who| match who {
            Contestant::Ours(_) => None,
            Contestant::Peer(kind, _) => Some(json!({
                "name": kind.name(), "version": kind.version(), "durable_at_ack": kind.durability(),
            })),
        });
        let missing = self.missing.iter().map(
            |(kind, why)| json!({ "name": kind.name(), "version": kind.version(), "missing": why }),
        );
        running.chain(missing).collect()
    }
}
