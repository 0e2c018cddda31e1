//! `/api/v1/events`: what the dashboard shows, once a second, as server-sent events.
//!
//! Nothing runs for it in the background. A viewer's connection asks for the tick of the current second when it can
//! take one; the first to ask makes it, the others get the same bytes. A viewer that is slow asks less often, and makes
//! nobody wait: when it has missed a tick, it gets the whole picture instead of the latest change.

use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use bytes::Bytes;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::{Interval, MissedTickBehavior, interval};

use super::Services;
use super::picture::{self, Extent};

/// Most viewers at once; some connections of the listener are left for probes and scrapers.
pub(super) const VIEWERS: usize = 16;
/// How often there is something new.
const TICK: Duration = Duration::from_secs(1);
/// After so long a viewer is told to come again: its token may have changed, and a dead one must not keep its place.
const STAY: Duration = Duration::from_secs(240);

/// Everyone who looks, and what was made for them last.
pub(super) struct Audience {
    places: Arc<Semaphore>,
    /// When tick 0 began.
    epoch: OnceLock<Instant>,
    latest: Mutex<Latest>,
}

/// One tick; each text is made when it is first asked for.
#[derive(Default)]
struct Latest {
    number: u64,
    change: Option<Bytes>,
    whole: Option<Bytes>,
}

/// One event stream.
pub(super) struct Viewer {
    services: Arc<Services>,
    audience: Arc<Audience>,
    _place: OwnedSemaphorePermit,
    interval: Interval,
    begun: Option<Instant>,
    /// The last tick it was given.
    given: Option<u64>,
    left: bool,
}

impl Audience {
    pub(super) fn new() -> Arc<Self> {
        let places = Arc::new(Semaphore::new(VIEWERS));
        Arc::new(Self { places, epoch: OnceLock::new(), latest: Mutex::default() })
    }

    /// A place for one more; `None` when all are taken.
    pub(super) fn admit(self: &Arc<Self>, services: &Arc<Services>) -> Option<Viewer> {
        let place = Arc::clone(&self.places).try_acquire_owned().ok()?;
        let mut interval = interval(TICK);
        interval.set_missed_tick_behavior(MissedTickBehavior::Skip);
        Some(Viewer {
            services: Arc::clone(services),
            audience: Arc::clone(self),
            _place: place,
            interval,
            begun: None,
            given: None,
            left: false,
        })
    }

    fn number(&self, now: Instant) -> u64 {
        now.saturating_duration_since(*self.epoch.get_or_init(|| now)).as_secs() / TICK.as_secs()
    }

    /// The text of this tick, made once for everyone.
    fn text(&self, services: &Services, extent: Extent, number: u64, now: Instant) -> Bytes {
        let mut latest = self.latest.lock().unwrap_or_else(PoisonError::into_inner);
        if latest.number != number {
            *latest = Latest { number, ..Latest::default() };
        }
        let kept = match extent {
            Extent::Whole => &mut latest.whole,
            Extent::Change => &mut latest.change,
        };
        kept.get_or_insert_with(|| event(extent.name(), &picture::draw(services, extent, number, now))).clone()
    }
}

impl Viewer {
    /// The next event, as the connection can take one; `None` at the end of its stay.
    pub(super) fn poll_event(&mut self, context: &mut Context<'_>) -> Poll<Option<Bytes>> {
        if self.left {
            return Poll::Ready(None);
        }
        if self.interval.poll_tick(context).is_pending() {
            return Poll::Pending;
        }
        let now = self.services.clock.now();
        if now.saturating_duration_since(*self.begun.get_or_insert(now)) >= STAY {
            self.left = true;
            return Poll::Ready(Some(Bytes::from_static(b"event: again\ndata: {}\n\n")));
        }
        let number = self.audience.number(now);
        let extent = match self.given {
            Some(given) if number.saturating_sub(given) <= 1 => Extent::Change,
            _ => Extent::Whole,
        };
        self.given = Some(number);
        Poll::Ready(Some(self.audience.text(&self.services, extent, number, now)))
    }
}

/// JSON as one line of data.
fn event(name: &str, data: &impl serde::Serialize) -> Bytes {
    let mut text = format!("event: {name}\ndata: ").into_bytes();
    // Only values that serialise without fail: maps have text keys, numbers are finite or null.
    let _ = serde_json::to_writer(&mut text, data);
    text.extend_from_slice(b"\n\n");
    text.into()
}
