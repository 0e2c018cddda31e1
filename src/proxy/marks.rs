//! How far a try has come, noted where neither a timer nor a client that leaves can lose it: a try is a future, and may
//! be dropped at any of its waits.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU16, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use crate::measure::course::TryCourse;
use crate::wire::trace_context::SpanId;

/// The steps of a try, in their order.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Step {
    Connecting,
    Connected,
    Sent,
    Head,
}

const STEPS: [Step; 4] = [Step::Connecting, Step::Connected, Step::Sent, Step::Head];

/// The notes of one try.
#[derive(Debug)]
pub(super) struct Marks {
    /// The request was complete.
    start: Instant,
    began: Instant,
    span_id: Option<SpanId>,
    server: (Arc<str>, u16),
    /// Nanoseconds from the request being complete, plus one; 0 when not reached.
    steps: [AtomicU64; STEPS.len()],
    /// 0 when there is none.
    status: AtomicU16,
    reused: AtomicBool,
}

impl Marks {
    pub(super) fn new(start: Instant, began: Instant, span_id: Option<SpanId>, server: (Arc<str>, u16)) -> Self {
        let (steps, status, reused) = Default::default();
        Self { start, began, span_id, server, steps, status, reused }
    }

    /// The try has come to this step; what came after it belongs to a connection that proved dead.
    pub(super) fn reached(&self, step: Step, at: Instant) {
        let nanos = u64::try_from(at.saturating_duration_since(self.start).as_nanos()).unwrap_or(u64::MAX);
        for (place, other) in self.steps.iter().zip(STEPS) {
            match (other as usize).cmp(&(step as usize)) {
                std::cmp::Ordering::Less => {}
                std::cmp::Ordering::Equal => place.store(nanos.saturating_add(1), Ordering::Relaxed),
                std::cmp::Ordering::Greater => place.store(0, Ordering::Relaxed),
            }
        }
    }

    /// The connection had served before.
    pub(super) fn reused(&self, reused: bool) {
        self.reused.store(reused, Ordering::Relaxed);
    }

    /// The backend's own status.
    pub(super) fn status(&self, status: u16) {
        self.status.store(status, Ordering::Relaxed);
    }

    /// What is known so far.
    pub(super) fn course(&self) -> TryCourse {
        let [connecting, connected, sent, head] =
            self.steps.each_ref().map(|step| step.load(Ordering::Relaxed).checked_sub(1).map(Duration::from_nanos));
        TryCourse {
            span_id: self.span_id,
            server: Some(self.server.clone()),
            status: Some(self.status.load(Ordering::Relaxed)).filter(|status| *status != 0),
            reused: self.reused.load(Ordering::Relaxed),
            began: self.began.saturating_duration_since(self.start),
            connecting,
            connected,
            sent,
            head,
            ..TryCourse::default()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::{Clock, ManualClock};

    #[test]
    fn a_step_taken_again_forgets_those_after_it() {
        let start = ManualClock::new().now();
        let at = |millis| start + Duration::from_millis(millis);
        let marks = Marks::new(start, at(1), None, ("b".into(), 80));
        marks.reached(Step::Connecting, at(1));
        marks.reached(Step::Connected, at(2));
        marks.reached(Step::Sent, at(3));
        marks.reached(Step::Connecting, at(5));
        let course = marks.course();
        let millis = |step: Option<Duration>| step.map(|step| step.as_millis());
        assert_eq!((millis(Some(course.began)), millis(course.connecting)), (Some(1), Some(5)));
        assert_eq!((course.connected, course.sent, course.head, course.status), (None, None, None, None));
    }

    #[test]
    fn the_very_start_is_a_time_too() {
        let start = ManualClock::new().now();
        let marks = Marks::new(start, start, Some([1; 8]), ("b".into(), 80));
        marks.reached(Step::Connecting, start);
        assert_eq!(marks.course().connecting, Some(Duration::ZERO));
    }
}
