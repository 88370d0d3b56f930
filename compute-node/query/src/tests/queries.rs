//! Whole statements against tables in memory.

use std::sync::Arc;

use arrow::array::{ArrayRef, Float64Array, Int64Array, StringArray};
use auxo_proto::schema::{ColumnKind, ColumnType};

use super::memory_table::{MemoryTable, NS, Tables, column};
use super::{Bench, DAY};

fn cpu() -> MemoryTable {
    let columns = vec![
        column(1, "host", ColumnKind::Tag, ColumnType::String),
        column(2, "dc", ColumnKind::Tag, ColumnType::String),
        column(3, "ts", ColumnKind::Time, NS),
        column(4, "usage", ColumnKind::Field, ColumnType::Float64),
        column(5, "n", ColumnKind::Field, ColumnType::Int64),
        column(6, "note", ColumnKind::Field, ColumnType::String),
    ];
    let mut keys = Vec::new();
    let (mut usage, mut n, mut note) = (Vec::new(), Vec::new(), Vec::new());
    for minute in 0..120_i64 {
        for host in 0..3_i64 {
            let dc = (host > 0).then(|| format!("dc{}", host % 2));
            keys.push((
                vec![Some(format!("web{host}")), dc],
                DAY + minute * 60_000_000_000,
            ));
            usage.push((minute % 7 != 0).then_some((minute * 3 + host) as f64 / 2.0));
            n.push(minute * 10 + host);
            note.push((minute % 50 == 0).then(|| format!("note {minute}")));
        }
    }
    let fields: [ArrayRef; 3] = [
        Arc::new(Float64Array::from(usage)),
        Arc::new(Int64Array::from(n)),
        Arc::new(StringArray::from(note)),
    ];
    MemoryTable::new(1, "cpu", columns, 4, &keys, &fields)
}

#[tokio::test]
async fn a_select_finds_its_rows() {
    let bench = Bench::new(Tables::new(vec![cpu()]));
    let text = bench
        .text("SELECT host, dc, ts, n, note FROM cpu WHERE host = 'web0' AND ts < '2026-01-01T00:02:00Z' ORDER BY ts")
        .await;
    assert_eq!(
        text,
        "\
+------+----+---------------------+----+--------+
| host | dc | ts                  | n  | note   |
+------+----+---------------------+----+--------+
| web0 |    | 2026-01-01T00:00:00 | 0  | note 0 |
| web0 |    | 2026-01-01T00:01:00 | 10 |        |
+------+----+---------------------+----+--------+"
    );
}

#[tokio::test]
async fn explain() {
    let bench = Bench::new(Tables::new(vec![cpu()]));
    for sql in [
        "EXPLAIN SELECT host, dc, ts, n, note FROM cpu WHERE host = 'web0' AND ts < '2026-01-01T00:02:00Z' ORDER BY ts",
        "EXPLAIN SELECT count(*) FROM cpu where n > 3.5 and ts > now() - interval '2h'",
        "SELECT count(*) FROM cpu where n > 3.5 and ts > now() - interval '2h'",
        "EXPLAIN ANALYZE SELECT host, max(usage) FROM cpu where ts > now() - interval '2h' group by host",
        "SELECT DISTINCT ON (host) * FROM cpu ORDER BY host, ts DESC",
        "SELECT usag FROM cpu",
        "SELECT usage FROM cpv",
        "selec 1",
        "select foo(1)",
        "select now(",
        "select 1; select 2",
    ] {
        println!("{sql}\n{}", bench.text(sql).await);
    }
}
