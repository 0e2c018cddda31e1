//! The frozen evaluation: random configurations drawn from a committed seed, before any comparison.
//!
//! A rule is tuned on the named scenarios. These configurations differ from them in fleet, load, promises and mix, so
//! they say whether the rule holds outside of what it was tuned on. There is a second seed that is not run before the
//! rule is final.

use std::sync::Arc;
use std::time::Duration;

use super::scene::{Incident, Machine, Scene, Spec};
use super::workload::{ESTIMATE_ERROR, Mix, Sources, Workload};
use crate::engine::Profile;
use crate::random::Random;

/// Configurations of one evaluation.
pub const CONFIGURATIONS: u64 = 60;
/// Length of a run, in seconds.
const DURATION: f64 = 600.0;
/// Prefill tokens per second that one times the recorded speed needs.
const NEEDED: f64 = 12_500.0;
/// The default fleet, by alias; configurations draw from it.
pub const FLEET: [&str; 7] = ["h100-latency", "h100-throughput", "a100", "a100", "l40s", "l40s", "a10g"];

/// Which set of configurations.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Evaluation {
    /// The set that rules are compared on.
    Frozen,
    /// The set that is run once, when the rule is final.
    Second,
}

impl Evaluation {
    /// The number that the first configuration's seed starts from.
    fn base(self) -> u64 {
        match self {
            Self::Frozen => 0,
            Self::Second => 1_000_000,
        }
    }

    /// The configuration of that number.
    #[must_use]
    pub fn configuration(self, number: u64, sources: &Sources) -> Scene {
        let number = self.base().wrapping_add(number);
        let mut random = Random::in_state(number.wrapping_add(5000).wrapping_mul(0x9E37_79B9_7F4A_7C15));
        for _ in 0..20 {
            random.bits();
        }
        let count = 4 + random.bits() % 7;
        let fleet: Vec<Profile> = FLEET.iter().filter_map(|alias| Profile::named(alias).ok()).collect();
        let backends: Vec<Machine> = (0..count).filter_map(|index| machine(index, &fleet, &mut random)).collect();
        let capacity: f64 = backends.iter().map(|machine| machine.profile.prefill_rate).sum();
        let utilisation = 0.10 + 0.30 * random.share();
        let speed = (utilisation * capacity / NEEDED).clamp(0.3, 5.0);
        let offset = random.share() * (3400.0 - 600.0 * speed).max(0.0);
        let batch = 0.1 + 0.4 * random.share();
        let draws = number.wrapping_add(991);
        let mix = Mix { speed, duration: DURATION, offset, seed: draws, batch, estimate_error: ESTIMATE_ERROR };
        let workload = Workload::mixed(sources, &mix);
        let routes = routes(&mut random);
        let incidents = incident(backends.len(), &mut random);
        Scene {
            incidents,
            state: run_state(number),
            ..Scene::new(format!("#{number}"), DURATION, backends, routes, workload)
        }
    }
}

/// The state of a run's generator.
#[must_use]
pub fn run_state(number: u64) -> u64 {
    number.wrapping_add(11).wrapping_mul(7919)
}

/// One backend of the default fleet, changed at random.
fn machine(index: u64, fleet: &[Profile], random: &mut Random) -> Option<Machine> {
    let drawn = fleet.get(below(fleet.len(), random)).copied()?;
    let mut profile = drawn;
    let speed = (0.5 * random.gauss()).exp().clamp(0.5, 2.0);
    profile.prefill_rate *= speed;
    let overhead = (0.25 * random.gauss()).exp();
    profile.step_base *= overhead / speed.sqrt();
    profile.step_per_sequence /= speed;
    profile.max_sequences = draw(&[32, 64, 128, 256], random);
    profile.chunk = draw(&[1024, 2048, 8192, u32::MAX], random);
    let dear = (0.5 * random.gauss()).exp();
    profile.price_input *= dear;
    profile.price_output *= dear;
    Some(Machine::of(Arc::from(format!("{}-{index}", drawn.alias)), profile))
}

fn draw<T: Copy + Default>(from: &[T], random: &mut Random) -> T {
    from.get(below(from.len(), random)).copied().unwrap_or_default()
}

/// By remainder, as the configurations were drawn at first.
#[allow(clippy::cast_possible_truncation, reason = "the remainder is below the bound")]
fn below(bound: usize, random: &mut Random) -> usize {
    (random.bits() % bound.max(1) as u64) as usize
}

/// Promises of chat, code and batch.
fn routes(random: &mut Random) -> Vec<Spec> {
    let mut within = |least: f64, spread: f64| Duration::from_secs_f64(least + spread * random.share());
    let (chat_ttft, chat_itl) = (within(0.2, 0.5), within(0.03, 0.04));
    let (code_ttft, code_itl) = (within(0.5, 1.0), within(0.05, 0.06));
    let batch = within(20.0, 30.0);
    Spec::three((chat_ttft, chat_itl), (code_ttft, code_itl), batch)
}

fn incident(backends: usize, random: &mut Random) -> Vec<Incident> {
    if random.share() >= 0.5 {
        return Vec::new();
    }
    Incident::slow(below(backends, random), 3.0, 200.0..260.0).into()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::policy_simulator::excerpts;
    use crate::policy_simulator::testing::{TRACES, whole_traces};

    /// Requests per second of each configuration, from the evaluation that the rule was first judged by.
    const OFFERED: [f64; 60] = [
        27.1, 12.5, 13.8, 20.0, 23.4, 35.2, 13.2, 38.4, 23.1, 25.9, 35.9, 7.9, 22.8, 7.4, 31.0, 22.1, 16.0, 13.4, 28.9,
        8.5, 27.2, 14.4, 14.9, 15.9, 6.0, 17.1, 28.7, 38.0, 36.4, 32.6, 26.6, 26.7, 13.5, 34.6, 8.1, 4.2, 9.8, 41.3,
        11.4, 38.1, 41.1, 33.1, 6.8, 13.7, 7.2, 37.4, 19.5, 32.0, 15.2, 21.7, 9.2, 42.1, 13.2, 34.3, 15.5, 31.6, 18.6,
        2.9, 40.4, 8.4,
    ];

    #[test]
    fn the_whole_traces_offer_what_they_always_did() {
        let Some(sources) = whole_traces() else {
            eprintln!("skipped: {TRACES} names no folder with the whole traces");
            return;
        };
        for (number, expected) in (0..).zip(OFFERED) {
            let scene = Evaluation::Frozen.configuration(number, &sources);
            let offered = scene.workload.offered(scene.duration);
            assert!((offered - expected).abs() < 0.0501, "{number}: {offered:.2} and not {expected}");
        }
    }

    /// What does not depend on the traces: backends, prefill rates, promises in ms, what goes wrong.
    #[track_caller]
    fn check(number: u64, backends: &[(&str, u32)], promises: [u128; 5], struck: Option<usize>) {
        let scene = Evaluation::Frozen.configuration(number, &excerpts::sources().expect("traces"));
        let drawn: Vec<_> =
            scene.backends.iter().map(|one| (one.profile.alias, one.profile.prefill_rate.round())).collect();
        let expected: Vec<_> = backends.iter().map(|(alias, rate)| (*alias, f64::from(*rate))).collect();
        assert_eq!(drawn, expected, "{number}");
        let thresholds =
            scene.routes.iter().flat_map(|route| route.objectives.iter().map(|one| one.threshold.as_millis()));
        assert_eq!(thresholds.collect::<Vec<_>>(), promises, "{number}");
        assert_eq!(scene.incidents.first().map(|incident| incident.backend), struck, "{number}");
    }

    #[test]
    fn configurations_are_drawn_as_they_always_were() {
        let six = [
            ("a100", 5250),
            ("a10g", 5982),
            ("h100-latency", 45_422),
            ("a100", 10_674),
            ("h100-throughput", 37_148),
            ("l40s", 15_487),
        ];
        check(0, &six, [449, 48, 1065, 74, 36_137], Some(0));
        check(
            35,
            &[("a10g", 7467), ("a10g", 4062), ("l40s", 12_262), ("a100", 15_417), ("l40s", 5000)],
            [642, 40, 882, 102, 25_097],
            Some(1),
        );
        check(
            57,
            &[("a10g", 3369), ("l40s", 16_657), ("a10g", 2162), ("a100", 8142)],
            [302, 50, 886, 96, 38_404],
            None,
        );
    }

    #[test]
    fn the_second_set_is_another() {
        let sources = excerpts::sources().expect("traces");
        let rates = |evaluation: Evaluation, number| {
            let scene = evaluation.configuration(number, &sources);
            scene.backends.iter().map(|machine| machine.profile.prefill_rate.to_bits()).collect::<Vec<_>>()
        };
        let frozen: Vec<_> = (0..60).map(|number| rates(Evaluation::Frozen, number)).collect();
        assert!((0..60).all(|number| !frozen.contains(&rates(Evaluation::Second, number))));
    }
}
