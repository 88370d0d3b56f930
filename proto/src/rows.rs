//! Rows of one table as typed column vectors: what every protocol makes of its bytes, what the
//! log records, and what a memtable keeps.

use crate::ids::ColumnId;
use crate::schema::{HashRange, Physical};

/// Distinct series of a batch, each with its partition hash; rows refer to them by number.
///
/// * shape: no two entries have the same key.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SeriesList {
    bytes: Vec<u8>,
    ends: Vec<u32>,
    hashes: Vec<u32>,
}

impl SeriesList {
    /// No series yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// No series yet, with room for some.
    pub fn with_capacity(series: usize, key_bytes: usize) -> Self {
        Self {
            bytes: Vec::with_capacity(key_bytes),
            ends: Vec::with_capacity(series),
            hashes: Vec::with_capacity(series),
        }
    }

    /// Appends a series; the caller knows that it is not in the list yet.
    ///
    /// * `key`: canonical bytes ([`crate::key`]); `hash`: its partition hash.
    /// * returns: its number.
    pub fn push(&mut self, key: &[u8], hash: u32) -> u32 {
        self.bytes.extend_from_slice(key);
        self.ends.push(self.bytes.len() as u32);
        self.hashes.push(hash);
        (self.ends.len() - 1) as u32
    }

    /// Number of series.
    pub fn len(&self) -> usize {
        self.ends.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.ends.is_empty()
    }

    /// Canonical key of a series. Panics when the number is not in the list.
    pub fn key(&self, number: u32) -> &[u8] {
        let number = number as usize;
        let start = if number == 0 {
            0
        } else {
            self.ends[number - 1] as usize
        };
        &self.bytes[start..self.ends[number] as usize]
    }

    /// Partition hash of a series. Panics when the number is not in the list.
    pub fn hash(&self, number: u32) -> u32 {
        self.hashes[number as usize]
    }

    /// All keys with their hashes, in the order of the numbers.
    pub fn iter(&self) -> impl Iterator<Item = (&[u8], u32)> {
        (0..self.len() as u32).map(|number| (self.key(number), self.hash(number)))
    }

    /// Bytes that the list holds in memory.
    pub fn memory_bytes(&self) -> usize {
        self.bytes.capacity() + 4 * (self.ends.capacity() + self.hashes.capacity())
    }
}

/// One bit per row: whether the value is there.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Validity {
    bits: Vec<u64>,
    len: usize,
}

impl Validity {
    /// `len` rows, all with the given bit.
    pub fn filled(len: usize, valid: bool) -> Self {
        let mut bits = vec![if valid { u64::MAX } else { 0 }; len.div_ceil(64)];
        if let (Some(last), 1..) = (bits.last_mut(), len % 64) {
            *last &= (1 << (len % 64)) - 1;
        }
        Self { bits, len }
    }

    /// Appends one row.
    pub fn push(&mut self, valid: bool) {
        if self.len.is_multiple_of(64) {
            self.bits.push(0);
        }
        if valid {
            self.bits[self.len / 64] |= 1 << (self.len % 64);
        }
        self.len += 1;
    }

    /// Whether the row has a value. Panics when there is no such row.
    pub fn get(&self, row: usize) -> bool {
        assert!(row < self.len, "row {row} of {}", self.len);
        self.bits[row / 64] >> (row % 64) & 1 == 1
    }

    /// Number of rows.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether there are no rows.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Number of rows without a value.
    pub fn null_count(&self) -> usize {
        self.len
            - self
                .bits
                .iter()
                .map(|word| word.count_ones() as usize)
                .sum::<usize>()
    }

    /// The bits, 64 rows a word, first row in the lowest bit, unused bits 0.
    pub fn words(&self) -> &[u64] {
        &self.bits
    }

    /// Takes words as [`Validity::words`] gives them; `None` when their number does not fit `len`
    /// or an unused bit is set.
    pub fn from_words(bits: Vec<u64>, len: usize) -> Option<Self> {
        let fits = bits.len() == len.div_ceil(64);
        let clean =
            len.is_multiple_of(64) || bits.last().is_some_and(|last| last >> (len % 64) == 0);
        (fits && clean).then_some(Self { bits, len })
    }
}

/// Strings or bytes, one after the other.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BytesVec {
    data: Vec<u8>,
    ends: Vec<u32>,
}

impl Default for BytesVec {
    fn default() -> Self {
        Self::new()
    }
}

impl BytesVec {
    /// No values yet.
    pub fn new() -> Self {
        Self {
            data: Vec::new(),
            ends: Vec::new(),
        }
    }

    /// Appends a value.
    pub fn push(&mut self, value: &[u8]) {
        self.data.extend_from_slice(value);
        self.ends.push(self.data.len() as u32);
    }

    /// A value. Panics when there is no such row.
    pub fn get(&self, row: usize) -> &[u8] {
        let start = if row == 0 {
            0
        } else {
            self.ends[row - 1] as usize
        };
        &self.data[start..self.ends[row] as usize]
    }

    /// Number of values.
    pub fn len(&self) -> usize {
        self.ends.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.ends.is_empty()
    }

    /// All bytes, and where each value ends in them.
    pub fn parts(&self) -> (&[u8], &[u32]) {
        (&self.data, &self.ends)
    }

    /// Takes what [`BytesVec::parts`] gave; `None` when the ends fall or leave the data.
    pub fn from_parts(data: Vec<u8>, ends: Vec<u32>) -> Option<Self> {
        let rising = ends.windows(2).all(|pair| pair[0] <= pair[1]);
        let whole = ends.last().copied().unwrap_or(0) as usize == data.len();
        (rising && whole).then_some(Self { data, ends })
    }
}

/// Values of one column, one per row; at a row without a value stands anything.
#[derive(Clone, Debug, PartialEq)]
pub enum Values {
    /// Booleans.
    Bool(Vec<bool>),
    /// Signed integers, timestamps in nanoseconds, dates in days.
    I64(Vec<i64>),
    /// Unsigned integers.
    U64(Vec<u64>),
    /// Floats.
    F64(Vec<f64>),
    /// Strings and binary.
    Bytes(BytesVec),
    /// Decimals, unscaled.
    I128(Vec<i128>),
}

impl Values {
    /// No values yet, of the given kind.
    pub fn empty(physical: Physical) -> Self {
        match physical {
            Physical::Bool => Self::Bool(Vec::new()),
            Physical::I64 => Self::I64(Vec::new()),
            Physical::U64 => Self::U64(Vec::new()),
            Physical::F64 => Self::F64(Vec::new()),
            Physical::Bytes => Self::Bytes(BytesVec::new()),
            Physical::I128 => Self::I128(Vec::new()),
        }
    }

    /// The kind of the values.
    pub fn physical(&self) -> Physical {
        match self {
            Self::Bool(_) => Physical::Bool,
            Self::I64(_) => Physical::I64,
            Self::U64(_) => Physical::U64,
            Self::F64(_) => Physical::F64,
            Self::Bytes(_) => Physical::Bytes,
            Self::I128(_) => Physical::I128,
        }
    }

    /// Number of values.
    pub fn len(&self) -> usize {
        match self {
            Self::Bool(values) => values.len(),
            Self::I64(values) => values.len(),
            Self::U64(values) => values.len(),
            Self::F64(values) => values.len(),
            Self::Bytes(values) => values.len(),
            Self::I128(values) => values.len(),
        }
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Bytes that the values hold in memory.
    pub fn memory_bytes(&self) -> usize {
        match self {
            Self::Bool(values) => values.capacity(),
            Self::I64(values) => 8 * values.capacity(),
            Self::U64(values) => 8 * values.capacity(),
            Self::F64(values) => 8 * values.capacity(),
            Self::Bytes(values) => values.data.capacity() + 4 * values.ends.capacity(),
            Self::I128(values) => 16 * values.capacity(),
        }
    }

    /// Appends the value that stands at rows without one: zero, false or empty.
    pub fn push_default(&mut self) {
        match self {
            Self::Bool(values) => values.push(false),
            Self::I64(values) => values.push(0),
            Self::U64(values) => values.push(0),
            Self::F64(values) => values.push(0.0),
            Self::Bytes(values) => values.push(b""),
            Self::I128(values) => values.push(0),
        }
    }

    /// The values of the given rows, in that order. Panics when there is no such row.
    pub fn take(&self, rows: &[u32]) -> Self {
        fn pick<T: Copy>(values: &[T], rows: &[u32]) -> Vec<T> {
            rows.iter().map(|&row| values[row as usize]).collect()
        }
        match self {
            Self::Bool(values) => Self::Bool(pick(values, rows)),
            Self::I64(values) => Self::I64(pick(values, rows)),
            Self::U64(values) => Self::U64(pick(values, rows)),
            Self::F64(values) => Self::F64(pick(values, rows)),
            Self::I128(values) => Self::I128(pick(values, rows)),
            Self::Bytes(values) => {
                let mut taken = BytesVec::new();
                for &row in rows {
                    taken.push(values.get(row as usize));
                }
                Self::Bytes(taken)
            }
        }
    }
}

/// One field of a batch.
#[derive(Clone, Debug, PartialEq)]
pub struct FieldColumn {
    /// Which column of the table.
    pub id: ColumnId,
    /// One value per row.
    pub values: Values,
    /// Which rows have one; `None` when all do.
    pub validity: Option<Validity>,
}

impl FieldColumn {
    /// Whether the row has a value. Panics when there is no such row.
    pub fn is_valid(&self, row: usize) -> bool {
        self.validity
            .as_ref()
            .is_none_or(|validity| validity.get(row))
    }
}

/// Rows of one table.
///
/// * shape: `series_of`, `time` and every column have the same length; each entry of `series_of`
///   is below `series.len()`; columns stand in no particular order and no id twice; rows are in
///   order of arrival, and the later of two rows with one key wins.
/// * units: `time` in nanoseconds since 1970-01-01T00:00:00Z.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Rows {
    /// Distinct series.
    pub series: SeriesList,
    /// Per row, the number of its series.
    pub series_of: Vec<u32>,
    /// Per row, its time.
    pub time: Vec<i64>,
    /// The fields that at least one row has.
    pub columns: Vec<FieldColumn>,
}

impl Rows {
    /// Number of rows.
    pub fn len(&self) -> usize {
        self.time.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.time.is_empty()
    }

    /// Bytes that the rows hold in memory.
    pub fn memory_bytes(&self) -> usize {
        let columns = self.columns.iter().map(|column| {
            let validity = column.validity.as_ref();
            column.values.memory_bytes() + validity.map_or(0, |bits| 8 * bits.bits.capacity())
        });
        let per_row = 4 * self.series_of.capacity() + 8 * self.time.capacity();
        self.series.memory_bytes() + per_row + columns.sum::<usize>()
    }

    /// Says which rule of the shape is broken, if any.
    pub fn check(&self) -> Result<(), String> {
        let rows = self.len();
        if self.series_of.len() != rows {
            return Err(format!(
                "{} series numbers for {rows} rows",
                self.series_of.len()
            ));
        }
        if let Some(number) = self
            .series_of
            .iter()
            .find(|&&n| n as usize >= self.series.len())
        {
            return Err(format!("series {number} of {}", self.series.len()));
        }
        for (index, column) in self.columns.iter().enumerate() {
            let id = column.id;
            let validity = column.validity.as_ref().map_or(rows, Validity::len);
            if column.values.len() != rows || validity != rows {
                return Err(format!(
                    "column {id} has {} values for {rows} rows",
                    column.values.len()
                ));
            }
            if self.columns[..index].iter().any(|other| other.id == id) {
                return Err(format!("column {id} stands twice"));
            }
        }
        Ok(())
    }

    /// The given rows, in that order, with only the series they use.
    pub fn take(&self, rows: &[u32]) -> Self {
        let mut renumbered = vec![u32::MAX; self.series.len()];
        let mut series = SeriesList::new();
        let mut series_of = Vec::with_capacity(rows.len());
        for &row in rows {
            let old = self.series_of[row as usize];
            let new = &mut renumbered[old as usize];
            if *new == u32::MAX {
                *new = series.push(self.series.key(old), self.series.hash(old));
            }
            series_of.push(*new);
        }
        let columns = self
            .columns
            .iter()
            .map(|column| FieldColumn {
                id: column.id,
                values: column.values.take(rows),
                validity: column.validity.as_ref().map(|validity| {
                    let mut taken = Validity::default();
                    rows.iter()
                        .for_each(|&row| taken.push(validity.get(row as usize)));
                    taken
                }),
            })
            .collect();
        let time = rows.iter().map(|&row| self.time[row as usize]).collect();
        Self {
            series,
            series_of,
            time,
            columns,
        }
    }

    /// Cuts the batch by partition hash: one part per range that has rows, in the ranges' order.
    ///
    /// * `ranges`: disjoint. Rows whose hash lies in none of them are in no part.
    pub fn split(self, ranges: &[HashRange]) -> Vec<(usize, Self)> {
        if let [only] = ranges
            && self.series.iter().all(|(_, hash)| only.contains(hash))
        {
            return vec![(0, self)];
        }
        let home: Vec<Option<usize>> = self
            .series
            .iter()
            .map(|(_, hash)| ranges.iter().position(|range| range.contains(hash)))
            .collect();
        let mut parts = vec![Vec::new(); ranges.len()];
        for (row, &series) in self.series_of.iter().enumerate() {
            if let Some(range) = home[series as usize] {
                parts[range].push(row as u32);
            }
        }
        parts
            .into_iter()
            .enumerate()
            .filter(|(_, rows)| !rows.is_empty())
            .map(|(range, rows)| (range, self.take(&rows)))
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn validity_counts_and_round_trips() {
        for len in [0, 1, 63, 64, 65, 130] {
            let full = Validity::filled(len, true);
            assert_eq!((full.len(), full.null_count()), (len, 0));
            let mut pushed = Validity::default();
            (0..len).for_each(|row| pushed.push(row % 3 == 0));
            assert_eq!(
                pushed.null_count(),
                (0..len).filter(|row| row % 3 != 0).count()
            );
            assert_eq!(
                Validity::from_words(pushed.words().to_vec(), len),
                Some(pushed)
            );
        }
        assert_eq!(Validity::from_words(vec![2], 1), None);
        assert_eq!(Validity::from_words(vec![], 1), None);
    }

    fn batch(rows: &[(u8, i64)]) -> Rows {
        let mut batch = Rows::default();
        for series in 0..=255_u32 {
            batch.series.push(&[series as u8], series << 24);
        }
        let mut validity = Validity::default();
        for (row, &(series, time)) in rows.iter().enumerate() {
            batch.series_of.push(series.into());
            batch.time.push(time);
            validity.push(row % 2 == 0);
        }
        let values = Values::I64(batch.time.clone());
        batch.columns.push(FieldColumn {
            id: ColumnId(1),
            values,
            validity: Some(validity),
        });
        batch
    }

    proptest! {
        #[test]
        fn split_keeps_every_row_once_and_in_order(
            rows in proptest::collection::vec(any::<(u8, i64)>(), 0..50),
            tablets in 1_u32..5,
        ) {
            let whole = batch(&rows);
            prop_assert_eq!(whole.check(), Ok(()));
            let ranges = HashRange::tile(tablets);
            let mut left: Vec<_> = ranges.iter().map(|range| {
                rows.iter().filter(|(series, _)| range.contains(u32::from(*series) << 24)).collect::<Vec<_>>()
            }).collect();
            for (range, part) in whole.split(&ranges) {
                prop_assert_eq!(part.check(), Ok(()));
                let seen: Vec<_> = (0..part.len())
                    .map(|row| (part.series.key(part.series_of[row])[0], part.time[row]))
                    .collect();
                let expected: Vec<_> = std::mem::take(&mut left[range]).into_iter().copied().collect();
                prop_assert_eq!(seen, expected);
                prop_assert!(part.columns[0].validity.is_some());
            }
            prop_assert!(left.iter().all(Vec::is_empty) || rows.is_empty());
        }
    }
}
