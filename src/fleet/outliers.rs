//! Backends that have become much slower than they used to be, while the others have not: told at once, shown, and taken
//! out when it lasts.

use std::sync::PoisonError;
use std::time::Instant;

use super::Fleet;
use crate::route::outlier::{Found, PERSISTS_AFTER, Pace};

impl Fleet {
    /// Looks at the pace of every backend; answers how many were ejected for it. To be called about every second.
    pub fn watch_paces(&self, now: Instant) -> usize {
        let paces: Vec<Option<Pace>> = self.backends().iter().map(|one| one.shared.model().pace(now)).collect();
        let excess: Vec<Option<f64>> =
            self.backends().iter().zip(&paces).map(|(one, pace)| one.shared.outlier().excess((*pace)?)).collect();
        let mut ejected = 0;
        for (place, (backend, pace)) in self.backends().iter().zip(&paces).enumerate() {
            let Some(pace) = pace else { continue };
            let others = excess.iter().enumerate().filter(|(other, _)| *other != place).filter_map(|(_, one)| *one);
            let found = backend.shared.outlier().look(*pace, median(others.collect()), now);
            let name = backend.name();
            match found {
                Found::Slow => tracing::warn!(
                    backend = %name,
                    ttft_ms = pace.ttft * 1e3,
                    itl_ms = pace.itl * 1e3,
                    "much slower than it used to be, and the others are not"
                ),
                Found::Normal => tracing::info!(backend = %name, "as fast as it used to be again"),
                Found::Persists if backend.settings().health.eject_slow && backend.shared.trip(now) => {
                    ejected += 1;
                    tracing::warn!(backend = %name, after = ?PERSISTS_AFTER, "ejected: it stayed slow");
                }
                Found::Nothing | Found::Persists => {}
            }
        }
        ejected
    }
}

/// Of none it is nothing.
fn median(mut all: Vec<f64>) -> f64 {
    all.sort_unstable_by(f64::total_cmp);
    all.get(all.len() / 2).copied().unwrap_or(0.0)
}

impl super::backend::Shared {
    pub(super) fn outlier(&self) -> std::sync::MutexGuard<'_, crate::route::outlier::Outlier> {
        self.outlier.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
