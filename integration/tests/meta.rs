//! Several meta nodes as real processes on one real etcd: one leads, the others redirect to it and take
//! over; one that wakes from a pause changes nothing; and rows need neither meta nor etcd.

#![allow(
    clippy::unwrap_used,
    reason = "functions that tests share, where the lint does not see that they are of tests"
)]

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI64, Ordering};
use std::time::Duration;

use anyhow::{Context, ensure};
use auxo_proto::clock::Clock;
use auxo_proto::pb::meta::meta_client::MetaClient;
use auxo_proto::pb::meta::{AdminCall, admin_reply};
use auxo_proto::random::Random;
use etcd_client::{EventType, GetOptions, WatchOptions};
use integration::cluster::{Cluster, Plan, ROOT};
use integration::http::{Answer, Http};
use integration::{binary, disk, wait};
use parking_lot::Mutex;
use reqwest::Method;
use rustix::process::Signal;
use serde_json::{Value, json};
use tokio::task::JoinSet;
use tokio::time::Instant;

/// How long anything may take that has no promise of its own.
const SETTLED_WITHIN: Duration = Duration::from_secs(90);

/// How long it may take on a busy machine until another meta node leads; promised are 3 s.
const LED_WITHIN: Duration = Duration::from_secs(15);

/// How long etcd stays away.
const AWAY: Duration = Duration::from_secs(10);

/// Rows of one write.
const ROWS: i64 = 20;

#[tokio::test]
async fn three_meta_nodes_on_a_real_etcd_lose_nothing() {
    let folder = disk::folder("metas").unwrap();
    let binary = binary::beside().unwrap();
    let plan = Plan {
        metas: 3,
        etcd: Some(1),
        ..Plan::default()
    };
    let mut cluster = Cluster::start(&binary, folder.path(), &plan).await.unwrap();
    let create = "CREATE TABLE load (host STRING TAG, time TIMESTAMP(9) NOT NULL, n BIGINT, \
                  TIMESTAMP KEY (time)) PARTITION BY HASH(host) PARTITIONS 4 \
                  WITH (merge_mode = 'append')";
    let created = cluster.nodes[0].http.sql_answer(create).await.unwrap();
    assert_eq!(created.status, 200, "{}", created.body);
    let load = Load::start(&cluster);
    the_leader_is_killed(&mut cluster, &load).await;
    the_leader_is_paused(&cluster, &load).await;
    etcd_is_away(&mut cluster, &load).await;
    load.judge(&cluster).await;
    what_does_not_fit_is_named(&cluster).await;
    cluster.stop().await.unwrap();
}

/// What is asked of the cluster all the time: rows at one node, changes at the other.
struct Load {
    going: AtomicBool,
    /// Rows that are acked; all below the number are.
    rows: AtomicI64,
    /// Tables that were made and not dropped, and how many changes were acked.
    made: Mutex<(Vec<i64>, i64)>,
    tasks: tokio::sync::Mutex<JoinSet<()>>,
}

impl Load {
    fn start(cluster: &Cluster) -> Arc<Self> {
        let load = Arc::new(Self {
            going: AtomicBool::new(true),
            rows: AtomicI64::new(0),
            made: Mutex::default(),
            tasks: tokio::sync::Mutex::new(JoinSet::new()),
        });
        let nodes: Vec<Http> = cluster.nodes.iter().map(|node| node.http.clone()).collect();
        let mut tasks = load.tasks.try_lock().unwrap();
        tasks.spawn(Arc::clone(&load).write(nodes[0].clone()));
        tasks.spawn(Arc::clone(&load).change(nodes[1].clone()));
        drop(tasks);
        load
    }

    async fn write(self: Arc<Self>, http: Http) {
        let (clock, random) = (Clock::system(), Random::from_system());
        while self.going.load(Ordering::SeqCst) {
            let from = self.rows.load(Ordering::SeqCst);
            let id = random.uuid_v7(clock.now_ms()).to_string();
            let line = |n: i64| format!("load,host=h{} n={n}i {n}\n", n % 5);
            let lines: String = (from..from + ROWS).map(line).collect();
            let acked = wait::until("rows are acked", SETTLED_WITHIN, || async {
                let post = http.request(Method::POST, "/write?db=main");
                let post = post.header("Idempotency-Key", &id).body(lines.clone());
                done(&http.send(post).await?, 204)
            });
            acked.await.unwrap();
            self.rows.store(from + ROWS, Ordering::SeqCst);
        }
    }

    /// Makes table after table and drops every third one again.
    async fn change(self: Arc<Self>, http: Http) {
        for table in 0.. {
            if !self.going.load(Ordering::SeqCst) {
                return;
            }
            let create = format!(
                "CREATE TABLE IF NOT EXISTS made_{table} (host STRING TAG, \
                 time TIMESTAMP(9) NOT NULL, n BIGINT, TIMESTAMP KEY (time)) \
                 PARTITION BY HASH(host) PARTITIONS 3"
            );
            changed(&http, &create).await;
            let dropped = table % 3 == 2;
            if dropped {
                changed(&http, &format!("DROP TABLE IF EXISTS made_{table}")).await;
            }
            let (made, changes) = &mut *self.made.lock();
            *changes += 1;
            if !dropped {
                made.push(table);
            }
        }
    }

    /// Waits until rows and changes were acked that were asked for after now.
    async fn goes_on(&self) {
        let so_far = || (self.rows.load(Ordering::SeqCst), self.made.lock().1);
        let before = so_far();
        let gone_on = wait::until("rows and changes go on", SETTLED_WITHIN, || async {
            let now = so_far();
            ensure!(
                now.0 > before.0 + ROWS && now.1 > before.1 + 1,
                "{before:?} then, {now:?} now"
            );
            Ok(())
        });
        gone_on.await.unwrap();
    }

    /// Ends the load; every row is there once, and every change was carried out once.
    async fn judge(&self, cluster: &Cluster) {
        self.going.store(false, Ordering::SeqCst);
        while let Some(ended) = self.tasks.lock().await.join_next().await {
            ended.unwrap();
        }
        let acked = self.rows.load(Ordering::SeqCst);
        for node in &cluster.nodes {
            let rows = node
                .http
                .sql("SELECT count(*), count(DISTINCT n), max(n) FROM load");
            let wanted = json!([[acked, acked, acked - 1]]);
            assert_eq!(json!(rows.await.unwrap()), wanted);
        }
        let (made, changes) = self.made.lock().clone();
        wait::until("nothing is being changed", SETTLED_WITHIN, || async {
            let left = keys(cluster, "procedure/").await?;
            ensure!(left.is_empty(), "{left:?}");
            Ok(())
        })
        .await
        .unwrap();
        let mut names: Vec<String> = made.iter().map(|table| format!("made_{table}")).collect();
        names.push("load".to_owned());
        names.sort();
        for node in &cluster.nodes {
            let shown = node.http.sql("SHOW TABLES").await.unwrap();
            let mut shown: Vec<_> = shown.iter().filter_map(|row| row[0].as_str()).collect();
            shown.sort_unstable();
            assert_eq!(shown, names);
        }
        let mut done = BTreeMap::<String, i64>::new();
        for past in keys(cluster, "past/").await.unwrap().values() {
            assert_eq!(past["outcome"]["result"], "done", "{past}");
            *done
                .entry(past["kind"].as_str().unwrap().to_owned())
                .or_default() += 1;
        }
        assert_eq!(done["create_table"], changes + 1, "{done:?}");
        assert_eq!(done["drop_table"], changes / 3, "{done:?}");
        assert!(keys(cluster, "lock/").await.unwrap().is_empty());
    }
}

/// Whether it was done; what can be tried again is an error, and anything else ends the test.
fn done(answer: &Answer, wanted: u16) -> anyhow::Result<()> {
    if answer.status == wanted {
        return Ok(());
    }
    let told = answer.json();
    let again = answer.status == 503 && told["retryable"] != json!(false);
    assert!(again, "{} {}", answer.status, answer.body);
    anyhow::bail!("{told}")
}

async fn changed(http: &Http, sql: &str) {
    let changed = wait::until("a change is made", SETTLED_WITHIN, || async {
        done(&http.sql_answer(sql).await?, 200)
    });
    changed.await.unwrap();
}

/// What meta keeps below a prefix.
async fn keys(cluster: &Cluster, prefix: &str) -> anyhow::Result<BTreeMap<String, Value>> {
    let client = cluster.etcd_client().await?;
    let all = Some(GetOptions::new().with_prefix());
    let found = client
        .kv_client()
        .get(format!("{ROOT}{prefix}"), all)
        .await?;
    let entries = found.kvs().iter().map(|entry| {
        let value = serde_json::from_slice(entry.value())?;
        Ok((entry.key_str()?.to_owned(), value))
    });
    entries.collect()
}

/// Waits until another one than `old` leads.
async fn another_leads(cluster: &Cluster, old: usize) -> (usize, i64) {
    let led = wait::until("another meta node leads", LED_WITHIN, || async {
        let (now, since) = cluster.leading_meta().await?;
        ensure!(now != old, "m{old} still does");
        Ok((now, since))
    });
    led.await.unwrap()
}

async fn the_leader_is_killed(cluster: &mut Cluster, load: &Load) {
    for _ in 0..3 {
        load.goes_on().await;
        let (dead, _) = cluster.leading_meta().await.unwrap();
        cluster.metas[dead].kill().unwrap();
        let killed = Instant::now();
        let (next, _) = another_leads(cluster, dead).await;
        eprintln!(
            "m{dead} was killed, m{next} leads after {:.1?}",
            killed.elapsed()
        );
        load.goes_on().await;
        eprintln!("changes go on after {:.1?}", killed.elapsed());
        cluster.metas[dead] = cluster.meta_setups[dead].spawn().unwrap();
        redirects(cluster, dead, next).await;
    }
}

/// Waits until a meta node sends those who ask it to the one that leads.
async fn redirects(cluster: &Cluster, asked: usize, leader: usize) {
    let internal = |at: usize| {
        let port = cluster.meta_setups[at].internal.unwrap();
        format!("127.0.0.1:{port}")
    };
    let (asked, leader) = (internal(asked), internal(leader));
    let redirected = wait::until("it redirects to the leader", SETTLED_WITHIN, || async {
        let mut client = MetaClient::connect(format!("http://{asked}")).await?;
        let call = AdminCall {
            verb: "status".to_owned(),
            target: String::new(),
        };
        let answer = client.admin(call).await?.into_inner().result;
        match answer.context("an answer")? {
            admin_reply::Result::NotLeader(other) if other.hint == leader => Ok(()),
            other => anyhow::bail!("{other:?}"),
        }
    });
    redirected.await.unwrap();
}

async fn the_leader_is_paused(cluster: &Cluster, load: &Load) {
    load.goes_on().await;
    let (old, _) = cluster.leading_meta().await.unwrap();
    cluster.metas[old].signal(Signal::STOP).unwrap();
    let paused = Instant::now();
    let (new, since) = another_leads(cluster, old).await;
    // Its key may be old, for it stood in line; from this revision on the old one has none.
    let client = cluster.etcd_client().await.unwrap();
    let seen = client.kv_client().get(ROOT, None).await.unwrap();
    let led_from = seen.header().unwrap().revision();
    eprintln!(
        "m{old} was paused, m{new} leads after {:.1?}",
        paused.elapsed()
    );
    load.goes_on().await;
    cluster.metas[old].signal(Signal::CONT).unwrap();
    redirects(cluster, old, new).await;
    load.goes_on().await;
    assert_eq!(cluster.leading_meta().await.unwrap(), (new, since));
    // Not one step was written by the old one since the new one leads.
    let options = WatchOptions::new()
        .with_prefix()
        .with_start_revision(led_from + 1);
    let procedures = format!("{ROOT}procedure/");
    let mut events = client
        .watch_client()
        .watch(procedures, Some(options))
        .await
        .unwrap();
    let mut steps = 0;
    while steps < 20 {
        let answer = tokio::time::timeout(SETTLED_WITHIN, events.message()).await;
        let answer = answer.unwrap().unwrap().unwrap();
        assert!(!answer.canceled(), "{}", answer.cancel_reason());
        for event in answer.events() {
            if event.event_type() == EventType::Put {
                let record: Value = serde_json::from_slice(event.kv().unwrap().value()).unwrap();
                assert_eq!(record["reign"], format!("0:{since}"), "{record}");
                steps += 1;
            }
        }
    }
}

async fn etcd_is_away(cluster: &mut Cluster, load: &Load) {
    load.goes_on().await;
    cluster.etcd.as_mut().unwrap().kill(0).unwrap();
    let away_until = Instant::now() + AWAY;
    let http = cluster.nodes[0].http.clone();
    let mut refused = 0;
    while Instant::now() < away_until {
        let before = load.rows.load(Ordering::SeqCst);
        let post = http.request(Method::POST, "/v1/sql?timeout_ms=2000");
        let create = "CREATE TABLE not_now (host STRING TAG, time TIMESTAMP(9) NOT NULL, n BIGINT, \
                      TIMESTAMP KEY (time))";
        let answer = http.send(post.body(create)).await.unwrap();
        let told = answer.json();
        assert_eq!(
            (answer.status, &told["code"], &told["retryable"]),
            (503, &json!("META_UNAVAILABLE"), &json!(true)),
            "{told}"
        );
        refused += 1;
        let counted = http.sql("SELECT count(*) FROM load").await.unwrap();
        let now = load.rows.load(Ordering::SeqCst);
        assert!(counted[0][0].as_i64().unwrap() >= before, "{counted:?}");
        assert!(now > before + ROWS, "{before} rows before, {now} after");
    }
    assert!(refused > 1);
    let etcd = cluster.etcd.as_mut().unwrap();
    etcd.restart(0).unwrap();
    etcd.ready().await.unwrap();
    let back = Instant::now();
    load.goes_on().await;
    eprintln!("etcd is back, changes go on after {:.1?}", back.elapsed());
    changed(&http, "DROP TABLE IF EXISTS not_now").await;
}

/// What meta says of everything in etcd, as a node passes it on.
async fn checked(cluster: &Cluster) -> Value {
    let http = &cluster.nodes[0].http;
    let answer = http.send(http.request(Method::GET, "/v1/meta/check"));
    let answer = answer.await.unwrap();
    assert_eq!(answer.status, 200, "{}", answer.body);
    answer.json()
}

async fn what_does_not_fit_is_named(cluster: &Cluster) {
    let whole = json!({"whole": true, "violations": []});
    assert_eq!(checked(cluster).await, whole);
    let mut kv = cluster.etcd_client().await.unwrap().kv_client();
    let key = format!("{ROOT}tablet/{:020}/{:020}", 900, 1);
    let tablet = r#"{"lo":0,"hi":9,"shard":1}"#;
    kv.put(key.as_str(), tablet, None).await.unwrap();
    let violations = json!([{"key": key, "what": "there is no table 900"}]);
    assert_eq!(checked(cluster).await["violations"], violations);
    kv.delete(key, None).await.unwrap();
    assert_eq!(checked(cluster).await, whole);
}
