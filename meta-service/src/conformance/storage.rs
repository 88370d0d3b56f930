//! The store over an etcd that loses answers, compacts and restarts.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use auxo_proto::random::Random;
use etcd_client::{Channel, Client};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use tower::util::BoxCloneSyncService;
use tower::{Service, ServiceExt, service_fn};

use super::node::Node;
use super::{Ground, Meta, PATIENCE, create};
use crate::keys::{Counter, Keys};
use crate::model::mirror::Mirror;
use crate::store::{CommitError, Expect, Put, Store, Txn};

/// A client of which `fails` says, of each call's path, whether its answer is lost.
async fn forgetful(
    ground: &Ground,
    fails: impl Fn(&str) -> bool + Clone + Send + Sync + 'static,
) -> Client {
    let channel = ground.channel();
    let service = service_fn(move |request: http::Request<tonic::body::Body>| {
        let mut channel = channel.clone();
        let lost = fails(request.uri().path());
        async move {
            let answer = channel.ready().await?.call(request).await?;
            match lost {
                true => {
                    let status = tonic::Status::unavailable("connection reset");
                    Err(Box::new(status) as tower::BoxError)
                }
                false => Ok(answer),
            }
        }
    });
    let channel = Channel::Custom(BoxCloneSyncService::new(service));
    Client::from_channel(channel, None).await.unwrap()
}

/// A client whose every second txn is carried out but answered with an error.
async fn losing_every_second_txn(ground: &Ground) -> (Client, Arc<AtomicUsize>) {
    let txns = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&txns);
    let client = forgetful(ground, move |path| {
        path.ends_with("/Txn") && counted.fetch_add(1, Ordering::SeqCst).is_multiple_of(2)
    });
    (client.await, txns)
}

fn put(key: &str, value: &str, expect: Expect) -> Txn {
    Txn {
        expects: vec![(key.to_owned(), expect)],
        puts: vec![Put {
            key: key.to_owned(),
            value: value.to_owned(),
            lease: 0,
        }],
        deletes: vec![],
    }
}

pub(super) async fn a_lost_answer_is_settled_by_reading(ground: Ground) {
    let (client, txns) = losing_every_second_txn(&ground).await;
    let store = Store::new(client, Random::seeded(1));
    let revision = store.commit(&put("/k", "a", Expect::Absent)).await.unwrap();
    assert!(txns.load(Ordering::SeqCst) > 1, "the first answer was lost");
    let entry = store.get("/k").await.unwrap().unwrap();
    assert_eq!((entry.value, entry.modify), (b"a".to_vec(), revision));
    let late = store.commit(&put("/k", "b", Expect::Absent)).await;
    assert!(matches!(late, Err(CommitError::Conflict { .. })));
    let next = put("/k", "c", Expect::Modified(revision));
    assert!(store.commit(&next).await.unwrap() > revision);
    assert_eq!(store.get("/k").await.unwrap().unwrap().value, b"c");
}

pub(super) async fn meta_works_over_an_etcd_that_loses_every_second_answer(ground: Ground) {
    let (client, _) = losing_every_second_txn(&ground).await;
    let meta = Meta::start("main", client).await;
    let node = Node::start("node-1", meta.channel.clone());
    let first = meta.ddl(create("main", "cpu", 150)).await.unwrap();
    let second = meta.ddl(create("main", "mem", 1)).await.unwrap();
    assert!(second.topology > first.topology);
    let topology = node.topology(second.topology).await;
    assert_eq!(topology.tables.len(), 2);
    assert_eq!(topology.tablets.len(), 151);
    meta.server.stop().await;
}

pub(super) async fn a_mirror_survives_compaction_and_restart_of_etcd(mut ground: Ground) {
    let away = Arc::new(AtomicBool::new(false));
    let is_away = Arc::clone(&away);
    let seen_by_mirror = forgetful(&ground, move |_| is_away.load(Ordering::SeqCst)).await;
    let client = ground.client().await;
    let mut kv = client.kv_client();
    kv.put("/auxo/main/next/table", "5", None).await.unwrap();
    let mirror = Arc::new(Mirror::new(Keys::new("main")));
    let stop = CancellationToken::new();
    let store = Store::new(seen_by_mirror, Random::seeded(1));
    let running = Arc::clone(&mirror);
    let stopped = stop.clone();
    let mut tasks = JoinSet::new();
    tasks.spawn(async move { running.run(store, stopped).await });
    let counted = async |wanted: u64| {
        let seen = mirror.wait(|model| {
            let table = model.next_id(Counter::Table);
            (table == wanted).then_some(())
        });
        tokio::time::timeout(PATIENCE, seen).await.unwrap();
    };
    counted(5).await;
    kv.put("/auxo/main/next/table", "6", None).await.unwrap();
    counted(6).await;
    // Written and compacted before the mirror's watch can come back.
    away.store(true, Ordering::SeqCst);
    ground.etcd.stop().await.unwrap();
    ground.etcd.start().await.unwrap();
    let client = ground.client().await;
    let mut kv = client.kv_client();
    let mut revision = 0;
    for next in 7..=20 {
        let put = kv
            .put("/auxo/main/next/table", next.to_string(), None)
            .await
            .unwrap();
        revision = put.header().unwrap().revision();
    }
    kv.compact(revision, None).await.unwrap();
    ground.etcd.stop().await.unwrap();
    ground.etcd.start().await.unwrap();
    assert_eq!(mirror.read(|model| model.next_id(Counter::Table)), 6);
    away.store(false, Ordering::SeqCst);
    counted(20).await;
    stop.cancel();
    while tasks.join_next().await.is_some() {}
}
