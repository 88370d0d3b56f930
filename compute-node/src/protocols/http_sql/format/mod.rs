//! An answer as bytes, batch by batch.
//!
//! An [`Encoder`] is asked in this order: `start`, any number of `batch`, then `end` or `error`. It
//! appends to the buffer it is given and keeps nothing of a batch, but for `table`, which has to see
//! its rows before it can align them. What `error` leaves behind must look cut; where a format has
//! no word for that, the connection has to be.
//!
//! Never here: compression, headers, a limit of the answer.

mod arrow_ipc;
mod json;
mod separated;
mod table;
mod values;

use arrow::array::RecordBatch;
use arrow::datatypes::SchemaRef;
use arrow::error::ArrowError;
use auxo_proto::error::{ErrorCode, Failure};
use auxo_query::AnswerColumn;
use serde_json::Value;

pub use values::{TimeFormat, ValueOptions};

/// What an answer is written as.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// One object with the rows as lists.
    Json,
    /// One object with the rows as objects.
    JsonObjects,
    /// A line with an object for each row, and a last line with the end.
    Ndjson,
    /// RFC 4180 with a header row.
    Csv,
    /// The same with tabs.
    Tsv,
    /// Arrow's IPC stream.
    Arrow,
    /// Aligned columns for people.
    Table,
    /// No rows, only what is known at the end.
    Null,
}

/// Every format with its name in requests and its media type.
const FORMATS: [(Format, &str, &str); 8] = [
    (Format::Json, "json", "application/json"),
    (Format::JsonObjects, "json-objects", "application/json"),
    (Format::Ndjson, "ndjson", "application/x-ndjson"),
    (Format::Csv, "csv", "text/csv"),
    (Format::Tsv, "tsv", "text/tab-separated-values"),
    (
        Format::Arrow,
        "arrow",
        "application/vnd.apache.arrow.stream",
    ),
    (Format::Table, "table", "text/plain"),
    (Format::Null, "null", "application/json"),
];

impl Format {
    /// The format of that name.
    ///
    /// * errors: the name is none of the known ones, which the message lists.
    pub fn from_name(name: &str) -> Result<Self, Failure> {
        match FORMATS.iter().find(|(_, known, _)| *known == name) {
            Some((format, _, _)) => Ok(*format),
            None => {
                let known: Vec<&str> = FORMATS.iter().map(|(_, name, _)| *name).collect();
                let detail = format!("format {name:?} is none of {}", known.join(", "));
                Err(Failure::new(ErrorCode::NotAcceptable, detail))
            }
        }
    }

    /// The format that an `Accept` header wants most, of equal ones the first; `None` leaves the choice to
    /// the server.
    ///
    /// * errors: every format it wants is unknown.
    /// * source: RFC 9110, 12.4.2 and 12.5.1.
    pub fn from_accept(accept: &str) -> Result<Option<Self>, Failure> {
        let mut wanted: Vec<(&str, f32)> = accept.split(',').map(weighed).collect();
        wanted.retain(|(_, weight)| *weight > 0.0);
        // Stable: what is wanted alike stays in its order.
        wanted.sort_by(|(_, one), (_, other)| other.total_cmp(one));
        for (media, _) in wanted {
            if matches!(media, "" | "*/*" | "application/*") {
                return Ok(None);
            }
            if media == "text/*" {
                return Ok(Some(Self::Csv));
            }
            if let Some((format, _, _)) = FORMATS.iter().find(|(_, _, known)| *known == media) {
                return Ok(Some(*format));
            }
        }
        let detail = format!("no reply format for Accept: {accept}");
        Err(Failure::new(ErrorCode::NotAcceptable, detail))
    }

    /// Whether an answer can say that a limit cut it short.
    pub fn says_truncated(self) -> bool {
        match self {
            Self::Json | Self::JsonObjects | Self::Ndjson | Self::Table | Self::Null => true,
            Self::Csv | Self::Tsv | Self::Arrow => false,
        }
    }

    /// Value of the `Content-Type` header.
    pub fn content_type(self) -> &'static str {
        match self {
            Self::Csv => "text/csv; charset=utf-8; header=present",
            Self::Tsv => "text/tab-separated-values; charset=utf-8",
            Self::Table => "text/plain; charset=utf-8",
            other => FORMATS
                .iter()
                .find(|(format, _, _)| *format == other)
                .map_or("application/octet-stream", |(_, _, media)| media),
        }
    }
}

/// A media range of an `Accept` header and its weight; one that cannot be read counts as 1.
fn weighed(range: &str) -> (&str, f32) {
    let mut parts = range.split(';').map(str::trim);
    let media = parts.next().unwrap_or_default();
    let weight = parts.find_map(|part| part.strip_prefix("q=")?.parse().ok());
    (media, weight.unwrap_or(1.0))
}

/// What is known before the first row.
#[derive(Clone, Debug)]
pub struct Head {
    /// Name of the query for cancel and progress.
    pub query_id: String,
    /// What the columns are.
    pub columns: Vec<AnswerColumn>,
    /// Their types.
    pub schema: SchemaRef,
}

/// What is known only at the end.
#[derive(Clone, Debug, Default)]
pub struct Tail {
    /// Rows written.
    pub row_count: u64,
    /// Whether a limit cut the answer short.
    pub truncated: bool,
    /// Clusters that did not answer, where the request allows that.
    pub missing_clusters: Vec<String>,
    /// Sentences for people.
    pub warnings: Vec<String>,
    /// What the query cost.
    pub stats: Value,
}

impl Tail {
    /// The members that close a reply, without braces.
    fn members(&self) -> Vec<(&'static str, Value)> {
        vec![
            ("row_count", self.row_count.into()),
            ("truncated", self.truncated.into()),
            ("missing_clusters", self.missing_clusters.clone().into()),
            ("warnings", self.warnings.clone().into()),
            ("stats", self.stats.clone()),
        ]
    }
}

/// Writes one answer.
pub trait Encoder: Send {
    /// Appends what stands before the first row.
    fn start(&mut self, out: &mut Vec<u8>) -> Result<(), ArrowError>;

    /// Appends the rows of a batch, whose columns are those of the head.
    fn batch(&mut self, batch: &RecordBatch, out: &mut Vec<u8>) -> Result<(), ArrowError>;

    /// Appends what makes the answer complete.
    fn end(&mut self, tail: &Tail, out: &mut Vec<u8>) -> Result<(), ArrowError>;

    /// Appends what a reader can still understand of a failure half-way; nothing in most formats.
    fn error(&mut self, problem: &Value, out: &mut Vec<u8>);
}

/// An encoder for the format.
pub fn encoder(format: Format, head: Head, options: ValueOptions) -> Box<dyn Encoder> {
    match format {
        Format::Json => Box::new(json::Json::new(head, options, json::Rows::Lists)),
        Format::JsonObjects => Box::new(json::Json::new(head, options, json::Rows::Objects)),
        Format::Null => Box::new(json::Json::new(head, options, json::Rows::None)),
        Format::Ndjson => Box::new(json::Ndjson::new(head, options)),
        Format::Csv => Box::new(separated::Separated::new(head, options, b',')),
        Format::Tsv => Box::new(separated::Separated::new(head, options, b'\t')),
        Format::Arrow => Box::new(arrow_ipc::ArrowIpc::new(head)),
        Format::Table => Box::new(table::Table::new(head, options)),
    }
}

#[cfg(test)]
mod tests;
