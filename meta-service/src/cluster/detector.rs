//! Judges the silence of one node: an accrual detector over its last beats.
//!
//! The longer the silence in terms of what this node's beats were like, the higher φ; at φ ≥ 8 (one
//! wrong verdict in 10⁸ beats of a node that keeps its habits) it is called dead. Fixed limits keep
//! the verdict between 2.5 s and 4.25 s whatever the habits were.
//!
//! * source: Hayashibara et al., "The φ accrual failure detector" (2004); the normal distribution's
//!   tail by the logistic approximation that Akka uses.
//!
//! Never here: a clock; every time is an argument.

use std::collections::VecDeque;
use std::time::Duration;

/// Intervals that are remembered.
const WINDOW: usize = 200;
/// Interval that a node is taken to have before it has shown any.
const PRIOR: f64 = 1.0;
/// Least standard deviation, in seconds.
const DEVIATION_MIN: f64 = 0.25;
/// Silence beyond the mean that is never held against a node, in seconds.
const ALLOWANCE: f64 = 0.5;
/// Verdict at this φ.
const PHI: f64 = 8.0;
/// Never sooner than this.
const SILENCE_MIN: Duration = Duration::from_millis(2_500);
/// Always at this.
const SILENCE_MAX: Duration = Duration::from_millis(4_250);
/// The limit once the node's stream is broken.
const SILENCE_BROKEN: Duration = Duration::from_secs(2);

/// What a node's connection says about it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stream {
    /// Open.
    Open,
    /// Broken: the process may have died.
    Broken,
    /// The node said that it leaves.
    Left,
}

/// The beats of one node.
#[derive(Clone, Debug)]
pub struct Detector {
    intervals: VecDeque<f64>,
    last: Duration,
}

impl Detector {
    /// A detector that heard its node at `now`, a time since any fixed start.
    pub fn new(now: Duration) -> Self {
        Self {
            intervals: VecDeque::new(),
            last: now,
        }
    }

    /// Takes note of a beat.
    pub fn beat(&mut self, now: Duration) {
        let interval = now.saturating_sub(self.last);
        self.last = self.last.max(now);
        if self.intervals.len() == WINDOW {
            self.intervals.pop_front();
        }
        self.intervals.push_back(interval.as_secs_f64());
    }

    /// Takes note of the node without an interval: it was not beating before.
    pub fn heard(&mut self, now: Duration) {
        self.last = self.last.max(now);
    }

    /// Leaves out a time in which nobody listened.
    pub fn skip(&mut self, pause: Duration) {
        self.last += pause;
    }

    /// Whether the silence until `now` is too long.
    pub fn is_dead(&self, now: Duration, stream: Stream) -> bool {
        let silence = now.saturating_sub(self.last);
        match stream {
            Stream::Left => true,
            Stream::Broken if silence >= SILENCE_BROKEN => true,
            _ if silence < SILENCE_MIN => false,
            _ => silence >= SILENCE_MAX || self.phi(silence.as_secs_f64()) >= PHI,
        }
    }

    fn phi(&self, silence: f64) -> f64 {
        // The prior weighs as one pair of beats, at a deviation of the least.
        let prior = [PRIOR - DEVIATION_MIN, PRIOR + DEVIATION_MIN];
        let all = || self.intervals.iter().copied().chain(prior);
        let count = (self.intervals.len() + prior.len()) as f64;
        let mean = all().sum::<f64>() / count;
        let variance = all().map(|one| (one - mean).powi(2)).sum::<f64>() / count;
        let deviation = variance.sqrt().max(DEVIATION_MIN);
        let y = (silence - mean - ALLOWANCE) / deviation;
        let e = (-y * (1.597_6 + 0.070_566 * y * y)).exp();
        // Two forms of one value: each is exact where the other loses its digits.
        match silence > mean + ALLOWANCE {
            true => -(e / (1.0 + e)).log10(),
            false => -(1.0 - 1.0 / (1.0 + e)).log10(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ms(ms: u64) -> Duration {
        Duration::from_millis(ms)
    }

    /// First silence at which the node is called dead, in milliseconds, looking every 50.
    fn verdict_after(intervals: &[u64], stream: Stream) -> u64 {
        let mut detector = Detector::new(ms(0));
        let mut now = 0;
        for interval in intervals {
            now += interval;
            detector.beat(ms(now));
        }
        (0..=100)
            .map(|step| step * 50)
            .find(|silence| detector.is_dead(ms(now + silence), stream))
            .unwrap()
    }

    #[test]
    fn a_regular_node_is_called_dead_after_less_than_three_seconds() {
        assert_eq!(verdict_after(&[1_000; 300], Stream::Open), 2_850);
        assert_eq!(verdict_after(&[], Stream::Open), 2_850);
    }

    #[test]
    fn a_jittery_node_gets_longer_but_never_past_the_limit() {
        let jittery: Vec<u64> = (0..200)
            .map(|n| if n % 2 == 0 { 500 } else { 1_500 })
            .collect();
        assert_eq!(verdict_after(&jittery, Stream::Open), 4_150);
        let wild: Vec<u64> = (0..200)
            .map(|n| if n % 2 == 0 { 10 } else { 4_000 })
            .collect();
        assert_eq!(verdict_after(&wild, Stream::Open), 4_250);
        assert_eq!(verdict_after(&[100; 200], Stream::Open), 2_500);
    }

    #[test]
    fn a_broken_stream_shortens_the_limit_and_leaving_needs_none() {
        assert_eq!(verdict_after(&[1_000; 20], Stream::Broken), 2_000);
        assert_eq!(verdict_after(&[1_000; 20], Stream::Left), 0);
    }

    #[test]
    fn a_pause_of_our_own_is_not_held_against_the_node() {
        let mut detector = Detector::new(ms(0));
        for second in 1..=20 {
            detector.beat(ms(second * 1_000));
        }
        detector.skip(ms(10_000));
        assert!(!detector.is_dead(ms(32_000), Stream::Open));
        assert!(detector.is_dead(ms(33_000), Stream::Open));
    }
}
