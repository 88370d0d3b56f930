//! Numbers as statements write them, digit for digit.
//!
//! DataFusion reads whatever is no 64-bit integer as a float, and a float holds some 16 digits. Where
//! more of them count, this is what they are. Never here: arithmetic, types of Arrow.

/// Most digits that a DECIMAL has.
pub(crate) const DIGITS_MAX: usize = 38;

/// `digits` times ten to the power of `exponent`; zero has no digits, the last one is not a zero.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Number {
    negative: bool,
    digits: String,
    exponent: i64,
}

impl Number {
    /// Reads digits with an optional point, exponent and underscores; `None` for anything else.
    pub(crate) fn read(text: &str, negative: bool) -> Option<Self> {
        let text = text.replace('_', "");
        let (mantissa, exponent) = match text.split_once(['e', 'E']) {
            Some((mantissa, exponent)) => (mantissa, exponent.parse::<i32>().ok()?),
            None => (text.as_str(), 0),
        };
        let (whole, part) = mantissa.split_once('.').unwrap_or((mantissa, ""));
        let all = format!("{whole}{part}");
        if all.is_empty() || !all.bytes().all(|byte| byte.is_ascii_digit()) {
            return None;
        }
        let exponent = i64::from(exponent) - part.len() as i64;
        let digits = all.trim_end_matches('0');
        let exponent = exponent + (all.len() - digits.len()) as i64;
        let digits = digits.trim_start_matches('0');
        Some(Self {
            negative,
            digits: digits.to_owned(),
            exponent: if digits.is_empty() { 0 } else { exponent },
        })
    }

    /// The value as an integer, if it is whole and has at most 38 digits.
    pub(crate) fn integer(&self) -> Option<i128> {
        match self.exponent {
            0.. => self.scaled(0),
            _ => None,
        }
    }

    /// Whether there is nothing but zeros behind the point.
    pub(crate) fn is_whole(&self) -> bool {
        self.exponent >= 0
    }

    /// Digits that a DECIMAL needs to hold it, and how many of them behind the point.
    pub(crate) fn precision_and_scale(&self) -> (usize, usize) {
        let behind = usize::try_from(-self.exponent).unwrap_or(0);
        let zeros = usize::try_from(self.exponent).unwrap_or(0);
        let all = (self.digits.len().saturating_add(zeros)).max(behind).max(1);
        (all, behind)
    }

    /// The value times ten to the power of `scale`, rounded half away from zero; `None` beyond 38
    /// digits.
    pub(crate) fn scaled(&self, scale: usize) -> Option<i128> {
        let shift = self.exponent + scale as i64;
        let length = self.digits.len() as i64;
        let unsigned = match shift {
            _ if self.digits.is_empty() => 0,
            0.. if length + shift > DIGITS_MAX as i64 => return None,
            0.. => self.digits.parse::<i128>().ok()? * 10_i128.pow(u32::try_from(shift).ok()?),
            _ if length + shift > DIGITS_MAX as i64 => return None,
            _ => match usize::try_from(length + shift) {
                Err(_) => 0,
                Ok(kept) => {
                    let (kept, cut) = self.digits.split_at(kept);
                    let kept = match kept {
                        "" => 0,
                        kept => kept.parse::<i128>().ok()?,
                    };
                    kept + i128::from(cut.as_bytes()[0] >= b'5')
                }
            },
        };
        Some(if self.negative { -unsigned } else { unsigned })
    }
}

/// An integer that counts units of ten to the power of `-scale`, with a point.
pub(crate) fn with_point(scaled: i128, scale: usize) -> String {
    let sign = if scaled < 0 { "-" } else { "" };
    let digits = format!("{:0>width$}", scaled.unsigned_abs(), width = scale + 1);
    match scale {
        0 => format!("{sign}{digits}"),
        _ => {
            let (whole, part) = digits.split_at(digits.len() - scale);
            format!("{sign}{whole}.{part}")
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_keep_every_digit() {
        let table = [
            ("9007199254740993.01", 2, Some("9007199254740993.01")),
            ("1e3", 2, Some("1000.00")),
            ("1_000.5", 1, Some("1000.5")),
            (".005", 2, Some("0.01")),
            ("0.0049", 2, Some("0.00")),
            ("12.5E-1", 1, Some("1.3")),
            ("0.00", 2, Some("0.00")),
            ("1e-400", 2, Some("0.00")),
            ("1e400", 2, None),
            (
                "99999999999999999999999999999999999999",
                0,
                Some("99999999999999999999999999999999999999"),
            ),
            ("99999999999999999999999999999999999999", 1, None),
        ];
        for (text, scale, expected) in table {
            let number = Number::read(text, false).unwrap();
            let found = number.scaled(scale).map(|scaled| with_point(scaled, scale));
            assert_eq!(found.as_deref(), expected, "{text}");
        }
        let number = |text| Number::read(text, true).unwrap();
        assert_eq!(number("1.50e1").integer(), Some(-15));
        assert_eq!(number("1.7").integer(), None);
        assert_eq!(number("1.25").precision_and_scale(), (3, 2));
        assert_eq!(number("0.001").precision_and_scale(), (3, 3));
        assert_eq!(number("1e3").precision_and_scale(), (4, 0));
        assert_eq!(with_point(-5, 2), "-0.05");
        for text in ["", ".", "x", "1e", "1.2.3", "1e99999999999"] {
            assert_eq!(Number::read(text, false), None, "{text}");
        }
    }
}
