//! Tag values of a row group as runs: one entry per change of value, however many rows it spans.

use std::collections::HashMap;
use std::sync::Arc;

use arrow::array::{ArrayRef, DictionaryArray, Int32Array, StringArray};
use arrow::datatypes::Int32Type;
use auxo_proto::key;

use crate::error::SstError;

/// The values of one tag in the rows of the current row group.
#[derive(Debug, Default)]
pub(crate) struct TagRuns {
    numbers: HashMap<Vec<u8>, i32>,
    values: Vec<Vec<u8>>,
    bytes: usize,
    /// Number of a value, or `None` for NULL, and how many rows have it.
    runs: Vec<(Option<i32>, usize)>,
}

impl TagRuns {
    /// Bytes that the column is expected to take in the file.
    pub(crate) fn expected_bytes(&self) -> usize {
        self.bytes / 2 + 4 * self.runs.len()
    }

    fn push(&mut self, value: Option<&[u8]>, rows: usize) {
        let number = value.map(|value| match self.runs.last() {
            Some(&(Some(last), _)) if self.values[last as usize] == value => last,
            _ => self.number(value),
        });
        match self.runs.last_mut() {
            Some((last, count)) if *last == number => *count += rows,
            _ => self.runs.push((number, rows)),
        }
    }

    fn number(&mut self, value: &[u8]) -> i32 {
        if let Some(&number) = self.numbers.get(value) {
            return number;
        }
        let number = self.values.len() as i32;
        self.numbers.insert(value.to_vec(), number);
        self.values.push(value.to_vec());
        self.bytes += value.len() + 4;
        number
    }

    /// One value per row, as a dictionary array.
    pub(crate) fn into_array(self) -> Result<ArrayRef, SstError> {
        let rows = self.runs.iter().map(|(_, rows)| rows).sum();
        let mut numbers = Vec::with_capacity(rows);
        for &(number, rows) in &self.runs {
            numbers.extend(std::iter::repeat_n(number, rows));
        }
        let values: StringArray = self
            .values
            .iter()
            .map(|value| Some(String::from_utf8_lossy(value)))
            .collect();
        let array =
            DictionaryArray::<Int32Type>::try_new(Int32Array::from(numbers), Arc::new(values))
                .map_err(SstError::encode)?;
        Ok(Arc::new(array))
    }
}

/// Appends the next rows of one series to the runs of all tags.
///
/// * errors: [`SstError::Rows`] when the key breaks its grammar or has more tags than the table.
pub(crate) fn push(tags: &mut [TagRuns], series_key: &[u8], rows: usize) -> Result<(), SstError> {
    let mut values = key::decode(series_key);
    for tag in tags.iter_mut() {
        let value = values.next().transpose();
        let value = value.map_err(|malformed| SstError::rows(malformed.to_string()))?;
        tag.push(value.flatten().as_deref(), rows);
    }
    if values.next().is_some() {
        return Err(SstError::rows("a key with more tags than the table has"));
    }
    Ok(())
}
