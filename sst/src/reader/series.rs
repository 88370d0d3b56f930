//! Questions that the index answers without a row: which series, which values of a tag.

use std::collections::BTreeSet;
use std::sync::Arc;

use auxo_proto::key;
use auxo_proto::schema::HashRange;
use bytes::Bytes;
use futures::TryStreamExt;
use roaring::RoaringBitmap;

use super::SstFile;
use crate::error::SstError;
use crate::format::{BLOCK_SERIES, Malformed};
use crate::index::SeriesEntry;
use crate::index::postings::TagPostings;
use crate::index::select::select;
use crate::predicate::{ScanSpec, TagFilter, TagMatcher, TimeRange};

/// One series of a file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FileSeries {
    /// Canonical key.
    pub key: Bytes,
    /// Its rows and times.
    pub entry: SeriesEntry,
}

/// Values of one tag.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TagValues {
    /// Distinct values, ascending by their bytes.
    pub values: Vec<Bytes>,
    /// Whether a series lacks the tag.
    pub has_null: bool,
}

impl SstFile {
    /// The series that pass, ascending by key, of which every row counts.
    ///
    /// * effects: no request, unless the file is sparse; then its tags and times are read, and
    ///   no entry has a step.
    /// * errors: [`SstError::Pattern`], [`SstError::Corrupt`], [`SstError::Store`].
    pub async fn series_in(
        self: &Arc<Self>,
        tags: &TagFilter,
        range: HashRange,
    ) -> Result<Vec<FileSeries>, SstError> {
        if self.heads().sparse {
            return self.scanned_series(tags, range).await;
        }
        let ordinals = self.ordinals(&TagMatcher::new(tags)?)?;
        let range = self.range_within(range);
        let mut found = Vec::new();
        self.each_series(ordinals.as_ref(), |key, entry| {
            if range.contains(entry.hash) {
                let (key, entry) = (key(), *entry);
                found.push(FileSeries { key, entry });
            }
        })?;
        Ok(found)
    }

    /// The values that the series which pass have for one tag, counted from 0 in the key.
    ///
    /// * effects and errors: as of [`SstFile::series_in`].
    pub async fn tag_values(
        self: &Arc<Self>,
        tag: u32,
        tags: &TagFilter,
        range: HashRange,
    ) -> Result<TagValues, SstError> {
        let within = self.range_within(range);
        let hashes = self.heads().hashes;
        let whole = within.contains(hashes.lo) && within.contains(hashes.hi);
        if self.heads().sparse {
            let series = self.scanned_series(tags, range).await?;
            return self.values_of(tag, &series);
        }
        let mut among = match self.ordinals(&TagMatcher::new(tags)?)? {
            Some(ordinals) => ordinals,
            None => (0..self.heads().series as u32).collect(),
        };
        if !whole {
            let mut in_range = RoaringBitmap::new();
            let mut ordinals = among.iter();
            self.each_series(Some(&among), |_, entry| {
                let ordinal = ordinals.next();
                in_range.extend(ordinal.filter(|_| within.contains(entry.hash)));
            })?;
            among = in_range;
        }
        let malformed = |malformed| self.corrupt(malformed);
        match self.tag_postings(tag as usize).map_err(malformed)? {
            Some(postings) => Ok(TagValues {
                values: postings.values(&among).map_err(malformed)?,
                has_null: !postings.nulls().is_disjoint(&among),
            }),
            None => Ok(TagValues {
                values: Vec::new(),
                has_null: !among.is_empty(),
            }),
        }
    }

    /// Ordinals of the series that pass; `None` when all do, or the file is sparse.
    pub(super) fn ordinals(&self, matcher: &TagMatcher) -> Result<Option<RoaringBitmap>, SstError> {
        if matcher.is_any() || self.heads().sparse {
            return Ok(None);
        }
        let series = self.heads().series as u32;
        select(matcher.root(), series, &|tag| self.tag_postings(tag))
            .map(Some)
            .map_err(|malformed| self.corrupt(malformed))
    }

    /// Places of the tags whose values make the partition hash.
    pub(super) fn partition(&self) -> &[usize] {
        &self.body.partition
    }

    /// Calls for each of the series, in order; all of them without a set.
    fn each_series(
        &self,
        ordinals: Option<&RoaringBitmap>,
        mut visit: impl FnMut(&dyn Fn() -> Bytes, &SeriesEntry),
    ) -> Result<(), SstError> {
        for number in 0..self.heads().blocks.len() {
            let first = (number * BLOCK_SERIES) as u32;
            let block_ordinals = first..first + BLOCK_SERIES as u32;
            let none = |set: &RoaringBitmap| set.range_cardinality(block_ordinals.clone()) == 0;
            if ordinals.is_some_and(none) {
                continue;
            }
            let block = self.block(number)?;
            for index in 0..block.len() {
                if ordinals.is_none_or(|set| set.contains(first + index as u32)) {
                    visit(&|| block.key(index), block.entry(index));
                }
            }
        }
        Ok(())
    }

    /// Postings of a tag, decoded once; `None` when the file does not know the tag.
    fn tag_postings(&self, tag: usize) -> Result<Option<Arc<TagPostings>>, Malformed> {
        let Some((bytes, decoded)) = self.body.postings.get(tag) else {
            return Ok(None);
        };
        if let Some(postings) = decoded.get() {
            return Ok(Some(postings.clone()));
        }
        let heads = self.heads();
        let postings = TagPostings::decode(bytes, heads.tags[tag].distinct, heads.series as u32)?;
        Ok(Some(decoded.get_or_init(|| Arc::new(postings)).clone()))
    }

    async fn scanned_series(
        self: &Arc<Self>,
        tags: &TagFilter,
        range: HashRange,
    ) -> Result<Vec<FileSeries>, SstError> {
        let spec = ScanSpec {
            fields: Arc::new([]),
            time: TimeRange::ALL,
            tags: tags.clone(),
            range,
            bounds: Vec::new(),
        };
        let mut found: Vec<FileSeries> = Vec::new();
        let mut batches = self.scan(&spec);
        while let Some(batch) = batches.try_next().await? {
            for (index, series) in batch.series.iter().enumerate() {
                let times = &batch.time[batch.slice_rows(index)];
                let (first, last) = (times[0], times[times.len() - 1]);
                match found.last_mut() {
                    Some(before) if before.key == series.key => {
                        before.entry.rows += times.len() as u64;
                        before.entry.t_max = last;
                    }
                    _ => found.push(FileSeries {
                        key: Bytes::copy_from_slice(&series.key),
                        entry: SeriesEntry {
                            rows: times.len() as u64,
                            hash: series.hash,
                            t_min: first,
                            t_max: last,
                            step: 0,
                        },
                    }),
                }
            }
        }
        Ok(found)
    }

    fn values_of(&self, tag: u32, series: &[FileSeries]) -> Result<TagValues, SstError> {
        let mut values = BTreeSet::new();
        let mut has_null = false;
        for series in series {
            match key::tag(&series.key, tag as usize).map_err(|error| self.corrupt(error))? {
                Some(value) => {
                    values.insert(Bytes::copy_from_slice(&value));
                }
                None => has_null = true,
            }
        }
        Ok(TagValues {
            values: values.into_iter().collect(),
            has_null,
        })
    }
}
