//! The job on one process: its table is made by the first line.

use std::path::Path;
use std::time::Duration;

use anyhow::{Result, bail};
use integration::disk;
use integration::standalone::Setup;
use tokio::time::Instant;

use crate::Equal;
use crate::data::Data;
use crate::oracle::Oracle;

/// How long the node may take to end.
const STOPPED_WITHIN: Duration = Duration::from_secs(60);

pub(crate) async fn run(
    binary: &Path,
    folder: &Path,
    data: &Data,
    oracle: &Oracle,
) -> Result<Equal> {
    let setup = Setup::new(binary, folder);
    let mut node = setup.start().await?;
    data.load(&[&node.http]).await?;
    let before = oracle.equal(&[&node.http], 0).await?;
    let began = Instant::now();
    let status = node.terminate(STOPPED_WITHIN).await?;
    println!(
        "stopped in {:.1} s with {status}",
        began.elapsed().as_secs_f64()
    );
    if !status.success() {
        bail!("the node ended with {status}");
    }
    let began = Instant::now();
    let node = setup.start().await?;
    println!("started again in {:.1} s", began.elapsed().as_secs_f64());
    let after = oracle.equal(&[&node.http], 0).await?;
    let bytes = disk::bytes(&setup.data().join("store"))?;
    println!(
        "files: {bytes} bytes, {:.2} a row",
        bytes as f64 / data.rows as f64
    );
    Ok(Equal { before, after })
}
