//! The order in which NIM 1.x takes profiles, with the rule that put each where it is.
//!
//! Optimized profiles come before generic ones. Among the optimized: fewer bits, floating point before integers, fp16
//! before bf16; then latency before throughput; then more tensor parallelism. Among the generic: vLLM, TensorRT-LLM,
//! SGLang; then as above. A cached fine-tuned profile would come before all, but none of NIM's texts marks one. NIM 2.x is
//! documented to choose by device, memory and parallelism, without an order, so what memory forbids is left out.

use std::cmp::{Ordering, Reverse};

use super::document::{Document, Entry, Standing, SystemGpu};
use super::gpu::{GpuModel, gib_of};
use super::profile::{Engine, Profile, Target};

/// Where a NIM would start.
#[derive(Debug, Clone, Copy, Default)]
pub struct Circumstances<'a> {
    /// The system's GPUs; `None` where they are not known, and then no profile is left out for them.
    pub gpus: Option<&'a [SystemGpu]>,
    /// GiB of each GPU, where its name does not tell.
    pub gib: Option<f64>,
    /// Whether LoRA adapters are to be served (`NIM_PEFT_SOURCE`).
    pub lora: bool,
}

/// A profile that NIM could start by itself.
#[derive(Debug, Clone, PartialEq)]
pub struct Ranked {
    /// Its place among the document's entries.
    pub entry: usize,
    /// Why it stands after the one before it; of the first, why it stands first.
    pub why: String,
}

/// A profile that NIM would not start by itself.
#[derive(Debug, Clone, PartialEq)]
pub struct Excluded {
    /// Its place among the document's entries.
    pub entry: usize,
    /// Why not.
    pub why: String,
}

/// All profiles of a document, in NIM's order or left out.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Selection {
    /// The first is what NIM 1.x is documented to start.
    pub ranked: Vec<Ranked>,
    /// The rest, in the order of the document.
    pub excluded: Vec<Excluded>,
}

/// Puts the profiles of a document in NIM's order.
#[must_use]
pub fn select(document: &Document, circumstances: &Circumstances<'_>) -> Selection {
    let mut selection = Selection::default();
    let mut order: Vec<(usize, &Entry)> = Vec::new();
    for (place, entry) in document.entries.iter().enumerate() {
        match obstacle(entry, circumstances) {
            Some(why) => selection.excluded.push(Excluded { entry: place, why }),
            None => order.push((place, entry)),
        }
    }
    order.sort_by(|(_, one), (_, other)| compare(&one.profile, &other.profile).0);
    let mut before: Option<&Entry> = None;
    for (place, entry) in order {
        let why = before.map_or_else(|| first(&entry.profile), |before| after(&before.profile, &entry.profile));
        selection.ranked.push(Ranked { entry: place, why });
        before = Some(entry);
    }
    selection
}

/// Why NIM would not start it by itself.
fn obstacle(entry: &Entry, circumstances: &Circumstances<'_>) -> Option<String> {
    match &entry.standing {
        Standing::Incompatible => return Some(incompatible(entry, circumstances)),
        Standing::LowMemory => return Some(low_memory(entry)),
        Standing::Other(title) => return Some(format!("NIM lists it under `{title}`, which is not known here")),
        Standing::Runnable | Standing::Compilable | Standing::Unsaid => {}
    }
    match (entry.profile.lora.is_some(), circumstances.lora) {
        (true, false) => return Some("takes LoRA adapters, and needs NIM_PEFT_SOURCE to start".to_owned()),
        (false, true) => return Some("takes no LoRA adapters".to_owned()),
        _ => {}
    }
    // Where NIM itself looked at the system, only memory is looked at again.
    let gpus = circumstances.gpus?;
    let wrong = (entry.standing == Standing::Unsaid).then(|| wrong_gpu(&entry.profile, gpus)).flatten();
    wrong.or_else(|| too_large(entry, gpus, circumstances.gib))
}

fn incompatible(entry: &Entry, circumstances: &Circumstances<'_>) -> String {
    let guess = circumstances.gpus.and_then(|gpus| wrong_gpu(&entry.profile, gpus));
    guess.map_or_else(
        || "NIM says it is incompatible with the system".to_owned(),
        |guess| format!("NIM says so: {guess}"),
    )
}

fn low_memory(entry: &Entry) -> String {
    let less = entry.need.and_then(|need| need.reduced).map(|(length, gib)| {
        format!("; with NIM_MAX_MODEL_LEN={length} it needs {gib} GB of each GPU, and must be chosen by hand")
    });
    format!("too little memory is free{}", less.unwrap_or_default())
}

/// Whether the system lacks the GPU that a profile is for, or has too few.
fn wrong_gpu(profile: &Profile, gpus: &[SystemGpu]) -> Option<String> {
    let fits = |gpu: &&SystemGpu| match (profile.device, gpu.device, &profile.gpu) {
        (Some(wanted), Some(there), _) => wanted == there,
        (_, _, Some(wanted)) => GpuModel::of(wanted) == GpuModel::of(&gpu.name),
        _ => true,
    };
    let (free, busy): (Vec<&SystemGpu>, Vec<&SystemGpu>) = gpus.iter().filter(fits).partition(|gpu| gpu.free);
    let needed = profile.gpus().unwrap_or(1) as usize;
    if free.len() >= needed {
        return None;
    }
    let kind = profile.gpu.as_deref().map_or_else(|| "GPU".to_owned(), str::to_ascii_uppercase);
    Some(match (free.len(), busy.len()) {
        (0, 0) => format!("is for {kind}, and the system has none"),
        (have, 0) => format!("needs {needed} x {kind}, and the system has {have}"),
        (have, busy) => format!("needs {needed} x {kind}, and of the system's {} only {have} are free", have + busy),
    })
}

/// Whether it needs more memory than a GPU has, whatever heading it stands under.
fn too_large(entry: &Entry, gpus: &[SystemGpu], known: Option<f64>) -> Option<String> {
    let needed = entry.gib_per_gpu()?;
    let have = |gpu: &SystemGpu| known.or_else(|| gib_of(&gpu.name, gpu.device));
    let largest = gpus.iter().filter(|gpu| gpu.free).filter_map(have).reduce(f64::max)?;
    (needed > largest).then(|| format!("needs {needed} GB of each GPU, and they have {largest}"))
}

/// Which comes first, and by which rule.
fn compare(one: &Profile, other: &Profile) -> (Ordering, Rule) {
    let class = one.is_optimized();
    let mut rules = vec![(other.is_optimized().cmp(&class), Rule::Optimized)];
    if !class {
        rules.push((engine(one).cmp(&engine(other)), Rule::Engine));
    }
    let bits = |profile: &Profile| profile.precision.map_or((u32::MAX, true, true), super::precision::Precision::rank);
    rules.push((bits(one).cmp(&bits(other)), Rule::Precision));
    rules.push((target(one).cmp(&target(other)), Rule::Target));
    let parallel = |profile: &Profile| Reverse(profile.tensor_parallel.unwrap_or(1));
    rules.push((parallel(one).cmp(&parallel(other)), Rule::Parallelism));
    rules.into_iter().find(|(order, _)| order.is_ne()).unwrap_or((Ordering::Equal, Rule::None))
}

fn engine(profile: &Profile) -> usize {
    let place = profile.engine.and_then(|engine| Engine::ALL.iter().position(|one| *one == engine));
    place.unwrap_or(Engine::ALL.len())
}

fn target(profile: &Profile) -> u8 {
    match profile.target {
        Some(Target::Latency) => 0,
        Some(Target::Throughput) => 1,
        None => 2,
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Rule {
    Optimized,
    Engine,
    Precision,
    Target,
    Parallelism,
    None,
}

fn first(profile: &Profile) -> String {
    let why = match profile {
        profile if *profile == Profile::default() => "nothing of it is known but its id",
        profile if profile.is_optimized() => "compiled for this GPU, and the first of these by NIM's rules",
        _ => "nothing is compiled for this GPU",
    };
    why.to_owned()
}

fn after(before: &Profile, this: &Profile) -> String {
    let engine = |profile: &Profile| profile.engine.map_or("an unknown engine", Engine::as_str);
    let precision =
        |profile: &Profile| profile.precision.map_or("unknown precision", super::precision::Precision::as_str);
    let target = |profile: &Profile| profile.target.map_or("no target", Target::as_str);
    let tp = |profile: &Profile| profile.tensor_parallel.unwrap_or(1);
    match compare(before, this).1 {
        Rule::Optimized => "generic, after those compiled for the GPU".to_owned(),
        Rule::Engine => format!("{} after {}", engine(this), engine(before)),
        Rule::Precision => format!("{} after {}", precision(this), precision(before)),
        Rule::Target => format!("{} after {}", target(this), target(before)),
        Rule::Parallelism => format!("tp{} after tp{}", tp(this), tp(before)),
        Rule::None => "equal by every rule; in the order of the list".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::super::document::Form;
    use super::*;

    fn document(names: &[&str]) -> Document {
        let mut document = Document::new(Form::Manifest);
        for name in names {
            document.push(Entry::new(None, Some(name), Standing::Unsaid, 1));
        }
        document
    }

    /// Each list is already in NIM's order; every other order of it must be put back.
    #[track_caller]
    fn check(ordered: &[&str], whys: &[&str]) {
        for turn in 0..ordered.len() {
            let mut names = ordered.to_vec();
            names.rotate_left(turn);
            let document = document(&names);
            let selection = select(&document, &Circumstances::default());
            let found: Vec<_> = selection.ranked.iter().filter_map(|one| names.get(one.entry).copied()).collect();
            assert_eq!(found, ordered);
            let found: Vec<_> = selection.ranked.iter().skip(1).map(|one| one.why.as_str()).collect();
            assert_eq!(found, whys);
        }
    }

    #[test]
    fn the_documented_order_of_nim_1() {
        check(
            &[
                "tensorrt_llm-h100-fp8-tp4-latency",
                "tensorrt_llm-h100-fp8-tp2-latency",
                "tensorrt_llm-h100-fp8-tp8-throughput",
                "tensorrt_llm-h100-int8-tp1-latency",
                "tensorrt_llm-h100-fp16-tp1-latency",
                "tensorrt_llm-h100-bf16-tp8-latency",
                "vllm-fp8-tp1",
                "vllm-fp16-tp2",
                "vllm-fp16-tp1",
                "tensorrt_llm-trtllm_buildable-fp8-tp1-pp1",
                "sglang-fp8-tp1",
            ],
            &[
                "tp2 after tp4",
                "throughput after latency",
                "int8 after fp8",
                "fp16 after int8",
                "bf16 after fp16",
                "generic, after those compiled for the GPU",
                "fp16 after fp8",
                "tp1 after tp2",
                "tensorrt_llm after vllm",
                "sglang after tensorrt_llm",
            ],
        );
    }

    fn gpu(index: u32, name: &str, free: bool) -> SystemGpu {
        SystemGpu { index, name: name.to_owned(), device: None, utilization: None, free }
    }

    #[track_caller]
    fn left_out(profile: &str, circumstances: &Circumstances<'_>, why: Option<&str>) {
        let selection = select(&document(&[profile]), circumstances);
        assert_eq!(selection.excluded.first().map(|one| one.why.as_str()), why, "{profile}");
    }

    #[test]
    fn what_cannot_start_here_is_left_out_with_the_reason() {
        let system = [gpu(0, "NVIDIA L40S", true), gpu(1, "NVIDIA L40S", false)];
        let here = Circumstances { gpus: Some(&system), ..Circumstances::default() };
        left_out("tensorrt_llm-l40s-fp8-tp1-latency", &here, None);
        left_out("tensorrt_llm-h100-fp8-tp1-latency", &here, Some("is for H100, and the system has none"));
        left_out("vllm-fp8-tp4", &here, Some("needs 4 x GPU, and of the system's 2 only 1 are free"));
        left_out("vllm-bf16-tp1-pp1-63.0", &here, Some("needs 63 GB of each GPU, and they have 48"));
        let larger = Circumstances { gib: Some(80.0), ..here };
        left_out("vllm-bf16-tp1-pp1-63.0", &larger, None);
        let nowhere = Circumstances::default();
        left_out("vllm-fp8-lora", &nowhere, Some("takes LoRA adapters, and needs NIM_PEFT_SOURCE to start"));
        left_out("vllm-fp8", &Circumstances { lora: true, ..nowhere }, Some("takes no LoRA adapters"));
    }
}
