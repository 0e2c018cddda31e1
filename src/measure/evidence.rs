//! Evidence that a share is larger than it may be, that can be looked at after every single observation.
//!
//! An ordinary test that is repeated until it says yes says yes in the end, whatever is true. This is an *e-process*
//! (Ramdas, Grünwald, Vovk and Shafer, *Game-theoretic statistics and safe anytime-valid inference*, 2023): the wealth of
//! someone who bets on the share being too large at odds that are fair where it just is not. Who starts with 1 has ever
//! 1/α with a probability of at most α, however often one looks (Ville), so the wealth itself is the evidence.
//!
//! Two things make it fit for something that runs for weeks. The bets are spread over several larger shares, since
//! nobody knows which one to expect. And the stake is spread over time: part of it is kept back and laid out little by
//! little, so that what breaks after a long good time is noticed as soon, but for the logarithm of that time, as what was
//! broken from the start; a bettor who has lost all in the good time could not win any more.

/// How many times larger the odds are that are bet on.
const ODDS: [f64; 5] = [1.5, 2.5, 5.0, 15.0, 60.0];
/// No more is won than this: it is enough, and still a number.
const MOST: f64 = 1e12;

/// The evidence so far.
#[derive(Debug, Clone, PartialEq)]
pub struct Evidence {
    /// What each bet has come to, of the part of the stake that is laid out.
    wealth: [f64; ODDS.len()],
    seen: u64,
}

impl Default for Evidence {
    fn default() -> Self {
        Self { wealth: [0.0; ODDS.len()], seen: 0 }
    }
}

impl Evidence {
    /// One more observation, of something that happens with a probability of at most `most`, unless the share is too
    /// large. Nothing can be said where that is all or nothing.
    pub fn observe(&mut self, most: f64, happened: bool) {
        if most <= 0.0 || most >= 1.0 {
            return;
        }
        let laid_out = kept_back(self.seen) - kept_back(self.seen.saturating_add(1));
        self.seen = self.seen.saturating_add(1);
        for (wealth, odds) in self.wealth.iter_mut().zip(ODDS) {
            let larger = odds * most / (1.0 - most + odds * most);
            let ratio = if happened { larger / most } else { (1.0 - larger) / (1.0 - most) };
            *wealth = ((*wealth + laid_out) * ratio).min(MOST);
        }
    }

    /// The wealth: a true share that is not too large has it ever reach 1/α with a probability of at most α.
    #[must_use]
    #[allow(clippy::cast_precision_loss, reason = "a handful of bets")]
    pub fn wealth(&self) -> f64 {
        self.wealth.iter().sum::<f64>() / ODDS.len() as f64 + kept_back(self.seen)
    }
}

/// The part of the stake that is not laid out after so many observations: all at first, ever less, never nothing.
#[allow(clippy::cast_precision_loss, reason = "counts are far below 2^53")]
fn kept_back(seen: u64) -> f64 {
    1.0 / (1.0 + (seen as f64).ln_1p())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::random::Random;

    /// After how many observations of that share the wealth reached `needed`, if it did.
    fn reached(
        random: &mut Random,
        evidence: &mut Evidence,
        (most, share): (f64, f64),
        (needed, within): (f64, u32),
    ) -> Option<u32> {
        (1..=within).find(|_| {
            evidence.observe(most, random.share() < share);
            evidence.wealth() >= needed
        })
    }

    #[test]
    fn a_share_that_is_just_allowed_is_accused_in_fewer_runs_than_may_be() {
        const RUNS: usize = 1_000;
        for most in [0.01, 0.05, 0.5] {
            let mut random = Random::seeded(23);
            let accused = (0..RUNS)
                .filter(|_| reached(&mut random, &mut Evidence::default(), (most, most), (20.0, 3_000)).is_some())
                .count();
            println!("{most}: {accused} of {RUNS} runs accused at a level of 5 %");
            assert!(accused <= RUNS / 20, "{most}: {accused}");
        }
    }

    #[test]
    fn what_is_much_too_large_is_found_within_a_few_observations_even_after_a_long_good_time() {
        let mut random = Random::seeded(4);
        let mut slowest = [0, 0];
        for _ in 0..100 {
            let fresh = reached(&mut random, &mut Evidence::default(), (0.05, 0.8), (300.0, 200)).expect("found");
            let mut old = Evidence::default();
            (0..20_000).for_each(|_| old.observe(0.05, random.share() < 0.02));
            let late = reached(&mut random, &mut old, (0.05, 0.8), (300.0, 200)).expect("found");
            slowest = [slowest[0].max(fresh), slowest[1].max(late)];
        }
        println!("slowest of 100: {} when new, {} after 20,000 good ones", slowest[0], slowest[1]);
        assert!(slowest[0] <= 20 && slowest[1] <= 30, "{slowest:?}");
    }

    #[test]
    fn what_is_a_little_too_large_is_found_in_the_end() {
        let mut random = Random::seeded(8);
        let all = (0..50).map(|_| reached(&mut random, &mut Evidence::default(), (0.05, 0.1), (300.0, 20_000)));
        let found: Vec<u32> = all.flatten().collect();
        println!("twice as many as allowed: found after {} at most", found.iter().max().expect("some"));
        assert_eq!(found.len(), 50);
    }

    #[test]
    fn a_limit_that_nothing_can_break_is_no_bet() {
        let mut evidence = Evidence::default();
        for most in [0.0, 1.0, -1.0] {
            evidence.observe(most, true);
        }
        assert_eq!(evidence, Evidence::default());
        assert!((evidence.wealth() - 1.0).abs() < 1e-12, "the stake");
        (0..1_000).for_each(|_| evidence.observe(0.01, true));
        assert!(evidence.wealth().is_finite() && evidence.wealth() > 1e9);
    }

    proptest! {
        /// What makes it fair: where the share is just the limit, the next observation adds nothing on average.
        #[test]
        fn no_bet_wins_on_average(most in 0.001_f64..0.999, history in proptest::collection::vec(any::<bool>(), 0..60)) {
            let mut evidence = Evidence::default();
            for happened in history {
                evidence.observe(most, happened);
            }
            let after = |happened| {
                let mut next = evidence.clone();
                next.observe(most, happened);
                next.wealth()
            };
            let expected = most * after(true) + (1.0 - most) * after(false);
            prop_assert!(expected <= evidence.wealth() * (1.0 + 1e-9), "{expected} after {}", evidence.wealth());
        }
    }
}
