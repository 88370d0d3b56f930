//! VictoriaMetrics: built from the Go module proxy, line protocol in, MetricsQL out.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};

use super::spawned::Words;
use super::{Span, VICTORIA_METRICS};
use crate::duckdb::cache;
use crate::http::Http;
use crate::servers;

/// The module; `go install` refuses it from outside, so a scratch module requires it.
const MODULE: &str = "github.com/VictoriaMetrics/VictoriaMetrics";

pub(super) const DURABILITY: &str = "no: acknowledged rows are in memory, written to disk within 5 s (its default); kill -9 loses them";

pub(super) fn install() -> Result<PathBuf> {
    let folder = cache().join(format!("victoria-metrics-{VICTORIA_METRICS}"));
    let binary = folder.join("victoria-metrics");
    if binary.exists() {
        return Ok(binary);
    }
    servers::run(Command::new("go").arg("version"))?;
    eprintln!(
        "building VictoriaMetrics {VICTORIA_METRICS} from the Go module proxy into {}: about 3 minutes",
        folder.display()
    );
    let module = folder.join("module");
    fs::create_dir_all(&module).with_context(|| module.display().to_string())?;
    let text = format!("module peers\n\ngo 1.26\n\nrequire {MODULE} v{VICTORIA_METRICS}\n");
    fs::write(module.join("go.mod"), text)?;
    let part = folder.join("victoria-metrics.part");
    servers::run(
        Command::new("go")
            .current_dir(&module)
            .args(["build", "-mod=mod", "-trimpath", "-ldflags", "-s -w", "-o"])
            .arg(&part)
            .arg(format!("{MODULE}/app/victoria-metrics")),
    )?;
    fs::rename(&part, &binary)?;
    fs::remove_dir_all(&module)?;
    Ok(binary)
}

/// Its defaults, but for: nothing is too old to be kept; a query may read every point, for the rows
/// are counted.
pub(super) fn command(binary: &Path, data: &Path, port: u16) -> Words {
    vec![
        binary.into(),
        "-retentionPeriod=100y".into(),
        format!("-storageDataPath={}", data.display()).into(),
        format!("-httpListenAddr=127.0.0.1:{port}").into(),
        "-search.maxSamplesPerQuery=1000000000".into(),
        "-search.maxSamplesPerSeries=1000000000".into(),
        "-search.maxUniqueTimeseries=10000000".into(),
    ]
}

pub(super) async fn show(http: &Http) -> Result<()> {
    let request = http.request(reqwest::Method::GET, "/internal/force_flush");
    let answer = http.send(request).await?;
    match answer.status {
        200 | 204 => Ok(()),
        status => bail!("/internal/force_flush answers {status}: {}", answer.body),
    }
}

/// Points of all series that the selector chooses.
pub(super) async fn points(http: &Http, selector: &str, span: Span) -> Result<u64> {
    // A window excludes its begin: one second more takes in the first point.
    let seconds = span.end_s - span.start_s + 1;
    let query = format!("sum(count_over_time({selector}[{seconds}s]))");
    let time = span.end_s.to_string();
    let request = http.request(reqwest::Method::GET, "/api/v1/query").query(&[
        ("query", query.as_str()),
        ("time", &time),
        ("nocache", "1"),
    ]);
    let answer = http.send(request).await?;
    if answer.status != 200 {
        bail!("{query}: {} {}", answer.status, answer.body);
    }
    let json = answer.json();
    let result = json["data"]["result"].as_array();
    let series = result.with_context(|| format!("{query}: {}", answer.body))?;
    match series.first() {
        None => Ok(0),
        Some(series) => {
            let value = series["value"][1].as_str().context("a value")?;
            Ok(value.parse::<f64>()? as u64)
        }
    }
}
