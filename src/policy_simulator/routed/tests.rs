//! The signal to scale by, on engines in virtual time: it must be there before users feel what it warns of.

#![allow(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    clippy::cast_precision_loss,
    reason = "seconds and counts are small"
)]

mod warm_start;

use std::cell::RefCell;
use std::rc::Rc;

use super::*;
use crate::clock::{Clock, ManualClock};
use crate::engine::Profile;
use crate::policy_simulator::scene::Spec;
use crate::policy_simulator::workload::{Arrival, Workload};
use crate::policy_simulator::world::run;

/// How long load rises, and again how long it falls.
const RAMP: f64 = 400.0;
/// Averages are over so many seconds, as whoever scales takes them.
const BIN: usize = 20;
/// How often it is asked for, at most.
const SAMPLE: Duration = Duration::from_millis(700);

/// A rule that notes its backends' mean demand now and then.
struct Watched {
    rule: Routed<Served>,
    /// As `max_in_flight` would say.
    room: Option<u32>,
    next: Duration,
    seen: Rc<RefCell<Vec<(f64, f64)>>>,
}

impl Rule for Watched {
    type Ticket = Option<InFlight>;

    fn choose(&mut self, asked: &Asked<'_>, view: &View<'_>, random: &mut Random) -> Verdict {
        let facts = Routed::<Served>::facts(asked, view.now);
        let asking = self.rule.asking(asked, &facts);
        let margin = self.rule.routes[0].margin();
        let now = self.rule.base + view.now;
        let demand = |model: &BackendModel| {
            let requests = model.arrivals(RouteSlot(0), now);
            let arriving = model::Arriving { requests, output_tokens: requests * asking.output.mean, room: self.room };
            model.demand(&asking, margin, &arriving, now)
        };
        if view.now >= self.next {
            self.next = view.now + SAMPLE;
            let demands: Vec<_> = self.rule.models.iter().filter_map(demand).collect();
            if !demands.is_empty() {
                let mean = demands.iter().sum::<f64>() / demands.len() as f64;
                self.seen.borrow_mut().push((view.now.as_secs_f64(), mean));
            }
        }
        self.rule.choose(asked, view, random)
    }

    fn dispatched(&mut self, asked: &Asked<'_>, choice: &Choice, now: Duration) -> Self::Ticket {
        self.rule.dispatched(asked, choice, now)
    }

    fn first_token(&mut self, ticket: &mut Self::Ticket, now: Duration) {
        self.rule.first_token(ticket, now);
    }

    fn token(&mut self, backend: usize, now: Duration) {
        self.rule.token(backend, now);
    }

    fn gaps(&mut self, ticket: &mut Self::Ticket, count: u32, mean: Duration, now: Duration) {
        self.rule.gaps(ticket, count, mean, now);
    }

    fn ended(&mut self, ticket: Self::Ticket, ending: &Ending, now: Duration) {
        self.rule.ended(ticket, ending, now);
    }

    fn ejected(&mut self, backend: usize) {
        self.rule.ejected(backend);
    }

    fn shared(&self, backend: usize) -> Shared {
        self.rule.shared(backend)
    }

    fn hear(&mut self, backend: usize, others: Shared, now: Duration) {
        self.rule.hear(backend, others, now);
    }
}

/// Requests whose rate rises from nothing to `peak` a second and falls again.
fn ramp(peak: f64) -> Workload {
    let mut random = Random::seeded(3);
    let (mut at, mut arrivals) = (0.0_f64, Vec::new());
    while at < 2.0 * RAMP {
        let rate = peak * (1.0 - (at / RAMP - 1.0).abs());
        at += random.exponential() / rate.max(0.3);
        let mut tokens = |least: u32, bound| least + u32::try_from(random.below(bound)).unwrap();
        let (input, output) = (tokens(100, 1_200), tokens(40, 200));
        arrivals.push(Arrival::new(Duration::from_secs_f64(at), 0, input, output));
    }
    Workload::of(arrivals)
}

/// The mean of what was noted in each [`BIN`] seconds; `None` where nothing was.
fn binned(noted: impl Iterator<Item = (f64, f64)>) -> Vec<Option<f64>> {
    let mut bins = vec![(0.0, 0.0); (2.0 * RAMP) as usize / BIN];
    for (at, value) in noted {
        if let Some(bin) = bins.get_mut(at as usize / BIN) {
            *bin = (bin.0 + value, bin.1 + 1.0);
        }
    }
    bins.into_iter().map(|(sum, count)| (count > 0.0).then(|| sum / count)).collect()
}

#[track_caller]
fn check(profile: &str, machines: usize, peak: f64) {
    let most = Profile::named(profile).expect("known").max_sequences;
    let room = u32::try_from(most).ok();
    let machine = |number| Machine::of(format!("{number}").into(), Profile::named(profile).expect("known"));
    let promise = (Duration::from_millis(800), Duration::from_millis(50));
    let routes = vec![Spec::streamed("chat", promise)];
    let machines = (0..machines).map(machine).collect();
    let scene = Scene::new("ramp".to_owned(), 2.0 * RAMP, machines, routes, ramp(peak));
    let seen = Rc::new(RefCell::new(Vec::new()));
    let base = ManualClock::new().now();
    let played = run(&scene, base, |_| {
        let served = Served::new(vec![PolicyKind::CheapestWithinSlo], 1);
        let rule = Routed::new(&scene, base, Tuning::default(), vec![OnOverload::default()], served);
        Watched { rule, room, next: Duration::ZERO, seen: Rc::clone(&seen) }
    });
    let demand = binned(seen.borrow().iter().copied());
    let good = |fate: &crate::policy_simulator::fate::Fate| f64::from(u8::from(fate.good));
    let arrivals = scene.workload.arrivals.iter().map(|arrival| arrival.at.as_secs_f64());
    let kept = binned(arrivals.zip(played.fates.iter().map(good)));
    let number = |value: &Option<f64>| value.map_or("-".to_owned(), |value| format!("{value:.2}"));
    let row = |(bin, (demand, kept))| format!("{} s: {} {}\n", bin * BIN, number(demand), number(kept));
    let table: String = demand.iter().zip(&kept).enumerate().map(row).collect();
    let above = demand.iter().position(|demand| demand.is_some_and(|demand| demand > 1.0)).expect("too much");
    // The first requests meet a model that knows nothing.
    let missed = kept.iter().skip(3).position(|kept| kept.is_some_and(|kept| kept < 0.9)).expect("misses") + 3;
    assert!(above <= missed, "{profile}: above 1 at {} s, missed at {} s: \n{table}", above * BIN, missed * BIN);
    let quiet = |bins: &[Option<f64>]| bins.iter().all(|demand| demand.is_some_and(|demand| demand < 0.6));
    assert!(quiet(&demand[2..4]) && quiet(&demand[demand.len() - 2..]), "{profile}: \n{table}");
}

#[test]
fn demand_rises_above_one_before_promises_break_and_falls_with_the_load() {
    check("a10g", 1, 2.0);
    check("a10g", 1, 3.0);
    check("a10g", 3, 10.0);
    // Its batch is full before its steps are slow: a limit that only the configuration can tell.
    check("h100-latency", 1, 25.0);
}
