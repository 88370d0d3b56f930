//! Numbers that carry their unit: sizes, shares of memory, times.
//!
//! Never a bare number: whether 64 means bytes or mebibytes is not guessed.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

const SIZES: [(&str, u64); 9] = [
    ("TiB", 1 << 40),
    ("GiB", 1 << 30),
    ("MiB", 1 << 20),
    ("KiB", 1 << 10),
    ("TB", 1_000_000_000_000),
    ("GB", 1_000_000_000),
    ("MB", 1_000_000),
    ("kB", 1_000),
    ("B", 1),
];

const TIMES_MS: [(&str, u64); 5] = [
    ("d", 86_400_000),
    ("h", 3_600_000),
    ("m", 60_000),
    ("s", 1_000),
    ("ms", 1),
];

/// A number of bytes, written `64MiB`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Size(pub(crate) u64);

/// Bytes, or a share of the memory this process may use, written `8GiB` or `60%`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Budget {
    Bytes(Size),
    Percent(u8),
}

/// A length of time in whole milliseconds, written `30s`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Period(pub(crate) Duration);

impl Size {
    /// The number for code that counts memory; a machine of 64 bits is assumed.
    pub(crate) fn as_usize(self) -> usize {
        usize::try_from(self.0).unwrap_or(usize::MAX)
    }
}

impl Budget {
    /// How many bytes that is where `available` bytes of memory may be used.
    pub(crate) fn of(self, available: u64) -> u64 {
        match self {
            Self::Bytes(Size(bytes)) => bytes,
            Self::Percent(percent) => available / 100 * u64::from(percent),
        }
    }
}

impl FromStr for Size {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        scaled(text, &SIZES).map(Self).ok_or_else(|| {
            format!(
                "{text:?} is not a size: a whole number and B, KiB, MiB, GiB or TiB, like 64MiB"
            )
        })
    }
}

impl FromStr for Budget {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let Some(percent) = text.strip_suffix('%') else {
            return Ok(Self::Bytes(text.parse()?));
        };
        match percent.trim().parse() {
            Ok(percent @ 1..=100) => Ok(Self::Percent(percent)),
            _ => Err(format!("{text:?} is not a share: 1% to 100%")),
        }
    }
}

impl FromStr for Period {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let ms = scaled(text, &TIMES_MS).ok_or_else(|| {
            format!("{text:?} is not a time: a whole number and ms, s, m, h or d, like 30s")
        })?;
        Ok(Self(Duration::from_millis(ms)))
    }
}

fn scaled(text: &str, units: &[(&str, u64)]) -> Option<u64> {
    let digits = text.find(|c: char| !c.is_ascii_digit())?;
    let (number, unit) = text.split_at(digits);
    let (_, scale) = units.iter().find(|(name, _)| *name == unit.trim_start())?;
    number.parse::<u64>().ok()?.checked_mul(*scale)
}

/// Writes with the largest unit that divides the number.
fn write_scaled(f: &mut fmt::Formatter<'_>, number: u64, units: &[(&str, u64)]) -> fmt::Result {
    let fits = |(_, scale): &&(&str, u64)| number >= *scale && number.is_multiple_of(*scale);
    match units.iter().find(fits).or(units.last()) {
        Some((name, scale)) => write!(f, "{}{name}", number / scale),
        None => write!(f, "{number}"),
    }
}

impl fmt::Display for Size {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write_scaled(f, self.0, &SIZES)
    }
}

impl fmt::Display for Budget {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Bytes(size) => size.fmt(f),
            Self::Percent(percent) => write!(f, "{percent}%"),
        }
    }
}

impl fmt::Display for Period {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let ms = u64::try_from(self.0.as_millis()).unwrap_or(u64::MAX);
        write_scaled(f, ms, &TIMES_MS)
    }
}

/// Makes a type that is written as text read and write itself so in a configuration.
macro_rules! as_text {
    ($($name:ty),*) => {$(
        impl serde::Serialize for $name {
            fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.collect_str(self)
            }
        }

        impl<'de> serde::Deserialize<'de> for $name {
            fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                let text = <String as serde::Deserialize>::deserialize(deserializer)?;
                text.parse().map_err(serde::de::Error::custom)
            }
        }
    )*};
}
pub(super) use as_text;

as_text!(Size, Budget, Period);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_written_as_they_are_read() {
        for (text, bytes, back) in [
            ("64MiB", 64 << 20, "64MiB"),
            ("1024 KiB", 1 << 20, "1MiB"),
            ("5GB", 5_000_000_000, "5GB"),
            ("0B", 0, "0B"),
            ("1025B", 1_025, "1025B"),
        ] {
            let size: Size = text.parse().unwrap();
            assert_eq!((size.0, size.to_string().as_str()), (bytes, back));
        }
        for wrong in ["64", "64M", "MiB", "-1B", "1.5GiB", "", "99999999999TiB"] {
            let error = wrong.parse::<Size>().unwrap_err();
            assert!(error.contains("is not a size"), "{wrong}: {error}");
        }
    }

    #[test]
    fn a_budget_is_bytes_or_a_share() {
        assert_eq!("60%".parse::<Budget>().unwrap().of(1_000), 600);
        assert_eq!("2KiB".parse::<Budget>().unwrap().of(1_000), 2_048);
        for wrong in ["0%", "101%", "x%", "60"] {
            assert!(wrong.parse::<Budget>().is_err(), "{wrong}");
        }
    }

    #[test]
    fn times_are_written_as_they_are_read() {
        for (text, ms, back) in [
            ("30s", 30_000, "30s"),
            ("90s", 90_000, "90s"),
            ("60m", 3_600_000, "1h"),
            ("250ms", 250, "250ms"),
            ("0s", 0, "0ms"),
        ] {
            let time: Period = text.parse().unwrap();
            assert_eq!(time.0, Duration::from_millis(ms));
            assert_eq!(time.to_string(), back);
        }
        assert!("30".parse::<Period>().is_err());
        assert!("1w".parse::<Period>().is_err());
    }
}
