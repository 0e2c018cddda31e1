//! The names of profiles: parts between hyphens, told apart by their form, since their order and number have changed
//! from release to release.

use std::fmt;

use super::id::ProfileId;
use super::precision::Precision;
use super::profile::{DeviceId, Engine, Lora, Profile, Target};

/// Longest name that is taken apart; the longest published one has 150 characters.
const LONGEST: usize = 512;

/// What somebody calls a profile: its id, or a name with its parts.
#[derive(Debug, Clone, PartialEq)]
pub struct ProfileName {
    text: String,
    id: Option<ProfileId>,
    profile: Profile,
}

impl ProfileName {
    /// Reads an id, or a name, of which whatever is not known is kept as unknown.
    #[must_use]
    pub fn parse(text: &str) -> Self {
        let text = text.trim();
        let id = ProfileId::parse(text);
        let profile = if id.is_some() { Profile::default() } else { profile(text) };
        Self { text: text.to_owned(), id, profile }
    }

    /// As it was written.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.text
    }

    /// The id, where it is one.
    #[must_use]
    pub fn id(&self) -> Option<&ProfileId> {
        self.id.as_ref()
    }

    /// What the name says; nothing, where it is an id.
    #[must_use]
    pub fn profile(&self) -> &Profile {
        &self.profile
    }

    /// Whether it is the copied pair `ID (NAME)`, which NIM refuses at its start.
    #[must_use]
    pub fn is_pair(&self) -> bool {
        let first = self.text.split_whitespace().next().unwrap_or_default();
        self.id.is_none() && ProfileId::parse(first).is_some()
    }
}

impl fmt::Display for ProfileName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

/// What a name says.
pub(super) fn profile(name: &str) -> Profile {
    let mut profile = Profile::default();
    if name.len() > LONGEST {
        profile.unknown.push("a name longer than any".to_owned());
        return profile;
    }
    let mut after_lora = false;
    for part in name.split('-').filter(|part| !part.is_empty()) {
        let lora = matches!(part, "lora" | "feat_lora");
        let understood = (after_lora && rank(part, &mut profile)) || known(part, &mut profile);
        if !understood {
            profile.unknown.push(part.to_owned());
        }
        after_lora = lora;
    }
    profile
}

/// The number right after `lora` is its largest rank.
fn rank(part: &str, profile: &mut Profile) -> bool {
    let Some(rank) = digits(part) else { return false };
    profile.lora = Some(Lora { max_rank: Some(rank) });
    true
}

fn known(part: &str, profile: &mut Profile) -> bool {
    if let Some(engine) = Engine::named(part) {
        return fill(&mut profile.engine, engine);
    }
    if let Some(precision) = Precision::named(part) {
        return fill(&mut profile.precision, precision);
    }
    if let Some(target) = Target::named(part) {
        return fill(&mut profile.target, target);
    }
    if let Some(device) = DeviceId::parse(part) {
        return fill(&mut profile.device, device);
    }
    match part {
        "lora" | "feat_lora" => {
            // Said twice in some names.
            profile.lora = profile.lora.or(Some(Lora { max_rank: None }));
            return true;
        }
        "trtllm_buildable" | "local_build" => {
            profile.buildable = true;
            return true;
        }
        _ => {}
    }
    if let Some(tp) = part.strip_prefix("tp").and_then(digits) {
        return fill(&mut profile.tensor_parallel, tp);
    }
    if let Some(pp) = part.strip_prefix("pp").and_then(digits) {
        return fill(&mut profile.pipeline_parallel, pp);
    }
    if let Some(hash) = ProfileId::parse(part) {
        return fill(&mut profile.hash, hash.as_str().to_owned());
    }
    if let Some(gpus) = digits(part) {
        return fill(&mut profile.stated_gpus, gpus);
    }
    if let Some(gib) = decimal(part) {
        return fill(&mut profile.stated_gib, gib);
    }
    is_gpu(part) && fill(&mut profile.gpu, part.to_ascii_lowercase())
}

/// The first of its kind counts; a second one is not known.
fn fill<T>(place: &mut Option<T>, value: T) -> bool {
    let empty = place.is_none();
    if empty {
        *place = Some(value);
    }
    empty
}

fn digits(text: &str) -> Option<u32> {
    text.parse().ok().filter(|number| *number > 0 && text.bytes().all(|byte| byte.is_ascii_digit()))
}

/// `63.0`
fn decimal(text: &str) -> Option<f64> {
    let (whole, part) = text.split_once('.')?;
    let plain = |text: &str| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    let number = text.parse().ok().filter(|number: &f64| number.is_finite());
    number.filter(|_| plain(whole) && plain(part))
}

/// Letters and then a number, as NVIDIA has named its GPUs since the first: `t4`, `l40s`, `h100_nvl`, `gb200`,
/// `rtx6000_blackwell_sv`.
fn is_gpu(part: &str) -> bool {
    const FAMILIES: [&str; 13] =
        ["a", "b", "gb", "gh", "h", "l", "t", "v", "r", "rtx", "rtx_a", "rtx_pro_", "dgx_spark"];
    let lower = part.to_ascii_lowercase();
    let plain = lower.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_');
    let letters = lower.find(|c: char| c.is_ascii_digit()).unwrap_or(lower.len());
    let family = lower.get(..letters).unwrap_or_default();
    plain && FAMILIES.contains(&family) && (letters < lower.len() || family == "dgx_spark")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(name: &str, canonical: &str, gpus: Option<u32>) {
        let profile = profile(name);
        assert_eq!(profile.to_string(), canonical, "{name}: {profile:?}");
        assert_eq!(profile.gpus(), gpus, "{name}");
        assert_eq!(profile.unknown, Vec::<String>::new(), "{name}");
    }

    #[test]
    fn every_published_form_of_a_name_is_understood() {
        let hash = "5e20634213cb4c32e86f048dbc274eb8bff74720af81fe400d8924e766f3e723";
        check("tensorrt_llm-A100-fp16-tp2-latency", "tensorrt_llm-a100-fp16-tp2-latency", Some(2));
        check(
            &format!("tensorrt_llm-h100_nvl-fp8-tp2-pp1-throughput-lora-lora-2321:10de-{hash}-4"),
            "tensorrt_llm-h100_nvl-fp8-tp2-pp1-throughput-lora",
            Some(2),
        );
        check(&format!("vllm-bf16-tp2-pp1-lora-32-{hash}"), "vllm-bf16-tp2-pp1-lora-32", Some(2));
        check("vllm-fp8-tp4-pp1-feat_lora-34.0", "vllm-fp8-tp4-pp1-lora", Some(4));
        check("tensorrt_llm-trtllm_buildable-bf16-tp8-pp2", "tensorrt_llm-trtllm_buildable-bf16-tp8-pp2", Some(16));
        check("h100pcie-fp16-tp1-throughput", "h100pcie-fp16-tp1-throughput", Some(1));
        check("sglang", "sglang", None);
        check("tensorrt_llm-b200-nvfp4-tp2-pp1-latency", "tensorrt_llm-b200-nvfp4-tp2-pp1-latency", Some(2));
    }

    #[test]
    fn the_parts_that_are_no_criterion_are_kept_too() {
        let hash = "5e20634213cb4c32e86f048dbc274eb8bff74720af81fe400d8924e766f3e723";
        let one = profile(&format!("tensorrt_llm-h100_nvl-fp8-tp2-pp1-throughput-2321:10de-{hash}-4"));
        assert_eq!((one.stated_gpus, one.hash.as_deref()), (Some(4), Some(hash)));
        assert_eq!(one.device.map(|device| device.to_string()).as_deref(), Some("2321:10de"));
        assert_eq!(profile("vllm-bf16-tp1-pp1-63.0").stated_gib, Some(63.0));
        assert_eq!(profile("vllm-bf16-tp1-lora").lora, Some(Lora { max_rank: None }));
    }

    #[test]
    fn what_the_next_release_adds_is_kept_as_unknown() {
        let one = profile("dynamo-h100-fp6-tp2-ep8-latency");
        assert_eq!(one.unknown, ["dynamo", "fp6", "ep8"]);
        assert_eq!(
            (one.tensor_parallel, one.target, one.gpu.as_deref()),
            (Some(2), Some(Target::Latency), Some("h100"))
        );
        assert_eq!(profile("vllm-vllm-tp1-tp2").unknown, ["vllm", "tp2"]);
        assert_eq!(profile("tp0").unknown, ["tp0"]);
    }

    #[test]
    fn a_name_an_id_and_the_pair_that_nim_refuses_are_told_apart() {
        let id = "751382df4272eafc83f541f364d61b35aed9cce8c7b0c869269cea5a366cd08c";
        assert!(ProfileName::parse(id).id().is_some());
        let name = ProfileName::parse(" vllm-fp16-tp1 ");
        assert!(name.id().is_none() && name.profile().gpus() == Some(1) && name.as_str() == "vllm-fp16-tp1");
        assert!(ProfileName::parse(&format!("{id} (vllm-fp16-tp1)")).is_pair() && !name.is_pair());
    }
}
