//! What becomes of a write: bodies that do not arrive or ask for too much, keys, times and their units.

use std::time::Duration;

use integration::wait;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use super::{setup, write};

#[tokio::test]
async fn a_body_that_does_not_arrive_is_given_up_and_may_be_sent_again() {
    let (_folder, mut setup) = setup();
    setup.config = "[limits]\nbody_timeout = \"1s\"".to_owned();
    let node = setup.start().await.unwrap();
    let address = node.http.base().trim_start_matches("http://");
    for (path, named) in [
        ("/v1/sql", "BODY_TIMEOUT"),
        ("/write", "the body did not arrive within 1s"),
        ("/api/v2/write?bucket=main", "the body did not arrive"),
    ] {
        let mut stream = TcpStream::connect(address).await.unwrap();
        let request = format!(
            "POST {path} HTTP/1.1\r\nHost: {address}\r\nContent-Length: 100\r\n\r\ncpu v=1 "
        );
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut reply = String::new();
        stream.read_to_string(&mut reply).await.unwrap();
        assert!(reply.starts_with("HTTP/1.1 503 "), "{path}: {reply}");
        assert!(reply.contains("retry-after: 1"), "{path}: {reply}");
        assert!(reply.contains(named), "{path}: {reply}");
    }
    let counted = node.http.sql("SHOW TABLES").await.unwrap();
    assert_eq!(counted, Vec::<Vec<Value>>::new());
}

#[tokio::test]
async fn an_insert_under_a_key_is_answered_as_the_first_time() {
    let (_folder, setup) = setup();
    let node = setup.start().await.unwrap();
    let create = "CREATE TABLE t (k STRING TAG, ts TIMESTAMP NOT NULL, n BIGINT, TIMESTAMP KEY (ts)) \
                  WITH (merge_mode = 'append')";
    let created = node.http.sql_answer(create).await.unwrap();
    assert_eq!(created.status, 200, "{}", created.body);
    let under_key = async |sql: &str, key: &str| {
        let post = node.http.request(reqwest::Method::POST, "/v1/sql");
        let post = post.header("Idempotency-Key", key).body(sql.to_owned());
        node.http.send(post).await.unwrap()
    };
    let values = "INSERT INTO t VALUES ('a', 1, 1), ('b', 2, 2)";
    let key = "0191d5c8-7a00-7000-8000-000000000021";
    for _ in 0..2 {
        let answer = under_key(values, key).await;
        assert_eq!(answer.json()["affected_rows"], json!(2), "{}", answer.body);
    }
    let key = "0191d5c8-7a00-7000-8000-000000000022";
    let answer = under_key("INSERT INTO t SELECT k, ts, n FROM t", key).await;
    assert_eq!(
        (answer.status, &answer.json()["code"]),
        (400, &json!("UNSUPPORTED"))
    );
    let series =
        "INSERT INTO t SELECT 'c', to_timestamp_nanos(value), value FROM generate_series(1, 3)";
    for _ in 0..2 {
        let answer = under_key(series, key).await;
        assert_eq!(answer.json()["affected_rows"], json!(3), "{}", answer.body);
    }
    let rows = node.http.sql("SELECT count(*) FROM t").await.unwrap();
    assert_eq!(rows, [[json!(5)]]);

    let with = async |param: &str, key: &str| {
        let post = node.http.request(reqwest::Method::POST, "/v1/sql");
        let post = post.header("Idempotency-Key", key);
        let post = post.header("Content-Type", "application/json");
        let sql = "DELETE FROM t WHERE k = $1";
        let body = json!({ "sql": sql, "params": [param] }).to_string();
        node.http.send(post.body(body)).await.unwrap()
    };
    let key = "0191d5c8-7a00-7000-8000-000000000023";
    assert_eq!(with("a", key).await.status, 200);
    assert_eq!(with("b", key).await.json()["code"], json!("BATCH_CONFLICT"));
    let line = "t,k=a n=9i 9\n".to_owned();
    assert_eq!(node.http.write("main", line).await.unwrap().status, 204);
    // A late repeat does not take what came behind the first one.
    assert_eq!(with("a", key).await.status, 200);
    let rows = "SELECT k, count(*) FROM t GROUP BY k ORDER BY k";
    let rows = node.http.sql(rows).await.unwrap();
    let left = [("a", 1), ("b", 1), ("c", 3)];
    assert_eq!(rows, left.map(|(k, count)| vec![json!(k), json!(count)]));
}

#[tokio::test]
async fn a_moment_between_two_that_a_column_can_hold_is_compared_exactly() {
    let (_folder, setup) = setup();
    let node = setup.start().await.unwrap();
    let change = async |sql: &str| {
        let answer = node.http.sql_answer(sql).await.unwrap();
        assert_eq!(answer.status, 200, "{sql}: {}", answer.body);
    };
    change(
        "CREATE TABLE e (h STRING TAG, ts TIMESTAMP(3) NOT NULL, v BIGINT, at TIMESTAMP(3), \
         TIMESTAMP KEY (ts))",
    )
    .await;
    change(
        "INSERT INTO e VALUES ('a', '2026-01-01T00:00:00.000Z', 0, '2026-01-01T00:00:00.000Z'), \
         ('a', '2026-01-01T00:00:00.001Z', 1, '2026-01-01T00:00:00.001Z'), \
         ('a', '2026-01-01T00:00:00.002Z', 2, '2026-01-01T00:00:00.002Z'), \
         ('a', '2026-01-01T00:00:00.003Z', 3, NULL)",
    )
    .await;
    let between = "TIMESTAMP '2026-01-01T00:00:00.0015'";
    let (exact, later) = (
        "TIMESTAMP '2026-01-01T00:00:00.001000000'",
        "TIMESTAMP '2026-01-01T00:00:00.0025'",
    );
    for (condition, found) in [
        (format!("ts < {between}"), vec![0, 1]),
        (format!("ts <= {between}"), vec![0, 1]),
        (format!("ts > {between}"), vec![2, 3]),
        (format!("ts >= {between}"), vec![2, 3]),
        (format!("{between} > ts"), vec![0, 1]),
        (format!("ts = {between}"), vec![]),
        (format!("ts <> {between}"), vec![0, 1, 2, 3]),
        (format!("ts IS DISTINCT FROM {between}"), vec![0, 1, 2, 3]),
        (format!("ts BETWEEN {between} AND {later}"), vec![2]),
        (
            format!("ts NOT BETWEEN {between} AND {later}"),
            vec![0, 1, 3],
        ),
        (format!("ts BETWEEN {exact} AND {between}"), vec![1]),
        (format!("ts IN ({exact}, {between})"), vec![1]),
        (format!("ts IN ({between})"), vec![]),
        (format!("ts NOT IN ({exact}, {between})"), vec![0, 2, 3]),
        (format!("ts >= {exact}"), vec![1, 2, 3]),
        (format!("at < {between}"), vec![0, 1]),
        (format!("at >= {between}"), vec![2]),
        (format!("at <> {between}"), vec![0, 1, 2]),
        (format!("NOT (at = {between})"), vec![0, 1, 2]),
        ("ts >= '2026-01-01T00:00:00.0015Z'".to_owned(), vec![2, 3]),
        (
            "ts < to_timestamp_nanos(1767225600001500000)".to_owned(),
            vec![0, 1],
        ),
    ] {
        let sql = format!("SELECT v FROM e WHERE {condition} ORDER BY v");
        let rows = node.http.sql(&sql).await.unwrap();
        let found: Vec<_> = found.into_iter().map(|v| vec![json!(v)]).collect();
        assert_eq!(rows, found, "{condition}");
    }
    change("DELETE FROM e WHERE ts >= TIMESTAMP '2026-01-01T00:00:00.0015'").await;
    let rows = node.http.sql("SELECT v FROM e ORDER BY v").await.unwrap();
    assert_eq!(rows, [[json!(0)], [json!(1)]]);
}

#[tokio::test]
async fn the_segments_that_rows_lie_in_stay_as_they_are() {
    let (_folder, setup) = setup();
    let mut node = setup.start().await.unwrap();
    write(&node, 0, 100).await;
    for (option, status) in [("segment_duration = '2h'", 400), ("ttl = '9000d'", 200)] {
        let set = format!("ALTER TABLE cpu SET ({option})");
        let answer = node.http.sql_answer(&set).await.unwrap();
        assert_eq!(answer.status, status, "{set}: {}", answer.body);
    }
    let ended = node.terminate(Duration::from_secs(60)).await.unwrap();
    assert!(ended.success(), "{}", node.log_tail());
}

#[tokio::test]
async fn a_table_that_is_dropped_meanwhile_costs_no_good_line() {
    let (_folder, setup) = setup();
    let node = setup.start().await.unwrap();
    let drops = async {
        for _ in 0..40 {
            let dropped = node
                .http
                .sql_answer("DROP TABLE IF EXISTS d")
                .await
                .unwrap();
            assert_eq!(dropped.status, 200, "{}", dropped.body);
        }
    };
    let writes = async {
        let (mut acked, mut column) = (0, 0);
        loop {
            column += 1;
            let line = format!("d,h=a v=1i,c{}=1i", column % 20);
            let answer = node.http.write("main", line).await.unwrap();
            assert!(matches!(answer.status, 204 | 503), "{}", answer.body);
            acked += usize::from(answer.status == 204);
            if acked > 200 {
                return;
            }
        }
    };
    tokio::join!(drops, writes);
}

#[tokio::test]
async fn one_key_in_two_databases_is_two_batches() {
    let (_folder, setup) = setup();
    let node = setup.start().await.unwrap();
    let created = node.http.sql_answer("CREATE DATABASE other").await.unwrap();
    assert_eq!(created.status, 200, "{}", created.body);
    let write = async |arguments: &str| {
        let path = format!("/write?{arguments}");
        let post = node.http.request(reqwest::Method::POST, &path);
        let key = "0191d5c8-7a00-7000-8000-000000000031";
        let post = post.header("Idempotency-Key", key).body("w v=1 1");
        node.http.send(post).await.unwrap().status
    };
    assert_eq!(write("db=main").await, 204);
    assert_eq!(write("db=main").await, 204);
    assert_eq!(write("db=main&precision=s").await, 409);
    // Acknowledged or refused, as its shard knows the key or does not; never one for the other.
    let rows = match write("db=other").await {
        204 => 1,
        409 => 0,
        other => panic!("{other}"),
    };
    let found = node.http.sql("SELECT count(*) FROM other.w").await.unwrap();
    assert_eq!(found, [[json!(rows)]]);
}

#[tokio::test]
async fn a_connection_that_says_nothing_is_closed() {
    let (_folder, mut setup) = setup();
    setup.config = "[limits]\nconnections = 3".to_owned();
    let node = setup.start().await.unwrap();
    let address = node.http.base().trim_start_matches("http://");
    let mut silent = Vec::new();
    for _ in 0..6 {
        silent.push(TcpStream::connect(address).await.unwrap());
    }
    let answer = wait::until("the node answers", Duration::from_secs(60), || async {
        let get = node.http.request(reqwest::Method::GET, "/v1/health");
        node.http.send(get.timeout(Duration::from_secs(5))).await
    });
    assert_eq!(answer.await.unwrap().status, 200);
}

/// A table's times have its unit, whatever way rows come, and go down to it, before 1970 too: one moment is
/// one row.
#[tokio::test]
async fn times_are_cut_to_the_unit_of_the_table() {
    let (_folder, setup) = setup();
    let node = setup.start().await.unwrap();
    let create = "CREATE TABLE t (k STRING TAG, ts TIMESTAMP(3) NOT NULL, n BIGINT, \
                  TIMESTAMP KEY (ts)) WITH (merge_mode = 'last_row')";
    assert_eq!(node.http.sql_answer(create).await.unwrap().status, 200);
    for (time, n) in [(1_500_000, 1), (1_600_000, 2), (-1_500_000, 3)] {
        let line = format!("t,k=a n={n}i {time}");
        let written = node.http.write("main", line).await.unwrap();
        assert_eq!(written.status, 204, "{}", written.body);
    }
    for insert in [
        "INSERT INTO t VALUES ('a', '1970-01-01T00:00:00.001700Z', 4)",
        "INSERT INTO t VALUES ('a', '1969-12-31T23:59:59.998400Z', 5)",
        "INSERT INTO t VALUES ('a', to_timestamp_nanos(-1600000), 6)",
        "INSERT INTO t SELECT 'a', to_timestamp_nanos(value), 7 FROM generate_series(-1700000, -1699999)",
        "INSERT INTO t SELECT 'a', CAST(to_timestamp_nanos(-1800000) AS TIMESTAMP(3)), 8",
    ] {
        let inserted = node.http.sql_answer(insert).await.unwrap();
        assert_eq!(inserted.status, 200, "{insert}: {}", inserted.body);
    }
    let rows = node.http.sql("SELECT ts, n FROM t ORDER BY ts").await;
    assert_eq!(
        rows.unwrap(),
        [
            [json!("1969-12-31T23:59:59.998Z"), json!(8)],
            [json!("1970-01-01T00:00:00.001Z"), json!(4)]
        ]
    );
}

/// A number is a count of the column's unit wherever it meets a time.
#[tokio::test]
async fn numbers_count_the_unit_of_the_time_that_they_meet() {
    let (_folder, setup) = setup();
    let node = setup.start().await.unwrap();
    let create = "CREATE TABLE t (k STRING TAG, ts TIMESTAMP(3) NOT NULL, n BIGINT, \
                  TIMESTAMP KEY (ts))";
    let insert = "INSERT INTO t VALUES ('a', 1000, 1), ('a', 2000, 2), ('a', 3000, 3)";
    for sql in [create, insert] {
        let answer = node.http.sql_answer(sql).await.unwrap();
        assert_eq!(answer.status, 200, "{sql}: {}", answer.body);
    }
    let asked = async |condition: &str| {
        let sql = format!("SELECT n FROM t AS x WHERE {condition} ORDER BY n");
        let rows = node.http.sql(&sql).await.unwrap();
        let numbers = rows.iter().map(|row| row[0].as_i64().unwrap());
        numbers.collect::<Vec<_>>()
    };
    for (condition, numbers) in [
        ("ts = 2000", vec![2]),
        ("x.ts >= 2e3", vec![2, 3]),
        ("ts BETWEEN -5 AND 1999", vec![1]),
        ("(ts) IN (1000, 3000)", vec![1, 3]),
        ("3000 > ts", vec![1, 2]),
        ("ts > '1970-01-01T00:00:02Z'", vec![3]),
        ("ts > 1000 * 2", vec![3]),
        ("ts = n * 1000", vec![1, 2, 3]),
        ("date_trunc('second', ts) >= 2000", vec![2, 3]),
        ("ts - INTERVAL '1 second' >= 2000", vec![3]),
        ("ts < 99999999999999999999", vec![1, 2, 3]),
        ("CASE WHEN ts = 2000 THEN true END", vec![2]),
        (
            "n IN (SELECT m FROM (SELECT ts AS t, n AS m FROM t) q WHERE t > 1500)",
            vec![2, 3],
        ),
        ("n = (SELECT max(n) FROM t HAVING max(ts) <= 3000)", vec![3]),
    ] {
        assert_eq!(asked(condition).await, numbers, "{condition}");
    }
    let given = async |condition: &str, params: Value| {
        let sql = format!("SELECT n FROM t WHERE {condition} ORDER BY n");
        let post = node.http.request(reqwest::Method::POST, "/v1/sql");
        let body = json!({ "sql": sql, "params": params });
        let answer = node.http.send(post.json(&body)).await.unwrap();
        assert_eq!(answer.status, 200, "{condition}: {}", answer.body);
        let rows = answer.json()["rows"].as_array().unwrap().clone();
        let numbers = rows.iter().map(|row| row[0].as_i64().unwrap());
        numbers.collect::<Vec<_>>()
    };
    for (condition, params, numbers) in [
        ("ts = $1", json!([2000]), vec![2]),
        ("ts < $1", json!([2000]), vec![1]),
        ("$1 <= ts", json!([2000]), vec![2, 3]),
        ("ts IN ($1, $2)", json!([1000, 3000]), vec![1, 3]),
        (
            "ts BETWEEN $from AND $to",
            json!({ "from": 1500, "to": 2500 }),
            vec![2],
        ),
        ("ts = $1", json!(["1970-01-01T00:00:02Z"]), vec![2]),
        ("date_trunc('second', ts) >= $1", json!([2000]), vec![2, 3]),
    ] {
        assert_eq!(given(condition, params).await, numbers, "{condition}");
    }
    let delete = "DELETE FROM t WHERE ts > 2500";
    let deleted = node.http.sql_answer(delete).await.unwrap();
    assert_eq!(deleted.status, 200, "{}", deleted.body);
    assert_eq!(asked("true").await, [1, 2]);
}

/// Without a batch id an INSERT is not all or nothing: it says what became of it.
#[tokio::test]
async fn an_insert_that_fails_half_way_says_how_many_rows_are_stored() {
    let (_folder, setup) = setup();
    let node = setup.start().await.unwrap();
    let create = "CREATE TABLE t (ts TIMESTAMP(9) NOT NULL, n BIGINT, TIMESTAMP KEY (ts))";
    assert_eq!(node.http.sql_answer(create).await.unwrap().status, 200);
    let insert = "INSERT INTO t SELECT to_timestamp_nanos(value), 1 / (value - 25000) \
                  FROM generate_series(1, 30000)";
    let problem = node.http.sql_answer(insert).await.unwrap().json();
    let stored = node.http.sql("SELECT count(*) FROM t").await.unwrap();
    let stored = stored[0][0].as_u64().unwrap();
    assert!((1..25_000).contains(&stored), "{stored}");
    let said = problem["detail"].as_str().unwrap();
    assert!(
        said.contains(&format!("{stored} rows before that are stored")),
        "{said}, {stored} are"
    );
    assert_eq!(problem["outcome"], "partial");
    let deleted = node.http.sql_answer("DELETE FROM t WHERE ts >= 0").await;
    let deleted = deleted.unwrap();
    assert_eq!(
        (deleted.status, &deleted.json()["affected_rows"]),
        (200, &Value::Null),
        "{}",
        deleted.body
    );
}

#[tokio::test]
async fn lines_that_ask_for_too_much_take_no_good_line_with_them() {
    let (_folder, setup) = setup();
    let node = setup.start().await.unwrap();
    let fields = |from: usize| -> String {
        let fields: Vec<String> = (from..from + 250).map(|at| format!("f{at}=1")).collect();
        fields.join(",")
    };
    for (round, key) in [None, Some("0191d5c8-7a00-7000-8000-000000000001")]
        .into_iter()
        .enumerate()
    {
        let mut lines = format!("wide{round} v=1 1\nfresh{round} v=1 1\nno line\n");
        for at in 0..5 {
            lines.push_str(&format!("wide{round} {} {at}\n", fields(at * 250)));
        }
        lines.push_str(&format!("late{round} v=1 1\n"));
        let post = node.http.request(reqwest::Method::POST, "/write?db=main");
        let post = match key {
            Some(key) => post.header("Idempotency-Key", key),
            None => post,
        };
        let answer = node.http.send(post.body(lines)).await.unwrap();
        assert_eq!(answer.status, 400, "{}", answer.body);
        let rejected = answer.json()["rejected"].take();
        let lines = rejected.as_array().unwrap().iter();
        let lines: Vec<_> = lines.map(|error| error["line"].clone()).collect();
        assert_eq!(lines, [1, 3, 4, 5, 6, 7, 8], "{}", answer.body);
        assert!(answer.body.contains("limit of 1000"), "{}", answer.body);
        for table in ["fresh", "late"] {
            let count = format!("SELECT count(*) FROM {table}{round}");
            let rows = node.http.sql(&count).await.unwrap();
            assert_eq!(rows, [[json!(1)]], "{count}");
        }
    }
}

#[tokio::test]
async fn bodies_that_race_for_the_type_of_a_column_keep_their_other_lines() {
    let (_folder, setup) = setup();
    let node = setup.start().await.unwrap();
    let made = node.http.write("main", "race z=1 1".to_owned()).await;
    assert_eq!(made.unwrap().status, 204);
    let bodies = ["1i", "1.5", "\"s\"", "true"].into_iter().enumerate();
    let writes = bodies.map(|(at, value)| {
        let body = format!(
            "race c={value} {at}\nrace z=1 {}\nother y=1 {at}\n",
            at + 50
        );
        let post = node.http.request(reqwest::Method::POST, "/write?db=main");
        let key = format!("0191d5c8-7a00-7000-8000-00000000001{at}");
        node.http
            .send(post.header("Idempotency-Key", key).body(body))
    });
    let mut taken = 0;
    for answer in futures::future::join_all(writes).await {
        let answer = answer.unwrap();
        match answer.status {
            204 => taken += 1,
            400 => assert!(answer.body.contains("line 1"), "{}", answer.body),
            other => panic!("{other} {}", answer.body),
        }
    }
    assert_eq!(taken, 1, "the column has one type");
    for (sql, count) in [
        ("SELECT count(*) FROM race WHERE time >= 50", 4),
        ("SELECT count(*) FROM other", 4),
        ("SELECT count(c) FROM race", 1),
    ] {
        let rows = node.http.sql(sql).await.unwrap();
        assert_eq!(rows, [[json!(count)]], "{sql}");
    }
}
