//! Forgetting old versions, a few at a time.
//!
//! Compacting at `r` moves the boundary at once; what lies behind it is removed later, in steps:
//!
//! 1. Every version in the history from the last boundary to `r` is visited in order.
//! 2. Its predecessor, if it has one, is superseded at `r` or before: removed.
//! 3. A deletion older than `r` with no successor up to `r` is removed itself. One at `r` stays, for a
//!    watch that starts there, until the next compaction begins there.
//!
//! So the newest version of each key not after `r` stays, and the work is proportional to what was
//! changed since the last compaction. A step more or less is invisible to every reader: what it
//! removes cannot be read any longer.

use etcd_client::EventType;
use redb::ReadableTable;

use super::range::event;
use super::tables::{MetaKey, Tables};
use super::{Fault, Refusal, torn};

/// How far a removal has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Removal {
    /// Next version to visit.
    main: i64,
    sub: u32,
    /// The boundary it removes up to.
    pub(crate) upto: i64,
}

/// Moves the boundary to `revision`; the removal it returns is kept in the tables too.
///
/// * errors: `Compacted` at or below the boundary, `FutureRevision` beyond the head.
pub(crate) fn begin(
    tables: &mut Tables<'_>,
    revision: i64,
    compacted: i64,
    head: i64,
) -> Result<Removal, Fault> {
    if revision <= compacted {
        return Err(Refusal::Compacted.into());
    }
    if revision > head {
        return Err(Refusal::FutureRevision.into());
    }
    let (main, sub) = match pending(tables)? {
        // Deletions at the boundary were visited and stayed; now it moves on.
        Some(unfinished) if unfinished.main == unfinished.upto => (unfinished.main, 0),
        Some(unfinished) => (unfinished.main, unfinished.sub),
        None => (compacted.max(0), 0),
    };
    let removal = Removal {
        main,
        sub,
        upto: revision,
    };
    tables.set_meta(MetaKey::Compacted, &revision.to_le_bytes())?;
    keep(tables, Some(removal))?;
    Ok(removal)
}

/// The removal that was not finished, if any.
pub(crate) fn pending(tables: &Tables<'_>) -> Result<Option<Removal>, Fault> {
    let Some(bytes) = tables.meta(MetaKey::Removal)? else {
        return Ok(None);
    };
    let bytes: [u8; 20] = bytes
        .try_into()
        .map_err(|_| torn("the removal is unreadable"))?;
    let mut number = [0; 8];
    number.copy_from_slice(&bytes[..8]);
    let main = i64::from_le_bytes(number);
    number.copy_from_slice(&bytes[12..]);
    let upto = i64::from_le_bytes(number);
    let mut sub = [0; 4];
    sub.copy_from_slice(&bytes[8..12]);
    Ok(Some(Removal {
        main,
        sub: u32::from_le_bytes(sub),
        upto,
    }))
}

fn keep(tables: &mut Tables<'_>, removal: Option<Removal>) -> Result<(), Fault> {
    let Some(removal) = removal else {
        return Ok(tables.clear_meta(MetaKey::Removal)?);
    };
    let mut bytes = removal.main.to_le_bytes().to_vec();
    bytes.extend_from_slice(&removal.sub.to_le_bytes());
    bytes.extend_from_slice(&removal.upto.to_le_bytes());
    Ok(tables.set_meta(MetaKey::Removal, &bytes)?)
}

/// Visits up to `versions_max` versions.
///
/// * returns: what is left to do, `None` when all is removed.
pub(crate) fn step(
    tables: &mut Tables<'_>,
    removal: Removal,
    versions_max: usize,
) -> Result<Option<Removal>, Fault> {
    let mut visited = Vec::new();
    let mut rest = None;
    let history = (removal.main, removal.sub)..=(removal.upto, u32::MAX);
    for item in tables.rev.range::<(i64, u32)>(history)? {
        let (place, bytes) = item?;
        let (main, sub) = place.value();
        if visited.len() == versions_max {
            rest = Some(Removal {
                main,
                sub,
                ..removal
            });
            break;
        }
        let event = event(bytes.value())?;
        let deletion = event.r#type == EventType::Delete as i32;
        let key = event.kv.ok_or_else(|| torn("an event without a key"))?.key;
        visited.push((key, main, sub, deletion));
    }
    for (key, main, sub, deletion) in visited {
        if let Some((main, sub)) = newest_before(tables, &key, main, sub)? {
            remove(tables, &key, main, sub)?;
        }
        if deletion && main < removal.upto && !has_successor(tables, &key, main, sub, removal.upto)?
        {
            remove(tables, &key, main, sub)?;
        }
    }
    keep(tables, rest)?;
    Ok(rest)
}

fn newest_before(
    tables: &Tables<'_>,
    key: &[u8],
    main: i64,
    sub: u32,
) -> Result<Option<(i64, u32)>, Fault> {
    let older = (key, i64::MIN, 0)..(key, main, sub);
    let mut older = tables.old.range::<(&[u8], i64, u32)>(older)?;
    let Some(found) = older.next_back() else {
        return Ok(None);
    };
    let found = found?.0;
    let (_, main, sub) = found.value();
    Ok(Some((main, sub)))
}

fn has_successor(
    tables: &Tables<'_>,
    key: &[u8],
    main: i64,
    sub: u32,
    upto: i64,
) -> Result<bool, Fault> {
    let newer = (key, main, sub + 1)..=(key, upto, u32::MAX);
    Ok(tables
        .old
        .range::<(&[u8], i64, u32)>(newer)?
        .next()
        .is_some())
}

fn remove(tables: &mut Tables<'_>, key: &[u8], main: i64, sub: u32) -> Result<(), Fault> {
    tables.old.remove((key, main, sub))?;
    tables.rev.remove((main, sub))?;
    Ok(())
}
