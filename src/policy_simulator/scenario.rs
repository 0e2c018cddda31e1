//! Named scenarios: the default fleet under a known load with a known incident. Rules are tuned on these.

use std::time::Duration;

use super::frozen::{FLEET, run_state};
use super::scene::{Change, Incident, Machine, Scene, Spec};
use super::workload::{ESTIMATE_ERROR, Mix, Source, Sources, Workload};
use crate::engine::Profile;
use crate::random::Random;

/// How long a dead backend is held for healthy.
const NOTICED: f64 = 10.0;
/// How much of the batch trace's rate there is.
const BATCH: f64 = 0.3;

/// One scenario.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Scenario {
    /// Its name.
    pub name: &'static str,
    /// What it shows.
    pub about: &'static str,
    kind: Kind,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Kind {
    /// Nothing happens; tenths of the recorded speed.
    Steady(u8),
    Over,
    Slow,
    SlowLatency,
    LongSlow,
    Dead,
    Flapping,
    Burst,
    Hidden,
    HiddenSeen,
    Cold,
    Hostile,
    /// So many copies of the proxy, and whether they share what they sent.
    Replicas(u8, bool),
    /// Prefixes from conversations; tenths of the recorded speed.
    Conversation(u8),
    Synthetic,
}

const fn scenario(name: &'static str, kind: Kind, about: &'static str) -> Scenario {
    Scenario { name, about, kind }
}

/// Every scenario.
pub const SCENARIOS: [Scenario; 23] = [
    scenario("low", Kind::Steady(10), "steady, 8 requests per second"),
    scenario("mid", Kind::Steady(20), "steady, 16 requests per second"),
    scenario("high", Kind::Steady(30), "steady, 24 requests per second"),
    scenario("vhigh", Kind::Steady(40), "steady, 32 requests per second"),
    scenario("over", Kind::Over, "48 requests per second, more than the fleet can serve"),
    scenario("slow", Kind::Slow, "one backend 3x slow for a minute, later two"),
    scenario("slowlat", Kind::SlowLatency, "the latency backend 3x slow for a minute"),
    scenario("longslow", Kind::LongSlow, "the three cheapest backends 4x slow for six minutes"),
    scenario("dead", Kind::Dead, "a backend stops answering, is ejected after 10 s and comes back"),
    scenario("flapping", Kind::Flapping, "a backend 4x slow every other 20 s"),
    scenario("burst", Kind::Burst, "three times the requests for half a minute"),
    scenario("hidden", Kind::Hidden, "other clients use two backends for four minutes, unseen"),
    scenario("hiddenm", Kind::HiddenSeen, "the same, with the engines' metrics scraped every second"),
    scenario("cold", Kind::Cold, "two backends come up after two minutes, with nothing known of them"),
    scenario("hostile", Kind::Hostile, "bad estimates, unbounded prefill, random stalls"),
    scenario("multi4", Kind::Replicas(4, false), "four copies of the proxy that share nothing"),
    scenario("multi4g", Kind::Replicas(4, true), "four copies that share every 250 ms"),
    scenario("multi16", Kind::Replicas(16, false), "sixteen copies that share nothing"),
    scenario("multi16g", Kind::Replicas(16, true), "sixteen copies that share every 250 ms"),
    scenario("moon", Kind::Conversation(5), "long conversations with prefixes"),
    scenario("moonhi", Kind::Conversation(9), "more long conversations with prefixes"),
    scenario("synth", Kind::Synthetic, "another trace with prefixes, never tuned on"),
    scenario("quiet", Kind::Steady(5), "steady, 4 requests per second: little to learn from"),
];

impl Scenario {
    /// The scenario of that name.
    #[must_use]
    pub fn named(name: &str) -> Option<Self> {
        SCENARIOS.into_iter().find(|scenario| scenario.name == name)
    }

    /// Its run of that number; numbers differ in where the traces start and in all draws.
    #[must_use]
    pub fn scene(self, number: u64, sources: &Sources) -> Scene {
        let mut scene = self.traffic(number, sources);
        self.befall(&mut scene, number);
        scene.incidents.sort_by_key(|incident| incident.at);
        scene.name = format!("{} #{number}", self.name);
        scene.state = run_state(number);
        scene
    }

    fn traffic(self, number: u64, sources: &Sources) -> Scene {
        let mixed = |speed, duration, offset| mixed(sources, number, speed, duration, offset, ESTIMATE_ERROR);
        #[allow(clippy::cast_precision_loss, reason = "runs are counted on fingers")]
        let n = number as f64;
        match self.kind {
            Kind::Steady(tenths) => mixed(f64::from(tenths) / 10.0, 600.0, 300.0 * n),
            Kind::Over => mixed(6.0, 500.0, (300.0 * n).min(300.0)),
            Kind::LongSlow => mixed(1.5, 900.0, 210.0 * n),
            Kind::Hostile => hostile(mixed_scene(sources, number, 1.5, 300.0 * n, 0.35)),
            Kind::Conversation(tenths) => prefixed(&sources.conversation, f64::from(tenths) / 10.0, number),
            Kind::Synthetic => prefixed(&sources.synthetic, 0.6 + 0.2 * n, number),
            Kind::Hidden | Kind::HiddenSeen => mixed(1.5, 600.0, 300.0 * n),
            _ => mixed(2.0, 600.0, 300.0 * n),
        }
    }

    fn befall(self, scene: &mut Scene, number: u64) {
        let mut slow = |backend, factor, during| scene.incidents.extend(Incident::slow(backend, factor, during));
        match self.kind {
            Kind::Slow => {
                slow(1, 3.0, 120.0..180.0);
                slow(3, 3.0, 300.0..360.0);
                slow(4, 3.0, 300.0..360.0);
            }
            Kind::SlowLatency => slow(0, 3.0, 120.0..180.0),
            Kind::LongSlow => (4..7).for_each(|backend| slow(backend, 4.0, 60.0..420.0)),
            Kind::Flapping => {
                for round in 0..8_u8 {
                    let start = 120.0 + 40.0 * f64::from(round);
                    slow(1, 4.0, start..start + 20.0);
                }
            }
            Kind::Dead => scene.incidents.extend(dead(1, 120.0, 300.0)),
            Kind::Burst => scene.workload.crowd(240.0..300.0, &(240.0..270.0), &mut Random::seeded(number)),
            Kind::Hidden | Kind::HiddenSeen => {
                scene.incidents.extend(hidden(&[1, 4], 120.0, 360.0, &mut Random::seeded(number)));
                scene.scrape = (self.kind == Kind::HiddenSeen).then_some(Duration::from_secs(1));
            }
            Kind::Cold => scene.incidents.extend([2, 4].into_iter().flat_map(|backend| absent(backend, 120.0))),
            Kind::Replicas(replicas, gossip) => {
                scene.replicas = usize::from(replicas);
                scene.gossip = gossip.then_some(Duration::from_millis(250));
            }
            _ => {}
        }
    }
}

/// The default fleet.
#[must_use]
pub fn fleet() -> Vec<Machine> {
    let machine = |(index, alias): (usize, &&str)| {
        let profile = Profile::named(alias).ok()?;
        Some(Machine::of(format!("{alias}-{index}").into(), profile))
    };
    FLEET.iter().enumerate().filter_map(machine).collect()
}

/// The promises of the default routes.
fn promises() -> Vec<Spec> {
    let ms = Duration::from_millis;
    Spec::three((ms(300), ms(40)), (ms(1000), ms(80)), Duration::from_secs(30))
}

fn mixed(sources: &Sources, number: u64, speed: f64, duration: f64, offset: f64, estimate_error: f64) -> Scene {
    let mix = Mix { speed, duration, offset, seed: number + 1, batch: BATCH, estimate_error };
    Scene::new(String::new(), duration, fleet(), promises(), Workload::mixed(sources, &mix))
}

fn mixed_scene(sources: &Sources, number: u64, speed: f64, offset: f64, estimate_error: f64) -> Scene {
    mixed(sources, number, speed, 600.0, offset, estimate_error)
}

fn hostile(mut scene: Scene) -> Scene {
    scene.stall = 0.002;
    for machine in &mut scene.backends {
        machine.profile.chunk = u32::MAX;
    }
    scene
}

fn prefixed(source: &Source, speed: f64, number: u64) -> Scene {
    let duration = 900.0;
    let workload = Workload::prefixed(source, speed, duration, number + 1);
    let promise = (Duration::from_secs(3), Duration::from_millis(60));
    Scene::new(String::new(), duration, fleet(), vec![Spec::streamed("chat", promise)], workload)
}

fn dead(backend: usize, from: f64, until: f64) -> [Incident; 3] {
    let at = |seconds, change| Incident { at: Duration::from_secs_f64(seconds), backend, change };
    [at(from, Change::Dies), at(from + NOTICED, Change::Ejected), at(until, Change::Returns)]
}

fn absent(backend: usize, until: f64) -> [Incident; 2] {
    let at = |seconds, change| Incident { at: Duration::from_secs_f64(seconds), backend, change };
    [at(0.0, Change::Ejected), at(until, Change::Returns)]
}

/// Two requests per second of other clients, at random times, on each of the backends.
fn hidden(backends: &[usize], from: f64, until: f64, random: &mut Random) -> Vec<Incident> {
    let mut incidents = Vec::new();
    for &backend in backends {
        let mut at = from;
        while at < until {
            at += random.exponential() / 2.0;
            let change = Change::Hidden { input: 1500, output: 200 };
            incidents.push(Incident { at: Duration::from_secs_f64(at), backend, change });
        }
    }
    incidents
}
