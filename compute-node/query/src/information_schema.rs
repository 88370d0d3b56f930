//! `information_schema`: the tenant's catalogue as tables, made anew for each statement.
//!
//! `table_catalog` is always [`CATALOG`], `table_schema` is the database. Only what the tenant owns
//! is in it; nothing says where anything lies.

use std::sync::Arc;

use auxo_proto::error::{ErrorCode, Failure};
use auxo_proto::schema::{ColumnKind, TableInfo};
use auxo_proto::topology::DatabaseInfo;
use datafusion::arrow::array::{ArrayRef, RecordBatch, StringArray, UInt64Array};
use datafusion::arrow::datatypes::{DataType, Field, Schema};
use datafusion::common::Result;
use datafusion::datasource::MemTable;
use datafusion::error::DataFusionError;

use crate::hints::did_you_mean;
use crate::names::Names;

/// Name of the schema in statements.
pub(crate) const NAME: &str = "information_schema";

/// The one catalogue.
const CATALOG: &str = "auxo";

/// Its tables.
const TABLES: [&str; 4] = ["schemata", "tables", "columns", "views"];

/// One of its tables.
pub(crate) fn table(names: &Names<'_>, table: &str) -> Result<MemTable> {
    let batch = match table {
        "schemata" => schemata(names)?,
        "tables" => tables(names)?,
        "columns" => columns(names)?,
        "views" => views()?,
        _ => {
            let failure = Failure::new(
                ErrorCode::TableNotFound,
                format!("{NAME} has no table {table}"),
            );
            let failure = match did_you_mean(table, TABLES) {
                Some(hint) => failure.hint(hint),
                None => failure.hint(format!("{NAME} has {}", TABLES.join(", "))),
            };
            return Err(DataFusionError::External(Box::new(failure)));
        }
    };
    memory(batch)
}

/// A table of these rows.
pub(crate) fn memory(batch: RecordBatch) -> Result<MemTable> {
    MemTable::try_new(batch.schema(), vec![vec![batch]])
}

/// The tenant's databases by name.
pub(crate) fn databases<'n>(names: &'n Names<'_>) -> Vec<&'n DatabaseInfo> {
    let mut databases: Vec<_> = names.catalog.databases(names.tenant).collect();
    databases.sort_by(|a, b| a.name.cmp(&b.name));
    databases
}

/// A database's tables by name.
pub(crate) fn tables_of<'n>(
    names: &'n Names<'_>,
    database: &DatabaseInfo,
) -> Vec<&'n Arc<TableInfo>> {
    let mut tables: Vec<_> = names.catalog.tables(database.id).collect();
    tables.sort_by(|a, b| a.name.cmp(&b.name));
    tables
}

/// Rows of texts under the given column names.
pub(crate) fn texts<const N: usize>(
    names: [&str; N],
    rows: impl IntoIterator<Item = [Option<String>; N]>,
) -> Result<RecordBatch> {
    let mut columns: [Vec<Option<String>>; N] = std::array::from_fn(|_| Vec::new());
    for row in rows {
        for (column, value) in columns.iter_mut().zip(row) {
            column.push(value);
        }
    }
    let fields = names.map(|name| Field::new(name, DataType::Utf8, true));
    let columns = columns.map(|column| Arc::new(StringArray::from(column)) as ArrayRef);
    Ok(RecordBatch::try_new(
        Arc::new(Schema::new(fields.to_vec())),
        columns.to_vec(),
    )?)
}

fn some(text: impl Into<String>) -> Option<String> {
    Some(text.into())
}

fn schemata(names: &Names<'_>) -> Result<RecordBatch> {
    let mut schemas: Vec<String> = databases(names)
        .iter()
        .map(|known| known.name.clone())
        .collect();
    schemas.push(NAME.into());
    let rows = schemas
        .into_iter()
        .map(|name| [some(CATALOG), Some(name), None]);
    texts(["catalog_name", "schema_name", "schema_owner"], rows)
}

fn tables(names: &Names<'_>) -> Result<RecordBatch> {
    let mut rows = Vec::new();
    for database in databases(names) {
        for table in tables_of(names, database) {
            let merge_mode = table.options.merge_mode.name();
            rows.push([
                some(CATALOG),
                some(&database.name),
                some(&table.name),
                some("BASE TABLE"),
                some(merge_mode),
            ]);
        }
    }
    for table in TABLES {
        let (schema, name) = (some(NAME), some(table));
        rows.push([some(CATALOG), schema, name, some("SYSTEM VIEW"), None]);
    }
    texts(
        [
            "table_catalog",
            "table_schema",
            "table_name",
            "table_type",
            "merge_mode",
        ],
        rows,
    )
}

/// What a column is for, in one word.
pub(crate) fn semantic(kind: ColumnKind) -> &'static str {
    match kind {
        ColumnKind::Tag => "tag",
        ColumnKind::Time => "time",
        ColumnKind::Field => "field",
    }
}

fn columns(names: &Names<'_>) -> Result<RecordBatch> {
    let mut rows = Vec::new();
    let mut places: Vec<u64> = Vec::new();
    for database in databases(names) {
        for table in tables_of(names, database) {
            for (column, place) in table.schema.columns.iter().zip(1..) {
                places.push(place);
                rows.push([
                    some(CATALOG),
                    some(&database.name),
                    some(&table.name),
                    some(&column.name),
                    None,
                    some(if column.nullable { "YES" } else { "NO" }),
                    some(column.ty.to_string()),
                    some(semantic(column.kind)),
                ]);
            }
        }
    }
    let texts = texts(
        [
            "table_catalog",
            "table_schema",
            "table_name",
            "column_name",
            "column_default",
            "is_nullable",
            "data_type",
            "semantic_type",
        ],
        rows,
    )?;
    let mut fields = texts.schema().fields().to_vec();
    let mut arrays = texts.columns().to_vec();
    let place = Field::new("ordinal_position", DataType::UInt64, false);
    fields.insert(4, Arc::new(place));
    arrays.insert(4, Arc::new(UInt64Array::from(places)));
    Ok(RecordBatch::try_new(Arc::new(Schema::new(fields)), arrays)?)
}

fn views() -> Result<RecordBatch> {
    texts(
        ["table_catalog", "table_schema", "table_name", "definition"],
        [],
    )
}
