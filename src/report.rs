//! How an error is told on the standard error stream: to people with the place underlined, to
//! programs as one JSON object.

use std::fmt::Write as _;

use auxo_client::write::Undelivered;
use auxo_client::{Error, Refusal};
use auxo_proto::error::{Outcome, Position};
use serde_json::json;

use crate::exit::{Exit, is_broken_pipe};
use crate::output::notice;

/// Tells an error, and says how the process ends with it.
///
/// * `statement`: the text its position refers to.
pub(crate) fn report(error: &anyhow::Error, statement: Option<&str>, as_json: bool) -> Exit {
    let exit = Exit::of(error);
    if is_broken_pipe(error) {
        return exit;
    }
    match as_json {
        true => notice(format_args!("{}", for_programs(error, exit))),
        false => notice(format_args!("{}", for_people(error, statement))),
    }
    exit
}

fn refusal_of(error: &anyhow::Error) -> Option<&Refusal> {
    error.chain().find_map(|cause| {
        let direct = cause.downcast_ref::<Error>();
        let within = cause.downcast_ref::<Undelivered>();
        match direct.or(within.map(|undelivered| &undelivered.error)) {
            Some(Error::Refused(refusal)) => Some(&**refusal),
            _ => None,
        }
    })
}

fn for_people(error: &anyhow::Error, statement: Option<&str>) -> String {
    let mut text = format!("error: {error:#}");
    let Some(refusal) = refusal_of(error) else {
        return text;
    };
    if let (Some(statement), Some(position)) = (statement, refusal.position) {
        text.push_str(&underlined(statement, position));
    }
    if let Some(hint) = &refusal.hint {
        let _ = write!(text, "\nhint: {hint}");
    }
    if refusal.outcome == Some(Outcome::Unknown) {
        text.push_str("\nnote: whether it was carried out is not known");
    }
    text
}

/// The line of the fault with marks below the word that starts there.
fn underlined(statement: &str, position: Position) -> String {
    let Some(line) = statement.lines().nth(position.line.saturating_sub(1)) else {
        return String::new();
    };
    let before = position.column.saturating_sub(1);
    let word = line.chars().skip(before);
    let marks = word
        .take_while(|c| c.is_alphanumeric() || *c == '_')
        .count()
        .max(1);
    // A tab in the line moves the marks as it moves the word.
    let indent: String = line
        .chars()
        .chain(std::iter::repeat(' '))
        .take(before)
        .map(|c| if c == '\t' { '\t' } else { ' ' })
        .collect();
    let number = position.line.to_string();
    let margin = " ".repeat(number.len());
    format!(
        "\n{margin} |\n{number} | {line}\n{margin} | {indent}{}",
        "^".repeat(marks)
    )
}

fn for_programs(error: &anyhow::Error, exit: Exit) -> String {
    let Some(refusal) = refusal_of(error) else {
        return json!({"detail": format!("{error:#}"), "exit": exit as u8}).to_string();
    };
    let retry_after_ms = refusal.retry_after.map(|wait| wait.as_millis() as u64);
    json!({
        "status": refusal.status,
        "code": refusal.code,
        "detail": refusal.detail,
        "position": refusal.position,
        "hint": refusal.hint,
        "retryable": refusal.retryable,
        "retry_after_ms": retry_after_ms,
        "outcome": refusal.outcome,
        "rejected_count": refusal.rejected_count,
        "query_id": refusal.query_id,
        "node": refusal.node,
        "exit": exit as u8,
    })
    .to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(body: &str) -> anyhow::Error {
        Error::Refused(Box::new(Refusal::read(400, None, body.as_bytes()))).into()
    }

    #[test]
    fn the_word_at_fault_is_underlined() {
        let error = refused(
            r#"{"code":"COLUMN_NOT_FOUND","detail":"table cpu has no column usage_usr",
                "position":{"offset":12,"line":2,"column":4},"hint":"did you mean usage_user?"}"#,
        );
        assert_eq!(
            for_people(&error, Some("SELECT a,\n\té usage_usr FROM cpu")),
            "error: COLUMN_NOT_FOUND: table cpu has no column usage_usr\n  |\n2 | \té usage_usr FROM cpu\n  | \t  ^^^^^^^^^\nhint: did you mean usage_user?"
        );
        assert_eq!(
            for_people(&error, None),
            "error: COLUMN_NOT_FOUND: table cpu has no column usage_usr\nhint: did you mean usage_user?"
        );
    }

    #[test]
    fn a_place_behind_the_text_is_marked_behind_it() {
        let at = Position {
            offset: 6,
            line: 1,
            column: 7,
        };
        assert_eq!(underlined("SELECT", at), "\n  |\n1 | SELECT\n  |       ^");
        let nowhere = Position { line: 9, ..at };
        assert_eq!(underlined("SELECT", nowhere), "");
    }

    #[test]
    fn programs_get_one_object() {
        let told = for_programs(&refused(r#"{"code":"X","detail":"y"}"#), Exit::Refused);
        let read: serde_json::Value = serde_json::from_str(&told).unwrap();
        assert_eq!((&read["code"], &read["exit"]), (&json!("X"), &json!(1)));
        let plain = for_programs(&anyhow::anyhow!("no"), Exit::Refused);
        assert_eq!(plain, r#"{"detail":"no","exit":1}"#);
    }
}
