//! Watching: order, completeness, options, and what happens at compaction.

use etcd_client::{
    CompactionOptions, DeleteOptions, EventType, Txn, TxnOp, WatchFilterType, WatchOptions,
    WatchResponse, WatchStream,
};

use crate::{Member, soon};

async fn next(stream: &mut WatchStream) -> WatchResponse {
    soon(stream.message())
        .await
        .expect("no error")
        .expect("an answer")
}

/// `+key=value` or `-key`, with the revision.
fn events(answer: &WatchResponse) -> Vec<String> {
    let event = |event: &etcd_client::Event| {
        let kv = event.kv().expect("a key");
        let key = kv.key_str().expect("text");
        let value = kv.value_str().expect("text");
        match event.event_type() {
            EventType::Put => format!("{}+{key}={value}", kv.mod_revision()),
            EventType::Delete => format!("{}-{key}", kv.mod_revision()),
        }
    };
    answer.events().iter().map(event).collect()
}

#[tokio::test]
async fn a_prefix_is_watched_from_now_on_or_from_the_past() {
    let member = Member::start().await;
    let mut client = member.client().await;
    client.put("p/a", "1", None).await.unwrap();
    client.put("q", "2", None).await.unwrap();
    let prefix = WatchOptions::new().with_prefix();
    let mut now = client.watch("p/", Some(prefix.clone())).await.unwrap();
    let created = next(&mut now).await;
    assert!(created.created() && created.watch_id() == 0);
    assert_eq!(created.header().unwrap().revision(), 3);
    client.put("p/b", "3", None).await.unwrap();
    client.put("q", "4", None).await.unwrap();
    client
        .delete("p/", Some(DeleteOptions::new().with_prefix()))
        .await
        .unwrap();
    assert_eq!(events(&next(&mut now).await), ["4+p/b=3"]);
    assert_eq!(events(&next(&mut now).await), ["6-p/a", "6-p/b"]);

    let past = prefix.with_start_revision(2);
    let mut past = client.watch("p/", Some(past)).await.unwrap();
    assert!(next(&mut past).await.created());
    assert_eq!(
        events(&next(&mut past).await),
        ["2+p/a=1", "4+p/b=3", "6-p/a", "6-p/b"]
    );
    member.server.stop().await;
}

#[tokio::test]
async fn one_revision_is_one_answer_with_what_was_before() {
    let member = Member::start().await;
    let mut client = member.client().await;
    client.put("a", "old", None).await.unwrap();
    let options = WatchOptions::new().with_all_keys().with_prev_key();
    let mut watching = client.watch("", Some(options)).await.unwrap();
    next(&mut watching).await;
    let txn = Txn::new().and_then([
        TxnOp::put("b", "new", None),
        TxnOp::put("a", "newer", None),
        TxnOp::delete("nothing", None),
    ]);
    client.txn(txn).await.unwrap();
    let answer = next(&mut watching).await;
    assert_eq!(events(&answer), ["3+b=new", "3+a=newer"]);
    assert!(answer.events()[0].prev_kv().is_none());
    assert_eq!(answer.events()[1].prev_kv().unwrap().value(), b"old");
    assert_eq!(answer.header().unwrap().revision(), 3);
    member.server.stop().await;
}

#[tokio::test]
async fn watchers_of_one_stream_have_ids_filters_and_ends() {
    let member = Member::start().await;
    let mut client = member.client().await;
    let puts_only = WatchOptions::new().with_filters([WatchFilterType::NoDelete]);
    let mut watching = client.watch("k", Some(puts_only)).await.unwrap();
    assert_eq!(next(&mut watching).await.watch_id(), 0);
    let numbered = WatchOptions::new().with_watch_id(7);
    watching.watch("k", Some(numbered.clone())).await.unwrap();
    assert_eq!(next(&mut watching).await.watch_id(), 7);
    watching.watch("k", Some(numbered)).await.unwrap();
    let twice = next(&mut watching).await;
    assert!(twice.created() && twice.canceled() && twice.watch_id() == -1);
    assert_eq!(
        twice.cancel_reason(),
        "mvcc: duplicate watch ID provided on the WatchStream"
    );
    let before_time = WatchOptions::new().with_start_revision(-1);
    watching.watch("k", Some(before_time)).await.unwrap();
    let refused = next(&mut watching).await;
    assert!(refused.created() && refused.canceled() && refused.watch_id() == -1);

    client.put("k", "1", None).await.unwrap();
    client.delete("k", None).await.unwrap();
    let mut seen = Vec::new();
    while seen.len() < 3 {
        let answer = next(&mut watching).await;
        seen.extend(
            events(&answer)
                .into_iter()
                .map(|event| (answer.watch_id(), event)),
        );
    }
    seen.sort();
    let expected = [(0, "2+k=1"), (7, "2+k=1"), (7, "3-k")];
    assert_eq!(seen, expected.map(|(id, event)| (id, event.to_owned())));

    watching.cancel(7).await.unwrap();
    let canceled = next(&mut watching).await;
    assert!(canceled.canceled() && canceled.watch_id() == 7);
    member.server.stop().await;
}

#[tokio::test]
async fn progress_is_told_when_everything_was_delivered() {
    let member = Member::start().await;
    let mut client = member.client().await;
    for _ in 0..2500 {
        client.put("k", "v", None).await.unwrap();
    }
    let past = WatchOptions::new().with_start_revision(2);
    let mut watching = client.watch("k", Some(past)).await.unwrap();
    watching.request_progress().await.unwrap();
    assert!(next(&mut watching).await.created());
    let mut delivered = 0;
    loop {
        let answer = next(&mut watching).await;
        delivered += answer.events().len();
        if answer.events().is_empty() {
            assert_eq!(answer.watch_id(), -1);
            assert_eq!(answer.header().unwrap().revision(), 2501);
            break;
        }
    }
    assert_eq!(delivered, 2500);
    member.server.stop().await;
}

#[tokio::test]
async fn history_survives_a_restart_and_ends_at_compaction() {
    let Member { server, dir } = Member::start().await;
    let mut client = crate::client(&server).await;
    for value in ["1", "2", "3"] {
        client.put("k", value, None).await.unwrap();
    }
    client.delete("k", None).await.unwrap();
    server.stop().await;

    let server = crate::start_in(dir.path()).await;
    let mut client = crate::client(&server).await;
    let from = |revision| Some(WatchOptions::new().with_start_revision(revision));
    let mut watching = client.watch("k", from(2)).await.unwrap();
    assert!(next(&mut watching).await.created());
    assert_eq!(
        events(&next(&mut watching).await),
        ["2+k=1", "3+k=2", "4+k=3", "5-k"]
    );

    let physical = CompactionOptions::new().with_physical();
    client.compact(5, Some(physical)).await.unwrap();
    let mut too_late = client.watch("k", from(4)).await.unwrap();
    assert!(next(&mut too_late).await.created());
    let canceled = next(&mut too_late).await;
    assert!(canceled.canceled());
    assert_eq!((canceled.watch_id(), canceled.compact_revision()), (0, 5));
    assert_eq!(
        canceled.cancel_reason(),
        "etcdserver: mvcc: required revision has been compacted"
    );
    let mut just_in_time = client.watch("k", from(5)).await.unwrap();
    assert!(next(&mut just_in_time).await.created());
    assert_eq!(events(&next(&mut just_in_time).await), ["5-k"]);

    // The future is waited for.
    let mut later = client.watch("k", from(7)).await.unwrap();
    assert!(next(&mut later).await.created());
    client.put("k", "6", None).await.unwrap();
    client.put("k", "7", None).await.unwrap();
    assert_eq!(events(&next(&mut later).await), ["7+k=7"]);
    server.stop().await;
}

/// Every watcher sees every change of its keys once and in order, however late it began, however slowly
/// it reads, and while old versions are being compacted behind it.
#[tokio::test]
async fn many_watchers_of_one_stream_each_see_everything_once() {
    const WATCHERS: i64 = 200;
    const ROUNDS: i64 = 300;
    let member = Member::start().await;
    let mut client = member.client().await;
    let options = |id: i64| {
        let options = WatchOptions::new().with_prefix().with_watch_id(id + 1);
        options.with_start_revision(2 + id % 50)
    };
    let mut watching = client.watch("k", Some(options(0))).await.unwrap();
    for id in 1..WATCHERS {
        watching.watch("k", Some(options(id))).await.unwrap();
    }
    let mut writers = tokio::task::JoinSet::new();
    for writer in 0..4 {
        let mut client = member.client().await;
        writers.spawn(async move {
            for n in 0..ROUNDS / 4 {
                let put =
                    |key: &str| TxnOp::put(format!("{key}{}", n % 7), format!("{writer}"), None);
                let txn = Txn::new().and_then([put("k"), put("l"), put("ka")]);
                let done = client.txn(txn).await.expect("a txn");
                let revision = done.header().expect("a header").revision();
                if n % 20 == 19 {
                    // Another writer may have compacted further already.
                    drop(client.compact(revision - 10, None).await);
                }
            }
        });
    }
    // Nothing is taken until all is written.
    soon(writers.join_all()).await;
    let head = client
        .get("k", None)
        .await
        .unwrap()
        .header()
        .unwrap()
        .revision();
    assert_eq!(head, 1 + ROUNDS);

    let mut seen: std::collections::BTreeMap<i64, Vec<i64>> =
        (1..=WATCHERS).map(|id| (id, Vec::new())).collect();
    let mut gone = 0;
    while seen
        .values()
        .any(|revisions| revisions.last() != Some(&head))
    {
        let answer = next(&mut watching).await;
        if answer.canceled() {
            assert!(answer.compact_revision() > 0);
            let revisions = seen.remove(&answer.watch_id()).unwrap();
            assert!(
                revisions
                    .last()
                    .is_none_or(|last| *last < answer.compact_revision())
            );
            gone += 1;
            continue;
        }
        let revisions = seen.get_mut(&answer.watch_id()).unwrap();
        for pair in answer.events().chunks(2) {
            let [first, second] = pair else {
                panic!("a revision in pieces");
            };
            let revision = first.kv().unwrap().mod_revision();
            assert_eq!(second.kv().unwrap().mod_revision(), revision);
            assert!(first.kv().unwrap().key() != second.kv().unwrap().key());
            revisions.push(revision);
        }
    }
    for (id, revisions) in seen {
        let start = 2 + (id - 1) % 50;
        assert_eq!(
            revisions,
            (start..=head).collect::<Vec<_>>(),
            "watcher {id}"
        );
    }
    assert!(gone < WATCHERS, "all were canceled");
    member.server.stop().await;
}
