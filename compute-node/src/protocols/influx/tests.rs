//! Line protocol: tables of lines and what they mean, and both roads compared.

use std::collections::HashMap;

use auxo_proto::ddl::Ddl;
use auxo_proto::ids::{ColumnId, SchemaNumber, TableId, TenantId};
use auxo_proto::key;
use auxo_proto::rows::Values;
use auxo_proto::schema::{
    Column, ColumnKind, ColumnType, Partition, TableOptions, TableSchema, TimeUnit,
};
use proptest::prelude::*;

use super::*;

const NOW: i64 = 1_700_000_000_000_000_000;
const DB: DatabaseId = DatabaseId(1);

type Catalog = HashMap<String, Arc<TableInfo>>;

/// `host;dc|usage int64;idle float64` and the like; `!` behind a type makes it NOT NULL.
fn table(id: u64, name: &str, schema: u32, columns: &str) -> Arc<TableInfo> {
    let (tags, fields) = columns.split_once('|').unwrap();
    let tags = tags.split(';').filter(|tag| !tag.is_empty());
    let tags = tags.map(|tag| (tag, ColumnKind::Tag, ColumnType::String, true));
    let ns = ColumnType::Timestamp(TimeUnit::Nanosecond);
    let fields = fields.split(';').filter(|field| !field.is_empty());
    let fields = fields.map(|field| {
        let (name, ty) = field.rsplit_once(' ').unwrap();
        let nullable = !ty.ends_with('!');
        let ty = ty.trim_end_matches('!').parse().unwrap();
        (name, ColumnKind::Field, ty, nullable)
    });
    let columns = tags
        .chain([("time", ColumnKind::Time, ns, false)])
        .chain(fields)
        .enumerate()
        .map(|(index, (name, kind, ty, nullable))| Column {
            id: ColumnId(index as u32 + 1),
            name: name.into(),
            kind,
            ty,
            nullable,
        });
    Arc::new(TableInfo {
        id: TableId(id),
        tenant: TenantId(1),
        database: DB,
        name: name.into(),
        schema: Arc::new(TableSchema {
            number: SchemaNumber(schema),
            columns: columns.collect(),
        }),
        partition: Partition {
            columns: Vec::new(),
            count: 1,
        },
        options: TableOptions::default(),
    })
}

fn catalog() -> Catalog {
    let tables = [
        table(
            1,
            "cpu",
            1,
            "host;dc|usage int64;idle float64;up bool;n uint64;note string",
        ),
        table(2, "a b,c=d", 1, "k =\\,|f ,=\" int64"),
        table(
            3,
            "narrow",
            1,
            "|i int8;u uint16;f float32;day date;must int64!",
        ),
    ];
    tables
        .into_iter()
        .map(|table| (table.name.clone(), table))
        .collect()
}

fn parser(limits: Limits) -> Parser {
    Parser::new(limits, 1 << 20, &Random::seeded(1))
}

fn read(parser: &mut Parser, catalog: &Catalog, body: &[u8]) -> Parsed {
    parse_by(parser, catalog, body, true).unwrap()
}

fn parse_by(
    parser: &mut Parser,
    catalog: &Catalog,
    body: &[u8],
    fast: bool,
) -> Result<Parsed, BodyTooLarge> {
    let request = Request {
        database: DB,
        precision: Precision::Nanosecond,
        now_ns: NOW,
        table: &|name| catalog.get(name).cloned(),
        refused: &Refused::new(),
    };
    parser.parse_by(body, &request, fast)
}

/// One line per row, need and error, as text.
fn show(parsed: &Parsed) -> String {
    let mut lines = Vec::new();
    for TableRows { table, rows } in &parsed.tables {
        rows.check().unwrap();
        for row in 0..rows.len() {
            lines.push(show_row(table, rows, row));
        }
    }
    for need in &parsed.needs {
        let kind = if need.table.is_some() {
            "columns"
        } else {
            "table"
        };
        let columns = need.columns.iter().map(|column| match column.kind {
            ColumnKind::Tag => column.name.clone(),
            _ => format!("{} {}", column.name, column.ty),
        });
        let columns: Vec<_> = columns.collect();
        let (line, name) = (need.line, &need.measurement);
        lines.push(format!(
            "line {line} needs {kind} {name}: {}",
            columns.join(", ")
        ));
    }
    for error in parsed.errors.kept() {
        lines.push(format!("line {}: {}", error.line, error.message));
    }
    lines.join("\n")
}

fn show_row(table: &TableInfo, rows: &Rows, row: usize) -> String {
    let series = rows.series.key(rows.series_of[row]);
    assert_eq!(
        rows.series.hash(rows.series_of[row]),
        key::partition_hash(series)
    );
    let mut parts = vec![table.name.clone()];
    for (tag, value) in table.schema.tags().zip(key::decode(series)) {
        if let Some(value) = value.unwrap() {
            parts.push(format!("{}={}", tag.name, String::from_utf8_lossy(&value)));
        }
    }
    parts.push("|".into());
    for column in &rows.columns {
        if !column.is_valid(row) {
            continue;
        }
        let name = &table.schema.by_id(column.id).unwrap().name;
        let value = match &column.values {
            Values::Bool(values) => values[row].to_string(),
            Values::I64(values) => format!("{}i", values[row]),
            Values::U64(values) => format!("{}u", values[row]),
            Values::F64(values) => format!("{:?}", values[row]),
            Values::Bytes(values) => format!("{:?}", std::str::from_utf8(values.get(row)).unwrap()),
            Values::I128(values) => values[row].to_string(),
        };
        parts.push(format!("{name}={value}"));
    }
    let time = rows.time[row];
    parts.push(if time == NOW {
        "now".into()
    } else {
        time.to_string()
    });
    parts.join(" ")
}

/// Both roads read the body as expected.
fn check(body: &str, expected: &str) {
    let catalog = catalog();
    let expected: Vec<_> = expected.lines().map(str::trim).collect();
    let expected = expected.join("\n");
    let expected = expected.trim();
    let mut repeated = parser(Limits::default());
    for _ in 0..3 {
        let parsed = read(&mut repeated, &catalog, body.as_bytes());
        assert_eq!(show(&parsed), expected, "{body:?}");
    }
    let slow = parse_by(
        &mut parser(Limits::default()),
        &catalog,
        body.as_bytes(),
        false,
    );
    assert_eq!(show(&slow.unwrap()), expected, "{body:?}, slow road only");
}

#[test]
fn rows_of_good_lines() {
    check("", "");
    check("\n \n\r\n# cpu usage=1i\n#c f=1i\n", "");
    check(
        "cpu,host=a,dc=eu usage=1i,idle=1.5,up=t,n=2u,note=\"x\" 10\n",
        "cpu host=a dc=eu | usage=1i idle=1.5 up=true n=2u note=\"x\" 10",
    );
    check(
        "cpu,dc=eu,host=a usage=1i 10\ncpu,host=a,dc=eu usage=2i 20",
        "cpu host=a dc=eu | usage=1i 10
         cpu host=a dc=eu | usage=2i 20",
    );
    check(
        "cpu,dc=eu usage=-5i\r\ncpu usage=5i\r\n  cpu  idle=1e3  7  \n",
        "cpu dc=eu | usage=-5i now
         cpu | usage=5i now
         cpu | idle=1000.0 7",
    );
    check(
        "cpu,host=a usage=1i 1\ncpu,host=a idle=2 2\ncpu,host=a usage=3i,idle=4 3",
        "cpu host=a | usage=1i 1
         cpu host=a | idle=2.0 2
         cpu host=a | usage=3i idle=4.0 3",
    );
    check(
        "cpu note=\"a\\\"b\\\\c\\n\nd,e =\",up=FALSE -9223372036854775808",
        "cpu | note=\"a\\\"b\\\\c\\\\n\\nd,e =\" up=false -9223372036854775808",
    );
    check(
        "cpu,host=a\\ usage=1i 1\ncpu usage=-9223372036854775808i 1",
        "cpu | usage=-9223372036854775808i 1
         line 1: tag host has an unescaped = in its value",
    );
}

#[test]
fn escapes() {
    check(
        "cpu,host=ö\\ \\,\\=\\x usage=9223372036854775807i 1\ncpu,host=a\\\\,dc=b usage=1i 1",
        "cpu host=ö ,=\\x | usage=9223372036854775807i 1
         line 2: tag host has an unescaped = in its value",
    );
    check(
        "a\\ b\\,c=d,k\\ \\=\\\\,=v f\\ \\,\\=\"=1i 5",
        "a b,c=d k =\\,=v | f ,=\"=1i 5",
    );
    check("cpu,host=\"a\" usage=1i 1", "cpu host=\"a\" | usage=1i 1");
    check("cpu,host=\\a usage=1i 1", "cpu host=\\a | usage=1i 1");
}

#[test]
fn columns_narrower_than_the_protocol() {
    check(
        "narrow i=-128i,u=65535u,f=0.1,must=1i 1\nnarrow i=128i,must=1i\nnarrow u=65536u,must=1i\nnarrow f=1e39,must=1i\nnarrow i=1i\nnarrow day=1i,must=1i\nnarrow,t=a z=1i",
        "narrow | i=-128i u=65535u f=0.10000000149011612 must=1i 1
         line 2: value 128 of field i is out of range for int8
         line 3: value 65536 of field u is out of range for uint16
         line 4: value 1000000000000000000000000000000000000000 of field f is out of range for float32
         line 5: field must is NOT NULL in the table
         line 6: field day is int64 in the line and date in the table
         line 7: field must is NOT NULL in the table",
    );
}

#[test]
fn bad_lines_by_number() {
    let bad = |line: &str, message: &str| {
        check(
            &format!("cpu usage=1i 1\n{line}\ncpu usage=2i 2\n"),
            &format!("cpu | usage=1i 1\ncpu | usage=2i 2\nline 2: {message}"),
        );
    };
    bad("cpu", "fields are missing");
    bad("cpu ", "fields are missing");
    bad("cpu,host=a", "fields are missing");
    bad(",host=a usage=1i", "measurement is missing");
    bad("cpu,host usage=1i", "tag host has no value");
    bad("cpu,host= usage=1i", "tag host has no value");
    bad("cpu,=a usage=1i", "name of a tag is missing");
    bad("cpu, usage=1i", "name of a tag is missing");
    bad(
        "cpu,host=a=b usage=1i",
        "tag host has an unescaped = in its value",
    );
    bad("cpu,host=a,host=b usage=1i", "host stands twice");
    bad("cpu usage=1i,usage=2i", "usage stands twice");
    bad("cpu,host=a host=1i", "host stands twice");
    bad(
        "cpu host=1i",
        "host is a tag of the table and a field of the line",
    );
    bad(
        "cpu,usage=1 idle=1",
        "usage is a field of the table and a tag of the line",
    );
    bad(
        "cpu time=1i",
        "time is a time column of the table and a field of the line",
    );
    bad(
        "cpu,time=a idle=1",
        "time is a time column of the table and a tag of the line",
    );
    bad("cpu usage", "field usage has no value");
    bad("cpu usage=", "field usage has no value");
    bad("cpu usage= 1", "field usage has no value");
    bad("cpu usage=1i,", "name of a field is missing");
    bad("cpu =1i", "name of a field is missing");
    bad(
        "cpu usage=1",
        "field usage is float64 in the line and int64 in the table",
    );
    bad(
        "cpu idle=1i",
        "field idle is int64 in the line and float64 in the table",
    );
    bad(
        "cpu idle=1u",
        "field idle is uint64 in the line and float64 in the table",
    );
    bad(
        "cpu up=\"t\"",
        "field up is string in the line and bool in the table",
    );
    bad(
        "cpu note=true",
        "field note is bool in the line and string in the table",
    );
    bad(
        "cpu n=1i",
        "field n is int64 in the line and uint64 in the table",
    );
    bad(
        "cpu usage=9223372036854775808i",
        "value 9223372036854775808i of field usage is out of range for int64",
    );
    bad(
        "cpu n=18446744073709551616u",
        "value 18446744073709551616u of field n is out of range for uint64",
    );
    bad(
        "cpu idle=1e309",
        "value 1e309 of field idle is out of range for float64",
    );
    bad(
        "cpu idle=NaN",
        "value \"NaN\" of field idle is no number, boolean or string",
    );
    bad(
        "cpu idle=-inf",
        "value \"-inf\" of field idle is no number, boolean or string",
    );
    bad(
        "cpu usage=x",
        "value \"x\" of field usage is no number, boolean or string",
    );
    bad(
        "cpu note=\"a\"b 1",
        "\"b 1\" follows the value of field note",
    );
    bad("cpu usage=1i x", "timestamp \"x\" is no whole number");
    bad("cpu usage=1i 1 2", "timestamp \"1 2\" is no whole number");
    bad("cpu usage=1i 1.5", "timestamp \"1.5\" is no whole number");
    bad(
        "cpu usage=1i 9223372036854775808",
        "timestamp 9223372036854775808 is out of range in nanoseconds",
    );
    bad(
        "cpu usage=1i 1700000600000000001",
        "timestamp lies 600 s in the future, 600 s are allowed",
    );
    bad(
        "c\u{1}pu usage=1i",
        "name \"c\\u{1}pu\" holds a control character",
    );
    bad(
        "cpu,h\0=a usage=1i",
        "name \"h\\0\" holds a control character",
    );
    bad(
        "cpu us\tage=1i",
        "name \"us\\tage\" holds a control character",
    );
}

#[test]
fn what_is_not_utf8_is_a_bad_line() {
    for (body, message) in [
        (&b"c\xFFu usage=1i"[..], "line 1: c\u{FFFD}u is not UTF-8"),
        (b"cpu,host=\xFF usage=1i", "line 1: \u{FFFD} is not UTF-8"),
        (
            b"cpu note=\"\xFF\"",
            "line 1: string of field note is not UTF-8",
        ),
        (
            b"cpu usage=\xFF",
            "line 1: value \"\u{FFFD}\" of field usage is no number, boolean or string",
        ),
        (
            b"cpu usage=1i \xFF",
            "line 1: timestamp \"\u{FFFD}\" is no whole number",
        ),
    ] {
        let parsed = read(&mut parser(Limits::default()), &catalog(), body);
        assert_eq!(show(&parsed), message);
    }
}

#[test]
fn a_string_that_has_lost_a_quote_ends_with_its_line() {
    check(
        "cpu usage=1i 1\ncpu note=\"abc\ncpu usage=2i 2\n",
        "cpu | usage=1i 1
         cpu | usage=2i 2
         line 2: string of field note is not closed",
    );
    check(
        "cpu note=\"abc\ncpu note=\"ok\",usage=1i 1\ncpu usage=2i 2\n",
        "cpu | note=\"ok\" usage=1i 1
         cpu | usage=2i 2
         line 1: string of field note is not closed",
    );
    check(
        "cpu note=\"a\nb\nc\",usage=x 1\ncpu usage=2i 2\n",
        "cpu | usage=2i 2
         line 1: value \"x\" of field usage is no number, boolean or string; by its strings the line goes on to line 3",
    );
    check(
        "cpu note=\"a\nb\" 1\ncpu x\ncpu usage=1i 2",
        "cpu | note=\"a\\nb\" 1
         cpu | usage=1i 2
         line 3: field x has no value",
    );
}

#[test]
fn a_byte_order_mark_is_no_part_of_the_first_line() {
    check(
        "\u{FEFF}cpu usage=1i 1\ncpu usage=2i 2\n",
        "cpu | usage=1i 1\ncpu | usage=2i 2",
    );
    check("\u{FEFF}", "");
}

#[test]
fn limits_of_a_line() {
    let limits = Limits {
        line_bytes: 60,
        columns: 3,
        name_bytes: 8,
        string_bytes: 4,
        ..Limits::default()
    };
    let mut parser = parser(limits);
    let mut one = |line: &str| {
        let body = format!("cpu,host=a usage=1i 1\n{line}\n");
        let parsed = read(&mut parser, &catalog(), body.as_bytes());
        show(&parsed).lines().nth(1).unwrap().to_owned()
    };
    let longest = format!("cpu,host={} usage=1i 1", "x".repeat(40));
    assert!(
        one(&longest).starts_with("cpu host=xxx"),
        "{}",
        longest.len()
    );
    assert_eq!(
        one(&format!("{longest}1")),
        "line 2: line is longer than 60 bytes"
    );
    assert!(one("cpu,host=a,dc=b usage=1i 2").starts_with("cpu host=a dc=b"));
    assert_eq!(
        one("cpu,host=a,dc=b usage=1i,idle=2 2"),
        "line 2: line has more than 3 tags and fields"
    );
    assert_eq!(
        one("cpu,a=1,b=2,c=3,d=4 usage=1i"),
        "line 2: line has more than 3 tags and fields"
    );
    assert_eq!(
        one("ninebytes usage=1i"),
        "line 2: name ninebytes… is longer than 8 bytes"
    );
    assert!(one("cpu note=\"1234\" 3").starts_with("cpu | note=\"1234\""));
    assert_eq!(
        one("cpu note=\"12345\" 3"),
        "line 2: string of field note is longer than 4 bytes"
    );
}

#[test]
fn a_wide_body_is_refused_before_it_takes_the_memory() {
    let limits = Limits {
        memory_bytes: 100_000,
        ..Limits::default()
    };
    // Each line has one field, but each row has a place in every column.
    let fields: Vec<_> = (0..200).map(|field| format!("f{field} int64")).collect();
    let wide = table(9, "wide", 1, &format!("|{}", fields.join(";")));
    let catalog = Catalog::from([("wide".into(), wide)]);
    let lines: Vec<_> = (0..1000)
        .map(|row| format!("wide f{}=1i {row}", row % 200))
        .collect();
    let mut parser = parser(limits);
    let few = lines[..20].join("\n");
    assert!(parse_by(&mut parser, &catalog, few.as_bytes(), true).is_ok());
    let many = lines.join("\n");
    let refused = parse_by(&mut parser, &catalog, many.as_bytes(), true);
    assert_eq!(
        refused,
        Err(BodyTooLarge {
            memory_max: 100_000
        })
    );
}

#[test]
fn unknown_names_are_asked_for() {
    check(
        "cpu,host=a usage=1i 1\n\
         cpu,host=a,rack=7 usage=1i,temp=20.5 2\n\
         cpu,host=a fan=1u,temp=x 3\n\
         cpu,host=a fan=1u,idle=1i 3\n\
         mem,host=a used=5i,free=7i 4\n\
         mem,dc=b used=1i,text=\"x\" 5\n\
         mem used=1 6\n\
         mem,used=1 free=1i 6\n\
         mem time=1i 7\n\
         cpu fan=2u,ok=t 8",
        "cpu host=a | usage=1i 1
         line 2 needs columns cpu: rack, temp float64, fan uint64, ok bool
         line 5 needs table mem: host, used int64, free int64, dc, text string
         line 3: value \"x\" of field temp is no number, boolean or string
         line 4: field idle is int64 in the line and float64 in the table
         line 7: field used is float64 in the line and int64 in an earlier one
         line 8: used is a field of the table and a tag of the line
         line 9: time is a time column of the table and a field of the line",
    );
}

#[test]
fn a_body_is_read_in_full_once_its_needs_are_met() {
    let mut catalog = Catalog::new();
    let mut parser = parser(Limits::default());
    let body = b"mem,host=a used=1i 1\nmem,host=a,dc=b used=2i,free=3 2\n";
    let first = read(&mut parser, &catalog, body);
    assert_eq!((first.tables.len(), first.waiting), (0, 2));
    let Ddl::CreateTable {
        table: new,
        if_not_exists: true,
    } = first.needs[0].ddl("db")
    else {
        panic!("{:?}", first.needs);
    };
    let names: Vec<_> = new
        .columns
        .iter()
        .map(|column| column.name.as_str())
        .collect();
    assert_eq!(names, ["host", "dc", "time", "used", "free"]);
    assert_eq!((new.database.as_str(), new.name.as_str()), ("db", "mem"));

    catalog.insert("mem".into(), table(5, "mem", 1, "host|used int64"));
    let second = read(&mut parser, &catalog, body);
    assert_eq!(
        show(&second),
        "mem host=a | used=1i 1\nline 2 needs columns mem: dc, free float64"
    );
    let Ddl::AddColumns { table: id, .. } = second.needs[0].ddl("db") else {
        panic!("{:?}", second.needs);
    };
    assert_eq!(id, TableId(5));

    catalog.insert(
        "mem".into(),
        table(5, "mem", 2, "host;dc|used int64;free float64"),
    );
    for _ in 0..2 {
        let third = read(&mut parser, &catalog, body);
        assert_eq!(
            show(&third),
            "mem host=a | used=1i 1\nmem host=a dc=b | used=2i free=3.0 2"
        );
        assert_eq!(third.waiting, 0);
    }
}

#[test]
fn a_body_cannot_ask_for_more_columns_than_the_bound() {
    let limits = Limits {
        new_columns: 3,
        ..Limits::default()
    };
    let body = b"a x=1,y=2 1\nb x=1,y=1 2\nb x=1 3\na x=2 4\n";
    let parsed = read(&mut parser(limits), &catalog(), body);
    assert_eq!(
        show(&parsed),
        "line 1 needs table a: x float64, y float64\n\
         line 3 needs table b: x float64\n\
         line 2: body needs more than 3 new columns"
    );
    assert_eq!(parsed.waiting, 3);
}

#[test]
fn what_was_remembered_is_not_used_for_another_schema_table_or_database() {
    let mut parser = parser(Limits::default());
    let body = b"m,a=1,b=2 f=1i 1\nm,b=2,a=1 f=2i 2\n";
    let tables = [
        (DB, table(1, "m", 1, "a;b|f int64")),
        (DB, table(1, "m", 2, "a;b;c|f int64;g int64")),
        (DB, table(7, "m", 1, "b;a|f int64")),
        (DatabaseId(2), table(8, "m", 1, "b;a|x bool;f int64")),
        (DB, table(7, "m", 1, "b;a|f int64")),
        (DatabaseId(2), table(8, "m", 1, "b;a|x bool;f int64")),
    ];
    for (database, info) in tables {
        for _ in 0..2 {
            let request = Request {
                database,
                precision: Precision::Nanosecond,
                now_ns: NOW,
                table: &|_| Some(Arc::clone(&info)),
                refused: &Refused::new(),
            };
            let parsed = parser.parse(body, &request).unwrap();
            let rows = &parsed.tables[0].rows;
            assert_eq!(parsed.tables[0].table, info);
            assert_eq!(rows.series.len(), 1, "both orders are one series");
            let tags: Vec<_> = info.schema.tags().map(|tag| tag.name.as_str()).collect();
            let values = tags.iter().map(|tag| match *tag {
                "a" => Some(&b"1"[..]),
                "b" => Some(&b"2"[..]),
                _ => None,
            });
            assert_eq!(rows.series.key(0), key::encode(values));
            let field = info.schema.by_name("f").unwrap().id;
            assert_eq!(rows.columns[0].id, field);
            assert_eq!(rows.columns[0].values, Values::I64(vec![1, 2]));
        }
    }
    assert!(parser.memory_bytes() < 20_000);
}

#[test]
fn rows_are_hashed_by_the_partition_columns() {
    let mut info = Arc::unwrap_or_clone(table(1, "m", 1, "a;b|f int64"));
    info.partition.columns = vec![ColumnId(2)];
    let catalog = Catalog::from([("m".into(), Arc::new(info))]);
    for fast in [true, false] {
        let body = b"m,a=1,b=2 f=1i 1\nm,a=1,b=2 f=1i 2\nm,a=2,b=2 f=1i 2\n";
        let parsed = parse_by(&mut parser(Limits::default()), &catalog, body, fast).unwrap();
        let rows = &parsed.tables[0].rows;
        let expected = key::partition_hash(&key::encode([Some(&b"2"[..])]));
        assert_eq!(rows.series.len(), 2);
        assert!(rows.series.iter().all(|(_, hash)| hash == expected));
    }
}

#[test]
fn what_is_remembered_stays_within_its_bound() {
    let mut parser = Parser::new(Limits::default(), 20_000, &Random::seeded(1));
    for body in 0..50_u64 {
        let name = format!("m{}", body % 7);
        let info = table(body, &name, 1, "host|f int64");
        let catalog = Catalog::from([(name.clone(), info)]);
        let lines = (0..100).map(|host| format!("{name},host=h{host} f={host}i {body}\n"));
        let lines: String = lines.collect();
        let parsed = read(&mut parser, &catalog, lines.as_bytes());
        assert_eq!(parsed.tables[0].rows.len(), 100);
        assert_eq!(parsed.tables[0].rows.series.len(), 100);
        assert!(parser.memory_bytes() <= 21_000, "{}", parser.memory_bytes());
    }
}

/// A line of one of the catalog's tables, mostly good.
fn line() -> impl Strategy<Value = String> {
    let tags = proptest::sample::subsequence(vec!["host", "dc"], 0..=2).prop_shuffle();
    let tag = prop_oneof![3 => "[ab]", 1 => "[a-z=\\\\ ,]{0,4}"];
    let field = prop_oneof![
        6 => (0..3000_i64, any::<bool>()).prop_map(|(value, wide)| {
            format!("usage={}i", if wide { value } else { value % 101 })
        }),
        3 => "idle=-?[0-9]{1,4}(\\.[0-9]{0,3})?(e-?[0-9]{1,3})?",
        2 => "up=(t|F|true|False|TRUE|x)",
        2 => "n=[0-9]{1,21}u",
        3 => "note=\"[a-z\\\\\n ,=]{0,6}\"",
        1 => "usage=-?[0-9]{17,20}i",
        1 => "[a-z]{1,3}=[0-9]{1,3}[iu]?",
    ];
    let time = prop_oneof![
        6 => (1..1000_i64).prop_map(|step| format!(" {}", NOW - step * 1_000_000_000)),
        2 => Just(String::new()),
        1 => " -?[0-9]{1,20}",
    ];
    let end = prop_oneof![5 => Just("\n"), 1 => Just("\r\n"), 1 => Just(" \n")];
    let tags = (tags, proptest::collection::vec(tag, 2)).prop_map(|(names, values)| {
        let tags = names.iter().zip(values);
        tags.map(|(name, value)| format!(",{name}={value}"))
            .collect::<String>()
    });
    let fields = proptest::collection::vec(field, 1..4);
    let cpu = (tags, fields, time, end)
        .prop_map(|(tags, fields, time, end)| format!("cpu{tags} {}{time}{end}", fields.join(",")));
    let strict = proptest::sample::subsequence(vec!["idle=1", "must=2i", "up=t"], 1..=3)
        .prop_map(|fields| format!("strict,host=a {}\n", fields.join(",")));
    prop_oneof![5 => cpu, 1 => strict]
}

/// Bodies as senders make them: some lines, again and again, some bytes of them changed.
fn body() -> impl Strategy<Value = Vec<u8>> {
    let lines = proptest::collection::vec(line(), 1..6);
    let order = proptest::collection::vec(any::<prop::sample::Index>(), 0..30);
    let change = (
        any::<prop::sample::Index>(),
        proptest::sample::select(&b" ,=\\\"\n\r0ai-.\xFF"[..]),
    );
    let changes = proptest::collection::vec(change, 0..4);
    (lines, order, changes).prop_map(|(lines, order, changes)| {
        let lines = order.iter().map(|index| index.get(&lines).as_str());
        let mut body = lines.collect::<String>().into_bytes();
        for (at, byte) in changes {
            if !body.is_empty() {
                let at = at.index(body.len());
                body[at] = byte;
            }
        }
        body
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(600))]

    #[test]
    fn the_fast_road_reads_what_the_slow_one_reads(
        bodies in proptest::collection::vec(body(), 1..5),
        memo_bytes in prop_oneof![Just(1 << 20), Just(1_500)],
    ) {
        let catalog = catalog();
        let mut fast = Parser::new(Limits::default(), memo_bytes, &Random::seeded(1));
        for body in bodies {
            let slow = parse_by(&mut parser(Limits::default()), &catalog, &body, false).unwrap();
            let parsed = read(&mut fast, &catalog, &body);
            prop_assert_eq!(show(&parsed), show(&slow), "{}", String::from_utf8_lossy(&body));
            prop_assert_eq!(parsed, slow);
        }
    }

    #[test]
    fn any_bytes_are_read_without_a_panic(
        bytes in proptest::collection::vec(proptest::sample::select(&b"cpu,host=a \"\\\n\r#1i.-\xC3\xB6\xFF\0"[..]), 0..120),
    ) {
        let mut parser = parser(Limits::default());
        for _ in 0..2 {
            let parsed = read(&mut parser, &catalog(), &bytes);
            let lines = bytes.split(|byte| *byte == b'\n').count() as u64;
            let rows: usize = parsed.tables.iter().map(|table| table.rows.len()).sum();
            prop_assert!(parsed.errors.total() + parsed.waiting + rows as u64 <= lines);
            show(&parsed);
        }
    }
}

#[test]
fn repeated_lines_take_the_fast_road() {
    let mut parser = parser(Limits::default());
    let catalog = catalog();
    let line = "cpu,host=a,dc=eu usage=1i,idle=1.5,up=t,n=2u,note=\"x\" 10";
    read(&mut parser, &catalog, line.as_bytes());
    let request = Request {
        database: DB,
        precision: Precision::Nanosecond,
        now_ns: NOW,
        table: &|name| catalog.get(name).cloned(),
        refused: &Refused::new(),
    };
    let body = [
        line,
        "cpu,host=b usage=-12i,idle=-2e1,up=False,n=0u,note=\"\" 1700000000000000000",
        "cpu,host=a,dc=eu usage=1i,idle=1.5,up=t,n=2u,note=\"x\"\r",
        "cpu,host=b usage=1i,up=t,note=\"y\"",
        "cpu,host=b note=\"z\"",
    ]
    .join("\n");
    parser.bodies += 1;
    let mut run = Run::new(body.as_bytes(), &request, parser.bodies);
    let (mut at, mut lines) = (0, 0);
    while at < body.len() {
        at = parser.fast_line(&mut run, at).unwrap();
        lines += 1;
    }
    assert_eq!(lines, 5);
}

#[test]
fn lines_with_other_fields_of_the_table_take_the_fast_road_too() {
    let catalog = catalog();
    let mut parser = parser(Limits::default());
    let request = Request {
        database: DB,
        precision: Precision::Nanosecond,
        now_ns: NOW,
        table: &|name| catalog.get(name).cloned(),
        refused: &Refused::new(),
    };
    let mut is_fast = |line: &str| {
        parser.bodies += 1;
        let mut run = Run::new(line.as_bytes(), &request, parser.bodies);
        let fast = parser.fast_line(&mut run, 0).is_some();
        if !fast {
            parser.slow_line(&mut run, line.as_bytes(), 1).unwrap();
        }
        fast
    };
    assert!(!is_fast("cpu usage=1i,up=t"));
    assert!(!is_fast("cpu usage=1i,idle=1,up=t"), "idle is new");
    assert!(!is_fast("cpu n=1u,note=\"x\""), "both are new");
    for line in [
        "cpu usage=1i,idle=1,up=t",
        "cpu usage=1i,up=t",
        "cpu up=t",
        "cpu n=1u,usage=1i,idle=1",
        "cpu note=\"x\"",
    ] {
        assert!(is_fast(line), "{line}");
    }
    assert!(!is_fast("cpu up=t,idle=1"), "another order");
    assert!(is_fast("cpu up=t,idle=1"));
    assert!(
        !is_fast("cpu usage=1i,idle=1"),
        "that order replaced the first"
    );
}

#[test]
fn lines_that_need_what_their_table_does_not_get_are_bad_and_the_others_stay() {
    let catalog = catalog();
    let refused = Refused::from([
        ("cpu".to_owned(), "cpu is full".into()),
        ("new".to_owned(), "no tables today".into()),
    ]);
    let request = Request {
        database: DB,
        precision: Precision::Nanosecond,
        now_ns: NOW,
        table: &|name| catalog.get(name).cloned(),
        refused: &refused,
    };
    let body = "cpu,host=a usage=1i 1\ncpu,host=a nowhere=1 2\nnew v=1 3\nother v=1 4";
    let mut parser = parser(Limits::default());
    let parsed = parser.parse(body.as_bytes(), &request).unwrap();
    let bad: Vec<(u64, &str)> = parsed
        .errors
        .kept()
        .iter()
        .map(|error| (error.line, error.message.as_str()))
        .collect();
    assert_eq!(bad, [(2, "cpu is full"), (3, "no tables today")]);
    assert_eq!(parsed.tables.len(), 1);
    let needs: Vec<&str> = parsed
        .needs
        .iter()
        .map(|need| need.measurement.as_str())
        .collect();
    assert_eq!(needs, ["other"]);
}
