//! The end of the appending task: everybody who waits is answered, as exactly as can be known.
//!
//! * Never sent: rejected.
//! * In flight, and a claim of a higher term counts: rejected. Everything below that claim is
//!   accounted, so what is still in flight lies nowhere where it counts.
//! * In flight otherwise: unknown.
//!
//! Never here: when the task ends.

use std::sync::Arc;

use auxo_wal_adapters::WalError;
use tokio::time::Instant;

use super::{Command, Ended, Leader, READ_BYTES};
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
        for (_, sent) in std::mem::take(&mut self.sent) {
            self.answer(sent, Err(in_flight.clone()));
        }
        for submitted in std::mem::take(&mut self.waiting) {
            let ids = super::delivery::ids_of(std::slice::from_ref(&submitted.batch));
            self.answer_ids(&ids, &Err(rejected.clone()));
            let _ = submitted.reply.send(Err(rejected.clone()));
        }
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
