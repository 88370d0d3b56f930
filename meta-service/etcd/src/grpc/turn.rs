//! Waiting in line: what Lock and Campaign have in common.
//!
//! Everyone in line has a key `name/lease` that lives as long as the lease. Whose key was created first
//! is at the front. A key that waits is deleted if the call that waits for it is dropped, also while
//! the key is being made.

use std::time::Duration;

use etcd_client::proto::{
    PbCompare, PbDeleteRequest, PbLeaseGrantRequest, PbPutRequest, PbRangeRequest,
    PbResponseHeader, PbTargetUnion, PbTxnOpRequest, PbTxnRequest, PbTxnRequestOp,
};
use tokio::time::Instant;
use tonic::Status;

use super::error::Said;
use super::kv::first_range;
use super::{Api, error};
use crate::mvcc::{last_by_create_below, point};
use crate::proposal::Op;

/// TTL of a lease made for a call that brought none.
const SESSION_TTL_S: i64 = 60;

const CREATE: i32 = 1;

/// A place in line.
pub(super) struct Place {
    pub(super) key: Vec<u8>,
    /// Create revision of the key.
    pub(super) created: i64,
    pub(super) lease: i64,
    /// Header of the answer that gave the place.
    pub(super) header: Option<PbResponseHeader>,
    /// The value the key had before, if it was there before.
    pub(super) value_before: Option<Vec<u8>>,
    leave: Leave,
}

/// Deletes a key when dropped, unless it is to be kept.
struct Leave {
    api: Api,
    key: Vec<u8>,
    keep: bool,
}

impl Drop for Leave {
    fn drop(&mut self) {
        if self.keep {
            return;
        }
        let api = self.api.clone();
        let request = PbDeleteRequest {
            key: std::mem::take(&mut self.key),
            ..Default::default()
        };
        self.api.tasks.spawn(async move {
            if let Err(error) = api.propose(Op::Delete(request)).await {
                tracing::warn!(%error, "a place in line stays until its lease ends");
            }
        });
    }
}

impl Api {
    /// Takes a place in line; the same one again for the same lease.
    ///
    /// * `lease`: 0 makes one of 60 s.
    /// * effects: dropped, a place that it made is given up.
    pub(super) async fn line_up(
        &self,
        name: &[u8],
        lease: i64,
        value: Vec<u8>,
    ) -> Result<Place, Status> {
        let lease = match lease {
            0 => {
                let ttl = SESSION_TTL_S;
                self.grant(PbLeaseGrantRequest { ttl, id: 0 }).await?.id
            }
            lease => lease,
        };
        let mut key = prefix(name);
        key.extend_from_slice(hexadecimal(lease).as_bytes());
        let put = PbPutRequest {
            key: key.clone(),
            value,
            lease,
            ..Default::default()
        };
        let get = PbRangeRequest {
            key: key.clone(),
            ..Default::default()
        };
        let taking = PbTxnRequest {
            compare: vec![created_at(&key, 0)],
            success: vec![op(PbTxnOpRequest::RequestPut(put))],
            failure: vec![op(PbTxnOpRequest::RequestRange(get))],
        };
        // Of its own: whoever gives up before the answer has a place all the same, which has to go.
        let taken = self.tasks.spawn(self.clone().take(key, lease, taking));
        taken.await.map_err(|_| Status::from(error::STOPPED))?
    }

    async fn take(self, key: Vec<u8>, lease: i64, taking: PbTxnRequest) -> Result<Place, Status> {
        let response = self.write(taking).await?;
        let before = first_range(&response).and_then(|found| found.kvs.first());
        Ok(Place {
            leave: Leave {
                api: self.clone(),
                key: key.clone(),
                keep: before.is_some(),
            },
            created: match before {
                Some(kv) => kv.create_revision,
                None => response.header.as_ref().map_or(0, |header| header.revision),
            },
            value_before: before.map(|kv| kv.value.clone()),
            header: response.header,
            key,
            lease,
        })
    }

    /// Waits until the place is at the front; the lease is renewed meanwhile.
    ///
    /// * errors: `expired` if the key is gone by then.
    /// * effects: dropped or failed, the place is given up.
    pub(super) async fn wait_turn(
        &self,
        name: &[u8],
        place: &mut Place,
        expired: Said,
    ) -> Result<(), Status> {
        place.leave.keep = false;
        let mut head = self.feed.subscribe();
        let renew_every = self.lessor.remaining(place.lease, Instant::now());
        let renew_every = renew_every.map_or(SESSION_TTL_S, |remaining| remaining.ttl_s);
        let renew_every =
            Duration::from_millis(renew_every.clamp(1, SESSION_TTL_S) as u64 * 1000 / 3);
        let prefix = prefix(name);
        loop {
            head.borrow_and_update();
            // This member has applied the key of the place, thus all older ones: what it has is enough.
            let view = self.view(true).await?;
            let own = point(&view, &place.key).map_err(error::of_fault)?;
            if own.is_none_or(|own| own.create_revision != place.created) {
                place.leave.keep = true;
                return Err(expired.into());
            }
            let ahead = last_by_create_below(&view, &prefix, place.created);
            if ahead.map_err(error::of_fault)?.is_none() {
                place.leave.keep = true;
                return Ok(());
            }
            drop(view);
            tokio::select! {
                () = self.stop.cancelled() => return Err(error::STOPPED.into()),
                _ = head.changed() => {}
                () = tokio::time::sleep(renew_every) => {
                    self.lessor.renew(place.lease, Instant::now());
                }
            }
        }
    }
}

pub(super) fn prefix(name: &[u8]) -> Vec<u8> {
    let mut prefix = name.to_vec();
    prefix.push(b'/');
    prefix
}

/// Holds while the key is the one created at this revision; 0 means that there is none.
pub(super) fn created_at(key: &[u8], revision: i64) -> PbCompare {
    PbCompare {
        key: key.to_vec(),
        target: CREATE,
        target_union: Some(PbTargetUnion::CreateRevision(revision)),
        ..Default::default()
    }
}

pub(super) fn op(request: PbTxnOpRequest) -> PbTxnRequestOp {
    PbTxnRequestOp {
        request: Some(request),
    }
}

/// As etcd's own clients write a lease into a key.
fn hexadecimal(lease: i64) -> String {
    let sign = if lease < 0 { "-" } else { "" };
    format!("{sign}{:x}", lease.unsigned_abs())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn leases_are_written_with_their_sign() {
        assert_eq!(hexadecimal(0x2a), "2a");
        assert_eq!(hexadecimal(-0x2a), "-2a");
    }
}
