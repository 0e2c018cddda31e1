//! A small seeded generator: the same seed gives the same draws on every machine.
//!
//! xorshift64\*, as in `Vigna, An experimental exploration of Marsaglia's xorshift generators` (2016). Not for secrets.

/// A seeded source of draws.
#[derive(Debug, Clone)]
pub struct Random(u64);

impl Random {
    /// A generator whose draws follow from `seed` alone.
    #[must_use]
    pub fn seeded(seed: u64) -> Self {
        Self(seed.wrapping_mul(2).wrapping_add(1))
    }

    /// The generator in that state; its lowest bit is set, since 0 is no state.
    #[must_use]
    pub fn in_state(state: u64) -> Self {
        Self(state | 1)
    }

    /// The next 64 bits.
    pub fn bits(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0.wrapping_mul(0x2545_F491_4F6C_DD1D)
    }

    /// Uniform in `[0, 1)`.
    #[allow(clippy::cast_precision_loss, reason = "53 bits fit a float exactly")]
    pub fn share(&mut self) -> f64 {
        (self.bits() >> 11) as f64 / (1_u64 << 53) as f64
    }

    /// Uniform in `0..bound`; 0 when `bound` is 0.
    #[allow(clippy::cast_possible_truncation, reason = "the high half of a 128-bit product is below the bound")]
    pub fn below(&mut self, bound: usize) -> usize {
        ((u128::from(self.bits()) * bound as u128) >> 64) as usize
    }

    /// Standard normal, by Box and Muller; takes two draws.
    pub fn gauss(&mut self) -> f64 {
        let radius = (-2.0 * self.share().max(1e-12).ln()).sqrt();
        radius * (std::f64::consts::TAU * self.share()).cos()
    }

    /// Exponential with mean 1: the gaps of a Poisson process of rate 1.
    pub fn exponential(&mut self) -> f64 {
        -(1.0 - self.share()).max(1e-300).ln()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_same_seed_gives_the_same_draws() {
        let draws = |seed| {
            let mut random = Random::seeded(seed);
            (0..10).map(|_| random.bits()).collect::<Vec<_>>()
        };
        assert_eq!(draws(7), draws(7));
        assert_ne!(draws(7), draws(8));
    }

    #[test]
    fn draws_stay_in_range_and_near_their_means() {
        let mut random = Random::seeded(1);
        let (mut shares, mut gauss, mut gaps) = (0.0, 0.0, 0.0);
        for _ in 0..20_000 {
            let share = random.share();
            assert!((0.0..1.0).contains(&share));
            assert!(random.below(3) < 3);
            shares += share / 20_000.0;
            gauss += random.gauss() / 20_000.0;
            gaps += random.exponential() / 20_000.0;
        }
        assert!((shares - 0.5).abs() < 0.02 && gauss.abs() < 0.03 && (gaps - 1.0).abs() < 0.04);
    }
}
