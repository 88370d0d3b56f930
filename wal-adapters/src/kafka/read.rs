//! Reads on from an offset.
//!
//! 1. What is known already is answered at once: a place below the start, a handle that is lost.
//! 2. A lease is placed at the offset, unless one stands there. Frames in its queue are the answer.
//! 3. With nothing there the read waits, at most a second at a time; then the leader is asked for the
//!    start and the end. So `wait` may be long, and a leader that hangs is still noticed.
//! 4. A place below the end has a frame, or is followed by a hole up to the end. It is a hole if a fetch
//!    that began after the end was asked for has reached the end without a frame, and the leader is
//!    the same before and behind both: a new one may for a while not show what its predecessor had
//!    acknowledged. Nothing else makes a read skip offsets behind the last frame.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use super::clients::blocking;
use super::lease::{Found, Lease};
use super::region::KafkaRegion;
use crate::{Chunk, Frame, Offset, WalError};

/// Longest wait without a question to the leader.
const PATIENCE: Duration = Duration::from_secs(1);

/// How long a frame that must be there may take to come before the lease is placed anew.
const FETCHED_WITHIN: Duration = Duration::from_millis(300);

/// How long it may take behind that.
const FOUND_WITHIN: Duration = Duration::from_secs(5);

/// How often a lease is placed anew for that.
const TRIES: usize = 4;

/// How long a read waits for another one of the same region to end.
const LEASED_WITHIN: Duration = Duration::from_secs(2);

/// What may be a hole: nothing between a place and the end as the leader said it.
#[derive(Clone, Copy)]
struct Hole {
    until: Offset,
    /// Who said so; the next one may not show all of the log yet.
    leader: i32,
    asked: Instant,
}

impl KafkaRegion {
    pub(super) async fn read_on(
        &self,
        from: Offset,
        max_bytes: usize,
        wait: Duration,
    ) -> Result<Chunk, WalError> {
        self.possible(from)?;
        let deadline = Instant::now() + wait;
        let mut lease = self.lease(from).await?;
        let mut found = lease.take(max_bytes);
        loop {
            match found {
                Found::Frames(frames) => {
                    let next = frames.last().map_or(from, |(offset, _)| offset + 1);
                    self.known.saw(next);
                    self.shelf.put(lease);
                    return Ok(self.chunk(frames, next));
                }
                Found::Corrupt(at) => return Err(WalError::Corrupt { at }),
                Found::Gone => {
                    self.compare().await?;
                    return Err(WalError::Unavailable);
                }
                // The library says it once and is silent then.
                Found::OutOfRange => {
                    self.ask_about(from).await?;
                    lease = place(lease, from).await?;
                }
                Found::Nothing => {}
            }
            let now = Instant::now();
            if now < deadline {
                let patience = deadline.min(now + PATIENCE);
                found = wait_for(&mut lease, max_bytes, patience, None).await;
                if !matches!(found, Found::Nothing) {
                    continue;
                }
            }
            if self.ask_about(from).await? > from {
                return self.fetch(lease, from, max_bytes).await;
            }
            if Instant::now() >= deadline {
                self.shelf.put(lease);
                return Ok(self.chunk(Vec::new(), from));
            }
            found = Found::Nothing;
        }
    }

    /// Reads what must be there: the leader has said that the end lies above `from`.
    async fn fetch(
        &self,
        mut lease: Lease,
        from: Offset,
        max_bytes: usize,
    ) -> Result<Chunk, WalError> {
        let mut within = Instant::now() + FETCHED_WITHIN;
        let mut hole = None;
        for _ in 0..TRIES {
            match wait_for(&mut lease, max_bytes, within, hole).await {
                Found::Frames(frames) => {
                    let next = frames.last().map_or(from, |(offset, _)| offset + 1);
                    self.known.saw(next);
                    self.shelf.put(lease);
                    return Ok(self.chunk(frames, next));
                }
                Found::Corrupt(at) => return Err(WalError::Corrupt { at }),
                Found::Gone => {
                    self.compare().await?;
                    return Err(WalError::Unavailable);
                }
                Found::Nothing | Found::OutOfRange => {}
            }
            if let Some(Hole { until, leader, .. }) =
                hole.take_if(|hole| lease.caught_up_since(hole.asked))
                && self.leader().await? == leader
            {
                return Ok(self.chunk(Vec::new(), until));
            }
            let leader = self.leader().await?;
            let until = self.ask_about(from).await?;
            let asked = Instant::now();
            hole = Some(Hole {
                until,
                leader,
                asked,
            });
            lease = place(lease, from).await?;
            within = Instant::now() + FOUND_WITHIN;
        }
        Err(WalError::Unavailable)
    }

    async fn leader(&self) -> Result<i32, WalError> {
        Ok(self.clients.placement(&self.known.topic).await?.leader)
    }

    fn chunk(&self, frames: Vec<(Offset, Frame)>, next: Offset) -> Chunk {
        let (start, end) = self.known.bounds();
        Chunk {
            frames,
            next,
            start,
            end,
        }
    }

    /// The end, asked now.
    ///
    /// * errors: `OutOfRange` or `Regressed` if `from` is not between the start and the end.
    async fn ask_about(&self, from: Offset) -> Result<Offset, WalError> {
        let (start, end) = self.ask().await?;
        if from < start {
            return Err(WalError::OutOfRange { start });
        }
        if from > end.offset {
            let (had, now) = (from, end.offset);
            return Err(WalError::Regressed { had, now });
        }
        Ok(end.offset)
    }

    fn possible(&self, from: Offset) -> Result<(), WalError> {
        self.known.going()?;
        let (start, _) = self.known.bounds();
        match from < start {
            true => Err(WalError::OutOfRange { start }),
            false => Ok(()),
        }
    }

    /// A lease that stands at the offset.
    async fn lease(&self, from: Offset) -> Result<Lease, WalError> {
        let lease = match self.shelf.take(from) {
            Some(lease) => lease,
            None => self.new_lease().await?,
        };
        match lease.stands_at() == Some(from) {
            true => Ok(lease),
            false => place(lease, from).await,
        }
    }

    async fn new_lease(&self) -> Result<Lease, WalError> {
        let clients = &self.clients;
        let any = async {
            loop {
                let freed = clients.signals.freed.notified();
                let mut freed = std::pin::pin!(freed);
                freed.as_mut().enable();
                // Regions begin at different consumers.
                let first = self.known.id.shard as usize % clients.readers.len();
                let (front, back) = clients.readers.split_at(first);
                for reader in back.iter().chain(front) {
                    if let Some(lease) = reader.lease(&self.known.topic) {
                        return lease;
                    }
                }
                freed.await;
            }
        };
        let lease = tokio::time::timeout(LEASED_WITHIN, any).await;
        let lease = lease.map_err(|_elapsed| WalError::Busy)?;
        let mut shelves = clients.shelves.lock();
        let own = Arc::downgrade(&self.shelf);
        if !shelves.iter().any(|shelf| shelf.ptr_eq(&own)) {
            shelves.push(own);
        }
        Ok(lease)
    }
}

/// Places the lease where it may block; a caller that is gone by then gives it back.
async fn place(mut lease: Lease, from: Offset) -> Result<Lease, WalError> {
    blocking(move || lease.place(from).map(|()| lease)).await
}

/// Looks into the queue whenever it is rung, until there is something or the time has come, or the
/// lease has caught up with what may be a hole.
async fn wait_for(
    lease: &mut Lease,
    max_bytes: usize,
    until: Instant,
    hole: Option<Hole>,
) -> Found {
    loop {
        match lease.take(max_bytes) {
            Found::Nothing => {}
            found => return found,
        }
        if hole.is_some_and(|hole| lease.caught_up_since(hole.asked)) {
            return Found::Nothing;
        }
        let bell = lease.bell.clone();
        if tokio::time::timeout_at(until, bell.notified())
            .await
            .is_err()
        {
            return lease.take(max_bytes);
        }
    }
}
