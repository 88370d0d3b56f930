//! Canonical bytes of a series: its tag values in declared order, comparable as bytes.
//!
//! ```text
//! key   := value*                         one per tag, trailing NULLs dropped
//! value := 0x01                           NULL: sorts before every value
//!        | 0x02 escaped-bytes 0x00        a value; 0x00 inside is written 0x00 0xFF
//! ```
//! Comparing two keys as bytes compares the tag values one after the other, NULL first, each as
//! bytes. A tag added to the end of a table leaves old keys equal, because a trailing NULL is not
//! written.
//!
//! Partition hash: XXH3-64 with seed 0 of the canonical bytes of the partition columns' values, in
//! the order of the declaration, upper 32 bits (architecture: "Partitioning"). A table without
//! partition columns hashes the whole key, so that it may be cut later.

use std::borrow::Cow;

use xxhash_rust::xxh3::xxh3_64;

const NULL: u8 = 0x01;
const VALUE: u8 = 0x02;
const END: u8 = 0x00;
const ESCAPED: u8 = 0xFF;

/// Builds one canonical key, tag by tag; reusable after [`KeyBuilder::clear`].
#[derive(Clone, Debug, Default)]
pub struct KeyBuilder {
    bytes: Vec<u8>,
    nulls: usize,
}

impl KeyBuilder {
    /// An empty key.
    pub fn new() -> Self {
        Self::default()
    }

    /// Appends the next tag in declared order.
    pub fn push(&mut self, value: Option<&[u8]>) {
        let Some(value) = value else {
            self.nulls += 1;
            return;
        };
        self.bytes.resize(self.bytes.len() + self.nulls, NULL);
        self.nulls = 0;
        push_value(&mut self.bytes, value);
    }

    /// The key so far, trailing NULLs dropped.
    pub fn as_bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// Starts again with an empty key.
    pub fn clear(&mut self) {
        self.bytes.clear();
        self.nulls = 0;
    }
}

fn push_value(bytes: &mut Vec<u8>, value: &[u8]) {
    bytes.push(VALUE);
    for &byte in value {
        bytes.push(byte);
        if byte == END {
            bytes.push(ESCAPED);
        }
    }
    bytes.push(END);
}

/// Canonical key of tag values in declared order.
pub fn encode<'a>(tags: impl IntoIterator<Item = Option<&'a [u8]>>) -> Vec<u8> {
    let mut key = KeyBuilder::new();
    for tag in tags {
        key.push(tag);
    }
    key.bytes
}

/// A key's bytes break the grammar of this module.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("series key is malformed at byte {at}")]
pub struct MalformedKey {
    /// Offset of the first byte that does not fit.
    pub at: usize,
}

/// Walks the tag values of a key; ends where the key ends (all later tags are NULL).
///
/// Values without a zero byte are borrowed, others are unescaped into an owned copy.
pub fn decode(key: &[u8]) -> impl Iterator<Item = Result<Option<Cow<'_, [u8]>>, MalformedKey>> {
    let mut at = 0;
    std::iter::from_fn(move || {
        let marker = *key.get(at)?;
        match marker {
            NULL => {
                at += 1;
                Some(Ok(None))
            }
            VALUE => match value_end(key, at + 1) {
                Some((end, escapes)) => {
                    let raw = &key[at + 1..end];
                    at = end + 1;
                    Some(Ok(Some(unescape(raw, escapes))))
                }
                None => {
                    let failed = MalformedKey { at };
                    at = key.len();
                    Some(Err(failed))
                }
            },
            _ => {
                let failed = MalformedKey { at };
                at = key.len();
                Some(Err(failed))
            }
        }
    })
}

/// Where the value that starts at `from` has its end mark, and how many escapes it holds.
fn value_end(key: &[u8], from: usize) -> Option<(usize, usize)> {
    let mut escapes = 0;
    let mut at = from;
    loop {
        match *key.get(at)? {
            END if key.get(at + 1) == Some(&ESCAPED) => {
                escapes += 1;
                at += 2;
            }
            END => return Some((at, escapes)),
            _ => at += 1,
        }
    }
}

fn unescape(raw: &[u8], escapes: usize) -> Cow<'_, [u8]> {
    if escapes == 0 {
        return Cow::Borrowed(raw);
    }
    let mut plain = Vec::with_capacity(raw.len() - escapes);
    let mut bytes = raw.iter();
    while let Some(&byte) = bytes.next() {
        plain.push(byte);
        if byte == END {
            bytes.next();
        }
    }
    Cow::Owned(plain)
}

/// The `index`-th tag value of a key (0 is the first declared tag), `None` for NULL.
///
/// * errors: [`MalformedKey`] when the bytes up to that tag break the grammar.
pub fn tag(key: &[u8], index: usize) -> Result<Option<Cow<'_, [u8]>>, MalformedKey> {
    decode(key).nth(index).unwrap_or(Ok(None))
}

/// Partition hash of the canonical bytes of the partition columns' values.
///
/// * source: architecture, "Data model": XXH3-64, seed 0, upper 32 bits.
pub fn partition_hash(key: &[u8]) -> u32 {
    (xxh3_64(key) >> 32) as u32
}

/// Partition hash of a series.
///
/// * `partition`: places of the table's partition columns among its tags, in the order of the
///   declaration ([`crate::schema::TableInfo::partition_tags`]); empty means the whole key.
/// * errors: [`MalformedKey`] when a value that is needed breaks the grammar.
pub fn series_hash(key: &[u8], partition: &[usize]) -> Result<u32, MalformedKey> {
    if partition.is_empty() {
        return Ok(partition_hash(key));
    }
    let mut part = KeyBuilder::new();
    for &index in partition {
        part.push(tag(key, index)?.as_deref());
    }
    Ok(partition_hash(part.as_bytes()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    type Tags = Vec<Option<Vec<u8>>>;

    fn tags() -> impl Strategy<Value = Tags> {
        let byte = prop_oneof![Just(0_u8), Just(1), Just(2), Just(255), any::<u8>()];
        let value = proptest::collection::vec(byte, 0..5);
        proptest::collection::vec(proptest::option::of(value), 0..5)
    }

    fn key(tags: &Tags) -> Vec<u8> {
        encode(tags.iter().map(Option::as_deref))
    }

    fn trimmed(tags: &Tags) -> Tags {
        let len = tags
            .iter()
            .rposition(Option::is_some)
            .map_or(0, |last| last + 1);
        tags[..len].to_vec()
    }

    proptest! {
        #[test]
        fn round_trip(tags in tags()) {
            let decoded: Result<Tags, _> = decode(&key(&tags))
                .map(|value| value.map(|value| value.map(Cow::into_owned)))
                .collect();
            prop_assert_eq!(decoded.unwrap(), trimmed(&tags));
        }

        #[test]
        fn bytes_order_as_values(a in tags(), b in tags()) {
            prop_assert_eq!(key(&a).cmp(&key(&b)), trimmed(&a).cmp(&trimmed(&b)));
        }

        #[test]
        fn any_bytes_decode_without_a_panic(bytes in proptest::collection::vec(any::<u8>(), 0..20)) {
            for value in decode(&bytes) {
                let _ = value;
            }
        }
    }

    #[test]
    fn golden_bytes() {
        type Case<'a> = (&'a [Option<&'a [u8]>], &'a [u8]);
        let table: [Case<'_>; 5] = [
            (&[], b""),
            (&[None, None], b""),
            (&[Some(b"a"), None], b"\x02a\x00"),
            (&[None, Some(b"a")], b"\x01\x02a\x00"),
            (&[Some(b"a\x00b"), Some(b"")], b"\x02a\x00\xFFb\x00\x02\x00"),
        ];
        for (tags, bytes) in table {
            assert_eq!(encode(tags.iter().copied()), bytes, "{tags:?}");
        }
        assert_eq!(
            partition_hash(b""),
            0x2d06_8005,
            "XXH3-64 of nothing is 2d06800538d394c2"
        );
    }

    #[test]
    fn series_are_hashed_by_their_partition_columns() {
        let key = |tags: [Option<&str>; 3]| encode(tags.map(|tag| tag.map(str::as_bytes)));
        let whole = key([Some("a"), None, Some("c\0")]);
        assert_eq!(series_hash(&whole, &[]), Ok(partition_hash(&whole)));
        let swapped = key([Some("c\0"), Some("a"), None]);
        assert_eq!(series_hash(&whole, &[2, 0]), Ok(partition_hash(&swapped)));
        let missing = partition_hash(b"");
        assert_eq!(series_hash(&whole, &[1]), Ok(missing));
        assert_eq!(
            series_hash(&whole, &[9]),
            Ok(missing),
            "a tag behind the last is NULL"
        );
        assert!(series_hash(b"\x07", &[0]).is_err());
    }
}
