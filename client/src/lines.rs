//! Cutting a stream of line protocol into batches.
//!
//! 1. Bytes are pushed in pieces of any length; what is held is bounded by one batch, one line and
//!    one piece, as long as the caller takes all cuts before it pushes again.
//! 2. A batch ends where a line ends. A newline inside a quoted field belongs to its line, so the
//!    strings of a line with quotes are walked; the other lines cost two searches.
//! 3. A string that is never closed would swallow everything behind it. Once such a line is longer
//!    than what is held of one, or the stream ends in it, it ends at the first newline in that string
//!    and goes out in a batch of its own, for the node to say what is wrong with it. One behind whose
//!    closing quote no value can end has lost a quote, too, and its line ends likewise.
//! 4. A line that is too long even so is cut out and reported, not sent.
//!
//! Never here: what a line means.

use bytes::{Bytes, BytesMut};

/// Where batches are cut.
#[derive(Clone, Copy, Debug)]
pub struct CutAt {
    /// At most so many rows in a batch.
    pub rows: u64,
    /// A batch is closed by the line that brings it to so many bytes.
    pub bytes: usize,
    /// How much is held of one line, in bytes; a node may take less.
    pub line_bytes: usize,
}

impl Default for CutAt {
    fn default() -> Self {
        Self {
            rows: 10_000,
            bytes: 4 << 20,
            line_bytes: 4 << 20,
        }
    }
}

/// Some whole lines.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Lines {
    /// The lines as they came, comments and empty ones too.
    pub text: Bytes,
    /// How many of them are rows.
    pub rows: u64,
    /// Line of the source where they begin, counted from 1.
    pub first_line: u64,
}

impl Lines {
    /// The line of that number in its source, to its end behind all of its strings; without its newline.
    pub fn line(&self, number: u64) -> Option<&[u8]> {
        let before = usize::try_from(number.checked_sub(self.first_line)?).ok()?;
        let start = match before.checked_sub(1) {
            None => 0,
            Some(newline) => memchr::memchr_iter(b'\n', &self.text).nth(newline)? + 1,
        };
        let text = &self.text[start..];
        let length = match next_line(text, text.len(), true) {
            NextLine::Whole(length) | NextLine::Open(length) => length,
            NextLine::TooLong | NextLine::Unfinished => return None,
        };
        let line = &text[..length];
        let line = line.strip_suffix(b"\n").unwrap_or(line);
        (!line.is_empty()).then_some(line)
    }
}

/// What comes next out of the stream.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Cut {
    /// A batch with at least one row.
    Batch(Lines),
    /// A line of which more than [`CutAt::line_bytes`] would have to be held.
    TooLong {
        /// Its place in the source, counted from 1.
        line: u64,
        /// How it begins.
        beginning: Bytes,
    },
}

/// Cuts what is pushed into it.
#[derive(Debug)]
pub struct Cutter {
    at: CutAt,
    held: BytesMut,
    /// Bytes of `held` that are whole lines of the batch being filled.
    whole: usize,
    rows: u64,
    /// Line of the source at the start of `held`, and at `whole`.
    first_line: u64,
    line: u64,
    /// Inside the rest of a line that was too long.
    skipping: bool,
}

/// How much of a line that was too long is shown, in bytes.
const SHOWN_BYTES: usize = 200;

impl Cutter {
    /// A cutter at the start of a source.
    pub fn new(at: CutAt) -> Self {
        Self {
            at,
            held: BytesMut::new(),
            whole: 0,
            rows: 0,
            first_line: 1,
            line: 1,
            skipping: false,
        }
    }

    /// Adds the next piece of the source.
    pub fn push(&mut self, piece: &[u8]) {
        self.held.extend_from_slice(piece);
    }

    /// The next cut that needs no more of the source; call it until there is none.
    pub fn cut(&mut self) -> Option<Cut> {
        self.advance(false)
    }

    /// The next cut of what is left when the source has ended; call it until there is none.
    pub fn rest(&mut self) -> Option<Cut> {
        self.advance(true)
    }

    fn advance(&mut self, ended: bool) -> Option<Cut> {
        loop {
            if self.skipping && !self.skip(ended) {
                return None;
            }
            let text = &self.held[self.whole..];
            match next_line(text, self.at.line_bytes, ended) {
                NextLine::Whole(length) => {
                    let line = &text[..length];
                    let is_row = holds_row(line);
                    self.line += newlines(line).max(1);
                    self.whole += length;
                    self.rows += u64::from(is_row);
                    let full = self.rows >= self.at.rows || self.whole >= self.at.bytes;
                    if full && let Some(batch) = self.take() {
                        return Some(Cut::Batch(batch));
                    }
                }
                NextLine::Open(length) => {
                    if let Some(batch) = self.take() {
                        return Some(Cut::Batch(batch));
                    }
                    self.line += newlines(&self.held[..length]).max(1);
                    self.whole = length;
                    self.rows = 1;
                    return self.take().map(Cut::Batch);
                }
                NextLine::TooLong => {
                    // The lines before it go first, so that cuts come in the order of the source.
                    if let Some(batch) = self.take() {
                        return Some(Cut::Batch(batch));
                    }
                    self.skipping = true;
                    let shown = SHOWN_BYTES.min(self.held.len());
                    return Some(Cut::TooLong {
                        line: self.line,
                        beginning: Bytes::copy_from_slice(&self.held[..shown]),
                    });
                }
                NextLine::Unfinished if ended => return self.take().map(Cut::Batch),
                NextLine::Unfinished => return None,
            }
        }
    }

    /// Takes the whole lines out; nothing if there is no row among them.
    fn take(&mut self) -> Option<Lines> {
        let text = self.held.split_to(self.whole).freeze();
        let first_line = std::mem::replace(&mut self.first_line, self.line);
        let rows = std::mem::take(&mut self.rows);
        self.whole = 0;
        (rows > 0).then_some(Lines {
            text,
            rows,
            first_line,
        })
    }

    /// Drops the rest of a line that was too long; says whether its end was found.
    fn skip(&mut self, ended: bool) -> bool {
        debug_assert_eq!(self.whole, 0, "lines before it were taken");
        match memchr::memchr(b'\n', &self.held) {
            Some(newline) => {
                let _ = self.held.split_to(newline + 1);
                self.skipping = false;
                self.line += 1;
                self.first_line = self.line;
                true
            }
            None => {
                self.held.clear();
                ended
            }
        }
    }
}

enum NextLine {
    /// This many bytes, newline included.
    Whole(usize),
    /// This many bytes up to the first newline in a string that is never closed.
    Open(usize),
    TooLong,
    Unfinished,
}

fn next_line(text: &[u8], longest: usize, ended: bool) -> NextLine {
    if text.is_empty() {
        return NextLine::Unfinished;
    }
    let newline = memchr::memchr(b'\n', text);
    let first = newline.map_or(text, |newline| &text[..newline]);
    if first.len() > longest {
        return NextLine::TooLong;
    }
    let with_newline = newline.map_or(text.len(), |newline| newline + 1);
    if memchr::memchr(b'"', first).is_none() || is_comment(first) {
        return match newline.is_some() || ended {
            true => NextLine::Whole(with_newline),
            false => NextLine::Unfinished,
        };
    }
    match end_of_quoted(&text[..text.len().min(longest + 1)]) {
        End::Newline(end) => NextLine::Whole(end + 1),
        End::Text | End::Closed if ended && text.len() <= longest => NextLine::Whole(text.len()),
        End::Open(from) if ended || text.len() > longest => {
            let newline = memchr::memchr(b'\n', &text[from..]);
            match newline.map_or(text.len(), |newline| from + newline + 1) {
                end if end <= longest => NextLine::Open(end),
                _ => NextLine::Open(with_newline),
            }
        }
        _ if ended || text.len() > longest => NextLine::Open(with_newline),
        _ => NextLine::Unfinished,
    }
}

/// How a text ends that begins with a line whose strings may hold newlines.
enum End {
    /// The line ends at this newline.
    Newline(usize),
    /// There is none behind its last string.
    Text,
    /// With the quote that closes a string.
    Closed,
    /// Within the string that begins there.
    Open(usize),
}

fn end_of_quoted(text: &[u8]) -> End {
    let newline = memchr::memchr(b'\n', text);
    let blanks = text.iter().take_while(|byte| matches!(byte, b' ' | b'\t'));
    let start = blanks.count();
    let Some(key) = first_space(&text[start..newline.unwrap_or(text.len())]) else {
        return newline.map_or(End::Text, End::Newline);
    };
    let mut at = start + key;
    while let Some(found) = memchr::memchr2(b'\n', b'"', &text[at..]) {
        at += found;
        if text[at] == b'\n' {
            return End::Newline(at);
        }
        // A quote opens a string only where a value begins; elsewhere it is a letter like others.
        let opens = text[at - 1] == b'=' && text[at - 2] != b'\\';
        at += 1;
        if opens {
            match string_length(&text[at..]) {
                // What stands behind it may come with the next piece.
                Some(length) if at + length + 1 == text.len() => return End::Closed,
                Some(length) if ends_value(text[at + length + 1]) => at += length + 1,
                // It has lost a quote: the node ends the line here too.
                Some(_) => {
                    let newline = memchr::memchr(b'\n', &text[at..]);
                    return newline.map_or(End::Text, |newline| End::Newline(at + newline));
                }
                None => return End::Open(at),
            }
        }
    }
    End::Text
}

/// Where the fields begin: at the first space without a backslash before it.
fn first_space(line: &[u8]) -> Option<usize> {
    memchr::memchr_iter(b' ', line).find(|&at| at == 0 || line[at - 1] != b'\\')
}

/// Whether a value may end before that byte.
fn ends_value(behind: u8) -> bool {
    matches!(behind, b',' | b' ' | b'\n' | b'\r')
}

/// Bytes of a string up to the quote that closes it.
fn string_length(text: &[u8]) -> Option<usize> {
    let mut at = 0;
    loop {
        at += memchr::memchr2(b'"', b'\\', text.get(at..)?)?;
        match text[at] {
            b'"' => return Some(at),
            _ => at += 2,
        }
    }
}

fn is_comment(line: &[u8]) -> bool {
    line.trim_ascii_start().first() == Some(&b'#')
}

fn holds_row(line: &[u8]) -> bool {
    !line.trim_ascii_start().is_empty() && !is_comment(line)
}

fn newlines(line: &[u8]) -> u64 {
    memchr::memchr_iter(b'\n', line).count() as u64
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn at(rows: u64) -> CutAt {
        CutAt {
            rows,
            bytes: 1 << 20,
            line_bytes: 64,
        }
    }

    /// Cuts `source` pushed in pieces of `step` bytes; a line per cut.
    fn cuts(source: &[u8], at: CutAt, step: usize) -> Vec<String> {
        let mut cutter = Cutter::new(at);
        let mut seen = Vec::new();
        let mut note = |cut: Cut| {
            seen.push(match cut {
                Cut::Batch(lines) => format!(
                    "{}+{} {}",
                    lines.first_line,
                    lines.rows,
                    String::from_utf8_lossy(&lines.text).escape_debug()
                ),
                Cut::TooLong { line, beginning } => {
                    format!("{line} long {}", String::from_utf8_lossy(&beginning))
                }
            });
        };
        for piece in source.chunks(step) {
            cutter.push(piece);
            while let Some(cut) = cutter.cut() {
                note(cut);
            }
        }
        while let Some(cut) = cutter.rest() {
            note(cut);
        }
        seen
    }

    fn check(source: &str, at: CutAt, expected: &[&str]) {
        for step in [1, 3, 1_000] {
            assert_eq!(cuts(source.as_bytes(), at, step), expected, "step {step}");
        }
    }

    #[test]
    fn batches_end_where_lines_end() {
        check(
            "a f=1\nb f=2\nc f=3",
            at(2),
            &["1+2 a f=1\\nb f=2\\n", "3+1 c f=3"],
        );
        check("", at(2), &[]);
        check("\n\n# only\n", at(2), &[]);
        check(
            "# x\r\n\r\na f=1\r\n\nb f=1\n",
            at(1),
            &["1+1 # x\\r\\n\\r\\na f=1\\r\\n", "4+1 \\nb f=1\\n"],
        );
    }

    #[test]
    fn bytes_close_a_batch_too() {
        let small = CutAt { bytes: 7, ..at(99) };
        check(
            "a f=1\nb f=2\nc f=3\n",
            small,
            &["1+2 a f=1\\nb f=2\\n", "3+1 c f=3\\n"],
        );
    }

    #[test]
    fn a_newline_in_quotes_belongs_to_its_line() {
        check(
            "a f=\"x\ny\",g=2 5\nb f=1\n",
            at(1),
            &["1+1 a f=\\\"x\\ny\\\",g=2 5\\n", "3+1 b f=1\\n"],
        );
        check("a f=\"x\ny\"", at(1), &["1+1 a f=\\\"x\\ny\\\""]);
        check(
            "a f=\"\\\"\n\"\nb f=1\n",
            at(1),
            &["1+1 a f=\\\"\\\\\\\"\\n\\\"\\n", "3+1 b f=1\\n"],
        );
        check(
            "a,t=\"\\ \" f=1\nb f=1\n",
            at(1),
            &["1+1 a,t=\\\"\\\\ \\\" f=1\\n", "2+1 b f=1\\n"],
        );
        check("# don\"t\nb f=1\n", at(1), &["1+1 # don\\\"t\\nb f=1\\n"]);
    }

    #[test]
    fn blanks_before_a_line_are_no_part_of_its_key() {
        check(
            " a,t=\"x f=\"1\nb f=2\n\" 3\nc f=4\n",
            at(1),
            &["1+1  a,t=\\\"x f=\\\"1\\nb f=2\\n\\\" 3\\n", "4+1 c f=4\\n"],
        );
    }

    #[test]
    fn an_open_quote_swallows_no_more_than_its_line() {
        check(
            "z f=1\na f=\"x\nb f=1\nc f=1\n",
            at(9),
            &["1+1 z f=1\\n", "2+1 a f=\\\"x\\n", "3+2 b f=1\\nc f=1\\n"],
        );
        check("a f=\"x", at(9), &["1+1 a f=\\\"x"]);
        // The node ends it there, too.
        check(
            "a f=\"x\ny v=\",g=\"\nb f=1\n",
            at(9),
            &["1+1 a f=\\\"x\\ny v=\\\",g=\\\"\\n", "3+1 b f=1\\n"],
        );
        check(
            "a f=\"x\nb f=\"y\"\nc f=1\n",
            at(1),
            &["1+1 a f=\\\"x\\n", "2+1 b f=\\\"y\\\"\\n", "3+1 c f=1\\n"],
        );
        check(
            "a\" f=1\na\\ =\"b f=1\n",
            at(9),
            &["1+2 a\\\" f=1\\na\\\\ =\\\"b f=1\\n"],
        );
        let source = format!("a f=\"x\n{}", "b f=1\n".repeat(20));
        for step in [1, 7, 1_000] {
            assert_eq!(
                cuts(source.as_bytes(), at(1), step).len(),
                21,
                "step {step}"
            );
        }
    }

    #[test]
    fn a_line_above_the_limit_is_reported_and_left_out() {
        let long = "x".repeat(70);
        for step in [1, 1_000] {
            let found = cuts(
                format!("a f=1\n{long}\nb f=2\n{long}").as_bytes(),
                at(9),
                step,
            );
            assert_eq!(found[0], "1+1 a f=1\\n");
            assert!(found[1].starts_with("2 long xxx"), "{found:?}");
            assert_eq!(found[2], "3+1 b f=2\\n");
            assert!(found[3].starts_with("4 long xxx"), "{found:?}");
            assert_eq!(found.len(), 4);
        }
    }

    #[test]
    fn a_line_is_found_by_its_number() {
        let lines = Lines {
            text: "a f=1\nb f=\"x\ny\" 5\n\nc f=\"z\nd f=2".into(),
            rows: 4,
            first_line: 7,
        };
        let line = |number| lines.line(number).map(String::from_utf8_lossy);
        assert_eq!(line(7).unwrap(), "a f=1");
        assert_eq!(line(8).unwrap(), "b f=\"x\ny\" 5");
        assert_eq!(line(10), None);
        assert_eq!(line(11).unwrap(), "c f=\"z");
        assert_eq!(line(12).unwrap(), "d f=2");
        assert_eq!((line(6), line(13)), (None, None));
    }

    proptest! {
        #[test]
        fn every_row_goes_out_once_and_in_order(
            source in proptest::collection::vec(
                prop_oneof![Just(b'\n'), Just(b'"'), Just(b'\\'), Just(b' '), Just(b'='), Just(b'#'), Just(b'a')],
                0..300,
            ),
            step in 1_usize..40,
            rows in 1_u64..5,
        ) {
            let cut_at = CutAt { rows, bytes: 100, line_bytes: 1_000 };
            let mut cutter = Cutter::new(cut_at);
            let mut out = Vec::new();
            let mut lines = Vec::new();
            for piece in source.chunks(step) {
                cutter.push(piece);
                while let Some(Cut::Batch(batch)) = cutter.cut() {
                    lines.push((batch.first_line, out.len()));
                    out.extend_from_slice(&batch.text);
                }
            }
            while let Some(Cut::Batch(batch)) = cutter.rest() {
                lines.push((batch.first_line, out.len()));
                out.extend_from_slice(&batch.text);
            }
            // What is missing from the source is comments and blanks behind the last batch,
            // or between two batches.
            let kept: Vec<u8> = rows_of(&out);
            prop_assert_eq!(kept, rows_of(&source));
        }
    }

    fn rows_of(source: &[u8]) -> Vec<u8> {
        source
            .split(|&byte| byte == b'\n')
            .filter(|line| holds_row(line))
            .collect::<Vec<_>>()
            .join(&b'\n')
    }
}
