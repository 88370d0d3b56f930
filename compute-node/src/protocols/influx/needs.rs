//! What tables lack for the lines of a body: new tables, new columns.

use std::collections::HashMap;
use std::sync::Arc;

use auxo_proto::ddl::{Ddl, NewColumn, NewTable};
use auxo_proto::schema::{ColumnKind, ColumnType, MergeMode, TableInfo, TableOptions, TimeUnit};

use super::faults::Fault;
use super::lines::Line;
use super::table::Table;

/// Name of the time column of a table that line protocol makes.
pub const TIME_COLUMN: &str = "time";

/// What one measurement lacks.
#[derive(Clone, Debug, PartialEq)]
pub struct Need {
    /// The measurement.
    pub measurement: String,
    /// Its table as the look-up returned it, `None` if there is none.
    pub table: Option<Arc<TableInfo>>,
    /// Tags and fields that it lacks, in order of the lines; for a new table all there are.
    pub columns: Vec<NewColumn>,
    /// Number of the first line that needs it, counted from 1.
    pub line: u64,
}

impl Need {
    /// The change that gives the measurement what it lacks; it passes where that was done already.
    ///
    /// * `database`: where a new table goes. It gets one tablet and merges rows field by field.
    pub fn ddl(&self, database: &str) -> Ddl {
        if let Some(table) = &self.table {
            return Ddl::AddColumns {
                table: table.id,
                columns: self.columns.clone(),
                if_not_exists: true,
            };
        }
        let of_kind = |kind| {
            let columns = self.columns.iter();
            columns.filter(move |column| column.kind == kind).cloned()
        };
        let time = NewColumn {
            name: TIME_COLUMN.to_owned(),
            kind: ColumnKind::Time,
            ty: ColumnType::Timestamp(TimeUnit::Nanosecond),
            nullable: false,
        };
        let columns = of_kind(ColumnKind::Tag)
            .chain([time])
            .chain(of_kind(ColumnKind::Field));
        Ddl::CreateTable {
            table: NewTable {
                database: database.to_owned(),
                name: self.measurement.clone(),
                columns: columns.collect(),
                partition_by: Vec::new(),
                partitions: 1,
                options: TableOptions {
                    merge_mode: MergeMode::LastNonNull,
                    ..TableOptions::default()
                },
            },
            if_not_exists: true,
        }
    }
}

/// Needs of a body so far.
#[derive(Default)]
pub(super) struct Needs {
    list: Vec<Need>,
    /// Index in `list` by measurement, and in `columns` of that need by name.
    index: HashMap<String, (usize, HashMap<String, usize>)>,
    columns: usize,
    waiting: u64,
}

impl Needs {
    /// Number of lines that wait.
    pub(super) fn waiting(&self) -> u64 {
        self.waiting
    }

    /// The needs, in order of their first lines.
    pub(super) fn into_list(self) -> Vec<Need> {
        self.list
    }

    /// Notes what a good line needs.
    ///
    /// * `columns_max`: most columns of all needs together.
    /// * errors: the line contradicts an earlier one, or asks for too much; nothing was noted.
    pub(super) fn add(
        &mut self,
        number: u64,
        measurement: &str,
        table: Option<&Table>,
        line: &Line<'_>,
        columns_max: usize,
    ) -> Result<(), Fault> {
        let tags = line
            .tags
            .iter()
            .map(|(name, _)| (name.as_ref(), ColumnKind::Tag, ColumnType::String));
        let fields = line
            .fields
            .iter()
            .map(|field| (field.name.as_ref(), ColumnKind::Field, field.value.ty()));
        let known = |name: &str| table.is_some_and(|table| table.place(name).is_some());
        let lacking = tags.chain(fields).filter(|(name, ..)| !known(name));

        let seen = self.index.get(measurement);
        let mut new = Vec::new();
        for (name, kind, ty) in lacking {
            let is_time = table.is_none() && name == TIME_COLUMN;
            let earlier = seen.and_then(|(need, columns)| {
                let column = columns.get(name)?;
                Some(&self.list[*need].columns[*column])
            });
            match earlier {
                Some(column) if column.kind != kind => {
                    return Err(other_kind(name, kind_name(column.kind), kind));
                }
                Some(column) if column.ty != ty => {
                    return Err(Fault::ClashInBody {
                        name: name.to_owned(),
                        value: ty,
                        column: column.ty,
                    });
                }
                Some(_) => {}
                None if is_time => return Err(other_kind(name, "time column", kind)),
                None => new.push(NewColumn {
                    name: name.to_owned(),
                    kind,
                    ty,
                    nullable: true,
                }),
            }
        }
        if self.columns + new.len() > columns_max {
            return Err(Fault::ManyNewColumns(columns_max));
        }
        self.waiting += 1;
        self.columns += new.len();
        if seen.is_none() {
            self.index
                .insert(measurement.to_owned(), (self.list.len(), HashMap::new()));
            self.list.push(Need {
                measurement: measurement.to_owned(),
                table: table.map(|table| Arc::clone(&table.info)),
                columns: Vec::new(),
                line: number,
            });
        }
        if let Some((need, columns)) = self.index.get_mut(measurement) {
            for column in new {
                let list = &mut self.list[*need].columns;
                columns.insert(column.name.clone(), list.len());
                list.push(column);
            }
        }
        Ok(())
    }
}

fn other_kind(name: &str, is: &'static str, used_as: ColumnKind) -> Fault {
    Fault::OtherKind {
        name: name.to_owned(),
        is,
        used_as: kind_name(used_as),
    }
}

fn kind_name(kind: ColumnKind) -> &'static str {
    match kind {
        ColumnKind::Tag => "tag",
        ColumnKind::Field => "field",
        ColumnKind::Time => "time column",
    }
}
