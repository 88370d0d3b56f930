//! How much the rows of a batch hold, whatever the buffers are that they lie in.
//!
//! Batches share buffers: pieces that were sliced off a larger one, and columns that came in one message,
//! each hold all of them. Added up, those sizes are many times what there is.
//!
//! Never here: what is done about it.

use arrow::array::{Array, ArrayRef, AsArray, RecordBatch};
use arrow::datatypes::DataType;

/// Bytes of the rows of a batch, as if it had been copied.
pub(crate) fn of_batch(batch: &RecordBatch) -> usize {
    batch.columns().iter().map(of_array).sum()
}

fn of_array(array: &ArrayRef) -> usize {
    let nulls = array.nulls().map_or(0, |nulls| nulls.len().div_ceil(8));
    let rows = array.len();
    match array.data_type() {
        DataType::Dictionary(..) => {
            let dictionary = array.as_any_dictionary();
            let (values, all) = (dictionary.values(), of_array(dictionary.values()));
            // A copy needs no more than each row's value once, taken to be of the same size.
            let each = all.div_ceil(values.len().max(1));
            sliced(dictionary.keys()) + all.min(each * rows)
        }
        DataType::Utf8View => {
            let strings = array.as_string_view();
            nulls + size_of_val(&**strings.views()) + strings.total_buffer_bytes_used()
        }
        DataType::BinaryView => {
            let strings = array.as_binary_view();
            nulls + size_of_val(&**strings.views()) + strings.total_buffer_bytes_used()
        }
        DataType::List(_) => {
            let lists = array.as_list::<i32>();
            let offsets = lists.value_offsets();
            let (first, last) = (offsets[0] as usize, offsets[rows] as usize);
            nulls + size_of_val(offsets) + of_array(&lists.values().slice(first, last - first))
        }
        DataType::Map(..) => {
            let maps = array.as_map();
            let offsets = maps.value_offsets();
            let (first, last) = (offsets[0] as usize, offsets[rows] as usize);
            let entries = maps.entries().slice(first, last - first);
            nulls + size_of_val(offsets) + entries.columns().iter().map(of_array).sum::<usize>()
        }
        DataType::Struct(_) => {
            let columns = array.as_struct().columns();
            nulls + columns.iter().map(of_array).sum::<usize>()
        }
        _ => sliced(array),
    }
}

fn sliced(array: &dyn Array) -> usize {
    let size = array.to_data().get_slice_memory_size();
    size.unwrap_or_else(|_| array.get_array_memory_size())
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use arrow::array::{
        DictionaryArray, Int32Array, Int64Array, ListArray, MapBuilder, StringArray, StringBuilder,
        StringViewArray, StructArray,
    };
    use arrow::datatypes::{Int32Type, Int64Type};
    use arrow::ipc::{reader::StreamReader, writer::StreamWriter};

    use super::*;

    const ROWS: usize = 1_000;

    /// A column of each kind.
    fn columns() -> Vec<(&'static str, ArrayRef)> {
        let texts = (0..ROWS).map(|row| (row % 7 > 0).then(|| format!("a rather long text {row}")));
        let texts: Vec<Option<String>> = texts.collect();
        let numbers: ArrayRef = Arc::new(Int64Array::from_iter_values(0..ROWS as i64));
        let strings: ArrayRef = Arc::new(StringArray::from(texts.clone()));
        let views: ArrayRef = Arc::new(StringViewArray::from_iter(texts.clone()));
        let keys = Int32Array::from_iter_values((0..ROWS as i32).map(|row| row % 50));
        let values = Arc::new(StringArray::from_iter_values(
            (0..50).map(|n| format!("web{n:02}")),
        ));
        let dictionary = DictionaryArray::<Int32Type>::new(keys, values);
        let lists = (0..ROWS).map(|row| Some((0..row as i64 % 5).map(Some)));
        let lists = ListArray::from_iter_primitive::<Int64Type, _, _>(lists);
        let mut maps = MapBuilder::new(None, StringBuilder::new(), StringBuilder::new());
        for text in &texts {
            maps.keys().append_value("key");
            maps.values().append_option(text.as_deref());
            maps.append(true).unwrap();
        }
        let pair = StructArray::try_from(vec![("n", numbers.clone()), ("s", strings.clone())]);
        vec![
            ("numbers", numbers),
            ("strings", strings),
            ("views", views),
            ("dictionary", Arc::new(dictionary)),
            ("lists", Arc::new(lists)),
            ("maps", Arc::new(maps.finish())),
            ("pairs", Arc::new(pair.unwrap())),
        ]
    }

    #[test]
    fn pieces_hold_together_what_the_whole_holds() {
        for (name, column) in columns() {
            let whole = RecordBatch::try_from_iter([(name, column)]).unwrap();
            let pieces = (0..ROWS)
                .step_by(100)
                .map(|at| of_batch(&whole.slice(at, 100)));
            let (pieces, size) = (pieces.sum::<usize>(), of_batch(&whole));
            assert!(size >= ROWS * 4, "{name}: {size}");
            // Each piece has one more offset, and values of a dictionary of its own.
            let most = size * if name == "dictionary" { 2 } else { 1 } + size / 8;
            assert!(
                (size..most).contains(&pieces),
                "{name}: {size} whole, {pieces} in pieces"
            );
        }
    }

    #[test]
    fn what_came_in_one_message_holds_no_more_than_before() {
        let whole = RecordBatch::try_from_iter(columns()).unwrap();
        let mut stream = StreamWriter::try_new(Vec::new(), &whole.schema()).unwrap();
        stream.write(&whole).unwrap();
        let bytes = stream.into_inner().unwrap();
        let mut received = StreamReader::try_new(&bytes[..], None).unwrap();
        let received = received.next().unwrap().unwrap();
        assert_eq!(received, whole);
        assert_eq!(of_batch(&received), of_batch(&whole));
    }
}
