//! What must hold of everything in etcd at one revision, as named predicates.
//!
//! A violation is what no procedure under way explains: a value that cannot be read, a name or number
//! that leads nowhere, ranges that leave a hole, two leaders of one shard, or something half made or
//! half gone whose procedure has ended. What a procedure is at is behind its lock, and is let be.
//!
//! Never here: a repair.

use std::collections::BTreeMap;

use auxo_proto::ids::{NodeId, SchemaNumber, TableId};
use auxo_proto::pb::meta::{self, ShardPhase};
use serde::Serialize;

use super::values::{Life, Outcome, ReplicaState, Role, ShardLife};
use super::{Model, Stored, typed};
use crate::cluster::View;
use crate::keys::{Counter, Key, Keys, Lock};

/// Something that does not hold.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Violation {
    /// The key as etcd has it.
    pub key: String,
    /// What is wrong with it.
    pub what: String,
}

/// Looks for violations in everything below the root at one revision, and in what nodes say they lead.
///
/// * `entries`: path and value of each key.
/// * returns: sorted by key.
pub fn check(
    keys: &Keys,
    revision: i64,
    entries: Vec<(Vec<u8>, Stored)>,
    view: &View,
) -> Vec<Violation> {
    let mut known = Vec::new();
    let mut violations = Vec::new();
    for (path, stored) in entries {
        match typed(keys, &path) {
            Some(key) => known.push((key, stored)),
            None => violations.push(Violation {
                key: String::from_utf8_lossy(&path).into_owned(),
                what: "no key that this version knows".to_owned(),
            }),
        }
    }
    let mut model = Model::default();
    model.replace(revision, known);
    let mut found = Found(Vec::new());
    values_are_readable(&model, &mut found);
    names_are_whole(&model, &mut found);
    references_are_whole(&model, &mut found);
    tablets_tile(&model, &mut found);
    shards_have_one_leader(&model, view, &mut found);
    counters_are_above(&model, &mut found);
    locks_are_held(&model, &mut found);
    nothing_is_left_over(&model, &mut found);
    let shown = found.0.into_iter().map(|(key, what)| Violation {
        key: keys.path(&key),
        what,
    });
    violations.extend(shown);
    violations.sort_by(|a, b| (&a.key, &a.what).cmp(&(&b.key, &b.what)));
    violations
}

struct Found(Vec<(Key, String)>);

impl Found {
    fn wrong(&mut self, key: Key, what: impl Into<String>) {
        self.0.push((key, what.into()));
    }

    fn unless(&mut self, holds: bool, key: Key, what: impl Into<String>) {
        if !holds {
            self.wrong(key, what);
        }
    }
}

fn values_are_readable(model: &Model, found: &mut Found) {
    for (key, error) in &model.unreadable {
        found.wrong(key.clone(), format!("its value cannot be read: {error}"));
    }
    for key in [Key::Format, Key::Identity, Key::Topology] {
        let there = model.revisions(&key).is_some();
        found.unless(there, key, "a cluster has it, and it is not there");
    }
}

/// Each name leads to what bears it, and what is used has its name.
fn names_are_whole(model: &Model, found: &mut Found) {
    for (name, id) in &model.node_names {
        let bears = model.nodes.get(id).is_some_and(|node| node.name == *name);
        let key = Key::NodeName(name.clone());
        found.unless(bears, key, format!("node {id} does not bear it"));
    }
    for (id, node) in &model.nodes {
        let named = model.node_names.get(&node.name) == Some(id);
        found.unless(named, Key::Node(*id), "its name leads elsewhere");
    }
    for (name, id) in &model.tenant_names {
        let bears = model.tenants.get(id).is_some_and(|one| one.name == *name);
        let key = Key::TenantName(name.clone());
        found.unless(bears, key, format!("tenant {id} does not bear it"));
    }
    for ((tenant, name), id) in &model.database_names {
        let known = model.databases.get(id);
        let bears = known.is_some_and(|one| one.tenant == *tenant && one.name == *name);
        let key = Key::DatabaseName(*tenant, name.clone());
        found.unless(bears, key, format!("database {id} does not bear it"));
    }
    for (id, database) in &model.databases {
        let name = (database.tenant, database.name.clone());
        let named = model.database_names.get(&name) == Some(id);
        let named = named || database.state == Life::Dropping;
        found.unless(named, Key::Database(*id), "its name leads elsewhere");
    }
    for ((database, name), id) in &model.table_names {
        let known = model.tables.get(id);
        let bears = known.is_some_and(|one| one.database == *database && one.name == *name);
        let key = Key::TableName(*database, name.clone());
        found.unless(bears, key, format!("table {id} does not bear it"));
    }
    for (id, table) in &model.tables {
        let name = (table.database, table.name.clone());
        let named = model.table_names.get(&name) == Some(id);
        let named = named || table.state == Life::Dropping;
        found.unless(named, Key::Table(*id), "its name leads elsewhere");
    }
}

/// What a value names is there.
fn references_are_whole(model: &Model, found: &mut Found) {
    for id in model.liveness.keys() {
        let there = model.nodes.contains_key(id);
        found.unless(there, Key::Liveness(*id), "there is no such node");
    }
    for (id, database) in &model.databases {
        let there = model.tenants.contains_key(&database.tenant);
        let what = format!("there is no tenant {}", database.tenant);
        found.unless(there, Key::Database(*id), what);
    }
    for (id, table) in &model.tables {
        let there = model.databases.contains_key(&table.database);
        let what = format!("there is no database {}", table.database);
        found.unless(there, Key::Table(*id), what);
        let there = model.schemas.contains_key(&(*id, table.schema));
        let what = format!("there is no schema {}", table.schema);
        found.unless(there, Key::Table(*id), what);
    }
    for (table, number) in model.schemas.keys() {
        let there = model.tables.contains_key(table);
        let key = Key::Schema(*table, *number);
        found.unless(there, key, format!("there is no table {table}"));
    }
    for ((table, id), tablet) in &model.tablets {
        let key = Key::Tablet(*table, *id);
        let there = model.tables.contains_key(table);
        found.unless(there, key.clone(), format!("there is no table {table}"));
        let there = model.shards.contains_key(&tablet.shard);
        found.unless(there, key, format!("there is no shard {}", tablet.shard));
    }
    for (id, shard) in &model.shards {
        for replica in &shard.replicas {
            let there = model.nodes.contains_key(&replica.node);
            let what = format!("there is no node {}", replica.node);
            found.unless(there, Key::Shard(*id), what);
        }
        for parent in &shard.parents {
            let there = model.shards.contains_key(parent);
            found.unless(
                there,
                Key::Shard(*id),
                format!("there is no shard {parent}"),
            );
        }
    }
}

/// The ranges of a table in use cover every hash once.
fn tablets_tile(model: &Model, found: &mut Found) {
    let live = model.tables.iter();
    for (id, _) in live.filter(|(_, table)| table.state == Life::Live) {
        let ranges = model.tablets_of(*id);
        let mut ranges: Vec<(u32, u32)> = ranges.map(|(_, one)| (one.lo, one.hi)).collect();
        ranges.sort_unstable();
        let mut next = Some(0);
        for (lo, hi) in ranges {
            if next != Some(lo) || hi < lo {
                let wanted = next.map_or("nothing".to_owned(), |next| next.to_string());
                let what = format!("{wanted} should follow in its tablets, and {lo} to {hi} does");
                found.wrong(Key::Table(*id), what);
            }
            next = hi.checked_add(1);
        }
        let what = format!("no tablet has the hashes from {next:?} on");
        found.unless(next.is_none(), Key::Table(*id), what);
    }
}

fn shards_have_one_leader(model: &Model, view: &View, found: &mut Found) {
    for (id, shard) in &model.shards {
        let key = || Key::Shard(*id);
        if !model.locks.contains_key(&Lock::Shard(*id)) {
            let leaders = shard.replicas.iter();
            let leaders = leaders.filter(|one| one.role == Role::Leader);
            let leaders: Vec<NodeId> = leaders.map(|one| one.node).collect();
            let wanted: Vec<NodeId> = shard.leader.into_iter().collect();
            if leaders != wanted {
                let what = format!("led by {wanted:?}, and its leading replicas are {leaders:?}");
                found.wrong(key(), what);
            }
        }
        let says = |(node, seen): (NodeId, &crate::cluster::Seen)| {
            let state = seen.shards.get(id)?;
            let leads = state.phase() == ShardPhase::Serving && state.role() == meta::Role::Leader;
            (leads && state.epoch == shard.epoch.0).then_some(node)
        };
        let say: Vec<NodeId> = view.online().filter_map(says).collect();
        let what = format!(
            "nodes {say:?} say that they lead it under epoch {}",
            shard.epoch
        );
        found.unless(say.len() < 2, key(), what);
    }
}

/// No id was given out that its counter may give out again.
fn counters_are_above(model: &Model, found: &mut Found) {
    fn last<K: Copy + Ord, V>(map: &BTreeMap<K, V>, id: impl Fn(K) -> u64) -> u64 {
        map.last_key_value().map_or(0, |(key, _)| id(*key))
    }
    let tablets = model.tablets.keys().map(|(_, tablet)| tablet.0);
    let procedures = last(&model.procedures, |id| id.0).max(last(&model.past, |id| id.0));
    let highest = [
        (Counter::Tenant, last(&model.tenants, |id| id.0)),
        (Counter::Database, last(&model.databases, |id| id.0)),
        (Counter::Table, last(&model.tables, |id| id.0)),
        (Counter::Tablet, tablets.max().unwrap_or(0)),
        (Counter::Shard, last(&model.shards, |id| id.0)),
        (Counter::Node, last(&model.nodes, |id| id.0)),
        (Counter::Procedure, procedures),
    ];
    for (counter, highest) in highest {
        let what = format!("{highest} is taken");
        let above = model.next_id(counter) > highest;
        found.unless(above, Key::Next(counter), what);
    }
}

/// A lock has a procedure that knows of it, and a procedure has its locks.
fn locks_are_held(model: &Model, found: &mut Found) {
    for (lock, holder) in &model.locks {
        let record = model.procedures.get(holder);
        let held = record.is_some_and(|record| record.locks.contains(lock));
        let what = format!("procedure {holder} does not hold it");
        found.unless(held, Key::Lock(*lock), what);
    }
    for (id, record) in &model.procedures {
        for lock in &record.locks {
            let held = model.locks.get(lock) == Some(id);
            found.unless(held, Key::Procedure(*id), format!("it lacks {lock:?}"));
        }
        let ended = model.past.contains_key(id);
        found.unless(!ended, Key::Past(*id), "it has not ended");
    }
}

/// What is half made or half gone has a procedure that is at it.
fn nothing_is_left_over(model: &Model, found: &mut Found) {
    let locked = |lock| model.locks.contains_key(&lock);
    for (id, database) in &model.databases {
        let explained = database.state == Life::Live || locked(Lock::Database(*id));
        let what = format!("{:?}, and no procedure is at it", database.state);
        found.unless(explained, Key::Database(*id), what);
    }
    for (id, table) in &model.tables {
        let explained = table.state == Life::Live || locked(Lock::Table(*id));
        let what = format!("{:?}, and no procedure is at it", table.state);
        found.unless(explained, Key::Table(*id), what);
    }
    let beyond = |(table, number): &(TableId, SchemaNumber)| {
        let known = model.tables.get(table);
        known.is_some_and(|known| *number > known.schema) && !locked(Lock::Table(*table))
    };
    for (table, number) in model.schemas.keys().filter(|key| beyond(key)) {
        let key = Key::Schema(*table, *number);
        found.wrong(key, "newer than its table's, and no procedure is at it");
    }
    for (id, shard) in &model.shards {
        let explained = locked(Lock::Shard(*id));
        let whole = shard.state != ShardLife::Preparing;
        let whole = whole && shard.replicas.iter().all(not_closing);
        let what = "half made or half closed, and no procedure is at it";
        found.unless(whole || explained, Key::Shard(*id), what);
    }
    for (name, request) in &model.requests {
        let key = || Key::Request(name.clone());
        match (request.procedure, &request.outcome) {
            (Some(id), None) => {
                let running = model.procedures.contains_key(&id);
                let what = format!("it waits for procedure {id}, which does not run");
                found.unless(running, key(), what);
            }
            (Some(id), Some(outcome)) => {
                let past = model.past.get(&id);
                let same = past.is_none_or(|past| same_end(&past.outcome, outcome));
                found.unless(same, key(), format!("procedure {id} ended otherwise"));
            }
            (None, outcome) => {
                found.unless(outcome.is_some(), key(), "it names nothing");
            }
        }
    }
}

fn not_closing(replica: &super::values::Replica) -> bool {
    replica.state != ReplicaState::Closing
}

fn same_end(one: &Outcome, other: &Outcome) -> bool {
    matches!(
        (one, other),
        (Outcome::Done(_), Outcome::Done(_)) | (Outcome::Failed(_), Outcome::Failed(_))
    )
}

#[cfg(test)]
mod tests {
    use auxo_proto::ids::{DatabaseId, ProcedureId, ShardId, TabletId, TenantId};
    use serde_json::{Value, json};

    use super::*;
    use crate::model::Revisions;

    /// One of each key with its value, which name each other as those of a cluster do.
    const GOLDEN: &str = include_str!("../../testdata/etcd-keys.version-1.txt");

    /// Every key of a small cluster at rest.
    fn whole() -> BTreeMap<String, Value> {
        let node = json!({"name": "n", "public": "", "internal": "", "zone": "", "labels": {}, "state": "up"});
        let shard = json!({"epoch": "0:1", "leader": 1, "base_seq": 0, "parents": [], "state": "live",
            "replicas": [{"node": 1, "role": "leader", "state": "serving"}],
            "wal": {"service": "local", "incarnation": "0000000000000001"}});
        let table = json!({"database": 1, "name": "cpu", "schema": 1, "options": {}, "state": "live",
            "partition": {"columns": [1], "count": 2}});
        let mut entries = BTreeMap::new();
        let mut put = |key: Key, value: Value| {
            entries.insert(Keys::new("main").path(&key), value);
        };
        put(
            Key::Format,
            json!({"layout": 1, "oldest_reader": 1, "made_by": "test"}),
        );
        put(
            Key::Identity,
            json!({"cluster_uuid": "u", "made_ms": 1, "restored": 0}),
        );
        put(Key::Topology, json!({"number": 1}));
        for counter in Counter::ALL {
            put(Key::Next(counter), json!(10));
        }
        put(
            Key::Tenant(TenantId(1)),
            json!({"name": "t", "state": "live", "labels": {}}),
        );
        put(Key::TenantName("t".to_owned()), json!(1));
        put(
            Key::Database(DatabaseId(1)),
            json!({"tenant": 1, "name": "d", "state": "live"}),
        );
        put(Key::DatabaseName(TenantId(1), "d".to_owned()), json!(1));
        put(Key::Node(NodeId(1)), node);
        put(Key::NodeName("n".to_owned()), json!(1));
        put(Key::Shard(ShardId(1)), shard);
        put(Key::Table(TableId(1)), table);
        put(Key::TableName(DatabaseId(1), "cpu".to_owned()), json!(1));
        put(
            Key::Schema(TableId(1), SchemaNumber(1)),
            json!({"columns": [], "made_ms": 1}),
        );
        put(
            Key::Tablet(TableId(1), TabletId(1)),
            json!({"lo": 0, "hi": 99, "shard": 1}),
        );
        let rest = json!({"lo": 100, "hi": u32::MAX, "shard": 1});
        put(Key::Tablet(TableId(1), TabletId(2)), rest);
        entries
    }

    fn violations(entries: &BTreeMap<String, Value>, view: &View) -> Vec<String> {
        let stored = |value: &Value| Stored {
            revisions: Revisions {
                create: 1,
                modify: 1,
            },
            value: value.to_string().into_bytes(),
        };
        let entries = entries.iter();
        let entries = entries.map(|(key, value)| (key.clone().into_bytes(), stored(value)));
        let found = check(&Keys::new("main"), 1, entries.collect(), view);
        let shown = found.into_iter().map(|one| {
            let key = one
                .key
                .trim_start_matches("/auxo/main/")
                .replace("0000000000000000000", "");
            format!("{key}: {}", one.what)
        });
        shown.collect()
    }

    #[test]
    fn a_cluster_at_rest_has_no_violation() {
        assert_eq!(violations(&whole(), &View::default()), Vec::<String>::new());
    }

    #[test]
    fn each_violation_is_found_at_its_key() {
        let cases: [(&str, Option<Value>, &str); 16] = [
            (
                "surprise",
                Some(json!(1)),
                "surprise: no key that this version knows",
            ),
            (
                "topology",
                None,
                "topology: a cluster has it, and it is not there",
            ),
            (
                "format",
                Some(json!("x")),
                "format: its value cannot be read: ",
            ),
            (
                "node_name/m",
                Some(json!(1)),
                "node_name/m: node 1 does not bear it",
            ),
            (
                "table_name/1/cpu",
                None,
                "table/1: its name leads elsewhere",
            ),
            (
                "database_name/1/d",
                None,
                "database/1: its name leads elsewhere",
            ),
            (
                "liveness/7",
                Some(json!({"verdict": "online", "boot": "b", "since_ms": 1})),
                "liveness/7: there is no such node",
            ),
            ("schema/1/1", None, "table/1: there is no schema 1"),
            (
                "schema/1/2",
                Some(json!({"columns": [], "made_ms": 1})),
                "schema/1/2: newer than its table's, and no procedure is at it",
            ),
            (
                "tablet/1/1",
                None,
                "table/1: 0 should follow in its tablets, and 100 to 4294967295 does",
            ),
            (
                "tablet/1/2",
                None,
                "table/1: no tablet has the hashes from Some(100) on",
            ),
            (
                "tablet/1/3",
                Some(json!({"lo": 5, "hi": 6, "shard": 1})),
                "table/1: 100 should follow in its tablets, and 5 to 6 does",
            ),
            ("shard/1", None, "tablet/1/1: there is no shard 1"),
            ("next/table", Some(json!(1)), "next/table: 1 is taken"),
            (
                "lock/table/1",
                Some(json!(3)),
                "lock/table/1: procedure 3 does not hold it",
            ),
            (
                "request/k",
                Some(json!({"procedure": 3, "hash": "h", "outcome": null})),
                "request/k: it waits for procedure 3, which does not run",
            ),
        ];
        for (key, value, wanted) in cases {
            let mut entries = whole();
            let parts = key.split('/').map(|part| match part.parse::<u64>() {
                Ok(number) => format!("{number:020}"),
                Err(_) => part.to_owned(),
            });
            let path = format!("/auxo/main/{}", parts.collect::<Vec<_>>().join("/"));
            match value {
                Some(value) => entries.insert(path, value),
                None => entries.remove(&path),
            };
            let found = violations(&entries, &View::default());
            let named = found.iter().any(|one| one.starts_with(wanted));
            assert!(named, "{wanted} in {found:?}");
        }
    }

    #[test]
    fn two_leaders_of_one_shard_are_found_in_the_model_and_in_what_nodes_say() {
        let mut entries = whole();
        let shard = entries
            .get_mut("/auxo/main/shard/00000000000000000001")
            .unwrap();
        let replicas = shard["replicas"].as_array_mut().unwrap();
        replicas.push(json!({"node": 1, "role": "leader", "state": "serving"}));
        let found = violations(&entries, &View::default());
        assert_eq!(found.len(), 1, "{found:?}");
        assert!(found[0].contains("its leading replicas are"), "{found:?}");
        let mut view = View::default();
        let says = |epoch| {
            let state = meta::ShardState {
                shard: 1,
                role: meta::Role::Leader.into(),
                epoch,
                phase: ShardPhase::Serving.into(),
                ..meta::ShardState::default()
            };
            vec![state]
        };
        let now = std::time::Duration::ZERO;
        view.observe_hello(NodeId(1), "one", says(1), now);
        view.observe_hello(NodeId(2), "two", says(0), now);
        assert_eq!(
            violations(&whole(), &view),
            Vec::<String>::new(),
            "one was fenced"
        );
        view.observe_hello(NodeId(2), "two", says(1), now);
        let found = violations(&whole(), &view);
        assert!(
            found[0].contains("say that they lead it under epoch 0:1"),
            "{found:?}"
        );
    }

    #[test]
    fn what_a_procedure_is_at_is_no_violation_while_it_runs() {
        let procedure = GOLDEN.lines().find_map(|line| {
            let (path, value) = line.split_once(' ')?;
            path.contains("/procedure/")
                .then(|| serde_json::from_str::<Value>(value).unwrap())
        });
        let mut procedure = procedure.unwrap();
        procedure["locks"] = json!([{"kind": "table", "id": 1}]);
        let mut entries = whole();
        let table = entries
            .get_mut("/auxo/main/table/00000000000000000001")
            .unwrap();
        table["state"] = json!("dropping");
        entries.remove("/auxo/main/table_name/00000000000000000001/cpu");
        let left = "table/1: Dropping, and no procedure is at it";
        assert_eq!(violations(&entries, &View::default()), [left]);
        let id = ProcedureId(9);
        let keys = Keys::new("main");
        entries.insert(keys.path(&Key::Procedure(id)), procedure);
        entries.insert(keys.path(&Key::Lock(Lock::Table(TableId(1)))), json!(id));
        assert_eq!(violations(&entries, &View::default()), Vec::<String>::new());
    }
}
