//! Laws of a manifest, each a named predicate; every commit runs them first, tools run them on
//! what they find.
//!
//! [`SOUND`] holds of each manifest, [`FIRST`] of number 1 as well, [`FOLLOWS`] of two that follow
//! each other. A broken law refuses the commit: stopping beats writing a state nobody can trust.
//!
//! * source: invariants §1.1 of the storage page (disjoint sources), M1 (what never falls), M2
//!   (one committer per term), M5 (a term's first commit is a bump), §8 (base_seq, parents), §10.
//!
//! Never here: a clock, a store, a repair.

use std::collections::{BTreeMap, HashMap, HashSet};

use auxo_proto::ids::TabletId;
use auxo_proto::schema::HashRange;

use super::{Floor, Manifest, Offset};
use crate::entry::FileEntry;
use crate::names;
use crate::predicate::TagFilter;

/// A manifest breaks a law.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("manifest breaks the law {law}: {detail}")]
pub struct Violation {
    /// Name of the law, as listed in [`SOUND`], [`FIRST`] or [`FOLLOWS`].
    pub law: &'static str,
    /// What breaks it.
    pub detail: String,
}

/// A law of one manifest; the error is a sentence naming what breaks it.
pub type Law = fn(&Manifest) -> Result<(), String>;

/// A law of a manifest and the one before it, in the order (before, after).
pub type Step = fn(&Manifest, &Manifest) -> Result<(), String>;

/// Laws of every manifest.
pub const SOUND: &[(&str, Law)] = &[
    ("tables_agree", tables_agree),
    ("tablets_partition_tables", tablets_partition_tables),
    ("files_are_bounded", files_are_bounded),
    ("files_have_tablets", files_have_tablets),
    ("files_below_flushed", files_below_flushed),
    ("segments_do_not_straddle", segments_do_not_straddle),
    ("sources_are_disjoint", sources_are_disjoint),
    ("retired_is_not_live", retired_is_not_live),
    ("floor_agrees_with_claim", floor_agrees_with_claim),
    ("batches_are_sorted", batches_are_sorted),
    ("deletes_are_known", deletes_are_known),
    ("parents_are_bounded", parents_are_bounded),
];

/// Laws of manifest 1.
pub const FIRST: &[(&str, Law)] = &[
    ("first_is_a_claim", first_is_a_claim),
    ("first_files_are_inherited", first_files_are_inherited),
];

/// Laws of two manifests that follow each other.
pub const FOLLOWS: &[(&str, Step)] = &[
    ("write_id_is_fresh", write_id_is_fresh),
    ("term_never_falls", term_never_falls),
    ("one_writer_a_term", one_writer_a_term),
    ("base_seq_is_fixed", base_seq_is_fixed),
    ("flushed_never_falls", flushed_never_falls),
    ("claim_never_falls", claim_never_falls),
    ("floor_never_falls", floor_never_falls),
    ("sealed_is_last", sealed_is_last),
    ("term_begins_with_a_bump", term_begins_with_a_bump),
    ("live_files_do_not_change", live_files_do_not_change),
    ("new_files_are_own", new_files_are_own),
    ("compaction_adds_nothing", compaction_adds_nothing),
    ("left_objects_retire", left_objects_retire),
    ("retired_never_returns", retired_never_returns),
    ("parents_only_leave", parents_only_leave),
    ("schemas_only_advance", schemas_only_advance),
    ("low_water_never_falls", low_water_never_falls),
];

/// Deepest tag filter a delete may have, so that its bytes can be read back.
pub const FILTER_DEPTH_MAX: usize = 64;

/// Runs [`SOUND`]; the first broken law is named.
pub fn sound(manifest: &Manifest) -> Result<(), Violation> {
    run(SOUND, manifest)
}

/// Runs all laws of a commit: of `after` alone, and of `after` behind `before`, or as number 1.
pub fn commit(before: Option<&Manifest>, after: &Manifest) -> Result<(), Violation> {
    sound(after)?;
    let Some(before) = before else {
        return run(FIRST, after);
    };
    for (law, holds) in FOLLOWS {
        holds(before, after).map_err(|detail| Violation { law, detail })?;
    }
    Ok(())
}

fn run(laws: &[(&'static str, Law)], manifest: &Manifest) -> Result<(), Violation> {
    for (law, holds) in laws {
        holds(manifest).map_err(|detail| Violation { law, detail })?;
    }
    Ok(())
}

/// The sentence of a broken law, `Ok` when it holds.
fn unless(holds: bool, detail: impl FnOnce() -> String) -> Result<(), String> {
    match holds {
        true => Ok(()),
        false => Err(detail()),
    }
}

/// Whether two files may hold rows of the same key: what must not be of two of the same age.
///
/// * shape: ends belong to the ranges.
pub fn may_share_keys(a: &FileEntry, b: &FileEntry) -> bool {
    let keys = a.first_key <= b.last_key && b.first_key <= a.last_key;
    keys && ranges_meet(a.range, b.range)
}

fn ranges_meet(a: HashRange, b: HashRange) -> bool {
    a.lo <= b.hi && b.lo <= a.hi
}

fn seqs_meet(a: &FileEntry, b: &FileEntry) -> bool {
    a.seq_min <= b.seq_max && b.seq_min <= a.seq_max
}

fn segment_end(file: &FileEntry) -> i128 {
    i128::from(file.segment_start) + i128::from(file.segment_ns)
}

fn by_tablet(files: &[FileEntry]) -> BTreeMap<TabletId, Vec<&FileEntry>> {
    let mut tablets: BTreeMap<TabletId, Vec<&FileEntry>> = BTreeMap::new();
    for file in files {
        tablets.entry(file.tablet).or_default().push(file);
    }
    tablets
}

type Segment = (TabletId, i64, u64);

fn segment_of(file: &FileEntry) -> Segment {
    (file.tablet, file.segment_start, file.segment_ns)
}

fn by_segment<'a>(
    files: impl IntoIterator<Item = &'a FileEntry>,
) -> BTreeMap<Segment, Vec<&'a FileEntry>> {
    let mut segments: BTreeMap<Segment, Vec<&FileEntry>> = BTreeMap::new();
    for file in files {
        segments.entry(segment_of(file)).or_default().push(file);
    }
    segments
}

/// One table has one definition, which its own rules accept.
fn tables_agree(manifest: &Manifest) -> Result<(), String> {
    let mut known = HashMap::new();
    for tablet in &manifest.tablets {
        let table = &tablet.table;
        let first = known.entry(table.id).or_insert(table);
        unless(*first == table, || {
            format!("tablet {} has another table {}", tablet.id, table.id)
        })?;
        table
            .schema
            .check()
            .map_err(|wrong| format!("table {}: {wrong}", table.id))?;
    }
    Ok(())
}

/// Tablets have different ids, and those of one table different hashes.
fn tablets_partition_tables(manifest: &Manifest) -> Result<(), String> {
    let mut tablets: Vec<_> = manifest.tablets.iter().collect();
    tablets.sort_by_key(|tablet| (tablet.table.id, tablet.range.lo));
    for tablet in &tablets {
        unless(tablet.range.lo <= tablet.range.hi, || {
            format!("tablet {} holds no hash", tablet.id)
        })?;
    }
    for pair in tablets.windows(2) {
        let same = pair[0].table.id == pair[1].table.id;
        unless(!same || pair[0].range.hi < pair[1].range.lo, || {
            format!("tablets {} and {} share hashes", pair[0].id, pair[1].id)
        })?;
    }
    let mut ids = HashSet::new();
    for tablet in &manifest.tablets {
        unless(ids.insert(tablet.id), || {
            format!("tablet {} is there twice", tablet.id)
        })?;
    }
    Ok(())
}

/// What an entry says of its file can be true.
fn files_are_bounded(manifest: &Manifest) -> Result<(), String> {
    for file in &manifest.files {
        let segment = i128::from(file.segment_start)..segment_end(file);
        let wrong = if file.key.is_empty() {
            "has no key"
        } else if file.length == 0 || file.tail_length > file.length {
            "has an impossible length"
        } else if file.offset.checked_add(file.length).is_none() {
            "ends behind the largest offset"
        } else if file.rows == 0 || file.series == 0 || file.series > file.rows {
            "has an impossible number of rows or series"
        } else if file.t_min > file.t_max || file.seq_min > file.seq_max {
            "has no time or no sequence"
        } else if !segment.contains(&file.t_min.into()) || !segment.contains(&file.t_max.into()) {
            "holds times outside its segment"
        } else if file.first_key > file.last_key || file.range.lo > file.range.hi {
            "has no key or no hash in it"
        } else if !file.columns.is_sorted_by(|a, b| a < b) {
            "lists columns out of order"
        } else {
            continue;
        };
        return Err(format!("file {} {wrong}", file.key));
    }
    Ok(())
}

/// Every file belongs to a tablet of the shard: a tablet that leaves takes its files along.
fn files_have_tablets(manifest: &Manifest) -> Result<(), String> {
    let tablets: HashMap<_, _> = manifest
        .tablets
        .iter()
        .map(|tablet| (tablet.id, tablet))
        .collect();
    for file in &manifest.files {
        let tablet = tablets
            .get(&file.tablet)
            .ok_or_else(|| format!("file {} is of tablet {}", file.key, file.tablet))?;
        let inside = tablet.range.lo <= file.range.lo && file.range.hi <= tablet.range.hi;
        unless(tablet.table.id == file.table && inside, || {
            format!("file {} does not fit tablet {}", file.key, file.tablet)
        })?;
        unless(file.schema <= tablet.table.schema.number, || {
            format!("file {} has a schema its table never had", file.key)
        })?;
    }
    Ok(())
}

/// Files hold rows below `flushed` only (M1).
fn files_below_flushed(manifest: &Manifest) -> Result<(), String> {
    let end = manifest.flushed_seq();
    for file in &manifest.files {
        unless(file.seq_max < end, || {
            format!(
                "file {} holds seq {}, flushed is {end}",
                file.key, file.seq_max
            )
        })?;
    }
    Ok(())
}

/// Segments of one tablet are equal or apart: else a stack would miss rows of the same key.
fn segments_do_not_straddle(manifest: &Manifest) -> Result<(), String> {
    for files in by_tablet(&manifest.files).values_mut() {
        files.sort_by_key(|file| (file.segment_start, file.segment_ns));
        files.dedup_by_key(|file| segment_of(file));
        for pair in files.windows(2) {
            unless(segment_end(pair[0]) <= pair[1].segment_start.into(), || {
                format!("segments of {} and {} overlap", pair[0].key, pair[1].key)
            })?;
        }
    }
    Ok(())
}

/// Two files of one tablet and segment have disjoint sequences, keys or hashes.
///
/// A sweep over first keys: only files whose keys meet are compared, so a segment of thousands of
/// final files costs no more than sorting it.
fn sources_are_disjoint(manifest: &Manifest) -> Result<(), String> {
    for files in by_segment(&manifest.files).values_mut() {
        files.sort_by(|a, b| a.first_key.cmp(&b.first_key));
        let mut open: Vec<&FileEntry> = Vec::new();
        for file in files.iter() {
            open.retain(|other| other.last_key >= file.first_key);
            for other in &open {
                unless(
                    !seqs_meet(file, other) || !may_share_keys(file, other),
                    || {
                        format!(
                            "files {} and {} hold the same keys and age",
                            other.key, file.key
                        )
                    },
                )?;
            }
            open.push(file);
        }
    }
    Ok(())
}

/// An object is live or retired, and retired once.
fn retired_is_not_live(manifest: &Manifest) -> Result<(), String> {
    let live = keys(&manifest.files);
    let mut retired = HashSet::new();
    for object in &manifest.retired {
        let key = object.key.as_str();
        unless(retired.insert(key), || format!("{key} is retired twice"))?;
        unless(!live.contains(key), || format!("{key} is retired and live"))?;
    }
    Ok(())
}

/// The floor's term is the manifest's once its claim is flushed, and a lower one before.
fn floor_agrees_with_claim(manifest: &Manifest) -> Result<(), String> {
    let Manifest { floor, claim, .. } = manifest;
    let flushed = manifest.flushed;
    let agrees = match flushed > *claim {
        true => floor.term == manifest.term && floor.writer == manifest.writer,
        false => floor.term < manifest.term,
    };
    unless(agrees, || {
        format!(
            "term {} claimed at {claim}, flushed to {flushed}, floor of term {}",
            manifest.term, floor.term
        )
    })
}

/// Batches ascend by tenant and id, above the low-water mark and below `flushed`.
fn batches_are_sorted(manifest: &Manifest) -> Result<(), String> {
    let end = manifest.flushed_seq();
    let tenants = &manifest.batches.tenants;
    unless(tenants.is_sorted_by(|a, b| a.tenant < b.tenant), || {
        "tenants of the batch table are out of order".to_owned()
    })?;
    for batches in tenants {
        let entries = &batches.entries;
        let above = entries
            .first()
            .is_none_or(|first| Some(first.id) > batches.low_water);
        let sorted = entries.is_sorted_by(|a, b| a.id < b.id);
        let below = entries.iter().all(|entry| entry.seq < end);
        unless(above && sorted && below, || {
            format!("batches of tenant {} break order or bounds", batches.tenant)
        })?;
    }
    Ok(())
}

/// Deletes are of tablets that are there, came below `flushed`, and can be read back.
fn deletes_are_known(manifest: &Manifest) -> Result<(), String> {
    for delete in &manifest.deletes {
        unless(manifest.tablet(delete.tablet).is_some(), || {
            format!("a delete is of tablet {}", delete.tablet)
        })?;
        unless(delete.seq < manifest.flushed_seq(), || {
            format!("a delete at seq {} is not flushed", delete.seq)
        })?;
        unless(depth(&delete.filter) <= FILTER_DEPTH_MAX, || {
            format!("a delete at seq {} nests too deep", delete.seq)
        })?;
    }
    Ok(())
}

fn depth(filter: &TagFilter) -> usize {
    1 + match filter {
        TagFilter::And(parts) | TagFilter::Or(parts) => {
            parts.iter().map(depth).max().unwrap_or_default()
        }
        TagFilter::Not(part) => depth(part),
        TagFilter::Any | TagFilter::Nothing | TagFilter::Test { .. } => 0,
    }
}

/// A parent's log ends where this shard's sequences begin, or below (§8).
fn parents_are_bounded(manifest: &Manifest) -> Result<(), String> {
    for parent in &manifest.parents {
        let end = parent.base_seq.0.checked_add(parent.until);
        let older = end.is_some_and(|end| end < manifest.base_seq.0);
        unless(parent.from <= parent.until && older, || {
            format!(
                "parent {} reaches into this shard's sequences",
                parent.shard
            )
        })?;
    }
    Ok(())
}

/// Number 1 states a claim: nothing of this shard's own log can be flushed before it.
fn first_is_a_claim(manifest: &Manifest) -> Result<(), String> {
    unless(manifest.flushed <= manifest.claim, || {
        format!(
            "flushed {} is above claim {}",
            manifest.flushed, manifest.claim
        )
    })
}

/// Number 1 has no history of its own: files come from parents, nothing has left.
fn first_files_are_inherited(manifest: &Manifest) -> Result<(), String> {
    let own = manifest.parents.is_empty() && !manifest.files.is_empty();
    unless(!own && manifest.retired.is_empty(), || {
        "number 1 has files without a parent, or retired ones".to_owned()
    })
}

/// A commit is told from every other by its write id.
fn write_id_is_fresh(before: &Manifest, after: &Manifest) -> Result<(), String> {
    unless(before.write_id != after.write_id, || {
        format!("write id {:x} is used again", after.write_id)
    })
}

/// M1.
fn term_never_falls(before: &Manifest, after: &Manifest) -> Result<(), String> {
    unless(before.term <= after.term, || {
        format!("term {} after {}", after.term, before.term)
    })
}

/// M2: a term is one claim of one writer.
fn one_writer_a_term(before: &Manifest, after: &Manifest) -> Result<(), String> {
    let same = before.writer == after.writer && before.claim == after.claim;
    unless(before.term != after.term || same, || {
        format!("term {} has two writers or claims", after.term)
    })
}

/// Only a new incarnation, under a new term, moves `base_seq` (§8).
fn base_seq_is_fixed(before: &Manifest, after: &Manifest) -> Result<(), String> {
    let fixed = before.incarnation == after.incarnation && before.base_seq == after.base_seq;
    let rebased = before.incarnation != after.incarnation && before.term < after.term;
    unless(fixed || rebased, || {
        format!("base_seq {} after {}", after.base_seq, before.base_seq)
    })
}

/// M1, over rebases too.
fn flushed_never_falls(before: &Manifest, after: &Manifest) -> Result<(), String> {
    never_falls(before, after, |manifest| manifest.flushed)
}

/// M1, over rebases too.
fn claim_never_falls(before: &Manifest, after: &Manifest) -> Result<(), String> {
    never_falls(before, after, |manifest| manifest.claim)
}

fn never_falls(
    before: &Manifest,
    after: &Manifest,
    offset: fn(&Manifest) -> Offset,
) -> Result<(), String> {
    let seq = |manifest: &Manifest| u128::from(manifest.base_seq.0) + u128::from(offset(manifest));
    let representable = seq(after) <= u128::from(u64::MAX);
    unless(seq(before) <= seq(after) && representable, || {
        format!("seq {} after {}", seq(after), seq(before))
    })
}

/// M1: by term, and within a term by the writer's numbers; and it moves with `flushed` only.
fn floor_never_falls(before: &Manifest, after: &Manifest) -> Result<(), String> {
    let (old, new) = (&before.floor, &after.floor);
    let advances = match old.term == new.term {
        true => old.writer == new.writer && old.n <= new.n && old.sealed <= new.sealed,
        false => old.term < new.term,
    };
    let stands = before.flushed != after.flushed || old == new;
    unless(advances && stands, || {
        format!("floor {new:?} after {old:?}")
    })
}

/// Nothing is committed behind a seal (S5).
fn sealed_is_last(before: &Manifest, _after: &Manifest) -> Result<(), String> {
    let Floor { sealed, .. } = before.floor;
    unless(!sealed, || "the shard is sealed".to_owned())
}

/// M5: a term's first commit changes term, writer and claim and nothing else; a rebase moves to an
/// empty region as well.
fn term_begins_with_a_bump(before: &Manifest, after: &Manifest) -> Result<(), String> {
    if before.term == after.term {
        return Ok(());
    }
    let rebased = before.incarnation != after.incarnation;
    let flushed = match rebased {
        true => 0,
        false => before.flushed,
    };
    unless(after.flushed == flushed && after.claim >= flushed, || {
        format!("flushed {} and claim {}", after.flushed, after.claim)
    })?;
    unless(rebased || after.claim > before.claim, || {
        format!("claim {} after {}", after.claim, before.claim)
    })?;
    let what = if before.files != after.files || before.retired != after.retired {
        "files"
    } else if before.tablets != after.tablets || before.deletes != after.deletes {
        "tablets or deletes"
    } else if before.floor != after.floor || before.batches != after.batches {
        "floor or batches"
    } else if before.parents != after.parents {
        "parents"
    } else {
        return Ok(());
    };
    Err(format!("term {} begins by changing {what}", after.term))
}

/// A file stays as it was committed until it leaves.
fn live_files_do_not_change(before: &Manifest, after: &Manifest) -> Result<(), String> {
    let old = by_place(before);
    for file in &after.files {
        let Some(entries) = old.get(&place(file)) else {
            continue;
        };
        unless(entries.contains(&file), || {
            format!("the entry of {} changed", file.key)
        })?;
    }
    Ok(())
}

/// Objects enter under the term and writer that made them, which are the committer's.
fn new_files_are_own(before: &Manifest, after: &Manifest) -> Result<(), String> {
    for file in entered(before, after) {
        let own = names::sst_origin(&file.key)
            .is_some_and(|origin| origin.term == after.term && origin.writer == after.writer);
        unless(own, || {
            format!("{} was not written under term {}", file.key, after.term)
        })?;
    }
    Ok(())
}

/// A file that enters is flushed from the log or made of files that leave: its rows lie between
/// theirs, in the same tablet and segment, and are not more.
///
/// Silent while a parent's log is pending: its rows are flushed late, below `flushed`.
fn compaction_adds_nothing(before: &Manifest, after: &Manifest) -> Result<(), String> {
    if !before.parents.is_empty() {
        return Ok(());
    }
    let border = before.flushed_seq();
    let (flushed, made): (Vec<_>, Vec<_>) =
        entered(before, after).partition(|file| file.seq_min >= border);
    if let Some(file) = made.iter().find(|file| file.seq_max >= border) {
        return Err(format!("{} joins flushed and unflushed rows", file.key));
    }
    unless(flushed.is_empty() || after.flushed > before.flushed, || {
        "rows were flushed but flushed did not move".to_owned()
    })?;
    let left = by_segment(entered(after, before));
    for (segment, made) in by_segment(made) {
        let inputs = left.get(&segment).map(Vec::as_slice).unwrap_or_default();
        let rows = |files: &[&FileEntry]| files.iter().map(|file| u128::from(file.rows)).sum();
        let (rows_in, rows_out): (u128, u128) = (rows(inputs), rows(&made));
        let within = made.iter().all(|file| lies_within(file, inputs));
        unless(within && rows_out <= rows_in, || {
            format!("{} holds more than the files that left", made[0].key)
        })?;
    }
    Ok(())
}

fn lies_within(file: &FileEntry, inputs: &[&FileEntry]) -> bool {
    let seq = |lowest: bool| match lowest {
        true => inputs.iter().map(|input| input.seq_min).min(),
        false => inputs.iter().map(|input| input.seq_max).max(),
    };
    let first_key = inputs.iter().map(|input| &input.first_key).min();
    let last_key = inputs.iter().map(|input| &input.last_key).max();
    seq(true).is_some_and(|lowest| lowest <= file.seq_min)
        && seq(false).is_some_and(|highest| file.seq_max <= highest)
        && first_key.is_some_and(|lowest| *lowest <= file.first_key)
        && last_key.is_some_and(|highest| file.last_key <= *highest)
}

/// An object that leaves waits in `retired` (§9).
fn left_objects_retire(before: &Manifest, after: &Manifest) -> Result<(), String> {
    let live = keys(&after.files);
    let retired: HashSet<&str> = after.retired.iter().map(|object| &*object.key).collect();
    for file in &before.files {
        let known = live.contains(&*file.key) || retired.contains(&*file.key);
        unless(known, || format!("{} is in neither list", file.key))?;
    }
    Ok(())
}

/// An object that left never comes back.
fn retired_never_returns(before: &Manifest, after: &Manifest) -> Result<(), String> {
    let live = keys(&after.files);
    let back = before
        .retired
        .iter()
        .find(|object| live.contains(&*object.key));
    unless(back.is_none(), || {
        format!("{} came back", back.map_or("", |object| &object.key))
    })
}

/// Parents are those of number 1, less the ones flushed.
fn parents_only_leave(before: &Manifest, after: &Manifest) -> Result<(), String> {
    for parent in &after.parents {
        unless(before.parents.contains(parent), || {
            format!("parent {} is new", parent.shard)
        })?;
    }
    Ok(())
}

/// A table's schema rises by number and never changes under one.
fn schemas_only_advance(before: &Manifest, after: &Manifest) -> Result<(), String> {
    let old: HashMap<_, _> = before
        .tablets
        .iter()
        .map(|tablet| (tablet.table.id, &tablet.table.schema))
        .collect();
    for tablet in &after.tablets {
        let new = &tablet.table.schema;
        let Some(old) = old.get(&tablet.table.id) else {
            continue;
        };
        unless(old == &new || old.number < new.number, || {
            format!(
                "table {} fell back to schema {}",
                tablet.table.id, new.number
            )
        })?;
    }
    Ok(())
}

/// A batch that was forgotten stays refused (D2).
fn low_water_never_falls(before: &Manifest, after: &Manifest) -> Result<(), String> {
    let marks: HashMap<_, _> = after
        .batches
        .tenants
        .iter()
        .map(|batches| (batches.tenant, batches.low_water))
        .collect();
    for batches in &before.batches.tenants {
        let mark = marks.get(&batches.tenant).copied().flatten();
        unless(batches.low_water <= mark, || {
            format!("the low-water mark of tenant {} fell", batches.tenant)
        })?;
    }
    Ok(())
}

fn keys(files: &[FileEntry]) -> HashSet<&str> {
    files.iter().map(|file| file.key.as_str()).collect()
}

/// What tells one file from another: its object and where it begins in there.
fn place(file: &FileEntry) -> (&str, u64) {
    (&file.key, file.offset)
}

/// Entries by place: two when halves of a split file met again.
fn by_place(manifest: &Manifest) -> HashMap<(&str, u64), Vec<&FileEntry>> {
    let mut places: HashMap<_, Vec<_>> = HashMap::new();
    for file in &manifest.files {
        places.entry(place(file)).or_default().push(file);
    }
    places
}

/// Files of `after` that `before` does not have.
fn entered<'a>(before: &'a Manifest, after: &'a Manifest) -> impl Iterator<Item = &'a FileEntry> {
    let old: HashSet<_> = before.files.iter().map(place).collect();
    after
        .files
        .iter()
        .filter(move |file| !old.contains(&place(file)))
}
