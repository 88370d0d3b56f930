//! Answers equal the store's, requests are counted, and the disk is not trusted.

use std::ops::Range;
use std::sync::Arc;

use auxo_proto::ids::{ShardId, TableId, TenantId, Term};
use auxo_proto::random::Random;
use futures::future::join_all;
use object_store::ObjectStoreExt;
use object_store::memory::InMemory;
use ulid::Ulid;

use super::*;
use crate::faulty::{Fault, Faulty};
use crate::model::Counting;

fn name(number: u64) -> Path {
    let term = Term { epoch: 1, inc: 0 };
    let ulid = Ulid::from_parts(number, 0);
    names::sst_key(ShardId(7), term, 1, TenantId(2), TableId(3), ulid).into()
}

/// `blocks` whole blocks and a bit, no two bytes of which can be mistaken for others' for long.
fn content(seed: u64, blocks: u64) -> Bytes {
    let random = Random::seeded(seed);
    let words = (blocks * BLOCK + 1000) / 8;
    (0..words)
        .flat_map(|_| random.next_u64().to_le_bytes())
        .collect()
}

/// A cache of that many blocks over a store with one file.
async fn cached(most: u64, blocks: u64) -> (tempfile::TempDir, Arc<Counting>, CachedStore, Bytes) {
    let (folder, store) = (tempfile::tempdir().unwrap(), Arc::<Counting>::default());
    let content = content(1, blocks);
    store.put(&name(1), content.clone().into()).await.unwrap();
    let cache = CachedStore::open(store.clone(), folder.path(), most * BLOCK).unwrap();
    (folder, store, cache, content)
}

async fn read(cache: &CachedStore, range: Range<u64>) -> Bytes {
    cache.get_range(&name(1), range).await.unwrap()
}

fn part(content: &Bytes, range: Range<u64>) -> Bytes {
    let end = (range.end as usize).min(content.len());
    content.slice(range.start as usize..end)
}

#[tokio::test]
async fn any_range_is_what_the_store_has() {
    // With room for all, for some and for none.
    for most in [100, 3, 0] {
        let (_folder, _store, cache, content) = cached(most, 9).await;
        let dice = Random::seeded(most);
        for _ in 0..200 {
            let start = dice.below(content.len() as u64);
            let range = start..start + 1 + dice.below(3 * BLOCK);
            let found = read(&cache, range.clone()).await;
            assert!(found == part(&content, range.clone()), "{range:?}");
        }
        let behind = content.len() as u64 + BLOCK;
        let refused = cache.get_range(&name(1), behind..behind + 1).await;
        assert!(refused.is_err());
        let counts = cache.counts();
        assert_eq!(counts.damaged, 0);
        assert_eq!(counts.hits > 0, most > 0, "{counts:?}");
        match most {
            100 => assert_eq!(counts.unkept, 0),
            0 => assert!(counts.unkept > 0),
            // While all few slots are read, what is fetched beside them finds none.
            _ => {}
        }
        assert!(cache.shared.slots.file_bytes() <= most * BLOCK);
    }
}

#[tokio::test]
async fn what_was_read_is_not_asked_again_and_neighbours_come_together() {
    let (_folder, store, cache, content) = cached(100, 9).await;
    let whole = 0..content.len() as u64;
    read(&cache, 5 * BLOCK + 1..5 * BLOCK + 2).await;
    assert_eq!(store.take().0, 1);
    assert_eq!(read(&cache, whole.clone()).await, content);
    assert_eq!(store.take().0, 2, "before and behind the known block");
    assert_eq!(read(&cache, whole).await, content);
    read(&cache, BLOCK - 1..BLOCK + 1).await;
    assert_eq!(store.take().0, 0);
    let counts = cache.counts();
    assert_eq!((counts.hits, counts.misses), (1 + 10 + 2, 10));
}

#[tokio::test]
async fn who_asks_together_is_answered_by_one_request() {
    let (_folder, store, cache, content) = cached(100, 9).await;
    let range = BLOCK + 7..4 * BLOCK;
    let answers = (0..20).map(|_| read(&cache, range.clone()));
    for answer in join_all(answers).await {
        assert!(answer == part(&content, range.clone()));
    }
    assert_eq!(store.take().0, 1);
}

#[tokio::test]
async fn a_reader_that_stops_holds_nobody_up() {
    let (_folder, store, cache, content) = cached(100, 9).await;
    let range = 0..2 * BLOCK;
    let mut stopped = Box::pin(read(&cache, range.clone()));
    assert!(futures::poll!(&mut stopped).is_pending());
    assert!(read(&cache, range.clone()).await == part(&content, range.clone()));
    let mut dropped = Box::pin(read(&cache, 3 * BLOCK..4 * BLOCK));
    assert!(futures::poll!(&mut dropped).is_pending());
    drop(dropped);
    read(&cache, 3 * BLOCK..4 * BLOCK).await;
    assert_eq!(store.take().0, 2);
    assert!(stopped.await == part(&content, range));
}

#[tokio::test]
async fn what_the_disk_spoils_is_fetched_again() {
    let (_folder, store, cache, content) = cached(100, 3).await;
    let whole = 0..content.len() as u64;
    read(&cache, whole.clone()).await;
    cache.shared.slots.spoil();
    store.take();
    assert_eq!(read(&cache, whole.clone()).await, content);
    assert_eq!((store.take().0, cache.counts().damaged), (1, 4));
    assert_eq!(read(&cache, whole).await, content);
    assert_eq!((store.take().0, cache.counts().damaged), (0, 4));
}

#[tokio::test]
async fn blocks_that_are_read_again_outlive_those_that_are_read_once() {
    let (_folder, store, cache, _) = cached(4, 9).await;
    let wanted = async || drop(read(&cache, 0..1).await);
    wanted().await;
    for number in 1..10 {
        wanted().await;
        read(&cache, number * BLOCK..number * BLOCK + 1).await;
    }
    assert_eq!(store.take().0, 10);
    wanted().await;
    assert_eq!(store.take().0, 0);
}

#[tokio::test]
async fn manifests_and_whole_objects_are_asked_of_the_store() {
    let (_folder, store, cache, content) = cached(100, 1).await;
    let manifest = names::manifest(&names::shard_folder(ShardId(7)), 1);
    for text in ["first", "other"] {
        cache.put(&manifest, text.into()).await.unwrap();
        let found = cache.get_range(&manifest, 0..5).await.unwrap();
        assert_eq!(found, text);
    }
    for _ in 0..2 {
        let whole = cache.get(&name(1)).await.unwrap().bytes().await.unwrap();
        assert_eq!(whole, content);
    }
    assert_eq!(store.take().0, 4);
    assert_eq!(cache.counts(), Counts::default());
}

#[tokio::test]
async fn a_request_that_fails_is_told_and_made_again() {
    let folder = tempfile::tempdir().unwrap();
    let memory = Arc::new(InMemory::new());
    let content = content(1, 2);
    memory.put(&name(1), content.clone().into()).await.unwrap();
    let store = Faulty::new(memory).gets([Fault::Refused, Fault::NotFound]);
    let cache = CachedStore::open(Arc::new(store), folder.path(), 100 * BLOCK).unwrap();
    let ask = async || cache.get_range(&name(1), 0..10).await;
    assert!(matches!(ask().await, Err(Error::Generic { .. })));
    assert!(matches!(ask().await, Err(Error::NotFound { .. })));
    assert_eq!(ask().await.unwrap(), part(&content, 0..10));
    let absent = cache.get_range(&name(2), 0..10).await;
    assert!(matches!(absent, Err(Error::NotFound { .. })));
}
