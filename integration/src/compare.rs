//! Two answers to one query, row by row.

use std::cmp::Ordering;

use anyhow::{Result, bail};
use serde_json::Value;

/// Largest relative difference between two floats that count as equal: sums may be added in any
/// order.
const FLOAT_TOLERANCE: f64 = 1e-9;

/// Whether both hold the same rows; in the same order if `ordered`.
///
/// * errors: names the first row and column that differ.
pub fn rows(name: &str, ours: &[Vec<Value>], theirs: &[Vec<Value>], ordered: bool) -> Result<()> {
    if ours.len() != theirs.len() {
        bail!(
            "{name}: {} rows, the oracle has {}",
            ours.len(),
            theirs.len()
        );
    }
    let (mut ours, mut theirs) = (ours.to_vec(), theirs.to_vec());
    if !ordered {
        ours.sort_by(|a, b| order(a, b));
        theirs.sort_by(|a, b| order(a, b));
    }
    for (at, (ours, theirs)) in ours.iter().zip(&theirs).enumerate() {
        if ours.len() != theirs.len() {
            bail!(
                "{name}: row {at} has {} columns, the oracle's {}",
                ours.len(),
                theirs.len()
            );
        }
        for (column, (a, b)) in ours.iter().zip(theirs).enumerate() {
            if !same(a, b) {
                bail!("{name}: row {at}, column {column}: {a}, the oracle has {b}");
            }
        }
    }
    Ok(())
}

fn same(a: &Value, b: &Value) -> bool {
    match (a.as_i64(), b.as_i64()) {
        (Some(a), Some(b)) => return a == b,
        (None, None) => {}
        _ => {}
    }
    match (a.as_f64(), b.as_f64()) {
        (Some(a), Some(b)) => (a - b).abs() <= FLOAT_TOLERANCE * a.abs().max(b.abs()),
        _ => a == b,
    }
}

fn order(a: &[Value], b: &[Value]) -> Ordering {
    let texts = |row: &[Value]| row.iter().map(Value::to_string).collect::<Vec<_>>();
    texts(a).cmp(&texts(b))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn differences_are_found_and_named() {
        let row = |values: Value| serde_json::from_value::<Vec<Value>>(values).unwrap();
        let (a, b) = (row(json!([1, "x", 0.1])), row(json!([2, "y", null])));
        let both = [a.clone(), b.clone()];
        let turned = [b.clone(), a.clone()];
        assert!(rows("q", &both, &both, true).is_ok());
        assert!(rows("q", &both, &turned, false).is_ok());
        assert!(rows("q", &both, &turned, true).is_err());
        assert!(rows("q", &both, &both[..1], true).is_err());
        let close = [row(json!([1, "x", 0.1 + 1e-12])), b.clone()];
        assert!(rows("q", &both, &close, true).is_ok());
        for other in [
            json!([1, "x", 0.1001]),
            json!([1, "X", 0.1]),
            json!([3, "x", 0.1]),
            json!([1, "x"]),
        ] {
            let other = [row(other), b.clone()];
            assert!(rows("q", &both, &other, true).is_err(), "{other:?}");
        }
    }
}
