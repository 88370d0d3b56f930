//! Cases 13–21: what a read and an end promise.

use std::sync::Arc;
use std::time::Duration;

use futures::future::join;
use tokio::time::Instant;

use super::ground::{Ground, at, ensure, ensure_same, median, read_all};
use super::{Done, Stop, Trouble};
use crate::{AppendError, Chunk, Frame, Offset, Region, RegionId, WalError};

/// Slack for a loaded machine on top of a stated wait.
const SLACK: Duration = Duration::from_secs(1);

pub(super) async fn empty(ground: &Ground) -> Done {
    let region = ground.region().await?;
    let wait = Duration::from_millis(100);
    let began = Instant::now();
    let chunk = region.read(0, 1 << 20, wait).await?;
    let (next, start, end) = (chunk.next, chunk.start, chunk.end.offset);
    ensure(
        chunk.frames.is_empty() && (next, start, end) == (0, 0, 0),
        || format!("an empty region has next {next}, start {start}, end {end}"),
    )?;
    ensure((wait..wait + SLACK).contains(&began.elapsed()), || {
        format!("a read that waits {wait:?} took {:?}", began.elapsed())
    })?;
    let mut writer = ground.writer(1, 0, 1);
    for _ in 0..10 {
        writer.send(&region, ground.bytes(100)).await?;
    }
    region.truncate(writer.prev).await?;
    drop(region);
    let began = Instant::now();
    let region = ground.restart().await?;
    let end = region.end().await?.offset;
    let chunk = region.read(end, 1 << 20, Duration::ZERO).await?;
    ensure(chunk.frames.is_empty() && chunk.next == end, || {
        format!("behind the end {end} there is something")
    })?;
    ensure(began.elapsed() < SLACK, || {
        format!("a truncated region took {:?} to open", began.elapsed())
    })
}

pub(super) async fn tail_wakes(ground: &Ground) -> Done {
    let region = ground.region().await?;
    let reader = ground.join().await?;
    let mut next = 0;
    let mut writer = ground.writer(1, 0, 1);
    let mut rounds = Vec::new();
    for _ in 0..11 {
        let frame = writer.rows(ground.bytes(100));
        let tail = async {
            let chunk = reader.read(next, 1 << 20, Duration::from_secs(30)).await?;
            Ok::<_, Stop>((chunk, Instant::now()))
        };
        let append = async {
            // The tail is polled first, so it waits by the time the frame is sent.
            tokio::task::yield_now().await;
            let at = at(region.append(frame.clone())).await?;
            Ok::<_, Stop>((at, Instant::now()))
        };
        let (woken, appended) = join(tail, append).await;
        let ((chunk, woken), (at, appended)) = (woken?, appended?);
        ensure_same(&chunk.frames, &[(at, frame)])?;
        next = chunk.next;
        rounds.push(woken.saturating_duration_since(appended));
    }
    let typical = median(rounds);
    ensure(typical <= Duration::from_millis(50), || {
        format!("a tail woke {typical:?} after the append")
    })
}

pub(super) async fn holes(ground: &Ground) -> Done {
    let region = ground.region().await?;
    let mut writer = ground.writer(1, 0, 1);
    let mut sent = Vec::new();
    for width in [0, 1, 1000, 0, 3] {
        if width > 0 {
            ground.trouble(Trouble::Hole { width }).await?;
        }
        sent.push(writer.send(&region, ground.bytes(10)).await?);
    }
    ensure_same(&read_all(&region, 0).await?, &sent)?;
    // From inside a hole the next frame is found.
    let inside = sent[2].0 - 500;
    let chunk = region.read(inside, 1, Duration::ZERO).await?;
    ensure_same(&chunk.frames, &sent[2..3])
}

pub(super) async fn below_start(ground: &Ground) -> Done {
    let region = ground.region().await?;
    let mut writer = ground.writer(1, 0, 1);
    for _ in 0..100 {
        for _ in 0..20 {
            writer.send(&region, ground.bytes(20_000)).await?;
        }
        region.truncate(writer.prev).await?;
        match region.read(0, 1, Duration::ZERO).await {
            Ok(_) => continue,
            Err(WalError::OutOfRange { start }) => {
                let bound = writer.prev;
                ensure((1..=bound).contains(&start), || {
                    format!("start {start} after truncating below {bound}")
                })?;
                let below = region.read(start - 1, 1, Duration::ZERO).await;
                ensure(
                    matches!(below, Err(WalError::OutOfRange { start: same }) if same == start),
                    || format!("below the start {start}: {below:?}"),
                )?;
                read_all(&region, start).await?;
                return Ok(());
            }
            Err(error) => return Err(error.into()),
        }
    }
    Err(Stop::failed("40 MB below the bound, and none is deleted"))
}

/// Reads on until the first error.
async fn read_to_error(
    region: &Arc<dyn Region>,
    max_bytes: usize,
) -> Result<(Vec<Chunk>, WalError), Stop> {
    let mut chunks: Vec<Chunk> = Vec::new();
    loop {
        let next = chunks.last().map_or(0, |chunk| chunk.next);
        match region.read(next, max_bytes, Duration::ZERO).await {
            Ok(chunk) if chunk.next > next => chunks.push(chunk),
            Ok(_) => return Err(Stop::failed(format!("the log ends at {next} unharmed"))),
            Err(error) => return Ok((chunks, error)),
        }
    }
}

/// Appends twenty frames and flips a bit of the one in the middle: where, and what stays readable.
async fn rotten(ground: &Ground) -> Result<(Offset, Vec<(Offset, Frame)>), Stop> {
    let region = ground.region().await?;
    let mut writer = ground.writer(1, 0, 1);
    let mut sent = Vec::new();
    for _ in 0..20 {
        sent.push(writer.send(&region, ground.bytes(1000)).await?);
    }
    let at = sent[12].0;
    ground.trouble(Trouble::Rot { at }).await?;
    sent.truncate(12);
    Ok((at, sent))
}

pub(super) async fn flipped_bit(ground: &Ground) -> Done {
    let (rotten, whole) = rotten(ground).await?;
    for max_bytes in [1, 5000, 1 << 20] {
        let region = ground.join().await?;
        let (chunks, error) = read_to_error(&region, max_bytes).await?;
        let seen: Vec<_> = chunks.into_iter().flat_map(|chunk| chunk.frames).collect();
        ensure_same(&seen, &whole)?;
        ensure(
            matches!(error, WalError::Corrupt { at } if at == rotten),
            || format!("a flipped bit at {rotten} is shown as {error}"),
        )?;
    }
    Ok(())
}

pub(super) async fn torn_or_rotten(ground: &Ground) -> Done {
    let torn = RegionId {
        shard: ground.id.shard + 100,
        ..ground.id
    };
    let wal = ground.subject.join().await?;
    wal.create(torn).await?;
    let region = wal.open(torn).await?;
    let mut writer = ground.writer(1, 0, 1);
    let mut sent = Vec::new();
    for _ in 0..20 {
        sent.push(writer.send(&region, ground.bytes(1000)).await?);
    }
    drop((region, wal));
    ground.subject.leave().await?;
    ground.subject.trouble(torn, Trouble::Tear).await?;
    let region = ground.subject.join().await?.open(torn).await?;
    ensure_same(&read_all(&region, 0).await?, &sent)?;
    sent.push(writer.send(&region, ground.bytes(3000)).await?);
    ensure_same(&read_all(&region, 0).await?, &sent)?;
    drop(region);
    ground.subject.leave().await?;
    let region = ground.subject.join().await?.open(torn).await?;
    ensure_same(&read_all(&region, 0).await?, &sent)?;

    let (at, whole) = rotten(ground).await?;
    let region = ground.restart().await?;
    let (chunks, error) = read_to_error(&region, 1 << 20).await?;
    let seen: Vec<_> = chunks.into_iter().flat_map(|chunk| chunk.frames).collect();
    ensure_same(&seen, &whole)?;
    ensure(
        matches!(error, WalError::Corrupt { at: there } if there == at),
        || format!("rot at {at} is shown as {error} after a restart"),
    )?;
    // Behind rot nothing is acknowledged once a restart has found it.
    let refused = region.append(ground.writer(2, 0, 2).claim).await;
    ensure(
        matches!(refused, Err(AppendError::Refused(WalError::Corrupt { .. }))),
        || format!("an append behind rot got {refused:?}"),
    )
}

pub(super) async fn end_covers(ground: &Ground) -> Done {
    let region = ground.region().await?;
    let other = ground.join().await?;
    let mut writer = ground.writer(1, 0, 1);
    let mut last = None;
    for _ in 0..200 {
        let (at, _) = writer.send(&region, ground.bytes(10)).await?;
        let before = Instant::now();
        let end = region.end().await?;
        ensure(end.offset > at, || {
            format!("end {} misses the frame at {at}", end.offset)
        })?;
        ensure((before..=Instant::now()).contains(&end.asked), || {
            "an end was asked at another time than it was".to_owned()
        })?;
        ensure(Some(end.offset) > last, || "the end fell".to_owned())?;
        last = Some(end.offset);
        if other.end_is_linear() {
            let seen = other.end().await?.offset;
            ensure(seen > at, || {
                format!("a linear end {seen} of another handle misses {at}")
            })?;
        }
    }
    Ok(())
}

pub(super) async fn cut(ground: &Ground) -> Done {
    let region = ground.region().await?;
    let mut writer = ground.writer(1, 0, 1);
    let mut sent = Vec::new();
    for _ in 0..20 {
        sent.push(writer.send(&region, ground.bytes(1000)).await?);
    }
    let to = sent[12].0;
    ground.trouble(Trouble::Cut { to }).await?;
    let end = writer.prev;
    let told = region.read(to, 1 << 20, Duration::ZERO).await;
    ensure(
        matches!(told, Err(WalError::Regressed { had, now }) if had == end && now == to),
        || format!("a log known to {end} and cut to {to} answers {told:?}"),
    )?;
    // Whoever asks for what lies beyond any log is told so too.
    let told = region.read(end + 1, 1, Duration::ZERO).await;
    ensure(matches!(told, Err(WalError::Regressed { .. })), || {
        format!("a read beyond the end answers {told:?}")
    })
}

pub(super) async fn remade(ground: &Ground) -> Done {
    let region = ground.region().await?;
    let mut writer = ground.writer(1, 0, 1);
    writer.send(&region, ground.bytes(10)).await?;
    let wal = ground.subject.join().await?;
    wal.remove(ground.id).await?;
    let gone = |error: &WalError| {
        matches!(
            error,
            WalError::Missing | WalError::Foreign | WalError::Regressed { .. }
        )
    };
    for made_again in [false, true] {
        if made_again {
            wal.create(ground.id).await?;
        }
        let told = region.append(writer.rows("never")).await;
        ensure(
            matches!(&told, Err(AppendError::Refused(error)) if gone(error)),
            || format!("an append to a removed region got {told:?}"),
        )?;
        let told = region.read(0, 1, Duration::ZERO).await;
        ensure(matches!(&told, Err(error) if gone(error)), || {
            format!("a read of a removed region got {told:?}")
        })?;
        let told = region.end().await;
        ensure(matches!(&told, Err(error) if gone(error)), || {
            format!("the end of a removed region is {told:?}")
        })?;
    }
    let fresh = ground.join().await?;
    let end = fresh.end().await?.offset;
    ensure(end == 0, || format!("a remade region ends at {end}"))
}
