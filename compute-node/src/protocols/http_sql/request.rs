//! What a request to `/v1/sql` asks for, from its URL, its body and two headers.
//!
//! * A JSON body holds the fields of [`SqlRequest`]; a form is a form only if its first key is `sql`
//!   or `q`, because `curl -d` calls any text a form; every other body is the statement itself, as it
//!   stands.
//! * Arguments of the URL are the same fields, `p.1` and `p.NAME` being parameters. A field of the
//!   body wins over the same field of the URL.
//! * An unknown field is refused by name: a misspelt limit must not pass for no limit.

use auxo_proto::error::{ErrorCode, Failure};
use auxo_query::{Param, Params};
use serde_json::{Map, Value};

use super::format::{Format, TimeFormat, ValueOptions};
use arrow::datatypes::TimeUnit;

/// How fresh an answer has to be.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ReadMode {
    /// Everything acked before the request.
    #[default]
    Strong,
    /// At most this many milliseconds behind.
    Bounded(u64),
    /// At least what a read token names.
    Token,
    /// Whatever is at hand.
    Eventual,
}

/// Who may answer.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Reader {
    /// Anyone.
    #[default]
    Any,
    /// The leader of a shard.
    Leader,
    /// A follower.
    Follower,
    /// A compute-only node.
    Compute,
}

/// What one request asks for; `None` leaves it to the server.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct SqlRequest {
    /// The statement.
    pub sql: String,
    /// Its values.
    pub params: Params,
    /// Database of unqualified names.
    pub db: Option<String>,
    /// What the answer is written as.
    pub format: Option<Format>,
    /// How values are written.
    pub values: ValueOptions,
    /// How fresh the answer has to be.
    pub read_mode: ReadMode,
    /// What [`ReadMode::Token`] waits for.
    pub read_token: Option<String>,
    /// Who may answer.
    pub reader: Reader,
    /// When the statement has to be over, in milliseconds from its arrival.
    pub timeout_ms: Option<u64>,
    /// Rows after which the answer is cut.
    pub row_limit: Option<u64>,
    /// Bytes after which the answer is cut.
    pub byte_limit: Option<u64>,
    /// Whether the answer is held back until the query has ended.
    pub buffer: bool,
    /// Name for cancel and progress.
    pub query_id: Option<String>,
    /// Labels for the query log.
    pub tags: Vec<(String, String)>,
}

/// Where a request's fields stand.
#[derive(Clone, Copy, Debug, Default)]
pub struct Carried<'a> {
    /// The URL's arguments, behind the `?`.
    pub url: &'a str,
    /// The `Content-Type` header.
    pub content_type: Option<&'a str>,
    /// The `Accept` header.
    pub accept: Option<&'a str>,
    /// The body.
    pub body: &'a [u8],
}

const FIELDS: [&str; 16] = [
    "sql",
    "q",
    "params",
    "db",
    "format",
    "time_format",
    "int64",
    "timezone",
    "read_mode",
    "read_token",
    "reader",
    "timeout_ms",
    "row_limit",
    "byte_limit",
    "buffer",
    "query_id",
];

fn bad(detail: impl Into<String>) -> Failure {
    Failure::new(ErrorCode::BadRequest, detail)
}

impl SqlRequest {
    /// Reads a request for one statement.
    ///
    /// * errors: `BAD_REQUEST` naming the field, `BAD_PARAMETER`, `NOT_ACCEPTABLE` for a format,
    ///   `BAD_ENCODING` for text that is not UTF-8.
    pub fn read(carried: Carried<'_>) -> Result<Self, Failure> {
        let mut request = Self::default();
        request.read_arguments(&arguments(carried.url)?)?;
        match body(carried)? {
            Body::None => {}
            Body::Statement(sql) => request.sql = sql,
            Body::Form(fields) => request.read_arguments(&fields)?,
            Body::Object(fields) => request.read_fields(fields)?,
        }
        if request.sql.is_empty() {
            let hint = "send it as the body, or as the field sql";
            return Err(bad("there is no statement").hint(hint));
        }
        if let (None, Some(accept)) = (request.format, carried.accept) {
            request.format = Format::from_accept(accept)?;
        }
        Ok(request)
    }

    fn read_arguments(&mut self, arguments: &[(String, String)]) -> Result<(), Failure> {
        let mut params = Vec::new();
        for (name, value) in arguments {
            match name.strip_prefix("p.") {
                Some(param) => params.push((param.to_owned(), Param::text(value.clone()))),
                None => self.read_field(name, &Value::String(value.clone()))?,
            }
        }
        if !params.is_empty() {
            self.params = numbered(params)?;
        }
        Ok(())
    }

    fn read_fields(&mut self, fields: Map<String, Value>) -> Result<(), Failure> {
        for (name, value) in &fields {
            match (name.as_str(), value) {
                ("params", value) => self.params = Params::from_json(value)?,
                ("tags", Value::Object(tags)) => self.tags = labels(tags)?,
                (_, Value::Null) => {}
                (name, value) => self.read_field(name, value)?,
            }
        }
        Ok(())
    }

    fn read_field(&mut self, name: &str, value: &Value) -> Result<(), Failure> {
        match name {
            "sql" | "q" => self.sql = text(name, value)?,
            "db" => self.db = Some(text(name, value)?),
            "format" => self.format = Some(Format::from_name(&text(name, value)?)?),
            "time_format" => {
                self.values.time_format = match text(name, value)?.as_str() {
                    "rfc3339" => TimeFormat::Rfc3339,
                    "s" => TimeFormat::Number(TimeUnit::Second),
                    "ms" => TimeFormat::Number(TimeUnit::Millisecond),
                    "us" => TimeFormat::Number(TimeUnit::Microsecond),
                    "ns" => TimeFormat::Number(TimeUnit::Nanosecond),
                    other => return Err(none_of(name, other, "rfc3339, s, ms, us, ns")),
                }
            }
            "int64" => {
                self.values.int64_as_string = match text(name, value)?.as_str() {
                    "number" => false,
                    "string" => true,
                    other => return Err(none_of(name, other, "number, string")),
                }
            }
            "timezone" => match text(name, value)?.as_str() {
                "UTC" => {}
                other => {
                    let hint = "time_bucket takes a zone as its fourth argument";
                    return Err(none_of(name, other, "UTC").hint(hint));
                }
            },
            "read_mode" => self.read_mode = read_mode(&text(name, value)?)?,
            "read_token" => self.read_token = Some(text(name, value)?),
            "reader" => {
                self.reader = match text(name, value)?.as_str() {
                    "any" => Reader::Any,
                    "leader" => Reader::Leader,
                    "follower" => Reader::Follower,
                    "compute" => Reader::Compute,
                    other => return Err(none_of(name, other, "any, leader, follower, compute")),
                }
            }
            "timeout_ms" => self.timeout_ms = Some(whole(name, value)?),
            "row_limit" => self.row_limit = Some(whole(name, value)?),
            "byte_limit" => self.byte_limit = Some(whole(name, value)?),
            "buffer" => self.buffer = truth(name, value)?,
            "query_id" => self.query_id = Some(query_id(&text(name, value)?)?),
            _ => {
                let failure = bad(format!("unknown field {name}"));
                return Err(failure.hint(format!("fields are {}", FIELDS.join(", "))));
            }
        }
        Ok(())
    }
}

/// A request to `/v1/sql/batch`.
#[derive(Clone, Debug, PartialEq)]
pub enum BatchRequest {
    /// One statement, once for each list of values.
    Rows {
        /// The statement, with everything but its values.
        request: Box<SqlRequest>,
        /// The values.
        params: Vec<Params>,
    },
    /// Several statements, in order, until one fails.
    Statements(Vec<SqlRequest>),
}

/// Statements or rows of values that one batch may hold.
const BATCH_MAX: usize = 10_000;

impl BatchRequest {
    /// Reads a batch; its body is a JSON object with `sql` and a list of `params`, or `statements`.
    ///
    /// * errors: as [`SqlRequest::read`].
    pub fn read(carried: Carried<'_>) -> Result<Self, Failure> {
        let mut fields = object(carried.body)?;
        let mut common = SqlRequest::default();
        common.read_arguments(&arguments(carried.url)?)?;
        if let Some(statements) = fields.remove("statements") {
            common.read_fields(fields)?;
            let Value::Array(statements) = statements else {
                return Err(bad("statements is a list of objects with the field sql"));
            };
            let statements = bounded(statements)?
                .into_iter()
                .map(|statement| match statement {
                    Value::Object(fields) => {
                        let mut request = common.clone();
                        request.read_fields(fields)?;
                        Ok(request)
                    }
                    _ => Err(bad("statements is a list of objects with the field sql")),
                });
            return Ok(Self::Statements(statements.collect::<Result<_, _>>()?));
        }
        let Some(Value::Array(params)) = fields.remove("params") else {
            let detail = "a batch has statements, or sql and a list of params";
            return Err(bad(detail));
        };
        common.read_fields(fields)?;
        let params = bounded(params)?
            .iter()
            .map(Params::from_json)
            .collect::<Result<_, _>>()?;
        Ok(Self::Rows {
            request: Box::new(common),
            params,
        })
    }
}

fn bounded(items: Vec<Value>) -> Result<Vec<Value>, Failure> {
    match items.len() {
        0..=BATCH_MAX => Ok(items),
        more => {
            let detail = format!("batch of {more}, the limit is {BATCH_MAX}");
            Err(Failure::new(ErrorCode::BatchTooLarge, detail))
        }
    }
}

fn none_of(name: &str, value: &str, known: &str) -> Failure {
    bad(format!("{name} {value:?} is none of {known}"))
}

fn text(name: &str, value: &Value) -> Result<String, Failure> {
    match value {
        Value::String(text) => Ok(text.clone()),
        _ => Err(bad(format!("{name} is text, not {value}"))),
    }
}

fn whole(name: &str, value: &Value) -> Result<u64, Failure> {
    let number = match value {
        Value::String(text) => text.parse().ok(),
        value => value.as_u64(),
    };
    number.ok_or_else(|| bad(format!("{name} is a whole number, not {value}")))
}

fn truth(name: &str, value: &Value) -> Result<bool, Failure> {
    match value {
        Value::Bool(truth) => Ok(*truth),
        Value::String(text) if matches!(text.as_str(), "true" | "1") => Ok(true),
        Value::String(text) if matches!(text.as_str(), "false" | "0") => Ok(false),
        _ => Err(bad(format!("{name} is true or false, not {value}"))),
    }
}

fn read_mode(text: &str) -> Result<ReadMode, Failure> {
    let bounded = text
        .strip_prefix("bounded(")
        .and_then(|rest| rest.strip_suffix(')'));
    match (text, bounded.map(str::parse)) {
        ("strong", _) => Ok(ReadMode::Strong),
        ("token", _) => Ok(ReadMode::Token),
        ("eventual", _) => Ok(ReadMode::Eventual),
        (_, Some(Ok(ms))) => Ok(ReadMode::Bounded(ms)),
        _ => Err(none_of(
            "read_mode",
            text,
            "strong, bounded(MS), token, eventual",
        )),
    }
}

/// A name that can stand in a header, a path and a log line.
fn query_id(text: &str) -> Result<String, Failure> {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte);
    match (1..=64).contains(&text.len()) && text.bytes().all(plain) {
        true => Ok(text.to_owned()),
        false => Err(bad(
            "query_id has 1 to 64 letters, digits, dots, dashes or underscores",
        )),
    }
}

fn labels(tags: &Map<String, Value>) -> Result<Vec<(String, String)>, Failure> {
    let label = |(name, value): (&String, &Value)| Ok((name.clone(), text("a tag", value)?));
    tags.iter().map(label).collect()
}

/// Values of `p.1`, `p.2`, ... as a list, other names as names.
fn numbered(params: Vec<(String, Param)>) -> Result<Params, Failure> {
    let number = |name: &str| name.parse::<usize>().ok();
    if params.iter().all(|(name, _)| number(name).is_none()) {
        return Ok(Params::Named(params));
    }
    let mut list: Vec<Option<Param>> = vec![None; params.len()];
    for (name, value) in params {
        let slot = number(&name)
            .and_then(|at| at.checked_sub(1))
            .and_then(|at| list.get_mut(at));
        match slot {
            Some(slot) if slot.is_none() => *slot = Some(value),
            _ => {
                let detail = "parameters are p.1, p.2 and so on without a gap, or all have names";
                return Err(Failure::new(ErrorCode::BadParameter, detail));
            }
        }
    }
    Ok(Params::List(list.into_iter().flatten().collect()))
}

enum Body {
    None,
    Statement(String),
    Form(Vec<(String, String)>),
    Object(Map<String, Value>),
}

fn utf8(bytes: &[u8]) -> Result<&str, Failure> {
    std::str::from_utf8(bytes).map_err(|error| {
        let detail = format!("text is not UTF-8 at byte {}", error.valid_up_to());
        Failure::new(ErrorCode::BadEncoding, detail)
    })
}

fn object(body: &[u8]) -> Result<Map<String, Value>, Failure> {
    match serde_json::from_slice(body) {
        Ok(Value::Object(fields)) => Ok(fields),
        Ok(_) => Err(bad("a JSON body is an object with the field sql")),
        Err(error) => Err(bad(format!("body is no JSON: {error}"))),
    }
}

fn body(carried: Carried<'_>) -> Result<Body, Failure> {
    if carried.body.is_empty() {
        return Ok(Body::None);
    }
    let media = carried.content_type.unwrap_or_default().split(';').next();
    let media = media.unwrap_or_default().trim();
    if media.eq_ignore_ascii_case("application/json") {
        return Ok(Body::Object(object(carried.body)?));
    }
    let text = utf8(carried.body)?;
    let form = media.eq_ignore_ascii_case("application/x-www-form-urlencoded")
        && (text.starts_with("sql=") || text.starts_with("q="));
    match form {
        true => Ok(Body::Form(arguments(text)?)),
        false => Ok(Body::Statement(text.to_owned())),
    }
}

/// Names and values of a query string or a form.
fn arguments(text: &str) -> Result<Vec<(String, String)>, Failure> {
    let pairs = text.split('&').filter(|pair| !pair.is_empty());
    pairs
        .map(|pair| {
            let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
            Ok((decoded(name)?, decoded(value)?))
        })
        .collect()
}

/// Text with `+` and `%XX` taken back; a `%` that begins no code stands for itself.
fn decoded(text: &str) -> Result<String, Failure> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((&byte, after)) = rest.split_first() {
        rest = after;
        match (byte, after) {
            (b'+', _) => bytes.push(b' '),
            (b'%', [high, low, behind @ ..]) => match (digit(*high), digit(*low)) {
                (Some(high), Some(low)) => {
                    bytes.push(high << 4 | low);
                    rest = behind;
                }
                _ => bytes.push(b'%'),
            },
            (byte, _) => bytes.push(byte),
        }
    }
    utf8(&bytes).map(str::to_owned)
}

fn digit(byte: u8) -> Option<u8> {
    char::from(byte)
        .to_digit(16)
        .and_then(|digit| u8::try_from(digit).ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(url: &str, content_type: Option<&str>, body: &str) -> Result<SqlRequest, Failure> {
        SqlRequest::read(Carried {
            url,
            content_type,
            accept: None,
            body: body.as_bytes(),
        })
    }

    const FORM: Option<&str> = Some("application/x-www-form-urlencoded");
    const JSON: Option<&str> = Some("application/json; charset=utf-8");

    #[test]
    fn a_form_that_is_none_is_the_statement() {
        let sql = "SELECT '100%25 + 1' AS x";
        assert_eq!(read("", FORM, sql).unwrap().sql, sql);
        assert_eq!(read("", None, sql).unwrap().sql, sql);
        assert_eq!(
            read("", FORM, "sql=SELECT+%27a%2Bb%27&db=x").unwrap().sql,
            "SELECT 'a+b'"
        );
        assert_eq!(
            read("", FORM, "sql=SELECT+1&db=x").unwrap().db.unwrap(),
            "x"
        );
        assert_eq!(read("", FORM, "q=SELECT+1").unwrap().sql, "SELECT 1");
        assert_eq!(read("sql=SELECT%201", None, "").unwrap().sql, "SELECT 1");
    }

    #[test]
    fn every_field_of_the_example_is_read() {
        let body = r#"{"sql":"SELECT $dc","params":{"dc":"eu1","from":{"type":"timestamp","value":"2026-01-01T00:00:00Z"}},
            "db":"devops","format":"csv","read_mode":"bounded(2000)","timeout_ms":10000,"row_limit":100000,"time_format":"ms",
            "int64":"string","buffer":true,"query_id":"0199f3a1-6c0e","tags":{"panel":"7"},"reader":"leader","byte_limit":null}"#;
        let request = read("db=other&timeout_ms=5", JSON, body).unwrap();
        assert_eq!(request.db.as_deref(), Some("devops"));
        assert_eq!(request.format, Some(Format::Csv));
        assert_eq!(request.read_mode, ReadMode::Bounded(2000));
        assert_eq!(
            (request.timeout_ms, request.row_limit),
            (Some(10_000), Some(100_000))
        );
        assert_eq!(
            request.values.time_format,
            TimeFormat::Number(TimeUnit::Millisecond)
        );
        assert!(request.values.int64_as_string && request.buffer);
        assert_eq!(request.query_id.as_deref(), Some("0199f3a1-6c0e"));
        assert_eq!(request.tags, [("panel".to_owned(), "7".to_owned())]);
        assert_eq!(request.reader, Reader::Leader);
        let Params::Named(params) = request.params else {
            panic!("parameters have names");
        };
        assert_eq!(params[0], ("dc".to_owned(), Param::text("eu1")));
    }

    #[test]
    fn parameters_stand_in_the_url_too() {
        let request = read("p.2=b&p.1=a%20c", None, "SELECT $1, $2").unwrap();
        assert_eq!(
            request.params,
            Params::List(vec![Param::text("a c"), Param::text("b")])
        );
        let request = read("p.h=web1", None, "SELECT $h").unwrap();
        assert_eq!(
            request.params,
            Params::Named(vec![("h".into(), Param::text("web1"))])
        );
        for gap in ["p.1=a&p.3=b", "p.0=a", "p.1=a&p.1=b", "p.1=a&p.x=b"] {
            assert_eq!(
                read(gap, None, "SELECT 1").unwrap_err().code,
                ErrorCode::BadParameter
            );
        }
    }

    #[test]
    fn what_is_wrong_is_named() {
        let refused = |url, content_type, body| read(url, content_type, body).unwrap_err().detail;
        assert_eq!(refused("", None, ""), "there is no statement");
        assert_eq!(
            refused("row_limt=1", None, "SELECT 1"),
            "unknown field row_limt"
        );
        assert!(
            refused("row_limit=-1", None, "SELECT 1").starts_with("row_limit is a whole number")
        );
        assert!(refused("", JSON, "{").starts_with("body is no JSON"));
        assert!(refused("", JSON, "[1]").starts_with("a JSON body is an object"));
        assert!(refused("", JSON, r#"{"sql": 1}"#).starts_with("sql is text"));
        assert!(refused("read_mode=soon", None, "SELECT 1").contains("bounded(MS)"));
        assert!(refused("query_id=a/b", None, "SELECT 1").starts_with("query_id has"));
        assert!(refused("timezone=Europe/Berlin", None, "SELECT 1").contains("UTC"));
        let failure = read("format=xml", None, "SELECT 1").unwrap_err();
        assert_eq!(failure.code, ErrorCode::NotAcceptable);
        let broken = Carried {
            body: b"SELECT '\xff'",
            ..Carried::default()
        };
        assert_eq!(
            SqlRequest::read(broken).unwrap_err().code,
            ErrorCode::BadEncoding
        );
    }

    #[test]
    fn the_field_wins_over_the_header() {
        let carried = Carried {
            url: "format=ndjson",
            accept: Some("text/csv"),
            body: b"SELECT 1",
            content_type: None,
        };
        assert_eq!(
            SqlRequest::read(carried).unwrap().format,
            Some(Format::Ndjson)
        );
        let carried = Carried { url: "", ..carried };
        assert_eq!(SqlRequest::read(carried).unwrap().format, Some(Format::Csv));
    }

    #[test]
    fn batches_are_rows_of_values_or_statements() {
        let read = |body: &str| {
            let carried = Carried {
                body: body.as_bytes(),
                ..Carried::default()
            };
            BatchRequest::read(carried)
        };
        let rows = read(r#"{"sql":"INSERT INTO t VALUES ($1)","params":[[1],[2]],"db":"d"}"#);
        let BatchRequest::Rows { request, params } = rows.unwrap() else {
            panic!("rows of values");
        };
        assert_eq!((request.db.as_deref(), params.len()), (Some("d"), 2));
        let statements =
            read(r#"{"db":"d","statements":[{"sql":"SELECT 1"},{"sql":"SELECT 2","db":"e"}]}"#);
        let BatchRequest::Statements(statements) = statements.unwrap() else {
            panic!("statements");
        };
        assert_eq!(statements[0].db.as_deref(), Some("d"));
        assert_eq!(statements[1].db.as_deref(), Some("e"));
        assert!(read(r#"{"sql":"SELECT 1"}"#).is_err());
        assert!(read(r#"{"statements":{}}"#).is_err());
    }
}
