//! Aligned columns for people. The first rows are kept to find the widths; later ones use them.

use arrow::array::RecordBatch;
use arrow::error::ArrowError;
use serde_json::Value;

use super::values::{Cells, Kind, ValueOptions};
use super::{Encoder, Head, Tail};

/// Rows that are kept before anything is written.
const ROWS_KEPT: usize = 10_000;

/// A table drawn with bars and dashes, and a last line with the number of rows.
pub(super) struct Table {
    head: Head,
    options: ValueOptions,
    kept: Vec<Vec<String>>,
    widths: Option<Vec<usize>>,
    right: Vec<bool>,
}

impl Table {
    pub(super) fn new(head: Head, options: ValueOptions) -> Self {
        Self {
            right: vec![false; head.columns.len()],
            head,
            options,
            kept: Vec::new(),
            widths: None,
        }
    }

    fn names(&self) -> Vec<String> {
        let columns = self.head.columns.iter();
        columns.map(|column| column.name.clone()).collect()
    }

    /// Fixes the widths, and writes the header and the rows kept so far.
    fn flush(&mut self, out: &mut Vec<u8>) {
        let names = self.names();
        let mut widths = vec![0; names.len()];
        for row in self.kept.iter().chain([&names]) {
            for (width, cell) in widths.iter_mut().zip(row) {
                *width = (*width).max(cell.chars().count());
            }
        }
        self.write_row(&names, &widths, out);
        for (at, width) in widths.iter().enumerate() {
            if at > 0 {
                out.push(b'+');
            }
            out.resize(out.len() + width + 2, b'-');
        }
        out.push(b'\n');
        for row in std::mem::take(&mut self.kept) {
            self.write_row(&row, &widths, out);
        }
        self.widths = Some(widths);
    }

    fn write_row(&self, row: &[String], widths: &[usize], out: &mut Vec<u8>) {
        let start = out.len();
        for (at, (cell, width)) in row.iter().zip(widths).enumerate() {
            if at > 0 {
                out.push(b'|');
            }
            let gap = width.saturating_sub(cell.chars().count());
            let (left, right) = if self.right[at] { (gap, 0) } else { (0, gap) };
            out.resize(out.len() + left + 1, b' ');
            out.extend_from_slice(cell.as_bytes());
            out.resize(out.len() + right + 1, b' ');
        }
        while out.len() > start && out.last() == Some(&b' ') {
            out.pop();
        }
        out.push(b'\n');
    }
}

impl Encoder for Table {
    fn start(&mut self, _: &mut Vec<u8>) -> Result<(), ArrowError> {
        Ok(())
    }

    fn batch(&mut self, batch: &RecordBatch, out: &mut Vec<u8>) -> Result<(), ArrowError> {
        let columns = batch.columns().iter();
        let cells = columns
            .map(|column| Cells::new(column.as_ref(), self.options))
            .collect::<Result<Vec<_>, _>>()?;
        for (right, cells) in self.right.iter_mut().zip(&cells) {
            *right = matches!(cells.kind, Kind::Bare | Kind::Float);
        }
        let mut text = Vec::new();
        for row in 0..batch.num_rows() {
            let row: Vec<String> = cells
                .iter()
                .map(|cells| {
                    text.clear();
                    if !cells.is_null(row) {
                        cells.write(row, &mut text);
                    }
                    String::from_utf8_lossy(&text).replace(['\n', '\r', '\t'], " ")
                })
                .collect();
            match self.widths.take() {
                Some(widths) => {
                    self.write_row(&row, &widths, out);
                    self.widths = Some(widths);
                }
                None => self.kept.push(row),
            }
            if self.kept.len() == ROWS_KEPT {
                self.flush(out);
            }
        }
        Ok(())
    }

    fn end(&mut self, tail: &Tail, out: &mut Vec<u8>) -> Result<(), ArrowError> {
        if self.widths.is_none() {
            self.flush(out);
        }
        let rows = tail.row_count;
        let plural = if rows == 1 { "" } else { "s" };
        let cut = if tail.truncated { ", cut off" } else { "" };
        out.extend_from_slice(format!("({rows} row{plural}{cut})\n").as_bytes());
        Ok(())
    }

    fn error(&mut self, _: &Value, _: &mut Vec<u8>) {}
}
