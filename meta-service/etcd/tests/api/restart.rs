//! What a member still knows after it was stopped, or dropped as if it had been killed.

use std::path::Path;
use std::time::Duration;

use auxo_etcd::{Server, StartError, Supervised};
use etcd_client::{CompactionOptions, GetOptions, LeaseTimeToLiveOptions, PutOptions};

use crate::{Member, client, config, refused, soon, start_in};

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

/// A copy of the directory between two writes is what a killed process leaves behind: everything
/// handed to the operating system, nothing that was only in memory.
fn killed(dir: &Path) -> tempfile::TempDir {
    fn copy(from: &Path, to: &Path) {
        std::fs::create_dir_all(to).expect("a directory");
        for item in std::fs::read_dir(from).expect("a directory") {
            let path = item.expect("an entry").path();
            let target = to.join(path.file_name().expect("a name"));
            if path.is_dir() {
                copy(&path, &target);
            } else {
                std::fs::copy(&path, &target).expect("a copy");
            }
        }
    }
    let image = tempfile::tempdir().expect("a directory");
    copy(dir, image.path());
    image
}

#[tokio::test]
async fn an_acknowledged_write_survives_a_kill_at_any_distance_from_a_durable_commit() {
    let dir = tempfile::tempdir().unwrap();
    let mut settings = config(dir.path());
    // Durable after every 16 operations and never in between, so that no copy is made during one.
    settings.backend_batch_interval = Duration::from_secs(3600);
    settings.backend_batch_limit = 16;
    settings.snapshot_count = 1_000_000;
    let server = crate::start_with(settings).await;
    let mut kv = client(&server).await;
    let lease = kv.lease_grant(600, None).await.unwrap().id();
    for round in 0..40 {
        let options = PutOptions::new().with_lease(lease);
        kv.put("leased", format!("{round}"), Some(options))
            .await
            .unwrap();
        kv.put(format!("k{round}"), "v", None).await.unwrap();
        let deleted = kv.delete(format!("k{}", round - 1), None).await.unwrap();
        let revision = deleted.header().unwrap().revision();
        if round == 20 {
            kv.compact(revision - 10, None).await.unwrap();
        }
        if round % 5 != 0 {
            continue;
        }
        let image = killed(dir.path());
        let again = start_in(image.path()).await;
        let mut kv = client(&again).await;
        let all = GetOptions::new().with_all_keys();
        let got = kv.get("", Some(all)).await.unwrap();
        assert_eq!(got.header().unwrap().revision(), revision);
        let kvs = got
            .kvs()
            .iter()
            .map(|kv| (kv.key_str().unwrap(), kv.value_str().unwrap()));
        let (key, value) = (format!("k{round}"), format!("{round}"));
        let expected = [(key.as_str(), "v"), ("leased", value.as_str())];
        assert_eq!(kvs.collect::<Vec<_>>(), expected);
        let with_keys = LeaseTimeToLiveOptions::new().with_keys();
        let lease = kv.lease_time_to_live(lease, Some(with_keys)).await.unwrap();
        assert_eq!(lease.keys(), [b"leased"]);
        again.stop().await;
    }
    server.stop().await;
}

#[tokio::test]
async fn a_member_that_cannot_write_says_that_it_failed() {
    let Member { server, dir } = Member::start().await;
    let mut kv = client(&server).await;
    kv.put("k", "v", None).await.unwrap();
    // The next segment of the log cannot be made where there is no directory.
    std::fs::remove_dir_all(dir.path().join("member/log")).unwrap();
    let large = vec![7; 1 << 20];
    let failing = async { while kv.put("k", large.clone(), None).await.is_ok() {} };
    soon(failing).await;
    soon(server.failed()).await;
    assert!(refused(kv.put("k", "v", None).await).starts_with("Unavailable"));
    server.stop().await;
}

#[tokio::test]
async fn a_member_that_is_supervised_goes_on_once_it_can_write_again() {
    let dir = tempfile::tempdir().unwrap();
    let member = Supervised::start(config(dir.path()), 7).await.unwrap();
    let channel = member.channel();
    let mut kv = etcd_client::Client::from_channel(channel, None)
        .await
        .unwrap();
    kv.put("k", "v", None).await.unwrap();
    let (log, away) = (dir.path().join("member/log"), dir.path().join("away"));
    std::fs::rename(&log, &away).unwrap();
    let large = vec![7; 1 << 20];
    let failing = async { while kv.put("large", large.clone(), None).await.is_ok() {} };
    soon(failing).await;
    let cut_off = kv.put("k", "w", None).await;
    assert!(cut_off.is_err(), "{cut_off:?}");
    // Whatever a start made meanwhile is not the member's log.
    if log.exists() {
        std::fs::remove_dir_all(&log).unwrap();
    }
    std::fs::rename(&away, &log).unwrap();
    let goes_on = async {
        while kv.put("after", "v", None).await.is_err() {
            tokio::task::yield_now().await;
        }
    };
    soon(goes_on).await;
    let got = kv.get("k", None).await.unwrap();
    assert_eq!(got.kvs()[0].value(), b"v");
    member.stop().await;
}

#[tokio::test]
async fn the_log_is_cut_and_the_rest_is_enough() {
    let dir = tempfile::tempdir().unwrap();
    let mut settings = config(dir.path());
    settings.snapshot_count = 20;
    settings.snapshot_catchup_entries = 5;
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

#[tokio::test]
async fn a_request_longer_than_the_log_can_hold_cannot_be_allowed() {
    let dir = tempfile::tempdir().unwrap();
    let mut settings = config(dir.path());
    settings.max_request_bytes = 33 << 20;
    let Err(error) = Server::start(settings, None, 7).await else {
        panic!("started");
    };
    assert!(
        error
            .to_string()
            .starts_with("max_request_bytes is 34603008"),
        "{error}"
    );
}

#[tokio::test]
async fn a_start_that_is_given_up_leaves_nothing_behind() {
    let dir = tempfile::tempdir().unwrap();
    for steps in [1, 3, 10, 30] {
        let mut starting = Box::pin(Server::start(config(dir.path()), None, 7));
        for _ in 0..steps {
            tokio::select! {
                biased;
                _ = &mut starting => break,
                () = tokio::task::yield_now() => {}
            }
        }
        drop(starting);
    }
    let server = start_in(dir.path()).await;
    client(&server).await.put("k", "v", None).await.unwrap();
    server.stop().await;
}
