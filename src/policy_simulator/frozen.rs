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
