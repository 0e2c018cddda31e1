//! NVIDIA NIM's model profiles: what they are called, what NIM prints of them, which one it starts, whether it fits.
//!
//! A profile fixes the engine a NIM serves with: software, GPU, precision, parallelism, what it was built for. NIM shows
//! them in four places, and [`parse`] reads all four into one [`Document`]: the output of `list-model-profiles`, the
//! `model_manifest.yaml` in its image, the answer of `/v1/metadata`, and its log at start. The formats change between
//! releases, so nothing is fatal: what is not understood is kept and can be shown.
//!
//! [`select()`] orders profiles as NIM's documentation says NIM does, with the rule that put each where it is. It is no
//! oracle: the documentation's own example selects otherwise. What runs is what NIM reports ([`Document::selected`]).

mod agree;
mod document;
#[cfg(any(test, feature = "fuzzing"))]
pub(crate) mod fuzz;
mod gpu;
mod id;
mod listing;
mod log;
mod manifest;
mod memory;
mod metadata;
mod model;
mod name;
mod precision;
mod profile;
mod select;

pub use self::agree::{Agreement, agreement};
pub use self::document::{Document, Entry, Form, Need, Standing, SystemGpu, Unread, parse};
pub use self::gpu::{GpuModel, gib_of};
pub use self::id::ProfileId;
pub use self::memory::{Estimate, Fit, OVERHEAD_GIB, USABLE, estimate};
pub use self::metadata::Metadata;
pub use self::model::{ModelShape, ModelShapeError, parse_parameters};
pub use self::name::ProfileName;
pub use self::precision::Precision;
pub use self::profile::{DeviceId, Engine, Lora, Profile, Target};
pub use self::select::{Circumstances, Excluded, Ranked, Selection, select};
