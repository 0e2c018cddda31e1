//! The profile that a NIM says it runs, held against the one its configuration names.

use std::sync::{Arc, PoisonError};

use super::backend::Shared;
use crate::config::settings::Backend;
use crate::nim::{Agreement, Metadata, ProfileName, agreement};

/// What a NIM says at `/v1/metadata`.
#[derive(Debug, Clone, PartialEq)]
pub struct Running {
    /// The profile it runs: an id, or a name.
    pub profile: Option<ProfileName>,
    /// Its release.
    pub release: Option<Arc<str>>,
}

impl Running {
    /// Reads the body of `GET /v1/metadata`; `None` when it says nothing that is known.
    #[must_use]
    pub fn parse(body: &[u8]) -> Option<Self> {
        let metadata = Metadata::parse(body)?;
        Some(Self {
            profile: metadata.profile.as_deref().map(ProfileName::parse),
            release: metadata.version.map(Arc::from),
        })
    }

    /// Whether it runs what is configured; `None` when one of the two is not said.
    #[must_use]
    pub fn agrees(&self, settings: &Backend) -> Option<Agreement> {
        let configured = ProfileName::parse(settings.profile.as_deref()?);
        Some(agreement(&configured, settings.profile_id.as_ref(), self.profile.as_ref()?))
    }

    /// What is wrong, in words; `None` when nothing is known to be.
    #[must_use]
    pub fn mismatch(&self, settings: &Backend) -> Option<String> {
        let (configured, reported) = (settings.profile.as_deref()?, self.profile.as_ref()?);
        let configured = match (&settings.profile_id, reported.id()) {
            // What it is held against is said, though it is known by its name.
            (Some(id), Some(_)) if id.as_str() != configured => format!("{configured} ({id})"),
            _ => configured.to_owned(),
        };
        (self.agrees(settings)? == Agreement::Differs)
            .then(|| format!("is configured as profile {configured}, and runs {reported}"))
    }
}

impl Shared {
    /// Logs a mismatch when it is new; it may last for days.
    pub(super) fn tell_mismatch(&self) {
        if let Some(mismatch) = self.new_mismatch() {
            let name = &self.latest.load().name;
            tracing::warn!(backend = %name, "it {mismatch}; its baselines and its price may be those of another");
        }
    }

    /// The mismatch there is, the first time that it is asked for.
    fn new_mismatch(&self) -> Option<String> {
        let settings = self.latest.load_full();
        let mismatch = self.running.load().as_ref().and_then(|running| running.mismatch(&settings));
        let mut told = self.told.lock().unwrap_or_else(PoisonError::into_inner);
        let new = mismatch.clone().filter(|_| *told != mismatch);
        *told = mismatch;
        new
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::{fleet_of_profiles, now};
    use super::*;

    const ONE: &str = "751382df4272eafc83f541f364d61b35aed9cce8c7b0c869269cea5a366cd08c";
    const OTHER: &str = "8835c31752fbc67ef658b20a9f78e056914fdef0660206d82f252d62fd96064d";

    #[test]
    fn a_mismatch_is_told_once_and_again_when_it_is_another() {
        let fleet = fleet_of_profiles(&[ONE], now());
        let shared = &fleet.backends()[0].shared;
        let mut asked = |profile: &str| {
            let body = format!(r#"{{"selectedModelProfileId":"{profile}"}}"#);
            shared.running.store(Running::parse(body.as_bytes()).map(Arc::new));
            shared.new_mismatch().is_some()
        };
        let told = [ONE, OTHER, OTHER, "vllm", OTHER, ONE].map(&mut asked);
        assert_eq!(told, [false, true, false, false, true, false]);
    }
}
