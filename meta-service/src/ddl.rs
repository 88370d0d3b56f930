//! Checks a change that a user asks for against the model, and says how it is carried out.
//!
//! Pure: names become ids, columns get ids and places, and what cannot be is refused with a
//! sentence for the user.
//!
//! Never here: a write.

use auxo_proto::ddl::{Ddl, DdlRequest, NewColumn};
use auxo_proto::error::{ErrorCode, Failure};
use auxo_proto::ids::{ColumnId, DatabaseId, SchemaNumber, TableId, TenantId};
use auxo_proto::schema::{
    COLUMNS_MAX, Column, ColumnKind, NAME_BYTES_MAX, Partition, TableInfo, TableOptions,
    TableSchema,
};

use crate::keys::{Counter, Key};
use crate::lead::DEFAULT_DATABASE;
use crate::model::Model;
use crate::model::change::Change;
use crate::model::values::{Database, Done, Life, Unknown};
use crate::procedure::{Kind, NewTable};

/// Tablets of a new table.
pub const PARTITIONS_MAX: u32 = 1_024;
/// Segments are whole hours.
const HOUR_MS: u64 = 3_600_000;

/// How a change is carried out.
#[derive(Clone, Debug, PartialEq)]
pub enum Plan {
    /// By a procedure.
    Procedure(Kind),
    /// By one txn.
    Txn(Change, Done),
    /// It is so already.
    Satisfied(Done),
}

/// Checks a request and says how it is carried out.
pub fn plan(request: &DdlRequest, model: &Model) -> Result<Plan, Failure> {
    let tenant = request.tenant;
    if model.identity.is_none() {
        let detail = "the cluster is being made";
        return Err(Failure::new(ErrorCode::MetaUnavailable, detail));
    }
    match &request.ddl {
        Ddl::CreateDatabase {
            name,
            if_not_exists,
        } => create_database(tenant, name, *if_not_exists, model),
        Ddl::DropDatabase { name, if_exists } => match model.database(tenant, name) {
            Some(_) if name == DEFAULT_DATABASE => {
                let detail = format!("database {name} is where names without a database lead");
                Err(Failure::new(ErrorCode::NotAllowed, detail))
            }
            Some((database, _)) => Ok(Plan::Procedure(Kind::DropDatabase { database })),
            None if *if_exists => Ok(satisfied(model, None, None)),
            None => Err(no_database(name)),
        },
        Ddl::CreateTable {
            table,
            if_not_exists,
        } => {
            let (database, _) = model
                .database(tenant, &table.database)
                .ok_or_else(|| no_database(&table.database))?;
            let existing = model.table_names.get(&(database, table.name.clone()));
            if let Some(existing) = existing
                && *if_not_exists
                && is_live(model, *existing)
            {
                return Ok(satisfied(model, Some(*existing), Some(database)));
            }
            let columns = numbered(&table.columns);
            let schema = checked(SchemaNumber(1), columns)?;
            check_name("table", &table.name)?;
            check_options(&table.options)?;
            let partition = partition(&schema, &table.partition_by, table.partitions)?;
            Ok(Plan::Procedure(Kind::CreateTable(NewTable {
                database,
                name: table.name.clone(),
                columns: schema.columns,
                partition,
                options: table.options.clone(),
            })))
        }
        Ddl::DropTable {
            database,
            name,
            if_exists,
        } => {
            let (id, _) = model
                .database(tenant, database)
                .ok_or_else(|| no_database(database))?;
            match model.table_names.get(&(id, name.clone())) {
                Some(table) => Ok(Plan::Procedure(Kind::DropTable { table: *table })),
                None if *if_exists => Ok(satisfied(model, None, Some(id))),
                None => {
                    let detail = format!("there is no table {name} in database {database}");
                    Err(Failure::new(ErrorCode::TableNotFound, detail))
                }
            }
        }
        Ddl::AddColumns {
            table,
            columns,
            if_not_exists,
        } => {
            let info = owned(tenant, *table, model)?;
            let columns = missing(&info.schema, columns, *if_not_exists)?;
            if columns.is_empty() {
                return Ok(satisfied(model, Some(*table), Some(info.database)));
            }
            with_columns(&info.schema, &columns)?;
            Ok(Plan::Procedure(Kind::AlterTable {
                table: *table,
                columns,
                options: None,
            }))
        }
        Ddl::SetOptions { table, options } => {
            let info = owned(tenant, *table, model)?;
            check_options(options)?;
            if info.options.merge_mode != options.merge_mode {
                let detail = format!(
                    "merge_mode of table {} cannot change: rows that are stored were merged as {}",
                    info.name,
                    info.options.merge_mode.name()
                );
                return Err(Failure::new(ErrorCode::Unsupported, detail)
                    .hint("make another table and INSERT INTO it SELECT from this one"));
            }
            if info.options.segment_ms != options.segment_ms {
                let detail = format!(
                    "segment_duration of table {} cannot change: rows that are stored lie in segments of the one \
                     it has",
                    info.name
                );
                return Err(Failure::new(ErrorCode::Unsupported, detail)
                    .hint("make another table and INSERT INTO it SELECT from this one"));
            }
            if info.options == *options {
                return Ok(satisfied(model, Some(*table), Some(info.database)));
            }
            Ok(Plan::Procedure(Kind::AlterTable {
                table: *table,
                columns: Vec::new(),
                options: Some(options.clone()),
            }))
        }
    }
}

fn create_database(
    tenant: TenantId,
    name: &str,
    if_not_exists: bool,
    model: &Model,
) -> Result<Plan, Failure> {
    check_name("database", name)?;
    let live = model
        .tenants
        .get(&tenant)
        .is_some_and(|tenant| tenant.state == Life::Live);
    if !live {
        let detail = format!("there is no tenant with the id {tenant}");
        return Err(Failure::new(ErrorCode::NotFound, detail));
    }
    match model.database(tenant, name) {
        Some((database, _)) if if_not_exists => {
            return Ok(satisfied(model, None, Some(database)));
        }
        Some(_) => {
            let detail = format!("database {name} exists already");
            return Err(Failure::new(ErrorCode::AlreadyExists, detail));
        }
        None => {}
    }
    let mut change = Change::new();
    let database = DatabaseId(change.take_ids(model, Counter::Database, 1));
    let value = Database {
        tenant,
        name: name.to_owned(),
        state: Life::Live,
        unknown: Unknown::default(),
    };
    change
        .rests_on(Key::Tenant(tenant))
        .put(Key::Database(database), &value)
        .put(Key::DatabaseName(tenant, name.to_owned()), &database);
    let topology = change.raise_topology(model);
    let done = Done {
        topology,
        database: Some(database),
        ..Done::default()
    };
    Ok(Plan::Txn(change, done))
}

fn satisfied(model: &Model, table: Option<TableId>, database: Option<DatabaseId>) -> Plan {
    Plan::Satisfied(Done {
        topology: model.topology_number(),
        table,
        database,
        ..Done::default()
    })
}

/// The schema with more columns: tags behind its last tag, fields behind its last column.
///
/// * errors: the failure for the user, naming the column.
pub fn with_columns(schema: &TableSchema, columns: &[NewColumn]) -> Result<TableSchema, Failure> {
    let mut all = schema.columns.clone();
    for (id, column) in (schema.next_column_id().0..).zip(columns) {
        if column.kind == ColumnKind::Time {
            let detail = format!("column {} cannot be a second time column", column.name);
            return Err(Failure::new(ErrorCode::Plan, detail));
        }
        if column.kind == ColumnKind::Field && !column.nullable {
            let detail = format!(
                "column {} must be nullable, older rows do not have it",
                column.name
            );
            return Err(Failure::new(ErrorCode::Plan, detail));
        }
        let column = Column {
            id: ColumnId(id),
            name: column.name.clone(),
            kind: column.kind,
            ty: column.ty,
            nullable: column.nullable,
        };
        let last_tag = all.iter().rposition(|other| other.kind == ColumnKind::Tag);
        match (column.kind, last_tag) {
            (ColumnKind::Tag, Some(last)) => all.insert(last + 1, column),
            (ColumnKind::Tag, None) => all.insert(0, column),
            _ => all.push(column),
        }
    }
    checked(SchemaNumber(schema.number.0 + 1), all)
}

/// The columns that the schema does not have.
fn missing(
    schema: &TableSchema,
    columns: &[NewColumn],
    if_not_exists: bool,
) -> Result<Vec<NewColumn>, Failure> {
    let mut missing = Vec::new();
    for column in columns {
        match schema.by_name(&column.name) {
            None => missing.push(column.clone()),
            Some(_) if !if_not_exists => {
                let detail = format!("column {} exists already", column.name);
                return Err(Failure::new(ErrorCode::AlreadyExists, detail));
            }
            Some(there) if (there.kind, there.ty) != (column.kind, column.ty) => {
                let detail = format!(
                    "column {} exists already as {} {}, not as {} {}",
                    column.name,
                    kind_name(there.kind),
                    there.ty,
                    kind_name(column.kind),
                    column.ty
                );
                return Err(Failure::new(ErrorCode::TypeMismatch, detail));
            }
            Some(_) => {}
        }
    }
    Ok(missing)
}

fn kind_name(kind: ColumnKind) -> &'static str {
    match kind {
        ColumnKind::Tag => "tag",
        ColumnKind::Time => "time",
        ColumnKind::Field => "field",
    }
}

/// The columns of a new table, with ids from 1 and tags always nullable.
fn numbered(columns: &[NewColumn]) -> Vec<Column> {
    columns
        .iter()
        .zip(1..)
        .map(|(column, id)| Column {
            id: ColumnId(id),
            name: column.name.clone(),
            kind: column.kind,
            ty: column.ty,
            nullable: column.nullable || column.kind == ColumnKind::Tag,
        })
        .collect()
}

fn checked(number: SchemaNumber, columns: Vec<Column>) -> Result<TableSchema, Failure> {
    if columns.len() > COLUMNS_MAX {
        let detail = format!(
            "{} columns are above the limit of {COLUMNS_MAX}",
            columns.len()
        );
        return Err(Failure::new(ErrorCode::Plan, detail));
    }
    let schema = TableSchema { number, columns };
    match schema.check() {
        Ok(()) => Ok(schema),
        Err(detail) => Err(Failure::new(ErrorCode::Plan, detail)),
    }
}

fn check_name(what: &str, name: &str) -> Result<(), Failure> {
    if name.is_empty() || name.len() > NAME_BYTES_MAX || name.chars().any(char::is_control) {
        let detail = format!(
            "{what} name {name:?} is empty, above {NAME_BYTES_MAX} bytes or holds a control character"
        );
        return Err(Failure::new(ErrorCode::Plan, detail));
    }
    Ok(())
}

fn check_options(options: &TableOptions) -> Result<(), Failure> {
    if options.ttl_ms == Some(0) {
        return Err(Failure::new(ErrorCode::Plan, "ttl must be above zero"));
    }
    if let Some(segment) = options.segment_ms
        && (segment == 0 || segment % HOUR_MS != 0)
    {
        let detail = "segment_duration must be a whole number of hours";
        return Err(Failure::new(ErrorCode::Plan, detail));
    }
    Ok(())
}

fn partition(schema: &TableSchema, by: &[String], count: u32) -> Result<Partition, Failure> {
    let refuse = |detail: String| Err(Failure::new(ErrorCode::Plan, detail));
    if count == 0 || count > PARTITIONS_MAX {
        return refuse(format!(
            "{count} partitions are not between 1 and {PARTITIONS_MAX}"
        ));
    }
    if by.is_empty() && count > 1 {
        return refuse(format!("{count} partitions need tags to be spread by"));
    }
    let mut columns = Vec::new();
    for name in by {
        match schema.by_name(name) {
            None => {
                let detail = format!("there is no column {name} to partition by");
                return Err(Failure::new(ErrorCode::ColumnNotFound, detail));
            }
            Some(column) if column.kind != ColumnKind::Tag => {
                return refuse(format!("column {name} is no tag, only tags partition"));
            }
            Some(column) if columns.contains(&column.id) => {
                return refuse(format!("column {name} is named twice in the partitioning"));
            }
            Some(column) => columns.push(column.id),
        }
    }
    Ok(Partition { columns, count })
}

fn owned(
    tenant: TenantId,
    table: TableId,
    model: &Model,
) -> Result<std::sync::Arc<TableInfo>, Failure> {
    let info = model
        .table_info(table)
        .filter(|info| info.tenant == tenant && is_live(model, table));
    info.cloned().ok_or_else(|| {
        let detail = format!("there is no table with the id {table}");
        Failure::new(ErrorCode::TableNotFound, detail)
    })
}

fn is_live(model: &Model, table: TableId) -> bool {
    model
        .tables
        .get(&table)
        .is_some_and(|table| table.state == Life::Live)
}

fn no_database(name: &str) -> Failure {
    let detail = format!("there is no database {name}");
    Failure::new(ErrorCode::DatabaseNotFound, detail)
}

#[cfg(test)]
mod tests;
