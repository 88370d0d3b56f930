//! Cases 30–38: the acceptance rule over an adapter, and the adapter over the reference.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use futures::future::join_all;

use super::ground::{Ground, at, ensure, ensure_same, read_all};
use super::{Done, Stop, Trouble};
use crate::memory::MemoryWal;
use crate::{Acceptance, Appending, Cur, Frame, FrameKind, Offset, Placed, Region, Verdict, Wal};

/// Feeds the whole region to a fresh reader: each frame with its verdict, and the reader.
async fn judge(
    ground: &Ground,
    region: &Arc<dyn Region>,
) -> Result<(Vec<(Offset, Frame, Verdict)>, Acceptance), Stop> {
    let mut log = Acceptance::new(ground.id.incarnation, Cur::default(), 0);
    let judged = read_all(region, 0).await?.into_iter().map(|(at, frame)| {
        let verdict = log.valid(at, &frame);
        (at, frame, verdict)
    });
    let judged = judged.collect();
    Ok((judged, log))
}

/// The places whose frames got that verdict.
fn places(judged: &[(Offset, Frame, Verdict)], verdict: Verdict) -> Vec<Offset> {
    let with = judged.iter().filter(|(_, _, of)| *of == verdict);
    with.map(|(at, ..)| *at).collect()
}

fn ensure_places(
    judged: &[(Offset, Frame, Verdict)],
    verdict: Verdict,
    expected: &[Offset],
) -> Done {
    let seen = places(judged, verdict);
    ensure(seen == expected, || {
        format!("{verdict:?} at {seen:?}, expected at {expected:?}")
    })
}

pub(super) async fn racing_claims(ground: &Ground) -> Done {
    ground.region().await?;
    let mut users = Vec::new();
    for _ in 0..8 {
        users.push(ground.join().await?);
    }
    let claims = users.iter().zip(1..).map(|(region, writer)| {
        let claim = ground.writer(1, 0, writer).claim;
        at(region.append(claim))
    });
    let placed: Vec<Offset> = join_all(claims)
        .await
        .into_iter()
        .collect::<Result<_, _>>()?;
    let first = placed.iter().min().copied().into_iter().collect::<Vec<_>>();
    for region in &users {
        let (judged, log) = judge(ground, region).await?;
        ensure_places(&judged, Verdict::Counts, &first)?;
        let winner = placed.iter().position(|at| Some(at) == first.first());
        ensure(
            winner.map(|index| index as u64 + 1) == Some(log.cur().writer),
            || format!("readers disagree about who leads: {:?}", log.cur()),
        )?;
    }
    Ok(())
}

pub(super) async fn zombies(ground: &Ground) -> Done {
    let region = ground.region().await?;
    let zombie_region = ground.join().await?;
    let (mut old, mut new) = (ground.writer(1, 0, 1), ground.writer(2, 0, 2));
    let mut counted = vec![old.take_over(&zombie_region).await?];
    let mut applied = vec![old.send(&zombie_region, "1").await?.0];
    counted.push(new.take_over(&region).await?);
    let mut skipped = Vec::new();
    for round in 0..5 {
        let zombie = old.rows(format!("zombie {round}"));
        skipped.push(at(zombie_region.append(zombie)).await?);
        applied.push(new.send(&region, format!("{round}")).await?.0);
    }
    skipped.push(at(zombie_region.append(old.frame(FrameKind::Mark, ""))).await?);
    skipped.push(at(zombie_region.append(old.claim.clone())).await?);
    let (judged, _) = judge(ground, &region).await?;
    ensure_places(&judged, Verdict::Counts, &counted)?;
    ensure_places(&judged, Verdict::Apply, &applied)?;
    ensure_places(&judged, Verdict::Skip, &skipped)
}

pub(super) async fn claim_twice(ground: &Ground) -> Done {
    let region = ground.region().await?;
    let mut writer = ground.writer(1, 0, 1);
    let first = at(region.append(writer.claim.clone())).await?;
    let second = at(region.append(writer.claim.clone())).await?;
    writer.accounted(second, 0);
    let (rows, _) = writer.send(&region, "rows").await?;
    let third = at(region.append(writer.claim.clone())).await?;
    let (judged, _) = judge(ground, &region).await?;
    ensure_places(&judged, Verdict::Counts, &[first])?;
    ensure_places(&judged, Verdict::Apply, &[rows])?;
    ensure_places(&judged, Verdict::Skip, &[second, third])
}

pub(super) async fn duplicates(ground: &Ground) -> Done {
    let region = ground.region().await?;
    let mut writer = ground.writer(1, 0, 1);
    writer.take_over(&region).await?;
    let frames: Vec<Frame> = (0..4)
        .map(|round| writer.rows(format!("{round}")))
        .collect();
    // 1 1 3 2 1 4: the second lands behind the third and is late, copies are duplicates.
    let mut placed = Vec::new();
    for index in [0, 0, 2, 1, 0, 3] {
        placed.push(at(region.append(frames[index].clone())).await?);
    }
    let (judged, log) = judge(ground, &region).await?;
    ensure_places(&judged, Verdict::Apply, &[placed[0], placed[2], placed[5]])?;
    ensure_places(&judged, Verdict::Skip, &[placed[1], placed[3], placed[4]])?;
    ensure(log.cur().n == 4, || format!("ended at {:?}", log.cur()))
}

/// Where a Claim first lies, whatever became of the answer: trouble made for the frames beside it may meet
/// it in their place, since frames travel together and the Claim may overtake them. All such trouble ends
/// here, and a Claim that has not landed by then is sent again; should the first land too, it lies behind.
async fn found(
    ground: &Ground,
    late: bool,
    appending: Appending,
    region: &Arc<dyn Region>,
    claim: &Frame,
) -> Result<Offset, Stop> {
    match appending.await {
        Ok(Placed::At(at)) => return Ok(at),
        Err(failed) if !late => return Err(failed.into()),
        _ => ground.trouble(Trouble::LandLate).await?,
    }
    let first = async || {
        let frames = read_all(region, 0).await?;
        let first = frames.into_iter().find(|(_, frame)| frame == claim);
        Ok::<_, Stop>(first.map(|(at, _)| at))
    };
    match first().await? {
        Some(at) => Ok(at),
        None => {
            let again = at(region.append(claim.clone())).await?;
            Ok(first().await?.unwrap_or(again))
        }
    }
}

pub(super) async fn reclaim(ground: &Ground) -> Done {
    let region = ground.region().await?;
    let claimer = ground.join().await?;
    let mut old = ground.writer(1, 0, 1);
    old.take_over(&region).await?;
    let mut flight = Vec::new();
    let mut claim_placed = None;
    let mut new = ground.writer(1, 1, 2);
    // An adapter whose frames cannot be late is re-claimed without, by the race alone.
    let late = match ground.trouble(Trouble::Delay).await {
        Ok(()) => true,
        Err(Stop::NotApplicable(_)) => false,
        Err(failed) => return Err(failed),
    };
    for round in 0..20 {
        let landed = round % 2 == 0;
        match round % 5 {
            1 if late => ground.trouble(Trouble::Delay).await?,
            3 if late => ground.trouble(Trouble::LoseReply { landed }).await?,
            _ => {}
        }
        let frame = old.rows(format!("{round}"));
        flight.push((frame.n, region.append(frame)));
        if round == 14 {
            claim_placed = Some(claimer.append(new.claim.clone()));
        }
    }
    let (numbers, flight): (Vec<u64>, Vec<_>) = flight.into_iter().unzip();
    let deliveries = join_all(flight).await;
    let claim = match claim_placed {
        Some(appending) => found(ground, late, appending, &claimer, &new.claim).await?,
        None => return Err(Stop::failed("no Claim was sent")),
    };
    // What lies below the Claim is settled as Ok, everything else as Rejected.
    let mut log = Acceptance::new(ground.id.incarnation, Cur::default(), 0);
    let mut settled = BTreeSet::new();
    for (at, frame) in read_all(&claimer, 0).await? {
        match log.valid(at, &frame) {
            Verdict::Apply if at < claim => {
                settled.insert(frame.n);
            }
            Verdict::Broken(breach) => return Err(Stop::failed(breach)),
            _ => {}
        }
    }
    for (n, delivery) in numbers.iter().zip(&deliveries) {
        if let Ok(Placed::At(at)) = delivery {
            ensure(settled.contains(n) == (*at < claim), || {
                format!("frame {n} at {at}, the Claim at {claim}, settled: {settled:?}")
            })?;
        }
    }
    if late {
        ground.trouble(Trouble::LandLate).await?;
    }
    let end = claimer.end().await?.offset;
    new.accounted(end - 1, 0);
    new.send(&claimer, "goes on").await?;
    let (judged, _) = judge(ground, &claimer).await?;
    let applied = judged
        .iter()
        .filter(|(_, frame, verdict)| frame.writer == 1 && *verdict == Verdict::Apply);
    let applied: BTreeSet<u64> = applied.map(|(_, frame, _)| frame.n).collect();
    ensure(applied == settled, || {
        format!("settled {settled:?}, a full re-read says {applied:?}")
    })?;
    let broken = judged
        .iter()
        .find(|(.., verdict)| matches!(verdict, Verdict::Broken(_)));
    ensure(broken.is_none(), || format!("{broken:?}"))
}

pub(super) async fn seals(ground: &Ground) -> Done {
    let region = ground.region().await?;
    let (mut old, mut new) = (ground.writer(1, 0, 1), ground.writer(2, 0, 2));
    old.take_over(&region).await?;
    let late = old.frame(FrameKind::Seal, "plan");
    new.take_over(&region).await?;
    let late = at(region.append(late)).await?;
    let (goes_on, _) = new.send(&region, "goes on").await?;
    let seal = at(region.append(new.frame(FrameKind::Seal, "plan"))).await?;
    new.accounted(seal, 2);
    let mut behind = vec![late];
    behind.push(at(region.append(new.rows("behind"))).await?);
    behind.push(at(region.append(ground.writer(9, 0, 9).claim)).await?);
    let (judged, log) = judge(ground, &region).await?;
    ensure_places(&judged, Verdict::Apply, &[goes_on, seal])?;
    ensure_places(&judged, Verdict::Skip, &behind)?;
    ensure(log.cur().sealed, || "not sealed".to_owned())
}

pub(super) async fn floor(ground: &Ground) -> Done {
    let region = ground.region().await?;
    let (mut old, mut new) = (ground.writer(1, 0, 1), ground.writer(2, 0, 2));
    old.take_over(&region).await?;
    new.take_over(&region).await?;
    let mut copy = None;
    for _ in 0..100 {
        let (_, frame) = new.send(&region, ground.bytes(20_000)).await?;
        copy = Some(frame);
    }
    let (_, log) = judge(ground, &region).await?;
    let (floor, flushed) = (log.cur(), log.next());
    region.truncate(flushed).await?;
    drop(region);
    let region = ground.restart().await?;
    let copy = copy.ok_or_else(|| Stop::failed("nothing was sent"))?;
    let zombie = at(region.append(old.rows("zombie"))).await?;
    let copy = at(region.append(copy)).await?;
    new.accounted(copy, new.n);
    let (rows, _) = new.send(&region, "goes on").await?;
    let mut log = Acceptance::new(ground.id.incarnation, floor, flushed);
    let judged: Vec<_> = read_all(&region, flushed)
        .await?
        .into_iter()
        .map(|(at, frame)| {
            let verdict = log.valid(at, &frame);
            (at, frame, verdict)
        })
        .collect();
    ensure_places(&judged, Verdict::Skip, &[zombie, copy])?;
    ensure_places(&judged, Verdict::Apply, &[rows])
}

pub(super) async fn witness(ground: &Ground) -> Done {
    let region = ground.region().await?;
    let mut writer = ground.writer(1, 0, 1);
    writer.take_over(&region).await?;
    writer.send(&region, "1").await?;
    // Number 2 is never sent, though its writer saw it in the log.
    let lost = writer.rows("2");
    let behind = Frame {
        prev_n: lost.n,
        ..writer.rows("3")
    };
    let broken = at(region.append(behind)).await?;
    at(region.append(ground.writer(2, 0, 2).claim)).await?;
    let (judged, _) = judge(ground, &region).await?;
    let first = judged
        .iter()
        .find(|(.., verdict)| matches!(verdict, Verdict::Broken(_)))
        .map(|(at, ..)| *at);
    ensure(first == Some(broken), || {
        format!("broken at {first:?}, expected at {broken}")
    })?;
    let skipped = judged
        .iter()
        .filter(|(at, ..)| *at > broken)
        .find(|(.., verdict)| !matches!(verdict, Verdict::Broken(_)));
    ensure(skipped.is_none(), || {
        format!("a breach was left behind: {skipped:?}")
    })
}

pub(super) async fn like_memory(ground: &Ground) -> Done {
    let dice = |below: u64| ground.random.below(below);
    let mut region = ground.region().await?;
    let reference = MemoryWal::default();
    reference.create(ground.id).await?;
    let memory = reference.open(ground.id).await?;
    let mut writer = ground.writer(1, 0, 1);
    // Places of the same frame: in the subject, in memory.
    let mut placed: Vec<(Offset, Offset)> = Vec::new();
    let mut operations = 0;
    while operations < ground.scale.operations {
        let known = placed.len() as u64;
        match dice(100) {
            0..70 => {
                let frames: Vec<Frame> = (0..1 + dice(16))
                    .map(|_| writer.rows(ground.bytes(dice(600) as usize)))
                    .collect();
                operations += frames.len() as u32 - 1;
                let ours: Vec<_> = frames
                    .iter()
                    .map(|frame| at(region.append(frame.clone())))
                    .collect();
                for (ours, frame) in join_all(ours).await.into_iter().zip(frames) {
                    let (ours, n) = (ours?, frame.n);
                    placed.push((ours, at(memory.append(frame)).await?));
                    writer.accounted(ours, n);
                }
            }
            70..90 if known > 0 => {
                let (ours, theirs) = placed[dice(known) as usize];
                let bytes = dice(10_000) as usize;
                let theirs = memory.read(theirs, bytes, Duration::ZERO).await;
                if let Ok(theirs) = theirs {
                    let seen = region.read(ours, bytes, Duration::ZERO).await?;
                    ensure(!seen.frames.is_empty(), || {
                        format!("nothing is read at {ours}")
                    })?;
                    let mut pairs = seen.frames.iter().zip(&theirs.frames);
                    let same = pairs.all(|(seen, theirs)| seen.1 == theirs.1);
                    ensure(same, || format!("a read at {ours} is not memory's"))?;
                }
            }
            90..95 if known > 0 => {
                let (ours, theirs) = placed[dice(known) as usize];
                region.truncate(ours).await?;
                memory.truncate(theirs).await?;
            }
            95..98 => {
                let end = region.end().await?.offset;
                let last = placed.last().map_or(0, |(ours, _)| ours + 1);
                ensure(end == last, || {
                    format!("the end is {end}, the last frame ends at {last}")
                })?;
            }
            98..100 if dice(10) == 0 => {
                drop(region);
                region = ground.restart().await?;
            }
            _ => {}
        }
        operations += 1;
    }
    let end = memory.end().await?.offset;
    let start = memory.read(end, 1, Duration::ZERO).await?.start;
    let theirs = read_all(&memory, start).await?;
    let expected: Vec<(Offset, Frame)> = placed
        .iter()
        .filter(|(_, theirs)| *theirs >= start)
        .zip(theirs)
        .map(|((ours, _), (_, frame))| (*ours, frame))
        .collect();
    let first = expected.first().map_or(0, |(ours, _)| *ours);
    ensure_same(&read_all(&region, first).await?, &expected)
}
