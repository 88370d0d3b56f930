//! A real server of buckets: what the manifest protocol needs of it holds, also when it dies or stops
//! in the middle, and a node refuses by name what it cannot use.

#![allow(
    clippy::unwrap_used,
    reason = "functions that tests share, where the lint does not see that they are of tests"
)]

use std::collections::{BTreeMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use auxo_proto::ids::{Seq, Term};
use auxo_proto::random::Random;
use auxo_sst::cache::{BLOCK, CachedStore};
use auxo_sst::manifest::{Floor, Manifest};
use auxo_sst::manifest_store::{CommitError, ManifestStore, ReadError};
use auxo_sst::s3::S3Store;
use auxo_sst::store_check;
use bytes::Bytes;
use futures::TryStreamExt;
use futures::future::join_all;
use integration::servers::s3::{self, Product, S3Server};
use integration::standalone::Setup;
use integration::{binary, disk, wait};
use object_store::path::Path;
use object_store::{ObjectStore, ObjectStoreExt};
use parking_lot::Mutex;
use serde_json::json;
use tokio::task::JoinSet;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

/// Longest time for anything that should happen soon.
const SOON: Duration = Duration::from_secs(60);

/// A server with the bucket `rows`.
async fn server(product: Product) -> S3Server {
    let server = s3::Setup::new(product).start().await.unwrap();
    server.make_bucket("rows").await.unwrap();
    server
}

/// The one of which less is tried on the other, too.
async fn gateway() -> S3Server {
    server(Product::Versitygw).await
}

/// Makes a test of each of these functions on each kind of server.
macro_rules! on_both {
    ($($name:ident)*) => {
        mod versitygw {$(
            #[tokio::test]
            async fn $name() {
                super::$name(super::server(super::Product::Versitygw).await).await;
            }
        )*}

        mod minio {$(
            #[tokio::test]
            async fn $name() {
                super::$name(super::server(super::Product::Minio).await).await;
            }
        )*}
    };
}

on_both! {
    checks_of_several_nodes_at_once_pass_and_leave_nothing
    what_lies_below_the_prefix_is_seen_without_it
    one_of_eight_writers_gets_a_number
    what_was_acknowledged_outlives_a_kill_in_the_middle_and_nothing_is_torn
}

async fn names(store: &dyn ObjectStore) -> Vec<Path> {
    let listed: Vec<_> = store.list(None).try_collect().await.unwrap();
    listed.into_iter().map(|object| object.location).collect()
}

/// Manifests of one shard, seen by a client of their own.
fn manifests(gateway: &S3Server) -> ManifestStore {
    let store = gateway.store("rows/eu").unwrap();
    ManifestStore::new(Arc::new(store), Path::from("7"))
}

/// The state of a shard that has only a claim.
fn content(write_id: u128) -> Manifest {
    Manifest {
        term: Term { epoch: 1, inc: 0 },
        writer: 1,
        write_id,
        incarnation: 5,
        base_seq: Seq(0),
        flushed: 0,
        floor: Floor::default(),
        claim: 0,
        files: Vec::new(),
        tablets: Vec::new(),
        batches: Arc::default(),
        deletes: Vec::new(),
        parents: Vec::new(),
        retired: Vec::new(),
    }
}

/// Numbers 1 to `last` are there, each with an id of its own, and nothing behind them.
async fn is_one_chain(manifests: &ManifestStore, last: u64) -> Vec<u128> {
    let mut ids = Vec::new();
    for number in 1..=last {
        ids.push(manifests.read(number).await.unwrap().unwrap().write_id);
    }
    assert_eq!(manifests.read(last + 1).await.unwrap(), None);
    let distinct: HashSet<_> = ids.iter().collect();
    assert_eq!(distinct.len(), ids.len());
    ids
}

async fn checks_of_several_nodes_at_once_pass_and_leave_nothing(gateway: S3Server) {
    let checked = (0..6).map(|seed| {
        let store = gateway.store("rows/eu").unwrap();
        async move { store_check::check(&store, &Random::seeded(seed), Instant::now() + SOON).await }
    });
    for checked in join_all(checked).await {
        checked.unwrap();
    }
    assert_eq!(names(&gateway.store("rows").unwrap()).await, []);
}

async fn what_lies_below_the_prefix_is_seen_without_it(gateway: S3Server) {
    let (whole, part) = (
        gateway.store("rows").unwrap(),
        gateway.store("rows/eu/a").unwrap(),
    );
    let (one, two) = (Path::from("7/sst/1"), Path::from("7/sst/2"));
    part.put(&one, "first".into()).await.unwrap();
    part.put(&two, "second".into()).await.unwrap();
    whole.put(&Path::from("eu/b"), "x".into()).await.unwrap();
    assert_eq!(names(&part).await, [one.clone(), two.clone()]);
    assert_eq!(names(&whole).await.len(), 3);
    let behind: Vec<_> = part
        .list_with_offset(None, &one)
        .try_collect()
        .await
        .unwrap();
    assert_eq!(behind.len(), 1);
    let middle = part.get_range(&two, 1..4).await.unwrap();
    assert_eq!(middle, Bytes::from_static(b"eco"));
    part.delete(&one).await.unwrap();
    assert_eq!(names(&part).await, [two]);
}

async fn one_of_eight_writers_gets_a_number(gateway: S3Server) {
    let rounds = 20;
    let mut base = None;
    for round in 1..=rounds {
        let contents: Vec<_> = (0..8).map(|writer| content(round * 8 + writer)).collect();
        let told = join_all(contents.iter().map(|content| {
            let manifests = manifests(&gateway);
            let base = base.as_ref().map(|(number, base)| (*number, base));
            async move { manifests.commit(base, content, Instant::now() + SOON).await }
        }));
        let (mut won, mut lost) = (Vec::new(), Vec::new());
        for (content, told) in contents.iter().zip(told.await) {
            match told {
                Ok(number) => won.push((number, content.clone())),
                Err(CommitError::Rebase { number, newer }) => lost.push((number, *newer)),
                Err(error) => panic!("{error}"),
            }
        }
        let [winner] = won.as_slice() else {
            panic!("{} winners in round {round}", won.len());
        };
        assert_eq!(u128::from(winner.0), round);
        assert!(lost.iter().all(|told| told == winner), "{lost:?}");
        base = won.pop();
    }
    is_one_chain(&manifests(&gateway), 20).await;
}

/// Bytes of the object with that name: 64 KiB that no other object has.
fn bytes_of(name: &Path) -> Bytes {
    let seed = crc32c::crc32c(name.as_ref().as_bytes());
    let random = Random::seeded(seed.into());
    let words = (0..8192).flat_map(|_| random.next_u64().to_le_bytes());
    words.collect()
}

/// Puts objects one after the other until told to stop; those that were acknowledged are noted.
async fn put_until(
    store: S3Store,
    task: u32,
    acked: Arc<Mutex<HashSet<Path>>>,
    stop: CancellationToken,
) {
    let mut number = 0_u64;
    while !stop.is_cancelled() {
        let name = Path::from(format!("7/sst/{task}/{number:020}"));
        number += 1;
        if store.put(&name, bytes_of(&name).into()).await.is_ok() {
            acked.lock().insert(name);
        }
    }
}

/// Commits one manifest after the other until told to stop.
///
/// * returns: number and id of each that was committed.
async fn commit_until(manifests: ManifestStore, stop: CancellationToken) -> BTreeMap<u64, u128> {
    let (mut committed, mut base) = (BTreeMap::new(), None);
    while !stop.is_cancelled() {
        let content = content(committed.len() as u128 + 1);
        let before = base.as_ref().map(|(number, base)| (*number, base));
        let told = manifests.commit(before, &content, Instant::now() + SOON);
        let number = told.await.unwrap();
        committed.insert(number, content.write_id);
        base = Some((number, content));
    }
    committed
}

async fn what_was_acknowledged_outlives_a_kill_in_the_middle_and_nothing_is_torn(
    mut gateway: S3Server,
) {
    let (acked, stop) = (
        Arc::<Mutex<HashSet<Path>>>::default(),
        CancellationToken::new(),
    );
    let mut writers = JoinSet::new();
    for task in 0..4 {
        let store = gateway.store("rows/eu").unwrap();
        writers.spawn(put_until(store, task, Arc::clone(&acked), stop.clone()));
    }
    let mut committer = JoinSet::new();
    committer.spawn(commit_until(manifests(&gateway), stop.clone()));
    let more_than = async |count: usize| {
        wait::until("more objects are acknowledged", SOON, || async {
            let found = acked.lock().len();
            anyhow::ensure!(found > count, "{found} of {count}");
            Ok(found)
        })
        .await
        .unwrap()
    };
    let mut known = more_than(20).await;
    for _ in 0..3 {
        gateway.kill().unwrap();
        gateway.restart().unwrap();
        gateway.ready().await.unwrap();
        known = more_than(known + 20).await;
    }
    stop.cancel();
    while let Some(ended) = writers.join_next().await {
        ended.unwrap();
    }
    let committed = committer.join_next().await.unwrap().unwrap();

    let store = gateway.store("rows/eu").unwrap();
    let found = names(&store).await;
    let found: HashSet<_> = found
        .into_iter()
        .filter(|name| name.as_ref().contains("/sst/"))
        .collect();
    let acked = acked.lock().clone();
    assert_eq!(acked.difference(&found).next(), None);
    for name in &found {
        let stored = store.get(name).await.unwrap().bytes().await.unwrap();
        assert!(stored == bytes_of(name), "{name} is torn");
    }
    let ids = is_one_chain(&manifests(&gateway), committed.len() as u64).await;
    assert_eq!(ids, committed.into_values().collect::<Vec<_>>());
}

#[tokio::test]
async fn a_server_that_hangs_costs_time_and_no_doubt() {
    let gateway = gateway().await;
    let manifests = manifests(&gateway);
    let first = content(1);
    let committed = manifests.commit(None, &first, Instant::now() + SOON).await;
    assert_eq!(committed.unwrap(), 1);

    gateway.pause().unwrap();
    let mut impatient = gateway.settings("rows/eu").unwrap();
    impatient.request_time = Duration::from_millis(300);
    let impatient = Arc::new(S3Store::open(&impatient).unwrap());
    let reading = ManifestStore::new(impatient, Path::from("7"));
    assert!(matches!(reading.read(1).await, Err(ReadError::Store(_))));
    let (base, second) = (Some((1, &first)), content(2));
    let deadline = Instant::now() + Duration::from_secs(5);
    let told = manifests.commit(base, &second, deadline).await;
    assert!(
        matches!(told, Err(CommitError::Unknown { number: 2, .. })),
        "{told:?}"
    );

    gateway.resume().unwrap();
    let told = manifests.commit(base, &second, Instant::now() + SOON).await;
    assert_eq!(told.unwrap(), 2);
    assert_eq!(is_one_chain(&manifests, 2).await, [1, 2]);
}

#[tokio::test]
async fn what_was_read_once_is_read_without_the_server() {
    let mut gateway = gateway().await;
    let folder = disk::folder("cache").unwrap();
    let store = Arc::new(gateway.store("rows/eu").unwrap());
    let name = Path::from("7/sst/1.0-1/2-3-01ARZ3NDEKTSV4RRFFQ69G5FAV.parquet");
    let content = Bytes::from(vec![7; 3 * BLOCK as usize + 9]);
    store.put(&name, content.clone().into()).await.unwrap();
    let cache = CachedStore::open(store, folder.path(), 16 * BLOCK).unwrap();
    let (some, rest) = (5..BLOCK + 1, 3 * BLOCK..3 * BLOCK + 9);
    let found = cache.get_range(&name, some.clone()).await.unwrap();
    assert!(found == content.slice(5..BLOCK as usize + 1));
    let found = cache.get_range(&name, rest.clone()).await.unwrap();
    assert!(found == content.slice(3 * BLOCK as usize..));
    gateway.kill().unwrap();
    cache.get_range(&name, some).await.unwrap();
    cache.get_range(&name, rest).await.unwrap();
    assert!(
        cache
            .get_range(&name, 2 * BLOCK..2 * BLOCK + 1)
            .await
            .is_err()
    );
}

/// How many sorted files lie in the bucket.
async fn sorted_files(store: &S3Store) -> usize {
    let names = names(store).await;
    let files = names.iter().filter(|name| name.as_ref().contains("/sst/"));
    files.count()
}

#[tokio::test]
async fn a_node_goes_on_without_its_bucket_up_to_its_bound_and_catches_up() {
    let mut gateway = gateway().await;
    let store = gateway.store("rows/eu").unwrap();
    let folder = disk::folder("away").unwrap();
    let mut setup = Setup::new(&binary::beside().unwrap(), folder.path());
    setup.config = format!(
        "{}[flush]\nage = \"200ms\"\nunflushed_bytes = \"64KiB\"\nunflushed_bytes_max = \"256KiB\"\n",
        gateway.config("rows/eu")
    );
    let mut node = setup.start().await.unwrap();
    let rows = 500;
    let lines = |from: i64| -> String {
        let line = |n: i64| format!("cpu,host=h{} n={n}i {n}\n", n % 5);
        (from..from + rows).map(line).collect()
    };
    let mut acked = 0;
    let answer = node.http.write("main", lines(acked)).await.unwrap();
    assert_eq!(answer.status, 204, "{}", answer.body);
    acked += rows;
    wait::until("a file is written", SOON, || async {
        anyhow::ensure!(sorted_files(&store).await > 0, "none yet");
        Ok(())
    })
    .await
    .unwrap();

    gateway.kill().unwrap();
    let away = acked;
    let refused = loop {
        let answer = node.http.write("main", lines(acked)).await.unwrap();
        if answer.status != 204 {
            break answer;
        }
        acked += rows;
    };
    assert!(acked >= away + 4 * rows, "{acked} rows");
    assert_eq!(refused.status, 503, "{}", refused.body);
    assert!(refused.body.contains("unflushed bytes"), "{}", refused.body);
    assert!(refused.retry_after_s.is_some());

    gateway.restart().unwrap();
    gateway.ready().await.unwrap();
    wait::until("writes are taken again", SOON, || async {
        let answer = node.http.write("main", lines(acked)).await?;
        anyhow::ensure!(answer.status == 204, "{}", answer.body);
        Ok(())
    })
    .await
    .unwrap();
    acked += rows;
    let expected = [[json!(acked), json!(acked - 1)]];
    let count = "SELECT count(*), max(n) FROM cpu";
    assert_eq!(node.http.sql(count).await.unwrap(), expected);
    assert!(node.terminate(SOON).await.unwrap().success());
    let node = setup.start().await.unwrap();
    assert_eq!(node.http.sql(count).await.unwrap(), expected);
}

/// What a node says that does not start with this configuration of its store.
async fn refusal(config: String) -> String {
    let folder = disk::folder("refused").unwrap();
    let mut setup = Setup::new(&binary::beside().unwrap(), folder.path());
    setup.config = config;
    setup.refusal().await.unwrap()
}

#[tokio::test]
async fn a_node_names_what_is_wrong_with_its_bucket() {
    let gateway = gateway().await;
    let said = refusal(gateway.config("nothing/eu")).await;
    let expected = "store.url s3://nothing/eu: the store's bucket is not there: ";
    assert!(said.contains(expected), "{said}");

    let folder = disk::folder("keys").unwrap();
    let keys = folder.path().join("keys");
    std::fs::write(
        &keys,
        "aws_access_key_id = x\naws_secret_access_key = canary\n",
    )
    .unwrap();
    let own = gateway.credentials().display().to_string();
    let others = keys.display().to_string();
    let said = refusal(gateway.config("rows").replace(&own, &others)).await;
    let expected = format!(
        "store.url s3://rows, store.credentials file:{others}: the store refuses the credentials"
    );
    assert!(said.contains(&expected), "{said}");
    assert!(!said.contains("canary"), "{said}");

    let said = refusal(gateway.config("rows").replace("127.0.0.1", "10.0.0.1")).await;
    assert!(
        said.contains("\"store.endpoint\" is http://10.0.0.1:"),
        "{said}"
    );
}
