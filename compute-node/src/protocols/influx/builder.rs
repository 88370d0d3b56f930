//! Rows of one table, under construction.
//!
//! A column begins with the first row that has it; a row without it is filled in when the column's
//! next value comes, or at the end.

use auxo_proto::rows::{FieldColumn, Rows, SeriesList, Validity, Values};
use auxo_proto::schema::ColumnType;
use hashbrown::HashTable;
use xxhash_rust::xxh3::xxh3_64_with_seed;

use super::table::{Field, Table};
use super::value::Cell;

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
    pub(super) fn new(table: u32, fields: usize) -> Self {
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
    /// * returns: bytes that it takes. If they are more than `left`, the builder is of no more use:
    ///   the row was not finished.
    pub(super) fn append(
        &mut self,
        fields: &[Field],
        series: u32,
        time: i64,
        cells: &[(u32, Cell<'_>)],
        left: usize,
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
                if bytes > left {
                    return bytes;
                }
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

    /// Adds a column that no row has yet; returns what it takes once it has all rows.
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

#[cfg(test)]
mod tests {
    use super::*;
    use auxo_proto::ids::ColumnId;

    #[test]
    fn a_column_too_large_is_refused_before_it_is_filled() {
        let field = |id| Field::new(ColumnId(id), ColumnType::Int64, true);
        let fields = [field(1), field(2)];
        let mut builder = Builder::new(0, 2);
        let mut append = |cells: &[(u32, Cell<'_>)], left| {
            builder.append(&fields, 0, 0, cells, left, &mut Vec::new())
        };
        let first = append(&[(0, Cell::I64(1))], 1 << 20);
        assert_eq!(first, COLUMN_BYTES + 12 + 8);
        for _ in 1..1_000 {
            assert_eq!(append(&[(0, Cell::I64(1))], 1 << 20), 12 + 8);
        }
        assert!(append(&[(0, Cell::I64(1)), (1, Cell::I64(1))], 8_000) > 8_000);
        assert_eq!(builder.time.len(), 1_000);
        assert_eq!(builder.columns[1].len, 0);
    }
}
