//! Steps of dropping a database: out of sight at once, its tables by child procedures.
//!
//! ```text
//! drop {database Dropping, name off, topology + 1}: answered ⟶ drop table, each a child
//!      → commit {key off}
//! ```
//!
//! Never here: how a table is dropped.

use auxo_proto::error::{ErrorCode, Failure};
use auxo_proto::ids::DatabaseId;

use super::{Beginning, Data, Kind, Move, NotYet, Step};
use crate::keys::{Key, Lock};
use crate::model::Model;
use crate::model::change::Change;
use crate::model::values::{Done, Life, Outcome, Procedure};

/// Children begun at once.
const CHILDREN_MAX: usize = 64;

pub(super) fn drop(database: DatabaseId, model: &Model) -> Result<Beginning, NotYet> {
    let found = model.databases.get(&database);
    let Some(mut value) = found.filter(|found| found.state == Life::Live).cloned() else {
        let detail = format!("there is no database with the id {database}");
        return Err(Failure::new(ErrorCode::DatabaseNotFound, detail).into());
    };
    let name = Key::DatabaseName(value.tenant, value.name.clone());
    value.state = Life::Dropping;
    let mut change = Change::new();
    let topology = change.raise_topology(model);
    change.put(Key::Database(database), &value).delete(name);
    Ok(Beginning {
        change,
        step: Step::Drop,
        data: Data {
            topology: Some(topology),
            ..Data::default()
        },
        locks: vec![Lock::Database(database)],
    })
}

pub(super) fn go_on_drop(database: DatabaseId, record: &Procedure, model: &Model) -> Move {
    let mut tables = model
        .tables
        .iter()
        .filter(|(_, table)| table.database == database)
        .peekable();
    if tables.peek().is_none() {
        let mut change = Change::new();
        change.delete(Key::Database(database));
        return Move::End {
            change,
            outcome: Outcome::Done(Done {
                topology: record.data.topology.unwrap_or_default(),
                ..Done::default()
            }),
        };
    }
    // Tables that another procedure holds are taken up when it has ended.
    let start = tables
        .filter(|(id, table)| {
            table.state == Life::Live && !model.locks.contains_key(&Lock::Table(**id))
        })
        .map(|(id, _)| Kind::DropTable { table: *id })
        .take(CHILDREN_MAX)
        .collect();
    Move::Await { start }
}
