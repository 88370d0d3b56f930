//! What the tests of a shard stand on: services that outlive nodes, nodes over them, rows and how
//! they are read; a log ([`poor_log`]) and a store ([`watched_store`]) that a test can trouble for
//! one node alone.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use arrow::array::{Array, AsArray};
use arrow::datatypes::Int64Type;
use auxo_engine::payload::{Batch, Entry};
use auxo_engine::{Ended, Engine, Ground, LocalTerms, OpenError, OpenLeader, Settings, Shard};
use auxo_proto::clock::Clock;
use auxo_proto::ids::{
    BatchId, ColumnId, DatabaseId, SchemaNumber, ShardId, TableId, TabletId, TenantId,
};
use auxo_proto::key;
use auxo_proto::random::Random;
use auxo_proto::rows::{FieldColumn, Rows, Validity, Values};
use auxo_proto::schema::{
    Column, ColumnKind, ColumnType, HashRange, MergeMode, Partition, TableInfo, TableOptions,
    TableSchema, TabletSpec, TimeUnit,
};
use auxo_sst::predicate::{ScanSpec, TagFilter, TimeRange};
use auxo_wal_adapters::memory::{MemorySettings, MemoryWal};
use auxo_wal_adapters::{RegionId, Wal};
use futures::TryStreamExt;
use object_store::ObjectStore;
use object_store::memory::InMemory;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

pub(crate) mod poor_log;
pub(crate) mod told;
pub(crate) mod watched_store;

use poor_log::PoorLog;
use told::{Told, seen, write};
use watched_store::WatchedStore;

/// The region of [`SHARD`].
pub(crate) const REGION: RegionId = RegionId {
    shard: 1,
    incarnation: 77,
};

pub(crate) const SHARD: ShardId = ShardId(1);
pub(crate) const TABLET: TabletId = TabletId(10);
pub(crate) const HOUR: i64 = 3_600_000_000_000;

pub(crate) fn table(mode: MergeMode) -> Arc<TableInfo> {
    let column = |id, name: &str, kind, ty| Column {
        id: ColumnId(id),
        name: name.into(),
        kind,
        ty,
        nullable: kind != ColumnKind::Time,
    };
    let columns = vec![
        column(1, "host", ColumnKind::Tag, ColumnType::String),
        column(
            2,
            "ts",
            ColumnKind::Time,
            ColumnType::Timestamp(TimeUnit::Nanosecond),
        ),
        column(3, "a", ColumnKind::Field, ColumnType::Int64),
        column(4, "b", ColumnKind::Field, ColumnType::Int64),
    ];
    Arc::new(TableInfo {
        id: TableId(5),
        tenant: TenantId(1),
        database: DatabaseId(1),
        name: "t".into(),
        schema: Arc::new(TableSchema {
            number: SchemaNumber(1),
            columns,
        }),
        partition: Partition::default(),
        options: TableOptions {
            merge_mode: mode,
            ..TableOptions::default()
        },
    })
}

/// The tablet of that table with columns that were added one after the other.
pub(crate) fn widened(mode: MergeMode, added: u32) -> TabletSpec {
    let mut wider = TableInfo::clone(&table(mode));
    let mut schema = TableSchema::clone(&wider.schema);
    let last = schema.columns.last().unwrap().clone();
    for number in 1..=added {
        schema.columns.push(Column {
            id: ColumnId(last.id.0 + number),
            name: format!("wider{number}"),
            ..last.clone()
        });
    }
    schema.number = SchemaNumber(schema.number.0 + added);
    wider.schema = Arc::new(schema);
    TabletSpec {
        id: TABLET,
        range: HashRange::FULL,
        table: Arc::new(wider),
    }
}

/// One row: host, time, and the two fields.
pub(crate) type Row = (String, i64, Option<i64>, Option<i64>);

pub(crate) fn row(host: u8, time: i64, a: Option<i64>, b: Option<i64>) -> Row {
    (format!("host_{host}"), time, a, b)
}

pub(crate) fn rows(input: &[Row]) -> Rows {
    let mut rows = Rows::default();
    let mut numbers = BTreeMap::new();
    let mut columns = [(vec![], Validity::default()), (vec![], Validity::default())];
    for (host, time, a, b) in input {
        let number = *numbers.entry(host.clone()).or_insert_with(|| {
            let key = key::encode([Some(host.as_bytes())]);
            rows.series.push(&key, key::partition_hash(&key))
        });
        rows.series_of.push(number);
        rows.time.push(*time);
        for ((values, validity), value) in columns.iter_mut().zip([a, b]) {
            values.push(value.unwrap_or(0));
            validity.push(value.is_some());
        }
    }
    for (index, (values, validity)) in columns.into_iter().enumerate() {
        let values = Values::I64(values);
        let id = ColumnId(3 + index as u32);
        rows.columns.push(FieldColumn {
            id,
            values,
            validity: Some(validity),
        });
    }
    rows
}

pub(crate) fn batch(input: &[Row], id: Option<u128>) -> Batch {
    let entry = Entry::Rows {
        table: TableId(5),
        tablet: TABLET,
        schema: SchemaNumber(1),
        rows: rows(input),
    };
    let hash = id.map_or(0, |_| input.len() as u64);
    Batch {
        tenant: TenantId(1),
        id: id.map(BatchId),
        hash,
        entries: vec![entry],
    }
}

/// The services that outlive every node.
pub(crate) struct Services {
    pub(crate) wal: MemoryWal,
    pub(crate) store: WatchedStore,
}

impl Services {
    pub(crate) fn new() -> Self {
        Self::with_log(MemorySettings::default())
    }

    pub(crate) fn with_log(settings: MemorySettings) -> Self {
        Self {
            wal: MemoryWal::new(settings),
            store: WatchedStore::new(Arc::new(InMemory::new())),
        }
    }

    /// A node with nothing open; dropping it leaves its tasks running, as a zombie's would.
    pub(crate) fn node(&self, seed: u64) -> Node {
        self.node_with(seed, Settings::default())
    }

    pub(crate) fn node_with(&self, seed: u64, settings: Settings) -> Node {
        let stop = CancellationToken::new();
        let tasks = TaskTracker::new();
        let log = PoorLog::new(self.wal.clone(), self.store.events());
        let ground = Ground {
            wal: Arc::new(log.clone()) as Arc<dyn Wal>,
            store: Arc::new(self.store.clone()) as Arc<dyn ObjectStore>,
            terms: LocalTerms::nowhere(),
            clock: Clock::from_fn(|| 100 * HOUR),
            random: Random::seeded(seed),
            tasks: tasks.clone(),
            stop: stop.clone(),
        };
        Node {
            engine: Engine::new(ground, settings),
            stop,
            tasks,
            log,
        }
    }
}

#[derive(Clone)]
pub(crate) struct Node {
    pub(crate) engine: Engine,
    pub(crate) stop: CancellationToken,
    pub(crate) tasks: TaskTracker,
    /// What this node sees of the log.
    pub(crate) log: PoorLog,
}

impl Node {
    /// Stops everything and waits for it.
    pub(crate) async fn end(&self) {
        self.stop.cancel();
        self.tasks.close();
        self.tasks.wait().await;
    }

    pub(crate) async fn lead(&self, epoch: u64) -> Shard {
        self.try_lead(epoch).await.expect("opens")
    }

    pub(crate) async fn try_lead(&self, epoch: u64) -> Result<Shard, OpenError> {
        self.engine
            .open(OpenLeader {
                shard: SHARD,
                incarnation: REGION.incarnation,
                epoch,
            })
            .await
    }

    pub(crate) async fn with_table(&self, epoch: u64, mode: MergeMode) -> Shard {
        let shard = self.lead(epoch).await;
        let spec = TabletSpec {
            id: TABLET,
            range: HashRange::FULL,
            table: table(mode),
        };
        shard.create_tablets(vec![spec]).await.expect("tablet");
        shard
    }

    pub(crate) async fn read(&self) -> Vec<Row> {
        self.read_where(TagFilter::Any, TimeRange::ALL).await
    }

    pub(crate) async fn read_where(&self, tags: TagFilter, time: TimeRange) -> Vec<Row> {
        let snapshot = self.engine.tablet(SHARD, TABLET).expect("tablet is here");
        let fields = snapshot.table().schema.fields().cloned().collect();
        let range = HashRange::FULL;
        let spec = Arc::new(ScanSpec {
            fields,
            time,
            tags,
            range,
            bounds: vec![],
        });
        let mut found = Vec::new();
        for stack in snapshot.stacks(&spec) {
            let batches: Vec<_> = stack.open(&spec).try_collect().await.expect("reads");
            for batch in batches {
                for slice in 0..batch.series.len() {
                    let host = key::tag(&batch.series[slice].key, 0).unwrap().unwrap();
                    let host = String::from_utf8(host.into_owned()).unwrap();
                    for row in batch.slice_rows(slice) {
                        let value = |field: usize| {
                            let array = batch.fields[field].as_primitive::<Int64Type>();
                            array.is_valid(row).then(|| array.value(row))
                        };
                        found.push((host.clone(), batch.time[row], value(0), value(1)));
                    }
                }
            }
        }
        found.sort();
        found
    }
}

pub(crate) fn sorted(mut rows: Vec<Row>) -> Vec<Row> {
    rows.sort();
    rows
}

pub(crate) fn patient(patience_ms: u64) -> Settings {
    Settings {
        patience_ms,
        ..Settings::default()
    }
}

/// How leadership ended, within a time in which it surely does.
pub(crate) async fn ended(shard: &Shard) -> Ended {
    let mut ended = shard.ended();
    let waited = ended.wait_for(Option::is_some);
    let waited = tokio::time::timeout(Duration::from_secs(20), waited).await;
    waited.expect("ends").unwrap().clone().unwrap()
}

pub(crate) async fn until(what: &str, mut holds: impl FnMut() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(20);
    while !holds() {
        assert!(Instant::now() < deadline, "never: {what}");
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
}

/// First offset of the region that is not taken: each frame takes one.
pub(crate) fn log_end(services: &Services) -> u64 {
    use futures::FutureExt;
    let asked = async { services.wal.open(REGION).await?.end().await };
    asked
        .now_or_never()
        .expect("memory does not wait")
        .unwrap()
        .offset
}

/// Checks the model at the old leader, at two successors with late frames landing in between, and
/// after a flush.
pub(crate) async fn check_for_ever(services: &Services, old: &Node, told: &Told, case: &str) {
    told.check(&seen(old).await).expect(case);
    for epoch in [1_000, 1_001] {
        let next = services.node(epoch);
        let shard = next.lead(epoch).await;
        services.wal.land_late(REGION).unwrap();
        write(&shard, 900_000 + epoch as i64, None)
            .await
            .expect(case);
        told.check(&seen(&next).await).expect(case);
        shard.flush().await.expect(case);
        told.check(&seen(&next).await).expect(case);
        next.stop.cancel();
    }
}
