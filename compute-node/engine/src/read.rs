//! Reading a tablet: one version, its sources grouped into stacks, each stack one ordered stream.
//!
//! A *source* is a file or a piece of a memtable. Two sources may hold the same key only if both
//! their times and their series keys overlap; the classes of that relation are the *stacks*. A stack
//! of one source is read straight through, a larger one is merged by the table's merge mode.
//!
//! Deletes hit every source whose highest sequence is below theirs. The table's TTL cuts the time
//! range.
//!
//! Never here: predicates on fields beyond skipping pages, SQL, other shards.

use std::sync::Arc;

use auxo_proto::ids::Seq;
use auxo_proto::schema::{MergeMode, TableInfo, TabletSpec};
use auxo_sst::SstError;
use auxo_sst::batch::{FieldSet, SortedBatch};
use auxo_sst::entry::FileEntry;
use auxo_sst::merge::{self, MergeSource};
use auxo_sst::predicate::{ScanSpec, TagMatcher, TimeRange};
use bytes::Bytes;
use futures::stream::{self, BoxStream};
use futures::{StreamExt, TryStreamExt};

use crate::deletes::{Deletes, Hits};
use crate::files::FileCache;
use crate::memtable::{Piece, Sorted};
use crate::select;
use crate::traffic::Traffic;
use crate::version::Version;

/// Why a read failed.
#[derive(Clone, Debug, thiserror::Error)]
pub enum ReadError {
    /// The tablet is not in a shard of this node.
    #[error("tablet {0} is not here")]
    StaleRoute(auxo_proto::ids::TabletId),
    /// This node does not lead the shard any more.
    #[error("shard {0} is not led here")]
    NotLeader(auxo_proto::ids::ShardId),
    /// A file is damaged or cannot be read.
    #[error(transparent)]
    File(#[from] SstError),
    /// The shard cannot promise a strong read.
    #[error("shard does not answer: {0}")]
    Unavailable(String),
}

/// Rows on their way up, in key order within a stack.
pub type RowStream = BoxStream<'static, Result<SortedBatch, SstError>>;

/// One tablet at one moment; stays whole while writes, flushes and compactions go on.
#[derive(Clone, Debug)]
pub struct TabletSnapshot {
    version: Arc<Version>,
    tablet: Arc<TabletSpec>,
    files: FileCache,
    traffic: Traffic,
    now_ns: i64,
}

#[derive(Clone, Debug)]
enum Source {
    File(Arc<FileEntry>),
    Piece(Arc<Piece>),
}

impl Source {
    fn times(&self) -> (i64, i64) {
        match self {
            Self::File(entry) => (entry.t_min, entry.t_max),
            Self::Piece(piece) => (piece.t_min, piece.t_max),
        }
    }

    fn rows(&self) -> u64 {
        match self {
            Self::File(entry) => entry.rows,
            Self::Piece(piece) => piece.rows as u64,
        }
    }

    fn seq_max(&self) -> Seq {
        match self {
            Self::File(entry) => entry.seq_max,
            Self::Piece(piece) => piece.seq_max,
        }
    }

    /// A lower bound of its series keys.
    fn first_key(&self) -> Bytes {
        match self {
            Self::File(entry) => entry.first_key.clone(),
            Self::Piece(_) => Bytes::new(),
        }
    }

    /// Whether both may hold a row of the same key.
    fn may_clash(&self, other: &Self) -> bool {
        let ((a_min, a_max), (b_min, b_max)) = (self.times(), other.times());
        if a_max < b_min || b_max < a_min {
            return false;
        }
        match (self, other) {
            (Self::File(a), Self::File(b)) => {
                a.first_key <= b.last_key
                    && b.first_key <= a.last_key
                    && a.range.lo <= b.range.hi
                    && b.range.lo <= a.range.hi
            }
            _ => true,
        }
    }
}

/// Sources of one tablet that may hold the same keys.
#[derive(Clone, Debug)]
pub struct Stack {
    sources: Vec<Source>,
    deletes: Deletes,
    table: Arc<TableInfo>,
    time: TimeRange,
    files: FileCache,
    traffic: Traffic,
}

impl TabletSnapshot {
    pub(crate) fn new(
        version: Arc<Version>,
        tablet: Arc<TabletSpec>,
        files: FileCache,
        traffic: Traffic,
        now_ns: i64,
    ) -> Self {
        Self {
            version,
            tablet,
            files,
            traffic,
            now_ns,
        }
    }

    /// The table whose rows these are, as the shard knows it.
    pub fn table(&self) -> &Arc<TableInfo> {
        &self.tablet.table
    }

    /// First offset of the shard's log whose rows are not in the snapshot.
    pub fn next(&self) -> auxo_wal_adapters::Offset {
        self.version.next
    }

    /// Number of files and of memtable pieces, before any pruning.
    pub fn sources(&self) -> (usize, usize) {
        (
            self.version.files(self.tablet.id).len(),
            self.pieces().count(),
        )
    }

    /// The stacks that may have rows for the scan, earliest first.
    ///
    /// * `spec`: `fields` and `bounds` do not matter here.
    pub fn stacks(&self, spec: &ScanSpec) -> Vec<Stack> {
        let time = spec.time.intersect(self.live());
        let range = self.tablet.range;
        let files = self
            .version
            .files(self.tablet.id)
            .iter()
            .filter(|entry| entry.range.lo <= range.hi && range.lo <= entry.range.hi);
        let mut sources: Vec<Source> = files.cloned().map(Source::File).collect();
        sources.sort_by_key(Source::seq_max);
        sources.extend(self.pieces().cloned().map(Source::Piece));
        sources.retain(|source| {
            let (min, max) = source.times();
            time.overlaps(min, max)
        });
        let deletes = Deletes::of(self.tablet.id, &self.version.deletes);
        let mut stacks: Vec<Stack> = classes(&sources)
            .into_iter()
            .map(|sources| Stack {
                sources,
                deletes: deletes.clone(),
                table: Arc::clone(&self.tablet.table),
                time,
                files: self.files.clone(),
                traffic: self.traffic.clone(),
            })
            .collect();
        stacks.sort_by_key(Stack::t_min);
        stacks
    }

    /// Times that the table's TTL leaves.
    fn live(&self) -> TimeRange {
        match self.tablet.table.options.ttl_ms {
            None => TimeRange::ALL,
            Some(ttl_ms) => {
                let ttl_ns = i64::try_from(ttl_ms)
                    .ok()
                    .and_then(|ms| ms.checked_mul(1_000_000));
                let start = ttl_ns.map_or(i64::MIN, |ttl| self.now_ns.saturating_sub(ttl));
                TimeRange {
                    start,
                    ..TimeRange::ALL
                }
            }
        }
    }

    fn pieces(&self) -> impl Iterator<Item = &Arc<Piece>> {
        let frozen = self.version.frozen.iter().map(|frozen| &frozen.rows);
        frozen
            .chain([&self.version.active])
            .filter_map(|rows| rows.tablet(self.tablet.id))
            .flat_map(|rows| rows.pieces())
    }
}

/// Groups sources into the classes of "may clash"; each class and the list of classes keep the
/// order of the input, which is from old to young.
///
/// Sources are met by their earliest times, so that each is compared with those alone that reach
/// into its own: there may be one for every window of a table's history.
fn classes(sources: &[Source]) -> Vec<Vec<Source>> {
    let mut by_time: Vec<usize> = (0..sources.len()).collect();
    by_time.sort_by_key(|&at| sources[at].times().0);
    // The class of a source is its oldest member; each points to an older one until there.
    let mut older: Vec<usize> = (0..sources.len()).collect();
    let mut reaching: Vec<usize> = Vec::new();
    for at in by_time {
        let start = sources[at].times().0;
        reaching.retain(|&other| sources[other].times().1 >= start);
        for &other in &reaching {
            let (a, b) = (oldest(&mut older, at), oldest(&mut older, other));
            if a != b && sources[at].may_clash(&sources[other]) {
                older[a.max(b)] = a.min(b);
            }
        }
        reaching.push(at);
    }
    let mut classes: Vec<Vec<Source>> = vec![Vec::new(); sources.len()];
    for (at, source) in sources.iter().enumerate() {
        classes[oldest(&mut older, at)].push(source.clone());
    }
    classes.retain(|class| !class.is_empty());
    classes
}

/// The oldest member of a source's class; shortens the way there.
fn oldest(older: &mut [usize], mut at: usize) -> usize {
    while older[at] != at {
        older[at] = older[older[at]];
        at = older[at];
    }
    at
}

impl Stack {
    /// Whether rows of one key may come from several sources, so that an older value of a field
    /// may be hidden by a younger one.
    pub fn merged(&self) -> bool {
        self.sources.len() > 1 && self.table.options.merge_mode != MergeMode::Append
    }

    /// Number of sources.
    pub fn sources(&self) -> usize {
        self.sources.len()
    }

    /// Number of files among the sources.
    pub fn files(&self) -> usize {
        self.sources
            .iter()
            .filter(|source| matches!(source, Source::File(_)))
            .count()
    }

    /// Rows of all sources: no scan returns more.
    pub fn rows_at_most(&self) -> u64 {
        self.sources.iter().map(Source::rows).sum()
    }

    /// Exactly how many rows a scan of everything returns, if that is known without reading.
    pub fn rows_exactly(&self) -> Option<u64> {
        match self.sources.as_slice() {
            [source @ Source::File(entry)] if self.hits(source).is_empty() => self
                .time
                .covers(entry.t_min, entry.t_max)
                .then_some(entry.rows),
            _ => None,
        }
    }

    /// Time of the earliest row.
    pub fn t_min(&self) -> i64 {
        self.sources
            .iter()
            .map(|source| source.times().0)
            .min()
            .unwrap_or(i64::MAX)
    }

    /// Time of the latest row.
    pub fn t_max(&self) -> i64 {
        self.sources
            .iter()
            .map(|source| source.times().1)
            .max()
            .unwrap_or(i64::MIN)
    }

    /// The rows that the scan wants, ordered by (series key, time).
    ///
    /// * shape: no key twice unless the table appends; fields as `spec.fields` has them.
    /// * errors: a damaged or missing file ends the stream.
    pub fn open(&self, spec: &Arc<ScanSpec>) -> RowStream {
        let mut spec = ScanSpec::clone(spec);
        spec.time = spec.time.intersect(self.time);
        if self.merged() {
            spec.bounds.clear();
        }
        let spec = Arc::new(spec);
        let sources = self.sources.iter().map(|source| MergeSource {
            rows: self.open_source(source, &spec),
            first_key: source.first_key(),
        });
        let mode = self.table.options.merge_mode;
        let traffic = self.traffic.clone();
        merge::merge(sources.collect(), mode, &spec.fields)
            .inspect_ok(move |batch| traffic.gave(batch))
            .boxed()
    }

    fn open_source(&self, source: &Source, spec: &Arc<ScanSpec>) -> RowStream {
        let rows = match source {
            Source::File(entry) => self.files.scan(Arc::clone(entry), Arc::clone(spec)),
            Source::Piece(piece) => piece_rows(Arc::clone(piece), Arc::clone(spec)),
        };
        select::without_deleted(rows, self.hits(source))
    }

    fn hits(&self, source: &Source) -> Hits {
        self.deletes.after(source.seq_max(), source.times())
    }
}

/// Rows of a piece that a scan wants; sorting waits until the first poll.
fn piece_rows(piece: Arc<Piece>, spec: Arc<ScanSpec>) -> RowStream {
    stream::once(async move {
        let tags = match TagMatcher::new(&spec.tags) {
            Ok(tags) => tags,
            Err(error) => return stream::iter([Err(error)]).boxed(),
        };
        let Sorted { fields, batches } = match piece.sorted() {
            Ok(sorted) => sorted,
            Err(error) => return stream::iter([Err(error)]).boxed(),
        };
        stream::iter(batches.to_vec())
            .filter_map(move |batch| {
                let wanted = select::wanted(&batch, &fields, &spec, &tags);
                futures::future::ready(wanted.transpose())
            })
            .boxed()
    })
    .flatten()
    .boxed()
}

/// Rows of pieces, which are from old to young, merged; those that a delete hit left out.
pub(crate) fn merged_pieces(
    pieces: &[Arc<Piece>],
    fields: &FieldSet,
    deletes: &Deletes,
    mode: MergeMode,
) -> RowStream {
    let sources = pieces.iter().map(|piece| MergeSource {
        rows: piece_stream(piece, fields, deletes),
        first_key: Bytes::new(),
    });
    merge::merge(sources.collect(), mode, fields)
}

fn piece_stream(piece: &Arc<Piece>, fields: &FieldSet, deletes: &Deletes) -> RowStream {
    let spec = Arc::new(everything(fields));
    let hits = deletes.after(piece.seq_max, (piece.t_min, piece.t_max));
    select::without_deleted(piece_rows(Arc::clone(piece), spec), hits)
}

/// A scan of all rows.
pub(crate) fn everything(fields: &FieldSet) -> ScanSpec {
    ScanSpec {
        fields: Arc::clone(fields),
        time: TimeRange::ALL,
        tags: auxo_sst::predicate::TagFilter::Any,
        range: auxo_proto::schema::HashRange::FULL,
        bounds: Vec::new(),
    }
}

#[cfg(test)]
mod tests {
    use auxo_proto::ids::{SchemaNumber, TableId, TabletId};
    use auxo_proto::random::Random;
    use auxo_proto::schema::HashRange;

    use super::*;

    fn file(number: usize, times: (i64, i64), keys: (u8, u8), range: HashRange) -> Source {
        Source::File(Arc::new(FileEntry {
            key: number.to_string(),
            offset: 0,
            length: 1,
            tail_length: 1,
            tail_crc32c: 0,
            table: TableId(1),
            tablet: TabletId(1),
            segment_start: 0,
            segment_ns: 1,
            rows: 1,
            series: 1,
            t_min: times.0,
            t_max: times.1,
            seq_min: Seq(number as u64),
            seq_max: Seq(number as u64),
            first_key: vec![keys.0].into(),
            last_key: vec![keys.1].into(),
            range,
            schema: SchemaNumber(1),
            columns: Vec::new(),
            is_final: false,
        }))
    }

    /// Names of the files of each class, by the relation taken pair by pair.
    fn pair_by_pair(sources: &[Source]) -> Vec<Vec<u64>> {
        let mut class: Vec<usize> = (0..sources.len()).collect();
        for _ in sources {
            for (a, left) in sources.iter().enumerate() {
                for (b, right) in sources.iter().enumerate() {
                    if left.may_clash(right) {
                        class[a] = class[a].min(class[b]);
                    }
                }
            }
        }
        let of = |wanted| {
            let members = sources.iter().zip(&class);
            let members = members.filter(|(_, class)| **class == wanted);
            members.map(|(source, _)| source.seq_max().0).collect()
        };
        let classes = (0..sources.len()).map(of);
        classes
            .filter(|class: &Vec<u64>| !class.is_empty())
            .collect()
    }

    #[test]
    fn classes_are_those_of_all_pairs() {
        let random = Random::seeded(1);
        let below = |bound: u64| random.below(bound) as i64;
        for _ in 0..300 {
            let spread = 1 + random.below(60);
            let sources: Vec<Source> = (0..random.below(20) as usize)
                .map(|number| {
                    let (start, first) = (below(spread), below(8));
                    let times = (start, start + below(6));
                    let keys = (first as u8, (first + below(4)) as u8);
                    let range = match below(3) {
                        0 => HashRange { lo: 0, hi: 9 },
                        1 => HashRange { lo: 10, hi: 19 },
                        _ => HashRange::FULL,
                    };
                    file(number, times, keys, range)
                })
                .collect();
            let found: Vec<Vec<u64>> = classes(&sources)
                .iter()
                .map(|class| class.iter().map(|source| source.seq_max().0).collect())
                .collect();
            assert_eq!(found, pair_by_pair(&sources));
        }
    }
}
