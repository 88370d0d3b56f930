//! The first word of a statement: which ones are known, and what to do instead of the others.

use auxo_proto::error::{ErrorCode, Failure};

use crate::cursor::Cursor;
use crate::hints::did_you_mean;

/// Words that may begin a statement for DataFusion's parser.
const VERBS: [&str; 7] = [
    "SELECT", "WITH", "VALUES", "TABLE", "EXPLAIN", "INSERT", "DELETE",
];

/// Words that begin a statement we know of and do not carry out, with what to do instead.
const REFUSED: [(&str, &str); 22] = [
    (
        "COPY",
        "rows go out by SELECT in any format, and come in by INSERT or line protocol",
    ),
    ("SET", "settings are arguments of the request"),
    ("RESET", "settings are arguments of the request"),
    (
        "UPDATE",
        "a row with the same tags and time replaces the old one: INSERT it",
    ),
    (
        "MERGE",
        "a row with the same tags and time replaces the old one: INSERT it",
    ),
    (
        "REPLACE",
        "a row with the same tags and time replaces the old one: INSERT it",
    ),
    (
        "TRUNCATE",
        "DELETE FROM a table without WHERE hides all its rows",
    ),
    (
        "BEGIN",
        "there are no transactions, each statement stands alone",
    ),
    (
        "START",
        "there are no transactions, each statement stands alone",
    ),
    (
        "COMMIT",
        "there are no transactions, each statement stands alone",
    ),
    (
        "ROLLBACK",
        "there are no transactions, each statement stands alone",
    ),
    (
        "SAVEPOINT",
        "there are no transactions, each statement stands alone",
    ),
    ("GRANT", "there are no users and no rights"),
    ("REVOKE", "there are no users and no rights"),
    ("USE", "the database is the argument db of the request"),
    ("PREPARE", "send the statement with its parameters"),
    ("EXECUTE", "send the statement with its parameters"),
    ("DEALLOCATE", "send the statement with its parameters"),
    ("KILL", "a query is cancelled by DELETE /v1/queries/{id}"),
    (
        "ANALYZE",
        "EXPLAIN ANALYZE runs a query and says what it did",
    ),
    ("CALL", "there are no stored procedures"),
    ("LOAD", "rows come in by INSERT or line protocol"),
];

/// Refuses a statement whose first word begins none that goes to DataFusion's parser.
pub(crate) fn check(cursor: &mut Cursor<'_>) -> Result<(), Failure> {
    if let Some((verb, hint)) = REFUSED.iter().find(|(verb, _)| cursor.sees(verb)) {
        let detail = format!("{verb} is not supported");
        return Err(cursor.failure(ErrorCode::Unsupported, detail).hint(*hint));
    }
    if cursor.sees_paren() || VERBS.iter().any(|verb| cursor.sees(verb)) {
        return Ok(());
    }
    let failure = cursor.expected("a statement");
    let word = cursor.name("a statement").unwrap_or_default();
    let known = VERBS
        .into_iter()
        .chain(["CREATE", "DROP", "ALTER", "SHOW", "DESCRIBE"]);
    let known: Vec<String> = known.map(str::to_lowercase).collect();
    Err(
        match did_you_mean(&word, known.iter().map(String::as_str)) {
            Some(hint) => failure.hint(hint),
            None => failure,
        },
    )
}
