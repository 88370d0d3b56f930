//! Statements made to hurt: deep, long, exponential. Each is answered soon, with little stack.

use std::time::Duration;

use auxo_proto::error::ErrorCode;

use super::memory_table::Tables;
use super::{Bench, sample, show};
use crate::QueryConfig;
use crate::hints::did_you_mean;

/// Longest time for one statement; debug builds are some ten times slower than what is shipped.
const PATIENCE: Duration = Duration::from_secs(2);

fn nested(before: &str, open: &str, depth: usize, inner: &str, close: &str) -> String {
    format!(
        "{before}{}{inner}{}",
        open.repeat(depth),
        close.repeat(depth)
    )
}

/// Every shape at a depth: (name, text).
fn shapes(depth: usize) -> Vec<(&'static str, String)> {
    vec![
        ("parens", nested("SELECT ", "(", depth, "1", ")")),
        (
            "from parens",
            nested("SELECT * FROM ", "(", depth, "cpu", ")"),
        ),
        (
            "from double",
            nested("SELECT * FROM ", "((SELECT * FROM ", depth / 2, "cpu", "))"),
        ),
        (
            "from broken",
            nested(
                "SELECT * FROM ",
                "((SELECT * FROM ",
                depth / 2,
                "cpu WHERE",
                "))",
            ),
        ),
        (
            "from joins",
            nested(
                "SELECT * FROM ",
                "(cpu CROSS JOIN ",
                depth.min(30),
                "cpu",
                ")",
            ),
        ),
        (
            "derived",
            nested("SELECT * FROM ", "(SELECT * FROM ", depth, "cpu", ") AS x"),
        ),
        (
            "derived broken",
            nested("SELECT * FROM ", "(SELECT * FROM ", depth, "", ") AS x"),
        ),
        ("scalar", nested("SELECT ", "(SELECT ", depth, "1", ")")),
        (
            "exists",
            nested("SELECT ", "EXISTS (SELECT ", depth, "1", ")"),
        ),
        (
            "in",
            nested("SELECT 1 IN ", "(SELECT 1 IN ", depth, "(1)", ")"),
        ),
        ("calls", nested("SELECT ", "abs(", depth, "1", ")")),
        (
            "case",
            nested("SELECT ", "CASE WHEN true THEN ", depth, "1", " END"),
        ),
        ("lists", nested("SELECT ", "[", depth, "1", "]")),
        ("objects", nested("SELECT ", "{'a': ", depth, "1", "}")),
        ("casts", nested("SELECT ", "CAST(", depth, "1", " AS INT)")),
        (
            "with",
            nested("", "WITH x AS (", depth, "SELECT 1", ") SELECT * FROM x"),
        ),
        (
            "casts broken",
            nested("SELECT ", "CAST(", depth, "WHERE", " AS INT)"),
        ),
        (
            "calls broken",
            nested("SELECT ", "abs(", depth, "WHERE", ")"),
        ),
        (
            "case broken",
            nested("SELECT ", "CASE WHEN ", depth, "WHERE", " THEN 1 END"),
        ),
        ("lists broken", nested("SELECT ", "[", depth, "WHERE", "]")),
        (
            "objects broken",
            nested("SELECT ", "{'a': ", depth, "WHERE", "}"),
        ),
        (
            "scalar broken",
            nested("SELECT ", "(SELECT ", depth, "WHERE", ")"),
        ),
        (
            "exists broken",
            nested("SELECT ", "EXISTS (SELECT ", depth, "FROM", ")"),
        ),
        (
            "extract broken",
            nested("SELECT ", "EXTRACT(day FROM ", depth, "WHERE", ")"),
        ),
        (
            "substring broken",
            nested("SELECT ", "SUBSTRING(", depth, "WHERE", " FROM 1)"),
        ),
        (
            "trim broken",
            nested("SELECT ", "TRIM(BOTH 'a' FROM ", depth, "WHERE", ")"),
        ),
        (
            "position broken",
            nested("SELECT ", "POSITION('a' IN ", depth, "WHERE", ")"),
        ),
        (
            "array broken",
            nested("SELECT ", "ARRAY(SELECT ", depth, "WHERE", ")"),
        ),
        (
            "left broken",
            nested("SELECT ", "LEFT(", depth, "WHERE", ", 1)"),
        ),
        (
            "match broken",
            nested("SELECT ", "MATCH(", depth, "WHERE", ") AGAINST ('x')"),
        ),
        (
            "tuple broken",
            nested("SELECT ", "(1, ", depth, "WHERE", ")"),
        ),
        (
            "interval broken",
            nested("SELECT ", "INTERVAL (", depth, "WHERE", ")"),
        ),
        (
            "over broken",
            nested("SELECT ", "sum(1) OVER (ORDER BY ", depth, "WHERE", ")"),
        ),
        (
            "filter broken",
            nested("SELECT ", "sum(1) FILTER (WHERE ", depth, "FROM", ")"),
        ),
        (
            "order broken",
            nested("SELECT ", "array_agg(1 ORDER BY ", depth, "FROM", ")"),
        ),
        (
            "any broken",
            nested("SELECT ", "1 = ANY (", depth, "FROM", ")"),
        ),
        (
            "unnest broken",
            nested("SELECT * FROM ", "UNNEST(", depth, "FROM", ")"),
        ),
        (
            "convert broken",
            nested("SELECT ", "CONVERT(", depth, "FROM", " USING utf8)"),
        ),
        (
            "floor broken",
            nested("SELECT ", "FLOOR(", depth, "FROM", " TO DAY)"),
        ),
        (
            "table broken",
            nested("SELECT * FROM ", "TABLE(", depth, "FROM", ")"),
        ),
        (
            "lateral broken",
            nested(
                "SELECT * FROM ",
                "LATERAL (SELECT * FROM ",
                depth,
                "WHERE",
                ")",
            ),
        ),
        (
            "values broken",
            nested("SELECT * FROM ", "(VALUES ", depth, "WHERE", ")"),
        ),
        ("unclosed", nested("SELECT ", "(", depth, "", "")),
        ("closed", nested("SELECT ", "", 0, &")".repeat(depth), "")),
        ("not", nested("SELECT ", "NOT ", depth, "true", "")),
        ("minus", nested("SELECT ", "- ", depth, "1", "")),
        ("plus", nested("SELECT 1", " + 1", depth, "", "")),
        (
            "and",
            nested("SELECT * FROM cpu WHERE n = 1", " AND n = 1", depth, "", ""),
        ),
        (
            "or",
            nested("SELECT * FROM cpu WHERE n = 1", " OR n = 1", depth, "", ""),
        ),
        ("concat", nested("SELECT 'a'", " || 'a'", depth, "", "")),
        ("colons", nested("SELECT 1", "::int", depth, "", "")),
        (
            "subscripts",
            nested("SELECT note", "[1]", depth, " FROM cpu", ""),
        ),
        ("dots", nested("SELECT cpu", ".a", depth, " FROM cpu", "")),
        (
            "union",
            nested("SELECT 1", " UNION ALL SELECT 1", depth, "", ""),
        ),
        (
            "intersect",
            nested("SELECT 1", " INTERSECT SELECT 1", depth, "", ""),
        ),
        (
            "interval",
            nested("SELECT ", "INTERVAL ", depth, "'1 day'", ""),
        ),
        ("explain", nested("", "EXPLAIN ", depth, "SELECT 1", "")),
        (
            "explain analyze",
            nested("", "EXPLAIN ANALYZE ", depth, "SELECT 1", ""),
        ),
        (
            "insert",
            nested("", "INSERT INTO cpu ", depth, "SELECT 1", ""),
        ),
        (
            "types",
            nested("SELECT CAST(1 AS ", "ARRAY<", depth, "INT", ">"),
        ),
        (
            "structs",
            nested("SELECT CAST(1 AS ", "STRUCT<a ", depth, "INT", ">"),
        ),
        ("lambda", nested("SELECT abs(", "x -> ", depth, "1", "")),
        ("tilde", nested("SELECT ", "~ ", depth, "1", "")),
        ("at", nested("SELECT ", "@ ", depth, "1", "")),
        ("prior", nested("SELECT ", "PRIOR ", depth, "1", "")),
        ("is", nested("SELECT true", " IS TRUE", depth, "", "")),
        (
            "between",
            nested("SELECT 1", " BETWEEN 1 AND 1", depth, "", ""),
        ),
        (
            "commas",
            (0..depth).fold("SELECT 1".into(), |text, at| {
                format!("{text}, {at} AS c{at}")
            }),
        ),
        (
            "tables",
            nested("SELECT * FROM cpu", ", cpu", depth, "", ""),
        ),
        (
            "joins",
            nested("SELECT * FROM cpu", " CROSS JOIN cpu", depth, "", ""),
        ),
        (
            "in list",
            nested("SELECT * FROM cpu WHERE n IN (1", ", 1", depth, ")", ""),
        ),
        ("values", nested("VALUES (1)", ", (1)", depth, "", "")),
        ("comments", nested("SELECT ", "/* ", depth, "1", " */")),
        ("quotes", nested("SELECT '", "''", depth, "'", "")),
    ]
}

/// Processor time of this thread, which other work of the machine does not lengthen.
fn processor_time() -> Duration {
    let times = std::fs::read_to_string("/proc/thread-self/schedstat").unwrap();
    Duration::from_nanos(times.split(' ').next().unwrap().parse().unwrap())
}

async fn hurry(bench: &Bench, name: &str, depth: usize, text: &str) {
    let begun = processor_time();
    let outcome = match bench.prepare(text) {
        Ok(_) => "understood".to_owned(),
        Err(failure) => {
            assert_ne!(
                failure.code,
                ErrorCode::Internal,
                "{name} {depth}: {}",
                show(&failure)
            );
            show(&failure)
        }
    };
    let took = processor_time() - begun;
    assert!(
        took < PATIENCE,
        "{name} {depth} took {took:?}: {outcome:.200}"
    );
}

#[tokio::test]
async fn nothing_takes_long() {
    let bench = Bench::new(Tables::new(vec![sample()]));
    for depth in [10, 49, 200, 10_000] {
        for (name, text) in shapes(depth) {
            hurry(&bench, name, depth, &text).await;
        }
    }
}

#[tokio::test]
async fn limits_name_themselves() {
    let bench = Bench::new(Tables::new(vec![sample()]));
    let refused = |text: &str| show(&bench.prepare(text).unwrap_err());
    let mut large = "SELECT 1 -- ".to_owned();
    large.push_str(&"x".repeat(1 << 20));
    let expected = format!("the limit is {}", QueryConfig::default().text_bytes_max);
    let begun = processor_time();
    assert!(refused(&large).ends_with(&expected), "{}", refused(&large));
    assert!(processor_time() - begun < PATIENCE);
    let shape = |name: &str, depth| {
        let shapes = shapes(depth).into_iter();
        shapes
            .filter(|(known, _)| *known == name)
            .map(|(_, text)| text)
            .next()
            .unwrap()
    };
    let begun = processor_time();
    assert_eq!(
        refused(&shape("parens", 10_000)),
        "STATEMENT_TOO_COMPLEX at 1:58 (byte 57): statement is nested more than 50 levels deep"
    );
    assert!(processor_time() - begun < PATIENCE);
    let table = [
        ("plus", 3_000, "expression chains more than 2000 operators"),
        (
            "union",
            300,
            "more than 256 set operators stand on one level",
        ),
        ("in list", 10_000, "IN list has more than 10000 values"),
        ("joins", 33, "statement has more than 32 joins"),
        ("commas", 1_000, "more than 1000 expressions are listed"),
    ];
    for (name, depth, expected) in table {
        let refused = refused(&shape(name, depth));
        assert!(refused.starts_with("STATEMENT_TOO_COMPLEX"), "{refused}");
        assert!(refused.ends_with(expected), "{refused}");
    }
    for (name, depth) in [
        ("parens", 40),
        ("plus", 1_500),
        ("in list", 9_000),
        ("calls", 40),
    ] {
        assert!(bench.prepare(&shape(name, depth)).is_ok(), "{name}");
    }
}

/// Names that stand for twice the one before, thirty times over.
fn doubled(step: &str, last: &str) -> String {
    let mut text = "WITH c0 AS (SELECT n FROM cpu)".to_owned();
    for at in 1..=30 {
        let before = format!("c{}", at - 1);
        text.push_str(&format!(", c{at} AS ({})", step.replace("before", &before)));
    }
    text + " " + last
}

#[tokio::test]
async fn what_doubles_at_each_step_is_refused_before_it_does() {
    let bench = Bench::new(Tables::new(vec![sample()]));
    let cases = [
        (
            "rows",
            doubled(
                "SELECT * FROM before UNION ALL SELECT * FROM before",
                "SELECT count(*) FROM c30",
            ),
        ),
        (
            "queries in queries",
            doubled(
                "SELECT n FROM before WHERE n IN (SELECT n FROM before)",
                "SELECT count(*) FROM c30",
            ),
        ),
        (
            "terms below a filter",
            doubled(
                "SELECT abs(n) + abs(n) AS n FROM before",
                "SELECT count(*) FROM c30 WHERE n > 0",
            ),
        ),
        (
            "terms of a group",
            doubled(
                "SELECT abs(n) + abs(n) AS n FROM before GROUP BY 1",
                "SELECT count(*) FROM c30 WHERE n > 0",
            ),
        ),
    ];
    for (name, text) in cases {
        let began = tokio::time::Instant::now();
        let failure = bench.prepare(&text).expect_err(name);
        assert_eq!(
            failure.code,
            ErrorCode::TooComplex,
            "{name}: {}",
            show(&failure)
        );
        assert!(began.elapsed() < PATIENCE, "{name}: {:?}", began.elapsed());
    }
}

#[tokio::test]
async fn a_long_name_is_not_held_against_all_that_are_known() {
    let bench = Bench::new(Tables::new(vec![sample()]));
    let long = "z".repeat(250_000);
    for text in [
        format!("SELECT {long}()"),
        format!("SELECT {long} FROM cpu"),
        format!("SELECT * FROM cpu WHERE \"{long}\" = 1"),
        format!("SELECT * FROM {long}"),
        format!("SELECT * FROM {long}.cpu"),
        format!("CREATE TABLE {long} (ts TIMESTAMP(9) NOT NULL, TIMESTAMP KEY (ts))"),
    ] {
        let failure = bench.prepare(&text).expect_err("a name");
        let (code, said) = (failure.code, show(&failure));
        assert_eq!(code, ErrorCode::BadRequest, "{said}");
        assert!(
            said.contains("has 250000 bytes, the limit is 512"),
            "{said}"
        );
    }
}

#[tokio::test]
async fn what_an_error_quotes_is_cut_and_little_of_it_is_looked_for() {
    let bench = Bench::new(Tables::new(vec![sample()]));
    // Words that the message has and the statement has not.
    let letters = |n: u32| format!("\\u{:04x}\\u{:04x}", 0x61 + n % 26, 0x61 + n / 26 % 26);
    let words: Vec<String> = (0..18_000).map(letters).collect();
    let text = format!("SELECT CAST(E'{}' AS BIGINT)", words.join(" "));
    let began = tokio::time::Instant::now();
    let failed = bench.rows(&text).await.expect_err("letters are no number");
    assert!(began.elapsed() < PATIENCE, "{:?}", began.elapsed());
    assert_eq!(failed.code, ErrorCode::TypeMismatch, "{}", show(&failed));
    let detail = failed.detail.chars().count();
    assert!(detail < 1_100, "{detail} characters");
}

#[test]
fn a_hint_is_looked_for_among_names_of_about_the_same_length() {
    let known: Vec<String> = (1..=80).map(|length| "n".repeat(length)).collect();
    let hint = |written: &str| did_you_mean(written, known.iter().map(String::as_str));
    let with_slip = |length: usize| format!("{}x", "n".repeat(length - 1));
    for length in [2, 3, 8, 64] {
        let found = hint(&with_slip(length));
        assert!(found.is_some(), "{length}");
    }
    assert_eq!(hint(&with_slip(65)), None);
    assert_eq!(hint("usage"), None);
    let others = ["usage_user", "usage_system", "u"];
    let found = did_you_mean("usage_usr", others);
    assert_eq!(found.as_deref(), Some("did you mean usage_user?"));
}

#[tokio::test]
async fn all_of_one_thing_is_not_held_against_all_of_another() {
    let bench = Bench::new(Tables::new(vec![sample()]));
    let long = |letter| format!("repeat('{letter}', 200000)");
    for call in [
        format!("levenshtein({}, {})", long('a'), long('b')),
        format!("btrim({}, {} || 'a')", long('a'), long('b')),
        "array_has_all(range(1, 200000), range(1, 200000))".to_owned(),
        "array_has_any(range(1, 200000), range(300000, 500000))".to_owned(),
        format!("levenshtein(host || {}, {})", long('a'), long('b')),
    ] {
        let refused = bench.rows(&format!("SELECT {call} FROM cpu")).await;
        let failure = refused.expect_err(&call);
        assert_eq!(
            failure.code,
            ErrorCode::QueryLimit,
            "{call}: {}",
            show(&failure)
        );
    }
    let few = bench.rows("SELECT levenshtein(host, 'web2'), array_has_any([1, 2], [2]) FROM cpu");
    assert!(few.await.is_ok());
}
