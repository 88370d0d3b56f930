//! How a scan's predicates read in EXPLAIN: names and values of the statement, nothing else.

use std::fmt::Write;

use auxo_proto::schema::TableSchema;
use auxo_sst::predicate::{Bound, FieldBounds, TagFilter, TagTest, TimeRange};
use datafusion::arrow::temporal_conversions::timestamp_ns_to_datetime;

/// Most values of a list that are written out.
const VALUES_SHOWN: usize = 8;

/// A range of times as `[start, end)`, ends without a limit left empty.
pub(crate) fn times(range: TimeRange) -> String {
    let instant = |ns: i64| match timestamp_ns_to_datetime(ns) {
        Some(instant) => format!("{}Z", instant.format("%Y-%m-%dT%H:%M:%S%.9f")),
        None => ns.to_string(),
    };
    let start = match range.start {
        i64::MIN => String::new(),
        start => instant(start),
    };
    let end = i64::try_from(range.end).map(instant).unwrap_or_default();
    format!("[{start}, {end})")
}

/// A tag filter in SQL's words.
pub(crate) fn tags(filter: &TagFilter, schema: &TableSchema) -> String {
    let mut text = String::new();
    write_tags(&mut text, filter, schema);
    text
}

fn write_tags(text: &mut String, filter: &TagFilter, schema: &TableSchema) {
    match filter {
        TagFilter::Any => text.push_str("true"),
        TagFilter::Nothing => text.push_str("false"),
        TagFilter::Test { tag, test } => {
            let name = schema.tags().nth(*tag as usize);
            let name = name.map_or("?", |column| column.name.as_str());
            write_test(text, name, test);
        }
        TagFilter::And(all) => write_list(text, all, " AND ", schema),
        TagFilter::Or(any) => write_list(text, any, " OR ", schema),
        TagFilter::Not(inner) => {
            text.push_str("NOT ");
            text.push('(');
            write_tags(text, inner, schema);
            text.push(')');
        }
    }
}

fn write_list(text: &mut String, filters: &[TagFilter], between: &str, schema: &TableSchema) {
    for (index, filter) in filters.iter().enumerate() {
        if index > 0 {
            text.push_str(between);
        }
        let nested = matches!(filter, TagFilter::And(_) | TagFilter::Or(_));
        if nested {
            text.push('(');
        }
        write_tags(text, filter, schema);
        if nested {
            text.push(')');
        }
    }
}

fn quoted(value: &[u8]) -> String {
    format!("'{}'", String::from_utf8_lossy(value).replace('\'', "''"))
}

fn write_test(text: &mut String, name: &str, test: &TagTest) {
    // Writing into a String cannot fail.
    let _ = match test {
        TagTest::IsNull => write!(text, "{name} IS NULL"),
        TagTest::OneOf(values) => {
            let shown: Vec<String> = values
                .iter()
                .take(VALUES_SHOWN)
                .map(|value| quoted(value))
                .collect();
            match (values.len(), shown.as_slice()) {
                (1, [only]) => write!(text, "{name} = {only}"),
                (count, _) if count > VALUES_SHOWN => {
                    let more = count - VALUES_SHOWN;
                    write!(text, "{name} IN ({}, and {more} more)", shown.join(", "))
                }
                _ => write!(text, "{name} IN ({})", shown.join(", ")),
            }
        }
        TagTest::Below { value, inclusive } => {
            let op = if *inclusive { "<=" } else { "<" };
            write!(text, "{name} {op} {}", quoted(value))
        }
        TagTest::Above { value, inclusive } => {
            let op = if *inclusive { ">=" } else { ">" };
            write!(text, "{name} {op} {}", quoted(value))
        }
        TagTest::Prefix(prefix) => write!(text, "{name} starts with {}", quoted(prefix)),
        TagTest::Matches(pattern) => write!(text, "{name} ~ {}", quoted(pattern.as_bytes())),
    };
}

/// Bounds on fields as `name in [min, max]`.
pub(crate) fn bounds(bounds: &[FieldBounds], schema: &TableSchema) -> String {
    let end = |bound: Option<Bound>| match bound {
        Some(Bound::I64(value)) => value.to_string(),
        Some(Bound::U64(value)) => value.to_string(),
        Some(Bound::F64(value)) => value.to_string(),
        None => String::new(),
    };
    let shown: Vec<String> = bounds
        .iter()
        .map(|bound| {
            let name = schema.by_id(bound.column);
            let name = name.map_or("?", |column| column.name.as_str());
            format!("{name} in [{}, {}]", end(bound.min), end(bound.max))
        })
        .collect();
    shown.join(" AND ")
}
