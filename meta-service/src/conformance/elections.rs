//! Who leads, and what one who no longer does can do.

use std::sync::Arc;

use auxo_proto::ids::TenantId;
use auxo_proto::pb::meta::meta_client::MetaClient;
use auxo_proto::pb::meta::{AdminCall, admin_reply};
use etcd_client::{DeleteOptions, PutOptions};
use serde_json::json;

use super::node::Node;
use super::{Ground, Meta, PATIENCE, create, dump};
use crate::MetaServer;
use crate::api::Standing;
use crate::keys::Key;
use crate::model::change::Change;
use crate::reign::{Reign, WriteError};

fn reign(server: &MetaServer) -> Option<Arc<Reign>> {
    match &*server.standing().borrow() {
        Standing::Leading(lead) => Some(Arc::clone(&lead.reign)),
        Standing::Following(_) => None,
    }
}

fn follows(standing: &Standing, leader: &str) -> bool {
    matches!(standing, Standing::Following(Some(named)) if named == leader)
}

pub(super) async fn the_second_follows_and_takes_over_when_the_first_stops(ground: Ground) {
    let first = Meta::start_as("one", "main", ground.client().await, Arc::new(|_| false)).await;
    first.leads().await;
    let second = Meta::start_as("two", "main", ground.client().await, Arc::new(|_| false)).await;
    second.stands(|standing| follows(standing, "one")).await;
    let call = AdminCall {
        verb: "status".to_owned(),
        ..AdminCall::default()
    };
    let reply = MetaClient::new(second.channel.clone()).admin(call).await;
    let Some(admin_reply::Result::NotLeader(other)) = reply.unwrap().into_inner().result else {
        panic!("the second does not lead");
    };
    assert_eq!(other.hint, "one");
    let node = Node::start("node-1", first.channel.clone());
    first.ddl(create("main", "cpu", 1)).await.unwrap();
    let astray = Node::start("node-2", second.channel.clone());
    astray.until(|state| state.told == "ask one").await;
    let before = reign(&first.server).unwrap().number;
    first.server.stop().await;
    second.leads().await;
    assert!(reign(&second.server).unwrap().number > before);
    let state = Arc::clone(&node.state);
    drop(node);
    let _node = Node::start_with("node-1", second.channel.clone(), state);
    second.ddl(create("main", "mem", 1)).await.unwrap();
    second.server.stop().await;
}

pub(super) async fn a_follower_names_the_leader_though_nothing_changes(ground: Ground) {
    let client = ground.client().await;
    // Somebody leads whose campaign is all there is, and whose lease nobody needs to keep alive.
    let lease = client.lease_client().grant(3_600, None).await.unwrap().id();
    let key = format!("/auxo/main/leader/{lease:016x}");
    let value = r#"{"name":"other","api":"there:1","build":"test"}"#;
    let on_lease = PutOptions::new().with_lease(lease);
    let mut kv = client.kv_client();
    kv.put(key, value, Some(on_lease)).await.unwrap();
    for name in ["one", "two", "three", "four"] {
        let meta = Meta::start_as(name, "main", client.clone(), Arc::new(|_| false)).await;
        meta.stands(|standing| follows(standing, "there:1")).await;
        meta.server.stop().await;
    }
}

pub(super) async fn a_deposed_leader_can_change_nothing(ground: Ground) {
    let client = ground.client().await;
    let meta = Meta::start("main", client.clone()).await;
    meta.leads().await;
    let old = reign(&meta.server).unwrap();
    let mut kv = client.kv_client();
    let leaders = DeleteOptions::new().with_prefix();
    kv.delete("/auxo/main/leader/", Some(leaders))
        .await
        .unwrap();
    let before = dump(&client, "main").await;
    let refused = old
        .write(|_| {
            let mut change = Change::new();
            change.delete(Key::Tenant(TenantId(1)));
            Ok::<_, ()>((change, ()))
        })
        .await;
    assert!(matches!(refused, Err(WriteError::Deposed)));
    assert!(old.over.is_cancelled());
    let after = dump(&client, "main").await;
    assert_eq!(
        after["tenant/00000000000000000001"],
        before["tenant/00000000000000000001"]
    );
    // It campaigns again and leads under a higher number.
    let again = async {
        loop {
            match reign(&meta.server) {
                Some(reign) if reign.number > old.number => return,
                _ => tokio::time::sleep(std::time::Duration::from_millis(10)).await,
            }
        }
    };
    tokio::time::timeout(PATIENCE, again).await.unwrap();
    meta.server.stop().await;
}

pub(super) async fn a_decision_on_an_old_model_is_made_anew(ground: Ground) {
    let client = ground.client().await;
    let meta = Meta::start("main", client.clone()).await;
    meta.leads().await;
    let reign = reign(&meta.server).unwrap();
    let key = "/auxo/main/topology";
    client
        .kv_client()
        .put(key, r#"{"number":41}"#, None)
        .await
        .unwrap();
    let number = reign
        .write(|model| {
            let mut change = Change::new();
            let number = change.raise_topology(model);
            Ok::<_, ()>((change, number))
        })
        .await
        .unwrap();
    assert_eq!(number, 42);
    assert_eq!(
        dump(&client, "main").await["topology"],
        json!({"number": 42})
    );
    meta.server.stop().await;
}

pub(super) async fn a_process_that_starts_again_does_not_wait_for_its_own_earlier_lease(
    ground: Ground,
) {
    let client = ground.client().await;
    let lease = client.lease_client().grant(3_600, None).await.unwrap().id();
    let key = format!("/auxo/main/leader/{lease:016x}");
    let value = r#"{"name":"meta","api":"meta","build":"earlier"}"#;
    let on_lease = PutOptions::new().with_lease(lease);
    client
        .kv_client()
        .put(key.as_str(), value, Some(on_lease))
        .await
        .unwrap();
    let meta = Meta::start("main", client.clone()).await;
    meta.leads().await;
    assert_eq!(
        client.kv_client().get(key, None).await.unwrap().kvs().len(),
        0
    );
    meta.server.stop().await;
}

pub(super) async fn a_leader_without_etcd_gives_up_and_leads_again_once_it_is_back(
    mut ground: Ground,
) {
    let meta = Meta::start("main", ground.client().await).await;
    let node = Node::start("node-1", meta.channel.clone());
    meta.ddl(create("main", "cpu", 2)).await.unwrap();
    let old = reign(&meta.server).unwrap();
    ground.etcd.stop().await.unwrap();
    meta.stands(|standing| matches!(standing, Standing::Following(_)))
        .await;
    assert!(old.over.is_cancelled());
    let waits = meta.ddl(create("main", "mem", 1));
    let back = async {
        ground.etcd.start().await.unwrap();
        meta.leads().await;
    };
    let (made, ()) = tokio::join!(waits, back);
    node.topology(made.unwrap().topology).await;
    assert!(reign(&meta.server).unwrap().number > old.number);
    let tablets = node.state.lock().tablets.len();
    assert_eq!(tablets, 3, "each was made once");
    meta.server.stop().await;
}
