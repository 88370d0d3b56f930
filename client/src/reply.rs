//! What comes back for a statement: a stream of bytes that is known to be whole at its end, or a
//! table in memory.

use std::borrow::Cow;
use std::time::Duration;

use bytes::Bytes;
use reqwest::{Response, header};
use serde::Deserialize;
use serde_json::Value;
use serde_json::value::RawValue;

use crate::ending::{Ending, Summary};
use crate::statement::Format;
use crate::{Error, Refusal};

/// The longest reply that is taken into memory as a table, in bytes.
pub const ANSWER_BYTES_MAX: usize = 512 << 20;

const JSON: &[u8] = b"application/json";

/// The body of a good reply. Dropping it before its end cancels the statement on the node.
pub struct Reply {
    response: Response,
    /// Taken when the body has ended, well or not.
    ending: Option<Ending>,
    format: Format,
    idle: Duration,
    summary: Summary,
}

impl Reply {
    pub(crate) fn of(response: Response, asked: Format, idle: Duration) -> Result<Self, Error> {
        let headers = response.headers();
        // A statement without rows is answered by one JSON object, whatever format was asked for.
        let media_type = headers.get(header::CONTENT_TYPE);
        let is_json = media_type.is_some_and(|value| value.as_bytes().starts_with(JSON));
        let format = if is_json { Format::Json } else { asked };
        let framed = headers.contains_key(header::CONTENT_LENGTH)
            || headers.contains_key(header::TRANSFER_ENCODING);
        Ok(Self {
            ending: Some(Ending::of(format, framed)?),
            response,
            format,
            idle,
            summary: Summary::default(),
        })
    }

    /// How the body is written: as was asked, or `Json` for a statement that returns no rows.
    pub fn format(&self) -> Format {
        self.format
    }

    /// The next rows, in the format that was asked for; nothing after the last.
    ///
    /// * shape: pieces of any length, cut anywhere, never empty. The end line of `ndjson` is not
    ///   among them.
    /// * errors: `Cut` if the body is not whole, `Refused` if it names why, `Timeout` if it stands
    ///   still, `Reply`. After an error or the end there is nothing.
    /// * effects: cancel-safe.
    pub async fn chunk(&mut self) -> Result<Option<Bytes>, Error> {
        loop {
            let Some(ending) = &mut self.ending else {
                return Ok(None);
            };
            let piece = self.response.chunk().await;
            let passed = match piece {
                Ok(Some(piece)) => ending.pass(piece),
                Ok(None) => match self.ending.take().map(Ending::finish).transpose() {
                    Ok(summary) => {
                        self.summary = summary.unwrap_or_default();
                        return Ok(None);
                    }
                    Err(error) => Err(error),
                },
                Err(error) => {
                    let error = Error::in_body(self.idle, &error);
                    Err(match self.ending.take() {
                        Some(ending) => ending.broken(error),
                        None => error,
                    })
                }
            };
            match passed {
                Ok(rows) if rows.is_empty() => {}
                Ok(rows) => return Ok(Some(rows)),
                Err(error) => {
                    self.ending = None;
                    return Err(error);
                }
            }
        }
    }

    /// What the node said after the last row; empty until then, and for formats that cannot say.
    pub fn summary(&self) -> &Summary {
        &self.summary
    }

    /// Reads a reply to its end.
    ///
    /// * errors: as [`Reply::chunk`]; `Reply` too if it is longer than [`ANSWER_BYTES_MAX`].
    pub async fn body(mut self) -> Result<Vec<u8>, Error> {
        let mut body = Vec::new();
        while let Some(piece) = self.chunk().await? {
            if body.len() + piece.len() > ANSWER_BYTES_MAX {
                let reason = format!("longer than {ANSWER_BYTES_MAX} bytes");
                return Err(Error::Reply { reason });
            }
            body.extend_from_slice(&piece);
        }
        Ok(body)
    }

    /// Reads a `json` reply to its end.
    ///
    /// * errors: as [`Reply::body`]; `Reply` too if it was asked for in another format.
    pub async fn answer(self) -> Result<Answer, Error> {
        Answer::read(&self.body().await?)
    }
}

/// A column of a reply.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct Column {
    /// Its name.
    pub name: String,
    /// Its type, such as `float64` or `timestamp(ns)`.
    #[serde(rename = "type")]
    pub type_name: String,
}

/// A whole `json` reply.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub struct Answer {
    /// Columns in the order of the cells; none for a statement that returns no rows.
    pub columns: Vec<Column>,
    /// One list of cells per row, each as long as `columns`.
    rows: Vec<Vec<Box<RawValue>>>,
    /// How many rows a write changed.
    pub affected_rows: Option<u64>,
    /// Whether a limit stopped it early.
    pub truncated: bool,
    /// What the node wants to say.
    pub warnings: Vec<Value>,
    /// What the statement cost.
    pub stats: Value,
}

impl Answer {
    /// Reads a body.
    ///
    /// * errors: `Reply` if it is no such object, or a row has more or fewer cells than columns.
    pub fn read(body: &[u8]) -> Result<Self, Error> {
        let answer: Self = serde_json::from_slice(body).map_err(|error| Error::Reply {
            reason: error.to_string(),
        })?;
        let width = answer.columns.len();
        match answer.rows.iter().position(|row| row.len() != width) {
            None => Ok(answer),
            Some(row) => Err(Error::Reply {
                reason: format!("row {row} does not have {width} cells"),
            }),
        }
    }

    /// How many rows there are.
    pub fn row_count(&self) -> usize {
        self.rows.len()
    }

    /// The cells of one row as text; NULL is nothing. Numbers keep the digits the node sent.
    ///
    /// * panics: if there is no such row.
    pub fn row(&self, row: usize) -> impl Iterator<Item = Option<Cow<'_, str>>> {
        self.rows[row].iter().map(|cell| text(cell.get()))
    }

    /// Node's words on a statement that went through all the same.
    pub fn warning_texts(&self) -> impl Iterator<Item = Cow<'_, str>> {
        self.warnings.iter().map(|warning| match warning {
            Value::String(sentence) => Cow::Borrowed(sentence.as_str()),
            other => Cow::Owned(Refusal::read(200, None, other.to_string().as_bytes()).detail),
        })
    }
}

fn text(cell: &str) -> Option<Cow<'_, str>> {
    match cell.as_bytes().first() {
        Some(b'n') => None,
        // Borrowed unless the string holds escapes; a cell was checked as JSON when it was read.
        Some(b'"') => match serde_json::from_str::<&str>(cell) {
            Ok(borrowed) => Some(Cow::Borrowed(borrowed)),
            Err(_) => serde_json::from_str::<String>(cell).ok().map(Cow::Owned),
        },
        _ => Some(Cow::Borrowed(cell)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cells_keep_the_digits_that_were_sent() {
        let body = br#"{"columns":[{"name":"a","type":"float64","nullable":true},
            {"name":"b","type":"string"},{"name":"c","type":"uint64"}],
            "rows":[[0.30000000000000004,"x\ny",18446744073709551615],[null,"NaN",1e-7]],
            "row_count":2,"truncated":true,"warnings":["late"],"stats":{"rcu":1}}"#;
        let answer = Answer::read(body).unwrap();
        let rows: Vec<Vec<_>> = (0..answer.row_count())
            .map(|row| answer.row(row).collect())
            .collect();
        assert_eq!(
            rows,
            [
                [
                    Some("0.30000000000000004".into()),
                    Some("x\ny".into()),
                    Some("18446744073709551615".into())
                ],
                [None, Some("NaN".into()), Some("1e-7".into())]
            ]
        );
        assert!(answer.truncated);
        assert_eq!(answer.warning_texts().collect::<Vec<_>>(), ["late"]);
    }

    #[test]
    fn a_row_of_another_width_is_refused() {
        let body = br#"{"columns":[{"name":"a","type":"int64"}],"rows":[[1],[1,2]]}"#;
        let error = Answer::read(body).unwrap_err();
        assert!(error.to_string().contains("row 1"), "{error}");
    }

    #[test]
    fn a_write_has_no_columns() {
        let answer = Answer::read(br#"{"query_id":"q","affected_rows":5000}"#).unwrap();
        assert_eq!(answer.affected_rows, Some(5_000));
        assert_eq!(answer.row_count(), 0);
    }
}
