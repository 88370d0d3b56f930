//! RECLAIM: a new claim under the same epoch decides every frame of the old writer.
//!
//! 1. Nothing is sent and no commit begins until the new claim counts and is bumped.
//! 2. The claim is appended, and the same one again as long as its fate is unknown: a second copy
//!    counts nowhere.
//! 3. The log is read from `next` until the claim counts, at `c`. Frames of the old writer seen
//!    below `c` are settled on the way; those not seen can never count any more and are rejected.
//! 4. Numbers begin at 1 under the new writer; barriers wait for a frame of the new writer.
//!
//! It ends early only where leadership ends: another claim came first, the log cannot be followed,
//! or the shard is closed meanwhile.
//!
//! Never here: an answer to a waiter before the claim counts.

use std::sync::Arc;

use auxo_wal_adapters::{AppendError, Frame, FrameKind, Offset, Placed};
use futures::stream::FuturesOrdered;

use super::{Ended, Leader};
use crate::claim;
use crate::committer::Own;
use crate::outcome::WriteError;

impl Leader {
    pub(super) async fn reclaim(&mut self) -> Result<(), Ended> {
        self.parts.committer.pause();
        let term = self
            .id
            .next_inc(self.term)
            .map_err(|error| Ended::Parked(format!("next term not stored: {error}")))?;
        let writer = self.id.random.next_u64();
        tracing::info!(shard = %self.id.shard, %term, "claiming again");
        self.claiming = Some(writer);
        let claim_frame = claim::frame(&self.id, term, writer, self.state.next());
        let claim = loop {
            let until = match self.append_claim(&claim_frame).await? {
                // Whoever reads on from `next` never comes across it.
                Placed::At(at) if at < self.state.next() => {
                    return Err(Ended::Parked(format!(
                        "a claim was placed at {at}, below {}: the log has lost something",
                        self.state.next()
                    )));
                }
                Placed::At(at) => at + 1,
                Placed::Somewhere => self.ask_end().await?,
            };
            if let Some(claim) = self.read_until_claimed(writer, until).await? {
                break claim;
            }
            // The service named no place, and there is none.
            self.meanwhile(tokio::time::sleep(claim::PAUSE)).await?;
        };
        self.claiming = None;
        (self.term, self.writer, self.n) = (term, writer, 0);
        self.deliveries = FuturesOrdered::new();
        for (_, sent) in std::mem::take(&mut self.sent) {
            let rejected = WriteError::Refused("the log did not take the record".into());
            self.answer(sent, Err(rejected));
        }
        for barrier in &mut self.barriers {
            barrier.asked_at = 0;
        }
        self.parts.committer.claimed(Own {
            term,
            writer,
            claim,
        });
        Ok(())
    }

    /// Appends the claim until the service says that it is in the log.
    async fn append_claim(&mut self, claim: &Frame) -> Result<Placed, Ended> {
        loop {
            let appending = self.parts.region.append(claim.clone());
            match self.meanwhile(appending).await? {
                Ok(placed) => return Ok(placed),
                Err(AppendError::Refused(error) | AppendError::Unknown(error)) => {
                    self.endure(&error).await?;
                }
            }
        }
    }

    /// Accounts [next, until), or up to and with the claim of `writer`.
    ///
    /// * returns: where that claim counted, `None` if it is not below `until`.
    async fn read_until_claimed(
        &mut self,
        writer: u64,
        until: Offset,
    ) -> Result<Option<Offset>, Ended> {
        while self.state.next() < until {
            let chunk = self.read_below(until).await?;
            for (offset, frame) in chunk.frames {
                self.account(offset, &frame)?;
                if frame.kind == FrameKind::Claim && frame.writer == writer {
                    let cur = self.state.acceptance.cur();
                    return match cur.writer == writer {
                        true => Ok(Some(offset)),
                        false => Err(Ended::Fenced(cur.term)),
                    };
                }
            }
            self.state.skip_to(chunk.next);
        }
        Ok(None)
    }

    /// The log was cut above `next`, which only a successor does that has flushed: its manifest
    /// says so. Frames in flight may lie in what was cut.
    pub(super) async fn cut_off(&mut self, start: Offset) -> Ended {
        loop {
            let parts = Arc::clone(&self.parts);
            let asked = async move { parts.committer.stored_term().await };
            let read = match self.meanwhile(asked).await {
                Ok(read) => read,
                Err(ended) => return ended,
            };
            match read {
                Ok(Some(term)) if term > self.term => return Ended::Fenced(term),
                Ok(_) => {
                    let next = self.state.next();
                    return Ended::Parked(format!(
                        "the log begins at {start}, above {next}, and nobody else leads"
                    ));
                }
                Err(error @ auxo_sst::manifest_store::ReadError::Unreadable { .. }) => {
                    return Ended::Parked(error.to_string());
                }
                Err(error) => {
                    tracing::warn!(shard = %self.id.shard, term = %self.term, %error, "log was cut, manifest not read yet");
                    let pause = tokio::time::sleep(claim::PAUSE);
                    if let Err(ended) = self.meanwhile(pause).await {
                        return ended;
                    }
                }
            }
        }
    }
}
