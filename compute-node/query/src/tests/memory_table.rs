//! Tables whose tablets lie in memory: rows in, snapshots out.

use std::collections::HashMap;
use std::sync::Arc;

use arrow::array::{ArrayRef, UInt32Array};
use arrow::compute::take;
use auxo_proto::ids::{ColumnId, DatabaseId, NodeId, SchemaNumber, ShardId, TableId, TabletId};
use auxo_proto::key;
use auxo_proto::schema::{
    Column, ColumnKind, ColumnType, HashRange, Partition, TableInfo, TableOptions, TableSchema,
    TimeUnit,
};
use auxo_proto::topology::{DatabaseInfo, ShardRoute, TabletRoute, Topology};
use auxo_sst::batch::{SeriesSlice, SortedBatch, arrow_type};
use auxo_sst::predicate::{ScanSpec, TagFilter, TagTest};
use bytes::Bytes;
use futures::{FutureExt, StreamExt, stream};

use crate::source::{Found, Place, Snapshot, Snapshots, Stack};
use crate::tests::TENANT;

/// Rows of one table; `key` and `time` ascend together.
pub(crate) struct MemoryTable {
    pub(crate) info: Arc<TableInfo>,
    rows: Arc<Stored>,
    tablets: u32,
}

struct Stored {
    keys: Vec<Bytes>,
    hashes: Vec<u32>,
    time: Vec<i64>,
    fields: HashMap<ColumnId, ArrayRef>,
    segment_ns: i64,
    batch_rows: usize,
    merged: bool,
}

pub(crate) fn column(id: u32, name: &str, kind: ColumnKind, ty: ColumnType) -> Column {
    Column {
        id: ColumnId(id),
        name: name.into(),
        kind,
        ty,
        nullable: kind != ColumnKind::Time,
    }
}

pub(crate) const NS: ColumnType = ColumnType::Timestamp(TimeUnit::Nanosecond);

impl MemoryTable {
    /// A table of rows in any order; each row's tags and time are its own.
    ///
    /// * `fields`: one array per field column in declared order, one value per row, of the type
    ///   the engine stores.
    pub(crate) fn new(
        id: u64,
        name: &str,
        columns: Vec<Column>,
        tablets: u32,
        keys: &[(Vec<Option<String>>, i64)],
        fields: &[ArrayRef],
    ) -> Self {
        let tags: Vec<ColumnId> = columns
            .iter()
            .filter(|column| column.kind == ColumnKind::Tag)
            .map(|column| column.id)
            .collect();
        let partition = Partition {
            columns: if tablets > 1 {
                tags[..1].to_vec()
            } else {
                Vec::new()
            },
            count: tablets,
        };
        let schema = TableSchema {
            number: SchemaNumber(1),
            columns,
        };
        schema.check().unwrap();
        let encode = |tags: &[Option<String>]| {
            key::encode(tags.iter().map(|tag| tag.as_ref().map(String::as_bytes)))
        };
        let mut order: Vec<u32> = (0..keys.len() as u32).collect();
        order.sort_by_key(|&row| {
            let (tags, time) = &keys[row as usize];
            (encode(tags), *time)
        });
        let at = |row: &u32| &keys[*row as usize];
        let indices = UInt32Array::from(order.clone());
        let stored = Stored {
            keys: order.iter().map(|row| encode(&at(row).0).into()).collect(),
            hashes: order
                .iter()
                .map(|row| key::partition_hash(&encode(&at(row).0[..partition.columns.len()])))
                .collect(),
            time: order.iter().map(|row| at(row).1).collect(),
            fields: schema
                .fields()
                .zip(fields)
                .map(|(column, values)| {
                    assert_eq!(
                        *values.data_type(),
                        arrow_type(column.ty),
                        "{}",
                        column.name
                    );
                    (column.id, take(values, &indices, None).unwrap())
                })
                .collect(),
            segment_ns: 3_600_000_000_000,
            batch_rows: 1_000,
            merged: false,
        };
        Self {
            info: Arc::new(TableInfo {
                id: TableId(id),
                tenant: TENANT,
                database: DatabaseId(1),
                name: name.into(),
                schema: Arc::new(schema),
                partition,
                options: TableOptions::default(),
            }),
            rows: Arc::new(stored),
            tablets,
        }
    }

    /// The same table cut into batches of another size, its stacks said to be merged or not.
    pub(crate) fn cut(mut self, batch_rows: usize, merged: bool) -> Self {
        let stored = Arc::get_mut(&mut self.rows).unwrap();
        stored.batch_rows = batch_rows;
        stored.merged = merged;
        self
    }

    fn routes(&self) -> Vec<TabletRoute> {
        let tiles = HashRange::tile(self.tablets).into_iter().enumerate();
        tiles
            .map(|(at, range)| TabletRoute {
                id: TabletId(self.info.id.0 * 1_000 + at as u64),
                table: self.info.id,
                range,
                shard: ShardId(1),
            })
            .collect()
    }

    fn snapshot(&self) -> Snapshot {
        let (rows, info) = (Arc::clone(&self.rows), Arc::clone(&self.info));
        Snapshot::from_fn(move |spec| rows.find(&info, spec))
    }
}

impl Stored {
    fn wanted(&self, spec: &ScanSpec) -> Vec<u32> {
        let passes = |row: &u32| {
            let row = *row as usize;
            spec.time.contains(self.time[row])
                && spec.range.contains(self.hashes[row])
                && holds(&spec.tags, &self.keys[row]) == Some(true)
        };
        (0..self.time.len() as u32).filter(passes).collect()
    }

    fn find(self: &Arc<Self>, info: &TableInfo, spec: &ScanSpec) -> Found {
        for bound in &spec.bounds {
            assert!(info.schema.by_id(bound.column).is_some());
        }
        let mut segments: Vec<i64> = self
            .wanted(spec)
            .iter()
            .map(|&row| self.time[row as usize].div_euclid(self.segment_ns))
            .collect();
        segments.sort_unstable();
        segments.dedup();
        let stack = |segment: i64| {
            let stored = Arc::clone(self);
            let of_segment = |time: &&i64| time.div_euclid(self.segment_ns) == segment;
            Stack {
                merged: self.merged,
                rows_at_most: self.time.iter().filter(of_segment).count() as u64,
                files: 1,
                t_min: self.time.iter().filter(of_segment).copied().min().unwrap(),
                t_max: self.time.iter().filter(of_segment).copied().max().unwrap(),
                open: Arc::new(move |spec| {
                    assert!(
                        !stored.merged || spec.bounds.is_empty(),
                        "bounds below a merge"
                    );
                    stream::iter(stored.batches(segment, &spec)).map(Ok).boxed()
                }),
            }
        };
        let all: std::collections::BTreeSet<i64> = self
            .time
            .iter()
            .map(|time| time.div_euclid(self.segment_ns))
            .collect();
        Found {
            stacks: segments.into_iter().map(stack).collect(),
            files_considered: all.len() as u64,
        }
    }

    fn batches(&self, segment: i64, spec: &ScanSpec) -> Vec<SortedBatch> {
        let mut wanted = self.wanted(spec);
        wanted.retain(|&row| self.time[row as usize].div_euclid(self.segment_ns) == segment);
        wanted
            .chunks(self.batch_rows)
            .map(|rows| self.batch(rows, spec))
            .collect()
    }

    fn batch(&self, rows: &[u32], spec: &ScanSpec) -> SortedBatch {
        let mut series: Vec<SeriesSlice> = Vec::new();
        for (start, &row) in rows.iter().enumerate() {
            let key = &self.keys[row as usize];
            if series.last().is_none_or(|last| last.key != key) {
                series.push(SeriesSlice {
                    key: key.clone(),
                    hash: self.hashes[row as usize],
                    start: start as u32,
                });
            }
        }
        let indices = UInt32Array::from(rows.to_vec());
        let field = |column: &Column| match self.fields.get(&column.id) {
            Some(values) => take(values, &indices, None).unwrap(),
            None => arrow::array::new_null_array(&arrow_type(column.ty), rows.len()),
        };
        SortedBatch {
            series,
            time: rows.iter().map(|&row| self.time[row as usize]).collect(),
            fields: spec.fields.iter().map(field).collect(),
        }
    }
}

/// SQL's three-valued answer, written as plainly as it can be.
pub(crate) fn holds(filter: &TagFilter, key: &[u8]) -> Option<bool> {
    match filter {
        TagFilter::Any => Some(true),
        TagFilter::Nothing => Some(false),
        TagFilter::Not(inner) => holds(inner, key).map(|answer| !answer),
        TagFilter::And(all) => {
            let answers: Vec<_> = all.iter().map(|filter| holds(filter, key)).collect();
            if answers.contains(&Some(false)) {
                Some(false)
            } else if answers.contains(&None) {
                None
            } else {
                Some(true)
            }
        }
        TagFilter::Or(any) => {
            let answers: Vec<_> = any.iter().map(|filter| holds(filter, key)).collect();
            if answers.contains(&Some(true)) {
                Some(true)
            } else if answers.contains(&None) {
                None
            } else {
                Some(false)
            }
        }
        TagFilter::Test { tag, test } => {
            let value = key::tag(key, *tag as usize).unwrap();
            if *test == TagTest::IsNull {
                return Some(value.is_none());
            }
            let found = value?;
            let found = found.as_ref();
            Some(match test {
                TagTest::IsNull => unreachable!("answered above"),
                TagTest::OneOf(values) => values.iter().any(|value| value == found),
                TagTest::Below { value, inclusive } => {
                    found < value.as_slice() || *inclusive && found == value.as_slice()
                }
                TagTest::Above { value, inclusive } => {
                    found > value.as_slice() || *inclusive && found == value.as_slice()
                }
                TagTest::Prefix(prefix) => found.starts_with(prefix),
                TagTest::Matches(pattern) => {
                    let text = std::str::from_utf8(found).unwrap();
                    regex::Regex::new(pattern).unwrap().is_match(text)
                }
            })
        }
    }
}

/// All tables of a test.
pub(crate) struct Tables(Vec<Arc<MemoryTable>>);

impl Tables {
    pub(crate) fn new(tables: Vec<MemoryTable>) -> Self {
        Self(tables.into_iter().map(Arc::new).collect())
    }

    pub(crate) fn topology(&self) -> Topology {
        let database = |id, tenant, name: &str| DatabaseInfo {
            id: DatabaseId(id),
            tenant,
            name: name.into(),
        };
        Topology {
            number: 1,
            databases: vec![
                database(1, TENANT, "main"),
                database(2, TENANT, "metrics"),
                database(3, auxo_proto::ids::TenantId(8), "secret"),
            ],
            tables: self.0.iter().map(|table| Arc::clone(&table.info)).collect(),
            tablets: self.0.iter().flat_map(|table| table.routes()).collect(),
            shards: vec![ShardRoute {
                id: ShardId(1),
                epoch: 1,
                leader: Some(NodeId(1)),
            }],
            nodes: Vec::new(),
        }
    }

    pub(crate) fn snapshots(&self) -> Snapshots {
        let tables = self.0.clone();
        Snapshots::from_fn(move |tablets| {
            let place = |tablet: &TabletId| {
                let id = TableId(tablet.0 / 1_000);
                let table = tables.iter().find(|table| table.info.id == id);
                Place::Here(table.unwrap().snapshot())
            };
            let places = tablets.iter().map(place).collect();
            async move { Ok(places) }.boxed()
        })
    }
}
