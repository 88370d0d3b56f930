//! Kafka is away, slow, or loses a broker.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use integration::cluster::ways;
use integration::http::Http;
use integration::load::{BATCH_ROWS, CONFIG};
use integration::process;
use integration::proxy::appends::Appends;
use integration::proxy::{Order, Way};
use integration::told::Told;
use integration::topics;
use tokio::task::JoinSet;
use tokio::time::Instant;

use crate::Settings;
use crate::ground::{Ground, plan};
use crate::row::Row;

/// How long writers may stand still because a broker died.
const STALL: Duration = Duration::from_secs(10);

/// How long anybody may wait for an answer while the log is away.
const TOLD_WITHIN: Duration = Duration::from_secs(2);

/// How long all may take to go on once the log is back.
const RECOVERED: Duration = Duration::from_secs(30);

pub(crate) async fn broker_killed(settings: &Settings) -> Result<Row> {
    let mut ground = Ground::start(settings, 3, &["strong"]).await?;
    ground.breaks();
    let mut stalls = Vec::new();
    for broker in 0..3 {
        ground.cluster.kafka.kill(broker)?;
        let killed = Instant::now();
        let gone_on = ground.load.gone_on(2, 6 * STALL).await;
        gone_on.with_context(|| format!("broker {broker} is dead"))?;
        stalls.push(killed.elapsed());
        ground.cluster.kafka.restart(broker)?;
        ground.cluster.kafka.ready().await?;
    }
    let mut row = ground.heals().await?;
    row.seen
        .push(format!("all went on without it after {stalls:.1?}"));
    row.promise(stalls.iter().all(|stall| *stall <= STALL), || {
        format!("all go on within {STALL:?} of a broker's death: {stalls:.1?}")
    });
    row.promise_clear(None);
    row.promise_going_on(STALL);
    Ok(row)
}

pub(crate) async fn away(settings: &Settings) -> Result<Row> {
    let mut ground = Ground::start(settings, 1, &["strong", "eventual"]).await?;
    ground.breaks();
    ground.cluster.kafka.kill(0)?;
    tokio::time::sleep(settings.away).await;
    ground.cluster.kafka.restart(0)?;
    ground.cluster.kafka.ready().await?;
    let mut row = ground.heals().await?;
    row.promise_clear(None);
    row.promise_answered(TOLD_WITHIN);
    row.promise_going_on(RECOVERED);
    let eventual = row.of_reads("eventual");
    row.promise(eventual.failed() == 0 && eventual.succeeded() > 0, || {
        "every eventual read is answered".to_owned()
    });
    Ok(row)
}

pub(crate) async fn silent(settings: &Settings) -> Result<Row> {
    let mut ground = Ground::start(settings, 3, &["strong", "eventual"]).await?;
    ground.breaks();
    ways::order(ground.cluster.ways.all_kafka(), &Order::Hold(Way::Both));
    tokio::time::sleep(settings.away).await;
    ways::order(ground.cluster.ways.all_kafka(), &Order::Pass);
    let mut row = ground.heals().await?;
    row.promise_clear(None);
    row.promise_answered(SLOW_WITHIN);
    row.promise_going_on(RECOVERED);
    let eventual = row.of_reads("eventual");
    row.promise(eventual.failed() == 0 && eventual.succeeded() > 0, || {
        "every eventual read is answered".to_owned()
    });
    Ok(row)
}

/// Each way to the brokers, when they are slow: a round trip is twice that.
const DELAY: Duration = Duration::from_secs(1);

/// What a node may plan with whose log is slow.
const BUDGET_BYTES: u64 = 512 << 20;

/// How long a write may take through a log that is slow.
const SLOW_WITHIN: Duration = Duration::from_secs(11);

/// Clients that write as much as they can while the log is slow, and bytes of one of their bodies.
const FLOODS: usize = 24;
const FLOOD_BYTES: usize = 256 << 10;

pub(crate) async fn slow(settings: &Settings) -> Result<Row> {
    let config = format!(
        "{CONFIG}[memory]\nbudget = \"{}MiB\"\n[limits]\nwrite_queue_bytes = \"32MiB\"\n",
        BUDGET_BYTES >> 20
    );
    let plan = plan(settings, 3, &config);
    let mut ground = Ground::start_as(settings, &plan, &["strong"]).await?;
    let created = ground.load.node().sql_answer(FLOOD_TABLE).await?;
    ensure!(created.status == 200, "{}", created.body);
    let pids: Vec<u32> = ground.cluster.nodes.iter().map(|node| node.pid()).collect();
    let memory = |of: fn(u32) -> Result<u64>| pids.iter().map(|pid| of(*pid)).collect();
    let before: Vec<u64> = Result::from_iter::<Vec<_>>(memory(process::memory_bytes))?;
    ground.breaks();
    ways::order(ground.cluster.ways.all_kafka(), &Order::Delay(DELAY));
    let until = Instant::now() + settings.away;
    let mut floods = JoinSet::new();
    for flood in 0..FLOODS {
        let doors = ground.cluster.doors();
        floods.spawn(overload(doors[flood % doors.len()].clone(), flood, until));
    }
    let mut flooded = Told::default();
    while let Some(told) = floods.join_next().await {
        flooded.add(&told?);
    }
    let peak: Vec<u64> = Result::from_iter::<Vec<_>>(memory(process::memory_peak_bytes))?;
    ways::order(ground.cluster.ways.all_kafka(), &Order::Pass);
    let mut row = ground.heals().await?;
    let mib = |bytes: &[u64]| bytes.iter().map(|bytes| bytes >> 20).collect::<Vec<_>>();
    row.seen.push(format!(
        "a flood of {FLOODS} clients: {} acked, {} refused; MiB of each node before {:?}, at most {:?}",
        flooded.succeeded(),
        flooded.failed(),
        mib(&before),
        mib(&peak)
    ));
    let grown = peak.iter().zip(&before).map(|(peak, before)| peak - before);
    row.promise(grown.max() <= Some(BUDGET_BYTES), || {
        format!(
            "no node grows by more than its budget of {} MiB",
            BUDGET_BYTES >> 20
        )
    });
    row.promise(flooded.unclear == 0, || {
        format!(
            "what is refused of a flood is told clearly: {:?}",
            flooded.counts
        )
    });
    row.promise_clear(None);
    row.promise_answered(SLOW_WITHIN);
    row.promise_going_on(RECOVERED);
    Ok(row)
}

/// Where the flood goes.
const FLOOD_TABLE: &str = "CREATE TABLE flood (host STRING TAG, ts TIMESTAMP(9) NOT NULL, note STRING, \
     TIMESTAMP KEY (ts)) PARTITION BY HASH(host) PARTITIONS 6 WITH (merge_mode = 'append')";

/// Writes body after body until then, whatever comes back.
async fn overload(http: Http, flood: usize, until: Instant) -> Told {
    let mut told = Told::default();
    let note = "x".repeat(1_000);
    let mut n = 0;
    while Instant::now() < until {
        let mut lines = String::new();
        while lines.len() < FLOOD_BYTES {
            n += 1;
            lines.push_str(&format!("flood,host=h{flood} note=\"{note}\" {n}\n"));
        }
        let sent = Instant::now();
        let answer = http.write("main", lines).await;
        told.note(&answer, sent.elapsed());
    }
    told
}

pub(crate) async fn topic_slow(settings: &Settings) -> Result<Row> {
    let mut ground = Ground::start(settings, 3, &["strong"]).await?;
    let topics = topics::of_shards(&ground.cluster.kafka.bootstrap()).await?;
    let (shard, topic) = topics.first_key_value().context("a topic")?;
    ground.breaks();
    let held = Appends::HoldTopic(topic.name.clone());
    ways::order(ground.cluster.ways.all_kafka(), &Order::Appends(held));
    let began = ground.load.acked();
    tokio::time::sleep(settings.away).await;
    let ended = ground.load.acked();
    ways::order(ground.cluster.ways.all_kafka(), &Order::Pass);
    let mut row = ground.heals().await?;
    let batches = began
        .iter()
        .zip(&ended)
        .map(|(began, ended)| (ended - began) / BATCH_ROWS);
    let going = batches
        .filter(|batches| *batches >= settings.away.as_secs())
        .count();
    row.seen.push(format!(
        "appends to shard {shard} hang: {going} of {} writers had a batch a second acked",
        began.len()
    ));
    row.promise(2 * going >= began.len(), || {
        "what another producer writes to other shards is not held up".to_owned()
    });
    row.promise_clear(None);
    row.promise_answered(SLOW_WITHIN);
    row.promise_going_on(RECOVERED);
    Ok(row)
}
