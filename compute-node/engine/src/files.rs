//! Files of the object store as a scan sees them: opened tails kept, rows streamed.
//!
//! Never here: which files are live.

use std::sync::Arc;

use auxo_sst::SstError;
use auxo_sst::entry::FileEntry;
use auxo_sst::predicate::ScanSpec;
use auxo_sst::reader::{SstFile, TailCache};
use futures::stream;
use futures::{StreamExt, TryStreamExt};
use object_store::ObjectStore;

use crate::read::RowStream;

/// Reads files; clones share the opened tails.
#[derive(Clone)]
pub struct FileCache {
    tails: TailCache,
}

impl std::fmt::Debug for FileCache {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("FileCache")
    }
}

impl FileCache {
    /// * `tails_bytes`: memory that opened tails may take.
    pub fn new(store: Arc<dyn ObjectStore>, tails_bytes: u64) -> Self {
        Self {
            tails: TailCache::new(store, tails_bytes),
        }
    }

    /// The opened tail of a file.
    pub async fn open(&self, entry: Arc<FileEntry>) -> Result<Arc<SstFile>, SstError> {
        self.tails.get(&entry).await
    }

    /// Rows of a file that a scan wants, in key order.
    pub fn scan(&self, entry: Arc<FileEntry>, spec: Arc<ScanSpec>) -> RowStream {
        let files = self.clone();
        stream::once(async move {
            let file = files.open(entry).await?;
            Ok::<_, SstError>(file.scan(&spec))
        })
        .try_flatten()
        .boxed()
    }
}
