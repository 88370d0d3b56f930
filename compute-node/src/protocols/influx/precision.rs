//! Units of a body's timestamps.

use std::str::FromStr;

use super::faults::Fault;

/// Unit of the timestamps of a body.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Precision {
    /// Nanoseconds.
    #[default]
    Nanosecond,
    /// Microseconds.
    Microsecond,
    /// Milliseconds.
    Millisecond,
    /// Seconds.
    Second,
    /// Minutes.
    Minute,
    /// Hours.
    Hour,
    /// Told from each number's size: below 5e9 seconds, below 5e12 milliseconds, below 5e15
    /// microseconds, else nanoseconds.
    Auto,
}

impl Precision {
    fn unit_ns(self, value: i64) -> i64 {
        match self {
            Self::Nanosecond => 1,
            Self::Microsecond => 1_000,
            Self::Millisecond => 1_000_000,
            Self::Second => 1_000_000_000,
            Self::Minute => 60_000_000_000,
            Self::Hour => 3_600_000_000_000,
            Self::Auto => match value.unsigned_abs() {
                0..5_000_000_000 => 1_000_000_000,
                5_000_000_000..5_000_000_000_000 => 1_000_000,
                5_000_000_000_000..5_000_000_000_000_000 => 1_000,
                _ => 1,
            },
        }
    }

    /// A timestamp of the body in nanoseconds, if it may be stored.
    pub(super) fn to_ns(self, value: i64, now_ns: i64, future_ns: i64) -> Result<i64, Fault> {
        let time = value
            .checked_mul(self.unit_ns(value))
            .ok_or_else(|| Fault::TimeOutOfRange(value.to_string()))?;
        if time > now_ns.saturating_add(future_ns) {
            return Err(Fault::Future {
                ahead_s: time.saturating_sub(now_ns) / 1_000_000_000,
                max_s: future_ns / 1_000_000_000,
            });
        }
        Ok(time)
    }
}

/// A text names no precision.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("precision {0:?} is none of n, ns, u, us, ms, s, m, h")]
pub struct UnknownPrecision(pub String);

impl FromStr for Precision {
    type Err = UnknownPrecision;

    fn from_str(text: &str) -> Result<Self, UnknownPrecision> {
        Ok(match text {
            "" | "n" | "ns" | "nanosecond" => Self::Nanosecond,
            "u" | "us" | "microsecond" => Self::Microsecond,
            "ms" | "millisecond" => Self::Millisecond,
            "s" | "second" => Self::Second,
            "m" => Self::Minute,
            "h" => Self::Hour,
            "auto" => Self::Auto,
            other => return Err(UnknownPrecision(other.to_owned())),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn units_by_name() {
        let ns = |name: &str, value| name.parse::<Precision>().unwrap().to_ns(value, 0, i64::MAX);
        for (name, unit) in [
            ("", 1),
            ("n", 1),
            ("ns", 1),
            ("nanosecond", 1),
            ("u", 1_000),
            ("us", 1_000),
            ("microsecond", 1_000),
            ("ms", 1_000_000),
            ("millisecond", 1_000_000),
            ("s", 1_000_000_000),
            ("second", 1_000_000_000),
            ("m", 60_000_000_000),
            ("h", 3_600_000_000_000),
        ] {
            assert_eq!(ns(name, -2), Ok(-2 * unit), "{name}");
        }
        assert!("d".parse::<Precision>().is_err());
        for (value, unit) in [
            (1_700_000_000, 1_000_000_000),
            (1_700_000_000_000, 1_000_000),
            (1_700_000_000_000_000, 1_000),
            (1_700_000_000_000_000_000, 1),
            (-1_700_000_000, 1_000_000_000),
        ] {
            assert_eq!(ns("auto", value), Ok(value * unit));
        }
    }

    #[test]
    fn what_does_not_fit_is_refused() {
        let s = Precision::Second;
        let last = i64::MAX / 1_000_000_000;
        assert_eq!(s.to_ns(last, i64::MAX, 0), Ok(last * 1_000_000_000));
        assert_eq!(
            s.to_ns(last + 1, i64::MAX, 0),
            Err(Fault::TimeOutOfRange((last + 1).to_string()))
        );
        assert!(Precision::Hour.to_ns(i64::MIN, 0, 0).is_err());
        let ns = Precision::Nanosecond;
        assert_eq!(ns.to_ns(i64::MIN, 0, 0), Ok(i64::MIN));
        assert_eq!(ns.to_ns(600, 0, 600), Ok(600));
        let (ahead_s, max_s) = (0, 0);
        assert_eq!(ns.to_ns(601, 0, 600), Err(Fault::Future { ahead_s, max_s }));
    }
}
