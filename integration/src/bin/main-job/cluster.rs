//! The job on a cluster: three compute nodes, a meta node, three brokers, a bucket.
//!
//! 1. The table is made by SQL with sixteen tablets, as many as there are shards.
//! 2. Batch `n` goes to node `n % 3`, whoever leads its rows; query `i` to node `i % 3`.
//! 3. What the cluster holds is counted: shards and rows of each node, topics and how far they were
//!    truncated, sorted files in the bucket.
//! 4. All processes are asked to end, compute nodes first and servers last, and are started again.
//! 5. Query `i` goes to node `(i + 1) % 3`.

use std::path::Path;
use std::time::Duration;

use anyhow::{Result, bail};
use integration::cluster::{Cluster, Plan};
use integration::http::Http;
use integration::queries::{FIELDS, TAGS};
use tokio::time::Instant;

use crate::Equal;
use crate::census;
use crate::data::Data;
use crate::oracle::Oracle;

/// Shards of the cluster, and tablets of the table.
pub(crate) const SHARDS: u32 = 16;

/// Compute nodes, and brokers.
const NODES: u16 = 3;

/// How long shards may take until all are led.
const LED_WITHIN: Duration = Duration::from_secs(120);

/// A shard is flushed often, so that its log is truncated while rows arrive.
const CONFIG: &str = "[flush]\nage = \"5s\"\nunflushed_bytes = \"4MiB\"\n";

pub(crate) async fn run(
    binary: &Path,
    folder: &Path,
    data: &Data,
    oracle: &Oracle,
) -> Result<Equal> {
    let plan = Plan {
        nodes: NODES.into(),
        shards: SHARDS,
        brokers: NODES,
        bucket: true,
        config: CONFIG.to_owned(),
        ..Plan::default()
    };
    let began = Instant::now();
    let mut cluster = Cluster::start(binary, folder, &plan).await?;
    println!("started in {:.1} s", began.elapsed().as_secs_f64());
    let ran = job(&mut cluster, data, oracle).await;
    if !matches!(
        ran,
        Ok(Equal {
            before: 15,
            after: 15
        })
    ) {
        for place in cluster.keep_files() {
            println!("files of a server are kept in {place}");
        }
    }
    ran
}

async fn job(cluster: &mut Cluster, data: &Data, oracle: &Oracle) -> Result<Equal> {
    cluster.served(SHARDS, LED_WITHIN).await?;
    let created = cluster.nodes[0].http.sql_answer(&table()).await?;
    if created.status != 200 {
        bail!("CREATE TABLE: {} {}", created.status, created.body);
    }
    data.load(&doors(cluster)).await?;
    let before = oracle.equal(&doors(cluster), 0).await?;
    census::doors(cluster, data.rows).await?;
    census::leaders(cluster, data.rows).await?;
    census::files(cluster, data.rows).await?;
    census::topics(cluster).await?;

    let began = Instant::now();
    cluster.stop().await?;
    println!("stopped in {:.1} s", began.elapsed().as_secs_f64());
    let began = Instant::now();
    cluster.start_again().await?;
    cluster.served(SHARDS, LED_WITHIN).await?;
    println!("started again in {:.1} s", began.elapsed().as_secs_f64());
    let after = oracle.equal(&doors(cluster), 1).await?;
    census::leaders(cluster, data.rows).await?;
    census::files(cluster, data.rows).await?;
    Ok(Equal { before, after })
}

fn doors(cluster: &Cluster) -> Vec<&Http> {
    cluster.nodes.iter().map(|node| &node.http).collect()
}

/// The benchmark's table, spread by host.
fn table() -> String {
    let tags = TAGS.map(|tag| format!("{tag} STRING TAG")).join(", ");
    let fields = FIELDS.map(|field| format!("{field} BIGINT")).join(", ");
    format!(
        "CREATE TABLE cpu ({tags}, time TIMESTAMP(9) NOT NULL, {fields}, TIMESTAMP KEY (time)) \
         PARTITION BY HASH(hostname) PARTITIONS {SHARDS}"
    )
}
