//! Heads: directory of the series blocks and postings, and what is known of each field.
//!
//! ```text
//! heads  := version u8 = 1 │ flags u8 │ series varint │ rows varint │ lowest, highest partition hash
//!           u32 little-endian each │ block count varint │ block* │ tag count varint │ tag* │ field count varint │ field*
//! block  := shared varint │ suffix of its first key (length varint, bytes) │ rows varint │
//!           t_min zigzag │ t_max − t_min varint │ stored length varint │ unpacked length varint
//! tag    := column id varint │ distinct values varint │ length of its postings varint
//! field  := column id varint │ nulls varint │ flags u8 │ min, max if flags & 8
//! ```
//! Blocks and postings lie one after the other from the start of their sections, so lengths are
//! enough. Flag of the file: 1 = sparse. Flags of a field: 1 = holds NaN, 2 = holds an infinity,
//! 4 = a sum of its values may reach 2⁵³, 8 = min and max follow, as: zigzag for signed integers,
//! timestamps and dates (kind 0), varint for unsigned ones (kind 1), eight bytes little-endian for
//! floats (kind 2); the kind is one byte before them.

use auxo_proto::ids::ColumnId;
use auxo_proto::schema::HashRange;
use bytes::Bytes;

use super::blocks::shared_prefix;
use crate::format::{Malformed, Reader, put_bytes, put_i64, put_u64};
use crate::predicate::Bound;

const VERSION: u8 = 1;
const SPARSE: u8 = 1;
const NAN: u8 = 1;
const INFINITE: u8 = 2;
const LARGE_SUM: u8 = 4;
const RANGE: u8 = 8;

/// Where one series block lies and what it holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct BlockHead {
    pub(crate) first_key: Bytes,
    pub(crate) rows: u64,
    pub(crate) t_min: i64,
    pub(crate) t_max: i64,
    pub(crate) stored_length: usize,
    pub(crate) raw_length: usize,
}

/// Where the postings of one tag lie.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct TagHead {
    pub(crate) column: ColumnId,
    pub(crate) distinct: u64,
    pub(crate) length: usize,
}

/// What a file knows of all values of one field.
#[derive(Clone, Debug, PartialEq)]
pub struct FieldHead {
    /// Which field.
    pub column: ColumnId,
    /// Rows without a value.
    pub nulls: u64,
    /// Whether a value is NaN.
    pub nan: bool,
    /// Whether a value is infinite.
    pub infinite: bool,
    /// Whether a sum over some of the values may reach 2⁵³, where f64 stops counting by ones.
    pub large_sum: bool,
    /// Smallest and largest value that is not NaN, for numbers, timestamps and dates.
    pub range: Option<(Bound, Bound)>,
}

/// The decoded section.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Heads {
    pub(crate) sparse: bool,
    pub(crate) series: u64,
    pub(crate) rows: u64,
    /// Partition hashes of all series.
    pub(crate) hashes: HashRange,
    pub(crate) blocks: Vec<BlockHead>,
    pub(crate) tags: Vec<TagHead>,
    pub(crate) fields: Vec<FieldHead>,
}

impl Heads {
    pub(crate) fn encode(&self) -> Vec<u8> {
        let mut out = vec![VERSION, if self.sparse { SPARSE } else { 0 }];
        put_u64(&mut out, self.series);
        put_u64(&mut out, self.rows);
        out.extend_from_slice(&self.hashes.lo.to_le_bytes());
        out.extend_from_slice(&self.hashes.hi.to_le_bytes());
        put_u64(&mut out, self.blocks.len() as u64);
        let mut key_before: &[u8] = &[];
        for block in &self.blocks {
            let shared = shared_prefix(key_before, &block.first_key);
            put_u64(&mut out, shared as u64);
            put_bytes(&mut out, &block.first_key[shared..]);
            put_u64(&mut out, block.rows);
            put_i64(&mut out, block.t_min);
            put_u64(&mut out, block.t_max.wrapping_sub(block.t_min) as u64);
            put_u64(&mut out, block.stored_length as u64);
            put_u64(&mut out, block.raw_length as u64);
            key_before = &block.first_key;
        }
        put_u64(&mut out, self.tags.len() as u64);
        for tag in &self.tags {
            put_u64(&mut out, tag.column.0.into());
            put_u64(&mut out, tag.distinct);
            put_u64(&mut out, tag.length as u64);
        }
        put_u64(&mut out, self.fields.len() as u64);
        for field in &self.fields {
            put_u64(&mut out, field.column.0.into());
            put_u64(&mut out, field.nulls);
            let flags = [
                (field.nan, NAN),
                (field.infinite, INFINITE),
                (field.large_sum, LARGE_SUM),
                (field.range.is_some(), RANGE),
            ];
            out.push(flags.iter().filter(|(on, _)| *on).map(|(_, bit)| bit).sum());
            if let Some((min, max)) = field.range {
                out.push(kind(min));
                put_bound(&mut out, min);
                put_bound(&mut out, max);
            }
        }
        out
    }

    pub(crate) fn decode(bytes: &[u8]) -> Result<Self, Malformed> {
        let mut reader = Reader::new(bytes, "heads");
        if reader.u8()? != VERSION {
            return Err(reader.malformed());
        }
        let sparse = reader.u8()? & SPARSE != 0;
        let (series, rows) = (reader.u64()?, reader.u64()?);
        let hashes = HashRange {
            lo: reader.u32_le()?,
            hi: reader.u32_le()?,
        };
        let mut blocks: Vec<BlockHead> = Vec::new();
        let mut key: Vec<u8> = Vec::new();
        for _ in 0..reader.usize()? {
            let shared = reader.usize()?;
            if shared > key.len() {
                return Err(reader.malformed());
            }
            key.truncate(shared);
            key.extend_from_slice(reader.bytes()?);
            let rows = reader.u64()?;
            let t_min = reader.i64()?;
            let t_max = t_min
                .checked_add_unsigned(reader.u64()?)
                .ok_or(reader.malformed())?;
            blocks.push(BlockHead {
                first_key: Bytes::copy_from_slice(&key),
                rows,
                t_min,
                t_max,
                stored_length: reader.usize()?,
                raw_length: reader.usize()?,
            });
        }
        let mut tags = Vec::new();
        for _ in 0..reader.usize()? {
            tags.push(TagHead {
                column: ColumnId(reader.u32()?),
                distinct: reader.u64()?,
                length: reader.usize()?,
            });
        }
        let mut fields = Vec::new();
        for _ in 0..reader.usize()? {
            let column = ColumnId(reader.u32()?);
            let nulls = reader.u64()?;
            let flags = reader.u8()?;
            let range = if flags & RANGE != 0 {
                let kind = reader.u8()?;
                Some((bound(&mut reader, kind)?, bound(&mut reader, kind)?))
            } else {
                None
            };
            fields.push(FieldHead {
                column,
                nulls,
                nan: flags & NAN != 0,
                infinite: flags & INFINITE != 0,
                large_sum: flags & LARGE_SUM != 0,
                range,
            });
        }
        Ok(Self {
            sparse,
            series,
            rows,
            hashes,
            blocks,
            tags,
            fields,
        })
    }
}

fn kind(bound: Bound) -> u8 {
    match bound {
        Bound::I64(_) => 0,
        Bound::U64(_) => 1,
        Bound::F64(_) => 2,
    }
}

fn put_bound(out: &mut Vec<u8>, bound: Bound) {
    match bound {
        Bound::I64(value) => put_i64(out, value),
        Bound::U64(value) => put_u64(out, value),
        Bound::F64(value) => out.extend_from_slice(&value.to_le_bytes()),
    }
}

fn bound(reader: &mut Reader<'_>, kind: u8) -> Result<Bound, Malformed> {
    Ok(match kind {
        0 => Bound::I64(reader.i64()?),
        1 => Bound::U64(reader.u64()?),
        2 => Bound::F64(f64::from_le_bytes(reader.array()?)),
        _ => return Err(reader.malformed()),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn heads() -> Heads {
        let block = |key: &'static str, t_min, t_max| BlockHead {
            first_key: Bytes::from(key),
            rows: 5,
            t_min,
            t_max,
            stored_length: 3,
            raw_length: 9,
        };
        let field = |id, range, nan| FieldHead {
            column: ColumnId(id),
            nulls: 4,
            nan,
            infinite: !nan,
            large_sum: nan,
            range,
        };
        Heads {
            sparse: true,
            series: 200,
            rows: 1 << 40,
            hashes: HashRange { lo: 7, hi: 9 },
            blocks: vec![block("abc", i64::MIN, i64::MAX), block("abd", -1, -1)],
            tags: vec![TagHead {
                column: ColumnId(1),
                distinct: 7,
                length: 70,
            }],
            fields: vec![
                field(3, None, true),
                field(4, Some((Bound::I64(-5), Bound::I64(9))), false),
                field(5, Some((Bound::U64(0), Bound::U64(u64::MAX))), false),
                field(6, Some((Bound::F64(-0.5), Bound::F64(f64::INFINITY))), true),
            ],
        }
    }

    #[test]
    fn round_trip_and_every_cut_is_refused() {
        let bytes = heads().encode();
        assert_eq!(Heads::decode(&bytes), Ok(heads()));
        for cut in 0..bytes.len() {
            assert!(Heads::decode(&bytes[..cut]).is_err(), "cut at {cut}");
        }
    }

    proptest! {
        #[test]
        fn any_bytes_decode_without_a_panic(mut bytes in proptest::collection::vec(any::<u8>(), 1..80)) {
            bytes[0] = VERSION;
            let _ = Heads::decode(&bytes);
        }
    }
}
