//! InfluxDB's line protocol: a body of lines into typed rows per table, bad lines by number.
//!
//! 1. Most senders repeat themselves, so a line is first tried on the *fast road* (`fast`): the
//!    bytes of measurement and tags are looked up in a memo (`memo`), then the fields are expected
//!    in the order of the table's earlier lines, and numbers are read eight digits at a time.
//! 2. Whatever is in any way unusual takes the *slow road* (`slow`) for that line only: `lines`
//!    holds the grammar, and both roads make the same rows (a property test compares them).
//! 3. A line that names a measurement, tag or field that the caller's catalog does not have is put
//!    aside and reported as a [`Need`]; the caller changes the table and parses the body again.
//!
//! What is accepted, beside what the published grammar says:
//! - A backslash is an escape before `,` `=` and space in names and tag values (not before `=` in a
//!   measurement), and before `"` and `\` in a string; before anything else it stands for itself.
//! - A string may hold line feeds. One that has lost a quote ends with its first line, unless another
//!   string's quote closes it: then the line ends there, is refused as one, and the answer says where.
//! - A byte order mark before the first line is no part of it.
//! - A tag or field that stands twice in a line, and an empty tag value, make a bad line.
//! - `1i` is int64, `1u` uint64, `1` and `1e3` float64; a narrower column of the same kind takes
//!   the value if it fits. There is no other conversion: `1i` into a float64 column is a clash, as
//!   in InfluxDB. NaN and infinities do not exist here.
//! - Without a timestamp a row has the time that the caller gives as now, in full resolution.
//!
//! Rooms: `lines` (grammar), `value` (one value's text), `memo`, `table` (names to columns), `plan`
//! (fields to expect), `builder` (rows under construction), `fast` and `slow` (the two roads),
//! [`needs`], [`faults`], [`precision`]; around the parser [`door`] (requests), [`pool`] (parsers
//! between them), [`reply`] (the bodies of error replies).
//!
//! Never in the parser: the engine, a quota, a tenant, meta, HTTP.

use std::collections::HashMap;
use std::sync::Arc;

use auxo_proto::ids::DatabaseId;
use auxo_proto::key::KeyBuilder;
use auxo_proto::random::Random;
use auxo_proto::rows::Rows;
use auxo_proto::schema::TableInfo;

use builder::Builder;
use faults::{Fault, LineErrors};
use lines::Line;
use memo::Memo;
use needs::{Need, Needs};
use precision::Precision;
use table::{Table, Tables};
use value::Cell;

mod builder;
pub mod door;
mod fast;
pub mod faults;
mod lines;
mod memo;
pub mod needs;
mod plan;
pub mod pool;
pub mod precision;
pub mod reply;
mod slow;
mod table;
mod value;

#[cfg(test)]
mod tests;

/// What one line and one body may hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Deserialize)]
#[serde(default)]
pub struct Limits {
    /// Longest line in bytes.
    pub line_bytes: usize,
    /// Most tags and fields of a line.
    pub columns: usize,
    /// Longest measurement, tag name or field name in bytes.
    pub name_bytes: usize,
    /// Longest string value in bytes; the line that holds it is bounded, too.
    pub string_bytes: usize,
    /// How far in the future a point may lie, in nanoseconds.
    pub future_ns: i64,
    /// Most columns that one body may ask for beyond those there are.
    pub new_columns: usize,
    /// Most memory that the rows of one body may take, in bytes.
    pub memory_bytes: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            line_bytes: 64 << 10,
            columns: 256,
            name_bytes: auxo_proto::schema::NAME_BYTES_MAX,
            string_bytes: 4 << 20,
            future_ns: 600_000_000_000,
            new_columns: 10_000,
            memory_bytes: 128 << 20,
        }
    }
}

/// What some editors write before a text in UTF-8.
const BYTE_ORDER_MARK: &[u8] = "\u{FEFF}".as_bytes();

/// How the caller's catalog finds a table by its measurement, in the request's database.
pub type TableLookup<'r> = &'r dyn Fn(&str) -> Option<Arc<TableInfo>>;

/// What a body is read by.
#[derive(Clone, Copy)]
pub struct Request<'r> {
    /// The database in which `table` looks; keeps what is remembered of equal names apart.
    pub database: DatabaseId,
    /// Unit of the body's timestamps.
    pub precision: Precision,
    /// Wall time, in nanoseconds since 1970.
    pub now_ns: i64,
    /// Finds a table by its measurement; asked once per body and measurement.
    pub table: TableLookup<'r>,
    /// Measurements that get no table and no columns, and why: lines that need one are bad.
    pub refused: &'r Refused,
}

/// Why a measurement's needs are not met, by its name.
pub type Refused = HashMap<String, Arc<str>>;

/// What a body says.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Parsed {
    /// Rows of all lines whose names are known, in order of the tables' first lines.
    pub tables: Vec<TableRows>,
    /// What the tables lack for the other good lines; nothing of those lines is in `tables`.
    pub needs: Vec<Need>,
    /// Number of good lines that wait for `needs`.
    pub waiting: u64,
    /// The bad lines.
    pub errors: LineErrors,
}

/// Rows for one table.
#[derive(Clone, Debug, PartialEq)]
pub struct TableRows {
    /// The table as the look-up returned it.
    pub table: Arc<TableInfo>,
    /// At least one row, in order of the lines; columns and series are of that table's schema.
    pub rows: Rows,
}

/// The rows of a body would take more memory than [`Limits::memory_bytes`]: smaller pieces pass.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("rows of the body take more than {memory_max} bytes in memory")]
pub struct BodyTooLarge {
    /// The bound.
    pub memory_max: usize,
}

/// Reads bodies, and remembers their series and field orders from one to the next.
///
/// * shape: one body at a time; whoever serves many connections keeps a pool. What is remembered
///   takes at most the bound given to [`Parser::new`], whatever the bodies hold.
#[derive(Debug)]
pub struct Parser {
    limits: Limits,
    memo: Memo,
    tables: Tables,
    bodies: u64,
}

impl Parser {
    /// A parser that remembers nothing yet.
    ///
    /// * `memo_bytes_max`: most bytes to remember; half of it is for tables.
    /// * `random`: makes the memo's hash unforeseeable.
    pub fn new(limits: Limits, memo_bytes_max: usize, random: &Random) -> Self {
        Self {
            limits,
            memo: Memo::new(memo_bytes_max / 2, random.next_u64()),
            tables: Tables::new(memo_bytes_max / 2),
            bodies: 0,
        }
    }

    /// Bytes that the parser holds between two bodies.
    pub fn memory_bytes(&self) -> usize {
        self.memo.bytes() + self.tables.bytes()
    }

    /// Reads a body.
    ///
    /// * returns: rows and needs of all good lines, and the bad lines by number.
    /// * errors: [`BodyTooLarge`], for the whole body.
    /// * effects: none but on what the parser remembers; the same body may be parsed again.
    pub fn parse(&mut self, body: &[u8], request: &Request<'_>) -> Result<Parsed, BodyTooLarge> {
        self.parse_by(body, request, true)
    }

    fn parse_by(
        &mut self,
        body: &[u8],
        request: &Request<'_>,
        fast: bool,
    ) -> Result<Parsed, BodyTooLarge> {
        self.bodies += 1;
        if self.tables.are_too_large() {
            self.tables.clear();
            self.memo.clear();
        }
        let mut run = Run::new(body, request, self.bodies);
        let mark = body.starts_with(BYTE_ORDER_MARK);
        let (mut at, mut number) = (if mark { BYTE_ORDER_MARK.len() } else { 0 }, 1);
        while at < body.len() {
            if fast && let Some(next) = self.fast_line(&mut run, at) {
                at = next;
                number += 1;
            } else {
                let line = lines::next(body, at);
                if !line.text.is_empty()
                    && let Err(fault) = self.slow_line(&mut run, line.text, number)
                {
                    match number + line.line_feeds - 1 {
                        last if last == number => run.errors.push(number, line.text, &fault),
                        // Good lines may be among them, if a string has lost a quote; but what stands
                        // between two quotes is never taken for a line.
                        last => {
                            let fault =
                                format!("{fault}; by its strings the line goes on to line {last}");
                            run.errors.push(number, line.text, &fault);
                        }
                    }
                }
                at = line.next;
                number += line.line_feeds;
            }
            if run.memory > self.limits.memory_bytes {
                return Err(BodyTooLarge {
                    memory_max: self.limits.memory_bytes,
                });
            }
        }
        let tables = run.builders.into_iter().filter_map(|builder| {
            let table = self.tables.get(builder.table());
            let rows = builder.finish(table)?;
            let table = Arc::clone(&table.info);
            Some(TableRows { table, rows })
        });
        Ok(Parsed {
            tables: tables.collect(),
            waiting: run.needs.waiting(),
            needs: run.needs.into_list(),
            errors: run.errors,
        })
    }
}

/// One body on its way.
struct Run<'a, 'r> {
    body: &'a [u8],
    request: Request<'r>,
    /// Number of the body; what was bound under another number is not bound now.
    number: u64,
    builders: Vec<Builder>,
    /// Fields of the line at hand: index in the table's fields, value.
    cells: Vec<(u32, Cell<'a>)>,
    line: Line<'a>,
    /// Canonical key of the line at hand.
    key: KeyBuilder,
    /// Room for a string without its escapes.
    text: Vec<u8>,
    needs: Needs,
    errors: LineErrors,
    /// What the rows so far take.
    memory: usize,
}

impl<'a, 'r> Run<'a, 'r> {
    fn new(body: &'a [u8], request: &Request<'r>, number: u64) -> Self {
        Self {
            body,
            request: *request,
            number,
            builders: Vec::new(),
            cells: Vec::new(),
            line: Line::default(),
            key: KeyBuilder::new(),
            text: Vec::new(),
            needs: Needs::default(),
            errors: LineErrors::default(),
            memory: 0,
        }
    }

    /// Notes what the line at hand needs.
    fn need(
        &mut self,
        number: u64,
        measurement: &str,
        table: Option<&Table>,
        columns_max: usize,
    ) -> Result<(), Fault> {
        match self.request.refused.get(measurement) {
            Some(why) => Err(Fault::NeedRefused(Arc::clone(why))),
            None => self
                .needs
                .add(number, measurement, table, &self.line, columns_max),
        }
    }
}
