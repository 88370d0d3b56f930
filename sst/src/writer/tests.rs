//! What the writer refuses, and what it says of a file.

use auxo_proto::schema::ColumnType;

use super::*;
use crate::index::FieldHead;
use crate::index::heads::Heads;
use crate::model::{self, Cell, Row};
use crate::predicate::Bound;

fn row(tag: &str, time: i64, value: Option<Cell>) -> Row {
    Row {
        key: model::series_key(&[Some(tag.to_owned())]),
        time,
        values: vec![value],
    }
}

/// The head of the one field of a file with these values.
fn head(ty: ColumnType, values: &[Option<Cell>]) -> FieldHead {
    let (schema, fields) = model::table(1, &[ty]);
    let rows: Vec<Row> = (0..)
        .zip(values)
        .map(|(time, value)| row("a", time, value.clone()))
        .collect();
    let batches = model::batches(&rows, &fields, &[]);
    let spec = model::spec(&schema, MergeMode::LastRow);
    let (bytes, entry) = model::write(spec, &fields, &batches, false);
    let tail = &bytes[(entry.length - entry.tail_length) as usize..];
    // Heads begin with their version, the flags and the counts of series and rows.
    let begin = [1, 0, 1, values.len() as u8];
    let at = tail.windows(4).position(|window| window == begin).unwrap();
    Heads::decode(&tail[at..]).unwrap().fields[0].clone()
}

#[test]
fn heads_of_fields_see_nan_infinity_and_extremes() {
    let float = |value: f64| Some(Cell::Float(value.to_bits()));
    let found = head(ColumnType::Float64, &[float(f64::NAN), None, float(-3.0)]);
    let range = Some((Bound::F64(-3.0), Bound::F64(-3.0)));
    assert_eq!((found.nan, found.infinite, found.nulls), (true, false, 1));
    assert_eq!((found.range, found.large_sum), (range, false));
    let found = head(ColumnType::Float64, &[float(-f64::NAN), None]);
    assert_eq!((found.nan, found.range), (true, None));
    let found = head(ColumnType::Float64, &[float(f64::INFINITY), float(1.0)]);
    assert_eq!((found.nan, found.infinite), (false, true));

    let signed = |value| Some(Cell::Signed(value));
    let many: Vec<_> = (-100..100).map(signed).collect();
    let found = head(ColumnType::Int8, &many[..120]);
    assert_eq!(found.range, Some((Bound::I64(-100), Bound::I64(19))));
    let found = head(ColumnType::Int64, &[signed(1 << 52), signed(0)]);
    assert!(found.large_sum);
    let unsigned = |value| Some(Cell::Unsigned(value));
    let found = head(ColumnType::UInt64, &[unsigned(u64::MAX), unsigned(7)]);
    assert_eq!(found.range, Some((Bound::U64(7), Bound::U64(u64::MAX))));
    let found = head(
        ColumnType::UInt32,
        &[unsigned(u32::MAX.into()), unsigned(7)],
    );
    let max = Bound::U64(u32::MAX.into());
    assert_eq!(found.range, Some((Bound::U64(7), max)));
    let found = head(ColumnType::Bool, &[None, Some(Cell::Bool(true))]);
    assert_eq!((found.range, found.nulls), (None, 1));
}

#[test]
fn rows_that_break_their_shape_are_refused() {
    let (schema, fields) = model::table(1, &[ColumnType::Int64]);
    let writer = || SstWriter::new(model::spec(&schema, MergeMode::LastRow), fields.clone());
    let good = model::batch(&[row("a", 1, None), row("b", 1, None)], &fields);
    let refused = |change: fn(&mut SortedBatch)| {
        let mut batch = good.clone();
        change(&mut batch);
        let error = writer().push(&batch).unwrap_err();
        assert!(matches!(error, SstError::Rows(_)), "{error}");
    };
    refused(|batch| batch.series.swap(0, 1));
    refused(|batch| batch.series[1].start = 0);
    refused(|batch| batch.series[0].start = 1);
    refused(|batch| batch.series.clear());
    refused(|batch| batch.fields.clear());
    refused(|batch| batch.fields[0] = batch.fields[0].slice(0, 1));
    refused(|batch| batch.series[1].key = Bytes::from_static(b"\x02b\x00\x02c\x00"));
    refused(|batch| batch.series[1].key = Bytes::from_static(b"\x02b"));
    let (_, other) = model::table(1, &[ColumnType::Bool]);
    let error = writer().push(&model::batch(&[row("a", 1, None)], &other));
    assert!(matches!(error, Err(SstError::Rows(_))));
    let mut after = writer();
    after.push(&good).unwrap();
    assert!(matches!(after.push(&good), Err(SstError::Rows(_))));
    assert!(matches!(writer().finish(), Err(SstError::Rows(_))));
    let mut spec = model::spec(&schema, MergeMode::LastRow);
    spec.partition = vec![ColumnId(77)];
    let mut hashed = SstWriter::new(spec, fields.clone());
    hashed.push(&good).unwrap();
    assert!(matches!(hashed.finish(), Err(SstError::Rows(_))));
}

#[test]
fn the_size_foretold_is_near_the_size_written() {
    let (schema, fields) = model::table(1, &[ColumnType::Int64]);
    let mut writer = SstWriter::new(model::spec(&schema, MergeMode::LastRow), fields.clone());
    for series in 0..300_i64 {
        // A multiplicative hash: values that no encoding makes small.
        let value = |time: i64| (time * 300 + series).wrapping_mul(-7_046_029_254_386_353_131);
        let rows: Vec<Row> = (0..1_000)
            .map(|time| {
                row(
                    &format!("{series:03}"),
                    time,
                    Some(Cell::Signed(value(time))),
                )
            })
            .collect();
        writer.push(&model::batch(&rows, &fields)).unwrap();
    }
    let foretold = writer.bytes_so_far();
    let (bytes, _) = writer.finish().unwrap();
    let ratio = foretold as f64 / bytes.len() as f64;
    assert!((0.8..1.5).contains(&ratio), "{foretold} of {}", bytes.len());
}
