//! Real processes on a real log and a real bucket: any node takes a write, and a leader that dies is
//! replaced.

#![allow(clippy::unwrap_used, reason = "every line of it is a test")]

use std::time::Duration;

use futures::TryStreamExt;
use integration::cluster::{BUCKET, Cluster, Plan};
use integration::{binary, disk, wait};
use object_store::ObjectStore;
use serde_json::json;

/// Rows of one write.
const ROWS: i64 = 50;

#[tokio::test]
async fn what_was_acked_outlives_the_leader_that_acked_it() {
    let folder = disk::folder("cluster").unwrap();
    let binary = binary::beside().unwrap();
    let plan = Plan {
        nodes: 2,
        bucket: true,
        config: "[flush]\nage = \"500ms\"\n".to_owned(),
    };
    let mut cluster = Cluster::start(&binary, folder.path(), &plan).await.unwrap();
    let lines = |from: i64| -> String {
        let line = |n: i64| format!("cpu,host=h{} n={n}i {n}\n", n % 5);
        (from..from + ROWS).map(line).collect()
    };
    let mut acked = 0;
    for round in 0..6 {
        let node = &cluster.nodes[round % 2];
        let answer = node.http.write("main", lines(acked)).await.unwrap();
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
        let next = lines(acked);
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
