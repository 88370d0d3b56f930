//! Locks and elections.

use etcd_client::{CampaignResponse, LockOptions, ProclaimOptions, PutOptions, ResignOptions};
use futures::StreamExt;

use crate::{Member, refused, soon};

#[tokio::test]
async fn a_lock_is_handed_on() {
    let member = Member::start().await;
    let mut client = member.client().await;
    let first = client.lease_grant(60, None).await.unwrap().id();
    let second = client.lease_grant(60, None).await.unwrap().id();
    let with = |lease| Some(LockOptions::new().with_lease(lease));
    let held = client.lock("name", with(first)).await.unwrap();
    assert_eq!(held.key(), format!("name/{first:x}").as_bytes());

    let mut other = member.client().await;
    let waiting = tokio::task::JoinSet::from_iter([async move {
        other
            .lock("name", with(second))
            .await
            .unwrap()
            .key()
            .to_vec()
    }]);
    // The waiter's key is there before the lock is given back.
    let queued = format!("name/{second:x}");
    soon(async { while client.get(queued.clone(), None).await.unwrap().count() == 0 {} }).await;
    client.unlock(held.key()).await.unwrap();
    assert_eq!(soon(waiting.join_all()).await, [queued.into_bytes()]);
    member.server.stop().await;
}

#[tokio::test]
async fn whoever_gives_up_waiting_leaves_the_line() {
    let member = Member::start().await;
    let mut client = member.client().await;
    let held = client.lock("name", None).await.unwrap();
    // Again and again: the call may end before its key is there, when it is made, or after.
    for _ in 0..20 {
        let lease = client.lease_grant(60, None).await.unwrap().id();
        let queued = format!("name/{lease:x}");
        {
            let mut other = member.client().await;
            let with = LockOptions::new().with_lease(lease);
            let waiting = other.lock("name", Some(with));
            let appears =
                async { while client.get(queued.clone(), None).await.unwrap().count() == 0 {} };
            tokio::select! {
                _ = waiting => panic!("two own the lock"),
                () = soon(appears) => {}
            }
        }
        soon(async { while client.get(queued.clone(), None).await.unwrap().count() == 1 {} }).await;
    }
    assert_eq!(client.get(held.key(), None).await.unwrap().count(), 1);
    member.server.stop().await;
}

#[tokio::test]
async fn a_waiter_whose_lease_ends_does_not_get_the_lock() {
    let member = Member::start().await;
    let mut client = member.client().await;
    client.lock("name", None).await.unwrap();
    let lease = client.lease_grant(60, None).await.unwrap().id();
    let mut other = member.client().await;
    let with = LockOptions::new().with_lease(lease);
    let waiting = other.lock("name", Some(with));
    let ending = async {
        let queued = format!("name/{lease:x}");
        while client.get(queued.clone(), None).await.unwrap().count() == 0 {}
        client.lease_revoke(lease).await.unwrap();
    };
    let (waited, ()) = soon(async { tokio::join!(waiting, ending) }).await;
    assert_eq!(refused(waited), "Unknown: mutex: session is expired");
    member.server.stop().await;
}

#[tokio::test]
async fn a_leader_proclaims_and_hands_over() {
    let member = Member::start().await;
    let mut client = member.client().await;
    assert_eq!(
        refused(client.leader("e").await),
        "Unknown: election: no leader"
    );
    let lease = client.lease_grant(60, None).await.unwrap().id();
    let campaign: CampaignResponse = client.campaign("e", "one", lease).await.unwrap();
    let leader = campaign.leader().unwrap().clone();
    assert_eq!(leader.key(), format!("e/{lease:x}").as_bytes());

    let mut observed = client.observe("e").await.unwrap();
    let value = |answer: etcd_client::LeaderResponse| answer.kv().unwrap().value().to_vec();
    assert_eq!(value(soon(observed.next()).await.unwrap().unwrap()), b"one");
    for said in ["two", "three"] {
        let with = ProclaimOptions::new().with_leader(leader.clone());
        client.proclaim(said, Some(with)).await.unwrap();
    }
    assert_eq!(value(soon(observed.next()).await.unwrap().unwrap()), b"two");
    assert_eq!(
        value(soon(observed.next()).await.unwrap().unwrap()),
        b"three"
    );
    assert_eq!(value(client.leader("e").await.unwrap()), b"three");

    let next_lease = client.lease_grant(60, None).await.unwrap().id();
    let mut other = member.client().await;
    let winning = other.campaign("e", "next", next_lease);
    let resigning = async {
        let queued = format!("e/{next_lease:x}");
        while client.get(queued.clone(), None).await.unwrap().count() == 0 {}
        let with = ResignOptions::new().with_leader(leader.clone());
        client.resign(Some(with)).await.unwrap();
    };
    let (won, ()) = soon(async { tokio::join!(winning, resigning) }).await;
    assert_eq!(won.unwrap().leader().unwrap().lease(), next_lease);
    assert_eq!(
        value(soon(observed.next()).await.unwrap().unwrap()),
        b"next"
    );

    // The former leader can say nothing any longer.
    let with = ProclaimOptions::new().with_leader(leader);
    let mut client = member.client().await;
    assert_eq!(
        refused(client.proclaim("late", Some(with)).await),
        "Unknown: election: not leader"
    );
    member.server.stop().await;
}

#[tokio::test]
async fn a_line_lives_beside_other_keys() {
    let member = Member::start().await;
    let mut client = member.client().await;
    client.put("name", "plain", None).await.unwrap();
    client
        .put("namesake/1", "plain", Some(PutOptions::new()))
        .await
        .unwrap();
    let held = soon(client.lock("name", None)).await.unwrap();
    assert!(held.key().starts_with(b"name/"));
    member.server.stop().await;
}
