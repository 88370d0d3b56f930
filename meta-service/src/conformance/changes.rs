//! Changes that users ask for, as they come out.

use auxo_proto::ddl::Ddl;
use auxo_proto::ids::{DatabaseId, TableId};
use auxo_proto::schema::{TableInfo, TableOptions};
use serde_json::{Value, json};

use super::node::Node;
use super::{Ground, Meta, create, drop_table, dump, field};

fn table_of(json: &[u8]) -> TableInfo {
    serde_json::from_slice(json).unwrap()
}

pub(super) async fn a_new_cluster_gets_a_database_and_shards_and_takes_tables(ground: Ground) {
    let meta = Meta::start("main", ground.client().await).await;
    let node = Node::start("node-1", meta.channel.clone());
    let made = meta.ddl(create("main", "cpu", 4)).await.unwrap();
    let topology = node.topology(made.topology).await;
    assert_eq!(topology.databases.len(), 1);
    assert_eq!(topology.databases[0].name, "main");
    assert_eq!(topology.tables[0].name, "cpu");
    assert_eq!(topology.tablets.len(), 4);
    let on_first = topology.tablets.iter().filter(|tablet| tablet.shard.0 == 1);
    assert_eq!(
        on_first.count(),
        2,
        "partitions are spread over both shards"
    );
    assert!(topology.shards.iter().all(|shard| shard.epoch == 1));
    assert_eq!(topology.nodes[0].public, "node-1:1");
    assert_eq!(node.state.lock().tablets.len(), 4);
    meta.server.stop().await;
}

pub(super) async fn columns_and_options_are_changed_under_a_rising_schema_number(ground: Ground) {
    let meta = Meta::start("main", ground.client().await).await;
    let node = Node::start("node-1", meta.channel.clone());
    meta.ddl(create("main", "cpu", 1)).await.unwrap();
    let add = |columns: &[&str], if_not_exists| Ddl::AddColumns {
        table: TableId(1),
        columns: columns.iter().map(|name| field(name)).collect(),
        if_not_exists,
    };
    // Many at once, as ingest asks: each column is there once, whoever came first.
    let asked = ["a", "b", "a", "c", "b", "a"].map(|name| meta.ddl(add(&[name], true)));
    for done in futures::future::join_all(asked).await {
        done.unwrap();
    }
    let last = meta.ddl(add(&["a", "c"], true)).await.unwrap();
    assert_eq!(last.procedure, 0, "there was nothing to do");
    let info = table_of(&last.table);
    assert_eq!(info.schema.columns.len(), 6);
    assert_eq!(info.schema.number.0, 4);
    let refused = meta.ddl(add(&["a"], false)).await.unwrap_err();
    assert_eq!(refused.code, 2001);
    let options = TableOptions {
        ttl_ms: Some(86_400_000),
        ..TableOptions::default()
    };
    let set = Ddl::SetOptions {
        table: TableId(1),
        options: options.clone(),
    };
    let done = meta.ddl(set).await.unwrap();
    let topology = node.topology(done.topology).await;
    assert_eq!(topology.tables[0].options, options);
    assert_eq!(topology.tables[0].schema.number.0, 5);
    meta.server.stop().await;
}

pub(super) async fn a_dropped_database_takes_its_tables_along_and_its_name_is_free(ground: Ground) {
    let client = ground.client().await;
    let meta = Meta::start("main", client.clone()).await;
    let node = Node::start("node-1", meta.channel.clone());
    let make = |if_not_exists| Ddl::CreateDatabase {
        name: "weather".to_owned(),
        if_not_exists,
    };
    meta.ddl(make(false)).await.unwrap();
    assert_eq!(meta.ddl(make(false)).await.unwrap_err().code, 2001);
    let same = meta.ddl(make(true)).await.unwrap();
    assert_eq!(same.procedure, 0);
    for name in ["a", "b", "c"] {
        meta.ddl(create("weather", name, 3)).await.unwrap();
    }
    let drop = Ddl::DropDatabase {
        name: "weather".to_owned(),
        if_exists: false,
    };
    let dropped = meta.ddl(drop.clone()).await.unwrap();
    let topology = node.topology(dropped.topology).await;
    assert_eq!(topology.databases.len(), 1);
    let again = meta.ddl(drop).await.unwrap_err();
    assert_eq!(again.code, 1201);
    meta.ddl(make(false)).await.unwrap();
    meta.admin_until("procedure list", "", |list| *list == json!([]))
        .await;
    assert_eq!(node.state.lock().tablets.len(), 0);
    let left = dump(&client, "main").await;
    let of_tables = |key: &&String| {
        [
            "table/",
            "table_name/",
            "tablet/",
            "schema/",
            "lock/",
            "procedure/",
        ]
        .iter()
        .any(|prefix| key.starts_with(prefix))
    };
    assert_eq!(left.keys().filter(of_tables).count(), 0);
    let database = DatabaseId(3);
    assert_eq!(
        left[&format!("database/{:020}", database.0)]["name"],
        "weather"
    );
    meta.server.stop().await;
}

pub(super) async fn a_table_whose_tablets_cannot_be_made_leaves_nothing(ground: Ground) {
    let client = ground.client().await;
    let meta = Meta::start("main", client.clone()).await;
    let node = Node::start("node-1", meta.channel.clone());
    meta.ddl(create("main", "good", 1)).await.unwrap();
    node.state.lock().refuses.insert("create");
    let refused = meta.ddl(create("main", "bad", 250)).await.unwrap_err();
    assert_eq!(refused.code, 5006);
    assert_eq!(refused.detail, "cannot create");
    let left = dump(&client, "main").await;
    let tables = left.keys().filter(|key| key.starts_with("table/"));
    assert_eq!(tables.count(), 1);
    assert_eq!(
        left.keys().filter(|key| key.starts_with("tablet/")).count(),
        1
    );
    node.state.lock().refuses.clear();
    let done = meta.ddl(create("main", "bad", 250)).await.unwrap();
    let topology = node.topology(done.topology).await;
    assert_eq!(topology.tablets.len(), 251);
    meta.server.stop().await;
}

pub(super) async fn the_same_request_key_is_the_same_change(ground: Ground) {
    let meta = Meta::start("main", ground.client().await).await;
    let _node = Node::start("node-1", meta.channel.clone());
    let first = meta
        .ddl_keyed(create("main", "cpu", 2), "key")
        .await
        .unwrap();
    let again = meta
        .ddl_keyed(create("main", "cpu", 2), "key")
        .await
        .unwrap();
    assert_eq!(first, again);
    let other = meta
        .ddl_keyed(create("main", "mem", 2), "key")
        .await
        .unwrap_err();
    assert_eq!(other.code, 2001);
    let database = Ddl::CreateDatabase {
        name: "d".to_owned(),
        if_not_exists: false,
    };
    let first = meta.ddl_keyed(database.clone(), "one txn").await.unwrap();
    let again = meta.ddl_keyed(database, "one txn").await.unwrap();
    assert_eq!(first, again);
    let history = meta.admin("procedure history", "").await;
    let creates = history.as_array().unwrap().iter();
    let creates = creates.filter(|past| past["kind"] == "create_table");
    assert_eq!(creates.count(), 1);
    meta.server.stop().await;
}

pub(super) async fn what_cannot_be_is_refused_by_name(ground: Ground) {
    let meta = Meta::start("main", ground.client().await).await;
    let _node = Node::start("node-1", meta.channel.clone());
    let code = async |ddl| meta.ddl(ddl).await.unwrap_err().code;
    assert_eq!(code(create("nowhere", "cpu", 1)).await, 1201);
    assert_eq!(code(drop_table("main", "cpu")).await, 1202);
    assert_eq!(code(create("main", "cpu", 0)).await, 1004);
    meta.ddl(create("main", "cpu", 1)).await.unwrap();
    assert_eq!(code(create("main", "cpu", 1)).await, 2001);
    meta.ddl(drop_table("main", "cpu")).await.unwrap();
    assert_eq!(code(drop_table("main", "cpu")).await, 1202);
    meta.server.stop().await;
}

pub(super) async fn a_node_that_comes_back_without_its_shards_is_told_to_open_them_again(
    ground: Ground,
) {
    let meta = Meta::start("main", ground.client().await).await;
    let node = Node::start("node-1", meta.channel.clone());
    meta.ddl(create("main", "cpu", 2)).await.unwrap();
    drop(node);
    let node = Node::start("node-1", meta.channel.clone());
    node.until(|state| state.shards.len() == 2).await;
    meta.admin_until("shard list", "", |list| {
        let shards = list.as_array().unwrap();
        shards.len() == 2 && shards.iter().all(|shard| shard["served"] == true)
    })
    .await;
    {
        let state = node.state.lock();
        assert!(state.shards.values().all(|shard| shard.epoch == 1));
        assert_eq!(state.orders.len(), 2, "{:?}", state.orders);
    }
    meta.server.stop().await;
}

pub(super) async fn a_node_that_was_silent_for_a_while_is_told_what_to_do_again(ground: Ground) {
    let meta = Meta::start("main", ground.client().await).await;
    let node = Node::start("node-1", meta.channel.clone());
    meta.ddl(create("main", "cpu", 2)).await.unwrap();
    let is = |online: bool| move |node: &Value| node["online"] == online;
    meta.admin_until("node show", "1", is(true)).await;
    node.state.lock().silent = true;
    meta.admin_until("node show", "1", is(false)).await;
    node.state.lock().silent = false;
    meta.admin_until("node show", "1", is(true)).await;
    meta.ddl(create("main", "mem", 2)).await.unwrap();
    assert_eq!(node.state.lock().tablets.len(), 4);
    meta.server.stop().await;
}

pub(super) async fn a_closed_shard_is_opened_again_under_the_next_epoch(ground: Ground) {
    let meta = Meta::start("main", ground.client().await).await;
    let node = Node::start("node-1", meta.channel.clone());
    meta.ddl(create("main", "cpu", 2)).await.unwrap();
    meta.admin("shard close", "1/1").await;
    meta.admin_until("shard show", "1", |shard| shard["replicas"] == json!([]))
        .await;
    assert!(!node.state.lock().shards.contains_key(&1));
    meta.admin("shard open", "1/1").await;
    let shard = meta
        .admin_until("shard show", "1", |shard| shard["served"] == true)
        .await;
    assert_eq!(shard["epoch"], "0:2");
    assert_eq!(node.state.lock().shards[&1].epoch, 2);
    meta.server.stop().await;
}
