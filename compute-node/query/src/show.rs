//! SHOW and DESCRIBE: the catalogue as small tables.
//!
//! ```text
//! SHOW DATABASES [LIKE 'pattern']              SHOW TABLES [FROM d] [LIKE 'pattern']
//! SHOW COLUMNS FROM [d.]t                      DESCRIBE [d.]t
//! SHOW CREATE TABLE [d.]t                      SHOW CREATE DATABASE d
//! ```

use std::fmt::Write;
use std::sync::Arc;

use auxo_proto::error::{ErrorCode, Failure};
use auxo_proto::schema::{ColumnKind, ColumnType, TableInfo, TimeUnit};
use datafusion::arrow::array::RecordBatch;
use datafusion::common::{Result, TableReference};
use datafusion::datasource::provider_as_source;
use datafusion::error::DataFusionError;
use datafusion::logical_expr::{LogicalPlan, LogicalPlanBuilder, col, lit};

use crate::cursor::Cursor;
use crate::hints::quoted_if_needed;
use crate::information_schema::{databases, memory, semantic, tables_of, texts};
use crate::names::Names;

/// Plans a statement that begins with SHOW, DESCRIBE or DESC.
pub(crate) fn plan(cursor: &mut Cursor<'_>, names: &Names<'_>) -> Result<LogicalPlan, Failure> {
    let internal = |error: DataFusionError| Failure::new(ErrorCode::Internal, error.to_string());
    let (batch, pattern) = if cursor.takes("SHOW DATABASES") || cursor.takes("SHOW SCHEMAS") {
        let rows = databases(names)
            .into_iter()
            .map(|known| [Some(known.name.clone())]);
        (texts(["database"], rows), like(cursor)?)
    } else if cursor.takes("SHOW TABLES") {
        let database = if cursor.takes("FROM") || cursor.takes("IN") {
            let place = cursor.position();
            let name = cursor.name("the name of a database")?;
            names.database(&name).map_err(|failure| failure.at(place))?
        } else {
            names.database(names.database)?
        };
        let rows = tables_of(names, database)
            .into_iter()
            .map(|known| [Some(known.name.clone())]);
        (texts(["table"], rows), like(cursor)?)
    } else if cursor.takes("SHOW COLUMNS") || cursor.takes("SHOW FIELDS") {
        if !cursor.takes("FROM") {
            cursor.word("IN")?;
        }
        (describe(table(cursor, names)?.as_ref()), like(cursor)?)
    } else if cursor.takes("SHOW CREATE DATABASE") {
        let place = cursor.position();
        let name = cursor.name("the name of a database")?;
        let known = names.database(&name).map_err(|failure| failure.at(place))?;
        let sql = format!("CREATE DATABASE {}", quoted_if_needed(&known.name));
        let row = [Some(known.name.clone()), Some(sql)];
        (texts(["database", "create_database"], [row]), None)
    } else if cursor.takes("SHOW CREATE TABLE") {
        let table = table(cursor, names)?;
        let row = [Some(table.name.clone()), Some(create_table(&table))];
        (texts(["table", "create_table"], [row]), None)
    } else if cursor.takes("DESCRIBE TABLE")
        || cursor.takes("DESC TABLE")
        || cursor.takes("DESCRIBE")
        || cursor.takes("DESC")
    {
        (describe(table(cursor, names)?.as_ref()), None)
    } else {
        let failure = cursor.failure(ErrorCode::Unsupported, "this SHOW is not supported");
        let hint = "SHOW can list DATABASES, TABLES, COLUMNS FROM t and CREATE TABLE t";
        return Err(failure.hint(hint));
    };
    cursor.done()?;
    let batch = batch.map_err(internal)?;
    of_rows(batch, pattern).map_err(internal)
}

fn like(cursor: &mut Cursor<'_>) -> Result<Option<String>, Failure> {
    if !cursor.takes("LIKE") {
        return Ok(None);
    }
    match cursor.takes_text() {
        Some(pattern) => Ok(Some(pattern)),
        None => Err(cursor.expected("a pattern in quotes")),
    }
}

/// A plan that yields the rows whose first column is like the pattern.
fn of_rows(batch: RecordBatch, pattern: Option<String>) -> Result<LogicalPlan> {
    let first = batch.schema().field(0).name().clone();
    let source = provider_as_source(Arc::new(memory(batch)?));
    let rows = LogicalPlanBuilder::scan("catalogue", source, None)?;
    match pattern {
        Some(pattern) => rows.filter(col(first).like(lit(pattern)))?.build(),
        None => rows.build(),
    }
}

fn table(cursor: &mut Cursor<'_>, names: &Names<'_>) -> Result<Arc<TableInfo>, Failure> {
    let place = cursor.position();
    let parts = cursor.names("the name of a table")?;
    let name = match parts.as_slice() {
        [table] => TableReference::bare(table.as_str()),
        [database, table] => TableReference::partial(database.as_str(), table.as_str()),
        _ => {
            let detail = "a table is named table or database.table";
            return Err(Failure::new(ErrorCode::Parse, detail).at(place));
        }
    };
    match names.table(&name) {
        Ok(table) => Ok(Arc::clone(table)),
        Err(failure) => Err(failure.at(place)),
    }
}

fn describe(table: &TableInfo) -> Result<RecordBatch> {
    let rows = table.schema.columns.iter().map(|column| {
        [
            Some(column.name.clone()),
            Some(column.ty.to_string()),
            Some(if column.nullable { "YES" } else { "NO" }.into()),
            Some(semantic(column.kind).into()),
        ]
    });
    texts(["column", "type", "nullable", "semantic"], rows)
}

/// The type as CREATE TABLE takes it.
fn ddl_type(ty: ColumnType) -> String {
    let fixed = match ty {
        ColumnType::Bool => "BOOLEAN",
        ColumnType::Int8 => "TINYINT",
        ColumnType::Int16 => "SMALLINT",
        ColumnType::Int32 => "INTEGER",
        ColumnType::Int64 => "BIGINT",
        ColumnType::UInt8 => "TINYINT UNSIGNED",
        ColumnType::UInt16 => "SMALLINT UNSIGNED",
        ColumnType::UInt32 => "INTEGER UNSIGNED",
        ColumnType::UInt64 => "BIGINT UNSIGNED",
        ColumnType::Float32 => "REAL",
        ColumnType::Float64 => "DOUBLE",
        ColumnType::String => "STRING",
        ColumnType::Binary => "BINARY",
        ColumnType::Date => "DATE",
        ColumnType::Timestamp(TimeUnit::Second) => "TIMESTAMP(0)",
        ColumnType::Timestamp(TimeUnit::Millisecond) => "TIMESTAMP(3)",
        ColumnType::Timestamp(TimeUnit::Microsecond) => "TIMESTAMP(6)",
        ColumnType::Timestamp(TimeUnit::Nanosecond) => "TIMESTAMP(9)",
        ColumnType::Decimal { precision, scale } => {
            return format!("DECIMAL({precision}, {scale})");
        }
    };
    fixed.into()
}

/// A statement that makes the same table.
fn create_table(table: &TableInfo) -> String {
    let mut sql = format!("CREATE TABLE {} (\n", quoted_if_needed(&table.name));
    // Writing into a String cannot fail.
    for column in &table.schema.columns {
        let name = quoted_if_needed(&column.name);
        let _ = write!(sql, "  {name} {}", ddl_type(column.ty));
        match column.kind {
            ColumnKind::Tag => sql.push_str(" TAG"),
            _ if !column.nullable => sql.push_str(" NOT NULL"),
            _ => {}
        }
        sql.push_str(",\n");
    }
    let time = table.schema.time().map_or("", |time| time.name.as_str());
    let _ = write!(sql, "  TIMESTAMP KEY ({})\n)", quoted_if_needed(time));
    let tags: Vec<String> = table
        .partition
        .columns
        .iter()
        .filter_map(|&id| table.schema.by_id(id))
        .map(|tag| quoted_if_needed(&tag.name))
        .collect();
    if !tags.is_empty() {
        let count = table.partition.count;
        let _ = write!(
            sql,
            " PARTITION BY HASH ({}) PARTITIONS {count}",
            tags.join(", ")
        );
    }
    let options = &table.options;
    let _ = write!(sql, " WITH (merge_mode = '{}'", options.merge_mode.name());
    if let Some(ms) = options.ttl_ms {
        let _ = write!(sql, ", ttl = '{}'", length(ms));
    }
    if let Some(ms) = options.segment_ms {
        let _ = write!(sql, ", segment_duration = '{}'", length(ms));
    }
    sql.push(')');
    sql
}

/// Milliseconds in the largest unit that divides them.
fn length(ms: u64) -> String {
    let units = [
        ("d", 86_400_000),
        ("h", 3_600_000),
        ("m", 60_000),
        ("s", 1_000),
    ];
    match units.iter().find(|(_, each)| ms.is_multiple_of(*each)) {
        Some((unit, each)) => format!("{}{unit}", ms / each),
        None => format!("{ms}ms"),
    }
}
