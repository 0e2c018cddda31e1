//! `/api/v1/events`: what the dashboard shows, once a second, as server-sent events.
//!
//! Nothing runs for it in the background. A viewer's connection asks for the tick of the current second when it can
//! take one; the first to ask makes it, the others get the same bytes. A viewer that is slow asks less often, and makes
//! nobody wait: when it has missed a tick, it gets the whole picture instead of the latest change.

use std::pin::Pin;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use bytes::Bytes;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::{Sleep, sleep};

use super::Services;
use super::picture::{Extent, Picture};

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

/// One tick; each text is made when it is first asked for, all of the same figures.
#[derive(Default)]
struct Latest {
    number: u64,
    picture: Option<Picture>,
    change: Option<Bytes>,
    whole: Option<Bytes>,
}

/// One event stream.
pub(super) struct Viewer {
    services: Arc<Services>,
    audience: Arc<Audience>,
    _place: OwnedSemaphorePermit,
    /// Until the next tick; there once there was a first one.
    pause: Option<Pin<Box<Sleep>>>,
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
        Some(Viewer {
            services: Arc::clone(services),
            audience: Arc::clone(self),
            _place: place,
            pause: None,
            begun: None,
            given: None,
            left: false,
        })
    }

    /// The number of the present tick, and how long it still is.
    fn tick(&self, now: Instant) -> (u64, Duration) {
        let since = now.saturating_duration_since(*self.epoch.get_or_init(|| now));
        let number = since.as_secs() / TICK.as_secs();
        (number, TICK.saturating_sub(since.saturating_sub(Duration::from_secs(number * TICK.as_secs()))))
    }

    /// The text of this tick, made once for everyone.
    fn text(&self, services: &Services, extent: Extent, number: u64, now: Instant) -> Bytes {
        let mut latest = self.latest.lock().unwrap_or_else(PoisonError::into_inner);
        if latest.number != number {
            *latest = Latest { number, ..Latest::default() };
        }
        let Latest { picture, change, whole, .. } = &mut *latest;
        let picture = picture.get_or_insert_with(|| Picture::new(services, number, now));
        let kept = match extent {
            Extent::Whole => whole,
            Extent::Change => change,
        };
        kept.get_or_insert_with(|| event(extent.name(), &picture.with_history(services, extent))).clone()
    }
}

impl Viewer {
    /// The next event, as the connection can take one; `None` at the end of its stay.
    pub(super) fn poll_event(&mut self, context: &mut Context<'_>) -> Poll<Option<Bytes>> {
        if self.left {
            return Poll::Ready(None);
        }
        if self.pause.as_mut().is_some_and(|pause| pause.as_mut().poll(context).is_pending()) {
            return Poll::Pending;
        }
        let event = self.event();
        let (_, rest) = self.audience.tick(self.services.clock.now());
        self.pause = Some(Box::pin(sleep(rest)));
        Poll::Ready(Some(event))
    }

    /// What is due now.
    fn event(&mut self) -> Bytes {
        let now = self.services.clock.now();
        if now.saturating_duration_since(*self.begun.get_or_insert(now)) >= STAY {
            self.left = true;
            return Bytes::from_static(b"event: again\ndata: {}\n\n");
        }
        let (number, _) = self.audience.tick(now);
        let extent = match self.given {
            Some(given) if number.saturating_sub(given) <= 1 => Extent::Change,
            _ => Extent::Whole,
        };
        self.given = Some(number);
        self.audience.text(&self.services, extent, number, now)
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

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicBool;
    use std::time::SystemTime;

    use super::super::{ConfigStatus, ReloadOutcome};
    use super::*;
    use crate::clock::{Clock, ManualClock};
    use crate::config::{self, NoEnvironment};
    use crate::fleet::Fleet;
    use crate::telemetry::Telemetry;

    const CONFIGURATION: &str = "listeners: [{ address: \"127.0.0.1:0\" }]\n\
        backends: [{ name: a, url: \"http://127.0.0.1:1\", models: [m] }]\nroutes: [{ name: r, backends: [a] }]\n";

    fn services(clock: &Arc<ManualClock>) -> Arc<Services> {
        let settings = config::parse("test.yaml", CONFIGURATION, &NoEnvironment).unwrap().settings;
        let telemetry = Arc::new(Telemetry::new(&settings).unwrap());
        let fleet = Arc::new(Fleet::new(Arc::new(settings), clock.now()).unwrap());
        let at = SystemTime::UNIX_EPOCH;
        let status = ConfigStatus {
            hash: String::new(),
            applied_at: at,
            read_at: at,
            trigger: "start",
            errors: Vec::new(),
            notes: Vec::new(),
        };
        let status = Arc::new(status);
        Arc::new(Services {
            fleet: Arc::new(move || Arc::clone(&fleet)),
            telemetry,
            clock: Arc::clone(clock) as Arc<dyn Clock>,
            configuration: Arc::new(move || Arc::clone(&status)),
            reload: Arc::new(|| ReloadOutcome::Applied { notes: Vec::new() }),
            drain: Arc::new(|| ()),
            resources: Arc::new(Vec::new),
            draining: Arc::new(AtomicBool::new(false)),
        })
    }

    /// What the viewer is given once so many seconds have passed.
    fn after(seconds: u64, clock: &ManualClock, viewer: &mut Viewer) -> Bytes {
        clock.advance(Duration::from_secs(seconds));
        viewer.event()
    }

    fn name(event: &Bytes) -> String {
        String::from_utf8_lossy(event).lines().next().unwrap_or_default().to_owned()
    }

    #[tokio::test]
    async fn who_missed_a_tick_gets_the_whole_and_all_get_the_same_bytes() {
        let clock = Arc::new(ManualClock::new());
        let (services, audience) = (services(&clock), Audience::new());
        let (mut one, mut other) = (audience.admit(&services).unwrap(), audience.admit(&services).unwrap());
        let first = after(0, &clock, &mut one);
        assert_eq!(name(&first), "event: whole");
        let same = after(0, &clock, &mut other);
        assert_eq!(first.as_ptr(), same.as_ptr(), "made once");
        assert_eq!(name(&after(1, &clock, &mut one)), "event: change");
        assert_eq!(name(&after(1, &clock, &mut one)), "event: change");
        assert_eq!(name(&after(0, &clock, &mut other)), "event: whole", "it did not ask for two seconds");
        assert_eq!(name(&after(1, &clock, &mut other)), "event: change");
    }

    #[tokio::test]
    async fn a_viewer_is_told_to_come_again_and_its_place_is_free_then() {
        let clock = Arc::new(ManualClock::new());
        let (services, audience) = (services(&clock), Audience::new());
        let mut viewers: Vec<_> = (0..VIEWERS).map(|_| audience.admit(&services).unwrap()).collect();
        assert!(audience.admit(&services).is_none(), "one too many");
        let mut viewer = viewers.pop().unwrap();
        assert_eq!(name(&after(0, &clock, &mut viewer)), "event: whole");
        assert_eq!(name(&after(STAY.as_secs(), &clock, &mut viewer)), "event: again");
        let ended = std::future::poll_fn(|context| viewer.poll_event(context)).await;
        assert_eq!(ended, None);
        drop(viewer);
        assert!(audience.admit(&services).is_some());
    }
}
