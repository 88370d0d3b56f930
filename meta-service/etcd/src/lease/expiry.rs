//! The loop that ends leases: looks twice a second while this member is primary.

use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt;
use tokio::time::{Instant, MissedTickBehavior, interval};
use tokio_util::sync::CancellationToken;

use super::Lessor;
use crate::proposal::{Expire, Op};
use crate::raft::Node;

const LOOK_EVERY: Duration = Duration::from_millis(500);
/// Leases ended at one look.
const ENDED_PER_LOOK: usize = 500;
/// Expiries proposed at one time.
const PROPOSED_AT_ONCE: usize = 16;

/// Follows who is primary and ends leases until told to stop.
pub(crate) async fn expire(node: Arc<Node>, lessor: Arc<Lessor>, stop: CancellationToken) {
    let mut leading = node.leading();
    let mut look = interval(LOOK_EVERY);
    look.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            () = stop.cancelled() => return,
            _ = look.tick() => {}
        }
        let now = *leading.borrow_and_update();
        if !now.primary {
            lessor.demote();
            continue;
        }
        lessor.promote(now.term, Instant::now());
        let Some((raft_term, ended)) = lessor.ended(Instant::now(), ENDED_PER_LOOK) else {
            continue;
        };
        let node = &node;
        futures::stream::iter(ended)
            .for_each_concurrent(PROPOSED_AT_ONCE, |lease| async move {
                match node.propose(Op::Expire(Expire { lease, raft_term })).await {
                    Ok(_) => tracing::info!(lease, "lease expired"),
                    // It is proposed again at the next look, if this member is still primary.
                    Err(error) => tracing::warn!(lease, %error, "cannot expire a lease"),
                }
            })
            .await;
    }
}
