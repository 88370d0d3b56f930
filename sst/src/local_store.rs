//! A local directory as an object store whose puts survive a loss of power.
//!
//! `object_store`'s own local store writes a staged file and links or renames it, but syncs
//! nothing, so an acknowledged object may be empty or gone after a loss of power; with the log
//! truncated behind it that is lost data. Here a put
//! 1. writes a staged file beside the name and syncs it,
//! 2. links it to the name (Create: fails where the name is there) or renames it over the name,
//! 3. syncs the folder, and those above it once each, for they may be new,
//!
//! and answers only then. An object is therefore never seen with less than its whole content, and
//! never lost once acknowledged. When 3 fails the object is seen but may not last, and no later
//! sync can be trusted: from then on every request fails until the directory is opened again.
//!
//! Reads, lists and deletes are those of `object_store`: a delete that is undone by a loss of power
//! leaves garbage, never a hole. Staged files end in `#` and digits and are never listed.
//!
//! With a witness every change of files is told after it was made, in order of each file and folder,
//! so that a test can build what a disk holds that lost its power.
//!
//! Never here: multipart uploads and copies (nothing of ours uses them, and they would not be
//! synced), updates in place.

use std::collections::HashSet;
use std::fmt;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::path::{Path as FilePath, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use async_trait::async_trait;
use futures::stream::BoxStream;
use futures::{StreamExt, TryStreamExt};
use object_store::local::LocalFileSystem;
use object_store::path::Path;
use object_store::{
    CopyOptions, Error, GetOptions, GetResult, ListResult, MultipartUpload, ObjectMeta,
    ObjectStore, PutMode, PutMultipartOptions, PutOptions, PutPayload, PutResult, Result,
};
use parking_lot::Mutex;

/// A change of files that was made; without the syncs it may not last.
#[derive(Clone, Copy, Debug)]
pub enum Change<'a> {
    /// A folder was made, or was there.
    MakeFolder(&'a FilePath),
    /// A file was made and written.
    MakeFile(&'a FilePath, &'a PutPayload),
    /// Its content lasts.
    SyncFile(&'a FilePath),
    /// A file got a second name, in the same folder.
    Link(&'a FilePath, &'a FilePath),
    /// A file got another name, in the same folder, which may have been another file's.
    Rename(&'a FilePath, &'a FilePath),
    /// A name was removed.
    Remove(&'a FilePath),
    /// The names in a folder last.
    SyncFolder(&'a FilePath),
}

/// Is told every change; never blocks for long.
pub type Witness = Arc<dyn Fn(Change<'_>) + Send + Sync>;

/// A directory; clones share it. Needs a tokio runtime, whose blocking threads do the work.
#[derive(Clone, Debug)]
pub struct LocalStore {
    files: Arc<LocalFileSystem>,
    root: PathBuf,
    state: Arc<State>,
    witness: Told,
}

/// Who is told what was done, if anybody.
#[derive(Clone, Default)]
struct Told(Option<Witness>);

impl Told {
    fn tell(&self, change: Change<'_>) {
        if let Some(witness) = &self.0 {
            witness(change);
        }
    }
}

impl fmt::Debug for Told {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0.is_some())
    }
}

#[derive(Debug, Default)]
struct State {
    /// A folder could not be synced: what it shows may not last.
    broken: AtomicBool,
    staged: AtomicU64,
    /// Folders that are known to last. Never held over a system call.
    lasting: Mutex<HashSet<PathBuf>>,
}

impl LocalStore {
    /// The directory `root`, which is made if it is not there.
    ///
    /// * errors: the directory cannot be made, read or synced.
    pub fn open(root: &FilePath) -> Result<Self> {
        let made = root.ancestors().take_while(|folder| !folder.exists());
        let made = made.filter(|folder| *folder != FilePath::new("")).count();
        fs::create_dir_all(root).map_err(|error| failed("make the directory", error))?;
        let root = root
            .canonicalize()
            .map_err(|error| failed("open the directory", error))?;
        for above in root.ancestors().skip(1).take(made) {
            sync_folder(above).map_err(|error| failed("sync the directory", error))?;
        }
        Ok(Self {
            files: Arc::new(LocalFileSystem::new_with_prefix(&root)?),
            root,
            state: Arc::default(),
            witness: Told::default(),
        })
    }

    /// The same directory, whose changes from now on are told; those of making it are not.
    pub fn witnessed(self, witness: Witness) -> Self {
        let witness = Told(Some(witness));
        Self { witness, ..self }
    }

    fn usable(&self) -> Result<()> {
        if self.state.broken.load(Ordering::Acquire) {
            let reason = io::Error::other("an earlier sync failed; check the disk and restart");
            return Err(failed("trust the directory", reason));
        }
        Ok(())
    }

    /// The blocking part of a put.
    fn land(&self, path: &FilePath, payload: &PutPayload, mode: &PutMode) -> Result<()> {
        let folder = path.parent().unwrap_or(&self.root);
        fs::create_dir_all(folder).map_err(|error| failed("make a folder", error))?;
        let mut made: Vec<&FilePath> = folder
            .ancestors()
            .take_while(|folder| **folder != *self.root)
            .collect();
        made.reverse();
        for folder in made {
            self.witness.tell(Change::MakeFolder(folder));
        }
        let staged = self
            .stage(path, payload)
            .map_err(|error| failed("write", error))?;
        let landed = match mode {
            PutMode::Create => fs::hard_link(&staged, path),
            PutMode::Overwrite | PutMode::Update(_) => fs::rename(&staged, path),
        };
        if landed.is_ok() {
            self.witness.tell(match mode {
                PutMode::Create => Change::Link(&staged, path),
                PutMode::Overwrite | PutMode::Update(_) => Change::Rename(&staged, path),
            });
        }
        if matches!(mode, PutMode::Create) || landed.is_err() {
            // What stays is never listed and costs only room.
            if fs::remove_file(&staged).is_ok() {
                self.witness.tell(Change::Remove(&staged));
            }
        }
        match landed {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
                return Err(Error::AlreadyExists {
                    path: path.display().to_string(),
                    source: Box::new(error),
                });
            }
            Err(error) => return Err(failed("name a file", error)),
            Ok(()) => {}
        }
        self.make_last(folder).map_err(|error| {
            self.state.broken.store(true, Ordering::Release);
            failed("sync a folder", error)
        })
    }

    /// Writes and syncs a file beside `path` whose name no other put uses; removes it on failure.
    fn stage(&self, path: &FilePath, payload: &PutPayload) -> io::Result<PathBuf> {
        let (staged, mut file) = loop {
            let number = self.state.staged.fetch_add(1, Ordering::Relaxed);
            let mut name = path.as_os_str().to_owned();
            name.push(format!("#{}{number:020}", std::process::id()));
            let staged = PathBuf::from(name);
            match OpenOptions::new()
                .write(true)
                .create_new(true)
                .open(&staged)
            {
                Ok(file) => break (staged, file),
                // Left by a crash of a process with the same id.
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
                Err(error) => return Err(error),
            }
        };
        let written = payload
            .iter()
            .try_for_each(|bytes| file.write_all(bytes))
            .inspect(|()| self.witness.tell(Change::MakeFile(&staged, payload)))
            .and_then(|()| file.sync_all());
        match written {
            Ok(()) => {
                self.witness.tell(Change::SyncFile(&staged));
                Ok(staged)
            }
            Err(error) => {
                let _ = fs::remove_file(&staged);
                Err(error)
            }
        }
    }

    /// Syncs a folder's entries, and its own entry and those above it if that was never done here:
    /// another put may have made them and not have come that far.
    fn make_last(&self, folder: &FilePath) -> io::Result<()> {
        self.sync_folder(folder)?;
        for folder in folder.ancestors() {
            let known = *folder == *self.root || self.state.lasting.lock().contains(folder);
            let Some(above) = folder.parent().filter(|_| !known) else {
                break;
            };
            self.sync_folder(above)?;
        }
        let mut lasting = self.state.lasting.lock();
        let below_root = folder
            .ancestors()
            .take_while(|folder| **folder != *self.root);
        lasting.extend(below_root.map(FilePath::to_path_buf));
        Ok(())
    }

    fn sync_folder(&self, folder: &FilePath) -> io::Result<()> {
        sync_folder(folder)?;
        self.witness.tell(Change::SyncFolder(folder));
        Ok(())
    }
}

fn sync_folder(folder: &FilePath) -> io::Result<()> {
    File::open(folder)?.sync_all()
}

fn failed(what: &str, error: io::Error) -> Error {
    Error::Generic {
        store: "local directory",
        // Its kind stays: whoever waits for room has to know.
        source: io::Error::new(error.kind(), format!("cannot {what}: {error}")).into(),
    }
}

fn unsupported(operation: &str) -> Error {
    Error::NotImplemented {
        operation: operation.to_owned(),
        implementer: "local directory".to_owned(),
    }
}

impl fmt::Display for LocalStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "local directory {}", self.root.display())
    }
}

#[async_trait]
impl ObjectStore for LocalStore {
    async fn put_opts(
        &self,
        location: &Path,
        payload: PutPayload,
        options: PutOptions,
    ) -> Result<PutResult> {
        self.usable()?;
        if matches!(options.mode, PutMode::Update(_)) {
            return Err(unsupported("update"));
        }
        if !options.attributes.is_empty() {
            return Err(unsupported("attributes"));
        }
        let path = self.files.path_to_filesystem(location)?;
        let store = self.clone();
        let put = move || store.land(&path, &payload, &options.mode);
        tokio::task::spawn_blocking(put).await??;
        Ok(PutResult {
            e_tag: None,
            version: None,
        })
    }

    async fn put_multipart_opts(
        &self,
        _location: &Path,
        _options: PutMultipartOptions,
    ) -> Result<Box<dyn MultipartUpload>> {
        Err(unsupported("multipart upload"))
    }

    async fn get_opts(&self, location: &Path, options: GetOptions) -> Result<GetResult> {
        self.usable()?;
        self.files.get_opts(location, options).await
    }

    fn delete_stream(
        &self,
        locations: BoxStream<'static, Result<Path>>,
    ) -> BoxStream<'static, Result<Path>> {
        let (files, witness) = (Arc::clone(&self.files), self.witness.clone());
        let deleted = self.files.delete_stream(locations);
        deleted
            .inspect_ok(move |location| {
                if let Ok(path) = files.path_to_filesystem(location) {
                    witness.tell(Change::Remove(&path));
                }
            })
            .boxed()
    }

    fn list(&self, prefix: Option<&Path>) -> BoxStream<'static, Result<ObjectMeta>> {
        match self.usable() {
            Ok(()) => self.files.list(prefix),
            Err(error) => futures::stream::once(std::future::ready(Err(error))).boxed(),
        }
    }

    async fn list_with_delimiter(&self, prefix: Option<&Path>) -> Result<ListResult> {
        self.usable()?;
        self.files.list_with_delimiter(prefix).await
    }

    async fn copy_opts(&self, _from: &Path, _to: &Path, _options: CopyOptions) -> Result<()> {
        Err(unsupported("copy"))
    }
}

#[cfg(test)]
mod tests {
    use object_store::ObjectStoreExt;

    use super::*;

    fn opened() -> (tempfile::TempDir, LocalStore) {
        let folder = tempfile::tempdir().unwrap();
        let store = LocalStore::open(&folder.path().join("made/on/open")).unwrap();
        (folder, store)
    }

    async fn bytes(store: &LocalStore, name: &str) -> Vec<u8> {
        let answer = store.get(&Path::from(name)).await.unwrap();
        answer.bytes().await.unwrap().to_vec()
    }

    async fn names(store: &LocalStore) -> Vec<String> {
        let listed: Vec<_> = store.list(None).try_collect().await.unwrap();
        let mut names: Vec<_> = listed
            .into_iter()
            .map(|object| object.location.to_string())
            .collect();
        names.sort();
        names
    }

    #[tokio::test]
    async fn a_name_is_created_once_and_overwritten_at_will() {
        let (_folder, store) = opened();
        let name = Path::from("7/manifest/1");
        let create = || PutOptions::from(PutMode::Create);
        let first = store.put_opts(&name, "first".into(), create()).await;
        assert!(first.is_ok());
        let second = store.put_opts(&name, "second".into(), create()).await;
        assert!(matches!(second, Err(Error::AlreadyExists { .. })));
        assert_eq!(bytes(&store, "7/manifest/1").await, b"first");
        store.put(&name, "third".into()).await.unwrap();
        assert_eq!(bytes(&store, "7/manifest/1").await, b"third");
        assert_eq!(names(&store).await, ["7/manifest/1"]);
        store.delete(&name).await.unwrap();
        assert!(names(&store).await.is_empty());
    }

    #[tokio::test]
    async fn staged_files_leave_and_those_of_a_crash_are_not_listed() {
        let (_folder, store) = opened();
        store.put(&Path::from("a/b"), "x".into()).await.unwrap();
        let create = PutOptions::from(PutMode::Create);
        let again = store.put_opts(&Path::from("a/b"), "y".into(), create).await;
        assert!(again.is_err());
        let entries = fs::read_dir(store.root.join("a")).unwrap().count();
        assert_eq!(entries, 1);

        let path = store.root.join("a/c");
        store.stage(&path, &"torn".into()).unwrap();
        assert_eq!(names(&store).await, ["a/b"]);
    }

    #[tokio::test]
    async fn what_would_not_be_synced_is_refused() {
        let (_folder, store) = opened();
        let (a, b) = (Path::from("a"), Path::from("b"));
        store.put(&a, "x".into()).await.unwrap();
        assert!(store.copy(&a, &b).await.is_err());
        assert!(store.rename(&a, &b).await.is_err());
        assert!(store.put_multipart(&b).await.is_err());
        let update = PutMode::Update(object_store::UpdateVersion {
            e_tag: None,
            version: None,
        });
        let updated = store.put_opts(&a, "y".into(), update.into()).await;
        assert!(updated.is_err());
        assert_eq!(names(&store).await, ["a"]);
        assert_eq!(bytes(&store, "a").await, b"x");
    }

    #[tokio::test]
    async fn after_a_failed_sync_nothing_is_answered() {
        let (_folder, store) = opened();
        let name = Path::from("a");
        store.put(&name, "x".into()).await.unwrap();
        store.state.broken.store(true, Ordering::Release);
        assert!(store.get(&name).await.is_err());
        assert!(store.put(&name, "y".into()).await.is_err());
        let listed: Result<Vec<_>> = store.list(None).try_collect().await;
        let error = listed.unwrap_err().to_string();
        assert!(error.contains("check the disk and restart"), "{error}");
        let root = store.root.clone();
        drop(store);
        let store = LocalStore::open(&root).unwrap();
        assert_eq!(bytes(&store, "a").await, b"x");
    }
}
