//! Each fault on demand does what its name says, and nothing else.

use auxo_proto::ids::Term;
use bytes::Bytes;

use super::*;
use crate::{FrameKind, Placed};

const ID: RegionId = RegionId {
    shard: 1,
    incarnation: 2,
};

async fn wal(settings: MemorySettings) -> (MemoryWal, Arc<dyn Region>) {
    let wal = MemoryWal::new(settings);
    wal.create(ID).await.unwrap();
    let region = wal.open(ID).await.unwrap();
    (wal, region)
}

fn frame(n: u64) -> Frame {
    Frame {
        kind: FrameKind::Rows,
        incarnation: ID.incarnation,
        term: Term { epoch: 1, inc: 0 },
        writer: 1,
        n,
        prev: 0,
        prev_n: 0,
        payload: Bytes::from(n.to_string()),
    }
}

/// What the region holds, as `offset:n` separated by blanks.
async fn content(region: &Arc<dyn Region>) -> String {
    let chunk = region.read(0, usize::MAX, Duration::ZERO).await.unwrap();
    let show = |(offset, frame): &(Offset, Frame)| format!("{offset}:{}", frame.n);
    chunk.frames.iter().map(show).collect::<Vec<_>>().join(" ")
}

/// Appends frame 1 under the fault, then 2 and 3; what the writer of 1 was told and what is there.
async fn check(fault: Fault, told: &str, there: &str) {
    let (wal, region) = wal(MemorySettings::default()).await;
    wal.inject(ID, fault).unwrap();
    let first = region.append(frame(1));
    for n in 2..=3 {
        region.append(frame(n)).await.unwrap();
    }
    let answer = match first.await {
        Ok(placed) => format!("{placed:?}"),
        Err(error) => error.to_string(),
    };
    assert_eq!(answer, told, "{fault:?}");
    assert_eq!(content(&region).await, there, "{fault:?}");
}

#[tokio::test]
async fn each_fault_does_what_it_says() {
    let unknown = "append of unknown outcome: the log service is unavailable";
    check(Fault::ReplyLost, unknown, "0:1 1:2 2:3").await;
    check(Fault::FrameLost, unknown, "0:2 1:3").await;
    check(Fault::Late { after: 0 }, unknown, "0:1 1:2 2:3").await;
    check(Fault::Late { after: 1 }, unknown, "0:2 1:1 2:3").await;
    check(Fault::Late { after: 9 }, unknown, "0:2 1:3").await;
    check(Fault::Twice { after: 0 }, "At(0)", "0:1 1:1 2:2 3:3").await;
    check(Fault::Twice { after: 2 }, "At(0)", "0:1 1:2 2:3 3:1").await;
    check(Fault::Overtaken, "At(0)", "0:1 1:2 2:3").await;
    check(Fault::Hole { width: 5 }, "At(5)", "5:1 6:2 7:3").await;
    check(Fault::Somewhere, "Somewhere", "0:1 1:2 2:3").await;
    check(Fault::NotSomewhere, "Somewhere", "0:2 1:3").await;
    let busy = "append refused: the log is busy";
    check(Fault::Busy, busy, "0:2 1:3").await;
    let away = "append refused: the log service is unavailable";
    check(Fault::Unavailable, away, "0:2 1:3").await;
}

#[tokio::test]
async fn another_handle_overtakes_but_the_own_never_does() {
    let (wal, region) = wal(MemorySettings::default()).await;
    let other = wal.open(ID).await.unwrap();
    wal.inject(ID, Fault::Overtaken).unwrap();
    let first = region.append(frame(1));
    other.append(frame(7)).await.unwrap();
    assert_eq!(first.await.unwrap(), Placed::At(1));
    assert_eq!(content(&region).await, "0:7 1:1");
}

#[tokio::test]
async fn a_frame_that_nobody_overtakes_lands_at_the_next_look() {
    let (wal, region) = wal(MemorySettings::default()).await;
    wal.inject(ID, Fault::Overtaken).unwrap();
    let first = region.append(frame(1));
    assert_eq!(region.end().await.unwrap().offset, 1);
    assert_eq!(first.await.unwrap(), Placed::At(0));
}

#[tokio::test]
async fn late_frames_land_when_asked() {
    let (wal, region) = wal(MemorySettings::default()).await;
    wal.inject(ID, Fault::Late { after: 9 }).unwrap();
    assert!(region.append(frame(1)).await.is_err());
    assert_eq!(content(&region).await, "");
    wal.land_late(ID).unwrap();
    assert_eq!(content(&region).await, "0:1");
}

#[tokio::test]
async fn a_stall_queues_up_to_the_bounds_and_lands_in_order() {
    let (wal, region) = wal(MemorySettings {
        queue_frames: 2,
        ..MemorySettings::default()
    })
    .await;
    wal.stall(ID, true).unwrap();
    let waiting = [region.append(frame(1)), region.append(frame(2))];
    let refused = region.append(frame(3)).await;
    assert!(matches!(refused, Err(AppendError::Refused(WalError::Busy))));
    assert_eq!(content(&region).await, "");
    wal.stall(ID, false).unwrap();
    for (appending, at) in waiting.into_iter().zip(0..) {
        assert_eq!(appending.await.unwrap(), Placed::At(at));
    }
    assert_eq!(content(&region).await, "0:1 1:2");
}

#[tokio::test]
async fn a_handle_that_saw_more_than_is_left_is_told_so_and_a_new_one_is_not() {
    let (wal, region) = wal(MemorySettings::default()).await;
    for n in 1..=5 {
        region.append(frame(n)).await.unwrap();
    }
    let blind = wal.open(ID).await.unwrap();
    wal.regress(ID, 3).unwrap();
    let told = region.append(frame(6)).await;
    assert!(matches!(
        told,
        Err(AppendError::Refused(WalError::Regressed { had: 5, now: 3 }))
    ));
    assert_eq!(blind.append(frame(7)).await.unwrap(), Placed::At(3));
    blind.append(frame(8)).await.unwrap();
    blind.append(frame(9)).await.unwrap();
    let told = region.read(0, 1, Duration::ZERO).await;
    assert!(matches!(told, Err(WalError::Regressed { had: 5, now: 3 })));
    assert_eq!(content(&blind).await, "0:1 1:2 2:3 3:7 4:8 5:9");
}

#[tokio::test]
async fn a_frozen_end_lags_and_never_falls_below_what_the_handle_knows() {
    let (wal, region) = wal(MemorySettings {
        linear_end: false,
        ..MemorySettings::default()
    })
    .await;
    let reader = wal.open(ID).await.unwrap();
    region.append(frame(1)).await.unwrap();
    wal.freeze_end(ID, true).unwrap();
    region.append(frame(2)).await.unwrap();
    assert!(!reader.end_is_linear());
    assert_eq!(reader.end().await.unwrap().offset, 1);
    assert_eq!(region.end().await.unwrap().offset, 2);
    wal.freeze_end(ID, false).unwrap();
    assert_eq!(reader.end().await.unwrap().offset, 2);
}

#[tokio::test]
async fn a_linear_end_cannot_be_frozen() {
    let (wal, _region) = wal(MemorySettings::default()).await;
    let refused = wal.freeze_end(ID, true);
    assert!(matches!(refused, Err(WalError::Misconfigured(_))));
}

#[tokio::test]
async fn a_waiting_reader_hears_that_the_service_left_or_the_region_is_gone() {
    for gone in [false, true] {
        let (wal, region) = wal(MemorySettings::default()).await;
        let waiting = region.read(0, 1, Duration::from_secs(3600));
        let leave = async {
            tokio::task::yield_now().await;
            match gone {
                true => wal.remove(ID).await.unwrap(),
                false => wal.away(true),
            }
        };
        let (told, ()) = futures::join!(waiting, leave);
        match gone {
            true => assert!(matches!(told, Err(WalError::Missing))),
            false => assert!(matches!(told, Err(WalError::Unavailable))),
        }
    }
}
