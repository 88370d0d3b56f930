//! Laws of a manifest, each a named predicate; every commit runs them first, tools run them on
//! what they find.
//!
//! [`SOUND`] holds of each manifest, [`FIRST`] of number 1 as well, [`FOLLOWS`] of two that follow
//! each other. A broken law refuses the commit: stopping beats writing a state nobody can trust.
//!
//! * source: docs/invariants.md: M1 (what never falls; disjoint sources), M2 (one committer per term),
//!   M5 (a term's first commit is a bump).
//!
//! Never here: a clock, a store, a repair.

use std::collections::{BTreeMap, HashSet};

use auxo_proto::ids::TabletId;
use auxo_proto::schema::HashRange;

use super::Manifest;
use crate::entry::FileEntry;

mod follows;
mod sound;

pub use sound::FILTER_DEPTH_MAX;

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
    ("tables_agree", sound::tables_agree),
    ("tablets_partition_tables", sound::tablets_partition_tables),
    ("files_are_bounded", sound::files_are_bounded),
    ("files_have_tablets", sound::files_have_tablets),
    ("files_below_flushed", sound::files_below_flushed),
    ("segments_do_not_straddle", sound::segments_do_not_straddle),
    ("sources_are_disjoint", sound::sources_are_disjoint),
    ("retired_is_not_live", sound::retired_is_not_live),
    ("floor_agrees_with_claim", sound::floor_agrees_with_claim),
    ("batches_are_sorted", sound::batches_are_sorted),
    ("deletes_are_known", sound::deletes_are_known),
    ("parents_are_bounded", sound::parents_are_bounded),
];

/// Laws of manifest 1.
pub const FIRST: &[(&str, Law)] = &[
    ("first_is_a_claim", sound::first_is_a_claim),
    (
        "first_files_are_inherited",
        sound::first_files_are_inherited,
    ),
];

/// Laws of two manifests that follow each other.
pub const FOLLOWS: &[(&str, Step)] = &[
    ("write_id_is_fresh", follows::write_id_is_fresh),
    ("term_never_falls", follows::term_never_falls),
    ("one_writer_a_term", follows::one_writer_a_term),
    ("base_seq_is_fixed", follows::base_seq_is_fixed),
    ("flushed_never_falls", follows::flushed_never_falls),
    ("claim_never_falls", follows::claim_never_falls),
    ("floor_never_falls", follows::floor_never_falls),
    ("sealed_is_last", follows::sealed_is_last),
    ("term_begins_with_a_bump", follows::term_begins_with_a_bump),
    (
        "live_files_do_not_change",
        follows::live_files_do_not_change,
    ),
    ("new_files_are_own", follows::new_files_are_own),
    ("compaction_adds_nothing", follows::compaction_adds_nothing),
    ("left_objects_retire", follows::left_objects_retire),
    ("retired_never_returns", follows::retired_never_returns),
    ("parents_only_leave", follows::parents_only_leave),
    ("schemas_only_advance", follows::schemas_only_advance),
    ("low_water_never_falls", follows::low_water_never_falls),
];

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

fn keys(files: &[FileEntry]) -> HashSet<&str> {
    files.iter().map(|file| file.key.as_str()).collect()
}
