//! Single values as text, the same in every format that is text.
//!
//! A batch's columns are opened once; what a cell costs is one call and its digits. Timestamps are
//! RFC 3339 in UTC with the digits of their column, decimals and binary are strings, intervals and
//! durations are ISO 8601, nested values are JSON. NaN and the infinities have words of their own,
//! because null would be a wrong value.

use std::io::Write;

use arrow::array::{Array, ArrayRef, ArrowPrimitiveType, AsArray, PrimitiveArray};
use arrow::datatypes::{
    DataType, Date32Type, Date64Type, Decimal32Type, Decimal64Type, Decimal128Type, Decimal256Type,
    DecimalType, DurationMicrosecondType, DurationMillisecondType, DurationNanosecondType,
    DurationSecondType, Float16Type, Float32Type, Float64Type, Int8Type, Int16Type, Int32Type,
    Int64Type, IntervalDayTimeType, IntervalMonthDayNanoType, IntervalUnit, IntervalYearMonthType,
    Time32MillisecondType, Time32SecondType, Time64MicrosecondType, Time64NanosecondType, TimeUnit,
    TimestampMicrosecondType, TimestampMillisecondType, TimestampNanosecondType,
    TimestampSecondType, UInt8Type, UInt16Type, UInt32Type, UInt64Type,
};
use arrow::error::ArrowError;
use arrow::util::display::{ArrayFormatter, FormatOptions};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;

/// How timestamps are written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum TimeFormat {
    /// As text with the digits of the column.
    #[default]
    Rfc3339,
    /// As a number of these since 1970.
    Number(TimeUnit),
}

/// How values are written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ValueOptions {
    /// How timestamps are written.
    pub time_format: TimeFormat,
    /// Whether 64-bit integers are strings in JSON, for readers whose numbers are floats.
    pub int64_as_string: bool,
}

/// What kind of text a column's cells are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// A number, true or false: stands as it is.
    Bare,
    /// A float: stands as it is unless it is not finite.
    Float,
    /// Text without anything that has to be escaped.
    Plain,
    /// Any text.
    Text,
    /// JSON already.
    Json,
}

type WriteCell<'a> = Box<dyn Fn(usize, &mut Vec<u8>) + 'a>;

/// A column of a batch, opened for reading cells as text.
pub(super) struct Cells<'a> {
    pub(super) kind: Kind,
    nulls: Option<arrow::buffer::NullBuffer>,
    write: WriteCell<'a>,
}

impl<'a> Cells<'a> {
    /// Opens a column.
    pub(super) fn new(array: &'a dyn Array, options: ValueOptions) -> Result<Self, ArrowError> {
        let (kind, write) = open(array, options)?;
        Ok(Self {
            kind,
            nulls: array.logical_nulls(),
            write,
        })
    }

    /// Whether the row has no value.
    pub(super) fn is_null(&self, row: usize) -> bool {
        self.nulls.as_ref().is_some_and(|nulls| nulls.is_null(row))
    }

    /// Appends the bare text of a row that has a value.
    pub(super) fn write(&self, row: usize, out: &mut Vec<u8>) {
        (self.write)(row, out);
    }

    /// Appends the row as a JSON value.
    pub(super) fn write_json(&self, row: usize, out: &mut Vec<u8>) {
        if self.is_null(row) {
            out.extend_from_slice(b"null");
            return;
        }
        match self.kind {
            Kind::Bare | Kind::Json => self.write(row, out),
            Kind::Plain => {
                out.push(b'"');
                self.write(row, out);
                out.push(b'"');
            }
            Kind::Float => {
                let start = out.len();
                self.write(row, out);
                let finite = out[out.len() - 1].is_ascii_digit();
                if !finite {
                    out.insert(start, b'"');
                    out.push(b'"');
                }
            }
            Kind::Text => {
                let mut text = Vec::new();
                self.write(row, &mut text);
                write_json_text(&text, out);
            }
        }
    }
}

/// Appends text as a JSON string.
pub(super) fn write_json_text(text: &[u8], out: &mut Vec<u8>) {
    out.push(b'"');
    let mut from = 0;
    for (at, &byte) in text.iter().enumerate() {
        if byte >= 0x20 && byte != b'"' && byte != b'\\' {
            continue;
        }
        out.extend_from_slice(&text[from..at]);
        from = at + 1;
        match byte {
            b'"' => out.extend_from_slice(b"\\\""),
            b'\\' => out.extend_from_slice(b"\\\\"),
            b'\n' => out.extend_from_slice(b"\\n"),
            b'\r' => out.extend_from_slice(b"\\r"),
            b'\t' => out.extend_from_slice(b"\\t"),
            _ => put(out, format_args!("\\u{byte:04x}")),
        }
    }
    out.extend_from_slice(&text[from..]);
    out.push(b'"');
}

/// Appends formatted text; a vector never refuses.
fn put(out: &mut Vec<u8>, text: std::fmt::Arguments<'_>) {
    let _ = out.write_fmt(text);
}

fn number<T>(array: &dyn Array) -> WriteCell<'_>
where
    T: ArrowPrimitiveType,
    T::Native: std::fmt::Display,
{
    let values: &PrimitiveArray<T> = array.as_primitive();
    Box::new(move |row, out| put(out, format_args!("{}", values.value(row))))
}

fn decimal<T: DecimalType>(array: &dyn Array, precision: u8, scale: i8) -> WriteCell<'_> {
    let values: &PrimitiveArray<T> = array.as_primitive();
    Box::new(move |row, out| {
        let text = T::format_decimal(values.value(row), precision, scale);
        out.extend_from_slice(text.as_bytes());
    })
}

/// Values of a primitive column as wide integers.
fn integers<T>(array: &dyn Array) -> impl Fn(usize) -> i64 + '_
where
    T: ArrowPrimitiveType,
    T::Native: Into<i64>,
{
    let values: &PrimitiveArray<T> = array.as_primitive();
    move |row| values.value(row).into()
}

fn open(array: &dyn Array, options: ValueOptions) -> Result<(Kind, WriteCell<'_>), ArrowError> {
    let wide = if options.int64_as_string {
        Kind::Plain
    } else {
        Kind::Bare
    };
    Ok(match array.data_type() {
        DataType::Null => (Kind::Bare, Box::new(|_, _| {})),
        DataType::Boolean => {
            let values = array.as_boolean();
            let write: WriteCell<'_> = Box::new(move |row, out| {
                let word: &[u8] = if values.value(row) { b"true" } else { b"false" };
                out.extend_from_slice(word);
            });
            (Kind::Bare, write)
        }
        DataType::Int64 => (wide, number::<Int64Type>(array)),
        DataType::UInt64 => (wide, number::<UInt64Type>(array)),
        DataType::Int8 => (Kind::Bare, number::<Int8Type>(array)),
        DataType::Int16 => (Kind::Bare, number::<Int16Type>(array)),
        DataType::Int32 => (Kind::Bare, number::<Int32Type>(array)),
        DataType::UInt8 => (Kind::Bare, number::<UInt8Type>(array)),
        DataType::UInt16 => (Kind::Bare, number::<UInt16Type>(array)),
        DataType::UInt32 => (Kind::Bare, number::<UInt32Type>(array)),
        DataType::Float16 => {
            let values = array.as_primitive::<Float16Type>();
            (
                Kind::Float,
                Box::new(move |row, out| float(values.value(row).to_f64(), out)),
            )
        }
        DataType::Float32 => {
            let values = array.as_primitive::<Float32Type>();
            (
                Kind::Float,
                Box::new(move |row, out| float32(values.value(row), out)),
            )
        }
        DataType::Float64 => {
            let values = array.as_primitive::<Float64Type>();
            (
                Kind::Float,
                Box::new(move |row, out| float(values.value(row), out)),
            )
        }
        DataType::Decimal32(p, s) => (Kind::Plain, decimal::<Decimal32Type>(array, *p, *s)),
        DataType::Decimal64(p, s) => (Kind::Plain, decimal::<Decimal64Type>(array, *p, *s)),
        DataType::Decimal128(p, s) => (Kind::Plain, decimal::<Decimal128Type>(array, *p, *s)),
        DataType::Decimal256(p, s) => (Kind::Plain, decimal::<Decimal256Type>(array, *p, *s)),
        DataType::Utf8 => {
            let values = array.as_string::<i32>();
            text(move |row| values.value(row).as_bytes())
        }
        DataType::LargeUtf8 => {
            let values = array.as_string::<i64>();
            text(move |row| values.value(row).as_bytes())
        }
        DataType::Utf8View => {
            let values = array.as_string_view();
            text(move |row| values.value(row).as_bytes())
        }
        DataType::Binary => {
            let values = array.as_binary::<i32>();
            binary(move |row| values.value(row))
        }
        DataType::LargeBinary => {
            let values = array.as_binary::<i64>();
            binary(move |row| values.value(row))
        }
        DataType::BinaryView => {
            let values = array.as_binary_view();
            binary(move |row| values.value(row))
        }
        DataType::FixedSizeBinary(_) => {
            let values = array.as_fixed_size_binary();
            binary(move |row| values.value(row))
        }
        DataType::Timestamp(unit, _) => timestamp(array, *unit, options.time_format),
        DataType::Date32 => {
            let days = integers::<Date32Type>(array);
            (Kind::Plain, Box::new(move |row, out| date(days(row), out)))
        }
        DataType::Date64 => {
            let ms = integers::<Date64Type>(array);
            (
                Kind::Plain,
                Box::new(move |row, out| date(ms(row).div_euclid(86_400_000), out)),
            )
        }
        DataType::Time32(TimeUnit::Second) => {
            time_of_day(integers::<Time32SecondType>(array), TimeUnit::Second)
        }
        DataType::Time32(_) => time_of_day(
            integers::<Time32MillisecondType>(array),
            TimeUnit::Millisecond,
        ),
        DataType::Time64(TimeUnit::Microsecond) => time_of_day(
            integers::<Time64MicrosecondType>(array),
            TimeUnit::Microsecond,
        ),
        DataType::Time64(_) => time_of_day(
            integers::<Time64NanosecondType>(array),
            TimeUnit::Nanosecond,
        ),
        DataType::Duration(unit) => duration(array, *unit),
        DataType::Interval(unit) => interval(array, *unit),
        DataType::Dictionary(_, _) => dictionary(array, options)?,
        DataType::List(_) => {
            let lists = array.as_list::<i32>();
            list(lists.values(), options, move |row| {
                let offsets = lists.value_offsets();
                offsets[row] as usize..offsets[row + 1] as usize
            })?
        }
        DataType::LargeList(_) => {
            let lists = array.as_list::<i64>();
            list(lists.values(), options, move |row| {
                let offsets = lists.value_offsets();
                offsets[row] as usize..offsets[row + 1] as usize
            })?
        }
        DataType::FixedSizeList(_, size) => {
            let (lists, size) = (array.as_fixed_size_list(), *size as usize);
            list(lists.values(), options, move |row| {
                let start = lists.value_offset(row) as usize;
                start..start + size
            })?
        }
        DataType::Struct(_) => object(array, options)?,
        DataType::Map(_, _) => map(array, options)?,
        _ => {
            let format = FormatOptions::default();
            let formatter = ArrayFormatter::try_new(array, &format)?;
            let write: WriteCell<'_> =
                Box::new(move |row, out| put(out, format_args!("{}", formatter.value(row))));
            (Kind::Text, write)
        }
    })
}

/// Shortest digits that read back as the same float.
fn float(value: f64, out: &mut Vec<u8>) {
    if value.is_finite() {
        let _ = serde_json::to_writer(out, &value);
    } else {
        not_finite(value, out);
    }
}

fn float32(value: f32, out: &mut Vec<u8>) {
    if value.is_finite() {
        let _ = serde_json::to_writer(out, &value);
    } else {
        not_finite(value.into(), out);
    }
}

fn not_finite(value: f64, out: &mut Vec<u8>) {
    let word: &[u8] = match value {
        value if value.is_nan() => b"NaN",
        value if value > 0.0 => b"Infinity",
        _ => b"-Infinity",
    };
    out.extend_from_slice(word);
}

fn text<'a>(value: impl Fn(usize) -> &'a [u8] + 'a) -> (Kind, WriteCell<'a>) {
    (
        Kind::Text,
        Box::new(move |row, out| out.extend_from_slice(value(row))),
    )
}

fn binary<'a>(value: impl Fn(usize) -> &'a [u8] + 'a) -> (Kind, WriteCell<'a>) {
    let write = move |row, out: &mut Vec<u8>| {
        out.extend_from_slice(STANDARD.encode(value(row)).as_bytes());
    };
    (Kind::Plain, Box::new(write))
}

/// Units in a second, and digits behind its point.
fn resolution(unit: TimeUnit) -> (i64, usize) {
    match unit {
        TimeUnit::Second => (1, 0),
        TimeUnit::Millisecond => (1_000, 3),
        TimeUnit::Microsecond => (1_000_000, 6),
        TimeUnit::Nanosecond => (1_000_000_000, 9),
    }
}

fn timestamp(array: &dyn Array, unit: TimeUnit, format: TimeFormat) -> (Kind, WriteCell<'_>) {
    let values: Box<dyn Fn(usize) -> i64 + '_> = match unit {
        TimeUnit::Second => Box::new(integers::<TimestampSecondType>(array)),
        TimeUnit::Millisecond => Box::new(integers::<TimestampMillisecondType>(array)),
        TimeUnit::Microsecond => Box::new(integers::<TimestampMicrosecondType>(array)),
        TimeUnit::Nanosecond => Box::new(integers::<TimestampNanosecondType>(array)),
    };
    let (per_second, digits) = resolution(unit);
    match format {
        TimeFormat::Rfc3339 => {
            let write = move |row, out: &mut Vec<u8>| {
                let value = values(row);
                let (second, rest) = (value.div_euclid(per_second), value.rem_euclid(per_second));
                date(second.div_euclid(86_400), out);
                out.push(b'T');
                clock(second.rem_euclid(86_400), rest, digits, out);
                out.push(b'Z');
            };
            (Kind::Plain, Box::new(write))
        }
        TimeFormat::Number(wanted) => {
            let (to, from) = (i128::from(resolution(wanted).0), i128::from(per_second));
            let write = move |row, out: &mut Vec<u8>| {
                let number = (i128::from(values(row)) * to).div_euclid(from);
                put(out, format_args!("{number}"));
            };
            (Kind::Bare, Box::new(write))
        }
    }
}

/// Appends `YYYY-MM-DD` of a day counted from 1970-01-01.
///
/// * source: Howard Hinnant, "chrono-Compatible Low-Level Date Algorithms", `civil_from_days`.
fn date(days: i64, out: &mut Vec<u8>) {
    let days = i128::from(days) + 719_468;
    let era = days.div_euclid(146_097);
    let day_of_era = days.rem_euclid(146_097);
    let year_of_era =
        (day_of_era - day_of_era / 1_460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * shifted + 2) / 5 + 1;
    let month = if shifted < 10 {
        shifted + 3
    } else {
        shifted - 9
    };
    let year = year_of_era + era * 400 + i128::from(month <= 2);
    match year {
        0..=9_999 => {
            digits(year as u64, 4, out);
        }
        _ => put(out, format_args!("{year:+05}")),
    }
    out.push(b'-');
    digits(month as u64, 2, out);
    out.push(b'-');
    digits(day as u64, 2, out);
}

/// Appends `HH:MM:SS` and the fraction, if the resolution has one.
fn clock(second_of_day: i64, fraction: i64, fraction_digits: usize, out: &mut Vec<u8>) {
    digits((second_of_day / 3_600) as u64, 2, out);
    out.push(b':');
    digits((second_of_day / 60 % 60) as u64, 2, out);
    out.push(b':');
    digits((second_of_day % 60) as u64, 2, out);
    if fraction_digits > 0 {
        out.push(b'.');
        digits(fraction as u64, fraction_digits, out);
    }
}

/// Appends a number with exactly that many digits.
fn digits(mut value: u64, count: usize, out: &mut Vec<u8>) {
    let start = out.len();
    out.resize(start + count, b'0');
    for place in out[start..].iter_mut().rev() {
        *place = b'0' + (value % 10) as u8;
        value /= 10;
    }
}

fn time_of_day<'a>(value: impl Fn(usize) -> i64 + 'a, unit: TimeUnit) -> (Kind, WriteCell<'a>) {
    let (per_second, digits) = resolution(unit);
    let write = move |row, out: &mut Vec<u8>| {
        let value = value(row);
        clock(value / per_second, value % per_second, digits, out);
    };
    (Kind::Plain, Box::new(write))
}

/// Appends a number of seconds with a fraction, trailing zeros dropped.
fn seconds(value: i128, per_second: i128, out: &mut Vec<u8>) {
    let (whole, rest) = (value.abs() / per_second, value.abs() % per_second);
    let sign = if value < 0 { "-" } else { "" };
    put(out, format_args!("{sign}{whole}"));
    if rest > 0 {
        let width = per_second.ilog10() as usize;
        let fraction = format!("{rest:0width$}");
        put(out, format_args!(".{}", fraction.trim_end_matches('0')));
    }
    out.push(b'S');
}

fn duration(array: &dyn Array, unit: TimeUnit) -> (Kind, WriteCell<'_>) {
    let values: Box<dyn Fn(usize) -> i64 + '_> = match unit {
        TimeUnit::Second => Box::new(integers::<DurationSecondType>(array)),
        TimeUnit::Millisecond => Box::new(integers::<DurationMillisecondType>(array)),
        TimeUnit::Microsecond => Box::new(integers::<DurationMicrosecondType>(array)),
        TimeUnit::Nanosecond => Box::new(integers::<DurationNanosecondType>(array)),
    };
    let per_second = i128::from(resolution(unit).0);
    let write = move |row, out: &mut Vec<u8>| {
        out.extend_from_slice(b"PT");
        seconds(values(row).into(), per_second, out);
    };
    (Kind::Plain, Box::new(write))
}

/// ISO 8601 of an interval: months, days and nanoseconds are kept apart, as they are stored.
fn iso_interval(months: i64, days: i64, ns: i128, out: &mut Vec<u8>) {
    out.push(b'P');
    let start = out.len();
    if months / 12 != 0 {
        put(out, format_args!("{}Y", months / 12));
    }
    if months % 12 != 0 {
        put(out, format_args!("{}M", months % 12));
    }
    if days != 0 {
        put(out, format_args!("{days}D"));
    }
    if ns == 0 && out.len() > start {
        return;
    }
    out.push(b'T');
    let (second, minute, hour) = (1_000_000_000, 60_000_000_000, 3_600_000_000_000);
    if ns / hour != 0 {
        put(out, format_args!("{}H", ns / hour));
    }
    if ns % hour / minute != 0 {
        put(out, format_args!("{}M", ns % hour / minute));
    }
    if ns % minute != 0 || ns == 0 {
        seconds(ns % minute, second, out);
    }
}

fn interval(array: &dyn Array, unit: IntervalUnit) -> (Kind, WriteCell<'_>) {
    let write: WriteCell<'_> = match unit {
        IntervalUnit::YearMonth => {
            let values = array.as_primitive::<IntervalYearMonthType>();
            Box::new(move |row, out| iso_interval(values.value(row).into(), 0, 0, out))
        }
        IntervalUnit::DayTime => {
            let values = array.as_primitive::<IntervalDayTimeType>();
            Box::new(move |row, out| {
                let value = values.value(row);
                iso_interval(
                    0,
                    value.days.into(),
                    i128::from(value.milliseconds) * 1_000_000,
                    out,
                );
            })
        }
        IntervalUnit::MonthDayNano => {
            let values = array.as_primitive::<IntervalMonthDayNanoType>();
            Box::new(move |row, out| {
                let value = values.value(row);
                iso_interval(
                    value.months.into(),
                    value.days.into(),
                    value.nanoseconds.into(),
                    out,
                );
            })
        }
    };
    (Kind::Plain, write)
}

/// A dictionary's values are written once a batch, its rows copied from them.
fn dictionary(
    array: &dyn Array,
    options: ValueOptions,
) -> Result<(Kind, WriteCell<'_>), ArrowError> {
    let dictionary = array
        .as_any_dictionary_opt()
        .ok_or_else(|| ArrowError::SchemaError("dictionary without keys".into()))?;
    let values = dictionary.values();
    if values.is_empty() {
        return Ok((Kind::Text, Box::new(|_, _| {})));
    }
    let keys = dictionary.normalized_keys();
    let cells = Cells::new(values.as_ref(), options)?;
    let kind = cells.kind;
    let mut texts = Vec::new();
    let mut ends = Vec::with_capacity(values.len());
    for row in 0..values.len() {
        if !cells.is_null(row) {
            cells.write(row, &mut texts);
        }
        ends.push(texts.len());
    }
    let write = move |row, out: &mut Vec<u8>| {
        let key = keys[row];
        let start = if key == 0 { 0 } else { ends[key - 1] };
        out.extend_from_slice(&texts[start..ends[key]]);
    };
    Ok((kind, Box::new(write)))
}

fn list<'a>(
    items: &'a ArrayRef,
    options: ValueOptions,
    range: impl Fn(usize) -> std::ops::Range<usize> + 'a,
) -> Result<(Kind, WriteCell<'a>), ArrowError> {
    let cells = Cells::new(items.as_ref(), options)?;
    let write = move |row, out: &mut Vec<u8>| {
        out.push(b'[');
        for (index, item) in range(row).enumerate() {
            if index > 0 {
                out.push(b',');
            }
            cells.write_json(item, out);
        }
        out.push(b']');
    };
    Ok((Kind::Json, Box::new(write)))
}

/// An object; its names are the texts of the keys.
fn map(array: &dyn Array, options: ValueOptions) -> Result<(Kind, WriteCell<'_>), ArrowError> {
    let map = array.as_map();
    let keys = Cells::new(map.keys().as_ref(), options)?;
    let values = Cells::new(map.values().as_ref(), options)?;
    let write = move |row, out: &mut Vec<u8>| {
        let (start, mut name) = (out.len(), Vec::new());
        out.push(b'{');
        for entry in map.value_offsets()[row]..map.value_offsets()[row + 1] {
            if out.len() > start + 1 {
                out.push(b',');
            }
            name.clear();
            keys.write(entry as usize, &mut name);
            write_json_text(&name, out);
            out.push(b':');
            values.write_json(entry as usize, out);
        }
        out.push(b'}');
    };
    Ok((Kind::Json, Box::new(write)))
}

fn object(array: &dyn Array, options: ValueOptions) -> Result<(Kind, WriteCell<'_>), ArrowError> {
    let object = array.as_struct();
    let mut members = Vec::with_capacity(object.num_columns());
    for (field, column) in object.fields().iter().zip(object.columns()) {
        let mut name = Vec::new();
        write_json_text(field.name().as_bytes(), &mut name);
        members.push((name, Cells::new(column.as_ref(), options)?));
    }
    let write = move |row, out: &mut Vec<u8>| {
        out.push(b'{');
        for (index, (name, cells)) in members.iter().enumerate() {
            if index > 0 {
                out.push(b',');
            }
            out.extend_from_slice(name);
            out.push(b':');
            cells.write_json(row, out);
        }
        out.push(b'}');
    };
    Ok((Kind::Json, Box::new(write)))
}
