//! Opened files, kept by bytes: a file in here needs no request to be planned over.

use std::sync::Arc;

use moka::future::Cache;
use object_store::ObjectStore;

use super::SstFile;
use crate::entry::FileEntry;
use crate::error::SstError;

/// A bounded cache of opened files; clones share it.
///
/// Keys are immutable (an object's key and an offset), so nothing in it is ever out of date.
#[derive(Clone)]
pub struct TailCache {
    store: Arc<dyn ObjectStore>,
    files: Cache<(String, u64), Arc<SstFile>>,
}

impl TailCache {
    /// * `bytes_max`: bound on the memory of all files in it, once their indexes are decoded.
    pub fn new(store: Arc<dyn ObjectStore>, bytes_max: u64) -> Self {
        let weigh = |key: &(String, u64), file: &Arc<SstFile>| {
            u32::try_from(key.0.len() + file.memory_bytes()).unwrap_or(u32::MAX)
        };
        let files = Cache::builder().max_capacity(bytes_max).weigher(weigh);
        Self {
            store,
            files: files.build(),
        }
    }

    /// The opened file; callers that ask for the same one at once share one request.
    ///
    /// * errors: those of [`SstFile::open`]; a failure is not kept.
    pub async fn get(&self, entry: &Arc<FileEntry>) -> Result<Arc<SstFile>, SstError> {
        let key = (entry.key.clone(), entry.offset);
        let open = SstFile::open(self.store.clone(), entry.clone());
        let file = self
            .files
            .try_get_with(key, open)
            .await
            .map_err(|error: Arc<SstError>| SstError::clone(&error))?;
        Ok(if *file.entry() == *entry {
            file
        } else {
            file.under(entry.clone())
        })
    }

    /// Keeps a file that was just written here, so that it is never fetched back.
    pub async fn insert(&self, file: Arc<SstFile>) {
        let key = (file.entry().key.clone(), file.entry().offset);
        self.files.insert(key, file).await;
    }

    /// The store behind it.
    pub fn store(&self) -> &Arc<dyn ObjectStore> {
        &self.store
    }
}
