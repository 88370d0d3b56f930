//! A table whose tablets lie on several nodes answers as one that lies here, and what crosses between
//! them is what has to.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use arrow::array::RecordBatch;
use arrow::datatypes::SchemaRef;
use arrow::util::pretty::pretty_format_batches;
use async_trait::async_trait;
use auxo_proto::error::{ErrorCode, Failure};
use auxo_proto::ids::TabletId;
use auxo_proto::pb::node::{Find, Found};
use auxo_proto::topology::Catalog;
use futures::{FutureExt, StreamExt, TryStreamExt, stream};
use prost::Message;

use super::memory_table::Tables;
use super::{Bench, extremes, limits, sample};
use crate::fragment::{Held, Part, PartStream, Peer, SentPart};
use crate::source::{Place, Snapshots};
use crate::{QueryConfig, Statement};

/// Another node in this process: everything that would cross the network is bytes on its way.
struct Node {
    name: String,
    held: Held,
    catalog: Arc<Catalog>,
    plans: bool,
    rows: Arc<AtomicU64>,
}

impl fmt::Debug for Node {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.name)
    }
}

#[async_trait]
impl Peer for Node {
    fn name(&self) -> &str {
        &self.name
    }

    fn plans(&self) -> bool {
        self.plans
    }

    async fn find(&self, find: Find) -> Result<Found, Failure> {
        let find = Find::decode(find.encode_to_vec().as_slice()).unwrap();
        self.held.find(&self.catalog, &find).await
    }

    fn run(self: Arc<Self>, part: SentPart, partition: u32, schema: SchemaRef) -> PartStream {
        assert!(self.plans || matches!(part, SentPart::Leaf(_)));
        let running = match self.held.run(&part, partition) {
            Ok(running) => running,
            Err(failure) => return stream::iter([Err(failure)]).boxed(),
        };
        assert_eq!(running.schema, schema);
        let took = running.took();
        let rows = Arc::clone(&self.rows);
        let batches = running.batches.map_ok(move |batch| {
            rows.fetch_add(batch.num_rows() as u64, Ordering::Relaxed);
            Part::Rows(batch, 0)
        });
        batches.chain(stream::iter([Ok(Part::Done(took))])).boxed()
    }
}

/// Tables whose tablets are spread over this node and two others.
struct Spread {
    bench: Bench,
    others: Vec<Bench>,
    plans: bool,
    rows: Arc<AtomicU64>,
}

fn tables() -> Tables {
    Tables::new(vec![sample(), extremes()])
}

impl Spread {
    fn new(plans: bool) -> Self {
        Self::with_config(plans, &QueryConfig::default())
    }

    fn with_config(plans: bool, config: &QueryConfig) -> Self {
        let other = |_| Bench::with_config(tables(), config);
        Self {
            bench: Bench::with_config(tables(), config),
            others: (0..2).map(other).collect(),
            plans,
            rows: Arc::default(),
        }
    }

    /// Tablet `n` of each table lies on node `n % nodes`, where 0 is this one unless nothing is here.
    fn snapshots(&self, here: bool) -> Snapshots {
        let deadline = limits().deadline;
        let peers: Vec<Arc<dyn Peer>> = self
            .others
            .iter()
            .enumerate()
            .map(|(at, other)| {
                Arc::new(Node {
                    name: format!("node{}", at + 1),
                    held: other.query.hold(other.tables.snapshots(), deadline),
                    catalog: Arc::clone(&other.catalog),
                    plans: self.plans,
                    rows: Arc::clone(&self.rows),
                }) as Arc<dyn Peer>
            })
            .collect();
        let inner = self.bench.tables.snapshots();
        Snapshots::from_fn(move |tablets| {
            let (peers, inner) = (peers.clone(), inner.clone());
            async move {
                let all = inner.take(tablets.clone()).await?;
                let place = |(tablet, place): (&TabletId, Place)| {
                    let nth = tablet.0 as usize;
                    match here {
                        true if nth.is_multiple_of(3) => place,
                        true => Place::There(Arc::clone(&peers[nth % 3 - 1])),
                        false => Place::There(Arc::clone(&peers[nth % 2])),
                    }
                };
                Ok(tablets.iter().zip(all).map(place).collect())
            }
            .boxed()
        })
    }

    async fn rows(&self, text: &str, here: bool) -> Result<Vec<RecordBatch>, Failure> {
        let Statement::Query(plan) = self.bench.prepare(text)? else {
            panic!("{text} is no query");
        };
        let snapshots = self.snapshots(here);
        let answer = self
            .bench
            .query
            .execute(*plan, snapshots, limits(), Arc::new(()))
            .await?;
        answer.batches.try_collect().await
    }
}

/// Rows as text, in any order.
fn sorted(batches: &[RecordBatch]) -> Vec<String> {
    let text = pretty_format_batches(batches).unwrap().to_string();
    let mut lines: Vec<String> = text.lines().map(str::to_owned).collect();
    lines.sort();
    lines
}

const STATEMENTS: [&str; 24] = [
    "SELECT * FROM cpu",
    "SELECT count(*) FROM cpu",
    "SELECT host, count(*), sum(n), min(usage), max(usage), avg(n) FROM cpu GROUP BY host",
    "SELECT dc, count(DISTINCT host), sum(n) FROM cpu WHERE n > 100 GROUP BY dc",
    "SELECT time_bucket('10m', ts) AS b, host, avg(n), last(n, ts), first(n, ts) FROM cpu \
     GROUP BY b, host",
    "SELECT * FROM cpu WHERE host = 'web1' AND ts < '2026-01-01T00:10:00Z'",
    "SELECT host, ts, n FROM cpu WHERE usage > 20 ORDER BY n DESC, host LIMIT 7",
    "SELECT host, n FROM cpu ORDER BY host, ts LIMIT 5 OFFSET 3",
    "SELECT ts, max(n) FROM cpu GROUP BY ts ORDER BY ts DESC LIMIT 4",
    "SELECT DISTINCT dc FROM cpu",
    "SELECT DISTINCT ON (host) host, n FROM cpu ORDER BY host, ts DESC",
    "SELECT a.host, count(*) FROM cpu a JOIN cpu b ON a.ts = b.ts AND a.host < b.host \
     GROUP BY a.host",
    "SELECT host, n FROM cpu WHERE n > (SELECT avg(n) FROM cpu) AND note IS NOT NULL",
    "SELECT host, n, row_number() OVER (PARTITION BY host ORDER BY ts) AS r FROM cpu \
     WHERE n % 100 < 3",
    "SELECT upper(host) AS h, n + 1, n * 2 - 1, -n FROM cpu WHERE note LIKE 'note%'",
    "SELECT host, approx_distinct(n) FROM cpu GROUP BY host",
    "SELECT median(n) FROM cpu",
    "SELECT host FROM cpu WHERE n IN (SELECT n FROM cpu WHERE usage IS NULL) AND dc IS NULL",
    "SELECT max(n) FROM cpu WHERE ts >= '2026-01-01T01:00:00Z' UNION ALL SELECT min(n) FROM cpu",
    "SELECT host, sum(n) AS s FROM cpu GROUP BY host HAVING sum(n) > 71500",
    "SELECT d, i, s, u, f FROM dd",
    "SELECT sum(d), sum(s), max(u), min(i) FROM dd",
    "SELECT count(*) FROM cpu WHERE false",
    "SELECT host, CASE WHEN n > 600 THEN 'high' ELSE note END AS c FROM cpu WHERE NOT host = 'web0'",
];

#[tokio::test]
async fn tablets_of_other_nodes_answer_as_tablets_here() {
    let alone = Bench::new(tables());
    for plans in [true, false] {
        let spread = Spread::new(plans);
        for text in STATEMENTS {
            let expected = sorted(&alone.rows(text).await.unwrap());
            for here in [true, false] {
                let rows = spread.rows(text, here).await;
                let rows = rows.unwrap_or_else(|failure| panic!("{text}: {failure}"));
                assert_eq!(sorted(&rows), expected, "{text} plans={plans} here={here}");
            }
        }
    }
}

#[tokio::test]
async fn only_what_comes_out_of_a_part_crosses() {
    // Of 360 rows; each node yields at most its groups, its newest, or its limit.
    let most: BTreeMap<&str, u64> = BTreeMap::from([
        ("SELECT count(*) FROM cpu", 4),
        ("SELECT host, sum(n) FROM cpu GROUP BY host", 3),
        ("SELECT host, n FROM cpu ORDER BY n DESC LIMIT 2", 4 * 2),
        ("SELECT host, n FROM cpu WHERE usage > 180.5", 2),
        ("SELECT host, n FROM cpu LIMIT 3", 4 * 3),
        ("SELECT median(n) FROM cpu", 4),
    ]);
    for (text, most) in most {
        let spread = Spread::new(true);
        spread.rows(text, false).await.unwrap();
        let crossed = spread.rows.load(Ordering::Relaxed);
        assert!(crossed <= most, "{text}: {crossed} rows crossed");
    }
}

#[tokio::test]
async fn a_plan_shows_what_runs_where() {
    let spread = Spread::new(true);
    let text = "EXPLAIN SELECT host, sum(n) FROM cpu WHERE usage > 1 GROUP BY host";
    let rows = spread.rows(text, true).await.unwrap();
    let plan = pretty_format_batches(&rows).unwrap().to_string();
    let at = |what: &str| {
        plan.find(what)
            .unwrap_or_else(|| panic!("no {what} in\n{plan}"))
    };
    assert!(
        at("RemoteExec: node=node1") < at("FoundScan: table=cpu"),
        "{plan}"
    );
    let below = plan.split("RemoteExec").nth(1).unwrap();
    for what in ["AggregateExec: mode=Partial", "FilterExec", "FoundScan"] {
        assert!(
            below.contains(what),
            "{what} runs on the other node:\n{plan}"
        );
    }
    let analyzed = spread
        .rows(&format!("EXPLAIN ANALYZE {}", &text[8..]), true)
        .await
        .unwrap();
    let analyzed = pretty_format_batches(&analyzed).unwrap().to_string();
    assert!(analyzed.contains("bytes_moved="), "{analyzed}");
}

#[tokio::test]
async fn a_failure_of_a_part_is_the_statements() {
    let spread = Spread::new(true);
    let failure = spread
        .rows("SELECT i + 1 FROM dd", false)
        .await
        .unwrap_err();
    assert_eq!(failure.code, ErrorCode::ValueOutOfRange, "{failure}");
    let config = QueryConfig {
        memory_bytes: 1 << 20,
        statement_memory_bytes: 2_048,
        ..QueryConfig::default()
    };
    let spread = Spread::with_config(true, &config);
    let text = "SELECT host, ts, count(*) FROM cpu GROUP BY host, ts";
    let failure = spread.rows(text, false).await.unwrap_err();
    assert_eq!(failure.code, ErrorCode::QueryLimit, "{failure}");
}

#[tokio::test]
async fn a_part_that_nobody_sent_is_refused() {
    let bench = Bench::new(tables());
    let held = bench
        .query
        .hold(bench.tables.snapshots(), limits().deadline);
    let lost = auxo_proto::pb::node::FragmentLeaf { scan: 3, fetch: 0 };
    for part in [
        SentPart::Leaf(lost),
        SentPart::Plan(bytes::Bytes::from_static(b"\xff\xff")),
        SentPart::Plan(bytes::Bytes::new()),
    ] {
        let failure = held.run(&part, 0).err().unwrap();
        assert_eq!(failure.code, ErrorCode::BadRequest, "{failure}");
    }
    let find = Find {
        table: 1,
        tablets: vec![1_000],
        columns: vec![99],
        ..Find::default()
    };
    let failure = held.find(&bench.catalog, &find).await.unwrap_err();
    assert_eq!(failure.code, ErrorCode::NoLeader);
}
