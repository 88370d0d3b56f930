//! Whose data directory it is: one live process, one cluster, a format that this version reads.
//!
//! `LOCK` is held with an exclusive lock for as long as the process lives and holds its pid.
//! `FORMAT` holds the layout's number and the cluster's name; it is written once, before anything
//! else.

use std::fs::{self, File, OpenOptions};
use std::io::{Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use rustix::fs::{FlockOperation, flock};
use serde::{Deserialize, Serialize};

/// Layout of the directory that this version writes, and the highest it reads.
const LAYOUT: u32 = 1;

/// A data directory that this process has locked.
#[derive(Debug)]
pub(crate) struct DataDir {
    root: PathBuf,
    _lock: File,
}

#[derive(Debug, Serialize, Deserialize)]
struct Format {
    layout: u32,
    cluster: String,
}

impl DataDir {
    /// Makes the directory if absent, locks and checks it.
    pub(crate) fn open(root: &Path, cluster: &str) -> Result<Self> {
        let name = || root.display().to_string();
        fs::create_dir_all(root).with_context(|| format!("data_dir {}", name()))?;
        let lock = lock(&root.join("LOCK")).with_context(|| format!("data_dir {}", name()))?;
        check(&root.join("FORMAT"), cluster).with_context(|| format!("data_dir {}", name()))?;
        Ok(Self {
            root: root.to_owned(),
            _lock: lock,
        })
    }

    /// Path of something inside.
    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.root.join(name)
    }
}

fn lock(path: &Path) -> Result<File> {
    let mut file = OpenOptions::new()
        .create(true)
        .truncate(false)
        .read(true)
        .write(true)
        .open(path)?;
    if flock(&file, FlockOperation::NonBlockingLockExclusive).is_err() {
        let mut holder = String::new();
        file.read_to_string(&mut holder)?;
        bail!("a live process uses it (pid {})", holder.trim());
    }
    file.set_len(0)?;
    file.seek(SeekFrom::Start(0))?;
    writeln!(file, "{}", std::process::id())?;
    Ok(file)
}

fn check(path: &Path, cluster: &str) -> Result<()> {
    match fs::read_to_string(path) {
        Ok(text) => {
            let format: Format =
                serde_json::from_str(&text).context("FORMAT cannot be read, it is damaged")?;
            if format.layout > LAYOUT {
                bail!(
                    "it has layout {}, written by a newer version; this one reads up to {LAYOUT}",
                    format.layout
                );
            }
            if format.cluster != cluster {
                bail!(
                    "it belongs to cluster {:?}, configured is {cluster:?}",
                    format.cluster
                );
            }
            Ok(())
        }
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            let format = Format {
                layout: LAYOUT,
                cluster: cluster.to_owned(),
            };
            let staged = path.with_extension("staged");
            let mut file = File::create(&staged)?;
            writeln!(file, "{}", serde_json::to_string(&format)?)?;
            file.sync_all()?;
            fs::rename(&staged, path)?;
            let folder = path.parent().context("the directory has a parent")?;
            File::open(folder)?.sync_all()?;
            Ok(())
        }
        Err(error) => Err(error.into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_directory_has_one_process_one_cluster_and_a_known_layout() {
        let folder = tempfile::tempdir().unwrap();
        let open = |cluster: &str| DataDir::open(folder.path(), cluster);
        let held = open("a").unwrap();
        let error = format!("{:#}", open("a").unwrap_err());
        assert!(
            error.contains(&format!("pid {}", std::process::id())),
            "{error}"
        );
        drop(held);
        let error = format!("{:#}", open("b").unwrap_err());
        assert!(error.contains("cluster \"a\""), "{error}");
        fs::write(
            folder.path().join("FORMAT"),
            "{\"layout\":2,\"cluster\":\"a\"}",
        )
        .unwrap();
        assert!(format!("{:#}", open("a").unwrap_err()).contains("layout 2"));
        fs::write(folder.path().join("FORMAT"), "{").unwrap();
        assert!(format!("{:#}", open("a").unwrap_err()).contains("damaged"));
    }
}
