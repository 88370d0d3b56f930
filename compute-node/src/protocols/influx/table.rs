//! What the parser knows of a table, and the rows it makes for it.

use std::collections::HashMap;
use std::sync::Arc;

use auxo_proto::ids::{ColumnId, DatabaseId};
use auxo_proto::key::{KeyBuilder, series_hash};
use auxo_proto::rows::{FieldColumn, Rows, SeriesList, Validity, Values};
use auxo_proto::schema::{ColumnKind, ColumnType, TableInfo};
use hashbrown::HashTable;
use xxhash_rust::xxh3::xxh3_64_with_seed;

use super::Run;
use super::faults::Fault;
use super::lines::{Line, Tag};
use super::value::Cell;

/// A column of a table, by its name.
#[derive(Clone, Copy, Debug)]
pub(super) enum Place {
    /// Place among the tags.
    Tag(u32),
    /// Index in [`Table::fields`].
    Field(u32),
    Time,
}

impl Place {
    pub(super) fn kind(self) -> &'static str {
        match self {
            Self::Tag(_) => "tag",
            Self::Field(_) => "field",
            Self::Time => "time column",
        }
    }
}

/// A field of a table.
#[derive(Clone, Copy, Debug)]
pub(super) struct Field {
    pub(super) id: ColumnId,
    pub(super) ty: ColumnType,
    nullable: bool,
}

/// A table at one schema.
#[derive(Debug)]
pub(super) struct Table {
    pub(super) info: Arc<TableInfo>,
    pub(super) database: DatabaseId,
    /// By which the catalog was asked.
    measurement: String,
    places: HashMap<String, Place>,
    tags: usize,
    /// Places of the partition columns among the tags.
    partition: Vec<usize>,
    pub(super) fields: Vec<Field>,
    /// Number of fields that no row may lack.
    pub(super) required: usize,
    /// Fields of earlier lines, in their order.
    pub(super) plan: Plan,
    /// Number of the body for which `builder` is right.
    body: u64,
    builder: usize,
}

/// Fields that the next line is expected to have: these, or some of them, in this order.
#[derive(Debug, Default)]
pub(super) struct Plan {
    /// Raw names, each with its `=`.
    names: Vec<u8>,
    fields: Vec<PlannedField>,
}

/// A field of a plan.
#[derive(Clone, Copy, Debug)]
pub(super) struct PlannedField {
    name_start: u32,
    name_end: u32,
    /// Index in [`Table::fields`].
    pub(super) field: u32,
    pub(super) ty: ColumnType,
    pub(super) nullable: bool,
}

impl Plan {
    /// The first field from a place onwards whose raw name and `=` stand at the start of `rest`,
    /// with its place and the length of both.
    pub(super) fn find(&self, from: usize, rest: &[u8]) -> Option<(usize, PlannedField, usize)> {
        for (place, field) in self.fields.iter().enumerate().skip(from) {
            let name = &self.names[field.name_start as usize..field.name_end as usize];
            if rest.starts_with(name) {
                return Some((place, *field, name.len()));
            }
        }
        None
    }

    fn push(&mut self, raw_name: &[u8], field: PlannedField) {
        let name_start = self.names.len() as u32;
        self.names.extend_from_slice(raw_name);
        self.fields.push(PlannedField {
            name_start,
            name_end: self.names.len() as u32,
            ..field
        });
    }

    /// This plan with the fields of another line put in where they stood, or only that line's
    /// fields if their order is another; `None` if it has them all already.
    ///
    /// * `line`: raw names with `=`; each field has a place of its own.
    fn with(&self, line: &[(Vec<u8>, PlannedField)]) -> Option<Self> {
        let place_of = |field: u32| self.fields.iter().position(|known| known.field == field);
        let mut merged = Self::default();
        let mut at = 0;
        for (name, field) in line {
            let until = match place_of(field.field) {
                Some(place) if place < at => return Some(Self::of(line)),
                Some(place) => place,
                None => at,
            };
            self.fields[at..until]
                .iter()
                .for_each(|known| merged.push(self.name(known), *known));
            merged.push(name, *field);
            at = until + usize::from(place_of(field.field).is_some());
        }
        self.fields[at..]
            .iter()
            .for_each(|known| merged.push(self.name(known), *known));
        (merged.fields.len() > self.fields.len()).then_some(merged)
    }

    fn of(line: &[(Vec<u8>, PlannedField)]) -> Self {
        let mut plan = Self::default();
        line.iter()
            .for_each(|(name, field)| plan.push(name, *field));
        plan
    }

    fn name(&self, field: &PlannedField) -> &[u8] {
        &self.names[field.name_start as usize..field.name_end as usize]
    }
}

impl Table {
    fn new(info: Arc<TableInfo>, database: DatabaseId, measurement: &str) -> Self {
        let mut table = Self {
            partition: info.partition_tags(),
            database,
            measurement: measurement.to_owned(),
            places: HashMap::with_capacity(info.schema.columns.len()),
            tags: 0,
            fields: Vec::new(),
            required: 0,
            plan: Plan::default(),
            body: 0,
            builder: 0,
            info,
        };
        for column in &table.info.schema.columns {
            let place = match column.kind {
                ColumnKind::Tag => {
                    table.tags += 1;
                    Place::Tag(table.tags as u32 - 1)
                }
                ColumnKind::Time => Place::Time,
                ColumnKind::Field => {
                    table.required += usize::from(!column.nullable);
                    table.fields.push(Field {
                        id: column.id,
                        ty: column.ty,
                        nullable: column.nullable,
                    });
                    Place::Field(table.fields.len() as u32 - 1)
                }
            };
            table.places.insert(column.name.clone(), place);
        }
        table
    }

    /// Bytes it takes, about.
    fn bytes(&self) -> usize {
        let names = self.places.keys().map(|name| name.len() + 96);
        256 + names.sum::<usize>() + self.fields.len() * 16
    }

    pub(super) fn place(&self, name: &str) -> Option<Place> {
        self.places.get(name).copied()
    }

    /// Canonical key and partition hash of a line's tags.
    ///
    /// * returns: the hash, with the key in `key`; `None` if the table lacks one of the tags.
    /// * errors: [`Fault::OtherKind`], [`Fault::Twice`].
    pub(super) fn series(
        &self,
        tags: &[Tag<'_>],
        key: &mut KeyBuilder,
    ) -> Result<Option<u32>, Fault> {
        let mut values = vec![None; self.tags];
        let mut known = true;
        for (name, value) in tags {
            match self.place(name) {
                Some(Place::Tag(tag)) => {
                    if values[tag as usize].replace(value.as_bytes()).is_some() {
                        return Err(Fault::Twice(name.to_string()));
                    }
                }
                Some(other) => {
                    return Err(Fault::OtherKind {
                        name: name.to_string(),
                        is: other.kind(),
                        used_as: "tag",
                    });
                }
                None => known = false,
            }
        }
        if !known {
            return Ok(None);
        }
        key.clear();
        values.into_iter().for_each(|value| key.push(value));
        let hash = series_hash(key.as_bytes(), &self.partition);
        Ok(Some(hash.unwrap_or_else(|_| {
            unreachable!("the key was built a moment ago")
        })))
    }

    /// Makes the line's fields part of what the next line is expected to have.
    pub(super) fn expect_again(&mut self, line: &Line<'_>, cells: &[(u32, Cell<'_>)]) {
        let planned = line.fields.iter().zip(cells).map(|(field, &(number, _))| {
            let Field { ty, nullable, .. } = self.fields[number as usize];
            let name = [field.raw_name, b"="].concat();
            let field = PlannedField {
                name_start: 0,
                name_end: 0,
                field: number,
                ty,
                nullable,
            };
            (name, field)
        });
        let planned: Vec<_> = planned.collect();
        if let Some(plan) = self.plan.with(&planned) {
            self.plan = plan;
        }
    }

    /// Refuses a line that lacks a field it must have.
    pub(super) fn check_required(&self, cells: &[(u32, Cell<'_>)]) -> Result<(), Fault> {
        let required = |field: &Field| !field.nullable;
        let given = cells.iter();
        let given = given.filter(|(number, _)| required(&self.fields[*number as usize]));
        if given.count() == self.required {
            return Ok(());
        }
        let lacks = |field: &&Field| {
            let has = |(number, _): &(u32, Cell<'_>)| self.fields[*number as usize].id == field.id;
            required(field) && !cells.iter().any(has)
        };
        let lacking = self.fields.iter().find(lacks).map(|field| field.id);
        let column = lacking.and_then(|id| self.info.schema.by_id(id));
        Err(Fault::NotNull(
            column.map_or_else(String::new, |column| column.name.clone()),
        ))
    }
}

/// Tables that were seen, by database and name; old schemas stay until all is forgotten.
#[derive(Debug)]
pub(super) struct Tables {
    tables: Vec<Table>,
    by_name: HashMap<DatabaseId, HashMap<String, u32>>,
    bytes: usize,
    bytes_max: usize,
}

impl Tables {
    pub(super) fn new(bytes_max: usize) -> Self {
        Self {
            tables: Vec::new(),
            by_name: HashMap::new(),
            bytes: 0,
            bytes_max,
        }
    }

    pub(super) fn bytes(&self) -> usize {
        self.bytes
    }

    /// Whether it is time to forget all, between two bodies.
    pub(super) fn are_too_large(&self) -> bool {
        self.bytes > self.bytes_max
    }

    pub(super) fn clear(&mut self) {
        *self = Self::new(self.bytes_max);
    }

    pub(super) fn get(&self, table: u32) -> &Table {
        &self.tables[table as usize]
    }

    pub(super) fn get_mut(&mut self, table: u32) -> &mut Table {
        &mut self.tables[table as usize]
    }

    /// The table of a measurement as the request's catalog has it, bound to a builder of the run.
    pub(super) fn resolve(&mut self, run: &mut Run<'_, '_>, measurement: &str) -> Option<u32> {
        let database = run.request.database;
        let names = self.by_name.get(&database);
        let seen = names.and_then(|names| names.get(measurement)).copied();
        if let Some(number) = seen
            && self.get(number).body == run.number
        {
            return Some(number);
        }
        let info = (run.request.table)(measurement)?;
        let number = match seen {
            Some(number) if same(&self.get(number).info, &info) => number,
            _ => self.add(run, info, measurement),
        };
        let table = &mut self.tables[number as usize];
        (table.body, table.builder) = (run.number, run.builders.len());
        run.builders.push(Builder::new(number, table.fields.len()));
        run.memory += 4 * table.fields.len();
        Some(number)
    }

    fn add(&mut self, run: &mut Run<'_, '_>, info: Arc<TableInfo>, measurement: &str) -> u32 {
        let table = Table::new(info, run.request.database, measurement);
        let number = self.tables.len() as u32;
        self.bytes += table.bytes();
        run.memory += table.bytes();
        self.tables.push(table);
        let names = self.by_name.entry(run.request.database).or_default();
        names.insert(measurement.to_owned(), number);
        number
    }

    /// Index of the table's builder in the run, if the table is still what the catalog has.
    pub(super) fn builder(&mut self, run: &mut Run<'_, '_>, number: u32) -> Option<usize> {
        let table = self.get(number);
        if table.body == run.number {
            return Some(table.builder);
        }
        if table.database != run.request.database {
            return None;
        }
        let name = table.measurement.clone();
        let current = self.resolve(run, &name) == Some(number);
        current.then(|| self.get(number).builder)
    }
}

fn same(one: &Arc<TableInfo>, other: &Arc<TableInfo>) -> bool {
    Arc::ptr_eq(one, other) || (one.id == other.id && one.schema.number == other.schema.number)
}

/// Rows of one table of a body, under construction.
pub(super) struct Builder {
    table: u32,
    series: SeriesList,
    /// Numbers of series by hash of their keys, and those hashes by number.
    series_index: HashTable<u32>,
    series_hashes: Vec<u64>,
    series_of: Vec<u32>,
    time: Vec<i64>,
    /// Index in `columns` of each field of the table, or `NO_COLUMN`.
    column_of: Vec<u32>,
    columns: Vec<Column>,
    /// What one more row takes at least.
    row_bytes: usize,
}

const NO_COLUMN: u32 = u32::MAX;

/// What a series takes beside its key.
const SERIES_BYTES: usize = 24;

/// What a column takes beside its values.
const COLUMN_BYTES: usize = 128;

struct Column {
    field: u32,
    values: Values,
    /// Values so far; rows behind them have none yet.
    len: usize,
    validity: Option<Validity>,
}

impl Column {
    /// Rows up to `rows` have no value.
    fn pad(&mut self, rows: usize) {
        if self.len == rows {
            return;
        }
        let len = self.len;
        let validity = self
            .validity
            .get_or_insert_with(|| Validity::filled(len, true));
        for _ in len..rows {
            validity.push(false);
            self.values.push_default();
        }
        self.len = rows;
    }

    fn push(&mut self, cell: Cell<'_>, room: &mut Vec<u8>) {
        match (&mut self.values, cell) {
            (Values::I64(values), Cell::I64(value)) => values.push(value),
            (Values::U64(values), Cell::U64(value)) => values.push(value),
            (Values::F64(values), Cell::F64(value)) => values.push(value),
            (Values::Bool(values), Cell::Bool(value)) => values.push(value),
            (Values::Bytes(values), Cell::Text(text)) => values.push(text.plain(room)),
            (values, cell) => unreachable!("{cell:?} was fitted to {:?}", values.physical()),
        }
        if let Some(validity) = &mut self.validity {
            validity.push(true);
        }
        self.len += 1;
    }
}

impl Builder {
    fn new(table: u32, fields: usize) -> Self {
        Self {
            table,
            series: SeriesList::new(),
            series_index: HashTable::new(),
            series_hashes: Vec::new(),
            series_of: Vec::new(),
            time: Vec::new(),
            column_of: vec![NO_COLUMN; fields],
            columns: Vec::new(),
            row_bytes: 12,
        }
    }

    /// Index of the table in [`Tables`].
    pub(super) fn table(&self) -> u32 {
        self.table
    }

    /// Number of a series, given one if it is new, and what it takes then.
    pub(super) fn series(&mut self, key: &[u8], partition_hash: u32, seed: u64) -> (u32, usize) {
        let hash = xxh3_64_with_seed(key, seed);
        let same = |number: &u32| {
            self.series_hashes[*number as usize] == hash && self.series.key(*number) == key
        };
        if let Some(number) = self.series_index.find(hash, same) {
            return (*number, 0);
        }
        let number = self.series.push(key, partition_hash);
        self.series_hashes.push(hash);
        let hashes = &self.series_hashes;
        let hash_of = |number: &u32| hashes[*number as usize];
        self.series_index.insert_unique(hash, number, hash_of);
        (number, key.len() + SERIES_BYTES)
    }

    /// Appends a row; each cell fits its field and no field stands twice.
    ///
    /// * returns: bytes that it takes.
    pub(super) fn append(
        &mut self,
        fields: &[Field],
        series: u32,
        time: i64,
        cells: &[(u32, Cell<'_>)],
        room: &mut Vec<u8>,
    ) -> usize {
        let row = self.time.len();
        let mut bytes = 0;
        for &(field, cell) in cells {
            let mut number = self.column_of[field as usize];
            if number == NO_COLUMN {
                number = self.columns.len() as u32;
                self.column_of[field as usize] = number;
                bytes += self.add_column(field, fields[field as usize].ty);
            }
            let column = &mut self.columns[number as usize];
            column.pad(row);
            column.push(cell, room);
            if let Cell::Text(text) = cell {
                bytes += text.raw.len();
            }
        }
        self.series_of.push(series);
        self.time.push(time);
        bytes + self.row_bytes
    }

    /// Adds a column that no row has yet; returns what it takes for the rows there are.
    fn add_column(&mut self, field: u32, ty: ColumnType) -> usize {
        let values = Values::empty(ty.physical());
        let width = match values {
            Values::Bool(_) => 1,
            Values::I128(_) => 16,
            _ => 8,
        };
        self.columns.push(Column {
            field,
            values,
            len: 0,
            validity: None,
        });
        self.row_bytes += width;
        COLUMN_BYTES + width * self.time.len()
    }

    /// The rows, `None` if there is none.
    pub(super) fn finish(self, table: &Table) -> Option<Rows> {
        let rows = self.time.len();
        let columns = self.columns.into_iter().map(|mut column| {
            column.pad(rows);
            FieldColumn {
                id: table.fields[column.field as usize].id,
                values: column.values,
                validity: column.validity,
            }
        });
        (rows > 0).then(|| Rows {
            series: self.series,
            series_of: self.series_of,
            time: self.time,
            columns: columns.collect(),
        })
    }
}
