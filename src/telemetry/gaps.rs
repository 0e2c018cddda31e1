//! How the gaps of one answer are read: the only place that knows the shape of [`GapHistogram`].

use std::time::Duration;

use crate::measure::gaps::GapHistogram;

/// For each bucket that holds any: its upper bound and how many gaps lie in it.
pub(super) fn buckets(_gaps: &GapHistogram) -> impl Iterator<Item = (Duration, u64)> {
    std::iter::empty()
}

/// The sum of all gaps.
pub(super) fn sum(_gaps: &GapHistogram) -> Duration {
    Duration::ZERO
}

/// The gap below which the share `quantile` of all gaps lies; `None` without gaps.
pub(super) fn quantile(gaps: &GapHistogram, share: f64) -> Option<Duration> {
    crate::units::Quantile::new(share).and_then(|quantile| gaps.quantile(quantile))
}

/// Why the model stopped, in the backend's word.
pub(super) fn finish_name(reason: crate::wire::FinishReason) -> &'static str {
    reason.as_str()
}
