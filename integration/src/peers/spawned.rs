//! A process that writes to a log and does not outlive its owner.
//!
//! It is killed by its pid when dropped. Where the system has `setpriv`, the kernel also ends it when
//! the thread that started it is gone, so that a killed benchmark leaves nothing running.

use std::ffi::OsString;
use std::fs::File;
use std::io::{self, ErrorKind};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};

use anyhow::{Context, Result};

/// A program and its arguments.
pub type Words = Vec<OsString>;

/// A process and its log.
#[derive(Debug)]
pub struct Spawned {
    child: Child,
    log: PathBuf,
}

impl Spawned {
    /// Starts the command with standard output and error appended to the log.
    pub fn start(command: &[OsString], log: &Path) -> Result<Self> {
        let watched: Words = ["setpriv", "--pdeathsig", "KILL", "--"]
            .map(OsString::from)
            .into();
        let started = match spawn(&[&watched, command].concat(), log) {
            Err(error) if error.kind() == ErrorKind::NotFound => spawn(command, log),
            started => started,
        };
        let child = started.with_context(|| format!("{command:?}"))?;
        Ok(Self {
            child,
            log: log.to_owned(),
        })
    }

    /// Its process id.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// How it ended, if it did.
    pub fn ended(&mut self) -> Result<Option<ExitStatus>> {
        Ok(self.child.try_wait()?)
    }

    /// The end of its log.
    pub fn log_tail(&self) -> String {
        let text = std::fs::read(&self.log).unwrap_or_default();
        let text = String::from_utf8_lossy(&text);
        let lines: Vec<&str> = text.lines().collect();
        lines[lines.len().saturating_sub(20)..].join("\n")
    }
}

impl Drop for Spawned {
    fn drop(&mut self) {
        if self.child.kill().is_ok() {
            let _ = self.child.wait();
        }
    }
}

fn spawn(command: &[OsString], log: &Path) -> io::Result<Child> {
    let log = File::options().create(true).append(true).open(log)?;
    let [program, arguments @ ..] = command else {
        return Err(ErrorKind::InvalidInput.into());
    };
    Command::new(program)
        .args(arguments)
        .stdin(Stdio::null())
        .stdout(log.try_clone()?)
        .stderr(log)
        .spawn()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_process_ends_with_its_owner_and_keeps_its_log() {
        let folder = crate::disk::folder("spawned").unwrap();
        let log = folder.path().join("log");
        let words = ["sh", "-c", "echo here; exec sleep 600"].map(OsString::from);
        let mut process = Spawned::start(&words, &log).unwrap();
        assert!(process.ended().unwrap().is_none());
        let stat = PathBuf::from(format!("/proc/{}/stat", process.pid()));
        assert!(stat.exists());
        let said = crate::wait::until("its log", std::time::Duration::from_secs(10), || {
            let tail = process.log_tail();
            async move { (tail == "here").then_some(()).context(tail) }
        });
        said.await.unwrap();
        drop(process);
        assert!(!stat.exists());
    }
}
