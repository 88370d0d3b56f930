//! Every key reads back and is written to the same bytes, and the model follows etcd's changes and
//! shows nodes only what is live.

use auxo_proto::ids::ColumnId;
use serde::Serialize;

use super::values::{Epoch, Incarnation, Role};
use super::*;
use crate::lead;
use crate::model::change::{Change, Write};

/// One of each key with its value, a line each.
const GOLDEN: &str = include_str!("../../testdata/etcd-keys.version-1.txt");

/// A model right after the first start.
pub(crate) fn first_start() -> Model {
    let model = Model::default();
    let change = lead::first_start(&model, "test", "cluster", 1).unwrap();
    change.applied_to(&model)
}

fn entry(value: &str, revision: i64) -> Stored {
    Stored {
        revisions: Revisions {
            create: revision,
            modify: revision,
        },
        value: value.as_bytes().to_vec(),
    }
}

fn golden() -> (Keys, Model, Vec<(Key, String)>) {
    let keys = Keys::new("main");
    let lines = GOLDEN.lines().map(|line| {
        let (path, value) = line.split_once(' ').unwrap();
        let key = keys.parse(path).unwrap_or_else(|| panic!("{path}"));
        assert_eq!(keys.path(&key), path);
        (key, value.to_owned())
    });
    let lines: Vec<(Key, String)> = lines.collect();
    let entries = lines.iter().zip(1..);
    let entries = entries.map(|((key, value), at)| (key.clone(), entry(value, at)));
    let mut model = Model::default();
    model.replace(100, entries.collect());
    (keys, model, lines)
}

/// The key's value in the model, encoded again.
fn encoded(model: &Model, key: &Key) -> String {
    fn json(value: impl Serialize) -> String {
        serde_json::to_string(&value).unwrap()
    }
    match key {
        Key::Format => json(&model.format),
        Key::Identity => json(&model.identity),
        Key::Leader(lease) => json(&model.leaders[lease]),
        Key::Meta(name) => json(&model.metas[name]),
        Key::Next(counter) => json(model.next[counter]),
        Key::Topology => json(&model.topology),
        Key::Node(id) => json(&model.nodes[id]),
        Key::NodeName(name) => json(model.node_names[name]),
        Key::Liveness(id) => json(&model.liveness[id]),
        Key::Tenant(id) => json(&model.tenants[id]),
        Key::TenantName(name) => json(model.tenant_names[name]),
        Key::Database(id) => json(&model.databases[id]),
        Key::DatabaseName(tenant, name) => json(model.database_names[&(*tenant, name.clone())]),
        Key::Table(id) => json(&model.tables[id]),
        Key::TableName(database, name) => json(model.table_names[&(*database, name.clone())]),
        Key::Schema(table, number) => json(&model.schemas[&(*table, *number)]),
        Key::Tablet(table, tablet) => json(&model.tablets[&(*table, *tablet)]),
        Key::Shard(id) => json(&model.shards[id]),
        Key::Lock(lock) => json(model.locks[lock]),
        Key::Procedure(id) => json(&model.procedures[id]),
        Key::Past(id) => json(&model.past[id]),
        Key::Request(key) => json(&model.requests[key]),
    }
}

#[test]
fn golden_values_are_read_and_written_to_the_same_bytes() {
    let (_, model, lines) = golden();
    assert_eq!(model.unreadable, BTreeMap::new());
    for (key, value) in &lines {
        assert_eq!(encoded(&model, key), *value, "{key:?}");
    }
    let shard = &model.shards[&ShardId(2)];
    assert_eq!(shard.epoch, Epoch(1 << 32 | 9));
    assert_eq!(shard.wal.incarnation, Incarnation(0x0cd0_ce5d_f265_12d2));
    assert_eq!(model.shards[&ShardId(1)].replicas[0].role, Role::Leader);
    let info = model.table_info(TableId(3)).unwrap();
    assert_eq!(info.partition.columns, [ColumnId(1)]);
    assert_eq!(info.schema.columns[1].name, "ts");
    assert_eq!(model.node_names["node 7"], NodeId(7));
    assert_eq!(model.next_id(Counter::Procedure), 12);
}

#[test]
fn the_golden_values_make_the_topology_that_nodes_see() {
    let (_, model, _) = golden();
    let topology = model.topology();
    assert_eq!(topology.number, 42);
    assert_eq!(topology.tables.len(), 1);
    assert_eq!(topology.tablets.len(), 2);
    assert_eq!(
        topology.shards.len(),
        1,
        "one that is being made is not shown"
    );
    assert_eq!(topology.nodes[0].public, "10.0.0.7:7000");
}

#[test]
fn fields_of_a_newer_version_are_written_back() {
    let mut model = first_start();
    let value = r#"{"tenant":1,"name":"main","state":"live","colour":{"rgb":[1,2]}}"#;
    let key = Key::Database(DatabaseId(1));
    model.apply(9, vec![(key.clone(), Some(entry(value, 9)))]);
    let mut change = Change::new();
    change.put(key.clone(), &model.databases[&DatabaseId(1)]);
    let Write::Put { value: written, .. } = &change.writes()[&key] else {
        panic!("a put");
    };
    assert_eq!(written, value);
}

#[test]
fn a_value_that_cannot_be_read_is_named_and_counts_as_there() {
    let mut model = first_start();
    let key = Key::Table(TableId(1));
    model.apply(9, vec![(key.clone(), Some(entry("{", 9)))]);
    assert!(model.unreadable[&key].contains("EOF"));
    assert_eq!(model.revisions(&key).unwrap().modify, 9);
    model.apply(10, vec![(key.clone(), None)]);
    assert_eq!(model.unreadable, BTreeMap::new());
    assert_eq!(model.revisions(&key), None);
}

#[test]
fn the_lowest_create_revision_leads() {
    let mut model = first_start();
    let member = |name: &str| format!(r#"{{"name":"{name}","api":"","build":""}}"#);
    let early = Key::Leader(9);
    let campaigns = vec![
        (Key::Leader(3), Some(entry(&member("late"), 12))),
        (early.clone(), Some(entry(&member("early"), 11))),
    ];
    model.apply(12, campaigns);
    assert_eq!(model.leader().unwrap().2.name, "early");
    model.apply(13, vec![(early, None)]);
    let (lease, create, member) = model.leader().unwrap();
    assert_eq!((lease, create, member.name.as_str()), (3, 12, "late"));
}

#[test]
fn a_first_start_happens_once() {
    let model = first_start();
    assert_eq!(lead::first_start(&model, "test", "other", 2), None);
    let (id, database) = model.database(lead::DEFAULT_TENANT, "main").unwrap();
    assert_eq!((id, database.name.as_str()), (DatabaseId(1), "main"));
    assert_eq!(model.next_id(Counter::Database), 2);
}

#[test]
fn a_change_compares_what_it_writes_and_what_it_rests_on() {
    let model = first_start();
    let mut change = Change::new();
    change.rests_on(Key::Identity).rests_on(Key::Topology);
    let number = change.raise_topology(&model);
    assert_eq!(number, 2);
    let compared: Vec<&Key> = change.compared().collect();
    assert_eq!(compared, [&Key::Topology, &Key::Identity]);
}
