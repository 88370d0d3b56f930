//! Values for tests of this crate: one of everything, and small files.

use auxo_proto::ids::{ColumnId, DatabaseId, SchemaNumber, TableId, TenantId};
use auxo_proto::schema::{
    Column, ColumnKind, ColumnType, HashRange, MergeMode, Partition, TableInfo, TableOptions,
    TableSchema, TimeUnit,
};
use ulid::Ulid;

use super::*;
use crate::names;
use crate::predicate::TagTest;

pub(crate) const HOUR_NS: i64 = 3_600_000_000_000;

pub(crate) fn term(epoch: u64, inc: u32) -> Term {
    Term { epoch, inc }
}

fn column(id: u32, name: &str, kind: ColumnKind, ty: ColumnType) -> Column {
    Column {
        id: ColumnId(id),
        name: name.into(),
        kind,
        ty,
        nullable: kind != ColumnKind::Time,
    }
}

pub(crate) fn table(id: u64) -> Arc<TableInfo> {
    let decimal = ColumnType::Decimal {
        precision: 18,
        scale: 2,
    };
    Arc::new(TableInfo {
        id: TableId(id),
        tenant: TenantId(11),
        database: DatabaseId(12),
        name: format!("cpu{id}"),
        schema: Arc::new(TableSchema {
            number: SchemaNumber(3),
            columns: vec![
                column(1, "host", ColumnKind::Tag, ColumnType::String),
                column(
                    2,
                    "ts",
                    ColumnKind::Time,
                    ColumnType::Timestamp(TimeUnit::Millisecond),
                ),
                column(4, "usage", ColumnKind::Field, ColumnType::Float64),
                column(5, "price", ColumnKind::Field, decimal),
            ],
        }),
        partition: Partition {
            columns: vec![ColumnId(1)],
            count: 2,
        },
        options: TableOptions {
            ttl_ms: Some(86_400_000),
            segment_ms: None,
            merge_mode: MergeMode::LastNonNull,
        },
    })
}

pub(crate) fn tablet(id: u64, table: &Arc<TableInfo>, range: HashRange) -> TabletSpec {
    TabletSpec {
        id: TabletId(id),
        range,
        table: table.clone(),
    }
}

/// A file of table 21, tablet 31, in the segment of 6 h from 1970 on, with all series.
pub(crate) fn file(term: Term, writer: u64, number: u64, seqs: (u64, u64)) -> FileEntry {
    let ulid = Ulid::from_parts(number, 0);
    FileEntry {
        key: names::sst_key(ShardId(7), term, writer, TenantId(11), TableId(21), ulid),
        offset: 0,
        length: 4096,
        tail_length: 512,
        tail_crc32c: 0xdead_beef,
        table: TableId(21),
        tablet: TabletId(31),
        segment_start: 0,
        segment_ns: 6 * HOUR_NS as u64,
        rows: 1000,
        series: 10,
        t_min: 0,
        t_max: HOUR_NS,
        seq_min: Seq(seqs.0),
        seq_max: Seq(seqs.1),
        first_key: Bytes::from_static(b"\x02a\x00"),
        last_key: Bytes::from_static(b"\x02z\x00"),
        range: HashRange { lo: 0, hi: 9 },
        schema: SchemaNumber(3),
        columns: vec![ColumnId(4), ColumnId(5)],
        is_final: false,
    }
}

/// A manifest that keeps every law and has at least one of everything.
pub(crate) fn full() -> Manifest {
    let owner = term(3, 1);
    let table21 = table(21);
    let mut bundled = file(owner, 0xabc, 2, (5_150, 5_199));
    bundled.offset = 65_536;
    bundled.segment_start = -6 * HOUR_NS;
    bundled.t_min = -HOUR_NS;
    bundled.t_max = -1;
    bundled.is_final = true;
    Manifest {
        term: owner,
        writer: 0xabc,
        write_id: 0x0011_2233_4455_6677_8899_aabb_ccdd_eeff,
        incarnation: 0x1234_5678_9abc_def0,
        base_seq: Seq(5_000),
        flushed: 200,
        floor: Floor {
            term: owner,
            writer: 0xabc,
            n: 77,
            sealed: false,
        },
        claim: 99,
        files: vec![file(owner, 0xabc, 1, (5_100, 5_199)), bundled],
        tablets: vec![
            tablet(31, &table21, HashRange { lo: 0, hi: 9 }),
            tablet(
                32,
                &table21,
                HashRange {
                    lo: 10,
                    hi: u32::MAX,
                },
            ),
            tablet(33, &table(22), HashRange::FULL),
        ],
        batches: Arc::new(BatchTable {
            tenants: vec![
                TenantBatches {
                    tenant: TenantId(11),
                    low_water: Some(BatchId(1)),
                    entries: vec![
                        BatchEntry {
                            id: BatchId(2),
                            body_hash: 3,
                            seq: Seq(5_120),
                        },
                        BatchEntry {
                            id: BatchId(u128::MAX),
                            body_hash: u64::MAX,
                            seq: Seq(5_101),
                        },
                    ],
                },
                TenantBatches {
                    tenant: TenantId(12),
                    low_water: None,
                    entries: Vec::new(),
                },
            ],
        }),
        deletes: vec![Delete {
            tablet: TabletId(31),
            filter: every_filter(),
            time: TimeRange::ALL,
            seq: Seq(5_110),
        }],
        parents: vec![Parent {
            shard: ShardId(6),
            incarnation: 9,
            base_seq: Seq(1_000),
            from: 3_000,
            until: 3_999,
            floor: Floor {
                term: term(2, 0),
                writer: 8,
                n: 7,
                sealed: false,
            },
        }],
        retired: vec![Retired {
            key: "6/sst/2.0-8/11-21-old.parquet".into(),
            length: 1234,
            at_ms: 1_700_000_000_000,
        }],
    }
}

fn every_filter() -> TagFilter {
    let test = |tag, test| TagFilter::Test { tag, test };
    let value = b"m".to_vec();
    TagFilter::And(vec![
        TagFilter::Any,
        TagFilter::Or(vec![
            TagFilter::Nothing,
            TagFilter::Not(Box::new(test(0, TagTest::IsNull))),
        ]),
        test(1, TagTest::OneOf(vec![Vec::new(), value.clone()])),
        test(
            2,
            TagTest::Below {
                value: value.clone(),
                inclusive: true,
            },
        ),
        test(
            3,
            TagTest::Above {
                value: value.clone(),
                inclusive: false,
            },
        ),
        test(4, TagTest::Prefix(value)),
        test(5, TagTest::Matches("^a.*z$".into())),
    ])
}

/// Manifest 1 of a fresh shard with one tablet for all of [`file`]'s files.
pub(crate) fn fresh(owner: Term, writer: u64, claim: Offset, write_id: u128) -> Manifest {
    Manifest {
        term: owner,
        writer,
        write_id,
        incarnation: 5,
        base_seq: Seq(0),
        flushed: 0,
        floor: Floor::default(),
        claim,
        files: Vec::new(),
        tablets: vec![tablet(31, &table(21), HashRange { lo: 0, hi: 9 })],
        batches: Arc::default(),
        deletes: Vec::new(),
        parents: Vec::new(),
        retired: Vec::new(),
    }
}

/// What a leader's first commit makes of `base`.
pub(crate) fn bump(
    base: &Manifest,
    owner: Term,
    writer: u64,
    claim: Offset,
    write_id: u128,
) -> Manifest {
    Manifest {
        term: owner,
        writer,
        write_id,
        claim,
        ..base.clone()
    }
}

/// What a flush of the same leader up to `flushed` makes of `base`: one more file.
pub(crate) fn flush(base: &Manifest, flushed: Offset, write_id: u128) -> Manifest {
    let mut next = base.clone();
    next.write_id = write_id;
    next.flushed = flushed;
    next.floor = Floor {
        term: base.term,
        writer: base.writer,
        n: flushed,
        sealed: false,
    };
    let seqs = (base.flushed_seq().0, next.flushed_seq().0 - 1);
    next.files.push(file(base.term, base.writer, flushed, seqs));
    next
}
