//! Latency outliers: a backend that has become much slower than it used to be, while the others have not.
//!
//! Health checks pass and nothing fails: a throttled GPU, a neighbour on the host, a link that loses packets. Judged by
//! what its model expects now of one and the same request, against what it expected of it in the past half hour: so
//! neither load nor long prompts look like trouble, and a model that has got used to the slowness has not forgotten what
//! was before. What slows all backends at once is no outlier.

use std::time::{Duration, Instant};

/// So many times as slow as usual is slow.
pub const SLOW: f64 = 3.0;
/// Below so many times it is not slow any more.
pub const NORMAL: f64 = 1.5;
/// Slow for so long is worth telling.
pub const TOLD_AFTER: Duration = Duration::from_secs(5);
/// Slow for so long is not waited for any longer.
pub const PERSISTS_AFTER: Duration = Duration::from_secs(60);

/// Who was not looked at for so long is judged anew.
const PAUSE: Duration = Duration::from_secs(10);
/// The past counts for about so long, in seconds.
const MEMORY: f64 = 1_800.0;

/// What is expected of the same request, always, in seconds.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Pace {
    /// To its first token.
    pub ttft: f64,
    /// Between its tokens.
    pub itl: f64,
}

/// What a look has found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Found {
    /// Nothing new.
    Nothing,
    /// It has been slow for a while.
    Slow,
    /// It is not slow any more.
    Normal,
    /// It has been slow for so long that nobody should wait for it.
    Persists,
}

/// The pace of one backend, and whether it is out of the ordinary.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Outlier {
    /// The logarithms of what is usual here.
    usual: Option<(f64, f64)>,
    looked_at: Option<Instant>,
    late_since: Option<Instant>,
    told: bool,
}

impl Outlier {
    /// How much slower than usual that is, in log units; `None` before anything is usual.
    #[must_use]
    pub fn excess(&self, pace: Pace) -> Option<f64> {
        let (ttft, itl) = self.usual?;
        Some((pace.ttft.ln() - ttft).max(pace.itl.ln() - itl))
    }

    /// Whether it was told to be slow.
    #[must_use]
    pub fn is_slow(&self) -> bool {
        self.told
    }

    /// Looks at it, about once a second. `others` is how much slower than usual the others are, in log units.
    pub fn look(&mut self, pace: Pace, others: f64, now: Instant) -> Found {
        if !(pace.ttft > 0.0 && pace.itl > 0.0 && pace.ttft.is_finite() && pace.itl.is_finite()) {
            return Found::Nothing;
        }
        let Some(excess) = self.excess(pace) else {
            self.remember(pace, now);
            return Found::Nothing;
        };
        if self.looked_at.is_some_and(|at| now.saturating_duration_since(at) > PAUSE) {
            self.late_since = None;
        }
        let excess = excess - others.max(0.0);
        let still_late = self.late_since.is_some() && excess > NORMAL.ln();
        if excess < SLOW.ln() && !still_late {
            self.remember(pace, now);
            self.late_since = None;
            return if std::mem::take(&mut self.told) { Found::Normal } else { Found::Nothing };
        }
        // While it is late its pace is not what is usual.
        self.looked_at = Some(now);
        let late = now.saturating_duration_since(*self.late_since.get_or_insert(now));
        if late >= PERSISTS_AFTER {
            // Should the pool not spare it, it is asked for again a minute later.
            self.late_since = Some(now);
            return Found::Persists;
        }
        if late >= TOLD_AFTER && !self.told {
            self.told = true;
            return Found::Slow;
        }
        Found::Nothing
    }

    fn remember(&mut self, pace: Pace, now: Instant) {
        let new = (pace.ttft.ln(), pace.itl.ln());
        let since = self.looked_at.replace(now).map(|at| now.saturating_duration_since(at).as_secs_f64());
        let gain = since.map_or(1.0, |since| 1.0 - (-since / MEMORY).exp());
        let (ttft, itl) = self.usual.unwrap_or(new);
        self.usual = Some((ttft + gain * (new.0 - ttft), itl + gain * (new.1 - itl)));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::{Clock, ManualClock};

    const SECOND: Duration = Duration::from_secs(1);

    struct Bench {
        now: Instant,
        outlier: Outlier,
    }

    impl Bench {
        fn new() -> Self {
            let mut bench = Self { now: ManualClock::new().now(), outlier: Outlier::default() };
            assert_eq!(bench.looks(600, 1.0, 0.0), []);
            bench
        }

        /// Looks once a second while it is so many times as slow as it was; what that found, and after how long.
        fn looks(&mut self, seconds: u32, times: f64, others: f64) -> Vec<(u32, Found)> {
            let pace = Pace { ttft: 0.1 * times, itl: 0.01 * times };
            let mut found = Vec::new();
            for second in 0..seconds {
                self.now += SECOND;
                match self.outlier.look(pace, others, self.now) {
                    Found::Nothing => {}
                    one => found.push((second, one)),
                }
            }
            found
        }
    }

    #[test]
    fn three_times_as_slow_is_told_after_five_seconds_and_persists_after_a_minute() {
        let mut bench = Bench::new();
        assert_eq!(bench.looks(30, 2.5, 0.0), [], "not slow enough");
        assert_eq!(bench.looks(3, 9.0, 0.0), [], "not for long enough");
        assert_eq!(bench.looks(30, 1.0, 0.0), []);
        assert_eq!(bench.looks(70, 4.0, 0.0), [(5, Found::Slow), (60, Found::Persists)]);
        assert!(bench.outlier.is_slow());
        assert_eq!(bench.looks(30, 2.0, 0.0), [], "better, and not as before");
        assert_eq!(bench.looks(10, 1.0, 0.0), [(0, Found::Normal)]);
    }

    #[test]
    fn what_slows_all_is_no_outlier_and_what_slows_this_one_more_is() {
        let mut bench = Bench::new();
        assert_eq!(bench.looks(300, 4.0, 4.0_f64.ln()), []);
        assert_eq!(bench.looks(10, 16.0, 4.0_f64.ln()), [(5, Found::Slow)]);
    }

    #[test]
    fn others_that_became_faster_make_nobody_slow() {
        assert_eq!(Bench::new().looks(300, 1.2, -3.0), []);
    }

    #[test]
    fn slowness_is_not_got_used_to_while_it_lasts_and_a_slow_drift_is() {
        let mut bench = Bench::new();
        let persists = bench.looks(3_600, 4.0, 0.0).iter().filter(|(_, found)| *found == Found::Persists).count();
        assert!(persists > 50, "{persists}");
        let (mut drifting, mut times) = (Bench::new(), 1.0);
        for _ in 0..60 {
            times *= 1.03;
            assert_eq!(drifting.looks(300, times, 0.0), [], "{times}");
        }
    }

    #[test]
    fn what_is_no_number_is_not_looked_at() {
        let mut bench = Bench::new();
        for times in [0.0, -1.0, f64::NAN, f64::INFINITY] {
            assert_eq!(bench.looks(100, times, 0.0), []);
        }
        assert!(!bench.outlier.is_slow());
    }
}
