//! Where refused lines go: a file that can be mended and written again, or the standard error.
//!
//! In the file each refused line stands below a comment with its place and the reason, so the file
//! is line protocol itself.

use std::fs::File;
use std::io::{self, BufWriter, Write};
use std::path::Path;

use auxo_client::write::Written;

use super::source::{Batch, LongLine};
use crate::exit::usage;

/// The standard error stream shows at most so many lines; the report still counts all of them.
const SHOWN_MAX: u64 = 20;

/// Takes note of refused lines.
pub(super) struct Rejected {
    file: Option<BufWriter<File>>,
    shown: u64,
}

impl Rejected {
    /// Opens the file, which is emptied; without one, lines go to the standard error.
    pub(super) fn open(path: Option<&Path>) -> anyhow::Result<Self> {
        let file = match path {
            None => None,
            Some(path) => {
                Some(BufWriter::new(File::create(path).map_err(|error| {
                    usage(format!("{}: {error}", path.display()))
                })?))
            }
        };
        Ok(Self { file, shown: 0 })
    }

    /// Notes the lines of a batch that were refused.
    pub(super) fn note_batch(&mut self, batch: &Batch, written: &Written) -> io::Result<()> {
        for line in &written.rejected {
            let place = format!("{}:{}", batch.file, line.line);
            let text = batch
                .lines
                .line(line.line)
                .unwrap_or(line.original.as_bytes());
            self.note(&place, &line.error, text)?;
        }
        let unnamed = written
            .rejected_rows
            .saturating_sub(written.rejected.len() as u64);
        if unnamed > 0 {
            let place = format!("{} from line {}", batch.file, batch.lines.first_line);
            let reason = match &*written.reason {
                "" => format!("{unnamed} more lines refused"),
                reason => format!("{unnamed} lines refused: {reason}"),
            };
            self.note(&place, &reason, b"")?;
        }
        Ok(())
    }

    /// Notes a line that was not even sent.
    pub(super) fn note_too_long(&mut self, line: &LongLine) -> io::Result<()> {
        let place = format!("{}:{}", line.file, line.line);
        let beginning = String::from_utf8_lossy(&line.beginning);
        let reason = format!("too long to be sent (--batch-bytes); it begins {beginning:?}");
        self.note(&place, &reason, b"")
    }

    fn note(&mut self, place: &str, reason: &str, text: &[u8]) -> io::Result<()> {
        if let Some(file) = &mut self.file {
            writeln!(file, "# {place}: {}", reason.replace('\n', " "))?;
            if !text.is_empty() {
                file.write_all(text)?;
                file.write_all(b"\n")?;
            }
            return Ok(());
        }
        self.shown += 1;
        match self.shown {
            shown if shown <= SHOWN_MAX => crate::output::notice(format_args!(
                "refused: {place}: {reason}: {}",
                String::from_utf8_lossy(text).escape_debug()
            )),
            shown if shown == SHOWN_MAX + 1 => crate::output::notice(format_args!(
                "refused: more lines; --rejected FILE keeps them all"
            )),
            _ => {}
        }
        Ok(())
    }

    /// Hands everything to the system.
    pub(super) fn finish(&mut self) -> io::Result<()> {
        self.file.as_mut().map_or(Ok(()), BufWriter::flush)
    }
}

#[cfg(test)]
mod tests {
    use auxo_client::RejectedLine;
    use auxo_client::lines::Lines;

    use super::*;

    #[test]
    fn the_file_is_line_protocol_with_reasons() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("rejected");
        let mut rejected = Rejected::open(Some(&path)).unwrap();
        let batch = Batch {
            file: "cpu.lp".into(),
            lines: Lines {
                text: "a f=1\nb f=x\nc f=\n".into(),
                rows: 3,
                first_line: 11,
            },
        };
        let line = |line, error: &str| RejectedLine {
            line,
            error: error.to_owned(),
            original: "as sent".to_owned(),
        };
        let written = Written {
            rows: 0,
            rejected_rows: 5,
            rejected: vec![line(12, "f: \"x\" is no\nnumber"), line(99, "elsewhere")],
            reason: "partial write".to_owned(),
            retries: 0,
        };
        rejected.note_batch(&batch, &written).unwrap();
        rejected.finish().unwrap();
        assert_eq!(
            std::fs::read_to_string(&path).unwrap(),
            "# cpu.lp:12: f: \"x\" is no number\nb f=x\n# cpu.lp:99: elsewhere\nas sent\n\
             # cpu.lp from line 11: 3 lines refused: partial write\n"
        );
    }
}
