//! Rows about rot: one bit of a stopped node's files is turned, and the node started on the copy.
//!
//! Promised: it refuses or the query fails, naming the file; or the bit meant nothing and every row
//! is there. Never other rows. The very last group of the log cannot be told from one that was torn
//! by a loss of power, so there the rows may also end before it.

use std::fs::{self, File};
use std::io::{Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use integration::http::Answer;
use integration::standalone::Setup;
use integration::{disk, wait};
use serde_json::Value;

use crate::{Report, Seen};

/// Places of one file at which a bit is turned.
const PLACES: u64 = 6;
/// Files of one kind that are damaged.
const FILES: usize = 3;
/// Rows of one write.
const BATCH_ROWS: i64 = 200;
/// Writes that are flushed, and those that are only in the log.
const BATCHES: (i64, i64) = (20, 12);

const QUERY: &str = "SELECT host, n, x, s FROM rot ORDER BY n";

pub(crate) async fn run(auxo: &Path, report: &mut Report) -> Result<()> {
    let folder = disk::folder("bad-input")?;
    let whole = Whole::make(auxo, folder.path()).await?;
    for kind in [Kind::Log, Kind::Rows, Kind::Manifest] {
        let files = kind.files(&whole.setup.data())?;
        let found = !files.is_empty();
        for (path, used) in files {
            let name = path.strip_prefix(whole.setup.data())?.display().to_string();
            for place in 0..PLACES {
                let at = used * place / PLACES + used / (2 * PLACES);
                let row = format!("a bit of {name} turned at {at} of {used}");
                report.row(&row, whole.damaged(kind, &path, at).await);
            }
        }
        ensure!(found, "the node has left no {kind:?} behind");
    }
    Ok(())
}

/// What a file holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    /// A segment of the log.
    Log,
    /// Sorted rows.
    Rows,
    /// The list of a shard's files.
    Manifest,
}

impl Kind {
    /// The largest files of the kind, of manifests each shard's newest, and how many of their bytes
    /// are used.
    fn files(self, data: &Path) -> Result<Vec<(PathBuf, u64)>> {
        let mut found = Vec::new();
        let mut folders = vec![data.join(if self == Self::Log { "wal" } else { "store" })];
        while let Some(folder) = folders.pop() {
            for entry in fs::read_dir(&folder)? {
                let path = entry?.path();
                let name = path.display().to_string();
                if path.is_dir() {
                    folders.push(path);
                } else if match self {
                    Self::Log => !name.ends_with("LOCK"),
                    Self::Rows => name.contains("/sst/") || name.ends_with(".sst"),
                    Self::Manifest => name.contains("manifest"),
                } {
                    let used = used(&path)?;
                    found.push((path, used));
                }
            }
        }
        found.retain(|(_, used)| *used > 0);
        found.sort_by(|(a, a_used), (b, b_used)| match self {
            // Of one folder the newest comes first.
            Self::Manifest => b.cmp(a),
            Self::Log | Self::Rows => b_used.cmp(a_used),
        });
        if self == Self::Manifest {
            found.dedup_by(|(a, _), (b, _)| a.parent() == b.parent());
        }
        found.truncate(FILES);
        Ok(found)
    }
}

/// Bytes up to the last one that is not zero.
fn used(path: &Path) -> Result<u64> {
    let mut file = File::open(path)?;
    let mut piece = vec![0; 1 << 20];
    let (mut at, mut used) = (0, 0);
    loop {
        let read = file.read(&mut piece)?;
        if read == 0 {
            return Ok(used);
        }
        if let Some(last) = piece[..read].iter().rposition(|byte| *byte != 0) {
            used = at + last as u64 + 1;
        }
        at += read as u64;
    }
}

/// Copies a directory; runs of zeros become holes.
fn copy(from: &Path, to: &Path) -> Result<()> {
    fs::create_dir_all(to)?;
    for entry in fs::read_dir(from)? {
        let entry = entry?;
        let to = to.join(entry.file_name());
        if entry.file_type()?.is_dir() {
            copy(&entry.path(), &to)?;
            continue;
        }
        let (mut source, mut target) = (File::open(entry.path())?, File::create(&to)?);
        let mut piece = vec![0; 64 << 10];
        loop {
            let read = source.read(&mut piece)?;
            if read == 0 {
                break;
            }
            if piece[..read].iter().all(|byte| *byte == 0) {
                target.seek(SeekFrom::Current(read as i64))?;
            } else {
                target.write_all(&piece[..read])?;
            }
        }
        target.set_len(source.metadata()?.len())?;
    }
    Ok(())
}

/// A stopped node with rows in files and rows in the log.
struct Whole {
    setup: Setup,
    rows: Vec<Vec<Value>>,
}

impl Whole {
    async fn make(auxo: &Path, folder: &Path) -> Result<Self> {
        let setup = Setup::new(auxo, folder);
        let mut node = setup.start().await?;
        let create = "CREATE TABLE rot (host STRING TAG, ts TIMESTAMP(9) NOT NULL, n BIGINT, \
                      x DOUBLE, s STRING, TIMESTAMP KEY (ts))";
        node.http.sql(create).await.ok();
        for batch in 0..BATCHES.0 + BATCHES.1 {
            if batch == BATCHES.0 {
                // An end in peace puts everything into files.
                node.terminate(Duration::from_secs(30)).await?;
                node = setup.start().await?;
            }
            let lines: String = (batch * BATCH_ROWS..(batch + 1) * BATCH_ROWS)
                .map(|n| {
                    let (host, time) = (n % 7, n * 1_000_000_000);
                    format!("rot,host=h{host} n={n}i,x={n}.5,s=\"row {n}\" {time}\n")
                })
                .collect();
            let answer = node.http.write("main", lines).await?;
            ensure!(answer.status == 204, "{} {}", answer.status, answer.body);
        }
        let rows = node.http.sql(QUERY).await?;
        let expected = (BATCHES.0 + BATCHES.1) * BATCH_ROWS;
        ensure!(
            rows.len() as i64 == expected,
            "{} of {expected} rows",
            rows.len()
        );
        node.kill()?;
        Ok(Self { setup, rows })
    }

    /// Turns one bit in a copy and starts a node on it.
    async fn damaged(&self, kind: Kind, path: &Path, at: u64) -> Result<Seen> {
        let folder = disk::folder("bad-input")?;
        let setup = Setup::new(&self.setup.binary, folder.path());
        copy(&self.setup.data(), &setup.data())?;
        let below = path.strip_prefix(self.setup.data())?;
        let mut file = File::options()
            .read(true)
            .write(true)
            .open(setup.data().join(below))?;
        let mut byte = [0];
        file.seek(SeekFrom::Start(at))?;
        file.read_exact(&mut byte)?;
        byte[0] ^= 1 << (at % 8);
        file.seek(SeekFrom::Start(at))?;
        file.write_all(&byte)?;
        drop(file);

        let node = setup.spawn()?;
        let started = wait::until("ready or refused", Duration::from_secs(40), || {
            let (http, log) = (node.http.clone(), node.log());
            async move {
                match http.ready().await {
                    Ok(()) => Ok(None),
                    Err(_) => complaint(&log).map(Some),
                }
            }
        });
        let refusal = started.await.with_context(|| node.log_tail())?;
        if let Some(refusal) = refusal {
            named(kind, below, &refusal)?;
            if node.http.sql_answer(QUERY).await.is_err() {
                return Ok(seen("ended", "refused by name"));
            }
            let told = wait::until("its readers are told", Duration::from_secs(20), || async {
                let answer = node.http.sql_answer(QUERY).await?;
                // Another shard than that of the rows may have been hit.
                let whole = answer.status == 200 && rows(&answer)? == self.rows;
                ensure!(whole || answer.code() == "SHARD_PARKED", "{answer:?}");
                Ok(answer)
            });
            let answer = told.await?;
            return Ok(seen(
                &answer.status.to_string(),
                "its shard is refused by name",
            ));
        }
        let answer = node.http.sql_answer(QUERY).await?;
        if answer.status != 200 {
            let said = format!("{} {}", answer.body, node.log());
            named(kind, below, &said)?;
            return Ok(seen(&answer.status.to_string(), &answer.code()));
        }
        let rows = rows(&answer)?;
        if rows == self.rows {
            return Ok(seen("200", "it meant nothing, every row is there"));
        }
        let last_group = self.rows.len() - BATCH_ROWS as usize;
        if kind == Kind::Log && rows == self.rows[..last_group] {
            return Ok(seen("200", "taken for a torn end, the last group is gone"));
        }
        bail!(
            "{} rows instead of {}, or others",
            rows.len(),
            self.rows.len()
        )
    }
}

fn rows(answer: &Answer) -> Result<Vec<Vec<Value>>> {
    serde_json::from_value(answer.json()["rows"].take()).context("rows")
}

fn seen(status: &str, note: &str) -> Seen {
    Seen {
        status: status.to_owned(),
        note: note.to_owned(),
    }
}

/// The lines of a log that speak of damage.
fn complaint(log: &str) -> Result<String> {
    let damage = |line: &&str| {
        let line = line.to_lowercase();
        let words = ["corrupt", "damaged", "parked"];
        words.iter().any(|word| line.contains(word))
    };
    let lines: Vec<&str> = log.lines().filter(damage).collect();
    ensure!(!lines.is_empty(), "no word of damage yet");
    Ok(lines.join("\n"))
}

/// The file is named: by its name, or a segment by its region, a manifest by its number.
fn named(kind: Kind, below: &Path, said: &str) -> Result<()> {
    let part = |path: &Path| {
        let name = path.file_name().and_then(|name| name.to_str());
        name.unwrap_or_default().to_owned()
    };
    let name = part(below);
    let known_as = match kind {
        Kind::Log => {
            let region = below.parent().map(part).unwrap_or_default();
            let shard = region.split('-').next().unwrap_or_default();
            vec![region.clone(), format!("of shard {shard} ")]
        }
        Kind::Rows => vec![],
        Kind::Manifest => {
            let shard = below.iter().nth(1).unwrap_or_default().to_string_lossy();
            let number = name.trim_start_matches('0');
            vec![format!("shard {shard}: manifest {number}")]
        }
    };
    let is_named = said.contains(&name) || known_as.iter().any(|known| said.contains(known));
    ensure!(is_named, "{} is not named: {said}", below.display());
    Ok(())
}
