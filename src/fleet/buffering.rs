//! Whether a backend's tokens are held back on their way, by what its streams looked like.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};

use crate::measure::bursts::{Delivery, Suspicion};

/// Kept per backend; the flag is read for every first token, the rest is touched at a stream's end.
#[derive(Debug, Default)]
pub(super) struct Buffering {
    confirmed: AtomicBool,
    streams: AtomicU64,
    suspicion: Mutex<Suspicion>,
}

impl Buffering {
    /// A stream ended. Answers whether its latencies are no measure of the backend: it was held back, or it was too
    /// short to tell, and the backend's streams are.
    pub(super) fn judge(&self, name: &str, delivery: Option<Delivery>) -> bool {
        let Some(delivery) = delivery else { return self.is_confirmed() };
        let held_back = delivery == Delivery::HeldBack;
        self.streams.fetch_add(u64::from(held_back), Ordering::Relaxed);
        let mut suspicion = self.suspicion.lock().unwrap_or_else(PoisonError::into_inner);
        suspicion.judged(delivery);
        let confirmed = suspicion.is_confirmed();
        if confirmed != self.confirmed.swap(confirmed, Ordering::Relaxed) {
            if confirmed {
                tracing::warn!(backend = name, "tokens come in bursts: something on their way holds them back");
            } else {
                tracing::info!(backend = name, "tokens come at their own pace again");
            }
        }
        held_back
    }

    /// Whether the backend's streams are held back, by the latest of them.
    pub(super) fn is_confirmed(&self) -> bool {
        self.confirmed.load(Ordering::Relaxed)
    }

    /// Streams that were held back, ever.
    pub(super) fn streams(&self) -> u64 {
        self.streams.load(Ordering::Relaxed)
    }
}
