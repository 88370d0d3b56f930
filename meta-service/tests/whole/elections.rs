//! Who leads, and what one who no longer does can do.

use std::sync::Arc;

use auxo_meta_service::MetaServer;
use auxo_meta_service::api::Standing;
use auxo_meta_service::keys::Key;
use auxo_meta_service::model::change::Change;
use auxo_meta_service::reign::WriteError;
use auxo_proto::ids::TenantId;
use auxo_proto::pb::meta::meta_client::MetaClient;
use auxo_proto::pb::meta::{AdminCall, admin_reply};
use etcd_client::{DeleteOptions, PutOptions};
use serde_json::json;

use crate::node::Node;
use crate::{Etcd, Meta, PATIENCE, create, dump};

fn reign(server: &MetaServer) -> Option<Arc<auxo_meta_service::reign::Reign>> {
    match &*server.standing().borrow() {
        Standing::Leading(lead) => Some(Arc::clone(&lead.reign)),
        Standing::Following(_) => None,
    }
}

#[tokio::test]
async fn the_second_follows_and_takes_over_when_the_first_stops() {
    let etcd = Etcd::start().await;
    let first = Meta::start_as("one", "main", etcd.client().await, Arc::new(|_| false)).await;
    first.leads().await;
    let second = Meta::start_as("two", "main", etcd.client().await, Arc::new(|_| false)).await;
    let mut standing = second.server.standing();
    let follows = standing.wait_for(
        |standing| matches!(standing, Standing::Following(Some(leader)) if leader == "one"),
    );
    tokio::time::timeout(PATIENCE, follows)
        .await
        .unwrap()
        .unwrap();
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

#[tokio::test]
async fn a_deposed_leader_can_change_nothing() {
    let etcd = Etcd::start().await;
    let client = etcd.client().await;
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

#[tokio::test]
async fn a_decision_on_an_old_model_is_made_anew() {
    let etcd = Etcd::start().await;
    let client = etcd.client().await;
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

#[tokio::test]
async fn a_process_that_starts_again_does_not_wait_for_its_own_earlier_lease() {
    let etcd = Etcd::start().await;
    let client = etcd.client().await;
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
