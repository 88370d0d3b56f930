//! Bounds on a field against the smallest and largest value of a file or page.

use super::{Bound, FieldBounds};

/// Largest integer up to which every integer is a float.
const EXACT_MAX: u64 = 1 << 53;

impl FieldBounds {
    /// Whether a value between `min` and `max`, both included, may matter; rather says yes.
    pub fn may_hold(&self, min: Bound, max: Bound) -> bool {
        let below = self.min.is_some_and(|bound| certainly_less(max, bound));
        let above = self.max.is_some_and(|bound| certainly_less(bound, min));
        !below && !above
    }
}

/// Whether `a` is less than `b` for certain: integers and floats are compared only where no
/// rounding comes in.
fn certainly_less(a: Bound, b: Bound) -> bool {
    match (a, b) {
        (Bound::F64(a), b) => exact(b).is_some_and(|b| a < b),
        (a, Bound::F64(b)) => exact(a).is_some_and(|a| a < b),
        (a, b) => integer(a).zip(integer(b)).is_some_and(|(a, b)| a < b),
    }
}

fn integer(bound: Bound) -> Option<i128> {
    match bound {
        Bound::I64(value) => Some(value.into()),
        Bound::U64(value) => Some(value.into()),
        Bound::F64(_) => None,
    }
}

fn exact(bound: Bound) -> Option<f64> {
    match bound {
        Bound::I64(value) => (value.unsigned_abs() <= EXACT_MAX).then_some(value as f64),
        Bound::U64(value) => (value <= EXACT_MAX).then_some(value as f64),
        Bound::F64(value) => Some(value),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use auxo_proto::ids::ColumnId;

    #[test]
    fn only_what_certainly_lies_outside_is_ruled_out() {
        let bounds = |min, max| FieldBounds {
            column: ColumnId(1),
            min,
            max,
        };
        let (i, u, f) = (Bound::I64, Bound::U64, Bound::F64);
        let between = bounds(Some(i(5)), Some(i(9)));
        assert!(between.may_hold(i(9), i(20)) && between.may_hold(i(0), i(5)));
        assert!(!between.may_hold(i(10), i(20)) && !between.may_hold(i(-3), i(4)));
        assert!(between.may_hold(u(9), u(u64::MAX)) && !between.may_hold(u(10), u(u64::MAX)));
        assert!(!between.may_hold(f(9.5), f(10.0)) && between.may_hold(f(8.5), f(10.0)));
        let open = bounds(None, None);
        assert!(open.may_hold(i(0), i(0)));
        let large = bounds(Some(f(1e300)), None);
        assert!(
            large.may_hold(i(i64::MAX), i(i64::MAX)),
            "rounding comes in"
        );
        assert!(!large.may_hold(i(0), i(1 << 50)));
        let zero = bounds(Some(f(0.0)), None);
        assert!(zero.may_hold(f(-0.0), f(-0.0)));
    }
}
