//! `auxo bench`: reports.

use serde_json::Value;

use crate::process::auxo;
use crate::responder::{Answer, Responder, answer, problem};

fn stored() -> Answer {
    Answer::Bytes(b"HTTP/1.1 204 No Content\r\nconnection: close\r\n\r\n".to_vec())
}

#[test]
fn ingest_reports_rows_and_latencies() {
    let node = Responder::always(stored());
    let lines = "a f=1\n".repeat(25);
    let ended = auxo(&[
        "bench",
        "ingest",
        "--url",
        &node.url,
        "--batch-rows",
        "10",
        "--rate",
        "1000000",
    ])
    .stdin(&lines)
    .run()
    .expect(0);
    let report: Value = serde_json::from_str(&ended.stdout).unwrap();
    assert_eq!(report["rows"], 25);
    assert_eq!(report["bytes"], 150);
    assert_eq!(report["batches"], 3);
    assert_eq!(report["failed_batches"], 0);
    assert_eq!(report["rate_rows_per_s"], 1_000_000);
    let latency = &report["latency_ms"];
    let at = |name: &str| latency[name].as_f64().unwrap();
    assert!(
        at("p50") > 0.0 && at("p50") <= at("p99") && at("p99") <= at("max"),
        "{latency}"
    );
}

#[test]
fn ingest_reports_what_failed() {
    let mut answers = [stored(), problem(401, "{}")].into_iter();
    let node = Responder::start(move |_| answers.next().unwrap());
    let ended = auxo(&[
        "bench",
        "ingest",
        "--url",
        &node.url,
        "--batch-rows",
        "1",
        "--writers",
        "1",
    ])
    .stdin("a f=1\nb f=1\n")
    .run()
    .expect(6);
    let report: Value = serde_json::from_str(&ended.stdout).unwrap();
    assert_eq!(
        (&report["rows"], &report["failed_batches"]),
        (&1.into(), &1.into())
    );
}

#[test]
fn the_same_seed_asks_the_same() {
    let body = r#"{"columns":[{"name":"a","type":"int64"}],"rows":[[1],[2]]}"#;
    let ask = |seed: &str, only: &str| {
        let node = Responder::always(answer(200, "application/json", "", body));
        let arguments = [
            "bench", "query", "--url", &node.url, "-q", "--rounds", "2", "--warm", "1", "--seed",
            seed, "--only", only,
        ];
        let ended = auxo(&arguments).run().expect(0);
        assert_eq!(ended.stderr, "");
        let report: Value = serde_json::from_str(&ended.stdout).unwrap();
        let asked = node.seen().into_iter().map(|request| {
            let body: Value = serde_json::from_str(&request.body).unwrap();
            body["sql"].as_str().unwrap().to_owned()
        });
        (report["queries"].clone(), asked.collect::<Vec<_>>())
    };
    let (queries, asked) = ask("5", "high-cpu-1,cpu-max-all-8");
    assert_eq!(queries[0]["name"], "cpu-max-all-8");
    assert_eq!(
        (&queries[1]["rows"], &queries[1]["bytes"]),
        (&2.into(), &body.len().into())
    );
    assert_eq!(asked.len(), 6);
    let (_, alone) = ask("5", "high-cpu-1");
    assert_eq!(
        asked[3..],
        alone[..],
        "a kind asks the same whichever others are asked"
    );
    assert_ne!(ask("6", "high-cpu-1").1, alone);
}

#[test]
fn a_query_that_fails_ends_the_measurement() {
    let node = Responder::always(problem(
        400,
        r#"{"code":"TABLE_NOT_FOUND","detail":"no cpu"}"#,
    ));
    let ended = auxo(&["bench", "query", "--url", &node.url])
        .run()
        .expect(1);
    assert_eq!(ended.stdout, "");
    assert!(
        ended
            .stderr
            .starts_with("error: single-groupby-1-1-1: SELECT date_bin"),
        "{ended:?}"
    );
    assert!(
        ended.stderr.contains("TABLE_NOT_FOUND: no cpu"),
        "{ended:?}"
    );
    auxo(&["bench", "query", "--only", "nope"]).run().expect(2);
    auxo(&["bench", "query", "--end", "2025-01-01T00:00:00Z"])
        .run()
        .expect(2);
}
