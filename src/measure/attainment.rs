//! How well objectives are kept: good and judged exchanges over trailing windows, error budget and burn rate.
//!
//! Three rings of counters, ever coarser, so that a minute and a month are both at hand in some twelve kilobytes: ten
//! minutes by the second, a day by the five minutes, forty days by the hour and a half.

use std::time::{Duration, Instant};

use super::objective::{Latency, Verdicts};
use crate::units::Quantile;

/// Exchanges that an objective judged.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Attainment {
    /// Within the promise.
    pub good: u64,
    /// Judged at all.
    pub total: u64,
}

impl Attainment {
    /// The share that kept the promise; `None` when nothing was judged.
    #[must_use]
    #[allow(clippy::cast_precision_loss, reason = "counts are far below 2^53")]
    pub fn share(&self) -> Option<f64> {
        (self.total > 0).then(|| self.good as f64 / self.total as f64)
    }

    /// How many times faster than allowed the budget is spent: the share missed ÷ the share that may be missed.
    #[must_use]
    pub fn burn_rate(&self, target: Quantile) -> Option<f64> {
        self.share().map(|share| (1.0 - share) / (1.0 - target.share()))
    }

    /// The share of the error budget that is left, when this is the whole budget period; below 0 when overspent.
    #[must_use]
    pub fn budget_left(&self, target: Quantile) -> Option<f64> {
        self.burn_rate(target).map(|burn| 1.0 - burn)
    }

    pub(super) fn add(&mut self, good: bool) {
        self.good += u64::from(good);
        self.total += 1;
    }
}

/// Good and judged exchanges of one objective, over any trailing window up to forty days.
#[derive(Debug)]
pub struct AttainmentWindow {
    epoch: Instant,
    rings: [Ring; 3],
    totals: Attainment,
}

#[derive(Debug)]
struct Ring {
    step: Duration,
    /// Number of the current bucket, counted from the epoch.
    turn: u64,
    /// Good and judged; saturating, which a bucket of an hour and a half does not reach.
    buckets: Box<[(u32, u32)]>,
}

impl AttainmentWindow {
    /// An empty window; `now` fixes where its buckets begin.
    #[must_use]
    pub fn new(now: Instant) -> Self {
        let ring = |step, len| Ring { step: Duration::from_secs(step), turn: 0, buckets: vec![(0, 0); len].into() };
        Self { epoch: now, rings: [ring(1, 601), ring(300, 289), ring(5400, 641)], totals: Attainment::default() }
    }

    /// Adds one judged exchange.
    pub fn record(&mut self, good: bool, now: Instant) {
        let elapsed = now.saturating_duration_since(self.epoch);
        self.totals.add(good);
        for ring in &mut self.rings {
            ring.advance(elapsed);
            ring.add(good);
        }
    }

    /// The exchanges of the last `window`, exact to a bucket: one second up to ten minutes, five minutes up to a day.
    pub fn over(&mut self, window: Duration, now: Instant) -> Attainment {
        let elapsed = now.saturating_duration_since(self.epoch);
        for ring in &mut self.rings {
            ring.advance(elapsed);
        }
        let fitting = self.rings.iter().find(|ring| window <= ring.reach()).or(self.rings.last());
        fitting.map(|ring| ring.over(window)).unwrap_or_default()
    }

    /// All exchanges ever.
    #[must_use]
    pub fn totals(&self) -> Attainment {
        self.totals
    }
}

impl Ring {
    /// The longest window: the current bucket is not whole yet.
    fn reach(&self) -> Duration {
        self.step.saturating_mul(u32::try_from(self.buckets.len().saturating_sub(1)).unwrap_or(u32::MAX))
    }

    fn advance(&mut self, elapsed: Duration) {
        let turn = elapsed.as_secs() / self.step.as_secs().max(1);
        let steps = turn.saturating_sub(self.turn).min(self.buckets.len() as u64);
        for step in 0..steps {
            if let Some(bucket) = self.bucket(turn - step) {
                *bucket = (0, 0);
            }
        }
        self.turn = self.turn.max(turn);
    }

    fn add(&mut self, good: bool) {
        let turn = self.turn;
        if let Some((goods, total)) = self.bucket(turn) {
            *goods = goods.saturating_add(u32::from(good));
            *total = total.saturating_add(1);
        }
    }

    fn bucket(&mut self, turn: u64) -> Option<&mut (u32, u32)> {
        let place = turn.checked_rem(self.buckets.len() as u64)?;
        self.buckets.get_mut(usize::try_from(place).ok()?)
    }

    /// The current bucket and as many whole ones before it as the window is long.
    fn over(&self, window: Duration) -> Attainment {
        let len = self.buckets.len() as u64;
        let whole = u64::try_from(window.as_nanos().div_ceil(self.step.as_nanos().max(1))).unwrap_or(u64::MAX);
        let mut sum = Attainment::default();
        for back in 0..whole.saturating_add(1).min(len).min(self.turn.saturating_add(1)) {
            let place = usize::try_from((self.turn - back) % len).unwrap_or(usize::MAX);
            if let Some((good, total)) = self.buckets.get(place) {
                sum.good += u64::from(*good);
                sum.total += u64::from(*total);
            }
        }
        sum
    }
}

/// The attainment of a route: per promised latency, and of all of them together.
#[derive(Debug)]
pub struct RouteAttainment {
    per_latency: [AttainmentWindow; 3],
    joint: AttainmentWindow,
}

impl RouteAttainment {
    /// Empty windows; `now` fixes where their buckets begin.
    #[must_use]
    pub fn new(now: Instant) -> Self {
        Self { per_latency: Latency::PROMISED.map(|_| AttainmentWindow::new(now)), joint: AttainmentWindow::new(now) }
    }

    /// Adds the verdicts on one exchange; a latency that was not judged counts nowhere.
    pub fn record(&mut self, verdicts: &Verdicts, now: Instant) {
        for (window, latency) in self.per_latency.iter_mut().zip(Latency::PROMISED) {
            if let Some(good) = verdicts.of(latency) {
                window.record(good, now);
            }
        }
        if let Some(good) = verdicts.joint() {
            self.joint.record(good, now);
        }
    }

    /// The window of one promised latency.
    pub fn of(&mut self, latency: Latency) -> Option<&mut AttainmentWindow> {
        Latency::PROMISED.iter().position(|one| *one == latency).and_then(|place| self.per_latency.get_mut(place))
    }

    /// The window of all promised latencies together.
    pub fn joint(&mut self) -> &mut AttainmentWindow {
        &mut self.joint
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::{Clock, ManualClock};

    #[test]
    fn exchanges_leave_every_window_in_time() {
        let begin = ManualClock::new().now();
        let at = |seconds| begin + Duration::from_secs(seconds);
        let mut window = AttainmentWindow::new(begin);
        for second in 0..600 {
            window.record(second % 10 != 0, at(second));
        }
        let now = at(599);
        assert_eq!(window.over(Duration::from_secs(599), now), Attainment { good: 540, total: 600 });
        assert_eq!(window.over(Duration::from_secs(9), now), Attainment { good: 9, total: 10 });
        assert_eq!(window.over(Duration::from_secs(60), at(100_000)).total, 0);
        assert_eq!(window.over(Duration::from_secs(30 * 86_400), at(100_000)).total, 600);
        assert_eq!(window.over(Duration::from_secs(30 * 86_400), at(40 * 86_400)).total, 0);
        assert_eq!(window.totals().total, 600);
    }

    #[test]
    fn the_burn_rate_is_the_missed_share_over_the_allowed_one() {
        let attainment = Attainment { good: 90, total: 100 };
        assert!((attainment.burn_rate(Quantile::P95).unwrap() - 2.0).abs() < 1e-9);
        assert!((attainment.budget_left(Quantile::P95).unwrap() + 1.0).abs() < 1e-9);
        assert_eq!(Attainment::default().burn_rate(Quantile::P95), None);
    }

    #[test]
    fn a_latency_that_was_not_judged_counts_nowhere() {
        let now = ManualClock::new().now();
        let mut route = RouteAttainment::new(now);
        route.record(&Verdicts { ttft: Some(true), itl: None, e2e: Some(false) }, now);
        let over = Duration::from_secs(60);
        assert_eq!(route.of(Latency::TimeToFirstToken).unwrap().over(over, now), Attainment { good: 1, total: 1 });
        assert_eq!(route.of(Latency::InterToken).unwrap().over(over, now), Attainment::default());
        assert_eq!(route.joint().over(over, now), Attainment { good: 0, total: 1 });
        assert!(route.of(Latency::InterChunk).is_none());
    }
}
