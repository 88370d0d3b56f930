//! Files and command line of one node.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Result, bail};
use auxo_proto::random::Random;

use super::Setup;
use super::install::Installed;
use crate::servers::ports;
use crate::servers::watched::Watched;

/// Folder of the log that the controllers share.
pub(super) const METADATA: &str = "__cluster_metadata-0";

/// Ports a node listens on.
#[derive(Clone, Debug)]
pub(super) struct Ports {
    pub(super) client: u16,
    pub(super) broker: u16,
    pub(super) controller: u16,
    pub(super) doors: Vec<u16>,
}

impl Ports {
    pub(super) fn free(doors: usize) -> Result<Self> {
        let [client, broker, controller] = ports::free()?;
        let doors = (0..doors).map(|_| Ok(ports::free::<1>()?[0]));
        Ok(Self {
            client,
            broker,
            controller,
            doors: doors.collect::<Result<_>>()?,
        })
    }
}

/// One node, running or not.
pub(super) struct Node {
    /// From 1 on.
    pub(super) number: usize,
    pub(super) ports: Ports,
    pub(super) data: PathBuf,
    pub(super) process: Option<Watched>,
    log: PathBuf,
    command: Vec<PathBuf>,
}

impl Node {
    /// Writes the files of the node with that index among all.
    pub(super) fn prepare(
        setup: &Setup,
        installed: &Installed,
        folder: &Path,
        cluster: &str,
        index: usize,
        all: &[Ports],
        random: &Random,
    ) -> Result<Self> {
        let (number, ports) = (index + 1, all[index].clone());
        if setup.doors.iter().any(|door| door.len() != all.len()) {
            bail!("a door has one port for each node");
        }
        let data = folder.join("data");
        fs::create_dir_all(data.join(METADATA))?;
        let first = "00000000000000000000-0000000000.checkpoint";
        fs::copy(&installed.checkpoint, data.join(METADATA).join(first))?;
        let directory = uuid(random);
        let identity = format!(
            "version=1\ncluster.id={cluster}\nnode.id={number}\ndirectory.id={directory}\n"
        );
        fs::write(data.join("meta.properties"), identity)?;
        let file = folder.join("server.properties");
        let mut text = String::new();
        for (name, value) in settings(setup, index, all, &data) {
            text.push_str(&format!("{name}={value}\n"));
        }
        fs::write(&file, text)?;
        let mut command = java(installed);
        command.arg("kafka.Kafka").arg(&file);
        let words = command.get_args().map(PathBuf::from);
        Ok(Self {
            number,
            ports,
            data,
            process: None,
            log: folder.join("kafka.log"),
            command: words.collect(),
        })
    }

    /// Starts it; does not wait.
    pub(super) fn start(&mut self) -> Result<()> {
        if self.process.is_some() {
            bail!("node {} runs already", self.number);
        }
        let mut java = Command::new("java");
        // Few arenas: a broker's threads would each keep one of their own.
        java.args(&self.command).env("MALLOC_ARENA_MAX", "2");
        self.process = Some(Watched::start(&mut java, &self.log)?);
        Ok(())
    }

    /// The end of its log, also of a node that does not run.
    pub(super) fn log_tail(&self) -> String {
        let text = fs::read(&self.log).unwrap_or_default();
        let text = String::from_utf8_lossy(&text);
        let lines: Vec<&str> = text.lines().collect();
        lines[lines.len().saturating_sub(30)..].join("\n")
    }
}

/// A Java that starts fast and stays small.
pub(super) fn java(installed: &Installed) -> Command {
    let mut command = Command::new("java");
    command.args([
        "-Xms48m",
        "-Xmx256m",
        "-Xss512k",
        "-XX:+UseSerialGC",
        "-XX:TieredStopAtLevel=1",
        "-XX:-UsePerfData",
        "-XX:+ExitOnOutOfMemoryError",
    ]);
    if let Some(classes) = &installed.classes {
        command.arg(format!("-XX:SharedArchiveFile={}", classes.display()));
    }
    if let Some(archive) = &installed.archive_to {
        command.arg(format!("-XX:ArchiveClassesAtExit={}", archive.display()));
    }
    command
        .arg(format!(
            "-Dlog4j2.configurationFile={}",
            installed.log_settings.display()
        ))
        .arg("-cp")
        .arg(installed.jars.join("*"));
    command
}

/// Settings of a test node: small, quick to notice a death, and forgetting nothing it acknowledged.
fn settings(setup: &Setup, index: usize, all: &[Ports], data: &Path) -> BTreeMap<String, String> {
    let replicas = all.len().to_string();
    let in_sync = (all.len() / 2 + 1).to_string();
    // Below this a busy machine has its brokers fenced without cause; the default of 9 s makes a
    // restart after a kill take that long.
    let session_ms = if all.len() == 1 { 3000 } else { 4000 };
    let voters = all.iter().enumerate();
    let voters = voters.map(|(index, ports)| {
        let port = ports.controller;
        format!("{}@127.0.0.1:{port}", index + 1)
    });
    let voters = voters.collect::<Vec<_>>().join(",");
    let Ports {
        client,
        broker,
        controller,
        doors,
    } = &all[index];
    let mut listeners = vec![
        format!("CLIENT://127.0.0.1:{client}"),
        format!("BROKER://127.0.0.1:{broker}"),
    ];
    let mut advertised = listeners.clone();
    listeners.push(format!("CONTROLLER://127.0.0.1:{controller}"));
    for (number, (own, told)) in doors.iter().zip(&setup.doors).enumerate() {
        listeners.push(format!("DOOR{number}://127.0.0.1:{own}"));
        advertised.push(format!("DOOR{number}://127.0.0.1:{}", told[index]));
    }
    let plain = listeners.iter().map(|listener| {
        let name = listener.split(':').next().unwrap_or_default();
        format!("{name}:PLAINTEXT")
    });
    let plain = plain.collect::<Vec<_>>().join(",");
    let mut settings: BTreeMap<String, String> = [
        ("process.roles", "broker,controller".to_owned()),
        ("node.id", (index + 1).to_string()),
        ("controller.quorum.voters", voters),
        ("listeners", listeners.join(",")),
        ("advertised.listeners", advertised.join(",")),
        ("listener.security.protocol.map", plain),
        ("inter.broker.listener.name", "BROKER".to_owned()),
        ("controller.listener.names", "CONTROLLER".to_owned()),
        ("log.dirs", data.display().to_string()),
        ("default.replication.factor", replicas.clone()),
        ("min.insync.replicas", in_sync.clone()),
        ("offsets.topic.replication.factor", replicas.clone()),
        ("transaction.state.log.replication.factor", replicas.clone()),
        ("transaction.state.log.min.isr", in_sync.clone()),
        ("share.coordinator.state.topic.replication.factor", replicas),
        ("share.coordinator.state.topic.min.isr", in_sync),
        ("broker.session.timeout.ms", session_ms.to_string()),
        ("broker.heartbeat.interval.ms", (session_ms / 5).to_string()),
    ]
    .map(|(name, value)| (name.to_owned(), value))
    .into();
    let fixed = [
        ("auto.create.topics.enable", "false"),
        ("unclean.leader.election.enable", "false"),
        ("message.max.bytes", "9437184"),
        ("replica.fetch.max.bytes", "9437184"),
        ("offsets.topic.num.partitions", "1"),
        ("transaction.state.log.num.partitions", "1"),
        ("share.coordinator.state.topic.num.partitions", "1"),
        ("controller.quorum.append.linger.ms", "0"),
        ("log.initial.task.delay.ms", "100"),
        // Else a truncation may be forgotten by a kill within a minute.
        ("log.flush.start.offset.checkpoint.interval.ms", "1000"),
        ("log.cleaner.threads", "1"),
        ("log.cleaner.dedupe.buffer.size", "2097152"),
        ("num.network.threads", "2"),
        ("num.io.threads", "3"),
        ("background.threads", "2"),
        // Else each topic preallocates 10 MiB for each of its indexes.
        ("log.index.size.max.bytes", "1048576"),
    ];
    for (name, value) in fixed {
        settings.insert(name.to_owned(), value.to_owned());
    }
    settings.extend(setup.settings.clone());
    settings
}

/// Sixteen random bytes as Kafka writes them: URL-safe base64 of 22 letters, the last of which has
/// only two bits.
pub(super) fn uuid(random: &Random) -> String {
    const LETTERS: &[u8; 62] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789";
    let drawn = (0..21).map(|_| char::from(LETTERS[random.below(62) as usize]));
    drawn.chain(['A']).collect()
}
