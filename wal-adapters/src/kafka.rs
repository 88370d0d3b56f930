//! The WAL in Apache Kafka: a topic of one partition for each region, `auxo.<cluster>.<shard>.<incarnation>`.
//!
//! ```text
//! append ─► room? ─► one of the producers ─► leader, in-sync copies ─► At, Somewhere or Unknown
//! read   ◄─ queue of the partition ◄─ one of the consumers ◄─ leader
//! end, truncate, check ─► asked of the leader, with a time limit
//! ```
//! * What survives what, and why each setting is as it is: docs/kafka.md.
//! * Offsets are Kafka's: they rise, with holes. The end is asked for and not linear: a leader that
//!   was deposed without knowing may answer.
//! * Callbacks of the library run on its threads and only pass on what they were told.
//!
//! Rooms: this file (the service), `settings` (the user's, and every client's), `topic` (a topic's
//! settings and which of them are refused), `clients` (what is asked of Kafka, and whether it can be
//! reached), `keeper` (the thread that looks after them), `produce` (appends), `lease` and `read`
//! (reads), `region` (a handle).
//!
//! Never here: a subscription, a committed offset, a transaction; a blocking call on a thread of the
//! runtime; a topic made by anything but `create` and `check`.

use std::sync::{Arc, mpsc};
use std::thread::JoinHandle;
use std::time::Duration;

use async_trait::async_trait;
use auxo_proto::random::Random;
use parking_lot::Mutex;
use tokio::time::Instant;

use crate::{Durability, Region, RegionId, Wal, WalError};

mod clients;
mod keeper;
mod lease;
mod produce;
mod read;
mod region;
mod settings;
mod topic;

pub use settings::KafkaSettings;

use clients::{Clients, Errand, Signals, blocking};
use region::{KafkaRegion, Known};
use topic::Described;

/// How long a topic that was made or deleted may take until every question shows it.
const SHOWN_WITHIN: Duration = Duration::from_secs(10);

/// Pause between two such questions.
const PAUSE: Duration = Duration::from_millis(20);

/// How often something is asked before a refusal of one broker is believed.
const ASKED: usize = 3;

/// Pause between two such questions.
const ASKED_AGAIN: Duration = Duration::from_millis(200);

/// The WAL of one Kafka cluster.
///
/// * effects: dropping it ends its clients and threads some time later; what was on its way then is of
///   unknown outcome, and handles answer `Unavailable`. [`KafkaWal::close`] waits for that.
pub struct KafkaWal {
    clients: Arc<Clients>,
    keeper: Mutex<Option<JoinHandle<()>>>,
}

impl KafkaWal {
    /// Makes the clients; they connect by themselves.
    ///
    /// * `random`: for what marks a topic made here.
    /// * errors: `Misconfigured` for a setting out of range, a property that is not the user's, or one
    ///   that the library does not know. Whether Kafka can be reached shows at the first question.
    pub async fn open(settings: KafkaSettings, random: Random) -> Result<Self, WalError> {
        settings.check()?;
        blocking(move || {
            let (sender, errands) = mpsc::channel();
            let signals = Arc::new(Signals::new(sender));
            let clients = Arc::new(Clients::new(settings, random, signals)?);
            let keeper = keeper::start(clients.clone(), errands)?;
            Ok(Self {
                clients,
                keeper: Mutex::new(Some(keeper)),
            })
        })
        .await
    }

    /// Ends the clients and their threads. Handles answer `Unavailable` from then on.
    ///
    /// * effects: what was acknowledged is kept with or without a close; may be called again.
    pub async fn close(&self) -> Result<(), WalError> {
        self.end();
        let Some(keeper) = self.keeper.lock().take() else {
            return Ok(());
        };
        blocking(move || {
            let died = |_| WalError::from(std::io::Error::other("the keeper had panicked"));
            keeper.join().map_err(died)
        })
        .await
    }

    fn end(&self) {
        // A keeper that is gone has closed all.
        let _ = self.clients.signals.send(Errand::Close);
    }

    fn topic(&self, region: RegionId) -> String {
        topic::name(&self.clients.settings.cluster, region)
    }

    /// What Kafka says of a topic with settings that are right, and its mark.
    ///
    /// * errors: `Missing`, `Unavailable`, if said again and again, as one broker may lag behind;
    ///   `Misconfigured` naming the first wrong setting.
    async fn right(&self, topic: &str) -> Result<(Described, u64), WalError> {
        let mut asked = 1;
        let (placement, resource) = loop {
            let found = async {
                let placement = self.clients.placement(topic).await?;
                Ok((placement, self.clients.described(topic).await?))
            };
            match found.await {
                Ok(found) => break found,
                Err(WalError::Missing | WalError::Unavailable) if asked < ASKED => asked += 1,
                Err(error) => return Err(error),
            }
            tokio::time::sleep(ASKED_AGAIN).await;
        };
        let described = Described::new(&placement, &resource);
        let wrong = described.wrong(self.clients.settings.allow_weak);
        match (topic::mark_of(&resource), wrong) {
            (Some(mark), None) => Ok((described, mark)),
            (_, Some(wrong)) => Err(WalError::Misconfigured(format!("topic {topic}: {wrong}"))),
            (None, None) => {
                let unseen = format!("topic {topic}: {} is not shown", topic::MARK);
                Err(WalError::Misconfigured(unseen))
            }
        }
    }

    /// Makes a topic and waits until it can be used.
    async fn make(&self, topic: &str) -> Result<(), WalError> {
        let copies = match self.clients.settings.allow_weak {
            true => self.clients.brokers().await?.clamp(1, topic::COPIES),
            false => topic::COPIES,
        };
        self.clients.make_topic(topic, copies).await?;
        let deadline = Instant::now() + SHOWN_WITHIN;
        loop {
            let placed = self.clients.placement(topic).await;
            let used = match placed {
                Ok(_) => self.clients.marks(topic).await.map(drop),
                Err(error) => Err(error),
            };
            match used {
                Err(WalError::Missing | WalError::Unavailable) if Instant::now() < deadline => {
                    tokio::time::sleep(PAUSE).await;
                }
                Err(WalError::Missing) => return Err(WalError::Unavailable),
                done => return done,
            }
        }
    }
}

impl Drop for KafkaWal {
    fn drop(&mut self) {
        self.end();
    }
}

#[async_trait]
impl Wal for KafkaWal {
    async fn check(&self) -> Result<Durability, WalError> {
        self.clients.reachable()?;
        let topic = topic::check_name(&self.clients.settings.cluster);
        let (described, _) = match self.right(&topic).await {
            Err(WalError::Missing) => {
                self.make(&topic).await?;
                self.right(&topic).await?
            }
            found => found?,
        };
        let small = |count: usize| u8::try_from(count).unwrap_or(u8::MAX);
        match described.wrong(false) {
            Some(_weak) => Ok(Durability::Volatile),
            None => Ok(Durability::Replicated {
                copies: small(described.copies),
                min_in_sync: small(described.in_sync()),
            }),
        }
    }

    async fn create(&self, region: RegionId) -> Result<(), WalError> {
        self.clients.reachable()?;
        self.make(&self.topic(region)).await
    }

    async fn open(&self, region: RegionId) -> Result<Arc<dyn Region>, WalError> {
        self.clients.reachable()?;
        let topic = self.topic(region);
        let (_, mark) = self.right(&topic).await?;
        let marks = self.clients.marks(&topic).await?;
        let known = Known::new(region, topic, mark, marks);
        let opened = KafkaRegion::new(self.clients.clone(), known);
        opened.warm().await?;
        Ok(Arc::new(opened))
    }

    async fn remove(&self, region: RegionId) -> Result<(), WalError> {
        self.clients.reachable()?;
        let topic = self.topic(region);
        self.clients.delete_topic(&topic).await?;
        let deadline = Instant::now() + SHOWN_WITHIN;
        loop {
            match self.clients.described(&topic).await {
                Err(WalError::Missing) => return Ok(()),
                _ if Instant::now() >= deadline => return Err(WalError::Unavailable),
                _ => tokio::time::sleep(PAUSE).await,
            }
        }
    }
}
