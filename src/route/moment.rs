//! Time inside a backend's model: seconds since it was made.
//!
//! A decision compares the present with several past events of every candidate. Reckoned from one origin each of them is
//! a subtraction of two floats, which hold the nanosecond for months.

use std::time::{Duration, Instant};

/// An instant of one model.
#[derive(Debug, Clone, Copy, PartialEq, PartialOrd)]
pub struct Moment(f64);

impl Moment {
    /// When the model was made.
    pub const START: Self = Self(0.0);

    /// An instant as seconds since `start`; what was before counts as the start.
    #[must_use]
    pub fn of(now: Instant, start: Instant) -> Self {
        Self(now.saturating_duration_since(start).as_secs_f64())
    }

    /// Seconds from an earlier moment to this one; 0 when it is later.
    #[must_use]
    pub fn since(self, earlier: Self) -> f64 {
        (self.0 - earlier.0).max(0.0)
    }

    /// The later of the two.
    #[must_use]
    pub fn max(self, other: Self) -> Self {
        Self(self.0.max(other.0))
    }
}

impl std::ops::Add<Duration> for Moment {
    type Output = Self;

    fn add(self, duration: Duration) -> Self {
        Self(self.0 + duration.as_secs_f64())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::{Clock, ManualClock};

    #[test]
    fn moments_are_as_far_apart_as_their_instants() {
        let start = ManualClock::new().now();
        let (early, late) = (start + Duration::from_millis(1_500), start + Duration::from_secs(86_400 * 100));
        let (early, late) = (Moment::of(early, start), Moment::of(late, start));
        assert!((late.since(early) - (8_640_000.0 - 1.5)).abs() < 1e-8);
        assert!(early < late && early.max(late) == late && early.since(late) == 0.0);
        assert!(Moment::START + Duration::from_millis(1_500) == early);
    }
}
