//! The session against a real meta service on a real embedded etcd: joining, changes, topology, and
//! starts with and without meta.

#![allow(
    clippy::unwrap_used,
    reason = "a test ends where something is not as wanted"
)]

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use auxo_compute_node::session::client::{Changed, MetaClient};
use auxo_compute_node::session::doors::Doors;
use auxo_compute_node::session::in_process::in_process;
use auxo_compute_node::session::kept::NodeFile;
use auxo_compute_node::session::verbs::{OpenShard, ShardRole, VerbError, Verbs};
use auxo_compute_node::session::{Session, SessionConfig};
use auxo_meta_service::{MetaConfig, MetaServer};
use auxo_proto::clock::Clock;
use auxo_proto::ddl::{Ddl, DdlRequest, NewColumn, NewTable};
use auxo_proto::error::{ErrorCode, Failure};
use auxo_proto::ids::{ShardId, TabletId, TenantId};
use auxo_proto::pb::meta::{NodeLoad, Role, ShardPhase, ShardState};
use auxo_proto::random::Random;
use auxo_proto::schema::{ColumnKind, ColumnType, TableOptions, TabletSpec, TimeUnit};
use parking_lot::Mutex;
use tempfile::TempDir;
use tokio::sync::watch;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tonic::transport::Channel;

const PATIENCE: Duration = Duration::from_secs(30);

/// An engine that only remembers what it was told.
struct Remembers {
    shards: Mutex<BTreeMap<u64, ShardState>>,
    schemas: Mutex<BTreeMap<TabletId, u32>>,
    opened: watch::Sender<Vec<(u64, u64)>>,
}

impl Default for Remembers {
    fn default() -> Self {
        Self {
            shards: Mutex::default(),
            schemas: Mutex::default(),
            opened: watch::Sender::new(Vec::new()),
        }
    }
}

#[async_trait]
impl Verbs for Remembers {
    async fn open(&self, open: OpenShard) -> Result<ShardState, VerbError> {
        assert_eq!(open.role, ShardRole::Leader);
        assert_ne!(open.incarnation, 0);
        let state = ShardState {
            shard: open.shard.0,
            role: Role::Leader.into(),
            epoch: open.epoch,
            phase: ShardPhase::Serving.into(),
            ..ShardState::default()
        };
        self.shards.lock().insert(open.shard.0, state.clone());
        let opened = (open.shard.0, open.epoch);
        self.opened.send_modify(|all| all.push(opened));
        Ok(state)
    }

    async fn close(&self, shard: ShardId, _: u64) -> Result<(), VerbError> {
        self.shards.lock().remove(&shard.0);
        Ok(())
    }

    async fn switch(&self, _: ShardId, _: u64, _: ShardRole) -> Result<ShardState, VerbError> {
        Err(VerbError::permanent("UNSUPPORTED", "switch"))
    }

    async fn flush(&self, _: ShardId, _: u64, _: u64) -> Result<ShardState, VerbError> {
        Err(VerbError::permanent("UNSUPPORTED", "flush"))
    }

    async fn create_tablets(
        &self,
        shard: ShardId,
        _: u64,
        tablets: Vec<TabletSpec>,
    ) -> Result<(), VerbError> {
        if !self.shards.lock().contains_key(&shard.0) {
            return Err(VerbError::passing("NO_LEADER", "shard is not open"));
        }
        let mut schemas = self.schemas.lock();
        schemas.extend(
            tablets
                .iter()
                .map(|tablet| (tablet.id, tablet.table.schema.number.0)),
        );
        Ok(())
    }

    async fn drop_tablets(
        &self,
        _: ShardId,
        _: u64,
        tablets: Vec<TabletId>,
    ) -> Result<(), VerbError> {
        let mut schemas = self.schemas.lock();
        schemas.retain(|tablet, _| !tablets.contains(tablet));
        Ok(())
    }

    fn shards(&self) -> Vec<ShardState> {
        self.shards.lock().values().cloned().collect()
    }

    fn load(&self) -> NodeLoad {
        NodeLoad::default()
    }
}

struct Etcd {
    server: auxo_etcd::Server,
    _directory: TempDir,
}

async fn etcd() -> Etcd {
    let directory = tempfile::tempdir().unwrap();
    let settings = auxo_etcd::Config {
        data_dir: directory.path().to_owned(),
        ..auxo_etcd::Config::default()
    };
    let server = auxo_etcd::Server::start(settings, None, 7).await.unwrap();
    Etcd {
        server,
        _directory: directory,
    }
}

impl Etcd {
    async fn meta(&self) -> (MetaServer, Channel) {
        let (channel, incoming) = in_process();
        let etcd = etcd_client::Client::from_channel(self.server.channel(), None);
        let meta = MetaServer::start(
            MetaConfig::default(),
            etcd.await.unwrap(),
            Clock::system(),
            Random::from_system(),
            incoming,
            CancellationToken::new(),
        );
        (meta.await.unwrap(), channel)
    }
}

struct Node {
    session: Session,
    client: MetaClient,
    engine: Arc<Remembers>,
    tasks: TaskTracker,
    stop: CancellationToken,
}

async fn node(channel: &Channel, directory: &Path) -> Node {
    node_called("node-1", channel, directory).await
}

async fn node_called(name: &str, channel: &Channel, directory: &Path) -> Node {
    let engine = Arc::new(Remembers::default());
    let (tasks, stop) = (TaskTracker::new(), CancellationToken::new());
    let doors = Doors::one(channel.clone());
    let config = SessionConfig {
        name: name.to_owned(),
        public: "127.0.0.1:1".to_owned(),
        internal: String::new(),
        zone: String::new(),
        labels: BTreeMap::new(),
        build: "test".to_owned(),
        directory: directory.to_owned(),
    };
    let session = Session::start(
        config,
        doors.clone(),
        Arc::clone(&engine) as Arc<dyn Verbs>,
        Clock::system(),
        Random::from_system(),
        tasks.clone(),
        stop.clone(),
    );
    Node {
        session: session.await.unwrap(),
        client: MetaClient::new(doors, Clock::system(), Random::from_system()),
        engine,
        tasks,
        stop,
    }
}

impl Node {
    /// Has a change carried out and waits until this node's catalog shows it.
    async fn ddl(&self, ddl: Ddl) -> Result<Changed, Failure> {
        let request = DdlRequest {
            tenant: TenantId(1),
            ddl,
            request_key: None,
        };
        let asked: futures::future::BoxFuture<'_, _> = Box::pin(self.client.ddl(request, PATIENCE));
        let changed = asked.await?;
        let deadline = Instant::now() + PATIENCE;
        assert!(self.session.wait_topology(changed.topology, deadline).await);
        Ok(changed)
    }

    async fn opened(&self, wanted: usize) -> Vec<(u64, u64)> {
        let mut opened = self.engine.opened.subscribe();
        let all = opened.wait_for(|opened| opened.len() >= wanted);
        let mut all = tokio::time::timeout(PATIENCE, all)
            .await
            .unwrap()
            .unwrap()
            .clone();
        all.sort_unstable();
        all
    }

    async fn stop(self) {
        self.stop.cancel();
        self.tasks.close();
        self.tasks.wait().await;
    }
}

fn column(name: &str, kind: ColumnKind, ty: ColumnType) -> NewColumn {
    NewColumn {
        name: name.to_owned(),
        kind,
        ty,
        nullable: kind != ColumnKind::Time,
    }
}

fn create(name: &str, partitions: u32) -> Ddl {
    let time = ColumnType::Timestamp(TimeUnit::Millisecond);
    Ddl::CreateTable {
        table: NewTable {
            database: "main".to_owned(),
            name: name.to_owned(),
            columns: vec![
                column("host", ColumnKind::Tag, ColumnType::String),
                column("ts", ColumnKind::Time, time),
                column("usage", ColumnKind::Field, ColumnType::Float64),
            ],
            partition_by: vec!["host".to_owned()],
            partitions,
            options: TableOptions::default(),
        },
        if_not_exists: false,
    }
}

#[tokio::test]
async fn a_table_is_made_altered_and_dropped() {
    let directory = tempfile::tempdir().unwrap();
    let etcd = etcd().await;
    let (meta, channel) = etcd.meta().await;
    let node = node(&channel, directory.path()).await;
    let table = node.ddl(create("cpu", 3)).await.unwrap().table.unwrap();
    let catalog = Arc::clone(&node.session.catalog().borrow());
    let main = catalog.database(TenantId(1), "main").unwrap().id;
    assert_eq!(catalog.table(main, "cpu").unwrap().id, table.id);
    assert_eq!(catalog.tablets(table.id).len(), 3);
    let me = *node.session.node().borrow();
    for tablet in catalog.tablets(table.id) {
        assert_eq!(catalog.leader(tablet.shard), me);
    }
    let again = node.ddl(create("cpu", 3)).await.unwrap_err();
    assert_eq!(again.code, ErrorCode::AlreadyExists);
    let add = Ddl::AddColumns {
        table: table.id,
        columns: vec![column("idle", ColumnKind::Field, ColumnType::Float64)],
        if_not_exists: true,
    };
    let altered = node.ddl(add).await.unwrap().table.unwrap();
    assert_eq!(altered.schema.columns.len(), 4);
    let schemas: Vec<u32> = node.engine.schemas.lock().values().copied().collect();
    assert_eq!(schemas, [2, 2, 2]);
    let status = node.client.admin("status", "", PATIENCE).await.unwrap();
    assert!(status.contains(r#""tables":1"#), "{status}");
    let unknown = node.client.admin("nonsense", "", PATIENCE).await;
    assert_eq!(unknown.unwrap_err().code, ErrorCode::BadRequest);
    let drop = Ddl::DropTable {
        database: "main".to_owned(),
        name: "cpu".to_owned(),
        if_exists: false,
    };
    node.ddl(drop).await.unwrap();
    let catalog = Arc::clone(&node.session.catalog().borrow());
    assert!(catalog.table(main, "cpu").is_none());
    node.stop().await;
    meta.stop().await;
    etcd.server.stop().await;
}

#[tokio::test]
async fn a_restarted_node_is_the_same_node_and_leads_under_the_same_epochs() {
    let directory = tempfile::tempdir().unwrap();
    let etcd = etcd().await;
    let (meta, channel) = etcd.meta().await;
    let first = node(&channel, directory.path()).await;
    let made = first.ddl(create("cpu", 2)).await.unwrap();
    assert_eq!(first.opened(2).await, [(1, 1), (2, 1)]);
    let id = *first.session.node().borrow();
    first.stop().await;
    let second = node(&channel, directory.path()).await;
    assert_eq!(
        *second.session.node().borrow(),
        id,
        "known from its own disk"
    );
    assert_eq!(second.opened(2).await, [(1, 1), (2, 1)]);
    let deadline = Instant::now() + PATIENCE;
    assert!(second.session.wait_topology(made.topology, deadline).await);
    second.ddl(create("mem", 2)).await.unwrap();
    second.stop().await;
    meta.stop().await;
    etcd.server.stop().await;
}

#[tokio::test]
async fn who_leaves_hears_who_leads_now() {
    let directories = [tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap()];
    let etcd = etcd().await;
    let (meta, channel) = etcd.meta().await;
    let first = node(&channel, directories[0].path()).await;
    first.opened(2).await;
    let second = node_called("node-2", &channel, directories[1].path()).await;
    let mut known = second.session.node();
    let known = tokio::time::timeout(PATIENCE, known.wait_for(Option::is_some));
    let id = *known.await.unwrap().unwrap();
    first.session.leave();
    let mut catalog = first.session.catalog();
    let led = catalog.wait_for(|catalog| {
        let shards = &catalog.topology().shards;
        !shards.is_empty() && shards.iter().all(|shard| shard.leader == id)
    });
    tokio::time::timeout(PATIENCE, led).await.unwrap().unwrap();
    let opened = second.opened(2).await;
    assert!(opened.iter().all(|(_, epoch)| *epoch > 1), "{opened:?}");
    first.stop().await;
    second.stop().await;
    meta.stop().await;
    etcd.server.stop().await;
}

#[tokio::test]
async fn without_meta_a_node_starts_with_what_it_kept() {
    let directory = tempfile::tempdir().unwrap();
    let etcd = etcd().await;
    let (meta, channel) = etcd.meta().await;
    let first = node(&channel, directory.path()).await;
    let made = first.ddl(create("cpu", 2)).await.unwrap();
    // The topology reaches the disk a moment later.
    let kept = directory.path().join("topology.json");
    let written = async {
        while !tokio::fs::read_to_string(&kept)
            .await
            .is_ok_and(|text| text.contains("\"cpu\""))
        {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    tokio::time::timeout(PATIENCE, written).await.unwrap();
    first.stop().await;
    meta.stop().await;
    let second = node(&channel, directory.path()).await;
    let catalog = Arc::clone(&second.session.catalog().borrow());
    assert_eq!(catalog.tablets(made.table.unwrap().id).len(), 2);
    assert_eq!(second.opened(2).await, [(1, 1), (2, 1)]);
    let request = DdlRequest {
        tenant: TenantId(1),
        ddl: create("mem", 1),
        request_key: None,
    };
    let asked = second.client.ddl(request, Duration::from_millis(500)).await;
    let refused = asked.unwrap_err();
    assert_eq!(refused.code, ErrorCode::MetaUnavailable);
    assert!(refused.retryable());
    second.stop().await;
    etcd.server.stop().await;
}

#[tokio::test]
async fn a_shard_that_went_just_before_the_end_is_not_taken_for_the_own() {
    let directory = tempfile::tempdir().unwrap();
    let etcd = etcd().await;
    let (meta, channel) = etcd.meta().await;
    let first = node(&channel, directory.path()).await;
    first.opened(2).await;
    let id = *first.session.node().borrow();
    let kept = directory.path().join("topology.json");
    let own = format!("\"leader\":{}", id.unwrap().0);
    let written = async {
        while !tokio::fs::read_to_string(&kept)
            .await
            .is_ok_and(|text| text.matches(&own).count() == 2)
        {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    tokio::time::timeout(PATIENCE, written).await.unwrap();
    first.stop().await;
    meta.stop().await;
    let file = NodeFile::new(directory.path());
    let mut own = file.read().await.unwrap().unwrap();
    own.opens.retain(|open| open.shard == ShardId(1));
    file.write(&own).await.unwrap();
    let second = node(&channel, directory.path()).await;
    let catalog = Arc::clone(&second.session.catalog().borrow());
    let leaders: Vec<_> = catalog
        .topology()
        .shards
        .iter()
        .map(|shard| shard.leader)
        .collect();
    assert_eq!(leaders, [id, None]);
    assert_eq!(second.opened(1).await, [(1, 1)]);
    second.stop().await;
    etcd.server.stop().await;
}

#[tokio::test]
async fn a_damaged_node_file_is_named_and_a_damaged_topology_is_asked_for_again() {
    let directory = tempfile::tempdir().unwrap();
    let etcd = etcd().await;
    let (meta, channel) = etcd.meta().await;
    let topology = directory.path().join("topology.json");
    tokio::fs::write(&topology, b"{}\n{}\n").await.unwrap();
    let node = node(&channel, directory.path()).await;
    node.ddl(create("cpu", 1)).await.unwrap();
    node.stop().await;
    let file = directory.path().join("node.json");
    let mut bytes = tokio::fs::read(&file).await.unwrap();
    let last = bytes.len() - 3;
    bytes[last] ^= 1;
    tokio::fs::write(&file, &bytes).await.unwrap();
    let doors = Doors::one(channel.clone());
    let config = SessionConfig {
        name: "node-1".to_owned(),
        public: String::new(),
        internal: String::new(),
        zone: String::new(),
        labels: BTreeMap::new(),
        build: String::new(),
        directory: directory.path().to_owned(),
    };
    let started = Session::start(
        config,
        doors,
        Arc::new(Remembers::default()),
        Clock::system(),
        Random::from_system(),
        TaskTracker::new(),
        CancellationToken::new(),
    );
    let refused = started.await.err().unwrap().to_string();
    assert!(refused.contains("node.json is damaged"), "{refused}");
    meta.stop().await;
    etcd.server.stop().await;
}
