//! The leading meta node dies in the middle of a step of a change.
//!
//! 1. Three meta nodes on a real etcd. A change is asked for, and its record is watched in etcd.
//! 2. As soon as the record shows the step, the leading meta node is killed. Where the record had gone on
//!    already by then, the change ends and the next one of its kind is tried.
//! 3. Another one leads and ends the change; then the dead one is started again.
//!
//! That a leader may die at every point where something is persisted, the suite of meta shows; here the
//! processes are real.

use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use etcd_client::{Client, Event, EventType, WatchOptions, WatchStream};
use integration::cluster::{Cluster, Plan, ROOT};
use integration::http::Http;
use integration::load::CONFIG;
use integration::wait;
use reqwest::Method;
use serde_json::Value;
use tokio::time::Instant;

use crate::Settings;
use crate::ground::{Ground, NODES, SHARDS, plan};
use crate::row::Row;

/// Meta nodes.
const METAS: usize = 3;

/// Kinds of changes, and the steps of each in which the leader is killed.
const STEPS: &[(&str, &str)] = &[
    ("create_table", "assign"),
    ("alter_table", "schema"),
    ("drop_table", "drop"),
    ("drop_database", "drop"),
    ("move_shard", "warm"),
    ("move_shard", "hand_over"),
    ("move_shard", "retire"),
    ("failover", "replica"),
];

/// Changes of a kind that are made until the leader dies in the middle of one.
const TRIES: usize = 10;

/// How long a change may take, and all shards to be served after it.
const MADE_WITHIN: Duration = Duration::from_secs(60);

/// How long all may take to go on.
const RECOVERED: Duration = Duration::from_secs(30);

pub(crate) async fn killed_in_steps(settings: &Settings) -> Result<Row> {
    let plan = Plan {
        metas: METAS,
        etcd: Some(1),
        proxies: None,
        ..plan(settings, 3, CONFIG)
    };
    let mut ground = Ground::start_as(settings, &plan, &["strong"]).await?;
    let mut asker = Asker {
        http: ground.load.node(),
        changes: 0,
    };
    asker.made("CREATE DATABASE tried").await?;
    ground.breaks();
    let mut unfinished = Vec::new();
    let mut seen = Vec::new();
    for (kind, step) in STEPS {
        match killed_in(&mut ground, &mut asker, kind, step).await {
            Ok(took) => seen.push(format!(
                "{kind}/{step} ended after {:.1} s",
                took.as_secs_f64()
            )),
            Err(error) => unfinished.push(format!("{kind}/{step}: {error:#}")),
        }
    }
    let checked = wait::until("what meta keeps is whole", RECOVERED, || async {
        let request = asker.http.request(Method::GET, "/v1/meta/check");
        let answer = asker.http.send(request).await?;
        ensure!(answer.json()["whole"] == true, "{}", answer.body);
        Ok(())
    });
    let checked = checked.await;
    let mut row = ground.heals().await?;
    row.seen.append(&mut seen);
    row.promise(unfinished.is_empty(), || {
        format!(
            "the next leader ends each change: {}",
            unfinished.join(", ")
        )
    });
    row.promise_done(&checked, "nothing is left of them");
    row.promise_going_on(RECOVERED);
    Ok(row)
}

/// Who asks for changes.
struct Asker {
    http: Http,
    /// How many were asked for; names of things follow from it.
    changes: usize,
}

impl Asker {
    /// A change that is made; asks again while it is told to.
    async fn made(&self, sql: &str) -> Result<()> {
        let made = wait::until(sql, MADE_WITHIN, || async {
            let answer = self.http.sql_answer(sql).await?;
            ensure!(answer.status != 503, "{}", answer.body);
            Ok(answer)
        });
        let answer = made.await?;
        ensure!(
            answer.status == 200,
            "{sql}: {} {}",
            answer.status,
            answer.body
        );
        Ok(())
    }

    /// What there must be before a change of that kind, and the request for it.
    async fn asks(&mut self, kind: &str, cluster: &Cluster) -> Result<Change> {
        self.changes += 1;
        let table = format!("tried.t{}", self.changes);
        let columns = "(host STRING TAG, ts TIMESTAMP(9) NOT NULL, n BIGINT, TIMESTAMP KEY (ts))";
        let create =
            format!("CREATE TABLE {table} {columns} PARTITION BY HASH(host) PARTITIONS {SHARDS}");
        let change = match kind {
            "create_table" => Change::Sql(create),
            "alter_table" => {
                self.made(&create).await?;
                Change::Sql(format!("ALTER TABLE {table} ADD COLUMN later BIGINT"))
            }
            "drop_table" => {
                self.made(&create).await?;
                Change::Sql(format!("DROP TABLE {table}"))
            }
            "drop_database" => {
                let database = format!("gone{}", self.changes);
                self.made(&format!("CREATE DATABASE {database}")).await?;
                self.made(&create.replace("tried.", &format!("{database}.")))
                    .await?;
                Change::Sql(format!("DROP DATABASE {database}"))
            }
            "move_shard" => {
                let shards = cluster.shards(0).await?;
                let shard = &shards[self.changes % shards.len()];
                let leader = shard.leader.context("a leader")?;
                let to = (leader + 1) % NODES;
                Change::Post(format!("/v1/shards/{}/move?to=c{to}", shard.shard))
            }
            "failover" => Change::Kill(self.changes % NODES),
            other => bail!("nobody knows how to ask for {other}"),
        };
        Ok(change)
    }
}

/// What makes meta begin a change.
enum Change {
    /// A statement.
    Sql(String),
    /// A request without a body.
    Post(String),
    /// The death of that compute node.
    Kill(usize),
}

/// Has changes of a kind made until the leader dies in that step of one.
///
/// * returns: the time from its death until the change had ended.
async fn killed_in(
    ground: &mut Ground,
    asker: &mut Asker,
    kind: &str,
    step: &str,
) -> Result<Duration> {
    for _ in 0..TRIES {
        ground.cluster.served(SHARDS, MADE_WITHIN).await?;
        let change = asker.asks(kind, &ground.cluster).await?;
        let (leader, since) = ground.cluster.leading_meta().await?;
        let mut history = History::watch(&ground.cluster.etcd_client().await?).await?;
        let http = asker.http.clone();
        let mut dead_node = None;
        if let Change::Kill(node) = &change {
            ground.cluster.nodes[*node].kill()?;
            dead_node = Some(*node);
        }
        let asked = async {
            let answer = match &change {
                Change::Sql(sql) => http.sql_answer(sql).await?,
                Change::Post(path) => http.send(http.request(Method::POST, path)).await?,
                Change::Kill(_) => return Ok(()),
            };
            let clear = matches!(answer.status, 200 | 202 | 503 | 504);
            ensure!(clear, "{} {}", answer.status, answer.body);
            Ok(())
        };
        let metas = &mut ground.cluster.metas;
        let followed = async {
            let record = history.enters(kind, step).await?;
            metas[leader].kill()?;
            let killed = Instant::now();
            let in_it = history.ends(&record, step, since).await?;
            Ok(in_it.then(|| killed.elapsed()))
        };
        let followed = tokio::time::timeout(MADE_WITHIN, followed);
        let (asked, followed) = tokio::join!(asked, followed);
        ground.cluster.metas[leader] = ground.cluster.meta_setups[leader].spawn()?;
        if let Some(node) = dead_node {
            ground.cluster.nodes[node] = ground.cluster.setups[node].start().await?;
            ground.load.moved(ground.cluster.doors());
            asker.http = ground.load.node();
        }
        asked?;
        let followed: Result<_> = followed.context("the change has not ended in time")?;
        if let Some(took) = followed? {
            return Ok(took);
        }
    }
    bail!("no leader died in it in {TRIES} tries")
}

/// What becomes of all that meta keeps, as etcd tells it.
struct History {
    events: WatchStream,
    client: Client,
}

impl History {
    /// From now on.
    async fn watch(client: &Client) -> Result<Self> {
        let options = WatchOptions::new().with_prefix().with_prev_key();
        let watched = client.watch_client().watch(ROOT, Some(options)).await;
        Ok(Self {
            events: watched?,
            client: client.clone(),
        })
    }

    async fn next(&mut self) -> Result<Vec<Event>> {
        let answer = self.events.message().await?;
        let answer = answer.context("etcd ends the watch")?;
        ensure!(!answer.canceled(), "{}", answer.cancel_reason());
        Ok(answer.events().to_vec())
    }

    /// Waits until a procedure of a kind enters a step.
    ///
    /// * returns: its id, as it stands in its keys.
    async fn enters(&mut self, kind: &str, step: &str) -> Result<String> {
        loop {
            for event in self.next().await? {
                let kv = event.kv().context("a key")?;
                let id = kv.key_str()?.strip_prefix(ROOT);
                let id = id.and_then(|key| key.strip_prefix("procedure/"));
                let (Some(id), EventType::Put) = (id, event.event_type()) else {
                    continue;
                };
                let record: Value = serde_json::from_slice(kv.value())?;
                if record["kind"] == kind && record["step"] == step {
                    return Ok(id.to_owned());
                }
            }
        }
    }

    /// Waits until a procedure has ended, which must be as it was asked for.
    ///
    /// * since: revision of the campaign of the one who leads, or did until now.
    /// * returns: whether the step was left only after that campaign was over.
    async fn ends(&mut self, id: &str, step: &str, since: i64) -> Result<bool> {
        let record = format!("{ROOT}procedure/{id}");
        let campaigns = format!("{ROOT}leader/");
        let (mut over, mut left_by_another) = (false, None);
        let mut ended = false;
        while !ended {
            for event in self.next().await? {
                let kv = event.kv().context("a key")?;
                let gone = event.event_type() == EventType::Delete;
                let key = kv.key_str()?;
                if gone && key.starts_with(&campaigns) {
                    let campaign = event.prev_kv().context("what was deleted")?;
                    over |= campaign.create_revision() == since;
                }
                if key != record {
                    continue;
                }
                let left = gone || {
                    let record: Value = serde_json::from_slice(kv.value())?;
                    record["step"] != step
                };
                if left {
                    left_by_another.get_or_insert(over);
                }
                ended |= gone;
            }
        }
        let past = format!("{ROOT}past/{id}");
        let past = self.client.kv_client().get(past, None).await?;
        let past = past.kvs().first().context("a record of the past")?;
        let past: Value = serde_json::from_slice(past.value())?;
        ensure!(past["outcome"]["result"] == "done", "{past}");
        Ok(left_by_another == Some(true))
    }
}
