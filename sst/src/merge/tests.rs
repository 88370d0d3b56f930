//! Merges and sorts against a map.

use auxo_proto::schema::ColumnType;
use futures::TryStreamExt;
use proptest::prelude::*;

use super::*;
use crate::model::{self, Row};

const TYPES: [ColumnType; 3] = [ColumnType::Int64, ColumnType::String, ColumnType::Bool];

fn mode() -> impl Strategy<Value = MergeMode> {
    proptest::sample::select(
        &[
            MergeMode::LastRow,
            MergeMode::LastNonNull,
            MergeMode::Append,
        ][..],
    )
}

fn collect(sources: Vec<MergeSource>, mode: MergeMode, fields: &FieldSet) -> Vec<Row> {
    let merged = merge(sources, mode, fields).try_collect::<Vec<_>>();
    model::rows(&futures::executor::block_on(merged).unwrap(), fields)
}

fn source(batches: Vec<SortedBatch>, first_key: &[u8]) -> MergeSource {
    MergeSource {
        rows: stream::iter(batches.into_iter().map(Ok)).boxed(),
        first_key: Bytes::copy_from_slice(first_key),
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    #[test]
    fn a_merge_gives_what_a_map_gives(
        sources in proptest::collection::vec((model::sorted_rows(2, TYPES.to_vec(), 5), any::<[usize; 3]>(), any::<bool>()), 0..5),
        mode in mode(),
    ) {
        let (_, fields) = model::table(2, &TYPES);
        let streams = sources.iter().map(|(rows, cuts, known)| {
            let first = rows.first().filter(|_| *known).map_or(&[][..], |row| &row.key);
            source(model::batches(rows, &fields, cuts), first)
        });
        let found = collect(streams.collect(), mode, &fields);
        let rows: Vec<Vec<Row>> = sources.into_iter().map(|(rows, ..)| rows).collect();
        prop_assert_eq!(found, model::merged(&rows, mode));
    }

    #[test]
    fn sorting_gives_what_a_map_gives(
        arrived in proptest::collection::vec((0..6_u32, 0..8_i64, model::value(TYPES[0]), model::value(TYPES[1]), model::value(TYPES[2])), 0..60),
        mode in mode(),
    ) {
        let (_, fields) = model::table(1, &TYPES);
        let names = ["b", "a", "c", "a", "", "b"];
        let keys = names.map(|name| model::series_key(&[Some(name.to_owned())]));
        let rows: Vec<Row> = arrived.iter().map(|(series, time, a, b, c)| Row {
            key: keys[*series as usize].clone(),
            time: *time,
            values: vec![a.clone(), b.clone(), c.clone()],
        }).collect();
        let unsorted = UnsortedRows {
            series: keys.iter().map(|key| (Bytes::copy_from_slice(key), model::hash(key))).collect(),
            series_of: arrived.iter().map(|row| row.0).collect(),
            time: arrived.iter().map(|row| row.1).collect(),
            fields: model::batch(&rows, &fields).fields,
        };
        let sorted = sort_rows(&unsorted, mode).unwrap();
        let one_each: Vec<Vec<Row>> = rows.into_iter().map(|row| vec![row]).collect();
        let expected = model::merged(&one_each, mode);
        let found = if expected.is_empty() { vec![] } else { model::rows(&[sorted], &fields) };
        prop_assert_eq!(found, expected);
    }
}

#[test]
fn a_source_whose_keys_come_later_is_not_asked_early() {
    let (_, fields) = model::table(1, &TYPES[..1]);
    let row = |name: &str, time| Row {
        key: model::series_key(&[Some(name.to_owned())]),
        time,
        values: vec![None],
    };
    let early: Vec<Row> = (0..9_000).map(|time| row("a", time)).collect();
    let asked = Arc::new(std::sync::atomic::AtomicBool::new(false));
    let late = {
        let (asked, batch) = (asked.clone(), model::batch(&[row("b", 1)], &fields));
        stream::once(async move {
            asked.store(true, std::sync::atomic::Ordering::Relaxed);
            Ok(batch)
        })
    };
    let sources = vec![
        MergeSource {
            rows: late.boxed(),
            first_key: row("b", 1).key.into(),
        },
        source(model::batches(&early, &fields, &[]), &row("a", 0).key),
    ];
    let mut merged = merge(sources, MergeMode::LastRow, &fields);
    let first = futures::executor::block_on(merged.try_next())
        .unwrap()
        .unwrap();
    assert_eq!(first.rows(), PAGE_ROWS);
    assert!(!asked.load(std::sync::atomic::Ordering::Relaxed));
    let rest: Vec<_> = futures::executor::block_on(merged.try_collect()).unwrap();
    assert_eq!(model::rows(&rest, &fields).len(), 9_001 - PAGE_ROWS);
    assert!(asked.load(std::sync::atomic::Ordering::Relaxed));
}

#[test]
fn an_error_of_a_source_ends_the_merge() {
    let (_, fields) = model::table(0, &TYPES[..1]);
    let row = Row {
        key: vec![],
        time: 1,
        values: vec![None],
    };
    let broken = MergeSource {
        rows: stream::iter([Err(SstError::rows("broken"))]).boxed(),
        first_key: Bytes::new(),
    };
    let sources = vec![source(model::batches(&[row], &fields, &[]), &[]), broken];
    let merged = merge(sources, MergeMode::Append, &fields).try_collect::<Vec<_>>();
    assert!(matches!(
        futures::executor::block_on(merged),
        Err(SstError::Rows(_))
    ));
}
