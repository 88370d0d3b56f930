//! Files written and scanned, against rows filtered one by one.

use std::collections::BTreeSet;
use std::sync::Arc;

use auxo_proto::schema::{ColumnType, HashRange, MergeMode};
use futures::TryStreamExt;
use object_store::memory::InMemory;
use object_store::{ObjectStore, ObjectStoreExt};
use proptest::prelude::*;

use super::*;
use crate::batch::FieldSet;
use crate::model::{self, Cell, Counting, Row, TYPES};
use crate::predicate::{Bound, FieldBounds, TagFilter, TagTest, TimeRange};

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
    scan_in(file, spec, UnitSizes::USUAL).await
}

async fn scan_in(
    file: &Arc<SstFile>,
    spec: &ScanSpec,
    sizes: UnitSizes,
) -> Result<Vec<Row>, SstError> {
    let batches: Vec<SortedBatch> = file.scan_in(spec, sizes).try_collect().await?;
    Ok(model::rows(&batches, &spec.fields))
}

/// Units of one row group or a few, with pages fetched eagerly or not.
fn unit_sizes() -> impl Strategy<Value = UnitSizes> {
    let small = (1..2_000_u64, 1..2_000_u64, 1..4_usize, any::<bool>());
    let small = small.prop_map(|(first_bytes, bytes, groups, eager)| UnitSizes {
        first_bytes,
        bytes,
        groups,
        eager_bytes: if eager { 100 } else { 0 },
    });
    prop_oneof![1 => Just(UnitSizes::USUAL), 3 => small]
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

/// A table's shape and sorted rows, at least one; in `append` some stand twice.
fn file_rows() -> impl Strategy<Value = (usize, Vec<ColumnType>, Vec<Row>, MergeMode)> {
    let shape = (0..4_usize, types(), any::<bool>());
    let rows = shape.prop_flat_map(|(tags, types, append)| {
        let rows = model::sorted_rows(tags, types.clone(), 12);
        (Just(tags), Just(types), rows, Just(append))
    });
    rows.prop_filter("a file has rows", |(_, _, rows, _)| !rows.is_empty())
        .prop_map(|(tags, types, rows, append)| {
            if !append {
                return (tags, types, rows, MergeMode::LastRow);
            }
            let again: Vec<Row> = rows.iter().step_by(3).cloned().collect();
            let rows = model::merged(&[rows, again], MergeMode::Append);
            (tags, types, rows, MergeMode::Append)
        })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    #[test]
    fn a_scan_gives_what_filtering_each_row_gives(
        (tags, types, rows, mode) in file_rows(),
        cuts in proptest::collection::vec(any::<usize>(), 0..4),
        specs in proptest::collection::vec((time_range(), tag_filter(), any::<(u32, u32)>(), any::<[bool; 3]>()), 3),
        entry_range in any::<(u32, bool)>(),
        sparse in any::<bool>(),
        sizes in unit_sizes(),
    ) {
        let (schema, fields) = model::table(tags, &types);
        let batches = model::batches(&rows, &fields, &cuts);
        let (bytes, mut entry) = model::write(model::spec(&schema, mode), &fields, &batches, sparse);
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
                assert_eq!(scan_in(&file, &spec, sizes).await.unwrap(), expected, "{spec:?}");
                check_index(&file, &rows, range, &spec).await;
            }
        });
    }

    #[test]
    fn bounds_leave_out_only_what_lies_outside(
        (types, rows) in types().prop_flat_map(|types| (Just(types.clone()), model::sorted_rows(1, types, 12)))
            .prop_filter("a file has rows and fields", |(types, rows)| !rows.is_empty() && !types.is_empty()),
        bound in (any::<bool>(), any::<bool>(), -9..9_i8, 0..9_i8),
        time in time_range(),
        sparse in any::<bool>(),
    ) {
        let (schema, fields) = model::table(1, &types);
        let batches = model::batches(&rows, &fields, &[]);
        let (bytes, entry) = model::write(model::spec(&schema, MergeMode::LastRow), &fields, &batches, sparse);
        let (has_min, has_max, low, span) = bound;
        let literal = |value: i8| match types[0] {
            ColumnType::Float32 | ColumnType::Float64 => Bound::F64(value.into()),
            ty if ty.unsigned_max().is_some() => Bound::U64(value.unsigned_abs().into()),
            _ => Bound::I64(value.into()),
        };
        let bounds = FieldBounds {
            column: fields[0].id,
            min: has_min.then(|| literal(low)),
            max: has_max.then(|| literal(low + span)),
        };
        let spec = ScanSpec { time, bounds: vec![bounds.clone()], ..everything(&fields) };
        let all = model::scanned(&rows, &fields, HashRange::FULL, &spec);
        let matters = |row: &&Row| {
            let value = match &row.values[0] {
                None => return false,
                Some(Cell::Signed(value)) => Bound::I64(*value),
                Some(Cell::Unsigned(value)) => Bound::U64(*value),
                Some(Cell::Float(bits)) => Bound::F64(f64::from_bits(*bits)),
                Some(Cell::Float32(bits)) => Bound::F64(f32::from_bits(*bits).into()),
                Some(_) => return true,
            };
            bounds.may_hold(value, value)
        };
        block_on(async {
            let store = stored(bytes, &entry).await;
            let file = SstFile::open(store, Arc::new(entry)).await.unwrap();
            let found = scan(&file, &spec).await.unwrap();
            let mut of_all = all.iter();
            assert!(found.iter().all(|row| of_all.any(|other| other == row)), "rows nobody wrote");
            let left: Vec<&Row> = found.iter().filter(matters).collect();
            assert_eq!(left, all.iter().filter(matters).collect::<Vec<_>>());
        });
    }
}

/// Compares what the index says with the rows.
async fn check_index(file: &Arc<SstFile>, rows: &[Row], range: HashRange, spec: &ScanSpec) {
    let spec = ScanSpec {
        fields: Arc::new([]),
        time: TimeRange::ALL,
        ..spec.clone()
    };
    let passing = model::scanned(rows, &spec.fields, range, &spec);
    let mut expected: Vec<(Vec<u8>, u64, i64, i64)> = Vec::new();
    for row in &passing {
        match expected.last_mut() {
            Some((key, rows, _, last)) if *key == row.key => {
                *rows += 1;
                *last = row.time;
            }
            _ => expected.push((row.key.clone(), 1, row.time, row.time)),
        }
    }
    let found = file.series_in(&spec.tags, spec.range).await.unwrap();
    let found: Vec<_> = found
        .iter()
        .map(|series| (&series.key, series.entry))
        .inspect(|(key, entry)| assert_eq!(entry.hash, model::hash(key)))
        .map(|(key, entry)| (key.to_vec(), entry.rows, entry.t_min, entry.t_max))
        .collect();
    assert_eq!(found, expected, "{spec:?}");
    for tag in 0..4_u32 {
        let values: BTreeSet<Option<Vec<u8>>> = passing
            .iter()
            .map(|row| auxo_proto::key::tag(&row.key, tag as usize).unwrap())
            .map(|value| value.map(|value| value.into_owned()))
            .collect();
        let expected = TagValues {
            has_null: values.contains(&None),
            values: values.into_iter().flatten().map(Bytes::from).collect(),
        };
        let found = file.tag_values(tag, &spec.tags, spec.range).await.unwrap();
        assert_eq!(found, expected, "tag {tag}, {spec:?}");
    }
}

#[test]
fn a_field_is_read_as_the_type_to_which_it_was_widened() {
    use ColumnType::*;
    let changes = [
        (Int8, Int64),
        (Int16, Int32),
        (Int32, Float64),
        (UInt8, UInt32),
        (UInt32, UInt64),
        (Float32, Float64),
    ];
    for (from, to) in changes {
        let (schema, fields) = model::table(1, &[from]);
        let small = |value: u8| match from {
            Float32 => Cell::Float32(f32::from(value).to_bits()),
            UInt8 | UInt32 => Cell::Unsigned(value.into()),
            _ => Cell::Signed(value.into()),
        };
        let rows: Vec<Row> = (0..100)
            .map(|at| Row {
                key: model::series_key(&[Some("a".into())]),
                time: at,
                values: vec![(at % 5 > 0).then(|| small(at as u8))],
            })
            .collect();
        let batches = model::batches(&rows, &fields, &[]);
        let spec = model::spec(&schema, MergeMode::LastRow);
        let (bytes, entry) = model::write(spec, &fields, &batches, false);
        block_on(async {
            let file = SstFile::open(stored(bytes, &entry).await, Arc::new(entry))
                .await
                .unwrap();
            let wider = everything(&model::table(1, &[to]).1);
            let expected = model::scanned(&rows, &fields, HashRange::FULL, &wider);
            assert!(expected.iter().any(|row| row.values[0].is_some()));
            assert_eq!(
                scan(&file, &wider).await.unwrap(),
                expected,
                "{from} to {to}"
            );
            let other = everything(&model::table(1, &[Bool]).1);
            assert!(matches!(
                scan(&file, &other).await,
                Err(SstError::TypeChanged { .. })
            ));
        });
    }
}

/// One file of each form, with enough in it that every section is there.
fn sample(sparse: bool) -> (FieldSet, Bytes, FileEntry, Vec<Row>) {
    let types = [ColumnType::Int64, ColumnType::Float64, ColumnType::String];
    let (schema, fields) = model::table(2, &types);
    let rows_per_series = if sparse { 2 } else { 20 };
    let rows: Vec<Row> = (0..20_i64)
        .flat_map(|series| (0..rows_per_series).map(move |row| (series, row)))
        .map(|(series, row)| Row {
            key: model::series_key(&[Some(format!("h{series:02}")), Some("x".into())]),
            time: row * 10 + series % 2 * (row % 3),
            values: vec![
                Some(Cell::Signed(series * row)),
                (row % 7 > 0).then_some(Cell::Float((row as f64).to_bits())),
                Some(Cell::Bytes(format!("v{}", row % 3).into_bytes())),
            ],
        })
        .collect();
    let batches = model::batches(&rows, &fields, &[]);
    let spec = model::spec(&schema, MergeMode::LastRow);
    let (bytes, entry) = model::write(spec, &fields, &batches, sparse);
    (fields, bytes, entry, rows)
}

#[test]
fn a_flipped_bit_anywhere_is_an_error_that_names_the_file() {
    for sparse in [false, true] {
        let (fields, bytes, entry, rows) = sample(sparse);
        let spec = everything(&fields);
        let read = async |bytes: Vec<u8>| {
            let store = stored(bytes.into(), &entry).await;
            let file = SstFile::open(store, Arc::new(entry.clone())).await?;
            scan(&file, &spec).await
        };
        block_on(async {
            assert_eq!(read(bytes.to_vec()).await.unwrap(), rows);
            for at in (0..bytes.len()).step_by(7) {
                let mut damaged = bytes.to_vec();
                damaged[at] ^= 1 << (at % 8);
                match read(damaged).await {
                    Err(SstError::Corrupt { key, .. }) => assert_eq!(key, entry.key),
                    other => panic!("byte {at} of {}: {other:?}", bytes.len()),
                }
            }
            for length in [0, 10, bytes.len() / 2, bytes.len() - 1] {
                match read(bytes[..length].to_vec()).await {
                    Err(SstError::Corrupt { key, .. }) => assert_eq!(key, entry.key),
                    other => panic!("cut to {length} bytes: {other:?}"),
                }
            }
        });
    }
}

#[test]
fn a_tag_that_is_not_text_comes_back_as_it_was() {
    let (schema, fields) = model::table(1, &[ColumnType::Bool]);
    let rows: Vec<Row> = [&b"\xc3"[..], b"\xff\xfe"]
        .into_iter()
        .map(|tag| Row {
            key: auxo_proto::key::encode([Some(tag)]),
            time: 5,
            values: vec![Some(Cell::Bool(true))],
        })
        .collect();
    let batches = model::batches(&rows, &fields, &[]);
    let spec = model::spec(&schema, MergeMode::LastRow);
    let (bytes, entry) = model::write(spec, &fields, &batches, true);
    block_on(async {
        let store = stored(bytes, &entry).await;
        let file = SstFile::open(store, Arc::new(entry)).await.unwrap();
        assert_eq!(scan(&file, &everything(&fields)).await.unwrap(), rows);
    });
}

#[test]
fn a_file_of_a_later_format_is_refused_by_name() {
    let (_, bytes, mut entry, _) = sample(false);
    let start = (entry.length - entry.tail_length) as usize;
    let mut tail = bytes[start..].to_vec();
    let key = b"auxo.format";
    let at = tail.windows(key.len()).position(|w| w == key).unwrap();
    let digit = at + tail[at..].iter().position(|&byte| byte == b'1').unwrap();
    tail[digit] = b'9';
    entry.tail_crc32c = crc32c::crc32c(&tail);
    let bytes = [&bytes[..start], &tail].concat();
    block_on(async {
        let store = stored(bytes.into(), &entry).await;
        match SstFile::open(store, Arc::new(entry)).await {
            Err(SstError::TooNew {
                key,
                found: 9,
                known: 1,
            }) => {
                assert_eq!(key, "1/sst/1.0-7/1-2-01.parquet");
            }
            other => panic!("{other:?}"),
        }
    });
}

#[test]
fn the_cache_opens_once_and_follows_the_entry() {
    let (fields, bytes, entry, rows) = sample(false);
    block_on(async {
        let store = stored(bytes, &entry).await;
        let cache = TailCache::new(store.clone(), 10 * 1024 * 1024);
        let entry = Arc::new(entry);
        let first = cache.get(&entry).await.unwrap();
        let path = object_store::path::Path::from(entry.key.as_str());
        store.delete(&path).await.unwrap();
        let again = cache.get(&entry).await.unwrap();
        assert!(Arc::ptr_eq(&first, &again));
        let narrower = Arc::new(FileEntry {
            range: HashRange { lo: 1, hi: 0 },
            ..FileEntry::clone(&entry)
        });
        let file = cache.get(&narrower).await.unwrap();
        assert_eq!(scan(&file, &everything(&fields)).await.unwrap(), []);
        assert!(!rows.is_empty());
        let failed = scan(&first, &everything(&fields)).await;
        assert!(matches!(failed, Err(SstError::Store { .. })), "{failed:?}");
    });
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
                Some(Cell::Signed(series * row)),
                (row % 7 > 0).then_some(Cell::Float((row as f64).to_bits())),
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

fn equal(tag: u32, value: &str) -> TagFilter {
    let test = TagTest::OneOf(vec![value.as_bytes().to_vec()]);
    TagFilter::Test { tag, test }
}

/// 40,000 rows: 20 series with a step, 20 without.
fn wide_file() -> (FieldSet, Bytes, FileEntry) {
    let (schema, fields) = model::table(2, &[ColumnType::Int64, ColumnType::Int64]);
    let spec = model::spec(&schema, MergeMode::LastRow);
    let mut writer = crate::writer::SstWriter::new(spec, fields.clone());
    for series in 0..40_i64 {
        let rows: Vec<Row> = (0..1_000_i64)
            .map(|row| Row {
                key: model::series_key(&[Some(format!("h{series:02}")), Some("x".into())]),
                time: row * 10 + if series >= 20 { row * row % 7 } else { 0 },
                values: vec![Some(Cell::Signed(row)), Some(Cell::Signed(series))],
            })
            .collect();
        writer.push(&model::batch(&rows, &fields)).unwrap();
    }
    let (bytes, entry) = writer.finish().unwrap();
    (fields, bytes, entry)
}

#[test]
fn a_point_query_takes_one_request_for_the_tail_and_one_for_the_rows() {
    let (fields, bytes, entry) = wide_file();
    let store = Arc::new(Counting::default());
    block_on(async {
        let path = object_store::path::Path::from(entry.key.as_str());
        store.put(&path, bytes.into()).await.unwrap();
        let opened = SstFile::open(store.clone(), Arc::new(entry)).await;
        let file = opened.unwrap();
        assert_eq!(store.take(), (1, 1), "the tail");
        for host in ["h07", "h37"] {
            let spec = ScanSpec {
                time: TimeRange {
                    start: 5_000,
                    end: 6_000,
                },
                tags: equal(0, host),
                ..everything(&fields)
            };
            let rows = scan(&file, &spec).await.unwrap();
            assert!((99..=101).contains(&rows.len()), "{}", rows.len());
            assert_eq!(store.take(), (1, 1), "{host}");
        }
        let no_fields = ScanSpec {
            tags: equal(0, "h07"),
            ..everything(&Vec::new().into())
        };
        assert_eq!(scan(&file, &no_fields).await.unwrap().len(), 1_000);
        assert_eq!(store.take(), (0, 0), "times with a step are not read");
    });
}

#[test]
fn what_index_and_statistics_rule_out_costs_no_request() {
    for sparse in [false, true] {
        let (fields, bytes, entry, _) = sample(sparse);
        let store = Arc::new(Counting::default());
        block_on(async {
            let path = object_store::path::Path::from(entry.key.as_str());
            store.put(&path, bytes.into()).await.unwrap();
            let opened = SstFile::open(store.clone(), Arc::new(entry)).await;
            let file = opened.unwrap();
            store.take();
            let all = everything(&fields);
            let outside = |column: usize, min| {
                vec![FieldBounds {
                    column: fields[column].id,
                    min: Some(min),
                    max: None,
                }]
            };
            let specs = [
                ScanSpec {
                    tags: equal(1, "y"),
                    ..all.clone()
                },
                ScanSpec {
                    tags: equal(0, "h99"),
                    ..all.clone()
                },
                ScanSpec {
                    time: TimeRange {
                        start: 10_000,
                        end: 20_000,
                    },
                    ..all.clone()
                },
                ScanSpec {
                    range: HashRange { lo: 1, hi: 0 },
                    ..all.clone()
                },
                ScanSpec {
                    bounds: outside(0, Bound::I64(1_000_000)),
                    ..all.clone()
                },
                ScanSpec {
                    bounds: outside(1, Bound::F64(1e9)),
                    ..all
                },
            ];
            for spec in specs {
                assert_eq!(scan(&file, &spec).await.unwrap(), [], "{spec:?}");
                assert_eq!(store.take(), (0, 0), "{spec:?}");
            }
        });
    }
}

/// The rows of the golden files: every type with its extremes, NULL, tags of every kind, a series
/// with a step and one without.
fn golden_rows() -> Vec<Row> {
    let text = |text: &str| Some(text.to_owned());
    let series = [
        (vec![None, None], vec![i64::MIN, 0, i64::MAX]),
        (vec![None, text("only b")], vec![7]),
        (vec![text(""), None], vec![10, 20, 30, 40]),
        (vec![text("a"), text("x\u{0}y")], vec![1, 2, 4]),
        (
            vec![text("a"), text("é")],
            (0..12).map(|row| row * 5).collect(),
        ),
    ];
    let mut rows = Vec::new();
    for (tags, times) in series {
        for time in times {
            let nth = rows.len();
            rows.push(Row {
                key: model::series_key(&tags),
                time,
                values: TYPES.iter().map(|&ty| golden_value(ty, nth)).collect(),
            });
        }
    }
    rows
}

fn golden_value(ty: ColumnType, nth: usize) -> Option<Cell> {
    if nth % 6 == 5 {
        return None;
    }
    let number = nth as i64 * 3 - 20;
    Some(match ty {
        ColumnType::Bool => Cell::Bool(nth.is_multiple_of(2)),
        ColumnType::Float32 => {
            Cell::Float32([f32::NAN, -0.0, f32::INFINITY, 1.5][nth % 4].to_bits())
        }
        ColumnType::Float64 => {
            Cell::Float([f64::NAN, -0.0, f64::NEG_INFINITY, 0.1][nth % 4].to_bits())
        }
        ColumnType::String => Cell::Bytes(["", "é", "a\u{0}b"][nth % 3].into()),
        ColumnType::Binary => Cell::Bytes(vec![0xff; nth % 3]),
        ColumnType::Decimal { precision, .. } => {
            let limit = 10_i128.pow(precision.into()) - 1;
            Cell::Decimal([limit, -limit, number.into()][nth % 3])
        }
        _ => match (ty.signed_range(), ty.unsigned_max()) {
            (_, Some(max)) => Cell::Unsigned([max, 0, nth as u64][nth % 3]),
            (Some((min, max)), None) => Cell::Signed([min, max, number][nth % 3]),
            (None, None) => Cell::Signed(number),
        },
    })
}

/// Bytes, length of the tail and its checksum.
fn check_golden(golden: &'static [u8], tail_length: u64, tail_crc32c: u32, sparse: bool) {
    let (schema, fields) = model::table(2, TYPES);
    let rows = golden_rows();
    let batches = model::batches(&rows, &fields, &[9]);
    let spec = model::spec(&schema, MergeMode::LastRow);
    let (bytes, entry) = model::write(spec, &fields, &batches, sparse);
    assert!(bytes == golden, "the file is encoded to other bytes");
    let expected = FileEntry {
        length: golden.len() as u64,
        tail_length,
        tail_crc32c,
        ..entry.clone()
    };
    assert_eq!(entry, expected);
    block_on(async {
        let store = stored(Bytes::from_static(golden), &expected).await;
        let file = SstFile::open(store, Arc::new(expected)).await.unwrap();
        assert_eq!(file.body.heads.sparse, sparse);
        assert_eq!(scan(&file, &everything(&fields)).await.unwrap(), rows);
    });
}

#[test]
fn golden_files_of_format_1() {
    let dense = include_bytes!("../../testdata/format-1.parquet");
    check_golden(dense, 4_932, 0x124c_7cd2, false);
    let sparse = include_bytes!("../../testdata/format-1-sparse.parquet");
    check_golden(sparse, 4_882, 0x93dd_6819, true);
}
