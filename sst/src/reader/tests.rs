//! Files written and scanned, against rows filtered one by one.

use std::sync::Arc;

use auxo_proto::schema::{ColumnType, HashRange, MergeMode};
use futures::TryStreamExt;
use object_store::memory::InMemory;
use object_store::{ObjectStore, ObjectStoreExt};
use proptest::prelude::*;

use super::*;
use crate::batch::FieldSet;
use crate::model::{self, Row, TYPES};
use crate::predicate::{TagFilter, TagTest, TimeRange};

fn block_on<F: Future>(future: F) -> F::Output {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap()
        .block_on(future)
}

async fn stored(bytes: Bytes, entry: &FileEntry) -> Arc<dyn ObjectStore> {
    let store = InMemory::new();
    let path = object_store::path::Path::from(entry.key.as_str());
    store.put(&path, bytes.into()).await.unwrap();
    Arc::new(store)
}

async fn scan(file: &Arc<SstFile>, spec: &ScanSpec) -> Result<Vec<Row>, SstError> {
    let batches: Vec<SortedBatch> = file.scan(spec).try_collect().await?;
    Ok(model::rows(&batches, &spec.fields))
}

fn everything(fields: &FieldSet) -> ScanSpec {
    ScanSpec {
        fields: fields.clone(),
        time: TimeRange::ALL,
        tags: TagFilter::Any,
        range: HashRange::FULL,
        bounds: Vec::new(),
    }
}

fn tag_test() -> impl Strategy<Value = TagTest> {
    let value = || "[a-c]{0,2}".prop_map(String::into_bytes);
    prop_oneof![
        Just(TagTest::IsNull),
        proptest::collection::btree_set(value(), 0..3)
            .prop_map(|values| TagTest::OneOf(values.into_iter().collect())),
        (value(), any::<bool>()).prop_map(|(value, inclusive)| TagTest::Below { value, inclusive }),
        (value(), any::<bool>()).prop_map(|(value, inclusive)| TagTest::Above { value, inclusive }),
        value().prop_map(TagTest::Prefix),
        prop_oneof![Just("a"), Just("^b"), Just("c$"), Just("^$")]
            .prop_map(|pattern| TagTest::Matches(pattern.into())),
    ]
}

fn tag_filter() -> impl Strategy<Value = TagFilter> {
    let test = (0..4_u32, tag_test()).prop_map(|(tag, test)| TagFilter::Test { tag, test });
    let leaf = prop_oneof![6 => test, 1 => Just(TagFilter::Any), 1 => Just(TagFilter::Nothing)];
    leaf.prop_recursive(3, 12, 3, |inner| {
        prop_oneof![
            proptest::collection::vec(inner.clone(), 0..3).prop_map(TagFilter::And),
            proptest::collection::vec(inner.clone(), 0..3).prop_map(TagFilter::Or),
            inner.prop_map(|inner| TagFilter::Not(Box::new(inner))),
        ]
    })
}

fn time_range() -> impl Strategy<Value = TimeRange> {
    let bound = || prop_oneof![8 => -60..160_i64, 1 => any::<i64>()];
    prop_oneof![
        1 => Just(TimeRange::ALL),
        3 => (bound(), bound()).prop_map(|(start, end)| TimeRange { start, end: end.into() }),
    ]
}

fn types() -> impl Strategy<Value = Vec<ColumnType>> {
    proptest::collection::vec(proptest::sample::select(TYPES), 0..4)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    #[test]
    fn a_scan_gives_what_filtering_each_row_gives(
        (tags, types, rows) in (0..4_usize, types()).prop_flat_map(|(tags, types)| {
            let rows = model::sorted_rows(tags, types.clone(), 12);
            (Just(tags), Just(types), rows)
        }).prop_filter("a file has rows", |(_, _, rows)| !rows.is_empty()),
        cuts in proptest::collection::vec(any::<usize>(), 0..4),
        specs in proptest::collection::vec((time_range(), tag_filter(), any::<(u32, u32)>(), any::<[bool; 3]>()), 3),
        entry_range in any::<(u32, bool)>(),
    ) {
        let (schema, fields) = model::table(tags, &types);
        let batches = model::batches(&rows, &fields, &cuts);
        let (bytes, mut entry) = model::write(model::spec(&schema, MergeMode::LastRow), &fields, &batches);
        prop_assert_eq!(entry.rows, rows.len() as u64);
        prop_assert_eq!(Some(entry.t_min), rows.iter().map(|row| row.time).min());
        prop_assert_eq!(Some(entry.t_max), rows.iter().map(|row| row.time).max());
        prop_assert_eq!(&entry.first_key[..], &rows[0].key[..]);
        prop_assert_eq!(&entry.last_key[..], &rows[rows.len() - 1].key[..]);
        if entry_range.1 {
            entry.range = HashRange { lo: 0, hi: entry_range.0 };
        }
        let range = entry.range;
        block_on(async {
            let store = stored(bytes, &entry).await;
            let file = SstFile::open(store, Arc::new(entry)).await.unwrap();
            for (time, tags, (lo, hi), [missing, turned, ranged]) in specs {
                let mut wanted: Vec<_> = fields.to_vec();
                if missing {
                    let (_, other) = model::table(0, &[ColumnType::Int64; 9]);
                    wanted.push(other[8].clone());
                }
                if turned {
                    wanted.reverse();
                }
                let spec = ScanSpec {
                    fields: wanted.into(),
                    time,
                    tags,
                    range: if ranged { HashRange { lo: lo.min(hi), hi: lo.max(hi) } } else { HashRange::FULL },
                    bounds: Vec::new(),
                };
                let expected = model::scanned(&rows, &fields, range, &spec);
                assert_eq!(scan(&file, &spec).await.unwrap(), expected, "{spec:?}");
            }
        });
    }
}

#[test]
fn a_file_of_usual_layout() {
    let (schema, fields) = model::table(1, &[ColumnType::Int64, ColumnType::Float64]);
    let rows: Vec<Row> = (0..300_i64)
        .flat_map(|series| (0..500_i64).map(move |row| (series, row)))
        .map(|(series, row)| Row {
            key: model::series_key(&[Some(format!("h{series:03}"))]),
            time: row * 10 + if series % 3 == 0 { row % 2 } else { 0 },
            values: vec![
                Some(model::Cell::Signed(series * row)),
                (row % 7 > 0).then_some(model::Cell::Float((row as f64).to_bits())),
            ],
        })
        .collect();
    let mut writer =
        crate::writer::SstWriter::new(model::spec(&schema, MergeMode::LastRow), fields.clone());
    for part in rows.chunks(7_000) {
        writer.push(&model::batch(part, &fields)).unwrap();
    }
    let (bytes, entry) = writer.finish().unwrap();
    let range = entry.range;
    block_on(async {
        let store = stored(bytes, &entry).await;
        let file = SstFile::open(store, Arc::new(entry)).await.unwrap();
        let all = everything(&fields);
        assert_eq!(scan(&file, &all).await.unwrap(), rows);
        let some = ScanSpec {
            time: TimeRange {
                start: 1_234,
                end: 3_457,
            },
            tags: TagFilter::Test {
                tag: 0,
                test: TagTest::Prefix(b"h1".to_vec()),
            },
            ..all
        };
        let expected = model::scanned(&rows, &fields, range, &some);
        assert_eq!(scan(&file, &some).await.unwrap(), expected);
    });
}
