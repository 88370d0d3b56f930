//! Everything at once, by a seed: writers with and without batch ids, faults of the log, nodes that
//! lose sight of it, takeovers while the deposed go on as zombies, flushes that are dropped, columns that
//! are added. What callers were told is held against every successor, against the zombies, and against two fresh
//! leaders at the end. A failure names its seed.

use std::cell::RefCell;
use std::time::Duration;

use crate::ground::poor_log::Poor;
use crate::ground::told::{Answer, Told, seen, write};
use crate::ground::{Node, REGION, Services, log_end, widened};
use auxo_engine::{OpenError, Settings, Shard};
use auxo_proto::random::Random;
use auxo_proto::schema::MergeMode;
use auxo_wal_adapters::WalError;
use auxo_wal_adapters::memory::{Fault, MemorySettings};
use futures::StreamExt;

const SEEDS: u64 = 200;
const AT_ONCE: usize = 16;
const WRITERS: i64 = 4;
const WRITES: i64 = 25;

#[tokio::test]
async fn whatever_happens_answers_are_true() {
    let storms = futures::stream::iter(1..=SEEDS).map(|seed| async move {
        let ended = tokio::time::timeout(Duration::from_secs(120), storm(seed)).await;
        ended
            .unwrap_or_else(|_| Err("did not end".into()))
            .map_err(|error| format!("seed {seed}: {error}"))
    });
    let ended: Vec<Result<Tally, String>> = storms.buffer_unordered(AT_ONCE).collect().await;
    let failed: Vec<&String> = ended.iter().filter_map(|one| one.as_ref().err()).collect();
    assert!(failed.is_empty(), "{failed:#?}");
    let mut sum = Tally::default();
    for tally in ended.iter().flatten() {
        sum.ok += tally.ok;
        sum.rejected += tally.rejected;
        sum.unknown += tally.unknown;
        sum.reclaims += tally.reclaims;
    }
    let each = [sum.ok, sum.rejected, sum.unknown, sum.reclaims];
    let enough = SEEDS as usize / 4;
    assert!(
        each.iter().all(|count| *count > enough),
        "the storm was too mild: {sum:?}"
    );
}

/// How often callers were told what, and how many leaderships claimed again.
#[derive(Clone, Copy, Debug, Default)]
struct Tally {
    ok: usize,
    rejected: usize,
    unknown: usize,
    reclaims: usize,
}

/// One run.
struct Storm {
    services: Services,
    dice: Random,
    told: RefCell<Told>,
    /// Every node that ever led, with its handle; the last one leads.
    nodes: RefCell<Vec<(Node, Shard)>>,
    writers_left: RefCell<i64>,
}

async fn storm(seed: u64) -> Result<Tally, String> {
    let dice = Random::seeded(seed);
    let services = Services::with_log(MemorySettings {
        linear_end: dice.below(2) == 0,
        ..MemorySettings::default()
    });
    let settings = Settings {
        // Flushes begin by themselves, too.
        flush_bytes: 2_000 + dice.below(20_000),
        compact_every_ms: 20 + dice.below(200),
        patience_ms: 400,
        ..Settings::default()
    };
    let first = services.node_with(seed, settings.clone());
    let shard = first.with_table(1, MergeMode::Append).await;
    let storm = Storm {
        services,
        dice,
        told: RefCell::default(),
        nodes: RefCell::new(vec![(first, shard)]),
        writers_left: RefCell::new(WRITERS),
    };
    tokio::select! {
        ended = storm.blow(seed, &settings) => ended,
        never = storm.pulse() => never,
    }
}

impl Storm {
    async fn blow(&self, seed: u64, settings: &Settings) -> Result<Tally, String> {
        let writers = futures::future::join_all((0..WRITERS).map(|writer| self.write_on(writer)));
        let (_, taken_over, (), flushed, ()) = tokio::join!(
            writers,
            self.take_over(seed, settings),
            self.weather(),
            self.flushes(),
            self.widen(),
        );
        taken_over?;
        flushed?;
        self.calm();
        self.check_for_ever(seed).await
    }

    /// Somebody always asks the service something: a frame that waits to be overtaken lands then.
    async fn pulse<T>(&self) -> T {
        loop {
            log_end(&self.services);
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    fn is_over(&self) -> bool {
        *self.writers_left.borrow() == 0
    }

    async fn pause(&self, ms_max: u64) {
        tokio::time::sleep(Duration::from_millis(self.dice.below(ms_max))).await;
    }

    /// Mostly the leader, sometimes a zombie.
    fn some_shard(&self) -> Shard {
        let nodes = self.nodes.borrow();
        let behind = match self.dice.below(5) {
            0 => self.dice.below(nodes.len() as u64) as usize,
            _ => 0,
        };
        nodes[nodes.len() - 1 - behind].1.clone()
    }

    async fn write_on(&self, writer: i64) {
        for write_of in 0..WRITES {
            let number = 1 + writer * 1_000 + write_of;
            let id = (self.dice.below(2) == 0).then_some(number as u128);
            // A caller that was told `Unknown` sends again if it has an id; two at once may, too.
            for _attempt in 0..4 {
                let answer = match id.is_some() && self.dice.below(4) == 0 {
                    true => {
                        let (one, other) = (self.some_shard(), self.some_shard());
                        let (one, other) =
                            tokio::join!(write(&one, number, id), write(&other, number, id));
                        self.told.borrow_mut().note(number, Answer::of(&other));
                        one
                    }
                    false => write(&self.some_shard(), number, id).await,
                };
                let answer = Answer::of(&answer);
                self.told.borrow_mut().note(number, answer);
                if answer == Answer::Ok || id.is_none() {
                    break;
                }
                self.pause(10).await;
            }
            if self.dice.below(3) == 0 {
                self.pause(20).await;
            }
        }
        *self.writers_left.borrow_mut() -= 1;
    }

    /// Epoch after epoch, at a node of its own or at one that led before.
    async fn take_over(&self, seed: u64, settings: &Settings) -> Result<(), String> {
        for epoch in 2.. {
            self.pause(250).await;
            if self.is_over() {
                break;
            }
            let before = self.told.borrow().acked();
            let nodes = self.nodes.borrow().len() as u64;
            let again = self.dice.below(4) == 0;
            let node = match again {
                true => self.nodes.borrow()[self.dice.below(nodes) as usize]
                    .0
                    .clone(),
                false => self
                    .services
                    .node_with(seed * 100 + epoch, settings.clone()),
            };
            let shard = match node.try_lead(epoch).await {
                Ok(shard) => shard,
                // The node does not see the log; meta would choose again.
                Err(OpenError::Unavailable(_)) => continue,
                Err(error) => return Err(format!("epoch {epoch}: {error}")),
            };
            let there = seen(&node).await;
            before
                .check(&there)
                .map_err(|error| format!("epoch {epoch}: {error}"))?;
            self.nodes.borrow_mut().push((node, shard));
        }
        Ok(())
    }

    /// Faults of the service, and of single nodes' sight of it.
    async fn weather(&self) {
        let wal = &self.services.wal;
        while !self.is_over() {
            let dice = |bound| self.dice.below(bound);
            let node = {
                let nodes = self.nodes.borrow();
                nodes[dice(nodes.len() as u64) as usize].0.clone()
            };
            match dice(18) {
                0 => wal.inject(REGION, Fault::ReplyLost).unwrap(),
                1 => wal.inject(REGION, Fault::FrameLost).unwrap(),
                2 | 3 => {
                    let after = dice(6) as usize;
                    wal.inject(REGION, Fault::Late { after }).unwrap();
                }
                4 => {
                    let after = dice(6) as usize;
                    wal.inject(REGION, Fault::Twice { after }).unwrap();
                }
                5 => wal.inject(REGION, Fault::Overtaken).unwrap(),
                6 => {
                    let width = 1 + dice(5);
                    wal.inject(REGION, Fault::Hole { width }).unwrap();
                }
                7 => wal.inject(REGION, Fault::Somewhere).unwrap(),
                8 => wal.inject(REGION, Fault::NotSomewhere).unwrap(),
                9 => wal.inject(REGION, Fault::Busy).unwrap(),
                10 => wal.inject(REGION, Fault::Unavailable).unwrap(),
                11 => {
                    wal.stall(REGION, true).unwrap();
                    self.pause(30).await;
                    wal.stall(REGION, false).unwrap();
                }
                12 => wal.land_late(REGION).unwrap(),
                13 => node.log.reads([Poor::Fails(WalError::Busy), Poor::Empty]),
                14 => node.log.ends([Poor::Fails(WalError::Unavailable)]),
                15 => {
                    node.log.hold_answers(true);
                    self.pause(100).await;
                    node.log.hold_answers(false);
                }
                16 => {
                    node.log.away(true);
                    self.pause(100).await;
                    node.log.away(false);
                }
                _ => {
                    // Only where an end is not linear may it be frozen.
                    let frozen = wal.freeze_end(REGION, true).is_ok();
                    self.pause(100).await;
                    if frozen {
                        wal.freeze_end(REGION, false).unwrap();
                    }
                }
            }
            self.pause(15).await;
        }
    }

    /// Columns are added, at the leader or in vain at a zombie.
    async fn widen(&self) {
        for added in 1.. {
            self.pause(40).await;
            if self.is_over() {
                break;
            }
            let wider = widened(MergeMode::Append, added);
            let _in_vain = self.some_shard().create_tablets(vec![wider]).await;
        }
    }

    /// Flushes of leaders and zombies, some dropped half-way, some while manifests are slow. None may
    /// come to where trying again is in vain.
    async fn flushes(&self) -> Result<(), String> {
        while !self.is_over() {
            for (_, shard) in self.nodes.borrow().iter() {
                if let Some(why) = shard.status().flush_refused {
                    return Err(why);
                }
            }
            self.pause(60).await;
            let shard = self.some_shard();
            let slow = self.dice.below(3) == 0;
            self.services.store.hold_manifests(slow);
            let patience = Duration::from_millis(1 + self.dice.below(40));
            let _dropped = tokio::time::timeout(patience, shard.flush()).await;
            self.services.store.hold_manifests(false);
        }
        Ok(())
    }

    fn calm(&self) {
        let wal = &self.services.wal;
        wal.stall(REGION, false).unwrap();
        for (node, _) in self.nodes.borrow().iter() {
            node.log.away(false);
            node.log.hold_answers(false);
        }
    }

    async fn check_for_ever(&self, seed: u64) -> Result<Tally, String> {
        let told = self.told.borrow().clone();
        let nodes = std::mem::take(&mut *self.nodes.borrow_mut());
        for epoch in [1_000, 1_001] {
            let next = self.services.node(seed * 10_000 + epoch);
            let shard = next.try_lead(epoch).await;
            let shard = shard.map_err(|error| format!("epoch {epoch}: {error}"))?;
            let there = seen(&next).await;
            self.services.wal.land_late(REGION).unwrap();
            told.check(&there)
                .map_err(|error| format!("epoch {epoch}: {error}"))?;
            for (zombie, _) in &nodes {
                told.check_nothing_rejected(&seen(zombie).await)
                    .map_err(|error| format!("a zombie: {error}"))?;
            }
            shard.flush().await.map_err(|error| error.to_string())?;
            told.check(&seen(&next).await)
                .map_err(|error| format!("epoch {epoch}, flushed: {error}"))?;
            next.end().await;
        }
        let claims = nodes
            .iter()
            .map(|(_, shard)| shard.status().term.inc as usize);
        let reclaims = claims.sum();
        for (node, _) in &nodes {
            node.end().await;
        }
        let count = |answer| {
            told.0
                .values()
                .flatten()
                .filter(|one| **one == answer)
                .count()
        };
        Ok(Tally {
            ok: count(Answer::Ok),
            rejected: count(Answer::Rejected),
            unknown: count(Answer::Unknown),
            reclaims,
        })
    }
}
