//! Integers as a base and small deltas from it.
//!
//! ```text
//! narrow := base u64 │ width u8 (0, 1, 2, 4, 8) │ deltas, `width` bytes each
//! ```
//! A value is base + delta; with width 0 all values are the base. Signed values are written with
//! the base as two's complement and must not leave their type.

use super::PayloadError;
use super::wire::{Reader, Writer};

/// Units of nanoseconds in which times are counted.
const UNITS: [u64; 4] = [1, 1_000, 1_000_000, 1_000_000_000];

/// Bytes that hold every delta up to `most`.
fn width(most: u64) -> u8 {
    match most {
        0 => 0,
        1..=0xFF => 1,
        0x100..=0xFFFF => 2,
        0x1_0000..=0xFFFF_FFFF => 4,
        _ => 8,
    }
}

fn write_deltas(
    out: &mut Writer,
    count: usize,
    base: u64,
    most: u64,
    deltas: impl Iterator<Item = u64>,
) {
    out.u64(base);
    let width = width(most);
    out.u8(width);
    match width {
        0 => {}
        1 => out.fixed(count, deltas.map(|delta| [delta as u8])),
        2 => out.fixed(count, deltas.map(|delta| (delta as u16).to_le_bytes())),
        4 => out.fixed(count, deltas.map(|delta| (delta as u32).to_le_bytes())),
        _ => out.fixed(count, deltas.map(u64::to_le_bytes)),
    }
}

/// Writes unsigned values; each counts for `each` bytes of a reader's memory.
pub(super) fn write_unsigned<T: Copy + Ord + Into<u64>>(
    out: &mut Writer,
    values: &[T],
    each: usize,
) {
    out.charge(values.len(), each);
    let base: u64 = values.iter().copied().min().map_or(0, Into::into);
    let most: u64 = values.iter().copied().max().map_or(0, Into::into);
    let deltas = values.iter().map(|&value| value.into() - base);
    write_deltas(out, values.len(), base, most - base, deltas);
}

/// Writes signed values, 8 bytes each in memory.
pub(super) fn write_signed(out: &mut Writer, values: &[i64]) {
    out.charge(values.len(), 8);
    let base = values.iter().copied().min().unwrap_or(0);
    let most = values.iter().copied().max().unwrap_or(0);
    let deltas = values.iter().map(|&value| value.wrapping_sub(base) as u64);
    let most = most.wrapping_sub(base) as u64;
    write_deltas(out, values.len(), base as u64, most, deltas);
}

/// Writes times: a unit, then deltas counted in it. Most senders have whole seconds.
pub(super) fn write_times(out: &mut Writer, times: &[i64]) {
    out.charge(times.len(), 8);
    let base = times.iter().copied().min().unwrap_or(0);
    let most = times.iter().copied().max().unwrap_or(0);
    let deltas = || times.iter().map(|&time| time.wrapping_sub(base) as u64);
    let most = most.wrapping_sub(base) as u64;
    // A constant divisor makes each division a multiplication.
    macro_rules! counted_in {
        ($unit:literal) => {
            if deltas().all(|delta| delta % $unit == 0) {
                out.u64($unit);
                let counts = deltas().map(|delta| delta / $unit);
                return write_deltas(out, times.len(), base as u64, most / $unit, counts);
            }
        };
    }
    counted_in!(1_000_000_000);
    counted_in!(1_000_000);
    counted_in!(1_000);
    out.u64(1);
    write_deltas(out, times.len(), base as u64, most, deltas());
}

/// Base and deltas as they lie in the bytes.
struct Deltas<'a> {
    base: u64,
    cells: Cells<'a>,
}

enum Cells<'a> {
    None(usize),
    One(&'a [[u8; 1]]),
    Two(&'a [[u8; 2]]),
    Four(&'a [[u8; 4]]),
    Eight(&'a [[u8; 8]]),
}

impl<'a> Deltas<'a> {
    fn read(input: &mut Reader<'a, '_>, count: usize) -> Result<Self, PayloadError> {
        let base = input.u64()?;
        let cells = match input.u8()? {
            0 => Cells::None(count),
            1 => Cells::One(input.fixed(count)?),
            2 => Cells::Two(input.fixed(count)?),
            4 => Cells::Four(input.fixed(count)?),
            8 => Cells::Eight(input.fixed(count)?),
            _ => return Err(PayloadError::Malformed("integers have no such width")),
        };
        Ok(Self { base, cells })
    }

    /// Every delta through `make`.
    fn map<T>(&self, mut make: impl FnMut(u64) -> T) -> Vec<T> {
        match self.cells {
            Cells::None(count) => (0..count).map(|_| make(0)).collect(),
            Cells::One(cells) => cells.iter().map(|cell| make(cell[0].into())).collect(),
            Cells::Two(cells) => cells
                .iter()
                .map(|cell| make(u16::from_le_bytes(*cell).into()))
                .collect(),
            Cells::Four(cells) => cells
                .iter()
                .map(|cell| make(u32::from_le_bytes(*cell).into()))
                .collect(),
            Cells::Eight(cells) => cells
                .iter()
                .map(|cell| make(u64::from_le_bytes(*cell)))
                .collect(),
        }
    }

    fn most(&self) -> u64 {
        match self.cells {
            Cells::None(_) => 0,
            Cells::One(cells) => cells.iter().max().map_or(0, |cell| cell[0].into()),
            Cells::Two(cells) => {
                let deltas = cells.iter().map(|cell| u16::from_le_bytes(*cell));
                deltas.max().unwrap_or(0).into()
            }
            Cells::Four(cells) => {
                let deltas = cells.iter().map(|cell| u32::from_le_bytes(*cell));
                deltas.max().unwrap_or(0).into()
            }
            Cells::Eight(cells) => {
                let deltas = cells.iter().map(|cell| u64::from_le_bytes(*cell));
                deltas.max().unwrap_or(0)
            }
        }
    }
}

const OUT_OF_RANGE: PayloadError = PayloadError::Malformed("integer leaves its type");

/// Reads `count` values that are at most `limit`, each of `each` bytes in memory.
pub(super) fn read_unsigned<T>(
    input: &mut Reader<'_, '_>,
    count: usize,
    limit: u64,
    each: usize,
    mut make: impl FnMut(u64) -> T,
) -> Result<Vec<T>, PayloadError> {
    input.charge(count, each)?;
    let deltas = Deltas::read(input, count)?;
    let base = deltas.base;
    match base.checked_add(deltas.most()) {
        Some(most) if count == 0 || most <= limit => Ok(deltas.map(|delta| make(base + delta))),
        _ => Err(OUT_OF_RANGE),
    }
}

/// Reads what [`write_signed`] wrote.
pub(super) fn read_signed(
    input: &mut Reader<'_, '_>,
    count: usize,
) -> Result<Vec<i64>, PayloadError> {
    read_counted(input, count, 1)
}

/// Reads what [`write_times`] wrote.
pub(super) fn read_times(
    input: &mut Reader<'_, '_>,
    count: usize,
) -> Result<Vec<i64>, PayloadError> {
    let unit = input.u64()?;
    if !UNITS.contains(&unit) {
        return Err(PayloadError::Malformed("times have no such unit"));
    }
    read_counted(input, count, unit)
}

fn read_counted(
    input: &mut Reader<'_, '_>,
    count: usize,
    unit: u64,
) -> Result<Vec<i64>, PayloadError> {
    input.charge(count, 8)?;
    let deltas = Deltas::read(input, count)?;
    let base = deltas.base as i64;
    let most = i128::from(base) + i128::from(deltas.most()) * i128::from(unit);
    if most > i128::from(i64::MAX) {
        return Err(OUT_OF_RANGE);
    }
    Ok(deltas.map(|delta| base.wrapping_add((delta * unit) as i64)))
}
