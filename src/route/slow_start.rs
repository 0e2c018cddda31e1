//! Slow start: a backend that is new, or back, gets its share little by little.
//!
//! Its caches are cold, and what is known of it is a guess or of the time before it failed: the cheapest of all would be
//! sent everything at once. So for a while each request looks at it with a chance that grows from a tenth to one. The
//! chance is relative to the candidate that is furthest, so that one alone, or several that began together, lose
//! nothing; and who would turn a request away for lack of room looks again at all of them.
//!
//! Rules that spread requests by load or by weight look at all, and count such a backend for less, as Envoy does: it is
//! the emptiest, so every request that looked would go there.

use std::time::Duration;

use super::snapshot::Candidate;
use crate::random::Random;

/// The chance it begins with; Envoy's `min_weight_percent`.
pub const LEAST: f64 = 0.1;

/// How far a backend has come that began to serve so long ago.
#[must_use]
pub fn ramp(age: Duration, window: Duration) -> f64 {
    if age >= window {
        return 1.0;
    }
    LEAST + (1.0 - LEAST) * age.as_secs_f64() / window.as_secs_f64()
}

/// Decides which of the candidates this request does not look at; answers whether there are any. Draws nothing when all
/// have come equally far.
pub fn hold_back(candidates: &mut [Candidate], random: &mut Random) -> bool {
    let open = candidates.iter().filter(|one| one.has_room());
    let furthest = open.map(|one| one.ramp).fold(0.0, f64::max);
    let mut any = false;
    for one in candidates.iter_mut().filter(|one| one.ramp < furthest && one.has_room()) {
        one.held_back = random.share() * furthest >= one.ramp;
        any |= one.held_back;
    }
    any
}

/// Lets the request look at all of them.
pub fn release(candidates: &mut [Candidate]) {
    for one in candidates {
        one.held_back = false;
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::route::snapshot::{BackendIndex, Outlook};

    const WINDOW: Duration = Duration::from_secs(60);

    fn candidates(ramps: &[f64]) -> Vec<Candidate> {
        let candidate = |(index, ramp): (usize, &f64)| Candidate {
            backend: BackendIndex(index),
            weight: 1,
            in_flight: 0,
            max_in_flight: None,
            price: None,
            outlook: Outlook::default(),
            ramp: *ramp,
            held_back: false,
        };
        ramps.iter().enumerate().map(candidate).collect()
    }

    /// How often each is looked at, of that many requests.
    fn looked_at(ramps: &[f64], requests: u32) -> Vec<u32> {
        let mut random = Random::seeded(3);
        let mut counts = vec![0; ramps.len()];
        for _ in 0..requests {
            let mut candidates = candidates(ramps);
            hold_back(&mut candidates, &mut random);
            counts.iter_mut().zip(&candidates).for_each(|(count, one)| *count += u32::from(one.has_room()));
        }
        counts
    }

    #[test]
    fn a_backend_begins_with_a_tenth_and_has_all_at_the_end() {
        let after = |seconds| ramp(Duration::from_secs(seconds), WINDOW);
        let near = |one: f64, other: f64| assert!((one - other).abs() < 1e-9, "{one} and not {other}");
        near(after(0), 0.1);
        near(after(30), 0.55);
        near(after(60), 1.0);
        near(after(600), 1.0);
        near(ramp(Duration::ZERO, Duration::ZERO), 1.0);
    }

    #[test]
    fn it_is_looked_at_as_often_as_it_has_come_far() {
        for ramp in [0.1, 0.3, 0.55, 0.9] {
            let counts = looked_at(&[1.0, ramp], 20_000);
            assert_eq!(counts[0], 20_000);
            let share = f64::from(counts[1]) / 20_000.0;
            assert!((share - ramp).abs() < 0.012, "{share} of {ramp}");
        }
    }

    #[test]
    fn alone_or_together_they_lose_nothing() {
        assert_eq!(looked_at(&[0.1], 100), [100]);
        assert_eq!(looked_at(&[0.4, 0.4, 0.4], 100), [100; 3]);
        let mut some = candidates(&[1.0, 0.1]);
        some[0].in_flight = 1;
        some[0].max_in_flight = Some(1);
        assert!(!hold_back(&mut some, &mut Random::seeded(1)), "the other one is full");
        assert!(some[1].has_room());
    }

    proptest! {
        #[test]
        fn it_only_grows_and_somebody_is_always_open(
            ages in proptest::collection::vec(0..90_000_u64, 1..6),
            window in 1..90_000_u64,
            seed: u64,
        ) {
            let window = Duration::from_millis(window);
            let of = |age: u64| ramp(Duration::from_millis(age), window);
            for age in &ages {
                prop_assert!(of(*age) >= LEAST && of(*age) <= of(age + 1) && of(*age) <= 1.0);
            }
            let ramps: Vec<f64> = ages.iter().map(|age| of(*age)).collect();
            let mut some = candidates(&ramps);
            hold_back(&mut some, &mut Random::seeded(seed));
            prop_assert!(some.iter().any(Candidate::has_room));
            release(&mut some);
            prop_assert!(some.iter().all(Candidate::has_room));
        }
    }
}
