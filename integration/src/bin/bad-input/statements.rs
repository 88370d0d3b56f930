//! Rows about statements: what is refused and where the fault lies, values that have to survive,
//! what would reach outside the tenant's rows, and what would take all time or memory.

use reqwest::Method;
use serde_json::json;

use crate::case::Case;

/// Most memory a statement may hold in this program's node, as its configuration says it.
pub(crate) const STATEMENT_MEMORY: &str = "24MiB";

/// All of them; they read the table that the rows about lines made.
pub(crate) fn cases() -> Vec<Case> {
    let mut cases = names();
    cases.extend(requests());
    cases.extend(values());
    cases.extend(outside());
    cases.extend(deep_and_long());
    cases.extend(hungry());
    cases
}

fn names() -> Vec<Case> {
    let bad = |name: &str, sql: &str, code| Case::sql(name, sql).refused(400, code);
    vec![
        bad(
            "an unknown table",
            "SELECT n FROM metrcs",
            "TABLE_NOT_FOUND",
        )
        .at(1, 15)
        .holds("did you mean metrics?"),
        bad(
            "an unknown column",
            "SELECT n,\n  hots FROM metrics",
            "COLUMN_NOT_FOUND",
        )
        .at(2, 3)
        .holds("did you mean host?"),
        bad(
            "an unknown database",
            "SELECT n FROM mian.metrics",
            "DATABASE_NOT_FOUND",
        )
        .at(1, 15)
        .holds("did you mean main?"),
        bad(
            "an unknown function",
            "SELECT cuont(n) FROM metrics",
            "FUNCTION_NOT_FOUND",
        )
        .at(1, 8)
        .holds("did you mean count?"),
        bad("an unknown verb", "SELCT 1", "PARSE_ERROR")
            .at(1, 1)
            .holds("did you mean select?"),
        bad(
            "an INSERT into an unknown column",
            "INSERT INTO metrics (host, ts, nn) VALUES ('a', 1, 1)",
            "COLUMN_NOT_FOUND",
        ),
        bad(
            "text where a number belongs",
            "SELECT n + 'x' FROM metrics",
            "TYPE_MISMATCH",
        ),
        bad(
            "NUL in the name of a table",
            "CREATE TABLE \"a\0b\" (ts TIMESTAMP(9) NOT NULL, TIMESTAMP KEY (ts))",
            "BAD_REQUEST",
        )
        .holds("control character"),
        bad(
            "a table without a time",
            "CREATE TABLE timeless (n BIGINT)",
            "BAD_REQUEST",
        )
        .holds("TIMESTAMP KEY"),
        Case::sql(
            "a table that exists",
            "CREATE TABLE metrics (ts TIMESTAMP(9) NOT NULL, TIMESTAMP KEY (ts))",
        )
        .refused(409, "ALREADY_EXISTS"),
        bad(
            "a table to drop that is not there",
            "DROP TABLE metrcs",
            "TABLE_NOT_FOUND",
        ),
    ]
}

fn requests() -> Vec<Case> {
    let get =
        |name: &str, query: &str| Case::new(name, Method::GET, &format!("/v1/sql?{query}"), "");
    vec![
        Case::sql("several statements", "SELECT 1; SELECT 2")
            .refused(400, "MULTIPLE_STATEMENTS")
            .holds("one after the other"),
        Case::sql("a semicolon at the end", "SELECT 1;").rows(json!([[1]])),
        Case::sql("no statement", "").refused(400, "BAD_REQUEST"),
        Case::sql("only white space and a semicolon", " \n;").refused(400, "PARSE_ERROR"),
        Case::sql("only a comment", "-- ping").refused(400, "PARSE_ERROR"),
        get("a write by GET", "sql=DROP%20TABLE%20metrics").refused(405, "METHOD_NOT_ALLOWED"),
        get("an unknown format", "sql=SELECT%201&format=xml").refused(406, "NOT_ACCEPTABLE"),
        Case::sql("an unknown format in Accept", "SELECT 1")
            .with("Accept", "image/png")
            .refused(406, "NOT_ACCEPTABLE"),
        get("an unknown argument", "sql=SELECT%201&fromat=csv").refused(400, "BAD_REQUEST"),
        Case::new("an unknown route", Method::GET, "/v1/nowhere/at/all", "")
            .refused(404, "NOT_FOUND"),
        Case::new("an unknown method", Method::PUT, "/v1/sql", "SELECT 1")
            .refused(405, "METHOD_NOT_ALLOWED")
            .holds("/v1/sql does not take PUT"),
        Case::new("an action by GET", Method::GET, "/v1/nodes/n/drain", "")
            .refused(405, "METHOD_NOT_ALLOWED"),
        Case::new(
            "a query to cancel that does not run",
            Method::DELETE,
            "/v1/queries/0199f3a1-6c0e-7d2b-a1c4-5d1f0e9b7a11",
            "",
        )
        .refused(404, "NOT_FOUND"),
        Case::sql("JSON that is none", "{\"sql\": ")
            .with("Content-Type", "application/json")
            .refused(400, "BAD_REQUEST"),
        Case::sql(
            "JSON with an unknown member",
            "{\"sql\": \"SELECT 1\", \"formt\": 1}",
        )
        .with("Content-Type", "application/json")
        .refused(400, "BAD_REQUEST")
        .holds("formt"),
        Case::sql(
            "a parameter that is text and no statement",
            "{\"sql\": \"SELECT count(*) FROM metrics WHERE host = $1\", \
             \"params\": [\"x' OR 'a' = 'a\"]}",
        )
        .with("Content-Type", "application/json")
        .rows(json!([[0]])),
        Case::sql("a parameter without a value", "SELECT $1").refused(400, "BAD_PARAMETER"),
        Case::new(
            "bytes that are not UTF-8",
            Method::POST,
            "/v1/sql",
            b"SELECT '\xff'",
        )
        .refused(400, "BAD_ENCODING"),
    ]
}

fn values() -> Vec<Case> {
    let create = "CREATE TABLE values_kept (k STRING TAG, ts TIMESTAMP(9) NOT NULL, n BIGINT, \
                  u BIGINT UNSIGNED, x DOUBLE, TIMESTAMP KEY (ts))";
    let insert = "INSERT INTO values_kept (k, ts, n, u, x) VALUES \
                  ('a', 1, -9223372036854775808, 0, CAST('NaN' AS DOUBLE)), \
                  ('b', 2, 9223372036854775807, 18446744073709551615, CAST('Infinity' AS DOUBLE)), \
                  ('c', 3, NULL, NULL, CAST('-Infinity' AS DOUBLE)), \
                  ('d', 4, 0, 1, CAST('-0.0' AS DOUBLE))";
    vec![
        Case::sql("a table of every number", create),
        Case::sql("extremes, NaN, infinities and -0 by INSERT", insert),
        Case::sql(
            "they are read back",
            "SELECT n, u, x FROM values_kept WHERE k <> 'd' ORDER BY k",
        )
        .rows(json!([
            [i64::MIN, 0, "NaN"],
            [i64::MAX, u64::MAX, "Infinity"],
            [null, null, "-Infinity"],
        ])),
        Case::sql(
            "-0 keeps its sign",
            "SELECT CAST(x AS VARCHAR) FROM values_kept WHERE k = 'd'",
        )
        .holds("\"-0"),
        Case::sql(
            "one above the largest integer",
            "INSERT INTO values_kept (k, ts, n) VALUES ('z', 1, 9223372036854775808)",
        )
        .refused(400, "VALUE_OUT_OF_RANGE"),
        Case::sql(
            "a negative number into an unsigned column",
            "INSERT INTO values_kept (k, ts, u) VALUES ('z', 1, -1)",
        )
        .refused(400, "VALUE_OUT_OF_RANGE"),
        Case::sql(
            "a time that is out of range",
            "INSERT INTO values_kept (k, ts, n) VALUES ('z', '9999-12-31T00:00:00Z', 1)",
        )
        .refused(400, "BAD_TIMESTAMP"),
        Case::sql(
            "a time with a fraction",
            "INSERT INTO values_kept (k, ts, n) VALUES ('z', 1.5, 1)",
        )
        .refused(400, "TYPE_MISMATCH")
        .at(1, 49),
        Case::sql(
            "a row without its time",
            "INSERT INTO values_kept (k, n) VALUES ('z', 1)",
        )
        .refused(400, "TYPE_MISMATCH"),
        Case::sql("a division by zero", "SELECT n / (n - n) FROM values_kept")
            .refused(400, "DIVISION_BY_ZERO"),
        Case::sql(
            "nothing of what was refused is stored",
            "SELECT count(*) FROM values_kept",
        )
        .rows(json!([[4]])),
    ]
}

fn outside() -> Vec<Case> {
    let refused = |name: &str, sql: &str| Case::sql(name, sql).refused(400, "UNSUPPORTED");
    let unknown = |name: &str, sql: &str| Case::sql(name, sql).refused(400, "TABLE_NOT_FOUND");
    vec![
        refused("COPY to a file", "COPY metrics TO '/tmp/auxo-copied.csv'"),
        refused(
            "EXPLAIN of a COPY",
            "EXPLAIN COPY metrics TO '/tmp/auxo-copied.csv'",
        ),
        refused(
            "an external table",
            "CREATE EXTERNAL TABLE e STORED AS CSV LOCATION '/etc/passwd'",
        ),
        unknown("a file as a table", "SELECT * FROM 'file:///etc/passwd'"),
        unknown("a path as a table", "SELECT * FROM '/etc/passwd'"),
        unknown(
            "a URL as a table",
            "SELECT * FROM 'http://169.254.169.254/latest/meta-data'",
        ),
        Case::sql(
            "a function that reads files",
            "SELECT * FROM read_csv('/etc/passwd')",
        )
        .refused(400, "FUNCTION_NOT_FOUND"),
        Case::sql(
            "the name of a file",
            "SELECT input_file_name() FROM metrics",
        )
        .refused(400, "FUNCTION_NOT_FOUND"),
        refused("a setting", "SET datafusion.execution.batch_size = 1"),
        refused("a setting to show", "SHOW datafusion.execution.batch_size"),
        refused(
            "a change in a CTE",
            "WITH w AS (DELETE FROM metrics) SELECT 1",
        ),
        Case::sql(
            "a recursive CTE",
            "WITH RECURSIVE r AS (SELECT 1 AS n UNION ALL SELECT n + 1 FROM r) SELECT * FROM r",
        )
        .refused(400, "UNSUPPORTED")
        .at_once(),
        refused("an UPDATE", "UPDATE metrics SET n = 1"),
        refused(
            "a user function",
            "CREATE FUNCTION f() RETURNS INT LANGUAGE sql RETURN 1",
        ),
    ]
}

fn deep_and_long() -> Vec<Case> {
    let deep = |open: &str, close: &str| {
        format!("SELECT {}1{}", open.repeat(10_000), close.repeat(10_000))
    };
    let chain = |piece: &str, times: usize| format!("SELECT 1{}", piece.repeat(times));
    let list = |values: usize| {
        format!(
            "SELECT n FROM metrics WHERE n IN (1{})",
            ",1".repeat(values - 1)
        )
    };
    let joins =
        "SELECT count(*) FROM metrics a".to_owned() + &" JOIN metrics USING (n)".repeat(3_000);
    let commas: String = (0..3_000).map(|at| format!(", metrics m{at}")).collect();
    let commas = format!("SELECT count(*) FROM metrics{commas}");
    let long = format!("SELECT '{}'", "x".repeat(1 << 20));
    let too_complex = |name: &str, sql: String| {
        Case::sql(name, sql)
            .refused(400, "STATEMENT_TOO_COMPLEX")
            .at_once()
    };
    vec![
        too_complex("10 000 parentheses", deep("(", ")")),
        too_complex("10 000 calls in each other", deep("abs(", ")")),
        too_complex(
            "10 000 signs",
            chain("", 0).replace('1', &format!("{}1", "- ".repeat(10_000))),
        ),
        too_complex(
            "10 000 NOT",
            chain("", 0).replace('1', &format!("{}true", "NOT ".repeat(10_000))),
        ),
        Case::sql(
            "a function of 250 000 letters",
            format!("SELECT {}()", "z".repeat(250_000)),
        )
        .refused(400, "BAD_REQUEST")
        .at_once(),
        Case::sql(
            "a column of 250 000 letters",
            format!("SELECT {} FROM metrics", "z".repeat(250_000)),
        )
        .refused(400, "BAD_REQUEST")
        .at_once(),
        too_complex("20 000 additions", chain("+1", 20_000)),
        too_complex("10 000 UNION ALL", chain(" UNION ALL SELECT 1", 10_000)),
        too_complex("100 000 values in an IN list", list(100_000)),
        Case::sql("9 000 values in an IN list", list(9_000)),
        too_complex("3 000 joins", joins),
        too_complex("3 000 tables with commas", commas),
        too_complex(
            "names of WITH that double 30 times",
            doubled("SELECT * FROM before UNION ALL SELECT * FROM before"),
        ),
        too_complex(
            "a column that doubles 30 times",
            doubled("SELECT abs(n) + abs(n) AS n FROM before"),
        ),
        Case::sql("a statement of 1 MiB", long)
            .refused(413, "STATEMENT_TOO_LARGE")
            .at_once(),
    ]
}

/// Names that stand for twice the one before.
fn doubled(step: &str) -> String {
    let mut text = "WITH c0 AS (SELECT n FROM metrics)".to_owned();
    for at in 1..=30 {
        let step = step.replace("before", &format!("c{}", at - 1));
        text.push_str(&format!(", c{at} AS ({step})"));
    }
    text + " SELECT count(*) FROM c30 WHERE n > 0"
}

fn hungry() -> Vec<Case> {
    let million = "generate_series(1, 1000000)";
    let slow = |name: &str, condition: &str| {
        let sql = format!("SELECT count(*) FROM {million} a, {million} b WHERE {condition}");
        let body = json!({ "sql": sql, "timeout_ms": 300 });
        Case::sql(name, body.to_string())
            .with("Content-Type", "application/json")
            .refused(504, "TIMEOUT")
    };
    vec![
        Case::sql(
            "a huge series",
            "SELECT count(*) FROM generate_series(1, 1000000000000)",
        )
        .refused(400, "QUERY_LIMIT")
        .at_once(),
        Case::sql("a huge text", "SELECT repeat('x', 1000000000)")
            .refused(400, "QUERY_LIMIT")
            .at_once(),
        Case::sql(
            "a huge text by replacing",
            "SELECT length(replace(repeat('a', 1000000), 'a', repeat('b', 10000)))",
        )
        .refused(400, "QUERY_LIMIT")
        .at_once(),
        Case::sql(
            "the same by a regular expression",
            "SELECT length(regexp_replace(repeat('a', 1000000), 'a', repeat('b', 20000), 'g'))",
        )
        .refused(400, "QUERY_LIMIT")
        .at_once(),
        Case::sql(
            "much text that is replaced, and not much made of it",
            "SELECT sum(length(regexp_replace(repeat('ab', 50000 + value - value), 'b+', repeat('c', 30), 'g'))) \
             FROM generate_series(1, 30)",
        )
        .rows(json!([[46_500_000]])),
        Case::sql("a huge list", "SELECT range(0, 1000000000000)")
            .refused(400, "QUERY_LIMIT")
            .at_once(),
        Case::sql(
            "the distance of two long texts",
            "SELECT levenshtein(repeat('a', 200000), repeat('b', 200000))",
        )
        .refused(400, "QUERY_LIMIT")
        .at_once(),
        Case::sql(
            "one long list within another",
            "SELECT array_has_all(range(1, 50000), range(1, 50000))",
        )
        .refused(400, "QUERY_LIMIT")
        .at_once(),
        Case::sql(
            "a broken regular expression to replace",
            "SELECT regexp_replace('a', '(', 'b')",
        )
        .refused(400, "EXECUTION_ERROR"),
        Case::sql(
            "a regular expression that would be huge",
            "SELECT count(*) FROM metrics WHERE host ~ '((a{1000}){1000}){1000}'",
        )
        .refused(400, "EXECUTION_ERROR"),
        Case::sql(
            "a regular expression that is none",
            "SELECT count(*) FROM metrics WHERE host ~ '('",
        )
        .refused(400, "PLAN_ERROR"),
        slow("a query over its time", "a.value < b.value"),
        slow(
            "one that finds nothing in all that time",
            "a.value + b.value < 0",
        ),
        Case::sql(
            "a query over its memory",
            format!(
                "SELECT count(*) FROM (SELECT lpad(CAST(value AS VARCHAR), 100, 'x') AS t \
                 FROM {million}) a JOIN (SELECT lpad(CAST(value AS VARCHAR), 100, 'x') AS t \
                 FROM {million}) b ON a.t = b.t"
            ),
        )
        .refused(400, "QUERY_LIMIT"),
        Case::sql(
            "a sort over its memory goes to disk",
            format!(
                "SELECT max(r) FROM (SELECT row_number() OVER (ORDER BY t DESC) AS r FROM \
                 (SELECT lpad(CAST(value AS VARCHAR), 100, 'x') AS t FROM {million}))"
            ),
        )
        .rows(json!([[1_000_000]])),
        Case::sql(
            "one that keeps all its rows to skip them is refused",
            format!(
                "SELECT value FROM (SELECT value, lpad(CAST(value AS VARCHAR), 100, 'x') AS t \
                 FROM {million}) ORDER BY t DESC LIMIT 1 OFFSET 999998"
            ),
        )
        .refused(400, "QUERY_LIMIT"),
        Case::sql(
            "the next query has its memory",
            format!("SELECT count(*) FROM {million}"),
        )
        .rows(json!([[1_000_000]])),
    ]
}
