//! The only reader of the machine's clock.
//!
//! Everything else is told the time: a socket loop asks once per event and passes `now` down, tests move a
//! [`ManualClock`], and the simulators pass instants of their own to the very same code.

use std::sync::Mutex;
use std::time::{Duration, Instant, SystemTime};

/// How long every accept loop rests after an accept that failed: out of descriptors, it would fail again at once.
pub const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Where the time comes from.
pub trait Clock: Send + Sync {
    /// The monotonic instant; every duration is a difference of two of these.
    fn now(&self) -> Instant;
    /// The wall-clock time; for time stamps in logs and files, never for durations.
    fn wall(&self) -> SystemTime;
}

/// The machine's clock.
#[derive(Debug, Clone, Copy, Default)]
pub struct SystemClock;

impl Clock for SystemClock {
    #[allow(clippy::disallowed_methods, reason = "this is the one place that reads the clock")]
    fn now(&self) -> Instant {
        Instant::now()
    }

    #[allow(clippy::disallowed_methods, reason = "this is the one place that reads the clock")]
    fn wall(&self) -> SystemTime {
        SystemTime::now()
    }
}

/// Microseconds of the machine's monotonic clock, as other programs on it count them.
#[must_use]
pub fn monotonic_micros() -> u64 {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::Monotonic);
    let part = |number: i64| u64::try_from(number).unwrap_or(0);
    part(time.tv_sec).saturating_mul(1_000_000).saturating_add(part(time.tv_nsec) / 1000)
}

/// A clock that stands still until it is moved.
#[derive(Debug)]
pub struct ManualClock {
    start: (Instant, SystemTime),
    passed: Mutex<Duration>,
}

impl ManualClock {
    /// A clock that starts at the machine's present time.
    #[must_use]
    pub fn new() -> Self {
        Self { start: (SystemClock.now(), SystemClock.wall()), passed: Mutex::new(Duration::ZERO) }
    }

    /// Moves the clock forward.
    pub fn advance(&self, by: Duration) {
        let mut passed = self.passed.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        *passed = passed.saturating_add(by);
    }

    fn passed(&self) -> Duration {
        *self.passed.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }
}

impl Default for ManualClock {
    fn default() -> Self {
        Self::new()
    }
}

impl Clock for ManualClock {
    fn now(&self) -> Instant {
        self.start.0 + self.passed()
    }

    fn wall(&self) -> SystemTime {
        self.start.1 + self.passed()
    }
}
