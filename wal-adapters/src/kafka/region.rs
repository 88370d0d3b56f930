//! A handle on one region: what is known of it, appends, its end, truncation.
//!
//! What is known only grows: an end lower than one seen is asked for again, and believed only if the
//! topic's own record says the same after a refresh; then the log has lost something, which stays so
//! for this handle. A topic that is gone, or another one under the same name, is found by its mark:
//! at an error that speaks for it, and every few seconds in passing, and stays so as well.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use futures::FutureExt;
use parking_lot::Mutex;
use tokio::sync::oneshot;
use tokio::time::Instant;

use super::clients::{ANSWER_WITHIN, Clients, Reach, blocking};
use super::lease::Shelf;
use super::produce::{Delivered, Waiting};
use super::topic;
use super::{ASKED, ASKED_AGAIN};
use crate::frame::PAYLOAD_BYTES_MAX;
use crate::load::{Load, Permit};
use crate::{
    AppendError, Appending, Chunk, End, Frame, Offset, Placed, Region, RegionId, WalError,
};

/// How often the mark is compared when nothing speaks against it.
const COMPARE_EVERY: Duration = Duration::from_secs(5);

/// Pause before a question that nobody could answer is asked again.
const LEADER_PAUSE: Duration = Duration::from_millis(50);

/// What one handle knows of its region.
pub(super) struct Known {
    pub(super) id: RegionId,
    pub(super) topic: Arc<str>,
    mark: u64,
    facts: Mutex<Facts>,
}

#[derive(Clone)]
struct Facts {
    start: Offset,
    end: End,
    /// When the mark was last found to be the same.
    compared: Instant,
    /// Why the handle is of no use any more.
    lost: Option<WalError>,
}

impl Known {
    pub(super) fn new(
        id: RegionId,
        topic: String,
        mark: u64,
        marks: (Offset, Offset, Instant),
    ) -> Self {
        let (start, offset, asked) = marks;
        Self {
            id,
            topic: topic.into(),
            mark,
            facts: Mutex::new(Facts {
                start,
                end: End { offset, asked },
                compared: asked,
                lost: None,
            }),
        }
    }

    /// There is something below that end.
    pub(super) fn saw(&self, end: Offset) {
        let mut facts = self.facts.lock();
        facts.end.offset = facts.end.offset.max(end);
    }

    /// Nothing is left below that start.
    fn cut(&self, start: Offset) {
        let mut facts = self.facts.lock();
        facts.start = facts.start.max(start);
    }

    /// Takes in what the leader answered.
    ///
    /// * `had`: the end that was known before the question was sent. What others have learnt while this
    ///   answer was on its way says nothing against it.
    /// * returns: first offset and end as far as they are known now; `None` if the log ends below `had`.
    fn learn(&self, had: Offset, start: Offset, end: End) -> Option<(Offset, End)> {
        if end.offset < had {
            return None;
        }
        let mut facts = self.facts.lock();
        facts.start = facts.start.max(start);
        facts.end.offset = facts.end.offset.max(end.offset);
        facts.end.asked = facts.end.asked.max(end.asked);
        Some((facts.start, facts.end))
    }

    /// When the mark was last found to be the same.
    fn compared(&self) -> Instant {
        self.facts.lock().compared
    }

    /// First offset and end as far as they are known.
    pub(super) fn bounds(&self) -> (Offset, End) {
        let facts = self.facts.lock();
        (facts.start, facts.end)
    }

    /// * errors: why this handle is of no use any more.
    pub(super) fn going(&self) -> Result<(), WalError> {
        match &self.facts.lock().lost {
            Some(why) => Err(why.clone()),
            None => Ok(()),
        }
    }

    /// The first reason stays.
    fn lose(&self, why: WalError) -> WalError {
        tracing::error!(region = %self.id, %why, "a Kafka region is lost to its handle");
        self.facts.lock().lost.get_or_insert(why).clone()
    }
}

/// One handle.
pub(super) struct KafkaRegion {
    pub(super) clients: Arc<Clients>,
    pub(super) known: Arc<Known>,
    pub(super) shelf: Arc<Shelf>,
    load: Arc<Load>,
    /// Which of the producers.
    slot: usize,
}

impl KafkaRegion {
    pub(super) fn new(clients: Arc<Clients>, known: Known) -> Self {
        let settings = &clients.settings;
        let load = Load::new(settings.region_queue_frames, settings.region_queue_bytes);
        let slot = slot(known.id, settings.producers);
        Self {
            load: Arc::new(load),
            slot,
            known: Arc::new(known),
            shelf: Arc::default(),
            clients,
        }
    }

    /// Has the region's producer learn who leads it, so that a first append does not wait for that.
    pub(super) async fn warm(&self) -> Result<(), WalError> {
        let (clients, topic, slot) = (self.clients.clone(), self.known.topic.clone(), self.slot);
        let warm = blocking(move || {
            clients.producers[slot].warm(&topic);
            Ok(())
        });
        self.clients.while_reachable(warm).await
    }

    /// First offset and end, asked now.
    ///
    /// * errors: `Missing`, `Foreign` or `Regressed` once that is confirmed.
    pub(super) async fn ask(&self) -> Result<(Offset, End), WalError> {
        let known = &self.known;
        for attempt in 1..=ASKED {
            known.going()?;
            let had = known.bounds().1.offset;
            let (start, end, asked) = match self.marks().await {
                Ok(marks) => marks,
                Err(WalError::Missing) => {
                    self.compare().await?;
                    return Err(WalError::Unavailable);
                }
                Err(error) => return Err(error),
            };
            if end < had || known.compared().elapsed() >= COMPARE_EVERY {
                self.compare().await?;
            }
            if let Some(bounds) = known.learn(had, start, End { offset: end, asked }) {
                return Ok(bounds);
            }
            self.clients.placement(&known.topic).await?;
            if attempt == ASKED {
                return Err(known.lose(WalError::Regressed { had, now: end }));
            }
            tokio::time::sleep(ASKED_AGAIN).await;
        }
        Err(WalError::Unavailable)
    }

    /// What the leader says, or the one that is chosen meanwhile.
    async fn marks(&self) -> Result<(Offset, Offset, Instant), WalError> {
        let deadline = Instant::now() + ANSWER_WITHIN;
        loop {
            match self.clients.marks(&self.known.topic).await {
                Err(WalError::Unavailable) if Instant::now() < deadline => {
                    self.clients.reachable()?;
                    tokio::time::sleep(LEADER_PAUSE).await;
                }
                answered => return answered,
            }
        }
    }

    /// Whether the topic is still the one this handle was opened on.
    ///
    /// * errors: `Missing` or `Foreign`, for good; `Unavailable`.
    pub(super) async fn compare(&self) -> Result<(), WalError> {
        let known = &self.known;
        for _ in 0..ASKED {
            match self.clients.described(&known.topic).await {
                Err(WalError::Missing) => tokio::time::sleep(ASKED_AGAIN).await,
                Err(_) => return Err(WalError::Unavailable),
                Ok(resource) => {
                    if topic::mark_of(&resource) != Some(known.mark) {
                        return Err(known.lose(WalError::Foreign));
                    }
                    known.facts.lock().compared = Instant::now();
                    return Ok(());
                }
            }
        }
        Err(known.lose(WalError::Missing))
    }

    fn queue(&self, frame: &Frame) -> Result<oneshot::Receiver<Delivered>, WalError> {
        if frame.payload.len() > PAYLOAD_BYTES_MAX {
            return Err(WalError::TooLarge);
        }
        self.known.going()?;
        self.clients.reachable()?;
        let room = Permit::take(&self.load, &self.clients.load, frame.encoded_len());
        let permit = room.ok_or(WalError::Busy)?;
        let (answer, delivered) = oneshot::channel();
        let waiting = Waiting {
            region: self.known.clone(),
            answer,
            permit,
        };
        let (topic, bytes) = (&self.known.topic, frame.encode());
        let slot = &self.clients.producers[self.slot];
        slot.send(topic, &bytes, waiting, &self.clients.signals)?;
        Ok(delivered)
    }
}

/// Spreads regions over producers.
fn slot(id: RegionId, producers: usize) -> usize {
    let mixed = (id.shard ^ id.incarnation).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    ((mixed >> 32) % producers as u64) as usize
}

/// What the writer is told of a frame that was queued.
async fn settle(
    region: KafkaRegion,
    delivered: oneshot::Receiver<Delivered>,
) -> Result<Placed, AppendError> {
    let mut reach = region.clients.reach.subscribe();
    let delivered = tokio::select! {
        biased;
        delivered = delivered => delivered,
        _lost = reach.wait_for(|reach| *reach != Reach::Here) => {
            return Err(AppendError::Unknown(WalError::Unavailable));
        }
    };
    match delivered {
        Ok(Delivered::At(at)) => Ok(Placed::At(at)),
        Ok(Delivered::Somewhere) => Ok(Placed::Somewhere),
        // With its log a frame is gone for good, wherever it had landed.
        Ok(Delivered::Gone) => match region.compare().await {
            Err(gone) if gone.parks() => Err(AppendError::Refused(gone)),
            _ => Err(AppendError::Unknown(WalError::Unavailable)),
        },
        Ok(Delivered::Failed(error)) => Err(AppendError::Unknown(error)),
        Err(_died) => Err(AppendError::Unknown(WalError::Unavailable)),
    }
}

#[async_trait]
impl Region for KafkaRegion {
    fn append(&self, frame: Frame) -> Appending {
        match self.queue(&frame) {
            Ok(delivered) => settle(self.again(), delivered).boxed(),
            // One broker says so; a handle that is lost for good does not get here.
            Err(WalError::Missing) if self.known.going().is_ok() => {
                let region = self.again();
                async move {
                    let compared = region.compare().await;
                    Err(AppendError::Refused(
                        compared.err().unwrap_or(WalError::Unavailable),
                    ))
                }
                .boxed()
            }
            Err(error) => futures::future::ready(Err(AppendError::Refused(error))).boxed(),
        }
    }

    async fn read(
        &self,
        from: Offset,
        max_bytes: usize,
        wait: Duration,
    ) -> Result<Chunk, WalError> {
        let read = self.read_on(from, max_bytes, wait);
        self.clients.while_reachable(read).await
    }

    async fn end(&self) -> Result<End, WalError> {
        self.known.going()?;
        self.clients.reachable()?;
        let (_start, end) = self.ask().await?;
        Ok(end)
    }

    fn end_is_linear(&self) -> bool {
        false
    }

    async fn truncate(&self, below: Offset) -> Result<(), WalError> {
        self.known.going()?;
        self.clients.reachable()?;
        match self.clients.delete_records(&self.known.topic, below).await {
            Ok(start) => {
                self.known.cut(start);
                Ok(())
            }
            Err(WalError::Regressed { had, .. }) => {
                let (_start, end) = self.ask().await?;
                let now = end.offset;
                // The end has grown past the bound since.
                match now < had {
                    true => Err(WalError::Regressed { had, now }),
                    false => Err(WalError::Unavailable),
                }
            }
            Err(WalError::Missing) => {
                self.compare().await?;
                Err(WalError::Unavailable)
            }
            Err(error) => Err(error),
        }
    }
}

impl KafkaRegion {
    /// The same handle, for a future that outlives a borrow of it.
    fn again(&self) -> Self {
        Self {
            clients: self.clients.clone(),
            known: self.known.clone(),
            shelf: self.shelf.clone(),
            load: self.load.clone(),
            slot: self.slot,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_is_measured_by_what_was_known_when_it_was_asked_for() {
        let asked = Instant::now();
        let id = RegionId {
            shard: 1,
            incarnation: 2,
        };
        let known = Known::new(id, "topic".to_owned(), 3, (0, 400, asked));
        let end = |offset| End { offset, asked };
        let had = known.bounds().1.offset;
        // Two questions at once: the answer to the first one comes behind that to the second.
        assert_eq!(known.learn(had, 0, end(473)), Some((0, end(473))));
        assert_eq!(known.learn(had, 0, end(472)), Some((0, end(473))));
        let had = known.bounds().1.offset;
        assert_eq!(known.learn(had, 0, end(472)), None);
        assert_eq!(known.bounds(), (0, end(473)));
    }

    #[test]
    fn regions_are_spread_over_all_producers() {
        let mut used = [0; 4];
        for shard in 0..100 {
            let id = RegionId {
                shard,
                incarnation: shard * 7919,
            };
            used[slot(id, 4)] += 1;
        }
        assert!(
            used.iter().all(|count| (10..40).contains(count)),
            "{used:?}"
        );
    }
}
