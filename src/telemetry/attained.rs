//! How well one route keeps its promises, over trailing windows.

use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use super::series::JUDGED;
use crate::measure::attainment::{Attainment, AttainmentWindow};

/// The windows of the burn rate, and their names: the pairs that alerting on burn rates is built of (short to notice,
/// long to be sure).
pub(super) const BURN_WINDOWS: [(&str, Duration); 4] = [
    ("5m", Duration::from_secs(300)),
    ("1h", Duration::from_secs(3_600)),
    ("6h", Duration::from_secs(6 * 3_600)),
    ("3d", Duration::from_secs(3 * 86_400)),
];

/// One window per [`JUDGED`]; there once something was judged.
#[derive(Debug, Default)]
pub(super) struct Attained(Mutex<[Option<AttainmentWindow>; JUDGED.len()]>);

impl Attained {
    pub(super) fn record(&self, verdicts: [Option<bool>; JUDGED.len()], now: Instant) {
        if verdicts == [None; JUDGED.len()] {
            return;
        }
        let mut windows = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        for (window, verdict) in windows.iter_mut().zip(verdicts) {
            if let Some(good) = verdict {
                window.get_or_insert_with(|| AttainmentWindow::new(now)).record(good, now);
            }
        }
    }

    /// What became of the objective at this place of [`JUDGED`] in the last `window`.
    pub(super) fn over(&self, place: usize, window: Duration, now: Instant) -> Attainment {
        let mut windows = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let judged = windows.get_mut(place).and_then(Option::as_mut);
        judged.map(|judged| judged.over(window, now)).unwrap_or_default()
    }
}
