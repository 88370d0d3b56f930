//! The two files that let a node start without meta: who it is with what it led, and the topology.
//!
//! Layout: docs/formats/node-state.md. Each is written whole to another name, synced and renamed, so
//! that a crash leaves the old one or the new one.
//!
//! Never here: when they are written.

use std::io::Write;
use std::path::{Path, PathBuf};

use auxo_proto::topology::Topology;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use xxhash_rust::xxh3::xxh3_64;

use super::verbs::OpenShard;

/// The version that is written, and the newest that is read.
const VERSION: u32 = 1;

/// Why a file cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum KeptError {
    /// The disk.
    #[error("{path}: {error}")]
    Io {
        /// Name of the file.
        path: String,
        /// What happened.
        error: std::io::Error,
    },
    /// It is not what was written.
    #[error("{path} is damaged: {detail}")]
    Damaged {
        /// Name of the file.
        path: String,
        /// What is wrong.
        detail: String,
    },
    /// It was written by a newer version.
    #[error("{path} has version {found}, this program reads up to {VERSION}")]
    Version {
        /// Name of the file.
        path: String,
        /// Its version.
        found: u32,
    },
}

/// Who the node is and what it led.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct KeptNode {
    /// Its id; 0 if it never had one.
    pub node: u64,
    /// UUID of its cluster; empty if it never joined one.
    pub cluster: String,
    /// The highest reign it has taken orders from: restore generation and revision.
    pub reign: (u64, u64),
    /// Addresses of the meta nodes.
    pub meta: Vec<String>,
    /// Shards it leads, as they were last opened.
    pub opens: Vec<OpenShard>,
}

/// First line of a file.
#[derive(Debug, Serialize, Deserialize)]
struct Header {
    format: String,
    version: u32,
    /// XXH3-64 of the body, 16 hexadecimal digits.
    xxh3: String,
}

/// `node.json`.
#[derive(Clone, Debug)]
pub struct NodeFile(PathBuf);

impl NodeFile {
    /// The file in that directory.
    pub fn new(directory: &Path) -> Self {
        Self(directory.join("node.json"))
    }

    /// What is in it; `None` if there is no file.
    pub async fn read(&self) -> Result<Option<KeptNode>, KeptError> {
        read(&self.0, "auxo-node").await
    }

    /// Writes it; durable when it returns.
    pub async fn write(&self, kept: &KeptNode) -> Result<(), KeptError> {
        write(&self.0, "auxo-node", kept).await
    }
}

/// `topology.json`.
#[derive(Clone, Debug)]
pub struct TopologyFile(PathBuf);

impl TopologyFile {
    /// The file in that directory.
    pub fn new(directory: &Path) -> Self {
        Self(directory.join("topology.json"))
    }

    /// What is in it; `None` if there is no file.
    pub async fn read(&self) -> Result<Option<Topology>, KeptError> {
        read(&self.0, "auxo-topology").await
    }

    /// Writes it; durable when it returns.
    pub async fn write(&self, topology: &Topology) -> Result<(), KeptError> {
        write(&self.0, "auxo-topology", topology).await
    }
}

async fn read<T: DeserializeOwned>(path: &Path, format: &str) -> Result<Option<T>, KeptError> {
    match tokio::fs::read(path).await {
        Ok(bytes) => decode(&name(path), format, &bytes).map(Some),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(KeptError::Io {
            path: name(path),
            error,
        }),
    }
}

async fn write<T: Serialize>(path: &Path, format: &str, value: &T) -> Result<(), KeptError> {
    let bytes = encode(format, value);
    let target = path.to_owned();
    let written = tokio::task::spawn_blocking(move || replace(&target, &bytes)).await;
    let written = written.unwrap_or_else(|error| Err(std::io::Error::other(error)));
    written.map_err(|error| KeptError::Io {
        path: name(path),
        error,
    })
}

fn replace(path: &Path, bytes: &[u8]) -> std::io::Result<()> {
    let directory = path.parent().unwrap_or(Path::new("."));
    std::fs::create_dir_all(directory)?;
    let next = path.with_extension("next");
    let mut file = std::fs::File::create(&next)?;
    file.write_all(bytes)?;
    file.sync_all()?;
    std::fs::rename(&next, path)?;
    std::fs::File::open(directory)?.sync_all()
}

fn encode<T: Serialize>(format: &str, value: &T) -> Vec<u8> {
    let body = serde_json::to_vec(value)
        .unwrap_or_else(|error| unreachable!("kept values are plain data: {error}"));
    let header = Header {
        format: format.to_owned(),
        version: VERSION,
        xxh3: format!("{:016x}", xxh3_64(&body)),
    };
    let mut bytes = serde_json::to_vec(&header)
        .unwrap_or_else(|error| unreachable!("a header is plain data: {error}"));
    bytes.push(b'\n');
    bytes.extend(body);
    bytes.push(b'\n');
    bytes
}

fn decode<T: DeserializeOwned>(path: &str, format: &str, bytes: &[u8]) -> Result<T, KeptError> {
    let damaged = |detail: String| KeptError::Damaged {
        path: path.to_owned(),
        detail,
    };
    let mut lines = bytes.splitn(2, |byte| *byte == b'\n');
    let header = lines.next().unwrap_or_default();
    let header: Header =
        serde_json::from_slice(header).map_err(|error| damaged(error.to_string()))?;
    if header.format != format {
        return Err(damaged(format!("it is {}, not {format}", header.format)));
    }
    if header.version > VERSION {
        return Err(KeptError::Version {
            path: path.to_owned(),
            found: header.version,
        });
    }
    let body = lines.next().and_then(|body| body.strip_suffix(b"\n"));
    let body = body.ok_or_else(|| damaged("it is cut off".to_owned()))?;
    if header.xxh3 != format!("{:016x}", xxh3_64(body)) {
        return Err(damaged("its checksum does not fit".to_owned()));
    }
    serde_json::from_slice(body).map_err(|error| damaged(error.to_string()))
}

fn name(path: &Path) -> String {
    let name = path.file_name().unwrap_or(path.as_os_str());
    name.to_string_lossy().into_owned()
}

#[cfg(test)]
mod tests;
