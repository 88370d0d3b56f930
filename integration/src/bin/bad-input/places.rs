//! Rows about whole processes: a configuration, port, directory or disk that will not do, and an end
//! in the middle of a load.

use std::fs;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use integration::http::Http;
use integration::standalone::{Setup, Standalone};
use integration::{disk, wait};
use tokio::task::JoinSet;

use crate::{Report, Seen};

/// Longest time until the catalog has failed on a full disk, and until it goes on with room.
const TABLE_MADE: Duration = Duration::from_secs(90);

/// Longest time until a process that cannot start has ended.
const REFUSAL: Duration = Duration::from_secs(20);

pub(crate) async fn run(auxo: &Path, report: &mut Report) -> Result<()> {
    report.row(
        "an unknown key in the configuration",
        unknown_key(auxo).await,
    );
    report.row("a bad value in the configuration", bad_value(auxo).await);
    report.row("a port in use", port_in_use(auxo).await);
    report.row("a directory that a live process uses", locked(auxo).await);
    report.row("a directory of another cluster", other_cluster(auxo).await);
    report.row("a directory of a newer version", newer(auxo).await);
    report.row("SIGTERM in the middle of a load", terminated(auxo).await);
    report.row("a full disk", full_disk(auxo).await);
    Ok(())
}

/// Starts a node that has to refuse, naming each of `says`.
async fn refuses(setup: &Setup, code: Option<i32>, says: &[&str]) -> Result<Seen> {
    let mut node = setup.spawn()?;
    let status = node
        .exited(REFUSAL)
        .await
        .with_context(|| node.log_tail())?;
    match code {
        Some(code) => ensure!(status.code() == Some(code), "it ended with {status}"),
        None => ensure!(
            status.code().is_some_and(|code| code != 0),
            "it ended with {status}"
        ),
    }
    let log = node.log_tail();
    match says.iter().find(|says| !log.contains(**says)) {
        Some(missing) => bail!("it does not say {missing:?}:\n{log}"),
        None => Ok(Seen::ended(status, format!("it names {}", says.join(", ")))),
    }
}

async fn unknown_key(auxo: &Path) -> Result<Seen> {
    let folder = disk::folder("bad-input")?;
    let mut setup = Setup::new(auxo, folder.path());
    setup.config = "[flush]\nunflushed_byts = \"1MiB\"".to_owned();
    let says = [
        "auxo.toml:3:",
        "flush.unflushed_byts",
        "did you mean \"flush.unflushed_bytes\"?",
    ];
    refuses(&setup, Some(2), &says).await
}

async fn bad_value(auxo: &Path) -> Result<Seen> {
    let folder = disk::folder("bad-input")?;
    let mut setup = Setup::new(auxo, folder.path());
    setup.config = "[limits]\nbody_bytes = \"16\"".to_owned();
    refuses(&setup, Some(2), &["auxo.toml:3:", "limits.body_bytes"]).await
}

async fn port_in_use(auxo: &Path) -> Result<Seen> {
    let folder = disk::folder("bad-input")?;
    let mut setup = Setup::new(auxo, folder.path());
    let taken = TcpListener::bind("127.0.0.1:0")?;
    let port = taken.local_addr()?.port();
    setup.port = Some(port);
    let named = format!("127.0.0.1:{port}");
    refuses(&setup, None, &["listen.public", &named]).await
}

async fn locked(auxo: &Path) -> Result<Seen> {
    let folder = disk::folder("bad-input")?;
    let node = Setup::new(auxo, folder.path()).start().await?;
    let second = disk::folder("bad-input")?;
    let mut other = Setup::new(auxo, second.path());
    std::os::unix::fs::symlink(folder.path().join("data"), other.data())?;
    other.config = "cluster = \"auxo\"".to_owned();
    let pid = format!("pid {}", node.pid());
    let seen = refuses(&other, None, &["data_dir", &pid]).await?;
    node.http
        .ready()
        .await
        .context("the first node afterwards")?;
    Ok(seen)
}

/// A directory that a node has used and left.
async fn used(auxo: &Path, folder: &Path) -> Result<Setup> {
    let setup = Setup::new(auxo, folder);
    let mut node = setup.start().await?;
    let ended = node.terminate(Duration::from_secs(30)).await?;
    ensure!(ended.success(), "the first node ended with {ended}");
    Ok(setup)
}

async fn other_cluster(auxo: &Path) -> Result<Seen> {
    let folder = disk::folder("bad-input")?;
    let mut setup = used(auxo, folder.path()).await?;
    setup.config = "cluster = \"other\"".to_owned();
    refuses(&setup, None, &["data_dir", "\"auxo\"", "\"other\""]).await
}

async fn newer(auxo: &Path) -> Result<Seen> {
    let folder = disk::folder("bad-input")?;
    let setup = used(auxo, folder.path()).await?;
    let path = setup.data().join("FORMAT");
    let mut format: serde_json::Value = serde_json::from_str(&fs::read_to_string(&path)?)?;
    format["layout"] = 99.into();
    fs::write(&path, format.to_string())?;
    refuses(&setup, None, &["data_dir", "layout 99", "newer version"]).await
}

/// Writers that send small batches until told to stop, and what they had acked.
struct Load {
    going: AtomicBool,
    acked: AtomicU64,
    refused: AtomicU64,
    /// Those that were told that a disk is full.
    full: AtomicU64,
}

/// Rows of one batch.
const BATCH_ROWS: u64 = 50;

impl Load {
    fn start(http: &Http, writers: u64, text_bytes: usize) -> (Arc<Self>, JoinSet<Result<()>>) {
        let load = Arc::new(Self {
            going: AtomicBool::new(true),
            acked: AtomicU64::new(0),
            refused: AtomicU64::new(0),
            full: AtomicU64::new(0),
        });
        let mut tasks = JoinSet::new();
        for writer in 0..writers {
            let (load, http) = (Arc::clone(&load), http.clone());
            tasks.spawn(async move { load.write(&http, writer, text_bytes).await });
        }
        (load, tasks)
    }

    /// A batch that is refused for now is sent again; it has the same rows, which replace each other.
    async fn write(&self, http: &Http, writer: u64, text_bytes: usize) -> Result<()> {
        let text = "x".repeat(text_bytes);
        for batch in 0.. {
            let lines: String = (0..BATCH_ROWS)
                .map(|row| {
                    let n = batch * BATCH_ROWS + row;
                    format!("load,writer=w{writer} n={n}i,s=\"{text}{n}\" {n}\n")
                })
                .collect();
            loop {
                if !self.going.load(Ordering::SeqCst) {
                    return Ok(());
                }
                match http.write("main", lines.clone()).await {
                    Ok(answer) if answer.status == 204 => break,
                    Ok(answer) if answer.status == 503 => {
                        ensure!(answer.retry_after_s.is_some(), "503 without Retry-After");
                        self.refused.fetch_add(1, Ordering::SeqCst);
                        let full = answer.body.contains("the disk of");
                        self.full.fetch_add(u64::from(full), Ordering::SeqCst);
                    }
                    Ok(answer) => bail!("write: {} {}", answer.status, answer.body),
                    // The node has ended.
                    Err(_) => return Ok(()),
                }
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
            self.acked.fetch_add(BATCH_ROWS, Ordering::SeqCst);
        }
        Ok(())
    }

    async fn end(&self, mut tasks: JoinSet<Result<()>>) -> Result<u64> {
        self.going.store(false, Ordering::SeqCst);
        while let Some(ended) = tasks.join_next().await {
            ended??;
        }
        Ok(self.acked.load(Ordering::SeqCst))
    }
}

/// Waits until a counter has passed a number.
async fn passes(what: &str, counter: &AtomicU64, number: u64) -> Result<()> {
    wait::until(what, Duration::from_secs(60), || async {
        let now = counter.load(Ordering::SeqCst);
        ensure!(now > number, "at {now} of {number}");
        Ok(())
    })
    .await
}

/// Every writer's rows are there without a gap, at least as many as were acked.
async fn all_there(node: &Standalone, acked: u64) -> Result<String> {
    let sql = "SELECT count(*), coalesce(sum(gap), 0) FROM (SELECT writer, \
               max(n) + 1 - count(DISTINCT n) AS gap, count(*) AS c FROM load GROUP BY writer)";
    let rows = node.http.sql(sql).await?;
    ensure!(rows[0][1] == 0, "rows are missing between others: {rows:?}");
    let found = node.http.sql("SELECT count(*) FROM load").await?;
    let found = found[0][0].as_u64().context("count")?;
    ensure!(found >= acked, "{acked} rows were acked, {found} are there");
    Ok(format!("{acked} rows acked, {found} there"))
}

async fn terminated(auxo: &Path) -> Result<Seen> {
    let folder = disk::folder("bad-input")?;
    let setup = Setup::new(auxo, folder.path());
    let mut node = setup.start().await?;
    let (load, tasks) = Load::start(&node.http, 4, 10);
    passes("rows acked", &load.acked, 2_000).await?;
    let status = node.terminate(Duration::from_secs(10)).await?;
    ensure!(status.success(), "it ended with {status}");
    let acked = load.end(tasks).await?;
    let node = setup.start().await?;
    Ok(Seen::ended(status, all_there(&node, acked).await?))
}

/// A small file system in memory, unmounted when dropped.
struct Mounted(PathBuf);

impl Mounted {
    fn new(at: PathBuf, bytes: u64) -> Result<Self> {
        fs::create_dir_all(&at)?;
        let size = format!("size={bytes}");
        let mounted = Command::new("mount")
            .args(["-t", "tmpfs", "-o", &size, "tmpfs"])
            .arg(&at)
            .output()
            .context("mount")?;
        let why = String::from_utf8_lossy(&mounted.stderr);
        ensure!(
            mounted.status.success(),
            "a file system cannot be mounted here: {}",
            why.trim()
        );
        Ok(Self(at))
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        let unmounted = Command::new("umount").arg("--lazy").arg(&self.0).status();
        if !unmounted.is_ok_and(|status| status.success()) {
            eprintln!("{} stays mounted", self.0.display());
        }
    }
}

/// Takes what room is left and gives it back when removed.
fn fill(at: &Path) -> Result<()> {
    let mut file = fs::File::create(at)?;
    let mut piece = vec![0xA5; 1 << 20];
    while !piece.is_empty() {
        if std::io::Write::write_all(&mut file, &piece).is_err() {
            piece.truncate(piece.len() / 2);
        }
    }
    Ok(())
}

fn table(name: &str) -> String {
    format!(
        "CREATE TABLE {name} (host STRING TAG, ts TIMESTAMP(9) NOT NULL, n BIGINT, TIMESTAMP KEY (ts))"
    )
}

async fn answers(node: &Standalone, statement: &str, status: u16) -> Result<()> {
    let answer = node.http.sql_answer(statement).await?;
    ensure!(answer.status == status, "{} {}", answer.status, answer.body);
    Ok(())
}

async fn full_disk(auxo: &Path) -> Result<Seen> {
    let folder = disk::folder("bad-input")?;
    let mut setup = Setup::new(auxo, folder.path());
    setup.config = "[flush]\nunflushed_bytes = \"1MiB\"\nunflushed_bytes_max = \"8MiB\"\n\
                    age = \"2s\"\ncompact_every = \"1s\""
        .to_owned();
    let mounted = Mounted::new(setup.data(), 1 << 30)?;
    let mut node = setup.start().await?;
    let (load, tasks) = Load::start(&node.http, 2, 2_000);
    passes("rows acked", &load.acked, 500).await?;
    let ballast = mounted.0.join("ballast");
    fill(&ballast)?;
    let refusal = passes("a write told that the disk is full", &load.full, 0).await;
    refusal.with_context(|| node.log_tail())?;
    let health = node.http.request(reqwest::Method::GET, "/v1/health");
    ensure!(
        node.http.send(health).await?.status == 200,
        "unwell while the disk is full"
    );
    // The catalog's own log has no room either.
    let mut tries = 0..;
    let refused = wait::until("no table is made", TABLE_MADE, || {
        let statement = table(&format!("during_{}", tries.next().unwrap_or(0)));
        let node = &node;
        async move { answers(node, &statement, 503).await }
    });
    refused.await.with_context(|| node.log_tail())?;
    fs::remove_file(&ballast)?;
    let before = load.acked.load(Ordering::SeqCst);
    let recovery = passes(
        "rows acked after there is room again",
        &load.acked,
        before + 500,
    )
    .await;
    recovery.with_context(|| node.log_tail())?;
    let made = wait::until("a table is made again", TABLE_MADE, || async {
        answers(&node, &table("after"), 200).await
    });
    made.await.with_context(|| node.log_tail())?;
    let acked = load.end(tasks).await?;
    all_there(&node, acked).await?;
    let status = node.terminate(Duration::from_secs(30)).await?;
    ensure!(status.success(), "it ended with {status}");
    let node = setup.start().await?;
    let refused = load.refused.load(Ordering::SeqCst);
    let there = all_there(&node, acked).await?;
    let note = format!("{refused} writes refused; {there}");
    Ok(Seen {
        status: "503".to_owned(),
        note,
    })
}
