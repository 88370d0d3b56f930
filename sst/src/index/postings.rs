//! Postings: per tag, which series have which value.
//!
//! ```text
//! tag     := kind u8 │ NULL's posting │ values length varint │ values │
//!            (place of a posting behind this table, u32 little-endian) per value │ posting per value
//! values  := (shared varint │ suffix: length varint, bytes)*   kind 0: up to 256 values
//!          | fst, value → number                               kind 1: more
//! posting := 0 │ first varint │ count varint                   neighbours
//!          | 1 │ count varint │ first varint │ gap varint*     fewer than 16
//!          | 2 │ length varint │ roaring, portable format      else
//! ```
//! Values are in ascending order of their bytes, ordinals in ascending order.

use std::borrow::Cow;
use std::collections::HashMap;

use auxo_proto::key::{self, MalformedKey};
use bytes::Bytes;
use fst::{IntoStreamer, Streamer};
use roaring::RoaringBitmap;

use super::blocks::shared_prefix;
use crate::format::{Malformed, Reader, put_bytes, put_u64};
use crate::predicate::Test;

const MALFORMED: Malformed = Malformed("postings");
const LIST: u8 = 0;
const FST: u8 = 1;
/// Most values that are kept as a plain list.
const LIST_VALUES_MAX: usize = 256;
const NEIGHBOURS: u8 = 0;
const GAPS: u8 = 1;
const ROARING: u8 = 2;
/// From this many ordinals on that are not neighbours a posting is a bitmap.
const ROARING_MIN: usize = 16;

/// Postings of one tag, decoded as far as every question needs it.
#[derive(Debug)]
pub(crate) struct TagPostings {
    values: Values,
    nulls: RoaringBitmap,
    places: Bytes,
    postings: Bytes,
    series: u32,
}

#[derive(Debug)]
enum Values {
    List { bytes: Vec<u8>, ends: Vec<usize> },
    Fst(fst::Map<Bytes>),
}

impl TagPostings {
    /// * `distinct`: values of the tag, `series`: series of the file, both from the heads.
    pub(crate) fn decode(bytes: &Bytes, distinct: u64, series: u32) -> Result<Self, Malformed> {
        let distinct = usize::try_from(distinct).map_err(|_| MALFORMED)?;
        let mut reader = Reader::new(bytes, MALFORMED.0);
        let kind = reader.u8()?;
        let nulls = posting(&mut reader, series)?;
        let values = bytes.slice_ref(reader.bytes()?);
        let table = distinct.checked_mul(4).ok_or(MALFORMED)?;
        let places = bytes.slice_ref(reader.take(table)?);
        let postings = bytes.slice_ref(reader.rest());
        let values = match kind {
            LIST => list(&values, distinct)?,
            FST => {
                let map = fst::Map::new(values).map_err(|_| MALFORMED)?;
                if map.len() != distinct {
                    return Err(MALFORMED);
                }
                Values::Fst(map)
            }
            _ => return Err(MALFORMED),
        };
        Ok(Self {
            values,
            nulls,
            places,
            postings,
            series,
        })
    }

    /// Series without a value.
    pub(crate) fn nulls(&self) -> &RoaringBitmap {
        &self.nulls
    }

    /// Series whose value passes; never those without one, but for `IsNull`.
    pub(crate) fn select(&self, test: &Test) -> Result<RoaringBitmap, Malformed> {
        let mut numbers = Vec::new();
        match test {
            Test::IsNull => return Ok(self.nulls.clone()),
            Test::OneOf(values) => {
                numbers.extend(values.iter().filter_map(|value| self.number(value)));
            }
            Test::Prefix(prefix) => self.each_from(prefix, |value, number| {
                let holds = value.starts_with(prefix);
                numbers.extend(holds.then_some(number));
                holds
            }),
            Test::Above { value: bound, .. } => self.each_from(bound, |value, number| {
                numbers.extend(test.accepts(value).then_some(number));
                true
            }),
            Test::Below { .. } => self.each_from(b"", |value, number| {
                let holds = test.accepts(value);
                numbers.extend(holds.then_some(number));
                holds
            }),
            Test::Matches(_) => self.each_from(b"", |value, number| {
                numbers.extend(test.accepts(value).then_some(number));
                true
            }),
        }
        let mut all = RoaringBitmap::new();
        for number in numbers {
            all |= self.of(number)?;
        }
        Ok(all)
    }

    /// The values that any series of `among` has, ascending.
    pub(crate) fn values(&self, among: &RoaringBitmap) -> Result<Vec<Bytes>, Malformed> {
        let everyone = among.len() == u64::from(self.series);
        let mut values = Vec::new();
        let mut failed = None;
        self.each_from(b"", |value, number| {
            match self.of(number) {
                Ok(series) if everyone || !series.is_disjoint(among) => {
                    values.push(Bytes::copy_from_slice(value));
                }
                Ok(_) => {}
                Err(malformed) => failed = Some(malformed),
            }
            failed.is_none()
        });
        failed.map_or(Ok(values), Err)
    }

    /// Series with the value of that number.
    fn of(&self, number: usize) -> Result<RoaringBitmap, Malformed> {
        let place = self.places.get(number * 4..).and_then(<[u8]>::first_chunk);
        let place = u32::from_le_bytes(*place.ok_or(MALFORMED)?) as usize;
        let bytes = self.postings.get(place..).ok_or(MALFORMED)?;
        posting(&mut Reader::new(bytes, MALFORMED.0), self.series)
    }

    fn number(&self, value: &[u8]) -> Option<usize> {
        match &self.values {
            Values::List { bytes, ends } => {
                let at = first_at_least(bytes, ends, value);
                (at < ends.len() && list_value(bytes, ends, at) == value).then_some(at)
            }
            Values::Fst(map) => map.get(value).map(|number| number as usize),
        }
    }

    /// Calls for each value at or above `from`, ascending, with its number, until told to stop.
    fn each_from(&self, from: &[u8], mut visit: impl FnMut(&[u8], usize) -> bool) {
        match &self.values {
            Values::List { bytes, ends } => {
                let first = first_at_least(bytes, ends, from);
                (first..ends.len()).all(|at| visit(list_value(bytes, ends, at), at));
            }
            Values::Fst(map) => {
                let mut stream = map.range().ge(from).into_stream();
                while let Some((value, number)) = stream.next()
                    && visit(value, number as usize)
                {}
            }
        }
    }
}

fn list(values: &[u8], distinct: usize) -> Result<Values, Malformed> {
    if distinct > LIST_VALUES_MAX {
        return Err(MALFORMED);
    }
    let mut reader = Reader::new(values, MALFORMED.0);
    let (mut bytes, mut ends, mut before) = (Vec::new(), Vec::with_capacity(distinct), 0);
    for _ in 0..distinct {
        let (shared, start) = (reader.usize()?, bytes.len());
        if shared > start - before {
            return Err(MALFORMED);
        }
        bytes.extend_from_within(before..before + shared);
        bytes.extend_from_slice(reader.bytes()?);
        ends.push(bytes.len());
        before = start;
    }
    Ok(Values::List { bytes, ends })
}

fn list_value<'a>(bytes: &'a [u8], ends: &[usize], at: usize) -> &'a [u8] {
    let start = if at == 0 { 0 } else { ends[at - 1] };
    &bytes[start..ends[at]]
}

fn first_at_least(bytes: &[u8], ends: &[usize], value: &[u8]) -> usize {
    let (mut low, mut high) = (0, ends.len());
    while low < high {
        let middle = (low + high) / 2;
        if list_value(bytes, ends, middle) < value {
            low = middle + 1;
        } else {
            high = middle;
        }
    }
    low
}

fn posting(reader: &mut Reader<'_>, series: u32) -> Result<RoaringBitmap, Malformed> {
    let mut ordinals = RoaringBitmap::new();
    match reader.u8()? {
        NEIGHBOURS => {
            let (first, count) = (reader.u32()?, reader.u32()?);
            let end = first.checked_add(count).ok_or(MALFORMED)?;
            ordinals.insert_range(first..end);
        }
        GAPS => {
            let count = reader.usize()?;
            let mut next = 0_u32;
            for index in 0..count {
                let gap = reader.u32()?;
                next = next.checked_add(gap).ok_or(MALFORMED)?;
                if index > 0 && gap == 0 {
                    return Err(MALFORMED);
                }
                ordinals.insert(next);
            }
        }
        ROARING => {
            ordinals = RoaringBitmap::deserialize_from(reader.bytes()?).map_err(|_| MALFORMED)?;
        }
        _ => return Err(MALFORMED),
    }
    if ordinals.max().is_some_and(|max| max >= series) {
        return Err(MALFORMED);
    }
    Ok(ordinals)
}

/// Encodes the postings of all tags.
///
/// * `key`: canonical key of a series by ordinal.
/// * returns: per tag, its bytes and number of distinct values.
pub(crate) fn encode<'a>(
    tags: usize,
    series: usize,
    key: impl Fn(usize) -> &'a [u8],
) -> Result<Vec<(Vec<u8>, usize)>, MalformedKey> {
    let mut lists: Vec<Lists<'a>> = (0..tags).map(|_| Lists::default()).collect();
    for ordinal in 0..series {
        let mut values = key::decode(key(ordinal));
        for list in &mut lists {
            list.push(values.next().transpose()?.flatten(), ordinal as u32);
        }
    }
    Ok(lists.into_iter().map(Lists::encode).collect())
}

/// Ordinals per value of one tag, while they are collected.
#[derive(Default)]
struct Lists<'a> {
    nulls: Vec<u32>,
    numbers: HashMap<Cow<'a, [u8]>, usize>,
    ordinals: Vec<Vec<u32>>,
}

impl<'a> Lists<'a> {
    fn push(&mut self, value: Option<Cow<'a, [u8]>>, ordinal: u32) {
        let Some(value) = value else {
            self.nulls.push(ordinal);
            return;
        };
        let fresh = self.ordinals.len();
        let number = *self.numbers.entry(value).or_insert(fresh);
        if number == fresh {
            self.ordinals.push(Vec::new());
        }
        self.ordinals[number].push(ordinal);
    }

    fn encode(self) -> (Vec<u8>, usize) {
        let mut sorted: Vec<(Cow<'a, [u8]>, usize)> = self.numbers.into_iter().collect();
        sorted.sort_unstable();
        let (mut places, mut postings) = (Vec::new(), Vec::new());
        for (_, number) in &sorted {
            places.extend_from_slice(&(postings.len() as u32).to_le_bytes());
            put_posting(&mut postings, &self.ordinals[*number]);
        }
        let as_fst = (sorted.len() > LIST_VALUES_MAX)
            .then(|| {
                let numbered = sorted.iter().zip(0_u64..);
                fst::Map::from_iter(numbered.map(|((value, _), number)| (value, number)))
            })
            .and_then(Result::ok);
        let mut out = Vec::new();
        out.push(if as_fst.is_some() { FST } else { LIST });
        put_posting(&mut out, &self.nulls);
        match as_fst {
            Some(map) => put_bytes(&mut out, map.as_fst().as_bytes()),
            None => {
                let (mut values, mut before): (_, &[u8]) = (Vec::new(), b"");
                for (value, _) in &sorted {
                    let shared = shared_prefix(before, value);
                    put_u64(&mut values, shared as u64);
                    put_bytes(&mut values, &value[shared..]);
                    before = value;
                }
                put_bytes(&mut out, &values);
            }
        }
        out.extend_from_slice(&places);
        out.extend_from_slice(&postings);
        (out, sorted.len())
    }
}

fn put_posting(out: &mut Vec<u8>, ordinals: &[u32]) {
    let neighbours = ordinals.windows(2).all(|pair| pair[0] + 1 == pair[1]);
    if neighbours {
        out.push(NEIGHBOURS);
        put_u64(out, ordinals.first().copied().unwrap_or(0).into());
        put_u64(out, ordinals.len() as u64);
    } else if ordinals.len() < ROARING_MIN {
        out.push(GAPS);
        put_u64(out, ordinals.len() as u64);
        let mut before = 0;
        for &ordinal in ordinals {
            put_u64(out, u64::from(ordinal - before));
            before = ordinal;
        }
    } else {
        let mut bitmap: RoaringBitmap = ordinals.iter().collect();
        bitmap.optimize();
        let mut bytes = Vec::with_capacity(bitmap.serialized_size());
        // Writing into memory cannot fail.
        let _ = bitmap.serialize_into(&mut bytes);
        out.push(ROARING);
        put_bytes(out, &bytes);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn decode_tag(names: &[Option<String>]) -> TagPostings {
        let keys: Vec<Vec<u8>> = names
            .iter()
            .map(|name| key::encode([name.as_ref().map(String::as_bytes)]))
            .collect();
        let mut tags = encode(1, keys.len(), |ordinal| &keys[ordinal]).unwrap();
        let (bytes, distinct) = tags.remove(0);
        TagPostings::decode(&bytes.into(), distinct as u64, keys.len() as u32).unwrap()
    }

    fn check(names: &[Option<String>], test: &Test) {
        let expected: RoaringBitmap = (0..)
            .zip(names)
            .filter(|(_, name)| match name {
                Some(name) => test.accepts(name.as_bytes()),
                None => matches!(test, Test::IsNull),
            })
            .map(|(ordinal, _)| ordinal)
            .collect();
        let tag = decode_tag(names);
        assert_eq!(tag.select(test), Ok(expected.clone()), "{test:?}");
        let mut values: Vec<Bytes> = expected
            .iter()
            .filter_map(|ordinal| names[ordinal as usize].clone())
            .map(Bytes::from)
            .collect();
        values.sort_unstable();
        values.dedup();
        assert_eq!(tag.values(&expected), Ok(values), "{test:?}");
    }

    fn tests(value: &str) -> Vec<Test> {
        let value = value.as_bytes().to_vec();
        let mut tests = vec![
            Test::IsNull,
            Test::OneOf(vec![b"a".to_vec(), value.clone()]),
            Test::Prefix(value.clone()),
            Test::Matches(regex::bytes::Regex::new("1$").unwrap()),
        ];
        for inclusive in [true, false] {
            let value = value.clone();
            tests.push(Test::Below {
                value: value.clone(),
                inclusive,
            });
            tests.push(Test::Above { value, inclusive });
        }
        tests
    }

    proptest! {
        #[test]
        fn questions_are_answered_as_value_by_value(
            names in proptest::collection::vec(proptest::option::of("[ab1]{0,2}"), 0..60),
            value in "[ab1]{0,2}",
        ) {
            for test in tests(&value) {
                check(&names, &test);
            }
        }

        #[test]
        fn any_bytes_decode_without_a_panic(
            mut bytes in proptest::collection::vec(any::<u8>(), 1..40),
            distinct in 0_u64..4,
        ) {
            bytes[0] = LIST;
            if let Ok(tag) = TagPostings::decode(&bytes.into(), distinct, 9) {
                for test in tests("a") {
                    let _ = tag.select(&test);
                }
            }
        }
    }

    #[test]
    fn many_values_and_every_kind_of_posting() {
        let mut names: Vec<Option<String>> = (0..900).map(|at| Some(format!("v{at:03}"))).collect();
        names.extend((0..200).map(|at| Some(format!("w{}", at % 7))));
        names.extend((0..50).map(|at| (at % 2 == 0).then(|| "x".to_owned())));
        for test in tests("v123") {
            check(&names, &test);
        }
        for test in tests("w3") {
            check(&names, &test);
        }
    }
}
