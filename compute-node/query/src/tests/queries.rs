//! What a running query promises: limits, memory, cancellation, one moment per tablet.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use arrow::array::{ArrayRef, Int64Array, StringArray};
use auxo_proto::error::{ErrorCode, Failure};
use auxo_proto::schema::{ColumnKind, ColumnType};
use futures::{FutureExt, StreamExt, TryStreamExt};
use tokio::time::Instant;

use super::memory_table::{MemoryTable, NS, Tables, column};
use super::{Bench, DAY, limits, sample, until};
use crate::source::{Place, Snapshot, Snapshots};
use crate::{Limits, QueryConfig, QueryStats, Slot, Statement};

/// A table of many rows whose text is all different.
fn large(rows: i64) -> MemoryTable {
    let columns = vec![
        column(1, "host", ColumnKind::Tag, ColumnType::String),
        column(2, "ts", ColumnKind::Time, NS),
        column(3, "n", ColumnKind::Field, ColumnType::Int64),
        column(4, "note", ColumnKind::Field, ColumnType::String),
    ];
    let keys: Vec<_> = (0..rows)
        .map(|row| (vec![Some(format!("h{}", row % 10))], DAY + row * 10_000_000))
        .collect();
    let fields: [ArrayRef; 2] = [
        Arc::new(
            (0..rows)
                .map(|row| row * 7_919 % rows)
                .collect::<Int64Array>(),
        ),
        Arc::new(
            (0..rows)
                .map(|row| Some(format!("{row:060}")))
                .collect::<StringArray>(),
        ),
    ];
    MemoryTable::new(1, "large", columns, 1, &keys, &fields).cut(4_096, false)
}

const SORT: &str = "SELECT note, n FROM large ORDER BY note DESC";

fn config(statement: usize, spill: bool, dir: &std::path::Path) -> QueryConfig {
    QueryConfig {
        memory_bytes: 64 << 20,
        statement_memory_bytes: statement,
        spill_dir: spill.then(|| dir.join("spill")),
        ..QueryConfig::default()
    }
}

#[tokio::test]
async fn a_sort_above_its_memory_spills_and_is_right() {
    let dir = tempfile::tempdir().unwrap();
    let bench = Bench::with_config(
        Tables::new(vec![large(100_000)]),
        &config(6 << 20, true, dir.path()),
    );
    let answer = bench.start(SORT).await.unwrap();
    let stats = Arc::clone(&answer.stats);
    let batches: Vec<_> = answer.batches.try_collect().await.unwrap();
    let rows: usize = batches.iter().map(|batch| batch.num_rows()).sum();
    assert_eq!(rows, 100_000);
    let first = batches[0].column(0).clone();
    let first = arrow::util::display::array_value_to_string(&first, 0).unwrap();
    assert_eq!(first, format!("{:060}", 99_999));
    assert!(
        stats.memory_peak_bytes() <= 6 << 20,
        "{}",
        stats.memory_peak_bytes()
    );
    assert_eq!(bench.query.memory_used(), 0);
}

#[tokio::test]
async fn a_sort_that_cannot_spill_is_refused_by_name() {
    let dir = tempfile::tempdir().unwrap();
    let bench = Bench::with_config(
        Tables::new(vec![large(100_000)]),
        &config(6 << 20, false, dir.path()),
    );
    let failure = bench.rows(SORT).await.unwrap_err();
    assert_eq!(failure.code, ErrorCode::QueryLimit, "{failure}");
    assert!(
        failure.detail.contains("limits.statement_memory"),
        "{failure}"
    );
    assert!(failure.detail.contains(&(6 << 20).to_string()), "{failure}");
    assert_eq!(bench.query.memory_used(), 0);
    assert!(bench.rows("SELECT 1").await.is_ok());
}

#[tokio::test]
async fn joins_do_not_outgrow_the_node() {
    let dir = tempfile::tempdir().unwrap();
    let config = QueryConfig {
        memory_bytes: 4 << 20,
        ..config(64 << 20, true, dir.path())
    };
    let bench = Bench::with_config(Tables::new(vec![large(100_000)]), &config);
    let failure = bench
        .rows("SELECT count(*) FROM large a JOIN large b ON a.note = b.note")
        .await
        .unwrap_err();
    assert_eq!(failure.code, ErrorCode::MemoryFull, "{failure}");
    assert!(failure.retryable());
    assert_eq!(bench.query.memory_used(), 0);
}

/// Rows of an answer under limits, and what is counted of it.
async fn counted(bench: &Bench, text: &str, limits: Limits) -> (usize, Arc<QueryStats>) {
    let Statement::Query(plan) = bench.prepare(text).unwrap() else {
        panic!("a query");
    };
    let answer = bench
        .query
        .execute(*plan, bench.tables.snapshots(), limits, Arc::new(()))
        .await
        .unwrap();
    let stats = Arc::clone(&answer.stats);
    let batches: Vec<_> = answer.batches.try_collect().await.unwrap();
    let found = batches.iter().map(|batch| batch.num_rows()).sum();
    (found, stats)
}

#[tokio::test]
async fn answers_end_at_their_limits_and_say_so() {
    let bench = Bench::new(Tables::new(vec![sample()]));
    for (limit, rows, truncated) in [
        (0, 0, true),
        (7, 7, true),
        (360, 360, false),
        (1_000, 360, false),
    ] {
        let limits = Limits {
            rows: limit,
            ..limits()
        };
        let (found, stats) = counted(&bench, "SELECT * FROM cpu", limits).await;
        assert_eq!(
            (found, stats.truncated()),
            (rows, truncated),
            "limit {limit}"
        );
        assert_eq!(stats.rows(), rows as u64);
    }
    let limited = |bytes| Limits { bytes, ..limits() };
    let (found, stats) = counted(&bench, "SELECT * FROM cpu", limited(10_000)).await;
    assert!(stats.truncated() && found > 0 && found < 360, "{found}");
    // Groups come in pieces of one large batch, of which each holds only its own rows.
    let text = "SELECT n, count(*) FROM (SELECT unnest(range(0, 200000)) AS n) GROUP BY n";
    let (found, stats) = counted(&bench, text, limited(200_000 * 20)).await;
    assert_eq!((found, stats.truncated()), (200_000, false));
}

/// Snapshots whose streams never yield, counting the streams that are open.
fn endless(open: &Arc<AtomicUsize>, tables: &Tables) -> Snapshots {
    struct Counted(Arc<AtomicUsize>);
    impl Drop for Counted {
        fn drop(&mut self) {
            self.0.fetch_sub(1, Ordering::SeqCst);
        }
    }
    let (open, inner) = (Arc::clone(open), tables.snapshots());
    let endless = move |place| {
        let Place::Here(snapshot) = place else {
            panic!("tables of tests lie here");
        };
        let open = Arc::clone(&open);
        Place::Here(Snapshot::from_fn(move |spec| {
            let mut found = snapshot.find(spec);
            for stack in &mut found.stacks {
                let open = Arc::clone(&open);
                stack.open = Arc::new(move |_| {
                    open.fetch_add(1, Ordering::SeqCst);
                    let counted = Counted(Arc::clone(&open));
                    let never = async move {
                        let _counted = counted;
                        std::future::pending().await
                    };
                    futures::stream::once(never).boxed()
                });
            }
            found
        }))
    };
    Snapshots::from_fn(move |tablets| {
        let (endless, inner) = (endless.clone(), inner.clone());
        async move {
            let places = inner.take(tablets).await?;
            Ok(places.into_iter().map(endless).collect())
        }
        .boxed()
    })
}

#[tokio::test]
async fn a_deadline_ends_a_query_and_dropping_it_ends_its_scans() {
    let bench = Bench::new(Tables::new(vec![sample()]));
    let open = Arc::new(AtomicUsize::new(0));
    let plan = || match bench
        .prepare("SELECT host, max(usage) FROM cpu GROUP BY host")
        .unwrap()
    {
        Statement::Query(plan) => *plan,
        _ => panic!("a query"),
    };
    let soon = Limits {
        deadline: Instant::now() + Duration::from_millis(50),
        ..limits()
    };
    let answer = bench
        .query
        .execute(plan(), endless(&open, &bench.tables), soon, Arc::new(()))
        .await
        .unwrap();
    let ended: Result<Vec<_>, Failure> = answer.batches.try_collect().await;
    assert_eq!(ended.unwrap_err().code, ErrorCode::Timeout);
    until("its scans have ended", || open.load(Ordering::SeqCst) == 0).await;

    let mut answer = bench
        .query
        .execute(
            plan(),
            endless(&open, &bench.tables),
            limits(),
            Arc::new(()),
        )
        .await
        .unwrap();
    assert!(answer.batches.next().now_or_never().is_none());
    until("it scans", || open.load(Ordering::SeqCst) > 0).await;
    drop(answer);
    until("its scans have ended", || open.load(Ordering::SeqCst) == 0).await;
}

/// What no other statement has to give back fits no better later.
#[tokio::test]
async fn too_much_for_the_statement_alone_is_its_own_fault() {
    let config = QueryConfig {
        memory_bytes: 64 << 20,
        statement_memory_bytes: 64 << 20,
        ..QueryConfig::default()
    };
    let bench = Bench::with_config(Tables::new(vec![]), &config);
    let sql = "SELECT array_agg(s) FROM \
               (SELECT repeat('a', 1000000) AS s FROM generate_series(1, 200))";
    let failure = bench.rows(sql).await.unwrap_err();
    assert_eq!(failure.code, ErrorCode::QueryLimit, "{failure}");
    assert!(!failure.retryable());
}

/// Work that nothing can interrupt keeps its thread and its place among the statements, and nobody else.
#[tokio::test]
async fn a_statement_that_does_not_come_back_is_answered_at_its_deadline() {
    let bench = Bench::new(Tables::new(vec![sample()]));
    let Statement::Query(plan) = bench.prepare("SELECT count(*) FROM cpu").unwrap() else {
        panic!("a query");
    };
    let (let_go, held) = std::sync::mpsc::channel::<()>();
    let held = Arc::new(parking_lot::Mutex::new(held));
    let stuck = Snapshots::from_fn(move |_| {
        let held = Arc::clone(&held);
        async move {
            let _ = held.lock().recv();
            Err(Failure::new(ErrorCode::NoLeader, "let go"))
        }
        .boxed()
    });
    let soon = Limits {
        deadline: Instant::now() + Duration::from_millis(50),
        ..limits()
    };
    let slot: Slot = Arc::new(());
    let answer = bench.query.execute(*plan, stuck, soon, slot.clone());
    assert_eq!(answer.await.err().unwrap().code, ErrorCode::Timeout);
    assert!(Arc::strong_count(&slot) > 1, "its thread still works");
    assert_eq!(bench.rows("SELECT 1").await.unwrap()[0].num_rows(), 1);
    drop(let_go);
    until("its place is free", || Arc::strong_count(&slot) == 1).await;
}

#[tokio::test]
async fn a_tablet_that_cannot_be_read_fails_the_query_with_its_reason() {
    let bench = Bench::new(Tables::new(vec![sample()]));
    let away = Snapshots::from_fn(|_| {
        let failure = Failure::new(ErrorCode::NoLeader, "a tablet has no leader");
        async move { Err(failure) }.boxed()
    });
    let Statement::Query(plan) = bench.prepare("SELECT * FROM cpu").unwrap() else {
        panic!("a query");
    };
    let failure = bench
        .query
        .execute(*plan, away, limits(), Arc::new(()))
        .await
        .err()
        .unwrap();
    assert_eq!(failure.code, ErrorCode::NoLeader);
    assert!(failure.retryable());
}

#[tokio::test]
async fn a_statement_takes_one_snapshot_of_each_tablet() {
    let bench = Bench::new(Tables::new(vec![sample()]));
    let taken = Arc::new(AtomicUsize::new(0));
    let (counted, inner) = (Arc::clone(&taken), bench.tables.snapshots());
    let snapshots = Snapshots::from_fn(move |tablets| {
        counted.fetch_add(tablets.len(), Ordering::SeqCst);
        let inner = inner.clone();
        async move { inner.take(tablets).await }.boxed()
    });
    let sql =
        "SELECT count(*) FROM cpu a JOIN cpu b ON a.ts = b.ts WHERE a.n > (SELECT min(n) FROM cpu)";
    let Statement::Query(plan) = bench.prepare(sql).unwrap() else {
        panic!("a query");
    };
    let answer = bench
        .query
        .execute(*plan, snapshots, limits(), Arc::new(()))
        .await
        .unwrap();
    let batches: Vec<_> = answer.batches.try_collect().await.unwrap();
    assert_eq!(batches.len(), 1);
    assert_eq!(
        taken.load(Ordering::SeqCst),
        4,
        "one for each of the four tablets"
    );
}

#[tokio::test]
async fn the_database_says_what_it_is() {
    let bench = Bench::new(Tables::new(vec![]));
    let rows = bench.rows("SELECT version()").await.unwrap();
    let expected = concat!("AuxoDB ", env!("CARGO_PKG_VERSION"));
    assert!(format!("{rows:?}").contains(expected), "{rows:?}");
}
