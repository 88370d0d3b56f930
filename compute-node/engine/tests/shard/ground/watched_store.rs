//! A store that notes what is written, in order, can hold back manifests and be full.

use std::fmt;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use async_trait::async_trait;
use auxo_proto::ids::Term;
use auxo_sst::manifest::Manifest;
use auxo_sst::names;
use auxo_wal_adapters::Offset;
use bytes::Bytes;
use futures::stream::BoxStream;
use object_store::path::Path;
use object_store::{
    CopyOptions, GetOptions, GetResult, ListResult, MultipartUpload, ObjectMeta, ObjectStore,
    PutMultipartOptions, PutOptions, PutPayload, PutResult, Result,
};
use parking_lot::Mutex;
use tokio::sync::watch;

/// What somebody did to the shard's stored state.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Event {
    /// A manifest of that term was created.
    Manifest(Term),
    /// A sorted file was written under that term's name.
    Object(Term),
    /// The log was cut below that offset.
    Truncated(Offset),
}

pub(crate) type Events = Arc<Mutex<Vec<Event>>>;

/// Clones share the objects, the notes and the gate.
#[derive(Clone, Debug)]
pub(crate) struct WatchedStore {
    inner: Arc<dyn ObjectStore>,
    events: Events,
    gate: Arc<watch::Sender<bool>>,
    waiting: Arc<watch::Sender<usize>>,
    full: Arc<AtomicBool>,
}

impl WatchedStore {
    pub(crate) fn new(inner: Arc<dyn ObjectStore>) -> Self {
        Self {
            inner,
            events: Events::default(),
            gate: Arc::new(watch::Sender::new(false)),
            waiting: Arc::new(watch::Sender::new(0)),
            full: Arc::default(),
        }
    }

    /// What was done so far, oldest first.
    pub(crate) fn events(&self) -> Events {
        Arc::clone(&self.events)
    }

    /// While full, nothing can be put.
    pub(crate) fn fill(&self, full: bool) {
        self.full.store(full, Ordering::SeqCst);
    }

    /// While held, manifests are put and nothing happens.
    pub(crate) fn hold_manifests(&self, held: bool) {
        self.gate.send_replace(held);
    }

    /// Waits until somebody tries to put a manifest that is held.
    pub(crate) async fn manifest_is_held(&self) {
        let mut waiting = self.waiting.subscribe();
        waiting
            .wait_for(|waiting| *waiting > 0)
            .await
            .expect("the store lives");
    }
}

impl fmt::Display for WatchedStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("WatchedStore")
    }
}

#[async_trait]
impl ObjectStore for WatchedStore {
    async fn put_opts(
        &self,
        location: &Path,
        payload: PutPayload,
        options: PutOptions,
    ) -> Result<PutResult> {
        let event = if names::manifest_number(location).is_some() {
            self.waiting.send_modify(|waiting| *waiting += 1);
            let opened = self.gate.subscribe().wait_for(|held| !held).await.map(drop);
            self.waiting.send_modify(|waiting| *waiting -= 1);
            opened.expect("the store lives");
            let manifest = Manifest::decode(&Bytes::from(payload.clone())).expect("a manifest");
            Some(Event::Manifest(manifest.term))
        } else {
            names::sst_origin(location.as_ref()).map(|origin| Event::Object(origin.term))
        };
        if self.full.load(Ordering::SeqCst) {
            let full = io::Error::from(io::ErrorKind::StorageFull);
            return Err(object_store::Error::Generic {
                store: "watched",
                source: full.into(),
            });
        }
        let put = self.inner.put_opts(location, payload, options).await?;
        self.events.lock().extend(event);
        Ok(put)
    }

    async fn put_multipart_opts(
        &self,
        location: &Path,
        options: PutMultipartOptions,
    ) -> Result<Box<dyn MultipartUpload>> {
        self.inner.put_multipart_opts(location, options).await
    }

    async fn get_opts(&self, location: &Path, options: GetOptions) -> Result<GetResult> {
        self.inner.get_opts(location, options).await
    }

    fn delete_stream(
        &self,
        locations: BoxStream<'static, Result<Path>>,
    ) -> BoxStream<'static, Result<Path>> {
        self.inner.delete_stream(locations)
    }

    fn list(&self, prefix: Option<&Path>) -> BoxStream<'static, Result<ObjectMeta>> {
        self.inner.list(prefix)
    }

    async fn list_with_delimiter(&self, prefix: Option<&Path>) -> Result<ListResult> {
        self.inner.list_with_delimiter(prefix).await
    }

    async fn copy_opts(&self, from: &Path, to: &Path, options: CopyOptions) -> Result<()> {
        self.inner.copy_opts(from, to, options).await
    }
}
