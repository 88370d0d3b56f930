//! The leading one of three brokers is killed under load, again and again, and once hangs: what was
//! acknowledged is there, and nothing is there twice.

use std::collections::{BTreeMap, VecDeque};
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use auxo_proto::ids::Term;
use auxo_proto::random::Random;
use auxo_wal_adapters::kafka::{KafkaSettings, KafkaWal};
use auxo_wal_adapters::{
    AppendError, Appending, Durability, Frame, FrameKind, Offset, Placed, Region, RegionId, Wal,
};
use integration::wait;
use tokio::time::Instant;

use super::kafka::KafkaAdapter;

/// Appends in flight together.
const WINDOW: usize = 16;

/// Acknowledgements before each kill, and behind it.
const ACKED: usize = 500;

/// Name of the region's topic.
const TOPIC: &str = "auxo.leader.1.1";

/// How long a round may take.
const ROUND_WITHIN: Duration = Duration::from_secs(60);

/// What was seen.
#[derive(Debug, Default)]
pub(super) struct Seen {
    acked: usize,
    unknown: usize,
    refused: usize,
    lost: usize,
    doubled: usize,
    longest_gap: Duration,
}

impl Seen {
    pub(super) fn whole(&self) -> bool {
        self.lost == 0 && self.doubled == 0
    }
}

impl fmt::Display for Seen {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "acked={} lost={} doubled={} unknown={} refused={}, longest pause {:.1?}",
            self.acked, self.lost, self.doubled, self.unknown, self.refused, self.longest_gap
        )
    }
}

/// Appends and keeps account of what is answered.
struct Writer {
    region: Arc<dyn Region>,
    id: RegionId,
    n: u64,
    flight: VecDeque<(Frame, Appending)>,
    acked: Vec<(Offset, Frame)>,
    last_ack: Instant,
    seen: Seen,
}

impl Writer {
    fn send(&mut self) {
        self.n += 1;
        let frame = Frame {
            kind: FrameKind::Rows,
            incarnation: self.id.incarnation,
            term: Term { epoch: 1, inc: 0 },
            writer: 1,
            n: self.n,
            prev: 0,
            prev_n: 0,
            payload: vec![self.n as u8; 1000].into(),
        };
        let appending = self.region.append(frame.clone());
        self.flight.push_back((frame, appending));
    }

    /// Settles the oldest append.
    async fn settle(&mut self) {
        let Some((frame, appending)) = self.flight.pop_front() else {
            return;
        };
        match appending.await {
            Ok(Placed::At(at)) => {
                let gap = self.last_ack.elapsed();
                self.seen.longest_gap = self.seen.longest_gap.max(gap);
                self.last_ack = Instant::now();
                self.seen.acked += 1;
                self.acked.push((at, frame));
            }
            Ok(Placed::Somewhere) | Err(AppendError::Unknown(_)) => self.seen.unknown += 1,
            Err(AppendError::Refused(_)) => {
                self.seen.refused += 1;
                // A service that refuses is not asked all the time.
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        }
    }

    /// Goes on until that many more are acknowledged.
    async fn acknowledge(&mut self, more: usize) -> Result<()> {
        let until = self.seen.acked + more;
        let deadline = Instant::now() + ROUND_WITHIN;
        while self.seen.acked < until {
            while self.flight.len() < WINDOW {
                self.send();
            }
            self.settle().await;
            ensure!(
                Instant::now() < deadline,
                "no acknowledgements: {}",
                self.seen
            );
        }
        Ok(())
    }
}

pub(super) async fn killed(kafka: &KafkaAdapter, rounds: u32) -> Result<Seen> {
    let settings = KafkaSettings {
        bootstrap: kafka.bootstrap().to_owned(),
        cluster: "leader".to_owned(),
        ..KafkaSettings::default()
    };
    let wal = KafkaWal::open(settings, Random::from_system()).await?;
    let replicated = Durability::Replicated {
        copies: 3,
        min_in_sync: 2,
    };
    let found = wal.check().await?;
    ensure!(found == replicated, "three brokers are {found:?}");
    let id = RegionId {
        shard: 1,
        incarnation: 1,
    };
    wal.create(id).await?;
    let mut writer = Writer {
        region: wal.open(id).await?,
        id,
        n: 0,
        flight: VecDeque::new(),
        acked: Vec::new(),
        last_ack: Instant::now(),
        seen: Seen::default(),
    };
    for round in 0..rounds {
        let shown = || format!("round {round}");
        writer.acknowledge(ACKED).await.with_context(shown)?;
        let leader = kafka.kill_leader(TOPIC).await?;
        writer.acknowledge(ACKED).await.with_context(shown)?;
        kafka.restart(leader).await?;
        writer.last_ack = Instant::now();
    }
    // Once it only hangs: its connections stay, and nothing is answered.
    let leader = kafka.pause_leader(TOPIC).await?;
    writer.acknowledge(ACKED).await.context("a leader hangs")?;
    kafka.resume(leader).await?;
    writer.last_ack = Instant::now();
    writer
        .acknowledge(ACKED)
        .await
        .context("a leader is back")?;
    while !writer.flight.is_empty() {
        writer.settle().await;
    }
    let region = &writer.region;
    // While a new leader is chosen nothing is read.
    let there = wait::until("the log is read", ROUND_WITHIN, || read_all(region)).await?;
    let mut seen = writer.seen;
    for (at, frame) in &writer.acked {
        seen.lost += usize::from(there.get(at) != Some(frame));
    }
    let mut numbers: Vec<u64> = there.values().map(|frame| frame.n).collect();
    numbers.sort_unstable();
    seen.doubled = numbers.windows(2).filter(|pair| pair[0] == pair[1]).count();
    wal.close().await?;
    Ok(seen)
}

async fn read_all(region: &Arc<dyn Region>) -> Result<BTreeMap<Offset, Frame>> {
    let (end, mut next) = (region.end().await?.offset, 0);
    let mut frames = BTreeMap::new();
    while next < end {
        let chunk = region.read(next, 1 << 20, Duration::ZERO).await?;
        ensure!(chunk.next > next, "nothing is read at {next} below {end}");
        next = chunk.next;
        frames.extend(chunk.frames);
    }
    Ok(frames)
}
