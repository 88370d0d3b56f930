//! Leases: who lives how long.
//!
//! Grants and revokes are entries of the log; renewals are not. Only the *primary*, the leader that
//! has applied an entry of its own term, measures time:
//!
//! 1. Becoming primary gives every lease its whole TTL again, so no lease ends early because a leader
//!    did. Where many would end within one second, some get more.
//! 2. A renewal is confirmed by a read index taken after it arrived, so no later leader has begun to
//!    measure before it.
//! 3. A lease past its deadline is marked, then an expiry is proposed, which apply refuses in any
//!    other term. A marked lease is not renewed: an answered renewal always holds.
//! 4. Time is monotonic. If this process stood still between two looks, all deadlines move by as long.
//!
//! Early is wrong, late is allowed. A fresh lease has no deadline until somebody looks at it. Never
//! here: proposing, and keys.

mod expiry;

use std::collections::BTreeMap;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::time::Instant;

pub(crate) use expiry::expire;

/// Longest TTL that may be asked for, in seconds.
pub(crate) const TTL_MAX_S: i64 = 9_000_000_000;
/// Leases that may end within one second when a primary begins.
const ENDING_PER_S: usize = 750;
/// A pause between two looks longer than this is one of the whole process.
const STOOD_STILL: Duration = Duration::from_secs(1);

/// Smallest TTL that is granted, in seconds: one and a half election timeouts, rounded up.
pub(crate) fn ttl_min_s(election: Duration) -> i64 {
    let ms = election.as_millis() * 3 / 2;
    ms.div_ceil(1000) as i64
}

#[derive(Debug)]
struct Lease {
    ttl_s: i64,
    /// `None`: nobody has looked yet, or this member is not primary.
    deadline: Option<Instant>,
    /// Its end has been proposed.
    ending: bool,
}

#[derive(Debug, Default)]
struct State {
    leases: BTreeMap<i64, Lease>,
    /// The term this member is primary in.
    primary: Option<u64>,
    looked: Option<Instant>,
}

/// All leases of the state, and how long they have left if this member is primary.
///
/// Locking: one lock, held for memory work only.
#[derive(Debug, Default)]
pub(crate) struct Lessor {
    state: Mutex<State>,
}

/// What is known about a lease.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Remaining {
    pub(crate) ttl_s: i64,
    /// Whole seconds left.
    pub(crate) left_s: i64,
}

impl Lessor {
    /// Told by apply; again for the same lease after a restart.
    pub(crate) fn granted(&self, lease: i64, ttl_s: i64) {
        let fresh = Lease {
            ttl_s,
            deadline: None,
            ending: false,
        };
        self.state.lock().leases.insert(lease, fresh);
    }

    /// Told by apply.
    pub(crate) fn revoked(&self, lease: i64) {
        self.state.lock().leases.remove(&lease);
    }

    /// Begins to measure in `term`, if it does not already.
    pub(crate) fn promote(&self, term: u64, now: Instant) {
        let state = &mut *self.state.lock();
        if state.primary == Some(term) {
            return;
        }
        state.primary = Some(term);
        state.looked = Some(now);
        let mut by_ttl: Vec<_> = state.leases.values_mut().collect();
        by_ttl.sort_by_key(|lease| lease.ttl_s);
        let mut second = 0;
        let mut ending_then = 0;
        for lease in by_ttl {
            if lease.ttl_s > second {
                second = lease.ttl_s;
                ending_then = 0;
            } else if ending_then == ENDING_PER_S {
                second += 1;
                ending_then = 0;
            }
            ending_then += 1;
            lease.deadline = Some(now + seconds(second));
            lease.ending = false;
        }
    }

    /// Stops measuring.
    pub(crate) fn demote(&self) {
        let state = &mut *self.state.lock();
        state.primary = None;
        for lease in state.leases.values_mut() {
            lease.deadline = None;
            lease.ending = false;
        }
    }

    /// Gives a lease its whole TTL again, counted from `now`.
    ///
    /// * returns: the TTL in seconds; `None` if it is unknown or ends.
    pub(crate) fn renew(&self, lease: i64, now: Instant) -> Option<i64> {
        let state = &mut *self.state.lock();
        let lease = state.leases.get_mut(&lease)?;
        if lease.ending || lease.deadline.is_some_and(|deadline| deadline <= now) {
            return None;
        }
        let deadline = now + seconds(lease.ttl_s);
        lease.deadline = lease.deadline.max(Some(deadline));
        Some(lease.ttl_s)
    }

    pub(crate) fn remaining(&self, lease: i64, now: Instant) -> Option<Remaining> {
        let state = self.state.lock();
        let lease = state.leases.get(&lease)?;
        let left_s = match lease.deadline {
            None => lease.ttl_s,
            Some(deadline) => deadline.saturating_duration_since(now).as_secs() as i64,
        };
        Some(Remaining {
            ttl_s: lease.ttl_s,
            left_s,
        })
    }

    /// Ids of all leases, in order.
    pub(crate) fn ids(&self) -> Vec<i64> {
        self.state.lock().leases.keys().copied().collect()
    }

    /// Looks at all leases: marks and returns up to `most` that have ended, and the term to end them
    /// in. Fresh ones get their deadline.
    pub(crate) fn ended(&self, now: Instant, most: usize) -> Option<(u64, Vec<i64>)> {
        let state = &mut *self.state.lock();
        let term = state.primary?;
        let stood_still = state
            .looked
            .map(|looked| now.saturating_duration_since(looked))
            .filter(|gap| *gap > STOOD_STILL)
            .unwrap_or_default();
        state.looked = Some(now);
        let mut ended = Vec::new();
        for (id, lease) in &mut state.leases {
            let deadline = match lease.deadline {
                None => now + seconds(lease.ttl_s),
                Some(deadline) => deadline + stood_still,
            };
            lease.deadline = Some(deadline);
            if deadline <= now && ended.len() < most {
                lease.ending = true;
                ended.push(*id);
            }
        }
        Some((term, ended))
    }
}

/// TTLs are positive and at most [`TTL_MAX_S`], which no clock overflows on.
fn seconds(ttl_s: i64) -> Duration {
    Duration::from_secs(ttl_s.clamp(0, TTL_MAX_S) as u64)
}

#[cfg(test)]
mod tests {
    use super::*;

    const S: Duration = Duration::from_secs(1);
    const NONE: [i64; 0] = [];

    fn primary_with(leases: &[(i64, i64)]) -> (Lessor, Instant) {
        let lessor = Lessor::default();
        for (id, ttl_s) in leases {
            lessor.granted(*id, *ttl_s);
        }
        let now = Instant::now();
        lessor.promote(1, now);
        (lessor, now)
    }

    fn ended(lessor: &Lessor, now: Instant) -> Vec<i64> {
        lessor
            .ended(now, 500)
            .map_or(Vec::new(), |(_, ended)| ended)
    }

    #[test]
    fn the_smallest_ttl_outlives_an_election() {
        assert_eq!(ttl_min_s(Duration::from_millis(1000)), 2);
        assert_eq!(ttl_min_s(Duration::from_millis(2000)), 3);
        assert_eq!(ttl_min_s(Duration::from_millis(100)), 1);
    }

    #[test]
    fn a_lease_ends_after_its_ttl_and_not_before() {
        let (lessor, now) = primary_with(&[(1, 2)]);
        assert_eq!(ended(&lessor, now + S), NONE);
        assert_eq!(ended(&lessor, now + 2 * S), [1]);
    }

    #[test]
    fn an_answered_renewal_holds() {
        let (lessor, now) = primary_with(&[(1, 2)]);
        assert_eq!(lessor.renew(1, now + S), Some(2));
        assert_eq!(ended(&lessor, now + S), NONE);
        assert_eq!(ended(&lessor, now + 2 * S), NONE);
        assert_eq!(ended(&lessor, now + 3 * S), [1]);
        assert_eq!(lessor.renew(1, now + 3 * S), None);
        assert_eq!(lessor.renew(9, now), None);
    }

    #[test]
    fn an_end_that_failed_is_proposed_again() {
        let (lessor, now) = primary_with(&[(1, 2)]);
        assert_eq!(ended(&lessor, now + S), NONE);
        assert_eq!(ended(&lessor, now + 2 * S), [1]);
        assert_eq!(ended(&lessor, now + 2 * S), [1]);
        lessor.revoked(1);
        assert_eq!(ended(&lessor, now + 2 * S), NONE);
    }

    #[test]
    fn a_process_that_stood_still_ends_nothing_early() {
        let (lessor, now) = primary_with(&[(1, 2)]);
        assert_eq!(ended(&lessor, now + 60 * S), NONE);
        assert_eq!(ended(&lessor, now + 61 * S), NONE);
        assert_eq!(ended(&lessor, now + 62 * S), [1]);
    }

    #[test]
    fn a_new_primary_begins_anew() {
        let (lessor, now) = primary_with(&[(1, 2)]);
        lessor.demote();
        assert_eq!(lessor.ended(now + 2 * S, 500), None);
        lessor.promote(2, now + 2 * S);
        assert_eq!(ended(&lessor, now + 3 * S), NONE);
        let (term, leases) = lessor.ended(now + 4 * S, 500).unwrap();
        assert_eq!((term, leases), (2, vec![1]));
    }

    #[test]
    fn many_leases_do_not_end_at_once() {
        let leases: Vec<_> = (1..=2000).map(|id| (id, 2)).collect();
        let (lessor, now) = primary_with(&leases);
        assert_eq!(lessor.ended(now + S, 5000).unwrap().1.len(), 0);
        assert_eq!(lessor.ended(now + 2 * S, 5000).unwrap().1.len(), 750);
        assert_eq!(lessor.ended(now + 3 * S, 5000).unwrap().1.len(), 1500);
        assert_eq!(lessor.ended(now + 4 * S, 5000).unwrap().1.len(), 2000);
    }
}
