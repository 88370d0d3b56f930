//! Changes a partition's log behind Kafka's back: a bit flips, the tail is lost, offsets are left out.
//!
//! A segment is record batches back to back: first offset i64, length of the rest i32, leader epoch
//! i32, version i8 = 2, crc32c u32 of all that follows, attributes i16, offset of the last record
//! beyond the first i32, … records. Big-endian.

use std::fs::{self, File};
use std::io::{Read, Write};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

/// Bytes of a batch before its length counts.
const PREFIX_BYTES: u64 = 12;

/// Where in a batch the checksummed part begins.
const SUMMED_AT: usize = 21;

/// One batch.
struct Batch {
    first: u64,
    last: u64,
    at: u64,
    bytes: u64,
}

/// Flips a bit of the record at that offset, or of one in its batch.
pub(super) fn rot(partition: &Path, offset: u64) -> Result<()> {
    let (path, batch) = find(partition, offset)?;
    let file = File::options().read(true).write(true).open(path)?;
    let at = batch.at + batch.bytes - 8;
    let mut byte = [0];
    file.read_exact_at(&mut byte, at)?;
    Ok(file.write_all_at(&[byte[0] ^ 0x10], at)?)
}

/// Loses everything from the batch of that offset on. The broker does not run.
pub(super) fn cut(partition: &Path, offset: u64) -> Result<()> {
    let (path, batch) = find(partition, offset)?;
    File::options().write(true).open(path)?.set_len(batch.at)?;
    forget_indexes(partition)
}

/// Leaves out that many offsets behind the end, by a marker that no reader is shown. The broker does
/// not run.
pub(super) fn leave_out(partition: &Path, width: u64) -> Result<()> {
    let path = segments(partition)?.pop().context("no segment")?;
    let end = batches(&path)?.last().map(|batch| batch.last + 1);
    let end = end.context("nothing is in the log")?;
    let mut file = File::options().append(true).open(path)?;
    file.write_all(&marker(end + width - 1))?;
    forget_indexes(partition)
}

/// A control batch of one record: the end of a transaction that nobody began.
fn marker(offset: u64) -> Vec<u8> {
    let mut summed = Vec::new();
    summed.extend(0x20_i16.to_be_bytes());
    summed.extend(0_i32.to_be_bytes());
    for _first_and_last_time in 0..2 {
        summed.extend(1_700_000_000_000_i64.to_be_bytes());
    }
    summed.extend((-1_i64).to_be_bytes()); // producer
    summed.extend((-1_i16).to_be_bytes()); // its epoch
    summed.extend((-1_i32).to_be_bytes()); // first sequence
    summed.extend(1_i32.to_be_bytes()); // records
    let key = [0, 0, 0, 1];
    let value = [0_u8; 6];
    // Lengths are zigzag: twice the number.
    let mut record = vec![0, 0, 0, 2 * key.len() as u8];
    record.extend(key);
    record.push(2 * value.len() as u8);
    record.extend(value);
    record.push(0);
    summed.push(2 * record.len() as u8);
    summed.extend(record);
    let mut batch = Vec::new();
    batch.extend(offset.to_be_bytes());
    let rest = SUMMED_AT - PREFIX_BYTES as usize + summed.len();
    batch.extend((rest as i32).to_be_bytes());
    batch.extend(0_i32.to_be_bytes());
    batch.push(2);
    batch.extend(crc32c::crc32c(&summed).to_be_bytes());
    batch.extend(summed);
    batch
}

fn find(partition: &Path, offset: u64) -> Result<(PathBuf, Batch)> {
    for path in segments(partition)? {
        for batch in batches(&path)? {
            if (batch.first..=batch.last).contains(&offset) {
                return Ok((path, batch));
            }
        }
    }
    anyhow::bail!("no batch holds offset {offset}")
}

fn batches(path: &Path) -> Result<Vec<Batch>> {
    let mut bytes = Vec::new();
    File::open(path)?.read_to_end(&mut bytes)?;
    let (mut found, mut at) = (Vec::new(), 0);
    while let Some(head) = bytes.get(at..at + 27) {
        let number = |from: usize, to: usize| {
            let bytes = head[from..to].iter();
            bytes.fold(0_u64, |number, byte| (number << 8) | u64::from(*byte))
        };
        let length = PREFIX_BYTES + number(8, 12);
        let first = number(0, 8);
        found.push(Batch {
            first,
            last: first + number(23, 27),
            at: at as u64,
            bytes: length,
        });
        at += length as usize;
    }
    Ok(found)
}

fn segments(partition: &Path) -> Result<Vec<PathBuf>> {
    let mut found = ending(partition, &["log"])?;
    found.sort();
    Ok(found)
}

/// What Kafka derives from the segments; it is made again at the start.
fn forget_indexes(partition: &Path) -> Result<()> {
    for path in ending(partition, &["index", "timeindex", "snapshot"])? {
        fs::remove_file(path)?;
    }
    Ok(())
}

fn ending(partition: &Path, endings: &[&str]) -> Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    let entries = fs::read_dir(partition).with_context(|| partition.display().to_string())?;
    for entry in entries {
        let path = entry?.path();
        let ending = path.extension().and_then(|ending| ending.to_str());
        if ending.is_some_and(|ending| endings.contains(&ending)) {
            found.push(path);
        }
    }
    Ok(found)
}
