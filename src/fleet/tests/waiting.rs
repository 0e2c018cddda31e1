//! Those that wait for a place, and what must be back at zero whatever happened.

use proptest::prelude::*;

use super::*;
use crate::route::admission::OnOverload;

fn queued(depth: usize, priority: i32) -> impl Fn(&str) -> Route {
    move |name| {
        let on_overload = OnOverload::Queue { depth, wait: SECOND * 60 };
        Route { priority, on_overload, ..route(name, &[0]) }
    }
}

/// Two routes over one backend with one place; the second is the more important.
fn two_routes(now: Instant) -> Fleet {
    let one = Backend { max_in_flight: Some(1), ..backend("a") };
    let routes = vec![queued(3, 0)("low"), queued(3, 5)("high")];
    let fleet = Fleet::new(settings(vec![one], routes), now).unwrap();
    fleet.backends()[0].shared.checked(CheckOutcome::Passed, now);
    fleet
}

async fn is_called(place: &Place) -> bool {
    // Far below the time after which the first of a route tries by itself.
    tokio::time::timeout(Duration::from_millis(10), place.turn()).await == Ok(Turn::Try)
}

#[tokio::test]
async fn whoever_frees_a_place_calls_the_most_important_and_it_hands_the_call_on() {
    let now = now();
    let fleet = two_routes(now);
    let deadline = now + SECOND * 60;
    let held = send(&fleet, now);
    let [early, late] = [SECOND * 59, SECOND * 60].map(|wait| fleet.join(0, now + wait).unwrap());
    let high = fleet.join(1, deadline).unwrap();
    assert_eq!(fleet.queued(), 3);
    assert!(fleet.must_wait(0, deadline) && !fleet.must_wait(1, now));
    drop(held);
    assert!(!is_called(&early).await && is_called(&high).await);
    high.pass();
    assert!(!is_called(&late).await && is_called(&early).await);
    drop(early);
    assert!(is_called(&late).await, "the next of the route tries when the first has left");
    drop((late, high));
    assert_eq!(fleet.queued(), 0);
}

#[tokio::test]
async fn a_full_line_gives_way_to_nobody_that_would_be_served_later() {
    let now = now();
    let fleet = two_routes(now);
    let join = |seconds: u32| fleet.join(0, now + SECOND * seconds);
    let places: Vec<_> = [50, 51, 52].map(join).into_iter().flatten().collect();
    assert!(places.len() == 3 && join(53).is_none());
    let urgent = join(40).unwrap();
    assert_eq!(places[2].turn().await, Turn::Displaced);
    assert_eq!(fleet.queued(), 3);
    assert!(fleet.join(1, now + SECOND * 90).is_some(), "each route has its own depth");
    drop((places, urgent));
    assert_eq!(fleet.queued(), 0);
}

#[tokio::test]
async fn whoever_waits_too_long_is_told_and_the_first_tries_now_and_then_uncalled() {
    let now = SystemNow::now();
    let fleet = two_routes(now);
    let place = fleet.join(0, now + Duration::from_millis(120)).unwrap();
    assert_eq!(place.turn().await, Turn::Try);
    let mut turns = 0;
    while place.turn().await == Turn::Try {
        turns += 1;
    }
    assert!(turns <= 3, "{turns}");
}

/// The machine's clock, which tokio's timers go by.
struct SystemNow;

impl SystemNow {
    fn now() -> Instant {
        crate::clock::SystemClock.now()
    }
}

/// One thing that can happen.
#[derive(Debug, Clone, Copy)]
enum Event {
    Dispatch { route: usize, stream: bool },
    FirstToken(usize),
    Tokens(usize, u64),
    Served(usize),
    Failed(usize),
    Cancelled(usize),
    Join(usize),
    Leave(usize),
    Unreachable(usize),
    Passed(usize),
    Reload,
}

fn event() -> impl Strategy<Value = Event> {
    let which = || 0_usize..64;
    prop_oneof![
        4 => (0_usize..2, any::<bool>()).prop_map(|(route, stream)| Event::Dispatch { route, stream }),
        3 => which().prop_map(Event::FirstToken),
        3 => (which(), 1_u64..40).prop_map(|(one, count)| Event::Tokens(one, count)),
        2 => which().prop_map(Event::Served),
        1 => which().prop_map(Event::Failed),
        1 => which().prop_map(Event::Cancelled),
        1 => (0_usize..2).prop_map(Event::Join),
        1 => which().prop_map(Event::Leave),
        1 => (0_usize..3).prop_map(Event::Unreachable),
        2 => (0_usize..3).prop_map(Event::Passed),
        1 => Just(Event::Reload),
    ]
}

/// What is under way.
struct World {
    fleet: Fleet,
    now: Instant,
    under_way: Vec<Dispatched>,
    places: Vec<Place>,
}

impl World {
    fn new() -> Self {
        let now = now();
        let backends = ["a", "b", "c"].map(|name| Backend { max_in_flight: Some(5), ..backend(name) });
        let mut shedding = Route { on_overload: OnOverload::Shed, ..route("one", &[0, 1, 2]) };
        shedding.policy = PolicyKind::CheapestWithinSlo;
        let routes = vec![shedding, Route { backends: vec![(1, 1), (2, 1)], ..queued(4, 1)("two") }];
        let fleet = Fleet::new(settings(backends.into(), routes), now).unwrap();
        fleet.settle();
        fleet.backends().iter().for_each(|one| one.shared.checked(CheckOutcome::Passed, now));
        Self { fleet, now, under_way: Vec::new(), places: Vec::new() }
    }

    fn one(&mut self, which: usize) -> Option<&mut Dispatched> {
        let count = self.under_way.len().max(1);
        self.under_way.get_mut(which % count)
    }

    fn take(&mut self, which: usize) -> Option<Dispatched> {
        (!self.under_way.is_empty()).then(|| self.under_way.swap_remove(which % self.under_way.len()))
    }

    fn happen(&mut self, event: Event) {
        self.now += Duration::from_millis(30);
        let now = self.now;
        match event {
            Event::Dispatch { route, stream } => {
                let mut asked = request("m");
                asked.facts.stream = stream;
                self.under_way.extend(self.fleet.dispatch(route, &asked, &[], now).ok());
            }
            Event::FirstToken(which) => self.one(which).into_iter().for_each(|one| one.in_flight.first_token(now)),
            Event::Tokens(which, count) => {
                self.one(which).into_iter().for_each(|one| one.in_flight.tokens(count, now));
            }
            Event::Served(which) => {
                let served = Served { output_tokens: Some(9), mean_gap: Some(SECOND / 50), held_back: false };
                self.take(which).into_iter().for_each(|one| one.in_flight.served(&served, now));
            }
            Event::Failed(which) => self.take(which).into_iter().for_each(|one| one.in_flight.ended(Blame::Fault, now)),
            Event::Cancelled(which) => drop(self.take(which)),
            Event::Join(route) => self.places.extend(self.fleet.join(route, now + SECOND)),
            Event::Leave(which) if !self.places.is_empty() => drop(self.places.swap_remove(which % self.places.len())),
            Event::Leave(_) => {}
            Event::Unreachable(one) => self.fleet.backends()[one].shared.checked(CheckOutcome::Unreachable, now),
            Event::Passed(one) => self.fleet.backends()[one].shared.checked(CheckOutcome::Passed, now),
            Event::Reload => {
                self.fleet = self.fleet.rebuilt(Arc::clone(self.fleet.settings()), now).unwrap();
                self.fleet.settle();
            }
        }
    }
}

proptest! {
    #[test]
    fn everything_is_back_at_zero_when_all_has_ended(events in proptest::collection::vec(event(), 0..200)) {
        let mut world = World::new();
        for event in events {
            world.happen(event);
            for backend in world.fleet.backends() {
                prop_assert!(backend.in_flight() <= 5);
            }
            prop_assert!(world.fleet.queued() <= 4);
        }
        world.under_way.clear();
        world.places.clear();
        check_idle(&world.fleet);
        prop_assert_eq!(world.fleet.queued(), 0);
    }
}
