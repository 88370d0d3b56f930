//! Which files to rewrite together: a pure decision over a manifest's files.
//!
//! All of it happens within one tablet and segment. Files whose sequences meet (the pieces of one
//! flush, the outputs of one compaction) are one *layer*: a read merges layers, not files, so
//! layers are what is counted. Layers are ordered by age.
//!
//! | rule | when | what |
//! |---|---|---|
//! | tier | ≥ 6 neighbouring layers of sizes within 4×, or > 12 layers | one layer of them |
//! | close | segment over, nothing final in it yet, > 1 layer | all of it, final |
//! | late | final files there, and late ones that are ≥ 10 % of them, ≥ 8 layers, or > 6 h old | late ones and the final ones whose keys they meet, final again |
//!
//! A segment is over when `max(30 min, 10 %)` passed since its end. Close and late wait until
//! 10 min passed without a new file, so that loading old data does not rewrite a segment with each
//! flush; not longer than 6 h.
//!
//! Why no value can be lost: a newer value wins by the age of its file, so rewriting must never
//! lift an old row over a newer one. Tier takes neighbouring layers whole: no other file's
//! sequences lie between theirs. Close takes every file. Late takes every file of the segment whose
//! keys lie between the first and last it takes. Therefore plans of one call share no file and can
//! run at once; a plan that shares none with a plan still running is as safe.
//!
//! Never here: reading or writing files, a clock, deletes (the executor applies them), a commit.

use std::cmp::Reverse;
use std::collections::BTreeMap;
use std::ops::Range;

use auxo_proto::ids::{Seq, TableId, TabletId};
use auxo_proto::schema::HashRange;
use serde::Deserialize;

use crate::entry::FileEntry;
use crate::names;

#[cfg(test)]
mod tests;

/// When and how much is rewritten; the defaults are those of the table above.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Options {
    /// Fewest layers that tier joins.
    pub tier_layers: usize,
    /// How many times larger than the smallest the largest of them may be.
    pub tier_ratio: u64,
    /// Most layers that stay before tier joins some of any size.
    pub layers_max: usize,
    /// Segments with more layers than this go first.
    pub crowded_layers: usize,
    /// Time after a segment's end before it is over, at least, in milliseconds.
    pub over_after_ms: u64,
    /// The same in percent of the segment's length.
    pub over_after_percent: u64,
    /// Time without a new file before a segment is closed, in milliseconds.
    pub quiet_ms: u64,
    /// Late bytes that are worth a rewrite, in percent of the final ones.
    pub late_percent: u64,
    /// Late layers that are worth a rewrite.
    pub late_layers: usize,
    /// Longest time that a file waits for one, in milliseconds.
    pub late_age_ms: u64,
    /// Largest file, in bytes; half of it is the smallest that is cut off.
    pub file_bytes_max: u64,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            tier_layers: 6,
            tier_ratio: 4,
            layers_max: 12,
            crowded_layers: 32,
            over_after_ms: 30 * 60_000,
            over_after_percent: 10,
            quiet_ms: 10 * 60_000,
            late_percent: 10,
            late_layers: 8,
            late_age_ms: 6 * 3_600_000,
            file_bytes_max: 64 << 20,
        }
    }
}

/// Why files are rewritten; in the order in which plans are given.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Rule {
    /// Many small layers become one.
    Tier,
    /// A segment that is over takes its last shape.
    Close,
    /// Rows that came after that are worked in.
    Late,
}

/// Files to rewrite into one layer.
///
/// * shape: `inputs` from the oldest to the youngest, all of one tablet and segment. The outputs
///   hold their rows, merged, and together replace them: their sequences lie between `seq_min` and
///   `seq_max`, their hashes in `range`, their keys do not overlap.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Plan {
    /// Why.
    pub rule: Rule,
    /// Table of the inputs.
    pub table: TableId,
    /// Tablet of the inputs.
    pub tablet: TabletId,
    /// First nanosecond of their segment.
    pub segment_start: i64,
    /// Length of the segment in nanoseconds.
    pub segment_ns: u64,
    /// What is read, and leaves with the commit.
    pub inputs: Vec<FileEntry>,
    /// Lowest sequence of the inputs.
    pub seq_min: Seq,
    /// Highest sequence of the inputs.
    pub seq_max: Seq,
    /// Hashes that count in some input.
    pub range: HashRange,
    /// Whether the outputs are final.
    pub is_final: bool,
    /// Bytes after which an output ends with the series it is in; never met when all fit into one.
    pub cut_bytes: u64,
}

impl Plan {
    /// Length of all inputs in bytes: an upper bound of what is written, but for file headers.
    pub fn input_bytes(&self) -> u64 {
        bytes_of(&self.inputs)
    }

    /// Whether the two must not run at once.
    pub fn shares_input(&self, other: &Self) -> bool {
        let place = |file: &FileEntry| (file.key.clone(), file.offset, file.range);
        let places: Vec<_> = other.inputs.iter().map(place).collect();
        self.inputs.iter().any(|file| places.contains(&place(file)))
    }
}

/// What is worth rewriting now, most pressing first; no file in two plans.
///
/// Crowded segments come first, then tier before close before late, then what takes most layers
/// away for its bytes.
pub fn pick(files: &[FileEntry], options: &Options, now_ms: i64) -> Vec<Plan> {
    let mut segments: BTreeMap<_, Vec<&FileEntry>> = BTreeMap::new();
    for file in files {
        let segment = (file.tablet, file.segment_start, file.segment_ns);
        segments.entry(segment).or_default().push(file);
    }
    let mut plans = Vec::new();
    for files in segments.into_values() {
        let layers = layers(files);
        let crowded = layers.len() > options.crowded_layers;
        for plan in pick_segment(&layers, options, now_ms) {
            let gain = gain(layers_of(&plan.inputs), plan.input_bytes());
            plans.push(((!crowded, plan.rule, Reverse(gain)), plan));
        }
    }
    // Stable: ties stay in the order of tablets and segments.
    plans.sort_by_key(|(urgency, _)| *urgency);
    plans.into_iter().map(|(_, plan)| plan).collect()
}

/// Guard between a row's end of life and the removal of its file, in milliseconds: clocks differ.
pub const TTL_GUARD_MS: u64 = 10 * 60_000;

/// Files that hold no row younger than `ttl_ms` of their table, with a guard of 10 min; `None`
/// keeps them for ever.
pub fn expired(
    files: &[FileEntry],
    ttl_ms: impl Fn(&FileEntry) -> Option<u64>,
    now_ms: i64,
) -> impl Iterator<Item = &FileEntry> {
    files.iter().filter(move |file| {
        ttl_ms(file).is_some_and(|ttl_ms| {
            let alive_ms = i128::from(ttl_ms) + i128::from(TTL_GUARD_MS);
            i128::from(file.t_max) < (i128::from(now_ms) - alive_ms) * NS_IN_MS
        })
    })
}

const NS_IN_MS: i128 = 1_000_000;

/// Files whose sequences meet.
struct Layer<'a> {
    files: Vec<&'a FileEntry>,
    bytes: u64,
    has_final: bool,
}

/// The layers of one segment, oldest first.
fn layers(mut files: Vec<&FileEntry>) -> Vec<Layer<'_>> {
    files.sort_by_key(|file| (file.seq_min, file.seq_max, &file.first_key));
    let mut layers: Vec<Layer<'_>> = Vec::new();
    let mut seq_max = Seq(0);
    for file in files {
        let meets = file.seq_min <= seq_max;
        seq_max = seq_max.max(file.seq_max);
        match layers.last_mut().filter(|_| meets) {
            Some(layer) => {
                layer.files.push(file);
                layer.bytes += file.length;
                layer.has_final |= file.is_final;
            }
            None => layers.push(Layer {
                files: vec![file],
                bytes: file.length,
                has_final: file.is_final,
            }),
        }
    }
    layers
}

fn layers_of(files: &[FileEntry]) -> usize {
    layers(files.iter().collect()).len()
}

/// Layers that go away for each byte written, as a number to compare.
fn gain(layers: usize, bytes: u64) -> u128 {
    (layers.saturating_sub(1) as u128) * (1 << 64) / u128::from(bytes.max(1))
}

fn pick_segment(layers: &[Layer<'_>], options: &Options, now_ms: i64) -> Vec<Plan> {
    let files = || layers.iter().flat_map(|layer| layer.files.iter().copied());
    let loose: Vec<&FileEntry> = files().filter(|file| !file.is_final).collect();
    let has_final = loose.len() < files().count();
    let Some(file) = loose.first() else {
        return Vec::new();
    };
    let age = Age::of(&loose, now_ms);
    let waited = age.youngest_ms >= options.quiet_ms || age.oldest_ms >= options.late_age_ms;
    if waited && is_over(file, options, now_ms) {
        if has_final && is_worth_it(layers, &age, options) {
            return late(files().collect(), options);
        }
        if !has_final && layers.len() > 1 {
            return vec![plan(Rule::Close, files(), options)];
        }
    }
    let tier = tier(layers, options).map(|run| {
        let files = layers[run]
            .iter()
            .flat_map(|layer| layer.files.iter().copied());
        plan(Rule::Tier, files, options)
    });
    tier.into_iter().collect()
}

/// How long ago files were made, in milliseconds.
struct Age {
    oldest_ms: u64,
    youngest_ms: u64,
}

impl Age {
    /// A file whose name does not tell when it was made counts as old.
    fn of(files: &[&FileEntry], now_ms: i64) -> Self {
        let ages = files
            .iter()
            .map(|file| match names::sst_made_ms(&file.key) {
                Some(made_ms) => u64::try_from(now_ms.saturating_sub(made_ms)).unwrap_or_default(),
                None => u64::MAX,
            });
        Self {
            oldest_ms: ages.clone().max().unwrap_or_default(),
            youngest_ms: ages.min().unwrap_or_default(),
        }
    }
}

fn is_over(file: &FileEntry, options: &Options, now_ms: i64) -> bool {
    let length_ns = i128::from(file.segment_ns);
    let share_ns = length_ns * i128::from(options.over_after_percent) / 100;
    let wait_ns = share_ns.max(i128::from(options.over_after_ms) * NS_IN_MS);
    let over_ns = i128::from(file.segment_start) + length_ns + wait_ns;
    i128::from(now_ms) * NS_IN_MS >= over_ns
}

/// Whether the late files of a closed segment are worth a rewrite.
fn is_worth_it(layers: &[Layer<'_>], age: &Age, options: &Options) -> bool {
    let files = || layers.iter().flat_map(|layer| layer.files.iter());
    let sum = |is_final| -> u128 {
        let files = files().filter(|file| file.is_final == is_final);
        files.map(|file| u128::from(file.length)).sum()
    };
    let late_layers = layers.iter().filter(|layer| !layer.has_final).count();
    sum(false) * 100 >= sum(true) * u128::from(options.late_percent)
        || late_layers >= options.late_layers
        || age.oldest_ms >= options.late_age_ms
}

/// Neighbouring layers seen as one: the first of them, how many, and their bytes.
#[derive(Clone, Copy)]
struct Run {
    first: usize,
    layers: usize,
    bytes: u64,
    has_final: bool,
}

/// The neighbouring layers that tier joins. Where the result would at once be joined again, all of
/// it is joined now: bytes are not written twice in a row.
fn tier(layers: &[Layer<'_>], options: &Options) -> Option<Range<usize>> {
    let mut runs: Vec<Run> = layers
        .iter()
        .enumerate()
        .map(|(first, layer)| Run {
            first,
            layers: 1,
            bytes: layer.bytes,
            has_final: layer.has_final,
        })
        .collect();
    let mut joined: Option<usize> = None;
    while let Some(run) = next_run(&runs, options) {
        if joined.is_some_and(|joined| !run.contains(&joined)) {
            break;
        }
        let parts = &runs[run.clone()];
        let whole = Run {
            first: parts[0].first,
            layers: parts.iter().map(|part| part.layers).sum(),
            bytes: parts.iter().map(|part| part.bytes).sum(),
            has_final: false,
        };
        joined = Some(run.start);
        runs.splice(run, [whole]);
    }
    let whole = runs[joined?];
    Some(whole.first..whole.first + whole.layers)
}

fn next_run(runs: &[Run], options: &Options) -> Option<Range<usize>> {
    let ratio = options.tier_ratio;
    let alike = |smallest: u64, largest: u64| largest <= smallest.saturating_mul(ratio);
    let loose = runs.iter().filter(|run| !run.has_final).count();
    best_run(runs, options.tier_layers, alike).or_else(|| {
        let too_many = loose > options.layers_max;
        too_many.then(|| best_run(runs, options.tier_layers, |_, _| true))?
    })
}

/// What takes most layers away for its bytes, the oldest of equals.
fn best_run(
    runs: &[Run],
    shortest: usize,
    fits: impl Fn(u64, u64) -> bool,
) -> Option<Range<usize>> {
    let mut best: Option<(u128, Range<usize>)> = None;
    for start in 0..runs.len() {
        let (mut smallest, mut largest, mut bytes) = (u64::MAX, 1, 0_u64);
        for (end, run) in runs.iter().enumerate().skip(start) {
            smallest = smallest.min(run.bytes.max(1));
            largest = largest.max(run.bytes);
            bytes = bytes.saturating_add(run.bytes);
            if run.has_final || !fits(smallest, largest) {
                break;
            }
            let length = end + 1 - start;
            let gain = gain(length, bytes);
            let better = best.as_ref().is_none_or(|(most, _)| gain > *most);
            if length >= shortest.max(2) && better {
                best = Some((gain, start..end + 1));
            }
        }
    }
    best.map(|(_, run)| run)
}

/// Files whose keys meet, directly or through others.
struct Chain<'a> {
    files: Vec<&'a FileEntry>,
    bytes: u64,
    has_late: bool,
}

/// Late files with the final ones whose keys they meet; small chains, each less
/// than half a file, join their neighbours.
fn late(mut files: Vec<&FileEntry>, options: &Options) -> Vec<Plan> {
    files.sort_by(|a, b| a.first_key.cmp(&b.first_key));
    let mut chains: Vec<Chain<'_>> = Vec::new();
    let mut last_key: &[u8] = &[];
    for file in files {
        let meets = *file.first_key <= *last_key;
        last_key = last_key.max(&file.last_key);
        match chains.last_mut().filter(|_| meets) {
            Some(chain) => {
                chain.files.push(file);
                chain.bytes += file.length;
                chain.has_late |= !file.is_final;
            }
            None => chains.push(Chain {
                files: vec![file],
                bytes: file.length,
                has_late: !file.is_final,
            }),
        }
    }
    let mut groups: Vec<Chain<'_>> = Vec::new();
    for chain in chains {
        let half = options.file_bytes_max / 2;
        let joins = |group: &&mut Chain<'_>| {
            let rewritten = group.has_late || chain.has_late;
            rewritten && group.bytes < half && chain.bytes < half
        };
        match groups.last_mut().filter(|group| joins(group)) {
            Some(group) => {
                group.files.extend(chain.files);
                group.bytes += chain.bytes;
                group.has_late |= chain.has_late;
            }
            None => groups.push(chain),
        }
    }
    groups
        .into_iter()
        .filter(|group| group.has_late)
        .map(|group| plan(Rule::Late, group.files, options))
        .collect()
}

/// The plan that rewrites these files, of which there is at least one.
fn plan<'a>(rule: Rule, files: impl IntoIterator<Item = &'a FileEntry>, options: &Options) -> Plan {
    let mut inputs: Vec<FileEntry> = files.into_iter().cloned().collect();
    inputs.sort_by(|a, b| (a.seq_min, &a.first_key).cmp(&(b.seq_min, &b.first_key)));
    let bytes = bytes_of(&inputs);
    let pieces = bytes.div_ceil(options.file_bytes_max.max(1)).max(1);
    let first = &inputs[0];
    let mut plan = Plan {
        rule,
        table: first.table,
        tablet: first.tablet,
        segment_start: first.segment_start,
        segment_ns: first.segment_ns,
        seq_min: first.seq_min,
        seq_max: first.seq_max,
        range: first.range,
        is_final: rule != Rule::Tier,
        cut_bytes: match pieces {
            1 => options.file_bytes_max,
            pieces => bytes.div_ceil(pieces),
        },
        inputs: Vec::new(),
    };
    for file in &inputs {
        plan.seq_max = plan.seq_max.max(file.seq_max);
        plan.range.lo = plan.range.lo.min(file.range.lo);
        plan.range.hi = plan.range.hi.max(file.range.hi);
    }
    Plan { inputs, ..plan }
}

fn bytes_of(files: &[FileEntry]) -> u64 {
    let sum = |sum: u64, file: &FileEntry| sum.saturating_add(file.length);
    files.iter().fold(0, sum)
}
