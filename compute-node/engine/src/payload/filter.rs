//! The predicate of a delete in a payload: a tree over tests of single tags.

use auxo_sst::predicate::{TagFilter, TagTest};

use super::wire::{Reader, Writer};
use super::{EncodeError, FILTER_DEPTH_MAX, PayloadError};

const ANY: u8 = 1;
const NOTHING: u8 = 2;
const IS_NULL: u8 = 3;
const ONE_OF: u8 = 4;
const BELOW: u8 = 5;
const ABOVE: u8 = 6;
const PREFIX: u8 = 7;
const MATCHES: u8 = 8;
const AND: u8 = 9;
const OR: u8 = 10;
const NOT: u8 = 11;

/// What a node of the tree, and one value in a list, count for beside their bytes.
const NODE_MEMORY: usize = 64;
const VALUE_MEMORY: usize = 32;

/// Appends a filter; `depth` is the number of nodes above it.
pub(super) fn write(out: &mut Writer, filter: &TagFilter, depth: usize) -> Result<(), EncodeError> {
    if depth >= FILTER_DEPTH_MAX {
        return Err(EncodeError::TooDeep);
    }
    out.charge(NODE_MEMORY, 1);
    match filter {
        TagFilter::Any => out.u8(ANY),
        TagFilter::Nothing => out.u8(NOTHING),
        TagFilter::Test { tag, test } => write_test(out, *tag, test),
        TagFilter::And(parts) => {
            out.u8(AND);
            write_parts(out, parts, depth)?;
        }
        TagFilter::Or(parts) => {
            out.u8(OR);
            write_parts(out, parts, depth)?;
        }
        TagFilter::Not(part) => {
            out.u8(NOT);
            write(out, part, depth + 1)?;
        }
    }
    Ok(())
}

fn write_parts(out: &mut Writer, parts: &[TagFilter], depth: usize) -> Result<(), EncodeError> {
    out.u32(parts.len() as u32);
    parts
        .iter()
        .try_for_each(|part| write(out, part, depth + 1))
}

fn write_test(out: &mut Writer, tag: u32, test: &TagTest) {
    let (kind, value) = match test {
        TagTest::IsNull => (IS_NULL, None),
        TagTest::OneOf(_) => (ONE_OF, None),
        TagTest::Below { value, .. } => (BELOW, Some(value.as_slice())),
        TagTest::Above { value, .. } => (ABOVE, Some(value.as_slice())),
        TagTest::Prefix(value) => (PREFIX, Some(value.as_slice())),
        TagTest::Matches(pattern) => (MATCHES, Some(pattern.as_bytes())),
    };
    out.u8(kind);
    out.u32(tag);
    if let Some(value) = value {
        write_value(out, value);
    }
    match test {
        TagTest::OneOf(values) => {
            out.u32(values.len() as u32);
            values.iter().for_each(|value| write_value(out, value));
        }
        TagTest::Below { inclusive, .. } | TagTest::Above { inclusive, .. } => {
            out.u8((*inclusive).into());
        }
        TagTest::IsNull | TagTest::Prefix(_) | TagTest::Matches(_) => {}
    }
}

fn write_value(out: &mut Writer, value: &[u8]) {
    out.charge(VALUE_MEMORY, 1);
    out.charge(value.len(), 1);
    out.slice(value);
}

/// Reads what [`write`] wrote.
pub(super) fn read(input: &mut Reader<'_, '_>, depth: usize) -> Result<TagFilter, PayloadError> {
    if depth >= FILTER_DEPTH_MAX {
        return Err(PayloadError::Malformed("predicate is nested too deeply"));
    }
    input.charge(NODE_MEMORY, 1)?;
    match input.u8()? {
        ANY => Ok(TagFilter::Any),
        NOTHING => Ok(TagFilter::Nothing),
        AND => read_parts(input, depth).map(TagFilter::And),
        OR => read_parts(input, depth).map(TagFilter::Or),
        NOT => Ok(TagFilter::Not(Box::new(read(input, depth + 1)?))),
        kind => Ok(TagFilter::Test {
            tag: input.u32()?,
            test: read_test(input, kind)?,
        }),
    }
}

fn read_parts(input: &mut Reader<'_, '_>, depth: usize) -> Result<Vec<TagFilter>, PayloadError> {
    let mut parts = Vec::new();
    for _ in 0..input.u32()? {
        parts.push(read(input, depth + 1)?);
    }
    Ok(parts)
}

fn read_test(input: &mut Reader<'_, '_>, kind: u8) -> Result<TagTest, PayloadError> {
    match kind {
        IS_NULL => Ok(TagTest::IsNull),
        ONE_OF => {
            let mut values = Vec::new();
            for _ in 0..input.u32()? {
                values.push(read_value(input)?);
            }
            Ok(TagTest::OneOf(values))
        }
        BELOW => Ok(TagTest::Below {
            value: read_value(input)?,
            inclusive: read_inclusive(input)?,
        }),
        ABOVE => Ok(TagTest::Above {
            value: read_value(input)?,
            inclusive: read_inclusive(input)?,
        }),
        PREFIX => read_value(input).map(TagTest::Prefix),
        MATCHES => String::from_utf8(read_value(input)?)
            .map(TagTest::Matches)
            .map_err(|_| PayloadError::Malformed("pattern is not UTF-8")),
        number => Err(PayloadError::Unknown {
            what: "predicate",
            number,
        }),
    }
}

fn read_value(input: &mut Reader<'_, '_>) -> Result<Vec<u8>, PayloadError> {
    let value = input.slice()?;
    input.charge(VALUE_MEMORY, 1)?;
    input.charge(value.len(), 1)?;
    Ok(value.to_vec())
}

fn read_inclusive(input: &mut Reader<'_, '_>) -> Result<bool, PayloadError> {
    match input.u8()? {
        0 => Ok(false),
        1 => Ok(true),
        _ => Err(PayloadError::Malformed("bound is neither in nor out")),
    }
}
