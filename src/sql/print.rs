//! Replies for people: a table, or a line for each value.
//!
//! Widths are counted in characters. A line break inside a value is shown as `\n`, so that a row
//! stays a row; other formats give the value as it is.

use std::borrow::Cow;
use std::io::{self, Write};

use auxo_client::Answer;

/// What NULL looks like.
const NULL: &str = "NULL";

/// Columns below their names, numbers to the right.
pub(crate) fn table(answer: &Answer, out: &mut impl Write) -> io::Result<()> {
    let rows: Vec<Vec<Cow<'_, str>>> = (0..answer.row_count())
        .map(|row| answer.row(row).map(shown).collect())
        .collect();
    let names: Vec<_> = answer
        .columns
        .iter()
        .map(|column| shown(Some(Cow::Borrowed(&column.name))))
        .collect();
    let rights: Vec<bool> = answer
        .columns
        .iter()
        .map(|column| is_number(&column.type_name))
        .collect();
    grid(&names, &rights, &rows, out)
}

/// Any table: names, which columns stand to the right, and rows of as many cells.
pub(crate) fn grid(
    names: &[Cow<'_, str>],
    rights: &[bool],
    rows: &[Vec<Cow<'_, str>>],
    out: &mut impl Write,
) -> io::Result<()> {
    let width = |text: &str| text.chars().count();
    let widths: Vec<usize> = names
        .iter()
        .enumerate()
        .map(|(column, name)| {
            let cells = rows.iter().map(|row| width(&row[column]));
            cells.max().unwrap_or(0).max(width(name))
        })
        .collect();
    let line = |cells: &[Cow<'_, str>], out: &mut dyn Write| {
        let mut text = String::new();
        for (column, cell) in cells.iter().enumerate() {
            if column > 0 {
                text.push_str(" | ");
            }
            let pad = " ".repeat(widths[column] - width(cell));
            match rights[column] {
                true => text.extend([&pad, &**cell]),
                false => text.extend([&**cell, &pad]),
            }
        }
        writeln!(out, "{}", text.trim_end())
    };
    line(names, out)?;
    let rules: Vec<_> = widths.iter().map(|&width| "-".repeat(width)).collect();
    writeln!(out, "{}", rules.join("-+-"))?;
    rows.iter().try_for_each(|row| line(row, out))
}

/// A line for each value, rows apart by a numbered rule.
pub(crate) fn vertical(answer: &Answer, out: &mut impl Write) -> io::Result<()> {
    let names = answer
        .columns
        .iter()
        .map(|column| column.name.chars().count());
    let width = names.max().unwrap_or(0);
    for row in 0..answer.row_count() {
        writeln!(out, "-[ row {} ]-", row + 1)?;
        for (column, cell) in answer.columns.iter().zip(answer.row(row)) {
            writeln!(out, "{:width$} | {}", column.name, shown(cell))?;
        }
    }
    Ok(())
}

fn shown(cell: Option<Cow<'_, str>>) -> Cow<'_, str> {
    match cell {
        None => Cow::Borrowed(NULL),
        // What could move the cursor is written out: a stored value does not command a terminal.
        Some(text) if text.chars().any(char::is_control) => {
            let safe = text.chars().flat_map(|c| match c.is_control() {
                true => c.escape_default().collect::<Vec<_>>(),
                false => vec![c],
            });
            Cow::Owned(safe.collect())
        }
        Some(text) => text,
    }
}

fn is_number(type_name: &str) -> bool {
    ["int", "uint", "float", "decimal"]
        .iter()
        .any(|number| type_name.starts_with(number))
        && !type_name.starts_with("interval")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answer() -> Answer {
        let body = r#"{"columns":[{"name":"host","type":"string"},{"name":"n","type":"int64"},{"name":"ü","type":"float64"}],
            "rows":[["web1",5,0.30000000000000004],["é\n\u001b[2J",null,"NaN"]]}"#;
        Answer::read(body.as_bytes()).unwrap()
    }

    fn text(print: impl Fn(&Answer, &mut Vec<u8>) -> io::Result<()>) -> String {
        let mut out = Vec::new();
        print(&answer(), &mut out).unwrap();
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn a_table_has_columns_below_their_names() {
        assert_eq!(
            text(table),
            "host         |    n |                   ü\n\
             -------------+------+--------------------\n\
             web1         |    5 | 0.30000000000000004\n\
             é\\n\\u{1b}[2J | NULL |                 NaN\n"
        );
    }

    #[test]
    fn vertical_has_a_line_for_each_value() {
        assert_eq!(
            text(vertical),
            "-[ row 1 ]-\nhost | web1\nn    | 5\nü    | 0.30000000000000004\n\
             -[ row 2 ]-\nhost | é\\n\\u{1b}[2J\nn    | NULL\nü    | NaN\n"
        );
    }
}
