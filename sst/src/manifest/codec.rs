//! Bytes of a manifest: frame, version and checksum around a protobuf body.
//!
//! ```text
//! "AUXM" │ version u8 │ body length u32 LE │ body │ CRC-32C of all before, u32 LE
//! ```
//! Decoding checks in that order, refuses a higher version by name, and gives a whole manifest or
//! an error; nothing is guessed. What the values mean together is the business of
//! [`super::check`].

use std::sync::Arc;

use auxo_proto::ids::{
    BatchId, ColumnId, DatabaseId, SchemaNumber, Seq, ShardId, TableId, TabletId, TenantId, Term,
};
use auxo_proto::schema::{
    Column, ColumnKind, HashRange, Partition, TableInfo, TableOptions, TableSchema, TabletSpec,
};
use bytes::{BufMut, Bytes, BytesMut};
use prost::Message;

use super::{
    BatchEntry, BatchTable, Delete, Floor, MANIFEST_BYTES_MAX, Manifest, Parent, Retired,
    TenantBatches, body,
};
use crate::entry::FileEntry;
use crate::predicate::{TagFilter, TagTest, TimeRange};

const MAGIC: [u8; 4] = *b"AUXM";
const VERSION: u8 = 1;
const HEAD: usize = 9;
const SUM: usize = 4;

/// Bytes are not a manifest this program can read.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DecodeError {
    /// They do not begin as a manifest does.
    #[error("not a manifest: it does not begin with AUXM")]
    NotAManifest,
    /// A newer program wrote them.
    #[error("manifest format {found} is newer than {VERSION}, the newest this program reads")]
    Newer {
        /// Version they carry.
        found: u8,
    },
    /// There are more or fewer of them than they say.
    #[error("manifest has {found} bytes, it should have {expected}")]
    Length {
        /// Bytes there are.
        found: usize,
        /// Bytes there should be, as far as the header can be read.
        expected: usize,
    },
    /// Above [`MANIFEST_BYTES_MAX`].
    #[error("manifest has {found} bytes, more than {MANIFEST_BYTES_MAX}")]
    TooLarge {
        /// Bytes there are.
        found: u64,
    },
    /// Some of them changed since they were written.
    #[error("checksum of the manifest does not match")]
    Checksum,
    /// They are whole but say something no manifest says.
    #[error("manifest is malformed: {0}")]
    Malformed(String),
}

fn malformed(what: &str) -> DecodeError {
    DecodeError::Malformed(what.to_owned())
}

pub(super) fn encode(manifest: &Manifest) -> Bytes {
    let body = body_of(manifest);
    let length = body.encoded_len();
    let mut bytes = BytesMut::with_capacity(HEAD + length + SUM);
    bytes.put_slice(&MAGIC);
    bytes.put_u8(VERSION);
    // A length above u32 is far above what a commit accepts; the bytes are then never written.
    bytes.put_u32_le(u32::try_from(length).unwrap_or(u32::MAX));
    bytes.put_slice(&body.encode_to_vec());
    let sum = crc32c::crc32c(&bytes);
    bytes.put_u32_le(sum);
    bytes.freeze()
}

pub(super) fn decode(bytes: &[u8]) -> Result<Manifest, DecodeError> {
    let found = bytes.len();
    if found > MANIFEST_BYTES_MAX {
        return Err(DecodeError::TooLarge {
            found: found as u64,
        });
    }
    let Some((head, rest)) = bytes.split_at_checked(HEAD) else {
        let begins = bytes.starts_with(&MAGIC) || MAGIC.starts_with(bytes);
        return Err(match begins {
            true => DecodeError::Length {
                found,
                expected: HEAD + SUM,
            },
            false => DecodeError::NotAManifest,
        });
    };
    if head[..4] != MAGIC {
        return Err(DecodeError::NotAManifest);
    }
    match head[4] {
        VERSION => {}
        found if found > VERSION => return Err(DecodeError::Newer { found }),
        _ => return Err(malformed("format 0 was never written")),
    }
    let length = u32::from_le_bytes([head[5], head[6], head[7], head[8]]) as usize;
    let Some((body, sum)) = rest
        .split_at_checked(length)
        .filter(|(_, sum)| sum.len() == SUM)
    else {
        let expected = HEAD + length + SUM;
        return Err(DecodeError::Length { found, expected });
    };
    if crc32c::crc32c(&bytes[..HEAD + length]).to_le_bytes() != sum {
        return Err(DecodeError::Checksum);
    }
    let body =
        body::Manifest::decode(body).map_err(|error| DecodeError::Malformed(error.to_string()))?;
    manifest_of(body)
}

fn body_of(manifest: &Manifest) -> body::Manifest {
    let mut tables: Vec<&Arc<TableInfo>> = Vec::new();
    let tablets = manifest
        .tablets
        .iter()
        .map(|tablet| {
            let known = tables.iter().position(|table| **table == tablet.table);
            let table = known.unwrap_or_else(|| {
                tables.push(&tablet.table);
                tables.len() - 1
            });
            body::Tablet {
                id: tablet.id.0,
                hash_lo: tablet.range.lo,
                hash_hi: tablet.range.hi,
                table: table as u32,
            }
        })
        .collect();
    body::Manifest {
        term: Some(body_term(manifest.term)),
        writer: manifest.writer,
        write_id: bytes16(manifest.write_id),
        incarnation: manifest.incarnation,
        base_seq: manifest.base_seq.0,
        flushed: manifest.flushed,
        floor: Some(body_floor(manifest.floor)),
        claim: manifest.claim,
        files: manifest.files.iter().map(body_file).collect(),
        tables: tables.into_iter().map(|table| body_table(table)).collect(),
        tablets,
        batches: manifest.batches.tenants.iter().map(body_batches).collect(),
        deletes: manifest.deletes.iter().map(body_delete).collect(),
        parents: manifest.parents.iter().map(body_parent).collect(),
        retired: manifest.retired.iter().map(body_retired).collect(),
    }
}

fn manifest_of(body: body::Manifest) -> Result<Manifest, DecodeError> {
    let tables: Vec<Arc<TableInfo>> = body
        .tables
        .into_iter()
        .map(|table| table_of(table).map(Arc::new))
        .collect::<Result<_, _>>()?;
    let tablets = body.tablets.into_iter().map(|tablet| {
        let table = tables.get(tablet.table as usize).cloned();
        Ok(TabletSpec {
            id: TabletId(tablet.id),
            range: HashRange {
                lo: tablet.hash_lo,
                hi: tablet.hash_hi,
            },
            table: table.ok_or_else(|| malformed("a tablet names a table that is not there"))?,
        })
    });
    Ok(Manifest {
        term: term_of(body.term)?,
        writer: body.writer,
        write_id: u128_of(&body.write_id, "write_id is not 16 bytes")?,
        incarnation: body.incarnation,
        base_seq: Seq(body.base_seq),
        flushed: body.flushed,
        floor: floor_of(body.floor)?,
        claim: body.claim,
        files: body.files.into_iter().map(file_of).collect(),
        tablets: tablets.collect::<Result<_, _>>()?,
        batches: Arc::new(BatchTable {
            tenants: collect(body.batches, batches_of)?,
        }),
        deletes: collect(body.deletes, delete_of)?,
        parents: collect(body.parents, parent_of)?,
        retired: body.retired.into_iter().map(retired_of).collect(),
    })
}

fn collect<A, B>(
    from: Vec<A>,
    convert: fn(A) -> Result<B, DecodeError>,
) -> Result<Vec<B>, DecodeError> {
    from.into_iter().map(convert).collect()
}

fn bytes16(number: u128) -> Bytes {
    Bytes::copy_from_slice(&number.to_be_bytes())
}

fn u128_of(bytes: &[u8], otherwise: &str) -> Result<u128, DecodeError> {
    let bytes = bytes.try_into().map_err(|_| malformed(otherwise))?;
    Ok(u128::from_be_bytes(bytes))
}

fn body_term(term: Term) -> body::Term {
    body::Term {
        epoch: term.epoch,
        inc: term.inc,
    }
}

fn term_of(term: Option<body::Term>) -> Result<Term, DecodeError> {
    let term = term.ok_or_else(|| malformed("a term is missing"))?;
    Ok(Term {
        epoch: term.epoch,
        inc: term.inc,
    })
}

fn body_floor(floor: Floor) -> body::Floor {
    body::Floor {
        term: Some(body_term(floor.term)),
        writer: floor.writer,
        n: floor.n,
        sealed: floor.sealed,
    }
}

fn floor_of(floor: Option<body::Floor>) -> Result<Floor, DecodeError> {
    let floor = floor.ok_or_else(|| malformed("a floor is missing"))?;
    Ok(Floor {
        term: term_of(floor.term)?,
        writer: floor.writer,
        n: floor.n,
        sealed: floor.sealed,
    })
}

fn body_file(file: &FileEntry) -> body::File {
    body::File {
        key: file.key.clone(),
        offset: file.offset,
        length: file.length,
        tail_length: file.tail_length,
        tail_crc32c: file.tail_crc32c,
        table: file.table.0,
        tablet: file.tablet.0,
        segment_start: file.segment_start,
        segment_ns: file.segment_ns,
        rows: file.rows,
        series: file.series,
        t_min: file.t_min,
        t_max: file.t_max,
        seq_min: file.seq_min.0,
        seq_max: file.seq_max.0,
        first_key: file.first_key.clone(),
        last_key: file.last_key.clone(),
        hash_lo: file.range.lo,
        hash_hi: file.range.hi,
        schema: file.schema.0,
        columns: file.columns.iter().map(|column| column.0).collect(),
        is_final: file.is_final,
    }
}

fn file_of(file: body::File) -> FileEntry {
    FileEntry {
        key: file.key,
        offset: file.offset,
        length: file.length,
        tail_length: file.tail_length,
        tail_crc32c: file.tail_crc32c,
        table: TableId(file.table),
        tablet: TabletId(file.tablet),
        segment_start: file.segment_start,
        segment_ns: file.segment_ns,
        rows: file.rows,
        series: file.series,
        t_min: file.t_min,
        t_max: file.t_max,
        seq_min: Seq(file.seq_min),
        seq_max: Seq(file.seq_max),
        first_key: file.first_key,
        last_key: file.last_key,
        range: HashRange {
            lo: file.hash_lo,
            hi: file.hash_hi,
        },
        schema: SchemaNumber(file.schema),
        columns: file.columns.into_iter().map(ColumnId).collect(),
        is_final: file.is_final,
    }
}

fn body_table(table: &TableInfo) -> body::Table {
    let columns = table.schema.columns.iter().map(|column| body::Column {
        id: column.id.0,
        name: column.name.clone(),
        kind: match column.kind {
            ColumnKind::Tag => body::COLUMN_TAG,
            ColumnKind::Time => body::COLUMN_TIME,
            ColumnKind::Field => body::COLUMN_FIELD,
        },
        ty: column.ty.to_string(),
        nullable: column.nullable,
    });
    let partition = &table.partition;
    body::Table {
        id: table.id.0,
        tenant: table.tenant.0,
        database: table.database.0,
        name: table.name.clone(),
        schema: table.schema.number.0,
        columns: columns.collect(),
        partition_columns: partition.columns.iter().map(|column| column.0).collect(),
        partition_count: partition.count,
        ttl_ms: table.options.ttl_ms,
        segment_ms: table.options.segment_ms,
        merge_mode: table.options.merge_mode.name().to_owned(),
    }
}

fn table_of(table: body::Table) -> Result<TableInfo, DecodeError> {
    let column_of = |column: body::Column| {
        Ok(Column {
            id: ColumnId(column.id),
            name: column.name,
            kind: match column.kind {
                body::COLUMN_TAG => ColumnKind::Tag,
                body::COLUMN_TIME => ColumnKind::Time,
                body::COLUMN_FIELD => ColumnKind::Field,
                _ => return Err(malformed("a column is neither tag, time nor field")),
            },
            ty: column
                .ty
                .parse()
                .map_err(|_| malformed("a column's type is unknown"))?,
            nullable: column.nullable,
        })
    };
    let columns = table.columns.into_iter().map(column_of);
    Ok(TableInfo {
        id: TableId(table.id),
        tenant: TenantId(table.tenant),
        database: DatabaseId(table.database),
        name: table.name,
        schema: Arc::new(TableSchema {
            number: SchemaNumber(table.schema),
            columns: columns.collect::<Result<_, _>>()?,
        }),
        partition: Partition {
            columns: table.partition_columns.into_iter().map(ColumnId).collect(),
            count: table.partition_count,
        },
        options: TableOptions {
            ttl_ms: table.ttl_ms,
            segment_ms: table.segment_ms,
            merge_mode: table
                .merge_mode
                .parse()
                .map_err(|_| malformed("a table's merge mode is unknown"))?,
        },
    })
}

fn body_batches(batches: &TenantBatches) -> body::TenantBatches {
    let entries = &batches.entries;
    let mut ids = BytesMut::with_capacity(16 * entries.len());
    for entry in entries {
        ids.put_u128(entry.id.0);
    }
    body::TenantBatches {
        tenant: batches.tenant.0,
        low_water: batches
            .low_water
            .map(|id| bytes16(id.0))
            .unwrap_or_default(),
        ids: ids.freeze(),
        body_hashes: entries.iter().map(|entry| entry.body_hash).collect(),
        seqs: entries.iter().map(|entry| entry.seq.0).collect(),
    }
}

fn batches_of(batches: body::TenantBatches) -> Result<TenantBatches, DecodeError> {
    let (ids, odd) = batches.ids.as_chunks::<16>();
    let same = ids.len() == batches.body_hashes.len() && ids.len() == batches.seqs.len();
    if !odd.is_empty() || !same {
        return Err(malformed("columns of a batch table differ in length"));
    }
    let low_water = match batches.low_water.is_empty() {
        true => None,
        false => Some(BatchId(u128_of(
            &batches.low_water,
            "a low-water mark is not 16 bytes",
        )?)),
    };
    let others = batches.body_hashes.into_iter().zip(batches.seqs);
    let entries = ids
        .iter()
        .zip(others)
        .map(|(id, (body_hash, seq))| BatchEntry {
            id: BatchId(u128::from_be_bytes(*id)),
            body_hash,
            seq: Seq(seq),
        });
    Ok(TenantBatches {
        tenant: TenantId(batches.tenant),
        low_water,
        entries: entries.collect(),
    })
}

fn body_delete(delete: &Delete) -> body::Delete {
    body::Delete {
        tablet: delete.tablet.0,
        filter: Some(body_filter(&delete.filter)),
        start: delete.time.start,
        end: Bytes::copy_from_slice(&delete.time.end.to_be_bytes()),
        seq: delete.seq.0,
    }
}

fn delete_of(delete: body::Delete) -> Result<Delete, DecodeError> {
    let filter = delete
        .filter
        .ok_or_else(|| malformed("a delete has no filter"))?;
    Ok(Delete {
        tablet: TabletId(delete.tablet),
        filter: filter_of(filter)?,
        time: TimeRange {
            start: delete.start,
            end: u128_of(&delete.end, "a delete's end is not 16 bytes")?.cast_signed(),
        },
        seq: Seq(delete.seq),
    })
}

fn body_filter(filter: &TagFilter) -> body::Filter {
    let node = |kind, parts: &[TagFilter]| body::Filter {
        kind,
        parts: parts.iter().map(body_filter).collect(),
        ..body::Filter::default()
    };
    match filter {
        TagFilter::Any => node(body::FILTER_ANY, &[]),
        TagFilter::Nothing => node(body::FILTER_NOTHING, &[]),
        TagFilter::And(parts) => node(body::FILTER_AND, parts),
        TagFilter::Or(parts) => node(body::FILTER_OR, parts),
        TagFilter::Not(part) => node(body::FILTER_NOT, std::slice::from_ref(part)),
        TagFilter::Test { tag, test } => {
            let (test, values, inclusive) = match test {
                TagTest::IsNull => (body::TEST_IS_NULL, Vec::new(), false),
                TagTest::OneOf(values) => (body::TEST_ONE_OF, values.clone(), false),
                TagTest::Below { value, inclusive } => {
                    (body::TEST_BELOW, vec![value.clone()], *inclusive)
                }
                TagTest::Above { value, inclusive } => {
                    (body::TEST_ABOVE, vec![value.clone()], *inclusive)
                }
                TagTest::Prefix(value) => (body::TEST_PREFIX, vec![value.clone()], false),
                TagTest::Matches(regex) => {
                    let regex = regex.as_bytes().to_vec();
                    (body::TEST_MATCHES, vec![regex], false)
                }
            };
            body::Filter {
                kind: body::FILTER_TEST,
                parts: Vec::new(),
                tag: *tag,
                test,
                values,
                inclusive,
            }
        }
    }
}

/// Depth is bounded by prost, which refuses messages nested deeper than 100.
fn filter_of(filter: body::Filter) -> Result<TagFilter, DecodeError> {
    let body::Filter {
        kind,
        parts,
        tag,
        test,
        values,
        inclusive,
    } = filter;
    let parts = collect(parts, filter_of)?;
    match kind {
        body::FILTER_ANY => Ok(TagFilter::Any),
        body::FILTER_NOTHING => Ok(TagFilter::Nothing),
        body::FILTER_AND => Ok(TagFilter::And(parts)),
        body::FILTER_OR => Ok(TagFilter::Or(parts)),
        body::FILTER_NOT => {
            let [part] = <[TagFilter; 1]>::try_from(parts)
                .map_err(|_| malformed("a negation does not have one part"))?;
            Ok(TagFilter::Not(Box::new(part)))
        }
        body::FILTER_TEST => Ok(TagFilter::Test {
            tag,
            test: test_of(test, values, inclusive)?,
        }),
        _ => Err(malformed("a filter is of an unknown kind")),
    }
}

fn test_of(test: u32, values: Vec<Vec<u8>>, inclusive: bool) -> Result<TagTest, DecodeError> {
    match test {
        body::TEST_IS_NULL => return Ok(TagTest::IsNull),
        body::TEST_ONE_OF => return Ok(TagTest::OneOf(values)),
        _ => {}
    }
    let [value] = <[Vec<u8>; 1]>::try_from(values)
        .map_err(|_| malformed("a test does not have one value"))?;
    match test {
        body::TEST_BELOW => Ok(TagTest::Below { value, inclusive }),
        body::TEST_ABOVE => Ok(TagTest::Above { value, inclusive }),
        body::TEST_PREFIX => Ok(TagTest::Prefix(value)),
        body::TEST_MATCHES => Ok(TagTest::Matches(
            String::from_utf8(value).map_err(|_| malformed("a pattern is not UTF-8"))?,
        )),
        _ => Err(malformed("a test is of an unknown kind")),
    }
}

fn body_parent(parent: &Parent) -> body::Parent {
    body::Parent {
        shard: parent.shard.0,
        incarnation: parent.incarnation,
        base_seq: parent.base_seq.0,
        from: parent.from,
        until: parent.until,
        floor: Some(body_floor(parent.floor)),
    }
}

fn parent_of(parent: body::Parent) -> Result<Parent, DecodeError> {
    Ok(Parent {
        shard: ShardId(parent.shard),
        incarnation: parent.incarnation,
        base_seq: Seq(parent.base_seq),
        from: parent.from,
        until: parent.until,
        floor: floor_of(parent.floor)?,
    })
}

fn body_retired(retired: &Retired) -> body::Retired {
    body::Retired {
        key: retired.key.clone(),
        length: retired.length,
        at_ms: retired.at_ms,
    }
}

fn retired_of(retired: body::Retired) -> Retired {
    Retired {
        key: retired.key,
        length: retired.length,
        at_ms: retired.at_ms,
    }
}
