//! The real binary as one node: what was acked is there after a kill, statements that change the
//! model do, and an end that was asked for comes soon and in peace.

#![allow(clippy::unwrap_used, reason = "every line of it is a test")]

use std::time::Duration;

use integration::standalone::{Setup, Standalone};
use integration::{binary, disk, wait};
use serde_json::{Value, json};
use tempfile::TempDir;

fn setup() -> (TempDir, Setup) {
    let folder = disk::folder("node").unwrap();
    let setup = Setup::new(&binary::beside().unwrap(), folder.path());
    (folder, setup)
}

async fn write(node: &Standalone, first: i64, count: i64) {
    let lines: String = (first..first + count)
        .map(|n| format!("cpu,host=h{} n={n}i,x={n}.5 {}\n", n % 3, n * 1_000_000_000))
        .collect();
    let answer = node.http.write("main", lines).await.unwrap();
    assert_eq!(answer.status, 204, "{}", answer.body);
}

async fn numbers(node: &Standalone) -> Vec<Vec<Value>> {
    node.http.sql("SELECT n FROM cpu ORDER BY n").await.unwrap()
}

fn up_to(count: i64) -> Vec<Vec<Value>> {
    (0..count).map(|n| vec![json!(n)]).collect()
}

#[tokio::test]
async fn what_was_acked_is_there_after_a_kill() {
    let (_folder, setup) = setup();
    let mut node = setup.start().await.unwrap();
    write(&node, 0, 100).await;
    assert_eq!(numbers(&node).await, up_to(100));
    node.kill().unwrap();

    let mut node = setup.start().await.unwrap();
    assert_eq!(numbers(&node).await, up_to(100));
    write(&node, 100, 50).await;
    node.kill().unwrap();

    let node = setup.start().await.unwrap();
    assert_eq!(numbers(&node).await, up_to(150));
}

#[tokio::test]
async fn the_model_is_changed_and_stays_changed() {
    let (_folder, setup) = setup();
    let mut node = setup.start().await.unwrap();
    let sql = async |node: &Standalone, text: &str| {
        let answer = node.http.sql_answer(text).await.unwrap();
        (answer.status, answer.code(), answer.json()["rows"].take())
    };
    let done = (200, String::new(), Value::Null);
    for statement in [
        "CREATE DATABASE shop",
        "CREATE TABLE shop.sales (place STRING TAG, ts TIMESTAMP(9) NOT NULL, sum DOUBLE, \
         TIMESTAMP KEY (ts)) PARTITION BY HASH(place) PARTITIONS 2",
        "ALTER TABLE shop.sales ADD COLUMN pieces BIGINT",
    ] {
        assert_eq!(sql(&node, statement).await, done, "{statement}");
    }
    let insert = "INSERT INTO shop.sales (place, ts, sum, pieces) VALUES ('a', 1, 2.5, 3)";
    assert_eq!(sql(&node, insert).await, done);
    node.kill().unwrap();

    let node = setup.start().await.unwrap();
    let select = "SELECT place, sum, pieces FROM shop.sales";
    let rows = json!([["a", 2.5, 3]]);
    assert_eq!(sql(&node, select).await, (200, String::new(), rows));
    let again = sql(&node, "CREATE DATABASE shop").await;
    assert_eq!((again.0, again.1.as_str()), (409, "ALREADY_EXISTS"));
    assert_eq!(sql(&node, "DROP TABLE shop.sales").await, done);
    let gone = sql(&node, select).await;
    assert_eq!((gone.0, gone.1.as_str()), (400, "TABLE_NOT_FOUND"));
}

#[tokio::test]
async fn an_end_that_was_asked_for_comes_soon_and_loses_nothing() {
    let (_folder, setup) = setup();
    let mut node = setup.start().await.unwrap();
    write(&node, 0, 100).await;
    let ended = node.terminate(Duration::from_secs(10)).await.unwrap();
    assert!(ended.success(), "{ended}\n{}", node.log_tail());
    let node = setup.start().await.unwrap();
    assert_eq!(numbers(&node).await, up_to(100));
}

/// What is not known yet must not look as if it did not exist.
#[tokio::test]
async fn a_node_that_is_not_ready_says_try_again() {
    let (_folder, setup) = setup();
    for round in 0..3 {
        let mut node = setup.spawn().unwrap();
        let line = format!("cpu,host=a n={round}i {round}");
        wait::until("first ack", Duration::from_secs(60), || async {
            let answer = node.http.write("main", line.clone()).await?;
            match (answer.status, answer.retry_after_s) {
                (204, _) => Ok(()),
                (503, Some(1..)) => anyhow::bail!("not yet"),
                other => panic!("{other:?} {}", answer.body),
            }
        })
        .await
        .unwrap();
        let rows = node.http.sql("SELECT count(*) FROM cpu").await.unwrap();
        assert_eq!(rows, [[json!(round + 1)]]);
        node.kill().unwrap();
    }
}
