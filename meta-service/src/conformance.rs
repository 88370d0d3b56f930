//! The suite that meta passes on every etcd: one list of cases, run over the embedded one and a real one.
//!
//! An engine brings an [`Engine`], which starts an [`Etcd`] for each case; all that a case knows of it
//! is where it listens. The rest is meta as nodes and callers see it: real gRPC over an in-process
//! connection, and nodes that only remember what they were told.
//!
//! Rooms: this file (what a case is, how the list is run, and what cases share), `changes`, `crashes`,
//! `elections` and `storage` (the cases), `node` (a node that remembers). Never here: a rule that only one etcd obeys, or
//! which etcd it is.

#![allow(
    clippy::unwrap_used,
    reason = "a case ends where something is not as wanted"
)]

mod changes;
mod crashes;
mod elections;
mod node;
mod storage;

use std::collections::BTreeMap;
use std::fmt;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use auxo_proto::clock::Clock;
use auxo_proto::ddl::{Ddl, DdlRequest, NewColumn, NewTable};
use auxo_proto::ids::TenantId;
use auxo_proto::pb::meta::meta_client::MetaClient;
use auxo_proto::pb::meta::{AdminCall, DdlCall, DdlDone, Refused, admin_reply, ddl_reply};
use auxo_proto::random::Random;
use auxo_proto::schema::{ColumnKind, ColumnType, TableOptions, TimeUnit};
use etcd_client::{Client, GetOptions};
use futures::future::BoxFuture;
use hyper_util::rt::TokioIo;
use serde_json::Value;
use tokio::io::DuplexStream;
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::Instant;
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::{CancellationToken, DropGuard};
use tonic::transport::{Channel, Endpoint};

use crate::api::Standing;
use crate::procedure::runner::Trap;
use crate::store::connect;
use crate::{MetaConfig, MetaServer};

/// How long anything in a case may take, and how long a whole case.
const PATIENCE: Duration = Duration::from_secs(60);
const CASE_PATIENCE: Duration = Duration::from_secs(900);

/// One etcd with its data, made for one case.
#[async_trait]
pub trait Etcd: Send + Sync {
    /// Where it listens, as a URL; the same over stops and starts.
    fn endpoint(&self) -> String;

    /// Ends it in its own way.
    async fn stop(&mut self) -> Result<(), String>;

    /// Starts it again on the same data; returns once it answers.
    async fn start(&mut self) -> Result<(), String>;
}

/// Makes etcds of one kind.
#[async_trait]
pub trait Engine: Send + Sync {
    /// As it is shown in reports.
    fn name(&self) -> &'static str;

    /// A running etcd without keys.
    async fn make(&self) -> Result<Box<dyn Etcd>, String>;
}

/// One case of the suite.
pub struct Case {
    /// Its room and what it shows.
    pub name: &'static str,
    run: fn(Ground) -> BoxFuture<'static, ()>,
}

/// A case and how it ended.
#[derive(Clone, Debug)]
pub struct Outcome {
    /// The case's name.
    pub name: &'static str,
    /// What was seen, if it does not hold.
    pub failed: Option<String>,
    /// How long it took.
    pub took: Duration,
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.failed {
            None => write!(f, "{}: passed ({:.1?})", self.name, self.took),
            Some(what) => write!(f, "{}: FAILED: {what}", self.name),
        }
    }
}

/// All cases.
pub fn cases() -> Vec<Case> {
    macro_rules! cases {
        ($($room:ident: $($case:ident)*;)*) => {
            vec![$($(Case {
                name: concat!(stringify!($room), "::", stringify!($case)),
                run: |ground| Box::pin($room::$case(ground)),
            },)*)*]
        };
    }
    cases! {
        changes:
            a_new_cluster_gets_a_database_and_shards_and_takes_tables
            columns_and_options_are_changed_under_a_rising_schema_number
            a_dropped_database_takes_its_tables_along_and_its_name_is_free
            a_table_whose_tablets_cannot_be_made_leaves_nothing
            the_same_request_key_is_the_same_change
            what_cannot_be_is_refused_by_name
            a_node_that_comes_back_without_its_shards_is_told_to_open_them_again
            a_node_that_was_silent_for_a_while_is_told_what_to_do_again
            a_closed_shard_is_opened_again_under_the_next_epoch;
        elections:
            the_second_follows_and_takes_over_when_the_first_stops
            a_follower_names_the_leader_though_nothing_changes
            a_deposed_leader_can_change_nothing
            a_decision_on_an_old_model_is_made_anew
            a_process_that_starts_again_does_not_wait_for_its_own_earlier_lease
            a_leader_without_etcd_gives_up_and_leads_again_once_it_is_back;
        storage:
            a_lost_answer_is_settled_by_reading
            meta_works_over_an_etcd_that_loses_every_second_answer
            a_mirror_survives_compaction_and_restart_of_etcd;
        crashes:
            a_crash_at_any_point_of_a_change_alters_nothing_in_the_end
            a_crash_at_any_point_of_a_move_alters_nothing_in_the_end;
    }
}

/// Runs one case on an etcd of its own.
pub async fn run(engine: &dyn Engine, case: &Case) -> Outcome {
    let began = Instant::now();
    let ended = match engine.make().await {
        Ok(etcd) => {
            let ground = Ground { etcd };
            let mut task = JoinSet::new();
            task.spawn(tokio::time::timeout(CASE_PATIENCE, (case.run)(ground)));
            match task.join_next().await {
                Some(Ok(Ok(()))) => Ok(()),
                Some(Err(error)) if error.is_panic() => Err(said(&*error.into_panic())),
                _ => Err(format!("did not end within {CASE_PATIENCE:?}")),
            }
        }
        Err(error) => Err(error),
    };
    Outcome {
        name: case.name,
        failed: ended.err(),
        took: began.elapsed(),
    }
}

/// What a panic said.
fn said(panic: &(dyn std::any::Any + Send)) -> String {
    let text = panic.downcast_ref::<String>().map(String::as_str);
    let text = text.or_else(|| panic.downcast_ref::<&str>().copied());
    text.unwrap_or("it panicked without a word").to_owned()
}

/// What a case stands on.
struct Ground {
    etcd: Box<dyn Etcd>,
}

impl Ground {
    async fn client(&self) -> Client {
        connect(&[self.etcd.endpoint()]).await.unwrap()
    }

    /// A connection to it below the client, made when it is first used and again when it broke.
    fn channel(&self) -> Channel {
        let endpoint = Endpoint::from_shared(self.etcd.endpoint());
        endpoint.unwrap().connect_lazy()
    }
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

/// A running meta node; it stops with its handle.
struct Meta {
    server: MetaServer,
    channel: Channel,
    _stop: DropGuard,
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
        let stop = CancellationToken::new();
        let server = MetaServer::start_with_trap(
            config,
            etcd,
            Clock::system(),
            Random::from_system(),
            incoming,
            stop.clone(),
            trap,
        );
        Self {
            server: server.await.unwrap(),
            channel,
            _stop: stop.drop_guard(),
        }
    }

    async fn leads(&self) {
        self.stands(|standing| matches!(standing, Standing::Leading(_)))
            .await;
    }

    /// Waits until it stands as wanted.
    async fn stands(&self, wanted: impl FnMut(&Standing) -> bool) {
        let mut standing = self.server.standing();
        let stands = tokio::time::timeout(PATIENCE, standing.wait_for(wanted));
        assert!(stands.await.unwrap().is_ok());
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

    /// Asks once; `None` if it does not lead or refuses.
    async fn ask(&self, verb: &str, target: &str) -> Option<Value> {
        let call = AdminCall {
            verb: verb.to_owned(),
            target: target.to_owned(),
        };
        let mut client = MetaClient::new(self.channel.clone());
        match client.admin(call).await.ok()?.into_inner().result? {
            admin_reply::Result::Json(json) => serde_json::from_str(&json).ok(),
            _ => None,
        }
    }

    async fn admin(&self, verb: &str, target: &str) -> Value {
        let shown = self.ask(verb, target).await;
        shown.unwrap_or_else(|| panic!("{verb} {target} is not answered"))
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
                if let Some(shown) = self.ask(verb, target).await
                    && wanted(&shown)
                {
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
