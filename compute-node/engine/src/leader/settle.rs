//! Everybody who waits is answered, as exactly as can be known: at the end of the appending task, and
//! while the log is silent.
//!
//! * Never sent: rejected.
//! * In flight, and a claim of a higher term counts: rejected. Everything below that claim is
//!   accounted, so what is still in flight lies nowhere where it counts.
//! * In flight otherwise: unknown. While the task goes on such a frame is settled later, for whoever
//!   asks again under the same batch id.
//!
//! Never here: when the task ends.

use std::mem;
use std::sync::Arc;

use auxo_wal_adapters::WalError;
use tokio::time::Instant;

use super::{Command, Ended, Leader, READ_BYTES, SILENCE, Submitted};
use crate::claim::PAUSE;
use crate::outcome::WriteError;

impl Leader {
    /// Reads up to the successor's claim, so that frames in flight are settled by it; as far as
    /// the log still has them, and no longer than callers wait.
    pub(super) async fn read_to_the_claim(&mut self) {
        let deadline = Instant::now() + self.parts.settings.patience();
        let region = Arc::clone(&self.parts.region);
        while !self.sent.is_empty() && !self.is_decided() {
            let read = region.read(self.state.next(), READ_BYTES, PAUSE);
            let Ok(read) = tokio::time::timeout_at(deadline, read).await else {
                return;
            };
            match read {
                Ok(chunk) => {
                    for (offset, frame) in chunk.frames {
                        if self.account(offset, &frame).is_err() {
                            return;
                        }
                    }
                    self.state.skip_to(chunk.next);
                }
                Err(WalError::OutOfRange { .. }) => return,
                Err(error) if error.parks() => return,
                Err(_) => tokio::time::sleep(PAUSE).await,
            }
            if Instant::now() > deadline {
                return;
            }
        }
    }

    /// The log has failed to answer: once it has for [`SILENCE`], whoever waits for it is told.
    pub(super) fn unanswered(&mut self, error: &WalError) {
        let since = *self.silent_since.get_or_insert_with(Instant::now);
        if since.elapsed() < SILENCE {
            return;
        }
        let refused = WriteError::Refused(error.to_string());
        self.refuse_waiting(&refused);
        for barrier in self.barriers.drain(..) {
            let _ = barrier.reply.send(Err(refused.clone()));
        }
        // They stay joined: a copy of a batch in flight must not be sent beside it.
        let joined = self
            .joined
            .values_mut()
            .flat_map(|(_, replies)| replies.drain(..));
        let sent = self
            .sent
            .values_mut()
            .flat_map(|sent| sent.replies.drain(..));
        for reply in joined.chain(sent) {
            let _ = reply.send(Err(WriteError::Unknown));
        }
    }

    /// Answers everyone whose request was not sent.
    fn refuse_waiting(&mut self, refused: &WriteError) {
        self.waiting_bytes = 0;
        self.linger_until = None;
        for Submitted { batch, reply, .. } in mem::take(&mut self.waiting) {
            let ids = super::delivery::ids_of(std::slice::from_ref(&batch));
            self.answer_ids(&ids, &Err(refused.clone()));
            let _ = reply.send(Err(refused.clone()));
        }
    }

    /// Whether nothing that this leader has in flight can count any more.
    fn is_decided(&self) -> bool {
        let cur = self.state.acceptance.cur();
        cur.term > self.term || cur.sealed
    }

    /// Answers everyone who still waits.
    pub(super) fn settle_rest(&mut self, ended: &Ended) {
        let shard = self.id.shard;
        let rejected = match ended {
            Ended::Closed => WriteError::Closed(shard),
            Ended::Fenced(_) => WriteError::NotLeader(shard),
            Ended::Parked(why) => WriteError::Parked(why.clone()),
        };
        let in_flight = match self.is_decided() {
            true => rejected.clone(),
            false => WriteError::Unknown,
        };
        for (_, sent) in mem::take(&mut self.sent) {
            self.answer(sent, Err(in_flight.clone()));
        }
        self.refuse_waiting(&rejected);
        for barrier in self.barriers.drain(..) {
            let _ = barrier.reply.send(Err(rejected.clone()));
        }
        self.commands.close();
        while let Ok(command) = self.commands.try_recv() {
            match command {
                Command::Write(submitted) => {
                    let _ = submitted.reply.send(Err(rejected.clone()));
                }
                Command::Barrier(reply) => {
                    let _ = reply.send(Err(rejected.clone()));
                }
                Command::Cut(_) | Command::Mark(_) | Command::Deposed(_) | Command::Close(_) => {}
            }
        }
    }
}
