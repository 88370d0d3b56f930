//! etcd, as its makers build it: one member, or three.
//!
//! 1. `install` builds it from the Go module proxy into the cache, once a machine. Its own module
//!    replaces parts of itself, which `go install` refuses, so a module that only requires it is written
//!    and built.
//! 2. Members get free ports, a folder and names of their own. They are ready when each is healthy and
//!    knows itself by its name, so that another etcd on the same port is never taken for it.
//!
//! Never here: a key, or TLS.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use auxo_proto::random::Random;
use etcd_client::Client;
use rustix::process::Signal;
use tempfile::TempDir;

use super::watched::Watched;
use super::{ETCD, install_alone, ports, run};
use crate::duckdb::cache;
use crate::{disk, wait};

/// The package of the server.
const PACKAGE: &str = "go.etcd.io/etcd/server/v3";

/// How long members may take until they are ready, on a machine that has other things to do.
const READY_WITHIN: Duration = Duration::from_secs(60);

/// How long one may take to stop before it is killed.
const STOPPED_WITHIN: Duration = Duration::from_secs(10);

/// How long one question of ours may take.
const ANSWER_TIME: Duration = Duration::from_secs(5);

/// How often other ports are tried when somebody else was faster.
const ATTEMPTS: usize = 3;

/// The server of the pinned release; built at the first call on a machine.
///
/// * errors: says which program is missing or what failed.
/// * effects: may take minutes and use the network.
pub async fn install() -> Result<PathBuf> {
    let _alone = install_alone("etcd").await?;
    let folder = cache().join(format!("etcd-{ETCD}"));
    let binary = folder.join("etcd");
    if binary.exists() {
        return Ok(binary);
    }
    run(Command::new("go").arg("version"))?;
    eprintln!(
        "building etcd {ETCD} from the Go module proxy into {}: some minutes",
        folder.display()
    );
    let part = folder.with_extension(format!("part-{}", std::process::id()));
    std::fs::create_dir_all(&part).with_context(|| part.display().to_string())?;
    let module = format!("module etcd\n\ngo 1.26\n\nrequire {PACKAGE} v{ETCD}\n");
    std::fs::write(part.join("go.mod"), module)?;
    run(Command::new("go")
        .current_dir(&part)
        .args(["build", "-mod=mod", "-trimpath", "-ldflags=-s -w"])
        .args(["-o", "etcd", PACKAGE])
        .env("CGO_ENABLED", "0")
        // It asks for a newer Go than some distributions have: Go fetches that itself then.
        .env("GOTOOLCHAIN", "auto"))?;
    std::fs::create_dir_all(&folder)?;
    std::fs::rename(part.join("etcd"), &binary)?;
    std::fs::remove_dir_all(&part)?;
    Ok(binary)
}

/// One member, running or not.
struct Member {
    name: String,
    client: u16,
    peer: u16,
    place: PathBuf,
    process: Option<Watched>,
}

impl Member {
    fn endpoint(&self) -> String {
        format!("http://127.0.0.1:{}", self.client)
    }

    fn peer_url(&self) -> String {
        format!("http://127.0.0.1:{}", self.peer)
    }

    /// Whether it is healthy and itself.
    async fn answers(&self, http: &reqwest::Client) -> Result<()> {
        let endpoint = self.endpoint();
        let health = http.get(format!("{endpoint}/health")).send().await?;
        let told = health.text().await?;
        if !told.contains("\"health\":\"true\"") {
            bail!("{endpoint}/health says {told}");
        }
        let asked = async {
            let client = Client::connect([&endpoint], None).await?;
            client.cluster_client().member_list().await
        };
        let listed = tokio::time::timeout(ANSWER_TIME, asked).await??;
        let mut names = listed.members().iter().map(|member| member.name());
        if !names.any(|name| name == self.name) {
            bail!("{endpoint} is not of this cluster");
        }
        Ok(())
    }
}

/// Members of one cluster and their files; both end with it, but for the files when a test panics.
pub struct Etcd {
    binary: PathBuf,
    token: String,
    members: Vec<Member>,
    http: reqwest::Client,
    /// `None` once the files are to stay.
    folder: Option<TempDir>,
}

impl Etcd {
    /// Starts one member or three without a key and waits until they are ready; installs etcd at the
    /// first call on a machine.
    ///
    /// * errors: end with the last lines of each member's log.
    pub async fn start(members: usize) -> Result<Self> {
        if !matches!(members, 1 | 3) {
            bail!("a cluster has 1 or 3 members");
        }
        // Building blocks for minutes, and other tests run on this thread.
        let binary = install().await?;
        let mut attempt = 1;
        loop {
            let mut etcd = Self::new(&binary, members)?;
            let Err(error) = etcd.start_all().await else {
                return Ok(etcd);
            };
            let log = etcd.log_tail();
            if attempt == ATTEMPTS || !log.contains("address already in use") {
                let kept = etcd.keep_files();
                bail!("{error:#}\n{log}\nfiles are kept in {kept}");
            }
            attempt += 1;
        }
    }

    fn new(binary: &Path, count: usize) -> Result<Self> {
        let random = Random::from_system();
        let folder = disk::folder("etcd")?;
        let token = format!("{:016x}", random.next_u64());
        let mut members = Vec::new();
        for index in 0..count {
            let [client, peer] = ports::free()?;
            let name = format!("e{index}-{token}");
            let place = folder.path().join(format!("e{index}"));
            std::fs::create_dir(&place)?;
            members.push(Member {
                name,
                client,
                peer,
                place,
                process: None,
            });
        }
        Ok(Self {
            binary: binary.to_owned(),
            token,
            members,
            http: reqwest::Client::builder()
                .no_proxy()
                .timeout(ANSWER_TIME)
                .build()?,
            folder: Some(folder),
        })
    }

    async fn start_all(&mut self) -> Result<()> {
        for member in 0..self.members.len() {
            self.restart(member)?;
        }
        self.ready().await
    }

    /// Where clients find each member, as URLs; they stay the same over restarts.
    pub fn endpoints(&self) -> Vec<String> {
        self.members.iter().map(Member::endpoint).collect()
    }

    /// Starts a member that does not run, on the same ports and data; does not wait.
    pub fn restart(&mut self, member: usize) -> Result<()> {
        let all = self.members.iter();
        let all = all.map(|one| format!("{}={}", one.name, one.peer_url()));
        let all = all.collect::<Vec<_>>().join(",");
        let member = &mut self.members[member];
        if member.process.is_some() {
            bail!("{} runs already", member.name);
        }
        let (client, peer) = (member.endpoint(), member.peer_url());
        let mut command = Command::new(&self.binary);
        command
            .arg(format!("--name={}", member.name))
            .arg("--data-dir")
            .arg(member.place.join("data"))
            .arg(format!("--listen-client-urls={client}"))
            .arg(format!("--advertise-client-urls={client}"))
            .arg(format!("--listen-peer-urls={peer}"))
            .arg(format!("--initial-advertise-peer-urls={peer}"))
            .arg(format!("--initial-cluster={all}"))
            .arg(format!("--initial-cluster-token={}", self.token))
            .args(["--initial-cluster-state=new", "--log-level=warn"]);
        let log = member.place.join("log");
        member.process = Some(Watched::start(&mut command, &log)?);
        Ok(())
    }

    /// Waits until every member that runs is healthy.
    pub async fn ready(&mut self) -> Result<()> {
        for at in 0..self.members.len() {
            let http = self.http.clone();
            let Some(mut process) = self.members[at].process.take() else {
                continue;
            };
            let member = &self.members[at];
            let what = format!("{} is healthy", member.name);
            let answered = wait::until(&what, READY_WITHIN, || {
                let ended = process.ended();
                let http = &http;
                async move {
                    if let Some(status) = ended? {
                        return Ok(Err(anyhow::anyhow!("etcd ended with {status}")));
                    }
                    member.answers(http).await.map(Ok)
                }
            })
            .await;
            self.members[at].process = Some(process);
            answered??;
        }
        Ok(())
    }

    /// Number of the member that leads.
    pub async fn leader(&self) -> Result<usize> {
        for (at, member) in self.members.iter().enumerate() {
            if member.process.is_none() {
                continue;
            }
            let asked = async {
                let client = Client::connect([member.endpoint()], None).await?;
                client.maintenance_client().status().await
            };
            if let Ok(Ok(status)) = tokio::time::timeout(ANSWER_TIME, asked).await
                && status.leader() != 0
                && status.header().map(|header| header.member_id()) == Some(status.leader())
            {
                return Ok(at);
            }
        }
        bail!("no member leads")
    }

    /// Stops its processor time (SIGSTOP): connections stay, nothing is answered.
    pub fn pause(&self, member: usize) -> Result<()> {
        self.process(member)?.signal(Signal::STOP)
    }

    /// Ends a pause.
    pub fn resume(&self, member: usize) -> Result<()> {
        self.process(member)?.signal(Signal::CONT)
    }

    /// Ends a member at once, as a crash would.
    pub fn kill(&mut self, member: usize) -> Result<()> {
        match self.members[member].process.take() {
            Some(mut process) => process.kill(),
            None => bail!("member {member} does not run"),
        }
    }

    /// Ends all members in their own way, one after the other: together each would wait for the others
    /// to take its leadership. One that does not get through is killed.
    pub async fn stop(&mut self) -> Result<()> {
        for member in &mut self.members {
            if let Some(mut process) = member.process.take() {
                process.signal(Signal::TERM)?;
                if process.exited(STOPPED_WITHIN).await.is_err() {
                    process.kill()?;
                }
            }
        }
        Ok(())
    }

    /// The end of each member's log, also of one that does not run.
    pub fn log_tail(&self) -> String {
        let tails = self.members.iter().map(|member| {
            let text = std::fs::read(member.place.join("log")).unwrap_or_default();
            let text = String::from_utf8_lossy(&text);
            let lines: Vec<&str> = text.lines().collect();
            let tail = lines[lines.len().saturating_sub(20)..].join("\n");
            format!("--- {}\n{tail}", member.name)
        });
        tails.collect::<Vec<_>>().join("\n")
    }

    /// The files stay when this ends; returns where.
    pub fn keep_files(&mut self) -> String {
        match self.folder.take() {
            Some(folder) => folder.keep().display().to_string(),
            None => "the place already named".to_owned(),
        }
    }

    fn process(&self, member: usize) -> Result<&Watched> {
        let process = self.members[member].process.as_ref();
        process.with_context(|| format!("member {member} does not run"))
    }
}

impl Drop for Etcd {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("files of etcd are kept in {}", self.keep_files());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn three_members_survive_the_loss_of_the_leading_one() {
        let mut etcd = Etcd::start(3).await.unwrap();
        let client = Client::connect(etcd.endpoints(), None).await.unwrap();
        let mut kv = client.kv_client();
        kv.put("key", "before", None).await.unwrap();
        let dead = etcd.leader().await.unwrap();
        etcd.kill(dead).unwrap();
        let led = wait::until("another leads", READY_WITHIN, || etcd.leader());
        assert_ne!(led.await.unwrap(), dead);
        etcd.restart(dead).unwrap();
        etcd.ready().await.unwrap();
        let back = etcd.endpoints()[dead].clone();
        let back = Client::connect([back], None).await.unwrap();
        let found = back.kv_client().get("key", None).await.unwrap();
        assert_eq!(found.kvs()[0].value(), b"before");
        etcd.stop().await.unwrap();
        assert!(etcd.leader().await.is_err());
    }
}
