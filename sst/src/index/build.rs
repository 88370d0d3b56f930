//! Collects the side index while rows are written.
//!
//! Costs a comparison or two a row: whether the times rise and their step goes on. Everything else
//! happens per series.

use auxo_proto::ids::ColumnId;
use auxo_proto::key;
use auxo_proto::schema::HashRange;

use super::blocks::{self, SeriesEntry};
use super::heads::{BlockHead, FieldHead, Heads, TagHead};
use super::postings;
use crate::error::SstError;
use crate::format::{BLOCK_SERIES, SPARSE_ROWS};

/// Every series written so far.
pub(crate) struct IndexBuilder {
    tags: Vec<ColumnId>,
    keys: Vec<u8>,
    ends: Vec<usize>,
    entries: Vec<SeriesEntry>,
    rows: u64,
    may_repeat_times: bool,
    /// Whether all keys are text, so that tag columns hold exactly what the keys hold.
    text: bool,
}

/// The index sections of a finished file.
pub(crate) struct BuiltIndex {
    pub(crate) heads: Heads,
    pub(crate) postings: Vec<u8>,
    pub(crate) series: Vec<u8>,
}

impl IndexBuilder {
    /// * `tags`: in declared order; `may_repeat_times`: whether two rows of a series may have one
    ///   time (`append`).
    pub(crate) fn new(tags: Vec<ColumnId>, may_repeat_times: bool) -> Self {
        Self {
            tags,
            keys: Vec::new(),
            ends: Vec::new(),
            entries: Vec::new(),
            rows: 0,
            may_repeat_times,
            text: true,
        }
    }

    pub(crate) fn rows(&self) -> u64 {
        self.rows
    }

    pub(crate) fn series(&self) -> usize {
        self.entries.len()
    }

    pub(crate) fn key(&self, ordinal: usize) -> &[u8] {
        let start = if ordinal == 0 {
            0
        } else {
            self.ends[ordinal - 1]
        };
        &self.keys[start..self.ends[ordinal]]
    }

    /// Bytes that the index is expected to take in the file; rather too many.
    pub(crate) fn expected_bytes(&self) -> usize {
        self.keys.len() + 24 * self.entries.len()
    }

    /// Takes the next rows of a series.
    ///
    /// * errors: [`SstError::Rows`] when the key or a time falls, or a time repeats where it may
    ///   not.
    pub(crate) fn push_series(
        &mut self,
        key: &[u8],
        hash: u32,
        times: &[i64],
    ) -> Result<(), SstError> {
        let Some((&first, rest)) = times.split_first() else {
            return Err(SstError::rows("a series without rows"));
        };
        let last = self.entries.len().checked_sub(1);
        let order = last.map(|last| self.key(last).cmp(key));
        let (entry, rest) = match (order, self.entries.last_mut()) {
            (Some(std::cmp::Ordering::Equal), Some(entry)) if entry.hash == hash => (entry, times),
            (Some(std::cmp::Ordering::Less) | None, _) => {
                self.text &= self.check_key(key)?;
                self.keys.extend_from_slice(key);
                self.ends.push(self.keys.len());
                self.entries.push(SeriesEntry {
                    rows: 1,
                    hash,
                    t_min: first,
                    t_max: first,
                    step: 0,
                });
                match self.entries.last_mut() {
                    Some(entry) => (entry, rest),
                    None => return Ok(()),
                }
            }
            _ => return Err(SstError::rows("series out of order")),
        };
        extend(entry, rest, self.may_repeat_times)?;
        self.rows += times.len() as u64;
        Ok(())
    }

    /// * returns: whether every tag value of the key is UTF-8.
    /// * errors: [`SstError::Rows`] when it breaks its grammar or has more tags than the table.
    fn check_key(&self, series_key: &[u8]) -> Result<bool, SstError> {
        let (mut tags, mut text) = (0, true);
        for value in key::decode(series_key) {
            let value = value.map_err(|malformed| SstError::rows(malformed.to_string()))?;
            text &= value.is_none_or(|value| std::str::from_utf8(&value).is_ok());
            tags += 1;
        }
        if tags > self.tags.len() {
            return Err(SstError::rows("a key with more tags than the table has"));
        }
        Ok(text)
    }

    /// Earliest and latest time of all rows; `None` without rows.
    pub(crate) fn time_range(&self) -> Option<(i64, i64)> {
        let first = self.entries.iter().map(|entry| entry.t_min).min()?;
        let last = self.entries.iter().map(|entry| entry.t_max).max()?;
        Some((first, last))
    }

    /// Encodes the index; in the sparse form only from that many series on.
    ///
    /// * `fields`: what the encoder saw of them.
    pub(crate) fn finish(
        self,
        fields: Vec<FieldHead>,
        sparse_series_min: usize,
    ) -> Result<BuiltIndex, SstError> {
        let series = self.entries.len();
        let sparse =
            self.text && series >= sparse_series_min && self.rows < SPARSE_ROWS * series as u64;
        let (mut blocks, mut stored) = (Vec::new(), Vec::new());
        for first in (0..series).step_by(BLOCK_SERIES) {
            let ordinals = first..series.min(first + BLOCK_SERIES);
            let entries = &self.entries[ordinals.clone()];
            let mut head = BlockHead {
                first_key: bytes::Bytes::copy_from_slice(self.key(first)),
                rows: entries.iter().map(|entry| entry.rows).sum(),
                t_min: entries.iter().fold(i64::MAX, |t, entry| t.min(entry.t_min)),
                t_max: entries.iter().fold(i64::MIN, |t, entry| t.max(entry.t_max)),
                stored_length: 0,
                raw_length: 0,
            };
            if !sparse {
                let keys = ordinals.map(|ordinal| self.key(ordinal));
                let (block, raw) = blocks::encode(keys.zip(entries)).map_err(SstError::encode)?;
                (head.stored_length, head.raw_length) = (block.len(), raw);
                stored.extend_from_slice(&block);
            }
            blocks.push(head);
        }
        let (mut tags, mut postings) = (Vec::new(), Vec::new());
        let listed = if sparse { 0 } else { series };
        let of_tags = postings::encode(self.tags.len(), listed, |ordinal| self.key(ordinal))
            .map_err(|malformed| SstError::rows(malformed.to_string()))?;
        for (&column, (bytes, distinct)) in self.tags.iter().zip(of_tags) {
            tags.push(TagHead {
                column,
                distinct: distinct as u64,
                length: bytes.len(),
            });
            postings.extend_from_slice(&bytes);
        }
        let hashes = self.entries.iter().map(|entry| entry.hash);
        let heads = Heads {
            sparse,
            series: series as u64,
            rows: self.rows,
            hashes: HashRange {
                lo: hashes.clone().min().unwrap_or(0),
                hi: hashes.max().unwrap_or(0),
            },
            blocks,
            tags,
            fields,
        };
        Ok(BuiltIndex {
            heads,
            postings,
            series: stored,
        })
    }
}

/// Appends rows to a series, following whether their step goes on.
fn extend(entry: &mut SeriesEntry, times: &[i64], may_repeat: bool) -> Result<(), SstError> {
    let Some((&first, &last)) = times.first().zip(times.last()) else {
        return Ok(());
    };
    let rises = |before: i64, after: i64| before < after || (may_repeat && before == after);
    let falls = !rises(entry.t_max, first) || times.windows(2).any(|w| !rises(w[0], w[1]));
    if falls {
        return Err(SstError::rows("times of a series out of order"));
    }
    let gap = first.wrapping_sub(entry.t_max) as u64;
    let step = if entry.rows == 1 { gap } else { entry.step };
    let regular = (entry.is_regular() || entry.rows == 1)
        && gap == step
        && times
            .windows(2)
            .all(|w| w[1].wrapping_sub(w[0]) as u64 == step);
    entry.step = if regular { step } else { 0 };
    entry.rows += times.len() as u64;
    entry.t_max = last;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn steps(pieces: &[&[i64]], may_repeat: bool) -> Result<SeriesEntry, SstError> {
        let mut index = IndexBuilder::new(vec![ColumnId(1)], may_repeat);
        for piece in pieces {
            index.push_series(b"\x02a\x00", 1, piece)?;
        }
        Ok(index.entries[0])
    }

    #[test]
    fn steps_are_followed_over_pushes() {
        let of = |pieces: &[&[i64]]| steps(pieces, true).unwrap();
        assert_eq!(of(&[&[5]]).step, 0);
        assert!(of(&[&[5]]).is_regular());
        assert_eq!(of(&[&[5, 7, 9], &[11], &[13, 15]]).step, 2);
        assert_eq!(of(&[&[5], &[7]]).step, 2);
        assert_eq!(of(&[&[5, 7, 9], &[12]]).step, 0);
        assert!(!of(&[&[5, 7, 9], &[12]]).is_regular());
        assert_eq!(of(&[&[5, 5, 5]]).step, 0);
        assert!(of(&[&[5, 5], &[5]]).is_regular());
        assert!(!of(&[&[5, 5], &[6]]).is_regular());
        assert!(!of(&[&[5, 6, 6], &[7]]).is_regular());
        let wide = of(&[&[i64::MIN, i64::MAX]]);
        assert_eq!((wide.step, wide.time_of(1)), (u64::MAX, i64::MAX));
    }

    #[test]
    fn falling_keys_and_times_are_refused() {
        assert!(steps(&[&[5, 5]], false).is_err());
        assert!(steps(&[&[5], &[5]], false).is_err());
        assert!(steps(&[&[5, 4]], true).is_err());
        assert!(steps(&[&[]], true).is_err());
        let mut index = IndexBuilder::new(vec![ColumnId(1)], false);
        index.push_series(b"\x02b\x00", 1, &[1]).unwrap();
        assert!(index.push_series(b"\x02a\x00", 1, &[1]).is_err());
        assert!(index.push_series(b"\x02b\x00", 2, &[2]).is_err());
        assert!(index.push_series(b"\x02c", 1, &[1]).is_err());
        assert!(
            index
                .push_series(b"\x02c\x00\x01\x02d\x00", 1, &[1])
                .is_err()
        );
    }
}
