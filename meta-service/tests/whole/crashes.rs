//! The leader crashes at every point where something is persisted, and the end is the same.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use auxo_meta_service::procedure::runner::Trap;
use auxo_proto::ddl::Ddl;
use auxo_proto::ids::TableId;
use parking_lot::Mutex;
use serde_json::{Value, json};

use crate::node::Node;
use crate::{Etcd, Meta, create, drop_table, dump, field};

/// What a cluster looks like after everything; without what names times, reigns and dice.
#[derive(Debug, PartialEq)]
struct End {
    keys: BTreeMap<String, Value>,
    tablets: Vec<u64>,
    shards: Vec<(u64, u64)>,
}

/// Makes, alters, fails to make, and drops; the leader crashes at the point of that number.
async fn play(etcd: &Etcd, cluster: &str, crash_at: usize) -> (End, Vec<String>) {
    let points = Arc::new(Mutex::new(Vec::new()));
    let count = AtomicUsize::new(0);
    let seen = Arc::clone(&points);
    let trap: Trap = Arc::new(move |point| {
        seen.lock().push(point.to_owned());
        count.fetch_add(1, Ordering::SeqCst) == crash_at
    });
    let client = etcd.client().await;
    let meta = Meta::start_as("meta", cluster, client.clone(), trap).await;
    let node = Node::start("node-1", meta.channel.clone());
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
    meta.leads().await;
    let idle = async {
        loop {
            meta.leads().await;
            let left = dump(&client, cluster).await;
            if !left.keys().any(|key| key.starts_with("procedure/")) {
                return left;
            }
            tokio::time::sleep(std::time::Duration::from_millis(10)).await;
        }
    };
    let left = tokio::time::timeout(crate::PATIENCE, idle).await.unwrap();
    let end = {
        let state = node.state.lock();
        End {
            keys: comparable(left),
            tablets: state.tablets.iter().copied().collect(),
            shards: state
                .shards
                .values()
                .map(|one| (one.shard, one.epoch))
                .collect(),
        }
    };
    meta.server.stop().await;
    let points = points.lock().clone();
    (end, points)
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

#[tokio::test]
async fn a_crash_at_any_point_changes_nothing_in_the_end() {
    let etcd = Etcd::start().await;
    let (wanted, points) = play(&etcd, "whole", usize::MAX).await;
    assert!(wanted.keys.keys().all(|key| !key.starts_with("lock/")));
    for kind in [
        "create_table.assign",
        "create_table.undo",
        "create_table.tidy",
    ] {
        assert!(
            points.contains(&format!("{kind}.after")),
            "{kind} in {points:?}"
        );
    }
    assert!(points.len() > 50, "{points:?}");
    for crash_at in 0..points.len() {
        let (end, points) = play(&etcd, &format!("crash-{crash_at}"), crash_at).await;
        let point = &points[crash_at];
        pretty(&end, &wanted, point);
    }
    etcd.server.stop().await;
}

fn pretty(end: &End, wanted: &End, point: &str) {
    for (key, value) in &wanted.keys {
        assert_eq!(
            end.keys.get(key),
            Some(value),
            "{key} after a crash at {point}"
        );
    }
    assert_eq!(end, wanted, "after a crash at {point}");
}
