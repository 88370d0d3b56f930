//! What goes into the log of a shard while nobody can ask its leader: read as any reader of the log
//! would, from when the round began.
//!
//! Never here: a verdict about rows. What is told by a tail shows whether a round was worth anything.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use auxo_proto::ids::Term;
use auxo_wal_adapters::{FrameKind, Offset, Region, RegionId, Wal, WalError};
use parking_lot::Mutex;
use rdkafka::ClientConfig;
use rdkafka::consumer::{BaseConsumer, Consumer};
use tokio::task::JoinSet;

/// What the topics of a cluster begin with; the cluster has the name it has by default.
const PREFIX: &str = "auxo.auxo.";

/// Time for one question of Kafka.
const ANSWER_TIME: Duration = Duration::from_secs(10);

/// Bytes of frames asked for at once, and how long a read waits for the first one.
const READ_BYTES: usize = 4 << 20;
const WAIT: Duration = Duration::from_millis(50);

/// The log of each shard that has one.
///
/// * effects: blocks.
pub(super) fn regions(bootstrap: &str) -> Result<BTreeMap<u64, RegionId>> {
    let client: BaseConsumer = ClientConfig::new()
        .set("bootstrap.servers", bootstrap)
        .create()?;
    let metadata = client.fetch_metadata(None, ANSWER_TIME)?;
    let mut regions = BTreeMap::new();
    for topic in metadata.topics() {
        let name = topic.name().strip_prefix(PREFIX);
        let Some((shard, incarnation)) = name.and_then(|name| name.split_once('.')) else {
            continue;
        };
        let shard = shard.parse().with_context(|| topic.name().to_owned())?;
        let incarnation = u64::from_str_radix(incarnation, 16);
        let incarnation = incarnation.with_context(|| topic.name().to_owned())?;
        regions.insert(shard, RegionId { shard, incarnation });
    }
    Ok(regions)
}

/// What was seen of one log since its tail began.
#[derive(Clone, Debug, Default)]
struct Seen {
    /// First offset it still has.
    start: Offset,
    /// The claims, by their terms, and where they lie.
    claims: BTreeMap<Term, Offset>,
    /// Frames that are no claims, by the offset: the term they were sent under.
    frames: Vec<(Offset, Term)>,
    /// Why nothing more is seen.
    failed: Option<String>,
}

/// A log, and what its reader has seen of it.
type Tail = (Arc<dyn Region>, Arc<Mutex<Seen>>);

/// Readers of some logs; they end with this.
pub(super) struct Tails {
    logs: BTreeMap<u64, Tail>,
    _readers: JoinSet<()>,
}

impl Tails {
    /// Follows the logs of shards from their ends on.
    pub(super) async fn follow(wal: &dyn Wal, regions: &[RegionId]) -> Result<Self> {
        let (mut logs, mut readers) = (BTreeMap::new(), JoinSet::new());
        for &id in regions {
            let region = wal.open(id).await?;
            let from = region.end().await?.offset;
            let seen = Arc::new(Mutex::new(Seen::default()));
            readers.spawn(read(Arc::clone(&region), from, Arc::clone(&seen)));
            logs.insert(id.shard, (region, seen));
        }
        Ok(Self {
            logs,
            _readers: readers,
        })
    }

    /// Where each log ends now.
    pub(super) async fn ends(&self) -> Result<BTreeMap<u64, Offset>> {
        let mut ends = BTreeMap::new();
        for (shard, (region, _)) in &self.logs {
            ends.insert(*shard, region.end().await?.offset);
        }
        Ok(ends)
    }

    /// Whether nothing is left of any log below those offsets.
    pub(super) async fn cut(&self, below: &BTreeMap<u64, Offset>) -> Result<()> {
        for (shard, (region, seen)) in &self.logs {
            // Asking for the end asks for the start as well, which the reader tells then.
            region.end().await?;
            let seen = seen.lock();
            if let Some(why) = &seen.failed {
                bail!("log of shard {shard}: {why}");
            }
            let (start, below) = (seen.start, below.get(shard));
            ensure!(
                Some(&start) >= below,
                "the log of shard {shard} begins at {start}, not behind {below:?}"
            );
        }
        Ok(())
    }

    /// Frames, claims aside, that lie above the first claim since the tails began and were sent under
    /// the term before it, as far as they were seen before they were cut off.
    pub(super) fn late(&self) -> u64 {
        let late = self.logs.values().map(|(_, seen)| {
            let seen = seen.lock();
            let Some((first, claim)) = seen.claims.first_key_value() else {
                return 0;
            };
            let frames = seen.frames.iter();
            let dead = frames.filter(|(offset, term)| term < first && offset > claim);
            dead.count() as u64
        });
        late.sum()
    }
}

async fn read(region: Arc<dyn Region>, mut from: Offset, seen: Arc<Mutex<Seen>>) {
    loop {
        match region.read(from, READ_BYTES, WAIT).await {
            Ok(chunk) => {
                let mut seen = seen.lock();
                seen.start = seen.start.max(chunk.start);
                for (offset, frame) in chunk.frames {
                    match frame.kind {
                        FrameKind::Claim => {
                            seen.claims.entry(frame.term).or_insert(offset);
                        }
                        _ => seen.frames.push((offset, frame.term)),
                    }
                }
                from = chunk.next;
            }
            // The cut was faster.
            Err(WalError::OutOfRange { start }) => {
                let mut seen = seen.lock();
                seen.start = seen.start.max(start);
                from = from.max(start);
            }
            Err(error) if error.parks() => {
                seen.lock().failed = Some(error.to_string());
                return;
            }
            Err(_) => tokio::time::sleep(WAIT).await,
        }
    }
}
