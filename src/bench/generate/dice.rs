//! Random numbers by whole-number arithmetic only: the same seed gives the same numbers on every
//! machine and in every release.
//!
//! * source: xoshiro256++ and SplitMix64 by D. Blackman and S. Vigna (prng.di.unimi.it).

/// A stream of numbers.
#[derive(Clone, Debug)]
pub(super) struct Dice {
    state: [u64; 4],
}

impl Dice {
    /// The stream of that name under a seed; streams of other names are independent of it.
    pub(super) fn new(seed: u64, name: u64) -> Self {
        let mut state = split_mix(seed) ^ name.wrapping_mul(GOLDEN);
        Self {
            state: [(); 4].map(|()| {
                state = state.wrapping_add(GOLDEN);
                split_mix(state)
            }),
        }
    }

    /// 64 uniform bits.
    pub(super) fn next(&mut self) -> u64 {
        let [a, b, c, d] = self.state;
        let drawn = a.wrapping_add(d).rotate_left(23).wrapping_add(a);
        let (c, d) = (c ^ a, d ^ b);
        self.state = [a ^ d, b ^ c, c ^ (b << 17), d.rotate_left(45)];
        drawn
    }

    /// A uniform number below `bound`.
    pub(super) fn below(&mut self, bound: u64) -> u64 {
        ((u128::from(self.next()) * u128::from(bound)) >> 64) as u64
    }

    /// Whether something with that chance in 2³² happens.
    pub(super) fn chance(&mut self, of_2_32: u64) -> bool {
        self.next() >> 32 < of_2_32
    }

    /// A step of a random walk with mean 0 and standard deviation 1, in units of 2⁻¹⁶.
    ///
    /// It is the sum of twelve uniform numbers less its mean (Irwin and Hall): close to normal, no
    /// further than 6, and free of logarithms, which differ between machines.
    pub(super) fn step(&mut self) -> i64 {
        const LANES: u64 = 0x0000_FFFF_0000_FFFF;
        const MEAN: i64 = 12 * 0xFFFF / 2;
        let mut sum = 0;
        for _ in 0..3 {
            let lanes = self.next();
            sum += (lanes & LANES) + ((lanes >> 16) & LANES);
        }
        ((sum & 0xFFFF_FFFF) + (sum >> 32)) as i64 - MEAN
    }
}

const GOLDEN: u64 = 0x9E37_79B9_7F4A_7C15;

fn split_mix(state: u64) -> u64 {
    let mixed = (state ^ (state >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    mixed ^ (mixed >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_generator_is_the_published_one() {
        // First numbers of xoshiro256++ from the state 1, 2, 3, 4.
        let mut dice = Dice {
            state: [1, 2, 3, 4],
        };
        let drawn = [(); 4].map(|()| dice.next());
        let published = [
            41_943_041,
            58_720_359,
            3_588_806_011_781_223,
            3_591_011_842_654_386,
        ];
        assert_eq!(drawn, published);
    }

    #[test]
    fn steps_have_mean_0_and_deviation_1() {
        let mut dice = Dice::new(1, 2);
        let steps: Vec<_> = (0..100_000)
            .map(|_| dice.step() as f64 / 65_536.0)
            .collect();
        let mean = steps.iter().sum::<f64>() / steps.len() as f64;
        let square = steps.iter().map(|step| step * step).sum::<f64>() / steps.len() as f64;
        assert!(mean.abs() < 0.02, "{mean}");
        assert!((square.sqrt() - 1.0).abs() < 0.02, "{square}");
        assert!(steps.iter().all(|step| step.abs() <= 6.0));
    }

    #[test]
    fn numbers_stay_below_their_bound_and_reach_it() {
        let mut dice = Dice::new(1, 3);
        let mut seen = [0; 7];
        (0..7_000).for_each(|_| seen[dice.below(7) as usize] += 1);
        assert!(seen.iter().all(|&times| times > 800), "{seen:?}");
        let quarter = (0..10_000).filter(|_| dice.chance(1 << 30)).count();
        assert!((2_200..2_800).contains(&quarter), "{quarter}");
        assert!(!dice.chance(0) && dice.chance(1 << 32));
    }
}
