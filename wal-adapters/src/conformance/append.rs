//! Cases 1–12: what an append promises.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use auxo_proto::random::Random;
use bytes::Bytes;
use futures::future::join_all;
use tokio::time::Instant;

use super::ground::{Ground, Writer, at, ensure, ensure_same, median, read_all};
use super::{Done, Stop, Trouble, child};
use crate::frame::PAYLOAD_BYTES_MAX;
use crate::{AppendError, Frame, FrameKind, Offset, Placed, Region, RegionId, WalError};

/// Appends in flight together in the cases that need many.
const WINDOW: usize = 500;

/// Frames at which a queue that is still not full counts as without bound.
const FILL_FRAMES_MAX: usize = 2000;

pub(super) async fn read_back(ground: &Ground) -> Done {
    let region = ground.region().await?;
    let mut writer = ground.writer(u64::MAX, u32::MAX, u64::MAX);
    let mut sent = Vec::new();
    for kind in [
        FrameKind::Claim,
        FrameKind::Rows,
        FrameKind::Mark,
        FrameKind::Seal,
    ] {
        for length in [0, 1, 67, 68, 69, 1000, 100_000] {
            let frame = writer.frame(kind, ground.bytes(length));
            let at = at(region.append(frame.clone())).await?;
            sent.push((at, frame));
        }
    }
    ensure_same(&read_all(&region, 0).await?, &sent)?;
    let (middle, _) = sent[9];
    ensure_same(&read_all(&region, middle).await?, &sent[9..])?;
    let one = region.read(middle, 1, Duration::ZERO).await?;
    ensure_same(&one.frames, &sent[9..10])
}

pub(super) async fn rise(ground: &Ground) -> Done {
    let region = ground.region().await?;
    let mut writer = ground.writer(1, 0, 1);
    let mut sent: Vec<(Offset, Frame)> = Vec::new();
    for _ in 0..10_000 / WINDOW {
        let frames: Vec<Frame> = (0..WINDOW)
            .map(|_| writer.rows(ground.bytes(100)))
            .collect();
        let appends: Vec<_> = frames
            .iter()
            .map(|frame| at(region.append(frame.clone())))
            .collect();
        for (at, frame) in join_all(appends).await.into_iter().zip(frames) {
            sent.push((at?, frame));
        }
    }
    let rising = sent.windows(2).all(|pair| pair[0].0 < pair[1].0);
    ensure(rising, || "offsets do not rise".to_owned())?;
    ensure_same(&read_all(&region, 0).await?, &sent)
}

pub(super) async fn one_order(ground: &Ground) -> Done {
    ground.region().await?;
    let mut users = Vec::new();
    for _ in 0..4 {
        users.push(ground.join().await?);
    }
    let appends = users.iter().zip(1..).map(|(region, writer)| async move {
        let mut writer = ground.writer(1, 0, writer);
        let mut sent = Vec::new();
        for _ in 0..25 {
            let frames: Vec<Frame> = (0..10).map(|_| writer.rows(ground.bytes(50))).collect();
            let appends = frames.iter().map(|frame| at(region.append(frame.clone())));
            for (at, frame) in join_all(appends).await.into_iter().zip(&frames) {
                sent.push((at?, frame.clone()));
            }
        }
        Ok::<_, Stop>(sent)
    });
    let mut sent = Vec::new();
    for of_one in join_all(appends).await {
        let of_one = of_one?;
        let rising = of_one.windows(2).all(|pair| pair[0].0 < pair[1].0);
        ensure(rising, || "offsets of one user do not rise".to_owned())?;
        sent.extend(of_one);
    }
    sent.sort_by_key(|(at, _)| *at);
    for region in &users {
        ensure_same(&read_all(region, 0).await?, &sent)?;
    }
    Ok(())
}

pub(super) async fn sizes(ground: &Ground) -> Done {
    let region = ground.region().await?;
    let mut writer = ground.writer(1, 0, 1);
    let mut sent = Vec::new();
    for length in [1, PAYLOAD_BYTES_MAX, 1, PAYLOAD_BYTES_MAX] {
        sent.push(writer.send(&region, ground.bytes(length)).await?);
    }
    let end = region.end().await?.offset;
    let long = writer.rows(ground.bytes(PAYLOAD_BYTES_MAX + 1));
    match region.append(long).await {
        Err(AppendError::Refused(WalError::TooLarge)) => {}
        other => return Err(Stop::failed(format!("a frame too long got {other:?}"))),
    }
    let after = region.end().await?.offset;
    ensure(after == end, || "a frame too long moved the end".to_owned())?;
    ensure_same(&read_all(&region, 0).await?, &sent)
}

pub(super) async fn dropped_future(ground: &Ground) -> Done {
    let region = ground.region().await?;
    let mut writer = ground.writer(1, 0, 1);
    let dropped: Vec<Frame> = (0..5).map(|_| writer.rows(ground.bytes(30))).collect();
    for frame in &dropped {
        drop(region.append(frame.clone()));
    }
    let last = writer.rows(ground.bytes(30));
    at(region.append(last.clone())).await?;
    let seen = read_all(&region, 0).await?;
    let seen: Vec<&Frame> = seen.iter().map(|(_, frame)| frame).collect();
    let expected: Vec<&Frame> = dropped.iter().chain([&last]).collect();
    ensure(seen == expected, || {
        format!("{} of {} frames landed", seen.len(), expected.len())
    })
}

pub(super) async fn full_queue(ground: &Ground) -> Done {
    let region = ground.region().await?;
    let mut writer = ground.writer(1, 0, 1);
    let payload = ground.bytes(1 << 20);
    ground.trouble(Trouble::Stall).await?;
    let (waiting, filled) = fill(&region, &mut writer, &payload).await;
    let (mut refusals, mut taken) = (Vec::new(), None);
    for _ in 0..5 {
        let frame = ground.writer(1, 0, 2).rows(payload.clone());
        let began = Instant::now();
        match futures::poll!(&mut region.append(frame)) {
            Poll::Ready(Err(AppendError::Refused(WalError::Busy))) => {
                refusals.push(began.elapsed());
            }
            other => taken = Some(format!("a full queue said {other:?}")),
        }
    }
    ground.trouble(Trouble::Resume).await?;
    filled?;
    ensure(taken.is_none(), || taken.unwrap_or_default())?;
    let typical = median(refusals);
    ensure(typical < Duration::from_millis(10), || {
        format!("Busy took {typical:?}")
    })?;
    let count = waiting.len();
    for appending in waiting {
        at(appending).await?;
    }
    let seen = read_all(&region, 0).await?.len();
    ensure(seen == count, || format!("{count} acked, {seen} there"))
}

/// Appends until the region is busy; the appends that were taken.
pub(super) async fn fill(
    region: &Arc<dyn Region>,
    writer: &mut Writer,
    payload: &Bytes,
) -> (Vec<crate::Appending>, Done) {
    let mut waiting = Vec::new();
    for _ in 0..FILL_FRAMES_MAX {
        let mut appending = region.append(writer.rows(payload.clone()));
        match futures::poll!(&mut appending) {
            Poll::Pending => waiting.push(appending),
            Poll::Ready(Err(AppendError::Refused(WalError::Busy))) => {
                return (waiting, Ok(()));
            }
            Poll::Ready(other) => {
                let what = format!("a stalled region said {other:?}");
                return (waiting, Err(Stop::Failed(what)));
            }
        }
    }
    let what = format!("{FILL_FRAMES_MAX} frames wait, and the queue is not full");
    (waiting, Err(Stop::Failed(what)))
}

pub(super) async fn killed_after(ground: &Ground) -> Done {
    let mut kill = child::Killed::new(ground).await?;
    kill.after(200).await?;
    ensure(kill.acked.len() >= 200, || {
        "the child acked nothing".to_owned()
    })?;
    kill.verify(ground).await
}

pub(super) async fn killed_during(ground: &Ground) -> Done {
    let mut kill = child::Killed::new(ground).await?;
    for _ in 0..ground.scale.kills {
        kill.after(ground.random.below(300) as usize).await?;
        kill.verify(ground).await?;
        ground.subject.leave().await?;
    }
    Ok(())
}

/// What was acknowledged before some number of changes of the disk.
struct Acked {
    steps: usize,
    at: Offset,
    frame: Frame,
}

pub(super) async fn power_loss(ground: &Ground) -> Done {
    let subject = &ground.subject;
    subject.steps()?;
    let region = ground.region().await?;
    let made = subject.steps()?;
    let mut writer = ground.writer(1, 0, 1);
    writer.take_over(&region).await?;
    let (mut acked, mut truncated) = (Vec::new(), Vec::new());
    for round in 0..60 {
        let frames: Vec<Frame> = (0..1 + ground.random.below(12))
            .map(|_| writer.rows(ground.bytes(ground.random.below(20_000) as usize)))
            .collect();
        let appends = frames.into_iter().map(|frame| {
            let appending = at(region.append(frame.clone()));
            async move {
                let at = appending.await?;
                let steps = subject.steps()?;
                Ok::<_, Stop>(Acked { steps, at, frame })
            }
        });
        for one in join_all(appends).await {
            let one = one?;
            writer.accounted(one.at, one.frame.n);
            acked.push(one);
        }
        if round % 10 == 9 {
            let below = writer.prev.saturating_sub(ground.random.below(30));
            truncated.push((subject.steps()?, below));
            region.truncate(below).await?;
        }
    }
    let steps = subject.steps()?;
    for image in 0..ground.scale.images as usize {
        let cut = made + (steps - made) * (image + 1) / ground.scale.images as usize;
        for torn in [None, Some(&ground.random)] {
            let after = after_power_loss(ground, cut, torn, &acked, &truncated).await;
            let kind = if torn.is_some() { "torn " } else { "" };
            after.map_err(|stop| match stop {
                Stop::Failed(what) => {
                    Stop::Failed(format!("{kind}image after {cut} of {steps} steps: {what}"))
                }
                other => other,
            })?;
        }
    }
    Ok(())
}

async fn after_power_loss(
    ground: &Ground,
    cut: usize,
    torn: Option<&Random>,
    acked: &[Acked],
    truncated: &[(usize, Offset)],
) -> Done {
    let wal = ground.subject.after_power_loss(cut, torn).await?;
    let region = wal.open(ground.id).await?;
    let start = region.read(0, 1, Duration::ZERO).await;
    let start = match start {
        Ok(chunk) => chunk.start,
        Err(WalError::OutOfRange { start }) => start,
        Err(error) => return Err(error.into()),
    };
    let asked = truncated.iter().filter(|(steps, _)| *steps <= cut);
    let bound = asked.map(|(_, below)| *below).max().unwrap_or(0);
    ensure(start <= bound, || {
        format!("start {start} is above {bound}, the highest bound asked for")
    })?;
    let seen: BTreeMap<Offset, Frame> = read_all(&region, start).await?.into_iter().collect();
    let sent: BTreeMap<Offset, &Frame> = acked.iter().map(|one| (one.at, &one.frame)).collect();
    for one in acked
        .iter()
        .filter(|one| one.steps <= cut && one.at >= start)
    {
        ensure(seen.get(&one.at) == Some(&one.frame), || {
            format!("the frame acked at {} is lost", one.at)
        })?;
    }
    for (at, frame) in &seen {
        let known = sent.get(at).is_none_or(|sent| *sent == frame);
        ensure(known, || format!("another frame than was sent at {at}"))?;
    }
    let end = region.end().await?.offset;
    let next = at(region.append(ground.writer(2, 0, 2).claim)).await?;
    ensure(next >= end, || format!("{next} was given out twice"))
}

pub(super) async fn lost_reply(ground: &Ground) -> Done {
    for landed in [true, false] {
        let id = RegionId {
            shard: ground.id.shard + 100 * u64::from(landed),
            ..ground.id
        };
        let wal = ground.subject.join().await?;
        wal.create(id).await?;
        let region = wal.open(id).await?;
        ground
            .subject
            .trouble(id, Trouble::LoseReply { landed })
            .await?;
        let mut writer = ground.writer(1, 0, 1);
        match region.append(writer.rows(ground.bytes(10))).await {
            Err(AppendError::Unknown(_)) | Ok(Placed::Somewhere) => {}
            other => return Err(Stop::failed(format!("a lost reply became {other:?}"))),
        }
    }
    Ok(())
}

pub(super) async fn refused(ground: &Ground) -> Done {
    let region = ground.region().await?;
    let mut writer = ground.writer(1, 0, 1);
    let mut sent = vec![writer.send(&region, "first").await?];
    for round in 0..4 {
        ground.trouble(Trouble::Refuse).await?;
        match region.append(writer.rows("refused")).await {
            Err(AppendError::Refused(_)) => {}
            other => return Err(Stop::failed(format!("not refused: {other:?}"))),
        }
        // Behind the last one nothing comes that could cover it.
        if round < 3 {
            sent.push(writer.send(&region, "next").await?);
        }
    }
    ensure_same(&read_all(&region, 0).await?, &sent)?;
    drop(region);
    let region = ground.restart().await?;
    ensure_same(&read_all(&region, 0).await?, &sent)
}

pub(super) async fn full_disk(ground: &Ground) -> Done {
    let region = ground.region().await?;
    let mut writer = ground.writer(1, 0, 1);
    let mut sent = vec![writer.send(&region, "first").await?];
    ground.trouble(Trouble::FullDisk).await?;
    let mut full = false;
    for _ in 0..1000 {
        let frame = writer.rows(ground.bytes(100_000));
        match region.append(frame.clone()).await {
            Ok(Placed::At(at)) => sent.push((at, frame)),
            Err(AppendError::Refused(WalError::NoRoom)) => {
                full = true;
                break;
            }
            other => return Err(Stop::failed(format!("a full disk said {other:?}"))),
        }
    }
    ensure(full, || "a full disk never said so".to_owned())?;
    ensure_same(&read_all(&region, 0).await?, &sent)?;
    ground.trouble(Trouble::RoomAgain).await?;
    sent.push(writer.send(&region, ground.bytes(100_000)).await?);
    drop(region);
    let region = ground.restart().await?;
    ensure_same(&read_all(&region, 0).await?, &sent)
}
