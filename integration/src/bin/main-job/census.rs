//! What a cluster holds and where: rows by node, topics by shard, files in the bucket. Each count is
//! printed, and is an error where it cannot be right.

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use auxo_proto::key;
use futures::TryStreamExt;
use integration::cluster::{BUCKET, Cluster};
use integration::wait;
use object_store::ObjectStore;
use rdkafka::ClientConfig;
use rdkafka::consumer::{BaseConsumer, Consumer};
use reqwest::Method;

use crate::cluster::SHARDS;

/// What the topics of a cluster begin with; the cluster has the name it has by default.
const PREFIX: &str = "auxo.auxo.";

/// Time for one question of Kafka.
const ANSWER_TIME: Duration = Duration::from_secs(10);

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
    let marks = wait::until("logs are truncated", TRUNCATED_WITHIN, || async {
        let bootstrap = cluster.kafka.bootstrap();
        let asked = tokio::task::spawn_blocking(move || marks(&bootstrap, brokers));
        let (marks, files) = (asked.await??, sorted(cluster).await?);
        for shard in files.keys() {
            let (start, end) = marks.get(shard).context("a shard without a topic")?;
            ensure!(
                *start > 0,
                "shard {shard} has files and all its log to {end}"
            );
        }
        Ok(marks)
    });
    let marks = marks.await?;
    let shards: Vec<u64> = marks.keys().copied().collect();
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
    let shown = marks
        .iter()
        .map(|(shard, (start, end))| format!("{shard}: {start}..{end}"));
    println!(
        "topics: one per shard, {} on {brokers} brokers; logs from start to end: {}",
        shards.len(),
        shown.collect::<Vec<_>>().join(", ")
    );
    Ok(())
}

/// First offset and end of the topic of each shard.
///
/// * errors: a second topic of a shard, more partitions than one, other copies than brokers.
/// * effects: blocks.
fn marks(bootstrap: &str, brokers: usize) -> Result<BTreeMap<u64, (i64, i64)>> {
    let client: BaseConsumer = ClientConfig::new()
        .set("bootstrap.servers", bootstrap)
        .create()?;
    let metadata = client.fetch_metadata(None, ANSWER_TIME)?;
    let mut marks = BTreeMap::new();
    for topic in metadata.topics() {
        let name = topic.name();
        let Some((shard, _)) = name.strip_prefix(PREFIX).and_then(|of| of.split_once('.')) else {
            continue;
        };
        let [partition] = topic.partitions() else {
            bail!("{name} has {} partitions", topic.partitions().len());
        };
        let copies = partition.replicas().len();
        ensure!(copies == brokers, "{name} has {copies} copies");
        let between = client.fetch_watermarks(name, 0, ANSWER_TIME)?;
        let shard = shard.parse().with_context(|| name.to_owned())?;
        let other = marks.insert(shard, between);
        ensure!(other.is_none(), "shard {shard} has two topics");
    }
    Ok(marks)
}
