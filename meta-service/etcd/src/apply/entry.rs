//! What one entry does to the tables.

use std::sync::Arc;

use prost::Message;

use super::{Answer, Applied, Committed};
use crate::mvcc::compact::{self, Removal};
use crate::mvcc::{Changes, Fault, Refusal, Tables, Writer, execute};
use crate::proposal::{Content, Op};

/// What the tables say about themselves, kept beside them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Position {
    pub(super) revision: i64,
    pub(super) compacted: i64,
    pub(super) removal: Option<Removal>,
}

/// A lease that began or ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum LeaseChange {
    Granted { lease: i64, ttl: i64 },
    Revoked { lease: i64 },
}

/// What a batch has done besides changing the tables.
#[derive(Debug, Default)]
pub(super) struct Effects {
    pub(super) changes: Vec<Arc<Changes>>,
    pub(super) leases: Vec<LeaseChange>,
}

/// Applies one entry.
///
/// * errors: the tables cannot be read or written, or the entry is not one this program knows.
pub(super) fn apply(
    tables: &mut Tables<'_>,
    position: &mut Position,
    effects: &mut Effects,
    entry: &Committed,
) -> Result<Applied, Fault> {
    let Content::Normal(bytes) = &entry.content else {
        return Ok(Applied {
            revision: position.revision,
            outcome: Ok(Answer::Done),
        });
    };
    let op = Op::from_bytes(bytes).map_err(|error| {
        redb::Error::Corrupted(format!("entry {}.{}: {error}", entry.term, entry.index))
    })?;
    let outcome = match carry_out(tables, position, effects, entry.term, op) {
        Ok(answer) => Ok(answer),
        Err(Fault::Refused(refusal)) => Err(refusal),
        Err(fault) => return Err(fault),
    };
    Ok(Applied {
        revision: position.revision,
        outcome,
    })
}

fn carry_out(
    tables: &mut Tables<'_>,
    position: &mut Position,
    effects: &mut Effects,
    term: u64,
    op: Op,
) -> Result<Answer, Fault> {
    match op {
        Op::Compact(request) => {
            let removal = compact::begin(
                tables,
                request.revision,
                position.compacted,
                position.revision,
            )?;
            position.compacted = request.revision;
            position.removal = Some(removal);
            return Ok(Answer::Done);
        }
        Op::Publish(member) => {
            let bytes = member.encode_to_vec();
            tables.member.insert(member.id, bytes.as_slice())?;
            return Ok(Answer::Done);
        }
        Op::Expire(expire) if expire.raft_term != term => return Err(Refusal::Superseded.into()),
        _ => {}
    }
    let mut writer = Writer::new(tables, position.revision, position.compacted);
    let answer = match op {
        Op::Put(request) => Answer::Put(writer.put(&request)?),
        Op::Delete(request) => Answer::Delete(writer.delete(&request)?),
        Op::Txn(request) => Answer::Txn(execute(&mut writer, &request)?),
        Op::Grant(request) => {
            writer.grant(request.id, request.ttl)?;
            effects.leases.push(LeaseChange::Granted {
                lease: request.id,
                ttl: request.ttl,
            });
            Answer::Done
        }
        Op::Revoke(request) => {
            writer.revoke(request.id)?;
            effects
                .leases
                .push(LeaseChange::Revoked { lease: request.id });
            Answer::Done
        }
        Op::Expire(expire) => {
            writer.revoke(expire.lease)?;
            let lease = expire.lease;
            effects.leases.push(LeaseChange::Revoked { lease });
            Answer::Done
        }
        Op::Compact(_) | Op::Publish(_) => Answer::Done,
    };
    let events = writer.into_events();
    if !events.is_empty() {
        position.revision += 1;
        effects
            .changes
            .push(Arc::new(Changes::new(position.revision, events)));
    }
    Ok(answer)
}
