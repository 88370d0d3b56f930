//! Where in a statement stands what a sentence about it names, for errors that carry no place.
//!
//! Never here: what is wrong.

use auxo_proto::error::Position;

/// Most words of a sentence that are looked for in the statement, which each costs its length.
const SOUGHT_MAX: usize = 32;

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

/// Words of our own and of DataFusion's sentences, which say nothing about the text.
const COMMON_WORDS: &[&str] = &[
    "a",
    "an",
    "and",
    "are",
    "argument",
    "arguments",
    "as",
    "be",
    "been",
    "but",
    "by",
    "can",
    "cannot",
    "clause",
    "column",
    "columns",
    "different",
    "does",
    "error",
    "expected",
    "failed",
    "field",
    "fit",
    "for",
    "from",
    "function",
    "got",
    "has",
    "have",
    "in",
    "into",
    "invalid",
    "is",
    "it",
    "its",
    "joined",
    "list",
    "must",
    "no",
    "not",
    "number",
    "of",
    "on",
    "one",
    "only",
    "or",
    "parsing",
    "queries",
    "query",
    "range",
    "row",
    "statement",
    "string",
    "supported",
    "table",
    "take",
    "takes",
    "test",
    "tests",
    "that",
    "the",
    "there",
    "time",
    "timestamp",
    "to",
    "type",
    "types",
    "value",
    "values",
    "with",
];

/// First place of a word that the sentence takes from the text: what stands in quotes, else the
/// last word that is not one of ours.
pub(crate) fn find_mentioned(text: &str, sentence: &str) -> Option<Position> {
    let quoted = sentence.split(['\'', '"']).skip(1).step_by(2);
    let found = quoted
        .filter(|quoted| !quoted.is_empty())
        .take(SOUGHT_MAX)
        .find_map(|quoted| {
            let last = quoted.rsplit('.').next().unwrap_or(quoted);
            find_name(text, quoted).or_else(|| find_name(text, last))
        });
    if found.is_some() {
        return found;
    }
    let words = sentence.rsplit(|char: char| char.is_whitespace() || ",;:()-".contains(char));
    words
        .map(|word| word.trim_end_matches('.'))
        .filter(|word| !word.is_empty() && !COMMON_WORDS.contains(&word.to_lowercase().as_str()))
        .take(SOUGHT_MAX)
        .find_map(|word| find_name(text, word))
}
