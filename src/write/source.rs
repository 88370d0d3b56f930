//! Files, one after the other, as batches; those packed with gzip are unpacked, whatever their name.

use std::collections::VecDeque;
use std::io::Write as _;
use std::path::PathBuf;
use std::sync::Arc;

use anyhow::Context as _;
use auxo_client::lines::{Cut, CutAt, Cutter, Lines};
use flate2::write::MultiGzDecoder;
use tokio::io::{AsyncRead, AsyncReadExt as _};

use crate::exit::usage;

/// First bytes of what gzip has packed (RFC 1952, 2.3.1).
const GZIP: [u8; 2] = [0x1F, 0x8B];

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

/// A line that is too long to be sent.
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
    /// For what is packed; holds what is unpacked and not taken yet.
    unpacked: Option<MultiGzDecoder<Vec<u8>>>,
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
            let packed = file.extension().is_some_and(|kind| kind == "gz");
            total_bytes = total_bytes
                .filter(|_| found.is_file() && !packed)
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
                    let pushed = open.push(&self.buffer[..read]);
                    pushed.with_context(|| format!("{}: unpacking", open.name))?;
                }
            }
        }
    }
}

impl Open {
    async fn of(file: PathBuf, cut_at: CutAt) -> anyhow::Result<Self> {
        let (name, mut from): (_, Box<dyn AsyncRead + Send + Unpin>) = if file.as_os_str() == "-" {
            ("<stdin>".to_owned(), Box::new(tokio::io::stdin()))
        } else {
            let name = file.display().to_string();
            let opened = tokio::fs::File::open(&file).await;
            let opened = opened.with_context(|| name.clone())?;
            (name, Box::new(opened))
        };
        let mut head = Vec::with_capacity(GZIP.len());
        let mut begin = (&mut from).take(GZIP.len() as u64);
        let read = begin.read_to_end(&mut head).await;
        read.with_context(|| name.clone())?;
        let mut open = Self {
            name: name.into(),
            from,
            unpacked: (head == GZIP).then(|| MultiGzDecoder::new(Vec::new())),
            cutter: Cutter::new(cut_at),
            ended: false,
        };
        if !head.is_empty() {
            open.push(&head)?;
        }
        Ok(open)
    }

    /// Takes what was read; nothing means that this was all.
    fn push(&mut self, read: &[u8]) -> std::io::Result<()> {
        self.ended = read.is_empty();
        let Some(unpacked) = &mut self.unpacked else {
            self.cutter.push(read);
            return Ok(());
        };
        match self.ended {
            true => unpacked.try_finish()?,
            false => unpacked.write_all(read)?,
        }
        self.cutter.push(unpacked.get_ref());
        unpacked.get_mut().clear();
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn what_is_packed_is_unpacked_and_a_piece_of_it_is_an_error() {
        let directory = tempfile::tempdir().unwrap();
        let lines = "a f=1\nb f=2\n";
        let mut packer = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        packer.write_all(lines.as_bytes()).unwrap();
        let packed = packer.finish().unwrap();
        let whole = directory.path().join("whole.gz");
        std::fs::write(&whole, &packed).unwrap();
        let mut source = Source::open(&[whole], CutAt::default()).await.unwrap();
        assert_eq!(source.total_bytes(), None);
        match source.next().await.unwrap() {
            Some(Piece::Batch(batch)) => assert_eq!(&batch.lines.text[..], lines.as_bytes()),
            _ => panic!("no batch"),
        }
        assert!(source.next().await.unwrap().is_none());

        let piece = directory.path().join("piece");
        std::fs::write(&piece, &packed[..packed.len() - 9]).unwrap();
        let mut source = Source::open(&[piece], CutAt::default()).await.unwrap();
        let failed = loop {
            match source.next().await {
                Ok(Some(_)) => {}
                Ok(None) => panic!("a piece passed for the whole"),
                Err(error) => break format!("{error:#}"),
            }
        };
        assert!(failed.contains("piece: unpacking"), "{failed}");
    }

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
