//! Arrow's IPC stream: tags stay dictionaries, string views become plain strings, which every
//! reader of Arrow knows.

use std::sync::Arc;

use arrow::array::RecordBatch;
use arrow::compute::cast;
use arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use arrow::error::ArrowError;
use arrow::ipc::writer::StreamWriter;
use serde_json::Value;

use super::{Encoder, Head, Tail};

/// One IPC stream.
pub(super) struct ArrowIpc {
    schema: SchemaRef,
    writer: Option<StreamWriter<Vec<u8>>>,
}

fn plain(field: &Arc<Field>) -> Arc<Field> {
    let ty = match field.data_type() {
        DataType::Utf8View => DataType::Utf8,
        DataType::BinaryView => DataType::Binary,
        _ => return Arc::clone(field),
    };
    Arc::new(field.as_ref().clone().with_data_type(ty))
}

impl ArrowIpc {
    pub(super) fn new(head: Head) -> Self {
        let fields: Vec<Arc<Field>> = head.schema.fields().iter().map(plain).collect();
        Self {
            schema: Arc::new(Schema::new(fields)),
            writer: None,
        }
    }

    fn writer(&mut self) -> Result<&mut StreamWriter<Vec<u8>>, ArrowError> {
        match &mut self.writer {
            Some(writer) => Ok(writer),
            none => Ok(none.insert(StreamWriter::try_new(Vec::new(), &self.schema)?)),
        }
    }

    fn drain(&mut self, out: &mut Vec<u8>) -> Result<(), ArrowError> {
        out.append(self.writer()?.get_mut());
        Ok(())
    }
}

impl Encoder for ArrowIpc {
    fn start(&mut self, out: &mut Vec<u8>) -> Result<(), ArrowError> {
        self.drain(out)
    }

    fn batch(&mut self, batch: &RecordBatch, out: &mut Vec<u8>) -> Result<(), ArrowError> {
        let columns = batch.columns().iter().zip(self.schema.fields());
        let columns = columns
            .map(
                |(column, field)| match column.data_type() == field.data_type() {
                    true => Ok(Arc::clone(column)),
                    false => cast(column, field.data_type()),
                },
            )
            .collect::<Result<Vec<_>, _>>()?;
        let options =
            arrow::array::RecordBatchOptions::new().with_row_count(Some(batch.num_rows()));
        let batch = RecordBatch::try_new_with_options(Arc::clone(&self.schema), columns, &options)?;
        self.writer()?.write(&batch)?;
        self.drain(out)
    }

    fn end(&mut self, _: &Tail, out: &mut Vec<u8>) -> Result<(), ArrowError> {
        self.writer()?.finish()?;
        self.drain(out)
    }

    fn error(&mut self, _: &Value, _: &mut Vec<u8>) {}
}
