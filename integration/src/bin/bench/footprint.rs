//! Bytes on the disk of a node that has ended in good order: everything is in files.

use std::path::{Path, PathBuf};

use anyhow::Result;
use integration::disk;
use integration::standalone::Setup;
use serde_json::json;

use crate::data::Data;
use crate::measure;
use crate::report::Report;

/// Weighs the node that ended in this folder.
pub(crate) fn run(binary: &Path, folder: &Path, data: &Data, report: &mut Report) -> Result<()> {
    let home = Setup::new(binary, folder).data();
    let store = home.join("store");
    let (bytes, blocks) = (disk::bytes(&store)?, measure::blocks_bytes(&home)?);
    let files = files(&store)?;
    let a_row = |bytes: u64| bytes as f64 / data.rows as f64;
    report.add(
        "disk",
        json!({
            "store_bytes": bytes, "store_files": files, "store_bytes_per_row": a_row(bytes),
            "all_blocks_bytes": blocks, "all_bytes_per_row": a_row(blocks),
        }),
    );
    report.line(format!(
        "disk: {:.2} bytes a row in the store ({bytes} in {files} files), {:.2} with the log and everything else by blocks",
        a_row(bytes),
        a_row(blocks),
    ));
    Ok(())
}

fn files(folder: &Path) -> Result<usize> {
    let mut count = 0;
    let mut folders: Vec<PathBuf> = vec![folder.to_owned()];
    while let Some(at) = folders.pop() {
        for entry in std::fs::read_dir(&at)? {
            let path = entry?.path();
            match path.is_dir() {
                true => folders.push(path),
                false => count += 1,
            }
        }
    }
    Ok(count)
}
