//! How near a backend is to the most it can serve.

use super::*;

/// What arrives, and what is made of it at 100 output tokens each.
fn demand(bench: &Bench, requests: f64, room: Option<u32>) -> Option<f64> {
    let arriving = Arriving { requests, output_tokens: requests * OUTPUT.mean, room };
    bench.model.demand(&bench.asking(&[]), 0.0, &arriving, bench.now)
}

/// A backend whose route promises nothing but a gap between tokens.
fn promising(gap: Duration) -> Bench {
    let mut bench = Bench::new();
    let itl = p95().itl.map(|promise| Objective { threshold: gap, ..promise });
    bench.facts.objectives = Objectives { itl, ..Objectives::default() };
    bench
}

#[test]
fn demand_grows_as_arrivals_do() {
    let bench = promising(MS * 60);
    assert_eq!(demand(&bench, 0.0, None), Some(0.0), "nothing arrives");
    let one = demand(&bench, 1.0, None).expect("a promise that an idle backend keeps");
    assert!((0.01..0.3).contains(&one), "{one}");
    for times in [2.0, 3.0] {
        check_near(demand(&bench, times, None).unwrap() / one, times, 0.002);
    }
    assert_eq!(demand(&bench, 1e4, None), Some(4.0), "a signal that explodes helps nobody");
    assert_eq!(demand(&bench, 1e-9, None), Some(0.0), "as good as nothing");
}

#[test]
fn a_looser_promise_is_less_demand() {
    let [tight, loose] = [50, 60].map(|gap| demand(&promising(MS * gap), 1.0, None).expect("kept when idle"));
    assert!(loose < 0.9 * tight, "{loose} and {tight}");
}

#[test]
fn demand_is_one_over_the_most_that_could_arrive() {
    // A stream is there for as long as its first token and 100 gaps take: so many come per second that five are there.
    let bench = promising(SECOND);
    let alone = bench.outlook();
    let stays = alone.ttft.central + OUTPUT.mean * alone.itl.central;
    let most = 5.0 / stays;
    // Among five others it stays a little longer than alone.
    let full = demand(&bench, most, Some(5)).expect("kept when idle");
    assert!((1.0..1.2).contains(&full), "{full}");
    check_near(demand(&bench, most / 2.0, Some(5)).unwrap() / full, 0.5, 0.002);
    assert!(demand(&bench, most, Some(10)).unwrap() < 0.6 * full, "twice the room");
}

#[test]
fn where_nothing_is_promised_or_nothing_would_help_there_is_no_demand() {
    let mut bench = Bench::new();
    bench.facts.objectives = Objectives::default();
    assert_eq!(demand(&bench, 1.0, None), None);
    assert_eq!(demand(&promising(MS), 1.0, None), None, "not even an idle backend is as fast");
}

#[test]
fn a_backlog_is_demand_whatever_arrives() {
    let mut bench = Bench::new();
    bench.facts.objectives = Objectives { ttft: p95().ttft, ..Objectives::default() };
    assert!(demand(&bench, 0.1, None).is_some_and(|demand| demand < 0.2));
    let tickets: Vec<_> = (0..8).map(|_| bench.send(SERVED)).collect();
    assert_eq!(demand(&bench, 0.1, None), Some(2.0), "4 000 prompt tokens wait");
    for ticket in tickets {
        bench.model.dropped(ticket);
    }
}

#[test]
fn arrivals_are_those_of_the_route() {
    let mut bench = Bench::new();
    for _ in 0..600 {
        let ticket = bench.send(SERVED);
        bench.model.dropped(ticket);
        bench.now += MS * 100;
    }
    check_near(bench.model.arrivals(bench.route, bench.now), 10.0, 0.1);
    assert!(bench.model.arrivals(RouteSlot(1), bench.now) == 0.0);
}

#[test]
fn a_backend_that_lately_seems_too_slow_even_idle_is_in_more_demand_than_it_can_take() {
    let mut bench = Bench::new();
    bench.facts.objectives = Objectives { ttft: p95().ttft, ..Objectives::default() };
    (0..200).for_each(|_| bench.serve(MS * 100, MS * 10, 32));
    let calm = demand(&bench, 1.0, None).expect("kept when idle");
    // Now even an idle backend seems too slow, but lately it was not.
    (0..6).for_each(|_| bench.serve(MS * 500, MS * 10, 32));
    assert!(bench.outlook().ttft.bound > 0.3);
    let worried = demand(&bench, 1.0, None).expect("bad news alone says nothing for good");
    assert!(calm < 0.2 && (1.0..4.0).contains(&worried), "{worried} after {calm}");
}
