//! Put, get, delete, txn and compaction.

use etcd_client::{
    CompactionOptions, Compare, CompareOp, DeleteOptions, GetOptions, PutOptions, SortOrder,
    SortTarget, Txn, TxnOp, TxnOpResponse,
};

use crate::{Member, refused};

#[tokio::test]
async fn a_key_is_put_read_and_deleted() {
    let member = Member::start().await;
    let mut client = member.client().await;
    let put = client.put("k", "v1", None).await.unwrap();
    let header = put.header().unwrap();
    assert_eq!(header.revision(), 2);
    assert!(header.cluster_id() != 0 && header.member_id() != 0 && header.raft_term() > 0);

    let options = PutOptions::new().with_prev_key();
    let put = client.put("k", "v2", Some(options)).await.unwrap();
    assert_eq!(put.prev_key().unwrap().value(), b"v1");

    let got = client.get("k", None).await.unwrap();
    let kv = &got.kvs()[0];
    assert_eq!((kv.key(), kv.value()), (&b"k"[..], &b"v2"[..]));
    assert_eq!(
        (kv.create_revision(), kv.mod_revision(), kv.version()),
        (2, 3, 2)
    );

    let before = GetOptions::new().with_revision(2);
    let got = client.get("k", Some(before)).await.unwrap();
    assert_eq!(got.kvs()[0].value(), b"v1");

    let options = DeleteOptions::new().with_prev_key();
    let deleted = client.delete("k", Some(options)).await.unwrap();
    assert_eq!(deleted.deleted(), 1);
    assert_eq!(deleted.prev_kvs()[0].value(), b"v2");
    assert_eq!(deleted.header().unwrap().revision(), 4);
    assert!(client.get("k", None).await.unwrap().kvs().is_empty());

    let nothing = client.delete("k", None).await.unwrap();
    assert_eq!(nothing.header().unwrap().revision(), 4);

    client.put("k", "v3", None).await.unwrap();
    let got = client.get("k", None).await.unwrap();
    assert_eq!(
        (got.kvs()[0].version(), got.kvs()[0].create_revision()),
        (1, 5)
    );
    member.server.stop().await;
}

#[tokio::test]
async fn ranges_are_filtered_sorted_limited_and_counted() {
    let member = Member::start().await;
    let mut client = member.client().await;
    for (key, value) in [("a", "3"), ("b", "1"), ("c", "2"), ("d", "0")] {
        client.put(key, value, None).await.unwrap();
    }
    let keys = |got: etcd_client::GetResponse| -> String {
        got.kvs().iter().map(|kv| kv.key_str().unwrap()).collect()
    };
    let all = || GetOptions::new().with_range("d");

    let got = client.get("a", Some(all())).await.unwrap();
    assert_eq!((got.count(), got.more()), (3, false));
    assert_eq!(keys(got), "abc");

    let got = client.get("a", Some(all().with_limit(2))).await.unwrap();
    assert_eq!((got.count(), got.more()), (3, true));
    assert_eq!(keys(got), "ab");

    let sorted = all().with_sort(SortTarget::Value, SortOrder::Descend);
    assert_eq!(keys(client.get("a", Some(sorted)).await.unwrap()), "acb");

    let sorted = all()
        .with_sort(SortTarget::Value, SortOrder::Ascend)
        .with_limit(1);
    let got = client.get("a", Some(sorted)).await.unwrap();
    assert_eq!((got.count(), got.more()), (3, true));
    assert_eq!(keys(got), "b");

    let filtered = GetOptions::new()
        .with_all_keys()
        .with_min_mod_revision(3)
        .with_max_create_revision(4);
    let got = client.get("", Some(filtered)).await.unwrap();
    assert_eq!((got.count(), got.more()), (4, false));
    assert_eq!(keys(got), "bc");

    let got = client.get("a", Some(all().with_keys_only())).await.unwrap();
    assert!(
        got.kvs()
            .iter()
            .all(|kv| kv.value().is_empty() && kv.version() == 1)
    );

    let got = client
        .get("a", Some(all().with_count_only()))
        .await
        .unwrap();
    assert_eq!((got.count(), got.kvs().len(), got.more()), (3, 0, false));

    let from = GetOptions::new().with_from_key();
    assert_eq!(keys(client.get("c", Some(from)).await.unwrap()), "cd");
    member.server.stop().await;
}

#[tokio::test]
async fn a_txn_takes_one_branch_in_one_revision() {
    let member = Member::start().await;
    let mut client = member.client().await;
    let guarded = |expected: i64| {
        Txn::new()
            .when([Compare::mod_revision("k", CompareOp::Equal, expected)])
            .and_then([
                TxnOp::put("k", "new", None),
                TxnOp::put("l", "too", None),
                TxnOp::get("k", None),
            ])
            .or_else([TxnOp::get("k", None)])
    };
    let first = client.txn(guarded(0)).await.unwrap();
    assert!(first.succeeded());
    assert_eq!(first.header().unwrap().revision(), 2);
    let Some(TxnOpResponse::Get(got)) = first.op_responses().into_iter().nth(2) else {
        panic!("no range in the answer");
    };
    assert_eq!(got.kvs()[0].value(), b"new");

    let second = client.txn(guarded(0)).await.unwrap();
    assert!(!second.succeeded());
    assert_eq!(second.header().unwrap().revision(), 2);
    let Some(TxnOpResponse::Get(got)) = second.op_responses().into_iter().next() else {
        panic!("no range in the answer");
    };
    assert_eq!(got.kvs()[0].mod_revision(), 2);

    let nested = Txn::new().and_then([TxnOp::txn(
        Txn::new()
            .when([Compare::version("l", CompareOp::Greater, 0)])
            .and_then([TxnOp::delete("l", None)]),
    )]);
    let third = client.txn(nested).await.unwrap();
    assert_eq!(third.header().unwrap().revision(), 3);
    assert!(client.get("l", None).await.unwrap().kvs().is_empty());
    member.server.stop().await;
}

#[tokio::test]
async fn a_refused_txn_changes_nothing() {
    let member = Member::start().await;
    let mut client = member.client().await;
    let unknown_lease = PutOptions::new().with_lease(99);
    let txn = Txn::new().and_then([
        TxnOp::put("a", "1", None),
        TxnOp::put("b", "2", Some(unknown_lease)),
    ]);
    assert_eq!(
        refused(client.txn(txn).await),
        "NotFound: etcdserver: requested lease not found"
    );
    let future = GetOptions::new().with_revision(9);
    let txn = Txn::new().and_then([TxnOp::put("a", "1", None), TxnOp::get("b", Some(future))]);
    assert_eq!(
        refused(client.txn(txn).await),
        "OutOfRange: etcdserver: mvcc: required revision is a future revision"
    );
    let got = client.get("a", None).await.unwrap();
    assert!(got.kvs().is_empty());
    assert_eq!(got.header().unwrap().revision(), 1);
    member.server.stop().await;
}

#[tokio::test]
async fn malformed_requests_are_refused_in_etcds_words() {
    let member = Member::start().await;
    let mut client = member.client().await;
    let empty_key = "InvalidArgument: etcdserver: key is not provided";
    assert_eq!(refused(client.put("", "v", None).await), empty_key);
    assert_eq!(refused(client.get("", None).await), empty_key);
    assert_eq!(refused(client.delete("", None).await), empty_key);
    assert_eq!(
        refused(
            client
                .put("k", "v", Some(PutOptions::new().with_ignore_value()))
                .await
        ),
        "InvalidArgument: etcdserver: value is provided"
    );
    assert_eq!(
        refused(
            client
                .put("k", "", Some(PutOptions::new().with_ignore_value()))
                .await
        ),
        "InvalidArgument: etcdserver: key not found"
    );
    assert_eq!(
        refused(client.put("k", vec![0; 3 << 19], None).await),
        "InvalidArgument: etcdserver: request is too large"
    );
    let twice = Txn::new().and_then([TxnOp::put("k", "1", None), TxnOp::put("k", "2", None)]);
    assert_eq!(
        refused(client.txn(twice).await),
        "InvalidArgument: etcdserver: duplicate key given in txn request"
    );
    let many: Vec<_> = (0..129).map(|_| TxnOp::get("k", None)).collect();
    assert_eq!(
        refused(client.txn(Txn::new().and_then(many)).await),
        "InvalidArgument: etcdserver: too many operations in txn request"
    );
    assert_eq!(
        refused(client.auth_enable().await),
        "FailedPrecondition: etcdserver: authentication is not enabled"
    );
    member.server.stop().await;
}

#[tokio::test]
async fn compaction_forgets_the_old_and_keeps_the_live() {
    let member = Member::start().await;
    let mut client = member.client().await;
    for value in ["1", "2", "3"] {
        client.put("k", value, None).await.unwrap();
        client.put("gone", value, None).await.unwrap();
    }
    client.delete("gone", None).await.unwrap();
    client.put("l", "4", None).await.unwrap();
    assert_eq!(
        refused(client.compact(99, None).await),
        "OutOfRange: etcdserver: mvcc: required revision is a future revision"
    );
    let physical = CompactionOptions::new().with_physical();
    client.compact(6, Some(physical)).await.unwrap();
    assert_eq!(
        refused(client.compact(6, None).await),
        "OutOfRange: etcdserver: mvcc: required revision has been compacted"
    );
    let at = |revision| Some(GetOptions::new().with_revision(revision));
    assert_eq!(
        refused(client.get("k", at(5)).await),
        "OutOfRange: etcdserver: mvcc: required revision has been compacted"
    );
    assert_eq!(client.get("k", at(6)).await.unwrap().kvs()[0].value(), b"3");
    assert_eq!(
        client.get("gone", at(7)).await.unwrap().kvs()[0].value(),
        b"3"
    );
    assert!(client.get("gone", at(8)).await.unwrap().kvs().is_empty());
    assert_eq!(client.get("k", None).await.unwrap().kvs()[0].version(), 3);
    member.server.stop().await;
}
