//! The file of what was learned: JSON, as types of its own, so that what is learned may change its shape and a file of
//! before is recognised by its version.

use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde::{Deserialize, Serialize};

use super::split_part::SplitPart;
use super::{Kept, KeptBackend, Key};
use crate::route::model::{BackendLearned, PairLearned, RouteLearned, TrackerLearned};
use crate::route::predict::{Features, RlsLearned};

/// How every file of ours begins.
pub(super) const MARK: &[u8] = b"{\"headway_state\":";
/// The version that is read and written.
const VERSION: u32 = 2;
/// The most entries of a list that are read.
const MOST: usize = 100_000;

#[derive(Serialize, Deserialize)]
struct Document {
    headway_state: u32,
    /// Seconds since 1970.
    saved: u64,
    backends: Vec<BackendPart>,
    routes: Vec<RoutePart>,
    #[serde(default)]
    splits: Vec<SplitPart>,
}

/// What is looked at before the rest is believed to have a shape that is known.
#[derive(Deserialize)]
struct Head {
    headway_state: u32,
}

#[derive(Serialize, Deserialize)]
struct BackendPart {
    name: String,
    url: String,
    profile: Option<String>,
    models: Option<Vec<String>>,
    ttft: RlsPart,
    itl: RlsPart,
    ttft_bias: f64,
    itl_bias: f64,
    ttft_bounds: Vec<TrackerPart>,
    gap: f64,
    routes: Vec<PairPart>,
}

#[derive(Serialize, Deserialize)]
struct RlsPart {
    weights: Features,
    covariance: [Features; 4],
    samples: u64,
}

#[derive(Serialize, Deserialize)]
struct TrackerPart {
    alpha: f64,
    value: f64,
    samples: u64,
}

#[derive(Serialize, Deserialize)]
struct PairPart {
    name: String,
    itl: TrackerPart,
    e2e: TrackerPart,
    unstreamed: TrackerPart,
    unstreamed_bias: f64,
    unstreamed_samples: u64,
}

#[derive(Serialize, Deserialize)]
struct RoutePart {
    name: String,
    output_mean: f64,
    output_upper: f64,
    answers: u64,
    itl: TrackerPart,
    e2e: TrackerPart,
}

/// Whether the beginning of a file is that of ours.
pub(super) fn is_ours(bytes: &[u8]) -> bool {
    bytes.starts_with(MARK)
}

pub(super) fn write(kept: &Kept, wall: SystemTime) -> Result<Vec<u8>, String> {
    let document = Document {
        headway_state: VERSION,
        saved: wall.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs(),
        backends: kept.backends.iter().map(BackendPart::of).collect(),
        routes: kept.routes.iter().map(|(name, learned)| RoutePart::of(name, learned)).collect(),
        splits: kept.splits.iter().map(|(name, kept)| SplitPart::of(name, kept)).collect(),
    };
    let mut bytes = serde_json::to_vec(&document).map_err(|error| error.to_string())?;
    bytes.push(b'\n');
    Ok(bytes)
}

/// When it was saved, and what.
pub(super) fn read(bytes: &[u8]) -> Result<(SystemTime, Kept), String> {
    let head: Head = serde_json::from_slice(bytes).map_err(|error| error.to_string())?;
    if head.headway_state != VERSION {
        return Err(format!("version {} and not {VERSION}", head.headway_state));
    }
    let document: Document = serde_json::from_slice(bytes).map_err(|error| error.to_string())?;
    let saved = UNIX_EPOCH.checked_add(Duration::from_secs(document.saved)).ok_or("a date beyond all dates")?;
    let backends = document.backends.into_iter().take(MOST).map(BackendPart::kept).collect();
    let routes = document.routes.into_iter().take(MOST).map(RoutePart::kept).collect();
    let splits = document.splits.into_iter().take(MOST).map(SplitPart::kept).collect();
    Ok((saved, Kept { backends, routes, splits }))
}

impl BackendPart {
    fn of(KeptBackend { key, learned, pairs }: &KeptBackend) -> Self {
        let text = |text: &Arc<str>| text.to_string();
        Self {
            name: text(&key.name),
            url: key.url.clone(),
            profile: key.profile.as_ref().map(text),
            models: key.models.as_ref().map(|models| models.iter().map(text).collect()),
            ttft: RlsPart::of(&learned.ttft),
            itl: RlsPart::of(&learned.itl),
            ttft_bias: learned.ttft_bias,
            itl_bias: learned.itl_bias,
            ttft_bounds: learned.ttft_bounds.iter().map(TrackerPart::of).collect(),
            gap: learned.gap,
            routes: pairs.iter().map(|(name, learned)| PairPart::of(name, learned)).collect(),
        }
    }

    fn kept(self) -> KeptBackend {
        let models = self.models.map(|models| models.into_iter().map(Arc::from).collect());
        KeptBackend {
            key: Key { name: self.name.into(), url: self.url, profile: self.profile.map(Arc::from), models },
            learned: BackendLearned {
                ttft: self.ttft.learned(),
                itl: self.itl.learned(),
                ttft_bias: self.ttft_bias,
                itl_bias: self.itl_bias,
                ttft_bounds: self.ttft_bounds.into_iter().map(TrackerPart::learned).collect(),
                gap: self.gap,
                pairs: Vec::new(),
            },
            pairs: self.routes.into_iter().map(PairPart::kept).collect(),
        }
    }
}

impl RlsPart {
    fn of(&RlsLearned { weights, covariance, samples }: &RlsLearned) -> Self {
        Self { weights, covariance, samples }
    }

    fn learned(self) -> RlsLearned {
        RlsLearned { weights: self.weights, covariance: self.covariance, samples: self.samples }
    }
}

impl TrackerPart {
    fn of(&TrackerLearned { alpha, value, samples }: &TrackerLearned) -> Self {
        Self { alpha, value, samples }
    }

    fn learned(self) -> TrackerLearned {
        TrackerLearned { alpha: self.alpha, value: self.value, samples: self.samples }
    }
}

impl PairPart {
    fn of(name: &str, learned: &PairLearned) -> Self {
        Self {
            name: name.to_owned(),
            itl: TrackerPart::of(&learned.itl),
            e2e: TrackerPart::of(&learned.e2e),
            unstreamed: TrackerPart::of(&learned.unstreamed),
            unstreamed_bias: learned.unstreamed_bias,
            unstreamed_samples: learned.unstreamed_samples,
        }
    }

    fn kept(self) -> (Arc<str>, PairLearned) {
        let learned = PairLearned {
            itl: self.itl.learned(),
            e2e: self.e2e.learned(),
            unstreamed: self.unstreamed.learned(),
            unstreamed_bias: self.unstreamed_bias,
            unstreamed_samples: self.unstreamed_samples,
        };
        (self.name.into(), learned)
    }
}

impl RoutePart {
    fn of(name: &str, learned: &RouteLearned) -> Self {
        let &RouteLearned { output_mean, output_upper, answers, itl, e2e } = learned;
        let (itl, e2e) = (TrackerPart::of(&itl), TrackerPart::of(&e2e));
        Self { name: name.to_owned(), output_mean, output_upper, answers, itl, e2e }
    }

    fn kept(self) -> (Arc<str>, RouteLearned) {
        let Self { name, output_mean, output_upper, answers, itl, e2e } = self;
        let (itl, e2e) = (itl.learned(), e2e.learned());
        (name.into(), RouteLearned { output_mean, output_upper, answers, itl, e2e })
    }
}
