//! The progress watchdog: a backend that owes answers and sends nothing is ejected, though its health checks pass.
//!
//! An engine can hang while its front end still says "ready". How long silence may last follows from what was expected
//! of the requests in flight when they were sent, and not from what is expected now: the longer a backend is silent, the
//! less would be expected of it.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use super::Fleet;
use super::backend::LiveBackend;

/// The shortest silence that is suspicious.
const SHORTEST: Duration = Duration::from_secs(20);
const TIMES: f64 = 3.0;

impl Fleet {
    /// Ejects the backends that make no progress; answers how many. To be called about every second.
    pub fn eject_stalled(&self, now: Instant) -> usize {
        let stalled = |backend: &&Arc<LiveBackend>| stalled(backend, now);
        self.backends().iter().filter(stalled).filter(|backend| backend.shared.trip(now)).count()
    }
}

fn stalled(backend: &LiveBackend, now: Instant) -> bool {
    if !backend.shared.is_owing() {
        return false;
    }
    let silence = now.saturating_duration_since(backend.shared.last_progress());
    silence > SHORTEST && patience(backend).is_some_and(|patience| silence > patience)
}

/// How long the backend may be silent: where it owes streams, by the longest first token that is waited for; else by the
/// longest whole answer, and `None` when nothing is known that it could be measured by.
fn patience(backend: &LiveBackend) -> Option<Duration> {
    let streaming = backend.shared.streaming.load(Ordering::Relaxed) > 0;
    let model = backend.shared.model();
    let load = model.load();
    let longest = if streaming { Some(load.longest_first_token().unwrap_or(0.0)) } else { load.longest_answer() };
    longest.map(|seconds| Duration::try_from_secs_f64(TIMES * seconds).unwrap_or(Duration::MAX).max(SHORTEST))
}
