//! Compare, branch, execute.
//!
//! 1. The compares of all levels are decided against the state before the txn: that fixes a path.
//! 2. Every operation on the path is checked before the first is carried out.
//! 3. The operations of the path are carried out in order; each sees those before it.
//!
//! Whether a txn is well formed (sizes, empty keys, duplicate keys) has been checked by whoever
//! received it.

use std::cmp::Ordering;

use etcd_client::proto::{
    PbCompare, PbRangeRequest, PbResponseHeader, PbTargetUnion, PbTxnOpRequest, PbTxnOpResponse,
    PbTxnRequest, PbTxnResponse,
};
use etcd_client::proto::{PbKeyValue, PbResponseOp, PbTxnRequestOp};

use super::range::range;
use super::tables::View;
use super::write::{Writer, check_put};
use super::{Fault, Refusal};

const EQUAL: i32 = 0;
const GREATER: i32 = 1;
const LESS: i32 = 2;
const NOT_EQUAL: i32 = 3;

const TARGET_VERSION: i32 = 0;
const TARGET_CREATE: i32 = 1;
const TARGET_MOD: i32 = 2;
const TARGET_VALUE: i32 = 3;
const TARGET_LEASE: i32 = 4;

/// Which way each level goes: this one, and the nested ones of the branch taken, in order.
struct Path {
    succeeded: bool,
    nested: Vec<Path>,
}

/// Carries out a txn that may write.
///
/// * errors: what a put or range of the path is refused with; nothing has changed then.
pub(crate) fn execute(
    writer: &mut Writer<'_, '_>,
    txn: &PbTxnRequest,
) -> Result<PbTxnResponse, Fault> {
    let path = decide(writer, txn)?;
    check_puts(writer, txn, &path)?;
    check_ranges(writer, txn, &path)?;
    let mut response = run(writer, txn, &path)?;
    response.header = header(writer.revision());
    Ok(response)
}

/// Carries out a txn whose operations are all ranges.
pub(crate) fn read(view: &impl View, txn: &PbTxnRequest) -> Result<PbTxnResponse, Fault> {
    let path = decide(view, txn)?;
    check_ranges(view, txn, &path)?;
    let mut responses = Vec::new();
    for op in branch(txn, &path) {
        let response = match &op.request {
            Some(PbTxnOpRequest::RequestRange(request)) => {
                Some(PbTxnOpResponse::ResponseRange(range(view, request)?))
            }
            _ => None,
        };
        responses.push(PbResponseOp { response });
    }
    Ok(PbTxnResponse {
        header: header(view.revision()),
        succeeded: path.succeeded,
        responses,
    })
}

fn header(revision: i64) -> Option<PbResponseHeader> {
    Some(PbResponseHeader {
        revision,
        ..Default::default()
    })
}

fn branch<'a>(txn: &'a PbTxnRequest, path: &Path) -> &'a [PbTxnRequestOp] {
    if path.succeeded {
        &txn.success
    } else {
        &txn.failure
    }
}

fn decide(view: &impl View, txn: &PbTxnRequest) -> Result<Path, Fault> {
    let mut path = Path {
        succeeded: true,
        nested: Vec::new(),
    };
    for compare in &txn.compare {
        if !holds(view, compare)? {
            path.succeeded = false;
            break;
        }
    }
    for op in branch(txn, &path) {
        if let Some(PbTxnOpRequest::RequestTxn(nested)) = &op.request {
            path.nested.push(decide(view, nested)?);
        }
    }
    Ok(path)
}

/// Every key of the compare's range must satisfy it; none at all counts as one empty key.
fn holds(view: &impl View, compare: &PbCompare) -> Result<bool, Fault> {
    let all = PbRangeRequest {
        key: compare.key.clone(),
        range_end: compare.range_end.clone(),
        keys_only: compare.target != TARGET_VALUE,
        ..Default::default()
    };
    let found = range(view, &all)?.kvs;
    if found.is_empty() {
        return Ok(compare.target != TARGET_VALUE && satisfies(compare, &PbKeyValue::default()));
    }
    Ok(found.iter().all(|kv| satisfies(compare, kv)))
}

fn satisfies(compare: &PbCompare, kv: &PbKeyValue) -> bool {
    let union = compare.target_union.as_ref();
    let ordering = match compare.target {
        TARGET_VERSION => kv.version.cmp(&match union {
            Some(PbTargetUnion::Version(version)) => *version,
            _ => 0,
        }),
        TARGET_CREATE => kv.create_revision.cmp(&match union {
            Some(PbTargetUnion::CreateRevision(revision)) => *revision,
            _ => 0,
        }),
        TARGET_MOD => kv.mod_revision.cmp(&match union {
            Some(PbTargetUnion::ModRevision(revision)) => *revision,
            _ => 0,
        }),
        TARGET_VALUE => kv.value.as_slice().cmp(match union {
            Some(PbTargetUnion::Value(value)) => value.as_slice(),
            _ => &[],
        }),
        TARGET_LEASE => kv.lease.cmp(&match union {
            Some(PbTargetUnion::Lease(lease)) => *lease,
            _ => 0,
        }),
        _ => Ordering::Equal,
    };
    match compare.result {
        EQUAL => ordering.is_eq(),
        GREATER => ordering.is_gt(),
        LESS => ordering.is_lt(),
        NOT_EQUAL => ordering.is_ne(),
        _ => true,
    }
}

fn check_puts(view: &impl View, txn: &PbTxnRequest, path: &Path) -> Result<(), Fault> {
    let mut nested = path.nested.iter();
    for op in branch(txn, path) {
        match &op.request {
            Some(PbTxnOpRequest::RequestPut(request)) => check_put(view, request)?,
            Some(PbTxnOpRequest::RequestTxn(inner)) => {
                if let Some(path) = nested.next() {
                    check_puts(view, inner, path)?;
                }
            }
            _ => {}
        }
    }
    Ok(())
}

fn check_ranges(view: &impl View, txn: &PbTxnRequest, path: &Path) -> Result<(), Fault> {
    let mut nested = path.nested.iter();
    for op in branch(txn, path) {
        match &op.request {
            Some(PbTxnOpRequest::RequestRange(request)) => {
                if request.revision > view.revision() {
                    return Err(Refusal::FutureRevision.into());
                }
                if request.revision != 0 && request.revision < view.compacted() {
                    return Err(Refusal::Compacted.into());
                }
            }
            Some(PbTxnOpRequest::RequestTxn(inner)) => {
                if let Some(path) = nested.next() {
                    check_ranges(view, inner, path)?;
                }
            }
            _ => {}
        }
    }
    Ok(())
}

/// The answer of a level; its header is empty, as that of every nested level stays.
fn run(
    writer: &mut Writer<'_, '_>,
    txn: &PbTxnRequest,
    path: &Path,
) -> Result<PbTxnResponse, Fault> {
    let mut nested = path.nested.iter();
    let mut responses = Vec::new();
    for op in branch(txn, path) {
        let response = match &op.request {
            Some(PbTxnOpRequest::RequestRange(request)) => {
                Some(PbTxnOpResponse::ResponseRange(range(writer, request)?))
            }
            Some(PbTxnOpRequest::RequestPut(request)) => {
                Some(PbTxnOpResponse::ResponsePut(writer.put(request)?))
            }
            Some(PbTxnOpRequest::RequestDeleteRange(request)) => Some(
                PbTxnOpResponse::ResponseDeleteRange(writer.delete(request)?),
            ),
            Some(PbTxnOpRequest::RequestTxn(inner)) => match nested.next() {
                Some(path) => Some(PbTxnOpResponse::ResponseTxn(run(writer, inner, path)?)),
                None => None,
            },
            None => None,
        };
        responses.push(PbResponseOp { response });
    }
    Ok(PbTxnResponse {
        header: Some(PbResponseHeader::default()),
        succeeded: path.succeeded,
        responses,
    })
}
