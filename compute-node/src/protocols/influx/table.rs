//! What the parser knows of a table: names to columns, at one schema.

use std::collections::HashMap;
use std::sync::Arc;

use auxo_proto::ids::{ColumnId, DatabaseId};
use auxo_proto::key::{KeyBuilder, series_hash};
use auxo_proto::schema::{ColumnKind, ColumnType, TableInfo};

use super::Run;
use super::builder::Builder;
use super::faults::Fault;
use super::lines::{Line, Tag};
use super::plan::{Plan, PlannedField};
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

impl Field {
    pub(super) fn new(id: ColumnId, ty: ColumnType, nullable: bool) -> Self {
        Self { id, ty, nullable }
    }
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
    /// Index of its builder in that body's run.
    pub(super) builder: usize,
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
                    let field = Field::new(column.id, column.ty, column.nullable);
                    table.fields.push(field);
                    Place::Field(table.fields.len() as u32 - 1)
                }
            };
            table.places.insert(column.name.clone(), place);
        }
        table
    }

    /// Bytes it takes, about; its plan has each field once, at most with as many escapes.
    fn bytes(&self) -> usize {
        let names = self.places.keys().map(|name| 3 * name.len() + 128);
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
        let fields = line.fields.iter().zip(cells).map(|(field, &(number, _))| {
            let Field { ty, nullable, .. } = self.fields[number as usize];
            (field.raw_name, PlannedField::new(number, ty, nullable))
        });
        let fields: Vec<_> = fields.collect();
        self.plan.learn(&fields);
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
