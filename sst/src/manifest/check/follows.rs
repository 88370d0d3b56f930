//! Laws of two manifests that follow each other.

use std::collections::{HashMap, HashSet};

use super::{by_segment, keys, unless};
use crate::entry::FileEntry;
use crate::manifest::{Floor, Manifest, Offset};
use crate::names;

/// A commit is told from every other by its write id.
pub(super) fn write_id_is_fresh(before: &Manifest, after: &Manifest) -> Result<(), String> {
    unless(before.write_id != after.write_id, || {
        format!("write id {:x} is used again", after.write_id)
    })
}

/// M1.
pub(super) fn term_never_falls(before: &Manifest, after: &Manifest) -> Result<(), String> {
    unless(before.term <= after.term, || {
        format!("term {} after {}", after.term, before.term)
    })
}

/// M2: a term is one claim of one writer.
pub(super) fn one_writer_a_term(before: &Manifest, after: &Manifest) -> Result<(), String> {
    let same = before.writer == after.writer && before.claim == after.claim;
    unless(before.term != after.term || same, || {
        format!("term {} has two writers or claims", after.term)
    })
}

/// Only a new incarnation, under a new term, moves `base_seq` (§8).
pub(super) fn base_seq_is_fixed(before: &Manifest, after: &Manifest) -> Result<(), String> {
    let fixed = before.incarnation == after.incarnation && before.base_seq == after.base_seq;
    let rebased = before.incarnation != after.incarnation && before.term < after.term;
    unless(fixed || rebased, || {
        format!("base_seq {} after {}", after.base_seq, before.base_seq)
    })
}

/// M1, over rebases too.
pub(super) fn flushed_never_falls(before: &Manifest, after: &Manifest) -> Result<(), String> {
    never_falls(before, after, |manifest| manifest.flushed)
}

/// M1, over rebases too.
pub(super) fn claim_never_falls(before: &Manifest, after: &Manifest) -> Result<(), String> {
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
pub(super) fn floor_never_falls(before: &Manifest, after: &Manifest) -> Result<(), String> {
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
pub(super) fn sealed_is_last(before: &Manifest, _after: &Manifest) -> Result<(), String> {
    let Floor { sealed, .. } = before.floor;
    unless(!sealed, || "the shard is sealed".to_owned())
}

/// M5: a term's first commit changes term, writer and claim and nothing else; a rebase moves to an
/// empty region as well.
pub(super) fn term_begins_with_a_bump(before: &Manifest, after: &Manifest) -> Result<(), String> {
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
pub(super) fn live_files_do_not_change(before: &Manifest, after: &Manifest) -> Result<(), String> {
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
pub(super) fn new_files_are_own(before: &Manifest, after: &Manifest) -> Result<(), String> {
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
pub(super) fn compaction_adds_nothing(before: &Manifest, after: &Manifest) -> Result<(), String> {
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
pub(super) fn left_objects_retire(before: &Manifest, after: &Manifest) -> Result<(), String> {
    let live = keys(&after.files);
    let retired: HashSet<&str> = after.retired.iter().map(|object| &*object.key).collect();
    for file in &before.files {
        let known = live.contains(&*file.key) || retired.contains(&*file.key);
        unless(known, || format!("{} is in neither list", file.key))?;
    }
    Ok(())
}

/// An object that left never comes back.
pub(super) fn retired_never_returns(before: &Manifest, after: &Manifest) -> Result<(), String> {
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
pub(super) fn parents_only_leave(before: &Manifest, after: &Manifest) -> Result<(), String> {
    for parent in &after.parents {
        unless(before.parents.contains(parent), || {
            format!("parent {} is new", parent.shard)
        })?;
    }
    Ok(())
}

/// A table's schema rises by number and never changes under one.
pub(super) fn schemas_only_advance(before: &Manifest, after: &Manifest) -> Result<(), String> {
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
pub(super) fn low_water_never_falls(before: &Manifest, after: &Manifest) -> Result<(), String> {
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
