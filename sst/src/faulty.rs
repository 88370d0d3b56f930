//! A store that fails as real ones do, by a script.
//!
//! Each call of a kind takes the next fault of that kind's script; an exhausted script means a
//! store that works. Every call gives way to other tasks first, so racing tasks interleave at
//! each request.

use std::collections::VecDeque;
use std::fmt;
use std::sync::Arc;

use async_trait::async_trait;
use futures::stream::BoxStream;
use futures::{StreamExt, TryStreamExt};
use object_store::path::Path;
use object_store::{
    CopyOptions, Error, GetOptions, GetResult, ListResult, MultipartUpload, ObjectMeta,
    ObjectStore, ObjectStoreExt, PutMode, PutMultipartOptions, PutOptions, PutPayload, PutResult,
    Result,
};
use parking_lot::Mutex;

/// What goes wrong with one call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fault {
    /// Nothing.
    None,
    /// Not done, and an error.
    Refused,
    /// Done, and an error all the same.
    LostReply,
    /// A put that is done and reported as `AlreadyExists`: the client repeated it unasked.
    OwnExists,
    /// A put reported as `AlreadyExists` of which nothing landed: S3's 409.
    Conflict,
    /// Never answered; not done.
    Hang,
    /// A put never answered, done when that many further calls have begun.
    Late(u8),
    /// A put that lands over what is there although it should create.
    Overwrite,
    /// A put that looks whether the name is free, lets others run, and then lands over what is there:
    /// how servers without an atomic create behave.
    CheckThenPut,
    /// A put refused for who asks.
    Denied,
    /// A put into a bucket that is not there.
    NoBucket,
    /// A put reported done of which nothing landed.
    Forgotten,
    /// A LIST that lacks its last name.
    Stale,
    /// A GET or LIST of an object that is there finds nothing.
    NotFound,
}

#[derive(Debug, Default)]
struct Script {
    puts: VecDeque<Fault>,
    gets: VecDeque<Fault>,
    lists: VecDeque<Fault>,
    late: Vec<(u8, Path, PutPayload, PutOptions)>,
}

#[derive(Clone, Debug)]
pub(crate) struct Faulty {
    inner: Arc<dyn ObjectStore>,
    script: Arc<Mutex<Script>>,
}

impl Faulty {
    pub(crate) fn new(inner: Arc<dyn ObjectStore>) -> Self {
        Self {
            inner,
            script: Arc::default(),
        }
    }

    pub(crate) fn puts(self, faults: impl IntoIterator<Item = Fault>) -> Self {
        self.script.lock().puts.extend(faults);
        self
    }

    pub(crate) fn gets(self, faults: impl IntoIterator<Item = Fault>) -> Self {
        self.script.lock().gets.extend(faults);
        self
    }

    pub(crate) fn lists(self, faults: impl IntoIterator<Item = Fault>) -> Self {
        self.script.lock().lists.extend(faults);
        self
    }

    /// Lets others run and late puts land, then gives the fault of this call.
    async fn begin(&self, queue: fn(&mut Script) -> &mut VecDeque<Fault>) -> Fault {
        tokio::task::yield_now().await;
        let (due, fault) = {
            let mut script = self.script.lock();
            for (left, ..) in &mut script.late {
                *left = left.saturating_sub(1);
            }
            let due: Vec<_> = script.late.extract_if(.., |late| late.0 == 0).collect();
            let fault = queue(&mut script).pop_front().unwrap_or(Fault::None);
            (due, fault)
        };
        for (_, location, payload, options) in due {
            // Somebody else may have created the name meanwhile: then this one has lost.
            let _ = self.inner.put_opts(&location, payload, options).await;
        }
        fault
    }
}

fn failed() -> Error {
    Error::Generic {
        store: "faulty",
        source: "the connection broke".into(),
    }
}

fn exists(path: &Path) -> Error {
    Error::AlreadyExists {
        path: path.to_string(),
        source: "409 or 412".into(),
    }
}

fn missing(path: &Path) -> Error {
    Error::NotFound {
        path: path.to_string(),
        source: "404".into(),
    }
}

impl fmt::Display for Faulty {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Faulty")
    }
}

#[async_trait]
impl ObjectStore for Faulty {
    async fn put_opts(
        &self,
        location: &Path,
        payload: PutPayload,
        options: PutOptions,
    ) -> Result<PutResult> {
        match self.begin(|script| &mut script.puts).await {
            Fault::Refused => Err(failed()),
            Fault::Conflict => Err(exists(location)),
            Fault::Hang => std::future::pending().await,
            Fault::Late(calls) => {
                let late = (calls.max(1), location.clone(), payload, options);
                self.script.lock().late.push(late);
                std::future::pending().await
            }
            Fault::LostReply => {
                self.inner.put_opts(location, payload, options).await?;
                Err(failed())
            }
            Fault::OwnExists => {
                self.inner.put_opts(location, payload, options).await?;
                Err(exists(location))
            }
            Fault::Overwrite => {
                let options = PutOptions::from(PutMode::Overwrite);
                self.inner.put_opts(location, payload, options).await
            }
            Fault::CheckThenPut => {
                if self.inner.head(location).await.is_ok() {
                    return Err(exists(location));
                }
                tokio::task::yield_now().await;
                let options = PutOptions::from(PutMode::Overwrite);
                self.inner.put_opts(location, payload, options).await
            }
            Fault::Denied => Err(Error::PermissionDenied {
                path: location.to_string(),
                source: "403".into(),
            }),
            Fault::NoBucket => Err(missing(location)),
            Fault::Forgotten => Ok(PutResult {
                e_tag: None,
                version: None,
            }),
            Fault::None | Fault::Stale | Fault::NotFound => {
                self.inner.put_opts(location, payload, options).await
            }
        }
    }

    async fn put_multipart_opts(
        &self,
        location: &Path,
        options: PutMultipartOptions,
    ) -> Result<Box<dyn MultipartUpload>> {
        self.inner.put_multipart_opts(location, options).await
    }

    async fn get_opts(&self, location: &Path, options: GetOptions) -> Result<GetResult> {
        match self.begin(|script| &mut script.gets).await {
            Fault::None => self.inner.get_opts(location, options).await,
            Fault::NotFound => Err(missing(location)),
            Fault::Hang => std::future::pending().await,
            _ => Err(failed()),
        }
    }

    fn delete_stream(
        &self,
        locations: BoxStream<'static, Result<Path>>,
    ) -> BoxStream<'static, Result<Path>> {
        self.inner.delete_stream(locations)
    }

    fn list(&self, prefix: Option<&Path>) -> BoxStream<'static, Result<ObjectMeta>> {
        self.listed(prefix.cloned(), None)
    }

    fn list_with_offset(
        &self,
        prefix: Option<&Path>,
        offset: &Path,
    ) -> BoxStream<'static, Result<ObjectMeta>> {
        self.listed(prefix.cloned(), Some(offset.clone()))
    }

    async fn list_with_delimiter(&self, prefix: Option<&Path>) -> Result<ListResult> {
        self.inner.list_with_delimiter(prefix).await
    }

    async fn copy_opts(&self, from: &Path, to: &Path, options: CopyOptions) -> Result<()> {
        self.inner.copy_opts(from, to, options).await
    }
}

impl Faulty {
    fn listed(
        &self,
        prefix: Option<Path>,
        offset: Option<Path>,
    ) -> BoxStream<'static, Result<ObjectMeta>> {
        let store = self.clone();
        let answer = async move {
            let fault = store.begin(|script| &mut script.lists).await;
            if fault == Fault::Refused {
                return Err(failed());
            }
            let mut found: Vec<_> = store.inner.list(prefix.as_ref()).try_collect().await?;
            found.sort_by(|a, b| a.location.cmp(&b.location));
            found.retain(|object| {
                offset
                    .as_ref()
                    .is_none_or(|offset| object.location > *offset)
            });
            match fault {
                Fault::Stale => drop(found.pop()),
                Fault::NotFound => found.clear(),
                _ => {}
            }
            Ok(futures::stream::iter(found.into_iter().map(Ok)))
        };
        futures::stream::once(answer).try_flatten().boxed()
    }
}
