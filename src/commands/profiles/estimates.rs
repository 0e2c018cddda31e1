//! The memory that each profile needs, where the model is known.

use crate::nim::{Entry, Estimate, Fit, ModelShape, SystemGpu, estimate, gib_of};

/// The model, and how long its requests are.
pub(super) struct Memory {
    pub(super) model: ModelShape,
    pub(super) context: Option<u64>,
    /// GiB of one GPU, where the arguments say.
    pub(super) gib: Option<f64>,
}

impl Memory {
    pub(super) fn of(&self, entry: &Entry) -> Option<Estimate> {
        estimate(&entry.profile, &self.model, self.context)
    }

    /// The memory of the GPU it would run on: as said, else of the system's, else of the kind it is compiled for.
    pub(super) fn have(&self, entry: &Entry, gpus: Option<&[SystemGpu]>) -> Option<f64> {
        let system = || gpus?.iter().filter_map(|gpu| gib_of(&gpu.name, gpu.device)).reduce(f64::max);
        let own = || gib_of(entry.profile.gpu.as_deref()?, entry.profile.device);
        self.gib.or_else(system).or_else(own)
    }

    /// Whether it fits there.
    pub(super) fn fit(&self, entry: &Entry, gpus: Option<&[SystemGpu]>) -> Option<Fit> {
        Some(self.of(entry)?.fits(self.have(entry, gpus)?))
    }
}
