//! Whether something between an engine and headway holds tokens back and lets go of them in bursts.
//!
//! A hop that buffers (a proxy that was not told not to, a compressing middlebox, an engine's front end that batches its
//! writes) makes the first token late by as long as it holds, and the gaps after it a lie: most are nothing, a few are
//! huge. Neither is the pace of the engine, so neither should be learned as that.
//!
//! Told by the gaps between content responses alone. Held back are those streams whose gaps are nearly all either none at
//! all or long, with nearly all of the time in the long ones:
//!
//! - several tokens in one event are one gap: no burst, whatever their number;
//! - an engine that guesses ahead and sends its guesses as events of their own comes in bursts too, but waits one step
//!   between them, tens of milliseconds, not [`LONG`];
//! - a stall of the engine, or of this process, is one long gap among many usual ones;
//! - a client that does not keep up is known elsewhere: gaps are not counted from then on.
//!
//! What holds for less than [`LONG`] is not found, and does little harm.

use std::time::Duration;

/// Events that follow each other within this came together: the pieces of one burst may take a few reads.
const AT_ONCE: Duration = Duration::from_micros(200);
/// What is held back for less is not looked for: engines under load pause for as long, between steps that decode.
const LONG: Duration = Duration::from_millis(200);
/// Fewer gaps say nothing.
const FEWEST: u64 = 16;
/// A whole answer at once takes so many gaps to be no coincidence.
const FEWEST_AT_ONCE: u64 = 32;
/// Time per event within which no engine decodes.
const IMPOSSIBLE: Duration = Duration::from_micros(50);

/// How the tokens of one answer came.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Delivery {
    /// As they were generated, as far as can be told.
    Paced,
    /// Held back, and let go in bursts.
    HeldBack,
}

/// The gaps of one answer, by their kind.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Bursts {
    gaps: u64,
    at_once: u64,
    long: u64,
    in_long: Duration,
    all: Duration,
}

impl Bursts {
    /// One more gap between two content responses.
    pub fn gap(&mut self, gap: Duration) {
        self.gaps += 1;
        self.all = self.all.saturating_add(gap);
        if gap <= AT_ONCE {
            self.at_once += 1;
        } else if gap >= LONG {
            self.long += 1;
            self.in_long = self.in_long.saturating_add(gap);
        }
    }

    /// How the answer came whose first token took so long; `None` when it was too short to tell.
    #[must_use]
    pub fn delivery(&self, first_token: Duration) -> Option<Delivery> {
        if self.gaps < FEWEST {
            return None;
        }
        if self.long == 0 {
            return self.whole_at_once(first_token);
        }
        let usual = self.gaps - self.at_once - self.long;
        // One long gap is a stall, unless nothing else than bursts was there before and after it.
        let few = if self.long == 1 { usual * 50 <= self.gaps } else { true };
        let bursts = self.at_once * 4 >= self.gaps * 3 && self.in_long * 5 >= self.all * 4;
        Some(if few && bursts { Delivery::HeldBack } else { Delivery::Paced })
    }

    /// An answer without a single long gap was held back only if no engine could have made it in its time, and if there
    /// was time before it to hold it.
    fn whole_at_once(&self, first_token: Duration) -> Option<Delivery> {
        let impossible = u128::from(self.gaps) * IMPOSSIBLE.as_nanos() >= self.all.as_nanos();
        if !impossible {
            return Some(Delivery::Paced);
        }
        (self.gaps >= FEWEST_AT_ONCE && first_token >= LONG).then_some(Delivery::HeldBack)
    }
}

/// Whether the streams of one backend are held back, by the latest that could be told.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Suspicion {
    /// One bit for each of the latest answers, the newest last: set where it was held back.
    latest: u8,
    confirmed: bool,
}

impl Suspicion {
    /// So many of the latest eight confirm it, and so few end it.
    const CONFIRM: u32 = 6;
    const CLEAR: u32 = 2;

    /// One more answer could be told.
    pub fn judged(&mut self, delivery: Delivery) {
        self.latest = (self.latest << 1) | u8::from(delivery == Delivery::HeldBack);
        match self.latest.count_ones() {
            Self::CONFIRM.. => self.confirmed = true,
            ..=Self::CLEAR => self.confirmed = false,
            _ => {}
        }
    }

    /// Whether most of the latest answers were held back.
    #[must_use]
    pub fn is_confirmed(&self) -> bool {
        self.confirmed
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn millis(millis: u64) -> Duration {
        Duration::from_millis(millis)
    }

    #[track_caller]
    fn check(gaps: impl IntoIterator<Item = Duration>, first_token: u64, expected: Option<Delivery>) {
        let mut bursts = Bursts::default();
        gaps.into_iter().for_each(|gap| bursts.gap(gap));
        assert_eq!(bursts.delivery(millis(first_token)), expected, "{bursts:?}");
    }

    /// So many tokens, `pace` apart, let go every `hold`.
    fn held(tokens: u32, pace: Duration, hold: Duration) -> Vec<Duration> {
        let released = |token: u32| u32::try_from((pace * token).as_nanos() / hold.as_nanos()).unwrap();
        (1..tokens).map(|token| hold * (released(token) - released(token - 1))).collect()
    }

    /// Every so many gaps, `several` are none at all.
    fn guessed(step: Duration, several: usize) -> Vec<Duration> {
        (0..200).map(|number| if number % (several + 1) == 0 { step } else { Duration::ZERO }).collect()
    }

    #[test]
    fn what_is_let_go_in_bursts_was_held_back() {
        for (tokens, pace, hold) in [(500, 20, 1_000), (120, 20, 1_000), (100, 20, 1_000), (300, 8, 250), (64, 50, 800)]
        {
            check(held(tokens, millis(pace), millis(hold)), 1_200, Some(Delivery::HeldBack));
        }
    }

    #[test]
    fn pieces_of_a_burst_may_be_read_apart() {
        let ragged = held(500, millis(20), millis(1_000)).into_iter().enumerate();
        let ragged = ragged.map(|(place, gap)| if place % 12 == 0 { gap.max(millis(3)) } else { gap });
        check(ragged, 1_200, Some(Delivery::HeldBack));
    }

    #[test]
    fn a_whole_answer_at_once_was_held_back_if_there_was_time_to() {
        check(vec![Duration::from_micros(2); 100], 2_000, Some(Delivery::HeldBack));
        check(vec![Duration::ZERO; 100], 90, None);
        check(vec![Duration::ZERO; 20], 2_000, None);
    }

    #[test]
    fn engines_are_not_accused() {
        for pace in [1, 5, 20, 150, 199, 300] {
            check(vec![millis(pace); 100], 400, Some(Delivery::Paced));
        }
        // Two thousand tokens a second.
        check(vec![Duration::from_micros(500); 400], 400, Some(Delivery::Paced));
        check(vec![Duration::from_micros(150); 400], 400, Some(Delivery::Paced));
        // Guesses sent as events of their own.
        for several in 1..8 {
            check(guessed(millis(60), several), 400, Some(Delivery::Paced));
        }
    }

    #[test]
    fn stalls_are_not_bursts() {
        let stalled = |stalls: &[usize]| {
            let gap = |place| if stalls.contains(&place) { millis(2_000) } else { millis(20) };
            (0..100).map(gap).collect::<Vec<_>>()
        };
        check(stalled(&[3]), 400, Some(Delivery::Paced));
        check(stalled(&[3, 50, 90]), 400, Some(Delivery::Paced));
        // This process was paused for a minute, and then read all that had come meanwhile.
        let paused = |at: usize| {
            (0..200).map(move |place| match place {
                place if place < at => millis(20),
                place if place == at => millis(60_000),
                _ => Duration::ZERO,
            })
        };
        for at in [5, 20, 100] {
            check(paused(at), 400, Some(Delivery::Paced));
        }
    }

    #[test]
    fn a_short_answer_says_nothing() {
        check(held(16, millis(20), millis(100)), 2_000, None);
        check([], 2_000, None);
    }

    #[test]
    fn a_backend_is_suspected_by_most_of_its_answers_and_cleared_by_most() {
        let mut suspicion = Suspicion::default();
        let mut judged = |delivery, times| {
            (0..times).for_each(|_| suspicion.judged(delivery));
            suspicion.is_confirmed()
        };
        assert!(!judged(Delivery::HeldBack, 5) && judged(Delivery::HeldBack, 1));
        assert!(judged(Delivery::Paced, 5) && !judged(Delivery::Paced, 1));
        assert!(!judged(Delivery::HeldBack, 1) && !judged(Delivery::Paced, 100));
    }

    proptest! {
        #[test]
        fn jitter_around_a_pace_is_no_burst(
            pace in 2_000_u64..300_000,
            factors in prop::collection::vec(0.3_f64..3.0, 16..300),
        ) {
            let mut bursts = Bursts::default();
            for factor in factors {
                bursts.gap(Duration::from_micros(pace).mul_f64(factor));
            }
            prop_assert_eq!(bursts.delivery(Duration::from_secs(3)), Some(Delivery::Paced));
        }

        #[test]
        fn whatever_is_held_for_long_is_found(
            pace in 1_000_u64..40_000,
            hold in 400_u64..3_000,
            bursts in 3_u32..10,
        ) {
            let per_burst = u32::try_from(hold * 1_000 / pace).unwrap();
            prop_assume!(per_burst >= 8);
            let gaps = held(per_burst * bursts, Duration::from_micros(pace), millis(hold));
            let mut seen = Bursts::default();
            for gap in gaps {
                seen.gap(gap);
            }
            prop_assert_eq!(seen.delivery(millis(hold)), Some(Delivery::HeldBack), "{:?}", seen);
        }
    }
}
