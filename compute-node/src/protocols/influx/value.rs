//! The text of one value: numbers, booleans, strings.
//!
//! The `…_at` functions belong to the fast road: they read from the start of what may be the rest
//! of the body and return the value with its length, or `None` for the slow road to look at.
//! [`parse`] belongs to the slow road and is the judge: where an `…_at` function answers, it
//! answers the same.

use auxo_proto::schema::ColumnType;

use super::faults::{Fault, excerpt};

/// A value of a line.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Cell<'a> {
    Bool(bool),
    I64(i64),
    U64(u64),
    F64(f64),
    Text(Text<'a>),
}

/// A string as it stands in the line, without its quotes; UTF-8.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Text<'a> {
    pub(super) raw: &'a [u8],
    /// Whether a backslash stands in it.
    pub(super) escaped: bool,
}

impl<'a> Text<'a> {
    /// The bytes without escapes; `room` is used if there are any.
    pub(super) fn plain<'t>(self, room: &'t mut Vec<u8>) -> &'t [u8]
    where
        'a: 't,
    {
        if !self.escaped {
            return self.raw;
        }
        room.clear();
        let mut rest = self.raw;
        while let Some((&byte, after)) = rest.split_first() {
            rest = after;
            match (byte, after.first()) {
                (b'\\', Some(&next @ (b'"' | b'\\'))) => {
                    room.push(next);
                    rest = &after[1..];
                }
                _ => room.push(byte),
            }
        }
        room
    }
}

impl Cell<'_> {
    /// Type of a column that is made for the value.
    pub(super) fn ty(&self) -> ColumnType {
        match self {
            Self::Bool(_) => ColumnType::Bool,
            Self::I64(_) => ColumnType::Int64,
            Self::U64(_) => ColumnType::UInt64,
            Self::F64(_) => ColumnType::Float64,
            Self::Text(_) => ColumnType::String,
        }
    }

    /// The value as a column of that type holds it.
    ///
    /// * errors: [`Fault::Clash`], [`Fault::OutOfRange`].
    pub(super) fn fit(self, ty: ColumnType, name: &str) -> Result<Self, Fault> {
        let fits = match self {
            Self::I64(value) => ty
                .signed_range()
                .map(|(min, max)| (min..=max).contains(&value).then_some(self)),
            Self::U64(value) => ty.unsigned_max().map(|max| (value <= max).then_some(self)),
            Self::F64(_) if ty == ColumnType::Float64 => Some(Some(self)),
            Self::F64(value) if ty == ColumnType::Float32 => {
                let narrow = f64::from(value as f32);
                Some(narrow.is_finite().then_some(Self::F64(narrow)))
            }
            Self::Bool(_) if ty == ColumnType::Bool => Some(Some(self)),
            Self::Text(_) if ty == ColumnType::String => Some(Some(self)),
            Self::F64(_) | Self::Bool(_) | Self::Text(_) => None,
        };
        match fits {
            Some(Some(cell)) => Ok(cell),
            Some(None) => Err(Fault::OutOfRange {
                name: name.to_owned(),
                text: match self {
                    Self::I64(value) => value.to_string(),
                    Self::U64(value) => value.to_string(),
                    Self::F64(value) => value.to_string(),
                    Self::Bool(_) | Self::Text(_) => String::new(),
                },
                ty,
            }),
            None => Err(Fault::Clash {
                name: name.to_owned(),
                value: self.ty(),
                column: ty,
            }),
        }
    }
}

/// Reads the text of a value that is no string.
pub(super) fn parse(token: &[u8], name: &str) -> Result<Cell<'static>, Fault> {
    let not_a_value = || Fault::NotAValue {
        name: name.to_owned(),
        text: excerpt(token, 64),
    };
    let out_of_range = |ty| Fault::OutOfRange {
        name: name.to_owned(),
        text: excerpt(token, 64),
        ty,
    };
    if let Some((value, len)) = bool_at(token)
        && len == token.len()
    {
        return Ok(Cell::Bool(value));
    }
    let text = std::str::from_utf8(token).map_err(|_| not_a_value())?;
    let whole = |digits: &str| !digits.is_empty() && digits.bytes().all(|b| b.is_ascii_digit());
    if let Some(number) = text.strip_suffix('i') {
        if !whole(number.strip_prefix('-').unwrap_or(number)) {
            return Err(not_a_value());
        }
        let value = number.parse();
        return value
            .map(Cell::I64)
            .map_err(|_| out_of_range(ColumnType::Int64));
    }
    if let Some(number) = text.strip_suffix('u') {
        if !whole(number) {
            return Err(not_a_value());
        }
        let value = number.parse();
        return value
            .map(Cell::U64)
            .map_err(|_| out_of_range(ColumnType::UInt64));
    }
    // The words for NaN and infinities are numbers for the library, but not here.
    let numeric = |b: u8| matches!(b, b'0'..=b'9' | b'.' | b'-' | b'+' | b'e' | b'E');
    if text.starts_with('+') || !text.bytes().all(numeric) {
        return Err(not_a_value());
    }
    match lexical_core::parse::<f64>(token) {
        Ok(value) if value.is_finite() => Ok(Cell::F64(value)),
        Ok(_) => Err(out_of_range(ColumnType::Float64)),
        Err(_) => Err(not_a_value()),
    }
}

/// A timestamp's text.
pub(super) fn parse_time(token: &[u8]) -> Result<i64, Fault> {
    if let Some((value, len)) = signed_at(token)
        && len == token.len()
    {
        return Ok(value);
    }
    let digits = token.strip_prefix(b"-").unwrap_or(token);
    if digits.is_empty() || !digits.iter().all(u8::is_ascii_digit) {
        return Err(Fault::NotATime(excerpt(token, 64)));
    }
    std::str::from_utf8(token)
        .ok()
        .and_then(|text| text.parse().ok())
        .ok_or_else(|| Fault::TimeOutOfRange(excerpt(token, 64)))
}

/// `true` and `false` in all spellings of the protocol.
pub(super) fn bool_at(bytes: &[u8]) -> Option<(bool, usize)> {
    const WORDS: [(&[u8], bool); 10] = [
        (b"true", true),
        (b"True", true),
        (b"TRUE", true),
        (b"false", false),
        (b"False", false),
        (b"FALSE", false),
        (b"t", true),
        (b"T", true),
        (b"f", false),
        (b"F", false),
    ];
    let found = WORDS.iter().find(|(word, _)| bytes.starts_with(word));
    found.map(|(word, value)| (*value, word.len()))
}

/// A whole number with or without a minus; `None` where its size needs a second look.
pub(super) fn signed_at(bytes: &[u8]) -> Option<(i64, usize)> {
    let minus = usize::from(bytes.first() == Some(&b'-'));
    let (value, len) = unsigned_at(&bytes[minus..])?;
    let value = i64::try_from(value).ok()?;
    Some((if minus == 1 { -value } else { value }, minus + len))
}

/// A whole number of at most 19 digits.
pub(super) fn unsigned_at(bytes: &[u8]) -> Option<(u64, usize)> {
    let (value, len) = digits(bytes);
    (1..=19).contains(&len).then_some((value, len))
}

/// A number that begins with a digit, or with a minus and a digit.
pub(super) fn float_at(bytes: &[u8]) -> Option<(f64, usize)> {
    let minus = usize::from(bytes.first() == Some(&b'-'));
    if !bytes.get(minus)?.is_ascii_digit() {
        return None;
    }
    let (value, len) = lexical_core::parse_partial::<f64>(bytes).ok()?;
    value.is_finite().then_some((value, len))
}

/// A string without escapes and line feeds, its length with both quotes.
pub(super) fn text_at(bytes: &[u8]) -> Option<(Text<'_>, usize)> {
    let inner = bytes.strip_prefix(b"\"")?;
    let end = memchr::memchr3(b'"', b'\\', b'\n', inner)?;
    let raw = &inner[..end];
    let good = inner[end] == b'"' && std::str::from_utf8(raw).is_ok();
    let escaped = false;
    good.then_some((Text { raw, escaped }, end + 2))
}

/// Leading decimal digits as a number (exact up to 19 of them) and how many there are.
fn digits(bytes: &[u8]) -> (u64, usize) {
    const POWER: [u64; 9] = [
        1,
        10,
        100,
        1_000,
        10_000,
        100_000,
        1_000_000,
        10_000_000,
        100_000_000,
    ];
    let (mut value, mut len) = (0_u64, 0);
    while let Some(word) = bytes[len..].first_chunk::<8>() {
        let word = u64::from_le_bytes(*word);
        let count = leading_digits(word);
        if count > 0 {
            let eight = eight_digits(word << (64 - 8 * count));
            value = value.wrapping_mul(POWER[count]).wrapping_add(eight);
            len += count;
        }
        if count < 8 {
            return (value, len);
        }
    }
    while let Some(digit @ b'0'..=b'9') = bytes.get(len) {
        value = value.wrapping_mul(10).wrapping_add(u64::from(digit - b'0'));
        len += 1;
    }
    (value, len)
}

/// How many of eight bytes are digits before the first that is none; the first byte is the lowest.
///
/// A digit is 0x30 to 0x39: its upper half is 3, and stays 3 when 6 is added. The addition may
/// carry into the next byte only from a byte that is no digit, behind which nothing matters.
fn leading_digits(word: u64) -> usize {
    const UPPER: u64 = 0xF0F0_F0F0_F0F0_F0F0;
    const THREES: u64 = 0x3030_3030_3030_3030;
    let plus_six = word.wrapping_add(0x0606_0606_0606_0606);
    let other = ((word & UPPER) ^ THREES) | ((plus_six & UPPER) ^ THREES);
    other.trailing_zeros() as usize / 8
}

/// The number that eight digits show; the first digit is the lowest byte, zero bytes count as 0.
///
/// Neighbours are joined in three steps: to pairs, to fours, to eight.
fn eight_digits(word: u64) -> u64 {
    let ones = word & 0x0F0F_0F0F_0F0F_0F0F;
    let pairs = (ones.wrapping_mul(10) + (ones >> 8)) & 0x00FF_00FF_00FF_00FF;
    let fours = (pairs.wrapping_mul(100) + (pairs >> 16)) & 0x0000_FFFF_0000_FFFF;
    (fours.wrapping_mul(10_000) + (fours >> 32)) & 0xFFFF_FFFF
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn values_by_their_text() {
        let good: [(&str, Cell<'_>); 20] = [
            ("0i", Cell::I64(0)),
            ("-0i", Cell::I64(0)),
            ("007i", Cell::I64(7)),
            ("9223372036854775807i", Cell::I64(i64::MAX)),
            ("-9223372036854775808i", Cell::I64(i64::MIN)),
            ("0u", Cell::U64(0)),
            ("18446744073709551615u", Cell::U64(u64::MAX)),
            ("1", Cell::F64(1.0)),
            ("-1.5", Cell::F64(-1.5)),
            ("1e3", Cell::F64(1000.0)),
            ("1E+3", Cell::F64(1000.0)),
            ("1.5e-3", Cell::F64(0.0015)),
            ("1.7976931348623157e308", Cell::F64(f64::MAX)),
            ("1e-400", Cell::F64(0.0)),
            ("t", Cell::Bool(true)),
            ("TRUE", Cell::Bool(true)),
            ("True", Cell::Bool(true)),
            ("f", Cell::Bool(false)),
            ("false", Cell::Bool(false)),
            ("F", Cell::Bool(false)),
        ];
        for (text, value) in good {
            assert_eq!(parse(text.as_bytes(), "x"), Ok(value), "{text}");
        }
        for text in [
            "", "-", "i", "-i", "u", "+1", "+1i", "1.0i", "-1u", "--1", "1e", "e1", ".", "1_0",
            "0x1", "nan", "NaN", "inf", "-inf", "Infinity", "tRUE", "truee", "1 ", "1ii", "é",
        ] {
            let fault = parse(text.as_bytes(), "x").unwrap_err();
            assert!(matches!(fault, Fault::NotAValue { .. }), "{text}: {fault}");
        }
        for text in [
            "9223372036854775808i",
            "-9223372036854775809i",
            "18446744073709551616u",
            "1e309",
            "-1e309",
        ] {
            let fault = parse(text.as_bytes(), "x").unwrap_err();
            assert!(matches!(fault, Fault::OutOfRange { .. }), "{text}: {fault}");
        }
    }

    #[test]
    fn times_by_their_text() {
        for (text, value) in [
            ("0", 0),
            ("-1", -1),
            ("9223372036854775807", i64::MAX),
            ("-9223372036854775808", i64::MIN),
        ] {
            assert_eq!(parse_time(text.as_bytes()), Ok(value));
        }
        for text in ["", "-", "1.5", "1e3", "+1", "1 2", "abc", "12i"] {
            let fault = parse_time(text.as_bytes()).unwrap_err();
            assert!(matches!(fault, Fault::NotATime(_)), "{text}: {fault}");
        }
        for text in [
            "9223372036854775808",
            "-9223372036854775809",
            "99999999999999999999999",
        ] {
            let fault = parse_time(text.as_bytes()).unwrap_err();
            assert!(matches!(fault, Fault::TimeOutOfRange(_)), "{text}: {fault}");
        }
    }

    #[test]
    fn values_fit_columns_of_their_kind_only() {
        fn fit(cell: Cell<'_>, ty: ColumnType) -> Result<Cell<'_>, String> {
            cell.fit(ty, "x").map_err(|fault| fault.to_string())
        }
        assert_eq!(fit(Cell::I64(-128), ColumnType::Int8), Ok(Cell::I64(-128)));
        assert_eq!(
            fit(Cell::I64(128), ColumnType::Int8),
            Err("value 128 of field x is out of range for int8".into())
        );
        assert_eq!(fit(Cell::U64(255), ColumnType::UInt8), Ok(Cell::U64(255)));
        assert!(fit(Cell::U64(256), ColumnType::UInt8).is_err());
        assert_eq!(
            fit(Cell::F64(0.1), ColumnType::Float32),
            Ok(Cell::F64(f64::from(0.1_f32)))
        );
        assert!(fit(Cell::F64(1e39), ColumnType::Float32).is_err());
        assert_eq!(
            fit(Cell::I64(1), ColumnType::Float64),
            Err("field x is int64 in the line and float64 in the table".into())
        );
        let text = Cell::Text(Text {
            raw: b"a",
            escaped: false,
        });
        for (cell, ty) in [
            (Cell::F64(1.0), ColumnType::Int64),
            (Cell::I64(1), ColumnType::UInt64),
            (Cell::U64(1), ColumnType::Int64),
            (Cell::Bool(true), ColumnType::String),
            (text, ColumnType::Binary),
            (Cell::I64(1), ColumnType::Date),
        ] {
            assert!(fit(cell, ty).unwrap_err().contains(" in the table"));
        }
    }

    #[test]
    fn escapes_of_a_string() {
        let mut room = Vec::new();
        let mut plain = |raw: &'static str| {
            let raw = raw.as_bytes();
            let escaped = true;
            let text = Text { raw, escaped }.plain(&mut room);
            String::from_utf8(text.to_vec()).unwrap()
        };
        assert_eq!(plain(r#"a\"b"#), r#"a"b"#);
        assert_eq!(plain(r"a\\b"), r"a\b");
        assert_eq!(plain(r"a\nb\"), r"a\nb\");
        assert_eq!(plain(r#"\\\""#), r#"\""#);
    }

    proptest! {
        #[test]
        fn digits_are_read_as_by_the_library(text in "[0-9]{0,22}[^0-9]{0,9}") {
            let len = text.bytes().take_while(u8::is_ascii_digit).count();
            let expected = text[..len].parse::<u64>().ok().filter(|_| len <= 19);
            prop_assert_eq!(unsigned_at(text.as_bytes()), expected.map(|value| (value, len)));
        }

        #[test]
        fn leading_digits_stop_at_the_first_other_byte(bytes in any::<[u8; 8]>(), count in 0_usize..9) {
            let mut bytes = bytes;
            bytes[..count].iter_mut().for_each(|byte| *byte = b'0' + *byte % 10);
            let expected = bytes.iter().take_while(|byte| byte.is_ascii_digit()).count();
            prop_assert_eq!(leading_digits(u64::from_le_bytes(bytes)), expected);
        }

        #[test]
        fn the_fast_road_reads_numbers_as_the_slow_one(text in "-?[0-9]{1,25}(\\.[0-9]{0,9})?(e[-+]?[0-9]{0,4})?[iu]?") {
            if let Some((value, len)) = float_at(text.as_bytes())
                && len == text.len()
            {
                prop_assert_eq!(parse(text.as_bytes(), "x"), Ok(Cell::F64(value)));
            }
            if let Some((value, len)) = signed_at(text.as_bytes())
                && text[len..] == *"i"
            {
                prop_assert_eq!(parse(text.as_bytes(), "x"), Ok(Cell::I64(value)));
            }
        }
    }
}
