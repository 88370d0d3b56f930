//! Rows about line protocol: what is refused, what is stored beside it, and batch ids.

use std::io::Write;

use anyhow::Result;
use auxo_proto::clock::Clock;
use auxo_proto::random::Random;
use reqwest::Method;
use serde_json::json;

use crate::case::Case;

/// Longest string value.
const STRING_BYTES_MAX: usize = 4 << 20;
/// Longest body as it is sent.
const BODY_BYTES_MAX: usize = 16 << 20;

/// All of them, in order; later ones build on earlier ones.
pub(crate) fn cases() -> Result<Vec<Case>> {
    let mut cases = malformed();
    cases.extend(values());
    cases.extend(times());
    cases.extend(bodies()?);
    cases.extend(batch_ids());
    Ok(cases)
}

fn malformed() -> Vec<Case> {
    let create = "CREATE TABLE metrics (host STRING TAG, ts TIMESTAMP(9) NOT NULL, n BIGINT, \
                  x DOUBLE, s STRING, TIMESTAMP KEY (ts)) WITH (merge_mode = 'append')";
    let mixed = "metrics,host=good n=1i 1\nbroken\nmetrics,host=good n=2i 2\nmetrics n= 3\n";
    let many: String = (0..257).map(|at| format!("f{at}=1,")).collect();
    let long = "m".repeat(513);
    let bad =
        |name: &str, body: String, says: &str| Case::lines(name, body).refused(400, "").holds(says);
    vec![
        Case::sql("the table that rows go into", create),
        bad(
            "bad lines between good ones",
            mixed.into(),
            "partial write: line 2",
        )
        .holds("dropped=2"),
        Case::sql(
            "the good ones are stored",
            "SELECT n FROM metrics WHERE host = 'good' ORDER BY n",
        )
        .rows(json!([[1], [2]])),
        Case::new(
            "bad lines by the second API",
            Method::POST,
            "/api/v2/write?bucket=main&precision=ns",
            mixed.replace("good", "second"),
        )
        .refused(400, "invalid")
        .holds("\"line\":2"),
        bad(
            "text into an integer column",
            "metrics,host=a n=\"x\" 1".into(),
            "field n is",
        ),
        bad(
            "an integer into a float column",
            "metrics,host=a x=3i 1".into(),
            "field x is",
        ),
        bad(
            "a boolean into a text column",
            "metrics,host=a s=true 1".into(),
            "field s is",
        ),
        bad(
            "a field that is a tag of the table",
            "metrics host=1 1".into(),
            "host",
        ),
        bad(
            "two types in one body",
            "fresh f=1 1\nfresh f=\"x\" 2".into(),
            "line 2",
        ),
        bad(
            "NUL in a measurement",
            "a\0b f=1 1".into(),
            "control character",
        ),
        bad(
            "NUL in the name of a tag",
            "metrics,h\0t=a n=1i 1".into(),
            "control character",
        ),
        bad(
            "NUL in the name of a field",
            "metrics n\0=1i 1".into(),
            "control character",
        ),
        bad(
            "a name above 512 bytes",
            format!("{long} f=1 1"),
            "longer than 512 bytes",
        ),
        bad(
            "257 fields in a line",
            format!("wide {} 1", many.trim_end_matches(',')),
            "more than 256",
        ),
        bad(
            "a string that is not closed",
            "metrics,host=a s=\"x 1".into(),
            "not closed",
        ),
        bad(
            "a body of noise",
            "\u{1}\u{2}\u{3} = , \\ \" \n\n,,,\n= =".into(),
            "line 1",
        ),
        Case::lines("bytes that are not UTF-8", b"metrics,host=\xff\xfe n=1i 1")
            .refused(400, "")
            .holds("line 1"),
        Case::lines("an empty body", ""),
        Case::new(
            "an unknown database",
            Method::POST,
            "/write?db=nowhere",
            "a b=1 1",
        )
        .refused(404, "")
        .holds("database not found"),
        Case::new(
            "an unknown precision",
            Method::POST,
            "/write?db=main&precision=weeks",
            "a b=1 1",
        )
        .refused(400, "")
        .holds("precision"),
        Case::new(
            "GET on the way of writes",
            Method::GET,
            "/write?db=main",
            "",
        )
        .refused(405, "METHOD_NOT_ALLOWED"),
        Case::sql(
            "nothing of what was refused is stored",
            "SELECT count(*) FROM metrics WHERE host NOT IN ('good', 'second') OR host IS NULL",
        )
        .rows(json!([[0]])),
    ]
}

fn values() -> Vec<Case> {
    let string = |host: &str, bytes: usize| {
        format!("metrics,host={host} s=\"{}\" 1", "x".repeat(bytes)).into_bytes()
    };
    let extremes = format!(
        "metrics,host=extreme n={}i 1\nmetrics,host=extreme n={}i 2",
        i64::MIN,
        i64::MAX
    );
    vec![
        Case::lines("the extremes of integers", extremes),
        Case::sql(
            "they are read back",
            "SELECT n FROM metrics WHERE host = 'extreme' ORDER BY n",
        )
        .rows(json!([[i64::MIN], [i64::MAX]])),
        Case::lines(
            "one above the largest integer",
            "metrics,host=a n=9223372036854775808i 1",
        )
        .refused(400, "")
        .holds("out of range"),
        Case::lines("a float above the largest one", "metrics,host=a x=1e999 1")
            .refused(400, "")
            .holds("x"),
        Case::lines("a string of 4 MiB", string("long", STRING_BYTES_MAX)),
        Case::sql(
            "it is read back",
            "SELECT length(s) FROM metrics WHERE host = 'long'",
        )
        .rows(json!([[STRING_BYTES_MAX]])),
        Case::lines(
            "a string of 4 MiB and a byte",
            string("a", STRING_BYTES_MAX + 1),
        )
        .refused(400, "")
        .holds("longer than 4194304 bytes"),
        Case::lines("a line above the limit", string("a", 7 << 20))
            .refused(400, "")
            .holds("line is longer"),
    ]
}

fn times() -> Vec<Case> {
    let time = |name: &str, time: &str, says: &str| {
        Case::lines(name, format!("metrics,host=a n=1i {time}"))
            .refused(400, "")
            .holds(says)
    };
    vec![
        time(
            "a time of 20 digits",
            "99999999999999999999",
            "99999999999999999999",
        ),
        time("a time that is no number", "1x", "no whole number"),
        time("a time with a fraction", "1.5", "no whole number"),
        time(
            "a time two centuries ahead",
            "9223372036854775807",
            "in the future",
        ),
        Case::new(
            "seconds that are out of range in nanoseconds",
            Method::POST,
            "/write?db=main&precision=s",
            "metrics,host=a n=1i 9223372036854775",
        )
        .refused(400, "")
        .holds("out of range"),
        Case::lines(
            "times before 1970",
            "metrics,host=old n=1i -1\nmetrics,host=old n=2i -4000000000000000000",
        ),
        Case::sql(
            "they are read back",
            "SELECT CAST(ts AS BIGINT) AS ns FROM metrics WHERE host = 'old' ORDER BY ts",
        )
        .rows(json!([[-4_000_000_000_000_000_000_i64], [-1]])),
    ]
}

fn bodies() -> Result<Vec<Case>> {
    let body = b"metrics,host=packed n=1i 1";
    let whole = gzip(body)?;
    let bomb = gzip(&vec![b'#'; 100 << 20])?;
    let packed =
        |name: &str, body: Vec<u8>| Case::lines(name, body).with("Content-Encoding", "gzip");
    Ok(vec![
        packed("a body that is packed", whole.clone()),
        packed(
            "a packed body without its end",
            whole[..whole.len() - 6].to_vec(),
        )
        .refused(400, "")
        .holds("gzip"),
        packed("a packed body that is none", body.to_vec())
            .refused(400, "")
            .holds("gzip"),
        packed("a bomb: 100 MiB packed into 100 KiB", bomb).refused(413, ""),
        Case::lines("an unknown Content-Encoding", body.to_vec())
            .with("Content-Encoding", "rot13")
            .refused(415, "")
            .holds("rot13"),
        Case::lines("a body above the limit", vec![b'#'; BODY_BYTES_MAX + 1]).refused(413, ""),
        Case::new(
            "a statement above the limit of bodies",
            Method::POST,
            "/v1/sql",
            vec![b' '; BODY_BYTES_MAX + 1],
        )
        .refused(413, "BODY_TOO_LARGE"),
        Case::sql(
            "of those only the whole one is stored",
            "SELECT count(*) FROM metrics WHERE host = 'packed'",
        )
        .rows(json!([[1]])),
    ])
}

fn gzip(bytes: &[u8]) -> Result<Vec<u8>> {
    let mut packed = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::best());
    packed.write_all(bytes)?;
    Ok(packed.finish()?)
}

fn batch_ids() -> Vec<Case> {
    let (dice, now_ms) = (Random::from_system(), Clock::system().now_ms());
    let id = dice.uuid_v7(now_ms).to_string();
    let future = dice.uuid_v7(now_ms + 3_600_000).to_string();
    let line = |n: u64| format!("metrics,host=batch n={n}i {n}");
    let keyed =
        |name: &str, n: u64, id: &str| Case::lines(name, line(n)).with("Idempotency-Key", id);
    vec![
        keyed("a batch with an id", 1, &id),
        keyed("the same again", 1, &id).answers_with("x-auxo-replayed", "1"),
        keyed("another body under its id", 2, &id).refused(409, ""),
        keyed("an id from the future", 3, &future).refused(400, ""),
        keyed("an id that is no UUID", 4, "7")
            .refused(400, "")
            .holds("UUIDv7"),
        keyed(
            "an id that is a UUIDv4",
            5,
            "6b3f4c52-9d1e-4f6a-8b7c-0d1e2f3a4b5c",
        )
        .refused(400, "")
        .holds("UUIDv7"),
        Case::sql(
            "an INSERT under an id from the future",
            "INSERT INTO metrics (host, ts, n) VALUES ('batch', 6, 6)",
        )
        .with("Idempotency-Key", future)
        .refused(400, "BATCH_FROM_FUTURE"),
        Case::sql(
            "the first body is stored once, no other",
            "SELECT n FROM metrics WHERE host = 'batch'",
        )
        .rows(json!([[1]])),
    ]
}
