//! Columns, tables and their options, as meta keeps them and every shard copies them.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::ids::{ColumnId, DatabaseId, SchemaNumber, TableId, TabletId, TenantId};

/// Resolution in which a timestamp column is shown; all are stored as nanoseconds since 1970.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum TimeUnit {
    /// Whole seconds.
    Second,
    /// Milliseconds.
    Millisecond,
    /// Microseconds.
    Microsecond,
    /// Nanoseconds.
    Nanosecond,
}

impl TimeUnit {
    /// Nanoseconds in one unit.
    pub fn ns(self) -> i64 {
        match self {
            Self::Second => 1_000_000_000,
            Self::Millisecond => 1_000_000,
            Self::Microsecond => 1_000,
            Self::Nanosecond => 1,
        }
    }

    fn name(self) -> &'static str {
        match self {
            Self::Second => "s",
            Self::Millisecond => "ms",
            Self::Microsecond => "us",
            Self::Nanosecond => "ns",
        }
    }
}

/// Type of a column's values, as a user declares it.
///
/// Written in JSON and in replies by its [`fmt::Display`] form (`int64`, `timestamp(ns)`,
/// `decimal(18,2)`), which never changes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ColumnType {
    /// True or false.
    Bool,
    /// Signed, 8 bits.
    Int8,
    /// Signed, 16 bits.
    Int16,
    /// Signed, 32 bits.
    Int32,
    /// Signed, 64 bits.
    Int64,
    /// Unsigned, 8 bits.
    UInt8,
    /// Unsigned, 16 bits.
    UInt16,
    /// Unsigned, 32 bits.
    UInt32,
    /// Unsigned, 64 bits.
    UInt64,
    /// IEEE 754, 32 bits.
    Float32,
    /// IEEE 754, 64 bits.
    Float64,
    /// UTF-8 text.
    String,
    /// Bytes.
    Binary,
    /// A point in time, UTC.
    Timestamp(TimeUnit),
    /// Days since 1970-01-01.
    Date,
    /// Fixed point: `precision` digits in all (1–38), `scale` of them behind the point.
    Decimal {
        /// Digits in all, 1 to 38.
        precision: u8,
        /// Digits behind the point, 0 to `precision`.
        scale: i8,
    },
}

/// How the values of a [`ColumnType`] lie in [`crate::rows::Values`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Physical {
    /// `Vec<bool>`.
    Bool,
    /// `Vec<i64>`: signed integers, timestamps (nanoseconds), dates (days).
    I64,
    /// `Vec<u64>`: unsigned integers.
    U64,
    /// `Vec<f64>`: both float types; widening f32 loses nothing.
    F64,
    /// Strings and binary.
    Bytes,
    /// `Vec<i128>`: decimals, unscaled.
    I128,
}

impl ColumnType {
    /// How values of this type lie in memory and in the log.
    pub fn physical(self) -> Physical {
        match self {
            Self::Bool => Physical::Bool,
            Self::Int8 | Self::Int16 | Self::Int32 | Self::Int64 => Physical::I64,
            Self::Timestamp(_) | Self::Date => Physical::I64,
            Self::UInt8 | Self::UInt16 | Self::UInt32 | Self::UInt64 => Physical::U64,
            Self::Float32 | Self::Float64 => Physical::F64,
            Self::String | Self::Binary => Physical::Bytes,
            Self::Decimal { .. } => Physical::I128,
        }
    }

    /// Smallest and largest value of a signed integer type, `None` for every other type.
    pub fn signed_range(self) -> Option<(i64, i64)> {
        match self {
            Self::Int8 => Some((i8::MIN.into(), i8::MAX.into())),
            Self::Int16 => Some((i16::MIN.into(), i16::MAX.into())),
            Self::Int32 => Some((i32::MIN.into(), i32::MAX.into())),
            Self::Int64 => Some((i64::MIN, i64::MAX)),
            _ => None,
        }
    }

    /// Largest value of an unsigned integer type, `None` for every other type.
    pub fn unsigned_max(self) -> Option<u64> {
        match self {
            Self::UInt8 => Some(u8::MAX.into()),
            Self::UInt16 => Some(u16::MAX.into()),
            Self::UInt32 => Some(u32::MAX.into()),
            Self::UInt64 => Some(u64::MAX),
            _ => None,
        }
    }
}

impl fmt::Display for ColumnType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Bool => f.write_str("bool"),
            Self::Int8 => f.write_str("int8"),
            Self::Int16 => f.write_str("int16"),
            Self::Int32 => f.write_str("int32"),
            Self::Int64 => f.write_str("int64"),
            Self::UInt8 => f.write_str("uint8"),
            Self::UInt16 => f.write_str("uint16"),
            Self::UInt32 => f.write_str("uint32"),
            Self::UInt64 => f.write_str("uint64"),
            Self::Float32 => f.write_str("float32"),
            Self::Float64 => f.write_str("float64"),
            Self::String => f.write_str("string"),
            Self::Binary => f.write_str("binary"),
            Self::Timestamp(unit) => write!(f, "timestamp({})", unit.name()),
            Self::Date => f.write_str("date"),
            Self::Decimal { precision, scale } => write!(f, "decimal({precision},{scale})"),
        }
    }
}

/// A text names no column type.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("unknown column type {0:?}")]
pub struct UnknownType(pub String);

impl FromStr for ColumnType {
    type Err = UnknownType;

    fn from_str(text: &str) -> Result<Self, UnknownType> {
        let unknown = || UnknownType(text.to_owned());
        Ok(match text {
            "bool" => Self::Bool,
            "int8" => Self::Int8,
            "int16" => Self::Int16,
            "int32" => Self::Int32,
            "int64" => Self::Int64,
            "uint8" => Self::UInt8,
            "uint16" => Self::UInt16,
            "uint32" => Self::UInt32,
            "uint64" => Self::UInt64,
            "float32" => Self::Float32,
            "float64" => Self::Float64,
            "string" => Self::String,
            "binary" => Self::Binary,
            "date" => Self::Date,
            "timestamp(s)" => Self::Timestamp(TimeUnit::Second),
            "timestamp(ms)" => Self::Timestamp(TimeUnit::Millisecond),
            "timestamp(us)" => Self::Timestamp(TimeUnit::Microsecond),
            "timestamp(ns)" => Self::Timestamp(TimeUnit::Nanosecond),
            _ => {
                let inner = text
                    .strip_prefix("decimal(")
                    .and_then(|rest| rest.strip_suffix(')'));
                let (precision, scale) = inner
                    .and_then(|inner| inner.split_once(','))
                    .ok_or_else(unknown)?;
                let precision: u8 = precision.parse().map_err(|_| unknown())?;
                let scale: i8 = scale.parse().map_err(|_| unknown())?;
                if !(1..=38).contains(&precision) || !(0..=precision as i8).contains(&scale) {
                    return Err(unknown());
                }
                Self::Decimal { precision, scale }
            }
        })
    }
}

impl Serialize for ColumnType {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for ColumnType {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        text.parse().map_err(serde::de::Error::custom)
    }
}

/// What a column is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ColumnKind {
    /// Part of the primary key; a string, NULL when missing.
    Tag,
    /// The one timestamp column; never NULL.
    Time,
    /// A value.
    Field,
}

/// One column of a table.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Column {
    /// Never used twice in the table, also after a drop.
    pub id: ColumnId,
    /// As declared; unique in the table.
    pub name: String,
    /// What it is for.
    pub kind: ColumnKind,
    /// Type of its values. Tags are [`ColumnType::String`], the time column is a timestamp.
    #[serde(rename = "type")]
    pub ty: ColumnType,
    /// Whether a row may lack it. Tags always may, the time column never.
    pub nullable: bool,
}

/// The columns of a table at one number.
///
/// * shape: exactly one time column; the declared order of tags is their order in `columns`, and
///   the key of a row is (tags in that order, time). Tags are only ever added behind the last one.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TableSchema {
    /// Rises by one with each change.
    pub number: SchemaNumber,
    /// All columns, in the order in which a user sees them.
    pub columns: Vec<Column>,
}

impl TableSchema {
    /// The tags in declared order.
    pub fn tags(&self) -> impl Iterator<Item = &Column> {
        self.of_kind(ColumnKind::Tag)
    }

    /// The fields in declared order.
    pub fn fields(&self) -> impl Iterator<Item = &Column> {
        self.of_kind(ColumnKind::Field)
    }

    /// The time column, `None` only in a schema that [`TableSchema::check`] refuses.
    pub fn time(&self) -> Option<&Column> {
        self.of_kind(ColumnKind::Time).next()
    }

    /// The column of that name; names are compared to the letter.
    pub fn by_name(&self, name: &str) -> Option<&Column> {
        self.columns.iter().find(|column| column.name == name)
    }

    /// The column with that id.
    pub fn by_id(&self, id: ColumnId) -> Option<&Column> {
        self.columns.iter().find(|column| column.id == id)
    }

    /// Place of a tag in the key, counted from 0.
    pub fn tag_index(&self, id: ColumnId) -> Option<usize> {
        self.tags().position(|tag| tag.id == id)
    }

    /// The first id above all of this schema.
    pub fn next_column_id(&self) -> ColumnId {
        let highest = self.columns.iter().map(|column| column.id.0).max();
        ColumnId(highest.map_or(1, |id| id + 1))
    }

    /// Says what is wrong with the schema, if anything.
    ///
    /// * errors: a sentence for the user, naming the column.
    pub fn check(&self) -> Result<(), String> {
        let times = self.of_kind(ColumnKind::Time).count();
        if times != 1 {
            return Err(format!(
                "a table has exactly one time column, this one has {times}"
            ));
        }
        for (index, column) in self.columns.iter().enumerate() {
            let name = &column.name;
            if name.is_empty() || name.len() > NAME_BYTES_MAX {
                return Err(format!(
                    "column name {name:?} is empty or above {NAME_BYTES_MAX} bytes"
                ));
            }
            if name.chars().any(char::is_control) {
                return Err(format!("column name {name:?} holds a control character"));
            }
            let earlier = &self.columns[..index];
            if earlier.iter().any(|other| other.name == *name) {
                return Err(format!("column {name} is declared twice"));
            }
            if earlier.iter().any(|other| other.id == column.id) {
                return Err(format!("column {name} has the id of another column"));
            }
            match (column.kind, column.ty) {
                (ColumnKind::Tag, ColumnType::String) | (ColumnKind::Field, _) => {}
                (ColumnKind::Time, ColumnType::Timestamp(_)) if !column.nullable => {}
                (ColumnKind::Time, ColumnType::Timestamp(_)) => {
                    return Err(format!("time column {name} must be NOT NULL"));
                }
                (ColumnKind::Tag, ty) => {
                    return Err(format!("tag {name} is {ty}, tags are string"));
                }
                (ColumnKind::Time, ty) => {
                    return Err(format!(
                        "time column {name} is {ty}, it must be a timestamp"
                    ));
                }
            }
        }
        Ok(())
    }

    fn of_kind(&self, kind: ColumnKind) -> impl Iterator<Item = &Column> {
        self.columns
            .iter()
            .filter(move |column| column.kind == kind)
    }
}

/// Columns of one table; an answer has no more either, so that every table can be read whole.
pub const COLUMNS_MAX: usize = 1_000;

/// Longest name of a database, table or column, in bytes.
pub const NAME_BYTES_MAX: usize = 512;

/// What a row does to an older row of the same key (tags and time).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum MergeMode {
    /// Replaces it whole. Default of tables made by SQL.
    #[default]
    LastRow,
    /// Replaces each field it has a value for. Default of tables made by line protocol.
    LastNonNull,
    /// Stands beside it: no deduplication.
    Append,
}

impl MergeMode {
    /// The word used in options, files and replies.
    pub fn name(self) -> &'static str {
        match self {
            Self::LastRow => "last_row",
            Self::LastNonNull => "last_non_null",
            Self::Append => "append",
        }
    }
}

impl FromStr for MergeMode {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "last_row" => Ok(Self::LastRow),
            "last_non_null" => Ok(Self::LastNonNull),
            "append" => Ok(Self::Append),
            other => Err(format!(
                "merge_mode {other:?} is none of last_row, last_non_null, append"
            )),
        }
    }
}

/// What a user may set on a table.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct TableOptions {
    /// Rows older than this leave by themselves; milliseconds, `None` keeps them for ever.
    pub ttl_ms: Option<u64>,
    /// Time window of one sorted file; milliseconds, whole hours; `None` lets the data decide.
    pub segment_ms: Option<u64>,
    /// What a row does to an older row of the same key.
    pub merge_mode: MergeMode,
}

/// How the rows of a table are spread over tablets: by the hash of some tags.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Partition {
    /// Tags that are hashed, in the order of the declaration; empty means one tablet.
    pub columns: Vec<ColumnId>,
    /// Number of tablets at creation, at least 1.
    pub count: u32,
}

/// A range of partition hashes; both ends belong to it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct HashRange {
    /// First hash of the range.
    pub lo: u32,
    /// Last hash of the range.
    pub hi: u32,
}

impl HashRange {
    /// Every hash.
    pub const FULL: Self = Self {
        lo: 0,
        hi: u32::MAX,
    };

    /// Whether the hash lies in the range.
    pub fn contains(self, hash: u32) -> bool {
        (self.lo..=self.hi).contains(&hash)
    }

    /// The whole hash space cut into `count` neighbouring ranges whose sizes differ by at most 1.
    pub fn tile(count: u32) -> Vec<Self> {
        let count = u64::from(count.max(1));
        let bound = |index: u64| (index << 32) / count;
        (0..count)
            .map(|index| Self {
                lo: bound(index) as u32,
                hi: (bound(index + 1) - 1) as u32,
            })
            .collect()
    }
}

/// A table as every node knows it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TableInfo {
    /// Never used twice.
    pub id: TableId,
    /// Who owns it.
    pub tenant: TenantId,
    /// Where it lies.
    pub database: DatabaseId,
    /// As declared.
    pub name: String,
    /// Its newest schema.
    pub schema: Arc<TableSchema>,
    /// How its rows are spread.
    pub partition: Partition,
    /// What the user set.
    pub options: TableOptions,
}

impl TableInfo {
    /// Places of the partition columns among the tags, in the order of the declaration; empty if
    /// the table has none.
    pub fn partition_tags(&self) -> Vec<usize> {
        let columns = self.partition.columns.iter();
        columns
            .filter_map(|&id| self.schema.tag_index(id))
            .collect()
    }
}

/// One tablet: a table's rows whose partition hash lies in a range.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TabletSpec {
    /// Never used twice.
    pub id: TabletId,
    /// The hashes whose rows belong here.
    pub range: HashRange,
    /// The table; a newer schema in a repeated order replaces an older one.
    pub table: Arc<TableInfo>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn types_read_back_what_they_show() {
        let mut types = vec![
            ColumnType::Bool,
            ColumnType::String,
            ColumnType::Binary,
            ColumnType::Date,
            ColumnType::Float32,
            ColumnType::Float64,
            ColumnType::Decimal {
                precision: 38,
                scale: 0,
            },
            ColumnType::Decimal {
                precision: 18,
                scale: 2,
            },
        ];
        types.extend([
            ColumnType::Int8,
            ColumnType::Int16,
            ColumnType::Int32,
            ColumnType::Int64,
        ]);
        types.extend([ColumnType::UInt8, ColumnType::UInt16]);
        types.extend([ColumnType::UInt32, ColumnType::UInt64]);
        for unit in [
            TimeUnit::Second,
            TimeUnit::Millisecond,
            TimeUnit::Microsecond,
            TimeUnit::Nanosecond,
        ] {
            types.push(ColumnType::Timestamp(unit));
        }
        for ty in types {
            assert_eq!(ty.to_string().parse(), Ok(ty));
            let json = serde_json::to_string(&ty).unwrap();
            assert_eq!(serde_json::from_str::<ColumnType>(&json).unwrap(), ty);
        }
        for bad in [
            "",
            "int",
            "decimal(0,0)",
            "decimal(39,0)",
            "decimal(3,4)",
            "timestamp(h)",
        ] {
            assert_eq!(bad.parse::<ColumnType>(), Err(UnknownType(bad.into())));
        }
    }

    #[test]
    fn tiles_cover_every_hash_once() {
        for count in [1, 2, 3, 7, 8, 1000] {
            let tiles = HashRange::tile(count);
            assert_eq!(tiles.len(), count as usize);
            assert_eq!(tiles[0].lo, 0);
            assert_eq!(tiles[tiles.len() - 1].hi, u32::MAX);
            for pair in tiles.windows(2) {
                assert_eq!(pair[0].hi + 1, pair[1].lo);
            }
        }
    }

    fn column(id: u32, name: &str, kind: ColumnKind, ty: ColumnType) -> Column {
        let nullable = kind != ColumnKind::Time;
        Column {
            id: ColumnId(id),
            name: name.into(),
            kind,
            ty,
            nullable,
        }
    }

    #[test]
    fn a_schema_that_breaks_a_rule_is_named() {
        let ts = ColumnType::Timestamp(TimeUnit::Nanosecond);
        let time = column(1, "ts", ColumnKind::Time, ts);
        let field = column(2, "v", ColumnKind::Field, ColumnType::Float64);
        let check = |columns: &[&Column]| {
            let columns = columns.iter().map(|column| (*column).clone()).collect();
            TableSchema {
                number: SchemaNumber(1),
                columns,
            }
            .check()
        };
        assert_eq!(check(&[&time, &field]), Ok(()));
        assert!(
            check(&[&field])
                .unwrap_err()
                .contains("exactly one time column")
        );
        assert!(
            check(&[&time, &field, &field])
                .unwrap_err()
                .contains("declared twice")
        );
        let tag = column(3, "host", ColumnKind::Tag, ColumnType::Int64);
        assert!(check(&[&time, &tag]).unwrap_err().contains("tag host"));
        let control = column(4, "a\u{0}", ColumnKind::Field, ColumnType::Bool);
        assert!(
            check(&[&time, &control])
                .unwrap_err()
                .contains("control character")
        );
    }
}
