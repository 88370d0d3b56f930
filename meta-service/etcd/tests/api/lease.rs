//! Leases: TTLs, keys, expiry, keep-alive.

use etcd_client::{LeaseGrantOptions, LeaseTimeToLiveOptions, PutOptions};
use futures::StreamExt;

use crate::{Member, refused, soon};

#[tokio::test]
async fn ttls_and_ids_are_as_asked_within_bounds() {
    let member = Member::start().await;
    let mut client = member.client().await;
    assert_eq!(client.lease_grant(0, None).await.unwrap().ttl(), 2);
    let with_id = |id| Some(LeaseGrantOptions::new().with_id(id));
    let granted = client.lease_grant(60, with_id(42)).await.unwrap();
    assert_eq!((granted.id(), granted.ttl()), (42, 60));
    assert_eq!(
        refused(client.lease_grant(60, with_id(42)).await),
        "FailedPrecondition: etcdserver: lease already exists"
    );
    assert_eq!(
        refused(client.lease_grant(9_000_000_001, None).await),
        "OutOfRange: etcdserver: too large lease TTL"
    );
    assert_eq!(
        refused(client.lease_revoke(43).await),
        "NotFound: etcdserver: requested lease not found"
    );
    assert_eq!(client.lease_time_to_live(43, None).await.unwrap().ttl(), -1);
    assert!(client.lease_keep_alive(43).await.is_err());
    let ids: Vec<_> = client
        .leases()
        .await
        .unwrap()
        .leases()
        .iter()
        .map(|l| l.id())
        .collect();
    assert!(ids.len() == 2 && ids.contains(&42));
    member.server.stop().await;
}

#[tokio::test]
async fn revoking_deletes_the_keys_in_one_revision() {
    let member = Member::start().await;
    let mut client = member.client().await;
    let lease = client.lease_grant(60, None).await.unwrap().id();
    let attached = || Some(PutOptions::new().with_lease(lease));
    client.put("b", "1", attached()).await.unwrap();
    client.put("a", "2", attached()).await.unwrap();
    client.put("c", "3", attached()).await.unwrap();
    client.put("c", "4", None).await.unwrap();
    let with_keys = LeaseTimeToLiveOptions::new().with_keys();
    let left = client
        .lease_time_to_live(lease, Some(with_keys))
        .await
        .unwrap();
    assert_eq!(left.keys(), [b"a", b"b"]);
    assert_eq!(left.granted_ttl(), 60);
    let revoked = client.lease_revoke(lease).await.unwrap();
    assert_eq!(revoked.header().unwrap().revision(), 6);
    assert!(client.get("a", None).await.unwrap().kvs().is_empty());
    assert_eq!(client.get("c", None).await.unwrap().kvs()[0].lease(), 0);
    member.server.stop().await;
}

#[tokio::test]
async fn a_lease_lives_while_it_is_kept_alive_and_then_ends() {
    let member = Member::start().await;
    let mut client = member.client().await;
    let lease = client.lease_grant(2, None).await.unwrap().id();
    client
        .put("k", "v", Some(PutOptions::new().with_lease(lease)))
        .await
        .unwrap();
    let mut watching = client.watch("k", None).await.unwrap();
    let (mut keeper, mut answers) = client.lease_keep_alive(lease).await.unwrap();
    let began = tokio::time::Instant::now();
    let mut last_kept = began;
    let mut beat = tokio::time::interval(std::time::Duration::from_millis(600));
    while began.elapsed() < std::time::Duration::from_secs(4) {
        beat.tick().await;
        last_kept = tokio::time::Instant::now();
        keeper.keep_alive().await.unwrap();
        assert_eq!(soon(answers.message()).await.unwrap().unwrap().ttl(), 2);
    }
    assert_eq!(client.get("k", None).await.unwrap().count(), 1);
    let created = soon(watching.next()).await.unwrap().unwrap();
    assert!(created.created());
    let gone = soon(watching.next()).await.unwrap().unwrap();
    assert_eq!(
        gone.events()[0].event_type(),
        etcd_client::EventType::Delete
    );
    assert!(last_kept.elapsed() >= std::time::Duration::from_secs(2));
    keeper.keep_alive().await.unwrap();
    assert_eq!(soon(answers.message()).await.unwrap().unwrap().ttl(), 0);
    member.server.stop().await;
}
