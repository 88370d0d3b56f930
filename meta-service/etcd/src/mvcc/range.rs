//! Reading keys at one revision, with all of Range's options.
//!
//! 1. The revision is checked: beyond the head it is a future one, below the boundary compacted.
//! 2. At the head the live keys are walked; before it, all versions of the keys in the range.
//! 3. Then, in this order: the filters max_mod, min_mod, max_create, min_create, the sort, the limit,
//!    keys_only. A limit ends the reading of values early only with no filter and in natural order;
//!    `count` counts all keys of the range in any case.

use std::cmp::Ordering;
use std::ops::Bound;

use etcd_client::proto::{PbEvent, PbKeyValue, PbRangeRequest, PbRangeResponse, PbResponseHeader};
use prost::Message;
use redb::ReadableTable;

use super::tables::{KeyRow, View};
use super::{Fault, Refusal, torn};

const ORDER_NONE: i32 = 0;
const ORDER_DESCEND: i32 = 2;
const TARGET_KEY: i32 = 0;
const TARGET_VERSION: i32 = 1;
const TARGET_CREATE: i32 = 2;
const TARGET_MOD: i32 = 3;

/// The keys that a key and a range end of a request mean.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Keys<'a> {
    One(&'a [u8]),
    /// This one and all after it.
    From(&'a [u8]),
    /// From the first up to, without, the second; empty unless the first is the smaller.
    Between(&'a [u8], &'a [u8]),
}

impl<'a> Keys<'a> {
    pub(crate) fn of(key: &'a [u8], range_end: &'a [u8]) -> Self {
        match range_end {
            [] => Self::One(key),
            [0] => Self::From(key),
            end => Self::Between(key, end),
        }
    }

    pub(crate) fn contains(&self, key: &[u8]) -> bool {
        match self {
            Self::One(one) => key == *one,
            Self::From(start) => key >= *start,
            Self::Between(start, end) => key >= *start && key < *end,
        }
    }

    pub(crate) fn is_empty(&self) -> bool {
        matches!(self, Self::Between(start, end) if start >= end)
    }

    fn bounds(self) -> (Bound<&'a [u8]>, Bound<&'a [u8]>) {
        match self {
            Self::One(key) => (Bound::Included(key), Bound::Included(key)),
            Self::From(start) => (Bound::Included(start), Bound::Unbounded),
            Self::Between(start, end) => (Bound::Included(start), Bound::Excluded(end)),
        }
    }

    /// All versions of these keys in `old`.
    fn version_bounds(self) -> (Bound<VersionKey<'a>>, Bound<VersionKey<'a>>) {
        let end = match self {
            Self::One(key) => Bound::Included((key, i64::MAX, u32::MAX)),
            Self::From(_) => Bound::Unbounded,
            Self::Between(_, end) => Bound::Excluded((end, i64::MIN, 0)),
        };
        let (Self::One(start) | Self::From(start) | Self::Between(start, _)) = self;
        (Bound::Included((start, i64::MIN, 0)), end)
    }
}

/// User key, main and sub: where a version is in `old`.
type VersionKey<'a> = (&'a [u8], i64, u32);

/// How much of each key is wanted.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Want {
    Count,
    /// All but the value.
    Keys,
    All,
}

/// Answers a Range; the header carries the revision alone.
pub(crate) fn range(view: &impl View, request: &PbRangeRequest) -> Result<PbRangeResponse, Fault> {
    let keys = Keys::of(&request.key, &request.range_end);
    let filtered = request.max_mod_revision != 0
        || request.min_mod_revision != 0
        || request.max_create_revision != 0
        || request.min_create_revision != 0;
    let natural = request.sort_order == ORDER_NONE && request.sort_target == TARGET_KEY;
    let limit = usize::try_from(request.limit)
        .ok()
        .filter(|limit| *limit > 0);
    let read_at_most = limit.filter(|_| natural && !filtered).unwrap_or(usize::MAX);
    let by_value = !natural && !(TARGET_KEY..=TARGET_MOD).contains(&request.sort_target);
    let want = match (request.count_only, request.keys_only && !by_value) {
        (true, _) => Want::Count,
        (false, true) => Want::Keys,
        (false, false) => Want::All,
    };

    let (mut kvs, count) = match readable(view, request.revision)? {
        None => at_head(view, keys, want, read_at_most)?,
        Some(at) => before_head(view, keys, want, read_at_most, at)?,
    };
    let mut more = want != Want::Count && count > kvs.len();
    if filtered {
        kvs.retain(|kv| passes(kv, request));
    }
    if !natural {
        sort(&mut kvs, request.sort_target, request.sort_order);
    }
    if read_at_most == usize::MAX {
        more = limit.is_some_and(|limit| kvs.len() > limit);
        kvs.truncate(limit.unwrap_or(usize::MAX));
    }
    if request.keys_only {
        for kv in &mut kvs {
            kv.value.clear();
        }
    }
    Ok(PbRangeResponse {
        header: Some(PbResponseHeader {
            revision: view.revision(),
            ..Default::default()
        }),
        kvs,
        more,
        count: count as i64,
    })
}

/// The key as it is now, if it lives.
pub(crate) fn point(view: &impl View, key: &[u8]) -> Result<Option<PbKeyValue>, Fault> {
    match view.keys().get(key)? {
        Some(row) => Ok(Some(load(view, row.value())?)),
        None => Ok(None),
    }
}

/// The key as it was at `at`, if it lived then; `None` also for what is compacted.
pub(crate) fn point_at(view: &impl View, key: &[u8], at: i64) -> Result<Option<PbKeyValue>, Fault> {
    if at < view.compacted() {
        return Ok(None);
    }
    Ok(before_head(view, Keys::One(key), Want::All, 1, at)?.0.pop())
}

/// Of the live keys with the prefix, the one created first.
pub(crate) fn first_by_create(
    view: &impl View,
    prefix: &[u8],
) -> Result<Option<PbKeyValue>, Fault> {
    let end = prefix_end(prefix);
    let mut first: Option<KeyRow> = None;
    for item in view
        .keys()
        .range::<&[u8]>(Keys::of(prefix, &end).bounds())?
    {
        let row = item?.1.value();
        if first.is_none_or(|first| row.0 < first.0) {
            first = Some(row);
        }
    }
    first.map(|row| load(view, row)).transpose()
}

/// Of the live keys with the prefix that were created before `create`, the one created last.
pub(crate) fn last_by_create_below(
    view: &impl View,
    prefix: &[u8],
    create: i64,
) -> Result<Option<Vec<u8>>, Fault> {
    let end = prefix_end(prefix);
    let mut last: Option<(i64, Vec<u8>)> = None;
    for item in view
        .keys()
        .range::<&[u8]>(Keys::of(prefix, &end).bounds())?
    {
        let (key, row) = item?;
        let created = row.value().0;
        if created < create && last.as_ref().is_none_or(|(last, _)| created > *last) {
            last = Some((created, key.value().to_vec()));
        }
    }
    Ok(last.map(|(_, key)| key))
}

/// The keys attached to a lease, in order.
pub(crate) fn lease_keys(view: &impl View, lease: i64) -> Result<Vec<Vec<u8>>, Fault> {
    let mut keys = Vec::new();
    let after = lease.checked_add(1);
    let start: Bound<(i64, &[u8])> = Bound::Included((lease, &[]));
    let end: Bound<(i64, &[u8])> = match after {
        Some(after) => Bound::Excluded((after, &[])),
        None => Bound::Unbounded,
    };
    for item in view.lease_keys().range::<(i64, &[u8])>((start, end))? {
        keys.push(item?.0.value().1.to_vec());
    }
    Ok(keys)
}

/// The end of the range of all keys with `prefix`, as clients compute it.
fn prefix_end(prefix: &[u8]) -> Vec<u8> {
    let kept = prefix.iter().rposition(|byte| *byte < 0xff);
    match kept {
        Some(last) => {
            let mut end = prefix[..=last].to_vec();
            end[last] += 1;
            end
        }
        None => vec![0],
    }
}

/// `None` for the head, else the revision asked for, which can be read.
fn readable(view: &impl View, revision: i64) -> Result<Option<i64>, Refusal> {
    let head = view.revision();
    if revision > head {
        Err(Refusal::FutureRevision)
    } else if revision <= 0 || revision == head {
        Ok(None)
    } else if revision < view.compacted() {
        Err(Refusal::Compacted)
    } else {
        Ok(Some(revision))
    }
}

fn at_head(
    view: &impl View,
    keys: Keys<'_>,
    want: Want,
    read_at_most: usize,
) -> Result<(Vec<PbKeyValue>, usize), Fault> {
    let mut kvs = Vec::new();
    let mut count = 0;
    if keys.is_empty() {
        return Ok((kvs, count));
    }
    for item in view.keys().range::<&[u8]>(keys.bounds())? {
        let (key, row) = item?;
        count += 1;
        if kvs.len() >= read_at_most {
            continue;
        }
        match want {
            Want::Count => {}
            Want::Keys => {
                let (create, main, _, version, lease) = row.value();
                kvs.push(PbKeyValue {
                    key: key.value().to_vec(),
                    create_revision: create,
                    mod_revision: main,
                    version,
                    value: Vec::new(),
                    lease,
                });
            }
            Want::All => kvs.push(load(view, row.value())?),
        }
    }
    Ok((kvs, count))
}

/// A version of a key: the key, where it is in `rev`, and whether it is a deletion.
struct Version {
    key: Vec<u8>,
    main: i64,
    sub: u32,
    deleted: bool,
}

fn before_head(
    view: &impl View,
    keys: Keys<'_>,
    want: Want,
    read_at_most: usize,
    at: i64,
) -> Result<(Vec<PbKeyValue>, usize), Fault> {
    let mut kvs = Vec::new();
    let mut count = 0;
    let mut take = |newest: Option<Version>| -> Result<(), Fault> {
        let Some(version) = newest.filter(|newest| !newest.deleted) else {
            return Ok(());
        };
        count += 1;
        if want != Want::Count && kvs.len() < read_at_most {
            kvs.push(load_at(view, version.main, version.sub)?);
        }
        Ok(())
    };
    if keys.is_empty() {
        return Ok((kvs, count));
    }
    // Versions of a key lie together, oldest first: the last one not after `at` is the one.
    let mut newest: Option<Version> = None;
    for item in view.old().range::<VersionKey<'_>>(keys.version_bounds())? {
        let (place, row) = item?;
        let (key, main, sub) = place.value();
        if main > at {
            continue;
        }
        let deleted = row.value().2;
        match &mut newest {
            Some(newest) if newest.key == key => {
                newest.main = main;
                newest.sub = sub;
                newest.deleted = deleted;
            }
            _ => {
                let next = Version {
                    key: key.to_vec(),
                    main,
                    sub,
                    deleted,
                };
                take(newest.replace(next))?;
            }
        }
    }
    take(newest)?;
    Ok((kvs, count))
}

fn load(view: &impl View, row: KeyRow) -> Result<PbKeyValue, Fault> {
    load_at(view, row.1, row.2)
}

fn load_at(view: &impl View, main: i64, sub: u32) -> Result<PbKeyValue, Fault> {
    let bytes = view
        .rev()
        .get((main, sub))?
        .ok_or_else(|| torn(format!("revision {main}.{sub} is missing")))?;
    event(bytes.value())?
        .kv
        .ok_or_else(|| torn(format!("revision {main}.{sub} has no key")))
}

/// Decodes a row of `rev`.
pub(super) fn event(bytes: &[u8]) -> Result<PbEvent, Fault> {
    PbEvent::decode(bytes).map_err(|error| torn(format!("an unreadable event: {error}")))
}

fn passes(kv: &PbKeyValue, request: &PbRangeRequest) -> bool {
    let at_most = |bound: i64, value| bound == 0 || value <= bound;
    let at_least = |bound: i64, value| bound == 0 || value >= bound;
    at_most(request.max_mod_revision, kv.mod_revision)
        && at_least(request.min_mod_revision, kv.mod_revision)
        && at_most(request.max_create_revision, kv.create_revision)
        && at_least(request.min_create_revision, kv.create_revision)
}

/// Sorts by the target; equals stay in the order of their keys.
fn sort(kvs: &mut [PbKeyValue], target: i32, order: i32) {
    let compare = |a: &PbKeyValue, b: &PbKeyValue| -> Ordering {
        match target {
            TARGET_KEY => a.key.cmp(&b.key),
            TARGET_VERSION => a.version.cmp(&b.version),
            TARGET_CREATE => a.create_revision.cmp(&b.create_revision),
            TARGET_MOD => a.mod_revision.cmp(&b.mod_revision),
            _ => a.value.cmp(&b.value),
        }
    };
    if order == ORDER_DESCEND {
        kvs.sort_by(|a, b| compare(b, a));
    } else {
        kvs.sort_by(compare);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn range_ends_mean_what_clients_mean() {
        assert_eq!(Keys::of(b"a", b""), Keys::One(b"a"));
        assert_eq!(Keys::of(b"a", b"\0"), Keys::From(b"a"));
        assert!(Keys::of(b"a", b"b").contains(b"a\xff"));
        assert!(!Keys::of(b"a", b"b").contains(b"b"));
        assert!(Keys::of(b"b", b"a").is_empty());
        assert!(Keys::of(b"a", b"a").is_empty());
    }

    #[test]
    fn a_prefix_ends_before_its_successor() {
        assert_eq!(prefix_end(b"ab"), b"ac");
        assert_eq!(prefix_end(b"a\xff"), b"b");
        assert_eq!(prefix_end(b"\xff\xff"), b"\0");
    }
}
