//! NVIDIA's management library, loaded at run time: a machine without it builds and runs headway all the same.

use std::ffi::OsStr;
use std::path::PathBuf;
use std::sync::Arc;

use nvml_wrapper::enum_wrappers::device::{Clock, TemperatureSensor};
use nvml_wrapper::error::NvmlError;
use nvml_wrapper::{Device, Nvml};

use super::{GpuSource, NamedReading, OpenGpuSource};
use crate::config::settings::{GpuId, NamedGpu, NvmlLibrary};
use crate::wire::gpu::{GpuReading, Slowdowns};

/// How to open the configured library; `None` where it is off.
pub(super) fn opener(library: &NvmlLibrary) -> Option<OpenGpuSource> {
    let path: Option<PathBuf> = match library {
        NvmlLibrary::Off => return None,
        NvmlLibrary::Auto => None,
        NvmlLibrary::File(path) => Some(path.clone()),
    };
    Some(Arc::new(move || open(path.as_ref().map(|path| path.as_os_str()))))
}

fn open(path: Option<&OsStr>) -> Result<Box<dyn GpuSource>, String> {
    let mut builder = Nvml::builder();
    if let Some(path) = path {
        builder.lib_path(path);
    }
    let nvml = builder.init().map_err(|error| match error {
        NvmlError::LibloadingError(error) => format!("NVIDIA's driver library cannot be loaded: {error}"),
        error => format!("NVIDIA's driver cannot be used: {error}"),
    })?;
    Ok(Box::new(Library(nvml)))
}

struct Library(Nvml);

impl GpuSource for Library {
    fn name(&self) -> &'static str {
        "nvml"
    }

    fn read(&mut self, gpu: &GpuId) -> Result<NamedReading, String> {
        let device = match gpu.named() {
            Some(NamedGpu::Index(index)) => self.0.device_by_index(index),
            Some(NamedGpu::Uuid(uuid)) => self.0.device_by_uuid(uuid),
            Some(NamedGpu::Instance { .. }) | None => Err(NvmlError::NotFound),
        };
        let device = device.map_err(said)?;
        let reading = ask(&device).map_err(said)?;
        Ok(NamedReading { model: device.name().ok().map(Arc::from), reading })
    }
}

/// What a person can do something about; the library's own words elsewhere.
fn said(error: NvmlError) -> String {
    match error {
        NvmlError::InvalidArg | NvmlError::NotFound => "there is no such GPU on this host".to_owned(),
        NvmlError::NoPermission => "the driver does not let this user ask it".to_owned(),
        NvmlError::GpuLost => "it has fallen off the bus".to_owned(),
        error => error.to_string(),
    }
}

/// Every figure that the device tells. An instance (MIG) shares its GPU's clock and heat, and tells its own memory; it
/// has no power of its own, and NVML knows nothing of its activity.
fn ask(device: &Device<'_>) -> Result<GpuReading, NvmlError> {
    let parent = device.mig_is_mig_device_handle().unwrap_or(false).then(|| device.mig_parent_device()).transpose()?;
    let board = parent.as_ref().unwrap_or(device);
    let memory = told(device.memory_info())?;
    let own = parent.is_none();
    let utilization = if own { told(device.utilization_rates())? } else { None };
    let milliwatts = if own { told(device.power_usage())? } else { None };
    Ok(GpuReading {
        utilization: utilization.map(|rates| f64::from(rates.gpu.min(100)) / 100.0),
        memory_used: memory.as_ref().map(|memory| memory.used),
        memory_total: memory.as_ref().map(|memory| memory.total),
        power_watts: milliwatts.map(|milliwatts| f64::from(milliwatts) / 1e3),
        temperature_celsius: told(board.temperature(TemperatureSensor::Gpu))?.map(f64::from),
        clock_hertz: told(board.clock_info(Clock::SM))?.map(|megahertz| f64::from(megahertz) * 1e6),
        slowdowns: told(board.current_throttle_reasons())?.map(|reasons| Slowdowns(reasons.bits())),
    })
}

/// What a device cannot or may not tell is no error; a device that is gone is.
fn told<T>(answer: Result<T, NvmlError>) -> Result<Option<T>, NvmlError> {
    match answer {
        Ok(value) => Ok(Some(value)),
        Err(error @ (NvmlError::GpuLost | NvmlError::Uninitialized | NvmlError::ResetRequired)) => Err(error),
        Err(_not_told) => Ok(None),
    }
}
