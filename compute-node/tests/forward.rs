//! A write taken by a node that does not lead its shard: forwarded once, settled as what it is.

#![allow(
    clippy::unwrap_used,
    reason = "a test ends where something is not as wanted"
)]

use std::sync::Arc;
use std::time::Duration;

use auxo_compute_node::forward::door::Door;
use auxo_compute_node::forward::peers::Peers;
use auxo_compute_node::session::doors::Dial;
use auxo_compute_node::session::in_process::in_process;
use auxo_compute_node::write::{Routes, TableRows, WriteRequest, WriteSummary, Writer};
use auxo_engine::{Engine, Ground, LocalTerms, OpenLeader, Settings};
use auxo_proto::clock::Clock;
use auxo_proto::error::{ErrorCode, Failure, Outcome};
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
use auxo_proto::topology::{Catalog, NodeRoute, ShardRoute, TabletRoute, Topology};
use auxo_wal_adapters::memory::{MemorySettings, MemoryWal};
use auxo_wal_adapters::{RegionId, Wal};
use futures::StreamExt;
use object_store::memory::InMemory;
use tokio::sync::watch;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tonic::transport::Server;

const SHARD: ShardId = ShardId(1);
const TABLET: TabletId = TabletId(10);
const LEADER: &str = "leader:7401";
const NOBODY: &str = "nobody:7401";

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

fn topology(number: u64, leader: Option<&str>) -> Arc<Catalog> {
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
        ..Topology::default()
    }))
}

/// Two nodes: one that leads the shard, and a writer that does not.
struct Two {
    wal: MemoryWal,
    leader: Engine,
    writer: Writer,
    catalog: watch::Sender<Arc<Catalog>>,
    /// Cuts every connection to the leader.
    cut: CancellationToken,
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

async fn two(leader_at: Option<&str>) -> Two {
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
    let served = Server::builder()
        .add_service(door.service())
        .serve_with_incoming_shutdown(incoming, stop.clone().cancelled_owned());
    tasks.spawn(served);

    // Nobody listens behind this one.
    let (nobody, closed) = in_process();
    drop(closed);
    let dial: Dial = Arc::new(move |address| match address {
        LEADER => Some(channel.clone()),
        NOBODY => Some(nobody.clone()),
        _ => None,
    });
    let (node, own) = watch::channel(Some(NodeId(1)));
    let routes = Routes {
        peers: Peers::new(dial, tasks.clone(), stop.clone()),
        catalog: watched,
        node: own,
    };
    let clock = Clock::from_fn(|| 1_000_000_000_000_000);
    Two {
        writer: Writer::new(engine(&wal, 2, &tasks, &stop), clock, routes),
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
    async fn write(&self, count: i64, id: Option<u128>) -> Result<WriteSummary, Failure> {
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
    fn there(&self) -> u64 {
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

#[tokio::test]
async fn a_write_reaches_the_leader_once() {
    let two = two(Some(LEADER)).await;
    let id = Some(7 << 80);
    let first = two.write(3, id).await.unwrap();
    assert_eq!((first.rows, first.replayed, two.there()), (3, false, 3));
    let again = two.write(3, id).await.unwrap();
    assert_eq!((again.seqs, again.replayed), (first.seqs, true));
    let other = two.write(4, id).await.unwrap_err();
    assert_eq!(other.code, ErrorCode::BatchConflict);
    assert_eq!(other.outcome, Some(Outcome::Rejected));
    assert_eq!(two.there(), 3);
}

#[tokio::test]
async fn many_at_once_are_each_answered() {
    let two = two(Some(LEADER)).await;
    let writes = (1..=600).map(|_| two.write(1, None));
    let written = futures::future::join_all(writes).await;
    let done = written.iter().filter(|written| written.is_ok()).count();
    for failed in written.iter().filter_map(|written| written.as_ref().err()) {
        assert_eq!(failed.code, ErrorCode::Busy, "{failed}");
        assert_eq!(failed.outcome, Some(Outcome::Rejected));
    }
    assert!(done >= 256, "{done} of 600");
}

#[tokio::test]
async fn without_a_leader_a_write_waits_a_moment_and_is_refused() {
    let two = two(None).await;
    let refused = two.write(1, None).await.unwrap_err();
    assert_eq!(refused.code, ErrorCode::NoLeader);
    assert_eq!(refused.outcome, Some(Outcome::Rejected));
    assert!(refused.retry_after_ms.is_some());
}

#[tokio::test]
async fn a_leader_that_appears_meanwhile_gets_the_write() {
    let two = two(Some(NOBODY)).await;
    let write = two.write(2, None);
    let news = async {
        tokio::task::yield_now().await;
        two.catalog.send_replace(topology(2, Some(LEADER)));
    };
    let (written, ()) = tokio::join!(write, news);
    assert_eq!(written.unwrap().rows, 2);
    assert_eq!(two.there(), 2);
}

#[tokio::test]
async fn a_node_that_cannot_be_reached_has_certainly_not_taken_it() {
    let two = two(Some(NOBODY)).await;
    let refused = two.write(1, None).await.unwrap_err();
    assert_eq!(refused.code, ErrorCode::NoLeader);
    assert_eq!(refused.outcome, Some(Outcome::Rejected));
    assert!(refused.detail.contains(NOBODY), "{refused}");
}

#[tokio::test]
async fn a_connection_that_breaks_before_the_answer_leaves_the_outcome_open() {
    let two = two(Some(LEADER)).await;
    two.write(1, None).await.unwrap();
    let region = RegionId {
        shard: SHARD.0,
        incarnation: 77,
    };
    two.wal.stall(region, true).unwrap();
    let write = two.write(5, None);
    let cut = async {
        // The leader has it once it holds memory for it.
        let deadline = Instant::now() + Duration::from_secs(10);
        while two.leader.budget().requests() == 0 {
            assert!(
                Instant::now() < deadline,
                "the write never reached the leader"
            );
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        two.cut.cancel();
    };
    let (written, ()) = tokio::join!(write, cut);
    let unknown = written.unwrap_err();
    assert_eq!(unknown.code, ErrorCode::OutcomeUnknown);
    assert_eq!(unknown.outcome, Some(Outcome::Unknown));
}

#[tokio::test]
async fn what_is_no_write_is_refused() {
    use auxo_engine::payload::{Batch, Entry, encode_batch, join};
    use auxo_proto::pb::node::ForwardedWrite;
    use auxo_proto::pb::node::forwarded_answer::Outcome as Answered;
    use auxo_proto::pb::node::forwarding_client::ForwardingClient;

    let two = two(Some(LEADER)).await;
    let (channel, incoming) = in_process();
    let stop = CancellationToken::new();
    let door = Door::new(
        two.leader.clone(),
        two.catalog.subscribe(),
        TaskTracker::new(),
        stop.clone(),
    );
    let served = Server::builder()
        .add_service(door.service())
        .serve_with_incoming_shutdown(incoming, stop.clone().cancelled_owned());
    let tasks = TaskTracker::new();
    tasks.spawn(served);
    let tablets = Batch {
        tenant: TenantId(0),
        id: None,
        hash: 0,
        entries: vec![Entry::DropTablets(vec![TABLET])],
    };
    let tablets = encode_batch(&tablets).unwrap();
    let (drop_tablets, _) = join([&tablets], usize::MAX);
    let (two_batches, _) = join([&tablets, &tablets], usize::MAX);
    let payloads = [
        b"garbage".to_vec().into(),
        bytes::Bytes::new(),
        drop_tablets,
        two_batches,
    ];
    let messages: Vec<ForwardedWrite> = payloads
        .into_iter()
        .enumerate()
        .map(|(at, payload)| ForwardedWrite {
            number: at as u64,
            shard: SHARD.0,
            payload,
            deadline_ms: 5_000,
        })
        .collect();
    let count = messages.len();
    let mut client = ForwardingClient::new(channel);
    let answers = client.write(tokio_stream::iter(messages)).await.unwrap();
    let mut answers = answers.into_inner();
    for _ in 0..count {
        let answer = answers.message().await.unwrap().unwrap();
        let Some(Answered::Refused(refusal)) = answer.outcome else {
            panic!("{answer:?}");
        };
        assert_eq!(refusal.code, u32::from(ErrorCode::BadRequest.number()));
        assert!(!refusal.unknown);
    }
    assert!(two.leader.tablet(SHARD, TABLET).is_ok());
}
