//! The real binary as one node: what was acked is there after a kill, statements that change the
//! model do, and an end that was asked for comes soon and in peace. `writes` has what becomes of bodies,
//! keys and times.

#![allow(clippy::unwrap_used, reason = "every line of it is a test")]

use std::time::Duration;

use integration::http::Answer;
use integration::standalone::{Setup, Standalone};
use integration::{binary, disk, wait};
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

/// Longest time for anything that should happen soon.
const SOON: Duration = Duration::from_secs(60);

#[path = "node/writes.rs"]
mod writes;

fn setup() -> (TempDir, Setup) {
    let folder = disk::folder("node").unwrap();
    let setup = Setup::new(&binary::beside().unwrap(), folder.path());
    (folder, setup)
}

async fn write(node: &Standalone, first: i64, count: i64) {
    let lines: String = (first..first + count)
        .map(|n| format!("cpu,host=h{} n={n}i,x={n}.5 {}\n", n % 3, n * 1_000_000_000))
        .collect();
    let answer = node.http.write("main", lines).await.unwrap();
    assert_eq!(answer.status, 204, "{}", answer.body);
}

async fn numbers(node: &Standalone) -> Vec<Vec<Value>> {
    node.http.sql("SELECT n FROM cpu ORDER BY n").await.unwrap()
}

fn up_to(count: i64) -> Vec<Vec<Value>> {
    (0..count).map(|n| vec![json!(n)]).collect()
}

#[tokio::test]
async fn what_was_acked_is_there_after_a_kill() {
    let (_folder, setup) = setup();
    let mut node = setup.start().await.unwrap();
    write(&node, 0, 100).await;
    assert_eq!(numbers(&node).await, up_to(100));
    node.kill().unwrap();

    let mut node = setup.start().await.unwrap();
    assert_eq!(numbers(&node).await, up_to(100));
    write(&node, 100, 50).await;
    node.kill().unwrap();

    let node = setup.start().await.unwrap();
    assert_eq!(numbers(&node).await, up_to(150));
}

#[tokio::test]
async fn the_model_is_changed_and_stays_changed() {
    let (_folder, setup) = setup();
    let mut node = setup.start().await.unwrap();
    let sql = async |node: &Standalone, text: &str| {
        let answer = node.http.sql_answer(text).await.unwrap();
        (answer.status, answer.code(), answer.json()["rows"].take())
    };
    let done = (200, String::new(), Value::Null);
    for statement in [
        "CREATE DATABASE shop",
        "CREATE TABLE shop.sales (place STRING TAG, ts TIMESTAMP(9) NOT NULL, sum DOUBLE, \
         TIMESTAMP KEY (ts)) PARTITION BY HASH(place) PARTITIONS 2",
        "ALTER TABLE shop.sales ADD COLUMN pieces BIGINT",
    ] {
        assert_eq!(sql(&node, statement).await, done, "{statement}");
    }
    let insert = "INSERT INTO shop.sales (place, ts, sum, pieces) VALUES ('a', 1, 2.5, 3)";
    assert_eq!(sql(&node, insert).await, done);
    let show = node
        .http
        .request(reqwest::Method::GET, "/v1/tables/shop.sales");
    let shown = node.http.send(show).await.unwrap();
    assert_eq!(shown.json()["name"], "sales", "{}", shown.body);
    node.kill().unwrap();

    let node = setup.start().await.unwrap();
    let select = "SELECT place, sum, pieces FROM shop.sales";
    let rows = json!([["a", 2.5, 3]]);
    assert_eq!(sql(&node, select).await, (200, String::new(), rows));
    let none = format!("{select} WHERE place = 'b'");
    assert_eq!(sql(&node, &none).await, (200, String::new(), json!([])));
    let again = sql(&node, "CREATE DATABASE shop").await;
    assert_eq!((again.0, again.1.as_str()), (409, "ALREADY_EXISTS"));
    assert_eq!(sql(&node, "DROP TABLE shop.sales").await, done);
    let gone = sql(&node, select).await;
    assert_eq!((gone.0, gone.1.as_str()), (400, "TABLE_NOT_FOUND"));
}

#[tokio::test]
async fn an_end_that_was_asked_for_comes_soon_and_loses_nothing() {
    let (_folder, setup) = setup();
    let mut node = setup.start().await.unwrap();
    write(&node, 0, 100).await;
    let ended = node.terminate(Duration::from_secs(10)).await.unwrap();
    assert!(ended.success(), "{ended}\n{}", node.log_tail());
    let node = setup.start().await.unwrap();
    assert_eq!(numbers(&node).await, up_to(100));
}

#[tokio::test]
async fn a_column_that_comes_while_the_store_is_away_holds_nothing_up() {
    let (_folder, mut setup) = setup();
    setup.config = "[meta]\nshards = 1\n[flush]\nage = \"200ms\"\n".to_owned();
    let mut node = setup.start().await.unwrap();
    write(&node, 0, 10).await;
    let (store, away) = (setup.data().join("store"), setup.data().join("away"));
    std::fs::rename(&store, &away).unwrap();
    std::fs::write(&store, "a file, where no object can be put").unwrap();
    write(&node, 10, 10).await;
    let failed = wait::until("a flush has failed", SOON, || async {
        anyhow::ensure!(node.log().contains("flush failed"), "not yet");
        Ok(())
    });
    failed.await.unwrap();
    let line = "cpu,host=h2 n=20i,late=1i 20000000000".to_owned();
    let answer = node.http.write("main", line).await.unwrap();
    assert_eq!(answer.status, 204, "{}", answer.body);
    std::fs::remove_file(&store).unwrap();
    std::fs::rename(&away, &store).unwrap();
    let ended = node.terminate(SOON).await.unwrap();
    assert!(ended.success(), "{}", node.log_tail());
    let node = setup.start().await.unwrap();
    assert_eq!(numbers(&node).await, up_to(21));
    let late = node.http.sql("SELECT count(late) FROM cpu").await.unwrap();
    assert_eq!(late, [[json!(1)]]);
}

/// A statement that would run on is told that the node ends, and does not keep it.
#[tokio::test]
async fn an_end_that_was_asked_for_does_not_wait_for_long_statements() {
    let (_folder, setup) = setup();
    let mut node = setup.start().await.unwrap();
    let endless = "SELECT count(*) FROM generate_series(1, 900000) AS a \
                   CROSS JOIN generate_series(1, 900000) AS b WHERE a.value + b.value < 0";
    let http = node.http.clone();
    let post = http.request(reqwest::Method::POST, "/v1/sql");
    let asked = http.send(post.header("x-auxo-query-id", "endless").body(endless));
    let ending = async {
        wait::until("it runs", Duration::from_secs(60), || async {
            let get = node
                .http
                .request(reqwest::Method::GET, "/v1/queries/endless");
            let known = node.http.send(get).await?;
            match known.status {
                200 if known.json()["state"] == "running" => Ok(()),
                _ => anyhow::bail!("{}", known.body),
            }
        })
        .await
        .unwrap();
        node.terminate(Duration::from_secs(20)).await.unwrap()
    };
    let (answer, ended) = tokio::join!(asked, ending);
    assert!(ended.success(), "{ended}\n{}", node.log_tail());
    let answer = answer.unwrap();
    let told = (answer.status, answer.code());
    assert_eq!(told, (503, "DRAINING".to_owned()), "{}", answer.body);
    assert!(answer.retry_after_s.is_some());
}

/// What is not known yet must not look as if it did not exist.
#[tokio::test]
async fn a_node_that_is_not_ready_says_try_again() {
    let (_folder, setup) = setup();
    for round in 0..3 {
        let mut node = setup.spawn().unwrap();
        let line = format!("cpu,host=a n={round}i {round}");
        wait::until("first ack", Duration::from_secs(60), || async {
            let answer = node.http.write("main", line.clone()).await?;
            match (answer.status, answer.retry_after_s) {
                (204, _) => Ok(()),
                (503, Some(1..)) => anyhow::bail!("not yet"),
                other => panic!("{other:?} {}", answer.body),
            }
        })
        .await
        .unwrap();
        let rows = node.http.sql("SELECT count(*) FROM cpu").await.unwrap();
        assert_eq!(rows, [[json!(round + 1)]]);
        node.kill().unwrap();
    }
}

async fn asked(node: &Standalone, format: &str, more: &str, sql: &str) -> anyhow::Result<Answer> {
    let path = format!("/v1/sql?format={format}{more}");
    let post = node.http.request(reqwest::Method::POST, &path);
    node.http.send(post.body(sql.to_owned())).await
}

/// What a limit cuts short says so, or looks cut where the format has no word for it.
#[tokio::test]
async fn no_answer_is_shortened_in_silence() {
    let (_folder, mut setup) = setup();
    setup.config = "[limits]\nresult_rows = 100000".to_owned();
    let node = setup.start().await.unwrap();
    let long = "SELECT value FROM generate_series(1, 300000)";
    for format in ["csv", "tsv", "arrow"] {
        let whole = asked(&node, format, "", long).await;
        assert!(
            whole.is_err() || whole.unwrap().code() == "QUERY_LIMIT",
            "{format} looks whole"
        );
        let wanted = asked(&node, format, "&row_limit=3", long).await.unwrap();
        assert_eq!(wanted.status, 200, "{format}");
    }
    for format in ["json", "null"] {
        let said = asked(&node, format, "", long).await.unwrap().json();
        assert_eq!(
            (&said["row_count"], &said["truncated"]),
            (&json!(100_000), &json!(true))
        );
    }
    // The command line asks what the body had no room for.
    let told = std::process::Command::new(binary::beside().unwrap())
        .args(["sql", "--url", node.http.base(), "-o", "csv", "-c", long])
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&told.stderr);
    assert!(
        !told.status.success() && said.contains("limits.result_rows"),
        "{said}"
    );
    let few = asked(&node, "csv", "&row_limit=3", long).await.unwrap();
    assert_eq!(few.body, "value\r\n1\r\n2\r\n3\r\n");
    let reply = with_trailers(&node, "/v1/sql?format=csv&row_limit=3", long).await;
    let summary = reply.split("x-auxo-summary: ").last().unwrap();
    let summary: Value = serde_json::from_str(summary.lines().next().unwrap()).unwrap();
    assert_eq!(
        (&summary["row_count"], &summary["truncated"]),
        (&json!(3), &json!(true))
    );
}

/// The bytes of an answer to a client that takes trailers.
async fn with_trailers(node: &Standalone, path: &str, body: &str) -> String {
    let address = node.http.base().trim_start_matches("http://").to_owned();
    let mut stream = TcpStream::connect(&address).await.unwrap();
    let request = format!(
        "POST {path} HTTP/1.1\r\nHost: {address}\r\nTE: trailers\r\nConnection: close\r\n\
         Content-Length: {}\r\n\r\n{body}",
        body.len()
    );
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut reply = String::new();
    stream.read_to_string(&mut reply).await.unwrap();
    reply
}

/// The last line of an answer that fails half-way names the failure, each time.
#[tokio::test]
async fn a_late_failure_has_the_last_word() {
    let (_folder, setup) = setup();
    let node = setup.start().await.unwrap();
    let sql = "SELECT CASE WHEN value = 200000 THEN 1 / (value - 200000) ELSE value END AS v \
               FROM generate_series(1, 300000)";
    for _ in 0..10 {
        let post = node
            .http
            .request(reqwest::Method::POST, "/v1/sql?format=ndjson");
        let mut reply = post.body(sql).send().await.unwrap();
        assert_eq!(reply.status().as_u16(), 200);
        let id = reply.headers()["x-auxo-query-id"].to_str().unwrap();
        let path = format!("/v1/queries/{id}");
        let mut body = Vec::new();
        let cut = loop {
            match reply.chunk().await {
                Ok(Some(chunk)) => body.extend_from_slice(&chunk),
                Ok(None) => break false,
                Err(_) => break true,
            }
        };
        assert!(cut, "the body looks whole");
        let text = String::from_utf8(body).unwrap();
        let last: Value = serde_json::from_str(text.lines().last().unwrap()).unwrap();
        assert!(
            last["error"]["detail"].as_str().unwrap().contains("zero"),
            "{last}"
        );
        let why = node.http.request(reqwest::Method::GET, &path);
        let why = node.http.send(why).await.unwrap().json();
        assert_eq!(
            (&why["state"], &why["error"]),
            (&json!("failed"), &last["error"])
        );
    }
}

/// However small the batches of its query are, an INSERT writes in strides.
#[tokio::test]
async fn an_insert_of_a_query_stores_every_row_of_it() {
    let (_folder, setup) = setup();
    let node = setup.start().await.unwrap();
    let create =
        "CREATE TABLE t (k STRING TAG, ts TIMESTAMP(9) NOT NULL, n BIGINT, TIMESTAMP KEY (ts))";
    assert_eq!(node.http.sql_answer(create).await.unwrap().status, 200);
    let insert = "INSERT INTO t SELECT CAST(b.value AS VARCHAR), to_timestamp_nanos(a.value), a.value \
                  FROM generate_series(1, 20000) a, generate_series(1, 3) b";
    let answer = node.http.sql_answer(insert).await.unwrap();
    assert_eq!(
        (answer.status, &answer.json()["affected_rows"]),
        (200, &json!(60_000)),
        "{}",
        answer.body
    );
    let rows = node
        .http
        .sql("SELECT count(*), sum(n) FROM t")
        .await
        .unwrap();
    assert_eq!(rows, [[json!(60_000), json!(3_i64 * 20_000 * 20_001 / 2)]]);
}
