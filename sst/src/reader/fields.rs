//! Fields asked for against columns in the file: matched by id, widened where the schema was.

use arrow::array::{ArrayRef, AsArray, RecordBatch, new_null_array};
use arrow::compute::cast;
use arrow::datatypes::{DataType, TimestampNanosecondType};
use auxo_proto::ids::ColumnId;
use parquet::arrow::ProjectionMask;
use parquet::arrow::arrow_reader::ArrowReaderMetadata;

use crate::batch::{FieldSet, arrow_type};
use crate::error::SstError;

/// How to make the fields asked for out of the columns that are there.
#[derive(Clone, Debug)]
pub(super) struct Projection {
    wanted: Vec<(DataType, Option<usize>)>,
    /// Columns of the file to read, ascending; `wanted` counts among them.
    leaves: Vec<usize>,
}

impl Projection {
    /// * `time`: place of the time column; fields stand behind it.
    /// * errors: [`SstError::TypeChanged`].
    pub(super) fn new(
        key: &str,
        file: &ArrowReaderMetadata,
        time: usize,
        fields: &FieldSet,
    ) -> Result<Self, SstError> {
        let columns = file.parquet_schema().columns();
        let place = |id: ColumnId| {
            let has_id = |leaf: &usize| {
                let info = columns[*leaf].self_type().get_basic_info();
                info.has_id() && info.id() as u32 == id.0
            };
            (time + 1..columns.len()).find(has_id)
        };
        let found: Vec<Option<usize>> = fields.iter().map(|column| place(column.id)).collect();
        let mut leaves: Vec<usize> = found.iter().flatten().copied().collect();
        leaves.sort_unstable();
        leaves.dedup();
        let mut wanted = Vec::with_capacity(fields.len());
        for (column, leaf) in fields.iter().zip(found) {
            let target = arrow_type(column.ty);
            if let Some(leaf) = leaf {
                let stored = file.schema().field(leaf).data_type();
                if !widens(stored, &target) {
                    return Err(SstError::TypeChanged {
                        key: key.to_owned(),
                        column: column.id,
                        found: stored.to_string(),
                        wanted: target.to_string(),
                    });
                }
            }
            wanted.push((
                target,
                leaf.and_then(|leaf| leaves.binary_search(&leaf).ok()),
            ));
        }
        Ok(Self { wanted, leaves })
    }

    /// Whether no column of the file is needed.
    pub(super) fn is_empty(&self) -> bool {
        self.leaves.is_empty()
    }

    pub(super) fn mask(&self, file: &ArrowReaderMetadata) -> ProjectionMask {
        ProjectionMask::leaves(file.parquet_schema(), self.leaves.iter().copied())
    }

    /// The columns before the fields too: tags and time.
    pub(super) fn mask_with_keys(&self, file: &ArrowReaderMetadata, time: usize) -> ProjectionMask {
        let leaves = (0..=time).chain(self.leaves.iter().copied());
        ProjectionMask::leaves(file.parquet_schema(), leaves)
    }

    /// The fields asked for, from a batch of the columns read.
    pub(super) fn apply(
        &self,
        batch: Option<&RecordBatch>,
        rows: usize,
    ) -> Result<Vec<ArrayRef>, arrow::error::ArrowError> {
        let field = |(target, place): &(DataType, Option<usize>)| match batch.zip(*place) {
            Some((batch, place)) => as_type(batch.column(place), target),
            None => Ok(new_null_array(target, rows)),
        };
        self.wanted.iter().map(field).collect()
    }
}

fn as_type(array: &ArrayRef, target: &DataType) -> Result<ArrayRef, arrow::error::ArrowError> {
    if array.data_type() == target {
        return Ok(array.clone());
    }
    match array.as_primitive_opt::<TimestampNanosecondType>() {
        Some(times) => {
            let times = times.clone().with_timezone_opt(None::<std::sync::Arc<str>>);
            Ok(std::sync::Arc::new(times))
        }
        None => cast(array, target),
    }
}

/// Whether each value of the stored type has one equal value of the type asked for, by the rules
/// of schema change.
fn widens(stored: &DataType, target: &DataType) -> bool {
    use DataType::{
        Float32, Float64, Int8, Int16, Int32, Int64, Timestamp, UInt8, UInt16, UInt32, UInt64,
    };
    stored == target
        || match (stored, target) {
            (Timestamp(stored, _), Timestamp(target, _)) => stored == target,
            (Int8, Int16 | Int32 | Int64 | Float64) => true,
            (Int16, Int32 | Int64 | Float64) => true,
            (Int32, Int64 | Float64) => true,
            (UInt8, UInt16 | UInt32 | UInt64) => true,
            (UInt16, UInt32 | UInt64) => true,
            (UInt32, UInt64) => true,
            (Float32, Float64) => true,
            _ => false,
        }
}
