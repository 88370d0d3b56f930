//! Taking a shard's log over: append a claim, read until it counts.
//!
//! Steps 3 and 4 of TAKEOVER (docs/architecture.md, "Fencing"): the claim is appended, sent again as
//! long as its fate is unknown (a second copy counts nowhere), and everything from where the state
//! stands is fed to VALID until the own claim counts.
//!
//! Never here: where the state comes from, what is served afterwards.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use auxo_proto::ids::{ShardId, Term};
use auxo_proto::random::Random;
use auxo_wal_adapters::{
    AppendError, Frame, FrameKind, Offset, Placed, Region, RegionId, WalError,
};
use bytes::Bytes;
use tokio::time::Instant;

use crate::leader::READ_BYTES;
use crate::local_state::LocalTerms;
use crate::state::{Fed, FeedError, State};

/// Pause before an append or read is tried again.
pub(crate) const PAUSE: Duration = Duration::from_millis(100);

/// Who claims.
#[derive(Clone, Debug)]
pub(crate) struct Identity {
    pub(crate) shard: ShardId,
    pub(crate) region: RegionId,
    pub(crate) terms: LocalTerms,
    pub(crate) random: Random,
}

impl Identity {
    /// The next term under the same epoch, stored before it is returned.
    ///
    /// * effects: blocks on the disk for one sync; taken only when a claim is due.
    pub(crate) fn next_inc(&self, term: Term) -> io::Result<Term> {
        let next = Term {
            epoch: term.epoch,
            inc: term.inc + 1,
        };
        self.terms.write(self.shard, next)?;
        Ok(next)
    }
}

/// The claim itself.
pub(crate) fn frame(id: &Identity, term: Term, writer: u64, prev: Offset) -> Frame {
    Frame {
        kind: FrameKind::Claim,
        incarnation: id.region.incarnation,
        term,
        writer,
        n: 0,
        prev,
        prev_n: 0,
        payload: Bytes::new(),
    }
}

/// Why a claim did not end in leadership.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ClaimError {
    /// Another claim, or a seal, came first.
    #[error("the region is claimed under term {0}")]
    Beaten(Term),
    /// The log was cut above where the state stands: begin again from the newest manifest.
    #[error("the log begins at {start}, the state ends before")]
    OutOfRange { start: Offset },
    /// The log service did not answer in time.
    #[error("write-ahead log: {0}")]
    Log(WalError),
    /// The log cannot be followed.
    #[error(transparent)]
    Feed(#[from] FeedError),
}

/// Appends a claim and sees to it that it is in the log.
///
/// * returns: where it is, as far as the service says.
pub(crate) async fn append(
    region: &Arc<dyn Region>,
    claim: &Frame,
    deadline: Instant,
) -> Result<Placed, ClaimError> {
    loop {
        let appended = tokio::time::timeout_at(deadline, region.append(claim.clone())).await;
        let error = match appended {
            Ok(Ok(placed)) => return Ok(placed),
            Ok(Err(AppendError::Refused(error) | AppendError::Unknown(error))) => error,
            Err(_) => WalError::Unavailable,
        };
        if error.parks() || Instant::now() + PAUSE > deadline {
            return Err(ClaimError::Log(error));
        }
        tokio::time::sleep(PAUSE).await;
    }
}

/// Feeds the log from where `state` stands until the claim counts.
///
/// * `placed`: what the service said of the claim. If it named no place, and none is found, the
///   claim is appended again.
/// * returns: the offset of the claim; `state.next()` is behind it.
pub(crate) async fn replay(
    region: &Arc<dyn Region>,
    state: &mut State,
    claim: &Frame,
    mut placed: Placed,
    deadline: Instant,
) -> Result<Offset, ClaimError> {
    loop {
        let from = state.next();
        let chunk = match region.read(from, READ_BYTES, PAUSE).await {
            Ok(chunk) => chunk,
            Err(WalError::OutOfRange { start }) => return Err(ClaimError::OutOfRange { start }),
            Err(error @ (WalError::Unavailable | WalError::Busy | WalError::NoRoom)) => {
                if Instant::now() > deadline {
                    return Err(ClaimError::Log(error));
                }
                tokio::time::sleep(PAUSE).await;
                continue;
            }
            Err(error) => return Err(ClaimError::Log(error)),
        };
        if chunk.next <= from {
            if Instant::now() > deadline {
                return Err(ClaimError::Log(WalError::Unavailable));
            }
            if placed == Placed::Somewhere {
                placed = append(region, claim, deadline).await?;
            }
        }
        for (offset, frame) in chunk.frames {
            let own = frame.kind == FrameKind::Claim && frame.writer == claim.writer;
            let fed = state.feed(offset, &frame, None)?;
            match (own, fed) {
                (true, Fed::Claimed) => return Ok(offset),
                (true, _) => return Err(ClaimError::Beaten(state.acceptance.cur().term)),
                (false, _) => {}
            }
            tokio::task::consume_budget().await;
        }
        state.skip_to(chunk.next);
    }
}
