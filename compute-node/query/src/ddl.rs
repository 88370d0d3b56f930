//! CREATE, DROP and ALTER: words into changes of the model, which meta carries out.
//!
//! ```text
//! CREATE DATABASE [IF NOT EXISTS] d            DROP DATABASE [IF EXISTS] d
//! CREATE TABLE [IF NOT EXISTS] [d.]t (
//!     name type [TAG] [NULL | NOT NULL], ...,
//!     TIMESTAMP KEY (name) | PRIMARY KEY (tag, ..., name)
//! ) [PARTITION BY HASH (tag, ...) PARTITIONS n] [WITH (option = value, ...)]
//! DROP TABLE [IF EXISTS] [d.]t
//! ALTER TABLE [d.]t ADD COLUMN [IF NOT EXISTS] name type [TAG] [, ADD COLUMN ...]
//! ALTER TABLE [d.]t SET (option = value, ...)
//! ```
//! Options: `ttl`, `segment_duration`, `merge_mode`. What a schema must be is checked here, so that
//! a fault has its place in the text; meta checks it again.

use std::collections::HashSet;

use auxo_proto::ddl::{Ddl, NewColumn, NewTable};
use auxo_proto::error::{ErrorCode, Failure, Position};
use auxo_proto::ids::{ColumnId, SchemaNumber};
use auxo_proto::schema::{
    COLUMNS_MAX, Column, ColumnKind, ColumnType, NAME_BYTES_MAX, TableInfo, TableOptions,
    TableSchema,
};
use datafusion::common::TableReference;
use datafusion::sql::sqlparser::tokenizer::Token;

use crate::column_types::column_type;
use crate::cursor::Cursor;
use crate::duration;
use crate::hints::did_you_mean;
use crate::names::Names;

/// Tablets a table may be made with.
const PARTITIONS_MAX: u32 = 1_024;

/// Reads a statement that begins with CREATE, DROP or ALTER.
pub(crate) fn parse(cursor: &mut Cursor<'_>, names: &Names<'_>) -> Result<Ddl, Failure> {
    let ddl = if cursor.takes("CREATE DATABASE") || cursor.takes("CREATE SCHEMA") {
        let if_not_exists = cursor.takes("IF NOT EXISTS");
        let name = new_name(cursor, "the name of the database")?;
        Ddl::CreateDatabase {
            name,
            if_not_exists,
        }
    } else if cursor.takes("DROP DATABASE") || cursor.takes("DROP SCHEMA") {
        let if_exists = cursor.takes("IF EXISTS");
        let place = cursor.position();
        let name = cursor.name("the name of the database")?;
        if !if_exists {
            names.database(&name).map_err(|failure| failure.at(place))?;
        }
        Ddl::DropDatabase { name, if_exists }
    } else if cursor.takes("CREATE TABLE") {
        create_table(cursor, names)?
    } else if cursor.takes("DROP TABLE") {
        drop_table(cursor, names)?
    } else if cursor.takes("ALTER TABLE") {
        alter_table(cursor, names)?
    } else {
        return Err(unsupported(cursor));
    };
    cursor.done()?;
    Ok(ddl)
}

/// Names what is not made, dropped or changed here.
fn unsupported(cursor: &mut Cursor<'_>) -> Failure {
    let failure = cursor.failure(ErrorCode::Unsupported, "");
    let verb = cursor
        .name("a statement")
        .unwrap_or_default()
        .to_uppercase();
    let _ = cursor.takes("OR REPLACE");
    let what = cursor
        .name("what to change")
        .unwrap_or_default()
        .to_uppercase();
    let hint = match what.as_str() {
        "EXTERNAL" => "rows come in by INSERT or line protocol",
        _ => "databases and tables can be created, dropped and altered",
    };
    Failure {
        detail: format!("{verb} {what} is not supported"),
        ..failure
    }
    .hint(hint)
}

/// A name that will stand in the catalogue.
fn new_name(cursor: &mut Cursor<'_>, what: &str) -> Result<String, Failure> {
    let place = cursor.position();
    let name = cursor.name(what)?;
    check_name(&name, place)?;
    Ok(name)
}

fn check_name(name: &str, place: Position) -> Result<(), Failure> {
    let fault = if name.is_empty() || name.len() > NAME_BYTES_MAX {
        format!("a name has 1 to {NAME_BYTES_MAX} bytes")
    } else if name.chars().any(char::is_control) {
        "a name holds no control characters".into()
    } else if name == "information_schema" {
        "the name information_schema is taken".into()
    } else {
        return Ok(());
    };
    Err(Failure::new(ErrorCode::BadRequest, fault).at(place))
}

/// A table's name with the name of its database.
fn table_name(cursor: &mut Cursor<'_>, names: &Names<'_>) -> Result<(String, String), Failure> {
    let place = cursor.position();
    let mut parts = cursor.names("the name of a table")?;
    let table = parts.pop().unwrap_or_default();
    let database = match parts.as_slice() {
        [] => names.database.to_owned(),
        [database] => database.clone(),
        _ => {
            let detail = "a table is named table or database.table";
            return Err(Failure::new(ErrorCode::Parse, detail).at(place));
        }
    };
    let database = names.resolve_database(None, Some(&database));
    let known = names
        .database(database)
        .map_err(|failure| failure.at(place))?;
    Ok((known.name.clone(), table))
}

fn drop_table(cursor: &mut Cursor<'_>, names: &Names<'_>) -> Result<Ddl, Failure> {
    let if_exists = cursor.takes("IF EXISTS");
    let place = cursor.position();
    let (database, name) = table_name(cursor, names)?;
    if !if_exists {
        let known = TableReference::partial(database.as_str(), name.as_str());
        names.table(&known).map_err(|failure| failure.at(place))?;
    }
    Ok(Ddl::DropTable {
        database,
        name,
        if_exists,
    })
}

/// A declared column with its place in the text.
struct Declared {
    column: NewColumn,
    place: Position,
}

fn create_table(cursor: &mut Cursor<'_>, names: &Names<'_>) -> Result<Ddl, Failure> {
    let begin = cursor.position();
    let if_not_exists = cursor.takes("IF NOT EXISTS");
    let place = cursor.position();
    let (database, name) = table_name(cursor, names)?;
    check_name(&name, place)?;
    cursor.sign(&Token::LParen)?;
    let mut columns: Vec<Declared> = Vec::new();
    let mut time_key: Option<(String, Position)> = None;
    let mut primary_key: Option<Vec<(String, Position)>> = None;
    loop {
        let place = cursor.position();
        if cursor.takes("TIMESTAMP KEY") {
            let list = cursor.list("the name of the time column")?;
            let [only] = list.as_slice() else {
                let detail = "TIMESTAMP KEY names one column";
                return Err(Failure::new(ErrorCode::Parse, detail).at(place));
            };
            time_key = Some(only.clone());
        } else if cursor.takes("PRIMARY KEY") {
            primary_key = Some(cursor.list("the name of a column")?);
        } else {
            columns.push(column(cursor)?);
        }
        if columns.len() > COLUMNS_MAX {
            let detail = format!("a table has at most {COLUMNS_MAX} columns");
            return Err(Failure::new(ErrorCode::TooComplex, detail).at(place));
        }
        if !cursor.takes_sign(&Token::Comma) {
            break;
        }
    }
    cursor.sign(&Token::RParen)?;
    if let Some(key) = &primary_key {
        apply_primary_key(&mut columns, key, &mut time_key)?;
    }
    let Some((time, time_place)) = time_key else {
        let detail = "the table has no time column";
        return Err(Failure::new(ErrorCode::BadRequest, detail)
            .at(begin)
            .hint("add TIMESTAMP KEY (name) behind the columns"));
    };
    let declared = find(&mut columns, &time, time_place)?;
    declared.column.kind = ColumnKind::Time;
    declared.column.nullable = false;
    let (partition_by, partitions) = partitions(cursor)?;
    let options = if cursor.takes("WITH") {
        options(cursor, TableOptions::default())?
    } else {
        TableOptions::default()
    };
    check_columns(&columns)?;
    for (tag, place) in &partition_by {
        let declared = find(&mut columns, tag, *place)?;
        if declared.column.kind != ColumnKind::Tag {
            let detail = format!("rows are spread by tags, and {tag} is none");
            return Err(Failure::new(ErrorCode::BadRequest, detail).at(*place));
        }
    }
    let table = NewTable {
        database,
        name,
        columns: columns
            .into_iter()
            .map(|declared| declared.column)
            .collect(),
        partition_by: partition_by.into_iter().map(|(tag, _)| tag).collect(),
        partitions,
        options,
    };
    Ok(Ddl::CreateTable {
        table,
        if_not_exists,
    })
}

fn find<'a>(
    columns: &'a mut [Declared],
    name: &str,
    place: Position,
) -> Result<&'a mut Declared, Failure> {
    let Some(at) = columns
        .iter()
        .position(|declared| declared.column.name == name)
    else {
        let failure = Failure::new(
            ErrorCode::ColumnNotFound,
            format!("the table declares no column {name}"),
        );
        let known = columns.iter().map(|declared| declared.column.name.as_str());
        let failure = match did_you_mean(name, known) {
            Some(hint) => failure.hint(hint),
            None => failure,
        };
        return Err(failure.at(place));
    };
    Ok(&mut columns[at])
}

/// PRIMARY KEY (tag, ..., time) says which columns are tags and which is the time.
fn apply_primary_key(
    columns: &mut [Declared],
    key: &[(String, Position)],
    time_key: &mut Option<(String, Position)>,
) -> Result<(), Failure> {
    let bad = |detail: String, place| Err(Failure::new(ErrorCode::BadRequest, detail).at(place));
    let Some(((time, time_place), tags)) = key.split_last() else {
        return Ok(());
    };
    if let Some((named, _)) = time_key
        && named != time
    {
        return bad(
            format!("the last column of the primary key is the time, {named}"),
            *time_place,
        );
    }
    *time_key = Some((time.clone(), *time_place));
    let mut last = None;
    for (tag, place) in tags {
        let declared = find(columns, tag, *place)?;
        declared.column.kind = ColumnKind::Tag;
        let at = columns
            .iter()
            .position(|declared| declared.column.name == *tag);
        if at <= last {
            let detail = "the primary key names tags in the order in which they are declared";
            return bad(detail.into(), *place);
        }
        last = at;
    }
    let left_out = columns.iter().find(|declared| {
        let name = &declared.column.name;
        declared.column.kind == ColumnKind::Tag && !tags.iter().any(|(tag, _)| tag == name)
    });
    match left_out {
        Some(declared) => bad(
            format!(
                "the primary key leaves out the tag {}",
                declared.column.name
            ),
            declared.place,
        ),
        None => Ok(()),
    }
}

/// What [`TableSchema::check`] asks, with places.
fn check_columns(columns: &[Declared]) -> Result<(), Failure> {
    let mut seen = HashSet::new();
    for Declared { column, place } in columns {
        let fault = if !seen.insert(&column.name) {
            Some(format!("column {} is declared twice", column.name))
        } else if column.kind == ColumnKind::Tag && column.ty != ColumnType::String {
            Some(format!(
                "tag {} is {}, tags are STRING",
                column.name, column.ty
            ))
        } else if column.kind == ColumnKind::Time && !matches!(column.ty, ColumnType::Timestamp(_))
        {
            Some(format!(
                "time column {} is {}, it must be a TIMESTAMP",
                column.name, column.ty
            ))
        } else {
            None
        };
        if let Some(fault) = fault {
            return Err(Failure::new(ErrorCode::BadRequest, fault).at(*place));
        }
    }
    let numbered = columns.iter().zip(1..);
    let schema = TableSchema {
        number: SchemaNumber(1),
        columns: numbered
            .map(|(declared, id)| Column {
                id: ColumnId(id),
                name: declared.column.name.clone(),
                kind: declared.column.kind,
                ty: declared.column.ty,
                nullable: declared.column.nullable,
            })
            .collect(),
    };
    match (schema.check(), columns.first()) {
        (Ok(()), _) => Ok(()),
        (Err(fault), first) => {
            let failure = Failure::new(ErrorCode::BadRequest, fault);
            Err(match first {
                Some(first) => failure.at(first.place),
                None => failure,
            })
        }
    }
}

/// `name type [TAG] [NULL | NOT NULL]`, in any order behind the type.
fn column(cursor: &mut Cursor<'_>) -> Result<Declared, Failure> {
    let place = cursor.position();
    let name = cursor.name("the name of a column")?;
    check_name(&name, place)?;
    let ty = column_type(cursor)?;
    let mut column = NewColumn {
        name,
        kind: ColumnKind::Field,
        ty,
        nullable: true,
    };
    let mut not_null = None;
    loop {
        let place = cursor.position();
        if cursor.takes("TAG") {
            column.kind = ColumnKind::Tag;
        } else if cursor.takes("NOT NULL") {
            column.nullable = false;
            not_null = Some(place);
        } else if !cursor.takes("NULL") {
            break;
        }
    }
    if let (Some(place), ColumnKind::Tag) = (not_null, column.kind) {
        let detail = "a tag may be missing in a row, it cannot be NOT NULL";
        return Err(Failure::new(ErrorCode::BadRequest, detail).at(place));
    }
    Ok(Declared { column, place })
}

fn partitions(cursor: &mut Cursor<'_>) -> Result<(Vec<(String, Position)>, u32), Failure> {
    if !cursor.takes("PARTITION BY") {
        return Ok((Vec::new(), 1));
    }
    if !cursor.takes("HASH") && !cursor.takes("KEY") {
        return Err(cursor.expected("HASH"));
    }
    let list = cursor.list("the name of a tag")?;
    cursor.word("PARTITIONS")?;
    let place = cursor.position();
    let count: u32 = cursor.number("the number of partitions")?;
    if !(1..=PARTITIONS_MAX).contains(&count) {
        let detail = format!("a table has 1 to {PARTITIONS_MAX} partitions");
        return Err(Failure::new(ErrorCode::BadRequest, detail).at(place));
    }
    for (at, (name, place)) in list.iter().enumerate() {
        if list[..at].iter().any(|(other, _)| other == name) {
            let detail = format!("{name} stands twice");
            return Err(Failure::new(ErrorCode::BadRequest, detail).at(*place));
        }
    }
    Ok((list, count))
}

const OPTIONS: [&str; 3] = ["ttl", "segment_duration", "merge_mode"];

/// `(name = value, ...)` laid over `options`.
fn options(cursor: &mut Cursor<'_>, mut options: TableOptions) -> Result<TableOptions, Failure> {
    cursor.sign(&Token::LParen)?;
    loop {
        let place = cursor.position();
        let name = match cursor.takes_text() {
            Some(name) => name.to_lowercase(),
            None => cursor.name("the name of an option")?,
        };
        cursor.sign(&Token::Eq)?;
        let value_place = cursor.position();
        let value = cursor.value("a value")?;
        let bad = |detail: String| Failure::new(ErrorCode::BadRequest, detail).at(value_place);
        match name.as_str() {
            "ttl" => options.ttl_ms = milliseconds(&value, "forever").map_err(bad)?,
            "segment_duration" => {
                let ms = milliseconds(&value, "auto").map_err(bad)?;
                if ms.is_some_and(|ms| !ms.is_multiple_of(3_600_000)) {
                    return Err(bad("segment_duration is whole hours".into()));
                }
                options.segment_ms = ms;
            }
            "merge_mode" => options.merge_mode = value.to_lowercase().parse().map_err(bad)?,
            _ => {
                let detail = format!("unknown option {name}");
                let failure = Failure::new(ErrorCode::BadRequest, detail).at(place);
                return Err(match did_you_mean(&name, OPTIONS) {
                    Some(hint) => failure.hint(hint),
                    None => failure.hint(format!("options are {}", OPTIONS.join(", "))),
                });
            }
        }
        if !cursor.takes_sign(&Token::Comma) {
            break;
        }
    }
    cursor.sign(&Token::RParen)?;
    Ok(options)
}

/// A duration in milliseconds; the word `unset` is none.
fn milliseconds(value: &str, unset: &str) -> Result<Option<u64>, String> {
    if value.eq_ignore_ascii_case(unset) {
        return Ok(None);
    }
    let ns = duration::parse_fixed(value)
        .ok_or_else(|| format!("{value:?} is no duration such as 30d, 6h or {unset}"))?;
    match u64::try_from(ns / 1_000_000) {
        Ok(ms) if ms > 0 => Ok(Some(ms)),
        _ => Err(format!("{value:?} is shorter than a millisecond")),
    }
}

fn alter_table(cursor: &mut Cursor<'_>, names: &Names<'_>) -> Result<Ddl, Failure> {
    let place = cursor.position();
    let (database, name) = table_name(cursor, names)?;
    let known = TableReference::partial(database.as_str(), name.as_str());
    let table = names.table(&known).map_err(|failure| failure.at(place))?;
    if cursor.takes("SET") {
        return Ok(Ddl::SetOptions {
            table: table.id,
            options: options(cursor, table.options.clone())?,
        });
    }
    if !cursor.sees("ADD") {
        let verb = cursor.failure(ErrorCode::Unsupported, "");
        let word = cursor.name("ADD COLUMN or SET")?.to_uppercase();
        return Err(Failure {
            detail: format!("ALTER TABLE {word} is not supported"),
            ..verb
        }
        .hint("columns can be added, options can be SET"));
    }
    add_columns(cursor, table)
}

fn add_columns(cursor: &mut Cursor<'_>, table: &TableInfo) -> Result<Ddl, Failure> {
    let mut columns: Vec<Declared> = Vec::new();
    let mut if_not_exists = false;
    loop {
        cursor.word("ADD")?;
        let _ = cursor.takes("COLUMN");
        if_not_exists |= cursor.takes("IF NOT EXISTS");
        columns.push(column(cursor)?);
        if !cursor.takes_sign(&Token::Comma) {
            break;
        }
    }
    check_new(&columns, table, if_not_exists)?;
    Ok(Ddl::AddColumns {
        table: table.id,
        columns: columns
            .into_iter()
            .map(|declared| declared.column)
            .collect(),
        if_not_exists,
    })
}

fn check_new(columns: &[Declared], table: &TableInfo, if_not_exists: bool) -> Result<(), Failure> {
    let mut seen = HashSet::new();
    for Declared { column, place } in columns {
        let known = table.schema.by_name(&column.name);
        let fault = if !seen.insert(&column.name) {
            Some((ErrorCode::BadRequest, "is declared twice"))
        } else if known.is_some() && !if_not_exists {
            Some((ErrorCode::AlreadyExists, "exists already"))
        } else if known.is_some_and(|known| (known.kind, known.ty) != (column.kind, column.ty)) {
            Some((ErrorCode::AlreadyExists, "exists with another type"))
        } else if !column.nullable {
            Some((
                ErrorCode::BadRequest,
                "cannot be NOT NULL: rows without it exist",
            ))
        } else if column.kind == ColumnKind::Tag && column.ty != ColumnType::String {
            Some((ErrorCode::BadRequest, "is a tag, tags are STRING"))
        } else {
            None
        };
        if let Some((code, fault)) = fault {
            let detail = format!("column {} {fault}", column.name);
            return Err(Failure::new(code, detail).at(*place));
        }
    }
    if table.schema.columns.len() + columns.len() > COLUMNS_MAX {
        let detail = format!("a table has at most {COLUMNS_MAX} columns");
        return Err(Failure::new(ErrorCode::TooComplex, detail).at(columns[0].place));
    }
    Ok(())
}
