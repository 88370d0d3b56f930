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

/// Names closer than this to what was written are offered; 1 is equal, 0 has nothing in common.
const SIMILAR: f64 = 0.6;

/// The candidate that was probably meant, as "did you mean x?".
pub(crate) fn did_you_mean<'a>(
    written: &str,
    candidates: impl IntoIterator<Item = &'a str>,
) -> Option<String> {
    let lower = written.to_lowercase();
    let score =
        |candidate: &str| strsim::normalized_damerau_levenshtein(&lower, &candidate.to_lowercase());
    candidates
        .into_iter()
        .map(|candidate| (score(candidate), candidate))
        .filter(|(score, candidate)| *score >= SIMILAR && *candidate != written)
        .max_by(|(a, left), (b, right)| a.total_cmp(b).then_with(|| right.cmp(left)))
        .map(|(_, candidate)| format!("did you mean {}?", quoted_if_needed(candidate)))
}

/// A name as it has to be written in SQL.
pub(crate) fn quoted_if_needed(name: &str) -> String {
    let plain = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'_';
    let starts = name
        .bytes()
        .next()
        .is_some_and(|byte| byte.is_ascii_lowercase() || byte == b'_');
    if starts && name.bytes().all(plain) {
        name.to_owned()
    } else {
        format!("\"{}\"", name.replace('"', "\"\""))
    }
}

/// A failure of parsing or planning `text`, with its place.
pub(crate) fn of_plan(error: &DataFusionError, text: &str) -> Failure {
    let (failure, named) = of_error(error);
    if failure.position.is_some() {
        return failure;
    }
    if let Some(position) = place(error, text) {
        return failure.at(position);
    }
    let position = named
        .and_then(|name| find_name(text, &name))
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

/// First place where a name stands as a word of its own.
pub(crate) fn find_name(text: &str, name: &str) -> Option<Position> {
    let (text_lower, name_lower) = (text.to_ascii_lowercase(), name.to_ascii_lowercase());
    let word = |char: char| char.is_alphanumeric() || char == '_';
    text_lower
        .match_indices(&name_lower)
        .find(|(at, found)| {
            let before = text_lower[..*at].chars().next_back();
            let after = text_lower[at + found.len()..].chars().next();
            !before.is_some_and(word) && !after.is_some_and(word)
        })
        .map(|(at, _)| Position::of_offset(text, at))
}

/// The failure without a place, and a name by which to look for one.
fn of_error(error: &DataFusionError) -> (Failure, Option<String>) {
    match error {
        DataFusionError::External(inner) => match inner.downcast_ref::<Failure>() {
            Some(failure) => (failure.clone(), None),
            None => match inner.downcast_ref::<DataFusionError>() {
                Some(inner) => of_error(inner),
                None => (internal(error), None),
            },
        },
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
        DataFusionError::NotImplemented(text) => {
            (Failure::new(ErrorCode::Unsupported, first_line(text)), None)
        }
        DataFusionError::Execution(text) => (of_execution_text(text), None),
        DataFusionError::ArrowError(arrow, _) => (of_arrow(arrow), None),
        DataFusionError::ResourcesExhausted(text) => (of_resources(text), None),
        _ => (internal(error), None),
    }
}

fn internal(error: &DataFusionError) -> Failure {
    tracing::error!(%error, "statement failed inside the query engine");
    Failure::new(
        ErrorCode::Internal,
        "the query engine failed; the log of the node says why",
    )
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
    Failure::new(ErrorCode::Parse, text)
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
    text.lines().next().unwrap_or_default().trim().to_owned()
}

const INVALID_FUNCTION: &str = "Invalid function '";

fn of_plan_text(text: &str) -> (Failure, Option<String>) {
    if let Some(rest) = text.strip_prefix(INVALID_FUNCTION) {
        let name = rest.split('\'').next().unwrap_or_default();
        let failure = Failure::new(
            ErrorCode::FunctionNotFound,
            format!("there is no function {name}"),
        );
        let meant = rest.split("Did you mean '").nth(1);
        let meant = meant.and_then(|meant| meant.split('\'').next());
        let failure = match did_you_mean(name, meant) {
            Some(hint) => failure.hint(hint),
            None => failure,
        };
        return (failure, Some(name.to_owned()));
    }
    let lower = text.to_lowercase();
    let types = ["coerc", "type", "cast"]
        .iter()
        .any(|word| lower.contains(word));
    let code = if types {
        ErrorCode::TypeMismatch
    } else {
        ErrorCode::Plan
    };
    (Failure::new(code, first_line(text)), None)
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
        ArrowError::CastError(text) | ArrowError::ParseError(text) => {
            failure(ErrorCode::TypeMismatch, text)
        }
        ArrowError::ArithmeticOverflow(text) => failure(ErrorCode::ValueOutOfRange, text),
        ArrowError::DivideByZero => failure(ErrorCode::Execution, "division by zero"),
        other => failure(ErrorCode::Execution, &other.to_string()),
    }
}

fn of_resources(text: &str) -> Failure {
    let code = if text.contains(ErrorCode::MemoryFull.text()) {
        ErrorCode::MemoryFull
    } else {
        ErrorCode::QueryLimit
    };
    Failure::new(code, first_line(text))
}
