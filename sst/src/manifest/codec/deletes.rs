//! Deletes of a manifest and their tag filters.

use auxo_proto::ids::{Seq, TabletId};
use bytes::Bytes;

use super::super::body;
use super::{DecodeError, collect, malformed, u128_of};
use crate::manifest::Delete;
use crate::predicate::{TagFilter, TagTest, TimeRange};

pub(super) fn body_delete(delete: &Delete) -> body::Delete {
    body::Delete {
        tablet: delete.tablet.0,
        filter: Some(body_filter(&delete.filter)),
        start: delete.time.start,
        end: Bytes::copy_from_slice(&delete.time.end.to_be_bytes()),
        seq: delete.seq.0,
    }
}

pub(super) fn delete_of(delete: body::Delete) -> Result<Delete, DecodeError> {
    let filter = delete
        .filter
        .ok_or_else(|| malformed("a delete has no filter"))?;
    Ok(Delete {
        tablet: TabletId(delete.tablet),
        filter: filter_of(filter)?,
        time: TimeRange {
            start: delete.start,
            end: u128_of(&delete.end, "a delete's end is not 16 bytes")?.cast_signed(),
        },
        seq: Seq(delete.seq),
    })
}

fn body_filter(filter: &TagFilter) -> body::Filter {
    let node = |kind, parts: &[TagFilter]| body::Filter {
        kind,
        parts: parts.iter().map(body_filter).collect(),
        ..body::Filter::default()
    };
    match filter {
        TagFilter::Any => node(body::FILTER_ANY, &[]),
        TagFilter::Nothing => node(body::FILTER_NOTHING, &[]),
        TagFilter::And(parts) => node(body::FILTER_AND, parts),
        TagFilter::Or(parts) => node(body::FILTER_OR, parts),
        TagFilter::Not(part) => node(body::FILTER_NOT, std::slice::from_ref(part)),
        TagFilter::Test { tag, test } => {
            let (test, values, inclusive) = match test {
                TagTest::IsNull => (body::TEST_IS_NULL, Vec::new(), false),
                TagTest::OneOf(values) => (body::TEST_ONE_OF, values.clone(), false),
                TagTest::Below { value, inclusive } => {
                    (body::TEST_BELOW, vec![value.clone()], *inclusive)
                }
                TagTest::Above { value, inclusive } => {
                    (body::TEST_ABOVE, vec![value.clone()], *inclusive)
                }
                TagTest::Prefix(value) => (body::TEST_PREFIX, vec![value.clone()], false),
                TagTest::Matches(regex) => {
                    let regex = regex.as_bytes().to_vec();
                    (body::TEST_MATCHES, vec![regex], false)
                }
            };
            body::Filter {
                kind: body::FILTER_TEST,
                parts: Vec::new(),
                tag: *tag,
                test,
                values,
                inclusive,
            }
        }
    }
}

/// Depth is bounded by prost, which refuses messages nested deeper than 100.
fn filter_of(filter: body::Filter) -> Result<TagFilter, DecodeError> {
    let body::Filter {
        kind,
        parts,
        tag,
        test,
        values,
        inclusive,
    } = filter;
    let parts = collect(parts, filter_of)?;
    match kind {
        body::FILTER_ANY => Ok(TagFilter::Any),
        body::FILTER_NOTHING => Ok(TagFilter::Nothing),
        body::FILTER_AND => Ok(TagFilter::And(parts)),
        body::FILTER_OR => Ok(TagFilter::Or(parts)),
        body::FILTER_NOT => {
            let [part] = <[TagFilter; 1]>::try_from(parts)
                .map_err(|_| malformed("a negation does not have one part"))?;
            Ok(TagFilter::Not(Box::new(part)))
        }
        body::FILTER_TEST => Ok(TagFilter::Test {
            tag,
            test: test_of(test, values, inclusive)?,
        }),
        _ => Err(malformed("a filter is of an unknown kind")),
    }
}

fn test_of(test: u32, values: Vec<Vec<u8>>, inclusive: bool) -> Result<TagTest, DecodeError> {
    match test {
        body::TEST_IS_NULL => return Ok(TagTest::IsNull),
        body::TEST_ONE_OF => return Ok(TagTest::OneOf(values)),
        _ => {}
    }
    let [value] = <[Vec<u8>; 1]>::try_from(values)
        .map_err(|_| malformed("a test does not have one value"))?;
    match test {
        body::TEST_BELOW => Ok(TagTest::Below { value, inclusive }),
        body::TEST_ABOVE => Ok(TagTest::Above { value, inclusive }),
        body::TEST_PREFIX => Ok(TagTest::Prefix(value)),
        body::TEST_MATCHES => Ok(TagTest::Matches(
            String::from_utf8(value).map_err(|_| malformed("a pattern is not UTF-8"))?,
        )),
        _ => Err(malformed("a test is of an unknown kind")),
    }
}
