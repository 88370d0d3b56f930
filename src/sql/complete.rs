//! Completion in the shell: keywords, and the names the node told.

use std::sync::Arc;
use std::time::Duration;

use auxo_client::Client;
use parking_lot::Mutex;
use reedline::{Completer, Span, Suggestion};
use tokio::time::timeout;

/// How long the prompt waits for names.
const REFRESH_LIMIT: Duration = Duration::from_secs(2);

/// Names that are kept.
const NAMES_MAX: u64 = 20_000;

const KEYWORDS: &str = "ALTER ANALYZE AND AS ASC AVG BETWEEN BIGINT BOOLEAN BY CASE CAST COLUMN COUNT CREATE \
    CROSS DATABASE DATABASES DELETE DESC DESCRIBE DISTINCT DOUBLE DROP ELSE END EXISTS EXPLAIN FALSE FIRST \
    FROM FULL GROUP HAVING HASH IF IN INNER INSERT INTERVAL INTO IS JOIN KEY LAST LEFT LIKE LIMIT MAX MIN \
    NOT NULL NULLS OFFSET ON OR ORDER OUTER OVER PARTITION PARTITIONS RIGHT SELECT SHOW STRING SUM TABLE \
    TABLES TAG THEN TIMESTAMP TRUE UNION UNSIGNED VALUES WHEN WHERE WITH date_bin date_trunc now time_bucket";

const COMMANDS: &str = r"\? \c \d \dt \format \l \q \timing";

/// Tables and columns of the database in use; clones share them.
#[derive(Clone, Default)]
pub(super) struct Names(Arc<Mutex<Vec<String>>>);

impl Names {
    /// Asks the node. One that does not answer soon, or has no such list, leaves the old names.
    pub(super) async fn refresh(&self, client: &Client) {
        let mut statement =
            client.statement("SELECT table_name, column_name FROM information_schema.columns");
        statement.row_limit = Some(NAMES_MAX);
        statement.timeout = REFRESH_LIMIT;
        let ask = async { client.sql(&statement).await?.answer().await };
        let answer = match timeout(REFRESH_LIMIT, ask).await {
            Ok(Ok(answer)) => answer,
            Ok(Err(error)) => return tracing::debug!(%error, "no names to complete"),
            Err(_) => return tracing::debug!("no names to complete in time"),
        };
        let mut names: Vec<_> = (0..answer.row_count())
            .flat_map(|row| answer.row(row).flatten().map(|name| name.into_owned()))
            .collect();
        names.sort_unstable();
        names.dedup();
        *self.0.lock() = names;
    }
}

/// Completes the word before the cursor.
pub(super) struct Words(Names);

impl Words {
    pub(super) fn of(names: Names) -> Self {
        Self(names)
    }
}

impl Completer for Words {
    fn complete(&mut self, line: &str, position: usize) -> Vec<Suggestion> {
        let before = line.get(..position).unwrap_or(line);
        let start = word_start(before);
        let names = self.0.0.lock();
        let suggestion = |value: String| Suggestion {
            value,
            span: Span::new(start, before.len()),
            append_whitespace: true,
            ..Suggestion::default()
        };
        candidates(&before[start..], &names)
            .into_iter()
            .map(suggestion)
            .collect()
    }
}

fn word_start(before: &str) -> usize {
    let in_word = |c: char| c.is_alphanumeric() || c == '_' || c == '\\';
    let rest = before.trim_end_matches(in_word);
    rest.len()
}

/// What a word may become; keywords in the case that was begun with.
fn candidates(word: &str, names: &[String]) -> Vec<String> {
    if word.is_empty() {
        return Vec::new();
    }
    if word.starts_with('\\') {
        let commands = COMMANDS
            .split(' ')
            .filter(|command| command.starts_with(word));
        return commands.map(str::to_owned).collect();
    }
    let begins = |candidate: &str| {
        let head = candidate.get(..word.len());
        head.is_some_and(|head| head.eq_ignore_ascii_case(word))
    };
    let lower = word.chars().all(|c| !c.is_uppercase());
    let keywords = KEYWORDS
        .split_whitespace()
        .filter(|keyword| begins(keyword));
    let keywords = keywords.map(|keyword| match lower {
        true => keyword.to_ascii_lowercase(),
        false => keyword.to_owned(),
    });
    let names = names.iter().filter(|name| begins(name)).cloned();
    names.chain(keywords).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_are_completed_in_the_case_they_were_begun_in() {
        let names = ["usage_user".to_owned(), "Wert".to_owned(), "é".to_owned()];
        assert_eq!(candidates("sel", &names), ["select"]);
        assert_eq!(candidates("SEL", &names), ["SELECT"]);
        assert_eq!(candidates("us", &names), ["usage_user"]);
        assert_eq!(candidates("we", &names), ["Wert"]);
        assert_eq!(candidates("time_b", &names), ["time_bucket"]);
        assert_eq!(candidates(r"\t", &names), [r"\timing"]);
        assert!(candidates("", &names).is_empty());
    }

    #[test]
    fn the_word_before_the_cursor_is_replaced() {
        let mut words = Words::of(Names::default());
        let found = words.complete("SELECT é, COU", 14);
        assert_eq!(found[0].value, "COUNT");
        assert_eq!((found[0].span.start, found[0].span.end), (11, 14));
        assert!(
            words.complete("SELECT é", 8).is_empty(),
            "inside a character"
        );
    }
}
