//! What was measured of backends before they served: the file that `baselines` names.
//!
//! It holds measurements, not the weights of a model: those would mean nothing to the next version of the rule. Nothing
//! is known of a backend that no entry names; its price list and profile are not taken for measurements.

mod write;

use std::path::PathBuf;
use std::sync::Arc;

use super::settings::Backend;
use crate::route::model::{BackendLearned, Measured};

/// The version of the format that is read and written.
pub const VERSION: u64 = 1;

/// A file of measurements.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Baselines {
    /// Where it was read; empty when it was not.
    pub path: PathBuf,
    /// In the order of the file.
    pub entries: Vec<Baseline>,
}

/// What was measured of one backend, or of all that serve a profile.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Baseline {
    /// The backend, by name; `None` means every backend of the profile.
    pub backend: Option<Arc<str>>,
    /// The profile; `None` means the backend whatever its profile.
    pub profile: Option<Arc<str>>,
    /// The model that was served; `None` means any.
    pub model: Option<Arc<str>>,
    /// The day, `2026-01-31`, or the instant, `2026-01-31T09:05:06Z`.
    pub measured: Arc<str>,
    /// What measured it.
    pub origin: Arc<str>,
    /// Tokens that the engine's key/value cache holds, where known.
    pub kv_cache_tokens: Option<u64>,
    /// At least one.
    pub points: Vec<Measured>,
}

impl Baselines {
    /// What is known of a backend: an entry of its name before one of its profile, the first that fits.
    #[must_use]
    pub fn of(&self, backend: &Backend) -> Option<&Baseline> {
        let named = self.entries.iter().find(|entry| entry.backend.is_some() && entry.fits(backend));
        named.or_else(|| self.entries.iter().find(|entry| entry.backend.is_none() && entry.fits(backend)))
    }
}

impl Baseline {
    fn fits(&self, backend: &Backend) -> bool {
        let same = |wanted: Option<&Arc<str>>, is: Option<&Arc<str>>| wanted.is_none_or(|wanted| Some(wanted) == is);
        // A profile name says nothing about the size of the model, so where the models are not configured an entry for
        // one model is believed only of the backend that it names.
        let model = self.model.as_ref().is_none_or(|model| match &backend.models {
            Some(models) => models.iter().any(|pattern| pattern.matches(model)),
            None => self.backend.is_some(),
        });
        same(self.backend.as_ref(), Some(&backend.name))
            && same(self.profile.as_ref(), backend.profile.as_ref())
            && model
    }

    /// What the router starts from.
    #[must_use]
    pub fn learned(&self) -> Option<BackendLearned> {
        BackendLearned::measured(&self.points)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::config::{NoEnvironment, parse};

    pub(super) fn baseline(backend: Option<&str>, profile: Option<&str>, model: Option<&str>) -> Baseline {
        let point = |concurrency, ttft, itl| Measured {
            concurrency,
            input_tokens: 512,
            output_tokens: 128,
            ttft: Duration::from_micros(ttft),
            itl: Duration::from_micros(itl),
        };
        Baseline {
            backend: backend.map(Arc::from),
            profile: profile.map(Arc::from),
            model: model.map(Arc::from),
            measured: "2026-01-31".into(),
            origin: "a test".into(),
            kv_cache_tokens: None,
            points: vec![point(1, 23_000, 8_125), point(16, 61_234, 12_000)],
        }
    }

    /// Backends `a` (profile p, model m/8b), `b` (profile p, models m/*) and `c` (profile p, models asked for).
    fn backend(name: &str) -> Arc<Backend> {
        let text = "listeners: [{ address: 127.0.0.1:1 }]\nbackends:\n  \
                    - { name: a, url: http://a, profile: p, models: [m/8b] }\n  \
                    - { name: b, url: http://b, profile: p, models: ['m/*'] }\n  - { name: c, url: http://c, profile: p }\n\
                    routes: [{ name: r, backends: [a, b, c] }]\n";
        let loaded = parse("headway.yaml", text, &NoEnvironment).unwrap_or_else(|report| panic!("{report}"));
        loaded.settings.backends.into_iter().find(|backend| *backend.name == *name).expect(name)
    }

    #[track_caller]
    fn check(entries: &[(Option<&str>, Option<&str>, Option<&str>)], name: &str, expected: Option<usize>) {
        let entries: Vec<_> =
            entries.iter().map(|&(backend, profile, model)| baseline(backend, profile, model)).collect();
        let all = Baselines { path: PathBuf::new(), entries };
        let expected = expected.and_then(|place| all.entries.get(place));
        assert_eq!(all.of(&backend(name)), expected, "{name}");
    }

    #[test]
    fn the_backends_own_entry_comes_before_that_of_its_profile() {
        let entries = [(None, Some("p"), None), (Some("a"), None, None), (Some("a"), Some("p"), None)];
        check(&entries, "a", Some(1));
        check(&entries, "b", Some(0));
        check(&[(Some("a"), Some("q"), None), (None, Some("q"), None)], "a", None);
    }

    #[test]
    fn measurements_of_one_model_are_not_taken_for_another() {
        let entries = [(None, Some("p"), Some("m/8b"))];
        check(&entries, "a", Some(0));
        check(&entries, "b", Some(0));
        check(&entries, "c", None);
        check(&[(None, Some("p"), Some("m/70b"))], "a", None);
        check(&[(Some("c"), None, Some("m/70b"))], "c", Some(0));
    }
}
