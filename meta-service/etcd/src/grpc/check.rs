//! Whether a request is well formed: what can be told without looking at the state.

use std::collections::BTreeSet;

use etcd_client::proto::{
    PbDeleteRequest, PbPutRequest, PbRangeRequest, PbTxnOpRequest, PbTxnRequest, PbTxnRequestOp,
};

use super::error::{
    DUPLICATE_KEY, EMPTY_KEY, INVALID_SORT, KEY_NOT_FOUND, LEASE_PROVIDED, Said, TOO_MANY_OPS,
    VALUE_PROVIDED,
};
use crate::mvcc::Keys;

pub(super) fn range(request: &PbRangeRequest) -> Result<(), Said> {
    if request.key.is_empty() {
        return Err(EMPTY_KEY);
    }
    if !(0..=2).contains(&request.sort_order) || !(0..=4).contains(&request.sort_target) {
        return Err(INVALID_SORT);
    }
    Ok(())
}

pub(super) fn put(request: &PbPutRequest) -> Result<(), Said> {
    if request.key.is_empty() {
        return Err(EMPTY_KEY);
    }
    if request.ignore_value && !request.value.is_empty() {
        return Err(VALUE_PROVIDED);
    }
    if request.ignore_lease && request.lease != 0 {
        return Err(LEASE_PROVIDED);
    }
    Ok(())
}

pub(super) fn delete(request: &PbDeleteRequest) -> Result<(), Said> {
    if request.key.is_empty() {
        return Err(EMPTY_KEY);
    }
    Ok(())
}

/// Checks all levels, both branches, and that no key is written twice.
pub(super) fn txn(request: &PbTxnRequest, ops_max: usize) -> Result<(), Said> {
    form(request, ops_max)?;
    writes(&request.success)?;
    writes(&request.failure)?;
    Ok(())
}

/// Whether a txn reads only; `Some(true)` if all its reads are serializable.
pub(super) fn reads_only(request: &PbTxnRequest) -> Option<bool> {
    let mut serializable = true;
    for op in request.success.iter().chain(&request.failure) {
        match &op.request {
            Some(PbTxnOpRequest::RequestRange(range)) => serializable &= range.serializable,
            _ => return None,
        }
    }
    Some(serializable)
}

/// What a level does not use of the budget is left to the levels in it, so nesting ends.
fn form(request: &PbTxnRequest, ops_max: usize) -> Result<(), Said> {
    let ops = request
        .compare
        .len()
        .max(request.success.len())
        .max(request.failure.len());
    let Some(left) = ops_max.checked_sub(ops) else {
        return Err(TOO_MANY_OPS);
    };
    if request.compare.iter().any(|compare| compare.key.is_empty()) {
        return Err(EMPTY_KEY);
    }
    for op in request.success.iter().chain(&request.failure) {
        match &op.request {
            Some(PbTxnOpRequest::RequestRange(request)) => range(request)?,
            Some(PbTxnOpRequest::RequestPut(request)) => put(request)?,
            Some(PbTxnOpRequest::RequestDeleteRange(request)) => delete(request)?,
            Some(PbTxnOpRequest::RequestTxn(request)) => form(request, left)?,
            None => return Err(KEY_NOT_FOUND),
        }
    }
    Ok(())
}

/// Keys put and ranges deleted by the operations of a branch and everything nested in it.
#[derive(Default)]
struct Writes<'a> {
    puts: BTreeSet<&'a [u8]>,
    deletes: Vec<Keys<'a>>,
}

impl Writes<'_> {
    fn deletes(&self, key: &[u8]) -> bool {
        self.deletes.iter().any(|keys| keys.contains(key))
    }
}

/// No key may be put twice, or put and deleted, but for the two branches of one nested txn, of which
/// only one is taken.
fn writes(ops: &[PbTxnRequestOp]) -> Result<Writes<'_>, Said> {
    let mut all = Writes::default();
    for op in ops {
        if let Some(PbTxnOpRequest::RequestDeleteRange(delete)) = &op.request {
            all.deletes.push(Keys::of(&delete.key, &delete.range_end));
        }
    }
    for op in ops {
        let Some(PbTxnOpRequest::RequestTxn(nested)) = &op.request else {
            continue;
        };
        let success = writes(&nested.success)?;
        let failure = writes(&nested.failure)?;
        for key in success.puts.union(&failure.puts) {
            if all.puts.contains(key) || all.deletes(key) {
                return Err(DUPLICATE_KEY);
            }
        }
        all.puts.extend(success.puts);
        all.puts.extend(failure.puts);
        all.deletes.extend(success.deletes);
        all.deletes.extend(failure.deletes);
    }
    for op in ops {
        if let Some(PbTxnOpRequest::RequestPut(put)) = &op.request
            && (all.deletes(&put.key) || !all.puts.insert(&put.key))
        {
            return Err(DUPLICATE_KEY);
        }
    }
    Ok(all)
}

#[cfg(test)]
mod tests {
    use etcd_client::proto::PbCompare;

    use super::*;

    fn put_of(key: &str) -> PbTxnRequestOp {
        op(PbTxnOpRequest::RequestPut(PbPutRequest {
            key: key.into(),
            ..Default::default()
        }))
    }

    fn delete_of(key: &str, range_end: &str) -> PbTxnRequestOp {
        op(PbTxnOpRequest::RequestDeleteRange(PbDeleteRequest {
            key: key.into(),
            range_end: range_end.into(),
            ..Default::default()
        }))
    }

    fn nested(success: Vec<PbTxnRequestOp>, failure: Vec<PbTxnRequestOp>) -> PbTxnRequestOp {
        op(PbTxnOpRequest::RequestTxn(PbTxnRequest {
            success,
            failure,
            ..Default::default()
        }))
    }

    fn op(request: PbTxnOpRequest) -> PbTxnRequestOp {
        PbTxnRequestOp {
            request: Some(request),
        }
    }

    fn check(success: Vec<PbTxnRequestOp>) -> &'static str {
        let request = PbTxnRequest {
            success,
            ..Default::default()
        };
        txn(&request, 4).err().map_or("ok", |said| {
            let text = tonic::Status::from(said).message().to_owned();
            match text.as_str() {
                "etcdserver: duplicate key given in txn request" => "duplicate",
                "etcdserver: too many operations in txn request" => "too many",
                "etcdserver: key is not provided" => "empty key",
                "etcdserver: key not found" => "empty op",
                other => panic!("{other}"),
            }
        })
    }

    #[test]
    fn keys_written_twice_are_found_on_all_levels() {
        assert_eq!(check(vec![put_of("a"), put_of("b")]), "ok");
        assert_eq!(check(vec![put_of("a"), put_of("a")]), "duplicate");
        assert_eq!(check(vec![put_of("b"), delete_of("a", "c")]), "duplicate");
        assert_eq!(check(vec![put_of("c"), delete_of("a", "c")]), "ok");
        assert_eq!(check(vec![put_of("z"), delete_of("a", "\0")]), "duplicate");
        assert_eq!(check(vec![delete_of("a", ""), delete_of("a", "")]), "ok");
        assert_eq!(
            check(vec![nested(vec![put_of("a")], vec![put_of("a")])]),
            "ok"
        );
        assert_eq!(
            check(vec![put_of("a"), nested(vec![], vec![put_of("a")])]),
            "duplicate"
        );
        assert_eq!(
            check(vec![put_of("a"), nested(vec![delete_of("a", "")], vec![])]),
            "duplicate"
        );
    }

    #[test]
    fn forms_are_checked_on_all_levels() {
        assert_eq!(check(vec![put_of("")]), "empty key");
        assert_eq!(check(vec![nested(vec![put_of("")], vec![])]), "empty key");
        assert_eq!(check(vec![PbTxnRequestOp::default()]), "empty op");
        let five = ["a", "b", "c", "d", "e"].map(put_of).to_vec();
        assert_eq!(check(five[..4].to_vec()), "ok");
        assert_eq!(check(five.clone()), "too many");
        // One of four is used by the outer level.
        assert_eq!(check(vec![nested(five[..3].to_vec(), vec![])]), "ok");
        assert_eq!(check(vec![nested(five[..4].to_vec(), vec![])]), "too many");
        let request = PbTxnRequest {
            compare: vec![PbCompare::default()],
            ..Default::default()
        };
        assert!(txn(&request, 4).is_err());
    }
}
