//! Words of DDL for the types of columns.

use auxo_proto::error::{ErrorCode, Failure};
use auxo_proto::schema::{ColumnType, TimeUnit};
use datafusion::sql::sqlparser::tokenizer::Token;

use crate::cursor::Cursor;
use crate::hints::did_you_mean;

/// Type names without arguments; those that may be UNSIGNED have a second type.
const TYPES: [(&str, ColumnType, Option<ColumnType>); 37] = [
    ("STRING", ColumnType::String, None),
    ("TEXT", ColumnType::String, None),
    ("VARCHAR", ColumnType::String, None),
    ("CHAR", ColumnType::String, None),
    ("CHARACTER VARYING", ColumnType::String, None),
    ("DOUBLE PRECISION", ColumnType::Float64, None),
    ("DOUBLE", ColumnType::Float64, None),
    ("FLOAT8", ColumnType::Float64, None),
    ("FLOAT64", ColumnType::Float64, None),
    ("FLOAT4", ColumnType::Float32, None),
    ("FLOAT32", ColumnType::Float32, None),
    ("FLOAT", ColumnType::Float32, None),
    ("REAL", ColumnType::Float32, None),
    ("TINYINT", ColumnType::Int8, Some(ColumnType::UInt8)),
    ("SMALLINT", ColumnType::Int16, Some(ColumnType::UInt16)),
    ("INT2", ColumnType::Int16, Some(ColumnType::UInt16)),
    ("INT16", ColumnType::Int16, None),
    ("INTEGER", ColumnType::Int32, Some(ColumnType::UInt32)),
    ("INT4", ColumnType::Int32, Some(ColumnType::UInt32)),
    ("INT32", ColumnType::Int32, None),
    ("INT8", ColumnType::Int64, Some(ColumnType::UInt64)),
    ("INT64", ColumnType::Int64, None),
    ("INT", ColumnType::Int32, Some(ColumnType::UInt32)),
    ("BIGINT", ColumnType::Int64, Some(ColumnType::UInt64)),
    ("UINT16", ColumnType::UInt16, None),
    ("UINT32", ColumnType::UInt32, None),
    ("UINT64", ColumnType::UInt64, None),
    ("BOOLEAN", ColumnType::Bool, None),
    ("BOOL", ColumnType::Bool, None),
    ("BINARY", ColumnType::Binary, None),
    ("VARBINARY", ColumnType::Binary, None),
    ("BYTEA", ColumnType::Binary, None),
    ("BLOB", ColumnType::Binary, None),
    ("DATE", ColumnType::Date, None),
    ("TIMESTAMP_S", ColumnType::Timestamp(TimeUnit::Second), None),
    (
        "TIMESTAMP_MS",
        ColumnType::Timestamp(TimeUnit::Millisecond),
        None,
    ),
    (
        "TIMESTAMP_NS",
        ColumnType::Timestamp(TimeUnit::Nanosecond),
        None,
    ),
];

/// Reads a type.
///
/// * errors: with its place, and the type that was probably meant.
pub(crate) fn column_type(cursor: &mut Cursor<'_>) -> Result<ColumnType, Failure> {
    let place = cursor.position();
    if cursor.takes("TIMESTAMPTZ") || cursor.takes("TIMESTAMP") || cursor.takes("DATETIME") {
        return timestamp_type(cursor);
    }
    if cursor.takes("DECIMAL") || cursor.takes("NUMERIC") {
        return decimal_type(cursor);
    }
    for (name, ty, unsigned) in TYPES {
        if !cursor.takes(name) {
            continue;
        }
        if ty == ColumnType::String && cursor.takes_sign(&Token::LParen) {
            let _: u32 = cursor.number("a length")?;
            cursor.sign(&Token::RParen)?;
        }
        return match unsigned {
            Some(unsigned) if cursor.takes("UNSIGNED") => Ok(unsigned),
            _ => Ok(ty),
        };
    }
    let name = cursor.name("a type")?.to_uppercase();
    let failure = Failure::new(ErrorCode::Parse, format!("unknown type {name}")).at(place);
    let known = TYPES
        .iter()
        .map(|(name, _, _)| *name)
        .chain(["TIMESTAMP", "DECIMAL"]);
    let names: Vec<String> = known.map(str::to_lowercase).collect();
    Err(
        match did_you_mean(&name.to_lowercase(), names.iter().map(String::as_str)) {
            Some(hint) => failure.hint(hint.to_uppercase().replacen(
                "DID YOU MEAN",
                "did you mean",
                1,
            )),
            None => failure,
        },
    )
}

/// Digits of a second behind TIMESTAMP: 0, 3, 6 or 9; without them 9.
fn timestamp_type(cursor: &mut Cursor<'_>) -> Result<ColumnType, Failure> {
    let mut unit = TimeUnit::Nanosecond;
    if cursor.takes_sign(&Token::LParen) {
        let place = cursor.position();
        unit = match cursor.number::<u8>("0, 3, 6 or 9")? {
            0 => TimeUnit::Second,
            3 => TimeUnit::Millisecond,
            6 => TimeUnit::Microsecond,
            9 => TimeUnit::Nanosecond,
            other => {
                let detail = format!("a timestamp has 0, 3, 6 or 9 digits, not {other}");
                return Err(Failure::new(ErrorCode::Parse, detail).at(place));
            }
        };
        cursor.sign(&Token::RParen)?;
    }
    let _ = cursor.takes("WITHOUT TIME ZONE") || cursor.takes("WITH TIME ZONE");
    Ok(ColumnType::Timestamp(unit))
}

fn decimal_type(cursor: &mut Cursor<'_>) -> Result<ColumnType, Failure> {
    let place = cursor.position();
    let (mut precision, mut scale) = (38, 10);
    if cursor.takes_sign(&Token::LParen) {
        precision = cursor.number::<u8>("the number of digits")?;
        scale = 0;
        if cursor.takes_sign(&Token::Comma) {
            scale = cursor.number::<i8>("the digits behind the point")?;
        }
        cursor.sign(&Token::RParen)?;
    }
    let fits = (1..=38).contains(&precision) && (0..=precision as i8).contains(&scale);
    match fits {
        true => Ok(ColumnType::Decimal { precision, scale }),
        false => {
            let detail = "DECIMAL(p, s) has 1 to 38 digits, 0 to p of them behind the point";
            Err(Failure::new(ErrorCode::Parse, detail).at(place))
        }
    }
}
