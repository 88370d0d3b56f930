//! The fast road: a line like the ones before it, read in one pass.
//!
//! 1. The bytes up to the first space are the memo's: the series is known, or its tags are read
//!    once and remembered.
//! 2. The fields are among those of the table's earlier lines, in their order.
//! 3. A timestamp or none, then the line's end.
//!
//! Wherever a line differs, it is left untouched to the slow road: nothing is appended before the
//! whole line is read.

use auxo_proto::schema::ColumnType;
use memchr::memchr3;

use super::memo::Meaning;
use super::value::{Cell, bool_at, float_at, signed_at, text_at, unsigned_at};
use super::{Limits, Parser, Run};

impl Parser {
    /// Reads the line at a place of the body and appends its row.
    ///
    /// * returns: where the next line begins; `None` if the slow road has to read this one.
    pub(super) fn fast_line(&mut self, run: &mut Run<'_, '_>, start: usize) -> Option<usize> {
        let (number, key_len) = self.entry(run, &run.body[start..])?;
        let table = self.memo.get(number).table;
        let builder = self.tables.builder(run, table)?;
        let known = self.tables.get(table);
        let body = run.body;
        let mut at = start + key_len + 1;
        let (mut place, mut required) = (0, 0);
        run.cells.clear();
        loop {
            let (found, field, name_len) = known.plan.find(place, &body[at..])?;
            place = found + 1;
            at += name_len;
            let (cell, len) = cell(&body[at..], field.ty, &self.limits)?;
            run.cells.push((field.field, cell));
            required += usize::from(!field.nullable);
            at += len;
            if body.get(at) != Some(&b',') {
                break;
            }
            at += 1;
        }
        if required < known.required {
            return None;
        }
        let (time, end) = match body.get(at) {
            Some(b' ') => {
                let (time, len) = signed_at(&body[at + 1..])?;
                let future_ns = self.limits.future_ns;
                let time = run
                    .request
                    .precision
                    .to_ns(time, run.request.now_ns, future_ns);
                (time.ok()?, at + 1 + len)
            }
            _ => (run.request.now_ns, at),
        };
        let next = match &body[end..] {
            [] => end,
            [b'\n', ..] => end + 1,
            [b'\r', b'\n', ..] => end + 2,
            _ => return None,
        };
        let entry = self.memo.get(number);
        let columns = entry.tags as usize + run.cells.len();
        if end - start > self.limits.line_bytes || columns > self.limits.columns {
            return None;
        }
        let rows = &mut run.builders[builder];
        let series = if entry.body == run.number {
            entry.series
        } else {
            let seed = self.memo.seed();
            let (series, bytes) = rows.series(entry.key(), entry.partition_hash, seed);
            run.memory += bytes;
            self.memo.set_series(number, run.number, series);
            series
        };
        let left = self.limits.memory_bytes.saturating_sub(run.memory);
        let fields = &known.fields;
        run.memory += rows.append(fields, series, time, &run.cells, left, &mut run.text);
        self.memo.follow(number);
        Some(next)
    }

    /// The memo's entry for the key at the start of `rest`, made if need be, and the key's length.
    fn entry<'a>(&mut self, run: &mut Run<'a, '_>, rest: &'a [u8]) -> Option<(u32, usize)> {
        if let Some((number, len)) = self.memo.follower(rest)
            && let table = self.memo.get(number).table
            && self.tables.builder(run, table).is_some()
        {
            self.memo.used(number);
            return Some((number, len));
        }
        let len = memchr3(b' ', b'\\', b'\n', rest)?;
        if len == 0 || rest[len] != b' ' || rest[0] == b'#' {
            return None;
        }
        let raw = &rest[..len];
        let hash = self.memo.hash(raw);
        let database = run.request.database;
        let tables = &self.tables;
        let in_database = |table: u32| tables.get(table).database == database;
        let found = self.memo.find(raw, hash, |entry| in_database(entry.table));
        if let Some(number) = found {
            let table = self.memo.get(number).table;
            if self.tables.builder(run, table).is_some() {
                self.memo.used(number);
                return Some((number, len));
            }
        }
        self.learn(run, raw, hash, found)
            .map(|number| (number, len))
    }

    /// Reads measurement and tags and remembers what they stand for.
    fn learn<'a>(
        &mut self,
        run: &mut Run<'a, '_>,
        raw: &'a [u8],
        hash: u64,
        stale: Option<u32>,
    ) -> Option<u32> {
        run.line.read_key(raw, &self.limits).ok()?;
        let measurement = std::mem::take(&mut run.line.measurement);
        let table = self.tables.resolve(run, &measurement)?;
        let series = self.tables.get(table).series(&run.line.tags, &mut run.key);
        let meaning = Meaning {
            table,
            tags: run.line.tags.len() as u32,
            partition_hash: series.ok()??,
        };
        self.memo
            .insert(raw, hash, run.key.as_bytes(), meaning, stale)
    }
}

/// The value at the start of `rest`, if it is of the type's kind and fits it.
fn cell<'a>(rest: &'a [u8], ty: ColumnType, limits: &Limits) -> Option<(Cell<'a>, usize)> {
    match ty {
        ColumnType::Int64 => {
            let (value, len) = signed_at(rest)?;
            (rest.get(len) == Some(&b'i')).then_some((Cell::I64(value), len + 1))
        }
        ColumnType::Float64 => {
            let (value, len) = float_at(rest)?;
            Some((Cell::F64(value), len))
        }
        ColumnType::UInt64 => {
            let (value, len) = unsigned_at(rest)?;
            (rest.get(len) == Some(&b'u')).then_some((Cell::U64(value), len + 1))
        }
        ColumnType::Bool => {
            let (value, len) = bool_at(rest)?;
            Some((Cell::Bool(value), len))
        }
        ColumnType::String => {
            let (text, len) = text_at(rest)?;
            (text.raw.len() <= limits.string_bytes).then_some((Cell::Text(text), len))
        }
        _ => None,
    }
}
