//! Nothing live is ever deleted, whatever runs in between; what is dead goes.

use std::collections::BTreeMap;
use std::time::Duration;

use auxo_proto::ids::{TableId, TenantId};
use futures::FutureExt;
use object_store::ObjectStoreExt;
use object_store::memory::InMemory;
use proptest::prelude::*;
use tokio::time::Instant;
use ulid::Ulid;

use super::*;
use crate::faulty::{Fault, Faulty};
use crate::manifest::samples::{bump, file, flush, fresh, term};

const SHARD: ShardId = ShardId(7);
const MINUTE_MS: i64 = 60_000;

fn key(term: Term, number: u64) -> String {
    let ulid = Ulid::from_parts(number, 0);
    names::sst_key(SHARD, term, term.epoch, TenantId(1), TableId(2), ulid)
}

fn listed(key: &str) -> Listed {
    Listed {
        key: key.to_owned(),
        length: 10,
    }
}

#[test]
fn each_reason_to_keep_a_file_keeps_it() {
    let (lower, own, higher) = (term(2, 9), term(3, 1), term(3, 2));
    let keys = [key(lower, 1), key(own, 2), key(higher, 3)];
    let mut objects: Vec<Listed> = keys.iter().map(|key| listed(key)).collect();
    for foreign in [
        "8/sst/2.9-2/1-2-x.parquet",
        "7/sst/2.9-2/deeper/x.parquet",
        "7/sst/readme",
        "7/manifest/00000000000000000001",
        "70/sst/2.9-2/1-2-x.parquet",
    ] {
        objects.push(listed(foreign));
    }
    let none = (HashSet::new(), HashSet::new());
    let known = Known {
        shard: SHARD,
        own_term: own,
        newest_term: own,
        referenced: &none.0,
        in_flight: &none.1,
        retired: &[],
        now_ms: 1_000 * MINUTE_MS,
    };
    let deleted = |known: Known<'_>| -> Vec<String> {
        let dead = deletable(&objects, &known).into_iter();
        dead.map(|object| object.key.clone()).collect()
    };
    assert_eq!(deleted(known), keys[..2]);

    let referenced = HashSet::from([keys[0].as_str()]);
    let referenced = &referenced;
    assert_eq!(
        deleted(Known {
            referenced,
            ..known
        }),
        keys[1..2]
    );
    let in_flight = &HashSet::from([keys[1].clone()]);
    assert_eq!(deleted(Known { in_flight, ..known }), keys[..1]);
    let retired_at = |at_ms| {
        [Retired {
            key: keys[0].clone(),
            length: 10,
            at_ms,
        }]
    };
    let retired = &retired_at(known.now_ms - RETIRED_MS + 1);
    assert_eq!(deleted(Known { retired, ..known }), keys[1..2]);
    let retired = &retired_at(known.now_ms - RETIRED_MS);
    assert_eq!(deleted(Known { retired, ..known }), keys[..2]);
    for own_term in [lower, higher] {
        assert!(deleted(Known { own_term, ..known }).is_empty());
    }
}

/// What a leader, deposed or not, holds in memory.
#[derive(Debug, Default)]
struct Leader {
    term: Term,
    /// Named for a put; whether it landed.
    in_flight: BTreeMap<String, bool>,
    /// How far its sweep has come.
    listed: Option<Vec<Listed>>,
    flight_seen: Option<HashSet<String>>,
    found: Option<Vec<String>>,
}

/// What one manifest says, as far as garbage goes.
#[derive(Clone, Debug, Default)]
struct State {
    term: Term,
    files: BTreeSet<String>,
    retired: Vec<Retired>,
}

/// A store, the chain of one shard, and all who ever led it and do not know better.
#[derive(Debug)]
struct World {
    objects: BTreeSet<String>,
    /// Manifests that were not trimmed, oldest first, never empty.
    kept: Vec<State>,
    leaders: Vec<Leader>,
    now_ms: i64,
    number: u64,
}

#[derive(Clone, Copy, Debug)]
enum Act {
    Name,
    Land,
    Flush,
    Compact,
    Abandon,
    List,
    SeeFlight,
    ReadManifests,
    Delete,
}

#[derive(Clone, Copy, Debug)]
enum Event {
    /// Of the leader that took over that many takeovers ago.
    Do(usize, Act),
    /// A whole sweep of that leader, which nothing interrupts.
    Sweep(usize),
    Takeover,
    Trim,
    Wait(i64),
}

impl World {
    fn new() -> Self {
        let mut world = Self {
            objects: BTreeSet::new(),
            kept: vec![State::default()],
            leaders: Vec::new(),
            now_ms: 0,
            number: 0,
        };
        world.takeover();
        world
    }

    fn takeover(&mut self) {
        let term = term(self.leaders.len() as u64 + 1, 0);
        self.leaders.push(Leader {
            term,
            ..Leader::default()
        });
    }

    fn newest(&self) -> &State {
        self.kept.last().unwrap()
    }

    /// A commit by that leader: a bump when it is its first, else what `change` makes.
    fn commit(&mut self, leader: usize, change: impl FnOnce(&mut State, &mut Leader, i64)) {
        let mut next = self.newest().clone();
        let leader = &mut self.leaders[leader];
        if next.term > leader.term {
            return;
        }
        if next.term < leader.term {
            next.term = leader.term;
        } else {
            change(&mut next, leader, self.now_ms);
        }
        for key in &next.files {
            assert!(self.objects.contains(key), "{key} is live and deleted");
        }
        self.kept.push(next);
    }

    fn act(&mut self, index: usize, act: Act) {
        let leader = &mut self.leaders[index];
        match act {
            Act::Name => {
                self.number += 1;
                leader
                    .in_flight
                    .insert(key(leader.term, self.number), false);
            }
            Act::Land => {
                for (key, landed) in &mut leader.in_flight {
                    self.objects.insert(key.clone());
                    *landed = true;
                }
            }
            Act::Abandon => drop(leader.in_flight.pop_first()),
            Act::Flush => self.commit(index, |next, leader, _| {
                let landed = leader.in_flight.iter().filter(|(_, landed)| **landed);
                let landed: Vec<String> = landed.map(|(key, _)| key.clone()).collect();
                for key in landed {
                    leader.in_flight.remove(&key);
                    next.files.insert(key);
                }
            }),
            Act::Compact => self.commit(index, |next, _, at_ms| {
                if let Some(key) = next.files.pop_first() {
                    let length = 10;
                    next.retired.push(Retired { key, length, at_ms });
                }
            }),
            Act::List => {
                leader.listed = Some(self.objects.iter().map(|key| listed(key)).collect());
                leader.flight_seen = None;
            }
            Act::SeeFlight => {
                if leader.listed.is_some() {
                    leader.flight_seen = Some(leader.in_flight.keys().cloned().collect());
                }
            }
            Act::ReadManifests => {
                let Some(in_flight) = leader.flight_seen.take() else {
                    return;
                };
                let listed = leader.listed.take().unwrap();
                let files = self.kept.iter().flat_map(|state| &state.files);
                let referenced = files.map(String::as_str).collect();
                let newest = self.kept.last().unwrap();
                let known = Known {
                    shard: SHARD,
                    own_term: leader.term,
                    newest_term: newest.term,
                    referenced: &referenced,
                    in_flight: &in_flight,
                    retired: &newest.retired,
                    now_ms: self.now_ms,
                };
                let found = deletable(&listed, &known);
                leader.found = Some(found.into_iter().map(|found| found.key.clone()).collect());
            }
            Act::Delete => {
                for key in leader.found.take().unwrap_or_default() {
                    let named = |state: &State| state.files.contains(&key);
                    assert!(!self.kept.iter().any(named), "{key} is named by a manifest");
                    self.objects.remove(&key);
                }
            }
        }
    }

    fn sweep(&mut self, leader: usize) {
        for act in [Act::List, Act::SeeFlight, Act::ReadManifests, Act::Delete] {
            self.act(leader, act);
        }
    }

    /// Keeps the last three, and what is younger than an hour by luck.
    fn trim(&mut self) {
        let surplus = self.kept.len().saturating_sub(3);
        self.kept.drain(..surplus);
    }

    fn run(&mut self, event: Event) {
        let newest = self.leaders.len() - 1;
        match event {
            Event::Do(ago, act) => self.act(newest.saturating_sub(ago), act),
            Event::Sweep(ago) => self.sweep(newest.saturating_sub(ago)),
            Event::Takeover => self.takeover(),
            Event::Trim => self.trim(),
            Event::Wait(minutes) => self.now_ms += minutes * MINUTE_MS,
        }
    }
}

fn event() -> impl Strategy<Value = Event> {
    let act = prop_oneof![
        1 => Just(Act::Name),
        1 => Just(Act::Land),
        1 => Just(Act::Flush),
        1 => Just(Act::Compact),
        1 => Just(Act::Abandon),
        2 => Just(Act::List),
        2 => Just(Act::SeeFlight),
        2 => Just(Act::ReadManifests),
        2 => Just(Act::Delete),
    ];
    let ago = || prop_oneof![4 => Just(0_usize), 1 => 1..3_usize];
    prop_oneof![
        20 => (ago(), act).prop_map(|(ago, act)| Event::Do(ago, act)),
        2 => ago().prop_map(Event::Sweep),
        1 => Just(Event::Takeover),
        1 => Just(Event::Trim),
        1 => (1..90_i64).prop_map(Event::Wait),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    #[test]
    fn any_history_deletes_nothing_live_and_in_the_end_all_that_is_dead(
        events in proptest::collection::vec(event(), 1..150),
    ) {
        let mut world = World::new();
        for event in events {
            world.run(event);
        }
        world.takeover();
        let last = world.leaders.len() - 1;
        for leader in 0..=last {
            world.act(leader, Act::Land);
        }
        for _ in 0..4 {
            world.act(last, Act::Flush);
        }
        world.now_ms += RETIRED_MS;
        world.trim();
        world.sweep(last);
        prop_assert_eq!(&world.objects, &world.newest().files);
    }
}

#[test]
fn a_thousand_failed_flushes_are_gone_after_one_sweep() {
    let mut world = World::new();
    world.act(0, Act::Flush);
    for _ in 0..1_000 {
        world.act(0, Act::Name);
        world.act(0, Act::Land);
        world.act(0, Act::Abandon);
    }
    assert_eq!(world.objects.len(), 1_000);
    world.sweep(0);
    assert!(world.objects.is_empty());
}

/// A real store with a chain of manifests whose files are there.
struct Bench {
    memory: Arc<InMemory>,
    manifests: ManifestStore,
    newest: (u64, Manifest),
}

impl Bench {
    async fn new() -> Self {
        let memory = Arc::new(InMemory::new());
        let manifests = ManifestStore::new(memory.clone(), names::shard_folder(SHARD));
        let first = fresh(term(1, 0), 1, 0, 1);
        let mut bench = Self {
            memory,
            manifests,
            newest: (0, first.clone()),
        };
        bench.commit(first).await;
        for flushed in [10, 20, 30] {
            let next = flush(&bench.newest.1, flushed, flushed.into());
            bench.commit(next).await;
        }
        bench
    }

    async fn commit(&mut self, next: Manifest) {
        for file in &next.files {
            self.put(&file.key).await;
        }
        let base = (self.newest.0 > 0).then_some((self.newest.0, &self.newest.1));
        let deadline = Instant::now() + Duration::from_secs(60);
        let number = self.manifests.commit(base, &next, deadline).await.unwrap();
        self.newest = (number, next);
    }

    async fn put(&self, key: &str) {
        let name = Path::parse(key).unwrap();
        self.memory.put(&name, "rows".into()).await.unwrap();
    }

    fn sweeper(&self) -> Sweeper {
        Sweeper::new(self.memory.clone(), self.manifests.clone(), SHARD)
    }

    async fn find(&self, sweeper: &mut Sweeper, now_ms: i64) -> Garbage {
        let own = self.newest.1.term;
        sweeper.find(own, HashSet::new, now_ms).await.unwrap()
    }

    /// Retires the oldest file at that time.
    async fn retire(&mut self, write_id: u128, at_ms: i64) -> String {
        let mut next = self.newest.1.clone();
        next.write_id = write_id;
        let file = next.files.remove(0);
        let key = file.key.clone();
        next.retired.push(Retired {
            key: file.key,
            length: file.length,
            at_ms,
        });
        self.commit(next).await;
        key
    }
}

fn found_keys(garbage: &Garbage) -> Vec<&str> {
    let objects = garbage.objects.iter();
    objects.map(|object| object.key.as_str()).collect()
}

#[tokio::test]
async fn orphans_go_and_live_files_stay() {
    let bench = Bench::new().await;
    let own = bench.newest.1.term;
    let orphan = file(own, 1, 99, (0, 0)).key;
    let flying = file(own, 1, 98, (0, 0)).key;
    bench.put(&orphan).await;
    bench.put(&flying).await;
    bench.put("7/sst/1.0-1/unlike/ours").await;
    let mut sweeper = bench.sweeper();
    let in_flight = || HashSet::from([flying.clone()]);
    let garbage = sweeper.find(own, in_flight, 0).await.unwrap();
    assert_eq!(found_keys(&garbage), [orphan.as_str()]);
    assert_eq!(garbage.bytes(), 4);
    assert_eq!(sweeper.delete(&garbage).await.unwrap(), 1);
    assert_eq!(sweeper.delete(&garbage).await.unwrap(), 1);
    let again = sweeper.find(own, in_flight, 0).await.unwrap();
    assert_eq!(again, Garbage::default());
    for file in &bench.newest.1.files {
        let name = Path::parse(&file.key).unwrap();
        bench.memory.head(&name).await.unwrap();
    }
}

#[tokio::test]
async fn what_is_in_flight_is_asked_after_the_list_and_before_the_manifests() {
    let bench = Bench::new().await;
    let own = bench.newest.1.term;
    let next = flush(&bench.newest.1, 40, 40);
    let settled = next.files.last().unwrap().key.clone();
    bench.put(&settled).await;
    let landed = file(own, 1, 99, (0, 0)).key;
    let meanwhile = async {
        bench.put(&landed).await;
        let base = Some((bench.newest.0, &bench.newest.1));
        let deadline = Instant::now() + Duration::from_secs(60);
        bench.manifests.commit(base, &next, deadline).await.unwrap();
    };
    let in_flight = || {
        meanwhile.now_or_never().expect("memory answers at once");
        HashSet::new()
    };
    let mut sweeper = bench.sweeper();
    let garbage = sweeper.find(own, in_flight, 0).await.unwrap();
    assert_eq!(garbage, Garbage::default());
}

#[tokio::test]
async fn a_retired_file_rests_an_hour_and_as_long_as_a_manifest_names_it() {
    let mut bench = Bench::new().await;
    let key = bench.retire(1_000, 0).await;
    let mut sweeper = bench.sweeper();
    let named = bench.find(&mut sweeper, 2 * RETIRED_MS).await;
    assert_eq!(named, Garbage::default());

    for turn in 0..100 {
        let mut next = bench.newest.1.clone();
        next.write_id = 2_000 + turn;
        bench.commit(next).await;
    }
    bench.manifests.trim(i64::MAX).await.unwrap();
    let young = bench.find(&mut sweeper, RETIRED_MS - 1).await;
    assert_eq!(young, Garbage::default());
    let garbage = bench.find(&mut sweeper, RETIRED_MS).await;
    assert_eq!(found_keys(&garbage), [key.as_str()]);
    assert!(garbage.settled.is_empty());
    sweeper.delete(&garbage).await.unwrap();
    let gone = bench.find(&mut sweeper, RETIRED_MS).await;
    assert_eq!((gone.objects, gone.settled), (Vec::new(), vec![key]));
}

#[tokio::test]
async fn only_the_leader_of_the_newest_manifest_finds_anything() {
    let mut bench = Bench::new().await;
    let (old, new) = (bench.newest.1.term, term(2, 0));
    bench.put(&file(old, 1, 99, (0, 0)).key).await;
    let mut sweeper = bench.sweeper();
    let early = sweeper.find(new, HashSet::new, 0).await;
    assert!(matches!(early, Err(GarbageError::NotLeader { newest, .. }) if newest == old));

    let next = bump(&bench.newest.1, new, 2, 50, 5_000);
    bench.commit(next).await;
    let late = sweeper.find(old, HashSet::new, 0).await;
    assert!(matches!(late, Err(GarbageError::NotLeader { newest, .. }) if newest == new));
    let garbage = sweeper.find(new, HashSet::new, 0).await.unwrap();
    assert_eq!(garbage.objects.len(), 1);
}

#[tokio::test]
async fn a_store_that_fails_deletes_nothing() {
    let bench = Bench::new().await;
    bench.put(&file(term(1, 0), 1, 99, (0, 0)).key).await;
    for lists in [vec![Fault::Refused], vec![Fault::None, Fault::Refused]] {
        let faulty = Faulty::new(bench.memory.clone()).lists(lists);
        let faulty: Arc<dyn ObjectStore> = Arc::new(faulty);
        let manifests = ManifestStore::new(faulty.clone(), names::shard_folder(SHARD));
        let mut sweeper = Sweeper::new(faulty, manifests, SHARD);
        let failed = sweeper.find(term(1, 0), HashSet::new, 0).await;
        assert!(matches!(failed, Err(GarbageError::Read(_))));
    }
    let faulty = Faulty::new(bench.memory.clone()).gets(vec![Fault::Refused; 4]);
    let faulty: Arc<dyn ObjectStore> = Arc::new(faulty);
    let manifests = ManifestStore::new(faulty.clone(), names::shard_folder(SHARD));
    let mut sweeper = Sweeper::new(faulty, manifests, SHARD);
    for _ in 0..4 {
        let failed = sweeper.find(term(1, 0), HashSet::new, 0).await;
        assert!(matches!(failed, Err(GarbageError::Read(_))));
    }
    let garbage = sweeper.find(term(1, 0), HashSet::new, 0).await.unwrap();
    assert_eq!(garbage.objects.len(), 1);
}
