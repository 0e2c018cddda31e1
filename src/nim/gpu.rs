//! GPUs by name: whether a profile's `h100_nvl` is the system's `NVIDIA H100 NVL`, and how much memory one has.

use super::profile::DeviceId;

/// A kind of GPU, comparable however it is spelt.
///
/// Vendor, form of the socket and memory are left out where they make no other kind to NIM: `NVIDIA A100-SXM4-80GB` is
/// `a100`, but `h100pcie` and `h100nvl` are not `h100`.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct GpuModel(String);

impl GpuModel {
    /// The kind that a name means.
    #[must_use]
    pub fn of(name: &str) -> Self {
        let lower = name.to_ascii_lowercase();
        let words = lower.split(|c: char| !c.is_ascii_alphanumeric()).filter(|word| says_something(word));
        Self(words.collect())
    }

    /// Its name, without separators.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

fn says_something(word: &str) -> bool {
    let numbered =
        |prefix: &str| word.strip_prefix(prefix).is_some_and(|rest| rest.bytes().all(|byte| byte.is_ascii_digit()));
    let size = word.strip_suffix("gb").is_some_and(|size| size.bytes().all(|byte| byte.is_ascii_digit()));
    !(matches!(word, "nvidia" | "tesla" | "geforce" | "quadro" | "gpu" | "generation" | "hbm2e" | "hbm3e")
        || size
        || numbered("sxm")
        || numbered("hbm"))
}

/// Kinds and their memory in GiB, as NVIDIA's data sheets name it. Where one kind is sold with more than one size, the
/// smallest: the device id or `--gpu-memory` tells.
const MEMORY: &[(&str, f64)] = &[
    ("t4", 16.0),
    ("v100", 16.0),
    ("l4", 24.0),
    ("a10", 24.0),
    ("a10g", 24.0),
    ("a30", 24.0),
    ("l40", 48.0),
    ("l40s", 48.0),
    ("a40", 48.0),
    ("rtxa6000", 48.0),
    ("rtx6000ada", 48.0),
    ("rtx4090", 24.0),
    ("rtx5090", 32.0),
    ("rtxpro6000blackwell", 96.0),
    ("rtxpro6000blackwellserveredition", 96.0),
    ("rtx6000blackwellsv", 96.0),
    ("a100", 40.0),
    ("a100pcie", 40.0),
    ("h100", 80.0),
    ("h100pcie", 80.0),
    ("h100nvl", 94.0),
    ("h20", 96.0),
    ("h200", 141.0),
    ("h200nvl", 141.0),
    ("gh200", 96.0),
    ("b200", 180.0),
    ("gb200", 186.0),
    ("b300", 270.0),
    ("gb300", 278.0),
];

/// PCI devices whose memory their name does not tell; the ids are those of NVIDIA's drivers.
const BY_DEVICE: &[(u16, f64)] = &[
    (0x20b0, 40.0), // A100-SXM4-40GB
    (0x20b2, 80.0), // A100-SXM4-80GB
    (0x20b5, 80.0), // A100-PCIE-80GB
    (0x20f1, 40.0), // A100-PCIE-40GB
];
/// NVIDIA's PCI vendor id.
const NVIDIA: u16 = 0x10de;

/// The memory of one GPU in GiB, where its name or its device tells: `80GB` in the name comes first.
#[must_use]
pub fn gib_of(name: &str, device: Option<DeviceId>) -> Option<f64> {
    let lower = name.to_ascii_lowercase();
    let mut words = lower.split(|c: char| !c.is_ascii_alphanumeric());
    if let Some(said) = words.find_map(|word| word.strip_suffix("gb")?.parse::<u16>().ok()) {
        return Some(f64::from(said));
    }
    let by_device = device.filter(|id| id.vendor == NVIDIA);
    let by_device = by_device.and_then(|id| BY_DEVICE.iter().find(|(device, _)| *device == id.device));
    if let Some((_, gib)) = by_device {
        return Some(*gib);
    }
    let model = GpuModel::of(name);
    MEMORY.iter().find(|(name, _)| *name == model.as_str()).map(|(_, gib)| *gib)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(profile: &str, system: &str, same: bool) {
        assert_eq!(GpuModel::of(profile) == GpuModel::of(system), same, "{profile} and {system}");
    }

    #[test]
    fn a_gpu_is_the_same_however_it_is_spelt_but_for_its_kind() {
        check("h100_nvl", "NVIDIA H100 NVL", true);
        check("A100", "NVIDIA A100-SXM4-80GB", true);
        check("h100", "NVIDIA H100 80GB HBM3", true);
        check("l40s", "NVIDIA L40S", true);
        check("t4", "Tesla T4", true);
        check("h100pcie", "NVIDIA H100 PCIe", true);
        check("h100", "NVIDIA H100 NVL", false);
        check("h100", "NVIDIA H100 PCIe", false);
        check("l40", "NVIDIA L40S", false);
    }

    #[test]
    fn memory_is_told_by_name_device_or_kind() {
        let device = DeviceId::parse("20b2:10de");
        assert_eq!(gib_of("NVIDIA A100-SXM4-80GB", None), Some(80.0));
        assert_eq!(gib_of("A100", device), Some(80.0));
        assert_eq!(gib_of("A100", None), Some(40.0));
        assert_eq!(gib_of("NVIDIA L40", None), Some(48.0));
        assert_eq!(gib_of("NVIDIA Z1000", None), None);
    }
}
