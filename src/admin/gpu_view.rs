//! How the API shows a backend's GPUs.

use std::sync::Arc;
use std::time::Instant;

use serde::Serialize;

use super::view::Name;
use crate::fleet::LiveBackend;
use crate::fleet::gpu::{Gpu, GpuReading, GpuReport, UNAVAILABLE};

/// Why nothing is known while the driver has not answered yet, or does not any more.
const NO_ANSWER: &str = "no answer";

/// A backend's GPUs; all fields are absent where the configuration says nothing of them.
#[derive(Debug, Serialize)]
pub(super) struct GpusView {
    /// Where the figures are from: `nvml`, `dcgm`, `fake`; or `unavailable`.
    #[serde(skip_serializing_if = "Option::is_none")]
    gpu: Option<&'static str>,
    /// Why they are not available.
    #[serde(skip_serializing_if = "Option::is_none")]
    gpu_problem: Option<Name>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    gpus: Vec<GpuView>,
}

#[derive(Debug, Serialize)]
struct GpuView {
    gpu: Name,
    #[serde(skip_serializing_if = "Option::is_none")]
    model: Option<Name>,
    #[serde(skip_serializing_if = "Option::is_none")]
    utilization: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    memory_used_bytes: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    memory_total_bytes: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    power_watts: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    temperature_celsius: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    clock_hertz: Option<f64>,
    /// Whether heat or hardware slows it.
    #[serde(skip_serializing_if = "Option::is_none")]
    throttled: Option<bool>,
    /// Every reason that slows it, its power cap included.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    slowdowns: Vec<&'static str>,
    /// Why it says nothing.
    #[serde(skip_serializing_if = "Option::is_none")]
    problem: Option<Name>,
}

impl GpusView {
    pub(super) fn new(backend: &LiveBackend, now: Instant) -> Self {
        if !backend.watches_gpus() {
            return Self { gpu: None, gpu_problem: None, gpus: Vec::new() };
        }
        match backend.gpus(now) {
            None => Self { gpu: Some(UNAVAILABLE), gpu_problem: Some(Name::new(&NO_ANSWER.into())), gpus: Vec::new() },
            Some(report) => Self {
                gpu: Some(report.source),
                gpu_problem: report.problem.as_ref().map(Name::new),
                gpus: report.gpus.iter().map(GpuView::new).collect(),
            },
        }
    }
}

impl GpuView {
    fn new(gpu: &Gpu) -> Self {
        let reading = &gpu.reading;
        Self {
            gpu: Name::new(&gpu.id),
            model: gpu.model.as_ref().map(Name::new),
            utilization: reading.utilization,
            memory_used_bytes: reading.memory_used,
            memory_total_bytes: reading.memory_total,
            power_watts: reading.power_watts,
            temperature_celsius: reading.temperature_celsius,
            clock_hertz: reading.clock_hertz,
            throttled: reading.throttled(),
            slowdowns: reading.slowed_by().collect(),
            problem: gpu.problem.as_ref().map(Name::new),
        }
    }
}

/// What the metrics page shows of them.
pub(super) fn figures(report: &GpuReport) -> Vec<(Arc<str>, GpuReading)> {
    report.gpus.iter().map(|gpu| (Arc::clone(&gpu.id), gpu.reading)).collect()
}
