//! Changes of the model that a user asks for: parsed by `query`, carried out by meta.

use serde::{Deserialize, Serialize};

use crate::ids::{TableId, TenantId};
use crate::schema::{ColumnKind, ColumnType, TableOptions};

/// A column that has no id yet.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct NewColumn {
    /// As declared.
    pub name: String,
    /// What it is for.
    pub kind: ColumnKind,
    /// Type of its values.
    #[serde(rename = "type")]
    pub ty: ColumnType,
    /// Whether a row may lack it.
    pub nullable: bool,
}

/// A table that has no id yet.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct NewTable {
    /// Name of the database it goes into.
    pub database: String,
    /// As declared.
    pub name: String,
    /// Columns in the order of the declaration.
    pub columns: Vec<NewColumn>,
    /// Names of the tags that are hashed; empty means one tablet.
    pub partition_by: Vec<String>,
    /// Number of tablets, at least 1.
    pub partitions: u32,
    /// What the user set.
    pub options: TableOptions,
}

/// One change.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum Ddl {
    /// A database.
    CreateDatabase {
        /// Its name.
        name: String,
        /// Whether it may be there already.
        if_not_exists: bool,
    },
    /// A database and all its tables.
    DropDatabase {
        /// Its name.
        name: String,
        /// Whether it may be absent.
        if_exists: bool,
    },
    /// A table.
    CreateTable {
        /// What it looks like.
        table: NewTable,
        /// Whether it may be there already.
        if_not_exists: bool,
    },
    /// A table and its rows.
    DropTable {
        /// Name of its database.
        database: String,
        /// Its name.
        name: String,
        /// Whether it may be absent.
        if_exists: bool,
    },
    /// More columns for a table: tags behind its last tag, fields behind its last column.
    AddColumns {
        /// The table.
        table: TableId,
        /// Columns to add.
        columns: Vec<NewColumn>,
        /// Whether they may be there already, with the same kind and type.
        if_not_exists: bool,
    },
    /// Other options for a table.
    SetOptions {
        /// The table.
        table: TableId,
        /// All options, changed or not.
        options: TableOptions,
    },
}

/// Who asks, and for what.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DdlRequest {
    /// Whose model it is.
    pub tenant: TenantId,
    /// The change.
    pub ddl: Ddl,
    /// The caller's own key: the same key is the same procedure.
    pub request_key: Option<String>,
}
