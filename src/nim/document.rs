//! What one of NIM's texts says of profiles, whichever text it is.

use super::id::ProfileId;
use super::metadata::Metadata;
use super::name;
use super::profile::{DeviceId, Profile};
use super::{listing, log, manifest, metadata};

/// Most profiles of one text; the largest published manifests have a few hundred.
pub(super) const MOST_ENTRIES: usize = 10_000;
/// Most lines that are kept because they were not understood.
pub(super) const MOST_UNREAD: usize = 1_000;
/// Most characters of such a line.
const LONGEST_LINE: usize = 300;

/// Which text it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Form {
    /// The output of `list-model-profiles`.
    Listing,
    /// `model_manifest.yaml`.
    Manifest,
    /// The answer of `/v1/metadata`.
    Metadata,
    /// A NIM's log at its start.
    Log,
    /// None of these.
    Unknown,
}

impl Form {
    /// What it is called.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Listing => "list-model-profiles",
            Self::Manifest => "model_manifest.yaml",
            Self::Metadata => "/v1/metadata",
            Self::Log => "start-up log",
            Self::Unknown => "unknown",
        }
    }
}

/// What NIM says of a profile's chances on the system where it was asked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Standing {
    /// Can start now.
    Runnable,
    /// Not started by itself: less memory is free than it needs.
    LowMemory,
    /// TensorRT-LLM would compile it on the first start.
    Compilable,
    /// Another GPU, or too few.
    Incompatible,
    /// A heading that is not known here.
    Other(String),
    /// The text does not say.
    Unsaid,
}

impl Standing {
    /// What it is called.
    #[must_use]
    pub fn as_str(&self) -> &str {
        match self {
            Self::Runnable => "runnable",
            Self::LowMemory => "low memory",
            Self::Compilable => "compilable",
            Self::Incompatible => "incompatible",
            Self::Other(title) => title,
            Self::Unsaid => "not said",
        }
    }
}

/// The memory that a profile needs, as NIM estimates it.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Need {
    /// GiB of each GPU (NIM writes `GB/gpu`).
    pub gib_per_gpu: f64,
    /// How many such GPUs, where it is said.
    pub gpus: Option<u32>,
    /// With which `--max-model-len` it would need how many GiB of each GPU.
    pub reduced: Option<(u64, f64)>,
}

/// One profile of a text.
#[derive(Debug, Clone, PartialEq)]
pub struct Entry {
    /// Its id, where it has one that is a hash: the model-independent image calls its profiles by their engine.
    pub id: Option<ProfileId>,
    /// Its name as written, where there is one.
    pub name: Option<String>,
    /// What it serves with.
    pub profile: Profile,
    /// Its chances.
    pub standing: Standing,
    /// The memory it needs, where that is said.
    pub need: Option<Need>,
    /// The GPUs it could start on, by number, as a log says.
    pub on: Vec<u32>,
    /// What stands beside it and is not understood.
    pub note: Option<String>,
    /// The line it begins at, from 1.
    pub line: usize,
}

impl Entry {
    pub(super) fn new(id: Option<ProfileId>, name: Option<&str>, standing: Standing, line: usize) -> Self {
        // Empty brackets name nothing.
        let name = name.filter(|name| !name.trim().is_empty());
        let profile = name.map(name::profile).unwrap_or_default();
        let name = name.map(str::to_owned);
        Self { id, name, profile, standing, need: None, on: Vec::new(), note: None, line }
    }

    /// What `NIM_MODEL_PROFILE` takes: the id where it is whole, else the name.
    #[must_use]
    pub fn pin(&self) -> Option<&str> {
        let id = self.id.as_ref().filter(|id| id.is_whole()).map(ProfileId::as_str);
        id.or(self.name.as_deref())
    }

    /// GiB that each GPU must have, as NIM says.
    #[must_use]
    pub fn gib_per_gpu(&self) -> Option<f64> {
        self.need.map(|need| need.gib_per_gpu).or(self.profile.stated_gib)
    }

    /// Its name for people: as written, else put together from what is known, else the id.
    #[must_use]
    pub fn label(&self) -> String {
        let known = || Some(self.profile.to_string()).filter(|name| !name.is_empty());
        let id = || self.id.as_ref().map(ToString::to_string);
        self.name.clone().or_else(known).or_else(id).unwrap_or_else(|| "?".to_owned())
    }
}

/// A GPU of the system where NIM was asked.
#[derive(Debug, Clone, PartialEq)]
pub struct SystemGpu {
    /// Its number.
    pub index: u32,
    /// Its name, such as `NVIDIA L40S`.
    pub name: String,
    /// Its PCI device.
    pub device: Option<DeviceId>,
    /// How busy it was, in percent.
    pub utilization: Option<u32>,
    /// Whether NIM would take it.
    pub free: bool,
}

/// A line that was not understood.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Unread {
    /// Its number, from 1.
    pub line: usize,
    /// What stands there, cut to 300 characters.
    pub text: String,
}

/// What one text says.
#[derive(Debug, Clone, PartialEq)]
pub struct Document {
    /// Which text it is.
    pub form: Form,
    /// The system's GPUs; `None` where the text says nothing of them.
    pub gpus: Option<Vec<SystemGpu>>,
    /// The profiles, in the order of the text.
    pub entries: Vec<Entry>,
    /// The place in `entries` of the one that NIM runs, where the text says so.
    pub selected: Option<usize>,
    /// What the NIM says of itself.
    pub metadata: Option<Metadata>,
    /// What was not understood, at most 1,000 lines of it.
    pub unread: Vec<Unread>,
    /// How much more was not understood, or was too much.
    pub left_out: usize,
}

impl Document {
    pub(super) fn new(form: Form) -> Self {
        let (gpus, selected, metadata) = (None, None, None);
        Self { form, gpus, entries: Vec::new(), selected, metadata, unread: Vec::new(), left_out: 0 }
    }

    pub(super) fn unread(&mut self, line: usize, text: &str) {
        if self.unread.len() < MOST_UNREAD {
            self.unread.push(Unread { line, text: text.trim().chars().take(LONGEST_LINE).collect() });
        } else {
            self.left_out += 1;
        }
    }

    /// Keeps an entry; where there are too many, says only that there was one more.
    pub(super) fn push(&mut self, entry: Entry) {
        if self.entries.len() < MOST_ENTRIES {
            self.entries.push(entry);
        } else {
            self.left_out += 1;
        }
    }

    /// The entry that NIM runs.
    #[must_use]
    pub fn running(&self) -> Option<&Entry> {
        self.selected.and_then(|place| self.entries.get(place))
    }
}

/// Reads whatever NIM says of profiles. Nothing is fatal: what is not understood is kept, and a text that is none of
/// NIM's has the form [`Form::Unknown`].
///
/// ```
/// let text = "MODEL PROFILES\n- Compatible with system and runnable:\n  - \
///     751382df4272eafc83f541f364d61b35aed9cce8c7b0c869269cea5a366cd08c (tensorrt_llm-A100-fp16-tp1-throughput)\n";
/// let document = headway::nim::parse(text);
/// assert_eq!(document.entries[0].profile.gpus(), Some(1));
/// ```
#[must_use]
pub fn parse(text: &str) -> Document {
    let text = text.trim_start_matches('\u{feff}');
    if text.trim_start().starts_with('{')
        && let Some(document) = metadata::read(text)
    {
        return document;
    }
    if listing::is_one(text) {
        return listing::read(text, Form::Listing);
    }
    if log::is_one(text) {
        return log::read(text);
    }
    // Copies often lack the headings; ids and their names are left.
    manifest::read(text).unwrap_or_else(|| {
        let document = listing::read(text, Form::Listing);
        if document.entries.is_empty() { listing::read(text, Form::Unknown) } else { document }
    })
}
