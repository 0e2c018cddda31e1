//! What a backend's model learns, forgets and promises.

mod demand;
mod hedging;

use std::time::Duration;

use proptest::prelude::*;

use super::*;
use crate::clock::{Clock, ManualClock};
use crate::measure::objective::{Latency, Objective, Objectives};
use crate::random::Random;
use crate::route::decision::Reason;
use crate::route::load::Load;
use crate::route::snapshot::Outlook;
use crate::units::Quantile;

const MS: Duration = Duration::from_millis(1);
const SECOND: Duration = Duration::from_secs(1);
const SERVED: Reason = Reason::CheapestWithinSlo;

/// A backend and a clock.
struct Bench {
    now: Instant,
    model: BackendModel,
    facts: RequestFacts,
    route: RouteSlot,
    /// What its route learns.
    usual: RouteModel,
}

/// Output tokens that are expected of each request.
const OUTPUT: Output = Output { mean: 100.0, upper: 200.0 };

impl Bench {
    fn new() -> Self {
        Self::tuned(Tuning::default())
    }

    fn tuned(tuning: Tuning) -> Self {
        let now = ManualClock::new().now();
        let facts = RequestFacts { input_tokens: 500, stream: true, objectives: p95(), ..RequestFacts::default() };
        Self { now, model: BackendModel::new(tuning, now), facts, route: RouteSlot(0), usual: RouteModel::default() }
    }

    fn asking<'a>(&'a self, blocks: &'a [u64]) -> Asking<'a> {
        let prefix = Prefix { blocks, block_tokens: 100.0 };
        Asking { facts: &self.facts, route: self.route, prefix, output: OUTPUT, offsets: self.usual.offsets() }
    }

    fn outlook(&self) -> Outlook {
        self.model.outlook(&self.asking(&[]), self.now)
    }

    fn send(&mut self, reason: Reason) -> Ticket {
        let facts = self.facts;
        let asking = Asking {
            facts: &facts,
            route: self.route,
            prefix: Prefix::default(),
            output: OUTPUT,
            offsets: self.usual.offsets(),
        };
        self.model.dispatched(&asking, reason, self.now)
    }

    /// One request from its start to its end, alone.
    fn serve(&mut self, ttft: Duration, gap: Duration, tokens: u32) {
        let mut ticket = self.send(SERVED);
        self.now += ttft;
        self.model.first_token(&mut ticket, self.now);
        for _ in 0..tokens / 16 {
            self.now += gap * 16;
            self.model.tokens(&mut ticket, 16, gap, self.now);
        }
        let completed =
            How::Completed { output_tokens: Some(u64::from(tokens)), mean_gap: Some(gap), paced_by_client: false };
        let fall = self.model.ended(ticket, completed, self.now);
        if let Some(fall) = fall {
            self.usual.fell(&fall);
        }
    }

    fn serve_unstreamed(&mut self, whole: Duration, tokens: u64) {
        self.facts.stream = false;
        let ticket = self.send(SERVED);
        self.now += whole;
        let completed = How::Completed { output_tokens: Some(tokens), mean_gap: None, paced_by_client: false };
        assert_eq!(self.model.ended(ticket, completed, self.now), None, "what is usual is said of streams");
    }
}

fn p95() -> Objectives {
    let promise = |latency, quantile| Some(Objective { latency, quantile, threshold: MS * 300 });
    Objectives {
        ttft: promise(Latency::TimeToFirstToken, Quantile::P95),
        itl: promise(Latency::InterToken, Quantile::P95),
        e2e: promise(Latency::EndToEnd, Quantile::P95),
    }
}

#[track_caller]
fn check_near(actual: f64, expected: f64, share: f64) {
    assert!((actual / expected - 1.0).abs() < share, "{actual} and not {expected}");
}

#[test]
fn a_new_backend_is_expected_to_be_like_an_eight_billion_parameter_model() {
    let Outlook { ttft, itl, .. } = Bench::new().outlook();
    check_near(ttft.central, 0.1, 0.01);
    check_near(ttft.bound, 0.1 * 0.4_f64.exp(), 0.01);
    check_near(itl.bound, itl.central * 0.6_f64.exp(), 0.01);
    check_near(itl.central, 0.0202, 0.01);
}

#[test]
fn latencies_are_learned() {
    let mut bench = Bench::new();
    (0..200).for_each(|_| bench.serve(MS * 240, MS * 12, 64));
    let Outlook { ttft, itl, e2e, unproven, prefill_seconds, .. } = bench.outlook();
    check_near(ttft.central, 0.24, 0.05);
    check_near(itl.central, 0.012, 0.1);
    check_near(e2e.central, 0.24 + 100.0 * 0.012, 0.1);
    assert!(!unproven && prefill_seconds.is_some());
}

#[test]
fn first_tokens_far_faster_than_the_prior_are_learned() {
    let mut bench = Bench::new();
    assert!(bench.model.is_unused());
    (0..200).for_each(|_| bench.serve(MS * 20, MS * 12, 64));
    check_near(bench.outlook().ttft.central, 0.02, 0.05);
    assert!(!bench.model.is_unused());
}

#[test]
fn a_pace_is_known_from_fifty_observations_for_half_a_minute() {
    let mut bench = Bench::new();
    (0..49).for_each(|_| bench.serve(MS * 100, MS * 10, 32));
    assert!(bench.model.pace(bench.now).is_none());
    bench.serve(MS * 100, MS * 10, 32);
    let pace = bench.model.pace(bench.now).expect("fifty were seen");
    assert!(pace.ttft > 0.05 && pace.itl > 0.005, "{pace:?}");
    assert!(bench.model.pace(bench.now + SECOND * 29).is_some());
    assert!(bench.model.pace(bench.now + SECOND * 31).is_none());
}

#[test]
fn bounds_are_missed_as_often_as_the_quantile_allows() {
    let (mut bench, mut random) = (Bench::new(), Random::seeded(5));
    let (mut missed, mut whole_missed, rounds) = (0, 0, 4_000);
    for round in 0..rounds + 500 {
        let outlook = bench.outlook();
        let ttft = 0.2 * (0.3 * random.gauss()).exp();
        let tokens = 32 + 16 * u32::try_from(random.below(12)).unwrap();
        let whole = ttft + f64::from(tokens / 16 * 16) * 0.01;
        bench.serve(Duration::from_secs_f64(ttft), MS * 10, tokens);
        if round >= 500 {
            missed += u32::from(ttft > outlook.ttft.bound);
            whole_missed += u32::from(whole > outlook.e2e.bound);
        }
    }
    let share = |count: u32| f64::from(count) / f64::from(rounds);
    assert!((0.035..0.065).contains(&share(missed)), "{}", share(missed));
    assert!((0.035..0.065).contains(&share(whole_missed)), "{}", share(whole_missed));
}

#[test]
fn routes_of_different_quantiles_share_a_backend() {
    let (mut bench, mut random) = (Bench::new(), Random::seeded(5));
    let mut strict = p95();
    strict.ttft = strict.ttft.map(|one| Objective { quantile: Quantile::P99, ..one });
    let bound = |bench: &mut Bench, objectives| {
        bench.facts.objectives = objectives;
        bench.outlook().ttft.bound
    };
    let (rounds, mut ratios) = (4_000, 0.0);
    for round in 0..rounds {
        bench.facts.objectives = if round % 2 == 0 { strict } else { p95() };
        bench.serve(Duration::from_secs_f64(0.2 * (0.3 * random.gauss()).exp()), MS * 10, 8);
        if round >= rounds / 2 {
            ratios += (bound(&mut bench, strict) / bound(&mut bench, p95())).ln();
        }
    }
    // Log-normal with sigma 0.3: p99 is exp(0.3 · 0.68) times p95.
    check_near((ratios / f64::from(rounds / 2)).exp(), 1.227, 0.08);
}

#[test]
fn a_request_that_is_sent_makes_the_next_expect_more_at_once() {
    let mut bench = Bench::new();
    let before = bench.outlook();
    let ticket = bench.send(SERVED);
    let after = bench.outlook();
    assert!(after.ttft.central > before.ttft.central && after.itl.central > before.itl.central);
    assert_eq!(after.awaiting, 1);
    bench.model.ended(ticket, How::Cancelled, bench.now);
    assert_eq!(bench.model.load().own(), Load::default());
    check_near(bench.outlook().ttft.central, before.ttft.central, 1e-9);
}

#[test]
fn a_slowdown_is_believed_within_a_few_samples_and_doubted_again_after_a_while() {
    let mut bench = Bench::new();
    (0..200).for_each(|_| bench.serve(MS * 100, MS * 10, 32));
    check_near(bench.outlook().ttft.central, 0.1, 0.1);
    (0..12).for_each(|_| bench.serve(MS * 400, MS * 40, 32));
    let slow = bench.outlook();
    assert!(slow.ttft.central > 0.3 && slow.ttft.hopeful < 0.8 * slow.ttft.bound, "{slow:?}");
    bench.now += SECOND * 120;
    assert!(bench.outlook().ttft.central < 0.75 * slow.ttft.central);
}

#[test]
fn an_overdue_first_token_counts_before_it_comes() {
    let mut bench = Bench::new();
    (0..200).for_each(|_| bench.serve(MS * 100, MS * 10, 32));
    let ticket = bench.send(SERVED);
    let calm = bench.outlook().ttft;
    bench.now += SECOND;
    let hanging = bench.outlook().ttft;
    assert!(hanging.central > 4.0 * calm.central, "{hanging:?} after {calm:?}");
    check_near(hanging.hopeful, calm.hopeful, 0.01);
    bench.model.ended(ticket, How::Failed, bench.now);
}

#[test]
fn a_first_token_that_was_given_up_counts_as_at_least_that_late() {
    let mut bench = Bench::new();
    (0..200).for_each(|_| bench.serve(MS * 100, MS * 10, 32));
    let calm = bench.outlook().ttft.central;
    for how in [How::Failed, How::Cancelled].into_iter().cycle().take(6) {
        let ticket = bench.send(SERVED);
        bench.model.ended(ticket, how, bench.now);
    }
    check_near(bench.outlook().ttft.central, calm, 0.01);
    for how in [How::Failed, How::Cancelled].into_iter().cycle().take(6) {
        let ticket = bench.send(SERVED);
        bench.now += SECOND * 2;
        bench.model.ended(ticket, how, bench.now);
    }
    assert!(bench.outlook().ttft.central > 3.0 * calm);
}

#[test]
fn streams_that_stand_still_count_before_they_move_again() {
    let mut bench = Bench::new();
    (0..200).for_each(|_| bench.serve(MS * 100, MS * 10, 32));
    let mut ticket = bench.send(SERVED);
    bench.model.first_token(&mut ticket, bench.now);
    let calm = bench.outlook();
    bench.now += MS * 200;
    bench.model.progressed(bench.now);
    check_near(bench.outlook().itl.central, calm.itl.central, 0.01);
    bench.now += SECOND;
    let standing = bench.outlook();
    assert!(standing.ttft.central > 1.0 && standing.itl.central > 4.0 * calm.itl.central, "{standing:?}");
    bench.model.ended(ticket, How::Cancelled, bench.now);
    check_near(bench.outlook().itl.central, calm.itl.central, 0.05);
}

#[test]
fn unstreamed_answers_are_learned_whole_and_never_as_first_tokens() {
    let mut bench = Bench::new();
    let streamed = |bench: &mut Bench| {
        bench.facts.stream = true;
        let Outlook { ttft, itl, .. } = bench.outlook();
        (ttft, itl)
    };
    let before = streamed(&mut bench);
    (0..200).for_each(|_| bench.serve_unstreamed(SECOND * 6, 100));
    check_near(bench.outlook().e2e.central, 6.0, 0.1);
    assert!(bench.outlook().e2e.bound < 15.0 && !bench.outlook().unproven);
    let after = streamed(&mut bench);
    check_near(after.0.central, before.0.central, 0.01);
    check_near(after.1.bound, before.1.bound, 0.01);
    assert!(bench.outlook().unproven, "of streams nothing is known");
}

#[test]
fn unstreamed_load_weighs_on_streams() {
    let mut bench = Bench::new();
    let before = bench.outlook();
    bench.facts.stream = false;
    let tickets: Vec<_> = (0..40).map(|_| bench.send(SERVED)).collect();
    bench.facts.stream = true;
    let after = bench.outlook();
    assert!(after.itl.central > before.itl.central && after.ttft.central > before.ttft.central);
    bench.now += SECOND * 30;
    assert!(bench.outlook().ttft.central < 2.0 * after.ttft.central, "no stream of theirs is missed");
    for ticket in tickets {
        bench.model.ended(ticket, How::Failed, bench.now);
    }
    assert_eq!(bench.model.load().own(), Load::default());
}

/// Prompt tokens that are cached, and that are not.
#[track_caller]
fn check_split(outlook: &Outlook, (cached, uncached): (f64, f64)) {
    let near = |one: f64, other: f64| (one - other).abs() < 1e-9;
    assert!(near(outlook.cached_tokens, cached) && near(outlook.uncached_tokens, uncached), "{outlook:?}");
}

#[test]
fn a_prompt_that_was_sent_before_is_shorter_the_second_time() {
    let mut bench = Bench::new();
    let blocks = [11, 12, 13, 14];
    let whole = bench.model.outlook(&bench.asking(&blocks), bench.now);
    check_split(&whole, (0.0, 500.0));
    let facts = bench.facts;
    let prefix = Prefix { blocks: &blocks, block_tokens: 100.0 };
    let asking = Asking { facts: &facts, route: bench.route, prefix, output: OUTPUT, offsets: Offsets::default() };
    let ticket = bench.model.dispatched(&asking, SERVED, bench.now);
    bench.model.ended(ticket, How::Cancelled, bench.now);
    let cached = bench.model.outlook(&bench.asking(&blocks), bench.now);
    check_split(&cached, (400.0, 100.0));
    assert!(cached.ttft.central < whole.ttft.central);
    let other = bench.model.outlook(&bench.asking(&[11, 12, 99]), bench.now);
    check_split(&other, (200.0, 300.0));
    bench.model.ejected();
    check_split(&bench.model.outlook(&bench.asking(&blocks), bench.now), (0.0, 500.0));
}

#[test]
fn a_probe_is_due_after_a_while_and_less_often_the_more_it_disappoints() {
    let mut bench = Bench::new();
    (0..100).for_each(|_| bench.serve(MS * 100, MS * 10, 32));
    assert!(!bench.outlook().probe_due && !bench.outlook().idle);
    bench.now += SECOND * 4;
    assert!(bench.outlook().probe_due && !bench.outlook().idle);
    bench.now += SECOND * 7;
    assert!(bench.outlook().idle);
    let mut probe = bench.send(Reason::Probe);
    assert!(bench.outlook().probing && !bench.outlook().idle);
    bench.now += SECOND;
    bench.model.first_token(&mut probe, bench.now);
    bench.model.ended(probe, How::Cancelled, bench.now);
    assert!(!bench.outlook().probing);
    assert!(bench.outlook().ttft.central > 0.8, "a probe is believed at once: {:?}", bench.outlook());
    bench.now += SECOND * 5;
    assert!(!bench.outlook().probe_due, "the gap has doubled");
    bench.now += SECOND * 2;
    assert!(bench.outlook().probe_due);
}

#[test]
fn a_probe_that_proves_its_backend_clears_its_name() {
    let mut bench = Bench::new();
    (0..200).for_each(|_| bench.serve(MS * 100, MS * 10, 32));
    (0..12).for_each(|_| bench.serve(MS * 400, MS * 10, 32));
    let slow = bench.outlook().ttft.central;
    let mut probe = bench.send(Reason::Probe);
    bench.now += MS * 100;
    bench.model.first_token(&mut probe, bench.now);
    bench.model.ended(probe, How::Cancelled, bench.now);
    assert!(bench.outlook().ttft.central < 0.5 * slow, "{} after {slow}", bench.outlook().ttft.central);
}

#[test]
fn a_probe_that_never_answers_does_not_block_the_next() {
    let mut bench = Bench::new();
    let first = bench.send(Reason::Probe);
    assert!(bench.outlook().probing);
    bench.now += SECOND * 31;
    assert!(!bench.outlook().probing);
    let second = bench.send(Reason::Probe);
    bench.model.ended(first, How::Failed, bench.now);
    assert!(bench.outlook().probing, "the end of an old probe is not that of the new one");
    bench.model.ended(second, How::Failed, bench.now);
    assert!(!bench.outlook().probing);
}

#[test]
fn an_ejected_backend_has_empty_books_and_keeps_what_it_learned() {
    let mut bench = Bench::new();
    (0..100).for_each(|_| bench.serve(MS * 500, MS * 10, 32));
    let mut ticket = bench.send(Reason::Probe);
    bench.model.ejected();
    assert_eq!((bench.model.load().in_flight(), bench.model.load().own()), (0, Load::default()));
    assert!(!bench.outlook().probing);
    let expected = bench.outlook().ttft.central;
    check_near(expected, 0.5, 0.1);
    let fresh = bench.send(SERVED);
    bench.model.first_token(&mut ticket, bench.now);
    bench.model.tokens(&mut ticket, 16, MS * 10, bench.now);
    bench.model.ended(ticket, How::Failed, bench.now);
    assert_eq!(bench.model.load().in_flight(), 1, "a ticket of the old books takes nothing off the new");
    bench.model.ended(fresh, How::Failed, bench.now);
    assert_eq!(bench.model.load().in_flight(), 0);
}

#[test]
fn streams_with_a_shorter_promise_are_residents_while_they_arrive() {
    let mut bench = Bench::new();
    (0..5).for_each(|_| bench.serve(MS * 100, MS * 10, 32));
    assert_eq!(bench.outlook().resident_itl, None, "a route is no guest of its own");
    bench.route = RouteSlot(7);
    assert_eq!(bench.outlook().resident_itl, Some(0.3));
    bench.now += SECOND * 60;
    assert_eq!(bench.outlook().resident_itl, None);
}

#[test]
fn other_replicas_and_hidden_clients_weigh_as_much_as_our_own() {
    let mut bench = Bench::new();
    let calm = bench.outlook().ttft.central;
    let load = Load { waiting_tokens: 4_000.0, awaiting: 4.0, streams: 20.0, kv_tokens: 40_000.0 };
    bench.model.others(OtherLoad { load, replicas: 3 });
    let shared = bench.outlook().ttft.central;
    assert!(shared > 4.0 * calm);
    bench.model.others(OtherLoad::default());
    let report = EngineReport { running: 20, waiting: 4, kv_tokens: Some(40_000.0) };
    (0..2).for_each(|_| bench.model.engine_reported(report, bench.now));
    assert!(bench.outlook().ttft.central > 2.0 * calm);
    assert_eq!((bench.outlook().awaiting, bench.outlook().queue), (0, 4.0));
    bench.now += SECOND * 6;
    check_near(bench.outlook().ttft.central, calm, 0.01);
}

#[test]
fn what_was_learned_goes_round() {
    let mut bench = Bench::new();
    let mut strict = p95();
    strict.ttft = strict.ttft.map(|one| Objective { quantile: Quantile::P99, ..one });
    for _ in 0..50 {
        bench.route = RouteSlot(0);
        bench.facts.stream = true;
        bench.serve(MS * 150, MS * 15, 48);
        (bench.route, bench.facts.objectives) = (RouteSlot(2), strict);
        bench.serve_unstreamed(SECOND * 3, 90);
    }
    let learned = bench.model.learned();
    let mut restored = BackendModel::new(Tuning::default(), bench.now);
    restored.resume(&learned, bench.now);
    assert_eq!(restored.learned(), learned);
    bench.facts.stream = true;
    let expected = restored.outlook(&bench.asking(&[]), bench.now);
    check_near(expected.ttft.central, 0.15, 0.1);
    check_near(expected.itl.central, 0.015, 0.15);
}

#[test]
fn what_was_learned_wrongly_is_not_taken_over() {
    let bench = Bench::new();
    let mut learned = bench.model.learned();
    learned.ttft.weights[1] = f64::NAN;
    learned.itl.covariance[2][3] = f64::INFINITY;
    (learned.gap, learned.ttft_bias, learned.itl_bias) = (-1.0, f64::NAN, f64::INFINITY);
    let tracker = TrackerLearned { alpha: f64::NAN, value: f64::NAN, samples: 9 };
    learned.ttft_bounds.push(tracker);
    let pair = PairLearned {
        itl: tracker,
        e2e: tracker,
        unstreamed: tracker,
        unstreamed_bias: f64::NAN,
        unstreamed_samples: 1,
    };
    learned.pairs.push(Some(pair));
    let mut restored = BackendModel::new(Tuning::default(), bench.now);
    restored.resume(&learned, bench.now);
    assert_eq!(restored.outlook(&bench.asking(&[]), bench.now), bench.outlook());
}

/// Something that may happen to a backend.
#[derive(Debug, Clone)]
enum Happening {
    Send { stream: bool, input: u64, route: usize, probe: bool, max_tokens: Option<u64> },
    FirstToken(usize),
    Tokens(usize, u32, Duration),
    End(usize, How),
    Drop(usize),
    Wait(Duration),
    Eject,
    Others(f64, u32),
    Report(u32, u32, Option<f64>),
}

fn any_duration() -> impl Strategy<Value = Duration> {
    prop_oneof![
        Just(Duration::ZERO),
        (0_u64..5_000).prop_map(Duration::from_millis),
        (0_u64..1_000_000_000).prop_map(Duration::from_secs),
    ]
}

fn any_tokens() -> impl Strategy<Value = u64> {
    prop_oneof![Just(0), 1_u64..5_000, Just(u64::MAX)]
}

fn any_end() -> impl Strategy<Value = How> {
    let completed = (proptest::option::of(any_tokens()), proptest::option::of(any_duration()), any::<bool>());
    prop_oneof![
        Just(How::Failed),
        Just(How::Cancelled),
        completed.prop_map(|(output_tokens, mean_gap, paced_by_client)| How::Completed {
            output_tokens,
            mean_gap,
            paced_by_client
        }),
    ]
}

fn any_happening() -> impl Strategy<Value = Happening> {
    let send = (any::<bool>(), any_tokens(), prop_oneof![0_usize..3, Just(usize::MAX)], any::<bool>());
    let odd = prop_oneof![Just(0.0), 0.0..1e6_f64, Just(f64::NAN), Just(f64::INFINITY), Just(-5.0), Just(f64::MAX)];
    let max_tokens = proptest::option::of(any_tokens());
    prop_oneof![
        4 => (send, max_tokens).prop_map(|((stream, input, route, probe), max_tokens)| {
            Happening::Send { stream, input, route, probe, max_tokens }
        }),
        3 => any::<usize>().prop_map(Happening::FirstToken),
        3 => (any::<usize>(), any::<u32>(), any_duration()).prop_map(|(one, count, gap)| Happening::Tokens(one, count, gap)),
        3 => (any::<usize>(), any_end()).prop_map(|(one, how)| Happening::End(one, how)),
        1 => any::<usize>().prop_map(Happening::Drop),
        2 => (0_u64..3_600_000).prop_map(|millis| Happening::Wait(MS * u32::try_from(millis).unwrap())),
        1 => Just(Happening::Eject),
        1 => (odd.clone(), any::<u32>()).prop_map(|(load, replicas)| Happening::Others(load, replicas)),
        1 => (any::<u32>(), any::<u32>(), proptest::option::of(odd)).prop_map(|(r, w, kv)| Happening::Report(r, w, kv)),
    ]
}

impl Bench {
    fn happen(&mut self, happening: &Happening, alive: &mut Vec<Ticket>) {
        let picked = |one: usize, alive: &Vec<Ticket>| (!alive.is_empty()).then(|| one % alive.len());
        match *happening {
            Happening::Send { stream, input, route, probe, max_tokens } => {
                (self.facts.stream, self.facts.input_tokens, self.route) = (stream, input, RouteSlot(route));
                self.facts.max_tokens = max_tokens;
                alive.push(self.send(if probe { Reason::Probe } else { SERVED }));
            }
            Happening::FirstToken(one) => {
                if let Some(ticket) = picked(one, alive).and_then(|place| alive.get_mut(place)) {
                    self.model.first_token(ticket, self.now);
                }
            }
            Happening::Tokens(one, count, gap) => {
                if let Some(ticket) = picked(one, alive).and_then(|place| alive.get_mut(place)) {
                    self.model.tokens(ticket, count, gap, self.now);
                }
            }
            Happening::End(one, how) => {
                if let Some(place) = picked(one, alive) {
                    self.model.ended(alive.swap_remove(place), how, self.now);
                }
            }
            Happening::Drop(one) => {
                if let Some(place) = picked(one, alive) {
                    self.model.dropped(alive.swap_remove(place));
                }
            }
            Happening::Wait(duration) => self.now += duration,
            Happening::Eject => self.model.ejected(),
            Happening::Others(load, replicas) => {
                let load = Load { waiting_tokens: load, awaiting: load, streams: load, kv_tokens: load };
                self.model.others(OtherLoad { load, replicas });
            }
            Happening::Report(running, waiting, kv_tokens) => {
                self.model.engine_reported(EngineReport { running, waiting, kv_tokens }, self.now);
            }
        }
    }
}

fn is_finite(outlook: &Outlook) -> bool {
    let forecasts = [outlook.ttft, outlook.itl, outlook.e2e];
    let numbers = forecasts.iter().flat_map(|one| [one.central, one.bound, one.hopeful]);
    let rest = [outlook.uncached_tokens, outlook.cached_tokens];
    let costs = [outlook.prefill_seconds, outlook.decode_seconds].into_iter().flatten();
    numbers.chain(rest).chain(costs).all(|one| one.is_finite() && one >= 0.0)
}

proptest! {
    #[test]
    fn whatever_happens_the_model_stays_finite_and_the_books_close_at_zero(
        happenings in proptest::collection::vec(any_happening(), 0..200),
    ) {
        let (mut bench, mut alive) = (Bench::new(), Vec::new());
        for happening in &happenings {
            bench.happen(happening, &mut alive);
            prop_assert!(is_finite(&bench.outlook()), "{:?} after {:?}", bench.outlook(), happening);
        }
        for ticket in alive {
            bench.model.ended(ticket, How::Cancelled, bench.now);
        }
        let load = bench.model.load();
        prop_assert_eq!((load.in_flight(), load.awaited(), load.own()), (0, 0, Load::default()));
        prop_assert_eq!(load.standing(bench.model.moment(bench.now)), None);
        let learned = bench.model.learned();
        let mut restored = BackendModel::new(Tuning::default(), bench.now);
        restored.resume(&learned, bench.now);
        prop_assert_eq!(restored.learned(), learned);
    }
}

#[test]
fn what_one_backend_shows_of_a_route_another_starts_from() {
    let mut bench = Bench::new();
    let fresh = bench.outlook().itl;
    // Gaps of short answers: one in eight waits for a long prompt next door.
    (0..300).for_each(|round| bench.serve(MS * 100, MS * if round % 8 == 0 { 100 } else { 10 }, 8));
    let mut other = Bench { usual: bench.usual, ..Bench::new() };
    let warned = other.outlook().itl;
    assert!(warned.bound / warned.central > 1.2 * fresh.bound / fresh.central, "{warned:?} after {fresh:?}");
    let alone = other.model.clone();
    other.model = BackendModel::new(Tuning { pooling: false, ..Tuning::default() }, other.now);
    let unwarned = other.outlook().itl;
    check_near(unwarned.bound / unwarned.central, 0.4_f64.exp(), 1e-6);
    other.model = alone;
    check_near(other.outlook().itl.bound, warned.bound, 1e-9);
}

#[test]
fn what_was_sent_against_its_bound_moves_the_bound_less() {
    let moved = |reason| {
        let mut bench = Bench::new();
        let before = bench.outlook().ttft;
        for _ in 0..3 {
            let mut ticket = bench.send(reason);
            bench.now += SECOND * 2;
            bench.model.first_token(&mut ticket, bench.now);
            bench.model.dropped(ticket);
        }
        let after = bench.outlook().ttft;
        (after.bound / after.central) / (before.bound / before.central)
    };
    let (relied, against) = (moved(SERVED), moved(Reason::MedianWithinSlo));
    assert!(relied > 1.3 && against < relied.powf(0.3), "{relied} and {against}");
}
