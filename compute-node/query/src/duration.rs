//! Lengths of time as people write them: `5m`, `1h30m`, `30d`, `1mo`, `100ms`, `1 hour`, `2 days`.

use datafusion::arrow::datatypes::IntervalMonthDayNano;

const SECOND: i128 = 1_000_000_000;
const DAY: i128 = 86_400 * SECOND;

/// A unit as months, or as nanoseconds.
enum Unit {
    Months(i32),
    Ns(i128),
}

fn unit(name: &str) -> Option<Unit> {
    Some(match name {
        "ns" | "nanosecond" | "nanoseconds" => Unit::Ns(1),
        "us" | "µs" | "u" | "microsecond" | "microseconds" => Unit::Ns(1_000),
        "ms" | "millisecond" | "milliseconds" => Unit::Ns(1_000_000),
        "s" | "sec" | "secs" | "second" | "seconds" => Unit::Ns(SECOND),
        "m" | "min" | "mins" | "minute" | "minutes" => Unit::Ns(60 * SECOND),
        "h" | "hr" | "hrs" | "hour" | "hours" => Unit::Ns(3_600 * SECOND),
        "d" | "day" | "days" => Unit::Ns(DAY),
        "w" | "week" | "weeks" => Unit::Ns(7 * DAY),
        "mo" | "mon" | "mons" | "month" | "months" => Unit::Months(1),
        "q" | "quarter" | "quarters" => Unit::Months(3),
        "y" | "yr" | "yrs" | "year" | "years" => Unit::Months(12),
        _ => return None,
    })
}

/// Months and nanoseconds; `None` when the text is no duration or beyond what an interval holds.
fn parts(text: &str) -> Option<(i32, i128)> {
    let text = text.trim().to_lowercase();
    let (mut months, mut ns): (i32, i128) = (0, 0);
    let mut rest = text.as_str();
    if rest.is_empty() {
        return None;
    }
    while !rest.is_empty() {
        let digits = rest.len()
            - rest
                .trim_start_matches(|char: char| char.is_ascii_digit())
                .len();
        let count: i32 = rest[..digits].parse().ok()?;
        let behind = rest[digits..].trim_start();
        let letters = behind.len() - behind.trim_start_matches(char::is_alphabetic).len();
        match unit(&behind[..letters])? {
            Unit::Months(each) => months = months.checked_add(count.checked_mul(each)?)?,
            Unit::Ns(each) => ns = ns.checked_add(i128::from(count) * each)?,
        }
        rest = behind[letters..].trim_start();
    }
    Some((months, ns))
}

/// A duration of fixed length in nanoseconds; a month counts 30 days, a year 365.
pub(crate) fn parse_fixed(text: &str) -> Option<i128> {
    let (months, ns) = parts(text)?;
    let days = i128::from(months / 12) * 365 + i128::from(months % 12) * 30;
    Some(days * DAY + ns)
}

/// A duration as an interval, months kept apart.
pub(crate) fn parse_interval(text: &str) -> Option<IntervalMonthDayNano> {
    let (months, ns) = parts(text)?;
    Some(IntervalMonthDayNano::new(
        months,
        0,
        i64::try_from(ns).ok()?,
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_read_as_written() {
        let table = [
            ("5m", Some((0, 300 * SECOND))),
            ("1h30m", Some((0, 5_400 * SECOND))),
            ("1 h 30 m", Some((0, 5_400 * SECOND))),
            ("1y2mo", Some((14, 0))),
            ("2W", Some((0, 14 * DAY))),
            ("100ms", Some((0, 100_000_000))),
            ("1 hour", Some((0, 3_600 * SECOND))),
            ("1 month", Some((1, 0))),
            ("1 day 2 hours 30 minutes", Some((0, DAY + 9_000 * SECOND))),
            ("", None),
            ("5", None),
            ("m", None),
            ("-5m", None),
            ("5 parsecs", None),
            ("99999999999999999999d", None),
        ];
        for (text, expected) in table {
            assert_eq!(parts(text), expected, "{text:?}");
        }
        assert_eq!(parse_fixed("1y"), Some(365 * DAY));
        assert_eq!(parse_interval("2000000000d"), None);
    }
}
