//! Payloads: golden bytes, round trips, hostile bytes.

use std::sync::Arc;

use auxo_proto::ids::{ColumnId, DatabaseId};
use auxo_proto::key;
use auxo_proto::rows::{BytesVec, FieldColumn, Validity, Values};
use auxo_proto::schema::{
    Column, ColumnKind, ColumnType, HashRange, Partition, TableInfo, TableOptions, TableSchema,
    TimeUnit,
};
use auxo_sst::predicate::TagTest;
use proptest::prelude::*;

use super::*;

fn encoded(batch: &Batch) -> EncodedBatch {
    encode_batch(batch).unwrap()
}

fn rows_entry(rows: Rows) -> Entry {
    Entry::Rows {
        table: TableId(7),
        tablet: TabletId(70),
        schema: SchemaNumber(3),
        rows,
    }
}

fn batch(entries: Vec<Entry>) -> Batch {
    Batch {
        tenant: TenantId(1),
        id: None,
        hash: 0,
        entries,
    }
}

/// Two series, three rows, one column of every kind.
fn small_rows() -> Rows {
    let mut rows = Rows::default();
    for tags in [["host_1", "eu"], ["host_2", "eu"]] {
        let key = key::encode(tags.map(|tag| Some(tag.as_bytes())));
        rows.series.push(&key, key::partition_hash(&key));
    }
    rows.series_of = vec![0, 1, 0];
    rows.time = vec![1_700_000_000_000_000_000; 3];
    rows.time[2] += 10_000_000_000;
    let mut text = BytesVec::new();
    ["a", "", "long"]
        .iter()
        .for_each(|value| text.push(value.as_bytes()));
    let mut some = Validity::default();
    [true, false, true]
        .iter()
        .for_each(|&valid| some.push(valid));
    let values = [
        Values::Bool(vec![true, false, true]),
        Values::I64(vec![-1, 300, 0]),
        Values::U64(vec![u64::MAX; 3]),
        Values::F64(vec![0.5, 0.0, -2.0]),
        Values::Bytes(text),
        Values::I128(vec![1, -1, i128::MAX]),
    ];
    for (index, values) in values.into_iter().enumerate() {
        rows.columns.push(FieldColumn {
            id: ColumnId(10 + index as u32),
            values,
            validity: (index % 2 == 1).then(|| some.clone()),
        });
    }
    rows
}

fn small_tablet() -> TabletSpec {
    let columns = [
        (1, "host", ColumnKind::Tag, ColumnType::String),
        (
            2,
            "time",
            ColumnKind::Time,
            ColumnType::Timestamp(TimeUnit::Nanosecond),
        ),
        (3, "usage", ColumnKind::Field, ColumnType::Float64),
    ];
    let columns = columns.map(|(id, name, kind, ty)| Column {
        id: ColumnId(id),
        name: name.into(),
        kind,
        ty,
        nullable: kind != ColumnKind::Time,
    });
    TabletSpec {
        id: TabletId(71),
        range: HashRange::FULL,
        table: Arc::new(TableInfo {
            id: TableId(8),
            tenant: TenantId(1),
            database: DatabaseId(2),
            name: "cpu".into(),
            schema: Arc::new(TableSchema {
                number: SchemaNumber(1),
                columns: columns.into(),
            }),
            partition: Partition {
                columns: vec![ColumnId(1)],
                count: 1,
            },
            options: TableOptions::default(),
        }),
    }
}

/// The payload whose bytes are in testdata: every kind of filter and column.
fn golden() -> Payload {
    let test = |tag, test| TagFilter::Test { tag, test };
    let bound = |value: &str| value.as_bytes().to_vec();
    let filter = TagFilter::And(vec![
        TagFilter::Any,
        TagFilter::Or(vec![
            test(0, TagTest::IsNull),
            test(1, TagTest::OneOf(vec![bound("a"), bound("b")])),
            TagFilter::Nothing,
        ]),
        TagFilter::Not(Box::new(test(2, TagTest::Prefix(bound("eu-"))))),
        test(
            0,
            TagTest::Below {
                value: bound("m"),
                inclusive: true,
            },
        ),
        test(
            0,
            TagTest::Above {
                value: bound("c"),
                inclusive: false,
            },
        ),
        test(3, TagTest::Matches("^x.*$".into())),
    ]);
    let delete = Entry::Delete {
        tablet: TabletId(70),
        filter,
        time: TimeRange {
            start: -5,
            end: TimeRange::ALL.end,
        },
    };
    let mut first = batch(vec![rows_entry(small_rows()), delete]);
    first.id = Some(BatchId(0x0190_0000_0000_7000_8000_0000_0000_0001));
    first.hash = 0x0123_4567_89AB_CDEF;
    let second = batch(vec![Entry::DropTablets(vec![TabletId(5), TabletId(6)])]);
    Payload {
        batches: vec![first, second],
    }
}

const GOLDEN: &[u8] = include_bytes!("../../testdata/rows-payload.version-1.bin");
const GOLDEN_LZ4: &[u8] = include_bytes!("../../testdata/rows-payload.version-1.lz4.bin");
const GOLDEN_TABLETS: &[u8] = include_bytes!("../../testdata/rows-payload.version-1.tablets.bin");

#[test]
fn golden_bytes() {
    let payload = golden();
    let parts: Vec<_> = payload.batches.iter().map(encoded).collect();
    let (bytes, taken) = join(&parts, usize::MAX);
    assert_eq!(taken, 2);
    assert_eq!(hex(&bytes), hex(GOLDEN));
    assert_eq!(decode(GOLDEN), Ok(payload));
}

/// Only read: the JSON inside may gain members, which must not be needed.
#[test]
fn golden_bytes_of_tablets() {
    let batches = vec![batch(vec![Entry::CreateTablets(vec![small_tablet()])])];
    assert_eq!(decode(GOLDEN_TABLETS), Ok(Payload { batches }));
}

#[test]
fn golden_bytes_with_lz4() {
    let batch = batch(vec![rows_entry(cpu_rows(8, 4))]);
    let (bytes, _) = join(&[encoded(&batch)], usize::MAX);
    assert_eq!(bytes[5], LZ4);
    assert_eq!(hex(&bytes), hex(GOLDEN_LZ4));
    let batches = vec![batch];
    assert_eq!(decode(GOLDEN_LZ4), Ok(Payload { batches }));
}

fn hex(bytes: &[u8]) -> String {
    let lines = bytes.chunks(16).map(|line| {
        let cells: Vec<_> = line.iter().map(|byte| format!("{byte:02x}")).collect();
        cells.join(" ")
    });
    lines.collect::<Vec<_>>().join("\n")
}

/// Ten tags a host, ten whole numbers from 0 to 100 a row, hosts of one time after the other.
fn cpu_rows(hosts: usize, steps: usize) -> Rows {
    let mut state = 1_u64;
    let mut draw = |below: u64| {
        state = state
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1);
        (state >> 33) % below
    };
    let mut rows = Rows::default();
    let mut walks = vec![[0_i64; 10]; hosts];
    for (host, walk) in walks.iter_mut().enumerate() {
        let region = ["us-east-1", "eu-west-1", "eu-central-1", "ap-southeast-2"][draw(4) as usize];
        let tags = [
            format!("host_{host}"),
            region.into(),
            format!("{region}{}", ["a", "b", "c"][draw(3) as usize]),
            draw(100).to_string(),
            ["Ubuntu16.10", "Ubuntu16.04LTS", "Ubuntu15.10"][draw(3) as usize].into(),
            ["x64", "x86"][draw(2) as usize].into(),
            ["SF", "NYC", "LON", "CHI"][draw(4) as usize].into(),
            draw(20).to_string(),
            draw(2).to_string(),
            ["production", "staging", "test"][draw(3) as usize].into(),
        ];
        let key = key::encode(tags.iter().map(|tag| Some(tag.as_bytes())));
        rows.series.push(&key, key::partition_hash(&key));
        walk.fill_with(|| draw(101) as i64);
    }
    let mut columns = vec![Vec::new(); 10];
    for step in 0..steps {
        for (host, walk) in walks.iter_mut().enumerate() {
            rows.series_of.push(host as u32);
            rows.time
                .push(1_767_225_600_000_000_000 + step as i64 * 10_000_000_000);
            for (value, column) in walk.iter_mut().zip(&mut columns) {
                *value = (*value + draw(5) as i64 - 2).clamp(0, 100);
                column.push(*value);
            }
        }
    }
    for (index, values) in columns.into_iter().enumerate() {
        rows.columns.push(FieldColumn {
            id: ColumnId(12 + index as u32),
            values: Values::I64(values),
            validity: None,
        });
    }
    rows
}

#[test]
fn a_row_of_the_benchmark_takes_at_most_20_bytes() {
    for (hosts, steps) in [(400, 12), (100, 50), (400, 1)] {
        let part = encoded(&batch(vec![rows_entry(cpu_rows(hosts, steps))]));
        // A series costs its tags once a record; they weigh less the more rows share them.
        let budget = 20 * hosts * steps + 25 * hosts;
        let bytes = part.encoded_bytes();
        assert!(bytes <= budget, "{bytes} for {hosts} × {steps}");
        if steps >= 12 {
            assert!(bytes <= 20 * hosts * steps, "{bytes} for {hosts} × {steps}");
        }
    }
}

#[test]
fn what_is_not_known_is_named() {
    let refused = |at: usize, byte: u8| {
        let mut bytes = GOLDEN.to_vec();
        bytes[at] = byte;
        decode(&bytes).unwrap_err().to_string()
    };
    assert_eq!(
        refused(0, 2),
        "payload has version 2, which this release does not know"
    );
    assert_eq!(
        refused(5, 9),
        "payload has codec 9, which this release does not know"
    );
    let first_entry = 5 + BATCH_HEADER_BYTES + 8 + 1 + 16 + 8 + 4;
    assert_eq!(GOLDEN[first_entry], ROWS);
    assert_eq!(
        refused(first_entry, 5),
        "payload has entry kind 5, which this release does not know"
    );
}

#[test]
fn join_takes_what_fits_and_at_least_one() {
    let part = encoded(&batch(vec![Entry::DropTablets(vec![TabletId(1)])]));
    let three = [part.clone(), part.clone(), part.clone()];
    let two_bytes = 5 + 2 * part.encoded_bytes();
    for (bytes_max, expected) in [(0, 1), (two_bytes - 1, 1), (two_bytes, 2), (1 << 20, 3)] {
        let (bytes, taken) = join(&three, bytes_max);
        assert_eq!(taken, expected, "{bytes_max}");
        assert_eq!(decode(&bytes).unwrap().batches.len(), expected);
    }
    let huge = EncodedBatch {
        bytes: part.bytes.clone(),
        memory: BATCH_MEMORY_MAX,
    };
    let (_, taken) = join(&[huge.clone(), huge.clone(), part], usize::MAX);
    assert_eq!(taken, 2, "a payload stays decodable");
    let (bytes, taken) = join(&[], 0);
    assert_eq!((decode(&bytes), taken), (Ok(Payload::default()), 0));
}

#[test]
fn a_batch_too_large_to_decode_is_refused() {
    let with_value_of = |bytes: usize| {
        let mut value = BytesVec::new();
        value.push(&vec![0; bytes]);
        let mut rows = Rows {
            series_of: vec![0],
            time: vec![0],
            columns: vec![FieldColumn {
                id: ColumnId(1),
                values: Values::Bytes(value),
                validity: None,
            }],
            ..Rows::default()
        };
        rows.series.push(b"", 0);
        encode_batch(&batch(vec![rows_entry(rows)]))
    };
    // The value counts in the unpacked body and in the column.
    let half = BATCH_MEMORY_MAX / 2;
    let Err(EncodeError::TooLarge { memory }) = with_value_of(half) else {
        panic!("it fits");
    };
    assert!(memory > BATCH_MEMORY_MAX);
    assert!(with_value_of(1 << 20).is_ok());
}

#[test]
fn a_broken_batch_is_not_encoded() {
    let mut rows = small_rows();
    rows.series_of[0] = 2;
    assert_eq!(
        encode_batch(&batch(vec![rows_entry(rows)])),
        Err(EncodeError::Malformed("series 2 of 2".into()))
    );
    let mut filter = TagFilter::Any;
    for _ in 0..FILTER_DEPTH_MAX {
        filter = TagFilter::Not(Box::new(filter));
    }
    let delete = |filter| Entry::Delete {
        tablet: TabletId(1),
        filter,
        time: TimeRange::ALL,
    };
    let TagFilter::Not(deepest) = filter.clone() else {
        unreachable!()
    };
    let (bytes, _) = join(&[encoded(&batch(vec![delete(*deepest)]))], usize::MAX);
    assert!(decode(&bytes).is_ok());
    assert_eq!(
        encode_batch(&batch(vec![delete(filter)])),
        Err(EncodeError::TooDeep)
    );
}

fn ints() -> impl Strategy<Value = i64> {
    prop_oneof![-3..300_i64, Just(i64::MIN), Just(i64::MAX), any::<i64>()]
}

fn times() -> impl Strategy<Value = i64> {
    (
        0..100_000_i64,
        prop_oneof![Just(1), Just(1_000), Just(1_000_000), Just(1_000_000_000)],
        ints(),
    )
        .prop_map(|(count, unit, any)| if any < 0 { any } else { count * unit })
}

fn values(rows: usize) -> impl Strategy<Value = Values> {
    use proptest::collection::vec;
    let bytes = vec(vec(any::<u8>(), 0..9), rows).prop_map(|values| {
        let mut packed = BytesVec::new();
        values.iter().for_each(|value| packed.push(value));
        Values::Bytes(packed)
    });
    let unsigned = prop_oneof![0..300_u64, any::<u64>()];
    prop_oneof![
        vec(any::<bool>(), rows).prop_map(Values::Bool),
        vec(ints(), rows).prop_map(Values::I64),
        vec(unsigned, rows).prop_map(Values::U64),
        vec(-1e9..1e9_f64, rows).prop_map(Values::F64),
        vec(any::<i128>(), rows).prop_map(Values::I128),
        bytes,
    ]
}

fn validity(rows: usize) -> impl Strategy<Value = Option<Validity>> {
    let bits = proptest::collection::vec(any::<bool>(), rows);
    proptest::option::of(bits.prop_map(|bits| {
        let mut validity = Validity::default();
        bits.into_iter().for_each(|bit| validity.push(bit));
        validity
    }))
}

fn some_rows() -> impl Strategy<Value = Rows> {
    use proptest::collection::{btree_set, vec};
    let keys = btree_set(vec(0_u8..4, 0..12), 1..20);
    (keys, 0_usize..150).prop_flat_map(|(keys, rows)| {
        let mut series = auxo_proto::rows::SeriesList::new();
        for key in &keys {
            series.push(key, key::partition_hash(key));
        }
        let last = keys.len() as u32 - 1;
        let column = (values(rows), validity(rows));
        (
            Just(series),
            vec(0..=last, rows),
            vec(times(), rows),
            vec(column, 0..5),
        )
            .prop_map(|(series, series_of, time, columns)| Rows {
                series,
                series_of,
                time,
                columns: columns
                    .into_iter()
                    .enumerate()
                    .map(|(id, (values, validity))| FieldColumn {
                        id: ColumnId(id as u32),
                        values,
                        validity,
                    })
                    .collect(),
            })
    })
}

fn filters() -> impl Strategy<Value = TagFilter> {
    use proptest::collection::vec;
    let value = || vec(any::<u8>(), 0..5);
    let test = prop_oneof![
        Just(TagTest::IsNull),
        vec(value(), 0..4).prop_map(TagTest::OneOf),
        (value(), any::<bool>()).prop_map(|(value, inclusive)| TagTest::Below { value, inclusive }),
        (value(), any::<bool>()).prop_map(|(value, inclusive)| TagTest::Above { value, inclusive }),
        value().prop_map(TagTest::Prefix),
        "[a-z.*]{0,5}".prop_map(TagTest::Matches),
    ];
    let leaf = prop_oneof![
        Just(TagFilter::Any),
        Just(TagFilter::Nothing),
        (any::<u32>(), test).prop_map(|(tag, test)| TagFilter::Test { tag, test }),
    ];
    leaf.prop_recursive(4, 20, 4, |inner| {
        prop_oneof![
            vec(inner.clone(), 0..4).prop_map(TagFilter::And),
            vec(inner.clone(), 0..4).prop_map(TagFilter::Or),
            inner.prop_map(|part| TagFilter::Not(Box::new(part))),
        ]
    })
}

fn entries() -> impl Strategy<Value = Entry> {
    prop_oneof![
        4 => some_rows().prop_map(rows_entry),
        1 => (filters(), any::<i64>(), any::<i128>()).prop_map(|(filter, start, end)| Entry::Delete {
            tablet: TabletId(3),
            filter,
            time: TimeRange { start, end },
        }),
        1 => Just(Entry::CreateTablets(vec![small_tablet()])),
        1 => proptest::collection::vec(any::<u64>().prop_map(TabletId), 0..5)
            .prop_map(Entry::DropTablets),
    ]
}

fn batches() -> impl Strategy<Value = Batch> {
    (
        any::<u64>(),
        proptest::option::of(any::<u128>().prop_map(BatchId)),
        any::<u64>(),
        proptest::collection::vec(entries(), 0..4),
    )
        .prop_map(|(tenant, id, hash, entries)| Batch {
            tenant: TenantId(tenant),
            id,
            hash,
            entries,
        })
}

proptest! {
    #[test]
    fn round_trip(batches in proptest::collection::vec(batches(), 0..4)) {
        let parts: Vec<_> = batches.iter().map(encoded).collect();
        let (bytes, taken) = join(&parts, usize::MAX);
        prop_assert_eq!(taken, batches.len());
        // A reader takes exactly the memory that the writer said it would.
        let mut memory = parts.iter().map(EncodedBatch::memory_bytes).sum();
        prop_assert_eq!(decode_within(&bytes, &mut memory), Ok(Payload { batches }));
        prop_assert_eq!(memory, 0);
    }

    #[test]
    fn damaged_bytes_are_an_error_or_another_payload_of_good_shape(
        batch in batches(),
        damage in proptest::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..4),
        cut in proptest::option::of(any::<prop::sample::Index>()),
    ) {
        let mut body = Writer::default();
        for entry in &batch.entries {
            write_entry(&mut body, entry).unwrap();
        }
        let mut bytes = body.bytes;
        if bytes.is_empty() {
            return Ok(());
        }
        for (at, byte) in damage {
            let at = at.index(bytes.len());
            bytes[at] = byte;
        }
        if let Some(cut) = cut {
            bytes.truncate(cut.index(bytes.len()));
        }
        let mut memory = 1 << 20;
        let mut reader = Reader::new(&bytes, &mut memory);
        while let Ok(entry) = read_entry(&mut reader) {
            if let Entry::Rows { rows, .. } = entry {
                prop_assert_eq!(rows.check(), Ok(()));
            }
        }
    }

    #[test]
    fn any_bytes_decode_without_a_panic(mut bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
        let _ = decode(&bytes);
        // Behind a good start random bytes come further.
        let head = [1, 1, 0, 0, 0, 0];
        let len = bytes.len() as u32;
        let lens = [len.to_le_bytes(), len.to_le_bytes()].concat();
        bytes.splice(0..0, head.into_iter().chain(lens));
        let _ = decode(&bytes);
    }
}

#[test]
fn a_small_payload_cannot_ask_for_much_memory() {
    // One column of 2³² − 1 equal values in a few bytes.
    let mut body = Writer::default();
    body.u8(ROWS);
    body.u64(1);
    body.u64(1);
    body.u32(1);
    body.u32(u32::MAX);
    body.u32(1);
    for _ in 0..2 {
        body.u64(0);
        body.u8(0);
    }
    body.u32(0);
    body.u64(0);
    body.u8(0);
    let mut memory = PAYLOAD_MEMORY_MAX;
    let mut reader = Reader::new(&body.bytes, &mut memory);
    assert_eq!(read_entry(&mut reader), Err(PayloadError::TooLarge));
}
