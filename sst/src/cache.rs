//! Parts of a far store on the own disk: each block of a sorted file is fetched once.
//!
//! 1. A range of a sorted file is widened to whole blocks of [`BLOCK`]. A block that is on disk is read
//!    and compared with its sum; one that differs is dropped and counts as absent.
//! 2. A block that is absent and under way is waited for. The others are fetched, neighbours by one
//!    request, in a task of their own: whoever asked first may stop reading and holds nobody up.
//! 3. What came is written to disk, not synced, and handed to all who wait. A request that fails is
//!    told to the one who made it; those who waited ask themselves.
//! 4. A full cache gives away blocks that were not asked for lately ([`slots`]).
//!
//! The disk's file has no name: it ends with the process, and every start begins with an empty cache.
//! Nothing is ever invalidated, for a sorted file's name is never used twice.
//!
//! Never here: manifests and other objects that readers must see as they are now, puts, an error for
//! want of room or of a good disk: then the store is asked.

use std::collections::hash_map::Entry;
use std::collections::{BTreeMap, HashMap};
use std::fmt;
use std::io;
use std::ops::Range;
use std::path::Path as FilePath;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use async_trait::async_trait;
use bytes::Bytes;
use futures::stream::{self, BoxStream};
use futures::{StreamExt, future};
use object_store::path::Path;
use object_store::{
    CopyOptions, Error, GetOptions, GetRange, GetResult, GetResultPayload, ListResult,
    MultipartUpload, ObjectMeta, ObjectStore, PutMultipartOptions, PutOptions, PutPayload,
    PutResult, Result,
};
use parking_lot::Mutex;
use tokio::sync::watch;
use tokio_util::sync::{CancellationToken, DropGuard};
use tokio_util::task::TaskTracker;

use crate::names;

mod slots;
#[cfg(test)]
mod tests;

use slots::{Held, Slots};

/// Bytes of a block, aligned in the object: those over which a sorted file has its sums.
pub const BLOCK: u64 = crate::format::SUM_BLOCK;

/// What a cache has done so far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Blocks answered from disk.
    pub hits: u64,
    /// Blocks asked of the store.
    pub misses: u64,
    /// Blocks on disk that were not what was written there.
    pub damaged: u64,
    /// Blocks that found no place on disk: it was full or failed.
    pub unkept: u64,
}

/// A store whose sorted files are read through blocks on disk.
#[derive(Debug)]
pub struct CachedStore {
    shared: Arc<Shared>,
    /// Every fetch; none outlives this by more than its request.
    tasks: TaskTracker,
    _ends_tasks: DropGuard,
}

struct Shared {
    store: Arc<dyn ObjectStore>,
    slots: Slots,
    /// Blocks under way; taken before the lock of the slots, never held over an await.
    flights: Mutex<HashMap<Block, Landing>>,
    counted: Counted,
    stop: CancellationToken,
}

#[derive(Default)]
struct Counted {
    hits: AtomicU64,
    misses: AtomicU64,
    damaged: AtomicU64,
    unkept: AtomicU64,
}

/// An object and the number of a block in it.
type Block = (Path, u64);

/// What came of a block: the object as the store told it, and the bytes.
type Landed = (ObjectMeta, Bytes);

/// Where a block that is under way is waited for; ends without it when its request fails.
type Landing = watch::Receiver<Option<Landed>>;

/// The duty to fetch a block; whoever waits for it is woken when this ends.
struct Flight {
    shared: Arc<Shared>,
    block: Block,
    landed: watch::Sender<Option<Landed>>,
}

impl Drop for Flight {
    fn drop(&mut self) {
        self.shared.flights.lock().remove(&self.block);
    }
}

/// What has to be done for blocks that are asked for.
#[derive(Default)]
struct Plan {
    /// The object as the store told it; known where a block is on disk.
    meta: Option<ObjectMeta>,
    on_disk: Vec<(u64, Held)>,
    to_fetch: Vec<Flight>,
    under_way: Vec<(u64, Landing)>,
}

/// What a fetch brought: the object as the store told it, and its blocks by number.
type Fetched = (ObjectMeta, Vec<(u64, Bytes)>);

impl CachedStore {
    /// An empty cache of at most `bytes` in `folder`, which is made if it is not there.
    ///
    /// * `bytes`: is rounded down to whole blocks.
    /// * errors: the folder cannot be made or written.
    pub fn open(store: Arc<dyn ObjectStore>, folder: &FilePath, bytes: u64) -> io::Result<Self> {
        let stop = CancellationToken::new();
        let shared = Shared {
            store,
            slots: Slots::open(folder, bytes / BLOCK)?,
            flights: Mutex::default(),
            counted: Counted::default(),
            stop: stop.clone(),
        };
        Ok(Self {
            shared: Arc::new(shared),
            tasks: TaskTracker::new(),
            _ends_tasks: stop.drop_guard(),
        })
    }

    /// What it has done so far.
    pub fn counts(&self) -> Counts {
        let read = |count: &AtomicU64| count.load(Ordering::Relaxed);
        let counted = &self.shared.counted;
        Counts {
            hits: read(&counted.hits),
            misses: read(&counted.misses),
            damaged: read(&counted.damaged),
            unkept: read(&counted.unkept),
        }
    }

    /// The bytes of a range, fewer where the object ends before it.
    ///
    /// * errors: those of the store; also where a block behind the end is asked for while one before
    ///   it is under way, so that nothing is known of the object yet.
    async fn read(&self, path: &Path, range: &Range<u64>) -> Result<(ObjectMeta, Bytes)> {
        let (mut meta, mut blocks) = (self.shared.slots.meta(path), BTreeMap::new());
        loop {
            let end = meta.as_ref().map_or(u64::MAX, |meta| meta.size);
            let numbers = range.start / BLOCK..range.end.min(end).div_ceil(BLOCK);
            let absent = numbers
                .clone()
                .filter(|number| !blocks.contains_key(number));
            let plan = self.shared.plan(path, absent);
            meta = plan.meta.or(meta);
            // Own requests go out before anything is waited for.
            let fetched: Vec<_> = runs(plan.to_fetch)
                .map(|run| self.tasks.spawn(Arc::clone(&self.shared).fetch(run)))
                .collect();
            blocks.extend(self.shared.read_from_disk(plan.on_disk).await);
            for fetched in future::join_all(fetched).await {
                let (told, fetched) = fetched??;
                meta = Some(told);
                blocks.extend(fetched);
            }
            for (number, mut landing) in plan.under_way {
                // Without one its request failed: the next round makes our own.
                if let Ok(landed) = landing.wait_for(Option::is_some).await
                    && let Some((told, bytes)) = landed.clone()
                {
                    meta = Some(told);
                    blocks.insert(number, bytes);
                }
            }
            if let Some(meta) = &meta
                && numbers.clone().all(|number| blocks.contains_key(&number))
            {
                return Ok((meta.clone(), cut(&blocks, range)));
            }
        }
    }
}

/// The range out of the blocks that hold it; copied only where it lies in several.
fn cut(blocks: &BTreeMap<u64, Bytes>, range: &Range<u64>) -> Bytes {
    let mut parts = blocks.iter().map(|(number, bytes)| {
        let start = number * BLOCK;
        let within = |at: u64| (at.saturating_sub(start) as usize).min(bytes.len());
        bytes.slice(within(range.start)..within(range.end).max(within(range.start)))
    });
    match blocks.len() {
        1 => parts.next().unwrap_or_default(),
        _ => parts.collect::<Vec<_>>().concat().into(),
    }
}

/// Flights of neighbouring blocks together.
fn runs(flights: Vec<Flight>) -> impl Iterator<Item = Vec<Flight>> {
    let mut runs: Vec<Vec<Flight>> = Vec::new();
    for flight in flights {
        let follows = |run: &Vec<Flight>| {
            let last = run.last();
            last.is_some_and(|last| last.block.1 + 1 == flight.block.1)
        };
        match runs.last_mut() {
            Some(run) if follows(run) => run.push(flight),
            _ => runs.push(vec![flight]),
        }
    }
    runs.into_iter()
}

impl Shared {
    fn plan(self: &Arc<Self>, path: &Path, numbers: impl Iterator<Item = u64>) -> Plan {
        let mut plan = Plan::default();
        let mut flights = self.flights.lock();
        for number in numbers {
            // Asked under the lock: a flight ends only after its block is in its slot.
            if let Some(held) = self.slots.hold(path, number) {
                plan.on_disk.push((number, held));
                continue;
            }
            match flights.entry((path.clone(), number)) {
                Entry::Occupied(landing) => plan.under_way.push((number, landing.get().clone())),
                Entry::Vacant(place) => {
                    let (landed, landing) = watch::channel(None);
                    let block = place.key().clone();
                    place.insert(landing);
                    let shared = Arc::clone(self);
                    plan.to_fetch.push(Flight {
                        shared,
                        block,
                        landed,
                    });
                }
            }
        }
        // Blocks that are held keep their object known.
        plan.meta = self.slots.meta(path);
        plan
    }

    /// Those blocks that are still what was written.
    async fn read_from_disk(&self, held: Vec<(u64, Held)>) -> Vec<(u64, Bytes)> {
        if held.is_empty() {
            return Vec::new();
        }
        let asked = held.len() as u64;
        let read = move || {
            let read = held.into_iter().filter_map(|(number, held)| {
                let bytes = held.read();
                if bytes.is_none() {
                    held.forget();
                }
                Some((number, bytes?))
            });
            read.collect::<Vec<_>>()
        };
        let read = tokio::task::spawn_blocking(read).await.unwrap_or_default();
        let (good, counted) = (read.len() as u64, &self.counted);
        counted.hits.fetch_add(good, Ordering::Relaxed);
        counted.damaged.fetch_add(asked - good, Ordering::Relaxed);
        read
    }

    /// One request for the blocks of a run.
    async fn fetch(self: Arc<Self>, run: Vec<Flight>) -> Result<Fetched> {
        let (Some(first), Some(last)) = (run.first(), run.last()) else {
            return Err(failed("a request for nothing"));
        };
        let (path, first) = (first.block.0.clone(), first.block.1);
        let range = first * BLOCK..(last.block.1 + 1) * BLOCK;
        let counted = &self.counted;
        counted
            .misses
            .fetch_add(run.len() as u64, Ordering::Relaxed);
        let asked = async {
            let options = GetOptions {
                range: Some(GetRange::Bounded(range)),
                ..GetOptions::default()
            };
            let answer = self.store.get_opts(&path, options).await?;
            let meta = answer.meta.clone();
            Ok::<_, Error>((meta, answer.bytes().await?))
        };
        let (meta, bytes) = tokio::select! {
            answer = asked => answer?,
            () = self.stop.cancelled() => return Err(failed("the cache is closed")),
        };
        let shared = Arc::clone(&self);
        let keep = move || {
            let mut blocks = Vec::new();
            for flight in run {
                let (path, number) = &flight.block;
                let start = ((number - first) * BLOCK) as usize;
                let end = (start + BLOCK as usize).min(bytes.len());
                let block = bytes.slice(start.min(end)..end);
                if !block.is_empty() && !shared.slots.keep(path, *number, &meta, &block) {
                    shared.counted.unkept.fetch_add(1, Ordering::Relaxed);
                }
                flight
                    .landed
                    .send_replace(Some((meta.clone(), block.clone())));
                blocks.push((*number, block));
            }
            (meta, blocks)
        };
        Ok(tokio::task::spawn_blocking(keep).await?)
    }
}

fn failed(what: &str) -> Error {
    Error::Generic {
        store: "cache",
        source: what.into(),
    }
}

impl fmt::Debug for Shared {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "cache of {}", self.store)
    }
}

impl fmt::Display for CachedStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "cache of {}", self.shared.store)
    }
}

/// The range that is asked for, where blocks may answer.
fn range_of(location: &Path, options: &GetOptions) -> Option<Range<u64>> {
    let Some(GetRange::Bounded(range)) = &options.range else {
        return None;
    };
    let plain = options.if_match.is_none()
        && options.if_none_match.is_none()
        && options.if_modified_since.is_none()
        && options.if_unmodified_since.is_none()
        && options.version.is_none()
        && !options.head;
    let sorted = || names::sst_origin(location.as_ref()).is_some();
    (plain && range.start < range.end && sorted()).then(|| range.clone())
}

#[async_trait]
impl ObjectStore for CachedStore {
    async fn put_opts(
        &self,
        location: &Path,
        payload: PutPayload,
        options: PutOptions,
    ) -> Result<PutResult> {
        self.shared.store.put_opts(location, payload, options).await
    }

    async fn put_multipart_opts(
        &self,
        location: &Path,
        options: PutMultipartOptions,
    ) -> Result<Box<dyn MultipartUpload>> {
        self.shared
            .store
            .put_multipart_opts(location, options)
            .await
    }

    async fn get_opts(&self, location: &Path, options: GetOptions) -> Result<GetResult> {
        let Some(range) = range_of(location, &options) else {
            return self.shared.store.get_opts(location, options).await;
        };
        let (meta, bytes) = self.read(location, &range).await?;
        if bytes.is_empty() {
            // Behind the object's end: what the store says of that is the answer.
            return self.shared.store.get_opts(location, options).await;
        }
        let range = range.start..range.start + bytes.len() as u64;
        let payload = stream::once(future::ready(Ok(bytes))).boxed();
        Ok(GetResult {
            payload: GetResultPayload::Stream(payload),
            meta,
            range,
            attributes: Default::default(),
        })
    }

    fn delete_stream(
        &self,
        locations: BoxStream<'static, Result<Path>>,
    ) -> BoxStream<'static, Result<Path>> {
        self.shared.store.delete_stream(locations)
    }

    fn list(&self, prefix: Option<&Path>) -> BoxStream<'static, Result<ObjectMeta>> {
        self.shared.store.list(prefix)
    }

    fn list_with_offset(
        &self,
        prefix: Option<&Path>,
        offset: &Path,
    ) -> BoxStream<'static, Result<ObjectMeta>> {
        self.shared.store.list_with_offset(prefix, offset)
    }

    async fn list_with_delimiter(&self, prefix: Option<&Path>) -> Result<ListResult> {
        self.shared.store.list_with_delimiter(prefix).await
    }

    async fn copy_opts(&self, from: &Path, to: &Path, options: CopyOptions) -> Result<()> {
        self.shared.store.copy_opts(from, to, options).await
    }
}
