//! Files and tables of a manifest.

use std::sync::Arc;

use auxo_proto::ids::{ColumnId, DatabaseId, SchemaNumber, Seq, TableId, TabletId, TenantId};
use auxo_proto::schema::{
    Column, ColumnKind, HashRange, Partition, TableInfo, TableOptions, TableSchema,
};

use super::super::body;
use super::{DecodeError, malformed};
use crate::entry::FileEntry;

pub(super) fn body_file(file: &FileEntry) -> body::File {
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

pub(super) fn file_of(file: body::File) -> FileEntry {
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

pub(super) fn body_table(table: &TableInfo) -> body::Table {
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

pub(super) fn table_of(table: body::Table) -> Result<TableInfo, DecodeError> {
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
