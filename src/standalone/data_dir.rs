//! Whose data directory it is: one live process, one node of one cluster, a format that this version
//! reads.
//!
//! `LOCK` is held with an exclusive lock for as long as the process lives and holds its pid.
//! `FORMAT` holds the layout's number and the names of cluster and node; it is written once, before
//! anything else. A node that was named by its host keeps that name on another host.

use std::fs::{self, File, OpenOptions};
use std::io::{Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use rustix::fs::{FlockOperation, flock};
use serde::{Deserialize, Serialize};

use crate::config::Config;

/// Layout of the directory that this version writes, and the highest it reads.
const LAYOUT: u32 = 1;

/// A data directory that this process has locked.
#[derive(Debug)]
pub(crate) struct DataDir {
    root: PathBuf,
    node: String,
    _lock: File,
}

#[derive(Debug, Serialize, Deserialize)]
struct Format {
    layout: u32,
    cluster: String,
    node: String,
}

impl DataDir {
    /// Makes the directory if absent, locks and checks it.
    ///
    /// * errors: another process, cluster or node has it, or a newer version made it.
    pub(crate) fn open(config: &Config) -> Result<Self> {
        let root = &config.data_dir;
        let name = || root.display().to_string();
        fs::create_dir_all(root).with_context(|| format!("data_dir {}", name()))?;
        let lock = lock(&root.join("LOCK")).with_context(|| format!("data_dir {}", name()))?;
        let node = check(&root.join("FORMAT"), config);
        let node = node.with_context(|| format!("data_dir {}", name()))?;
        Ok(Self {
            root: root.to_owned(),
            node,
            _lock: lock,
        })
    }

    /// Name of the node whose directory it is.
    pub(crate) fn node(&self) -> &str {
        &self.node
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

fn check(path: &Path, config: &Config) -> Result<String> {
    let (cluster, node) = (&config.cluster, &config.node);
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
            if format.cluster != *cluster {
                bail!(
                    "it belongs to cluster {:?}, configured is {cluster:?}",
                    format.cluster
                );
            }
            if format.node != *node && !config.node_is_host {
                bail!(
                    "it belongs to node {:?}, configured is {node:?}",
                    format.node
                );
            }
            Ok(format.node)
        }
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            let format = Format {
                layout: LAYOUT,
                cluster: cluster.clone(),
                node: node.clone(),
            };
            let staged = path.with_extension("staged");
            let mut file = File::create(&staged)?;
            writeln!(file, "{}", serde_json::to_string(&format)?)?;
            file.sync_all()?;
            fs::rename(&staged, path)?;
            let folder = path.parent().context("the directory has a parent")?;
            File::open(folder)?.sync_all()?;
            Ok(format.node)
        }
        Err(error) => Err(error.into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_directory_has_one_process_one_cluster_one_node_and_a_known_layout() {
        let folder = tempfile::tempdir().unwrap();
        let open = |cluster: &str, node: &str, node_is_host| {
            DataDir::open(&Config {
                cluster: cluster.to_owned(),
                node: node.to_owned(),
                node_is_host,
                data_dir: folder.path().to_owned(),
                ..Config::default()
            })
        };
        let refused = |cluster: &str, node: &str| {
            let error = open(cluster, node, false).unwrap_err();
            format!("{error:#}")
        };
        let held = open("a", "n", false).unwrap();
        assert_eq!(held.node(), "n");
        assert!(refused("a", "n").contains(&format!("pid {}", std::process::id())));
        drop(held);
        assert!(refused("b", "n").contains("cluster \"a\""));
        assert!(refused("a", "m").contains("node \"n\""));
        let moved = open("a", "host", true).unwrap();
        assert_eq!(moved.node(), "n", "a name that was the host's stays");
        drop(moved);
        let format = folder.path().join("FORMAT");
        let newer = "{\"layout\":2,\"cluster\":\"a\",\"node\":\"n\"}";
        fs::write(&format, newer).unwrap();
        assert!(refused("a", "n").contains("layout 2"));
        fs::write(&format, "{").unwrap();
        assert!(refused("a", "n").contains("damaged"));
    }
}
