//! The slow road: any line, judged by the grammar.

use super::faults::Fault;
use super::lines::Line;
use super::table::{Place, Table};
use super::value::Cell;
use super::{Parser, Run};

impl Parser {
    /// Reads a line and appends its row, or notes what the catalog lacks for it.
    ///
    /// * errors: what is wrong with the line; then nothing was appended or noted.
    pub(super) fn slow_line<'a>(
        &mut self,
        run: &mut Run<'a, '_>,
        text: &'a [u8],
        number: u64,
    ) -> Result<(), Fault> {
        run.line.read(text, &self.limits)?;
        let now_ns = run.request.now_ns;
        let time = match run.line.time {
            Some(time) => {
                let precision = run.request.precision;
                precision.to_ns(time, now_ns, self.limits.future_ns)?
            }
            None => now_ns,
        };
        let measurement = std::mem::take(&mut run.line.measurement);
        let new_columns = self.limits.new_columns;
        let Some(number_of_table) = self.tables.resolve(run, &measurement) else {
            return run.need(number, &measurement, None, new_columns);
        };
        let table = self.tables.get(number_of_table);
        let series = table.series(&run.line.tags, &mut run.key)?;
        let fields_known = place_fields(table, &run.line, &mut run.cells)?;
        table.check_required(&run.cells)?;
        let (Some(partition_hash), true) = (series, fields_known) else {
            return run.need(number, &measurement, Some(table), new_columns);
        };
        let rows = &mut run.builders[table.builder];
        let seed = self.memo.seed();
        let (series, bytes) = rows.series(run.key.as_bytes(), partition_hash, seed);
        let table = self.tables.get_mut(number_of_table);
        run.memory += bytes;
        let left = self.limits.memory_bytes.saturating_sub(run.memory);
        let fields = &table.fields;
        run.memory += rows.append(fields, series, time, &run.cells, left, &mut run.text);
        table.expect_again(&run.line, &run.cells);
        Ok(())
    }
}

/// Finds the line's fields in the table; whether all of them are there.
fn place_fields<'a>(
    table: &Table,
    line: &Line<'a>,
    cells: &mut Vec<(u32, Cell<'a>)>,
) -> Result<bool, Fault> {
    cells.clear();
    let mut known = true;
    for field in &line.fields {
        match table.place(&field.name) {
            Some(Place::Field(number)) => {
                let ty = table.fields[number as usize].ty;
                cells.push((number, field.value.fit(ty, &field.name)?));
            }
            Some(other) => {
                return Err(Fault::OtherKind {
                    name: field.name.to_string(),
                    is: other.kind(),
                    used_as: "field",
                });
            }
            None => known = false,
        }
    }
    Ok(known)
}
