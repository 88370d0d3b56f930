//! One node as a child process: started on a free port, stopped by its pid, also when this program
//! dies (the child reads its standard input and ends when that closes).

use std::collections::BTreeMap;
use std::fs::File;
use std::io::Write;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;

use crate::http::Http;
use crate::wait;

/// How long a node may take to find that it cannot be started.
const REFUSED_WITHIN: Duration = Duration::from_secs(60);

/// What a process is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Role {
    /// Everything in one.
    #[default]
    Standalone,
    /// A meta node.
    Meta,
    /// A compute node.
    Compute,
}

impl Role {
    fn subcommand(self) -> &'static str {
        match self {
            Self::Standalone => "standalone",
            Self::Meta => "meta",
            Self::Compute => "compute",
        }
    }
}

/// How a node is started.
#[derive(Clone, Debug)]
pub struct Setup {
    /// The binary.
    pub binary: PathBuf,
    /// Directory for its data, configuration and log.
    pub folder: PathBuf,
    /// Lines of configuration besides addresses and directories, as TOML.
    pub config: String,
    /// Port of its public listener; a free one unless set.
    pub port: Option<u16>,
    /// What it is.
    pub role: Role,
    /// Port of its internal listener, where it has one.
    pub internal: Option<u16>,
    /// Port at which others are told to find that listener, where it is another one.
    pub advertised: Option<u16>,
    /// Variables of its environment besides those of this process.
    pub environment: Vec<(&'static str, String)>,
}

/// A running node.
#[derive(Debug)]
pub struct Standalone {
    child: Child,
    /// Its public listener.
    pub http: Http,
    log: PathBuf,
}

/// A port that was free a moment ago.
pub fn free_port() -> Result<u16> {
    Ok(TcpListener::bind("127.0.0.1:0")?.local_addr()?.port())
}

impl Setup {
    /// A node with the defaults in the given directory.
    pub fn new(binary: &Path, folder: &Path) -> Self {
        Self {
            binary: binary.to_owned(),
            folder: folder.to_owned(),
            config: String::new(),
            port: None,
            role: Role::default(),
            internal: None,
            advertised: None,
            environment: Vec::new(),
        }
    }

    /// Where its data lies.
    pub fn data(&self) -> PathBuf {
        self.folder.join("data")
    }

    /// Starts it and waits until it is ready.
    pub async fn start(&self) -> Result<Standalone> {
        let mut node = self.spawn()?;
        match node.ready(Duration::from_secs(60)).await {
            Ok(()) => Ok(node),
            Err(error) => bail!("{error:#}\n{}", node.log_tail()),
        }
    }

    /// What it says of why it does not start.
    ///
    /// * errors: it starts, or ends as if nothing were wrong.
    pub async fn refusal(&self) -> Result<String> {
        let mut node = self.spawn()?;
        let status = node.exited(REFUSED_WITHIN).await?;
        ensure!(!status.success(), "the node ended with {status}");
        Ok(node.log())
    }

    /// State and sight of each thing that `auxo admin doctor` looks at with its configuration, by name, where
    /// no node runs.
    pub fn examined(&self) -> Result<BTreeMap<String, (String, String)>> {
        let file = self.folder.join("doctor.toml");
        let listen = "[listen]\npublic = [\"127.0.0.1:0\"]\ninternal = [\"127.0.0.1:0\"]\n";
        std::fs::write(&file, format!("{}{listen}", self.config))?;
        let output = Command::new(&self.binary)
            .args(["admin", "doctor", "-o", "json"])
            .args(["--url", "http://127.0.0.1:1", "--config"])
            .arg(&file)
            .envs(self.environment.iter().cloned())
            .current_dir(&self.folder)
            .stdin(Stdio::null())
            .output()?;
        // At least the node is missing.
        let said = || String::from_utf8_lossy(&output.stderr).into_owned();
        ensure!(
            output.status.code() == Some(7),
            "{}: {}",
            output.status,
            said()
        );
        let told: Value = serde_json::from_slice(&output.stdout)?;
        let findings = told["findings"].as_array().context("findings")?;
        let text = |found: &Value, name: &str| found[name].as_str().unwrap_or_default().to_owned();
        let of = |found| {
            (
                text(found, "check"),
                (text(found, "state"), text(found, "seen")),
            )
        };
        Ok(findings.iter().map(of).collect())
    }

    /// Starts it and does not wait.
    pub fn spawn(&self) -> Result<Standalone> {
        let port = self.port.map_or_else(free_port, Ok)?;
        let config = self.folder.join("auxo.toml");
        let data = self.data();
        let mut file = File::create(&config).context("configuration")?;
        writeln!(file, "data_dir = {:?}", data.display().to_string())?;
        writeln!(file, "{}", self.config)?;
        writeln!(file, "[listen]\npublic = [\"127.0.0.1:{port}\"]")?;
        if let Some(internal) = self.internal {
            writeln!(file, "internal = [\"127.0.0.1:{internal}\"]")?;
        }
        if let Some(advertised) = self.advertised {
            writeln!(file, "advertised = \"127.0.0.1:{advertised}\"")?;
        }
        let log = self.folder.join("auxo.log");
        let stderr = File::options().create(true).append(true).open(&log)?;
        let child = Command::new(&self.binary)
            .args([self.role.subcommand(), "--stop-with-stdin", "--config"])
            .arg(&config)
            .envs(self.environment.iter().cloned())
            .current_dir(&self.folder)
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(stderr)
            .spawn()
            .with_context(|| self.binary.display().to_string())?;
        let http = Http::new(&format!("http://127.0.0.1:{port}"));
        Ok(Standalone { child, http, log })
    }
}

impl Standalone {
    /// Its process id.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Waits until it serves.
    pub async fn ready(&mut self, within: Duration) -> Result<()> {
        let http = self.http.clone();
        let child = &mut self.child;
        wait::until("node is ready", within, || {
            let exited = child.try_wait();
            let http = http.clone();
            async move {
                if let Some(status) = exited? {
                    return Ok(Err(anyhow::anyhow!("node ended with {status}")));
                }
                http.ready().await.map(Ok)
            }
        })
        .await?
    }

    /// Ends it at once, as a crash would.
    pub fn kill(&mut self) -> Result<()> {
        self.child.kill()?;
        self.child.wait()?;
        Ok(())
    }

    /// Asks it to end and waits.
    pub async fn terminate(&mut self, within: Duration) -> Result<ExitStatus> {
        self.signal(Signal::TERM)?;
        self.exited(within).await
    }

    /// Waits until it has ended.
    pub async fn exited(&mut self, within: Duration) -> Result<ExitStatus> {
        let child = &mut self.child;
        wait::until("node has ended", within, || {
            let status = child.try_wait();
            async move { status?.context("still running") }
        })
        .await
    }

    /// Sends a signal.
    pub fn signal(&self, signal: Signal) -> Result<()> {
        let pid = Pid::from_raw(self.child.id() as i32).context("pid")?;
        kill_process(pid, signal).context("signal")
    }

    /// Its log, and that of nodes that ran in its folder before it.
    pub fn log(&self) -> String {
        std::fs::read_to_string(&self.log).unwrap_or_default()
    }

    /// The end of its log.
    pub fn log_tail(&self) -> String {
        let text = self.log();
        let lines: Vec<&str> = text.lines().collect();
        lines[lines.len().saturating_sub(30)..].join("\n")
    }
}

impl Drop for Standalone {
    fn drop(&mut self) {
        if self.child.kill().is_ok() {
            let _ = self.child.wait();
        }
    }
}
