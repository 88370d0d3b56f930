//! Bytes of a file's data, checked: what is asked for is widened to whole 256 KiB blocks, gaps are
//! joined, and every block is compared with its sum before anyone sees it.

use std::ops::Range;
use std::sync::Arc;

use bytes::Bytes;
use futures::{StreamExt, TryStreamExt, stream};
use object_store::path::Path;
use object_store::{ObjectStore, ObjectStoreExt};

use crate::entry::FileEntry;
use crate::error::SstError;
use crate::format::SUM_BLOCK;

/// A request is joined with the next one over a gap of at most this many bytes.
const GAP_MAX: u64 = 256 * 1024;
/// A request that could be two is not made longer than this.
const GET_BYTES_MAX: u64 = 8 * 1024 * 1024;
/// Requests of one call that are in flight together.
const IN_FLIGHT: usize = 16;

/// A stretch of the file, as offsets from its start, and its bytes.
pub(super) type Stretch = (Range<u64>, Bytes);

/// One file in the store.
#[derive(Clone, Debug)]
pub(super) struct Source {
    store: Arc<dyn ObjectStore>,
    path: Path,
    key: String,
    offset: u64,
}

impl Source {
    pub(super) fn new(store: Arc<dyn ObjectStore>, entry: &FileEntry) -> Self {
        Self {
            store,
            path: Path::from(entry.key.as_str()),
            key: entry.key.clone(),
            offset: entry.offset,
        }
    }

    pub(super) fn corrupt(&self, what: impl std::fmt::Display) -> SstError {
        SstError::corrupt(&self.key, what)
    }

    /// The bytes of the tail, compared with the sum in the entry.
    pub(super) async fn tail(&self, entry: &FileEntry) -> Result<Bytes, SstError> {
        let start = entry
            .length
            .checked_sub(entry.tail_length)
            .ok_or_else(|| self.corrupt("its tail is longer than itself"))?;
        let tail = self.get(start..entry.length).await?;
        if crc32c::crc32c(&tail) != entry.tail_crc32c {
            return Err(self.corrupt("checksum of the tail differs"));
        }
        Ok(tail)
    }

    /// At least the given ranges of the data.
    ///
    /// * `sums`: the section, `data_length`: what it covers.
    /// * returns: stretches such that each range lies within one of them.
    pub(super) async fn data(
        &self,
        ranges: &[Range<u64>],
        sums: &[u8],
        data_length: u64,
    ) -> Result<Vec<Stretch>, SstError> {
        if ranges.iter().any(|range| range.end > data_length) {
            return Err(self.corrupt("a page lies behind the data"));
        }
        let gets = join(ranges, data_length);
        let fetch = |range: Range<u64>| async move {
            let bytes = self.get(range.clone()).await?;
            self.check(&range, &bytes, sums)?;
            Ok((range, bytes))
        };
        stream::iter(gets.into_iter().map(fetch))
            .buffered(IN_FLIGHT)
            .try_collect()
            .await
    }

    fn check(&self, range: &Range<u64>, bytes: &[u8], sums: &[u8]) -> Result<(), SstError> {
        let first = range.start / SUM_BLOCK;
        for (index, block) in bytes.chunks(SUM_BLOCK as usize).enumerate() {
            let number = first as usize + index;
            let sum = sums.get(number * 4..number * 4 + 4);
            if sum != Some(&crc32c::crc32c(block).to_le_bytes()[..]) {
                let at = number as u64 * SUM_BLOCK;
                return Err(self.corrupt(format!("checksum of the block at byte {at} differs")));
            }
        }
        Ok(())
    }

    async fn get(&self, range: Range<u64>) -> Result<Bytes, SstError> {
        let absolute = self.offset + range.start..self.offset + range.end;
        let bytes = match self.store.get_range(&self.path, absolute.clone()).await {
            Ok(bytes) => bytes,
            Err(source) => return Err(self.not_given(absolute, source).await),
        };
        if bytes.len() as u64 != range.end - range.start {
            return Err(self.corrupt("the object is shorter than the file"));
        }
        Ok(bytes)
    }

    /// What it means that the store did not give a range: no store has a word of its own for one that lies
    /// behind the object's end.
    async fn not_given(&self, range: Range<u64>, source: object_store::Error) -> SstError {
        match self.store.head(&self.path).await {
            Ok(object) if object.size < range.end => {
                self.corrupt("the object is shorter than the file")
            }
            _ => SstError::Store {
                key: self.key.clone(),
                source: Arc::new(source),
            },
        }
    }
}

/// Widens the ranges to whole blocks and joins neighbours.
fn join(ranges: &[Range<u64>], data_length: u64) -> Vec<Range<u64>> {
    let mut blocks: Vec<Range<u64>> = ranges
        .iter()
        .filter(|range| range.start < range.end)
        .map(|range| {
            let end = range.end.next_multiple_of(SUM_BLOCK).min(data_length);
            range.start / SUM_BLOCK * SUM_BLOCK..end
        })
        .collect();
    blocks.sort_unstable_by_key(|range| (range.start, range.end));
    let mut gets: Vec<Range<u64>> = Vec::new();
    for next in blocks {
        match gets.last_mut() {
            Some(last) if next.end <= last.end => {}
            Some(last)
                if next.start <= last.end + GAP_MAX && next.end - last.start <= GET_BYTES_MAX =>
            {
                last.end = next.end;
            }
            _ => gets.push(next),
        }
    }
    gets
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn check(ranges: &[(u64, u64)], data_length: u64, expected: &[(u64, u64)]) {
        let ranges: Vec<Range<u64>> = ranges.iter().map(|&(start, end)| start..end).collect();
        let gets = join(&ranges, data_length);
        let gets: Vec<(u64, u64)> = gets.iter().map(|get| (get.start, get.end)).collect();
        assert_eq!(gets, expected, "{ranges:?}");
    }

    #[test]
    fn neighbours_are_joined_and_far_ones_are_not() {
        const B: u64 = SUM_BLOCK;
        const MAX: u64 = GET_BYTES_MAX;
        check(&[(5, 6), (7, 9)], 100, &[(0, 100)]);
        check(&[(2 * B, 2 * B + 1), (0, 1)], 9 * B, &[(0, 3 * B)]);
        check(&[(0, 1), (3 * B, 4 * B)], 9 * B, &[(0, B), (3 * B, 4 * B)]);
        check(&[(3, 3)], 9 * B, &[]);
        let far = MAX + B;
        check(&[(0, far - 1), (far - 1, far)], 2 * far, &[(0, far)]);
        let split = [(0, MAX), (MAX - B, MAX + B)];
        check(&[(0, MAX), (MAX - 1, MAX + 1)], far, &split);
    }

    proptest! {
        #[test]
        fn each_range_lies_within_one_get(
            starts in proptest::collection::vec((0_u64..20_000_000, 0_u64..3_000_000), 0..20),
        ) {
            let ranges: Vec<_> = starts.iter().map(|&(start, len)| start..start + len).collect();
            let gets = join(&ranges, 23_000_000);
            for range in ranges.iter().filter(|range| !range.is_empty()) {
                prop_assert!(gets.iter().any(|get| get.start <= range.start && range.end <= get.end));
            }
            for get in &gets {
                prop_assert!(get.start % SUM_BLOCK == 0);
                prop_assert!(get.end % SUM_BLOCK == 0 || get.end == 23_000_000);
            }
        }
    }
}
