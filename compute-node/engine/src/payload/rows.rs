//! The rows of one table in a payload: distinct series first, then one vector per column.

use auxo_proto::ids::ColumnId;
use auxo_proto::rows::{BytesVec, FieldColumn, Rows, SeriesList, Validity, Values};

use super::wire::{Reader, Writer};
use super::{EncodeError, PayloadError, narrow};

const BOOL: u8 = 1;
const I64: u8 = 2;
const U64: u8 = 3;
const F64: u8 = 4;
const BYTES: u8 = 5;
const I128: u8 = 6;

/// What a decoded column counts for beside its values.
const COLUMN_MEMORY: usize = 96;

/// Appends rows that keep the rules of [`Rows::check`].
pub(super) fn write(out: &mut Writer, rows: &Rows) -> Result<(), EncodeError> {
    rows.check().map_err(EncodeError::Malformed)?;
    if u32::try_from(rows.len()).is_err() {
        return Err(EncodeError::TooLarge {
            memory: rows.memory_bytes(),
        });
    }
    out.u32(rows.len() as u32);
    write_series(out, &rows.series);
    narrow::write_unsigned(out, &rows.series_of, 4);
    narrow::write_times(out, &rows.time);
    out.u32(rows.columns.len() as u32);
    for column in &rows.columns {
        out.charge(COLUMN_MEMORY, 1);
        out.u32(column.id.0);
        write_validity(out, column.validity.as_ref());
        write_values(out, &column.values);
    }
    Ok(())
}

/// Reads what [`write`] wrote.
pub(super) fn read(input: &mut Reader<'_, '_>) -> Result<Rows, PayloadError> {
    let count = input.u32()? as usize;
    let series = read_series(input)?;
    let series_of = match (count, series.len() as u64) {
        (1.., 0) => return Err(PayloadError::Malformed("rows have no series")),
        (_, series) => {
            let last = series.saturating_sub(1);
            narrow::read_unsigned(input, count, last, 4, |number| number as u32)?
        }
    };
    let time = narrow::read_times(input, count)?;
    let mut columns = Vec::new();
    for _ in 0..input.u32()? {
        input.charge(COLUMN_MEMORY, 1)?;
        columns.push(FieldColumn {
            id: ColumnId(input.u32()?),
            validity: read_validity(input, count)?,
            values: read_values(input, count)?,
        });
    }
    let mut ids: Vec<_> = columns.iter().map(|column| column.id).collect();
    ids.sort_unstable();
    if ids.windows(2).any(|pair| pair[0] == pair[1]) {
        return Err(PayloadError::Malformed("column stands twice"));
    }
    Ok(Rows {
        series,
        series_of,
        time,
        columns,
    })
}

/// Keys follow each other in order of arrival; neighbours of a sorted sender share their start.
fn write_series(out: &mut Writer, series: &SeriesList) {
    let mut shared = Vec::with_capacity(series.len());
    let mut own = Vec::with_capacity(series.len());
    let mut tails = Vec::new();
    let mut previous: &[u8] = b"";
    for (key, _) in series.iter() {
        let pairs = key.iter().zip(previous);
        let same = pairs.take_while(|(one, other)| one == other).count();
        shared.push(same as u32);
        own.push((key.len() - same) as u32);
        tails.extend_from_slice(&key[same..]);
        out.charge(key.len(), 1);
        previous = key;
    }
    out.u32(series.len() as u32);
    narrow::write_unsigned(out, &shared, 4);
    narrow::write_unsigned(out, &own, 4);
    out.bytes.extend_from_slice(&tails);
    out.charge(series.len(), 8);
    let hashes = series.iter().map(|(_, hash)| hash.to_le_bytes());
    out.fixed(series.len(), hashes);
}

fn read_series(input: &mut Reader<'_, '_>) -> Result<SeriesList, PayloadError> {
    let count = input.u32()? as usize;
    let limit = u64::from(u32::MAX);
    let shared = narrow::read_unsigned(input, count, limit, 4, |len| len as u32)?;
    let own = narrow::read_unsigned(input, count, limit, 4, |len| len as u32)?;
    let total = |lens: &[u32]| lens.iter().map(|&len| len as usize).sum::<usize>();
    let own_bytes = total(&own);
    let mut tails = input.take(own_bytes)?;
    let key_bytes = own_bytes + total(&shared);
    input.charge(key_bytes, 1)?;
    input.charge(count, 8)?;
    let hashes = input.fixed::<4>(count)?;
    let mut series = SeriesList::with_capacity(count, key_bytes);
    let mut key = Vec::new();
    for ((&same, &own), hash) in shared.iter().zip(&own).zip(hashes) {
        if same as usize > key.len() {
            return Err(PayloadError::Malformed("key shares more than there is"));
        }
        key.truncate(same as usize);
        let (tail, rest) = tails.split_at(own as usize);
        key.extend_from_slice(tail);
        tails = rest;
        series.push(&key, u32::from_le_bytes(*hash));
    }
    Ok(series)
}

fn write_words(out: &mut Writer, words: &[u64]) {
    out.fixed(words.len(), words.iter().map(|word| word.to_le_bytes()));
}

fn read_words(input: &mut Reader<'_, '_>, rows: usize) -> Result<Validity, PayloadError> {
    let words = input.fixed::<8>(rows.div_ceil(64))?;
    let words = words.iter().map(|word| u64::from_le_bytes(*word)).collect();
    Validity::from_words(words, rows).ok_or(PayloadError::Malformed("bits behind the last row"))
}

fn write_validity(out: &mut Writer, validity: Option<&Validity>) {
    out.u8(validity.is_some().into());
    if let Some(validity) = validity {
        out.charge(validity.words().len(), 8);
        write_words(out, validity.words());
    }
}

fn read_validity(
    input: &mut Reader<'_, '_>,
    rows: usize,
) -> Result<Option<Validity>, PayloadError> {
    match input.u8()? {
        0 => Ok(None),
        1 => {
            input.charge(rows.div_ceil(64), 8)?;
            read_words(input, rows).map(Some)
        }
        _ => Err(PayloadError::Malformed("validity is neither there nor not")),
    }
}

fn write_values(out: &mut Writer, values: &Values) {
    match values {
        Values::Bool(values) => {
            out.u8(BOOL);
            out.charge(values.len(), 2);
            let words: Vec<u64> = values
                .chunks(64)
                .map(|chunk| {
                    let bits = chunk.iter().enumerate();
                    bits.fold(0, |word, (bit, &value)| word | u64::from(value) << bit)
                })
                .collect();
            write_words(out, &words);
        }
        Values::I64(values) => {
            out.u8(I64);
            narrow::write_signed(out, values);
        }
        Values::U64(values) => {
            out.u8(U64);
            narrow::write_unsigned(out, values, 8);
        }
        Values::F64(values) => {
            out.u8(F64);
            out.charge(values.len(), 8);
            let bits = values.iter().map(|value| value.to_bits().to_le_bytes());
            out.fixed(values.len(), bits);
        }
        Values::Bytes(values) => {
            out.u8(BYTES);
            let (data, ends) = values.parts();
            let starts = std::iter::once(&0).chain(ends);
            let lens: Vec<u32> = ends
                .iter()
                .zip(starts)
                .map(|(end, start)| end - start)
                .collect();
            narrow::write_unsigned(out, &lens, 4);
            out.charge(data.len(), 1);
            out.bytes.extend_from_slice(data);
        }
        Values::I128(values) => {
            out.u8(I128);
            out.charge(values.len(), 16);
            let bits = values.iter().map(|value| value.to_le_bytes());
            out.fixed(values.len(), bits);
        }
    }
}

fn read_values(input: &mut Reader<'_, '_>, rows: usize) -> Result<Values, PayloadError> {
    match input.u8()? {
        BOOL => {
            input.charge(rows, 2)?;
            let bits = read_words(input, rows)?;
            Ok(Values::Bool((0..rows).map(|row| bits.get(row)).collect()))
        }
        I64 => narrow::read_signed(input, rows).map(Values::I64),
        U64 => {
            let values = narrow::read_unsigned(input, rows, u64::MAX, 8, |value| value)?;
            Ok(Values::U64(values))
        }
        F64 => {
            input.charge(rows, 8)?;
            let bits = input.fixed(rows)?.iter();
            let values = bits.map(|bits| f64::from_bits(u64::from_le_bytes(*bits)));
            Ok(Values::F64(values.collect()))
        }
        BYTES => {
            let mut end = 0_u64;
            let ends = narrow::read_unsigned(input, rows, u32::MAX.into(), 4, |len| {
                end = end.saturating_add(len);
                end as u32
            })?;
            let len = usize::try_from(end).unwrap_or(usize::MAX);
            let data = input.take(len)?;
            input.charge(len, 1)?;
            BytesVec::from_parts(data.to_vec(), ends)
                .map(Values::Bytes)
                .ok_or(PayloadError::Malformed("values end outside their bytes"))
        }
        I128 => {
            input.charge(rows, 16)?;
            let cells = input.fixed(rows)?.iter();
            let values = cells.map(|cell| i128::from_le_bytes(*cell));
            Ok(Values::I128(values.collect()))
        }
        number => Err(PayloadError::Unknown {
            what: "column type",
            number,
        }),
    }
}
