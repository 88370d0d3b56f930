//! Meta is away, or the etcd it keeps everything in is away or slow.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use integration::cluster::{Cluster, Plan, ways};
use integration::http::{Answer, Http};
use integration::load::{CONFIG, TABLE};
use integration::proxy::Order;
use integration::told::Told;
use integration::wait;
use tokio::time::Instant;

use crate::Settings;
use crate::ground::{Ground, SHARDS, plan};
use crate::row::{Row, all};

/// How long a write or a read may take that has nothing to do with meta.
const USUAL: Duration = Duration::from_secs(5);

/// How long all may take to be as before once meta is back.
const RECOVERED: Duration = Duration::from_secs(30);

/// What is said of a change of the model meanwhile.
const RETRYABLE: &str = "META_UNAVAILABLE";

/// How long a question to a slow etcd takes, from meta and back.
const ROUND_TRIP: Duration = Duration::from_millis(500);

/// A change of the model.
const CREATE: &str =
    "CREATE TABLE later (host STRING TAG, ts TIMESTAMP(9) NOT NULL, n BIGINT, TIMESTAMP KEY (ts))";

/// What is killed and comes back.
#[derive(Clone, Copy)]
enum Gone {
    /// The only meta node.
    Meta,
    /// The only member of its etcd.
    Etcd,
}

impl Gone {
    fn kill(self, cluster: &mut Cluster) -> Result<()> {
        match self {
            Self::Meta => cluster.metas[0].kill(),
            Self::Etcd => cluster.etcd.as_mut().context("an etcd")?.kill(0),
        }
    }

    async fn start_again(self, cluster: &mut Cluster) -> Result<()> {
        match self {
            Self::Meta => cluster.metas[0] = cluster.meta_setups[0].spawn()?,
            Self::Etcd => {
                let etcd = cluster.etcd.as_mut().context("an etcd")?;
                etcd.restart(0)?;
                etcd.ready().await?;
            }
        }
        Ok(())
    }
}

pub(crate) async fn away(settings: &Settings) -> Result<Row> {
    let plan = plan(settings, 3, CONFIG);
    without(settings, &plan, Gone::Meta, settings.meta_away).await
}

pub(crate) async fn etcd_away(settings: &Settings) -> Result<Row> {
    let plan = on_real_etcd(settings);
    without(settings, &plan, Gone::Etcd, settings.away).await
}

/// A plan of one meta node on one member of a real etcd, with a proxy between them.
fn on_real_etcd(settings: &Settings) -> Plan {
    Plan {
        etcd: Some(1),
        ..plan(settings, 3, CONFIG)
    }
}

/// Rows need nothing of what is gone; changes of the model wait for it.
async fn without(settings: &Settings, plan: &Plan, gone: Gone, away: Duration) -> Result<Row> {
    let mut ground = Ground::start_as(settings, plan, &["strong"]).await?;
    let cut_before = ground.first_offsets().await?;
    ground.breaks();
    gone.kill(&mut ground.cluster)?;
    let killed = Instant::now();
    let http = ground.load.node();
    let line = format!("{TABLE},writer=nobody unknown=1i 1700000000000000000\n");
    let (changed, column) = tokio::join!(http.sql_answer(CREATE), http.write("main", line));
    let (changed, column) = (changed?, column?);
    // How long it is away is what is tried.
    tokio::time::sleep_until(killed + away).await;
    let flushed = ground.flushed(RECOVERED).await;
    let cut = ground.first_offsets().await?;
    let told = all(&ground.load.told.all());
    let read: Vec<_> = ground
        .reads
        .iter()
        .map(|reads| all(&reads.told()))
        .collect();
    gone.start_again(&mut ground.cluster).await?;
    let cluster = &ground.cluster;
    cluster.served(SHARDS, RECOVERED).await?;
    let made = made_again(&http).await;
    let mut row = ground.heals().await?;
    row.seen.push(format!(
        "CREATE TABLE: {} {}; a new column: {} {}",
        changed.status,
        changed.said(),
        column.status,
        column.said()
    ));
    promise_untouched(&mut row, &told, &read);
    row.promise_done(&flushed, "every shard flushes meanwhile");
    let further = cut
        .iter()
        .zip(&cut_before)
        .filter(|(now, before)| now > before);
    let further = further.count();
    row.promise(further == cut.len(), || {
        format!(
            "every log is truncated further meanwhile: {further} of {}",
            cut.len()
        )
    });
    row.promise(is_retryable(&changed), || {
        format!("a change of the model gets 503 {RETRYABLE} with Retry-After")
    });
    let names = column.status == 503 && column.retry_after_s.is_some();
    row.promise(names && column.body.contains("unknown"), || {
        "a new column gets a 503 with Retry-After that names it".to_owned()
    });
    row.promise_done(&made, "changes are made again afterwards");
    row.promise_clear(None);
    row.promise_answered(USUAL);
    row.promise_going_on(RECOVERED);
    Ok(row)
}

/// Holds a row to it that writers and readers noticed nothing.
fn promise_untouched(row: &mut Row, written: &Told, read: &[Told]) {
    row.promise(written.failed() == 0 && written.succeeded() > 0, || {
        "every write is acked meanwhile".to_owned()
    });
    row.promise(read.iter().all(|read| read.failed() == 0), || {
        "every read is answered meanwhile".to_owned()
    });
}

/// Whether a change of the model was told to come again.
fn is_retryable(changed: &Answer) -> bool {
    changed.status == 503 && changed.code() == RETRYABLE && changed.retry_after_s.is_some()
}

/// Waits until a change of the model is made.
async fn made_again(http: &Http) -> Result<()> {
    wait::until("a table is made again", RECOVERED, || async {
        let answer = http.sql_answer(CREATE).await?;
        // The one that was told to try again may have been carried out since.
        ensure!(
            matches!(answer.status, 200 | 409),
            "{} {}",
            answer.status,
            answer.body
        );
        Ok(())
    })
    .await
}

pub(crate) async fn etcd_slow(settings: &Settings) -> Result<Row> {
    let mut ground = Ground::start_as(settings, &on_real_etcd(settings), &["strong"]).await?;
    let led = ground.cluster.shards(0).await?;
    ground.breaks();
    let slow_until = Instant::now() + settings.away;
    ways::order(&ground.cluster.ways.etcd, &Order::Delay(ROUND_TRIP / 2));
    let http = ground.load.node();
    let began = Instant::now();
    let changed = http.sql_answer(CREATE).await?;
    let took = began.elapsed();
    // How long it is slow is what is tried: leases end, and beats are judged, meanwhile.
    tokio::time::sleep_until(slow_until).await;
    let told = all(&ground.load.told.all());
    let read = ground.reads.iter().map(|reads| all(&reads.told()));
    let read: Vec<_> = read.collect();
    ways::order(&ground.cluster.ways.etcd, &Order::Pass);
    let made = made_again(&http).await;
    let led_then = ground.cluster.shards(0).await;
    let mut row = ground.heals().await?;
    row.seen.push(format!(
        "CREATE TABLE: {} {} after {took:.1?}",
        changed.status,
        changed.said()
    ));
    promise_untouched(&mut row, &told, &read);
    row.promise(changed.status == 200 || is_retryable(&changed), || {
        format!("a change of the model is made, or gets 503 {RETRYABLE} with Retry-After")
    });
    row.promise(led_then.as_ref().is_ok_and(|then| *then == led), || {
        format!("every shard stays where it is: {led:?}, then {led_then:?}")
    });
    row.promise_done(&made, "changes are made again afterwards");
    row.promise_clear(None);
    row.promise_answered(USUAL);
    row.promise_going_on(RECOVERED);
    Ok(row)
}

pub(crate) async fn away_and_restart(settings: &Settings) -> Result<Row> {
    let mut ground = Ground::start(settings, 3, &["strong"]).await?;
    ground.breaks();
    ground.cluster.metas[0].kill()?;
    ground.cluster.nodes[0].kill()?;
    let gone = ground.cluster.nodes[0].http.base().to_owned();
    ground.cluster.nodes[0] = ground.cluster.setups[0].start().await?;
    ground.load.moved(ground.cluster.doors());
    let started = Instant::now();
    let gone_on = ground.load.gone_on(2, RECOVERED).await;
    let took = started.elapsed();
    ground.cluster.metas[0] = ground.cluster.meta_setups[0].spawn()?;
    let mut row = ground.heals().await?;
    row.seen.push(format!(
        "all writers went on {took:.1?} after its start, without meta"
    ));
    row.promise_done(
        &gone_on,
        "a node that starts without meta serves what it led",
    );
    row.promise_clear(Some(&gone));
    row.promise_going_on(RECOVERED);
    Ok(row)
}
