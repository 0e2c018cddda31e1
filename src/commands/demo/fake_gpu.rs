//! GPUs that do not exist, for a demonstration without any: each is as busy as its simulated engine.
//!
//! What they say is made of the engine's state and of data sheets: busy is the share of time in steps, memory is the
//! weights and the key/value cache in use, power lies between idle and the board's limit as the GPU is busy, and an
//! engine that was made slow runs on a hot GPU. They come by the way of real ones, and are called fake everywhere.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::clock::Clock;
use crate::config::settings::{GpuId, NamedGpu};
use crate::engine::Profile;
use crate::fleet::gpu::{GpuReading, GpuSource, NamedReading, OpenGpuSource};
use crate::nim_simulator::{Simulator, SimulatorStats};
use crate::wire::gpu::Slowdowns;

/// What a token takes in the cache of a model of 8 billion parameters: 32 layers, 8 heads, 128 wide, keys and values of
/// two bytes.
const TOKEN_BYTES: f64 = 131_072.0;
const GIBIBYTE: f64 = 1_073_741_824.0;
/// An idle GPU, and one that is busy and cool, and one that is too hot, in degrees Celsius.
const TEMPERATURES: [f64; 3] = [34.0, 66.0, 88.0];
/// NVML's bit for a GPU that is slowed because it is hot.
const HOT: u64 = 0x40;

/// What stands on a GPU's data sheet.
#[derive(Clone, Copy)]
struct Board {
    memory: f64,
    idle_watts: f64,
    most_watts: f64,
    hertz: f64,
}

fn board(gpu: &str) -> Board {
    let of = |gibibytes: f64, idle_watts, most_watts, megahertz: f64| Board {
        memory: gibibytes * GIBIBYTE,
        idle_watts,
        most_watts,
        hertz: megahertz * 1e6,
    };
    match gpu {
        "H100" => of(80.0, 75.0, 700.0, 1_980.0),
        "A100" => of(80.0, 55.0, 400.0, 1_410.0),
        "L40S" => of(48.0, 35.0, 350.0, 2_520.0),
        _ => of(24.0, 20.0, 150.0, 1_710.0),
    }
}

/// One simulated engine, and the GPU it seems to run on.
struct Fake {
    stats: Box<dyn Fn() -> SimulatorStats + Send + Sync>,
    profile: Profile,
}

/// GPUs numbered as the simulators are.
pub(super) fn opener(
    simulators: &[Simulator],
    backends: &[(Profile, String)],
    clock: &Arc<dyn Clock>,
) -> OpenGpuSource {
    let engines = simulators.iter().zip(backends);
    let fakes: Arc<[Fake]> =
        engines.map(|(engine, &(profile, _))| Fake { stats: Box::new(engine.watch()), profile }).collect();
    let clock = Arc::clone(clock);
    Arc::new(move || {
        let (fakes, clock) = (Arc::clone(&fakes), Arc::clone(&clock));
        Ok(Box::new(Source { fakes, clock, before: HashMap::new() }))
    })
}

struct Source {
    fakes: Arc<[Fake]>,
    clock: Arc<dyn Clock>,
    /// When a GPU was last asked, and how long its engine had been busy then.
    before: HashMap<usize, (Instant, Duration)>,
}

impl GpuSource for Source {
    fn name(&self) -> &'static str {
        "fake"
    }

    fn read(&mut self, gpu: &GpuId) -> Result<NamedReading, String> {
        let place = match gpu.named() {
            Some(NamedGpu::Index(index)) => usize::try_from(index).ok(),
            _ => None,
        };
        let fake = place.and_then(|place| Some((place, self.fakes.get(place)?)));
        let (place, fake) = fake.ok_or("there is no such fake GPU")?;
        let (stats, now) = ((fake.stats)(), self.clock.now());
        let before = self.before.insert(place, (now, stats.busy));
        let utilization = before.and_then(|(at, busy)| share(stats.busy.saturating_sub(busy), now.duration_since(at)));
        let model = format!("fake {}", fake.profile.gpu);
        Ok(NamedReading { model: Some(model.into()), reading: reading(&fake.profile, &stats, utilization) })
    }
}

fn share(busy: Duration, of: Duration) -> Option<f64> {
    (!of.is_zero()).then(|| (busy.as_secs_f64() / of.as_secs_f64()).min(1.0))
}

#[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "not negative, and far below 2^63")]
fn reading(profile: &Profile, stats: &SimulatorStats, utilization: Option<f64>) -> GpuReading {
    let board = board(profile.gpu);
    let busy = utilization.unwrap_or(0.0);
    let bytes_per_parameter = if profile.name.contains("fp16") { 2.0 } else { 1.0 };
    let weights = 8e9 * bytes_per_parameter;
    let held = stats.kv_ratio * f64::from(profile.kv_capacity) * TOKEN_BYTES;
    let slowed = stats.slow > 1.0;
    let [idle, cool, hot] = TEMPERATURES;
    GpuReading {
        utilization,
        memory_used: Some((weights + held).min(board.memory) as u64),
        memory_total: Some(board.memory as u64),
        power_watts: Some((board.idle_watts + busy * (board.most_watts - board.idle_watts)).round()),
        temperature_celsius: Some((idle + busy * (if slowed { hot } else { cool } - idle)).round()),
        clock_hertz: Some((board.hertz / stats.slow.max(1.0)).round()),
        slowdowns: Some(Slowdowns(if slowed { HOT } else { 0 })),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_fake_gpu_is_as_its_engine_is() {
        let profile = Profile::named("l40s").expect("known");
        let idle = reading(&profile, &SimulatorStats { slow: 1.0, ..SimulatorStats::default() }, Some(0.0));
        assert_eq!(
            (idle.memory_used, idle.power_watts, idle.throttled()),
            (Some(8_000_000_000), Some(35.0), Some(false))
        );
        let stats = SimulatorStats { slow: 3.0, kv_ratio: 0.5, ..SimulatorStats::default() };
        let hot = reading(&profile, &stats, Some(1.0));
        assert_eq!((hot.power_watts, hot.temperature_celsius, hot.throttled()), (Some(350.0), Some(88.0), Some(true)));
        assert_eq!((hot.memory_used, hot.clock_hertz), (Some(8_000_000_000 + 130_000 * 131_072), Some(8.4e8)));
    }

    #[test]
    fn every_profile_fits_on_its_board() {
        for profile in Profile::all() {
            let full = SimulatorStats { kv_ratio: 1.0, ..SimulatorStats::default() };
            let reading = reading(profile, &full, None);
            assert!(reading.memory_used < reading.memory_total, "{}", profile.name);
        }
    }

    #[test]
    fn busy_is_a_share_of_time() {
        let seconds = Duration::from_secs_f64;
        assert_eq!(share(seconds(0.25), seconds(1.0)), Some(0.25));
        assert_eq!(share(seconds(2.0), seconds(1.0)), Some(1.0));
        assert_eq!(share(seconds(0.0), Duration::ZERO), None);
    }
}
