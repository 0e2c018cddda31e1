//! Simulated trials: what is healthy is left alone, and what is broken is found soon.

use std::time::SystemTime;

use super::*;
use crate::clock::{Clock, ManualClock};
use crate::measure::course::TryCourse;
use crate::measure::exchange::{Attempt, Latencies};
use crate::measure::objective::{Objective, Verdicts};
use crate::measure::outcome::Blame;
use crate::random::Random;
use crate::wire::Api;

const CANARY: GroupIndex = GroupIndex(1);
const SHARES: [f64; 2] = [0.95, 0.05];
const SECOND: Duration = Duration::from_secs(1);

fn promise() -> Objectives {
    let ttft = Objective { latency: Latency::TimeToFirstToken, quantile: Quantile::P95, threshold: SECOND };
    Objectives { ttft: Some(ttft), ..Objectives::default() }
}

fn exchange(ttft: Option<bool>) -> ExchangeRecord {
    ExchangeRecord {
        outcome: Outcome::Complete,
        api: Some(Api::Chat),
        stream: true,
        verdicts: Verdicts { ttft, ..Verdicts::default() },
        ..ExchangeRecord::begun(SystemTime::UNIX_EPOCH, "id".into())
    }
}

fn assigned(group: GroupIndex, fell_over: Option<FellOver>) -> Assignment {
    Assignment { group, name: "g".into(), fell_over, epoch: 0 }
}

/// A trial that goes on for so many exchanges: after how many the canary was accused, if it was. `missed` says with which
/// probability the baseline and the canary miss.
fn accused(random: &mut Random, exchanges: u32, missed: impl Fn(u32) -> [f64; 2]) -> Option<(u32, Broken)> {
    let now = ManualClock::new().now();
    let mut trial = Trial::new(1, promise());
    let groups = [GroupIndex::BASELINE, CANARY].map(|group| assigned(group, None));
    let (kept, late) = (exchange(Some(true)), exchange(Some(false)));
    (0..exchanges).find_map(|number| {
        let group = usize::from(random.share() < SHARES[1]);
        let record = if random.share() < missed(number)[group] { &late } else { &kept };
        trial.record(record, &groups[group], &SHARES, now).map(|broken| (number, broken))
    })
}

/// How many of so many trials accused the canary.
fn alarms(runs: u32, exchanges: u32, missed: impl Fn(u32) -> [f64; 2]) -> u32 {
    let mut random = Random::seeded(101);
    let run = |_: &u32| accused(&mut random, exchanges, &missed).is_some();
    u32::try_from((0..runs).filter(run).count()).expect("few")
}

/// With which probability an exchange of that number is missed, of either group.
type Missed = Box<dyn Fn(u32) -> [f64; 2]>;

/// What must not be held against a canary.
fn harmless() -> [(&'static str, Missed); 5] {
    let outage = |number: u32| if number % 1_000 < 300 { [0.7, 0.7] } else { [0.01, 0.01] };
    [
        ("well", Box::new(|_| [0.01, 0.01])),
        ("just within the promise", Box::new(|_| [0.05, 0.05])),
        ("worse than the baseline, and within the promise", Box::new(|_| [0.005, 0.05])),
        ("as bad as the baseline, which breaks it", Box::new(|_| [0.2, 0.2])),
        ("in outages of everything", Box::new(outage)),
    ]
}

#[test]
fn a_healthy_canary_is_left_alone_through_a_long_run() {
    for (name, missed) in harmless() {
        let alarms = alarms(100, 20_000, missed);
        println!("{name}: {alarms} of 100 runs of 20,000 exchanges");
        assert!(alarms <= 1, "{name}: {alarms}");
    }
}

/// `cargo test --release --lib measure::trial -- --ignored --nocapture`
#[test]
#[ignore = "takes a minute in a release build: the figures of the documentation"]
fn false_alarms_of_many_long_runs() {
    for (name, missed) in harmless() {
        let alarms = alarms(1_000, 100_000, missed);
        println!("{name}: {alarms} of 1,000 runs of 100,000 exchanges");
        assert!(f64::from(alarms) <= 1_000.0 * FALSE_ALARMS, "{name}: {alarms}");
    }
}

#[test]
fn what_breaks_the_promise_is_found_soon_whenever_that_begins() {
    for (name, begins, worse, most) in [
        ("at once, nearly all", 0, 0.9, 1_500),
        ("after a good time, nearly all", 10_000, 0.9, 1_500),
        ("at once, four times what is allowed", 0, 0.2, 6_000),
        ("after a good time, four times what is allowed", 10_000, 0.2, 12_000),
    ] {
        let mut random = Random::seeded(7);
        let mut slowest = 0;
        for _ in 0..20 {
            let missed = |number| if number < begins { [0.01, 0.01] } else { [0.01, worse] };
            let (number, broken) = accused(&mut random, begins + 60_000, missed).expect("found");
            assert!(
                broken.group == CANARY && broken.latency == Latency::TimeToFirstToken && number >= begins,
                "{broken:?}"
            );
            slowest = slowest.max(number - begins);
        }
        println!("{name}: at the latest after {slowest} exchanges, {} of them the canary's", slowest / 20);
        assert!(slowest <= most, "{name}: {slowest}");
    }
}

#[test]
fn a_few_exchanges_condemn_nobody() {
    let now = ManualClock::new().now();
    let mut trial = Trial::new(1, promise());
    for _ in 0..1_000 {
        assert_eq!(trial.record(&exchange(Some(true)), &assigned(GroupIndex::BASELINE, None), &SHARES, now), None);
    }
    for number in 1..=FEWEST {
        let broken = trial.record(&exchange(Some(false)), &assigned(CANARY, None), &SHARES, now);
        assert_eq!(broken.is_some(), number == FEWEST, "{number}");
    }
    let certainty = trial.certainty(CANARY, Latency::TimeToFirstToken).expect("promised");
    assert!(certainty.is_enough() && (certainty.needed - 100.0).abs() < 1e-9, "{certainty:?}");
    // It has been rolled back: there is nothing more to say.
    assert_eq!(trial.record(&exchange(Some(false)), &assigned(CANARY, None), &[1.0, 0.0], now), None);
    trial.restart(CANARY);
    assert_eq!(trial.judged(CANARY, Latency::TimeToFirstToken), Some(Attainment::default()));
}

#[test]
fn a_failure_that_another_group_made_good_counts_for_the_group_that_failed() {
    let now = ManualClock::new().now();
    let lost = |waited: Duration| Attempt {
        backend: "b".into(),
        profile: None,
        reason: None,
        decision: None,
        outcome: Outcome::HedgeLost,
        blame: Blame::Neutral,
        duration: waited,
        first_token: None,
        hedge: false,
        cost: None,
        course: TryCourse::default(),
    };
    for (fell_over, attempts, missed) in [
        (None, vec![], 0),
        (Some(FellOver::Failed), vec![], 1),
        (Some(FellOver::Hedged), vec![lost(SECOND * 2)], 1),
        (Some(FellOver::Hedged), vec![lost(SECOND / 2)], 0),
        (Some(FellOver::Hedged), vec![Attempt { blame: Blame::Fault, ..lost(SECOND / 2) }], 1),
    ] {
        let mut trial = Trial::new(1, promise());
        let record = ExchangeRecord { attempts, ..exchange(Some(true)) };
        trial.record(&record, &assigned(CANARY, fell_over), &SHARES, now);
        let judged = trial.judged(CANARY, Latency::TimeToFirstToken).expect("promised");
        assert_eq!((judged.total, judged.total - judged.good), (1, missed), "{fell_over:?}");
    }
}

#[test]
fn what_its_group_was_never_asked_says_nothing_of_it() {
    let now = ManualClock::new().now();
    let mut trial = Trial::new(1, promise());
    for fell_over in [FellOver::Unusable, FellOver::Refused] {
        let felt = Latencies { first_token: Some(SECOND), ..Latencies::default() };
        let record = ExchangeRecord { latencies: felt, ..exchange(Some(true)) };
        trial.record(&record, &assigned(CANARY, Some(fell_over)), &SHARES, now);
    }
    assert_eq!(trial.judged(CANARY, Latency::TimeToFirstToken), Some(Attainment::default()));
    assert!(trial.limits(CANARY, Latency::TimeToFirstToken, Quantile::P50, now).is_none());
}

#[test]
fn what_a_backend_refuses_and_clients_who_left_in_vain_are_missed_and_others_who_left_are_not() {
    let now = ManualClock::new().now();
    let left = |after: Duration, first_token: Option<Duration>| {
        let mut record = ExchangeRecord { outcome: Outcome::ClientCancelled, ..exchange(None) };
        record.course.ended = after;
        record.latencies.first_token = first_token;
        record
    };
    let refused = ExchangeRecord { outcome: Outcome::BackendRejected, ..exchange(None) };
    let several = ExchangeRecord { choices: 2, ..exchange(Some(false)) };
    for (record, total) in [
        (refused, 1),
        (left(SECOND * 2, None), 1),
        (left(SECOND / 2, None), 0),
        (left(SECOND * 2, Some(SECOND / 2)), 0),
        (several, 0),
    ] {
        let mut trial = Trial::new(1, promise());
        trial.record(&record, &assigned(CANARY, None), &SHARES, now);
        let judged = trial.judged(CANARY, Latency::TimeToFirstToken).expect("promised");
        assert_eq!((judged.total, judged.good), (total, 0), "{record:?}");
    }
}

#[test]
fn a_canary_that_is_worse_but_within_the_promise_is_not_blamed_for_an_outage_of_everything() {
    // A long good time, in which it is clearly worse than the baseline; then both miss most.
    let outage = |number: u32| if (40_000..42_000).contains(&number) { [0.7, 0.7] } else { [0.005, 0.02] };
    assert_eq!(alarms(40, 44_000, outage), 0);
}

#[test]
fn a_canary_that_breaks_the_promise_as_the_baseline_does_is_not_accused() {
    let now = ManualClock::new().now();
    let mut trial = Trial::new(1, promise());
    let mut end = |group: GroupIndex, kept: bool| {
        let broken = trial.record(&exchange(Some(kept)), &assigned(group, None), &SHARES, now);
        assert_eq!(broken, None, "a fifth of both is missed");
    };
    for cycle in 0..300 {
        // Misses come eight at a time, and the canary's turn when the baseline has just been good for a while.
        (0..38).for_each(|number| end(GroupIndex::BASELINE, number >= 8));
        (0..2).for_each(|number| end(CANARY, (2 * cycle + number) % 5 != 0));
    }
    let Certainty { breaks, worse, needed } = trial.certainty(CANARY, Latency::TimeToFirstToken).expect("promised");
    assert!(breaks >= needed && worse < needed, "it is the comparison that acquits it: {breaks} {worse}");
}

#[test]
fn latencies_count_for_the_group_that_was_drawn_and_are_compared() {
    let now = ManualClock::new().now();
    let (mut trial, mut random) = (Trial::new(1, promise()), Random::seeded(3));
    for _ in 0..4_000 {
        let group = if random.share() < 0.25 { CANARY } else { GroupIndex::BASELINE };
        let slower = if group == CANARY { 1.5 } else { 1.0 };
        let first_token = Some(Duration::from_secs_f64(random.exponential() * slower / 10.0));
        let latencies = Latencies { first_token, ..Latencies::default() };
        trial.record(&ExchangeRecord { latencies, ..exchange(Some(true)) }, &assigned(group, None), &[0.75, 0.25], now);
    }
    let median = trial.difference(CANARY, Latency::TimeToFirstToken, Quantile::P50, now).expect("enough");
    let truth = 0.05 * std::f64::consts::LN_2;
    assert!((median.low..=median.high).contains(&truth) && median.is_clear(), "{median:?}");
    assert_eq!(trial.difference(CANARY, Latency::InterToken, Quantile::P50, now), None);
    let misses = trial.miss_difference(CANARY, Latency::TimeToFirstToken).expect("judged");
    assert!(misses.value.abs() < 1e-9 && !misses.is_clear(), "{misses:?}");
    assert_eq!(trial.miss_difference(CANARY, Latency::EndToEnd), None, "not promised");
}
