//! Two nodes in one process: one leads a shard with one tablet, the other takes requests for it.

use std::sync::Arc;
use std::time::Duration;

use auxo_compute_node::channels::Channels;
use auxo_compute_node::forward::door::Door;
use auxo_compute_node::forward::peers::Peers;
use auxo_compute_node::reading;
use auxo_compute_node::reading::places::Places;
use auxo_compute_node::session::doors::Dial;
use auxo_compute_node::session::in_process::in_process;
use auxo_compute_node::write::{Routes, TableRows, WriteRequest, WriteSummary, Writer};
use auxo_engine::{Engine, Ground, LocalTerms, OpenLeader, Settings};
use auxo_proto::clock::Clock;
use auxo_proto::error::Failure;
use auxo_proto::ids::{
    BatchId, ColumnId, DatabaseId, NodeId, SchemaNumber, ShardId, TableId, TabletId, TenantId,
};
use auxo_proto::key;
use auxo_proto::random::Random;
use auxo_proto::rows::{FieldColumn, Rows, Values};
use auxo_proto::schema::{
    Column, ColumnKind, ColumnType, HashRange, Partition, TableInfo, TableOptions, TableSchema,
    TabletSpec, TimeUnit,
};
use auxo_proto::topology::{Catalog, DatabaseInfo, NodeRoute, ShardRoute, TabletRoute, Topology};
use auxo_query::{Query, QueryConfig, Threads};
use auxo_wal_adapters::Wal;
use auxo_wal_adapters::memory::{MemorySettings, MemoryWal};
use futures::StreamExt;
use object_store::memory::InMemory;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tonic::transport::{Channel, Server};

pub(crate) const SHARD: ShardId = ShardId(1);
pub(crate) const TABLET: TabletId = TabletId(10);
pub(crate) const LEADER: &str = "leader:7401";
pub(crate) const NOBODY: &str = "nobody:7401";

fn table() -> Arc<TableInfo> {
    let column = |id, name: &str, kind, ty| Column {
        id: ColumnId(id),
        name: name.into(),
        kind,
        ty,
        nullable: kind != ColumnKind::Time,
    };
    let time = ColumnType::Timestamp(TimeUnit::Nanosecond);
    Arc::new(TableInfo {
        id: TableId(5),
        tenant: TenantId(1),
        database: DatabaseId(1),
        name: "t".into(),
        schema: Arc::new(TableSchema {
            number: SchemaNumber(1),
            columns: vec![
                column(1, "host", ColumnKind::Tag, ColumnType::String),
                column(2, "ts", ColumnKind::Time, time),
                column(3, "n", ColumnKind::Field, ColumnType::Int64),
            ],
        }),
        partition: Partition::default(),
        options: TableOptions::default(),
    })
}

pub(crate) fn topology(number: u64, leader: Option<&str>) -> Arc<Catalog> {
    let node = |id, internal: &str| NodeRoute {
        id: NodeId(id),
        name: format!("n{id}"),
        public: String::new(),
        internal: internal.into(),
    };
    Arc::new(Catalog::new(Topology {
        number,
        tables: vec![table()],
        tablets: vec![TabletRoute {
            id: TABLET,
            table: TableId(5),
            range: HashRange::FULL,
            shard: SHARD,
        }],
        shards: vec![ShardRoute {
            id: SHARD,
            epoch: 1,
            leader: leader.map(|_| NodeId(2)),
        }],
        nodes: vec![node(1, "me:7401"), node(2, leader.unwrap_or_default())],
        databases: vec![DatabaseInfo {
            id: DatabaseId(1),
            tenant: TenantId(1),
            name: "main".into(),
        }],
    }))
}

/// Two nodes: one that leads the shard, and a writer that does not.
pub(crate) struct Two {
    /// The log of both.
    pub(crate) wal: MemoryWal,
    /// The engine that leads the shard.
    pub(crate) leader: Engine,
    /// Writes on the other node.
    pub(crate) writer: Writer,
    /// Where the other node reads.
    pub(crate) places: Places,
    /// Statements of the other node.
    pub(crate) query: Arc<Query>,
    /// What both know.
    pub(crate) catalog: watch::Sender<Arc<Catalog>>,
    /// Behind which the leader answers for reads.
    pub(crate) door: reading::door::Door,
    /// To the leader.
    pub(crate) channel: Channel,
    /// Cuts every connection to the leader.
    pub(crate) cut: CancellationToken,
    _stop: tokio_util::sync::DropGuard,
    _node: watch::Sender<Option<NodeId>>,
}

fn engine(wal: &MemoryWal, seed: u64, tasks: &TaskTracker, stop: &CancellationToken) -> Engine {
    let ground = Ground {
        wal: Arc::new(wal.clone()) as Arc<dyn Wal>,
        store: Arc::new(InMemory::new()),
        terms: LocalTerms::nowhere(),
        clock: Clock::from_fn(|| 1_000_000_000_000_000),
        random: Random::seeded(seed),
        tasks: tasks.clone(),
        stop: stop.clone(),
    };
    Engine::new(ground, Settings::default())
}

pub(crate) async fn two(leader_at: Option<&str>) -> Two {
    let (tasks, stop, cut) = (
        TaskTracker::new(),
        CancellationToken::new(),
        CancellationToken::new(),
    );
    let wal = MemoryWal::new(MemorySettings::default());
    let leader = engine(&wal, 1, &tasks, &stop);
    let open = OpenLeader {
        shard: SHARD,
        incarnation: 77,
        epoch: 1,
    };
    let spec = TabletSpec {
        id: TABLET,
        range: HashRange::FULL,
        table: table(),
    };
    let shard = leader.open(open).await.unwrap();
    shard.create_tablets(vec![spec]).await.unwrap();

    let (channel, incoming) = in_process();
    let (wires, wire_cut) = (tasks.clone(), cut.clone());
    let incoming = incoming.map(move |near| {
        let (mut near, (mut inner, far)) = (near?, tokio::io::duplex(1 << 20));
        let cut = wire_cut.clone();
        wires.spawn(async move {
            tokio::select! {
                () = cut.cancelled() => {}
                _ = tokio::io::copy_bidirectional(&mut near, &mut inner) => {}
            }
        });
        Ok::<_, std::io::Error>(far)
    });
    let (catalog, watched) = watch::channel(topology(1, leader_at));
    let door = Door::new(leader.clone(), watched.clone(), tasks.clone(), stop.clone());
    let clock = Clock::from_fn(|| 1_000_000_000_000_000);
    let query =
        || Arc::new(Query::new(&QueryConfig::default(), clock.clone(), Threads::shared()).unwrap());
    let reads = reading::door::Door::new(
        leader.clone(),
        query(),
        watched.clone(),
        Random::seeded(3),
        tasks.clone(),
        stop.clone(),
    );
    let served = Server::builder()
        .add_service(reads.holds())
        .add_service(reads.parts())
        .add_service(door.service())
        .serve_with_incoming_shutdown(incoming, stop.clone().cancelled_owned());
    tasks.spawn(served);

    // Nobody listens behind this one.
    let (nobody, closed) = in_process();
    drop(closed);
    let leaders = channel.clone();
    let dial: Dial = Arc::new(move |address| match address {
        LEADER => Some(leaders.clone()),
        NOBODY => Some(nobody.clone()),
        _ => None,
    });
    let (node, own) = watch::channel(Some(NodeId(1)));
    let routes = Routes {
        peers: Peers::new(Arc::clone(&dial), tasks.clone(), stop.clone()),
        catalog: watched.clone(),
        node: own.clone(),
    };
    let follower = engine(&wal, 2, &tasks, &stop);
    Two {
        places: Places {
            engine: follower.clone(),
            catalog: watched,
            node: own,
            channels: Channels::new(dial),
        },
        query: query(),
        door: reads,
        channel,
        writer: Writer::new(follower, clock, routes),
        wal,
        leader,
        catalog,
        cut,
        _stop: stop.drop_guard(),
        _node: node,
    }
}

fn rows(count: i64) -> Rows {
    let mut rows = Rows::default();
    let key = key::encode([Some("a".as_bytes())]);
    rows.series.push(&key, key::partition_hash(&key));
    let mut values = Vec::new();
    for n in 0..count {
        rows.series_of.push(0);
        rows.time.push(n);
        values.push(n);
    }
    rows.columns.push(FieldColumn {
        id: ColumnId(3),
        values: Values::I64(values),
        validity: None,
    });
    rows
}

impl Two {
    /// Writes rows of one host, of the times 0 up to `count`.
    pub(crate) async fn write(
        &self,
        count: i64,
        id: Option<u128>,
    ) -> Result<WriteSummary, Failure> {
        let request = WriteRequest {
            tenant: TenantId(1),
            id: id.map(BatchId),
            body_hash: count as u64,
            tables: vec![TableRows {
                table: table(),
                rows: rows(count),
            }],
        };
        let catalog = Arc::clone(&self.catalog.borrow());
        self.writer.write(&catalog, request).await
    }

    /// Rows that the leader has.
    pub(crate) fn there(&self) -> u64 {
        let tablet = self.leader.tablet(SHARD, TABLET).unwrap();
        let fields = tablet.table().schema.fields().cloned().collect();
        let spec = auxo_sst::predicate::ScanSpec {
            fields,
            time: auxo_sst::predicate::TimeRange::ALL,
            tags: auxo_sst::predicate::TagFilter::Any,
            range: HashRange::FULL,
            bounds: vec![],
        };
        let stacks = tablet.stacks(&spec);
        stacks.iter().map(|stack| stack.rows_at_most()).sum()
    }
}

/// Waits until a condition holds, for ten seconds at most.
pub(crate) async fn until(what: &str, holds: impl Fn() -> bool) {
    let waiting = async {
        while !holds() {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    };
    let waited = tokio::time::timeout(Duration::from_secs(10), waiting).await;
    assert!(waited.is_ok(), "not in time: {what}");
}
