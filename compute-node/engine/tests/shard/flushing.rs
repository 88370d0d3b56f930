//! Nothing holds a flush up for good: what a shard takes can be brought into files and manifests, whatever
//! comes between a cut and its commit, and what could not is refused.

use std::sync::Arc;

use crate::ground::watched_store::WatchedStore;
use crate::ground::{HOUR, Row, SHARD, Services, TABLET, batch, row, until, widened};
use auxo_engine::payload::{Batch, Entry};
use auxo_engine::{Busy, DELETES_BYTES_MAX, KEY_BYTES_MAX, Settings, WriteError};
use auxo_proto::ids::{TabletId, TenantId};
use auxo_proto::rows::SeriesList;
use auxo_proto::schema::{HashRange, MergeMode, TabletSpec};
use auxo_sst::names;
use auxo_sst::predicate::{TagFilter, TagTest, TimeRange};
use object_store::memory::InMemory;
use object_store::{ObjectStoreExt, PutPayload};

#[tokio::test]
async fn files_are_compacted_while_a_newer_schema_waits_for_its_first_flush() {
    let services = Services::new();
    let never = Settings {
        compact_every_ms: u64::MAX / 2,
        ..Settings::default()
    };
    let node = services.node_with(1, never);
    let shard = node.with_table(1, MergeMode::Append).await;
    for n in 0..8 {
        shard
            .write(batch(&[row(1, n, Some(n), None)], None))
            .await
            .unwrap();
        shard.flush().await.unwrap();
    }
    assert_eq!(shard.status().files, 8);
    node.end().await;

    let often = Settings {
        compact_every_ms: 200,
        ..Settings::default()
    };
    let node = services.node_with(2, often);
    let shard = node.lead(2).await;
    let spec = widened(MergeMode::Append, 1);
    shard.create_tablets(vec![spec]).await.unwrap();
    until("files are compacted", || shard.status().files < 8).await;
    assert_eq!(node.read().await.len(), 8);
    node.end().await;
}

#[tokio::test]
async fn a_store_that_is_full_is_told_to_those_it_keeps_waiting() {
    let services = Services::new();
    let settings = Settings {
        unflushed_bytes_max: 1_000,
        ..Settings::default()
    };
    let node = services.node_with(1, settings);
    let shard = node.with_table(1, MergeMode::LastRow).await;
    let rows: Vec<Row> = (0..1_000).map(|at| row(1, at, Some(at), None)).collect();
    let write = || shard.write(batch(&rows, None));
    let refused = async || match write().await {
        Err(WriteError::Busy(busy)) => busy,
        other => panic!("{other:?}"),
    };
    services.store.fill(true);
    write().await.expect("acked");
    assert_eq!(refused().await, Busy::Unflushed);

    shard.flush().await.expect_err("no room");
    assert_eq!(refused().await, Busy::Store);
    services.store.fill(false);
    shard.flush().await.expect("flushed");
    write().await.expect("acked");
}

#[tokio::test]
async fn columns_that_come_between_a_cut_and_its_files_hold_no_flush_up() {
    let services = Services::new();
    let node = services.node(1);
    let shard = node.with_table(1, MergeMode::LastRow).await;
    for number in 1..=3 {
        services.store.fill(true);
        let rows = [row(1, i64::from(number), Some(1), None)];
        shard.write(batch(&rows, None)).await.expect("acked");
        shard.flush().await.expect_err("no room");
        let wider = widened(MergeMode::LastRow, number);
        shard.create_tablets(vec![wider]).await.expect("made");
        services.store.fill(false);
        shard.flush().await.expect("flushed");
        assert_eq!(shard.status().flush_refused, None);
        assert_eq!(shard.status().file_rows, u64::from(number));
    }
    assert_eq!(node.read().await.len(), 3);
    shard.close().await.expect("closed");
    let next = services.node(2);
    next.lead(2).await;
    assert_eq!(next.read().await.len(), 3);
}

#[tokio::test]
async fn tablets_of_a_table_change_together_though_orders_name_some_of_them() {
    let services = Services::new();
    let node = services.node(1);
    let shard = node.lead(1).await;
    let halves = |added: u32| {
        let whole = widened(MergeMode::LastRow, added);
        let half = |id, lo, hi| TabletSpec {
            id: TabletId(id),
            range: HashRange { lo, hi },
            ..whole.clone()
        };
        let middle = HashRange::FULL.hi / 2;
        [
            half(10, HashRange::FULL.lo, middle),
            half(11, middle + 1, HashRange::FULL.hi),
        ]
    };
    for added in 0..3 {
        for half in halves(added) {
            shard.create_tablets(vec![half]).await.expect("made");
            shard.flush().await.expect("flushed");
        }
        // One that comes late changes nothing.
        let late = halves(added / 2)[1].clone();
        shard.create_tablets(vec![late]).await.expect("made");
        shard.flush().await.expect("flushed");
    }
    shard.close().await.expect("closed");
    let next = services.node(2);
    next.lead(2).await;
    for half in halves(2) {
        let tablet = next.engine.tablet(SHARD, half.id).expect("there");
        assert_eq!(*tablet.table(), half.table);
    }
}

#[tokio::test]
async fn a_shard_that_nobody_writes_to_makes_no_more_manifests() {
    let services = Services::new();
    let node = services.node(1);
    let shard = node.with_table(1, MergeMode::LastRow).await;
    let rows = [row(1, 5, Some(1), None)];
    shard.write(batch(&rows, None)).await.expect("acked");
    shard.flush().await.expect("flushed");
    let flushed = shard.status().manifest;
    let marked = || shard.status().unflushed_bytes > 0;
    until("the mark of the flush is in the log", marked).await;
    shard.flush().await.expect("nothing to do");
    assert_eq!(shard.status().manifest, flushed);
    shard.write(batch(&rows, None)).await.expect("acked");
    shard.flush().await.expect("flushed");
    assert!(shard.status().manifest > flushed);
}

#[tokio::test]
async fn what_no_manifest_could_hold_is_refused() {
    let services = Services::new();
    let node = services.node(1);
    let shard = node.with_table(1, MergeMode::LastRow).await;
    let rows = [row(1, 5, Some(1), None)];
    shard.write(batch(&rows, None)).await.expect("acked");
    let mut long = batch(&rows, None);
    let Entry::Rows { rows: written, .. } = &mut long.entries[0] else {
        panic!("rows");
    };
    written.series = SeriesList::new();
    written.series.push(&vec![2; KEY_BYTES_MAX + 1], 0);
    let said = shard.write(long).await.expect_err("a key without end");
    assert!(
        said.to_string().contains("the tags of a row of table t"),
        "{said}"
    );

    let delete = |values: usize| Batch {
        tenant: TenantId(1),
        id: None,
        hash: 0,
        entries: vec![Entry::Delete {
            tablet: TABLET,
            filter: TagFilter::Test {
                tag: 0,
                test: TagTest::OneOf((0..values).map(|n| format!("{n:0>99}").into()).collect()),
            },
            time: TimeRange::ALL,
        }],
    };
    let mut taken = 0;
    let said = loop {
        match shard.write(delete(20_000)).await {
            Ok(_) => taken += 1,
            Err(error) => break error,
        }
    };
    assert!(
        taken * 20_000 * 99 > DELETES_BYTES_MAX / 2,
        "{taken} deletes"
    );
    assert!(
        said.to_string().contains("deletes whose older files"),
        "{said}"
    );
    shard.flush().await.expect("flushed");
    shard.write(batch(&rows, None)).await.expect("acked");
    shard.flush().await.expect("flushed");
    assert_eq!(shard.status().flush_refused, None);
}

/// Rows that fill a short segment, then some all over the years around it.
#[tokio::test]
async fn rows_from_all_over_lie_beside_those_of_a_dense_hour() {
    let services = Services::new();
    let node = services.node(1);
    let shard = node.with_table(1, MergeMode::LastRow).await;
    let dense: Vec<Row> = (0..5_000)
        .map(|at| row(1, at * HOUR / 2_000, Some(at), None))
        .collect();
    let mut written = 0;
    for every in [6, 20, 200, 2_000] {
        let strewn =
            (-150..150).map(|number| row(1, number * every * HOUR + 60, Some(number), None));
        for rows in [dense.clone(), strewn.collect()] {
            shard.write(batch(&rows, None)).await.expect("acked");
            shard.flush().await.expect("flushed");
            assert_eq!(shard.status().flush_refused, None);
        }
        let found = node.read().await.len();
        assert!(found > written, "{found} rows");
        written = found;
    }
    shard.close().await.expect("closed");
    let next = services.node(2);
    next.lead(2).await;
    assert_eq!(next.read().await.len(), written);
}

/// A store that is away comes back by itself; a manifest that cannot be read does not.
#[tokio::test]
async fn a_flush_that_waiting_cannot_mend_is_told() {
    let disk = Arc::new(InMemory::new());
    let services = Services {
        store: WatchedStore::new(disk.clone()),
        ..Services::new()
    };
    let node = services.node(1);
    let shard = node.with_table(1, MergeMode::LastRow).await;
    let acked = vec![row(1, 5, Some(1), None)];
    shard.write(batch(&acked, None)).await.expect("acked");
    shard.flush().await.expect("flushed");
    assert_eq!(shard.status().flush_refused, None);

    let next = shard.status().manifest + 1;
    let key = names::manifest(&names::shard_folder(SHARD), next);
    let garbage = PutPayload::from_static(b"no manifest");
    disk.put(&key, garbage).await.expect("stored");
    shard
        .write(batch(&[row(2, 6, Some(2), None)], None))
        .await
        .expect("acked");
    shard.flush().await.expect_err("nothing can follow it");
    let why = shard.status().flush_refused.expect("a person must look");
    assert!(why.contains(&next.to_string()), "{why}");

    disk.delete(&key).await.expect("deleted");
    shard.flush().await.expect("flushed");
    assert_eq!(shard.status().flush_refused, None);
    assert_eq!(node.read().await.len(), 2);
}
