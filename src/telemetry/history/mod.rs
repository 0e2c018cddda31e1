//! The last quarter of an hour, step by step, so that a page that is opened late is not empty.
//!
//! Kept whether or not anybody looks: an exchange costs two short locks and a few additions. Bounded by the names in the
//! configuration times the steps.

mod track;
mod traffic;

use std::collections::HashMap;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use arc_swap::ArcSwap;

use self::track::Track;
pub use self::track::{Column, LAST_MINUTE, LOWEST_ROW, Quantiles, ROWS_PER_DECADE};
use self::traffic::Traffic;
pub use self::traffic::{Sent, Tally};
use crate::config::settings::Settings;
use crate::measure::exchange::ExchangeRecord;
use crate::measure::objective::Latency;

/// How long a step is.
pub const STEP: Duration = Duration::from_secs(5);
/// How many whole steps are kept.
pub const STEPS: usize = 180;

/// Steps that the present rate is taken over, the unfinished one included: ten to fifteen seconds.
const RATE_STEPS: u64 = 3;
/// Steps that "the last minute" is made of, the unfinished one included.
const MINUTE_STEPS: u64 = 13;

/// Some steps in a row, both ends included.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Steps {
    /// The oldest.
    pub first: u64,
    /// The newest.
    pub last: u64,
}

impl Steps {
    fn contains(&self, step: u64) -> bool {
        (self.first..=self.last).contains(&step)
    }
}

/// What happened lately, by route and by backend.
#[derive(Debug, Default)]
pub struct History {
    /// When step 0 began: with the first that is recorded or asked.
    epoch: OnceLock<Instant>,
    names: ArcSwap<Names>,
}

#[derive(Debug, Default)]
struct Names {
    routes: HashMap<Arc<str>, Arc<Mutex<Series>>>,
    backends: HashMap<Arc<str>, Arc<Mutex<Series>>>,
}

/// One route or backend.
#[derive(Debug, Default)]
struct Series {
    /// In the order of [`Latency::PROMISED`].
    tracks: [Track; Latency::PROMISED.len()],
    traffic: Traffic,
}

/// What the last minute was like.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct LastMinute {
    /// What ended, and where it had been sent.
    pub tally: Tally,
    /// In the order of [`Latency::PROMISED`]; `None` without samples.
    pub latencies: [Option<Quantiles>; Latency::PROMISED.len()],
    /// Exchanges that ended per second, over the last ten to fifteen seconds.
    pub per_second: f64,
}

impl History {
    /// The history of a configuration.
    #[must_use]
    pub fn new(settings: &Settings) -> Self {
        let history = Self::default();
        history.apply(settings);
        history
    }

    /// A new configuration: names that stay keep their history.
    pub fn apply(&self, settings: &Settings) {
        let old = self.names.load();
        let kept = |of: &HashMap<Arc<str>, Arc<Mutex<Series>>>, name: &Arc<str>| {
            (Arc::clone(name), of.get(name).map(Arc::clone).unwrap_or_default())
        };
        self.names.store(Arc::new(Names {
            routes: settings.routes.iter().map(|route| kept(&old.routes, &route.name)).collect(),
            backends: settings.backends.iter().map(|backend| kept(&old.backends, &backend.name)).collect(),
        }));
    }

    /// Adds one exchange, to its route as the client felt it, and to its backends as each try went.
    pub(super) fn record(&self, record: &ExchangeRecord, now: Instant) {
        let (names, step) = (self.names.load(), self.step(now));
        if let Some(route) = record.route.as_ref().and_then(|name| names.routes.get(name)) {
            lock(route).exchange(record, step, now);
        }
        for (place, attempt) in record.attempts.iter().enumerate() {
            let Some(backend) = names.backends.get(&attempt.backend) else { continue };
            let mut backend = lock(backend);
            backend.traffic.ended(attempt.outcome, step);
            if place + 1 == record.attempts.len() {
                let taken = Latency::PROMISED.map(|latency| record.taken(latency));
                backend.latencies(taken, step, now);
            }
        }
    }

    /// The number of the step that `now` is in.
    pub fn step(&self, now: Instant) -> u64 {
        now.saturating_duration_since(self.epoch(now)).as_secs() / STEP.as_secs()
    }

    /// How long ago a step began.
    #[must_use]
    pub fn ago(&self, step: u64, now: Instant) -> Duration {
        let began = STEP.saturating_mul(u32::try_from(step).unwrap_or(u32::MAX));
        now.saturating_duration_since(self.epoch(now)).saturating_sub(began)
    }

    /// The last minute of a route, by its name.
    pub fn route(&self, name: &str, now: Instant) -> LastMinute {
        self.names.load().routes.get(name).map(|series| self.last_minute(series, now)).unwrap_or_default()
    }

    /// The last minute of a backend, by its name: its tries, each latency from the try's beginning.
    pub fn backend(&self, name: &str, now: Instant) -> LastMinute {
        self.names.load().backends.get(name).map(|series| self.last_minute(series, now)).unwrap_or_default()
    }

    /// The columns of a route's latency in these steps, oldest first; a step without samples has none.
    pub fn columns(&self, route: &str, latency: Latency, steps: &Steps) -> Vec<Column> {
        let place = Latency::PROMISED.iter().position(|one| *one == latency);
        let names = self.names.load();
        let Some((place, series)) = place.zip(names.routes.get(route)) else { return Vec::new() };
        lock(series).tracks.get(place).map(|track| track.columns(steps)).unwrap_or_default()
    }

    /// What ended on a route in these steps, oldest first; a step in which nothing ended has no tally.
    pub fn tallies(&self, route: &str, steps: &Steps) -> Vec<Tally> {
        let names = self.names.load();
        names.routes.get(route).map(|series| lock(series).traffic.tallies(steps)).unwrap_or_default()
    }

    fn last_minute(&self, series: &Mutex<Series>, now: Instant) -> LastMinute {
        let last = self.step(now);
        let since = |steps: u64| Steps { first: (last + 1).saturating_sub(steps), last };
        let rated = since(RATE_STEPS);
        let seconds = self.ago(rated.first, now).max(Duration::from_secs(1)).as_secs_f64();
        let mut series = lock(series);
        let requests = u32::try_from(series.traffic.sum(&rated).requests()).unwrap_or(u32::MAX);
        LastMinute {
            tally: series.traffic.sum(&since(MINUTE_STEPS)),
            latencies: series.tracks.each_mut().map(|track| track.last_minute(now)),
            per_second: f64::from(requests) / seconds,
        }
    }

    fn epoch(&self, now: Instant) -> Instant {
        *self.epoch.get_or_init(|| now)
    }
}

impl Series {
    fn exchange(&mut self, record: &ExchangeRecord, step: u64, now: Instant) {
        self.traffic.ended(record.outcome, step);
        for attempt in &record.attempts {
            self.traffic.sent(&attempt.backend, attempt.reason.unwrap_or_default(), step);
        }
        if record.measured() {
            let felt = &record.latencies;
            let streamed = |value: Option<Duration>| value.filter(|_| record.stream);
            self.latencies([streamed(felt.first_token), streamed(felt.inter_token), felt.end_to_end], step, now);
        }
    }

    fn latencies(&mut self, values: [Option<Duration>; Latency::PROMISED.len()], step: u64, now: Instant) {
        for (track, value) in self.tracks.iter_mut().zip(values) {
            if let Some(value) = value {
                track.record(value, step, now);
            }
        }
    }
}

fn lock(series: &Mutex<Series>) -> std::sync::MutexGuard<'_, Series> {
    series.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::super::testing;
    use super::*;
    use crate::clock::{Clock, ManualClock};
    use crate::measure::outcome::Outcome;

    #[test]
    fn nothing_is_known_of_a_name_before_anything_ended() {
        let (history, now) = (History::new(&testing::settings()), ManualClock::new().now());
        assert_eq!(history.route("chat", now), LastMinute::default());
        assert_eq!(history.route("no such route", now), LastMinute::default());
        assert!(history.tallies("chat", &Steps { first: 0, last: 9 }).is_empty());
    }

    #[test]
    fn an_exchange_is_its_routes_as_felt_and_its_backends_as_taken() {
        let (history, start) = (History::new(&testing::settings()), ManualClock::new().now());
        let now = start + Duration::from_secs(62);
        assert_eq!(history.step(start), 0);
        let record = testing::complete();
        history.record(&record, now);
        let route = history.route("chat", now);
        assert_eq!(route.tally.ended, [(Outcome::Complete, 1)]);
        assert_eq!(route.tally.sent.iter().map(|one| one.reason).collect::<Vec<_>>(), ["probe", "cheapest_within_slo"]);
        // Twelve seconds: since the step before the one before began.
        assert!((route.per_second - 1.0 / 12.0).abs() < 1e-9, "{route:?}");
        let near = |seen: Option<Quantiles>, value: Option<Duration>| {
            let (seen, value) = (seen.unwrap().p50.as_secs_f64(), value.unwrap().as_secs_f64());
            assert!((seen / value - 1.0).abs() < 0.01, "{seen} for {value}");
        };
        near(route.latencies[0], record.latencies.first_token);
        near(history.backend("cheap", now).latencies[0], record.attempts[1].first_token);
        assert_eq!(history.backend("fast", now).tally.ended, [(record.attempts[0].outcome, 1)]);
        assert_eq!(history.columns("chat", Latency::TimeToFirstToken, &Steps { first: 12, last: 12 }).len(), 1);
        assert_eq!(history.ago(12, now), Duration::from_secs(2));
        assert_eq!(
            history.route("chat", now + Duration::from_secs(70)),
            LastMinute { tally: Tally { step: 14, ..Tally::default() }, ..LastMinute::default() }
        );
    }

    #[test]
    fn a_reload_keeps_what_stays() {
        let (history, now) = (History::new(&testing::settings()), ManualClock::new().now());
        history.record(&testing::complete(), now);
        let mut changed = testing::settings();
        changed.routes.retain(|route| &*route.name == "chat");
        history.apply(&changed);
        assert_eq!(history.route("chat", now).tally.requests(), 1);
    }
}
