//! Which server of buckets, how it is brought to this machine and how it is started.
//!
//! versitygw is the one that tests run on unless they need something else: it is small, and keeps objects
//! as files of a directory. MinIO gives a second opinion, and has what the other lacks: TLS, buckets in the
//! server's name, and keys of few rights. It is licensed under the AGPL: a process of its own, never part
//! of anything that is built here.
//!
//! Neither syncs as a database would: what they acknowledged outlives their end, not a loss of power.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::Result;

use super::{Setup, certificates_of, data_of};
use crate::duckdb::cache;
use crate::servers::{MINIO, VERSITYGW, install_alone, run};

/// A server that speaks S3.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Product {
    /// versitygw. Never over TLS: it breaks connections of refused puts there.
    Versitygw,
    /// MinIO.
    Minio,
}

impl Product {
    /// Both.
    pub const ALL: [Self; 2] = [Self::Versitygw, Self::Minio];

    /// Name of its program.
    pub fn name(self) -> &'static str {
        match self {
            Self::Versitygw => "versitygw",
            Self::Minio => "minio",
        }
    }

    /// The pinned release.
    pub fn version(self) -> &'static str {
        match self {
            Self::Versitygw => VERSITYGW,
            Self::Minio => MINIO,
        }
    }

    fn package(self) -> &'static str {
        match self {
            Self::Versitygw => "github.com/versity/versitygw/cmd/versitygw",
            Self::Minio => "github.com/minio/minio",
        }
    }

    /// Its program in the pinned release; built at the first call on a machine.
    ///
    /// * errors: says which program is missing or what failed.
    /// * effects: may take minutes and use the network.
    pub async fn install(self) -> Result<PathBuf> {
        let (name, version) = (self.name(), self.version());
        let _alone = install_alone(name).await?;
        let folder = cache().join(format!("{name}-{version}"));
        let binary = folder.join(name);
        if binary.exists() {
            return Ok(binary);
        }
        run(Command::new("go").arg("version"))?;
        eprintln!(
            "building {name} {version} from the Go module proxy into {}: some minutes",
            folder.display()
        );
        let part = folder.with_extension(format!("part-{}", std::process::id()));
        run(Command::new("go")
            .args(["install", "-trimpath", "-ldflags=-s -w"])
            .arg(format!("{}@v{version}", self.package()))
            .env("GOBIN", &part)
            .env("CGO_ENABLED", "0")
            // Both ask for a newer Go than some distributions have: Go fetches that itself then.
            .env("GOTOOLCHAIN", "auto"))?;
        std::fs::create_dir_all(&folder)?;
        std::fs::rename(part.join(name), &binary)?;
        std::fs::remove_dir_all(&part)?;
        Ok(binary)
    }

    /// The command that serves what lies in `place`.
    pub(super) fn command(self, binary: &Path, place: &Path, port: u16, setup: &Setup) -> Command {
        let mut command = Command::new(binary);
        let address = format!("127.0.0.1:{port}");
        match self {
            Self::Versitygw => command
                .args(["--port", &address])
                .args(["--quiet", "--keep-alive", "--iam-cache-ttl", "1"])
                .arg("--iam-dir")
                .arg(place.join("iam"))
                // Without this flag a LIST shows names of objects that are being written.
                .args(["posix", "--disableotmp"]),
            Self::Minio => {
                // A put whose client stalls holds its key for as long as this.
                command.env("MINIO_IDLE_TIMEOUT", "5s");
                for (name, value) in [("CI_CD", "1"), ("BROWSER", "off"), ("UPDATE", "off")] {
                    command.env(format!("MINIO_{name}"), value);
                }
                if let Some(domain) = &setup.domain {
                    command.env("MINIO_DOMAIN", domain);
                }
                command
                    .args(["server", "--quiet", "--address", &address])
                    .arg("--certs-dir")
                    .arg(certificates_of(place))
            }
        };
        command.arg(data_of(place));
        command
    }

    /// Variables of its process that name its root.
    pub(super) fn root_variables(self) -> [&'static str; 2] {
        match self {
            Self::Versitygw => ["ROOT_ACCESS_KEY", "ROOT_SECRET_KEY"],
            Self::Minio => ["MINIO_ROOT_USER", "MINIO_ROOT_PASSWORD"],
        }
    }
}
