//! QuestDB: one jar from Maven Central, line protocol over HTTP in, SQL over HTTP out.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use arrow::compute::kernels::cast_utils::string_to_timestamp_nanos;
use bytes::Bytes;
use serde_json::Value;

use super::QUESTDB;
use super::spawned::Words;
use crate::duckdb::cache;
use crate::http::{Answer, Http};
use crate::servers;
use crate::wait;

/// Copies an artifact out of a repository without a project.
const COPY: &str = "org.apache.maven.plugins:maven-dependency-plugin:3.8.1:copy";

pub(super) const DURABILITY: &str = "kill -9 yes, power loss no: its log is written without fsync (cairo.commit.mode=nosync, its default)";

pub(super) fn install() -> Result<PathBuf> {
    servers::run(Command::new("java").arg("-version"))?;
    let name = format!("questdb-{QUESTDB}");
    let folder = cache().join(&name);
    let jar = folder.join(format!("{name}.jar"));
    if jar.exists() {
        return Ok(jar);
    }
    servers::run(Command::new("mvn").arg("-version"))?;
    eprintln!(
        "fetching QuestDB {QUESTDB} from Maven Central into {}: 32 MB",
        folder.display()
    );
    let part = folder.join("part");
    servers::run(
        Command::new("mvn")
            .args(["--quiet", "--batch-mode", COPY])
            .arg(format!("-Dartifact=org.questdb:questdb:{QUESTDB}"))
            .arg(format!("-DoutputDirectory={}", part.display())),
    )?;
    fs::rename(part.join(format!("{name}.jar")), &jar)?;
    fs::remove_dir_all(&part)?;
    Ok(jar)
}

/// Its defaults, but for: one listener on the loopback, nothing reported to its makers, a heap of
/// 1 GiB at most (its columns lie outside the heap).
pub(super) fn command(jar: &Path, data: &Path, port: u16) -> Result<Words> {
    let settings = format!(
        "http.net.bind.to=127.0.0.1:{port}\n\
         http.min.enabled=false\n\
         line.tcp.enabled=false\n\
         pg.enabled=false\n\
         telemetry.enabled=false\n"
    );
    fs::create_dir_all(data.join("conf"))?;
    fs::write(data.join("conf/server.conf"), settings)?;
    Ok(vec![
        "java".into(),
        "-Xms256m".into(),
        "-Xmx1g".into(),
        "-XX:+UseParallelGC".into(),
        "-cp".into(),
        jar.into(),
        "io.questdb.ServerMain".into(),
        "-d".into(),
        data.into(),
    ])
}

/// Folders of the table `cpu`: behind its name stands a number that grows when it is made again.
pub(super) fn table(data: &Path) -> Result<Vec<PathBuf>> {
    let tables = data.join("db");
    let mut found = Vec::new();
    for entry in fs::read_dir(&tables).with_context(|| tables.display().to_string())? {
        let entry = entry?;
        if entry.file_name().to_string_lossy().starts_with("cpu~") {
            found.push(entry.path());
        }
    }
    Ok(found)
}

/// Rows of a statement, times as nanoseconds since 1970.
pub(super) async fn rows(http: &Http, sql: &str) -> Result<Vec<Vec<Value>>> {
    let mut answer = ask(http, sql).await?.json();
    let times: Vec<usize> = match answer["columns"].as_array() {
        Some(columns) => (0..columns.len())
            .filter(|&at| columns[at]["type"] == "TIMESTAMP")
            .collect(),
        None => bail!("{sql}: no columns"),
    };
    let rows: Result<Vec<Vec<Value>>, _> = serde_json::from_value(answer["dataset"].take());
    let mut rows = rows.with_context(|| format!("{sql}: dataset"))?;
    for row in &mut rows {
        for &at in &times {
            if let Some(text) = row[at].as_str() {
                row[at] = string_to_timestamp_nanos(text)?.into();
            }
        }
    }
    Ok(rows)
}

async fn ask(http: &Http, sql: &str) -> Result<Answer> {
    let request = http.request(reqwest::Method::GET, "/exec");
    let answer = http.send(request.query(&[("query", sql)])).await?;
    match answer.status {
        200 => Ok(answer),
        status => bail!("{sql}: {status} {}", answer.body),
    }
}

/// The one number that a statement answers.
pub(super) async fn number(http: &Http, sql: &str) -> Result<u64> {
    let rows = rows(http, sql).await?;
    let number = rows.first().and_then(|row| row.first());
    number
        .and_then(Value::as_u64)
        .with_context(|| format!("{sql}: {rows:?}"))
}

/// Writes the batches into a table of another name and drops it: a Java program is slow until it has
/// compiled what runs often, which is no property of the database.
pub(super) async fn warm_up(http: &Http, write_path: &str, batches: &[Bytes]) -> Result<()> {
    let mut lines = 0;
    for batch in batches {
        let text = String::from_utf8_lossy(batch).replace("cpu,", "warm,");
        lines += text.lines().count() as u64;
        let post = http.request(reqwest::Method::POST, write_path).body(text);
        let answer = http.send(post).await?;
        if answer.status != 204 {
            bail!("{write_path}: {} {}", answer.status, answer.body);
        }
    }
    let sql = "SELECT count() FROM warm";
    wait::until("warm-up is seen", Duration::from_secs(60), || async move {
        match number(http, sql).await? {
            seen if seen == lines => Ok(()),
            seen => bail!("{seen} rows of {lines}"),
        }
    })
    .await?;
    execute(http, "DROP TABLE warm").await
}

/// Runs a statement and takes its answer without looking at it.
pub(super) async fn execute(http: &Http, sql: &str) -> Result<()> {
    ask(http, sql).await.map(|_| ())
}
