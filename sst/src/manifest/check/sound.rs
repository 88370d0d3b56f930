//! Laws of one manifest, and of number 1.

use std::collections::{BTreeMap, HashMap, HashSet};

use auxo_proto::ids::TabletId;

use super::{by_segment, keys, may_share_keys, segment_of, unless};
use crate::entry::FileEntry;
use crate::manifest::Manifest;
use crate::predicate::TagFilter;

/// Deepest tag filter a delete may have, so that its bytes can be read back.
pub const FILTER_DEPTH_MAX: usize = 64;

/// One table has one definition, which its own rules accept.
pub(super) fn tables_agree(manifest: &Manifest) -> Result<(), String> {
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
pub(super) fn tablets_partition_tables(manifest: &Manifest) -> Result<(), String> {
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
pub(super) fn files_are_bounded(manifest: &Manifest) -> Result<(), String> {
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
pub(super) fn files_have_tablets(manifest: &Manifest) -> Result<(), String> {
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
pub(super) fn files_below_flushed(manifest: &Manifest) -> Result<(), String> {
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
pub(super) fn segments_do_not_straddle(manifest: &Manifest) -> Result<(), String> {
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
pub(super) fn sources_are_disjoint(manifest: &Manifest) -> Result<(), String> {
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
pub(super) fn retired_is_not_live(manifest: &Manifest) -> Result<(), String> {
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
pub(super) fn floor_agrees_with_claim(manifest: &Manifest) -> Result<(), String> {
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
pub(super) fn batches_are_sorted(manifest: &Manifest) -> Result<(), String> {
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
pub(super) fn deletes_are_known(manifest: &Manifest) -> Result<(), String> {
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
pub(super) fn parents_are_bounded(manifest: &Manifest) -> Result<(), String> {
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
pub(super) fn first_is_a_claim(manifest: &Manifest) -> Result<(), String> {
    unless(manifest.flushed <= manifest.claim, || {
        format!(
            "flushed {} is above claim {}",
            manifest.flushed, manifest.claim
        )
    })
}

/// Number 1 has no history of its own: files come from parents, nothing has left.
pub(super) fn first_files_are_inherited(manifest: &Manifest) -> Result<(), String> {
    let own = manifest.parents.is_empty() && !manifest.files.is_empty();
    unless(!own && manifest.retired.is_empty(), || {
        "number 1 has files without a parent, or retired ones".to_owned()
    })
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
