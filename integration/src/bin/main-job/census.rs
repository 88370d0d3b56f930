//! What a cluster holds and where: rows by node, topics by shard, files in the bucket. Each count is
//! printed, and is an error where it cannot be right.

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use auxo_proto::key;
use futures::TryStreamExt;
use integration::cluster::{BUCKET, Cluster};
use integration::{topics, wait};
use object_store::ObjectStore;
use reqwest::Method;

use crate::cluster::SHARDS;

/// How long a shard's log may take to be truncated once there is a file of its rows.
const TRUNCATED_WITHIN: Duration = Duration::from_secs(60);

/// Rows that each node acknowledged over its own door.
pub(crate) async fn doors(cluster: &Cluster, rows: u64) -> Result<()> {
    let mut acked = Vec::new();
    for node in &cluster.nodes {
        let page = node.http.request(Method::GET, "/metrics");
        let page = node.http.send(page).await?.body;
        let of = |line: &str| line.strip_prefix("auxo_write_rows_total ")?.parse().ok();
        let count: u64 = page.lines().find_map(of).context("auxo_write_rows_total")?;
        acked.push(count);
    }
    println!("rows acknowledged by c0, c1, …: {acked:?}");
    let all: u64 = acked.iter().sum();
    ensure!(all == rows, "acknowledged were {all}, sent {rows}");
    ensure!(acked.iter().all(|&count| count > 0), "a node took nothing");
    Ok(())
}

/// Shards, tablets and rows that each node leads: rows are counted by host, and a host's tablet is
/// where its hash falls.
pub(crate) async fn leaders(cluster: &Cluster, rows: u64) -> Result<()> {
    let hosts = "SELECT hostname, count(*) FROM cpu GROUP BY hostname";
    let mut hashes = Vec::new();
    for row in cluster.nodes[0].http.sql(hosts).await? {
        let (host, count) = (row[0].as_str(), row[1].as_u64());
        let host = host.context("name of a host")?.as_bytes();
        let hash = key::partition_hash(&key::encode([Some(host)]));
        hashes.push((hash, count.context("rows of a host")?));
    }
    let mut led = vec![(0_u64, 0_usize, 0_u64); cluster.nodes.len()];
    for shard in cluster.shards(0).await? {
        let ranges = cluster.ranges(shard.shard, 0).await?;
        let holds = |hash: u32| ranges.iter().any(|&(lo, hi)| (lo..=hi).contains(&hash));
        let held = hashes.iter().filter(|(hash, _)| holds(*hash));
        let leader = shard.leader.context("a shard without a leader")?;
        let (shards, tablets, rows) = &mut led[leader];
        *shards += 1;
        *tablets += ranges.len();
        *rows += held.map(|(_, count)| count).sum::<u64>();
    }
    for (at, (shards, tablets, rows)) in led.iter().enumerate() {
        println!("c{at} leads {shards} shards with {tablets} tablets and {rows} rows");
    }
    let tablets: usize = led.iter().map(|(_, tablets, _)| tablets).sum();
    let all: u64 = led.iter().map(|(_, _, rows)| rows).sum();
    ensure!(tablets == SHARDS as usize, "{tablets} tablets");
    ensure!(all == rows, "led are {all} rows, written were {rows}");
    Ok(())
}

/// Sorted files of each shard, as any client of the bucket sees them.
async fn sorted(cluster: &Cluster) -> Result<BTreeMap<u64, Vec<u64>>> {
    let store = cluster.s3.as_ref().context("a bucket")?.store(BUCKET)?;
    let listed: Vec<_> = store.list(None).try_collect().await?;
    let mut files: BTreeMap<u64, Vec<u64>> = BTreeMap::new();
    for object in listed {
        let name = object.location.as_ref();
        let Some((shard, file)) = name.split_once("/sst/") else {
            continue;
        };
        if file.ends_with(".parquet") {
            let shard = shard.parse().with_context(|| name.to_owned())?;
            files.entry(shard).or_default().push(object.size);
        }
    }
    Ok(files)
}

/// How many sorted files there are.
pub(crate) async fn files(cluster: &Cluster, rows: u64) -> Result<()> {
    let files = sorted(cluster).await?;
    let sizes: Vec<u64> = files.into_values().flatten().collect();
    ensure!(!sizes.is_empty(), "no sorted file lies in the bucket");
    let bytes: u64 = sizes.iter().sum();
    println!(
        "SSTs in the bucket: {} of {bytes} bytes, {:.2} a row",
        sizes.len(),
        bytes as f64 / rows as f64
    );
    Ok(())
}

/// One topic for each shard on all brokers, whose beginning has moved where a file holds its rows.
pub(crate) async fn topics(cluster: &Cluster) -> Result<()> {
    let brokers = cluster.kafka.addresses().len();
    let topics = wait::until("logs are truncated", TRUNCATED_WITHIN, || async {
        let topics = topics::of_shards(&cluster.kafka.bootstrap()).await?;
        for shard in sorted(cluster).await?.keys() {
            let topic = topics.get(shard).context("a shard without a topic")?;
            ensure!(
                topic.first > 0,
                "shard {shard} has files and all its log to {}",
                topic.end
            );
        }
        Ok(topics)
    });
    let topics = topics.await?;
    for topic in topics.values() {
        ensure!(topic.copies == brokers, "{topic:?} on {brokers} brokers");
    }
    let shards: Vec<u64> = topics.keys().copied().collect();
    let expected: Vec<u64> = cluster
        .shards(0)
        .await?
        .iter()
        .map(|led| led.shard)
        .collect();
    ensure!(
        shards == expected,
        "topics of {shards:?}, not of {expected:?}"
    );
    let shown = topics
        .iter()
        .map(|(shard, topic)| format!("{shard}: {}..{}", topic.first, topic.end));
    println!(
        "topics: one per shard, {} on {brokers} brokers; logs from start to end: {}",
        shards.len(),
        shown.collect::<Vec<_>>().join(", ")
    );
    Ok(())
}
