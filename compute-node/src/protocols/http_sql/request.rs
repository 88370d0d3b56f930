//! What a request to `/v1/sql` asks for, from its URL, headers and body. Pure.
//!
//! A body is JSON where its content type says so; a form only if its first key is `sql` or `q`,
//! because common clients label raw SQL as a form; else it is the statement as it stands.

use std::time::Duration;

use auxo_proto::error::{ErrorCode, Failure};
use auxo_query::{Param, Params};
use axum::http::{HeaderMap, header};
use serde::Deserialize;
use serde_json::Value;

use super::format::{Format, TimeFormat, ValueOptions};
use crate::reading::places::Freshness;

/// A statement and how its answer is wanted.
#[derive(Clone, Debug)]
pub struct SqlRequest {
    /// The statement.
    pub sql: String,
    /// Its values.
    pub params: Params,
    /// Database of unqualified names, if the request names one.
    pub database: Option<String>,
    /// How the answer is written.
    pub format: Format,
    /// How values are written.
    pub values: ValueOptions,
    /// How long the statement may take, if the request says so.
    pub timeout: Option<Duration>,
    /// Rows after which the answer stops, if the request says so.
    pub row_limit: Option<u64>,
    /// Bytes after which the answer stops, if the request says so.
    pub byte_limit: Option<u64>,
    /// Whether the answer is held back until the statement has ended.
    pub buffer: bool,
    /// The client's name for the statement.
    pub query_id: Option<String>,
    /// How fresh the rows have to be.
    pub freshness: Freshness,
}

/// The members of a JSON body; URL arguments have the same names.
#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct Members {
    sql: Option<String>,
    params: Value,
    db: Option<String>,
    format: Option<String>,
    time_format: Option<String>,
    int64: Option<String>,
    timezone: Option<String>,
    read_mode: Option<String>,
    timeout_ms: Option<u64>,
    row_limit: Option<u64>,
    byte_limit: Option<u64>,
    buffer: bool,
    query_id: Option<String>,
}

fn bad(detail: impl Into<String>) -> Failure {
    Failure::new(ErrorCode::BadRequest, detail)
}

/// Understands a request.
///
/// * `arguments`: of the URL, decoded.
/// * errors: `BAD_REQUEST`, `BAD_PARAMETER`, `NOT_ACCEPTABLE`, naming the member.
pub fn understand(
    arguments: &[(String, String)],
    headers: &HeaderMap,
    body: &[u8],
) -> Result<SqlRequest, Failure> {
    let mut members = Members::default();
    let mut params = Vec::new();
    read_arguments(arguments, &mut members, &mut params)?;
    read_body(headers, body, &mut members, &mut params)?;
    let params = match (params.is_empty(), &members.params) {
        (true, params) => Params::from_json(params)?,
        (false, Value::Null) => url_params(params),
        (false, _) => return Err(bad("params stand in the URL and in the body")),
    };
    let sql = members.sql.filter(|sql| !sql.trim().is_empty());
    let sql = sql.ok_or_else(|| bad("the request holds no statement"))?;
    check_fixed("timezone", members.timezone, &["UTC", "Z", "+00:00"])?;
    let freshness = freshness(members.read_mode.as_deref())?;
    let text = |name: &str| headers.get(name).and_then(|value| value.to_str().ok());
    let format = match (&members.format, text(header::ACCEPT.as_str())) {
        (Some(name), _) => Format::from_name(name)?,
        (None, Some(accept)) => Format::from_accept(accept)?.unwrap_or(Format::Json),
        (None, None) => Format::Json,
    };
    let query_id = members
        .query_id
        .or_else(|| text("x-auxo-query-id").map(str::to_owned));
    if let Some(id) = &query_id
        && (id.is_empty() || id.len() > 128 || !id.bytes().all(|byte| byte.is_ascii_graphic()))
    {
        return Err(bad("query_id has 1 to 128 visible ASCII characters"));
    }
    Ok(SqlRequest {
        sql,
        params,
        database: members
            .db
            .or_else(|| text("x-auxo-database").map(str::to_owned)),
        format,
        values: ValueOptions {
            time_format: time_format(members.time_format.as_deref())?,
            int64_as_string: match members.int64.as_deref() {
                None | Some("number") => false,
                Some("string") => true,
                Some(other) => {
                    return Err(bad(format!("int64 {other:?} is none of number, string")));
                }
            },
        },
        timeout: members.timeout_ms.map(Duration::from_millis),
        row_limit: members.row_limit,
        byte_limit: members.byte_limit,
        buffer: members.buffer,
        query_id,
        freshness,
    })
}

/// Every mode is understood, and the shard's leader answers each. What is bounded or asks for a token
/// gets a strong answer, which is more than it asks.
fn freshness(mode: Option<&str>) -> Result<Freshness, Failure> {
    let bounded = |mode: &str| {
        let ms = mode.strip_prefix("bounded(")?.strip_suffix(')')?;
        ms.trim().parse::<u64>().ok()
    };
    match mode {
        Some("eventual") => Ok(Freshness::Eventual),
        None | Some("strong" | "token") => Ok(Freshness::Strong),
        Some(mode) if bounded(mode).is_some() => Ok(Freshness::Strong),
        Some(mode) => Err(bad(format!(
            "read_mode {mode:?} is none of strong, bounded(MS), token, eventual"
        ))),
    }
}

fn read_arguments(
    arguments: &[(String, String)],
    members: &mut Members,
    params: &mut Vec<(String, String)>,
) -> Result<(), Failure> {
    for (name, value) in arguments {
        let number = || {
            value
                .parse::<u64>()
                .map_err(|_| bad(format!("{name}={value} is no whole number")))
        };
        match name.as_str() {
            "sql" | "q" => members.sql = Some(value.clone()),
            "db" => members.db = Some(value.clone()),
            "format" => members.format = Some(value.clone()),
            "time_format" => members.time_format = Some(value.clone()),
            "int64" => members.int64 = Some(value.clone()),
            "timezone" => members.timezone = Some(value.clone()),
            "read_mode" => members.read_mode = Some(value.clone()),
            "timeout_ms" => members.timeout_ms = Some(number()?),
            "row_limit" => members.row_limit = Some(number()?),
            "byte_limit" => members.byte_limit = Some(number()?),
            "buffer" => members.buffer = matches!(value.as_str(), "1" | "true" | ""),
            "query_id" => members.query_id = Some(value.clone()),
            _ => match name.strip_prefix("p.") {
                Some(param) => params.push((param.to_owned(), value.clone())),
                None => return Err(bad(format!("argument {name} is not known"))),
            },
        }
    }
    Ok(())
}

fn read_body(
    headers: &HeaderMap,
    body: &[u8],
    members: &mut Members,
    params: &mut Vec<(String, String)>,
) -> Result<(), Failure> {
    if body.is_empty() {
        return Ok(());
    }
    let content_type = headers
        .get(header::CONTENT_TYPE)
        .and_then(|value| value.to_str().ok());
    let media = content_type
        .unwrap_or_default()
        .split(';')
        .next()
        .unwrap_or_default()
        .trim()
        .to_ascii_lowercase();
    let text = str::from_utf8(body).map_err(|error| {
        Failure::new(
            ErrorCode::BadEncoding,
            format!("body is not UTF-8: {error}"),
        )
    })?;
    match media.as_str() {
        "application/json" => {
            // A list would be taken for the members in the order in which they are declared.
            if !text.trim_start().starts_with('{') {
                return Err(bad("body: a JSON object is expected"));
            }
            let given: Members =
                serde_json::from_str(text).map_err(|error| bad(format!("body: {error}")))?;
            *members = merged(given, std::mem::take(members));
            Ok(())
        }
        "application/x-www-form-urlencoded" if is_form(text) => {
            read_arguments(&form(text)?, members, params)
        }
        _ => {
            members.sql = Some(text.to_owned());
            Ok(())
        }
    }
}

/// Members of the body, and those of the URL where the body has none.
fn merged(body: Members, url: Members) -> Members {
    Members {
        sql: body.sql.or(url.sql),
        params: if body.params.is_null() {
            url.params
        } else {
            body.params
        },
        db: body.db.or(url.db),
        format: body.format.or(url.format),
        time_format: body.time_format.or(url.time_format),
        int64: body.int64.or(url.int64),
        timezone: body.timezone.or(url.timezone),
        read_mode: body.read_mode.or(url.read_mode),
        timeout_ms: body.timeout_ms.or(url.timeout_ms),
        row_limit: body.row_limit.or(url.row_limit),
        byte_limit: body.byte_limit.or(url.byte_limit),
        buffer: body.buffer || url.buffer,
        query_id: body.query_id.or(url.query_id),
    }
}

/// Whether the first key of what calls itself a form is one of ours.
fn is_form(text: &str) -> bool {
    let key = text.split(['=', '&']).next().unwrap_or_default();
    text.contains('=') && matches!(key, "sql" | "q")
}

/// Pairs of a form or of a URL's query, percent-decoded.
///
/// * errors: `BAD_ENCODING` where what is decoded is not UTF-8, naming the argument.
pub fn form(text: &str) -> Result<Vec<(String, String)>, Failure> {
    let decoded = |raw: &str, what: &str| {
        let spaced = raw.replace('+', " ");
        let bytes = percent_encoding::percent_decode_str(&spaced);
        let text = bytes.decode_utf8().map_err(|error| {
            let detail = format!("{what} is not UTF-8: {error}");
            Failure::new(ErrorCode::BadEncoding, detail)
        });
        text.map(|text| text.into_owned())
    };
    text.split('&')
        .filter(|pair| !pair.is_empty())
        .map(|pair| {
            let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
            let name = decoded(name, "the name of an argument")?;
            let value = decoded(value, &format!("argument {name}"))?;
            Ok((name, value))
        })
        .collect()
}

/// Parameters of the URL are text; `p.1`, `p.2` and so on make a list.
fn url_params(params: Vec<(String, String)>) -> Params {
    let numbered: Option<Vec<usize>> = params.iter().map(|(name, _)| name.parse().ok()).collect();
    if let Some(numbered) = numbered {
        let mut sorted: Vec<(usize, String)> = numbered
            .into_iter()
            .zip(params.into_iter().map(|(_, value)| value))
            .collect();
        sorted.sort();
        return Params::List(
            sorted
                .into_iter()
                .map(|(_, value)| Param::text(value))
                .collect(),
        );
    }
    Params::Named(
        params
            .into_iter()
            .map(|(name, value)| (name, Param::text(value)))
            .collect(),
    )
}

fn time_format(name: Option<&str>) -> Result<TimeFormat, Failure> {
    use arrow::datatypes::TimeUnit;
    Ok(match name {
        None | Some("rfc3339") => TimeFormat::Rfc3339,
        Some("s") => TimeFormat::Number(TimeUnit::Second),
        Some("ms") => TimeFormat::Number(TimeUnit::Millisecond),
        Some("us") => TimeFormat::Number(TimeUnit::Microsecond),
        Some("ns") => TimeFormat::Number(TimeUnit::Nanosecond),
        Some(other) => {
            return Err(bad(format!(
                "time_format {other:?} is none of rfc3339, s, ms, us, ns"
            )));
        }
    })
}

/// Members that have one value so far.
fn check_fixed(name: &str, value: Option<String>, known: &[&str]) -> Result<(), Failure> {
    match value {
        Some(value) if !known.contains(&value.as_str()) => {
            let detail = format!(
                "{name} {value:?} is not supported, only {}",
                known.join(", ")
            );
            Err(Failure::new(ErrorCode::Unsupported, detail))
        }
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ask(url: &str, content_type: &str, body: &str) -> Result<SqlRequest, String> {
        let mut headers = HeaderMap::new();
        if !content_type.is_empty() {
            headers.insert(header::CONTENT_TYPE, content_type.parse().unwrap());
        }
        let arguments = form(url).map_err(|failure| failure.to_string())?;
        understand(&arguments, &headers, body.as_bytes()).map_err(|failure| failure.to_string())
    }

    const FORM: &str = "application/x-www-form-urlencoded";

    #[test]
    fn raw_text_form_json_and_url_mean_the_same() {
        let sql = "SELECT a + b FROM t WHERE x = 'a&b'";
        let encoded = "SELECT%20a%20%2B%20b%20FROM%20t%20WHERE%20x%20%3D%20'a%26b'";
        let json = serde_json::json!({ "sql": sql }).to_string();
        for (url, content_type, body) in [
            ("", "", sql.to_owned()),
            ("", FORM, sql.to_owned()),
            ("", "text/plain", sql.to_owned()),
            ("", FORM, format!("sql={encoded}")),
            ("", FORM, format!("q={encoded}&db=d")),
            ("", "application/json", json.clone()),
            ("", "Application/JSON; charset=UTF-8", json),
            (&format!("sql={encoded}"), "", String::new()),
        ] {
            let request = ask(url, content_type, &body).unwrap();
            assert_eq!(request.sql, sql, "{url} {content_type} {body}");
        }
    }

    #[test]
    fn parameters_come_from_the_url_as_text_and_from_json_typed() {
        let request = ask("p.h=web1", "", "SELECT $h").unwrap();
        assert_eq!(
            request.params,
            Params::Named(vec![("h".into(), Param::text("web1"))])
        );
        let request = ask("p.2=b&p.1=a", "", "SELECT $1, $2").unwrap();
        assert_eq!(
            request.params,
            Params::List(vec![Param::text("a"), Param::text("b")])
        );
        let json = r#"{"sql":"SELECT $1","params":[5],"timeout_ms":10,"row_limit":7}"#;
        let request = ask("", "application/json", json).unwrap();
        assert!(matches!(&request.params, Params::List(values) if values.len() == 1));
        assert_eq!(
            (request.timeout, request.row_limit),
            (Some(Duration::from_millis(10)), Some(7))
        );
    }

    #[test]
    fn every_read_mode_is_understood() {
        for mode in [
            "strong",
            "token",
            "eventual",
            "bounded(0)",
            "bounded( 2000 )",
        ] {
            let url = format!("read_mode={mode}");
            assert!(ask(&url, "", "SELECT 1").is_ok(), "{mode}");
        }
    }

    #[test]
    fn what_is_not_understood_is_named() {
        for (url, content_type, body, named) in [
            ("", "", "", "no statement"),
            ("bogus=1", "", "SELECT 1", "bogus"),
            ("format=xml", "", "SELECT 1", "xml"),
            ("row_limit=x", "", "SELECT 1", "row_limit=x"),
            ("read_mode=bounded(x)", "", "SELECT 1", "read_mode"),
            ("read_mode=linear", "", "SELECT 1", "read_mode"),
            ("", "application/json", "{\"sqll\":1}", "sqll"),
            ("", "application/json", "[\"SELECT 1\"]", "JSON object"),
            ("sql=SELECT%20'%ff'", "", "", "argument sql is not UTF-8"),
            ("%ff=1", "", "SELECT 1", "name of an argument is not UTF-8"),
            (
                "p.a=1",
                "application/json",
                "{\"sql\":\"x\",\"params\":[1]}",
                "URL and in the body",
            ),
        ] {
            let error = ask(url, content_type, body).unwrap_err();
            assert!(error.contains(named), "{error}");
        }
    }
}
