//! A compute node ends, or is cut off.

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::{Context, Result};
use integration::cluster::ways::{self, Ways};
use integration::proxy::{Order, Proxy, Way};
use integration::told::Told;
use rustix::process::Signal;
use tokio::time::Instant;

use crate::Settings;
use crate::ground::{Ground, SHARDS};
use crate::row::{Row, all};

/// How long a node may take to end for each shard it leads.
const ENDED_WITHIN: Duration = Duration::from_secs(5);

/// How long all may take to go on.
const RECOVERED: Duration = Duration::from_secs(30);

pub(crate) async fn sigterm(settings: &Settings) -> Result<Row> {
    let mut ground = Ground::start(settings, 3, &["strong"]).await?;
    let asked = 0;
    let led = ground.cluster.shards(1).await?;
    let led = led.iter().filter(|led| led.leader == Some(asked)).count();
    ground.breaks();
    let node = &mut ground.cluster.nodes[asked];
    let gone = node.http.base().to_owned();
    let began = Instant::now();
    node.signal(Signal::TERM)?;
    let within = ENDED_WITHIN * led.max(1) as u32;
    let status = node.exited(2 * within).await.context("it ends")?;
    let took = began.elapsed();
    ground.load.gone_on(2, RECOVERED).await?;
    ground.cluster.nodes[asked] = ground.cluster.setups[asked].start().await?;
    ground.load.moved(ground.cluster.doors());
    let mut row = ground.heals().await?;
    row.seen.push(format!(
        "it led {led} of {SHARDS} shards and ended with {status} after {:.1} s",
        took.as_secs_f64()
    ));
    row.promise(status.success() && took <= within, || {
        format!("it ends with 0 within {within:?}")
    });
    let others = [("writes", &row.writes)].into_iter();
    let others = others.chain(row.reads.iter().map(|(mode, told)| (*mode, told)));
    let mut failed = Vec::new();
    for (what, told) in others {
        for (node, told) in told.iter().filter(|(node, _)| **node != gone) {
            if told.failed() > 0 {
                failed.push(format!("{what} at {node}: {:?}", told.failures()));
            }
        }
    }
    row.promise(failed.is_empty(), || {
        format!("clients of the others get no error: {}", failed.join(", "))
    });
    row.promise_clear(Some(&gone));
    row.promise_going_on(RECOVERED);
    Ok(row)
}

/// The node that is cut off.
const CUT: usize = 0;

/// How long writers may stand still because a node is cut off.
const STALL: Duration = Duration::from_secs(10);

/// How long anybody may wait for an answer: a writer's deadline, and the way there and back.
const ANSWERED_WITHIN: Duration = Duration::from_secs(11);

/// A node's ways fall silent in both directions, nothing is closed.
///
/// * returns: the row, and how long it took until all writers went on without the node; `None` if they
///   did not in that time.
async fn cut_off(
    settings: &Settings,
    ways: fn(&Ways) -> &[Proxy],
) -> Result<(Row, Option<Duration>)> {
    let mut ground = Ground::start(settings, 3, &["strong"]).await?;
    ground.breaks();
    let began = Instant::now();
    ways::order(ways(&ground.cluster.ways), &Order::Hold(Way::Both));
    let gone_on = ground.load.gone_on(2, settings.away).await;
    let stall = gone_on.is_ok().then(|| began.elapsed());
    tokio::time::sleep_until(began + settings.away).await;
    ways::order(ways(&ground.cluster.ways), &Order::Pass);
    let mut row = ground.heals().await?;
    match stall {
        Some(stall) => row
            .seen
            .push(format!("all went on meanwhile after {stall:.1?}")),
        None => row.seen.push("not all went on meanwhile".to_owned()),
    }
    row.promise_clear(None);
    row.promise_answered(ANSWERED_WITHIN);
    row.promise_going_on(RECOVERED);
    Ok((row, stall))
}

/// Holds a row to it that all went on while the node was cut off.
fn promise_stall(row: &mut Row, stall: Option<Duration>) {
    row.promise(stall.is_some_and(|stall| stall <= STALL), || {
        format!("all writers go on within {STALL:?} while it is cut off")
    });
}

pub(crate) async fn cut_from_meta(settings: &Settings) -> Result<Row> {
    let (mut row, stall) = cut_off(settings, |ways| &ways.meta[CUT..=CUT]).await?;
    promise_stall(&mut row, stall);
    Ok(row)
}

pub(crate) async fn cut_from_s3(settings: &Settings) -> Result<Row> {
    let (mut row, stall) = cut_off(settings, |ways| &ways.s3[CUT..=CUT]).await?;
    promise_stall(&mut row, stall);
    let failed = all(&row.writes).failed();
    row.promise(failed == 0, || {
        format!("every write is acked: {failed} were not")
    });
    Ok(row)
}

pub(crate) async fn cut_from_kafka(settings: &Settings) -> Result<Row> {
    let (row, _) = cut_off(settings, |ways| &ways.kafka[CUT]).await?;
    Ok(row)
}

pub(crate) async fn cut_from_peers(settings: &Settings) -> Result<Row> {
    let mut ground = Ground::start(settings, 3, &["strong"]).await?;
    let own = ground.cluster.nodes[CUT].http.base().to_owned();
    ground.breaks();
    let way = &ground.cluster.ways.peers[CUT];
    way.order(Order::Hold(Way::Both));
    tokio::time::sleep(settings.away).await;
    way.order(Order::Pass);
    let mut row = ground.heals().await?;
    let failed = row.writes.get(&own).map(Told::failures);
    row.promise(failed.as_ref().is_some_and(BTreeMap::is_empty), || {
        format!("the node itself acks what it is sent: {failed:?}")
    });
    row.promise_clear(None);
    row.promise_answered(ANSWERED_WITHIN);
    row.promise_going_on(RECOVERED);
    Ok(row)
}
