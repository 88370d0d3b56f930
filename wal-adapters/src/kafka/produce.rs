//! Appends: a frame goes into a producer's queue at once and is answered when Kafka has settled it.
//!
//! 1. Room is taken first: a full queue refuses, it never waits.
//! 2. All frames of a region go through one producer, one request at a time, so that offsets rise in
//!    the order of the calls.
//! 3. What is answered after a frame was queued is `At`, `Somewhere` or `Unknown`, never `Refused`: a
//!    request before the one that failed may have landed. The exception is a region that is gone.
//! 4. A producer that has failed for good is replaced; what it had in flight is of unknown outcome.

use std::sync::Arc;

use parking_lot::RwLock;
use rdkafka::config::FromClientConfigAndContext;
use rdkafka::error::{KafkaError, KafkaResult, RDKafkaErrorCode};
use rdkafka::message::{DeliveryResult, Message};
use rdkafka::producer::{BaseRecord, Producer, ProducerContext, ThreadedProducer};
use tokio::sync::oneshot;

use super::clients::{ANSWER_WITHIN, Callbacks, Errand, Signals, refusal};
use super::region::Known;
use super::settings::KafkaSettings;
use crate::load::Permit;
use crate::{Offset, WalError};

/// What became of a frame that was queued.
#[derive(Debug)]
pub(super) enum Delivered {
    At(Offset),
    /// Durable as Kafka says, which does not say where.
    Somewhere,
    /// There is no such topic, as far as one broker knows.
    Gone,
    Failed(WalError),
}

/// A frame in a producer's queue.
pub(super) struct Waiting {
    pub(super) region: Arc<Known>,
    pub(super) answer: oneshot::Sender<Delivered>,
    /// Given back when the frame is settled.
    pub(super) permit: Permit,
}

impl ProducerContext for Callbacks {
    type DeliveryOpaque = Box<Waiting>;

    fn delivery(&self, result: &DeliveryResult<'_>, waiting: Box<Waiting>) {
        let delivered = match result {
            Ok(message) => placed(message.offset()),
            Err((error, _)) => failed(error.rdkafka_error_code()),
        };
        if let Delivered::At(at) = delivered {
            waiting.region.saw(at + 1);
        }
        drop(waiting.permit);
        // Who dropped the future does not want to know.
        let _ = waiting.answer.send(delivered);
    }
}

/// A success: without an offset where the broker had it from an earlier try, or the library believes
/// that it had.
fn placed(offset: i64) -> Delivered {
    match Offset::try_from(offset) {
        Ok(at) => Delivered::At(at),
        Err(_) => Delivered::Somewhere,
    }
}

fn failed(code: Option<RDKafkaErrorCode>) -> Delivered {
    match code.map(refusal) {
        Some(WalError::Missing) => Delivered::Gone,
        Some(error) => Delivered::Failed(error),
        None => Delivered::Failed(WalError::Unavailable),
    }
}

type Queue = ThreadedProducer<Callbacks>;

/// One producer, and those that come after it when it fails for good.
pub(super) struct Slot {
    index: usize,
    /// `None` while it is replaced, and once closed. Only the keeper writes, and drops what it took
    /// out behind the lock.
    current: RwLock<Option<Current>>,
}

struct Current {
    queue: Queue,
    generation: u64,
}

impl Slot {
    pub(super) fn new(
        index: usize,
        settings: &KafkaSettings,
        signals: &Arc<Signals>,
    ) -> KafkaResult<Self> {
        let current = Current {
            queue: queue(index, 0, settings, signals)?,
            generation: 0,
        };
        Ok(Self {
            index,
            current: RwLock::new(Some(current)),
        })
    }

    /// Queues bytes for a topic; never blocks.
    ///
    /// * errors: the frame is in no queue, and why.
    pub(super) fn send(
        &self,
        topic: &str,
        bytes: &[u8],
        waiting: Waiting,
        signals: &Signals,
    ) -> Result<(), WalError> {
        let current = self.current.read();
        let Some(Current { queue, generation }) = &*current else {
            return Err(WalError::Unavailable);
        };
        let record: BaseRecord<'_, [u8], [u8], Box<Waiting>> =
            BaseRecord::with_opaque_to(topic, Box::new(waiting));
        let record = record.partition(0).payload(bytes);
        let Err((error, _record)) = queue.send(record) else {
            return Ok(());
        };
        let (slot, generation) = (self.index, *generation);
        drop(current);
        Err(unsent(&error, || {
            let _ = signals.send(Errand::Replace { slot, generation });
        }))
    }

    /// Has the producer learn who leads the topic, so that a first append does not wait for that.
    /// Blocks.
    pub(super) fn warm(&self, topic: &str) {
        if let Some(current) = &*self.current.read() {
            let client = current.queue.client();
            if let Err(error) = client.fetch_metadata(Some(topic), ANSWER_WITHIN) {
                tracing::debug!(%error, topic, "a producer does not know its topic yet");
            }
        }
    }

    /// Replaces the producer of that generation, or one that is missing. Blocks for up to a second.
    pub(super) fn replace(
        &self,
        generation: Option<u64>,
        settings: &KafkaSettings,
        signals: &Arc<Signals>,
    ) {
        let last = self
            .current
            .read()
            .as_ref()
            .map(|current| current.generation);
        if last != generation {
            return;
        }
        let next = generation.map_or(0, |generation| generation + 1);
        let fresh = queue(self.index, next, settings, signals);
        let fresh = fresh.map(|queue| Current {
            queue,
            generation: next,
        });
        let fresh = fresh.inspect_err(|error| tracing::error!(%error, "no Kafka producer"));
        let failed = std::mem::replace(&mut *self.current.write(), fresh.ok());
        // What it still has is purged, and answered as of unknown outcome.
        drop(failed);
    }

    /// Takes the producer out and ends it. Blocks for up to a second.
    pub(super) fn close(&self) {
        let taken = self.current.write().take();
        drop(taken);
    }
}

fn queue(
    index: usize,
    generation: u64,
    settings: &KafkaSettings,
    signals: &Arc<Signals>,
) -> KafkaResult<Queue> {
    let callbacks = Callbacks {
        signals: signals.clone(),
        producer: Some((index, generation)),
    };
    Queue::from_config_and_context(&settings.producer(), callbacks)
}

/// Why a frame was not taken into a producer's queue.
fn unsent(error: &KafkaError, dead: impl FnOnce()) -> WalError {
    match error.rdkafka_error_code() {
        Some(RDKafkaErrorCode::QueueFull) => WalError::Busy,
        Some(RDKafkaErrorCode::MessageSizeTooLarge) => WalError::TooLarge,
        Some(RDKafkaErrorCode::Fatal) => {
            dead();
            WalError::Unavailable
        }
        Some(code) => refusal(code),
        None => WalError::Unavailable,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_success_without_a_place_is_only_a_claim() {
        assert!(matches!(placed(0), Delivered::At(0)));
        assert!(matches!(placed(7), Delivered::At(7)));
        for nowhere in [-1, -1001] {
            assert!(matches!(placed(nowhere), Delivered::Somewhere));
        }
    }

    #[test]
    fn a_failure_is_unknown_unless_the_topic_is_gone() {
        use RDKafkaErrorCode as Code;
        for code in [
            Code::MessageTimedOut,
            Code::PurgeInflight,
            Code::PurgeQueue,
            Code::Fatal,
        ] {
            let told = failed(Some(code));
            assert!(matches!(told, Delivered::Failed(WalError::Unavailable)));
        }
        assert!(matches!(failed(Some(Code::UnknownTopic)), Delivered::Gone));
        let told = failed(Some(Code::TopicAuthorizationFailed));
        assert!(matches!(
            told,
            Delivered::Failed(WalError::Misconfigured(_))
        ));
    }

    #[test]
    fn what_is_not_queued_says_why_and_a_dead_producer_is_reported() {
        use RDKafkaErrorCode as Code;
        let told = |code| {
            let mut dead = false;
            let error = unsent(&KafkaError::MessageProduction(code), || dead = true);
            (error, dead)
        };
        assert!(matches!(told(Code::QueueFull), (WalError::Busy, false)));
        assert!(matches!(
            told(Code::MessageSizeTooLarge),
            (WalError::TooLarge, false)
        ));
        assert!(matches!(
            told(Code::UnknownTopic),
            (WalError::Missing, false)
        ));
        assert!(matches!(told(Code::Fatal), (WalError::Unavailable, true)));
    }
}
