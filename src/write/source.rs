//! Files, one after the other, as batches.

use std::collections::VecDeque;
use std::path::PathBuf;
use std::sync::Arc;

use anyhow::Context as _;
use auxo_client::lines::{Cut, CutAt, Cutter, Lines};
use tokio::io::{AsyncRead, AsyncReadExt as _};

use crate::exit::usage;

/// How much is read at once, in bytes.
const READ_BYTES: usize = 1 << 20;

/// What comes next.
pub(crate) enum Piece {
    Batch(Batch),
    TooLong(LongLine),
}

/// Lines and where they come from.
pub(crate) struct Batch {
    pub(crate) file: Arc<str>,
    pub(crate) lines: Lines,
}

/// A line above any node's limit.
pub(crate) struct LongLine {
    pub(crate) file: Arc<str>,
    pub(crate) line: u64,
    pub(crate) beginning: bytes::Bytes,
}

/// Files that are still to be read. A batch never spans two of them.
pub(crate) struct Source {
    waiting: VecDeque<PathBuf>,
    open: Option<Open>,
    buffer: Vec<u8>,
    cut_at: CutAt,
    total_bytes: Option<u64>,
}

struct Open {
    name: Arc<str>,
    from: Box<dyn AsyncRead + Send + Unpin>,
    cutter: Cutter,
    ended: bool,
}

impl Source {
    /// Checks that every file is there, so that a typing error stores nothing.
    pub(crate) async fn open(files: &[PathBuf], cut_at: CutAt) -> anyhow::Result<Self> {
        let waiting: VecDeque<_> = match files {
            [] => [PathBuf::from("-")].into(),
            files => files.to_vec().into(),
        };
        let mut total_bytes = Some(0);
        for file in &waiting {
            if file.as_os_str() == "-" {
                total_bytes = None;
                continue;
            }
            let found = tokio::fs::metadata(file).await;
            let found = found.map_err(|error| usage(format!("{}: {error}", file.display())))?;
            if found.is_dir() {
                return Err(usage(format!("{}: is a directory", file.display())));
            }
            total_bytes = total_bytes
                .filter(|_| found.is_file())
                .map(|sum| sum + found.len());
        }
        Ok(Self {
            waiting,
            open: None,
            buffer: vec![0; READ_BYTES],
            cut_at,
            total_bytes,
        })
    }

    /// Bytes of all files together, if all of them are files.
    pub(crate) fn total_bytes(&self) -> Option<u64> {
        self.total_bytes
    }

    /// The next piece, in the order of the files; nothing after the last.
    pub(crate) async fn next(&mut self) -> anyhow::Result<Option<Piece>> {
        loop {
            let Some(open) = &mut self.open else {
                let Some(file) = self.waiting.pop_front() else {
                    return Ok(None);
                };
                self.open = Some(Open::of(file, self.cut_at).await?);
                continue;
            };
            let cut = match open.ended {
                false => open.cutter.cut(),
                true => open.cutter.rest(),
            };
            let file = open.name.clone();
            match cut {
                Some(Cut::Batch(lines)) => return Ok(Some(Piece::Batch(Batch { file, lines }))),
                Some(Cut::TooLong { line, beginning }) => {
                    return Ok(Some(Piece::TooLong(LongLine {
                        file,
                        line,
                        beginning,
                    })));
                }
                None if open.ended => self.open = None,
                None => {
                    let read = open.from.read(&mut self.buffer).await;
                    let read = read.with_context(|| open.name.to_string())?;
                    open.ended = read == 0;
                    open.cutter.push(&self.buffer[..read]);
                }
            }
        }
    }
}

impl Open {
    async fn of(file: PathBuf, cut_at: CutAt) -> anyhow::Result<Self> {
        let (name, from): (_, Box<dyn AsyncRead + Send + Unpin>) = if file.as_os_str() == "-" {
            ("<stdin>".to_owned(), Box::new(tokio::io::stdin()))
        } else {
            let name = file.display().to_string();
            let opened = tokio::fs::File::open(&file).await;
            let opened = opened.with_context(|| name.clone())?;
            (name, Box::new(opened))
        };
        Ok(Self {
            name: name.into(),
            from,
            cutter: Cutter::new(cut_at),
            ended: false,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn files_follow_each_other_and_do_not_mix() {
        let directory = tempfile::tempdir().unwrap();
        let write = |name: &str, text: &str| {
            let file = directory.path().join(name);
            std::fs::write(&file, text).unwrap();
            file
        };
        let files = [write("a", "a f=1\nb f=2"), write("b", "c f=3\n")];
        let cut_at = CutAt::default();
        let mut source = Source::open(&files, cut_at).await.unwrap();
        assert_eq!(source.total_bytes(), Some(17));
        let mut texts = Vec::new();
        while let Some(Piece::Batch(batch)) = source.next().await.unwrap() {
            assert!(batch.file.ends_with(["a", "b"][texts.len()]));
            texts.push(String::from_utf8(batch.lines.text.to_vec()).unwrap());
        }
        assert_eq!(texts, ["a f=1\nb f=2", "c f=3\n"]);
    }

    #[tokio::test]
    async fn a_missing_file_is_known_before_anything_is_sent() {
        let missing = [PathBuf::from("/no/such/file")];
        let error = Source::open(&missing, CutAt::default())
            .await
            .err()
            .unwrap();
        assert_eq!(crate::exit::Exit::of(&error), crate::exit::Exit::Usage);
    }
}
