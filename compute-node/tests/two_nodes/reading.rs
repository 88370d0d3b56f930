//! A statement on a node that does not lead the tablet it reads: answered by the leader, whole or not
//! at all, and let go of there when nobody waits for it.

use std::sync::Arc;
use std::time::Duration;

use crate::nodes::{LEADER, NOBODY, SHARD, Two, topology, two, until};
use arrow::array::{AsArray, RecordBatch};
use arrow::datatypes::Int64Type;
use auxo_compute_node::reading::places::Freshness;
use auxo_engine::OpenLeader;
use auxo_proto::error::{ErrorCode, Failure};
use auxo_proto::ids::TenantId;
use auxo_query::{Answer, Limits, Params, Scope, Statement};
use auxo_wal_adapters::RegionId;
use futures::{StreamExt, TryStreamExt};
use tokio::time::Instant;

async fn start(two: &Two, text: &str, freshness: Freshness) -> Result<Answer, Failure> {
    let catalog = Arc::clone(&two.catalog.borrow());
    let scope = Scope {
        catalog: &catalog,
        tenant: TenantId(1),
        database: "main",
    };
    let Statement::Query(plan) = two.query.prepare(scope, text, &Params::None)? else {
        panic!("{text} is no query");
    };
    let limits = Limits {
        deadline: Instant::now() + Duration::from_secs(30),
        rows: 1_000_000,
        bytes: 256 << 20,
    };
    let snapshots = two.places.snapshots(&catalog, limits.deadline, freshness);
    two.query
        .execute(*plan, snapshots, limits, Arc::new(()))
        .await
}

async fn rows(two: &Two, text: &str) -> Result<Vec<RecordBatch>, Failure> {
    start(two, text, Freshness::Strong)
        .await?
        .batches
        .try_collect()
        .await
}

async fn number(two: &Two, text: &str) -> Result<i64, Failure> {
    Ok(value(&rows(two, text).await?))
}

fn value(rows: &[RecordBatch]) -> i64 {
    rows[0].column(0).as_primitive::<Int64Type>().value(0)
}

/// Waits until the leader holds nothing for other nodes.
async fn let_go(two: &Two) {
    until("the leader lets go", || two.door.holding() == 0).await;
}

#[tokio::test]
async fn an_eventual_read_does_without_the_log() {
    let two = two(Some(LEADER)).await;
    two.write(7, None).await.unwrap();
    let region = RegionId {
        shard: SHARD.0,
        incarnation: 77,
    };
    two.wal.regress(region, 1).unwrap();
    let count = "SELECT count(*) FROM t";
    number(&two, count)
        .await
        .expect_err("nobody knows what was acked");
    let answer = start(&two, count, Freshness::Eventual).await.unwrap();
    let rows: Vec<_> = answer.batches.try_collect().await.unwrap();
    assert_eq!(value(&rows), 7);
}

#[tokio::test]
async fn what_was_acked_is_read_through_the_other_node() {
    let two = two(Some(LEADER)).await;
    for count in [3, 500, 20_000] {
        two.write(count, None).await.unwrap();
        assert_eq!(number(&two, "SELECT count(*) FROM t").await.unwrap(), count);
        let sum = number(&two, "SELECT sum(n) FROM t WHERE n > 1")
            .await
            .unwrap();
        assert_eq!(sum, count * (count - 1) / 2 - 1);
    }
    let all = rows(&two, "SELECT host, ts, n FROM t ORDER BY n")
        .await
        .unwrap();
    assert_eq!(all.iter().map(RecordBatch::num_rows).sum::<usize>(), 20_000);
    let joined = "SELECT count(*) FROM t a JOIN t b ON a.n = b.n";
    assert_eq!(number(&two, joined).await.unwrap(), 20_000);
    let_go(&two).await;
}

#[tokio::test]
async fn a_leader_that_appears_meanwhile_is_asked() {
    for wrong in [None, Some(NOBODY)] {
        let two = two(wrong).await;
        let news = async {
            tokio::task::yield_now().await;
            two.catalog.send_replace(topology(2, Some(LEADER)));
        };
        let (count, ()) = tokio::join!(number(&two, "SELECT count(*) FROM t"), news);
        assert_eq!(count.unwrap(), 0);
    }
}

#[tokio::test]
async fn without_a_leader_a_statement_waits_a_moment_and_is_refused() {
    for wrong in [None, Some(NOBODY)] {
        let two = two(wrong).await;
        let refused = number(&two, "SELECT count(*) FROM t").await.unwrap_err();
        assert_eq!(refused.code, ErrorCode::NoLeader);
        assert!(refused.retry_after_ms.is_some());
    }
}

#[tokio::test]
async fn a_node_that_lost_the_shard_refuses_it() {
    let two = two(Some(LEADER)).await;
    two.write(1, None).await.unwrap();
    two.leader.close(SHARD).await.unwrap();
    let refused = number(&two, "SELECT count(*) FROM t").await.unwrap_err();
    assert_eq!(refused.code, ErrorCode::NoLeader, "{refused}");
    let open = OpenLeader {
        shard: SHARD,
        incarnation: 77,
        epoch: 2,
    };
    two.leader.open(open).await.unwrap();
    assert_eq!(number(&two, "SELECT count(*) FROM t").await.unwrap(), 1);
}

#[tokio::test]
async fn a_connection_that_breaks_never_ends_an_answer_as_if_it_were_whole() {
    let two = two(Some(LEADER)).await;
    two.write(200_000, None).await.unwrap();
    let mut answer = start(&two, "SELECT host, ts, n FROM t", Freshness::Strong)
        .await
        .unwrap();
    let first = answer.batches.next().await.unwrap().unwrap();
    assert!(first.num_rows() > 0);
    two.cut.cancel();
    let rest: Result<Vec<_>, Failure> = answer.batches.try_collect().await;
    let failure = rest.unwrap_err();
    assert_eq!(failure.code, ErrorCode::NoLeader, "{failure}");
    let_go(&two).await;
}

#[tokio::test]
async fn an_answer_that_nobody_wants_lets_go_of_everything() {
    let two = two(Some(LEADER)).await;
    two.write(200_000, None).await.unwrap();
    let text = "SELECT host, ts, n FROM t";
    let mut answer = start(&two, text, Freshness::Strong).await.unwrap();
    answer.batches.next().await.unwrap().unwrap();
    assert_eq!(two.door.holding(), 1);
    drop(answer);
    let_go(&two).await;
    drop(start(&two, text, Freshness::Strong).await.unwrap());
    let_go(&two).await;
}

#[tokio::test]
async fn a_mistake_found_on_the_other_node_is_told_as_it_is_here() {
    let two = two(Some(LEADER)).await;
    two.write(3, None).await.unwrap();
    let text = "SELECT n * 9223372036854775807 FROM t";
    let failure = rows(&two, text).await.unwrap_err();
    assert_eq!(failure.code, ErrorCode::ValueOutOfRange, "{failure}");
}
