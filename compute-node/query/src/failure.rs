//! What DataFusion says went wrong, as the failures of the catalogue: code, place in the
//! statement, and what was probably meant.
//!
//! Never here: a path, an address, a backtrace. What DataFusion calls a bug of its own reaches the
//! log whole and the caller as one sentence.

use auxo_proto::error::{ErrorCode, Failure, Position};
use datafusion::arrow::error::ArrowError;
use datafusion::common::{Column, SchemaError, Span};
use datafusion::error::DataFusionError;
use datafusion::sql::sqlparser::parser::ParserError;

use crate::hints::did_you_mean;
use crate::places::{find_mentioned, find_name};

/// Longest sentence of DataFusion's that is told, in characters: some quote whole values.
const DETAIL_CHARS_MAX: usize = 1_000;

/// A failure of parsing or planning `text`, with its place.
pub(crate) fn of_plan(error: &DataFusionError, text: &str) -> Failure {
    let (mut failure, named) = of_error(error);
    if failure.code == ErrorCode::Internal {
        // What DataFusion's planner calls a bug of its own is mostly a statement it cannot type.
        tracing::warn!(%error, "statement cannot be planned");
        failure.code = ErrorCode::Plan;
    }
    if failure.position.is_some() {
        return failure;
    }
    let position = place(error, text)
        .or_else(|| find_name(text, &named?))
        .or_else(|| find_mentioned(text, &failure.detail))
        .unwrap_or_else(|| Position::of_offset(text, text.len() - text.trim_start().len()));
    failure.at(position)
}

/// A failure of a statement that was already running.
pub(crate) fn of_run(error: &DataFusionError) -> Failure {
    let (failure, _) = of_error(error);
    match failure.code {
        ErrorCode::Plan => Failure {
            code: ErrorCode::Execution,
            ..failure
        },
        ErrorCode::Internal => {
            tracing::error!(%error, "statement failed inside the query engine");
            let detail = "the query engine failed; the log of the node says why";
            Failure::new(ErrorCode::Internal, detail)
        }
        _ => failure,
    }
}

/// The place the error itself carries.
fn place(error: &DataFusionError, text: &str) -> Option<Position> {
    match error {
        DataFusionError::Diagnostic(diagnostic, inner) => diagnostic
            .span
            .and_then(|span| of_span(span, text))
            .or_else(|| place(inner, text)),
        DataFusionError::Context(_, inner) => place(inner, text),
        DataFusionError::Shared(inner) => place(inner, text),
        DataFusionError::Collection(errors) => errors.iter().find_map(|error| place(error, text)),
        DataFusionError::SchemaError(schema, _) => match schema.as_ref() {
            SchemaError::FieldNotFound { field, .. }
            | SchemaError::AmbiguousReference { field } => of_span(field.spans().first()?, text),
            _ => None,
        },
        DataFusionError::SQL(parser, _) => of_parser(parser, text),
        _ => None,
    }
}

fn of_span(span: Span, text: &str) -> Option<Position> {
    let line = usize::try_from(span.start.line).ok()?;
    let column = usize::try_from(span.start.column).ok()?;
    (line > 0).then(|| Position::of_line_column(text, line, column))
}

const AT_LINE: &str = " at Line: ";

/// The place at the end of a parser's message; without one the fault is the missing rest.
fn of_parser(error: &ParserError, text: &str) -> Option<Position> {
    let (ParserError::TokenizerError(message) | ParserError::ParserError(message)) = error else {
        return None;
    };
    let place = message.rfind(AT_LINE).and_then(|at| {
        let (line, column) = message[at + AT_LINE.len()..].split_once(", Column: ")?;
        Some((line.parse().ok()?, column.parse().ok()?))
    });
    Some(match place {
        Some((line, column)) => Position::of_line_column(text, line, column),
        None => Position::of_offset(text, text.trim_end().len()),
    })
}

/// The failure without a place, and a name by which to look for one.
fn of_error(error: &DataFusionError) -> (Failure, Option<String>) {
    match error {
        DataFusionError::External(inner) => match inner.downcast_ref::<Failure>() {
            Some(failure) => (failure.clone(), None),
            None => match inner.downcast_ref::<DataFusionError>() {
                Some(inner) => of_error(inner),
                // What the library of regular expressions says, whose type is not known here.
                None if ["regex parse error", "Compiled regex exceeds"]
                    .iter()
                    .any(|start| inner.to_string().starts_with(start)) =>
                {
                    (bad_regex(ErrorCode::Execution), None)
                }
                None => (internal(error), None),
            },
        },
        DataFusionError::Context(text, _) if text == "Invalid regex" => {
            (bad_regex(ErrorCode::Plan), None)
        }
        DataFusionError::Context(_, inner) => of_error(inner),
        DataFusionError::Diagnostic(_, inner) => of_error(inner),
        DataFusionError::Shared(inner) => of_error(inner),
        DataFusionError::Collection(errors) => match errors.first() {
            Some(first) => of_error(first),
            None => (internal(error), None),
        },
        DataFusionError::SQL(parser, _) => (of_parser_text(parser), None),
        DataFusionError::SchemaError(schema, _) => of_schema(schema),
        DataFusionError::Plan(text) | DataFusionError::Configuration(text) => of_plan_text(text),
        DataFusionError::NotImplemented(text)
            if ["InSubquery(", "Exists("]
                .iter()
                .any(|test| text.contains(test)) =>
        {
            let detail =
                "IN and EXISTS of a query as a value, outside WHERE and HAVING, are not supported";
            (Failure::new(ErrorCode::Unsupported, detail), None)
        }
        DataFusionError::NotImplemented(text) if text.contains("ScalarSubquery(") => {
            let detail = "a query as a value may name columns of the outer one in equalities alone";
            (Failure::new(ErrorCode::Unsupported, detail), None)
        }
        DataFusionError::NotImplemented(text) => {
            (Failure::new(ErrorCode::Unsupported, first_line(text)), None)
        }
        DataFusionError::Execution(text) => (of_execution_text(text), None),
        DataFusionError::ArrowError(arrow, _) => (of_arrow(arrow), None),
        DataFusionError::ResourcesExhausted(text) => (of_resources(text), None),
        // The operators ~ and !~ call this a bug of theirs.
        DataFusionError::Internal(text) if text.contains("expression did not compile") => {
            (bad_regex(ErrorCode::Execution), None)
        }
        _ => (internal(error), None),
    }
}

fn internal(error: &DataFusionError) -> Failure {
    let text = match error {
        DataFusionError::Internal(text) => text.clone(),
        error => error.to_string(),
    };
    Failure::new(ErrorCode::Internal, readable(&text))
}

fn bad_regex(code: ErrorCode) -> Failure {
    let detail = "a regular expression cannot be read, or would be too large";
    Failure::new(code, detail)
}

fn of_parser_text(error: &ParserError) -> Failure {
    let message = match error {
        ParserError::TokenizerError(message) | ParserError::ParserError(message) => {
            let end = message.rfind(AT_LINE).unwrap_or(message.len());
            &message[..end]
        }
        ParserError::RecursionLimitExceeded => {
            return Failure::new(
                ErrorCode::TooComplex,
                "statement is nested too deeply for the parser",
            );
        }
    };
    let mut chars = message.chars();
    let first = chars.next().map(|char| char.to_ascii_lowercase());
    let text: String = first.into_iter().chain(chars).collect();
    let text = text
        .replacen("expected: ", "expected ", 1)
        .replacen(", found: EOF", ", found the end", 1)
        .replacen(", found: ", ", found ", 1);
    Failure::new(ErrorCode::Parse, shortened(&text))
}

fn of_schema(error: &SchemaError) -> (Failure, Option<String>) {
    match error {
        SchemaError::FieldNotFound {
            field,
            valid_fields,
        } => {
            let failure = Failure::new(ErrorCode::ColumnNotFound, missing(field, valid_fields));
            let names = valid_fields.iter().map(|valid| valid.name.as_str());
            let failure = match did_you_mean(&field.name, names) {
                Some(hint) => failure.hint(hint),
                None => failure,
            };
            (failure, Some(field.name.clone()))
        }
        SchemaError::AmbiguousReference { field } => {
            let text = format!("column {} is in more than one table", field.name);
            let failure = Failure::new(ErrorCode::AmbiguousColumn, text)
                .hint("write it with the name of its table");
            (failure, Some(field.name.clone()))
        }
        SchemaError::DuplicateQualifiedField { name, .. }
        | SchemaError::DuplicateUnqualifiedField { name } => {
            let text = format!("column {name} stands twice");
            let failure = Failure::new(ErrorCode::Plan, text).hint("give one of them an alias");
            (failure, Some(name.clone()))
        }
    }
}

fn missing(field: &Column, valid: &[Column]) -> String {
    let mut tables: Vec<&str> = valid
        .iter()
        .filter_map(|column| column.relation.as_ref())
        .map(|relation| relation.table())
        .collect();
    tables.sort_unstable();
    tables.dedup();
    match (&field.relation, tables.as_slice()) {
        (Some(relation), _) => format!("{} has no column {}", relation.table(), field.name),
        (None, [table]) => format!("table {table} has no column {}", field.name),
        (None, []) => format!("there is no column {} here", field.name),
        (None, tables) => format!("none of {} has a column {}", tables.join(", "), field.name),
    }
}

fn first_line(text: &str) -> String {
    shortened(text.lines().next().unwrap_or_default().trim())
}

/// A sentence that may quote values of any length, cut after [`DETAIL_CHARS_MAX`].
pub(crate) fn shortened(sentence: &str) -> String {
    match sentence.char_indices().nth(DETAIL_CHARS_MAX) {
        Some((end, _)) => format!("{}…", &sentence[..end]),
        None => sentence.to_owned(),
    }
}

/// A type as people know it.
fn readable(text: &str) -> String {
    let text = first_line(text);
    let text = text.strip_prefix("Internal error: ").unwrap_or(&text);
    text.replace("Dictionary(Int32, Utf8)", "String")
        .replace("Utf8View", "String")
        .replace("Utf8", "String")
}

/// What stands between two marks of a sentence.
fn between<'a>(text: &'a str, before: &str, after: &str) -> Option<&'a str> {
    let rest = &text[text.find(before)? + before.len()..];
    rest.find(after).map(|end| &rest[..end])
}

fn of_plan_text(text: &str) -> (Failure, Option<String>) {
    let failure = |code, detail: String, name: Option<&str>| {
        (Failure::new(code, detail), name.map(str::to_owned))
    };
    if let Some(name) = between(text, "Invalid function '", "'") {
        let detail = format!("there is no function {name}");
        return failure(ErrorCode::FunctionNotFound, detail, Some(name));
    }
    if let Some(column) = between(text, "column \"", "\" must appear in the GROUP BY clause") {
        let detail = format!("{column} must stand in GROUP BY or in an aggregate function");
        return failure(ErrorCode::Plan, detail, column.rsplit('.').next());
    }
    let signature = [
        "failed to match any signature",
        "No function matches",
        "does not support",
    ]
    .iter()
    .any(|mark| text.contains(mark));
    let function = between(text, "Function '", "'").or_else(|| between(text, "unction '", "'"));
    if let (true, Some(function)) = (signature, function) {
        let call = between(text, "argument types '", "'");
        let detail = match call.and_then(|call| call.split_once('(')) {
            Some((_, types)) => format!("no form of {function} takes ({}", readable(types)),
            None => format!("no form of {function} takes these arguments"),
        };
        return failure(ErrorCode::TypeMismatch, detail, Some(function));
    }
    let lower = text.to_lowercase();
    let code = if lower.contains("not supported") || lower.contains("unsupported") {
        ErrorCode::Unsupported
    } else if ["coerc", "type", "cast"]
        .iter()
        .any(|word| lower.contains(word))
    {
        ErrorCode::TypeMismatch
    } else {
        ErrorCode::Plan
    };
    failure(code, readable(text), None)
}

fn of_execution_text(text: &str) -> Failure {
    Failure::new(ErrorCode::Execution, first_line(text))
}

fn of_arrow(error: &ArrowError) -> Failure {
    let failure = |code, text: &str| Failure::new(code, first_line(text));
    match error {
        ArrowError::ExternalError(inner) => match inner.downcast_ref::<DataFusionError>() {
            Some(inner) => of_error(inner).0,
            None => Failure::new(ErrorCode::Corrupt, first_line(&inner.to_string())),
        },
        ArrowError::CastError(text) | ArrowError::ParseError(text)
            if text.contains("can be represented as nanoseconds") =>
        {
            let detail = "a time lies outside the years 1677 to 2262";
            Failure::new(ErrorCode::BadTimestamp, detail)
        }
        ArrowError::CastError(text) | ArrowError::ParseError(text) => {
            failure(ErrorCode::TypeMismatch, text)
        }
        ArrowError::ArithmeticOverflow(text) => {
            let text = match text.strip_prefix("Overflow happened on: ") {
                Some(term) => format!("{term} overflows its type"),
                None => text.clone(),
            };
            failure(ErrorCode::ValueOutOfRange, &text)
        }
        ArrowError::DivideByZero => failure(ErrorCode::DivisionByZero, "division by zero"),
        other => failure(ErrorCode::Execution, &other.to_string()),
    }
}

fn of_resources(text: &str) -> Failure {
    if text.contains("disk space during the spilling") {
        let detail = "the node's space for rows that do not fit into memory is used up";
        return Failure::new(ErrorCode::QueryLimit, detail)
            .hint("ask for less, or later: all statements that run share it (limits.spill_bytes)");
    }
    let code = if text.contains(ErrorCode::MemoryFull.text()) {
        ErrorCode::MemoryFull
    } else {
        ErrorCode::QueryLimit
    };
    Failure::new(code, first_line(text))
}
