//! Cases 25–29: what the service around the regions promises.

use std::sync::Arc;
use std::time::Duration;

use futures::future::try_join_all;
use tokio::time::Instant;

use super::ground::{Ground, at, ensure, read_all};
use super::{Done, Stop, Trouble, append};
use crate::{AppendError, Region, RegionId, WalError};

pub(super) async fn idempotent(ground: &Ground) -> Done {
    let wal = ground.subject.join().await?;
    let missing = |told: Result<Arc<dyn Region>, WalError>, when: &str| match told {
        Err(WalError::Missing) => Ok(()),
        Err(other) => Err(Stop::failed(format!("{when}: open says {other}"))),
        Ok(_) => Err(Stop::failed(format!("{when}: open made a region"))),
    };
    wal.remove(ground.id).await?;
    missing(wal.open(ground.id).await, "before create")?;
    missing(wal.open(ground.id).await, "after a failed open")?;
    wal.create(ground.id).await?;
    let region = wal.open(ground.id).await?;
    let mut writer = ground.writer(1, 0, 1);
    let sent = writer.send(&region, "kept").await?;
    wal.create(ground.id).await?;
    let seen = read_all(&wal.open(ground.id).await?, 0).await?;
    ensure(seen == [sent], || {
        "a second create changed the region".to_owned()
    })?;
    let other = RegionId {
        incarnation: !ground.id.incarnation,
        ..ground.id
    };
    missing(wal.open(other).await, "another incarnation")?;
    wal.remove(ground.id).await?;
    wal.remove(ground.id).await?;
    missing(wal.open(ground.id).await, "after remove")?;
    ground.subject.leave().await?;
    let wal = ground.subject.join().await?;
    missing(wal.open(ground.id).await, "after remove and restart")
}

pub(super) async fn misconfigured(ground: &Ground) -> Done {
    let wal = ground.subject.join().await?;
    wal.check().await?;
    for (setting, told) in ground.subject.misconfigured().await? {
        let named = matches!(&told, Err(WalError::Misconfigured(what)) if what.contains(&setting));
        ensure(named, || format!("a wrong {setting} is answered {told:?}"))?;
    }
    Ok(())
}

pub(super) async fn away(ground: &Ground) -> Done {
    let region = ground.region().await?;
    let mut writer = ground.writer(1, 0, 1);
    writer.send(&region, "before").await?;
    ground.trouble(Trouble::Away).await?;
    let within = Duration::from_secs(2);
    let told = async {
        let appended = region.append(writer.rows("away")).await;
        let read = region.read(0, 1, Duration::from_secs(30)).await;
        let end = region.end().await;
        let said = (&appended, &read, &end);
        let unavailable = matches!(
            said,
            (
                Err(AppendError::Refused(WalError::Unavailable)
                    | AppendError::Unknown(WalError::Unavailable)),
                Err(WalError::Unavailable),
                Err(WalError::Unavailable)
            )
        );
        ensure(unavailable, || format!("a service that is away: {said:?}"))
    };
    let told = tokio::time::timeout(within, told).await;
    tokio::time::sleep(ground.scale.away).await;
    ground.trouble(Trouble::Back).await?;
    told.map_err(|_| Stop::failed(format!("nothing was said within {within:?}")))??;
    // The same handle serves again by itself.
    let deadline = Instant::now() + Duration::from_secs(5);
    loop {
        let back = region.append(writer.rows("back")).await;
        if back.is_ok() {
            break;
        }
        ensure(Instant::now() < deadline, || {
            format!("5 s after it came back the service says {back:?}")
        })?;
        tokio::task::yield_now().await;
    }
    let seen = read_all(&region, 0).await?;
    ensure(seen.len() >= 2, || "acked frames are lost".to_owned())
}

pub(super) async fn slow(ground: &Ground) -> Done {
    let region = ground.region().await?;
    ground.trouble(Trouble::Slow).await?;
    let payload = ground.bytes(1 << 20);
    let mut writer = ground.writer(1, 0, 1);
    let (waiting, filled) = append::fill(&region, &mut writer, &payload).await;
    let held: usize = waiting.len() * payload.len();
    let other = async {
        filled?;
        ensure(held < 1 << 30, || format!("{held} bytes wait"))?;
        let wal = ground.subject.join().await?;
        let id = RegionId {
            shard: ground.id.shard + 100,
            ..ground.id
        };
        wal.create(id).await?;
        let other = wal.open(id).await?;
        let began = Instant::now();
        at(other.append(ground.writer(1, 0, 2).claim)).await?;
        ensure(began.elapsed() < Duration::from_secs(1), || {
            format!("another region's append took {:?}", began.elapsed())
        })
    };
    let other = tokio::time::timeout(Duration::from_secs(10), other).await;
    ground.trouble(Trouble::Resume).await?;
    other.map_err(|_| Stop::failed("one slow region held up another"))??;
    for appending in waiting {
        at(appending).await?;
    }
    Ok(())
}

pub(super) async fn idle(ground: &Ground) -> Done {
    let Some(before) = threads() else {
        return Err(Stop::not_applicable(
            "threads are counted in /proc, which this system has not",
        ));
    };
    let wal = ground.subject.join().await?;
    let tasks = tokio::runtime::Handle::current().metrics();
    let tasks_before = tasks.num_alive_tasks();
    let count = u64::from(ground.scale.idle_regions);
    let mut open = Vec::new();
    for first in (0..count).step_by(64) {
        let some = (first..count.min(first + 64)).map(|shard| {
            let wal = wal.clone();
            async move {
                let id = RegionId { shard, ..ground.id };
                wal.create(id).await?;
                wal.open(id).await
            }
        });
        open.extend(try_join_all(some).await?);
    }
    let threads = threads().unwrap_or_default().saturating_sub(before);
    let tasks = tasks.num_alive_tasks().saturating_sub(tasks_before);
    // The runtime's own pool of blocking threads has at most 512, whatever the number of regions.
    ensure(threads <= 600, || {
        format!("{count} idle regions hold {threads} threads")
    })?;
    ensure(tasks <= 600, || {
        format!("{count} idle regions hold {tasks} tasks")
    })?;
    let mut writer = ground.writer(1, 0, 1);
    let last = &open[open.len() - 1];
    writer.send(last, "the last of many").await?;
    Ok(())
}

fn threads() -> Option<usize> {
    Some(std::fs::read_dir("/proc/self/task").ok()?.count())
}
