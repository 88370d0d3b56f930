//! A leader under every fault of its log: what it answers is true, now and after a takeover.
//!
//! The model is `ground::told`: P1 and P3 of the fencing protocol, and "at most once" for what is
//! not known.

use std::collections::BTreeMap;
use std::time::Duration;

use crate::ground::poor_log::Poor;
use crate::ground::told::{Answer, Told, seen, write};
use crate::ground::{REGION, Services, check_for_ever, ended, log_end, patient, until};
use auxo_engine::{Ended, OpenError, WriteError};
use auxo_proto::schema::MergeMode;
use auxo_wal_adapters::WalError;
use auxo_wal_adapters::memory::{Fault, MemorySettings};
use tokio::time::Instant;

#[tokio::test]
async fn every_fault_of_an_append_is_answered_truly() {
    use Answer::{Ok, Rejected};
    use Fault::{
        Busy, FrameLost, Hole, Late, NotSomewhere, ReplyLost, Somewhere, Twice, Unavailable,
    };
    let late = Late { after: 1 };
    let behind = Late { after: 3 };
    let twice = Twice { after: 1 };
    let cases: &[(&str, &[Fault], Answer)] = &[
        ("no fault", &[], Ok),
        ("reply lost", &[ReplyLost], Ok),
        ("frame lost", &[FrameLost], Rejected),
        ("lands behind the claim", &[late], Rejected),
        ("lands before the claim", &[Late { after: 0 }], Ok),
        ("lands twice at once", &[Twice { after: 0 }], Ok),
        ("lands twice", &[twice], Ok),
        ("behind a hole", &[Hole { width: 3 }], Ok),
        ("somewhere", &[Somewhere], Ok),
        ("somewhere, it is said", &[NotSomewhere], Rejected),
        ("busy", &[Busy], Rejected),
        ("unavailable", &[Unavailable], Rejected),
        ("reply lost, claim's too", &[ReplyLost, ReplyLost], Ok),
        (
            "frame lost, claim's reply too",
            &[FrameLost, ReplyLost],
            Rejected,
        ),
        ("frame lost, claim too", &[FrameLost, FrameLost], Rejected),
        (
            "reply lost, claim refused",
            &[ReplyLost, Busy, Unavailable],
            Ok,
        ),
        ("reply lost, claim late", &[ReplyLost, late], Ok),
        ("frame late, claim later", &[late, behind], Rejected),
        (
            "reply lost, claim twice",
            &[ReplyLost, Twice { after: 0 }],
            Ok,
        ),
        (
            "frame lost, claim somewhere",
            &[FrameLost, Somewhere],
            Rejected,
        ),
        (
            "reply lost, claim nowhere",
            &[ReplyLost, NotSomewhere, NotSomewhere],
            Ok,
        ),
        (
            "nowhere at all",
            &[NotSomewhere, NotSomewhere, FrameLost],
            Rejected,
        ),
        (
            "reply lost, claim behind a hole",
            &[ReplyLost, Hole { width: 7 }],
            Ok,
        ),
        ("reply lost twice over", &[ReplyLost, Busy, ReplyLost], Ok),
    ];
    for (case, faults, expected) in cases {
        let services = Services::new();
        let node = services.node(1);
        let shard = node.with_table(1, MergeMode::Append).await;
        let mut told = Told::default();
        for fault in *faults {
            services.wal.inject(REGION, *fault).unwrap();
        }
        let answer = write(&shard, 1, Some(1)).await;
        assert_eq!(Answer::of(&answer), *expected, "{case}: {answer:?}");
        told.note(1, *expected);
        let again = write(&shard, 1, Some(1)).await.expect(case);
        assert_eq!(again.replayed, *expected == Ok, "{case}");
        told.note(1, Answer::Ok);
        told.note(2, Answer::of(&write(&shard, 2, None).await));
        assert_eq!(told.0[&2], [Ok], "{case}: the leader goes on");
        check_for_ever(&services, &node, &told, case).await;
    }
}

#[tokio::test]
async fn frames_in_flight_together_are_each_answered_truly() {
    use Fault::{Busy, FrameLost, Hole, Late, NotSomewhere, ReplyLost, Somewhere, Twice};
    let all = [
        Busy,
        FrameLost,
        Hole { width: 2 },
        Late { after: 1 },
        Late { after: 2 },
        NotSomewhere,
        ReplyLost,
        Somewhere,
        Twice { after: 1 },
    ];
    for first in all {
        for second in all {
            let case = format!("{first:?}, {second:?}");
            let services = Services::new();
            let node = services.node(1);
            let shard = node.with_table(1, MergeMode::Append).await;
            // One frame after the other is sent while none of them lands.
            services.wal.stall(REGION, true).unwrap();
            for fault in [first, second] {
                services.wal.inject(REGION, fault).unwrap();
            }
            let mut told = Told::default();
            let wait = |frames: usize| {
                let queued = || services.wal.queued(REGION).unwrap();
                until("frames wait in the log", move || queued() >= frames)
            };
            let behind = async |number: i64, frames: usize| {
                wait(frames).await;
                write(&shard, number, None).await
            };
            let landing = async {
                wait(3).await;
                services.wal.stall(REGION, false).unwrap();
            };
            let (one, two, three, ()) =
                tokio::join!(behind(1, 0), behind(2, 1), behind(3, 2), landing);
            for (number, answer) in [(1, one), (2, two), (3, three)] {
                let answer = Answer::of(&answer);
                assert_ne!(answer, Answer::Unknown, "{case}: {number} can be known");
                told.note(number, answer);
            }
            check_for_ever(&services, &node, &told, &case).await;
        }
    }
}

#[tokio::test]
async fn a_log_that_reads_badly_delays_and_decides_nothing() {
    let fails = || Poor::Fails(WalError::Unavailable);
    let busy = || Poor::Fails(WalError::Busy);
    type Case = (&'static str, Fault, Vec<Poor>, Vec<Poor>, Answer);
    let cases: [Case; 4] = [
        (
            "gap read back",
            Fault::Hole { width: 2 },
            vec![fails(), Poor::Empty, busy()],
            vec![],
            Answer::Ok,
        ),
        (
            "claim read back",
            Fault::ReplyLost,
            vec![Poor::Empty, fails(), Poor::Empty],
            vec![],
            Answer::Ok,
        ),
        (
            "end not told",
            Fault::Somewhere,
            vec![busy()],
            vec![fails(), busy()],
            Answer::Ok,
        ),
        (
            "end of a lost frame not told",
            Fault::NotSomewhere,
            vec![fails()],
            vec![fails()],
            Answer::Rejected,
        ),
    ];
    for (case, fault, reads, ends, expected) in cases {
        let services = Services::new();
        let node = services.node(1);
        let shard = node.with_table(1, MergeMode::Append).await;
        services.wal.inject(REGION, fault).unwrap();
        node.log.reads(reads);
        node.log.ends(ends);
        let mut told = Told::default();
        let answer = write(&shard, 1, None).await;
        assert_eq!(Answer::of(&answer), expected, "{case}: {answer:?}");
        assert!(node.log.is_spent(), "{case}: the faults were met");
        told.note(1, expected);
        assert_eq!(shard.status().ended, None, "{case}");
        check_for_ever(&services, &node, &told, case).await;
    }
}

#[tokio::test]
async fn what_parks_a_shard_leaves_its_frames_unknown_and_its_rows_readable() {
    for (case, fault, error) in [
        (
            "corrupt",
            Fault::Hole { width: 1 },
            WalError::Corrupt { at: 2 },
        ),
        ("missing", Fault::ReplyLost, WalError::Missing),
        ("foreign", Fault::ReplyLost, WalError::Foreign),
    ] {
        let services = Services::new();
        let node = services.node(1);
        let shard = node.with_table(1, MergeMode::Append).await;
        write(&shard, 1, None).await.unwrap();
        services.wal.inject(REGION, fault).unwrap();
        node.log.reads([Poor::Fails(error)]);
        let answer = write(&shard, 2, None).await;
        assert_eq!(answer, Err(WriteError::Unknown), "{case}");
        assert!(matches!(ended(&shard).await, Ended::Parked(_)), "{case}");
        assert_eq!(seen(&node).await, BTreeMap::from([(1, 1)]), "{case}");
        let manifests = services.store.events().lock().len();
        assert!(matches!(
            write(&shard, 3, None).await,
            Err(WriteError::Parked(_))
        ));
        assert!(shard.flush().await.is_err(), "{case}: nothing is flushed");
        assert_eq!(services.store.events().lock().len(), manifests, "{case}");
    }
    let services = Services::new();
    let node = services.node(1);
    let shard = node.with_table(1, MergeMode::Append).await;
    write(&shard, 1, None).await.unwrap();
    services.wal.regress(REGION, 1).unwrap();
    let answer = write(&shard, 2, None).await;
    assert!(matches!(answer, Err(WriteError::Refused(_))), "{answer:?}");
    assert!(matches!(ended(&shard).await, Ended::Parked(_)), "regressed");
}

/// No attempt to open leaves anything in the log: claims would fill it up to where the manifest knows it.
#[tokio::test]
async fn a_log_that_lost_what_was_flushed_parks_however_often_it_is_opened() {
    for (linear_end, attempts) in [(true, 10), (false, 2)] {
        let services = Services::with_log(MemorySettings {
            linear_end,
            ..MemorySettings::default()
        });
        let first = services.node(1);
        let shard = first.with_table(1, MergeMode::Append).await;
        for value in 1..=3 {
            write(&shard, value, None).await.unwrap();
        }
        shard.flush().await.unwrap();
        first.end().await;
        services.wal.regress(REGION, 1).unwrap();
        for epoch in 2..2 + attempts {
            let opened = services.node(epoch).try_lead(epoch).await.err();
            assert!(matches!(opened, Some(OpenError::Parked(_))), "{opened:?}");
            assert_eq!(log_end(&services), 1, "epoch {epoch}");
        }
    }
}

#[tokio::test]
async fn an_end_that_is_only_an_older_one_parks_until_it_is_known() {
    let services = Services::with_log(MemorySettings {
        linear_end: false,
        ..MemorySettings::default()
    });
    let first = services.node(1);
    let shard = first.with_table(1, MergeMode::Append).await;
    services.wal.freeze_end(REGION, true).unwrap();
    write(&shard, 1, None).await.unwrap();
    shard.flush().await.unwrap();
    let rows = first.read().await;
    first.end().await;
    let second = services.node(2);
    let opened = second.try_lead(2).await.err();
    assert!(matches!(opened, Some(OpenError::Parked(_))), "{opened:?}");
    services.wal.freeze_end(REGION, false).unwrap();
    second.lead(3).await;
    assert_eq!(second.read().await, rows);
}

#[tokio::test]
async fn a_place_that_the_log_never_shows_parks() {
    let services = Services::new();
    let node = services.node_with(1, patient(300));
    let shard = node.with_table(1, MergeMode::Append).await;
    services
        .wal
        .inject(REGION, Fault::Hole { width: 2 })
        .unwrap();
    node.log.reads(std::iter::repeat_n(Poor::Empty, 100));
    let answer = write(&shard, 1, None).await;
    assert_eq!(answer, Err(WriteError::Unknown));
    assert!(matches!(ended(&shard).await, Ended::Parked(_)));
}

#[tokio::test]
async fn a_waiter_is_told_unknown_at_its_deadline_and_its_frame_is_settled_all_the_same() {
    let services = Services::new();
    let node = services.node_with(1, patient(250));
    let shard = node.with_table(1, MergeMode::Append).await;
    services.wal.stall(REGION, true).unwrap();
    let began = Instant::now();
    assert_eq!(write(&shard, 1, Some(7)).await, Err(WriteError::Unknown));
    assert!(began.elapsed() >= Duration::from_millis(250));
    services.wal.stall(REGION, false).unwrap();
    let again = write(&shard, 1, Some(7)).await.unwrap();
    assert!(again.replayed, "the batch table knows it");
    let told = Told(BTreeMap::from([(1, vec![Answer::Unknown, Answer::Ok])]));
    check_for_ever(&services, &node, &told, "deadline").await;
}

#[tokio::test]
async fn a_log_that_was_away_in_a_reclaim_is_taken_up_again() {
    let services = Services::new();
    let node = services.node_with(1, patient(250));
    let shard = node.with_table(1, MergeMode::Append).await;
    services.wal.inject(REGION, Fault::ReplyLost).unwrap();
    node.log.hold_answers(true);
    let away = async {
        until("lands", || log_end(&services) == 3).await;
        node.log.away(true);
        node.log.hold_answers(false);
    };
    let (answer, ()) = tokio::join!(write(&shard, 1, Some(7)), away);
    assert_eq!(answer, Err(WriteError::Unknown));
    assert_eq!(shard.status().ended, None, "an absent log parks nobody");
    node.log.away(false);
    let mut told = Told(BTreeMap::from([(1, vec![Answer::Unknown])]));
    let deadline = Instant::now() + Duration::from_secs(20);
    loop {
        match write(&shard, 1, Some(7)).await {
            Ok(written) => break assert!(written.replayed),
            Err(error) => assert_eq!(error, WriteError::Unknown, "it is in the log"),
        }
        assert!(Instant::now() < deadline, "never settled");
    }
    told.note(1, Answer::Ok);
    check_for_ever(&services, &node, &told, "away").await;
}

/// Well below the patience of a shard, and well above what a log may be silent.
const TOLD_SOON: Duration = Duration::from_secs(5);

#[tokio::test]
async fn who_waits_for_a_silent_log_is_told_soon_and_what_was_sent_is_settled_later() {
    let services = Services::with_log(MemorySettings {
        linear_end: false,
        ..MemorySettings::default()
    });
    let node = services.node(1);
    let shard = node.with_table(1, MergeMode::Append).await;
    services.wal.inject(REGION, Fault::ReplyLost).unwrap();
    node.log.hold_answers(true);
    let sent = node.log.appended() + 1;
    let away = async {
        until("sent", || node.log.appended() == sent).await;
        node.log.away(true);
        node.log.hold_answers(false);
    };
    let began = Instant::now();
    let (answer, ()) = tokio::join!(write(&shard, 1, Some(7)), away);
    assert_eq!(answer, Err(WriteError::Unknown), "it may be in the log");
    let again = write(&shard, 1, Some(7)).await;
    assert_eq!(again, Err(WriteError::Unknown), "and still may");
    let unsent = write(&shard, 2, Some(8)).await;
    assert!(matches!(unsent, Err(WriteError::Refused(_))), "{unsent:?}");
    shard
        .barrier()
        .await
        .expect_err("nobody knows what was acked");
    assert!(began.elapsed() < TOLD_SOON, "{:?}", began.elapsed());
    node.log.away(false);
    let deadline = Instant::now() + Duration::from_secs(20);
    let settled = loop {
        match write(&shard, 1, Some(7)).await {
            Ok(written) => break written,
            Err(error) => assert_eq!(error, WriteError::Unknown, "it is in the log"),
        }
        assert!(Instant::now() < deadline, "never settled");
    };
    assert!(settled.replayed, "the copy in flight was the only one");
    assert!(!write(&shard, 2, Some(8)).await.unwrap().replayed);
    let told = BTreeMap::from([
        (1, vec![Answer::Unknown, Answer::Ok]),
        (2, vec![Answer::Rejected, Answer::Ok]),
    ]);
    check_for_ever(&services, &node, &Told(told), "silent").await;
}

#[tokio::test]
async fn a_claim_that_is_placed_where_the_log_was_read_already_parks() {
    let services = Services::new();
    let node = services.node(1);
    let shard = node.with_table(1, MergeMode::Append).await;
    write(&shard, 1, None).await.unwrap();
    services.wal.inject(REGION, Fault::ReplyLost).unwrap();
    node.log.hold_answers(true);
    let sent = node.log.appended() + 1;
    let remade = async {
        until("sent", || node.log.appended() == sent).await;
        node.log.remade();
        node.log.hold_answers(false);
    };
    let (answer, ()) = tokio::join!(write(&shard, 2, None), remade);
    assert_eq!(answer, Err(WriteError::Unknown));
    assert!(matches!(ended(&shard).await, Ended::Parked(_)));
}

#[tokio::test]
async fn neither_a_close_nor_a_stop_waits_for_a_log_that_is_away() {
    for stopped in [false, true] {
        let services = Services::new();
        let node = services.node_with(1, patient(250));
        let shard = node.with_table(1, MergeMode::Append).await;
        services.wal.inject(REGION, Fault::FrameLost).unwrap();
        node.log.hold_answers(true);
        let before = node.log.appended();
        let writing = write(&shard, 1, None);
        let ending = async {
            until("sent", || node.log.appended() > before).await;
            node.log.away(true);
            node.log.hold_answers(false);
            match stopped {
                true => node.stop.cancel(),
                false => assert!(shard.close().await.is_err(), "not all is flushed"),
            }
            ended(&shard).await
        };
        let (answer, how) = tokio::join!(writing, ending);
        assert_eq!(how, Ended::Closed);
        assert_ne!(Answer::of(&answer), Answer::Ok);
        node.tasks.close();
        let joined = tokio::time::timeout(Duration::from_secs(20), node.tasks.wait()).await;
        joined.expect("no task of the shard stays");
        node.log.away(false);
        let mut told = Told::default();
        told.note(1, Answer::of(&answer));
        check_for_ever(&services, &node, &told, "closed").await;
    }
}

#[tokio::test]
async fn a_barrier_never_waits_for_a_frame_that_is_not_on_its_way() {
    use Fault::{Busy, FrameLost, NotSomewhere, ReplyLost, Unavailable};
    let cases: [&[Fault]; 5] = [
        &[Busy],
        &[Busy, Unavailable, Busy],
        &[FrameLost],
        &[ReplyLost, Busy],
        &[NotSomewhere, FrameLost, Busy],
    ];
    for faults in cases {
        let services = Services::with_log(MemorySettings {
            linear_end: false,
            ..MemorySettings::default()
        });
        let node = services.node(1);
        let shard = node.with_table(1, MergeMode::Append).await;
        for fault in faults {
            services.wal.inject(REGION, *fault).unwrap();
        }
        shard
            .barrier()
            .await
            .unwrap_or_else(|error| panic!("{faults:?}: {error}"));
        assert_eq!(shard.status().ended, None);
    }
    let services = Services::with_log(MemorySettings {
        linear_end: false,
        ..MemorySettings::default()
    });
    let node = services.node_with(1, patient(250));
    let shard = node.with_table(1, MergeMode::Append).await;
    node.log.away(true);
    shard.barrier().await.expect_err("ends by a deadline");
    let new = services.node(2);
    new.lead(2).await;
    node.log.away(false);
    shard
        .barrier()
        .await
        .expect_err("a zombie passes no barrier");
}
