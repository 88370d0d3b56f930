//! Temporary directories for data, on a real disk where there is one.

use std::path::PathBuf;

use anyhow::{Context, Result};
use tempfile::TempDir;

/// A directory that is removed when dropped.
///
/// * `name`: begins its name, so that what a killed run leaves behind can be told.
pub fn folder(name: &str) -> Result<TempDir> {
    let builder = &mut tempfile::Builder::new();
    builder
        .prefix(&format!("auxo-{name}-"))
        .tempdir()
        .context("temporary directory")
}

/// Bytes that a directory's files take, by what they hold.
pub fn bytes(folder: &std::path::Path) -> Result<u64> {
    let mut total = 0;
    let mut folders: Vec<PathBuf> = vec![folder.to_owned()];
    while let Some(at) = folders.pop() {
        for entry in std::fs::read_dir(&at).with_context(|| at.display().to_string())? {
            let entry = entry?;
            match entry.file_type()?.is_dir() {
                true => folders.push(entry.path()),
                false => total += entry.metadata()?.len(),
            }
        }
    }
    Ok(total)
}
