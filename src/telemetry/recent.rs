//! The last exchanges, for the API: a ring of fixed length.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, PoisonError};

use crate::measure::exchange::ExchangeRecord;

/// Most exchanges kept.
pub const KEPT: usize = 1_000;

/// The last [`KEPT`] exchanges.
#[derive(Debug, Default)]
pub struct Recent(Mutex<VecDeque<Arc<ExchangeRecord>>>);

impl Recent {
    /// Adds one, and lets go of the oldest when the ring is full. The lock is held for a pointer's move; what falls out
    /// is freed after it.
    pub(super) fn push(&self, record: Arc<ExchangeRecord>) {
        let mut ring = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let oldest = if ring.len() >= KEPT { ring.pop_front() } else { None };
        ring.push_back(record);
        drop(ring);
        drop(oldest);
    }

    /// The newest `limit`, newest first.
    #[must_use]
    pub fn newest(&self, limit: usize) -> Vec<Arc<ExchangeRecord>> {
        let ring = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        ring.iter().rev().take(limit).map(Arc::clone).collect()
    }

    /// The newest with that request id.
    #[must_use]
    pub fn find(&self, request_id: &str) -> Option<Arc<ExchangeRecord>> {
        let ring = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        ring.iter().rev().find(|record| &*record.request_id == request_id).map(Arc::clone)
    }
}
