//! The files of the log: listing, reading and cutting them at start, making new ones, deleting old.
//!
//! A segment is made under another name and renamed when its header and first frame are durable,
//! so a file with a segment's name always begins whole.

use std::collections::VecDeque;
use std::fs::{self, File, OpenOptions};
use std::io::Write;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::LogError;
use super::format::{
    self, Ballot, FRAME_HEADER_BYTES, FRAME_MAGIC, FrameHeader, Malformed, Position, Record,
    SEGMENT_HEADER_BYTES,
};

const EXTENSION: &str = "log";
const UNFINISHED: &str = "segment.tmp";

/// What is kept beside the entries.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Kept {
    pub(crate) vote: Option<Ballot>,
    pub(crate) committed: Option<Position>,
    pub(crate) purged: Option<Position>,
}

impl Kept {
    fn records(&self) -> impl Iterator<Item = Record> {
        let vote = self.vote.map(Record::Vote);
        let purged = self.purged.map(Record::Purged);
        let committed = self.committed.map(Record::Committed);
        vote.into_iter().chain(purged).chain(committed)
    }
}

/// Where an entry's record lies.
#[derive(Debug, Clone)]
pub(crate) struct Place {
    pub(crate) file: Arc<File>,
    pub(crate) offset: u64,
    pub(crate) bytes: u32,
}

impl Place {
    /// Reads the record back and checks it.
    pub(crate) fn read(&self) -> std::io::Result<Record> {
        let mut bytes = vec![0; self.bytes as usize];
        self.file.read_exact_at(&mut bytes, self.offset)?;
        let (record, _) = Record::decode(&bytes).map_err(std::io::Error::other)?;
        Ok(record)
    }
}

/// One file of the log.
#[derive(Debug)]
pub(crate) struct Segment {
    pub(crate) path: PathBuf,
    pub(crate) file: Arc<File>,
    /// Highest index of an entry in it, void or not.
    pub(crate) last: Option<u64>,
    /// Length in bytes.
    pub(crate) bytes: u64,
}

/// What was found in a directory.
#[derive(Debug, Default)]
pub(crate) struct Recovered {
    pub(crate) kept: Kept,
    /// Live entries without a gap, each where it lies.
    pub(crate) entries: VecDeque<(Position, Place)>,
    pub(crate) segments: VecDeque<Segment>,
    /// Number of the next frame.
    pub(crate) next_frame: u64,
}

/// Reads all segments of `dir`, cuts an unfinished write off the last one.
///
/// * errors: [`LogError`]; nothing is changed then, except that a cut may have been made.
pub(crate) fn recover(dir: &Path) -> Result<Recovered, LogError> {
    let mut found = Recovered::default();
    let paths = list(dir)?;
    for (n, path) in paths.iter().enumerate() {
        read_segment(path, n + 1 == paths.len(), &mut found)?;
    }
    if let (Some(purged), Some((at, _)), Some(first)) = (
        found.kept.purged,
        found.entries.front(),
        found.segments.front(),
    ) && at.index != purged.index + 1
    {
        let what = format!(
            "entries {} to {} are missing",
            purged.index + 1,
            at.index - 1
        );
        return Err(corrupt(&first.path, 0, what));
    }
    Ok(found)
}

/// Paths of the segments in the order they were written.
fn list(dir: &Path) -> Result<Vec<PathBuf>, LogError> {
    let mut paths = Vec::new();
    for item in fs::read_dir(dir).map_err(io(dir))? {
        let path = item.map_err(io(dir))?.path();
        if path.extension().is_some_and(|found| found == EXTENSION) {
            paths.push(path);
        } else if path.ends_with(UNFINISHED) {
            fs::remove_file(&path).map_err(io(&path))?;
        }
    }
    paths.sort();
    Ok(paths)
}

fn read_segment(path: &Path, is_last: bool, found: &mut Recovered) -> Result<(), LogError> {
    let bytes = fs::read(path).map_err(io(path))?;
    let first_frame = format::decode_segment_header(&bytes).map_err(|error| match error {
        Malformed::Newer(format) => LogError::Newer {
            path: path.to_owned(),
            format,
            known: format::FORMAT,
        },
        error => corrupt(path, 0, error.to_string()),
    })?;
    if found.segments.is_empty() {
        found.next_frame = first_frame;
    } else if found.next_frame != first_frame {
        return Err(corrupt(
            path,
            12,
            format!(
                "begins with frame {first_frame}, expected {}",
                found.next_frame
            ),
        ));
    }
    let file = OpenOptions::new()
        .read(true)
        .write(true)
        .open(path)
        .map_err(io(path))?;
    let mut segment = Segment {
        path: path.to_owned(),
        file: Arc::new(file),
        last: None,
        bytes: SEGMENT_HEADER_BYTES as u64,
    };
    let mut offset = SEGMENT_HEADER_BYTES;
    while offset < bytes.len() {
        let frame = format::decode_frame(&bytes[offset..])
            .ok()
            .filter(|(header, ..)| header.number == found.next_frame);
        let Some((_, records, length)) = frame else {
            if !is_last || whole_frame_follows(&bytes[offset..], found.next_frame) {
                return Err(corrupt(path, offset as u64, "a damaged frame".to_owned()));
            }
            tracing::warn!(path = %path.display(), offset, "cut an unfinished write off the log");
            segment.file.set_len(offset as u64).map_err(io(path))?;
            segment.file.sync_all().map_err(io(path))?;
            break;
        };
        for (record, at, bytes) in records {
            let place = Place {
                file: segment.file.clone(),
                offset: (offset + at) as u64,
                bytes: bytes as u32,
            };
            replay(record, place, &mut segment, found)
                .map_err(|what| corrupt(path, (offset + at) as u64, what))?;
        }
        offset += length;
        segment.bytes = offset as u64;
        found.next_frame += 1;
    }
    found.segments.push_back(segment);
    Ok(())
}

fn replay(
    record: Record,
    place: Place,
    segment: &mut Segment,
    found: &mut Recovered,
) -> Result<(), String> {
    match record {
        Record::Vote(ballot) => found.kept.vote = Some(ballot),
        Record::Committed(at) => found.kept.committed = Some(at),
        Record::Purged(purged) => {
            found.kept.purged = Some(purged);
            while found
                .entries
                .front()
                .is_some_and(|(at, _)| at.index <= purged.index)
            {
                found.entries.pop_front();
            }
        }
        Record::Truncated { from } => {
            while found.entries.back().is_some_and(|(at, _)| at.index >= from) {
                found.entries.pop_back();
            }
        }
        Record::Entry { at, .. } => {
            segment.last = segment.last.max(Some(at.index));
            if found
                .kept
                .purged
                .is_some_and(|purged| at.index <= purged.index)
            {
                return Ok(());
            }
            if let Some((last, _)) = found.entries.back()
                && at.index != last.index + 1
            {
                return Err(format!("entry {} follows entry {}", at.index, last.index));
            }
            found.entries.push_back((at, place));
        }
    }
    Ok(())
}

/// Whether a frame numbered `number` or later lies whole anywhere in `bytes` but at its front.
fn whole_frame_follows(bytes: &[u8], number: u64) -> bool {
    (1..bytes.len().saturating_sub(FRAME_HEADER_BYTES)).any(|at| {
        bytes[at..].starts_with(FRAME_MAGIC)
            && format::decode_frame(&bytes[at..]).is_ok_and(|(header, ..)| header.number > number)
    })
}

/// Makes a segment that begins with `kept`, durable under its name when this returns.
pub(crate) fn create(dir: &Path, first_frame: u64, kept: &Kept) -> std::io::Result<Segment> {
    let mut body = Vec::new();
    for record in kept.records() {
        record.encode(&mut body);
    }
    let mut bytes = format::segment_header(first_frame).to_vec();
    let header = FrameHeader {
        number: first_frame,
        body_bytes: body.len() as u32,
    };
    bytes.extend_from_slice(&header.encode());
    bytes.extend_from_slice(&body);

    let unfinished = dir.join(UNFINISHED);
    let path = dir.join(format!("{first_frame:016x}.{EXTENSION}"));
    let mut file = OpenOptions::new()
        .read(true)
        .write(true)
        .create(true)
        .truncate(true)
        .open(&unfinished)?;
    file.write_all(&bytes)?;
    file.sync_all()?;
    fs::rename(&unfinished, &path)?;
    File::open(dir)?.sync_all()?;
    Ok(Segment {
        path,
        file: Arc::new(file),
        last: None,
        bytes: bytes.len() as u64,
    })
}

fn io(path: &Path) -> impl FnOnce(std::io::Error) -> LogError {
    let path = path.to_owned();
    move |source| LogError::Io { path, source }
}

fn corrupt(path: &Path, offset: u64, what: String) -> LogError {
    LogError::Corrupt {
        path: path.to_owned(),
        offset,
        what,
    }
}
