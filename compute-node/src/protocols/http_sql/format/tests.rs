//! Batches in, bytes out, for every format.

use std::sync::Arc;

use arrow::array::{
    ArrayRef, BinaryArray, BooleanArray, Date32Array, Decimal128Array, DictionaryArray,
    DurationNanosecondArray, Float64Array, Int32Builder, Int64Array, IntervalMonthDayNanoArray,
    ListArray, MapBuilder, StringBuilder, StringViewArray, StructArray, TimestampMillisecondArray,
    TimestampNanosecondArray, UInt64Array,
};
use arrow::datatypes::{Field, Int32Type, IntervalMonthDayNano, Schema};
use arrow::ipc::reader::StreamReader;
use auxo_proto::schema::ColumnKind;
use auxo_query::type_name;
use serde_json::json;

use super::*;

fn batch(columns: Vec<(&str, ArrayRef)>) -> RecordBatch {
    let fields: Vec<Field> = columns
        .iter()
        .map(|(name, array)| Field::new(*name, array.data_type().clone(), true))
        .collect();
    let arrays = columns.into_iter().map(|(_, array)| array).collect();
    RecordBatch::try_new(Arc::new(Schema::new(fields)), arrays).unwrap()
}

fn head(batch: &RecordBatch) -> Head {
    let column = |field: &Arc<Field>| AnswerColumn {
        name: field.name().clone(),
        ty: type_name(field.data_type()),
        nullable: field.is_nullable(),
        semantic: ColumnKind::Field,
    };
    Head {
        query_id: "0199f3a1".into(),
        columns: batch.schema().fields().iter().map(column).collect(),
        schema: batch.schema(),
    }
}

fn encode(format: Format, options: ValueOptions, batches: &[RecordBatch]) -> Vec<u8> {
    let mut out = Vec::new();
    let mut encoder = encoder(format, head(&batches[0]), options);
    encoder.start(&mut out).unwrap();
    for batch in batches {
        encoder.batch(batch, &mut out).unwrap();
    }
    let tail = Tail {
        row_count: batches.iter().map(|batch| batch.num_rows() as u64).sum(),
        stats: json!({"elapsed_ms": 1.5}),
        ..Tail::default()
    };
    encoder.end(&tail, &mut out).unwrap();
    out
}

fn text(format: Format, batches: &[RecordBatch]) -> String {
    String::from_utf8(encode(format, ValueOptions::default(), batches)).unwrap()
}

/// Row by row, the value of a column as JSON.
fn values(array: ArrayRef, options: ValueOptions) -> String {
    let cells = values::Cells::new(array.as_ref(), options).unwrap();
    let mut out = Vec::new();
    for row in 0..array.len() {
        if row > 0 {
            out.push(b' ');
        }
        cells.write_json(row, &mut out);
    }
    String::from_utf8(out).unwrap()
}

fn plain(array: impl arrow::array::Array + 'static) -> String {
    values(Arc::new(array), ValueOptions::default())
}

#[test]
fn every_type_has_its_words() {
    assert_eq!(plain(Int64Array::from(vec![Some(-7), None])), "-7 null");
    assert_eq!(
        plain(UInt64Array::from(vec![u64::MAX])),
        "18446744073709551615"
    );
    assert_eq!(plain(BooleanArray::from(vec![true, false])), "true false");
    let floats = vec![
        3.25,
        3.0,
        1e300,
        0.1,
        -0.0,
        f64::NAN,
        f64::INFINITY,
        f64::NEG_INFINITY,
    ];
    assert_eq!(
        plain(Float64Array::from(floats)),
        r#"3.25 3.0 1e+300 0.1 -0.0 "NaN" "Infinity" "-Infinity""#
    );
    assert_eq!(
        plain(StringViewArray::from(vec!["a\"b\\c\n\u{1}é", ""])),
        r#""a\"b\\c\n\u0001é" """#
    );
    assert_eq!(
        plain(BinaryArray::from(vec![b"\xff\x00".as_slice()])),
        r#""/wA=""#
    );
    let decimals = Decimal128Array::from(vec![12_345, -5])
        .with_precision_and_scale(18, 2)
        .unwrap();
    assert_eq!(plain(decimals), r#""123.45" "-0.05""#);
    assert_eq!(
        plain(Date32Array::from(vec![
            0, 20_454, -719_528, 2_932_896, 2_932_897
        ])),
        r#""1970-01-01" "2026-01-01" "0000-01-01" "9999-12-31" "+10000-01-01""#
    );
    assert_eq!(
        plain(TimestampNanosecondArray::from(vec![
            1_767_225_900_000_000_001,
            -1
        ])),
        r#""2026-01-01T00:05:00.000000001Z" "1969-12-31T23:59:59.999999999Z""#
    );
    assert_eq!(
        plain(TimestampMillisecondArray::from(vec![1_767_225_900_120])),
        r#""2026-01-01T00:05:00.120Z""#
    );
    let tags: DictionaryArray<Int32Type> = vec![Some("b"), None, Some("a"), Some("b")]
        .into_iter()
        .collect();
    assert_eq!(plain(tags), r#""b" null "a" "b""#);
    let nulls: DictionaryArray<Int32Type> = vec![None::<&str>, None].into_iter().collect();
    assert_eq!(plain(nulls), "null null");
    let intervals = [
        (14, 3, 3_723_500_000_000),
        (0, 0, 0),
        (0, 1, 0),
        (0, 0, -90_000_000_000),
    ];
    let intervals: Vec<IntervalMonthDayNano> = intervals
        .iter()
        .map(|(months, days, ns)| IntervalMonthDayNano::new(*months, *days, *ns))
        .collect();
    assert_eq!(
        plain(IntervalMonthDayNanoArray::from(intervals)),
        r#""P1Y2M3DT1H2M3.5S" "PT0S" "P1D" "PT-1M-30S""#
    );
    assert_eq!(
        plain(DurationNanosecondArray::from(vec![-1_500_000_000])),
        r#""PT-1.5S""#
    );
    let lists = ListArray::from_iter_primitive::<arrow::datatypes::Float64Type, _, _>([
        Some(vec![Some(1.5), None, Some(f64::NAN)]),
        None,
        Some(vec![]),
    ]);
    assert_eq!(plain(lists), r#"[1.5,null,"NaN"] null []"#);
    let names: ArrayRef = Arc::new(StringViewArray::from(vec!["x"]));
    let object = StructArray::from(vec![(
        Arc::new(Field::new("n\"", names.data_type().clone(), true)),
        names,
    )]);
    assert_eq!(plain(object), r#"{"n\"":"x"}"#);
    let mut maps = MapBuilder::new(None, Int32Builder::new(), StringBuilder::new());
    maps.keys().append_slice(&[1, -2]);
    maps.values().append_value("a\"");
    maps.values().append_null();
    maps.append(true).unwrap();
    maps.append(false).unwrap();
    maps.append(true).unwrap();
    assert_eq!(plain(maps.finish()), r#"{"1":"a\"","-2":null} null {}"#);
}

#[test]
fn options_change_numbers_and_times() {
    let strings = ValueOptions {
        int64_as_string: true,
        ..ValueOptions::default()
    };
    assert_eq!(
        values(Arc::new(Int64Array::from(vec![1])), strings),
        r#""1""#
    );
    let number = |unit| ValueOptions {
        time_format: TimeFormat::Number(unit),
        ..ValueOptions::default()
    };
    let times: ArrayRef = Arc::new(TimestampNanosecondArray::from(vec![1_500_000_000, -1]));
    use arrow::datatypes::TimeUnit::{Millisecond, Nanosecond, Second};
    assert_eq!(values(Arc::clone(&times), number(Second)), "1 -1");
    assert_eq!(values(Arc::clone(&times), number(Millisecond)), "1500 -1");
    assert_eq!(values(times, number(Nanosecond)), "1500000000 -1");
}

fn two_batches() -> [RecordBatch; 2] {
    let make = |hosts: Vec<Option<&str>>, n: Vec<Option<i64>>| {
        let hosts: DictionaryArray<Int32Type> = hosts.into_iter().collect();
        batch(vec![
            ("host", Arc::new(hosts)),
            ("n \"x\"", Arc::new(Int64Array::from(n))),
        ])
    };
    [
        make(vec![Some("web1"), None], vec![Some(1), None]),
        make(vec![Some("a,\"b\"")], vec![Some(3)]),
    ]
}

#[test]
fn json_is_one_object() {
    let text = text(Format::Json, &two_batches());
    let head = r#"{"query_id":"0199f3a1","columns":[{"name":"host","type":"string","nullable":true,"semantic":"field"},{"name":"n \"x\"","type":"int64","nullable":true,"semantic":"field"}],"#;
    let rows = r#""rows":[["web1",1],[null,null],["a,\"b\"",3]],"#;
    let tail = r#""row_count":3,"truncated":false,"missing_clusters":[],"warnings":[],"stats":{"elapsed_ms":1.5}}"#;
    assert_eq!(text, format!("{head}{rows}{tail}"));
}

#[test]
fn json_objects_ndjson_and_null() {
    let objects = text(Format::JsonObjects, &two_batches());
    let parsed: Value = serde_json::from_str(&objects).unwrap();
    assert_eq!(parsed["rows"][0], json!({"host": "web1", "n \"x\"": 1}));
    assert_eq!(
        text(Format::Ndjson, &two_batches()),
        "{\"host\":\"web1\",\"n \\\"x\\\"\":1}\n{\"host\":null,\"n \\\"x\\\"\":null}\n{\"host\":\"a,\\\"b\\\"\",\"n \\\"x\\\"\":3}\n\
         {\"end\":{\"row_count\":3,\"truncated\":false,\"missing_clusters\":[],\"warnings\":[],\"stats\":{\"elapsed_ms\":1.5}}}\n"
    );
    let parsed: Value = serde_json::from_str(&text(Format::Null, &two_batches())).unwrap();
    assert_eq!(
        (&parsed["row_count"], parsed.get("rows")),
        (&json!(3), None)
    );
}

#[test]
fn separated_values_quote_what_they_must() {
    let csv = "host,\"n \"\"x\"\"\"\r\nweb1,1\r\n,\r\n\"a,\"\"b\"\"\",3\r\n";
    assert_eq!(text(Format::Csv, &two_batches()), csv);
    let tsv = "host\t\"n \"\"x\"\"\"\r\nweb1\t1\r\n\t\r\n\"a,\"\"b\"\"\"\t3\r\n";
    assert_eq!(text(Format::Tsv, &two_batches()), tsv);
    let empty = batch(vec![(
        "t",
        Arc::new(StringViewArray::from(vec![Some(""), None])),
    )]);
    assert_eq!(text(Format::Csv, &[empty]), "t\r\n\"\"\r\n\r\n");
    let bytes: ArrayRef = Arc::new(BinaryArray::from(vec![Some(b"".as_slice()), None]));
    let bytes = RecordBatch::try_from_iter_with_nullable([("t", bytes, true)]).unwrap();
    assert_eq!(text(Format::Csv, &[bytes]), "t\r\n\"\"\r\n\r\n");
}

#[test]
fn a_table_is_aligned() {
    let expected = [
        " host  | n \"x\"",
        "-------+-------",
        " web1  |     1",
        "       |",
        " a,\"b\" |     3",
        "(3 rows)\n",
    ]
    .join("\n");
    assert_eq!(text(Format::Table, &two_batches()), expected);
}

#[test]
fn an_arrow_stream_reads_back() {
    let bytes = encode(Format::Arrow, ValueOptions::default(), &two_batches());
    let reader = StreamReader::try_new(bytes.as_slice(), None).unwrap();
    let read: Vec<RecordBatch> = reader.map(Result::unwrap).collect();
    assert_eq!(read, two_batches());
    let views = batch(vec![(
        "t",
        Arc::new(StringViewArray::from(vec!["a long text, not inlined"])),
    )]);
    let bytes = encode(Format::Arrow, ValueOptions::default(), &[views]);
    let mut reader = StreamReader::try_new(bytes.as_slice(), None).unwrap();
    assert_eq!(
        *reader.schema().field(0).data_type(),
        arrow::datatypes::DataType::Utf8
    );
    assert_eq!(reader.next().unwrap().unwrap().num_rows(), 1);
}

#[test]
fn an_answer_cut_short_does_not_look_whole() {
    let [first, _] = two_batches();
    for format in [Format::Json, Format::JsonObjects, Format::Ndjson] {
        let mut out = Vec::new();
        let mut encoder = encoder(format, head(&first), ValueOptions::default());
        encoder.start(&mut out).unwrap();
        encoder.batch(&first, &mut out).unwrap();
        encoder.error(&json!({"code": "TIMEOUT"}), &mut out);
        let text = String::from_utf8(out).unwrap();
        match format {
            Format::Ndjson => assert!(text.ends_with("{\"error\":{\"code\":\"TIMEOUT\"}}\n")),
            _ => assert!(serde_json::from_str::<Value>(&text).is_err()),
        }
    }
}

#[test]
fn formats_are_found_by_name_and_by_accept() {
    assert_eq!(Format::from_name("ndjson").unwrap(), Format::Ndjson);
    let failure = Format::from_name("xml").unwrap_err();
    assert!(failure.detail.contains("json-objects"), "{failure}");
    for (accept, wanted) in [
        ("text/csv, */*", Some(Format::Csv)),
        ("text/csv;q=0.9, */*", None),
        ("*/*; q=0.1, text/csv; q=0.9", Some(Format::Csv)),
        (
            "application/json;q=0.5,application/x-ndjson;q=0.8",
            Some(Format::Ndjson),
        ),
        ("text/csv;q=0, application/json", Some(Format::Json)),
        ("text/html, */*", None),
    ] {
        assert_eq!(Format::from_accept(accept).unwrap(), wanted, "{accept}");
    }
    assert!(Format::from_accept("text/csv;q=0").is_err());
    assert_eq!(
        Format::from_accept("image/png").unwrap_err().code,
        ErrorCode::NotAcceptable
    );
}
