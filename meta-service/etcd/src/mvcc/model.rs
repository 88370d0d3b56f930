//! The tables against a model of them: a list of everything that ever happened.
//!
//! The model keeps no index and no live state: every question is answered by going through the whole
//! history. Random operations go to both, every answer is compared, and the history at the end.

use std::collections::BTreeMap;

use etcd_client::EventType;
use etcd_client::proto::{
    PbCompare, PbDeleteRequest, PbDeleteResponse, PbEvent, PbKeyValue, PbPutRequest, PbPutResponse,
    PbRangeRequest, PbRangeResponse, PbResponseHeader, PbResponseOp, PbTargetUnion, PbTxnOpRequest,
    PbTxnOpResponse, PbTxnRequest, PbTxnRequestOp, PbTxnResponse,
};
use proptest::collection::vec;
use proptest::prelude::*;
use redb::Durability;
use redb::ReadableTable;

use super::compact;
use super::*;

#[derive(Clone, Default)]
struct Model {
    revision: i64,
    compacted: i64,
    /// Revision and event of every change.
    history: Vec<(i64, PbEvent)>,
    leases: BTreeMap<i64, i64>,
}

type State = BTreeMap<Vec<u8>, PbKeyValue>;
type Answer<T> = Result<T, Refusal>;

fn header(revision: i64) -> Option<PbResponseHeader> {
    Some(PbResponseHeader {
        revision,
        ..Default::default()
    })
}

fn in_range(key: &[u8], start: &[u8], end: &[u8]) -> bool {
    match end {
        [] => key == start,
        [0] => key >= start,
        end => key >= start && key < end,
    }
}

impl Model {
    fn new() -> Self {
        Self {
            revision: 1,
            compacted: -1,
            ..Self::default()
        }
    }

    fn state_at(&self, revision: i64) -> State {
        let mut state = State::new();
        for (at, event) in &self.history {
            let kv = event.kv.clone().unwrap();
            if *at > revision {
                break;
            } else if event.r#type == EventType::Delete as i32 {
                state.remove(&kv.key);
            } else {
                state.insert(kv.key.clone(), kv);
            }
        }
        state
    }

    fn range(&self, request: &PbRangeRequest) -> Answer<PbRangeResponse> {
        let at = match request.revision {
            revision if revision > self.revision => return Err(Refusal::FutureRevision),
            revision if revision > 0 => revision,
            _ => self.revision,
        };
        if at < self.compacted {
            return Err(Refusal::Compacted);
        }
        let state = self.state_at(at).into_values();
        let mut kvs: Vec<_> = state
            .filter(|kv| in_range(&kv.key, &request.key, &request.range_end))
            .collect();
        let count = kvs.len() as i64;
        if request.count_only {
            kvs.clear();
        }
        kvs.retain(|kv| {
            request.max_mod_revision == 0 || kv.mod_revision <= request.max_mod_revision
        });
        kvs.retain(|kv| kv.mod_revision >= request.min_mod_revision);
        kvs.retain(|kv| {
            request.max_create_revision == 0 || kv.create_revision <= request.max_create_revision
        });
        kvs.retain(|kv| kv.create_revision >= request.min_create_revision);
        let rank = |kv: &PbKeyValue| match request.sort_target {
            0 => (kv.key.clone(), 0),
            1 => (Vec::new(), kv.version),
            2 => (Vec::new(), kv.create_revision),
            3 => (Vec::new(), kv.mod_revision),
            _ => (kv.value.clone(), 0),
        };
        if request.sort_order == 2 {
            kvs.sort_by_key(|kv| std::cmp::Reverse(rank(kv)));
        } else {
            kvs.sort_by_key(rank);
        }
        let limit = if request.limit > 0 {
            request.limit as usize
        } else {
            usize::MAX
        };
        let more = kvs.len() > limit;
        kvs.truncate(limit);
        if request.keys_only {
            kvs.iter_mut().for_each(|kv| kv.value.clear());
        }
        Ok(PbRangeResponse {
            header: header(self.revision),
            kvs,
            more,
            count,
        })
    }

    /// Adds a change to those of the revision after `began_at`.
    fn change(&mut self, began_at: i64, kind: EventType, kv: PbKeyValue) {
        self.revision = began_at + 1;
        let event = PbEvent {
            r#type: kind as i32,
            kv: Some(kv),
            prev_kv: None,
        };
        self.history.push((self.revision, event));
    }

    fn has_key(&self, request: &PbPutRequest) -> Answer<()> {
        let there = self.state_at(self.revision).contains_key(&request.key);
        if (request.ignore_value || request.ignore_lease) && !there {
            return Err(Refusal::KeyNotFound);
        }
        Ok(())
    }

    fn has_lease(&self, request: &PbPutRequest) -> Answer<()> {
        if request.lease != 0 && !self.leases.contains_key(&request.lease) {
            return Err(Refusal::LeaseNotFound);
        }
        Ok(())
    }

    fn put(&mut self, began_at: i64, request: &PbPutRequest) -> PbPutResponse {
        let before = self.state_at(self.revision).remove(&request.key);
        let mut kv = PbKeyValue {
            key: request.key.clone(),
            value: request.value.clone(),
            lease: request.lease,
            create_revision: began_at + 1,
            mod_revision: began_at + 1,
            version: 1,
        };
        if let Some(before) = &before {
            kv.create_revision = before.create_revision;
            kv.version = before.version + 1;
            if request.ignore_value {
                kv.value = before.value.clone();
            }
            if request.ignore_lease {
                kv.lease = before.lease;
            }
        }
        self.change(began_at, EventType::Put, kv);
        PbPutResponse {
            header: header(self.revision),
            prev_kv: before.filter(|_| request.prev_kv),
        }
    }

    fn delete(&mut self, began_at: i64, request: &PbDeleteRequest) -> PbDeleteResponse {
        let state = self.state_at(self.revision).into_values();
        let gone: Vec<_> = state
            .filter(|kv| in_range(&kv.key, &request.key, &request.range_end))
            .collect();
        for kv in &gone {
            let kv = PbKeyValue {
                key: kv.key.clone(),
                mod_revision: began_at + 1,
                ..Default::default()
            };
            self.change(began_at, EventType::Delete, kv);
        }
        PbDeleteResponse {
            header: header(self.revision),
            deleted: gone.len() as i64,
            prev_kvs: if request.prev_kv { gone } else { Vec::new() },
        }
    }

    fn holds(&self, compare: &PbCompare) -> bool {
        let state = self.state_at(self.revision).into_values();
        let mut kvs: Vec<_> = state
            .filter(|kv| in_range(&kv.key, &compare.key, &compare.range_end))
            .collect();
        if kvs.is_empty() {
            if compare.target == 3 {
                return false;
            }
            kvs.push(PbKeyValue::default());
        }
        kvs.iter().all(|kv| {
            let order = match compare.target_union.clone().unwrap() {
                PbTargetUnion::Version(version) => kv.version.cmp(&version),
                PbTargetUnion::CreateRevision(revision) => kv.create_revision.cmp(&revision),
                PbTargetUnion::ModRevision(revision) => kv.mod_revision.cmp(&revision),
                PbTargetUnion::Value(value) => kv.value.cmp(&value),
                PbTargetUnion::Lease(lease) => kv.lease.cmp(&lease),
            };
            match compare.result {
                0 => order.is_eq(),
                1 => order.is_gt(),
                2 => order.is_lt(),
                _ => order.is_ne(),
            }
        })
    }

    fn txn(&mut self, request: &PbTxnRequest) -> Answer<PbTxnResponse> {
        let before = self.clone();
        before.check(request, &|model, op| match op {
            PbTxnOpRequest::RequestPut(put) => model.has_key(put).and(model.has_lease(put)),
            _ => Ok(()),
        })?;
        before.check(request, &|model, op| match op {
            PbTxnOpRequest::RequestRange(range) if range.revision != 0 => {
                model.range(range).map(|_| ())
            }
            _ => Ok(()),
        })?;
        let mut response = self.run(&before, request);
        response.header = header(self.revision);
        Ok(response)
    }

    fn branch<'a>(&self, request: &'a PbTxnRequest) -> (bool, &'a [PbTxnRequestOp]) {
        if request.compare.iter().all(|compare| self.holds(compare)) {
            (true, &request.success)
        } else {
            (false, &request.failure)
        }
    }

    fn check(
        &self,
        request: &PbTxnRequest,
        allowed: &dyn Fn(&Self, &PbTxnOpRequest) -> Answer<()>,
    ) -> Answer<()> {
        for op in self.branch(request).1 {
            match op.request.as_ref().unwrap() {
                PbTxnOpRequest::RequestTxn(nested) => self.check(nested, allowed)?,
                op => allowed(self, op)?,
            }
        }
        Ok(())
    }

    /// Which branches are taken depends on `before` alone.
    fn run(&mut self, before: &Self, request: &PbTxnRequest) -> PbTxnResponse {
        let (succeeded, ops) = before.branch(request);
        let began_at = before.revision;
        let answer = |op: &PbTxnRequestOp| {
            let response = match op.request.as_ref().unwrap() {
                PbTxnOpRequest::RequestRange(range) => {
                    PbTxnOpResponse::ResponseRange(self.range(range).unwrap())
                }
                PbTxnOpRequest::RequestPut(put) => {
                    PbTxnOpResponse::ResponsePut(self.put(began_at, put))
                }
                PbTxnOpRequest::RequestDeleteRange(delete) => {
                    PbTxnOpResponse::ResponseDeleteRange(self.delete(began_at, delete))
                }
                PbTxnOpRequest::RequestTxn(nested) => {
                    PbTxnOpResponse::ResponseTxn(self.run(before, nested))
                }
            };
            PbResponseOp {
                response: Some(response),
            }
        };
        PbTxnResponse {
            header: header(0),
            succeeded,
            responses: ops.iter().map(answer).collect(),
        }
    }

    fn revoke(&mut self, lease: i64) -> Answer<()> {
        self.leases.remove(&lease).ok_or(Refusal::LeaseNotFound)?;
        let began_at = self.revision;
        for kv in self
            .state_at(began_at)
            .into_values()
            .filter(|kv| kv.lease == lease)
        {
            let kv = PbKeyValue {
                key: kv.key,
                mod_revision: began_at + 1,
                ..Default::default()
            };
            self.change(began_at, EventType::Delete, kv);
        }
        Ok(())
    }
}

#[derive(Debug, Clone)]
enum Step {
    Range(PbRangeRequest),
    Put(PbPutRequest),
    Delete(PbDeleteRequest),
    Txn(PbTxnRequest),
    Grant(i64),
    Revoke(i64),
    Compact(i64),
    /// Removes a few compacted versions.
    Remove(usize),
}

fn a_key() -> impl Strategy<Value = Vec<u8>> {
    prop::sample::select(vec!["a", "aa", "b", "c", "d"]).prop_map(|key| key.as_bytes().to_vec())
}

fn an_end() -> impl Strategy<Value = Vec<u8>> {
    prop::sample::select(vec!["", "", "\0", "aa", "b", "c", "e"])
        .prop_map(|end| end.as_bytes().to_vec())
}

fn a_revision() -> impl Strategy<Value = i64> {
    prop_oneof![2 => Just(0), 3 => 0..30_i64]
}

fn a_range() -> impl Strategy<Value = PbRangeRequest> {
    let bounds = (
        a_revision(),
        prop_oneof![2 => Just(0), 1 => 0..30_i64],
        prop_oneof![2 => Just(0), 1 => 0..30_i64],
    );
    (
        a_key(),
        an_end(),
        bounds,
        0..4_i64,
        (0..3, 0..5),
        (any::<bool>(), 0..4),
    )
        .prop_map(
            |(key, range_end, (revision, low, high), limit, (sort_order, sort_target), flags)| {
                PbRangeRequest {
                    key,
                    range_end,
                    limit,
                    revision,
                    sort_order,
                    sort_target,
                    keys_only: flags.0,
                    count_only: flags.1 == 0,
                    min_mod_revision: low,
                    max_create_revision: high,
                    ..Default::default()
                }
            },
        )
}

fn a_put() -> impl Strategy<Value = PbPutRequest> {
    let value = prop::sample::select(vec!["", "1", "2"]);
    (a_key(), value, 0..3_i64, any::<bool>(), 0..6).prop_map(
        |(key, value, lease, prev_kv, ignore)| PbPutRequest {
            key,
            value: value.as_bytes().to_vec(),
            lease,
            prev_kv,
            ignore_value: ignore == 0,
            ignore_lease: ignore == 1,
        },
    )
}

fn a_delete() -> impl Strategy<Value = PbDeleteRequest> {
    (a_key(), an_end(), any::<bool>()).prop_map(|(key, range_end, prev_kv)| PbDeleteRequest {
        key,
        range_end,
        prev_kv,
    })
}

fn a_compare() -> impl Strategy<Value = PbCompare> {
    (a_key(), an_end(), 0..4, 0..5, 0..4_i64).prop_map(|(key, range_end, result, target, value)| {
        let union = match target {
            0 => PbTargetUnion::Version(value),
            1 => PbTargetUnion::CreateRevision(value * 3),
            2 => PbTargetUnion::ModRevision(value * 3),
            3 => PbTargetUnion::Value(value.to_string().into_bytes()),
            _ => PbTargetUnion::Lease(value),
        };
        PbCompare {
            result,
            target,
            key,
            range_end,
            target_union: Some(union),
        }
    })
}

fn a_txn() -> impl Strategy<Value = PbTxnRequest> {
    let flat = || {
        prop_oneof![
            a_range().prop_map(PbTxnOpRequest::RequestRange),
            a_put().prop_map(PbTxnOpRequest::RequestPut),
            a_put().prop_map(PbTxnOpRequest::RequestPut),
            a_delete().prop_map(PbTxnOpRequest::RequestDeleteRange),
        ]
        .boxed()
    };
    fn of(op: BoxedStrategy<PbTxnOpRequest>) -> BoxedStrategy<PbTxnRequest> {
        let ops = || {
            let op = op.clone().prop_map(|request| PbTxnRequestOp {
                request: Some(request),
            });
            vec(op, 0..4)
        };
        (vec(a_compare(), 0..3), ops(), ops())
            .prop_map(|(compare, success, failure)| PbTxnRequest {
                compare,
                success,
                failure,
            })
            .boxed()
    }
    let nested = of(flat()).prop_map(PbTxnOpRequest::RequestTxn);
    let txn = of(prop_oneof![4 => flat(), 1 => nested].boxed());
    txn.prop_filter("a key written twice", |txn| {
        written_once(&txn.success) && written_once(&txn.failure)
    })
}

/// Nobody gets a txn this far that may put a key twice, or put and delete it.
fn written_once(ops: &[PbTxnRequestOp]) -> bool {
    fn collect<'a>(
        ops: &'a [PbTxnRequestOp],
        puts: &mut Vec<&'a PbPutRequest>,
        deletes: &mut Vec<&'a PbDeleteRequest>,
    ) {
        for op in ops {
            match op.request.as_ref().unwrap() {
                PbTxnOpRequest::RequestPut(put) => puts.push(put),
                PbTxnOpRequest::RequestDeleteRange(delete) => deletes.push(delete),
                PbTxnOpRequest::RequestTxn(nested) => {
                    collect(&nested.success, puts, deletes);
                    collect(&nested.failure, puts, deletes);
                }
                PbTxnOpRequest::RequestRange(_) => {}
            }
        }
    }
    let (mut puts, mut deletes) = (Vec::new(), Vec::new());
    collect(ops, &mut puts, &mut deletes);
    let keys: std::collections::BTreeSet<_> = puts.iter().map(|put| &put.key).collect();
    let deleted = |key: &[u8]| {
        let mut deletes = deletes.iter();
        deletes.any(|delete| in_range(key, &delete.key, &delete.range_end))
    };
    keys.len() == puts.len() && !keys.iter().any(|key| deleted(key))
}

fn a_step() -> impl Strategy<Value = Step> {
    prop_oneof![
        4 => a_range().prop_map(Step::Range),
        6 => a_put().prop_map(Step::Put),
        2 => a_delete().prop_map(Step::Delete),
        4 => a_txn().prop_map(Step::Txn),
        2 => (1..3_i64).prop_map(Step::Grant),
        1 => (1..3_i64).prop_map(Step::Revoke),
        1 => (0..30_i64).prop_map(Step::Compact),
        2 => (1..4_usize).prop_map(Step::Remove),
    ]
}

/// The tables, driven as apply drives them.
struct Twin {
    store: Store,
    model: Model,
    removal: Option<compact::Removal>,
}

fn refusal<T>(result: Result<T, Fault>) -> Answer<T> {
    result.map_err(|fault| match fault {
        Fault::Refused(refusal) => refusal,
        Fault::Store(error) => panic!("{error}"),
    })
}

impl Twin {
    /// Runs one operation in a transaction that is kept only if it is not refused.
    fn write<T>(
        &mut self,
        change: impl FnOnce(&mut Writer<'_, '_>) -> Result<T, Fault>,
    ) -> Answer<T> {
        let before = self.store.view().unwrap();
        let txn = self.store.begin_write(Durability::None).unwrap();
        let mut tables = Tables::open(&txn).unwrap();
        let mut writer = Writer::new(&mut tables, before.revision(), before.compacted());
        let answer = refusal(change(&mut writer))?;
        let revision = writer.revision();
        drop(writer);
        tables
            .set_meta(MetaKey::Revision, &revision.to_le_bytes())
            .unwrap();
        drop(tables);
        txn.commit().unwrap();
        Ok(answer)
    }

    fn remove(&mut self, versions: usize) {
        let Some(removal) = self.removal else {
            return;
        };
        let txn = self.store.begin_write(Durability::None).unwrap();
        let mut tables = Tables::open(&txn).unwrap();
        assert_eq!(compact::pending(&tables).unwrap(), Some(removal));
        self.removal = compact::step(&mut tables, removal, versions).unwrap();
        drop(tables);
        txn.commit().unwrap();
    }

    fn compact(&mut self, revision: i64) -> Answer<()> {
        let before = self.store.view().unwrap();
        let txn = self.store.begin_write(Durability::None).unwrap();
        let mut tables = Tables::open(&txn).unwrap();
        let removal = compact::begin(&mut tables, revision, before.compacted(), before.revision());
        self.removal = Some(refusal(removal)?);
        drop(tables);
        txn.commit().unwrap();
        Ok(())
    }

    fn step(&mut self, step: Step) {
        match step {
            Step::Range(request) => {
                let view = self.store.view().unwrap();
                assert_eq!(refusal(range(&view, &request)), self.model.range(&request));
            }
            Step::Put(request) => {
                let allowed = self.model.has_lease(&request);
                let allowed = allowed.and(self.model.has_key(&request));
                let began_at = self.model.revision;
                let expected = allowed.map(|()| self.model.put(began_at, &request));
                assert_eq!(self.write(|writer| writer.put(&request)), expected);
            }
            Step::Delete(request) => {
                let began_at = self.model.revision;
                let expected = Ok(self.model.delete(began_at, &request));
                assert_eq!(self.write(|writer| writer.delete(&request)), expected);
            }
            Step::Txn(request) => {
                let expected = self.model.txn(&request);
                assert_eq!(self.write(|writer| execute(writer, &request)), expected);
            }
            Step::Grant(lease) => {
                let expected = match self.model.leases.insert(lease, 60) {
                    None => Ok(()),
                    Some(_) => Err(Refusal::LeaseExists),
                };
                assert_eq!(self.write(|writer| writer.grant(lease, 60)), expected);
            }
            Step::Revoke(lease) => {
                let expected = self.model.revoke(lease);
                assert_eq!(self.write(|writer| writer.revoke(lease)), expected);
            }
            Step::Compact(revision) => {
                let expected = if revision <= self.model.compacted {
                    Err(Refusal::Compacted)
                } else if revision > self.model.revision {
                    Err(Refusal::FutureRevision)
                } else {
                    self.model.compacted = revision;
                    Ok(())
                };
                assert_eq!(self.compact(revision), expected);
            }
            Step::Remove(versions) => self.remove(versions),
        }
    }

    /// Compares what can still be seen, and that nothing else is left.
    fn finish(mut self) {
        while self.removal.is_some() {
            self.remove(3);
        }
        let view = self.store.view().unwrap();
        assert_eq!(view.revision(), self.model.revision);
        let from = self.model.compacted.max(0);
        let Piece::Changes { changes, upto } = history(&view, from, usize::MAX).unwrap() else {
            panic!("the history is gone");
        };
        assert_eq!(upto, self.model.revision);
        let seen = changes.iter().flat_map(|change| {
            let events = change.events.iter();
            events.map(|event| (change.revision, event.clone()))
        });
        let all = self.model.history.iter().cloned();
        let expected: Vec<_> = all.filter(|(revision, _)| *revision >= from).collect();
        assert_eq!(seen.collect::<Vec<_>>(), expected);

        let live = self.model.state_at(self.model.compacted);
        let kept = live.values().filter(|kv| kv.mod_revision < from).count();
        let rows = view.rev().iter().unwrap().count();
        assert_eq!(rows, kept + expected.len(), "rows left in the history");
        assert_eq!(view.old().iter().unwrap().count(), rows);

        let now = self.model.state_at(self.model.revision);
        for lease in 0..3 {
            let attached = now.values().filter(|kv| lease != 0 && kv.lease == lease);
            let expected: Vec<_> = attached.map(|kv| kv.key.clone()).collect();
            assert_eq!(lease_keys(&view, lease).unwrap(), expected);
        }
        for (revision, event) in &expected {
            let kv = event.kv.as_ref().unwrap();
            let before = self.model.state_at(revision - 1).remove(&kv.key);
            let readable = *revision > self.model.compacted;
            let found = point_at(&view, &kv.key, revision - 1).unwrap();
            assert_eq!(found, before.filter(|_| readable));
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(128))]

    #[test]
    fn the_tables_answer_as_the_model_does(steps in vec(a_step(), 1..60)) {
        check(steps);
    }
}

fn check(steps: Vec<Step>) {
    let dir = tempfile::tempdir().unwrap();
    let identity = Identity {
        cluster: 1,
        member: 1,
    };
    let (store, _) = Store::open(&dir.path().join("state.redb"), identity).unwrap();
    let mut twin = Twin {
        store,
        model: Model::new(),
        removal: None,
    };
    for step in steps {
        twin.step(step);
    }
    twin.finish();
}

/// The deletion of `a` lies at the first boundary and is visited before the second is set.
#[test]
fn a_deletion_at_a_boundary_is_forgotten_behind_the_next_one() {
    let put = |key: &[u8]| {
        Step::Put(PbPutRequest {
            key: key.to_vec(),
            ..PbPutRequest::default()
        })
    };
    check(vec![
        put(b"b"),
        put(b"a"),
        Step::Delete(PbDeleteRequest {
            key: b"a".to_vec(),
            range_end: vec![0],
            ..PbDeleteRequest::default()
        }),
        put(b"b"),
        put(b"b"),
        Step::Compact(4),
        Step::Remove(3),
        Step::Compact(5),
    ]);
}
