//! What stands in VALUES of an INSERT, held against the columns it goes to, before a plan is made.
//!
//! * Every row gives as many values as there are columns.
//! * A number for a DECIMAL goes there digit for digit, rounded to the column's scale.
//! * A number for an integer column or for a time is whole, and in the range of an integer column, or
//!   of the moments that can be stored; text for a time is one of those moments.
//! * A number for a float, also as text, is not so large that it would be infinite there.
//! * NULL is for columns that may be NULL.
//!
//! What is neither number, text nor NULL as written is left to the plan. Refusals name the place of the
//! value.

use arrow::compute::kernels::cast_utils::string_to_datetime;
use auxo_proto::error::{ErrorCode, Failure, Position};
use auxo_proto::schema::{Column, ColumnType, TableInfo};
use chrono::Utc;
use datafusion::sql::sqlparser::ast::{
    Expr, Insert, SelectItem, SetExpr, Spanned, Value, ValueWithSpan,
};

use crate::literals::{name_of, number};
use crate::number::with_point;
use crate::tokens::position;

/// Checks what an INSERT gives, and writes its DECIMALs such that they stay exact.
///
/// * errors: with the place of the value, or of the row, at fault.
pub(crate) fn check(insert: &mut Insert, table: &TableInfo, text: &str) -> Result<(), Failure> {
    let named = insert.columns.iter().map(|name| {
        let ident = name.0.last().and_then(|part| part.as_ident());
        ident.and_then(|ident| table.schema.by_name(&name_of(ident)))
    });
    let mut columns: Vec<Option<&Column>> = named.collect();
    if columns.is_empty() {
        columns = table.schema.columns.iter().map(Some).collect();
    }
    let Some(source) = &mut insert.source else {
        return Ok(());
    };
    match source.body.as_mut() {
        SetExpr::Values(values) => {
            for row in &mut values.rows {
                let (given, wanted) = (row.content.len(), columns.len());
                if given != wanted {
                    let behind = row.closing_token.0.span.start;
                    let place = row.content.get(wanted).map_or(behind, place_of);
                    return Err(arity(given, wanted).at(position(text, place)));
                }
                for (value, column) in row.content.iter_mut().zip(&columns) {
                    if let Some(column) = column {
                        fit(value, column, text)?;
                    }
                }
            }
        }
        SetExpr::Select(select) => {
            let wildcard = |item: &SelectItem| {
                !matches!(
                    item,
                    SelectItem::UnnamedExpr(_) | SelectItem::ExprWithAlias { .. }
                )
            };
            if select.projection.iter().any(wildcard) {
                return Ok(());
            }
            let (given, wanted) = (select.projection.len(), columns.len());
            if given != wanted {
                let begin = select.select_token.0.span.start;
                let place = select.projection.get(wanted);
                let place = place.map_or(begin, |item| item.span().start);
                return Err(arity(given, wanted).at(position(text, place)));
            }
            for (item, column) in select.projection.iter_mut().zip(&columns) {
                if let (
                    SelectItem::UnnamedExpr(value) | SelectItem::ExprWithAlias { expr: value, .. },
                    Some(column),
                ) = (item, column)
                {
                    fit(value, column, text)?;
                }
            }
        }
        _ => {}
    }
    Ok(())
}

fn arity(given: usize, wanted: usize) -> Failure {
    let detail = format!("a row has {given} values for {wanted} columns");
    Failure::new(ErrorCode::Plan, detail)
}

fn place_of(expr: &Expr) -> datafusion::sql::sqlparser::tokenizer::Location {
    match number(expr) {
        Some((_, value)) => value.span.start,
        None => expr.span().start,
    }
}

fn fit(value: &mut Expr, column: &Column, text: &str) -> Result<(), Failure> {
    let Some((number, written)) = number(value) else {
        return match value {
            Expr::Value(value) => {
                let place = || position(text, value.span.start);
                fit_word(&value.value, column, place)
            }
            _ => Ok(()),
        };
    };
    // Found only where something is refused: it is counted from the start of the text.
    let place = || position(text, written.span.start);
    if let ColumnType::Decimal { precision, scale } = column.ty {
        let scale = usize::try_from(scale).unwrap_or(0);
        let limit = 10_i128.checked_pow(precision.into()).unwrap_or(i128::MAX);
        let scaled = number.scaled(scale);
        let Some(scaled) = scaled.filter(|scaled| (-limit < *scaled) && (*scaled < limit)) else {
            return Err(out_of_range(column, &value.to_string(), place()));
        };
        let exact = Value::SingleQuotedString(with_point(scaled, scale));
        *value = Expr::Value(ValueWithSpan {
            value: exact,
            span: written.span,
        });
        return Ok(());
    }
    let time = matches!(column.ty, ColumnType::Timestamp(_));
    let range = range(column.ty);
    if (time || range.is_some()) && !number.is_whole() {
        return Err(not_whole(column, &value.to_string()).at(place()));
    }
    if let ColumnType::Timestamp(unit) = column.ty {
        let ns = number.integer();
        let ns = ns.and_then(|count| count.checked_mul(unit.ns().into()));
        return match ns.map(i64::try_from) {
            Some(Ok(_)) => Ok(()),
            _ => Err(no_moment(column, place())),
        };
    }
    let Some((least, most)) = range else {
        return fit_float(&value.to_string(), column, place);
    };
    match number.integer() {
        Some(integer) if (least..=most).contains(&integer) => Ok(()),
        _ => Err(out_of_range(column, &value.to_string(), place())),
    }
}

/// Holds a value that is no number against its column.
fn fit_word(
    value: &Value,
    column: &Column,
    place: impl FnOnce() -> Position,
) -> Result<(), Failure> {
    match (value, column.ty) {
        (Value::Null, _) if !column.nullable => {
            let detail = format!("column {} may not be NULL", column.name);
            Err(Failure::new(ErrorCode::TypeMismatch, detail).at(place()))
        }
        (Value::SingleQuotedString(moment), ColumnType::Timestamp(_)) => {
            match string_to_datetime(&Utc, moment) {
                Ok(moment) if moment.timestamp_nanos_opt().is_some() => Ok(()),
                Ok(_) => Err(no_moment(column, place())),
                Err(_) => {
                    let detail = format!(
                        "column {} is {}, its value is no time such as '2026-01-31T12:30:00.5Z'",
                        column.name, column.ty
                    );
                    Err(Failure::new(ErrorCode::TypeMismatch, detail).at(place()))
                }
            }
        }
        (Value::SingleQuotedString(text), _) => fit_float(text, column, place),
        _ => Ok(()),
    }
}

/// Holds a number against a column of floats: it may lose digits there, and not become infinite.
fn fit_float(text: &str, column: &Column, place: impl FnOnce() -> Position) -> Result<(), Failure> {
    let infinite = match column.ty {
        ColumnType::Float32 => text.trim().parse().is_ok_and(f32::is_infinite),
        ColumnType::Float64 => text.trim().parse().is_ok_and(f64::is_infinite),
        _ => false,
    };
    // What is written as infinite is meant so.
    match infinite && text.contains(|char: char| char.is_ascii_digit()) {
        true => Err(out_of_range(column, text, place())),
        false => Ok(()),
    }
}

fn no_moment(column: &Column, place: Position) -> Failure {
    let detail = format!(
        "a value of {} lies outside the years 1677 to 2262",
        column.name
    );
    Failure::new(ErrorCode::BadTimestamp, detail).at(place)
}

/// Least and largest value of an integer type, `None` for every other type.
fn range(ty: ColumnType) -> Option<(i128, i128)> {
    match (ty.signed_range(), ty.unsigned_max()) {
        (Some((least, most)), _) => Some((least.into(), most.into())),
        (None, Some(most)) => Some((0, most.into())),
        (None, None) => None,
    }
}

/// A value that a column of whole numbers cannot take without losing a part of it.
fn not_whole(column: &Column, value: &str) -> Failure {
    let detail = format!(
        "column {} is {}, {value} is not whole",
        column.name, column.ty
    );
    Failure::new(ErrorCode::TypeMismatch, detail)
}

fn out_of_range(column: &Column, value: &str, place: Position) -> Failure {
    let detail = format!(
        "column {} is {}, {value} does not fit",
        column.name, column.ty
    );
    Failure::new(ErrorCode::ValueOutOfRange, detail).at(place)
}
