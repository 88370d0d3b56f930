//! What may be wrong with a line, in words for its sender, and the list of bad lines of a body.

use std::fmt::Display;
use std::sync::Arc;

use auxo_proto::schema::ColumnType;

/// Most bad lines of a body that are kept with their text; the others are only counted.
pub const KEPT_MAX: usize = 100;

/// Most bytes of a bad line's text that are kept.
pub const TEXT_BYTES_MAX: usize = 256;

/// A line that was refused.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LineError {
    /// Where it begins, counted from 1.
    pub line: u64,
    /// Its first bytes, at most [`TEXT_BYTES_MAX`] of them; what is not UTF-8 is replaced.
    pub text: String,
    /// What is wrong with it.
    pub message: String,
}

/// The refused lines of a body.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LineErrors {
    total: u64,
    kept: Vec<LineError>,
}

impl LineErrors {
    /// Adds a line; behind the first [`KEPT_MAX`] it is only counted.
    pub fn push(&mut self, line: u64, text: &[u8], message: &dyn Display) {
        self.total += 1;
        if self.kept.len() < KEPT_MAX {
            self.kept.push(LineError {
                line,
                text: excerpt(text, TEXT_BYTES_MAX),
                message: message.to_string(),
            });
        }
    }

    /// Number of refused lines.
    pub fn total(&self) -> u64 {
        self.total
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.total == 0
    }

    /// The first refused lines, in their order.
    pub fn kept(&self) -> &[LineError] {
        &self.kept
    }
}

/// The start of a text, cut between two characters.
pub(super) fn excerpt(text: &[u8], bytes_max: usize) -> String {
    let mut end = text.len().min(bytes_max);
    if end < text.len() {
        // At most three bytes continue a character.
        let continues = |at: usize| text[at] & 0xC0 == 0x80;
        for _ in 0..3 {
            if end > 0 && continues(end) {
                end -= 1;
            }
        }
    }
    String::from_utf8_lossy(&text[..end]).into_owned()
}

/// What is wrong with a line.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum Fault {
    #[error("measurement is missing")]
    NoMeasurement,
    #[error("fields are missing")]
    NoFields,
    #[error("name of a {0} is missing")]
    NoName(&'static str),
    #[error("{kind} {name} has no value")]
    NoValue { kind: &'static str, name: String },
    #[error("tag {0} has an unescaped = in its value")]
    EqualsInTag(String),
    #[error("{0} is not UTF-8")]
    NotUtf8(String),
    #[error("name {0:?} holds a control character")]
    ControlCharacter(String),
    #[error("name {name}… is longer than {max} bytes")]
    LongName { name: String, max: usize },
    #[error("line is longer than {0} bytes")]
    LongLine(usize),
    #[error("line has more than {0} tags and fields")]
    ManyColumns(usize),
    #[error("string of field {name} is longer than {max} bytes")]
    LongString { name: String, max: usize },
    #[error("string of field {0} is not closed")]
    OpenString(String),
    #[error("{text:?} follows the value of field {name}")]
    AfterValue { name: String, text: String },
    #[error("value {text:?} of field {name} is no number, boolean or string")]
    NotAValue { name: String, text: String },
    #[error("value {text} of field {name} is out of range for {ty}")]
    OutOfRange {
        name: String,
        text: String,
        ty: ColumnType,
    },
    #[error("{0} stands twice")]
    Twice(String),
    #[error("{name} is a {is} of the table and a {used_as} of the line")]
    OtherKind {
        name: String,
        is: &'static str,
        used_as: &'static str,
    },
    #[error("field {name} is {value} in the line and {column} in the table")]
    Clash {
        name: String,
        value: ColumnType,
        column: ColumnType,
    },
    #[error("field {name} is {value} in the line and {column} in an earlier one")]
    ClashInBody {
        name: String,
        value: ColumnType,
        column: ColumnType,
    },
    #[error("field {0} is NOT NULL in the table")]
    NotNull(String),
    #[error("timestamp {0:?} is no whole number")]
    NotATime(String),
    #[error("timestamp {0} is out of range in nanoseconds")]
    TimeOutOfRange(String),
    #[error("timestamp lies {ahead_s} s in the future, {max_s} s are allowed")]
    Future { ahead_s: i64, max_s: i64 },
    #[error("body needs more than {0} new columns")]
    ManyNewColumns(usize),
    #[error("{0}")]
    NeedRefused(Arc<str>),
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_text_is_cut_between_characters() {
        assert_eq!(excerpt(b"abc", 3), "abc");
        assert_eq!(excerpt(b"abcd", 3), "abc");
        assert_eq!(excerpt("aé".as_bytes(), 2), "a");
        assert_eq!(excerpt("a😀b".as_bytes(), 4), "a");
        assert_eq!(excerpt("a😀b".as_bytes(), 5), "a😀");
        assert_eq!(excerpt(b"a\xFF", 9), "a\u{FFFD}");
        assert_eq!(excerpt(&[0x80; 9], 4).chars().count(), 1);
        assert_eq!(excerpt(b"abc", 0), "");
    }

    #[test]
    fn only_the_first_lines_are_kept() {
        let mut errors = LineErrors::default();
        for line in 1..=200 {
            errors.push(line, &[b'x'; 1000], &Fault::NoFields);
        }
        assert_eq!((errors.total(), errors.kept().len()), (200, KEPT_MAX));
        assert_eq!(errors.kept()[99].line, 100);
        assert_eq!(errors.kept()[0].text.len(), TEXT_BYTES_MAX);
    }
}
