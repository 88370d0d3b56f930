//! Puts the rows of a request into key order, as arrow arrays.
//!
//! 1. Rank the distinct series by key: their number is small against the rows.
//! 2. Place rows by rank with a counting sort, which keeps arrival order within a series.
//! 3. Sort a series by time only if its rows did not arrive in order; the sort is stable, so of two
//!    rows with one time the later arrival stands last.
//! 4. Unless the table appends, let the last of equal keys win (whole, or field by field).
//! 5. Gather every column once, straight from the request's vectors into its arrow type.
//!
//! Never here: other pieces, files, or the log.

use std::sync::Arc;

use arrow::array::{
    Array, ArrayRef, BinaryBuilder, BooleanBuilder, Date32Array, Decimal128Array, Float32Array,
    Float64Array, Int8Array, Int16Array, Int32Array, Int64Array, PrimitiveArray, StringBuilder,
    TimestampNanosecondArray, UInt8Array, UInt16Array, UInt32Array, UInt64Array,
};
use arrow::buffer::{NullBuffer, ScalarBuffer};
use arrow::datatypes::ArrowPrimitiveType;
use auxo_proto::rows::{FieldColumn, Rows, Values};
use auxo_proto::schema::{Column, ColumnType, MergeMode};
use auxo_sst::batch::{FieldSet, SeriesSlice, SortedBatch, arrow_type};
use bytes::Bytes;

/// Rows of a request in key order.
///
/// * `pick`: the rows that count, ascending, `None` for all of them.
/// * returns: one batch whose fields are those of `fields`, in that order; a field that the
///   request lacks is all NULL.
pub(crate) fn sort_rows(
    rows: &Rows,
    pick: Option<&[u32]>,
    fields: &FieldSet,
    mode: MergeMode,
) -> SortedBatch {
    let ranked = ranked_series(rows);
    let (order, starts) = order_by_series_and_time(rows, pick, &ranked);
    let (sources, starts) = match mode {
        MergeMode::Append => (Sources::Same(order), starts),
        MergeMode::LastRow => {
            let (kept, starts) = keep_last(&rows.time, &order, &starts);
            (Sources::Same(kept), starts)
        }
        MergeMode::LastNonNull => group_equal(&rows.time, order, starts),
    };
    let time: Vec<i64> = sources.last_rows().map(|row| rows.time[row as usize]).collect();
    let mut series = Vec::with_capacity(ranked.len());
    for (rank, &number) in ranked.iter().enumerate() {
        if starts[rank] < starts[rank + 1] {
            series.push(SeriesSlice {
                key: Bytes::copy_from_slice(rows.series.key(number)),
                hash: rows.series.hash(number),
                start: starts[rank],
            });
        }
    }
    let fields = fields.iter().map(|field| gather(rows, field, &sources)).collect();
    SortedBatch { series, time: ScalarBuffer::from(time), fields }
}

/// Numbers of the distinct series in the order of their keys.
fn ranked_series(rows: &Rows) -> Vec<u32> {
    let mut ranked: Vec<u32> = (0..rows.series.len() as u32).collect();
    ranked.sort_unstable_by(|&a, &b| rows.series.key(a).cmp(rows.series.key(b)));
    ranked
}

/// Rows by (rank of series, time, arrival), and where each rank's rows begin; one bound more than
/// there are series.
fn order_by_series_and_time(
    rows: &Rows,
    pick: Option<&[u32]>,
    ranked: &[u32],
) -> (Vec<u32>, Vec<u32>) {
    let mut rank_of = vec![0_u32; ranked.len()];
    for (rank, &number) in ranked.iter().enumerate() {
        rank_of[number as usize] = rank as u32;
    }
    let all;
    let pick = match pick {
        Some(pick) => pick,
        None => {
            all = (0..rows.len() as u32).collect::<Vec<_>>();
            &all
        }
    };
    let rank = |row: u32| rank_of[rows.series_of[row as usize] as usize] as usize;
    let mut starts = vec![0_u32; ranked.len() + 1];
    for &row in pick {
        starts[rank(row) + 1] += 1;
    }
    for rank in 1..starts.len() {
        starts[rank] += starts[rank - 1];
    }
    let mut place = starts.clone();
    let mut order = vec![0_u32; pick.len()];
    for &row in pick {
        let place = &mut place[rank(row)];
        order[*place as usize] = row;
        *place += 1;
    }
    for bounds in starts.windows(2) {
        let series = &mut order[bounds[0] as usize..bounds[1] as usize];
        if !series.is_sorted_by_key(|&row| rows.time[row as usize]) {
            series.sort_by_key(|&row| rows.time[row as usize]);
        }
    }
    (order, starts)
}

/// Which request rows make up each row that comes out.
enum Sources {
    /// One row each.
    Same(Vec<u32>),
    /// A run of `order` each, oldest first: field by field the last value counts. `ends[i]` is
    /// where row i's run ends.
    Runs { order: Vec<u32>, ends: Vec<u32> },
}

impl Sources {
    fn len(&self) -> usize {
        match self {
            Self::Same(order) => order.len(),
            Self::Runs { ends, .. } => ends.len(),
        }
    }

    /// Youngest request row of each row.
    fn last_rows(&self) -> Box<dyn Iterator<Item = u32> + '_> {
        match self {
            Self::Same(order) => Box::new(order.iter().copied()),
            Self::Runs { order, ends } => {
                Box::new(ends.iter().map(|&end| order[end as usize - 1]))
            }
        }
    }

    /// Request row per row from which to take a field: the youngest that has a value, else the
    /// youngest.
    fn rows_for(&self, column: &FieldColumn) -> Vec<u32> {
        match (self, &column.validity) {
            (Self::Runs { order, ends }, Some(validity)) => {
                let mut start = 0;
                ends.iter()
                    .map(|&end| {
                        let run = &order[start..end as usize];
                        start = end as usize;
                        let valid = run.iter().rev().find(|&&row| validity.get(row as usize));
                        valid.copied().unwrap_or(run[run.len() - 1])
                    })
                    .collect()
            }
            _ => self.last_rows().collect(),
        }
    }
}

/// Drops every row that is followed by one of the same series and time.
fn keep_last(time: &[i64], order: &[u32], starts: &[u32]) -> (Vec<u32>, Vec<u32>) {
    let mut kept = Vec::with_capacity(order.len());
    let mut kept_starts = Vec::with_capacity(starts.len());
    kept_starts.push(0);
    for bounds in starts.windows(2) {
        let series = &order[bounds[0] as usize..bounds[1] as usize];
        for (index, &row) in series.iter().enumerate() {
            let next = series.get(index + 1);
            if next.is_none_or(|&next| time[next as usize] != time[row as usize]) {
                kept.push(row);
            }
        }
        kept_starts.push(kept.len() as u32);
    }
    (kept, kept_starts)
}

/// Puts rows of the same series and time into one run each.
fn group_equal(time: &[i64], order: Vec<u32>, starts: Vec<u32>) -> (Sources, Vec<u32>) {
    let mut ends = Vec::with_capacity(order.len());
    let mut run_starts = Vec::with_capacity(starts.len());
    run_starts.push(0);
    for bounds in starts.windows(2) {
        for at in bounds[0]..bounds[1] {
            let same_as_next = at + 1 < bounds[1]
                && time[order[at as usize] as usize] == time[order[at as usize + 1] as usize];
            if !same_as_next {
                ends.push(at + 1);
            }
        }
        run_starts.push(ends.len() as u32);
    }
    if ends.len() == order.len() {
        return (Sources::Same(order), run_starts);
    }
    (Sources::Runs { order, ends }, run_starts)
}

/// One field of the sorted rows as an arrow array of its declared type.
fn gather(rows: &Rows, field: &Column, sources: &Sources) -> ArrayRef {
    let ty = arrow_type(field.ty);
    let Some(column) = rows.columns.iter().find(|column| column.id == field.id) else {
        return arrow::array::new_null_array(&ty, sources.len());
    };
    let from = sources.rows_for(column);
    let nulls = column.validity.as_ref().map(|validity| {
        NullBuffer::from_iter(from.iter().map(|&row| validity.get(row as usize)))
    });
    let nulls = nulls.filter(|nulls| nulls.null_count() > 0);
    match &column.values {
        Values::Bool(values) => {
            let mut builder = BooleanBuilder::with_capacity(from.len());
            for (index, &row) in from.iter().enumerate() {
                let valid = nulls.as_ref().is_none_or(|nulls| nulls.is_valid(index));
                builder.append_option(valid.then(|| values[row as usize]));
            }
            Arc::new(builder.finish())
        }
        Values::I64(values) => signed(values, &from, nulls, field.ty),
        Values::U64(values) => unsigned(values, &from, nulls, field.ty),
        Values::F64(values) => match field.ty {
            ColumnType::Float32 => {
                Arc::new(picked(values, &from, nulls, |v| v as f32) as Float32Array)
            }
            _ => Arc::new(picked(values, &from, nulls, |v| v) as Float64Array),
        },
        Values::I128(values) => {
            Arc::new((picked(values, &from, nulls, |v| v) as Decimal128Array).with_data_type(ty))
        }
        Values::Bytes(values) => {
            let valid = |index| nulls.as_ref().is_none_or(|nulls| nulls.is_valid(index));
            let bytes: usize = from.iter().map(|&row| values.get(row as usize).len()).sum();
            if field.ty == ColumnType::String {
                let mut builder = StringBuilder::with_capacity(from.len(), bytes);
                for (index, &row) in from.iter().enumerate() {
                    let text = str::from_utf8(values.get(row as usize)).ok();
                    builder.append_option(text.filter(|_| valid(index)));
                }
                Arc::new(builder.finish())
            } else {
                let mut builder = BinaryBuilder::with_capacity(from.len(), bytes);
                for (index, &row) in from.iter().enumerate() {
                    builder.append_option(valid(index).then(|| values.get(row as usize)));
                }
                Arc::new(builder.finish())
            }
        }
    }
}

fn signed(values: &[i64], from: &[u32], nulls: Option<NullBuffer>, ty: ColumnType) -> ArrayRef {
    match ty {
        ColumnType::Int8 => Arc::new(picked(values, from, nulls, |v| v as i8) as Int8Array),
        ColumnType::Int16 => Arc::new(picked(values, from, nulls, |v| v as i16) as Int16Array),
        ColumnType::Int32 => Arc::new(picked(values, from, nulls, |v| v as i32) as Int32Array),
        ColumnType::Date => Arc::new(picked(values, from, nulls, |v| v as i32) as Date32Array),
        ColumnType::Timestamp(_) => {
            Arc::new(picked(values, from, nulls, |v| v) as TimestampNanosecondArray)
        }
        _ => Arc::new(picked(values, from, nulls, |v| v) as Int64Array),
    }
}

fn unsigned(values: &[u64], from: &[u32], nulls: Option<NullBuffer>, ty: ColumnType) -> ArrayRef {
    match ty {
        ColumnType::UInt8 => Arc::new(picked(values, from, nulls, |v| v as u8) as UInt8Array),
        ColumnType::UInt16 => Arc::new(picked(values, from, nulls, |v| v as u16) as UInt16Array),
        ColumnType::UInt32 => Arc::new(picked(values, from, nulls, |v| v as u32) as UInt32Array),
        _ => Arc::new(picked(values, from, nulls, |v| v) as UInt64Array),
    }
}

/// Values of the given rows; narrowing is exact because doors check ranges before they accept.
fn picked<V: Copy, T: ArrowPrimitiveType>(
    values: &[V],
    from: &[u32],
    nulls: Option<NullBuffer>,
    narrow: impl Fn(V) -> T::Native,
) -> PrimitiveArray<T> {
    let picked: Vec<T::Native> = from.iter().map(|&row| narrow(values[row as usize])).collect();
    PrimitiveArray::new(ScalarBuffer::from(picked), nulls)
}

/// Bytes that a batch holds in memory, counting shared buffers once each.
pub(crate) fn memory_bytes(batch: &SortedBatch) -> usize {
    let arrays: usize = batch.fields.iter().map(|array| array.get_array_memory_size()).sum();
    let series: usize = batch.series.iter().map(|slice| slice.key.len() + 48).sum();
    arrays + series + 8 * batch.time.len()
}

#[cfg(test)]
mod tests {
    use super::*;
    use arrow::array::AsArray;
    use arrow::datatypes::Int64Type;
    use auxo_proto::ids::ColumnId;
    use auxo_proto::rows::Validity;
    use auxo_proto::schema::ColumnKind;
    use proptest::prelude::*;
    use std::collections::BTreeMap;

    fn fields() -> FieldSet {
        let field = |id| Column {
            id: ColumnId(id),
            name: format!("f{id}"),
            kind: ColumnKind::Field,
            ty: ColumnType::Int64,
            nullable: true,
        };
        Arc::from(vec![field(1), field(2)])
    }

    type Row = (u8, i64, Option<i64>, Option<i64>);

    fn rows(input: &[Row]) -> Rows {
        let mut rows = Rows::default();
        let mut columns = [(Vec::new(), Validity::default()), (Vec::new(), Validity::default())];
        let mut numbers: BTreeMap<u8, u32> = BTreeMap::new();
        for &(series, time, a, b) in input {
            let number = *numbers
                .entry(series)
                .or_insert_with(|| rows.series.push(&[series], u32::from(series)));
            rows.series_of.push(number);
            rows.time.push(time);
            for ((values, validity), value) in columns.iter_mut().zip([a, b]) {
                values.push(value.unwrap_or(0));
                validity.push(value.is_some());
            }
        }
        for (index, (values, validity)) in columns.into_iter().enumerate() {
            let id = ColumnId(index as u32 + 1);
            let values = Values::I64(values);
            rows.columns.push(FieldColumn { id, values, validity: Some(validity) });
        }
        rows
    }

    fn flat(batch: &SortedBatch) -> Vec<Row> {
        let value = |field: usize, row: usize| {
            let array = batch.fields[field].as_primitive::<Int64Type>();
            array.is_valid(row).then(|| array.value(row))
        };
        (0..batch.series.len())
            .flat_map(|slice| batch.slice_rows(slice).map(move |row| (slice, row)))
            .map(|(slice, row)| {
                let series = batch.series[slice].key[0];
                (series, batch.time[row], value(0, row), value(1, row))
            })
            .collect()
    }

    /// The plainest way to say what should come out.
    fn model(input: &[Row], mode: MergeMode) -> Vec<Row> {
        let mut all: Vec<Row> = Vec::new();
        for &row in input {
            let same = all.iter_mut().find(|old| (old.0, old.1) == (row.0, row.1));
            match (mode, same) {
                (MergeMode::LastRow, Some(old)) => *old = row,
                (MergeMode::LastNonNull, Some(old)) => {
                    *old = (row.0, row.1, row.2.or(old.2), row.3.or(old.3));
                }
                _ => all.push(row),
            }
        }
        all.sort_by_key(|row| (row.0, row.1));
        all
    }

    proptest! {
        #[test]
        fn equals_the_plain_model(
            input in proptest::collection::vec(
                (0_u8..4, 0_i64..6, proptest::option::of(0_i64..9), proptest::option::of(0_i64..9)),
                0..40,
            ),
        ) {
            for mode in [MergeMode::LastRow, MergeMode::LastNonNull, MergeMode::Append] {
                let batch = sort_rows(&rows(&input), None, &fields(), mode);
                prop_assert_eq!(flat(&batch), model(&input, mode), "{:?}", mode);
            }
        }

        #[test]
        fn picks_only_what_was_asked(
            input in proptest::collection::vec((0_u8..4, 0_i64..6, Just(None), Just(Some(1_i64))), 1..20),
            modulus in 1_usize..4,
        ) {
            let pick: Vec<u32> = (0..input.len() as u32).step_by(modulus).collect();
            let chosen: Vec<Row> = pick.iter().map(|&row| input[row as usize]).collect();
            let batch = sort_rows(&rows(&input), Some(&pick), &fields(), MergeMode::LastRow);
            prop_assert_eq!(flat(&batch), model(&chosen, MergeMode::LastRow));
        }
    }
}
