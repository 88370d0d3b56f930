//! Kafka in the cache: its jars, an archive of the classes a node loads, and the first checkpoint of
//! a formatted directory.
//!
//! Each of the three is made beside its place and renamed into it, so a killed install is begun
//! again; one at a time does so on a machine.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};

use super::node::{METADATA, java};
use super::{Kafka, Setup};
use crate::duckdb::cache;
use crate::servers::{KAFKA, install_alone, run};

/// Copies what a project depends on, with what that depends on.
const COPY: &str = "org.apache.maven.plugins:maven-dependency-plugin:3.8.1:copy-dependencies";

/// The binding of Kafka's log to log4j, which Kafka's own jar does not bring.
const LOG4J: &str = "2.25.5";

const LOG_SETTINGS: &str = "\
status = error
appender.console.type = Console
appender.console.name = console
appender.console.layout.type = PatternLayout
appender.console.layout.pattern = [%d] %p %m (%c)%n
rootLogger.level = info
rootLogger.appenderRef.console.ref = console
";

/// What nodes are started from.
pub struct Installed {
    pub(super) jars: PathBuf,
    /// Archive of loaded classes; without one a node starts slower.
    pub(super) classes: Option<PathBuf>,
    /// Where a node that stops writes such an archive.
    pub(super) archive_to: Option<PathBuf>,
    pub(super) checkpoint: PathBuf,
    pub(super) log_settings: PathBuf,
}

/// Kafka of the pinned release; fetched at the first call on a machine.
///
/// * errors: says which program is missing or what failed.
/// * effects: may take minutes and use the network.
pub async fn install() -> Result<Installed> {
    let _alone = install_alone("kafka").await?;
    let folder = cache().join(format!("kafka-{KAFKA}"));
    let mut installed = Installed {
        jars: folder.join("jars"),
        classes: None,
        archive_to: None,
        checkpoint: folder.join("bootstrap.checkpoint"),
        log_settings: folder.join("log4j2.properties"),
    };
    if !installed.jars.exists() {
        run(Command::new("java").arg("-version"))?;
        fetch(&folder, &installed.jars)?;
    }
    if !installed.log_settings.exists() {
        let part = folder.join(part("log4j2"));
        fs::write(&part, LOG_SETTINGS)?;
        fs::rename(part, &installed.log_settings)?;
    }
    if !installed.checkpoint.exists() {
        format(&folder, &installed)?;
    }
    let classes = folder.join("classes.jsa");
    if !classes.exists() {
        archive(&folder, &mut installed, &classes).await?;
    }
    installed.classes = Some(classes);
    Ok(installed)
}

/// Name of something that is not complete yet; of this process alone.
fn part(of: &str) -> String {
    format!("{of}.part-{}", std::process::id())
}

fn fetch(folder: &Path, jars: &Path) -> Result<()> {
    run(Command::new("mvn").arg("-version"))?;
    eprintln!(
        "fetching Apache Kafka {KAFKA} from Maven Central into {}: 43 MB, about a minute",
        folder.display()
    );
    let project = folder.join(part("project"));
    fs::create_dir_all(&project).with_context(|| project.display().to_string())?;
    fs::write(project.join("pom.xml"), pom())?;
    run(Command::new("mvn")
        .current_dir(&project)
        .args(["--quiet", "--batch-mode", COPY, "-DincludeScope=runtime"])
        .arg("-DoutputDirectory=jars"))?;
    fs::rename(project.join("jars"), jars)?;
    fs::remove_dir_all(&project)?;
    Ok(())
}

/// A project that depends on the broker; `kafka-tools-api` is not published and not needed.
fn pom() -> String {
    format!(
        "<project xmlns=\"http://maven.apache.org/POM/4.0.0\">
  <modelVersion>4.0.0</modelVersion>
  <groupId>servers</groupId><artifactId>kafka</artifactId><version>1</version>
  <packaging>pom</packaging>
  <dependencies>
    <dependency>
      <groupId>org.apache.kafka</groupId><artifactId>kafka_2.13</artifactId>
      <version>{KAFKA}</version>
      <exclusions><exclusion>
        <groupId>org.apache.kafka</groupId><artifactId>kafka-tools-api</artifactId>
      </exclusion></exclusions>
    </dependency>
    <dependency>
      <groupId>org.apache.logging.log4j</groupId><artifactId>log4j-slf4j-impl</artifactId>
      <version>{LOG4J}</version>
    </dependency>
  </dependencies>
</project>
"
    )
}

/// Formats a directory as the tool does and keeps its checkpoint: the features of this release.
fn format(folder: &Path, installed: &Installed) -> Result<()> {
    let place = folder.join(part("format"));
    fs::create_dir_all(&place)?;
    let data = place.join("data");
    let settings = format!(
        "process.roles=broker,controller\nnode.id=1\ncontroller.quorum.voters=1@127.0.0.1:9093\n\
         listeners=PLAINTEXT://127.0.0.1:9092,CONTROLLER://127.0.0.1:9093\n\
         controller.listener.names=CONTROLLER\nlog.dirs={}\n",
        data.display()
    );
    let file = place.join("server.properties");
    fs::write(&file, settings)?;
    let mut tool = java(installed);
    tool.args(["kafka.tools.StorageTool", "format", "-t"])
        .arg("AAAAAAAAAAAAAAAAAAAAAQ")
        .arg("-c")
        .arg(&file);
    run(&mut tool)?;
    let made = data.join(METADATA);
    let checkpoint = fs::read_dir(&made)?
        .filter_map(|entry| Some(entry.ok()?.path()))
        .find(|path| {
            path.extension()
                .is_some_and(|ending| ending == "checkpoint")
        });
    let checkpoint = checkpoint.with_context(|| format!("no checkpoint in {}", made.display()))?;
    fs::rename(checkpoint, &installed.checkpoint)?;
    fs::remove_dir_all(&place)?;
    Ok(())
}

/// Runs a node once and has it write down which classes it loaded.
async fn archive(folder: &Path, installed: &mut Installed, classes: &Path) -> Result<()> {
    eprintln!("archiving the classes of Kafka: about half a minute");
    let part = folder.join(part("classes"));
    installed.archive_to = Some(part.clone());
    let mut kafka = Kafka::new(&Setup::new(1), installed)?;
    let ran = match kafka.start_all().await {
        Ok(()) => kafka.stop().await,
        failed => failed,
    };
    ran.with_context(|| kafka.log_tail())?;
    installed.archive_to = None;
    fs::rename(&part, classes)?;
    Ok(())
}
