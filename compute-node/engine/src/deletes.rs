//! Deletes of one tablet, made ready once for however many sources they are asked about.
//!
//! Never here: what a manifest keeps of them, how rows are left out (select).

use std::sync::Arc;

use auxo_proto::ids::{Seq, TabletId};
use auxo_sst::SstError;
use auxo_sst::manifest::Delete;
use auxo_sst::predicate::{TagMatcher, TimeRange};

/// Clones share them.
#[derive(Clone, Debug, Default)]
pub(crate) struct Deletes(Arc<[Arc<Hit>]>);

/// One of them.
#[derive(Debug)]
pub(crate) struct Hit {
    seq: Seq,
    pub(crate) time: TimeRange,
    tags: Result<TagMatcher, SstError>,
}

/// Those that a source has to heed.
pub(crate) type Hits = Vec<Arc<Hit>>;

impl Deletes {
    pub(crate) fn of(tablet: TabletId, deletes: &[Delete]) -> Self {
        let own = deletes.iter().filter(|delete| delete.tablet == tablet);
        let hits = own.map(|delete| {
            Arc::new(Hit {
                seq: delete.seq,
                time: delete.time,
                tags: TagMatcher::new(&delete.filter),
            })
        });
        Self(hits.collect())
    }

    /// Those that are younger than a source and may hit one of its rows.
    ///
    /// * `times`: of its earliest and its latest row.
    pub(crate) fn after(&self, seq_max: Seq, times: (i64, i64)) -> Hits {
        self.0
            .iter()
            .filter(|hit| hit.seq > seq_max && hit.time.overlaps(times.0, times.1))
            .cloned()
            .collect()
    }
}

impl Hit {
    /// Whether it takes rows of the series of that key.
    ///
    /// * errors: [`SstError::Pattern`].
    pub(crate) fn takes(&self, key: &[u8]) -> Result<bool, SstError> {
        match &self.tags {
            Ok(tags) => Ok(tags.matches(key)),
            Err(error) => Err(error.clone()),
        }
    }
}
