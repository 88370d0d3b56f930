//! The commit protocol against stores that work and stores that fail.

use std::collections::HashSet;

use object_store::memory::InMemory;
use object_store::path::Path;
use object_store::{ObjectStore, ObjectStoreExt};
use proptest::prelude::*;

use super::*;
use crate::faulty::{Fault, Faulty};
use crate::local_store::LocalStore;
use crate::manifest::samples::{bump, flush, fresh, term};

const SOON: Duration = Duration::from_secs(60);

fn manifests(store: impl ObjectStore) -> ManifestStore {
    let retry = Retry {
        first: Duration::from_millis(1),
        longest: Duration::from_millis(2),
        attempt: Duration::from_millis(20),
    };
    ManifestStore::new(Arc::new(store), Path::from("7")).with_retry(retry)
}

async fn commit(
    store: &ManifestStore,
    base: Option<(u64, &Manifest)>,
    content: &Manifest,
) -> Result<u64, CommitError> {
    store.commit(base, content, Instant::now() + SOON).await
}

/// A chain of `length` manifests of the term 1.0, and the last of them.
async fn chain(store: &ManifestStore, length: u64) -> Manifest {
    let mut newest = fresh(term(1, 0), 1, 0, 1);
    assert_eq!(commit(store, None, &newest).await.unwrap(), 1);
    for number in 2..=length {
        let next = flush(&newest, number, number.into());
        let base = Some((number - 1, &newest));
        assert_eq!(commit(store, base, &next).await.unwrap(), number);
        newest = next;
    }
    newest
}

async fn commits_and_reads_back(store: ManifestStore) {
    assert_eq!(store.newest().await.unwrap(), None);
    assert_eq!(store.read(1).await.unwrap(), None);
    let last = chain(&store, 12).await;
    assert_eq!(store.newest().await.unwrap(), Some((12, last)));
    let first = store.read(1).await.unwrap();
    assert_eq!(first, Some(fresh(term(1, 0), 1, 0, 1)));
    assert_eq!(store.read(13).await.unwrap(), None);
}

#[tokio::test]
async fn memory_keeps_a_chain() {
    commits_and_reads_back(manifests(InMemory::new())).await;
}

#[tokio::test]
async fn a_local_directory_keeps_a_chain() {
    let folder = tempfile::tempdir().unwrap();
    let store = LocalStore::open(folder.path()).unwrap();
    commits_and_reads_back(manifests(store)).await;
}

#[tokio::test]
async fn names_are_twenty_digits_below_the_shard() {
    let memory = Arc::new(InMemory::new());
    chain(&manifests(memory.clone()), 1).await;
    let name = Path::from("7/manifest/00000000000000000001");
    let bytes = memory.get(&name).await.unwrap().bytes().await.unwrap();
    assert_eq!(bytes, fresh(term(1, 0), 1, 0, 1).encode());
}

/// One commit over a failing store lands once, whatever the store said.
async fn lands_over(puts: &[Fault], gets: &[Fault], lists: &[Fault]) {
    let memory = Arc::new(InMemory::new());
    let base = chain(&manifests(memory.clone()), 3).await;
    let faulty = Faulty::new(memory.clone())
        .puts(puts.iter().copied())
        .gets(gets.iter().copied())
        .lists(lists.iter().copied());
    let content = flush(&base, 9, 99);
    let number = commit(&manifests(faulty), Some((3, &base)), &content).await;
    assert_eq!(number.unwrap(), 4, "{puts:?} {gets:?} {lists:?}");
    let newest = manifests(memory).newest().await.unwrap();
    assert_eq!(newest, Some((4, content)));
}

#[tokio::test]
async fn a_commit_settles_what_the_store_left_open() {
    lands_over(&[Fault::LostReply], &[], &[]).await;
    lands_over(&[Fault::OwnExists], &[], &[]).await;
    lands_over(&[Fault::Conflict; 3], &[], &[]).await;
    lands_over(&[Fault::Refused, Fault::Conflict], &[], &[]).await;
    lands_over(&[Fault::Hang, Fault::LostReply], &[], &[]).await;
    lands_over(&[Fault::Late(1)], &[], &[]).await;
    lands_over(&[Fault::Late(2)], &[], &[]).await;
    lands_over(&[Fault::Late(3), Fault::Conflict], &[], &[]).await;
    lands_over(&[Fault::LostReply], &[Fault::NotFound], &[]).await;
    lands_over(&[Fault::LostReply], &[Fault::Refused, Fault::Hang], &[]).await;
    lands_over(&[], &[], &[Fault::Refused; 3]).await;
}

#[tokio::test]
async fn another_manifest_of_no_higher_term_means_rebase() {
    let store = manifests(InMemory::new());
    let base = chain(&store, 3).await;
    let other = flush(&base, 8, 80);
    assert_eq!(commit(&store, Some((3, &base)), &other).await.unwrap(), 4);
    let content = flush(&base, 9, 90);
    let refused = commit(&store, Some((3, &base)), &content).await;
    let Err(CommitError::Rebase { number, newer }) = refused else {
        panic!("{refused:?}");
    };
    assert_eq!((number, *newer), (4, other.clone()));
    let content = flush(&other, 9, 91);
    assert_eq!(
        commit(&store, Some((4, &other)), &content).await.unwrap(),
        5
    );

    let late = fresh(term(9, 0), 9, 0, 92);
    let refused = commit(&store, None, &late).await;
    assert!(matches!(
        refused,
        Err(CommitError::Rebase { number: 1, .. })
    ));
}

#[tokio::test]
async fn a_higher_term_means_stepping_down() {
    let store = manifests(InMemory::new());
    let base = chain(&store, 3).await;
    let successor = bump(&base, term(2, 0), 2, 50, 80);
    assert_eq!(
        commit(&store, Some((3, &base)), &successor).await.unwrap(),
        4
    );

    let content = flush(&base, 9, 90);
    let refused = commit(&store, Some((3, &base)), &content).await;
    let Err(CommitError::SteppedDown { number, term: by }) = refused else {
        panic!("{refused:?}");
    };
    assert_eq!((number, by), (4, term(2, 0)));

    let refused = commit(&store, Some((4, &successor)), &content).await;
    assert!(matches!(
        refused,
        Err(CommitError::SteppedDown { number: 4, .. })
    ));
    assert_eq!(store.newest().await.unwrap(), Some((4, successor)));
}

#[tokio::test]
async fn a_stalled_writer_that_creates_an_old_number_is_superseded() {
    let store = manifests(InMemory::new());
    let base = chain(&store, 2).await;
    let mut newest = base.clone();
    for number in 3..=150 {
        let next = flush(&newest, number, number.into());
        commit(&store, Some((number - 1, &newest)), &next)
            .await
            .unwrap();
        newest = next;
    }
    let removed = store.trim(i64::MAX).await.unwrap();
    assert_eq!(removed, (1..=50).collect::<Vec<_>>());

    let content = flush(&base, 9, 90_000);
    let refused = commit(&store, Some((2, &base)), &content).await;
    assert!(matches!(
        refused,
        Err(CommitError::Superseded { newest: 150 })
    ));
    assert_eq!(store.newest().await.unwrap(), Some((150, newest)));
}

#[tokio::test]
async fn a_deadline_ends_in_unknown_and_the_same_call_finds_out() {
    let memory = Arc::new(InMemory::new());
    let base = chain(&manifests(memory.clone()), 3).await;
    let content = flush(&base, 9, 99);
    let faulty = Faulty::new(memory.clone())
        .puts([Fault::LostReply])
        .gets(vec![Fault::Refused; 10_000]);
    let store = manifests(faulty);
    let deadline = Instant::now() + Duration::from_millis(30);
    let unknown = store.commit(Some((3, &base)), &content, deadline).await;
    assert!(matches!(
        unknown,
        Err(CommitError::Unknown { number: 4, .. })
    ));

    let store = manifests(memory);
    assert_eq!(commit(&store, Some((3, &base)), &content).await.unwrap(), 4);
    assert_eq!(store.read(5).await.unwrap(), None);
}

#[tokio::test]
async fn an_unlawful_content_writes_nothing() {
    let store = manifests(InMemory::new());
    let base = chain(&store, 3).await;
    let mut content = flush(&base, 9, 99);
    content.flushed = 1;
    let refused = commit(&store, Some((3, &base)), &content).await;
    assert!(matches!(refused, Err(CommitError::Unlawful(_))));
    assert_eq!(store.newest().await.unwrap(), Some((3, base)));
}

#[tokio::test]
async fn an_object_that_is_no_manifest_is_named_and_stops() {
    let memory = Arc::new(InMemory::new());
    let store = manifests(memory.clone());
    let base = chain(&store, 3).await;
    let name = names::manifest(&Path::from("7"), 4);
    memory.put(&name, "rubbish".into()).await.unwrap();
    let refused = commit(&store, Some((3, &base)), &flush(&base, 9, 99)).await;
    assert!(matches!(
        refused,
        Err(CommitError::Unreadable { number: 4, .. })
    ));
    let refused = store.newest().await;
    assert!(matches!(
        refused,
        Err(ReadError::Unreadable { number: 4, .. })
    ));
}

#[tokio::test]
async fn the_newest_is_found_behind_a_list_that_lags() {
    let memory = Arc::new(InMemory::new());
    let last = chain(&manifests(memory.clone()), 3).await;
    for lists in [Fault::Stale, Fault::NotFound] {
        let faulty = Faulty::new(memory.clone()).lists([lists]);
        let newest = manifests(faulty).newest().await.unwrap();
        assert_eq!(newest, Some((3, last.clone())));
    }
    let faulty = Faulty::new(memory.clone()).gets([Fault::NotFound]);
    let newest = manifests(faulty).newest().await.unwrap();
    assert_eq!(newest, Some((3, last)));
    let faulty = Faulty::new(memory).gets(vec![Fault::NotFound; 100]);
    let refused = manifests(faulty).newest().await;
    assert!(matches!(refused, Err(ReadError::Store(_))));
}

#[test]
fn the_last_hundred_and_the_last_hour_are_kept() {
    let now_ms = 10_000_000;
    let old = now_ms - KEPT_MS - 1;
    let listed = |range: std::ops::RangeInclusive<u64>, written_ms: i64| -> Vec<(u64, i64)> {
        range.map(|number| (number, written_ms)).collect()
    };
    assert!(expendable(&[], now_ms).is_empty());
    assert!(expendable(&listed(1..=100, old), now_ms).is_empty());
    assert_eq!(expendable(&listed(1..=103, old), now_ms), [1, 2, 3]);
    assert!(expendable(&listed(1..=103, old + 1), now_ms).is_empty());
    assert!(expendable(&listed(1..=103, i64::MAX), now_ms).is_empty());
    let mut mixed = listed(1..=103, old);
    mixed[1].1 = old + 1;
    mixed.reverse();
    assert_eq!(expendable(&mixed, now_ms), [1, 3]);
}

/// What one of two racing leaders was told of a write id.
#[derive(Debug)]
enum Told {
    Committed { number: u64, write_id: u128 },
    Refused { write_id: u128 },
    Open,
}

/// Claims under its term, then flushes until it is deposed or has had its turns.
async fn lead(store: ManifestStore, owner: Term, writer: u64, turns: u64) -> Vec<Told> {
    let mut told = Vec::new();
    for turn in 0..turns {
        let Ok(base) = store.newest().await else {
            continue;
        };
        let write_id = u128::from(writer) << 64 | u128::from(turn);
        let content = match &base {
            None => fresh(owner, writer, 0, write_id),
            Some((_, base)) if base.term > owner => break,
            Some((_, base)) if base.term < owner => {
                let claim = base.claim.max(base.flushed) + 1;
                bump(base, owner, writer, claim, write_id)
            }
            Some((_, base)) => {
                let flushed = base.claim.max(base.flushed) + 1;
                flush(base, flushed, write_id)
            }
        };
        let base = base.as_ref().map(|(number, base)| (*number, base));
        let deadline = Instant::now() + Duration::from_millis(40);
        match store.commit(base, &content, deadline).await {
            Ok(number) => told.push(Told::Committed { number, write_id }),
            Err(CommitError::Rebase { .. }) => told.push(Told::Refused { write_id }),
            Err(CommitError::SteppedDown { .. }) => {
                told.push(Told::Refused { write_id });
                break;
            }
            Err(CommitError::Superseded { .. } | CommitError::Unknown { .. }) => {
                told.push(Told::Open);
            }
            Err(error) => panic!("{error}"),
        }
    }
    told
}

fn put_fault() -> impl Strategy<Value = Fault> {
    prop_oneof![
        4 => Just(Fault::None),
        1 => Just(Fault::Refused),
        1 => Just(Fault::LostReply),
        1 => Just(Fault::OwnExists),
        1 => Just(Fault::Conflict),
        1 => (1..12_u8).prop_map(Fault::Late),
    ]
}

fn read_fault() -> impl Strategy<Value = Fault> {
    prop_oneof![
        5 => Just(Fault::None),
        1 => Just(Fault::Refused),
        1 => Just(Fault::NotFound),
    ]
}

fn list_fault() -> impl Strategy<Value = Fault> {
    prop_oneof![4 => Just(Fault::None), 1 => Just(Fault::Refused)]
}

fn script<F: Strategy<Value = Fault>>(fault: F) -> impl Strategy<Value = Vec<Fault>> {
    proptest::collection::vec(fault, 0..30)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    /// Two leaders race over a failing store: the manifests are one linear chain, whoever was
    /// told "committed" is in it at that number, whoever was refused is not.
    #[test]
    fn racing_leaders_make_one_chain(
        puts in script(put_fault()),
        gets in script(read_fault()),
        lists in script(list_fault()),
        first in 1..8_u64,
        second in 1..8_u64,
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_time()
            .build()
            .unwrap();
        runtime.block_on(async {
            let memory = Arc::new(InMemory::new());
            let faulty = Faulty::new(memory.clone()).puts(puts).gets(gets).lists(lists);
            let store = manifests(faulty);
            let (old, new) = tokio::join!(
                lead(store.clone(), term(1, 0), 1, first),
                lead(store.clone(), term(2, 0), 2, second),
            );
            let store = manifests(memory);
            let newest = store.newest().await.unwrap().map_or(0, |(number, _)| number);
            let mut before: Option<Manifest> = None;
            let mut ids = HashSet::new();
            for number in 1..=newest {
                let manifest = store.read(number).await.unwrap().expect("no number is missing");
                check::commit(before.as_ref(), &manifest).unwrap();
                assert!(ids.insert(manifest.write_id));
                before = Some(manifest);
            }
            for told in old.into_iter().chain(new) {
                match told {
                    Told::Committed { number, write_id } => {
                        let manifest = store.read(number).await.unwrap().unwrap();
                        assert_eq!(manifest.write_id, write_id);
                    }
                    Told::Refused { write_id } => assert!(!ids.contains(&write_id)),
                    Told::Open => {}
                }
            }
        });
    }
}
