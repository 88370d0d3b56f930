//! The grammar: where a line ends, and what stands in it.
//!
//! ```text
//! line   := measurement (',' name '=' value)* ' ' field (',' field)* (' ' timestamp)?
//! field  := name '=' (number | boolean | '"' string '"')
//! ```
//! A delimiter counts unless a backslash stands before it. Blank lines and lines that begin with
//! `#` say nothing; a carriage return before the line feed does not belong to the line.
//!
//! A string may hold line feeds. One that is never closed, or behind whose closing quote no value can
//! end, has lost a quote: its line ends at its first line feed, so that the good lines behind it are
//! not taken for text.

use std::borrow::Cow;

use memchr::{memchr, memchr_iter, memchr2};

use super::Limits;
use super::faults::{Fault, excerpt};
use super::value::{self, Cell, Text};

/// One line cut from a body.
pub(super) struct Cut<'a> {
    /// Its text without spaces before it and its end; empty if it says nothing.
    pub(super) text: &'a [u8],
    /// Where the next line begins.
    pub(super) next: usize,
    /// Line feeds from its start to the next line.
    pub(super) line_feeds: u64,
}

/// Cuts the line that begins at a place of the body.
pub(super) fn next(body: &[u8], at: usize) -> Cut<'_> {
    let rest = &body[at..];
    let blanks = rest.iter().take_while(|&&b| b == b' ' || b == b'\t');
    let start = blanks.count();
    let line = &rest[start..];
    let comment = line.first() == Some(&b'#');
    let len = if comment {
        memchr(b'\n', line).unwrap_or(line.len())
    } else {
        len(line)
    };
    let text = if comment { b"" } else { &line[..len] };
    Cut {
        text: text.strip_suffix(b"\r").unwrap_or(text),
        next: at + (start + len + 1).min(rest.len()),
        line_feeds: 1 + memchr_iter(b'\n', &line[..len]).count() as u64,
    }
}

/// Length of the line at the start of `rest`: up to the first line feed outside a string.
fn len(rest: &[u8]) -> usize {
    let end = memchr(b'\n', rest).unwrap_or(rest.len());
    let key = match key_len(&rest[..end]) {
        Some(key) => key,
        None => return end,
    };
    // Strings stand behind the key only, and only right behind the = of their field.
    let mut at = key;
    while let Some(found) = memchr2(b'\n', b'"', &rest[at..]) {
        at += found;
        if rest[at] == b'\n' {
            return at;
        }
        at += 1;
        if opens_string(&rest[key..at]) {
            match string_len(&rest[at..]) {
                Some(len) if ends_value(rest.get(at + len + 1)) => at += len + 1,
                _ => return at + memchr(b'\n', &rest[at..]).unwrap_or(rest.len() - at),
            }
        }
    }
    rest.len()
}

/// Whether the quote at the end of `fields` follows an unescaped `=`.
fn opens_string(fields: &[u8]) -> bool {
    matches!(fields, [.., before, b'=', b'"'] if *before != b'\\')
}

/// Whether a value may end before that byte, or at the end of the body.
fn ends_value(behind: Option<&u8>) -> bool {
    matches!(behind, None | Some(b',' | b' ' | b'\n' | b'\r'))
}

/// Bytes up to the closing quote.
fn string_len(text: &[u8]) -> Option<usize> {
    let mut at = 0;
    loop {
        at += memchr2(b'"', b'\\', text.get(at..)?)?;
        if text[at] == b'"' {
            return Some(at);
        }
        let pair = matches!(text.get(at + 1), Some(b'"' | b'\\'));
        at += if pair { 2 } else { 1 };
    }
}

/// Bytes up to the first unescaped space, if there is one.
pub(super) fn key_len(line: &[u8]) -> Option<usize> {
    find(line, |byte| byte == b' ')
}

/// Place of the first byte that is wanted and has no backslash before it.
fn find(text: &[u8], wanted: impl Fn(u8) -> bool) -> Option<usize> {
    let mut escaped = false;
    text.iter().position(|&byte| {
        let found = !escaped && wanted(byte);
        escaped = byte == b'\\';
        found
    })
}

/// A text without the backslashes before the given bytes.
fn unescaped<'a>(raw: &'a [u8], delimiters: &[u8]) -> Result<Cow<'a, str>, Fault> {
    let text = std::str::from_utf8(raw).map_err(|_| Fault::NotUtf8(excerpt(raw, 64)))?;
    if memchr(b'\\', raw).is_none() {
        return Ok(Cow::Borrowed(text));
    }
    let mut plain = String::with_capacity(text.len());
    let mut rest = text.chars().peekable();
    while let Some(char) = rest.next() {
        let next = rest.peek().and_then(|&next| u8::try_from(next).ok());
        if char != '\\' || !next.is_some_and(|next| delimiters.contains(&next)) {
            plain.push(char);
        }
    }
    Ok(Cow::Owned(plain))
}

fn name<'a>(
    raw: &'a [u8],
    kind: &'static str,
    delimiters: &[u8],
    limits: &Limits,
) -> Result<Cow<'a, str>, Fault> {
    if raw.is_empty() {
        return Err(Fault::NoName(kind));
    }
    let name = unescaped(raw, delimiters)?;
    if name.len() > limits.name_bytes {
        return Err(Fault::LongName {
            name: excerpt(name.as_bytes(), 64),
            max: limits.name_bytes,
        });
    }
    if name.chars().any(char::is_control) {
        return Err(Fault::ControlCharacter(name.into_owned()));
    }
    Ok(name)
}

/// Name and value of a tag.
pub(super) type Tag<'a> = (Cow<'a, str>, Cow<'a, str>);

/// A field of a line.
pub(super) struct Field<'a> {
    /// The name as it stands in the line, escapes and all.
    pub(super) raw_name: &'a [u8],
    pub(super) name: Cow<'a, str>,
    pub(super) value: Cell<'a>,
}

/// What stands in a line; its vectors are used again for the next one.
#[derive(Default)]
pub(super) struct Line<'a> {
    pub(super) measurement: Cow<'a, str>,
    pub(super) tags: Vec<Tag<'a>>,
    pub(super) fields: Vec<Field<'a>>,
    /// In the body's precision.
    pub(super) time: Option<i64>,
}

impl<'a> Line<'a> {
    /// Reads a line that is not empty.
    pub(super) fn read(&mut self, text: &'a [u8], limits: &Limits) -> Result<(), Fault> {
        if text.len() > limits.line_bytes {
            return Err(Fault::LongLine(limits.line_bytes));
        }
        let key = key_len(text).unwrap_or(text.len());
        self.read_key(&text[..key], limits)?;
        self.read_fields(&text[key..], limits)?;
        if self.tags.len() + self.fields.len() > limits.columns {
            return Err(Fault::ManyColumns(limits.columns));
        }
        self.check_names()
    }

    /// Reads measurement and tags.
    pub(super) fn read_key(&mut self, key: &'a [u8], limits: &Limits) -> Result<(), Fault> {
        self.tags.clear();
        let measurement = find(key, |byte| byte == b',').unwrap_or(key.len());
        if measurement == 0 {
            return Err(Fault::NoMeasurement);
        }
        self.measurement = name(&key[..measurement], "measurement", b", ", limits)?;
        let mut rest = &key[measurement..];
        while let Some(tag) = rest.strip_prefix(b",") {
            let end = find(tag, |byte| byte == b',').unwrap_or(tag.len());
            self.tags.push(read_tag(&tag[..end], limits)?);
            rest = &tag[end..];
            if self.tags.len() > limits.columns {
                return Err(Fault::ManyColumns(limits.columns));
            }
        }
        Ok(())
    }

    /// Reads fields and timestamp; `text` begins with the space behind the key.
    fn read_fields(&mut self, text: &'a [u8], limits: &Limits) -> Result<(), Fault> {
        self.fields.clear();
        self.time = None;
        let mut rest = trim_start(text);
        if rest.is_empty() {
            return Err(Fault::NoFields);
        }
        loop {
            let (field, len) = read_field(rest, limits)?;
            self.fields.push(field);
            rest = &rest[len..];
            if self.fields.len() > limits.columns {
                return Err(Fault::ManyColumns(limits.columns));
            }
            match rest.strip_prefix(b",") {
                Some(next) => rest = next,
                None => break,
            }
        }
        let time = trim_start(rest).trim_ascii_end();
        if !time.is_empty() {
            self.time = Some(value::parse_time(time)?);
        }
        Ok(())
    }

    fn check_names(&self) -> Result<(), Fault> {
        let tags = self.tags.iter().map(|(name, _)| name);
        let fields = self.fields.iter().map(|field| &field.name);
        let mut names: Vec<&str> = tags.chain(fields).map(AsRef::as_ref).collect();
        names.sort_unstable();
        match names.windows(2).find(|pair| pair[0] == pair[1]) {
            Some(pair) => Err(Fault::Twice(pair[0].to_owned())),
            None => Ok(()),
        }
    }
}

fn trim_start(text: &[u8]) -> &[u8] {
    let blanks = text.iter().take_while(|&&byte| byte == b' ').count();
    &text[blanks..]
}

fn read_tag<'a>(tag: &'a [u8], limits: &Limits) -> Result<Tag<'a>, Fault> {
    let equals = find(tag, |byte| byte == b'=').unwrap_or(tag.len());
    let name = name(&tag[..equals], "tag", b",= ", limits)?;
    let raw = tag.get(equals + 1..).unwrap_or(b"");
    if raw.is_empty() {
        return Err(Fault::NoValue {
            kind: "tag",
            name: name.into_owned(),
        });
    }
    if find(raw, |byte| byte == b'=').is_some() {
        return Err(Fault::EqualsInTag(name.into_owned()));
    }
    Ok((name, unescaped(raw, b",= ")?))
}

/// The field at the start of `text`, and its length.
fn read_field<'a>(text: &'a [u8], limits: &Limits) -> Result<(Field<'a>, usize), Fault> {
    let equals = find(text, |byte| matches!(byte, b'=' | b',' | b' ')).unwrap_or(text.len());
    let raw_name = &text[..equals];
    let name = name(raw_name, "field", b",= ", limits)?;
    if text.get(equals) != Some(&b'=') {
        return Err(Fault::NoValue {
            kind: "field",
            name: name.into_owned(),
        });
    }
    let start = equals + 1;
    let (value, len) = match text.get(start) {
        Some(b'"') => read_string(&text[start + 1..], &name, limits)?,
        _ => {
            let rest = &text[start..];
            let end = rest.iter().position(|byte| matches!(byte, b',' | b' '));
            let token = &rest[..end.unwrap_or(rest.len())];
            if token.is_empty() {
                return Err(Fault::NoValue {
                    kind: "field",
                    name: name.into_owned(),
                });
            }
            (value::parse(token, &name)?, token.len())
        }
    };
    let field = Field {
        raw_name,
        name,
        value,
    };
    Ok((field, start + len))
}

/// The string behind an opening quote; its length counts both quotes.
fn read_string<'a>(
    text: &'a [u8],
    name: &str,
    limits: &Limits,
) -> Result<(Cell<'a>, usize), Fault> {
    let end = string_len(text).ok_or_else(|| Fault::OpenString(name.to_owned()))?;
    let raw = &text[..end];
    if raw.len() > limits.string_bytes {
        return Err(Fault::LongString {
            name: name.to_owned(),
            max: limits.string_bytes,
        });
    }
    if std::str::from_utf8(raw).is_err() {
        return Err(Fault::NotUtf8(format!("string of field {name}")));
    }
    let after = &text[end + 1..];
    if !matches!(after.first(), None | Some(b',' | b' ')) {
        return Err(Fault::AfterValue {
            name: name.to_owned(),
            text: excerpt(after, 64),
        });
    }
    let escaped = memchr(b'\\', raw).is_some();
    Ok((Cell::Text(Text { raw, escaped }), end + 2))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Texts of all lines with the number of each.
    fn cut(body: &str) -> Vec<(u64, String)> {
        let (mut at, mut number, mut lines) = (0, 1, Vec::new());
        while at < body.len() {
            let line = next(body.as_bytes(), at);
            assert!(line.next > at);
            lines.push((number, String::from_utf8(line.text.to_vec()).unwrap()));
            at = line.next;
            number += line.line_feeds;
        }
        lines
    }

    #[test]
    fn lines_end_at_line_feeds_outside_strings() {
        let check = |body: &str, expected: &[(u64, &str)]| {
            let expected: Vec<_> = expected.iter().map(|&(n, t)| (n, t.to_owned())).collect();
            assert_eq!(cut(body), expected, "{body:?}");
        };
        check("", &[]);
        check("\n\r\n", &[(1, ""), (2, "")]);
        check("a b=1\r\nc d=2", &[(1, "a b=1"), (2, "c d=2")]);
        check("# x=\"\n \t a b=1\n", &[(1, ""), (2, "a b=1")]);
        check("a b=\"x\ny\" 1\nc", &[(1, "a b=\"x\ny\" 1"), (3, "c")]);
        check("a b=\"\\\"\n\"\nc", &[(1, "a b=\"\\\"\n\""), (3, "c")]);
        check("a b=\"\\\\\"\nc", &[(1, "a b=\"\\\\\""), (2, "c")]);
        // A quote elsewhere opens nothing: in the key, in a name, behind an escaped =.
        check("a,t=\"x\nb c=1", &[(1, "a,t=\"x"), (2, "b c=1")]);
        check("a b\"=1\nc", &[(1, "a b\"=1"), (2, "c")]);
        check("a b\\=\"=1\nc", &[(1, "a b\\=\"=1"), (2, "c")]);
        check("a\\ b,t=\"x\nc", &[(1, "a\\ b,t=\"x"), (2, "c")]);
        // A string that has lost a quote ends with its first line.
        check("a b=\"x\nc d=1\n", &[(1, "a b=\"x"), (2, "c d=1")]);
        check("a b=\"x\r\nc d=1", &[(1, "a b=\"x"), (2, "c d=1")]);
        check("a b=\"x", &[(1, "a b=\"x")]);
        check(
            "a b=\"x\nc d=\"y\"\ne",
            &[(1, "a b=\"x"), (2, "c d=\"y\""), (3, "e")],
        );
        check(
            "a b=\"x\ny\",c=\"z\nd e=1",
            &[(1, "a b=\"x\ny\",c=\"z"), (3, "d e=1")],
        );
        check("a b=1\\\nc", &[(1, "a b=1\\"), (2, "c")]);
    }
}
