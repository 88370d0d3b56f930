//! Is a body whole? A reply that failed half-way looks cut, and here is where that is seen.
//!
//! 1. `json`: the object that was opened is closed, and nothing follows it.
//! 2. `ndjson`: the last line is `{"end":…}`. That line is the protocol's, not the caller's, so the
//!    last line seen so far is always held back until another one follows.
//! 3. `csv`, `tsv`: the rows say nothing, so the framing of HTTP has to: a body that merely ends
//!    when its connection does is not accepted.
//!
//! Never here: a socket, or the meaning of a row.

use bytes::Bytes;
use serde::Deserialize;
use serde_json::Value;

use crate::statement::Format;
use crate::{Error, Refusal};

/// The longest line that is held back, in bytes.
const LINE_BYTES_MAX: usize = 64 << 20;

/// What a node says once all rows are sent.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default)]
pub struct Summary {
    /// How many rows there were, where the format can say so.
    pub row_count: Option<u64>,
    /// Whether a limit stopped the reply early.
    pub truncated: bool,
    /// What the statement cost.
    pub stats: Value,
}

/// Follows a body piece by piece.
pub(crate) enum Ending {
    Json(Nesting),
    Ndjson(Vec<u8>),
    Framed,
}

impl Ending {
    /// Follows a body of this format; `framed` says whether HTTP itself tells where it ends.
    pub(crate) fn of(format: Format, framed: bool) -> Result<Self, Error> {
        match format {
            Format::Json => Ok(Self::Json(Nesting::default())),
            Format::Ndjson => Ok(Self::Ndjson(Vec::new())),
            Format::Csv | Format::Tsv if framed => Ok(Self::Framed),
            Format::Csv | Format::Tsv => Err(Error::Reply {
                reason: "its end cannot be told from a lost connection".to_owned(),
            }),
        }
    }

    /// Takes the next piece and returns what of it, and of what was held back, is rows.
    pub(crate) fn pass(&mut self, piece: Bytes) -> Result<Bytes, Error> {
        match self {
            Self::Framed => Ok(piece),
            Self::Json(nesting) => {
                nesting.follow(&piece)?;
                Ok(piece)
            }
            Self::Ndjson(held) => {
                held.extend_from_slice(&piece);
                let complete = held.strip_suffix(b"\n").unwrap_or(held);
                let last_line = memchr::memrchr(b'\n', complete).map_or(0, |newline| newline + 1);
                if held.len() - last_line > LINE_BYTES_MAX {
                    let reason = format!("a line is longer than {LINE_BYTES_MAX} bytes");
                    return Err(Error::Reply { reason });
                }
                let rest = held.split_off(last_line);
                Ok(std::mem::replace(held, rest).into())
            }
        }
    }

    /// Judges the body once HTTP says it has ended well.
    pub(crate) fn finish(self) -> Result<Summary, Error> {
        match self {
            Self::Framed => Ok(Summary::default()),
            Self::Json(nesting) if nesting.closed() => Ok(Summary::default()),
            Self::Json(_) => Err(Error::Cut {
                reason: "the JSON object is not closed".to_owned(),
            }),
            Self::Ndjson(held) => match last_line(&held) {
                LastLine::End(summary) => Ok(summary),
                LastLine::Failed(refusal) => Err(Error::Refused(refusal)),
                LastLine::Row => Err(Error::Cut {
                    reason: "there is no end line".to_owned(),
                }),
            },
        }
    }

    /// Names the failure once the connection has broken: the last line may say more than it does.
    pub(crate) fn broken(self, error: Error) -> Error {
        match self {
            Self::Ndjson(held) => match last_line(&held) {
                LastLine::Failed(refusal) => Error::Refused(refusal),
                LastLine::End(_) | LastLine::Row => error,
            },
            Self::Json(_) | Self::Framed => error,
        }
    }
}

enum LastLine {
    End(Summary),
    Failed(Box<Refusal>),
    Row,
}

fn last_line(line: &[u8]) -> LastLine {
    #[derive(Deserialize)]
    #[serde(rename_all = "snake_case", deny_unknown_fields)]
    enum Line {
        End(Summary),
        Error(Value),
    }
    match serde_json::from_slice(line) {
        Ok(Line::End(summary)) => LastLine::End(summary),
        Ok(Line::Error(problem)) => {
            let status = problem["status"].as_u64().unwrap_or(500);
            let status = u16::try_from(status).unwrap_or(500);
            let body = problem.to_string();
            LastLine::Failed(Box::new(Refusal::read(status, None, body.as_bytes())))
        }
        Err(_) => LastLine::Row,
    }
}

/// How deep in a JSON text one is; knows strings, and nothing else of the grammar.
#[derive(Default)]
pub(crate) struct Nesting {
    depth: usize,
    opened: bool,
    in_string: bool,
    escaped: bool,
}

impl Nesting {
    fn follow(&mut self, piece: &[u8]) -> Result<(), Error> {
        for &byte in piece {
            if self.in_string {
                match byte {
                    _ if self.escaped => self.escaped = false,
                    b'\\' => self.escaped = true,
                    b'"' => self.in_string = false,
                    _ => {}
                }
                continue;
            }
            match byte {
                b' ' | b'\t' | b'\r' | b'\n' => {}
                _ if self.closed() => {
                    let reason = "something follows the JSON object".to_owned();
                    return Err(Error::Reply { reason });
                }
                b'"' => self.in_string = true,
                b'{' | b'[' => {
                    self.opened = true;
                    self.depth += 1;
                }
                b'}' | b']' => self.depth = self.depth.saturating_sub(1),
                _ => {}
            }
        }
        Ok(())
    }

    fn closed(&self) -> bool {
        self.opened && self.depth == 0 && !self.in_string
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Passes `text` in pieces of `step` bytes; returns the rows and the judgement.
    fn run(format: Format, text: &str, step: usize) -> (String, Result<Summary, Error>) {
        let mut ending = Ending::of(format, true).unwrap();
        let mut rows = Vec::new();
        for piece in text.as_bytes().chunks(step) {
            match ending.pass(Bytes::copy_from_slice(piece)) {
                Ok(passed) => rows.extend_from_slice(&passed),
                Err(error) => return (String::from_utf8(rows).unwrap(), Err(error)),
            }
        }
        (String::from_utf8(rows).unwrap(), ending.finish())
    }

    #[test]
    fn a_json_body_is_whole_when_its_object_is_closed() {
        let body = r#"{"rows":[["}",1]],"stats":{"a":"\"]"}}"#;
        for step in 1..body.len() {
            let (rows, end) = run(Format::Json, body, step);
            assert_eq!(rows, body);
            assert!(end.is_ok(), "{end:?}");
        }
        for cut in 0..body.len() {
            let (_, end) = run(Format::Json, &body[..cut], 7);
            assert!(matches!(end, Err(Error::Cut { .. })), "{cut}: {end:?}");
        }
        let (_, end) = run(Format::Json, &format!("{body}\n"), 7);
        assert!(end.is_ok());
        let (_, end) = run(Format::Json, &format!("{body}{{"), 7);
        assert!(matches!(end, Err(Error::Reply { .. })));
    }

    #[test]
    fn an_ndjson_body_is_whole_when_its_end_line_is_there() {
        let rows = "{\"end\":1}\n{\"host\":\"a\"}\n";
        let body = format!("{rows}{{\"end\":{{\"row_count\":2,\"stats\":{{\"rcu\":1}}}}}}\n");
        for step in 1..body.len() {
            let (passed, end) = run(Format::Ndjson, &body, step);
            assert_eq!(passed, rows, "{step}");
            assert_eq!(end.unwrap().row_count, Some(2));
        }
        for cut in 0..body.len() - 1 {
            let (passed, end) = run(Format::Ndjson, &body[..cut], 5);
            assert!(rows.starts_with(&passed));
            assert!(matches!(end, Err(Error::Cut { .. })), "{cut}: {end:?}");
        }
    }

    #[test]
    fn an_ndjson_body_may_name_its_failure() {
        let body =
            "{\"a\":1}\n{\"error\":{\"status\":504,\"code\":\"TIMEOUT\",\"detail\":\"slow\"}}\n";
        let (passed, end) = run(Format::Ndjson, body, 11);
        assert_eq!(passed, "{\"a\":1}\n");
        assert_eq!(end.unwrap_err().to_string(), "TIMEOUT: slow");
        let mut ending = Ending::of(Format::Ndjson, true).unwrap();
        ending.pass(Bytes::from_static(body.as_bytes())).unwrap();
        let lost = Error::Cut {
            reason: "reset".to_owned(),
        };
        assert_eq!(ending.broken(lost).to_string(), "TIMEOUT: slow");
    }

    #[test]
    fn csv_needs_a_framing() {
        assert!(Ending::of(Format::Csv, false).is_err());
        let (rows, end) = run(Format::Csv, "a,b\n1,2\n", 3);
        assert_eq!(rows, "a,b\n1,2\n");
        assert!(end.is_ok());
    }

    proptest! {
        #[test]
        fn no_bytes_make_it_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200), step in 1_usize..50) {
            for format in [Format::Json, Format::Ndjson] {
                let mut ending = Ending::of(format, true).unwrap();
                for piece in bytes.chunks(step) {
                    if ending.pass(Bytes::copy_from_slice(piece)).is_err() {
                        return Ok(());
                    }
                }
                let _ = ending.finish();
            }
        }
    }
}
