//! A shard over the reference log and an in-memory store: what is acked is there, once, after
//! whatever happens to leaders.

use std::collections::BTreeMap;

use crate::ground::{HOUR, Row, SHARD, Services, TABLET, batch, row, sorted, until};
use auxo_engine::payload::{Batch, Entry};
use auxo_engine::{OpenError, WriteError};
use auxo_proto::ids::{BatchId, TenantId};
use auxo_proto::random::Random;
use auxo_proto::schema::MergeMode;
use auxo_sst::predicate::{TagFilter, TagTest, TimeRange};

#[tokio::test]
async fn what_was_acked_is_read_before_and_after_flush_and_restart() {
    let services = Services::new();
    let node = services.node(1);
    let shard = node.with_table(1, MergeMode::LastRow).await;
    let first = vec![
        row(2, 5, Some(1), None),
        row(1, 7, Some(2), Some(3)),
        row(1, HOUR * 30, None, None),
    ];
    shard.write(batch(&first, None)).await.expect("acked");
    assert_eq!(node.read().await, sorted(first.clone()));
    let (written, read) = (shard.status().written, shard.status().read);
    assert_eq!((written.rows, read.rows), (3, 3));
    // Three times of eight bytes, and what the fields take.
    assert!(written.bytes > 0 && read.bytes > 24, "{written:?} {read:?}");

    shard.flush().await.expect("flushed");
    let status = shard.status();
    assert!(
        status.files >= 1 && status.unflushed_bytes == 0,
        "{status:?}"
    );
    assert_eq!(node.read().await, sorted(first.clone()));

    let second = vec![row(1, 7, Some(9), None), row(3, 8, None, Some(4))];
    shard.write(batch(&second, None)).await.expect("acked");
    let merged = sorted(vec![
        first[0].clone(),
        first[2].clone(),
        second[0].clone(),
        second[1].clone(),
    ]);
    assert_eq!(node.read().await, merged);

    let next = services.node(2);
    next.lead(2).await;
    assert_eq!(
        next.read().await,
        merged,
        "a second leader replays what was not flushed"
    );
    next.engine.close(SHARD).await.expect("closed");
    let third = services.node(3);
    let shard = third.lead(3).await;
    assert_eq!(third.read().await, merged, "after a clean close");
    assert_eq!(
        shard.status().unflushed_bytes,
        services_claim_bytes(),
        "nothing to replay but the claim"
    );
}

/// Length of one claim: a frame without payload.
fn services_claim_bytes() -> u64 {
    auxo_wal_adapters::frame::HEADER_BYTES as u64
}

#[tokio::test]
async fn a_field_that_is_null_keeps_the_older_value_only_in_last_non_null() {
    for (mode, expected) in [
        (MergeMode::LastRow, vec![row(1, 7, None, Some(9))]),
        (MergeMode::LastNonNull, vec![row(1, 7, Some(1), Some(9))]),
        (
            MergeMode::Append,
            vec![row(1, 7, None, Some(9)), row(1, 7, Some(1), Some(2))],
        ),
    ] {
        for flush_between in [false, true] {
            let services = Services::new();
            let node = services.node(1);
            let shard = node.with_table(1, mode).await;
            shard
                .write(batch(&[row(1, 7, Some(1), Some(2))], None))
                .await
                .unwrap();
            if flush_between {
                shard.flush().await.unwrap();
            }
            shard
                .write(batch(&[row(1, 7, None, Some(9))], None))
                .await
                .unwrap();
            assert_eq!(
                node.read().await,
                sorted(expected.clone()),
                "{mode:?} {flush_between}"
            );
            shard.flush().await.unwrap();
            assert_eq!(
                node.read().await,
                sorted(expected.clone()),
                "{mode:?} {flush_between}"
            );
        }
    }
}

#[tokio::test]
async fn a_batch_id_is_applied_once_and_another_body_is_refused() {
    let services = Services::new();
    let node = services.node(1);
    let shard = node.with_table(1, MergeMode::Append).await;
    let body = [row(1, 7, Some(1), None)];
    let first = shard.write(batch(&body, Some(50))).await.unwrap();
    assert!(!first.replayed);
    let again = shard.write(batch(&body, Some(50))).await.unwrap();
    assert!(again.replayed && again.seq == first.seq);
    let other = [row(1, 8, Some(1), None), row(1, 9, Some(1), None)];
    let refused = shard.write(batch(&other, Some(50))).await.unwrap_err();
    assert_eq!(refused, WriteError::BatchConflict(BatchId(50)));
    let many = (0..20).map(|_| shard.write(batch(&body, Some(60))));
    let answers = futures::future::join_all(many).await;
    assert_eq!(
        answers
            .iter()
            .filter(|a| !a.as_ref().unwrap().replayed)
            .count(),
        1
    );
    for round in 0..2 {
        let next = services.node(10 + round);
        let shard = next.lead(2 + round).await;
        assert!(
            shard.write(batch(&body, Some(50))).await.unwrap().replayed,
            "round {round}"
        );
        assert_eq!(next.read().await.len(), 2, "round {round}");
        shard.flush().await.unwrap();
    }
}

#[tokio::test]
async fn a_deposed_leader_acks_nothing_above_the_claim_and_loses_nothing_below() {
    let services = Services::new();
    let old = services.node(1);
    let zombie = old.with_table(1, MergeMode::Append).await;
    zombie
        .write(batch(&[row(1, 1, Some(1), None)], None))
        .await
        .unwrap();
    let new = services.node(2);
    let shard = new.lead(2).await;
    let refused = zombie
        .write(batch(&[row(1, 2, Some(2), None)], None))
        .await
        .unwrap_err();
    assert_eq!(refused, WriteError::NotLeader(SHARD));
    shard
        .write(batch(&[row(1, 3, Some(3), None)], None))
        .await
        .unwrap();
    shard.flush().await.unwrap();
    assert!(
        zombie.flush().await.is_err(),
        "a fenced leader cannot commit"
    );
    let expected = vec![row(1, 1, Some(1), None), row(1, 3, Some(3), None)];
    assert_eq!(new.read().await, expected);
    assert!(matches!(
        old.try_lead(1).await,
        Err(OpenError::NotLeader(_))
    ));
    let third = services.node(3);
    third.lead(3).await;
    assert_eq!(third.read().await, expected);
}

#[tokio::test]
async fn deletes_hit_older_rows_only_wherever_they_lie() {
    let services = Services::new();
    let node = services.node(1);
    let shard = node.with_table(1, MergeMode::LastRow).await;
    let before = [
        row(1, 1, Some(1), None),
        row(2, 1, Some(1), None),
        row(1, 9, Some(1), None),
    ];
    shard.write(batch(&before, None)).await.unwrap();
    shard.flush().await.unwrap();
    shard
        .write(batch(
            &[row(1, 2, Some(2), None), row(2, 2, Some(2), None)],
            None,
        ))
        .await
        .unwrap();
    let test = TagTest::OneOf(vec![b"host_1".to_vec()]);
    let filter = TagFilter::Test { tag: 0, test };
    let entry = Entry::Delete {
        tablet: TABLET,
        filter,
        time: TimeRange { start: 0, end: 5 },
    };
    let delete = Batch {
        tenant: TenantId(1),
        id: None,
        hash: 0,
        entries: vec![entry],
    };
    shard.write(delete).await.unwrap();
    shard
        .write(batch(&[row(1, 3, Some(3), None)], None))
        .await
        .unwrap();
    let left = sorted(vec![
        row(2, 1, Some(1), None),
        row(1, 9, Some(1), None),
        row(2, 2, Some(2), None),
        row(1, 3, Some(3), None),
    ]);
    assert_eq!(node.read().await, left);
    shard.flush().await.unwrap();
    assert_eq!(node.read().await, left, "after a flush");
    let next = services.node(2);
    next.lead(2).await;
    assert_eq!(next.read().await, left, "after a takeover");
}

#[tokio::test]
async fn many_small_writes_become_runs_and_stay_right() {
    let services = Services::new();
    let node = services.node(1);
    let shard = node.with_table(1, MergeMode::LastNonNull).await;
    let mut model: BTreeMap<(String, i64), (Option<i64>, Option<i64>)> = BTreeMap::new();
    let dice = Random::seeded(9);
    for round in 0..200_i64 {
        let input: Vec<Row> = (0..50)
            .map(|_| {
                let value = |odds| (dice.below(odds) == 0).then_some(round);
                row(
                    dice.below(5) as u8,
                    dice.below(40) as i64 * HOUR / 4,
                    value(2),
                    value(3),
                )
            })
            .collect();
        for (host, time, a, b) in &input {
            let known = model.entry((host.clone(), *time)).or_default();
            *known = (a.or(known.0), b.or(known.1));
        }
        shard.write(batch(&input, None)).await.unwrap();
        if round % 60 == 59 {
            shard.flush().await.unwrap();
        }
    }
    let expected: Vec<Row> = model
        .into_iter()
        .map(|((h, t), (a, b))| (h, t, a, b))
        .collect();
    assert_eq!(node.read().await, sorted(expected.clone()));
    let pieces = || node.engine.tablet(SHARD, TABLET).unwrap().sources().1;
    until("runs are made of the pieces", || pieces() <= 60).await;
    assert_eq!(node.read().await, sorted(expected), "after runs were made");
    node.stop.cancel();
}

#[tokio::test]
async fn dropped_tablets_are_gone_for_readers_and_after_a_takeover() {
    let services = Services::new();
    let node = services.node(1);
    let shard = node.with_table(1, MergeMode::LastRow).await;
    shard
        .write(batch(&[row(1, 1, Some(1), None)], None))
        .await
        .unwrap();
    shard.flush().await.unwrap();
    shard.drop_tablets(vec![TABLET]).await.unwrap();
    shard.drop_tablets(vec![TABLET]).await.unwrap();
    assert!(node.engine.tablet(SHARD, TABLET).is_err());
    let refused = shard
        .write(batch(&[row(1, 1, Some(1), None)], None))
        .await
        .unwrap_err();
    assert_eq!(refused, WriteError::StaleRoute(TABLET));
    shard.flush().await.unwrap();
    assert_eq!(shard.status().files, 0);
    let next = services.node(2);
    next.lead(2).await;
    assert!(next.engine.tablet(SHARD, TABLET).is_err());
}
