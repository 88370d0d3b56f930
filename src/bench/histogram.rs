//! Latencies in buckets whose width grows with the value, so that millions of them take 30 KB.
//!
//! 1. Values below 64 have a bucket each.
//! 2. Above, each power of two is cut into 64 buckets of equal width: a value is known to 1/64,
//!    whatever its size.
//!
//! Source: the scheme of HdrHistogram with 64 sub-buckets.

/// Bits of a value that are kept.
const KEPT_BITS: u32 = 6;
const SUB_BUCKETS: usize = 1 << KEPT_BITS;
const BUCKETS: usize = (64 - KEPT_BITS as usize + 1) * SUB_BUCKETS;

/// Counts of values; the unit is the caller's.
#[derive(Clone, Debug)]
pub(super) struct Histogram {
    counts: Vec<u64>,
    total: u64,
    sum: u128,
    max: u64,
}

impl Histogram {
    pub(super) fn new() -> Self {
        Self {
            counts: vec![0; BUCKETS],
            total: 0,
            sum: 0,
            max: 0,
        }
    }

    /// Adds a value.
    pub(super) fn record(&mut self, value: u64) {
        self.counts[bucket(value)] += 1;
        self.total += 1;
        self.sum += u128::from(value);
        self.max = self.max.max(value);
    }

    /// The smallest known bound that `per_mille` of 1000 values do not exceed; 0 without values.
    pub(super) fn quantile(&self, per_mille: u64) -> u64 {
        let wanted = (self.total * per_mille).div_ceil(1_000).max(1);
        let mut seen = 0;
        for (bucket, count) in self.counts.iter().enumerate() {
            seen += count;
            if seen >= wanted {
                return highest(bucket).min(self.max);
            }
        }
        self.max
    }

    /// The largest value.
    pub(super) fn max(&self) -> u64 {
        self.max
    }

    /// The mean of the exact values; 0 without any.
    pub(super) fn mean(&self) -> f64 {
        self.sum as f64 / self.total.max(1) as f64
    }
}

fn bucket(value: u64) -> usize {
    if value < SUB_BUCKETS as u64 {
        return value as usize;
    }
    let shift = value.ilog2() - KEPT_BITS;
    // The leading bit is one, so this is 64..128.
    let kept = (value >> shift) as usize;
    shift as usize * SUB_BUCKETS + kept
}

/// The largest value of a bucket.
fn highest(bucket: usize) -> u64 {
    if bucket < 2 * SUB_BUCKETS {
        return bucket as u64;
    }
    let shift = bucket / SUB_BUCKETS - 1;
    let kept = (bucket - shift * SUB_BUCKETS) as u64;
    (kept << shift) | ((1 << shift) - 1)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn quantiles_of_a_thousand_values() {
        let mut histogram = Histogram::new();
        (1..=1_000).for_each(|value| histogram.record(value));
        assert_eq!(histogram.quantile(500), 503);
        assert_eq!(histogram.quantile(990), 991);
        assert_eq!(histogram.quantile(1_000), 1_000);
        assert_eq!(histogram.max(), 1_000);
        assert!((histogram.mean() - 500.5).abs() < 1e-9);
        assert_eq!(Histogram::new().quantile(500), 0);
    }

    proptest! {
        #[test]
        fn a_value_is_known_to_a_sixty_fourth(value: u64) {
            let bound = highest(bucket(value));
            prop_assert!(bound >= value);
            prop_assert!(bound - value <= value / 64);
        }
    }

    #[test]
    fn the_ends_have_buckets() {
        for value in [0, 1, 63, 64, 127, 128, u64::MAX] {
            let mut histogram = Histogram::new();
            histogram.record(value);
            assert_eq!(histogram.quantile(500), value);
        }
    }
}
