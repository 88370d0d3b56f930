//! Consumers, and the places in a region that they read on from.
//!
//! 1. A few consumers serve all regions. A reader *leases* a region's partition from one of them:
//!    messages go to a queue of that partition alone, whose bound is the library's.
//! 2. The queue is split off before the partition is assigned, each time, so that no message goes to
//!    the consumer's own queue. One that did would be a hole in the log that nobody sees: it is counted,
//!    and every lease of that consumer is placed anew.
//! 3. A lease is only used at the offset it stands at; anywhere else, and after any error, the
//!    partition is unassigned and assigned again, behind which the library hands out nothing older.
//! 4. A lease that nobody uses goes back, so an idle region holds no place and fetches nothing.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use bytes::Bytes;
use parking_lot::{Mutex, RwLock};
use rdkafka::TopicPartitionList;
use rdkafka::config::FromClientConfigAndContext;
use rdkafka::consumer::base_consumer::PartitionQueue;
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::message::Message;
use tokio::sync::Notify;
use tokio::time::Instant;

use super::clients::{ANSWER_WITHIN, Callbacks, Errand, Signals, unanswered};
use super::settings::KafkaSettings;
use crate::{Frame, Offset, WalError};

/// How long the thread of a consumer waits for an event before it looks whether it is to end.
const POLL: Duration = Duration::from_millis(100);

type Client = BaseConsumer<Callbacks>;

/// One consumer, and the regions that are leased from it.
pub(super) struct Reader {
    /// `None` once closed. Only the keeper writes, and drops what it took out behind the lock.
    client: RwLock<Option<Arc<Client>>>,
    polls: Mutex<Option<JoinHandle<()>>>,
    ends: Arc<AtomicBool>,
    /// Topics that are leased.
    taken: Mutex<BTreeSet<Arc<str>>>,
    /// Messages that came to the consumer's own queue, where none should.
    strays: Arc<AtomicU64>,
    signals: Arc<Signals>,
}

impl Reader {
    pub(super) fn new(
        index: usize,
        settings: &KafkaSettings,
        signals: &Arc<Signals>,
    ) -> Result<Self, WalError> {
        let callbacks = Callbacks {
            signals: signals.clone(),
            producer: None,
        };
        let client = Client::from_config_and_context(&settings.consumer(), callbacks);
        let client = client.map_err(|error| WalError::Misconfigured(error.to_string()))?;
        let client = Arc::new(client);
        let (ends, strays) = (
            Arc::new(AtomicBool::new(false)),
            Arc::new(AtomicU64::new(0)),
        );
        let builder = std::thread::Builder::new().name(format!("wal-kafka-read-{index}"));
        let polls = {
            let (client, ends, strays) = (client.clone(), ends.clone(), strays.clone());
            builder.spawn(move || poll(&client, &ends, &strays))?
        };
        Ok(Self {
            client: RwLock::new(Some(client)),
            polls: Mutex::new(Some(polls)),
            ends,
            taken: Mutex::default(),
            strays,
            signals: signals.clone(),
        })
    }

    /// Leases a topic that nobody has leased from this consumer.
    pub(super) fn lease(self: &Arc<Self>, topic: &Arc<str>) -> Option<Lease> {
        self.taken.lock().insert(topic.clone()).then(|| Lease {
            reader: self.clone(),
            topic: topic.clone(),
            queue: None,
            bell: Arc::default(),
            next: 0,
            placed: None,
            whole: false,
            strays: 0,
            caught_up: false,
            used: Instant::now(),
        })
    }

    /// Whether a lease is out.
    pub(super) fn is_used(&self) -> bool {
        !self.taken.lock().is_empty()
    }

    /// Ends the consumer. Blocks until its threads have ended.
    pub(super) fn close(&self) {
        let client = self.client.write().take();
        self.ends.store(true, Ordering::SeqCst);
        if let Some(polls) = self.polls.lock().take()
            && polls.join().is_err()
        {
            tracing::error!("the thread of a Kafka consumer had panicked");
        }
        drop(client);
    }

    fn unassign(&self, topic: &str) {
        let Some(client) = self.client.read().clone() else {
            return;
        };
        let mut list = TopicPartitionList::new();
        list.add_partition(topic, 0);
        if let Err(error) = client.incremental_unassign(&list) {
            tracing::warn!(%error, topic, "a Kafka consumer keeps a partition");
        }
    }
}

/// Serves the events of a consumer until it ends.
fn poll(client: &Client, ends: &AtomicBool, strays: &AtomicU64) {
    while !ends.load(Ordering::SeqCst) {
        if let Some(Ok(message)) = client.poll(POLL) {
            strays.fetch_add(1, Ordering::SeqCst);
            tracing::error!(topic = message.topic(), "a message went past its reader");
        }
    }
}

/// A place in a region from which one reader reads on.
pub(super) struct Lease {
    reader: Arc<Reader>,
    topic: Arc<str>,
    /// `None` until it is placed.
    queue: Option<PartitionQueue<Callbacks>>,
    /// Rung when something comes into the empty queue.
    pub(super) bell: Arc<Notify>,
    /// Offset of the next frame in the queue, or one before it.
    next: Offset,
    /// When the partition was last assigned.
    placed: Option<Instant>,
    /// Nothing went wrong since then.
    whole: bool,
    /// Strays of the consumer when it was placed.
    strays: u64,
    /// The library said, behind the last frame, that it had reached the end.
    caught_up: bool,
    used: Instant,
}

/// What a look into the queue found.
pub(super) enum Found {
    /// At least one frame, in order; they begin at the lease's place or behind holes.
    Frames(Vec<(Offset, Frame)>),
    Nothing,
    /// The bytes of the next frame are not what was written.
    Corrupt(Offset),
    /// Kafka does not have that place.
    OutOfRange,
    /// There is no such topic, as far as one broker knows.
    Gone,
}

impl Lease {
    /// Offset from which it reads on, if it is placed.
    pub(super) fn stands_at(&self) -> Option<Offset> {
        let unharmed = self.whole && self.strays == self.reader.strays.load(Ordering::SeqCst);
        unharmed.then_some(self.next)
    }

    /// Reads from that offset on; whatever was queued is forgotten. Blocks.
    pub(super) fn place(&mut self, from: Offset) -> Result<(), WalError> {
        let client = self.reader.client.read().clone();
        let client = client.ok_or(WalError::Unavailable)?;
        self.whole = false;
        match self.placed.take() {
            Some(_) => self.reader.unassign(&self.topic),
            // An unassigned partition of a topic that the library has not heard of is forgotten, and
            // with it that its queue was split off.
            None => {
                let asked = client.fetch_metadata(Some(&self.topic), ANSWER_WITHIN);
                asked.map_err(|error| unanswered(&error))?;
            }
        }
        // The old one goes first, as with it goes the bell of the partition.
        self.queue = None;
        let queue = client.split_partition_queue(&self.topic, 0);
        let mut queue = queue.ok_or(WalError::Unavailable)?;
        let rung = self.bell.clone();
        queue.set_nonempty_callback(move || rung.notify_one());
        self.queue = Some(queue);
        let mut list = TopicPartitionList::new();
        let at = rdkafka::Offset::Offset(i64::try_from(from).unwrap_or(i64::MAX));
        let listed = list.add_partition_offset(&self.topic, 0, at);
        listed.map_err(|error| unanswered(&error))?;
        // Before the assignment, so that it precedes every fetch that follows.
        let (placed, strays) = (Instant::now(), self.reader.strays.load(Ordering::SeqCst));
        let assigned = client.incremental_assign(&list);
        assigned.map_err(|error| {
            tracing::warn!(%error, topic = %self.topic, "a Kafka consumer was not placed");
            WalError::Unavailable
        })?;
        (self.placed, self.strays) = (Some(placed), strays);
        (self.next, self.whole, self.caught_up) = (from, true, false);
        Ok(())
    }

    /// Whether all of the log up to the end at that time has been in the queue: the end was reached
    /// by a fetch that began after it.
    pub(super) fn caught_up_since(&self, asked: Instant) -> bool {
        self.caught_up && self.placed.is_some_and(|placed| placed > asked)
    }

    /// Takes frames out of the queue, about `max_bytes` of them; never waits.
    pub(super) fn take(&mut self, max_bytes: usize) -> Found {
        self.used = Instant::now();
        let (mut frames, mut bytes) = (Vec::new(), 0);
        let Some(queue) = &self.queue else {
            return Found::Nothing;
        };
        let stop = loop {
            let message = match queue.poll(Duration::ZERO) {
                None => break Found::Nothing,
                Some(Ok(message)) => message,
                Some(Err(KafkaError::PartitionEOF(_))) => {
                    self.caught_up = true;
                    continue;
                }
                Some(Err(error)) => match stop(error.rdkafka_error_code(), self.next) {
                    Found::Nothing => continue,
                    stop => break stop,
                },
            };
            self.caught_up = false;
            let offset = Offset::try_from(message.offset()).unwrap_or(0);
            // A batch may begin before the place that was asked for.
            if offset < self.next {
                continue;
            }
            let encoded = Bytes::copy_from_slice(message.payload().unwrap_or_default());
            match Frame::decode(&encoded) {
                Ok(frame) if frame.encoded_len() == encoded.len() => {
                    bytes += encoded.len();
                    frames.push((offset, frame));
                    self.next = offset + 1;
                }
                _ => break Found::Corrupt(offset),
            }
            if bytes >= max_bytes {
                break Found::Nothing;
            }
        };
        self.whole &= matches!(stop, Found::Nothing);
        // What stopped it comes again when the next read is placed there.
        match frames.is_empty() {
            true => stop,
            false => Found::Frames(frames),
        }
    }
}

/// What an error in a partition's queue means for whoever reads at `next`.
fn stop(code: Option<RDKafkaErrorCode>, next: Offset) -> Found {
    use RDKafkaErrorCode as Code;
    match code {
        Some(Code::BadMessage | Code::BadCompression | Code::InvalidMessage) => {
            Found::Corrupt(next)
        }
        Some(Code::AutoOffsetReset | Code::OffsetOutOfRange | Code::LogTruncation) => {
            Found::OutOfRange
        }
        Some(
            Code::UnknownTopic
            | Code::UnknownPartition
            | Code::UnknownTopicOrPartition
            | Code::UnknownTopicId,
        ) => Found::Gone,
        // The library tries again by itself.
        _ => Found::Nothing,
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        let released = Released {
            reader: self.reader.clone(),
            topic: self.topic.clone(),
            queue: self.queue.take(),
            placed: self.placed.is_some(),
        };
        // Where the keeper has closed all already, this may end the consumer on this thread.
        drop(self.reader.signals.send(Errand::Release(released)));
    }
}

/// What the keeper takes back.
pub(super) struct Released {
    reader: Arc<Reader>,
    topic: Arc<str>,
    queue: Option<PartitionQueue<Callbacks>>,
    placed: bool,
}

impl Released {
    /// Ends the assignment; then the topic can be leased again. Blocks for moments.
    pub(super) fn release(self) {
        if self.placed {
            self.reader.unassign(&self.topic);
        }
        drop(self.queue);
        self.reader.taken.lock().remove(&self.topic);
        self.reader.signals.freed.notify_waiters();
    }
}

/// Leases of one handle that are not in use.
#[derive(Default)]
pub(super) struct Shelf(Mutex<Vec<Lease>>);

impl Shelf {
    /// The lease that stands at the offset, else any.
    pub(super) fn take(&self, from: Offset) -> Option<Lease> {
        let mut leases = self.0.lock();
        let there = leases
            .iter()
            .position(|lease| lease.stands_at() == Some(from));
        match there {
            Some(index) => Some(leases.swap_remove(index)),
            None => leases.pop(),
        }
    }

    pub(super) fn put(&self, lease: Lease) {
        self.0.lock().push(lease);
    }

    /// Gives back leases that nobody has used for that long.
    pub(super) fn drop_idle(&self, idle: Duration) {
        let mut leases = self.0.lock();
        let used = std::mem::take(&mut *leases);
        let (kept, dropped) = used
            .into_iter()
            .partition(|lease| lease.used.elapsed() < idle);
        *leases = kept;
        drop(leases);
        let dropped: Vec<Lease> = dropped;
        drop(dropped);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn errors_in_a_queue_stop_a_read_or_are_the_librarys_own() {
        use RDKafkaErrorCode as Code;
        assert!(matches!(stop(Some(Code::BadMessage), 7), Found::Corrupt(7)));
        assert!(matches!(
            stop(Some(Code::AutoOffsetReset), 7),
            Found::OutOfRange
        ));
        assert!(matches!(
            stop(Some(Code::LogTruncation), 7),
            Found::OutOfRange
        ));
        assert!(matches!(stop(Some(Code::UnknownTopicId), 7), Found::Gone));
        for own in [Code::BrokerTransportFailure, Code::AllBrokersDown] {
            assert!(matches!(stop(Some(own), 7), Found::Nothing));
        }
    }
}
