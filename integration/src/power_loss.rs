//! What a shard finds after a loss of power, at as many moments as wanted.
//!
//! 1. One process leads a shard over a local log and a local store, both on one tape; leaders follow
//!    each other without a goodbye. Writers note where the tape was at each ack.
//! 2. At moments of the tape, half of them right behind an ack, the disk is built as it would be
//!    found: only what was synced, or with torn leftovers of what was not.
//! 3. A leader opens each of them. Every row acked before the moment is there once, no row twice.
//!
//! Never here: a process that is killed (that is `kill-loop`), faults of the log's own service.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use arrow::array::AsArray;
use arrow::datatypes::Int64Type;
use auxo_engine::payload::{Batch, Entry};
use auxo_engine::{Engine, Ground, LocalTerms, OpenLeader, Settings, Shard, WriteError};
use auxo_proto::clock::Clock;
use auxo_proto::ids::{
    BatchId, ColumnId, DatabaseId, SchemaNumber, ShardId, TableId, TabletId, TenantId,
};
use auxo_proto::key;
use auxo_proto::random::Random;
use auxo_proto::rows::{FieldColumn, Rows, Values};
use auxo_proto::schema::{
    Column, ColumnKind, ColumnType, HashRange, MergeMode, Partition, TableInfo, TableOptions,
    TableSchema, TabletSpec, TimeUnit,
};
use auxo_sst::local_store::{Change, LocalStore};
use auxo_sst::predicate::{ScanSpec, TagFilter, TimeRange};
use auxo_wal_adapters::Wal;
use auxo_wal_adapters::local::{Disk, LocalSettings, LocalWal, Tape};
use bytes::BytesMut;
use futures::TryStreamExt;
use parking_lot::{Mutex, RwLock};
use tokio::task::JoinSet;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

const SHARD: ShardId = ShardId(1);
const TABLET: TabletId = TabletId(10);
const TENANT: TenantId = TenantId(1);
const TABLE: TableId = TableId(5);
const WRITERS: u64 = 3;
const BATCH_ROWS: u64 = 20;
/// Leaders that follow each other, and how long each one leads.
const LEADERS: u64 = 4;
const LEADS: Duration = Duration::from_millis(1_500);

/// What was found.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Verdict {
    /// Rows that were acked before the power failed and are missing, over all images.
    pub lost: u64,
    /// Rows that stand more than once.
    pub doubled: u64,
    /// Images that were opened.
    pub images: u64,
    /// Changes on the tape.
    pub steps: usize,
    /// Rows acked during the recording.
    pub acked: u64,
    /// Manifests that were committed during the recording.
    pub manifests: u64,
}

/// Records some seconds of work below `folder` and opens what is left of it at that many moments.
///
/// * errors: an image that cannot be opened, naming its moment.
pub async fn run(images: u64, seed: u64, folder: &Path) -> Result<Verdict> {
    let dice = Random::seeded(seed);
    let root = folder.join("whole");
    fs::create_dir_all(&root)?;
    let recorded = record(&root.canonicalize()?, &dice).await?;
    let steps = recorded.tape.steps();
    let acked: u64 = (0..WRITERS)
        .map(|writer| recorded.acked_before(writer, steps))
        .sum();
    let mut verdict = Verdict {
        steps,
        acked,
        manifests: recorded.manifests,
        ..Verdict::default()
    };
    for image in 0..images {
        let behind_an_ack = image % 2 == 0;
        let cut = match behind_an_ack {
            true => recorded.acks[dice.below(recorded.acks.len() as u64) as usize].steps,
            false => dice.below(steps as u64 + 1) as usize,
        };
        let torn = (image % 4 < 2).then_some(&dice);
        let at = folder.join("image");
        fs::create_dir(&at)?;
        recorded.tape.image(cut, torn, &at)?;
        let found = found(&at, &dice).await;
        let found = found.with_context(|| format!("image {image} of seed {seed}, step {cut}"))?;
        for writer in 0..WRITERS {
            let acked = recorded.acked_before(writer, cut);
            let times = |n| found.get(&(writer, n)).copied().unwrap_or(0);
            verdict.lost += (0..acked).filter(|n| times(*n) == 0).count() as u64;
        }
        verdict.doubled += found.values().filter(|times| **times > 1).count() as u64;
        verdict.images += 1;
        fs::remove_dir_all(&at)?;
    }
    Ok(verdict)
}

/// A writer's rows below `rows` were acked when the tape had that many steps.
#[derive(Clone, Copy, Debug)]
struct Ack {
    steps: usize,
    writer: u64,
    rows: u64,
}

struct Recorded {
    tape: Arc<Tape>,
    acks: Vec<Ack>,
    manifests: u64,
}

impl Recorded {
    fn acked_before(&self, writer: u64, steps: usize) -> u64 {
        let before = self
            .acks
            .iter()
            .filter(|ack| ack.writer == writer && ack.steps <= steps);
        before.map(|ack| ack.rows).max().unwrap_or(0)
    }
}

/// What leaders and writers share.
struct Work {
    shard: RwLock<Shard>,
    going: AtomicBool,
    acks: Mutex<Vec<Ack>>,
    tape: Arc<Tape>,
    dice: Random,
}

async fn record(root: &Path, dice: &Random) -> Result<Recorded> {
    let tape = Arc::new(Tape::new(root));
    for name in ["wal", "store"] {
        fs::create_dir(root.join(name))?;
        tape.make_dir(&root.join(name))?;
    }
    tape.sync_dir(root)?;
    let disk = Disk::recording(Arc::clone(&tape));
    let wal = Arc::new(LocalWal::open(root.join("wal"), small_segments(), disk).await?);
    let failed: Arc<Mutex<Option<io::Error>>> = Arc::default();
    let witness = {
        let (tape, failed) = (Arc::clone(&tape), Arc::clone(&failed));
        move |change: Change<'_>| {
            if let Err(error) = note(&tape, change) {
                failed.lock().get_or_insert(error);
            }
        }
    };
    let store = LocalStore::open(&root.join("store"))?.witnessed(Arc::new(witness));

    let mut node = Node::lead(&wal, &store, 1, dice).await?;
    let spec = TabletSpec {
        id: TABLET,
        range: HashRange::FULL,
        table: table(),
    };
    node.shard.create_tablets(vec![spec]).await?;
    let work = Arc::new(Work {
        shard: RwLock::new(node.shard.clone()),
        going: AtomicBool::new(true),
        acks: Mutex::default(),
        tape: Arc::clone(&tape),
        dice: dice.clone(),
    });
    let mut writers = JoinSet::new();
    for writer in 0..WRITERS {
        let work = Arc::clone(&work);
        writers.spawn(async move { work.write(writer).await });
    }
    for epoch in 2..=LEADERS {
        tokio::time::sleep(LEADS).await;
        node.end().await;
        node = Node::lead(&wal, &store, epoch, dice).await?;
        *work.shard.write() = node.shard.clone();
    }
    tokio::time::sleep(LEADS).await;
    work.going.store(false, Ordering::SeqCst);
    while let Some(ended) = writers.join_next().await {
        ended??;
    }
    let manifests = node.shard.status().manifest;
    node.end().await;
    wal.close().await?;
    if let Some(error) = failed.lock().take() {
        return Err(error).context("a change of the store is not on the tape");
    }
    let acks = work.acks.lock().clone();
    ensure!(!acks.is_empty(), "nothing was acked");
    Ok(Recorded {
        tape,
        acks,
        manifests,
    })
}

fn note(tape: &Tape, change: Change<'_>) -> io::Result<()> {
    match change {
        Change::MakeFolder(path) if tape.knows(path) => Ok(()),
        Change::MakeFolder(path) => tape.make_dir(path),
        Change::MakeFile(path, payload) => {
            let bytes = payload.iter().fold(BytesMut::new(), |mut all, piece| {
                all.extend_from_slice(piece);
                all
            });
            tape.make_file_of(path, &bytes)
        }
        Change::SyncFile(path) => tape.sync_file(path),
        Change::Link(from, to) => tape.hard_link(from, to),
        Change::Rename(from, to) => tape.rename(from, to),
        Change::Remove(path) => tape.unlink(path),
        Change::SyncFolder(path) => tape.sync_dir(path),
    }
}

/// So small that a run goes through many of them.
fn small_segments() -> LocalSettings {
    LocalSettings {
        segment_bytes: 64 << 10,
        ..LocalSettings::default()
    }
}

/// Flushes and compactions several times a second.
fn restless() -> Settings {
    Settings {
        flush_bytes: 24 << 10,
        flush_age_ms: 500,
        compact_every_ms: 150,
        ..Settings::default()
    }
}

/// One leader; its tasks end when it is told so.
struct Node {
    engine: Engine,
    shard: Shard,
    stop: CancellationToken,
    tasks: TaskTracker,
}

impl Node {
    async fn lead(
        wal: &Arc<LocalWal>,
        store: &LocalStore,
        epoch: u64,
        dice: &Random,
    ) -> Result<Self> {
        let (stop, tasks) = (CancellationToken::new(), TaskTracker::new());
        let ground = Ground {
            wal: Arc::clone(wal) as Arc<dyn Wal>,
            store: Arc::new(store.clone()),
            terms: LocalTerms::nowhere(),
            clock: Clock::system(),
            random: dice.clone(),
            tasks: tasks.clone(),
            stop: stop.clone(),
        };
        let engine = Engine::new(ground, restless());
        let order = OpenLeader {
            shard: SHARD,
            incarnation: 77,
            epoch,
        };
        let shard = engine.open(order).await?;
        Ok(Self {
            engine,
            shard,
            stop,
            tasks,
        })
    }

    /// Ends in the middle of whatever it does.
    async fn end(self) {
        self.stop.cancel();
        self.tasks.close();
        self.tasks.wait().await;
    }
}

impl Work {
    /// Sends batches until told to stop; one that is not acked is sent again under its id.
    async fn write(&self, writer: u64) -> Result<()> {
        let clock = Clock::system();
        let mut first = 0;
        while self.going.load(Ordering::SeqCst) {
            let id = BatchId(self.dice.uuid_v7(clock.now_ms()).as_u128());
            let deadline = Instant::now() + Duration::from_secs(60);
            loop {
                let shard = self.shard.read().clone();
                match shard.write(batch(writer, first, id)).await {
                    Ok(_) => break,
                    Err(
                        error @ (WriteError::TooLarge(_)
                        | WriteError::BatchConflict(_)
                        | WriteError::BatchExpired(_)
                        | WriteError::StaleRoute(_)),
                    ) => return Err(error.into()),
                    Err(error) if Instant::now() > deadline => {
                        bail!("batch of writer {writer} at {first}: {error}")
                    }
                    Err(_) => tokio::time::sleep(Duration::from_millis(5)).await,
                }
            }
            first += BATCH_ROWS;
            let mut acks = self.acks.lock();
            acks.push(Ack {
                steps: self.tape.steps(),
                writer,
                rows: first,
            });
        }
        Ok(())
    }
}

fn table() -> Arc<TableInfo> {
    let column = |id, name: &str, kind, ty| Column {
        id: ColumnId(id),
        name: name.into(),
        kind,
        ty,
        nullable: kind != ColumnKind::Time,
    };
    let time = ColumnType::Timestamp(TimeUnit::Nanosecond);
    let columns = vec![
        column(1, "writer", ColumnKind::Tag, ColumnType::String),
        column(2, "ts", ColumnKind::Time, time),
        column(3, "n", ColumnKind::Field, ColumnType::Int64),
    ];
    Arc::new(TableInfo {
        id: TABLE,
        tenant: TENANT,
        database: DatabaseId(1),
        name: "power".into(),
        schema: Arc::new(TableSchema {
            number: SchemaNumber(1),
            columns,
        }),
        partition: Partition::default(),
        options: TableOptions {
            merge_mode: MergeMode::Append,
            ..TableOptions::default()
        },
    })
}

/// Rows `first..` of a writer; times lie in several segments of time.
fn batch(writer: u64, first: u64, id: BatchId) -> Batch {
    let mut rows = Rows::default();
    let key = key::encode([Some(writer.to_string().as_bytes())]);
    let series = rows.series.push(&key, key::partition_hash(&key));
    let mut values = Vec::new();
    for n in first..first + BATCH_ROWS {
        rows.series_of.push(series);
        rows.time.push(n as i64 * 7_000_000_000);
        values.push(n as i64);
    }
    rows.columns.push(FieldColumn {
        id: ColumnId(3),
        values: Values::I64(values),
        validity: None,
    });
    let entry = Entry::Rows {
        table: TABLE,
        tablet: TABLET,
        schema: SchemaNumber(1),
        rows,
    };
    Batch {
        tenant: TENANT,
        id: Some(id),
        hash: first,
        entries: vec![entry],
    }
}

/// How often each row of each writer stands in what an image holds.
async fn found(image: &Path, dice: &Random) -> Result<BTreeMap<(u64, u64), u64>> {
    let wal = Arc::new(LocalWal::open(image.join("wal"), small_segments(), Disk::real()).await?);
    let store = LocalStore::open(&image.join("store"))?;
    let node = Node::lead(&wal, &store, LEADERS + 1, dice).await?;
    let mut found = BTreeMap::new();
    // Before the tablet was made there is none.
    if let Ok(snapshot) = node.engine.tablet(SHARD, TABLET) {
        let spec = Arc::new(ScanSpec {
            fields: snapshot.table().schema.fields().cloned().collect(),
            time: TimeRange::ALL,
            tags: TagFilter::Any,
            range: HashRange::FULL,
            bounds: vec![],
        });
        for stack in snapshot.stacks(&spec) {
            let batches: Vec<_> = stack.open(&spec).try_collect().await?;
            for batch in batches {
                for slice in 0..batch.series.len() {
                    let tag = key::tag(&batch.series[slice].key, 0)?.context("the tag")?;
                    let writer: u64 = String::from_utf8(tag.into_owned())?.parse()?;
                    for row in batch.slice_rows(slice) {
                        let n = batch.fields[0].as_primitive::<Int64Type>().value(row);
                        *found.entry((writer, n as u64)).or_default() += 1;
                    }
                }
            }
        }
    }
    node.end().await;
    wal.close().await?;
    Ok(found)
}
