//! The GPUs that backends run on: of this host through NVML, of others through their DCGM exporters.
//!
//! Nothing here is on the data path, and nothing that routing decides depends on it: it is there to tell a slow route
//! from a busy or hot GPU. Drivers block and hang, so they are asked on a thread that nobody waits for, and what it
//! found grows too old by itself.

pub(super) mod dcgm;
mod nvml;
mod thread;
mod watch;

use std::sync::Arc;
use std::time::{Duration, Instant};

use super::LiveBackend;
use super::backend::Shared;
use crate::config::settings::{Backend, GpuId};
use crate::measure::exchange::BackendLoad;
pub use crate::wire::gpu::GpuReading;

pub use self::watch::run;

/// What stands for a source where none can be asked.
pub const UNAVAILABLE: &str = "unavailable";

/// Something that can be asked about GPUs: NVML, or what stands for it in a demonstration.
pub trait GpuSource {
    /// What it is called in the API.
    fn name(&self) -> &'static str;

    /// Asks one GPU. May block for as long as the driver likes.
    ///
    /// # Errors
    /// A sentence that says why nothing is known of that GPU.
    fn read(&mut self, gpu: &GpuId) -> Result<NamedReading, String>;
}

/// What a source says of a GPU.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct NamedReading {
    /// The GPU's model.
    pub model: Option<Arc<str>>,
    /// Its figures.
    pub reading: GpuReading,
}

/// Opens a source, on the thread that will ask it; tells in a sentence why that is not possible.
pub type OpenGpuSource = Arc<dyn Fn() -> Result<Box<dyn GpuSource>, String> + Send + Sync>;

/// One GPU of a backend.
#[derive(Debug, Clone, PartialEq)]
pub struct Gpu {
    /// As the configuration names it; by its number where a DCGM exporter shows all there are.
    pub id: Arc<str>,
    /// Its model.
    pub model: Option<Arc<str>>,
    /// What it says of itself.
    pub reading: GpuReading,
    /// Why it says nothing.
    pub problem: Option<Arc<str>>,
}

/// What was last heard of a backend's GPUs.
#[derive(Debug)]
pub struct GpuReport {
    /// Where it is from: `nvml`, `dcgm` or `fake`; [`UNAVAILABLE`] where nothing could be asked.
    pub source: &'static str,
    /// The GPUs; empty where nothing could be asked.
    pub gpus: Vec<Gpu>,
    /// Why nothing could be asked.
    pub problem: Option<Arc<str>>,
    /// Mean of those that tell it.
    utilization: Option<f64>,
    at: Instant,
    good_for: Duration,
}

impl GpuReport {
    /// What was heard just now, believed for a while.
    fn new(source: &'static str, gpus: Vec<Gpu>, at: Instant, good_for: Duration) -> Self {
        let told = || gpus.iter().filter_map(|gpu| gpu.reading.utilization);
        #[allow(clippy::cast_precision_loss, reason = "a handful")]
        let count = told().count() as f64;
        let utilization = (count > 0.0).then(|| told().sum::<f64>() / count);
        Self { source, gpus, problem: None, utilization, at, good_for }
    }

    /// Nothing could be asked.
    fn silent(problem: Arc<str>, at: Instant, good_for: Duration) -> Self {
        Self { problem: Some(problem), ..Self::new(UNAVAILABLE, Vec::new(), at, good_for) }
    }

    fn is_fresh(&self, now: Instant) -> bool {
        now.saturating_duration_since(self.at) <= self.good_for
    }
}

/// Whether anything is to be known of a backend's GPUs.
fn is_watched(settings: &Backend) -> bool {
    settings.dcgm.is_some() || !settings.gpus.is_empty()
}

impl LiveBackend {
    /// Whether the configuration says where its GPUs are.
    pub fn watches_gpus(&self) -> bool {
        is_watched(self.settings())
    }

    /// What is known of its GPUs; `None` where nobody answered lately.
    pub fn gpus(&self, now: Instant) -> Option<Arc<GpuReport>> {
        let report = self.shared.gpus.load_full().filter(|_| self.watches_gpus())?;
        report.is_fresh(now).then_some(report)
    }
}

impl Shared {
    /// How busy it is, by what its engines and its GPUs last said.
    pub(super) fn load(&self, now: Instant) -> BackendLoad {
        let engine = self.engine_load(now);
        let gpus = self.gpus.load();
        BackendLoad {
            gpu_utilization: gpus.as_ref().filter(|report| report.is_fresh(now)).and_then(|report| report.utilization),
            kv_cache_ratio: engine.and_then(|engine| engine.kv_ratio),
            running: engine.map(|engine| engine.running),
            waiting: engine.map(|engine| engine.waiting),
        }
    }

    fn heard(&self, report: GpuReport) {
        self.gpus.store(Some(Arc::new(report)));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::{Clock, ManualClock};

    fn gpu(utilization: Option<f64>) -> Gpu {
        let reading = GpuReading { utilization, ..GpuReading::default() };
        Gpu { id: "0".into(), model: None, reading, problem: None }
    }

    #[test]
    fn utilisation_is_the_mean_of_those_that_tell_it() {
        let now = ManualClock::new().now();
        let of = |gpus: Vec<Gpu>| GpuReport::new("nvml", gpus, now, Duration::from_secs(5)).utilization;
        assert_eq!(of(Vec::new()), None);
        assert_eq!(of(vec![gpu(None)]), None);
        assert_eq!(of(vec![gpu(Some(0.5)), gpu(None), gpu(Some(1.0))]), Some(0.75));
    }

    #[test]
    fn a_report_grows_too_old() {
        let now = ManualClock::new().now();
        let report = GpuReport::new("nvml", vec![gpu(Some(0.5))], now, Duration::from_secs(5));
        assert!(report.is_fresh(now + Duration::from_secs(5)));
        assert!(!report.is_fresh(now + Duration::from_millis(5_001)));
    }
}
