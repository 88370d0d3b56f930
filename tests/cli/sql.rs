//! `auxo sql`: rows, failures half-way, cancelling.

use std::io::Read as _;

use crate::process::auxo;
use crate::responder::{Answer, Responder, answer, chunked, problem};

const TSV: &str = "text/tab-separated-values";
const NDJSON: &str = "application/x-ndjson";
const JSON: &str = "application/json";

fn check_exit(reply: Answer, format: &str, code: i32, stdout: &str) -> String {
    let node = Responder::always(reply);
    let ended = auxo(&["sql", "--url", &node.url, "-o", format, "-c", "SELECT 1"])
        .run()
        .expect(code);
    assert_eq!(ended.stdout, stdout);
    ended.stderr
}

#[test]
fn rows_are_passed_through_and_nothing_else_is_on_stdout() {
    let node = Responder::always(chunked(TSV, &["a\tb\n1\t", "2\n"], true));
    let ended = auxo(&[
        "sql",
        "--url",
        &node.url,
        "--db",
        "d",
        "-c",
        "SELECT 1 AS a, $b AS b;",
        "-p",
        "b=2",
    ])
    .env("AUXO_TOKEN", "auxo_secret")
    .run()
    .expect(0);
    assert_eq!(
        (ended.stdout.as_str(), ended.stderr.as_str()),
        ("a\tb\n1\t2\n", "")
    );
    let request = &node.seen()[0];
    assert_eq!(request.line, "POST /v1/sql HTTP/1.1");
    assert_eq!(request.headers["authorization"], "Bearer auxo_secret");
    let body: serde_json::Value = serde_json::from_str(&request.body).unwrap();
    assert_eq!(body["sql"], "SELECT 1 AS a, $b AS b");
    assert_eq!(body["db"], "d");
    assert_eq!(body["format"], "tsv");
    assert_eq!(body["params"], serde_json::json!({"b": 2}));
    assert_eq!(body["query_id"], request.headers["x-auxo-query-id"]);
}

#[test]
fn a_table_is_made_of_a_json_reply() {
    let body = r#"{"columns":[{"name":"host","type":"string"},{"name":"cpu","type":"float64"}],
        "rows":[["web1",3.25],["web2",null]],"row_count":2,"truncated":true,"warnings":["late"]}"#;
    let stderr = check_exit(
        answer(200, JSON, "", body),
        "table",
        0,
        "host |  cpu\n-----+-----\nweb1 | 3.25\nweb2 | NULL\n",
    );
    assert_eq!(
        stderr,
        "warning: late\nnote: there are more rows; see --limit, or write csv\n2 rows\n"
    );
}

#[test]
fn a_statement_without_rows_leaves_stdout_empty() {
    let body = r#"{"query_id":"q","affected_rows":5}"#;
    let stderr = check_exit(answer(200, JSON, "", body), "csv", 0, "");
    assert_eq!(stderr, "5 rows written\n");
}

#[test]
fn a_refusal_is_underlined() {
    let body = r#"{"status":400,"code":"COLUMN_NOT_FOUND","detail":"table cpu has no column usr",
        "position":{"offset":7,"line":1,"column":8},"hint":"did you mean user?","retryable":false}"#;
    let node = Responder::always(problem(400, body));
    let ended = auxo(&["sql", "--url", &node.url, "-c", " SELECT usr FROM cpu"])
        .run()
        .expect(1);
    assert_eq!(ended.stdout, "");
    assert_eq!(
        ended.stderr,
        "error: COLUMN_NOT_FOUND: table cpu has no column usr\n  |\n1 | SELECT usr FROM cpu\n  |        ^^^\nhint: did you mean user?\n"
    );
    let ended = auxo(&[
        "sql",
        "--url",
        &node.url,
        "-c",
        "SELECT usr FROM cpu",
        "--json-errors",
    ])
    .run()
    .expect(1);
    let told: serde_json::Value = serde_json::from_str(&ended.stderr).unwrap();
    assert_eq!(
        (&told["code"], &told["exit"]),
        (&"COLUMN_NOT_FOUND".into(), &1.into())
    );
}

#[test]
fn each_kind_of_failure_has_its_exit_code() {
    check_exit(problem(401, "{}"), "csv", 4, "");
    check_exit(problem(403, "{}"), "csv", 4, "");
    check_exit(problem(429, r#"{"retryable":true}"#), "csv", 1, "");
    check_exit(problem(504, r#"{"code":"TIMEOUT"}"#), "csv", 5, "");
    check_exit(Answer::Bytes(Vec::new()), "csv", 3, "");
    let nobody = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}", nobody.local_addr().unwrap());
    drop(nobody);
    let ended = auxo(&["sql", "--url", &url, "-c", "SELECT 1"])
        .run()
        .expect(3);
    assert!(
        ended.stderr.contains("no connection to http://127.0.0.1:"),
        "{ended:?}"
    );
}

#[test]
fn a_cut_reply_is_a_failure_in_every_format() {
    let csv = check_exit(chunked("text/csv", &["a\n1\n"], false), "csv", 1, "a\n1\n");
    assert!(csv.contains("the reply was cut"), "{csv}");
    let json = check_exit(
        chunked(JSON, &["{\"rows\":[[1"], true),
        "json",
        1,
        "{\"rows\":[[1",
    );
    assert!(json.contains("the JSON object is not closed"), "{json}");
    check_exit(
        chunked(JSON, &["{\"columns\":[],\"rows\":["], true),
        "table",
        1,
        "",
    );
    let ndjson = check_exit(
        chunked(NDJSON, &["{\"a\":1}\n{\"a\":2}\n"], true),
        "ndjson",
        1,
        "{\"a\":1}\n",
    );
    assert!(ndjson.contains("there is no end line"), "{ndjson}");
    let closed = Answer::Bytes(b"HTTP/1.1 200 OK\r\ncontent-type: text/csv\r\n\r\na\n1\n".to_vec());
    check_exit(closed, "csv", 1, "");
}

#[test]
fn an_ndjson_reply_ends_without_its_end_line_or_with_its_error() {
    check_exit(
        chunked(
            NDJSON,
            &["{\"a\":1}\n{\"e", "nd\":{\"row_count\":1}}\n"],
            true,
        ),
        "ndjson",
        0,
        "{\"a\":1}\n",
    );
    let late = chunked(
        NDJSON,
        &["{\"a\":1}\n{\"error\":{\"status\":504,\"code\":\"TIMEOUT\",\"detail\":\"30 s\"}}\n"],
        false,
    );
    let stderr = check_exit(late, "ndjson", 5, "{\"a\":1}\n");
    assert_eq!(stderr, "error: TIMEOUT: 30 s\n");
}

#[test]
fn a_script_stops_at_its_first_failure() {
    let node = Responder::start(|request| match request.body.contains("BAD") {
        true => problem(400, r#"{"code":"PARSE_ERROR","detail":"bad"}"#),
        false => answer(200, TSV, "", "a\n1\n"),
    });
    let script = "SELECT 1; -- one;\nSELECT ';';\nBAD;\nSELECT 3;";
    let ended = auxo(&["sql", "--url", &node.url])
        .stdin(script)
        .run()
        .expect(1);
    assert_eq!(ended.stdout, "a\n1\na\n1\n");
    assert_eq!(ended.stderr, "error: PARSE_ERROR: bad\n");
    assert_eq!(node.seen().len(), 3);
    auxo(&["sql", "--url", &node.url, "-f", "script"])
        .file("script", "SELECT 1;")
        .run()
        .expect(0);
}

#[test]
fn nobody_reading_is_no_failure() {
    let rows = "1\n".repeat(1 << 20);
    let node = Responder::always(chunked(TSV, &["a\n", &rows], true));
    let (mut running, _directory) = auxo(&["sql", "--url", &node.url, "-c", "SELECT a"]).start();
    let mut stdout = running.child.stdout.take().unwrap();
    stdout.read_exact(&mut [0; 2]).unwrap();
    drop(stdout);
    let ended = running.wait().expect(0);
    assert_eq!(ended.stderr, "");
}

#[test]
fn ctrl_c_cancels_on_the_node() {
    let node = Responder::start(|request| match request.line.starts_with("DELETE") {
        true => answer(204, JSON, "", ""),
        false => Answer::Silence,
    });
    let (running, _directory) = auxo(&["sql", "--url", &node.url, "-c", "SELECT 1"]).start();
    let asked = node.next();
    running.interrupt();
    let cancel = node.next();
    let id = &asked.headers["x-auxo-query-id"];
    assert_eq!(cancel.line, format!("DELETE /v1/queries/{id} HTTP/1.1"));
    // The statement's own reply never comes: a second Ctrl-C no longer waits for it.
    running.interrupt();
    let ended = running.wait().expect(130);
    assert_eq!(
        (ended.stdout.as_str(), ended.stderr.as_str()),
        ("", "error: cancelled\n")
    );
}
