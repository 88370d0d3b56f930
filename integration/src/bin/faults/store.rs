//! The bucket is away, or answers with errors.

use std::time::Duration;

use anyhow::{Context, Result};
use integration::cluster::{BUCKET, ways};
use integration::disk;
use integration::proxy::Order;
use integration::servers::racy_s3::RacyS3;
use integration::servers::s3::{self, Product};
use integration::standalone;

use crate::Settings;
use crate::ground::{Ground, plan};
use crate::row::{Row, all};

/// How long a write may take while the bucket is away: it needs the log alone.
const ACKED_WITHIN: Duration = Duration::from_secs(5);

/// How long all may take to go on, and flushes to catch up, once the bucket is back.
const RECOVERED: Duration = Duration::from_secs(30);

pub(crate) async fn away(settings: &Settings) -> Result<Row> {
    let mut ground = Ground::start(settings, 3, &["strong"]).await?;
    ground.breaks();
    ground.cluster.s3.as_mut().context("a bucket")?.kill()?;
    tokio::time::sleep(settings.away).await;
    let told = all(&ground.load.told.all());
    let gateway = ground.cluster.s3.as_mut().context("a bucket")?;
    gateway.restart()?;
    gateway.ready().await?;
    let caught_up = ground.flushed(RECOVERED).await;
    let mut row = ground.heals().await?;
    row.promise(told.failed() == 0 && told.succeeded() > 0, || {
        "every write is acked while the bucket is away".to_owned()
    });
    row.promise_done(&caught_up, "every shard has flushed again");
    row.promise_clear(None);
    row.promise_answered(ACKED_WITHIN);
    row.promise_going_on(RECOVERED);
    Ok(row)
}

/// Bytes of a shard's log that may be in no file, where that is to be reached soon.
const SMALL: &str = "
[flush]
unflushed_bytes = \"48KiB\"
unflushed_bytes_max = \"96KiB\"
age = \"1s\"
compact_every = \"300ms\"
";

pub(crate) async fn full(settings: &Settings) -> Result<Row> {
    let plan = plan(settings, 3, SMALL);
    let mut ground = Ground::start_as(settings, &plan, &["strong"]).await?;
    ground.breaks();
    ground.cluster.s3.as_mut().context("a bucket")?.kill()?;
    tokio::time::sleep(settings.away).await;
    let gateway = ground.cluster.s3.as_mut().context("a bucket")?;
    gateway.restart()?;
    gateway.ready().await?;
    let mut row = ground.heals().await?;
    let told = all(&row.writes);
    let full = told
        .counts
        .keys()
        .any(|said| said.starts_with("503") && said.contains("unflushed"));
    row.promise(full, || {
        "at the cap writes are refused with 503, which names it".to_owned()
    });
    row.promise_clear(None);
    row.promise_answered(ACKED_WITHIN);
    row.promise_going_on(RECOVERED);
    Ok(row)
}

/// Requests out of 100 that fail.
const SHARE: u64 = 20;

/// How long a flush may take while requests fail.
const FLUSHED_WITHIN: Duration = Duration::from_secs(60);

pub(crate) async fn errors(settings: &Settings) -> Result<Row> {
    let mut ground = Ground::start(settings, 3, &["strong"]).await?;
    ground.breaks();
    ways::order(&ground.cluster.ways.s3, &Order::Fail(SHARE));
    tokio::time::sleep(settings.away).await;
    let flushed = ground.flushed(FLUSHED_WITHIN).await;
    ways::order(&ground.cluster.ways.s3, &Order::Pass);
    let mut row = ground.heals().await?;
    let told = all(&row.writes);
    row.promise(told.failed() == 0, || "every write is acked".to_owned());
    row.promise_done(&flushed, "every shard flushes");
    row.promise_clear(None);
    row.promise_answered(ACKED_WITHIN);
    row.promise_going_on(RECOVERED);
    Ok(row)
}

/// What a node says that does not start with that store.
async fn refusal(settings: &Settings, store: String) -> Result<String> {
    let folder = disk::folder("refused")?;
    let mut setup = standalone::Setup::new(&settings.binary, folder.path());
    setup.config = store;
    setup.refusal().await
}

pub(crate) async fn bucket_missing(settings: &Settings) -> Result<Row> {
    let gateway = s3::Setup::new(Product::Versitygw).start().await?;
    let said = refusal(settings, gateway.config(BUCKET)).await?;
    let expected = format!("store.url s3://{BUCKET}: the store's bucket is not there");
    Ok(Row::refused(&said, &expected))
}

pub(crate) async fn not_atomic(settings: &Settings) -> Result<Row> {
    let server = RacyS3::start().await?;
    let folder = disk::folder("keys")?;
    let keys = folder.path().join("keys");
    std::fs::write(
        &keys,
        "aws_access_key_id = any\naws_secret_access_key = any\n",
    )?;
    let config = format!(
        "[store]\nurl = \"s3://{BUCKET}\"\nendpoint = {:?}\ncredentials = \"file:{}\"\n",
        server.endpoint(),
        keys.display()
    );
    let said = refusal(settings, config).await?;
    let expected = format!("store.url s3://{BUCKET}: the store cannot create an object once");
    Ok(Row::refused(&said, &expected))
}
