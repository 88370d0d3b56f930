//! DuckDB as the oracle: a Python environment of its own in the cache, one script, answers as JSON.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};
use serde_json::{Value, json};

use crate::queries::Query;

/// The release that answers are taken from.
pub const VERSION: &str = "2.0.0";

/// The script, handed to Python on its standard input.
const SCRIPT: &str = include_str!("duckdb.py");

/// Where downloads and environments are kept between runs.
pub fn cache() -> PathBuf {
    #[allow(
        clippy::disallowed_methods,
        reason = "programs of this crate are edges of their own"
    )]
    let from = |name| std::env::var(name).ok().filter(|value| !value.is_empty());
    match (from("AUXO_CACHE"), from("HOME")) {
        (Some(cache), _) => cache.into(),
        (None, Some(home)) => Path::new(&home).join(".cache/auxo"),
        (None, None) => std::env::temp_dir().join("auxo-cache"),
    }
}

/// A Python with DuckDB; made at the first call on a machine.
pub fn python() -> Result<PathBuf> {
    let folder = cache().join(format!("python-duckdb-{VERSION}"));
    let python = folder.join("bin/python");
    let ready = folder.join("ready");
    if ready.exists() {
        return Ok(python);
    }
    eprintln!(
        "installing DuckDB {VERSION} from PyPI into {}",
        folder.display()
    );
    run(Command::new("python3").args(["-m", "venv"]).arg(&folder))?;
    let package = format!("duckdb=={VERSION}");
    run(Command::new(&python).args(["-m", "pip", "install", "--quiet", &package]))?;
    std::fs::write(&ready, VERSION)?;
    Ok(python)
}

fn run(command: &mut Command) -> Result<()> {
    let output = command.output().with_context(|| format!("{command:?}"))?;
    match output.status.success() {
        true => Ok(()),
        false => bail!("{command:?}: {}", String::from_utf8_lossy(&output.stderr)),
    }
}

/// Rows of each query over the CSV file, in DuckDB's order; times as nanoseconds since 1970.
pub fn answers(csv: &Path, queries: &[Query]) -> Result<Vec<Vec<Vec<Value>>>> {
    let folder = crate::disk::folder("duckdb")?;
    let (asked, answered) = (
        folder.path().join("asked.json"),
        folder.path().join("answers.json"),
    );
    let texts: Vec<&str> = queries.iter().map(|query| query.sql.as_str()).collect();
    std::fs::write(&asked, json!({ "csv": csv, "queries": texts }).to_string())?;
    let script = folder.path().join("answers.py");
    std::fs::write(&script, SCRIPT)?;
    run(Command::new(python()?)
        .arg(&script)
        .arg(&asked)
        .arg(&answered))?;
    let text = std::fs::read_to_string(&answered).context("answers of DuckDB")?;
    serde_json::from_str(&text).context("answers of DuckDB")
}
