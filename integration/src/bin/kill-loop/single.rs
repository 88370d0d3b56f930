//! One process that is killed and started again, and its disk as losses of power would leave it.

use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use integration::http::Http;
use integration::load::{CONFIG, Load, TABLE, Verdict};
use integration::standalone::{Setup, Standalone};
use integration::{binary, disk, power_loss};
use tokio::task::JoinSet;
use tokio::time::Instant;

use crate::Arguments;

/// Columns that are added in one round: fifty rounds must not come near the most that a table may have.
const COLUMNS: u32 = 15;

/// All rounds; before them, in this process, some seconds of work on a recorded disk, which is then
/// opened as a loss of power would have left it, at as many moments as wanted.
pub(crate) async fn run(arguments: &Arguments) -> Result<Verdict> {
    if arguments.images > 0 {
        images(arguments.images, arguments.seed).await?;
    }
    let mut verdict = Verdict::default();
    if arguments.rounds == 0 {
        return Ok(verdict);
    }
    let folder = disk::folder("kill-loop")?;
    let mut setup = Setup::new(&binary::auxo(arguments.auxo.as_deref())?, folder.path());
    setup.config = CONFIG.to_owned();
    let mut node = setup.start().await?;
    let load = Load::new(vec![node.http.clone()], arguments.writers, arguments.seed);
    load.create("").await?;
    let (mut opens, mut compacted, mut columns) = (Vec::new(), 0, 0);
    for round in 1..=arguments.rounds {
        let writers = load.start_round(round);
        let mut widening = JoinSet::new();
        widening.spawn(widen(node.http.clone(), round));
        tokio::time::sleep(Duration::from_millis(300 + load.dice.below(1_500))).await;
        compacted += counted(&node, "auxo_compaction_files_total{").await?;
        node.kill()?;
        columns += widening.join_next().await.context("columns")??;
        let began = Instant::now();
        node = setup
            .start()
            .await
            .with_context(|| format!("start after kill {round}"))?;
        opens.push(began.elapsed());
        load.moved(vec![node.http.clone()]);
        load.stop(writers, round).await?;
        let found = load.judge(&node.http).await?;
        println!(
            "round {round}: {} rows acked, lost {}, doubled {}, open {:.0} ms",
            load.acked().iter().sum::<u64>(),
            found.lost,
            found.doubled,
            opens[opens.len() - 1].as_secs_f64() * 1e3,
        );
        verdict.add(found);
    }
    let files = counted(&node, "auxo_store_files{").await?;
    let made = counted(&node, "auxo_flush_manifest{").await?;
    println!("files: {files} now, {compacted} compacted, manifests: {made}");
    let (changes, deletes) = load.rewritten();
    println!("rows overwritten and deleted: {changes} changes, {deletes} of them deletes");
    println!("columns added beside them: {columns}");
    if made <= u64::from(arguments.rounds) || compacted == 0 || deletes == 0 || columns == 0 {
        bail!(
            "{made} manifests in {} rounds, {compacted} files compacted, {deletes} deletes, {columns} columns: \
             kills met not all of it",
            arguments.rounds
        );
    }
    let ended = node.terminate(Duration::from_secs(60)).await?;
    ensure!(
        ended.success(),
        "the node ended with {ended}: {}",
        node.log_tail()
    );
    // The disk is well: nothing may keep rows out of files.
    let log = node.log();
    let failed = log.lines().find(|line| line.contains("flush failed"));
    ensure!(failed.is_none(), "{}", failed.unwrap_or_default());
    opens.sort();
    let at = |share: f64| opens[((opens.len() - 1) as f64 * share) as usize].as_secs_f64() * 1e3;
    println!(
        "open: p50 {:.0} ms, p95 {:.0} ms, most {:.0} ms",
        at(0.5),
        at(0.95),
        at(1.0)
    );
    Ok(verdict)
}

/// Adds columns to the table, one after the other, until the node is gone; how many.
async fn widen(node: Http, round: u32) -> u32 {
    for added in 0..COLUMNS {
        let column = format!("c{round}_{added}");
        let alter = format!("ALTER TABLE {TABLE} ADD COLUMN {column} BIGINT");
        match node.sql_answer(&alter).await {
            Ok(answer) if answer.status == 200 => {}
            _ => return added,
        }
    }
    COLUMNS
}

/// Sum of a metric over all shards.
///
/// * `name`: with the brace that follows it.
async fn counted(node: &Standalone, name: &str) -> Result<u64> {
    let request = node.http.request(reqwest::Method::GET, "/metrics");
    let page = node.http.send(request).await?.body;
    let lines = page.lines().filter(|line| line.starts_with(name));
    let values = lines.filter_map(|line| line.rsplit(' ').next()?.parse::<f64>().ok());
    Ok(values.sum::<f64>() as u64)
}

async fn images(images: u64, seed: u64) -> Result<()> {
    let folder = disk::folder("power-loss")?;
    let verdict = power_loss::run(images, seed, folder.path()).await?;
    println!(
        "recorded {} changes of files: {} rows acked, {} manifests",
        verdict.steps, verdict.acked, verdict.manifests
    );
    println!("lost={} images={}", verdict.lost, verdict.images);
    match (verdict.lost, verdict.doubled) {
        (0, 0) => Ok(()),
        (_, doubled) => bail!("rows are missing, or stand twice: {doubled}"),
    }
}
