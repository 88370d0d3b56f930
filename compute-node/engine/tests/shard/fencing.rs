//! Two leaders of one shard: a deposed one settles what it has in flight by the claim that deposed
//! it, and changes nothing stored any more; a leader that claims again begins with a bump.

use std::collections::BTreeMap;
use std::time::Duration;

use crate::ground::told::{Answer, Told, seen, write};
use crate::ground::watched_store::Event;
use crate::ground::{REGION, SHARD, Services, check_for_ever, ended, log_end, until};
use auxo_engine::{Ended, WriteError, Written};
use auxo_proto::ids::Term;
use auxo_proto::schema::MergeMode;
use auxo_wal_adapters::memory::Fault;

#[tokio::test]
async fn a_zombies_frames_are_settled_by_the_claim_that_deposed_it() {
    let services = Services::new();
    let old = services.node(1);
    let zombie = old.with_table(1, MergeMode::Append).await;
    let mut told = Told::default();
    old.log.hold_answers(true);
    let new = services.node(2);
    let below_and_above = async {
        let below = write(&zombie, 1, None);
        let takeover = async {
            until("lands", || log_end(&services) == 3).await;
            new.lead(2).await
        };
        tokio::join!(below, async {
            let shard = takeover.await;
            let above = write(&zombie, 2, None);
            let released = async {
                until("lands", || log_end(&services) == 5).await;
                old.log.hold_answers(false);
            };
            let (above, ()) = tokio::join!(above, released);
            (shard, above)
        })
    };
    let (below, (shard, above)) = below_and_above.await;
    assert_eq!(Answer::of(&below), Answer::Ok, "{below:?}");
    assert_eq!(above, Err(WriteError::NotLeader(SHARD)));
    told.note(1, Answer::Ok);
    told.note(2, Answer::Rejected);
    assert!(matches!(ended(&zombie).await, Ended::Fenced(_)));
    told.note(3, Answer::of(&write(&shard, 3, None).await));
    told.check(&seen(&new).await).unwrap();
    check_for_ever(&services, &new, &told, "zombie").await;
}

#[tokio::test]
async fn a_frame_overtaken_by_the_successors_claim_is_rejected() {
    let services = Services::new();
    let old = services.node(1);
    let zombie = old.with_table(1, MergeMode::Append).await;
    let new = services.node(2);
    new.log.hold_sending(true);
    let writing = async {
        until("claiming", || new.log.appended() > 0).await;
        services.wal.inject(REGION, Fault::Overtaken).unwrap();
        write(&zombie, 1, None).await
    };
    let before = old.log.appended();
    let overtaking = async {
        until("sent", || old.log.appended() > before).await;
        new.log.hold_sending(false);
    };
    let (answer, (), _) = tokio::join!(writing, overtaking, new.lead(2));
    assert_eq!(answer, Err(WriteError::NotLeader(SHARD)));
    let told = Told(BTreeMap::from([(1, vec![Answer::Rejected])]));
    told.check(&seen(&old).await).unwrap();
    check_for_ever(&services, &new, &told, "overtaken").await;
}

#[tokio::test]
async fn a_shard_that_another_node_leads_by_now_keeps_none_from_ending() {
    let services = Services::new();
    let old = services.node(1);
    let zombie = old.with_table(1, MergeMode::Append).await;
    let new = services.node(2);
    let shard = new.lead(2).await;
    assert!(write(&zombie, 1, None).await.is_err());
    old.engine.close_all().await.unwrap();
    assert!(old.engine.shards().is_empty());
    write(&shard, 2, None).await.unwrap();
}

/// A successor's manifest tells before its claim was read; `flushed` says whether the log still
/// has what lies below the claim.
async fn deposed_by_a_manifest(
    flushed: bool,
) -> (Result<Written, WriteError>, Result<Written, WriteError>) {
    let services = Services::new();
    let old = services.node(1);
    let zombie = old.with_table(1, MergeMode::Append).await;
    old.log.hold_answers(true);
    let new = services.node(2);
    let successor = async {
        until("lands", || log_end(&services) == 3).await;
        let shard = new.lead(2).await;
        if flushed {
            shard.flush().await.unwrap();
        }
        let before = old.log.appended();
        let above = write(&zombie, 2, None);
        let flush = async {
            until("sent", || old.log.appended() > before).await;
            assert!(zombie.flush().await.is_err(), "a zombie commits nothing");
        };
        tokio::join!(above, flush).0
    };
    let (below, above) = tokio::join!(write(&zombie, 1, None), successor);
    assert_eq!(
        ended(&zombie).await,
        Ended::Fenced(Term { epoch: 2, inc: 0 })
    );
    let mut told = Told::default();
    told.note(1, Answer::of(&below));
    told.note(2, Answer::of(&above));
    check_for_ever(&services, &new, &told, "deposed").await;
    assert_eq!(seen(&new).await[&1], 1, "it was below the claim");
    (below, above)
}

#[tokio::test]
async fn a_leader_deposed_by_a_manifest_reads_up_to_the_claim_before_it_answers() {
    let (below, above) = deposed_by_a_manifest(false).await;
    assert_eq!(Answer::of(&below), Answer::Ok, "{below:?}");
    assert_eq!(above, Err(WriteError::NotLeader(SHARD)));
}

#[tokio::test]
async fn a_leader_deposed_by_a_manifest_does_not_guess_what_was_cut_away() {
    let (below, above) = deposed_by_a_manifest(true).await;
    assert_eq!(below, Err(WriteError::Unknown));
    assert_eq!(above, Err(WriteError::Unknown));
}

#[tokio::test]
async fn a_log_cut_above_what_was_read_means_that_another_leads() {
    let services = Services::new();
    let old = services.node(1);
    let zombie = old.with_table(1, MergeMode::Append).await;
    let new = services.node(2);
    new.lead(2).await.flush().await.unwrap();
    let answer = write(&zombie, 1, None).await;
    assert_eq!(
        answer,
        Err(WriteError::Unknown),
        "the claim is not there to judge by"
    );
    assert!(matches!(ended(&zombie).await, Ended::Fenced(_)));
    let told = Told(BTreeMap::from([(1, vec![Answer::Rejected])]));
    told.check(&seen(&new).await)
        .expect("it lies above the claim");
}

#[tokio::test]
async fn nothing_is_flushed_or_cut_between_a_new_claim_and_its_bump() {
    let services = Services::new();
    let node = services.node(1);
    let shard = node.with_table(1, MergeMode::Append).await;
    write(&shard, 1, None).await.unwrap();
    // A flush whose commit is under way when the leader claims again.
    services.store.hold_manifests(true);
    let flush = shard.flush();
    let reclaim = async {
        services.store.manifest_is_held().await;
        services.wal.inject(REGION, Fault::ReplyLost).unwrap();
        write(&shard, 2, None)
            .await
            .expect("commits that stop do not stop writes");
        let term = shard.status().term;
        assert_eq!(term.inc, 1, "claimed again");
        services.store.hold_manifests(false);
        term
    };
    let (flushed, claimed) = tokio::join!(flush, reclaim);
    flushed.unwrap();
    // A flush under the new claim.
    write(&shard, 3, None).await.unwrap();
    shard.flush().await.unwrap();
    let events = services.store.events().lock().clone();
    let bump = events
        .iter()
        .position(|event| *event == Event::Manifest(claimed));
    let bump = bump.expect("bumped");
    let first_object = events
        .iter()
        .position(|event| *event == Event::Object(claimed));
    assert!(first_object.expect("flushed") > bump, "{events:?}");
    let truncated = |event: &Event| matches!(event, Event::Truncated(_));
    let first_cut = events.iter().position(truncated);
    assert!(first_cut.expect("cut") > bump, "{events:?}");
    let told = Told((1..=3).map(|write| (write, vec![Answer::Ok])).collect());
    check_for_ever(&services, &node, &told, "bump").await;
}

#[tokio::test]
async fn a_flush_dropped_in_its_commit_is_finished_and_not_repeated() {
    let services = Services::new();
    let node = services.node(1);
    let shard = node.with_table(1, MergeMode::Append).await;
    write(&shard, 1, None).await.unwrap();
    services.store.hold_manifests(true);
    tokio::select! {
        biased;
        flushed = shard.flush() => panic!("held, but {flushed:?}"),
        () = services.store.manifest_is_held() => {}
    }
    services.store.hold_manifests(false);
    write(&shard, 2, None).await.unwrap();
    shard.flush().await.unwrap();
    let told = Told((1..=2).map(|write| (write, vec![Answer::Ok])).collect());
    assert_eq!(shard.status().file_rows, 2, "no row was flushed twice");
    check_for_ever(&services, &node, &told, "dropped").await;
}

#[tokio::test]
async fn a_strong_read_passes_what_a_zombie_left_at_the_end_of_the_log() {
    let services = Services::new();
    let old = services.node(1);
    let zombie = old.with_table(1, MergeMode::Append).await;
    let new = services.node(2);
    let shard = new.lead(2).await;
    assert_eq!(
        write(&zombie, 1, None).await,
        Err(WriteError::NotLeader(SHARD))
    );
    assert_eq!(shard.status().applied + 1, log_end(&services));
    shard
        .barrier()
        .await
        .expect("what counts nowhere delays nobody for long");
    assert_eq!(shard.status().applied, log_end(&services));
}

#[tokio::test]
async fn rows_of_a_flush_that_was_dropped_in_the_queue_are_in_the_next_ones_files() {
    let services = Services::new();
    let node = services.node(1);
    let shard = node.with_table(1, MergeMode::Append).await;
    write(&shard, 1, None).await.unwrap();
    services.store.hold_manifests(true);
    let first = shard.flush();
    let others = async {
        services.store.manifest_is_held().await;
        write(&shard, 2, None).await.unwrap();
        // Its memtables are frozen, its turn has not come.
        let second = tokio::time::timeout(Duration::from_millis(20), shard.flush()).await;
        assert!(second.is_err(), "held, but {second:?}");
        services.store.hold_manifests(false);
    };
    let (first, ()) = tokio::join!(first, others);
    first.unwrap();
    write(&shard, 3, None).await.unwrap();
    shard.flush().await.unwrap();
    let told = Told((1..=3).map(|write| (write, vec![Answer::Ok])).collect());
    assert_eq!(shard.status().file_rows, 3);
    check_for_ever(&services, &node, &told, "queued").await;
}

#[tokio::test]
async fn memory_of_rows_is_given_back_however_leadership_ends() {
    let services = Services::new();
    let node = services.node(1);
    let shard = node.with_table(1, MergeMode::Append).await;
    write(&shard, 1, None).await.unwrap();
    assert!(node.engine.budget().used() > 0);
    services.node(2).lead(2).await;
    assert!(write(&shard, 2, None).await.is_err());
    ended(&shard).await;
    drop(shard);
    let shard = node.lead(3).await;
    let held = shard.status().memory_bytes as usize;
    until("the old rows are given back", || {
        node.engine.budget().used() == held
    })
    .await;
    shard.close().await.unwrap();
    until("all is flushed", || node.engine.budget().used() == 0).await;
}
