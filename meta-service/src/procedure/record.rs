//! The records of procedures: what is written beside what a step changes.
//!
//! Pure, as deciding is, so that a test can play a procedure in memory, crashes and all.
//!
//! Never here: a call to etcd.

use auxo_proto::ddl::DdlRequest;
use auxo_proto::error::{ErrorCode, Failure};
use auxo_proto::ids::ProcedureId;
use xxhash_rust::xxh3::xxh3_64;

use super::{Around, Kind, Move, NotYet, Step, begin};
use crate::ddl::{Plan, plan};
use crate::keys::{Counter, Key};
use crate::model::Model;
use crate::model::change::{Change, Keep};
use crate::model::values::{
    Done, Outcome, Past, Procedure, ProcedureState, ReignNumber, Request, StepAt, Unknown,
};

/// Ended procedures that are kept.
const PAST_MAX: usize = 10_000;
/// Ended procedures removed with one that ends, until there are not too many.
const PAST_SURPLUS: usize = 2;

/// A request that was taken up.
#[derive(Clone, Debug, PartialEq)]
pub struct Taken {
    /// What is written for it.
    pub change: Change,
    /// What became of it.
    pub state: TakenUp,
    /// The procedure that begins.
    pub kind: Option<Kind>,
}

/// What became of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TakenUp {
    /// It is so; by that procedure, if one was needed.
    Done(Option<ProcedureId>, Done),
    /// A procedure begins.
    Begun(ProcedureId),
    /// A procedure that began earlier is still at it.
    Known(ProcedureId),
}

/// Takes up a request: the same key is the same change.
pub fn request(
    request: &DdlRequest,
    reign: ReignNumber,
    model: &Model,
    around: &Around,
) -> Result<Taken, NotYet> {
    let key = request
        .request_key
        .as_ref()
        .map(|key| format!("{}:{key}", request.tenant));
    let hash = hash(request);
    let nothing_to_write = |state| Taken {
        change: Change::new(),
        state,
        kind: None,
    };
    if let Some(known) = key.as_ref().and_then(|key| model.requests.get(key)) {
        return Ok(nothing_to_write(same_request(known, &hash)?));
    }
    match plan(request, model)? {
        Plan::Satisfied(done) => Ok(nothing_to_write(TakenUp::Done(None, done))),
        Plan::Txn(mut change, done) => {
            if let Some(key) = key {
                let value = Request {
                    procedure: None,
                    hash,
                    outcome: Some(Outcome::Done(done)),
                    unknown: Unknown::default(),
                };
                change.put_for(Key::Request(key), &value, Keep::Request);
            }
            Ok(Taken {
                change,
                state: TakenUp::Done(None, done),
                kind: None,
            })
        }
        Plan::Procedure(kind) => {
            let request = key.map(|key| (key, hash));
            let (change, id) = first(&kind, None, request, reign, model, around)?;
            Ok(Taken {
                change,
                state: TakenUp::Begun(id),
                kind: Some(kind),
            })
        }
    }
}

/// The first txn of a procedure: its record, its locks, and what its first step writes.
///
/// * `request`: the caller's own key and the hash of what it asked.
pub fn first(
    kind: &Kind,
    parent: Option<ProcedureId>,
    request: Option<(String, String)>,
    reign: ReignNumber,
    model: &Model,
    around: &Around,
) -> Result<(Change, ProcedureId), NotYet> {
    let mut beginning = begin(kind, model, around)?;
    let change = &mut beginning.change;
    let id = ProcedureId(change.take_ids(model, Counter::Procedure, 1));
    for lock in &beginning.locks {
        change.put(Key::Lock(*lock), &id);
    }
    let (request, hash) = request.unzip();
    if let (Some(key), Some(hash)) = (&request, hash) {
        let value = Request {
            procedure: Some(id),
            hash,
            outcome: None,
            unknown: Unknown::default(),
        };
        change.put_for(Key::Request(key.clone()), &value, Keep::Request);
    }
    let record = Procedure {
        kind: kind.clone(),
        step: beginning.step,
        data: beginning.data,
        reign,
        locks: beginning.locks,
        parent,
        request,
        started_ms: around.now_ms,
        state: ProcedureState::Running,
        failure: None,
        trail: vec![StepAt {
            step: beginning.step,
            at_ms: around.now_ms,
        }],
        unknown: Unknown::default(),
    };
    change.put(Key::Procedure(id), &record);
    Ok((beginning.change, id))
}

/// The txn of a decided step: what it changes, with the record; `None` if it writes nothing.
pub fn next(
    id: ProcedureId,
    record: &Procedure,
    decided: Move,
    reign: ReignNumber,
    model: &Model,
    around: &Around,
) -> Option<Change> {
    let mut next = record.clone();
    next.reign = reign;
    let mut at = |step| {
        if next.trail.last().is_none_or(|last| last.step != step) {
            let at_ms = around.now_ms;
            next.trail.push(StepAt { step, at_ms });
        }
    };
    match decided {
        Move::Write {
            mut change,
            step,
            state,
            failure,
        } => {
            at(step);
            next.step = step;
            next.state = state;
            next.failure = failure;
            change.put(Key::Procedure(id), &next);
            Some(change)
        }
        Move::Stick(failure) => {
            next.state = ProcedureState::Stuck;
            next.failure = Some(failure);
            let mut change = Change::new();
            change.put(Key::Procedure(id), &next);
            Some(change)
        }
        Move::End {
            mut change,
            outcome,
        } => {
            at(Step::Commit);
            for lock in &record.locks {
                change.delete(Key::Lock(*lock));
            }
            if let Some(key) = &record.request
                && let Some(mut request) = model.requests.get(key).cloned()
            {
                request.outcome = Some(outcome.clone());
                change.put_for(Key::Request(key.clone()), &request, Keep::Request);
            }
            let surplus = (model.past.len() + 1).saturating_sub(PAST_MAX);
            for old in model.past.keys().take(surplus.min(PAST_SURPLUS)) {
                change.delete(Key::Past(*old));
            }
            let past = Past {
                kind: next.kind,
                outcome,
                parent: next.parent,
                started_ms: next.started_ms,
                ended_ms: around.now_ms,
                trail: next.trail,
                unknown: Unknown::default(),
            };
            change
                .delete(Key::Procedure(id))
                .put_for(Key::Past(id), &past, Keep::Past);
            Some(change)
        }
        Move::Order { .. } | Move::Await { .. } => None,
    }
}

fn same_request(known: &Request, hash: &str) -> Result<TakenUp, Failure> {
    if known.hash != hash {
        let detail = "the request key was used with other arguments";
        return Err(Failure::new(ErrorCode::AlreadyExists, detail));
    }
    match (&known.outcome, known.procedure) {
        (Some(Outcome::Failed(failure)), _) => Err(Failure::from(failure)),
        (Some(Outcome::Done(done)), procedure) => Ok(TakenUp::Done(procedure, *done)),
        (None, Some(procedure)) => Ok(TakenUp::Known(procedure)),
        (None, None) => {
            let detail = "the request key names nothing";
            Err(Failure::new(ErrorCode::Internal, detail))
        }
    }
}

fn hash(request: &DdlRequest) -> String {
    let text = serde_json::to_vec(&(request.tenant, &request.ddl))
        .unwrap_or_else(|error| unreachable!("a request is plain data: {error}"));
    format!("{:016x}", xxh3_64(&text))
}
