//! What a DCGM exporter's page says of a host's GPUs (<https://github.com/NVIDIA/dcgm-exporter>).
//!
//! Which fields are there is the exporter's configuration; throttling, for one, has to be turned on there.

use super::exposition::Sample;
use super::gpu::{GpuReading, Slowdowns};

/// Most GPUs and MIG instances of one page that are read; a host has sixteen GPUs at most, of seven instances each.
const MOST: usize = 128;
/// Numbers of GPUs and instances are below this: they become label values.
const NUMBERS: u32 = 64;
const MEBIBYTE: f64 = 1_048_576.0;
const MEGAHERTZ: f64 = 1e6;

/// One GPU or MIG instance of a page.
#[derive(Debug, Clone, PartialEq)]
pub struct DcgmGpu {
    /// The GPU's number.
    pub gpu: u32,
    /// The number of the GPU instance, when it is one.
    pub instance: Option<u32>,
    /// The GPU's UUID; that of the whole GPU for an instance too.
    pub uuid: String,
    /// The GPU's model, such as `NVIDIA H100 80GB HBM3`.
    pub model: String,
    /// What it says.
    pub reading: GpuReading,
}

/// Figures that only together give what is wanted.
#[derive(Debug, Clone, Copy, Default)]
struct Parts {
    free: Option<f64>,
    used: Option<f64>,
    reserved: Option<f64>,
    total: Option<f64>,
    /// Of the whole GPU, as NVML has it; a GPU in instances has none.
    busy: Option<f64>,
    /// Of the GPU or the instance.
    active: Option<f64>,
}

/// Reads a page: every GPU and instance that tells something, in the page's order. Lines that make no sense are
/// skipped.
#[must_use]
pub fn parse(page: &str) -> Vec<DcgmGpu> {
    let mut found: Vec<(DcgmGpu, Parts)> = Vec::new();
    let samples = page.lines().filter_map(Sample::parse).filter(|sample| sample.name.starts_with("DCGM_FI_"));
    for sample in samples {
        let Some(place) = place(&mut found, &sample) else { continue };
        if let Some((gpu, parts)) = found.get_mut(place) {
            note(&sample, &mut gpu.reading, parts);
        }
    }
    let whole = found.into_iter().map(|(gpu, parts)| DcgmGpu { reading: parts.complete(gpu.reading), ..gpu });
    whole.filter(|gpu| !gpu.reading.is_empty()).collect()
}

/// Where a sample's GPU stands in the list, a new one at its end.
fn place(found: &mut Vec<(DcgmGpu, Parts)>, sample: &Sample<'_>) -> Option<usize> {
    let number = |label: &str| sample.label(label)?.parse().ok().filter(|number| *number < NUMBERS);
    let gpu = number("gpu")?;
    let instance = match sample.label("GPU_I_ID") {
        None | Some("") => None,
        Some(_) => Some(number("GPU_I_ID")?),
    };
    let known = found.iter().position(|(one, _)| one.gpu == gpu && one.instance == instance);
    if known.is_some() || found.len() >= MOST {
        return known;
    }
    let text = |label: &str| sample.label(label).unwrap_or_default().to_owned();
    let (uuid, model) = (text("UUID"), text("modelName"));
    found.push((DcgmGpu { gpu, instance, uuid, model, reading: GpuReading::default() }, Parts::default()));
    Some(found.len() - 1)
}

fn note(sample: &Sample<'_>, reading: &mut GpuReading, parts: &mut Parts) {
    let value = sample.value;
    match sample.name {
        "DCGM_FI_DEV_GPU_UTIL" => parts.busy = Some(value / 100.0),
        "DCGM_FI_PROF_GR_ENGINE_ACTIVE" => parts.active = Some(value),
        "DCGM_FI_DEV_FB_USED" => parts.used = Some(value),
        "DCGM_FI_DEV_FB_FREE" => parts.free = Some(value),
        "DCGM_FI_DEV_FB_RESERVED" => parts.reserved = Some(value),
        "DCGM_FI_DEV_FB_TOTAL" => parts.total = Some(value),
        "DCGM_FI_DEV_POWER_USAGE" => reading.power_watts = Some(value),
        "DCGM_FI_DEV_GPU_TEMP" => reading.temperature_celsius = Some(value),
        "DCGM_FI_DEV_SM_CLOCK" => reading.clock_hertz = Some(value * MEGAHERTZ),
        "DCGM_FI_DEV_CLOCK_THROTTLE_REASONS" | "DCGM_FI_DEV_CLOCKS_EVENT_REASONS" => {
            reading.slowdowns = Some(Slowdowns(whole(value)));
        }
        _ => {}
    }
}

impl Parts {
    fn complete(self, reading: GpuReading) -> GpuReading {
        let sum = || Some(self.used? + self.free? + self.reserved.unwrap_or(0.0));
        let bytes = |mebibytes: Option<f64>| mebibytes.map(|mebibytes| whole(mebibytes * MEBIBYTE));
        GpuReading {
            utilization: self.busy.or(self.active).map(|share| share.min(1.0)),
            memory_used: bytes(self.used),
            memory_total: bytes(self.total.or_else(sum)),
            ..reading
        }
    }
}

#[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "not negative, and far below 2^63")]
fn whole(value: f64) -> u64 {
    value.round() as u64
}

#[cfg(test)]
mod tests {
    use super::*;

    /// As the exporter writes it: one whole GPU, and one in MIG instances.
    const PAGE: &str = r#"# HELP DCGM_FI_DEV_SM_CLOCK SM clock frequency (in MHz).
# TYPE DCGM_FI_DEV_SM_CLOCK gauge
DCGM_FI_DEV_SM_CLOCK{gpu="0",UUID="GPU-604ac76c-d9cf-fef3-62e9-d92044ab6e52",pci_bus_id="00000000:17:00.0",device="nvidia0",modelName="NVIDIA H100 80GB HBM3",Hostname="node-1"} 1980
DCGM_FI_DEV_GPU_TEMP{gpu="0",UUID="GPU-604ac76c-d9cf-fef3-62e9-d92044ab6e52",device="nvidia0",modelName="NVIDIA H100 80GB HBM3",Hostname="node-1"} 61
DCGM_FI_DEV_POWER_USAGE{gpu="0",UUID="GPU-604ac76c-d9cf-fef3-62e9-d92044ab6e52",device="nvidia0",modelName="NVIDIA H100 80GB HBM3",Hostname="node-1"} 512.25
DCGM_FI_DEV_GPU_UTIL{gpu="0",UUID="GPU-604ac76c-d9cf-fef3-62e9-d92044ab6e52",device="nvidia0",modelName="NVIDIA H100 80GB HBM3",Hostname="node-1"} 87
DCGM_FI_DEV_FB_FREE{gpu="0",UUID="GPU-604ac76c-d9cf-fef3-62e9-d92044ab6e52",device="nvidia0",modelName="NVIDIA H100 80GB HBM3",Hostname="node-1"} 8000
DCGM_FI_DEV_FB_USED{gpu="0",UUID="GPU-604ac76c-d9cf-fef3-62e9-d92044ab6e52",device="nvidia0",modelName="NVIDIA H100 80GB HBM3",Hostname="node-1"} 73000
DCGM_FI_DEV_FB_RESERVED{gpu="0",UUID="GPU-604ac76c-d9cf-fef3-62e9-d92044ab6e52",device="nvidia0",modelName="NVIDIA H100 80GB HBM3",Hostname="node-1"} 559
DCGM_FI_PROF_GR_ENGINE_ACTIVE{gpu="0",UUID="GPU-604ac76c-d9cf-fef3-62e9-d92044ab6e52",device="nvidia0",modelName="NVIDIA H100 80GB HBM3",Hostname="node-1"} 0.79
DCGM_FI_DEV_CLOCK_THROTTLE_REASONS{gpu="0",UUID="GPU-604ac76c-d9cf-fef3-62e9-d92044ab6e52",device="nvidia0",modelName="NVIDIA H100 80GB HBM3",Hostname="node-1"} 4
DCGM_FI_DEV_FB_USED{gpu="1",UUID="GPU-aaaa",device="nvidia1",modelName="NVIDIA A100-SXM4-40GB",GPU_I_PROFILE="3g.20gb",GPU_I_ID="2",Hostname="node-1"} 15000
DCGM_FI_PROF_GR_ENGINE_ACTIVE{gpu="1",UUID="GPU-aaaa",device="nvidia1",modelName="NVIDIA A100-SXM4-40GB",GPU_I_PROFILE="3g.20gb",GPU_I_ID="2",Hostname="node-1"} 0.42
DCGM_FI_DEV_XID_ERRORS{gpu="2",UUID="GPU-bbbb",device="nvidia2",modelName="NVIDIA L4",Hostname="node-1"} 0
"#;

    #[test]
    fn a_page_of_the_exporter_is_read() {
        let gpus = parse(PAGE);
        let names: Vec<_> = gpus.iter().map(|one| (one.gpu, one.instance, &*one.model)).collect();
        assert_eq!(names, [(0, None, "NVIDIA H100 80GB HBM3"), (1, Some(2), "NVIDIA A100-SXM4-40GB")]);
        let whole = GpuReading {
            utilization: Some(0.87),
            memory_used: Some(73_000 << 20),
            memory_total: Some(81_559 << 20),
            power_watts: Some(512.25),
            temperature_celsius: Some(61.0),
            clock_hertz: Some(1.98e9),
            slowdowns: Some(Slowdowns(4)),
        };
        assert_eq!((gpus[0].reading, &*gpus[0].uuid), (whole, "GPU-604ac76c-d9cf-fef3-62e9-d92044ab6e52"));
        let part = GpuReading { utilization: Some(0.42), memory_used: Some(15_000 << 20), ..GpuReading::default() };
        assert_eq!(gpus[1].reading, part);
    }

    #[test]
    fn nonsense_is_skipped_and_bounded() {
        let line = |gpu: u32, instance: u32, value: &str| {
            format!("DCGM_FI_DEV_FB_USED{{gpu=\"{gpu}\",GPU_I_ID=\"{instance}\"}} {value}\n")
        };
        // What DCGM writes for a value it does not have, and what is no number.
        assert_eq!(parse(&(line(0, 1, "9223372036854775794") + &line(0, 2, "NaN") + &line(0, 3, "-1"))), []);
        assert_eq!(parse("DCGM_FI_DEV_GPU_UTIL 50\nDCGM_FI_DEV_GPU_UTIL{gpu=\"x\"} 50\nup{gpu=\"0\"} 1\n"), []);
        assert_eq!(parse("DCGM_FI_DEV_GPU_UTIL{gpu=\"4000000000\"} 50\n"), []);
        let flood: String = (0..64).flat_map(|gpu| (0..64).map(move |one| line(gpu, one, "1"))).collect();
        assert_eq!(parse(&flood).len(), MOST);
    }
}
