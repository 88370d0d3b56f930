//! DuckDB, one thread, in a Python process that answers one query after another.
//!
//! The process takes its own time from the query's text to the whole result in DuckDB's memory, so
//! neither Python's objects nor the pipe count. It ends when its standard input closes.

use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use serde::Deserialize;
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::queries::Query;
use crate::{disk, duckdb};

/// The script.
const SCRIPT: &str = include_str!("duckdb.py");

/// A running DuckDB with the benchmark's table.
#[derive(Debug)]
pub struct DuckDb {
    child: Child,
    questions: ChildStdin,
    answers: BufReader<ChildStdout>,
    _folder: TempDir,
}

/// A result that DuckDB has worked out.
#[derive(Clone, Debug, Deserialize)]
pub struct Answer {
    seconds: f64,
    /// Rows in DuckDB's order, times as nanoseconds since 1970; `None` if none were asked for.
    pub rows: Option<Vec<Vec<Value>>>,
}

impl Answer {
    /// How long the query took.
    pub fn took(&self) -> Duration {
        Duration::from_secs_f64(self.seconds)
    }
}

impl DuckDb {
    /// Starts a process that loads the file at once; the first answer comes when that is done.
    ///
    /// * errors: no Python, or DuckDB cannot be had on this machine.
    /// * effects: may use the network, once per machine.
    pub fn start(csv: &Path) -> Result<Self> {
        let folder = disk::folder("duckdb-peer")?;
        let script = folder.path().join("duckdb_peer.py");
        std::fs::write(&script, SCRIPT)?;
        let mut child = Command::new(duckdb::python()?)
            .arg(&script)
            .arg(csv)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .context("python")?;
        let (questions, answers) = (child.stdin.take(), child.stdout.take());
        Ok(Self {
            child,
            questions: questions.context("its standard input")?,
            answers: BufReader::new(answers.context("its standard output")?),
            _folder: folder,
        })
    }

    /// Runs a query, written for [`Dialect::DuckDb`](crate::queries::Dialect::DuckDb).
    ///
    /// * effects: blocks the thread until the answer is there.
    pub fn ask(&mut self, query: &Query, rows: bool) -> Result<Answer> {
        let question = json!({ "sql": query.sql, "rows": rows });
        writeln!(self.questions, "{question}").context("DuckDB has ended")?;
        let mut line = String::new();
        if self.answers.read_line(&mut line)? == 0 {
            bail!("{}: DuckDB has ended", query.name);
        }
        serde_json::from_str(&line).with_context(|| query.name)
    }
}

impl Drop for DuckDb {
    fn drop(&mut self) {
        if self.child.kill().is_ok() {
            let _ = self.child.wait();
        }
    }
}
