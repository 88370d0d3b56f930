//! Series blocks: up to 128 series each, keys front-coded, with rows and times per series.
//!
//! ```text
//! block  := zstd(entry*) or entry*, whichever is shorter; the directory knows both lengths
//! entry  := shared varint │ suffix (length varint, bytes) │ hash u32 │ rows varint │
//!           t_min zigzag, less the entry's before │ flags u8 │ step varint if flags & 1, else
//!           t_max − t_min varint
//! ```
//! `shared` counts the bytes that the key has in common with the one before; the first entry of a
//! block stands alone.

use auxo_proto::key;
use bytes::Bytes;

use crate::format::{BLOCK_SERIES, Malformed, Reader, put_bytes, put_i64, put_u64};

const REGULAR: u8 = 1;
/// Bound on what one block may claim to unpack to.
const RAW_BYTES_MAX: usize = 256 * 1024 * 1024;

/// What a file knows of one series.
///
/// * units: times in nanoseconds since 1970.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SeriesEntry {
    /// Number of rows, at least 1.
    pub rows: u64,
    /// Partition hash.
    pub hash: u32,
    /// Time of the first row.
    pub t_min: i64,
    /// Time of the last row.
    pub t_max: i64,
    /// Above 0: the times are exactly `t_min + i × step`. 0: unknown, unless all times are equal.
    pub step: u64,
}

impl SeriesEntry {
    /// Whether the times of all rows follow from this entry.
    pub fn is_regular(&self) -> bool {
        self.step > 0 || self.t_min == self.t_max
    }

    /// Time of a row of a regular series.
    pub(crate) fn time_of(&self, row: u64) -> i64 {
        self.t_min.wrapping_add(row.wrapping_mul(self.step) as i64)
    }
}

/// A decoded block.
#[derive(Debug)]
pub(crate) struct SeriesBlock {
    keys: Bytes,
    ends: Vec<u32>,
    entries: Vec<SeriesEntry>,
    /// Row of the file at which each series starts; one more than entries, the last is the end.
    first_rows: Vec<u64>,
}

impl SeriesBlock {
    pub(crate) fn len(&self) -> usize {
        self.entries.len()
    }

    pub(crate) fn key(&self, index: usize) -> Bytes {
        let start = if index == 0 {
            0
        } else {
            self.ends[index - 1] as usize
        };
        self.keys.slice(start..self.ends[index] as usize)
    }

    pub(crate) fn entry(&self, index: usize) -> &SeriesEntry {
        &self.entries[index]
    }

    /// Rows of the file that the series has.
    pub(crate) fn rows(&self, index: usize) -> std::ops::Range<u64> {
        self.first_rows[index]..self.first_rows[index + 1]
    }

    /// Row of the file behind the block.
    pub(crate) fn end(&self) -> u64 {
        self.first_rows[self.entries.len()]
    }

    /// * `count`: series in the block, `first_row`: row of the file at which it starts.
    pub(crate) fn decode(
        stored: &[u8],
        raw_length: usize,
        count: usize,
        first_row: u64,
    ) -> Result<Self, Malformed> {
        let malformed = Malformed("series block");
        if count > BLOCK_SERIES || raw_length > RAW_BYTES_MAX {
            return Err(malformed);
        }
        let unpacked;
        let raw = if stored.len() == raw_length {
            stored
        } else {
            unpacked = zstd::bulk::decompress(stored, raw_length).map_err(|_| malformed)?;
            &unpacked
        };
        let mut reader = Reader::new(raw, malformed.0);
        let mut keys = Vec::with_capacity(raw.len() * 2);
        let mut last_start = 0;
        let mut block = Self {
            keys: Bytes::new(),
            ends: Vec::with_capacity(count),
            entries: Vec::with_capacity(count),
            first_rows: Vec::with_capacity(count + 1),
        };
        block.first_rows.push(first_row);
        let (mut row, mut t_before) = (first_row, 0_i64);
        for _ in 0..count {
            let shared = reader.usize()?;
            let start = keys.len();
            if shared > start - last_start || start + shared > RAW_BYTES_MAX {
                return Err(malformed);
            }
            keys.extend_from_within(last_start..last_start + shared);
            keys.extend_from_slice(reader.bytes()?);
            last_start = start;
            let hash = reader.u32_le()?;
            let rows = reader.u64()?;
            let t_min = t_before.wrapping_add(reader.i64()?);
            t_before = t_min;
            let regular = reader.u8()? & REGULAR != 0;
            let number = reader.u64()?;
            let span = if regular {
                rows.checked_sub(1)
                    .and_then(|steps| steps.checked_mul(number))
                    .ok_or(malformed)?
            } else {
                number
            };
            let t_max = t_min.checked_add_unsigned(span).ok_or(malformed)?;
            row = row.checked_add(rows).ok_or(malformed)?;
            if rows == 0 || key::decode(&keys[start..]).any(|value| value.is_err()) {
                return Err(malformed);
            }
            block
                .ends
                .push(u32::try_from(keys.len()).map_err(|_| malformed)?);
            block.first_rows.push(row);
            block.entries.push(SeriesEntry {
                rows,
                hash,
                t_min,
                t_max,
                step: if regular { number } else { 0 },
            });
        }
        if !reader.is_empty() {
            return Err(malformed);
        }
        block.keys = keys.into();
        Ok(block)
    }
}

/// Encodes the series of one block.
///
/// * returns: bytes as stored, and their length when unpacked.
pub(crate) fn encode<'a>(
    series: impl Iterator<Item = (&'a [u8], &'a SeriesEntry)>,
) -> Result<(Vec<u8>, usize), std::io::Error> {
    let mut raw = Vec::new();
    let (mut key_before, mut t_before): (&[u8], i64) = (&[], 0);
    for (key, entry) in series {
        let shared = shared_prefix(key_before, key);
        put_u64(&mut raw, shared as u64);
        put_bytes(&mut raw, &key[shared..]);
        raw.extend_from_slice(&entry.hash.to_le_bytes());
        put_u64(&mut raw, entry.rows);
        put_i64(&mut raw, entry.t_min.wrapping_sub(t_before));
        if entry.step > 0 {
            raw.push(REGULAR);
            put_u64(&mut raw, entry.step);
        } else {
            raw.push(0);
            put_u64(&mut raw, entry.t_max.wrapping_sub(entry.t_min) as u64);
        }
        (key_before, t_before) = (key, entry.t_min);
    }
    let packed = zstd::bulk::compress(&raw, 1)?;
    let raw_length = raw.len();
    Ok(if packed.len() < raw_length {
        (packed, raw_length)
    } else {
        (raw, raw_length)
    })
}

pub(crate) fn shared_prefix(a: &[u8], b: &[u8]) -> usize {
    a.iter().zip(b).take_while(|(a, b)| a == b).count()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn entry() -> impl Strategy<Value = SeriesEntry> {
        let steps = prop_oneof![Just(0), Just(1), Just(10_000_000_000), any::<u64>()];
        (1_u64..1000, any::<u32>(), any::<i64>(), steps, any::<i64>()).prop_map(
            |(rows, hash, t_min, step, other)| {
                let end = (rows - 1)
                    .checked_mul(step)
                    .and_then(|span| t_min.checked_add_unsigned(span));
                let (t_max, step) = match end {
                    Some(end) if step > 0 => (end, step),
                    _ => (other.max(t_min), 0),
                };
                SeriesEntry {
                    rows,
                    hash,
                    t_min,
                    t_max,
                    step,
                }
            },
        )
    }

    proptest! {
        #[test]
        fn round_trip(
            series in proptest::collection::btree_map(
                proptest::collection::vec(proptest::option::of("[a-c]{0,6}"), 0..4), entry(), 0..=BLOCK_SERIES),
            first_row in 0_u64..1 << 40,
        ) {
            let series: std::collections::BTreeMap<Vec<u8>, SeriesEntry> = series.into_iter().map(|(tags, entry)| {
                let tags = tags.iter().map(|tag| tag.as_ref().map(String::as_bytes));
                (key::encode(tags), entry)
            }).collect();
            let (stored, raw) = encode(series.iter().map(|(key, entry)| (&key[..], entry))).unwrap();
            let block = SeriesBlock::decode(&stored, raw, series.len(), first_row).unwrap();
            let mut row = first_row;
            prop_assert_eq!(block.len(), series.len());
            prop_assert_eq!(block.end(), first_row + series.values().map(|entry| entry.rows).sum::<u64>());
            for (index, (key, entry)) in series.iter().enumerate() {
                prop_assert_eq!(&block.key(index)[..], &key[..]);
                prop_assert_eq!(block.entry(index), entry);
                prop_assert_eq!(block.rows(index), row..row + entry.rows);
                row += entry.rows;
            }
        }

        #[test]
        fn any_bytes_decode_without_a_panic(
            bytes in proptest::collection::vec(any::<u8>(), 0..60),
            raw in 0_usize..100,
            count in 0_usize..200,
        ) {
            let _ = SeriesBlock::decode(&bytes, raw, count, 0);
            let _ = SeriesBlock::decode(&bytes, bytes.len(), count, 0);
        }
    }
}
