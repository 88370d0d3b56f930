//! A write taken by a node that does not lead its shard: forwarded once, settled as what it is.

use crate::nodes::{LEADER, NOBODY, SHARD, TABLET, topology, two, until};
use auxo_proto::error::{ErrorCode, Outcome};
use auxo_proto::ids::TenantId;
use auxo_wal_adapters::RegionId;

#[tokio::test]
async fn a_write_reaches_the_leader_once() {
    let two = two(Some(LEADER)).await;
    let id = Some(7 << 80);
    let first = two.write(3, id).await.unwrap();
    assert_eq!((first.rows, first.replayed, two.there()), (3, false, 3));
    let again = two.write(3, id).await.unwrap();
    assert_eq!((again.seqs, again.replayed), (first.seqs, true));
    let other = two.write(4, id).await.unwrap_err();
    assert_eq!(other.code, ErrorCode::BatchConflict);
    assert_eq!(other.outcome, Some(Outcome::Rejected));
    assert_eq!(two.there(), 3);
}

#[tokio::test]
async fn many_at_once_are_each_answered() {
    let two = two(Some(LEADER)).await;
    let writes = (1..=600).map(|_| two.write(1, None));
    let written = futures::future::join_all(writes).await;
    let done = written.iter().filter(|written| written.is_ok()).count();
    for failed in written.iter().filter_map(|written| written.as_ref().err()) {
        assert_eq!(failed.code, ErrorCode::Busy, "{failed}");
        assert_eq!(failed.outcome, Some(Outcome::Rejected));
    }
    assert!(done >= 256, "{done} of 600");
}

#[tokio::test]
async fn without_a_leader_a_write_waits_a_moment_and_is_refused() {
    let two = two(None).await;
    let refused = two.write(1, None).await.unwrap_err();
    assert_eq!(refused.code, ErrorCode::NoLeader);
    assert_eq!(refused.outcome, Some(Outcome::Rejected));
    assert!(refused.retry_after_ms.is_some());
}

#[tokio::test]
async fn a_leader_that_appears_meanwhile_gets_the_write() {
    let two = two(Some(NOBODY)).await;
    let write = two.write(2, None);
    let news = async {
        tokio::task::yield_now().await;
        two.catalog.send_replace(topology(2, Some(LEADER)));
    };
    let (written, ()) = tokio::join!(write, news);
    assert_eq!(written.unwrap().rows, 2);
    assert_eq!(two.there(), 2);
}

#[tokio::test]
async fn a_node_that_cannot_be_reached_has_certainly_not_taken_it() {
    let two = two(Some(NOBODY)).await;
    let refused = two.write(1, None).await.unwrap_err();
    assert_eq!(refused.code, ErrorCode::NoLeader);
    assert_eq!(refused.outcome, Some(Outcome::Rejected));
    assert!(refused.detail.contains(NOBODY), "{refused}");
}

#[tokio::test]
async fn a_connection_that_breaks_before_the_answer_leaves_the_outcome_open() {
    let two = two(Some(LEADER)).await;
    two.write(1, None).await.unwrap();
    let region = RegionId {
        shard: SHARD.0,
        incarnation: 77,
    };
    two.wal.stall(region, true).unwrap();
    let write = two.write(5, None);
    let cut = async {
        // The leader has it once it holds memory for it.
        until("the leader has the write", || {
            two.leader.budget().requests() > 0
        })
        .await;
        two.cut.cancel();
    };
    let (written, ()) = tokio::join!(write, cut);
    let unknown = written.unwrap_err();
    assert_eq!(unknown.code, ErrorCode::OutcomeUnknown);
    assert_eq!(unknown.outcome, Some(Outcome::Unknown));
}

#[tokio::test]
async fn what_is_no_write_is_refused() {
    use auxo_engine::payload::{Batch, Entry, encode_batch, join};
    use auxo_proto::pb::node::ForwardedWrite;
    use auxo_proto::pb::node::forwarded_answer::Outcome as Answered;
    use auxo_proto::pb::node::forwarding_client::ForwardingClient;

    let two = two(Some(LEADER)).await;
    let tablets = Batch {
        tenant: TenantId(0),
        id: None,
        hash: 0,
        entries: vec![Entry::DropTablets(vec![TABLET])],
    };
    let tablets = encode_batch(&tablets).unwrap();
    let (drop_tablets, _) = join([&tablets], usize::MAX);
    let (two_batches, _) = join([&tablets, &tablets], usize::MAX);
    let payloads = [
        b"garbage".to_vec().into(),
        bytes::Bytes::new(),
        drop_tablets,
        two_batches,
    ];
    let messages: Vec<ForwardedWrite> = payloads
        .into_iter()
        .enumerate()
        .map(|(at, payload)| ForwardedWrite {
            number: at as u64,
            shard: SHARD.0,
            payload,
            deadline_ms: 5_000,
        })
        .collect();
    let count = messages.len();
    let mut client = ForwardingClient::new(two.channel.clone());
    let answers = client.write(tokio_stream::iter(messages)).await.unwrap();
    let mut answers = answers.into_inner();
    for _ in 0..count {
        let answer = answers.message().await.unwrap().unwrap();
        let Some(Answered::Refused(refusal)) = answer.outcome else {
            panic!("{answer:?}");
        };
        assert_eq!(refusal.code, u32::from(ErrorCode::BadRequest.number()));
        assert!(!refusal.unknown);
    }
    assert!(two.leader.tablet(SHARD, TABLET).is_ok());
}
