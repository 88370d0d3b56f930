//! Three compute nodes on three brokers and a bucket, beside one process, in the same run.
//!
//! 1. Each round loads the same batches into one process and into a cluster, both empty: the first half
//!    at full rate, the second half at half of the rate that the first had, where the time of an ack
//!    says something about the server and not about the queue before it.
//! 2. When all is in files, what crossed is read from the nodes' own counters: bytes forwarded to other
//!    nodes, requests to the bucket.
//! 3. The queries are asked of both that the last round left, in turns, the cluster at one node whose
//!    neighbours lead two thirds of the rows; then all shards are moved to that node, and again.
//!
//! All of it runs on one machine: more nodes have no more processors here, so these figures tell what
//! being apart costs, not what it gains.

use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use integration::cluster::{Cluster, Plan};
use integration::http::Http;
use integration::queries::{self, Dialect, Draw, FIELDS, Query, TAGS};
use integration::standalone::{Setup, Standalone};
use integration::{compare, disk, process, wait};
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::data::{BATCH_LINES, Data};
use crate::loader::{self, Load, Target};
use crate::measure::median;
use crate::queries::{ask, geometric_mean, median_ms, rows};
use crate::report::Report;
use crate::servers::{has_database, metric};
use crate::{Arguments, Part};

/// Compute nodes and brokers of the cluster.
const NODES: usize = 3;

/// Shards of both, and tablets of the table.
const SHARDS: u32 = 6;

/// Batches in flight at once at full rate.
const WRITERS: usize = 4;

/// Both flush alike, and soon, so that what crosses to files is part of each round.
const FLUSH: &str = "[flush]\nage = \"5s\"\n";

/// How long shards may take to be led, rows to be in files, and nodes to be emptied.
const SETTLED_WITHIN: Duration = Duration::from_secs(300);

/// Bytes of log behind the flushed offset that hold no batch of the load: claims, marks and the like.
const NO_ROWS: u64 = 64 << 10;

/// One of the two, running.
enum Side {
    One(Box<Standalone>),
    Apart(Box<Cluster>),
}

/// What a round came to for one of them.
#[derive(Debug)]
struct Outcome {
    rows: u64,
    full: Load,
    half: Load,
    /// Processor seconds of our processes a million rows, at full rate.
    cpu_s_per_million: f64,
    forwarded_bytes: u64,
    puts: u64,
    gets: u64,
    lists: u64,
    deletes: u64,
}

impl Side {
    async fn start(apart: bool, binary: &Path, folder: &Path) -> Result<Self> {
        let side = match apart {
            false => {
                let mut setup = Setup::new(binary, folder);
                setup.config = format!("[meta]\nshards = {SHARDS}\n{FLUSH}");
                let node = setup.start().await?;
                has_database(&node.http).await?;
                Self::One(Box::new(node))
            }
            true => {
                let plan = Plan {
                    nodes: NODES,
                    shards: SHARDS,
                    brokers: NODES as u16,
                    bucket: true,
                    config: FLUSH.to_owned(),
                    ..Plan::default()
                };
                let cluster = Box::new(Cluster::start(binary, folder, &plan).await?);
                cluster.served(SHARDS, SETTLED_WITHIN).await?;
                Self::Apart(cluster)
            }
        };
        let tags = TAGS.map(|tag| format!("{tag} STRING TAG")).join(", ");
        let fields = FIELDS.map(|field| format!("{field} BIGINT")).join(", ");
        let create = format!(
            "CREATE TABLE cpu ({tags}, time TIMESTAMP(9) NOT NULL, {fields}, TIMESTAMP KEY (time)) \
             PARTITION BY HASH(hostname) PARTITIONS {SHARDS}"
        );
        let created = side.doors()[0].sql_answer(&create).await?;
        ensure!(created.status == 200, "CREATE TABLE: {}", created.body);
        Ok(side)
    }

    fn name(&self) -> &'static str {
        match self {
            Self::One(_) => "one process",
            Self::Apart(_) => "cluster",
        }
    }

    fn doors(&self) -> Vec<Http> {
        match self {
            Self::One(node) => vec![node.http.clone()],
            Self::Apart(cluster) => cluster.doors(),
        }
    }

    /// Processor seconds of our processes so far.
    fn cpu_seconds(&self) -> Result<f64> {
        let pids = match self {
            Self::One(node) => vec![node.pid()],
            Self::Apart(cluster) => {
                let nodes = cluster.nodes.iter().chain(&cluster.metas);
                nodes.map(Standalone::pid).collect()
            }
        };
        pids.into_iter().map(process::cpu_seconds).sum()
    }

    /// Sum of a metric over the nodes.
    async fn metric(&self, name: &str) -> Result<u64> {
        let mut sum = 0;
        for door in self.doors() {
            sum += metric(&door, name).await?;
        }
        Ok(sum)
    }

    /// Loads all rows and waits until they are in files.
    async fn load(&self, data: &Data) -> Result<Outcome> {
        let targets: Vec<Target> = self
            .doors()
            .into_iter()
            .map(|http| Target {
                http,
                path: "/write?db=main".to_owned(),
            })
            .collect();
        let (first, second) = data.batches.split_at(data.batches.len() / 2);
        let cpu = self.cpu_seconds()?;
        let full = loader::load(&targets, first, WRITERS).await?;
        let cpu = self.cpu_seconds()? - cpu;
        let every = full.wall * 2 / u32::try_from(first.len())?;
        let half = loader::paced(&targets, second, every).await?;
        let seen = self.doors()[0].sql("SELECT count(*) FROM cpu").await?;
        let rows = data.rows;
        ensure!(seen == [[json!(rows)]], "{seen:?} of {rows} rows are seen");
        wait::until("all is in files", SETTLED_WITHIN, || async {
            let left = self.metric("auxo_wal_unflushed_bytes").await?;
            ensure!(left < NO_ROWS, "{left} bytes of log are in no file");
            Ok(())
        })
        .await?;
        let millions = (first.len() * BATCH_LINES) as f64 / 1e6;
        Ok(Outcome {
            rows,
            full,
            half,
            cpu_s_per_million: cpu / millions,
            forwarded_bytes: self.metric("auxo_forward_bytes_total").await?,
            puts: self.metric("auxo_store_puts_total").await?,
            gets: self.metric("auxo_store_gets_total").await?,
            lists: self.metric("auxo_store_lists_total").await?,
            deletes: self.metric("auxo_store_deletes_total").await?,
        })
    }

    async fn stop(self) -> Result<()> {
        match self {
            Self::One(mut node) => {
                let status = node.terminate(SETTLED_WITHIN).await?;
                ensure!(status.success(), "{status}\n{}", node.log_tail());
                Ok(())
            }
            Self::Apart(mut cluster) => cluster.stop().await,
        }
    }
}

impl Outcome {
    fn rows_per_s(&self) -> f64 {
        (self.full.acks.len() * BATCH_LINES) as f64 / self.full.wall.as_secs_f64()
    }

    fn a_million(&self, requests: u64) -> f64 {
        requests as f64 * 1e6 / self.rows as f64
    }

    fn report(&self) -> Value {
        json!({
            "rows_per_s": self.rows_per_s(),
            "ack_p50_ms": self.full.ack_ms(0.5), "ack_p99_ms": self.full.ack_ms(0.99),
            "half_ack_p50_ms": self.half.ack_ms(0.5), "half_ack_p99_ms": self.half.ack_ms(0.99),
            "refused": self.full.refused + self.half.refused,
            "cpu_s_per_million_rows": self.cpu_s_per_million,
            "forwarded_bytes_per_row": self.forwarded_bytes as f64 / self.rows as f64,
            "puts_per_million_rows": self.a_million(self.puts),
            "gets_per_million_rows": self.a_million(self.gets),
            "lists_per_million_rows": self.a_million(self.lists),
            "deletes_per_million_rows": self.a_million(self.deletes),
        })
    }

    fn print(&self, name: &str) {
        println!(
            "  {name:12} {:>9.0} {:>8.1} {:>8.1} {:>9.1} {:>9.1} {:>7} {:>9.2} {:>8.1} {:>7.1} {:>7.1} {:>7.1} {:>7.1}",
            self.rows_per_s(),
            self.full.ack_ms(0.5),
            self.full.ack_ms(0.99),
            self.half.ack_ms(0.5),
            self.half.ack_ms(0.99),
            self.full.refused + self.half.refused,
            self.cpu_s_per_million,
            self.forwarded_bytes as f64 / self.rows as f64,
            self.a_million(self.puts),
            self.a_million(self.gets),
            self.a_million(self.lists),
            self.a_million(self.deletes),
        );
    }
}

/// Runs the rounds, then the queries.
pub(crate) async fn run(arguments: &Arguments, binary: &Path, report: &mut Report) -> Result<()> {
    let other = [Part::Disk, Part::Restart];
    if let Some(part) = arguments.only.iter().find(|part| other.contains(part)) {
        bail!("a cluster has the parts ingest and queries, not {part:?}");
    }
    let folder = disk::folder("bench-data")?;
    let data = Data::make(binary, arguments.hosts, arguments.hours, folder.path())?;
    println!("data: {}", data.report());
    report.add("data", data.report());
    let rounds = match arguments.wants(Part::Ingest) {
        true => arguments.rounds.max(1),
        false => 1,
    };
    let ((one, _one), (apart, _apart)) = ingest(binary, &data, rounds, report).await?;
    drop(data);
    if arguments.wants(Part::Queries) {
        ask_both(&one, &apart, arguments.query_rounds, report).await?;
    }
    one.stop().await?;
    apart.stop().await
}

type Running = (Side, TempDir);

/// All rounds; what the last one started goes on running.
async fn ingest(
    binary: &Path,
    data: &Data,
    rounds: usize,
    report: &mut Report,
) -> Result<(Running, Running)> {
    let (mut outcomes, mut ratios) = (Vec::new(), Vec::new());
    for round in 1..=rounds {
        println!(
            "ingest, round {round} of {rounds}; load {:.2}\n  {:12} {:>9} {:>8} {:>8} {:>9} {:>9} {:>7} {:>9} {:>8} {:>7} {:>7} {:>7} {:>7}",
            process::load_average()?,
            "",
            "rows/s",
            "p50 ms",
            "p99 ms",
            "half p50",
            "half p99",
            "refused",
            "cpu-s/M",
            "fwd B/r",
            "put/M",
            "get/M",
            "list/M",
            "del/M",
        );
        let (mut running, mut found) = (Vec::new(), Vec::new());
        for apart in [false, true] {
            let folder = disk::folder("bench-load")?;
            let side = Side::start(apart, binary, folder.path()).await?;
            let outcome = side.load(data).await.with_context(|| side.name())?;
            outcome.print(side.name());
            found.push(outcome);
            running.push((side, folder));
        }
        ratios.push([
            found[1].rows_per_s() / found[0].rows_per_s(),
            found[1].cpu_s_per_million / found[0].cpu_s_per_million,
            found[1].half.ack_ms(0.5) / found[0].half.ack_ms(0.5),
            found[1].half.ack_ms(0.99) / found[0].half.ack_ms(0.99),
        ]);
        outcomes.push(json!({"one process": found[0].report(), "cluster": found[1].report()}));
        let [one, apart] = <[Running; 2]>::try_from(running)
            .ok()
            .context("two that run")?;
        if round < rounds {
            one.0.stop().await?;
            apart.0.stop().await?;
            continue;
        }
        let of = |at: usize| median(ratios.iter().map(|ratios| ratios[at]).collect());
        let last = &found[1];
        report.line(format!(
            "ingest: a cluster of {NODES} takes {:.2}x the rows/s of one process, {:.2}x its processor seconds a row; ack at half of the rate p50 {:.1} ms ({:.2}x), p99 {:.1} ms ({:.2}x)",
            of(0),
            of(1),
            last.half.ack_ms(0.5),
            of(2),
            last.half.ack_ms(0.99),
            of(3),
        ));
        report.line(format!(
            "crossed: {:.1} bytes a row forwarded between nodes; a million rows cost the bucket {:.1} puts, {:.1} gets, {:.1} lists, {:.1} deletes",
            last.forwarded_bytes as f64 / last.rows as f64,
            last.a_million(last.puts),
            last.a_million(last.gets),
            last.a_million(last.lists),
            last.a_million(last.deletes),
        ));
        report.add(
            "ingest",
            json!({ "writers": WRITERS, "rounds": outcomes, "ratios": ratios }),
        );
        return Ok((one, apart));
    }
    bail!("no round")
}

/// The fifteen queries of one process and of a cluster whose rows lie on three nodes, then on one.
async fn ask_both(one: &Side, apart: &Side, rounds: usize, report: &mut Report) -> Result<()> {
    let Side::Apart(cluster) = apart else {
        bail!("a cluster is asked");
    };
    let node = &one.doors()[0];
    let three = in_turns(node, &cluster.nodes[0].http, NODES, rounds, report).await?;
    for name in ["c1", "c2"] {
        let drain = format!("/v1/nodes/{name}/drain");
        let door = &cluster.nodes[0].http;
        let told = door
            .send(door.request(reqwest::Method::POST, &drain))
            .await?;
        ensure!(told.status == 202, "{drain}: {} {}", told.status, told.body);
    }
    wait::until("c0 leads all shards", SETTLED_WITHIN, || async {
        let shards = cluster.shards(0).await?;
        let at_first = shards.iter().all(|led| led.leader == Some(0));
        ensure!(at_first, "{shards:?}");
        Ok(())
    })
    .await?;
    cluster.served(SHARDS, SETTLED_WITHIN).await?;
    let single = in_turns(node, &cluster.nodes[0].http, 1, rounds, report).await?;
    report.line(format!(
        "queries: geometric mean {three:.2}x one process over {NODES} nodes, {single:.2}x over one node; load {:.2}",
        process::load_average()?,
    ));
    Ok(())
}

/// Asks both in turns; before a time counts, their rows are equal.
///
/// * returns: the geometric mean of the cluster's times by those of one process.
async fn in_turns(
    one: &Http,
    apart: &Http,
    nodes: usize,
    rounds: usize,
    report: &mut Report,
) -> Result<f64> {
    println!(
        "{:22} {:>8} {:>12} {:>12} {:>7} {:>12}",
        format!("rows on {nodes} nodes, ms"),
        "rows",
        "one process",
        "cluster",
        "ratio",
        "bytes moved"
    );
    let (mut ratios, mut found) = (Vec::new(), Vec::new());
    for query in queries::all(Dialect::Auxo, &Draw::default()) {
        let (ours, theirs) = (rows(apart, &query).await?, rows(one, &query).await?);
        compare::rows(query.name, &ours, &theirs, query.ordered)?;
        let before = metric(apart, MOVED).await?;
        let (mut alone, mut spread) = (Vec::new(), Vec::new());
        for round in 0..rounds.max(2) {
            let took = (ask(one, &query).await?, ask(apart, &query).await?);
            if round > 0 {
                alone.push(took.0);
                spread.push(took.1);
            }
        }
        let moved = (metric(apart, MOVED).await? - before) / rounds.max(2) as u64;
        found.push(line(&query, ours.len(), (&alone, &spread), moved));
        ratios.push((median_ms(&spread) / median_ms(&alone), query.name));
    }
    let mean = geometric_mean(&ratios);
    report.add(
        &format!("queries over {nodes}"),
        json!({ "geometric_mean": mean, "queries": found }),
    );
    Ok(mean)
}

/// Bytes of rows that other nodes sent to a node's queries.
const MOVED: &str = "auxo_query_moved_bytes_total";

fn line(query: &Query, rows: usize, times: (&[Duration], &[Duration]), moved: u64) -> Value {
    let (alone, spread) = (median_ms(times.0), median_ms(times.1));
    println!(
        "{:22} {rows:>8} {alone:>12.2} {spread:>12.2} {:>7.2} {moved:>12}",
        query.name,
        spread / alone
    );
    json!({ "query": query.name, "rows": rows, "one process": alone, "cluster": spread, "bytes_moved": moved })
}
