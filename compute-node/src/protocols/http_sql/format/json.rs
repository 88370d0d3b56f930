//! JSON: one object for the whole answer, or one object a line.

use arrow::array::RecordBatch;
use arrow::error::ArrowError;
use serde_json::{Value, json};

use super::values::{Cells, ValueOptions, write_json_text};
use super::{Encoder, Head, Tail};

/// How a row is written inside the one object.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Rows {
    Lists,
    Objects,
    None,
}

/// The whole answer as one object: what is known only at the end is written at the end.
pub(super) struct Json {
    head: Head,
    options: ValueOptions,
    rows: Rows,
    names: Vec<Vec<u8>>,
    any: bool,
}

fn json_names(head: &Head) -> Vec<Vec<u8>> {
    let name = |column: &auxo_query::AnswerColumn| {
        let mut name = Vec::new();
        write_json_text(column.name.as_bytes(), &mut name);
        name.push(b':');
        name
    };
    head.columns.iter().map(name).collect()
}

fn open<'a>(batch: &'a RecordBatch, options: ValueOptions) -> Result<Vec<Cells<'a>>, ArrowError> {
    let columns = batch.columns().iter();
    columns
        .map(|column| Cells::new(column.as_ref(), options))
        .collect()
}

fn write_object(names: &[Vec<u8>], cells: &[Cells<'_>], row: usize, out: &mut Vec<u8>) {
    out.push(b'{');
    for (at, (name, cells)) in names.iter().zip(cells).enumerate() {
        if at > 0 {
            out.push(b',');
        }
        out.extend_from_slice(name);
        cells.write_json(row, out);
    }
    out.push(b'}');
}

fn write_value(value: &Value, out: &mut Vec<u8>) {
    out.extend_from_slice(value.to_string().as_bytes());
}

impl Json {
    pub(super) fn new(head: Head, options: ValueOptions, rows: Rows) -> Self {
        Self {
            names: json_names(&head),
            head,
            options,
            rows,
            any: false,
        }
    }
}

impl Encoder for Json {
    fn start(&mut self, out: &mut Vec<u8>) -> Result<(), ArrowError> {
        out.extend_from_slice(b"{\"query_id\":");
        write_json_text(self.head.query_id.as_bytes(), out);
        out.extend_from_slice(b",\"columns\":");
        write_value(&json!(self.head.columns), out);
        if self.rows != Rows::None {
            out.extend_from_slice(b",\"rows\":[");
        }
        Ok(())
    }

    fn batch(&mut self, batch: &RecordBatch, out: &mut Vec<u8>) -> Result<(), ArrowError> {
        if self.rows == Rows::None {
            return Ok(());
        }
        let cells = open(batch, self.options)?;
        for row in 0..batch.num_rows() {
            if self.any {
                out.push(b',');
            }
            self.any = true;
            if self.rows == Rows::Objects {
                write_object(&self.names, &cells, row, out);
                continue;
            }
            out.push(b'[');
            for (at, cells) in cells.iter().enumerate() {
                if at > 0 {
                    out.push(b',');
                }
                cells.write_json(row, out);
            }
            out.push(b']');
        }
        Ok(())
    }

    fn end(&mut self, tail: &Tail, out: &mut Vec<u8>) -> Result<(), ArrowError> {
        if self.rows != Rows::None {
            out.push(b']');
        }
        for (name, value) in tail.members() {
            out.extend_from_slice(b",\"");
            out.extend_from_slice(name.as_bytes());
            out.extend_from_slice(b"\":");
            write_value(&value, out);
        }
        out.push(b'}');
        Ok(())
    }

    fn error(&mut self, _: &Value, _: &mut Vec<u8>) {}
}

/// An object a line; the last line says how it ended.
pub(super) struct Ndjson {
    names: Vec<Vec<u8>>,
    options: ValueOptions,
}

impl Ndjson {
    pub(super) fn new(head: Head, options: ValueOptions) -> Self {
        Self {
            names: json_names(&head),
            options,
        }
    }
}

impl Encoder for Ndjson {
    fn start(&mut self, _: &mut Vec<u8>) -> Result<(), ArrowError> {
        Ok(())
    }

    fn batch(&mut self, batch: &RecordBatch, out: &mut Vec<u8>) -> Result<(), ArrowError> {
        let cells = open(batch, self.options)?;
        for row in 0..batch.num_rows() {
            write_object(&self.names, &cells, row, out);
            out.push(b'\n');
        }
        Ok(())
    }

    fn end(&mut self, tail: &Tail, out: &mut Vec<u8>) -> Result<(), ArrowError> {
        let members: serde_json::Map<String, Value> = tail
            .members()
            .into_iter()
            .map(|(name, value)| (name.to_owned(), value))
            .collect();
        write_value(&json!({ "end": members }), out);
        out.push(b'\n');
        Ok(())
    }

    fn error(&mut self, problem: &Value, out: &mut Vec<u8>) {
        write_value(&json!({ "error": problem }), out);
        out.push(b'\n');
    }
}
