//! The progress watchdog: a backend that owes answers and sends nothing is ejected, though its health checks pass.
//!
//! An engine can hang while its front end still says "ready". How long silence may last follows from what was seen
//! there: three times the time to first token where streams are in flight, else three times a whole answer.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use super::backend::LiveBackend;
use super::{Fleet, LiveRoute};
use crate::measure::objective::Latency;
use crate::units::Quantile;

/// The shortest silence that is suspicious.
const SHORTEST: Duration = Duration::from_secs(20);
const TIMES: u32 = 3;

impl Fleet {
    /// Ejects the backends that make no progress; answers how many. To be called about every second.
    pub fn eject_stalled(&self, now: Instant) -> usize {
        let stalled = |backend: &&Arc<LiveBackend>| self.stalled(backend, now);
        self.backends().iter().filter(stalled).filter(|backend| backend.shared.trip(now)).count()
    }

    fn stalled(&self, backend: &LiveBackend, now: Instant) -> bool {
        if !backend.shared.is_owing() {
            return false;
        }
        let silence = now.saturating_duration_since(backend.shared.last_progress());
        silence > SHORTEST && self.patience(backend, now).is_some_and(|patience| silence > patience)
    }

    /// How long the backend may be silent; `None` when nothing is known that it could be measured by.
    fn patience(&self, backend: &LiveBackend, now: Instant) -> Option<Duration> {
        let streaming = backend.shared.streaming.load(Ordering::Relaxed) > 0;
        let latency = if streaming { Latency::TimeToFirstToken } else { Latency::EndToEnd };
        let seen = |route: &Arc<LiveRoute>| route.observed_at(backend.name(), latency, Quantile::P95, now)?.estimate;
        let slowest = self.routes().iter().filter_map(seen).max();
        let known = if streaming { Some(slowest.unwrap_or_default()) } else { slowest };
        known.map(|slowest| slowest.saturating_mul(TIMES).max(SHORTEST))
    }
}
