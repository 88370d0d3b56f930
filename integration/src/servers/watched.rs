//! A process that does not outlive the program that started it.
//!
//! 1. The process gets a group of its own, so that an interrupt on the terminal reaches only us.
//! 2. Beside it runs a shell that waits for a line on a pipe whose other end only we hold. When we end
//!    in whatever way, also by SIGKILL, the pipe closes without a line and the shell kills the
//!    process, also a stopped one.
//! 3. We reap the process before we send the line, so the shell never kills a number that has been
//!    given to somebody else.

use std::fs::File;
use std::io::Write;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::Duration;

use anyhow::{Context, Result};
use rustix::process::{Pid, Signal, kill_process};

use crate::wait;

/// What the shell runs: `$1` is killed unless a line comes.
const WATCH: &str = "read -r _ || kill -9 \"$1\"";

/// Starts the shell that kills the process once the pipe closes without a line.
fn watch(pid: u32, pipe: Stdio) -> std::io::Result<Child> {
    Command::new("sh")
        .args(["-c", WATCH, "watcher"])
        .arg(pid.to_string())
        .stdin(pipe)
        .stdout(Stdio::null())
        .process_group(0)
        .spawn()
}

/// A process, its log and its watcher.
#[derive(Debug)]
pub struct Watched {
    child: Child,
    watcher: Child,
    log: PathBuf,
}

impl Watched {
    /// Starts the command with standard output and error appended to the log.
    pub fn start(command: &mut Command, log: &Path) -> Result<Self> {
        let out = File::options().create(true).append(true).open(log)?;
        let program = command.get_program().to_string_lossy().into_owned();
        let mut child = command
            .stdin(Stdio::null())
            .stdout(out.try_clone()?)
            .stderr(out)
            .process_group(0)
            .spawn()
            .with_context(|| program)?;
        let watcher = match watch(child.id(), Stdio::piped()) {
            Ok(watcher) => watcher,
            Err(error) => {
                child.kill()?;
                child.wait()?;
                return Err(error).context("sh");
            }
        };
        Ok(Self {
            child,
            watcher,
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

    /// Sends a signal.
    pub fn signal(&self, signal: Signal) -> Result<()> {
        let pid = Pid::from_raw(self.child.id() as i32).context("pid")?;
        kill_process(pid, signal).context("signal")
    }

    /// Ends it at once, as a crash would.
    pub fn kill(&mut self) -> Result<()> {
        self.child.kill()?;
        self.child.wait()?;
        Ok(())
    }

    /// Waits until it has ended.
    pub async fn exited(&mut self, within: Duration) -> Result<ExitStatus> {
        let child = &mut self.child;
        wait::until("the server has ended", within, || {
            let status = child.try_wait();
            async move { status?.context("still running") }
        })
        .await
    }

    /// The end of its log.
    pub fn log_tail(&self) -> String {
        let text = std::fs::read(&self.log).unwrap_or_default();
        let text = String::from_utf8_lossy(&text);
        let lines: Vec<&str> = text.lines().collect();
        lines[lines.len().saturating_sub(30)..].join("\n")
    }
}

impl Drop for Watched {
    fn drop(&mut self) {
        let ended = self.kill().is_ok();
        let told = match (&mut self.watcher.stdin, ended) {
            (Some(stdin), true) => stdin.write_all(b"ended\n").is_ok(),
            _ => false,
        };
        if !told {
            // A closed pipe has it kill what we could not.
            self.watcher.stdin = None;
        }
        let _ = self.watcher.wait();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn there(pid: u32) -> bool {
        let stat = std::fs::read_to_string(format!("/proc/{pid}/stat"));
        stat.is_ok_and(|stat| !stat.contains(") Z "))
    }

    #[test]
    fn a_process_ends_with_its_handle_and_keeps_its_log() {
        let folder = crate::disk::folder("watched").unwrap();
        let log = folder.path().join("log");
        let mut command = Command::new("sh");
        command.args(["-c", "echo here; exec sleep 600"]);
        let mut process = Watched::start(&mut command, &log).unwrap();
        assert!(process.ended().unwrap().is_none());
        while process.log_tail() != "here" {
            std::thread::yield_now();
        }
        process.signal(Signal::STOP).unwrap();
        let pid = process.pid();
        drop(process);
        assert!(!there(pid));
    }

    #[tokio::test]
    async fn a_process_ends_when_its_owner_is_killed() {
        let mut doomed = Command::new("sleep").arg("600").spawn().unwrap();
        let pid = doomed.id();
        // The owner holds the other end of the pipe as its standard output, and nobody else does.
        let mut owner = Command::new("sleep");
        let mut owner = owner.arg("600").stdout(Stdio::piped()).spawn().unwrap();
        let pipe = owner.stdout.take().unwrap();
        let mut watcher = watch(pid, pipe.into()).unwrap();
        assert!(doomed.try_wait().unwrap().is_none());
        owner.kill().unwrap();
        owner.wait().unwrap();
        let within = Duration::from_secs(20);
        let status = wait::until("the process is killed", within, || {
            let status = doomed.try_wait();
            async move { status?.context("still running") }
        });
        assert!(!status.await.unwrap().success());
        assert!(!there(pid));
        watcher.wait().unwrap();
    }
}
