//! Cases 22–24: what a truncation promises.

use std::sync::Arc;
use std::time::Duration;

use futures::future::try_join_all;
use parking_lot::Mutex;

use super::ground::{Ground, at, ensure, ensure_same, read_all};
use super::{Done, Stop};
use crate::{Frame, Offset, Region, WalError};

async fn start_of(region: &Arc<dyn Region>) -> Result<Offset, Stop> {
    let end = region.end().await?.offset;
    Ok(region.read(end, 1, Duration::ZERO).await?.start)
}

pub(super) async fn bounds(ground: &Ground) -> Done {
    let region = ground.region().await?;
    region.truncate(0).await?;
    let mut writer = ground.writer(1, 0, 1);
    let mut sent = Vec::new();
    for _ in 0..60 {
        sent.push(writer.send(&region, ground.bytes(20_000)).await?);
    }
    let end = writer.prev;
    let mut start = 0;
    let middle = sent[30].0;
    for below in [0, middle, middle, middle / 2, end, end, 0] {
        region.truncate(below).await?;
        let now = start_of(&region).await?;
        ensure(now >= start && now <= start.max(below), || {
            format!("truncating below {below} moved the start from {start} to {now}")
        })?;
        start = now;
        let rest = sent.iter().filter(|(at, _)| *at >= start);
        let rest: Vec<_> = rest.cloned().collect();
        ensure_same(&read_all(&region, start).await?, &rest)?;
    }
    match region.truncate(end + 1).await {
        Err(WalError::Regressed { had, now }) if had == end + 1 && now == end => {}
        other => return Err(Stop::failed(format!("truncating above the end: {other:?}"))),
    }
    let unmoved = region.end().await?.offset;
    ensure(unmoved == end, || {
        format!("the end moved from {end} to {unmoved}")
    })
}

pub(super) async fn everything(ground: &Ground) -> Done {
    let mut region = ground.region().await?;
    let mut writer = ground.writer(1, 0, 1);
    let mut highest = None;
    for round in 0..4 {
        for _ in 0..round * 10 {
            let (at, _) = writer.send(&region, ground.bytes(20_000)).await?;
            ensure(Some(at) > highest, || format!("{at} was given out twice"))?;
            highest = Some(at);
        }
        let end = region.end().await?.offset;
        region.truncate(end).await?;
        drop(region);
        region = ground.restart().await?;
        let reopened = region.end().await?.offset;
        ensure(reopened >= end, || {
            format!("a truncated log fell from {end} to {reopened}")
        })?;
    }
    let (at, _) = writer.send(&region, "after").await?;
    ensure(Some(at) > highest, || format!("{at} was given out twice"))
}

/// What is known of the log while readers and a truncation race.
#[derive(Default)]
struct Known {
    acked: Vec<(Offset, Frame)>,
    done: bool,
}

pub(super) async fn racing(ground: &Ground) -> Done {
    let region = ground.region().await?;
    let known = Arc::new(Mutex::new(Known::default()));
    let write = async {
        let mut writer = ground.writer(1, 0, 1);
        for round in 0..400_u64 {
            let frame = writer.rows(ground.bytes(ground.random.below(5000) as usize));
            let at = at(region.append(frame.clone())).await?;
            writer.accounted(at, frame.n);
            known.lock().acked.push((at, frame));
            tokio::task::yield_now().await;
            if round % 5 == 0 {
                let below = at.saturating_sub(ground.random.below(20));
                region.truncate(below).await?;
            }
        }
        known.lock().done = true;
        Ok::<_, Stop>(())
    };
    let readers = (0..6).map(|reader| {
        let known = known.clone();
        async move { read_while(ground, reader, &known).await }
    });
    let readers = try_join_all(readers);
    futures::future::try_join(write, readers).await.map(drop)
}

/// Reads at random places, each by a handle of its own or by one opened for it.
async fn read_while(ground: &Ground, reader: u64, known: &Mutex<Known>) -> Done {
    let mut region = ground.join().await?;
    let mut reads = 0;
    loop {
        let (count, done) = {
            let known = known.lock();
            (known.acked.len() as u64, known.done)
        };
        if done && reads > 50 {
            return Ok(());
        }
        reads += 1;
        let back = ground.random.below(40).min(count) as usize;
        let from = {
            let acked = &known.lock().acked;
            let end = acked.last().map_or(0, |(at, _)| at + 1);
            acked.iter().nth_back(back).map_or(end, |(at, _)| at + 1)
        };
        tokio::task::yield_now().await;
        if reader.is_multiple_of(2) {
            region = ground.join().await?;
        }
        let chunk = match region.read(from, 30_000, Duration::from_millis(1)).await {
            Ok(chunk) => chunk,
            Err(WalError::OutOfRange { start }) if start > from => continue,
            Err(error) => return Err(error.into()),
        };
        let acked = known.lock().acked.clone();
        let inside = |at: Offset| (from..chunk.next).contains(&at);
        let expected: Vec<_> = acked.into_iter().filter(|(at, _)| inside(*at)).collect();
        let of_known = expected.len().min(chunk.frames.len());
        ensure_same(&chunk.frames[..of_known], &expected)?;
    }
}
