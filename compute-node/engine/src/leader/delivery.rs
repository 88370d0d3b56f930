//! What the log says of frames: each is judged in its place, whoever waits for it is told.
//!
//! ```text
//! At(o), o ≥ next → read back [next, o), then the own frame at o
//! At(o), o < next → settled by an earlier read-back; if not, the log broke its contract: park
//! Somewhere       → read back up to an end asked for after the delivery; not there → claim again
//! Refused         → never in the log: rejected
//! Unknown         → claim again
//! ```
//! Never here: an ack for a frame that VALID has not accepted.

use std::sync::Arc;

use auxo_proto::ids::{BatchId, TenantId};
use auxo_wal_adapters::{AppendError, Chunk, Frame, FrameKind, Offset, Placed, WalError};
use tokio::time::Instant;

use super::{Delivered, Ended, LOOK, Leader, READ_BYTES, Sent};
use crate::claim::PAUSE;
use crate::outcome::{WriteError, Written};
use crate::state::Fed;

impl Leader {
    pub(super) async fn deliver(&mut self, (n, result): Delivered) -> Result<(), Ended> {
        match result {
            Ok(Placed::At(offset)) => self.delivered_at(n, offset).await,
            Ok(Placed::Somewhere) => self.find(n).await,
            Err(AppendError::Refused(error)) => self.refused(n, &error),
            Err(AppendError::Unknown(error)) => {
                tracing::warn!(shard = %self.id.shard, term = %self.term, %error, "append of unknown outcome");
                self.reclaim().await
            }
        }
    }

    async fn delivered_at(&mut self, n: u64, offset: Offset) -> Result<(), Ended> {
        let next = self.state.next();
        if offset < next {
            return match self.sent.contains_key(&n) {
                false => Ok(()),
                true => Err(Ended::Parked(format!(
                    "frame {n} was placed at {offset}, below {next}, where it was not found"
                ))),
            };
        }
        self.read_back(offset).await?;
        match self.sent.get(&n).map(|sent| sent.frame.clone()) {
            Some(frame) => self.account(offset, &frame),
            // A copy of it was found below.
            None => Ok(()),
        }
    }

    /// A delivery that names no place: believed only once the frame is read back.
    async fn find(&mut self, n: u64) -> Result<(), Ended> {
        let end = self.ask_end().await?;
        self.read_back(end).await?;
        match self.sent.contains_key(&n) {
            true => self.reclaim().await,
            false => Ok(()),
        }
    }

    /// The frame was never in the log. Whether it is worth trying again is for the caller to say.
    fn refused(&mut self, n: u64, error: &WalError) -> Result<(), Ended> {
        if let Some(sent) = self.sent.remove(&n) {
            self.answer(sent, Err(WriteError::Refused(error.to_string())));
        }
        if error.parks() {
            return Err(Ended::Parked(error.to_string()));
        }
        self.unanswered(error);
        self.marks_from = Some(Instant::now() + PAUSE);
        Ok(())
    }

    /// Looks whether the log went on without this leader.
    pub(super) async fn look(&mut self) -> Result<(), Ended> {
        self.look_at = Instant::now() + LOOK;
        if !self.sent.is_empty() {
            return Ok(());
        }
        let region = Arc::clone(&self.parts.region);
        match self.meanwhile(async move { region.end().await }).await? {
            Ok(end) => {
                self.silent_since = None;
                self.read_back(end.offset).await
            }
            Err(error) if error.parks() => Err(Ended::Parked(error.to_string())),
            Err(_) => Ok(()),
        }
    }

    /// Reads and accounts [next, until): the fence, but for a build that is to show what it is for.
    async fn read_back(&mut self, until: Offset) -> Result<(), Ended> {
        if crate::UNFENCED {
            return Ok(());
        }
        while self.state.next() < until {
            let chunk = self.read_below(until).await?;
            for (offset, frame) in chunk.frames {
                if offset >= until {
                    break;
                }
                self.account(offset, &frame)?;
            }
            self.state.skip_to(chunk.next.min(until));
        }
        Ok(())
    }

    /// Reads from `next` on until the log gives something, which it has up to `until`.
    ///
    /// * errors: parked when the log goes on saying that nothing is there; what a cut above `next`
    ///   means.
    pub(super) async fn read_below(&mut self, until: Offset) -> Result<Chunk, Ended> {
        let from = self.state.next();
        let mut empty_since = None;
        loop {
            let region = Arc::clone(&self.parts.region);
            let read = async move { region.read(from, READ_BYTES, PAUSE).await };
            match self.meanwhile(read).await? {
                Ok(chunk) if chunk.next > from => return Ok(chunk),
                Ok(_) => {
                    let since = *empty_since.get_or_insert_with(Instant::now);
                    if since.elapsed() > self.parts.settings.patience() {
                        return Err(Ended::Parked(format!(
                            "offset {from} is below {until} but not there"
                        )));
                    }
                    self.meanwhile(tokio::time::sleep(PAUSE)).await?;
                }
                Err(WalError::OutOfRange { start }) => return Err(self.cut_off(start).await),
                Err(error) => {
                    self.endure(&error).await?;
                    empty_since = None;
                }
            }
        }
    }

    /// The end of the log, asked for until it answers.
    pub(super) async fn ask_end(&mut self) -> Result<Offset, Ended> {
        loop {
            let region = Arc::clone(&self.parts.region);
            match self.meanwhile(async move { region.end().await }).await? {
                Ok(end) => return Ok(end.offset),
                Err(error) => self.endure(&error).await?,
            }
        }
    }

    /// Pauses before the log is asked again, unless it cannot be followed any more.
    pub(super) async fn endure(&mut self, error: &WalError) -> Result<(), Ended> {
        if error.parks() {
            return Err(Ended::Parked(error.to_string()));
        }
        tracing::debug!(shard = %self.id.shard, term = %self.term, %error, "log does not answer, asked again");
        self.unanswered(error);
        self.meanwhile(tokio::time::sleep(PAUSE)).await
    }

    /// Judges one frame of the log in its place and tells whoever waits for it.
    ///
    /// * errors: fenced by a claim of a higher term, after which nothing of this leader counts;
    ///   parked when the frame does not continue the log.
    pub(super) fn account(&mut self, offset: Offset, frame: &Frame) -> Result<(), Ended> {
        let own = frame.writer == self.writer && frame.kind != FrameKind::Claim;
        let mut sent = match own {
            true => self.sent.remove(&frame.n),
            false => None,
        };
        let batches = sent.as_mut().map(|sent| std::mem::take(&mut sent.batches));
        let ids = ids_of(batches.as_deref().unwrap_or_default());
        let fed = self.state.feed(offset, frame, batches);
        if let Some(sent) = sent {
            let seq = self.state.current.get().seq(offset);
            let (first, joined) = match fed {
                Ok(Fed::Applied) => (written(seq, false), written(seq, true)),
                // A second place of the frame: it was left out in the first one and is in no state.
                Ok(Fed::Skipped | Fed::Claimed) => (left_out(), left_out()),
                Err(_) => (Err(WriteError::Unknown), Err(WriteError::Unknown)),
            };
            self.answer_ids(&ids, &joined);
            sent.tell(&first);
        }
        match fed.map_err(|error| Ended::Parked(error.to_string()))? {
            Fed::Claimed if self.claiming != Some(frame.writer) => {
                return Err(Ended::Fenced(frame.term));
            }
            Fed::Applied if own => self.pass_barriers(frame.n),
            Fed::Claimed | Fed::Skipped | Fed::Applied => {}
        }
        self.silent_since = None;
        self.parts.after_apply();
        Ok(())
    }

    fn pass_barriers(&mut self, n: u64) {
        let passed = self.barriers.extract_if(.., |barrier| barrier.asked_at < n);
        for barrier in passed {
            let _ = barrier.reply.send(Ok(()));
        }
    }

    /// Tells everybody who waits for a frame.
    pub(super) fn answer(&mut self, sent: Sent, answer: Result<Written, WriteError>) {
        self.answer_ids(&ids_of(&sent.batches), &answer);
        sent.tell(&answer);
    }

    /// Tells those who asked for the same batches while they were in flight.
    pub(super) fn answer_ids(
        &mut self,
        ids: &[(TenantId, BatchId)],
        answer: &Result<Written, WriteError>,
    ) {
        for key in ids {
            let joined = self.joined.remove(key);
            for reply in joined.into_iter().flat_map(|(_, replies)| replies) {
                let _ = reply.send(answer.clone());
            }
        }
    }
}

impl Sent {
    fn tell(self, answer: &Result<Written, WriteError>) {
        for reply in self.replies {
            let _ = reply.send(answer.clone());
        }
    }
}

pub(super) fn ids_of(batches: &[crate::payload::Batch]) -> Vec<(TenantId, BatchId)> {
    let ids = batches.iter().map(|batch| Some((batch.tenant, batch.id?)));
    ids.flatten().collect()
}

fn written(seq: auxo_proto::ids::Seq, replayed: bool) -> Result<Written, WriteError> {
    Ok(Written { seq, replayed })
}

fn left_out() -> Result<Written, WriteError> {
    let why = "the record lies in the log where it does not count";
    Err(WriteError::Refused(why.into()))
}
