//! RFC 4180 with commas or tabs. No value is an empty cell, empty text and empty bytes are `""`.

use arrow::array::RecordBatch;
use arrow::error::ArrowError;
use serde_json::Value;

use super::values::{Cells, Kind, ValueOptions};
use super::{Encoder, Head, Tail};

/// Rows as lines, columns between separators.
pub(super) struct Separated {
    head: Head,
    options: ValueOptions,
    separator: u8,
}

impl Separated {
    pub(super) fn new(head: Head, options: ValueOptions, separator: u8) -> Self {
        Self {
            head,
            options,
            separator,
        }
    }
}

/// Appends text, in quotes where it would not be read back as it is.
fn write_text(text: &[u8], separator: u8, out: &mut Vec<u8>) {
    let special = |byte: &u8| matches!(byte, b'"' | b'\r' | b'\n') || *byte == separator;
    if !text.is_empty() && !text.iter().any(special) {
        out.extend_from_slice(text);
        return;
    }
    out.push(b'"');
    for &byte in text {
        if byte == b'"' {
            out.push(b'"');
        }
        out.push(byte);
    }
    out.push(b'"');
}

impl Encoder for Separated {
    fn start(&mut self, out: &mut Vec<u8>) -> Result<(), ArrowError> {
        for (at, column) in self.head.columns.iter().enumerate() {
            if at > 0 {
                out.push(self.separator);
            }
            write_text(column.name.as_bytes(), self.separator, out);
        }
        out.extend_from_slice(b"\r\n");
        Ok(())
    }

    fn batch(&mut self, batch: &RecordBatch, out: &mut Vec<u8>) -> Result<(), ArrowError> {
        let columns = batch.columns().iter();
        let cells = columns
            .map(|column| Cells::new(column.as_ref(), self.options))
            .collect::<Result<Vec<_>, _>>()?;
        let mut text = Vec::new();
        for row in 0..batch.num_rows() {
            for (at, cells) in cells.iter().enumerate() {
                if at > 0 {
                    out.push(self.separator);
                }
                match cells.kind {
                    _ if cells.is_null(row) => {}
                    Kind::Bare | Kind::Float | Kind::Plain => {
                        let before = out.len();
                        cells.write(row, out);
                        if out.len() == before {
                            write_text(&[], self.separator, out);
                        }
                    }
                    Kind::Text | Kind::Json => {
                        text.clear();
                        cells.write(row, &mut text);
                        write_text(&text, self.separator, out);
                    }
                }
            }
            out.extend_from_slice(b"\r\n");
        }
        Ok(())
    }

    fn end(&mut self, _: &Tail, _: &mut Vec<u8>) -> Result<(), ArrowError> {
        Ok(())
    }

    fn error(&mut self, _: &Value, _: &mut Vec<u8>) {}
}
