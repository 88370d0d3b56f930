//! Steps of making, dropping and altering a table.
//!
//! ```text
//! create  assign {ids, table Creating, name, schema 1, tablets} ⟶ create tablets
//!         → commit {table Live, topology + 1}
//!         undo {table Dropping, name off} ⟶ drop tablets → tidy {keys off}
//! drop    drop {table Dropping, name off, topology + 1}: answered ⟶ drop tablets
//!         → tidy {keys off} → commit
//! alter   schema {schema n + 1} ⟶ create tablets, an upsert → commit {table at n + 1, topology + 1}
//! ```
//!
//! Never here: whether the request was right ([`crate::ddl`]), or where tablets go
//! ([`crate::placement`]).

use std::collections::BTreeMap;
use std::time::Duration;

use auxo_proto::ddl::NewColumn;
use auxo_proto::error::{ErrorCode, Failure};
use auxo_proto::ids::{SchemaNumber, ShardId, TableId, TabletId};
use auxo_proto::pb::meta::order::Verb;
use auxo_proto::pb::meta::{self, CreateTablets, DropTablets};
use auxo_proto::schema::{HashRange, TableInfo, TableOptions};

use super::{
    Around, Beginning, Data, Kind, Move, NewTable, NotYet, Progress, Step, TRIES, Task, lost,
};
use crate::ddl;
use crate::keys::{Counter, Key, Lock};
use crate::model::Model;
use crate::model::change::Change;
use crate::model::values::{
    Done, KeptFailure, Life, Outcome, Procedure, ProcedureState, Schema, Table, Tablet, Unknown,
};
use crate::placement;

/// Tablets written or removed by one txn.
const TABLETS_A_TXN: usize = 100;
/// How long a table waits for shards that are being made, in milliseconds.
const FIRST_SHARDS_MS: i64 = 5_000;
/// Tablets in one order.
const TABLETS_AN_ORDER: usize = 500;

pub(super) fn create(new: &NewTable, model: &Model, around: &Around) -> Result<Beginning, NotYet> {
    let database = Key::Database(new.database);
    if model
        .databases
        .get(&new.database)
        .is_none_or(|database| database.state != Life::Live)
    {
        return Err(Failure::new(ErrorCode::DatabaseNotFound, "the database is gone").into());
    }
    let name = Key::TableName(new.database, new.name.clone());
    let named = model.table_names.get(&(new.database, new.name.clone()));
    if named.is_some_and(|table| is_creating(*table, model)) {
        return Err(NotYet::Later(format!("table {} to be made", new.name)));
    }
    if model.revisions(&name).is_some() {
        let detail = format!("table {} exists already", new.name);
        return Err(Failure::new(ErrorCode::AlreadyExists, detail).into());
    }
    if placement::shards(model).is_empty() {
        return Err(NotYet::Later("a node to serve the first shard".to_owned()));
    }
    // The first table of a new cluster is spread over all its first shards.
    let young = |record: &Procedure| around.now_ms - record.started_ms < FIRST_SHARDS_MS;
    let opening = |record: &Procedure| matches!(record.kind, Kind::OpenShard { shard: None, .. });
    if model
        .procedures
        .values()
        .any(|one| opening(one) && young(one))
    {
        return Err(NotYet::Later("the first shards to be opened".to_owned()));
    }
    let mut change = Change::new();
    let table = TableId(change.take_ids(model, Counter::Table, 1));
    let first = SchemaNumber(1);
    let value = Table {
        database: new.database,
        name: new.name.clone(),
        schema: first,
        partition: new.partition.clone(),
        options: new.options.clone(),
        state: Life::Creating,
        unknown: Unknown::default(),
    };
    let schema = Schema {
        columns: new.columns.clone(),
        made_ms: around.now_ms,
        unknown: Unknown::default(),
    };
    change
        .rests_on(database)
        .put(name, &table)
        .put(Key::Table(table), &value)
        .put(Key::Schema(table, first), &schema)
        .and(more_tablets(table, &new.partition.count, model, around));
    Ok(Beginning {
        change,
        step: Step::Assign,
        data: Data {
            table: Some(table),
            ..Data::default()
        },
        locks: vec![Lock::Table(table)],
    })
}

fn is_creating(table: TableId, model: &Model) -> bool {
    let table = model.tables.get(&table);
    table.is_some_and(|table| table.state == Life::Creating)
}

/// The next tablets of a table that does not have all of them.
fn more_tablets(table: TableId, count: &u32, model: &Model, around: &Around) -> Change {
    let have = model.tablets_of(table).count();
    let ranges = HashRange::tile(*count);
    let ranges: Vec<HashRange> = ranges.into_iter().skip(have).take(TABLETS_A_TXN).collect();
    let shards = placement::place(model, table, ranges.len(), &around.scores);
    let mut change = Change::new();
    let first = change.take_ids(model, Counter::Tablet, ranges.len() as u64);
    for ((range, shard), id) in ranges.into_iter().zip(shards).zip(first..) {
        let tablet = Tablet {
            lo: range.lo,
            hi: range.hi,
            shard,
            unknown: Unknown::default(),
        };
        change.put(Key::Tablet(table, TabletId(id)), &tablet);
    }
    change
}

pub(super) fn go_on_create(
    new: &NewTable,
    record: &Procedure,
    progress: &Progress,
    model: &Model,
    around: &Around,
) -> Move {
    let (Step::Assign, Some(table)) = (record.step, record.data.table) else {
        return lost(record);
    };
    match progress {
        Progress::Entered if model.tablets_of(table).count() < new.partition.count as usize => {
            Move::Write {
                change: more_tablets(table, &new.partition.count, model, around),
                step: Step::Assign,
                state: ProcedureState::Running,
                failure: None,
            }
        }
        Progress::Entered => match model.table_info(table) {
            Some(info) => tell_leaders(info, model, TRIES),
            None => lost(record),
        },
        Progress::Acted => {
            let Some(mut value) = model.tables.get(&table).cloned() else {
                return lost(record);
            };
            value.state = Life::Live;
            let mut change = Change::new();
            let topology = change.raise_topology(model);
            change.put(Key::Table(table), &value);
            Move::End {
                change,
                outcome: Outcome::Done(Done {
                    topology,
                    table: Some(table),
                    database: Some(new.database),
                    ..Done::default()
                }),
            }
        }
        Progress::Failed(failure) => {
            let Some(mut value) = model.tables.get(&table).cloned() else {
                return lost(record);
            };
            value.state = Life::Dropping;
            let mut change = Change::new();
            change
                .put(Key::Table(table), &value)
                .delete(Key::TableName(new.database, new.name.clone()));
            Move::Write {
                change,
                step: Step::Undo,
                state: ProcedureState::Undoing,
                failure: Some(failure.clone()),
            }
        }
    }
}

pub(super) fn undo_create(
    new: &NewTable,
    record: &Procedure,
    progress: &Progress,
    model: &Model,
) -> Move {
    let Some(table) = record.data.table else {
        return lost(record);
    };
    match (record.step, progress) {
        (Step::Undo, Progress::Entered) => drop_tablets(table, model, None),
        (Step::Undo, Progress::Acted) | (Step::Tidy, Progress::Entered) => {
            let failure = record.failure.clone().unwrap_or(KeptFailure {
                code: ErrorCode::Internal.text().to_owned(),
                detail: format!("making table {} failed", new.name),
            });
            tidy(table, record, model, Outcome::Failed(failure))
        }
        (_, Progress::Failed(failure)) => Move::Stick(failure.clone()),
        _ => lost(record),
    }
}

pub(super) fn drop(table: TableId, model: &Model) -> Result<Beginning, NotYet> {
    if is_creating(table, model) {
        return Err(NotYet::Later(format!("table {table} to be made")));
    }
    let found = model.tables.get(&table);
    let Some(mut value) = found.filter(|table| table.state == Life::Live).cloned() else {
        let detail = format!("there is no table with the id {table}");
        return Err(Failure::new(ErrorCode::TableNotFound, detail).into());
    };
    let name = Key::TableName(value.database, value.name.clone());
    value.state = Life::Dropping;
    let mut change = Change::new();
    let topology = change.raise_topology(model);
    change.put(Key::Table(table), &value).delete(name);
    Ok(Beginning {
        change,
        step: Step::Drop,
        data: Data {
            table: Some(table),
            topology: Some(topology),
            ..Data::default()
        },
        locks: vec![Lock::Table(table)],
    })
}

pub(super) fn go_on_drop(
    table: TableId,
    record: &Procedure,
    progress: &Progress,
    model: &Model,
) -> Move {
    match (record.step, progress) {
        (Step::Drop, Progress::Entered) => drop_tablets(table, model, None),
        (Step::Drop, Progress::Acted) | (Step::Tidy, Progress::Entered) => {
            let done = Done {
                topology: record.data.topology.unwrap_or_default(),
                ..Done::default()
            };
            tidy(table, record, model, Outcome::Done(done))
        }
        (_, Progress::Failed(failure)) => Move::Stick(failure.clone()),
        _ => lost(record),
    }
}

/// Removes the keys of a table, its tablets first, and ends with the last of them.
fn tidy(table: TableId, record: &Procedure, model: &Model, outcome: Outcome) -> Move {
    let tablets = model
        .tablets_of(table)
        .map(|(id, _)| Key::Tablet(table, id));
    let schemas = model
        .schemas_of(table)
        .map(|number| Key::Schema(table, number));
    let keys: Vec<Key> = tablets.chain(schemas).collect();
    let mut change = Change::new();
    for key in keys.iter().take(TABLETS_A_TXN) {
        change.delete(key.clone());
    }
    if keys.len() > TABLETS_A_TXN {
        return Move::Write {
            change,
            step: Step::Tidy,
            state: record.state,
            failure: record.failure.clone(),
        };
    }
    change.delete(Key::Table(table));
    Move::End { change, outcome }
}

pub(super) fn alter(
    table: TableId,
    columns: &[NewColumn],
    options: bool,
    model: &Model,
    around: &Around,
) -> Result<Beginning, NotYet> {
    let info = model.table_info(table);
    let live = model
        .tables
        .get(&table)
        .is_some_and(|table| table.state == Life::Live);
    let Some(info) = info.filter(|_| live) else {
        let detail = format!("there is no table with the id {table}");
        return Err(Failure::new(ErrorCode::TableNotFound, detail).into());
    };
    if columns.is_empty() && !options {
        return Err(NotYet::Satisfied(Done {
            topology: model.topology_number(),
            table: Some(table),
            database: Some(info.database),
            ..Done::default()
        }));
    }
    let schema = ddl::with_columns(&info.schema, columns)?;
    let value = Schema {
        columns: schema.columns,
        made_ms: around.now_ms,
        unknown: Unknown::default(),
    };
    let mut change = Change::new();
    change
        .rests_on(Key::Table(table))
        .put(Key::Schema(table, schema.number), &value);
    Ok(Beginning {
        change,
        step: Step::Schema,
        data: Data {
            table: Some(table),
            schema: Some(schema.number),
            ..Data::default()
        },
        locks: vec![Lock::Table(table)],
    })
}

pub(super) fn go_on_alter(
    table: TableId,
    options: Option<&TableOptions>,
    record: &Procedure,
    progress: &Progress,
    model: &Model,
) -> Move {
    let (Step::Schema, Some(number)) = (record.step, record.data.schema) else {
        return lost(record);
    };
    match progress {
        Progress::Entered => {
            let Some(mut info) = model.table_at(table, number) else {
                return lost(record);
            };
            if let Some(options) = options {
                info.options = options.clone();
            }
            tell_leaders(&info, model, None)
        }
        Progress::Acted => {
            let Some(mut value) = model.tables.get(&table).cloned() else {
                return lost(record);
            };
            value.schema = number;
            if let Some(options) = options {
                value.options = options.clone();
            }
            let mut change = Change::new();
            let topology = change.raise_topology(model);
            change.put(Key::Table(table), &value);
            Move::End {
                change,
                outcome: Outcome::Done(Done {
                    topology,
                    table: Some(table),
                    database: Some(value.database),
                    ..Done::default()
                }),
            }
        }
        Progress::Failed(failure) => Move::Stick(failure.clone()),
    }
}

/// Orders that make the table's tablets, or bring them to this schema.
///
/// * tries: none where nothing can be undone: it is tried until a log that was away for long is back.
fn tell_leaders(info: &TableInfo, model: &Model, tries: Option<u32>) -> Move {
    let tables = serde_json::to_vec(&[info])
        .unwrap_or_else(|error| unreachable!("a table is plain data: {error}"));
    let tables = bytes::Bytes::from(tables);
    let verb = |tablets| {
        Verb::CreateTablets(CreateTablets {
            tables: tables.clone(),
            tablets,
        })
    };
    Move::Order {
        tasks: tasks(info.id, model, verb),
        after: Duration::ZERO,
        tries,
    }
}

fn drop_tablets(table: TableId, model: &Model, tries: Option<u32>) -> Move {
    Move::Order {
        tasks: tasks(table, model, |tablets| {
            Verb::DropTablets(DropTablets { tablets })
        }),
        after: Duration::ZERO,
        tries,
    }
}

/// One task for each shard that has tablets of the table, and for each 500 of them.
fn tasks(table: TableId, model: &Model, verb: impl Fn(Vec<meta::Tablet>) -> Verb) -> Vec<Task> {
    let mut by_shard: BTreeMap<ShardId, Vec<meta::Tablet>> = BTreeMap::new();
    for (id, tablet) in model.tablets_of(table) {
        by_shard
            .entry(tablet.shard)
            .or_default()
            .push(meta::Tablet {
                id: id.0,
                table: table.0,
                lo: tablet.lo,
                hi: tablet.hi,
            });
    }
    let mut tasks = Vec::new();
    for (shard, tablets) in by_shard {
        let value = model.shards.get(&shard);
        for (part, tablets) in tablets.chunks(TABLETS_AN_ORDER).enumerate() {
            tasks.push(Task {
                target: match part {
                    0 => shard.to_string(),
                    part => format!("{shard}-{part}"),
                },
                node: value.and_then(|shard| shard.leader),
                shard,
                epoch: value.map_or(0, |shard| shard.epoch.0),
                verb: verb(tablets.to_vec()),
            });
        }
    }
    tasks
}
