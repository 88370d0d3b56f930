//! The leader crashes at every point where something is persisted, and the end is the same: each change
//! was made exactly once by whoever led next, and nothing is left of it.
//!
//! Plays run beside each other, each with a cluster of its own on the one etcd.

use std::collections::{BTreeMap, BTreeSet};
use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use auxo_proto::ddl::Ddl;
use auxo_proto::ids::{NodeId, ShardId, TableId};
use auxo_proto::topology::ShardRoute;
use etcd_client::Client;
use futures::{StreamExt, stream};
use parking_lot::Mutex;
use serde_json::{Value, json};

use super::node::Node;
use super::{Ground, Meta, PATIENCE, create, drop_table, dump, field};
use crate::procedure::runner::Trap;

/// Plays that run at once.
const AT_ONCE: usize = 8;

/// What a cluster looks like after everything; without what names times, reigns and dice.
#[derive(Debug, PartialEq)]
struct End {
    keys: BTreeMap<String, Value>,
    /// What ended and how, sorted.
    past: Vec<String>,
    tablets: Vec<u64>,
    /// Shards of each node that is left, with their epochs.
    shards: Vec<Vec<(u64, u64)>>,
    /// Where each of them thinks that shards are led.
    routes: Vec<Vec<ShardRoute>>,
}

/// One play on a cluster of its own.
struct Stage {
    cluster: String,
    client: Client,
    meta: Meta,
    points: Arc<Mutex<Vec<String>>>,
}

impl Stage {
    /// A cluster whose leader crashes at the point of that number.
    async fn set(ground: &Ground, cluster: String, crash_at: usize) -> Self {
        let points = Arc::new(Mutex::new(Vec::new()));
        let count = AtomicUsize::new(0);
        let seen = Arc::clone(&points);
        let trap: Trap = Arc::new(move |point| {
            seen.lock().push(point.to_owned());
            count.fetch_add(1, Ordering::SeqCst) == crash_at
        });
        let client = ground.client().await;
        let meta = Meta::start_as("meta", &cluster, client.clone(), trap).await;
        Self {
            cluster,
            client,
            meta,
            points,
        }
    }

    fn node(&self, name: &str) -> Node {
        Node::start(name, self.meta.channel.clone())
    }

    /// Waits until nothing is being changed, and says what there is then.
    async fn end(self, nodes: &[&Node]) -> (End, Vec<String>) {
        let idle = async {
            loop {
                self.meta.leads().await;
                let left = dump(&self.client, &self.cluster).await;
                if !left.keys().any(|key| key.starts_with("procedure/")) {
                    return left;
                }
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        };
        let left = tokio::time::timeout(PATIENCE, idle).await.unwrap();
        self.meta
            .admin_until("meta check", "", |told| told["whole"] == true)
            .await;
        let past = left.iter().filter(|(key, _)| key.starts_with("past/"));
        let mut past: Vec<String> = past
            .map(|(_, value)| format!("{} {}", value["kind"], value["outcome"]["result"]))
            .collect();
        past.sort();
        let mut tablets = BTreeSet::new();
        let mut shards = Vec::new();
        let mut routes = Vec::new();
        let newest = left["topology"]["number"].as_u64().unwrap();
        for node in nodes {
            routes.push(node.topology(newest).await.shards);
            let state = node.state.lock();
            tablets.extend(state.tablets.iter().copied());
            let served = state.shards.values();
            shards.push(served.map(|one| (one.shard, one.epoch)).collect());
        }
        let end = End {
            keys: comparable(left),
            past,
            tablets: tablets.into_iter().collect(),
            shards,
            routes,
        };
        self.meta.server.stop().await;
        let points = self.points.lock().clone();
        (end, points)
    }

    /// Has an operator's verb carried out once, however often it must be asked: while nothing is being
    /// changed and it is not so yet.
    async fn have(&self, verb: &str, target: &str, is_so: impl Fn(&Value) -> bool) {
        let (shard, _) = target.split_once('/').unwrap();
        let had = async {
            loop {
                let running = self.meta.ask("procedure list", "").await;
                let shown = self.meta.ask("shard show", shard).await;
                if running == Some(json!([]))
                    && let Some(shown) = shown
                {
                    if is_so(&shown) {
                        return;
                    }
                    // A leader that crashes refuses what it may have begun.
                    let _ = self.meta.ask(verb, target).await;
                }
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        };
        let had = tokio::time::timeout(PATIENCE, had).await;
        had.unwrap_or_else(|_| panic!("{verb} {target} is not done"));
    }
}

fn comparable(left: BTreeMap<String, Value>) -> BTreeMap<String, Value> {
    let kept = left.into_iter().filter(|(key, _)| {
        let passing = [
            "leader/",
            "meta/",
            "past/",
            "request/",
            "liveness/",
            "identity",
        ];
        !passing.iter().any(|prefix| key.starts_with(prefix))
    });
    kept.map(|(key, mut value)| {
        if let Some(made) = value.get_mut("made_ms") {
            *made = json!(0);
        }
        if let Some(wal) = value.get_mut("wal") {
            wal["incarnation"] = json!("");
        }
        (key, value)
    })
    .collect()
}

/// Plays once without a crash, then once for each point that it came by.
async fn at_every_point<F>(
    ground: &Ground,
    name: &str,
    kinds: &[&str],
    least: usize,
    play: impl Fn(Stage) -> F,
) where
    F: Future<Output = (End, Vec<String>)>,
{
    let whole = Stage::set(ground, format!("{name}-whole"), usize::MAX).await;
    let (wanted, points) = play(whole).await;
    assert!(wanted.keys.keys().all(|key| !key.starts_with("lock/")));
    for kind in kinds {
        assert!(
            points.contains(&format!("{kind}.after")),
            "{kind} in {points:?}"
        );
    }
    assert!(points.len() >= least, "{points:?}");
    let crashed = stream::iter(0..points.len()).map(|crash_at| {
        let play = &play;
        async move {
            let stage = Stage::set(ground, format!("{name}-{crash_at}"), crash_at).await;
            let (end, points) = play(stage).await;
            (end, points[crash_at].clone())
        }
    });
    let mut crashed = crashed.buffer_unordered(AT_ONCE);
    while let Some((end, point)) = crashed.next().await {
        for (key, value) in &wanted.keys {
            let found = end.keys.get(key);
            assert_eq!(found, Some(value), "{key} after a crash at {point}");
        }
        assert_eq!(end, wanted, "after a crash at {point}");
    }
}

pub(super) async fn a_crash_at_any_point_of_a_change_alters_nothing_in_the_end(ground: Ground) {
    let kinds = [
        "open_shard.begin",
        "create_table.assign",
        "create_table.undo",
        "create_table.tidy",
        "alter_table.commit",
        "drop_table.commit",
        "drop_database.commit",
    ];
    at_every_point(&ground, "change", &kinds, 50, change).await;
}

/// Makes, alters, fails to make, and drops.
async fn change(stage: Stage) -> (End, Vec<String>) {
    let meta = &stage.meta;
    let node = stage.node("node-1");
    // Where tablets go depends on the shards there are.
    let all_served = |list: &Value| {
        let shards = list.as_array().unwrap();
        shards.len() == 2 && shards.iter().all(|shard| shard["served"] == true)
    };
    meta.admin_until("shard list", "", all_served).await;
    meta.ddl(create("main", "cpu", 150)).await.unwrap();
    let add = Ddl::AddColumns {
        table: TableId(1),
        columns: vec![field("idle")],
        if_not_exists: true,
    };
    meta.ddl(add).await.unwrap();
    node.state.lock().refuses.insert("create");
    meta.ddl(create("main", "bad", 120)).await.unwrap_err();
    node.state.lock().refuses.clear();
    let database = |name: &str| Ddl::CreateDatabase {
        name: name.to_owned(),
        if_not_exists: false,
    };
    meta.ddl(database("other")).await.unwrap();
    meta.ddl(create("other", "a", 2)).await.unwrap();
    meta.ddl(create("main", "mem", 110)).await.unwrap();
    meta.ddl(drop_table("main", "mem")).await.unwrap();
    let drop = Ddl::DropDatabase {
        name: "other".to_owned(),
        if_exists: false,
    };
    meta.ddl(drop).await.unwrap();
    stage.end(&[&node]).await
}

pub(super) async fn a_crash_at_any_point_of_a_move_alters_nothing_in_the_end(ground: Ground) {
    let kinds = [
        "open_shard.commit",
        "move_shard.hand_over",
        "move_shard.retire",
        "move_shard.commit",
        "close_shard.begin",
        "close_shard.commit",
        "failover.begin",
        "failover.commit",
    ];
    at_every_point(&ground, "move", &kinds, 28, shards_move).await;
}

/// A second node gets one of two shards, the other one is closed and opened, and the second dies.
async fn shards_move(stage: Stage) -> (End, Vec<String>) {
    let at = |shard: u64, node: u64, epoch: &str| {
        let wanted = json!([shard, node, epoch, true]);
        move |shown: &Value| {
            json!([
                shown["id"],
                shown["leader"],
                shown["epoch"],
                shown["served"]
            ]) == wanted
        }
    };
    let meta = &stage.meta;
    let first = stage.node("node-1");
    meta.admin_until("shard show", "1", at(1, 1, "0:1")).await;
    meta.admin_until("shard show", "2", at(2, 1, "0:1")).await;
    let second = stage.node("node-2");
    meta.admin_until("shard show", "1", at(1, 2, "0:2")).await;
    // Also a node that was told of the routes by the leader before, under the same number.
    for node in [&first, &second] {
        node.routes(ShardId(1), NodeId(2)).await;
    }
    let is_closed = |shown: &Value| shown["replicas"] == json!([]);
    stage.have("shard close", "2/1", is_closed).await;
    // Whether it is served is not known to a new leader before the node has said Hello to it.
    let is_led = |shown: &Value| shown["epoch"] == "0:2";
    stage.have("shard open", "2/1", is_led).await;
    meta.admin_until("shard show", "2", at(2, 1, "0:2")).await;
    drop(second);
    meta.admin_until("shard show", "1", at(1, 1, "0:3")).await;
    stage.end(&[&first]).await
}
