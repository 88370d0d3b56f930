//! When to try again.

use std::time::Duration;

use auxo_proto::random::Random;

/// How patient a sender is.
#[derive(Clone, Copy, Debug)]
pub struct Patience {
    /// The first wait; each further one may be twice as long.
    pub first: Duration,
    /// No wait of our own choice is longer.
    pub longest: Duration,
    /// No attempt starts later than this after the first one.
    pub give_up_after: Duration,
}

impl Default for Patience {
    fn default() -> Self {
        Self {
            first: Duration::from_millis(100),
            longest: Duration::from_secs(10),
            give_up_after: Duration::from_secs(600),
        }
    }
}

impl Patience {
    /// How long to wait before attempt `tried + 1`, or nothing if there is none.
    ///
    /// * `asked`: what the node asked for; the wait is never shorter than that.
    /// * shape: drawn evenly from the upper half of a delay that doubles, so that many senders
    ///   refused at once do not come back at once.
    pub fn wait(
        &self,
        tried: u32,
        since_first: Duration,
        asked: Option<Duration>,
        random: &Random,
    ) -> Option<Duration> {
        let doubled = self
            .first
            .saturating_mul(1 << tried.saturating_sub(1).min(16));
        let most = doubled.min(self.longest);
        let spread_us = u64::try_from(most.as_micros() / 2).unwrap_or(u64::MAX);
        let jitter = Duration::from_micros(random.below(spread_us.saturating_add(1)));
        // What the node asks is a floor; the jitter comes on top of it.
        let wait = match asked {
            Some(asked) => asked + jitter,
            None => most / 2 + jitter,
        };
        (since_first + wait <= self.give_up_after).then_some(wait)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_double_up_to_the_longest_and_differ() {
        let patience = Patience::default();
        let random = Random::seeded(7);
        let mut seen = Vec::new();
        for tried in 1..=12 {
            let wait = patience
                .wait(tried, Duration::ZERO, None, &random)
                .expect("within the patience");
            let most = (patience.first * (1 << (tried - 1))).min(patience.longest);
            assert!(
                wait >= most / 2 && wait <= most,
                "attempt {tried}: {wait:?}"
            );
            seen.push(wait);
        }
        seen.sort_unstable();
        seen.dedup();
        assert_eq!(seen.len(), 12);
    }

    #[test]
    fn what_the_node_asks_is_a_floor() {
        let patience = Patience::default();
        let random = Random::seeded(7);
        let asked = Duration::from_secs(42);
        let wait = patience.wait(1, Duration::ZERO, Some(asked), &random);
        assert!(wait.expect("within the patience") >= asked);
    }

    #[test]
    fn patience_ends() {
        let patience = Patience {
            give_up_after: Duration::from_secs(5),
            ..Patience::default()
        };
        let random = Random::seeded(7);
        let late = Duration::from_secs(5);
        assert_eq!(patience.wait(3, late, None, &random), None);
        let asked = Some(Duration::from_secs(6));
        assert_eq!(patience.wait(1, Duration::ZERO, asked, &random), None);
    }
}
