//! Meta is away.

use std::time::Duration;

use anyhow::{Result, ensure};
use integration::load::TABLE;
use integration::wait;
use tokio::time::Instant;

use crate::Settings;
use crate::ground::{Ground, SHARDS};
use crate::row::{Row, all};

/// How long a write or a read may take that has nothing to do with meta.
const USUAL: Duration = Duration::from_secs(5);

/// How long all may take to be as before once meta is back.
const RECOVERED: Duration = Duration::from_secs(30);

/// What is said of a change of the model meanwhile.
const RETRYABLE: &str = "META_UNAVAILABLE";

pub(crate) async fn away(settings: &Settings) -> Result<Row> {
    let mut ground = Ground::start(settings, 3, &["strong"]).await?;
    let cut_before = ground.first_offsets().await?;
    ground.breaks();
    ground.cluster.metas[0].kill()?;
    let killed = Instant::now();
    let http = ground.load.node();
    let create = "CREATE TABLE later (host STRING TAG, ts TIMESTAMP(9) NOT NULL, n BIGINT, TIMESTAMP KEY (ts))";
    let line = format!("{TABLE},writer=nobody unknown=1i 1700000000000000000\n");
    let (changed, column) = tokio::join!(http.sql_answer(create), http.write("main", line));
    let (changed, column) = (changed?, column?);
    tokio::time::sleep_until(killed + settings.meta_away).await;
    let flushed = ground.flushed(RECOVERED).await;
    let cut = ground.first_offsets().await?;
    let told = all(&ground.load.told.all());
    let read: Vec<_> = ground
        .reads
        .iter()
        .map(|reads| all(&reads.told()))
        .collect();
    ground.cluster.metas[0] = ground.cluster.meta_setups[0].spawn()?;
    let cluster = &ground.cluster;
    cluster.served(SHARDS, RECOVERED).await?;
    let made = wait::until("a table is made again", RECOVERED, || async {
        let answer = http.sql_answer(create).await?;
        // The one that was told to try again may have been carried out since.
        ensure!(
            matches!(answer.status, 200 | 409),
            "{} {}",
            answer.status,
            answer.body
        );
        Ok(())
    });
    let made = made.await;
    let mut row = ground.heals().await?;
    row.seen.push(format!(
        "CREATE TABLE: {} {}; a new column: {} {}",
        changed.status,
        changed.said(),
        column.status,
        column.said()
    ));
    row.promise(told.failed() == 0 && told.succeeded() > 0, || {
        "every write is acked without meta".to_owned()
    });
    row.promise(read.iter().all(|read| read.failed() == 0), || {
        "every read is answered without meta".to_owned()
    });
    row.promise_done(&flushed, "every shard flushes without meta");
    let further = cut
        .iter()
        .zip(&cut_before)
        .filter(|(now, before)| now > before);
    let further = further.count();
    row.promise(further == cut.len(), || {
        format!(
            "every log is truncated further without meta: {further} of {}",
            cut.len()
        )
    });
    let retryable =
        changed.status == 503 && changed.code() == RETRYABLE && changed.retry_after_s.is_some();
    row.promise(retryable, || {
        format!("a change of the model gets 503 {RETRYABLE} with Retry-After")
    });
    let names = column.status == 503 && column.retry_after_s.is_some();
    row.promise(names && column.body.contains("unknown"), || {
        "a new column gets a 503 with Retry-After that names it".to_owned()
    });
    row.promise_done(&made, "changes are made again once meta is back");
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
