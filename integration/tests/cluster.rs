//! Real processes on a real log and a real bucket: any node takes a write and answers for all, a leader
//! that dies is replaced, and what was being read from it is whole or an error.

#![allow(
    clippy::unwrap_used,
    reason = "functions that tests share, where the lint does not see that they are of tests"
)]

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use auxo_proto::random::Random;
use futures::TryStreamExt;
use integration::cluster::{BUCKET, Cluster, Plan};
use integration::http::Http;
use integration::{binary, disk, wait};
use object_store::ObjectStore;
use reqwest::Method;
use serde_json::{Value, json};

/// Rows of one write.
const ROWS: i64 = 50;

/// Lines of line protocol, a row for each number, spread over five hosts.
fn lines(from: i64, count: i64) -> String {
    let line = |n: i64| format!("cpu,host=h{} n={n}i {n}\n", n % 5);
    (from..from + count).map(line).collect()
}

#[tokio::test]
async fn what_was_acked_outlives_the_leader_that_acked_it() {
    let folder = disk::folder("cluster").unwrap();
    let binary = binary::beside().unwrap();
    let plan = Plan {
        bucket: true,
        config: "[flush]\nage = \"500ms\"\n".to_owned(),
        ..Plan::default()
    };
    let mut cluster = Cluster::start(&binary, folder.path(), &plan).await.unwrap();
    let mut acked = 0;
    for round in 0..6 {
        let node = &cluster.nodes[round % 2];
        let answer = node.http.write("main", lines(acked, ROWS)).await.unwrap();
        assert_eq!(answer.status, 204, "node {}: {}", round % 2, answer.body);
        acked += ROWS;
    }
    wait::until(
        "each node leads a shard",
        Duration::from_secs(60),
        || async {
            let leaders = [cluster.leader(1, 0).await?, cluster.leader(2, 1).await?];
            anyhow::ensure!(leaders[0] != leaders[1], "{leaders:?}");
            Ok(())
        },
    )
    .await
    .unwrap();
    let mut dead = cluster.leader(1, 0).await.unwrap();
    for _ in 0..2 {
        cluster.nodes[dead].kill().unwrap();
        let files_before = sorted_files(&cluster).await.unwrap();
        let alive = 1 - dead;
        let next = lines(acked, ROWS);
        wait::until("the other node leads", Duration::from_secs(60), || async {
            let answer = cluster.nodes[alive]
                .http
                .write("main", next.clone())
                .await?;
            match (answer.status, answer.retry_after_s) {
                (204, _) => Ok(()),
                (503, Some(1..)) => anyhow::bail!("not yet"),
                other => panic!("{other:?} {}", answer.body),
            }
        })
        .await
        .unwrap();
        acked += ROWS;
        wait::until(
            "the new leader writes a file",
            Duration::from_secs(60),
            || async {
                let files = sorted_files(&cluster).await?;
                anyhow::ensure!(files > files_before, "{files} files");
                Ok(())
            },
        )
        .await
        .unwrap();
        let http = &cluster.nodes[alive].http;
        let rows = http.sql("SELECT count(*), max(n) FROM cpu").await.unwrap();
        assert_eq!(rows, [[json!(acked), json!(acked - 1)]]);
        cluster.nodes[dead] = cluster.setups[dead].start().await.unwrap();
        dead = alive;
    }
}

/// How many sorted files lie in the bucket, as any client of it sees them.
async fn sorted_files(cluster: &Cluster) -> anyhow::Result<usize> {
    let store = cluster.s3.as_ref().unwrap().store(BUCKET)?;
    let listed: Vec<_> = store.list(None).try_collect().await?;
    let is_sorted = |name: &str| name.contains("/sst/") && name.ends_with(".parquet");
    let files = listed
        .iter()
        .filter(|object| is_sorted(object.location.as_ref()));
    Ok(files.count())
}

/// Rows of the table that takes a while to read, of a kibibyte each: more than sockets hold.
const BIG_ROWS: u64 = 24_000;

/// Rows of it in one write.
const BIG_BATCH: u64 = 2_000;

#[tokio::test]
async fn any_node_answers_for_all_and_nothing_is_ever_partial() {
    let folder = disk::folder("reads").unwrap();
    let binary = binary::beside().unwrap();
    let plan = Plan {
        nodes: 3,
        ..Plan::default()
    };
    let mut cluster = Cluster::start(&binary, folder.path(), &plan).await.unwrap();
    for (name, columns) in [("cpu", "n BIGINT"), ("big", "n BIGINT, note STRING")] {
        let create = format!(
            "CREATE TABLE {name} (host STRING TAG, time TIMESTAMP(9) NOT NULL, {columns}, \
             TIMESTAMP KEY (time)) PARTITION BY HASH(host) PARTITIONS 4"
        );
        let created = cluster.nodes[0].http.sql_answer(&create).await.unwrap();
        assert_eq!(created.status, 200, "{}", created.body);
    }
    a_write_is_read_at_once_beside_it(&cluster).await;
    a_plan_says_what_crossed(&cluster).await;
    a_reader_outlives_the_leader(&mut cluster).await;
}

/// How long a node may say that it will know later: shards move while nodes even out.
const SETTLED_WITHIN: Duration = Duration::from_secs(60);

/// Writes until it is acked.
async fn taken(http: &Http, lines: String) {
    let acked = wait::until("a write is acked", SETTLED_WITHIN, || async {
        let answer = http.write("main", lines.clone()).await?;
        match (answer.status, answer.retry_after_s) {
            (204, _) => Ok(()),
            (503, Some(1..)) => anyhow::bail!("{}", answer.body),
            other => panic!("{other:?} {}", answer.body),
        }
    });
    acked.await.unwrap();
}

/// Rows of a statement, asked until it is answered.
async fn told(http: &Http, sql: &str) -> Value {
    let told = wait::until("a statement is answered", SETTLED_WITHIN, || async {
        let answer = http.sql_answer(sql).await?;
        let mut told = answer.json();
        match (answer.status, told["retryable"].as_bool()) {
            (200, _) => Ok(told["rows"].take()),
            (503, Some(true)) => anyhow::bail!("{told}"),
            other => panic!("{other:?} {told}"),
        }
    });
    told.await.unwrap()
}

async fn a_write_is_read_at_once_beside_it(cluster: &Cluster) {
    let select = "SELECT host, count(*), sum(n) FROM cpu GROUP BY host ORDER BY host";
    for round in 0..9 {
        let (writer, acked) = (round % 3, (round as i64 + 1) * ROWS);
        taken(&cluster.nodes[writer].http, lines(acked - ROWS, ROWS)).await;
        let of_host = |host: i64| {
            let numbers = (0..acked).filter(|n| n % 5 == host);
            let (count, sum) = (numbers.clone().count(), numbers.sum::<i64>());
            vec![json!(format!("h{host}")), json!(count), json!(sum)]
        };
        let expected: Vec<Vec<Value>> = (0..5).map(of_host).collect();
        for beside in [1, 2] {
            let reader = (writer + beside) % 3;
            let rows = told(&cluster.nodes[reader].http, select).await;
            assert_eq!(
                rows,
                json!(expected),
                "written at {writer}, read at {reader}"
            );
        }
    }
}

/// A node that leads nothing, of which there is one: there are more nodes than shards.
async fn idle(cluster: &Cluster) -> usize {
    let shards = cluster.shards(0).await.unwrap();
    let leads = |node: &usize| shards.iter().any(|led| led.leader == Some(*node));
    (0..cluster.nodes.len()).find(|node| !leads(node)).unwrap()
}

async fn a_plan_says_what_crossed(cluster: &Cluster) {
    let explain = "EXPLAIN ANALYZE SELECT host, sum(n) FROM cpu GROUP BY host";
    let plan = wait::until("a node leads nothing", SETTLED_WITHIN, || async {
        let before = idle(cluster).await;
        let rows = told(&cluster.nodes[before].http, explain).await;
        anyhow::ensure!(idle(cluster).await == before, "shards have moved");
        Ok(rows)
    });
    let plan = plan.await.unwrap().to_string();
    let (_, remote) = plan.split_once("RemoteExec: node=c").unwrap();
    let (_, moved) = remote.split_once("bytes_moved=").unwrap();
    assert!(
        moved.starts_with(|first| ('1'..='9').contains(&first)),
        "{plan}"
    );
}

async fn a_reader_outlives_the_leader(cluster: &mut Cluster) {
    let random = Random::seeded(7);
    for from in (0..BIG_ROWS).step_by(BIG_BATCH as usize) {
        let lines: String = (from..from + BIG_BATCH)
            .map(|n| {
                let words = (0..64).map(|_| format!("{:016x}", random.next_u64()));
                let note: String = words.collect();
                format!("big,host=h{} n={n}i,note=\"{note}\" {n}\n", n % 5)
            })
            .collect();
        taken(&cluster.nodes[0].http, lines).await;
    }
    let reader = idle(cluster).await;
    let dead = cluster.leader(1, reader).await.unwrap();
    let alive: Vec<_> = (0..3).filter(|node| *node != dead).collect();
    let http = cluster.nodes[reader].http.clone();
    let request = http.request(Method::POST, "/v1/sql?format=ndjson");
    let request = request.body("SELECT host, time, n, note FROM big");
    let mut response = request.send().await.unwrap();
    assert_eq!(response.status(), 200);
    let mut body = response.chunk().await.unwrap().unwrap().to_vec();

    let (asked, killed) = (AtomicU64::new(0), AtomicBool::new(false));
    let doors: Vec<Http> = alive
        .iter()
        .map(|at| cluster.nodes[*at].http.clone())
        .collect();
    let counts = doors.iter().map(|http| counted(http, &asked, &killed));
    let kill = async {
        wait::until("counts are asked for", SETTLED_WITHIN, || async {
            let asked = asked.load(Ordering::Relaxed);
            anyhow::ensure!(asked > 8, "{asked} so far");
            Ok(())
        })
        .await
        .unwrap();
        cluster.nodes[dead].kill().unwrap();
        killed.store(true, Ordering::Relaxed);
        // A failure cuts the body behind the line that says so.
        while let Ok(Some(piece)) = response.chunk().await {
            body.extend_from_slice(&piece);
        }
    };
    tokio::join!(futures::future::join_all(counts), kill);
    let body = String::from_utf8(body).unwrap();
    let (rows, last) = (
        body.lines().count() as u64 - 1,
        body.lines().last().unwrap(),
    );
    let last: Value = serde_json::from_str(last).unwrap();
    match last.get("error") {
        Some(error) => is_clear(error),
        None => {
            assert_eq!(last["end"]["row_count"], BIG_ROWS, "{last}");
            assert_eq!((&last["end"]["truncated"], rows), (&json!(false), BIG_ROWS));
        }
    }
}

/// Counts again and again until the leader was killed and its successor answers; each answer counts
/// every row or is an error.
async fn counted(http: &Http, asked: &AtomicU64, killed: &AtomicBool) {
    let select = "SELECT count(*), sum(n) FROM big";
    let whole = json!([[BIG_ROWS, BIG_ROWS * (BIG_ROWS - 1) / 2]]);
    let counted = wait::until("all is counted", SETTLED_WITHIN, || async {
        let after = killed.load(Ordering::Relaxed);
        asked.fetch_add(1, Ordering::Relaxed);
        let answer = http.sql_answer(select).await.unwrap();
        let told = answer.json();
        match answer.status {
            200 => assert_eq!(told["rows"], whole, "partial: {told}"),
            _ => is_clear(&told),
        }
        anyhow::ensure!(after && answer.status == 200, "{told}");
        Ok(())
    });
    counted.await.unwrap();
}

/// An error that says that a node is gone, not that something went wrong inside.
fn is_clear(problem: &Value) {
    let code = problem["code"].as_str().unwrap_or_default();
    assert!(!["", "INTERNAL", "CORRUPT"].contains(&code), "{problem}");
}
