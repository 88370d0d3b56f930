//! What a member still knows after it was stopped, or dropped as if it had been killed.

use auxo_etcd::{Server, StartError};
use etcd_client::{CompactionOptions, GetOptions};

use crate::{Member, client, config, refused, start_in};

#[tokio::test]
async fn nothing_is_lost_by_stopping() {
    let Member { server, dir } = Member::start().await;
    let mut kv = client(&server).await;
    let lease = kv.lease_grant(600, None).await.unwrap().id();
    let options = etcd_client::PutOptions::new().with_lease(lease);
    let put = kv.put("k", "v", Some(options)).await.unwrap();
    let before = put.header().unwrap().clone();
    server.stop().await;

    let server = start_in(dir.path()).await;
    let mut kv = client(&server).await;
    let got = kv.get("k", None).await.unwrap();
    assert_eq!(
        (got.kvs()[0].value(), got.kvs()[0].lease()),
        (&b"v"[..], lease)
    );
    let after = got.header().unwrap();
    assert_eq!(after.cluster_id(), before.cluster_id());
    assert_eq!(after.member_id(), before.member_id());
    assert_eq!(after.revision(), before.revision());
    assert!(after.raft_term() > before.raft_term());
    let left = kv.lease_time_to_live(lease, None).await.unwrap();
    assert!(left.ttl() > 590);
    let again = kv.put("k", "v2", None).await.unwrap();
    assert_eq!(again.header().unwrap().revision(), before.revision() + 1);
    server.stop().await;
}

#[tokio::test]
async fn an_acknowledged_write_survives_a_drop() {
    let dir = tempfile::tempdir().unwrap();
    for round in 0..4 {
        let server = start_in(dir.path()).await;
        let mut kv = client(&server).await;
        let all = GetOptions::new().with_all_keys();
        let known = kv.get("", Some(all)).await.unwrap();
        assert_eq!(known.count(), round * 50);
        for n in 0..50 {
            let key = format!("{round}/{n}");
            kv.put(key.clone(), key, None).await.unwrap();
        }
        drop(server);
    }
}

#[tokio::test]
async fn the_log_is_cut_and_the_rest_is_enough() {
    let dir = tempfile::tempdir().unwrap();
    let mut settings = config(dir.path());
    settings.snapshot_count = 20;
    for round in 0..3 {
        let server = crate::start_with(settings.clone()).await;
        let mut kv = client(&server).await;
        for n in 0..100 {
            kv.put(format!("{}", n % 10), format!("{round}"), None)
                .await
                .unwrap();
        }
        let revision = kv
            .get("0", None)
            .await
            .unwrap()
            .header()
            .unwrap()
            .revision();
        assert_eq!(revision, 1 + 100 * (round + 1));
        let options = CompactionOptions::new().with_physical();
        kv.compact(revision - 5, Some(options)).await.unwrap();
        server.stop().await;
    }
}

#[tokio::test]
async fn a_directory_belongs_to_one_process() {
    let member = Member::start().await;
    let Err(error) = Server::start(config(member.dir.path()), None, 7).await else {
        panic!("started twice");
    };
    assert!(matches!(error, StartError::Locked { .. }), "{error}");
    member.server.stop().await;
}

#[tokio::test]
async fn a_state_without_its_log_is_refused() {
    let Member { server, dir } = Member::start().await;
    client(&server).await.put("k", "v", None).await.unwrap();
    server.stop().await;
    std::fs::remove_dir_all(dir.path().join("member/log")).unwrap();
    let Err(error) = Server::start(config(dir.path()), None, 7).await else {
        panic!("started without a log");
    };
    assert!(
        error.to_string().contains("the log ends at entry None"),
        "{error}"
    );
}

#[tokio::test]
async fn a_damaged_log_is_refused_by_name() {
    let Member { server, dir } = Member::start().await;
    let mut kv = client(&server).await;
    for _ in 0..10 {
        kv.put("k", "v", None).await.unwrap();
    }
    server.stop().await;
    let log = dir.path().join("member/log");
    let path = std::fs::read_dir(&log)
        .unwrap()
        .next()
        .unwrap()
        .unwrap()
        .path();
    let mut bytes = std::fs::read(&path).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    std::fs::write(&path, bytes).unwrap();
    let Err(error) = Server::start(config(dir.path()), None, 7).await else {
        panic!("started on a damaged log");
    };
    let named = format!("{} is corrupt at byte", path.display());
    assert!(error.to_string().starts_with(&named), "{error}");
}

#[tokio::test]
async fn a_damaged_state_is_refused_by_name() {
    let Member { server, dir } = Member::start().await;
    client(&server).await.put("k", "v", None).await.unwrap();
    server.stop().await;
    let path = dir.path().join("member/state.redb");
    let mut bytes = std::fs::read(&path).unwrap();
    for byte in &mut bytes[4096..] {
        *byte = !*byte;
    }
    std::fs::write(&path, bytes).unwrap();
    let Err(error) = Server::start(config(dir.path()), None, 7).await else {
        panic!("started on a damaged state");
    };
    let named = path.display().to_string();
    assert!(error.to_string().starts_with(&named), "{error}");
}

#[tokio::test]
async fn a_stopped_member_says_so() {
    let member = Member::start().await;
    let mut kv = member.client().await;
    kv.put("k", "v", None).await.unwrap();
    member.server.stop().await;
    assert!(refused(kv.put("k", "w", None).await).starts_with("Unavailable"));
}
