//! Batches to row groups: cuts them at page borders and hands columns to their encoders.

use std::sync::Arc;

use arrow::array::{Array, ArrayRef};
use arrow::datatypes::{Field, SchemaRef};
use auxo_proto::schema::Column;
use bytes::Bytes;
use parquet::arrow::ArrowSchemaConverter;
use parquet::arrow::arrow_writer::{ArrowColumnWriter, ArrowRowGroupWriterFactory, compute_leaves};
use parquet::errors::ParquetError;
use parquet::file::properties::WriterProperties;
use parquet::file::writer::SerializedFileWriter;

use super::fields::FieldStatistics;
use super::tags::{self, TagRuns};
use super::{Layout, columns};
use crate::batch::SortedBatch;
use crate::error::SstError;
use crate::format::SPARSE_ROWS;
use crate::index::FieldHead;

/// The Parquet file in the making, once the encodings are chosen.
pub(super) struct Encoder {
    file: SerializedFileWriter<Vec<u8>>,
    factory: ArrowRowGroupWriterFactory,
    schema: SchemaRef,
    columns: Vec<ArrowColumnWriter>,
    tags: Vec<TagRuns>,
    fields: Vec<FieldStatistics>,
    /// Series of the last row, if it is in this row group.
    last_key: Option<Bytes>,
    /// Rows and series of the row group that is being written.
    rows: usize,
    series: usize,
    layout: Layout,
}

impl Encoder {
    pub(super) fn new(
        schema: SchemaRef,
        properties: WriterProperties,
        tags: usize,
        fields: &[Column],
        layout: Layout,
    ) -> Result<Self, SstError> {
        let parquet_schema = ArrowSchemaConverter::new()
            .convert(&schema)
            .map_err(SstError::encode)?;
        let root = parquet_schema.root_schema_ptr();
        let file = SerializedFileWriter::new(Vec::new(), root, Arc::new(properties))
            .map_err(SstError::encode)?;
        let factory = ArrowRowGroupWriterFactory::new(&file, schema.clone());
        let columns = factory.create_column_writers(0).map_err(SstError::encode)?;
        Ok(Self {
            file,
            factory,
            schema,
            columns,
            tags: (0..tags).map(|_| TagRuns::default()).collect(),
            fields: fields.iter().map(FieldStatistics::new).collect(),
            last_key: None,
            rows: 0,
            series: 0,
            layout,
        })
    }

    /// Bytes written so far, and roughly those that are still to come of the rows taken.
    pub(super) fn bytes(&self) -> usize {
        let in_progress: usize = self
            .columns
            .iter()
            .map(|column| column.get_estimated_total_bytes())
            .sum();
        let tags: usize = self.tags.iter().map(TagRuns::expected_bytes).sum();
        self.file.bytes_written() + in_progress + tags
    }

    pub(super) fn write(&mut self, batch: &SortedBatch) -> Result<(), SstError> {
        for (field, array) in self.fields.iter_mut().zip(&batch.fields) {
            field.look(array);
        }
        let (mut at, mut series) = (0, 0);
        while at < batch.rows() {
            let room = self.layout.page_rows - self.rows % self.layout.page_rows;
            let end = batch.rows().min(at + room);
            while series < batch.series.len() && batch.slice_rows(series).start < end {
                let rows = batch.slice_rows(series);
                let count = rows.end.min(end) - rows.start.max(at);
                let key = &batch.series[series].key;
                let goes_on = self.last_key.as_ref() == Some(key);
                tags::push(&mut self.tags, key, count, goes_on).map_err(SstError::encode)?;
                self.series += usize::from(!goes_on);
                self.last_key = Some(key.clone());
                if rows.end > end {
                    break;
                }
                series += 1;
            }
            self.write_columns(batch, at, end - at)?;
            self.rows += end - at;
            at = end;
            if self.rows == self.layout.group_rows {
                self.close_row_group().map_err(SstError::encode)?;
            }
        }
        Ok(())
    }

    /// Closes the last row group.
    ///
    /// * `rows`: of the whole file.
    /// * returns: the file, to which sections and footer are still to be added, and what is known
    ///   of its fields.
    pub(super) fn finish(
        mut self,
        rows: u64,
    ) -> Result<(SerializedFileWriter<Vec<u8>>, Vec<FieldHead>), SstError> {
        if self.rows > 0 {
            self.close_row_group().map_err(SstError::encode)?;
        }
        let heads = self.fields.into_iter().map(|field| field.finish(rows));
        Ok((self.file, heads.collect()))
    }

    fn write_columns(
        &mut self,
        batch: &SortedBatch,
        at: usize,
        rows: usize,
    ) -> Result<(), SstError> {
        let time = columns::time_array(batch.time.slice(at, rows));
        let fields = batch
            .fields
            .iter()
            .map(|array| columns::stored_array(&array.slice(at, rows)));
        let tags = self.tags.len();
        let targets = self.columns[tags..]
            .iter_mut()
            .zip(&self.schema.fields()[tags..]);
        for ((writer, field), array) in targets.zip(std::iter::once(time).chain(fields)) {
            write_column(writer, field, &array).map_err(SstError::encode)?;
        }
        Ok(())
    }

    fn close_row_group(&mut self) -> Result<(), ParquetError> {
        let next = self.file.flushed_row_groups().len() + 1;
        let fresh = self.factory.create_column_writers(next)?;
        let full = std::mem::replace(&mut self.columns, fresh);
        let descriptors = self.file.schema_descr().columns().to_vec();
        let blooms = self.series >= self.layout.sparse_series_min
            && (self.rows as u64) < SPARSE_ROWS * self.series as u64;
        let mut group = self.file.next_row_group()?;
        for (index, mut column) in full.into_iter().enumerate() {
            if let Some(tag) = self.tags.get_mut(index) {
                let runs = std::mem::take(tag);
                let bloom = blooms.then(|| runs.bloom()).transpose()?;
                if let Some((bytes, mut close)) = runs.encode(descriptors[index].clone())? {
                    close.bloom_filter = bloom;
                    group.append_column(&bytes, close)?;
                } else {
                    let array = runs.into_array()?;
                    write_column(&mut column, &self.schema.fields()[index], &array)?;
                    let mut chunk = column.close()?;
                    chunk.close_mut().bloom_filter = bloom;
                    chunk.append_to_row_group(&mut group)?;
                }
                continue;
            }
            let chunk = column.close()?;
            if let Some(field) = index.checked_sub(self.tags.len() + 1) {
                self.fields[field].add(chunk.close().metadata.statistics());
            }
            chunk.append_to_row_group(&mut group)?;
        }
        group.close()?;
        (self.rows, self.series) = (0, 0);
        self.last_key = None;
        Ok(())
    }
}

fn write_column(
    writer: &mut ArrowColumnWriter,
    field: &Field,
    array: &ArrayRef,
) -> Result<(), ParquetError> {
    for leaf in compute_leaves(field, array)? {
        writer.write(&leaf)?;
    }
    Ok(())
}
