//! The meta service as nodes and callers see it: a real embedded etcd, real gRPC over an in-process
//! connection, and nodes that only remember what they were told.

#![allow(
    clippy::unwrap_used,
    reason = "a test ends where something is not as wanted"
)]

mod changes;
mod crashes;
mod elections;
mod node;
mod storage;

use std::collections::BTreeMap;
use std::io;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use auxo_meta_service::api::Standing;
use auxo_meta_service::procedure::runner::Trap;
use auxo_meta_service::{MetaConfig, MetaServer};
use auxo_proto::clock::Clock;
use auxo_proto::ddl::{Ddl, DdlRequest, NewColumn, NewTable};
use auxo_proto::ids::TenantId;
use auxo_proto::pb::meta::meta_client::MetaClient;
use auxo_proto::pb::meta::{AdminCall, DdlCall, DdlDone, Refused, admin_reply, ddl_reply};
use auxo_proto::random::Random;
use auxo_proto::schema::{ColumnKind, ColumnType, TableOptions, TimeUnit};
use etcd_client::{Client, GetOptions};
use hyper_util::rt::TokioIo;
use serde_json::Value;
use tempfile::TempDir;
use tokio::io::DuplexStream;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;
use tonic::transport::{Channel, Endpoint};

/// How long anything here may take.
const PATIENCE: Duration = Duration::from_secs(30);

/// An etcd in a directory of its own.
struct Etcd {
    server: auxo_etcd::Server,
    _directory: TempDir,
}

impl Etcd {
    async fn start() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let server = start_etcd(directory.path(), None).await;
        Self {
            server,
            _directory: directory,
        }
    }

    async fn client(&self) -> Client {
        let channel = self.server.channel();
        Client::from_channel(channel, None).await.unwrap()
    }
}

async fn start_etcd(
    directory: &Path,
    listener: Option<tokio::net::TcpListener>,
) -> auxo_etcd::Server {
    let config = auxo_etcd::Config {
        data_dir: directory.to_owned(),
        ..auxo_etcd::Config::default()
    };
    let seed = Random::from_system().next_u64();
    auxo_etcd::Server::start(config, listener, seed)
        .await
        .unwrap()
}

/// A channel, and the connections it makes.
fn in_process() -> (Channel, ReceiverStream<io::Result<DuplexStream>>) {
    let (accept, incoming) = mpsc::channel(16);
    let connector = tower::service_fn(move |_: http::Uri| {
        let accept = accept.clone();
        async move {
            let (near, far) = tokio::io::duplex(1 << 20);
            let gone = |_| io::Error::from(io::ErrorKind::ConnectionRefused);
            accept.send(Ok(far)).await.map_err(gone)?;
            Ok::<_, io::Error>(TokioIo::new(near))
        }
    });
    let endpoint = Endpoint::from_static("http://in-process");
    (
        endpoint.connect_with_connector_lazy(connector),
        ReceiverStream::new(incoming),
    )
}

/// A running meta node.
struct Meta {
    server: MetaServer,
    channel: Channel,
}

impl Meta {
    async fn start(cluster: &str, etcd: Client) -> Self {
        Self::start_as("meta", cluster, etcd, Arc::new(|_| false)).await
    }

    async fn start_as(name: &str, cluster: &str, etcd: Client, trap: Trap) -> Self {
        let (channel, incoming) = in_process();
        let config = MetaConfig {
            cluster: cluster.to_owned(),
            name: name.to_owned(),
            api: name.to_owned(),
            build: "test".to_owned(),
            ..MetaConfig::default()
        };
        let server = MetaServer::start_with_trap(
            config,
            etcd,
            Clock::system(),
            Random::from_system(),
            incoming,
            CancellationToken::new(),
            trap,
        );
        Self {
            server: server.await.unwrap(),
            channel,
        }
    }

    async fn leads(&self) {
        let mut standing = self.server.standing();
        let leads = standing.wait_for(|standing| matches!(standing, Standing::Leading(_)));
        tokio::time::timeout(PATIENCE, leads)
            .await
            .unwrap()
            .unwrap();
    }

    /// Has a change carried out, asking again under the same key while nobody leads.
    async fn ddl(&self, ddl: Ddl) -> Result<DdlDone, Refused> {
        let key = Random::from_system().next_u64().to_string();
        self.ddl_keyed(ddl, &key).await
    }

    async fn ddl_keyed(&self, ddl: Ddl, key: &str) -> Result<DdlDone, Refused> {
        let request = DdlRequest {
            tenant: TenantId(1),
            ddl,
            request_key: Some(key.to_owned()),
        };
        let call = DdlCall {
            request: serde_json::to_vec(&request).unwrap().into(),
            deadline_ms: PATIENCE.as_millis() as u64,
        };
        let asked = async {
            loop {
                let mut client = MetaClient::new(self.channel.clone());
                let reply = client.ddl(call.clone()).await;
                match reply.map(|reply| reply.into_inner().result) {
                    Ok(Some(ddl_reply::Result::Done(done))) => return Ok(done),
                    Ok(Some(ddl_reply::Result::Refused(refused))) if refused.code != 5007 => {
                        return Err(refused);
                    }
                    Ok(Some(ddl_reply::Result::Pending(pending))) => panic!("{pending:?}"),
                    _ => tokio::time::sleep(Duration::from_millis(20)).await,
                }
            }
        };
        tokio::time::timeout(PATIENCE, asked).await.unwrap()
    }

    async fn admin(&self, verb: &str, target: &str) -> Value {
        let call = AdminCall {
            verb: verb.to_owned(),
            target: target.to_owned(),
        };
        let mut client = MetaClient::new(self.channel.clone());
        let reply = client.admin(call).await.unwrap().into_inner().result;
        match reply {
            Some(admin_reply::Result::Json(json)) => serde_json::from_str(&json).unwrap(),
            other => panic!("{verb} {target}: {other:?}"),
        }
    }

    /// Asks until the answer is as wanted.
    async fn admin_until(
        &self,
        verb: &str,
        target: &str,
        wanted: impl Fn(&Value) -> bool,
    ) -> Value {
        let asked = async {
            loop {
                let shown = self.admin(verb, target).await;
                if wanted(&shown) {
                    return shown;
                }
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        };
        let shown = tokio::time::timeout(PATIENCE, asked).await;
        shown.unwrap_or_else(|_| panic!("{verb} {target} is not as wanted"))
    }
}

/// Every key of a cluster below its root.
async fn dump(etcd: &Client, cluster: &str) -> BTreeMap<String, Value> {
    let root = format!("/auxo/{cluster}/");
    let options = GetOptions::new().with_prefix();
    let found = etcd.kv_client().get(root.as_str(), Some(options)).await;
    let found = found.unwrap();
    let entries = found.kvs().iter().map(|kv| {
        let key = kv.key_str().unwrap().strip_prefix(&root).unwrap();
        (key.to_owned(), serde_json::from_slice(kv.value()).unwrap())
    });
    entries.collect()
}

fn column(name: &str, kind: ColumnKind, ty: ColumnType) -> NewColumn {
    NewColumn {
        name: name.to_owned(),
        kind,
        ty,
        nullable: kind != ColumnKind::Time,
    }
}

fn field(name: &str) -> NewColumn {
    column(name, ColumnKind::Field, ColumnType::Float64)
}

fn create(database: &str, name: &str, partitions: u32) -> Ddl {
    Ddl::CreateTable {
        table: NewTable {
            database: database.to_owned(),
            name: name.to_owned(),
            columns: vec![
                column("host", ColumnKind::Tag, ColumnType::String),
                column(
                    "ts",
                    ColumnKind::Time,
                    ColumnType::Timestamp(TimeUnit::Millisecond),
                ),
                field("usage"),
            ],
            partition_by: vec!["host".to_owned()],
            partitions,
            options: TableOptions::default(),
        },
        if_not_exists: false,
    }
}

fn drop_table(database: &str, name: &str) -> Ddl {
    Ddl::DropTable {
        database: database.to_owned(),
        name: name.to_owned(),
        if_exists: false,
    }
}
