//! The store over an etcd that loses answers, compacts and restarts.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use auxo_meta_service::keys::Keys;
use auxo_meta_service::model::mirror::Mirror;
use auxo_meta_service::store::{CommitError, Expect, Put, Store, Txn};
use auxo_proto::random::Random;
use etcd_client::{Channel, Client};
use tokio_util::sync::CancellationToken;
use tower::util::BoxCloneSyncService;
use tower::{Service, ServiceExt, service_fn};

use crate::node::Node;
use crate::{Etcd, Meta, PATIENCE, create, start_etcd};

/// A client whose every second txn is carried out but answered with an error.
async fn forgetful(etcd: &Etcd) -> (Client, Arc<AtomicUsize>) {
    let Channel::Tonic(channel) = etcd.server.channel() else {
        panic!("a tonic channel");
    };
    let txns = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&txns);
    let service = service_fn(move |request: http::Request<tonic::body::Body>| {
        let mut channel = channel.clone();
        let is_txn = request.uri().path().ends_with("/Txn");
        let lost = is_txn && counted.fetch_add(1, Ordering::SeqCst).is_multiple_of(2);
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
    (Client::from_channel(channel, None).await.unwrap(), txns)
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

#[tokio::test]
async fn a_lost_answer_is_settled_by_reading() {
    let etcd = Etcd::start().await;
    let (client, txns) = forgetful(&etcd).await;
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

#[tokio::test]
async fn meta_works_over_an_etcd_that_loses_every_second_answer() {
    let etcd = Etcd::start().await;
    let (client, _) = forgetful(&etcd).await;
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

#[tokio::test]
async fn a_mirror_survives_compaction_and_restart_of_etcd() {
    let directory = tempfile::tempdir().unwrap();
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let etcd = start_etcd(directory.path(), Some(listener)).await;
    let endpoint = format!("http://{address}");
    let client = Client::connect([endpoint], None).await.unwrap();
    let mut kv = client.kv_client();
    kv.put("/auxo/main/next/table", "5", None).await.unwrap();
    let mirror = Arc::new(Mirror::new(Keys::new("main")));
    let stop = CancellationToken::new();
    let store = Store::new(client.clone(), Random::seeded(1));
    let running = Arc::clone(&mirror);
    let stopped = stop.clone();
    let mut tasks = tokio::task::JoinSet::new();
    tasks.spawn(async move { running.run(store, stopped).await });
    let counted = async |wanted: u64| {
        let seen = mirror.wait(|model| {
            let table = model.next_id(auxo_meta_service::keys::Counter::Table);
            (table == wanted).then_some(())
        });
        tokio::time::timeout(PATIENCE, seen).await.unwrap();
    };
    counted(5).await;
    kv.put("/auxo/main/next/table", "6", None).await.unwrap();
    counted(6).await;
    etcd.stop().await;
    // Written and compacted before the mirror's watch can come back.
    let etcd = start_etcd(directory.path(), None).await;
    let behind = Client::from_channel(etcd.channel(), None).await.unwrap();
    let mut kv = behind.kv_client();
    let mut revision = 0;
    for next in 7..=20 {
        let put = kv
            .put("/auxo/main/next/table", next.to_string(), None)
            .await
            .unwrap();
        revision = put.header().unwrap().revision();
    }
    kv.delete("/auxo/main/format", None).await.unwrap();
    kv.compact(revision, None).await.unwrap();
    etcd.stop().await;
    let listener = tokio::net::TcpListener::bind(address).await.unwrap();
    let etcd = start_etcd(directory.path(), Some(listener)).await;
    counted(20).await;
    stop.cancel();
    while tasks.join_next().await.is_some() {}
    etcd.stop().await;
}
