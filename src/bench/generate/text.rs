//! Rows as the bytes of their format.

use std::io::{self, Write};

use super::sets::{Field, Set, Show};
use super::{Format, GenerateOptions, Generated, Source};

/// Written at once.
const CHUNK_BYTES: usize = 1 << 20;

/// Renders rows and writes them in chunks.
pub(super) struct Writer<'o> {
    format: Format,
    unit_ns: i64,
    fields: &'static [Field],
    /// What stands before each field's value.
    names: Vec<String>,
    out: &'o mut dyn Write,
    buffer: Vec<u8>,
    /// The last time written, and its text.
    time: (i64, Vec<u8>),
    generated: Generated,
}

impl<'o> Writer<'o> {
    pub(super) fn new(
        options: &GenerateOptions,
        fields: &'static [Field],
        out: &'o mut dyn Write,
    ) -> Self {
        let name = |field: &Field| match options.format {
            Format::Lp => format!("{}=", field.name),
            Format::Csv => String::new(),
        };
        Self {
            format: options.format,
            unit_ns: options.precision.ns(),
            fields,
            names: fields.iter().map(name).collect(),
            out,
            buffer: Vec::with_capacity(CHUNK_BYTES + 4096),
            time: (i64::MIN, Vec::new()),
            generated: Generated::default(),
        }
    }

    pub(super) fn header(&mut self, set: &Set) {
        let fields = self.fields.iter().map(|field| field.name);
        let columns = set.tags.iter().copied().chain(fields).chain(["time"]);
        let columns: Vec<_> = columns.collect();
        self.buffer.extend_from_slice(columns.join(",").as_bytes());
        self.buffer.push(b'\n');
    }

    /// Renders a row into what is written next, or into the rows that wait.
    pub(super) fn row(&mut self, source: &mut Source, time: i64, waiting: Option<&mut Vec<u8>>) {
        self.generated.rows += 1;
        self.generated.late_rows += u64::from(waiting.is_some());
        let row = waiting.unwrap_or(&mut self.buffer);
        row.extend_from_slice(&source.head);
        let csv = self.format == Format::Csv;
        let mut first = true;
        for ((field, name), state) in self.fields.iter().zip(&self.names).zip(&source.state) {
            let null = field.null > 0 && source.nulls.chance(field.null);
            if null && !csv {
                continue;
            }
            if !first {
                row.push(b',');
            }
            first = false;
            if null {
                continue;
            }
            self.generated.values += 1;
            row.extend_from_slice(name.as_bytes());
            value(row, field.show, state >> 16, self.format);
        }
        row.push(if csv { b',' } else { b' ' });
        if self.time.0 != time {
            self.time.0 = time;
            self.time.1.clear();
            number(&mut self.time.1, time.div_euclid(self.unit_ns));
        }
        row.extend_from_slice(&self.time.1);
        row.push(b'\n');
    }

    /// Appends rows that are due.
    pub(super) fn late(&mut self, rows: &mut Vec<u8>) -> io::Result<()> {
        self.buffer.append(rows);
        self.write_chunk()
    }

    /// Writes what was rendered if it is enough for a chunk.
    pub(super) fn write_chunk(&mut self) -> io::Result<()> {
        if self.buffer.len() < CHUNK_BYTES {
            return Ok(());
        }
        self.write()
    }

    /// Writes the rest.
    pub(super) fn finish(mut self) -> io::Result<Generated> {
        self.write()?;
        Ok(self.generated)
    }

    fn write(&mut self) -> io::Result<()> {
        self.out.write_all(&self.buffer)?;
        self.generated.bytes += self.buffer.len() as u64;
        self.buffer.clear();
        Ok(())
    }
}

fn value(row: &mut Vec<u8>, show: Show, units: i64, format: Format) {
    match show {
        Show::Whole => {
            number(row, units);
            if format == Format::Lp {
                row.push(b'i');
            }
        }
        Show::Decimal(digits) => {
            if units < 0 {
                row.push(b'-');
            }
            let unit = 10_u64.pow(digits);
            let units = units.unsigned_abs();
            number(row, (units / unit) as i64);
            row.push(b'.');
            let mut rest = units % unit;
            for digit in (0..digits).rev() {
                let power = 10_u64.pow(digit);
                row.push(b'0' + (rest / power) as u8);
                rest %= power;
            }
        }
        Show::From(least) => row.extend_from_slice(if units >= least { b"true" } else { b"false" }),
    }
}

fn number(row: &mut Vec<u8>, value: i64) {
    let mut digits = [0; 20];
    let mut at = digits.len();
    let mut rest = value.unsigned_abs();
    loop {
        at -= 1;
        digits[at] = b'0' + (rest % 10) as u8;
        rest /= 10;
        if rest == 0 {
            break;
        }
    }
    if value < 0 {
        row.push(b'-');
    }
    row.extend_from_slice(&digits[at..]);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn decimals_keep_all_their_digits() {
        let mut row = Vec::new();
        for (digits, units) in [(5, -123), (5, 9_000_000), (1, 5), (3, -1_001)] {
            value(&mut row, Show::Decimal(digits), units, Format::Lp);
            row.push(b' ');
        }
        assert_eq!(row, b"-0.00123 90.00000 0.5 -1.001 ");
    }
}
