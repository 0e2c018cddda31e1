//! A profile: what an engine serves with, as far as its name and tags say.

use std::fmt;

use super::precision::Precision;

/// The serving software.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Engine {
    /// vLLM.
    Vllm,
    /// TensorRT-LLM.
    TensorRtLlm,
    /// SGLang.
    Sglang,
}

impl Engine {
    /// All of them, in NIM's order for generic profiles.
    pub const ALL: [Self; 3] = [Self::Vllm, Self::TensorRtLlm, Self::Sglang];

    /// The name in profiles.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Vllm => "vllm",
            Self::TensorRtLlm => "tensorrt_llm",
            Self::Sglang => "sglang",
        }
    }

    /// The engine of that name, in either case.
    #[must_use]
    pub fn named(text: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|one| one.as_str().eq_ignore_ascii_case(text))
    }
}

/// What an engine was built for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Target {
    /// Fast tokens for each user; more GPUs.
    Latency,
    /// Many tokens from each GPU; as few as hold the model.
    Throughput,
}

impl Target {
    /// The name in profiles.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Latency => "latency",
            Self::Throughput => "throughput",
        }
    }

    /// The target of that name, in either case.
    #[must_use]
    pub fn named(text: &str) -> Option<Self> {
        [Self::Latency, Self::Throughput].into_iter().find(|one| one.as_str().eq_ignore_ascii_case(text))
    }
}

/// Whether it takes LoRA adapters; it then needs a source of them to start.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Lora {
    /// The largest rank, where it is said.
    pub max_rank: Option<u32>,
}

/// A PCI device and its vendor, such as `2321:10de`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct DeviceId {
    /// The device.
    pub device: u16,
    /// The vendor; NVIDIA is `10de`.
    pub vendor: u16,
}

impl DeviceId {
    /// Reads `2321:10de`.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let (device, vendor) = text.split_once(':')?;
        let read =
            |part: &str| u16::from_str_radix(part, 16).ok().filter(|_| part.len() == 4 && !part.starts_with('+'));
        Some(Self { device: read(device)?, vendor: read(vendor)? })
    }
}

impl fmt::Display for DeviceId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:04x}:{:04x}", self.device, self.vendor)
    }
}

/// What an engine serves with. What a name or tags do not say is `None`.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Profile {
    /// The serving software.
    pub engine: Option<Engine>,
    /// The GPU it was compiled for, in lower case (`h100_nvl`); a profile without one runs on any with enough memory.
    pub gpu: Option<String>,
    /// That GPU's PCI device.
    pub device: Option<DeviceId>,
    /// The format of the weights.
    pub precision: Option<Precision>,
    /// GPUs that share each layer (TP).
    pub tensor_parallel: Option<u32>,
    /// Groups of layers on GPUs of their own (PP).
    pub pipeline_parallel: Option<u32>,
    /// What it was built for.
    pub target: Option<Target>,
    /// Whether it takes LoRA adapters.
    pub lora: Option<Lora>,
    /// Whether TensorRT-LLM compiles it on the first start.
    pub buildable: bool,
    /// GPUs, as stated beside the parallelism.
    pub stated_gpus: Option<u32>,
    /// GiB that each GPU must have, as stated in the name.
    pub stated_gib: Option<f64>,
    /// A hash of the files, which some names carry.
    pub hash: Option<String>,
    /// Parts of the name, and tags, that are not known here.
    pub unknown: Vec<String>,
}

impl Profile {
    /// The GPUs it uses: its parallelism, where that is said, else what is stated. `None` when neither is.
    ///
    /// The two differ in published profiles (`tp2-pp1-…-4`), and an engine has one process per part of its model.
    #[must_use]
    pub fn gpus(&self) -> Option<u32> {
        let parallel = self.tensor_parallel.map(|tp| tp.saturating_mul(self.pipeline_parallel.unwrap_or(1)));
        parallel.or(self.stated_gpus)
    }

    /// Whether it was compiled for one kind of GPU, so that NIM prefers it there.
    #[must_use]
    pub fn is_optimized(&self) -> bool {
        self.gpu.is_some() && !self.buildable && matches!(self.engine, None | Some(Engine::TensorRtLlm))
    }

    /// Takes over what `other` says and this does not.
    pub fn complete(&mut self, other: &Self) {
        self.engine = self.engine.or(other.engine);
        self.gpu = self.gpu.take().or_else(|| other.gpu.clone());
        self.device = self.device.or(other.device);
        self.precision = self.precision.or(other.precision);
        self.tensor_parallel = self.tensor_parallel.or(other.tensor_parallel);
        self.pipeline_parallel = self.pipeline_parallel.or(other.pipeline_parallel);
        self.target = self.target.or(other.target);
        self.lora = self.lora.or(other.lora);
        self.buildable |= other.buildable;
        self.stated_gpus = self.stated_gpus.or(other.stated_gpus);
        self.stated_gib = self.stated_gib.or(other.stated_gib);
        self.hash = self.hash.take().or_else(|| other.hash.clone());
        self.unknown.extend(other.unknown.iter().cloned());
    }

    /// Takes over one tag of a manifest or a log; `false` when it is not known, and then kept among the unknown.
    pub fn tag(&mut self, name: &str, value: &str) -> bool {
        let number = || value.parse::<u32>().ok().filter(|number| *number > 0);
        let set = match name {
            "llm_engine" | "engine" => Engine::named(value).map(|engine| self.engine = Some(engine)),
            "gpu" => Some(value.to_ascii_lowercase()).filter(|gpu| !gpu.is_empty()).map(|gpu| self.gpu = Some(gpu)),
            "gpu_device" => DeviceId::parse(value).map(|device| self.device = Some(device)),
            "precision" => Precision::named(value).map(|precision| self.precision = Some(precision)),
            "tp" => number().map(|tp| self.tensor_parallel = Some(tp)),
            "pp" => number().map(|pp| self.pipeline_parallel = Some(pp)),
            "profile" => Target::named(value).map(|target| self.target = Some(target)),
            "number_of_gpus" => number().map(|gpus| self.stated_gpus = Some(gpus)),
            "trtllm_buildable" => value.parse().ok().map(|buildable: bool| self.buildable = buildable),
            "feat_lora" => value.parse().ok().map(|lora: bool| {
                self.lora = lora.then(|| self.lora.unwrap_or(Lora { max_rank: None }));
            }),
            // The rank of a profile that takes no adapters says nothing.
            "feat_lora_max_rank" => number().map(|rank| {
                self.lora = self.lora.map(|_| Lora { max_rank: Some(rank) });
            }),
            _ => None,
        };
        if set.is_none() && !value.is_empty() {
            self.unknown.push(format!("{name}={value}"));
        }
        set.is_some()
    }
}

/// The name in NIM's form, as far as it is known: `tensorrt_llm-h100-fp8-tp2-pp1-latency`.
impl fmt::Display for Profile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let parts = [
            self.engine.map(|engine| engine.as_str().to_owned()),
            self.buildable.then(|| "trtllm_buildable".to_owned()),
            self.gpu.clone(),
            self.precision.map(|precision| precision.as_str().to_owned()),
            self.tensor_parallel.map(|tp| format!("tp{tp}")),
            self.pipeline_parallel.map(|pp| format!("pp{pp}")),
            self.target.map(|target| target.as_str().to_owned()),
            self.lora.map(|lora| lora.max_rank.map_or_else(|| "lora".to_owned(), |rank| format!("lora-{rank}"))),
        ];
        f.write_str(&parts.into_iter().flatten().collect::<Vec<_>>().join("-"))
    }
}
