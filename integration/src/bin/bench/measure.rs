//! Small measurements: the machine, blocks on the disk, how a process ends, medians.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result};
use integration::{process, wait};
use rustix::process::{Pid, Signal, WaitId, WaitIdOptions, kill_process, waitid};
use serde_json::{Value, json};

/// Bytes of one block as `stat` counts them, on every Linux.
const BLOCK_BYTES: u64 = 512;

/// Bytes that a directory's files take on the disk: sparse files count for what they hold. Files
/// that vanish meanwhile count nothing.
pub(crate) fn blocks_bytes(folder: &Path) -> Result<u64> {
    let mut total = 0;
    let mut folders: Vec<PathBuf> = vec![folder.to_owned()];
    while let Some(at) = folders.pop() {
        let Ok(entries) = fs::read_dir(&at) else {
            continue;
        };
        for entry in entries {
            let entry = entry?;
            let Ok(metadata) = entry.metadata() else {
                continue;
            };
            if metadata.is_dir() {
                folders.push(entry.path());
            } else {
                total += metadata.blocks() * BLOCK_BYTES;
            }
        }
    }
    Ok(total)
}

/// What a process had used when it ended.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Ended {
    pub(crate) cpu_seconds: f64,
    pub(crate) memory_peak_bytes: u64,
}

/// Asks a child of this process to end and waits, but leaves it to its owner to be reaped: only
/// until then can its processor time be read.
pub(crate) async fn end(pid: u32, within: Duration) -> Result<Ended> {
    let id = Pid::from_raw(pid as i32).context("pid")?;
    kill_process(id, Signal::TERM).context("signal")?;
    let mut memory_peak_bytes = 0;
    let options = WaitIdOptions::EXITED | WaitIdOptions::NOWAIT | WaitIdOptions::NOHANG;
    wait::until("process has ended", within, || {
        memory_peak_bytes = process::memory_peak_bytes(pid).unwrap_or(memory_peak_bytes);
        let ended = waitid(WaitId::Pid(id), options);
        async move { ended?.context("still running") }
    })
    .await?;
    Ok(Ended {
        cpu_seconds: process::cpu_seconds(pid)?,
        memory_peak_bytes,
    })
}

/// The middle value; zero of none.
pub(crate) fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    let middle = values.len() / 2;
    match values.len() {
        0 => 0.0,
        odd if odd % 2 == 1 => values[middle],
        _ => f64::midpoint(values[middle - 1], values[middle]),
    }
}

/// The machine, for the report.
pub(crate) fn machine() -> Result<Value> {
    let text = |path: &str| fs::read_to_string(path).unwrap_or_default();
    let cpuinfo = text("/proc/cpuinfo");
    let field = |page: &str, name: &str| {
        let line = page.lines().find(|line| line.starts_with(name));
        let value = line.and_then(|line| line.split_once(':'));
        value.map(|(_, value)| value.trim().to_owned())
    };
    Ok(json!({
        "cores": std::thread::available_parallelism()?.get(),
        "processor": field(&cpuinfo, "model name"),
        "memory": field(&text("/proc/meminfo"), "MemTotal"),
        "kernel": text("/proc/sys/kernel/osrelease").trim(),
        "load_average": process::load_average()?,
    }))
}

/// First line that a program prints about its version, empty if there is no such program.
pub(crate) fn version(program: &Path, argument: &str) -> String {
    let Ok(output) = Command::new(program).arg(argument).output() else {
        return String::new();
    };
    let said = [output.stdout, output.stderr].concat();
    let said = String::from_utf8_lossy(&said);
    said.lines().next().unwrap_or_default().to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn medians_are_of_the_middle() {
        assert_eq!(median(vec![]), 0.0);
        assert_eq!(median(vec![9.0, 1.0, 2.0]), 2.0);
        assert_eq!(median(vec![4.0, 1.0, 9.0, 2.0]), 3.0);
    }

    #[test]
    fn a_sparse_file_counts_for_what_it_holds() {
        let folder = integration::disk::folder("blocks").unwrap();
        let file = fs::File::create(folder.path().join("sparse")).unwrap();
        file.set_len(1 << 30).unwrap();
        fs::create_dir(folder.path().join("in")).unwrap();
        fs::write(folder.path().join("in/full"), vec![1; 100_000]).unwrap();
        let bytes = blocks_bytes(folder.path()).unwrap();
        assert!((100_000..1 << 20).contains(&bytes), "{bytes}");
    }
}
