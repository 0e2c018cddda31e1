//! Who is new, or back, begins little by little; who was there from the start does not.

use super::*;

fn ramps(fleet: &Fleet, now: Instant) -> Vec<f64> {
    fleet.backends().iter().map(|one| one.ramp(now)).collect()
}

/// Share of a second of requests that each backend gets.
fn share_of_second(fleet: &Fleet, now: Instant) -> f64 {
    let requests = 2_000;
    let second = (0..requests).filter(|_| send(fleet, now).index == BackendIndex(1)).count();
    f64::from(u32::try_from(second).unwrap()) / f64::from(requests)
}

fn round_robin(backends: Vec<Backend>, now: Instant) -> Fleet {
    let route = Route { policy: PolicyKind::RoundRobin, ..route("r", &[0, 1]) };
    let fleet = Fleet::new(settings(backends, vec![route]), now).unwrap();
    fleet.backends().iter().for_each(|one| {
        one.shared.set_addresses(&[([127, 0, 0, 1], 9).into()]);
    });
    fleet
}

#[test]
fn a_backend_that_recovers_ramps_over_a_minute_and_never_back() {
    let now = now();
    let fleet = round_robin(vec![backend("a"), backend("b")], now);
    let [a, b] = fleet.backends() else { panic!("two") };
    a.checked(CheckOutcome::Passed, now);
    b.checked(CheckOutcome::Passed, now);
    assert_eq!(ramps(&fleet, now), [1.0, 1.0], "headway is new, they are not");
    b.checked(CheckOutcome::Unreachable, now + SECOND);
    let back = now + SECOND * 10;
    b.checked(CheckOutcome::Passed, back);
    let shares: Vec<f64> = (0..=6).map(|step| share_of_second(&fleet, back + SECOND * 10 * step)).collect();
    println!("shares of a recovered backend of two, every 10 s: {shares:.3?}");
    assert!(shares.windows(2).all(|pair| pair[0] <= pair[1] + 0.02), "{shares:?}");
    assert!(shares[0] < 0.12 && (shares[6] - 0.5).abs() < 0.01, "{shares:?}");
}

#[test]
fn one_that_was_loading_when_headway_began_is_new_and_one_alone_loses_nothing() {
    let now = now();
    let fleet = round_robin(vec![backend("a"), backend("b")], now);
    let [a, b] = fleet.backends() else { panic!("two") };
    a.checked(CheckOutcome::NotReady(503), now);
    b.checked(CheckOutcome::NotReady(503), now);
    a.checked(CheckOutcome::Passed, now + SECOND);
    assert!(a.ramp(now + SECOND) < 0.11);
    let all = (0..100).filter(|_| send(&fleet, now + SECOND).index == BackendIndex(0)).count();
    assert_eq!(all, 100);
}

#[test]
fn one_that_a_reload_adds_is_new_and_one_that_it_keeps_is_not() {
    let now = now();
    let fleet = fleet(vec![backend("a")], now);
    let again = fleet.rebuilt(settings(vec![backend("a"), backend("b")], vec![route("r", &[0, 1])]), now).unwrap();
    again.settle();
    again.backends()[1].checked(CheckOutcome::Passed, now);
    assert!(again.backends()[0].ramp(now) > 0.99);
    assert!(again.backends()[1].ramp(now) < 0.11);
    let at_once = Health { slow_start: Duration::ZERO, ..Health::default() };
    let quick = Backend { health: at_once, ..backend("b") };
    let third = again.rebuilt(settings(vec![backend("a"), quick], vec![route("r", &[0, 1])]), now).unwrap();
    assert!(third.backends()[1].ramp(now) > 0.99, "the window is the configuration's");
}

#[test]
fn one_that_proved_itself_after_an_ejection_begins_anew() {
    let now = now();
    let fleet = fleet(vec![backend("a"), backend("b")], now);
    let b = &fleet.backends()[1];
    for _ in 0..5 {
        b.shared.ended(Blame::Fault, false, now);
    }
    assert_eq!(b.state(), BackendState::Ejected);
    let later = now + SECOND * 10;
    b.checked(CheckOutcome::Passed, later);
    b.checked(CheckOutcome::Passed, later);
    assert!(b.shared.sent(), "it is probed");
    b.shared.ended(Blame::Success, true, later);
    assert_eq!(b.state(), BackendState::Ready);
    assert!(b.ramp(later) < 0.11 && b.ramp(later + SECOND * 60) > 0.99);
}
