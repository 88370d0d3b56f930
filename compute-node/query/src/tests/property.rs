//! Any rows, any predicate: our table answers as DataFusion's own table in memory does.

use std::sync::Arc;

use arrow::array::{
    ArrayRef, BooleanArray, Float64Array, Int64Array, RecordBatch, StringArray,
    TimestampNanosecondArray, UInt64Array,
};
use arrow::datatypes::{DataType, Field, Schema};
use auxo_proto::schema::{ColumnKind, ColumnType, TimeUnit};
use datafusion::datasource::MemTable;
use datafusion::prelude::SessionContext;
use proptest::prelude::*;

use super::memory_table::{MemoryTable, Tables, column};
use super::{Bench, DAY};

#[derive(Clone, Debug)]
struct Row {
    host: Option<&'static str>,
    dc: Option<&'static str>,
    time: i64,
    n: Option<i64>,
    u: Option<u64>,
    f: Option<f64>,
    note: Option<&'static str>,
    up: Option<bool>,
    at: Option<i64>,
}

const HOSTS: [&str; 7] = ["", "a", "a%", "ab", "b", "web-1", "é"];
const NOTES: [&str; 3] = ["", "x", "a long text that is not inlined"];
const FLOATS: [f64; 6] = [f64::NAN, f64::INFINITY, -0.0, 0.0, 1.5, -3.0];

fn rows() -> impl Strategy<Value = Vec<Row>> {
    let host = proptest::option::of(proptest::sample::select(&HOSTS[..]));
    let dc = proptest::option::of(proptest::sample::select(&HOSTS[..3]));
    let time = prop_oneof![
        (0..7_200_i64).prop_map(|second| DAY + second * 1_000_000_000),
        (-5..5_i64).prop_map(|ns| DAY + 3_600_000_000_000 + ns),
        (-3..3_i64),
    ];
    let values = (
        proptest::option::of(-4..4_i64),
        proptest::option::of(prop_oneof![0..4_u64, Just(u64::MAX)]),
        proptest::option::of(proptest::sample::select(&FLOATS[..])),
        proptest::option::of(proptest::sample::select(&NOTES[..])),
        proptest::option::of(any::<bool>()),
        proptest::option::of(prop_oneof![-3_000_000..3_000_000_i64, Just(DAY)]),
    );
    let row = (host, dc, time, values).prop_map(|(host, dc, time, (n, u, f, note, up, at))| Row {
        host,
        dc,
        time,
        n,
        u,
        f,
        note,
        up,
        at,
    });
    proptest::collection::vec(row, 0..60)
}

fn comparison() -> impl Strategy<Value = &'static str> {
    proptest::sample::select(&["=", "!=", "<", "<=", ">", ">="][..])
}

/// A test of one column as SQL.
fn test() -> impl Strategy<Value = String> {
    let tag = || proptest::sample::select(&["host", "dc"][..]);
    let text = || proptest::sample::select(&HOSTS[..]).prop_map(|text| format!("'{text}'"));
    let time = || {
        prop_oneof![
            Just("'2026-01-01T00:30:00Z'".to_owned()),
            Just("'2026-01-01T01:00:00Z'".to_owned()),
            Just("'2026-01-01T01:00:00.000000001Z'".to_owned()),
            Just("'1970-01-01T00:00:00.000000001Z'".to_owned()),
            Just("'1969-12-31T23:59:59.999999999Z'".to_owned()),
            Just("DATE '2026-01-01'".to_owned()),
        ]
    };
    let number = || {
        proptest::sample::select(&["-3", "0", "1", "2", "1.5", "-0.5", "18446744073709551615"][..])
    };
    let pattern = proptest::sample::select(&["a%", "%b", "_", "a\\%", "%", "", "w%1", "é"][..]);
    let regex = proptest::sample::select(&["^a", "b$", "a.", "(?i)WEB", "^$"][..]);
    prop_oneof![
        (tag(), comparison(), text()).prop_map(|(tag, op, text)| format!("{tag} {op} {text}")),
        (text(), comparison(), tag()).prop_map(|(text, op, tag)| format!("{text} {op} {tag}")),
        (tag(), text(), text(), text(), any::<bool>()).prop_map(|(tag, a, b, c, not)| {
            let not = if not { "NOT " } else { "" };
            format!("{tag} {not}IN ({a}, {b}, {c}, 'none')")
        }),
        (tag(), text(), text(), any::<bool>()).prop_map(|(tag, a, b, not)| {
            let not = if not { "NOT " } else { "" };
            format!("{tag} {not}BETWEEN {a} AND {b}")
        }),
        (tag(), pattern, any::<bool>()).prop_map(|(tag, pattern, not)| {
            let not = if not { "NOT " } else { "" };
            format!("{tag} {not}LIKE '{pattern}'")
        }),
        (tag(), regex, any::<bool>()).prop_map(|(tag, regex, not)| {
            let op = if not { "!~" } else { "~" };
            format!("{tag} {op} '{regex}'")
        }),
        (tag(), any::<bool>())
            .prop_map(|(tag, not)| { format!("{tag} IS {}NULL", if not { "NOT " } else { "" }) }),
        tag().prop_map(|tag| format!("starts_with({tag}, 'a')")),
        ("ts|at", comparison(), time()).prop_map(|(ts, op, time)| format!("{ts} {op} {time}")),
        (time(), time()).prop_map(|(a, b)| format!("ts BETWEEN {a} AND {b}")),
        (time(), time())
            .prop_map(|(a, b)| format!("ts IN ({a}, {b}, {a}, {b}, '2026-01-01T00:00:00Z')")),
        (comparison(), time())
            .prop_map(|(op, time)| { format!("date_bin(INTERVAL '10 minutes', ts) {op} {time}") }),
        (comparison(), time()).prop_map(|(op, time)| format!("date_trunc('hour', ts) {op} {time}")),
        ("n|u|f", comparison(), number())
            .prop_map(|(field, op, number)| format!("{field} {op} {number}")),
        (number(), number()).prop_map(|(a, b)| format!("n BETWEEN {a} AND {b}")),
        (comparison()).prop_map(|op| format!("note {op} 'x'")),
        Just("up".to_owned()),
        Just("n IS NULL".to_owned()),
        Just("host = dc".to_owned()),
        Just("upper(host) = 'A'".to_owned()),
    ]
}

fn predicate() -> impl Strategy<Value = String> {
    test().prop_recursive(3, 12, 3, |inner| {
        prop_oneof![
            (inner.clone(), inner.clone()).prop_map(|(a, b)| format!("({a} AND {b})")),
            (inner.clone(), inner.clone()).prop_map(|(a, b)| format!("({a} OR {b})")),
            inner.prop_map(|inner| format!("NOT ({inner})")),
        ]
    })
}

/// One array per field, of the types the engine stores.
fn fields(rows: &[Row]) -> Vec<ArrayRef> {
    vec![
        Arc::new(rows.iter().map(|row| row.n).collect::<Int64Array>()),
        Arc::new(rows.iter().map(|row| row.u).collect::<UInt64Array>()),
        Arc::new(rows.iter().map(|row| row.f).collect::<Float64Array>()),
        Arc::new(rows.iter().map(|row| row.note).collect::<StringArray>()),
        Arc::new(rows.iter().map(|row| row.up).collect::<BooleanArray>()),
        Arc::new(
            rows.iter()
                .map(|row| row.at)
                .collect::<TimestampNanosecondArray>(),
        ),
    ]
}

fn ours(rows: &[Row], unit: TimeUnit, tablets: u32, batch_rows: usize, merged: bool) -> Bench {
    let columns = vec![
        column(1, "host", ColumnKind::Tag, ColumnType::String),
        column(2, "dc", ColumnKind::Tag, ColumnType::String),
        column(3, "ts", ColumnKind::Time, ColumnType::Timestamp(unit)),
        column(4, "n", ColumnKind::Field, ColumnType::Int64),
        column(5, "u", ColumnKind::Field, ColumnType::UInt64),
        column(6, "f", ColumnKind::Field, ColumnType::Float64),
        column(7, "note", ColumnKind::Field, ColumnType::String),
        column(8, "up", ColumnKind::Field, ColumnType::Bool),
        column(
            9,
            "at",
            ColumnKind::Field,
            ColumnType::Timestamp(TimeUnit::Millisecond),
        ),
    ];
    let owned = |tag: Option<&str>| tag.map(str::to_owned);
    let keys: Vec<_> = rows
        .iter()
        .map(|row| (vec![owned(row.host), owned(row.dc)], row.time))
        .collect();
    let table = MemoryTable::new(1, "t", columns, tablets, &keys, &fields(rows));
    Bench::new(Tables::new(vec![table.cut(batch_rows, merged)]))
}

/// The same rows in DataFusion's own table, tags as plain strings and times, cut to their unit, as
/// nanoseconds: between coarser ones its optimizer finds no moment (`crate::exact_times`).
fn theirs(rows: &[Row], unit: TimeUnit) -> SessionContext {
    let cut = |ns: i64, unit: TimeUnit| ns.div_euclid(unit.ns()) * unit.ns();
    let times = rows.iter().map(|row| cut(row.time, unit));
    let time: ArrayRef = Arc::new(TimestampNanosecondArray::from_iter_values(times));
    let at = rows
        .iter()
        .map(|row| row.at.map(|at| cut(at, TimeUnit::Millisecond)));
    let mut arrays: Vec<ArrayRef> = vec![
        Arc::new(rows.iter().map(|row| row.host).collect::<StringArray>()),
        Arc::new(rows.iter().map(|row| row.dc).collect::<StringArray>()),
        time,
    ];
    arrays.extend(fields(rows));
    arrays[8] = Arc::new(at.collect::<TimestampNanosecondArray>());
    let names = ["host", "dc", "ts", "n", "u", "f", "note", "up", "at"];
    let fields: Vec<Field> = names
        .iter()
        .zip(&arrays)
        .map(|(name, array)| Field::new(*name, array.data_type().clone(), true))
        .collect();
    assert_eq!(*fields[0].data_type(), DataType::Utf8);
    let batch = RecordBatch::try_new(Arc::new(Schema::new(fields)), arrays).unwrap();
    let context = SessionContext::new();
    let table = MemTable::try_new(batch.schema(), vec![vec![batch]]).unwrap();
    context.register_table("t", Arc::new(table)).unwrap();
    context
}

/// Rows as text, sorted.
fn sorted(batches: &[RecordBatch]) -> Vec<String> {
    let text = arrow::util::pretty::pretty_format_batches(batches)
        .unwrap()
        .to_string();
    let lines = text.lines().filter(|line| !line.starts_with('+')).skip(1);
    let squeezed = lines.map(|line| line.split_whitespace().collect::<Vec<_>>().join(" "));
    let mut lines: Vec<String> = squeezed.collect();
    lines.sort();
    lines
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 60, ..ProptestConfig::default() })]
    #[test]
    fn our_table_answers_as_datafusion_does(
        rows in rows(),
        predicate in predicate(),
        unit in proptest::sample::select(vec![TimeUnit::Second, TimeUnit::Millisecond, TimeUnit::Nanosecond]),
        tablets in 1_u32..4,
        batch_rows in 1_usize..20,
        merged in any::<bool>(),
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let (ours, theirs) = (ours(&rows, unit, tablets, batch_rows, merged), theirs(&rows, unit));
        for select in [
            format!("SELECT * FROM t WHERE {predicate}"),
            format!("SELECT count(*), count(dc), sum(n), max(ts), min(note) FROM t WHERE {predicate}"),
            format!("SELECT host, dc, count(*) FROM t WHERE {predicate} GROUP BY host, dc"),
            format!("SELECT up, n FROM t WHERE {predicate} ORDER BY n, up LIMIT 5"),
        ] {
            let expected = runtime.block_on(async { theirs.sql(&select).await?.collect().await });
            let found = runtime.block_on(ours.rows(&select));
            match (found, expected) {
                (Ok(found), Ok(expected)) => prop_assert_eq!(sorted(&found), sorted(&expected), "{}", select),
                (Err(_), Err(_)) => {}
                (Ok(_), Err(error)) => prop_assert!(false, "{select}: only they fail: {error}"),
                (Err(failure), Ok(_)) => prop_assert!(false, "{select}: only we fail: {failure}"),
            }
        }
    }
}
