//! `auxo write`: batches, retries, refused lines.

use std::collections::BTreeSet;

use crate::process::auxo;
use crate::responder::{Answer, Request, Responder, answer, problem};

fn stored() -> Answer {
    Answer::Bytes(b"HTTP/1.1 204 No Content\r\nconnection: close\r\n\r\n".to_vec())
}

/// Answers the first request with `first`, the others as stored.
fn first(first: Answer) -> Responder {
    let mut first = Some(first);
    Responder::start(move |_| first.take().unwrap_or_else(stored))
}

fn keys(requests: &[Request]) -> BTreeSet<&str> {
    requests
        .iter()
        .map(|request| request.headers["idempotency-key"].as_str())
        .collect()
}

fn bodies(requests: &[Request]) -> Vec<&str> {
    requests
        .iter()
        .map(|request| request.body.as_str())
        .collect()
}

#[test]
fn a_file_goes_out_in_batches_each_with_an_id() {
    let node = Responder::always(stored());
    let ended = auxo(&[
        "write",
        "--url",
        &node.url,
        "--db",
        "d",
        "--precision",
        "ms",
        "--batch-rows",
        "2",
        "cpu.lp",
    ])
    .file("cpu.lp", "# c\na f=1 1\nb f=2 2\n\nc f=\"x\ny\" 3")
    .run()
    .expect(0);
    assert_eq!(ended.stdout, "");
    assert!(ended.stderr.starts_with("3 rows stored in "), "{ended:?}");
    let seen = node.seen();
    assert_eq!(
        bodies(&seen),
        ["# c\na f=1 1\nb f=2 2\n", "\nc f=\"x\ny\" 3"]
    );
    assert_eq!(seen[0].line, "POST /write?db=d&precision=ms HTTP/1.1");
    assert_eq!(keys(&seen).len(), 2);
    for key in keys(&seen) {
        assert_eq!(&key[14..15], "7", "{key} is a UUIDv7");
    }
}

#[test]
fn the_standard_input_is_read_and_quiet_is_quiet() {
    let node = Responder::always(stored());
    let ended = auxo(&["write", "--url", &node.url, "-q"])
        .stdin("a f=1\n")
        .run()
        .expect(0);
    assert_eq!(ended.stderr, "");
    assert_eq!(bodies(&node.seen()), ["a f=1\n"]);
    auxo(&["write", "--url", &node.url, "-"]).run().expect(0);
    assert_eq!(node.seen().len(), 1, "nothing to write, nothing sent");
}

#[test]
fn what_passes_is_sent_again_under_the_same_id() {
    let busy = r#"{"code":"MEMORY_FULL","retryable":true,"retry_after_ms":1}"#;
    for passing in [
        problem(503, busy),
        problem(429, busy),
        answer(
            503,
            "application/json",
            "",
            r#"{"error":"engine: cache-max-memory-size exceeded"}"#,
        ),
        answer(502, "text/html", "", "<html>"),
        Answer::Bytes(Vec::new()),
        Answer::Bytes(b"HTTP/1.1 2".to_vec()),
    ] {
        let node = first(passing.clone());
        let ended = auxo(&["write", "--url", &node.url])
            .stdin("a f=1\n")
            .run()
            .expect(0);
        let seen = node.seen();
        assert_eq!(seen.len(), 2, "{passing:?}");
        assert_eq!(keys(&seen).len(), 1, "{passing:?}");
        assert_eq!(seen[0].body, seen[1].body);
        assert!(ended.stderr.contains("1 rows stored"), "{ended:?}");
        assert!(ended.stderr.contains("1 retries"), "{ended:?}");
    }
}

#[test]
fn patience_ends() {
    let body = r#"{"code":"NO_LEADER","detail":"shard 7","retryable":true,"outcome":"rejected"}"#;
    let node = Responder::always(problem(503, body));
    let ended = auxo(&["write", "--url", &node.url, "--give-up", "300ms"])
        .stdin("a f=1\n")
        .run()
        .expect(1);
    assert!(
        ended.stderr.contains("error: NO_LEADER: shard 7\n"),
        "{ended:?}"
    );
    assert!(
        ended
            .stderr
            .contains("not all rows are stored from <stdin>:1 on"),
        "{ended:?}"
    );
    assert_eq!(keys(&node.seen()).len(), 1);
}

#[test]
fn refused_lines_end_with_6_and_are_kept() {
    let body = r#"{"error":"partial write: line 2: no fields dropped=1","rejected_count":1,
        "rejected":[{"line":2,"error":"no fields","original":"cut off"}]}"#;
    let node = first(answer(400, "application/json", "", body));
    let (ended, rejected) = auxo(&[
        "write",
        "--url",
        &node.url,
        "--batch-rows",
        "2",
        "--rejected",
        "bad.lp",
        "cpu.lp",
    ])
    .file("cpu.lp", "a f=1\nb\nc f=3\n")
    .run_and_read("bad.lp");
    let ended = ended.expect(6);
    assert!(ended.stderr.starts_with("2 rows stored in "), "{ended:?}");
    assert!(ended.stderr.contains("1 refused"), "{ended:?}");
    assert_eq!(rejected, "# cpu.lp:2: no fields\nb\n");
    assert_eq!(node.seen().len(), 2, "the batch behind it is written too");
}

#[test]
fn refused_lines_without_names_are_counted() {
    let body = r#"{"error":"partial write: fields are missing dropped=2"}"#;
    let node = first(answer(400, "application/json", "", body));
    let ended = auxo(&["write", "--url", &node.url])
        .stdin("a\nb\n")
        .run()
        .expect(1);
    assert!(
        ended.stderr.starts_with(
            "refused: <stdin> from line 1: 2 lines refused: partial write: fields are missing"
        ),
        "{ended:?}"
    );
}

#[test]
fn a_batch_above_the_limit_is_halved() {
    let node = Responder::start(|request| match request.body.lines().count() {
        0..=2 => stored(),
        _ => problem(
            413,
            r#"{"code":"BODY_TOO_LARGE","retryable":false,"outcome":"rejected"}"#,
        ),
    });
    auxo(&["write", "--url", &node.url])
        .stdin("a f=1\nb f=1\nc f=1\nd f=1\ne f=1\n")
        .run()
        .expect(0);
    let seen = node.seen();
    assert_eq!(
        bodies(&seen)[1..],
        [
            "a f=1\nb f=1\nc f=1\n",
            "a f=1\nb f=1\n",
            "c f=1\n",
            "d f=1\ne f=1\n"
        ]
    );
    assert_eq!(keys(&seen).len(), 5);
}

#[test]
fn a_refusal_stops_and_says_where() {
    let node = Responder::always(problem(401, r#"{"code":"AUTH","detail":"who?"}"#));
    let ended = auxo(&["write", "--url", &node.url, "--batch-rows", "1"])
        .stdin("a f=1\nb f=1\nc f=1\n")
        .run()
        .expect(4);
    assert!(ended.stderr.contains("error: AUTH: who?\n"), "{ended:?}");

    let mut answers = [stored(), problem(401, r#"{"code":"AUTH","detail":"who?"}"#)].into_iter();
    let node = Responder::start(move |_| answers.next().unwrap_or_else(stored));
    let ended = auxo(&["write", "--url", &node.url, "--batch-rows", "1"])
        .stdin("a f=1\nb f=1\nc f=1\n")
        .run()
        .expect(6);
    assert!(
        ended
            .stderr
            .contains("not all rows are stored from <stdin>:2 on"),
        "{ended:?}"
    );
}

#[test]
fn a_line_that_is_too_long_is_left_out() {
    let node = Responder::always(stored());
    let text = format!("a f=1\n{}\nb f=1\n", "x".repeat(5 << 20));
    let ended = auxo(&["write", "--url", &node.url])
        .stdin(&text)
        .run()
        .expect(6);
    assert_eq!(bodies(&node.seen()), ["a f=1\n", "b f=1\n"]);
    assert!(
        ended
            .stderr
            .starts_with("refused: <stdin>:2: too long to be sent (--batch-bytes)"),
        "{ended:?}"
    );
}

#[test]
fn nobody_there_ends_with_3() {
    let nobody = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}", nobody.local_addr().unwrap());
    drop(nobody);
    let ended = auxo(&["write", "--url", &url])
        .stdin("a f=1\n")
        .run()
        .expect(3);
    assert!(ended.stderr.contains("no connection to"), "{ended:?}");
}

#[test]
fn ctrl_c_stops_reading_and_a_second_one_stops_waiting() {
    let node = Responder::always(Answer::Silence);
    let (mut running, _directory) = auxo(&[
        "write",
        "--url",
        &node.url,
        "--give-up",
        "1s",
        "--setting",
        "client.request_timeout=30s",
    ])
    .stdin("a f=1\n")
    .start();
    node.next();
    running.interrupt();
    assert!(
        running
            .stderr_line()
            .starts_with("waiting for batches in flight")
    );
    running.interrupt();
    let ended = running.wait().expect(130);
    assert!(ended.stderr.contains("0 rows stored"), "{ended:?}");
}
