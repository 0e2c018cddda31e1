//! The measurements as the file that the router starts from.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{Context, bail};

use super::args::CalibrateArgs;
use super::findings::Found;
use crate::clock::Clock;
use crate::config::baselines::{Baseline, Baselines};
use crate::config::read_baselines;
use crate::config::settings::Settings;
use crate::planner::Point;
use crate::route::model::Measured;
use crate::telemetry::time::rfc3339;

/// Where they go: as asked, else where the configuration reads them, else beside it.
pub(super) fn path(args: &CalibrateArgs, settings: &Settings) -> PathBuf {
    let configured = settings.baselines.as_ref().map(|baselines| baselines.path.clone());
    let beside = || args.config.parent().unwrap_or(Path::new("")).join("baselines.yaml");
    args.out.clone().or(configured).unwrap_or_else(beside)
}

/// The file, with what it has so far.
pub(super) struct Measurements {
    path: PathBuf,
    kept: Vec<Baseline>,
}

impl Measurements {
    /// Reads what is there, before anything is measured in vain.
    ///
    /// # Errors
    /// When the file is there and cannot be read, or its folder is not.
    pub(super) fn open(path: PathBuf) -> anyhow::Result<Self> {
        let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
        if !folder.is_dir() {
            bail!("the measurements cannot go to {}: there is no such folder", path.display());
        }
        let kept = if path.exists() {
            read_baselines(&path).map_err(|report| anyhow::anyhow!("{report}")).context("the measurements so far")?
        } else {
            Vec::new()
        };
        Ok(Self { path, kept })
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// Writes them, beside those of backends and models that were not measured now.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub(super) fn write(&self, found: &[Found], clock: &dyn Clock) -> anyhow::Result<()> {
        let fresh: Vec<Baseline> = found.iter().filter_map(|one| entry(one, clock)).collect();
        let entries = merged(self.kept.clone(), &fresh);
        let all = Baselines { path: self.path.clone(), entries };
        all.write().with_context(|| format!("cannot write {}", self.path.display()))
    }
}

/// One for each backend, and one for each profile, which another backend of it starts from.
fn merged(kept: Vec<Baseline>, fresh: &[Baseline]) -> Vec<Baseline> {
    let same = |one: &Baseline, other: &Baseline| one.backend == other.backend && one.model == other.model;
    let replaced = |old: &Baseline| fresh.iter().any(|new| same(new, old));
    let profiled = |old: &Baseline| {
        let alike = |new: &Baseline| new.profile == old.profile && new.model == old.model;
        old.backend.is_none() && fresh.iter().any(alike)
    };
    let mut all: Vec<Baseline> = kept.into_iter().filter(|old| !replaced(old) && !profiled(old)).collect();
    all.extend(fresh.iter().cloned());
    // Of all backends of a profile, those that were measured before among them.
    let mut of_profiles: Vec<Baseline> = Vec::new();
    for new in fresh.iter().filter(|new| new.profile.is_some()) {
        if of_profiles.iter().any(|one| one.profile == new.profile && one.model == new.model) {
            continue;
        }
        let alike =
            all.iter().filter(|one| one.backend.is_some() && one.profile == new.profile && one.model == new.model);
        let points = alike.flat_map(|one| one.points.iter().copied()).collect();
        of_profiles.push(Baseline { backend: None, points, ..new.clone() });
    }
    all.extend(of_profiles);
    all
}

fn entry(found: &Found, clock: &dyn Clock) -> Option<Baseline> {
    let points: Vec<Measured> = found.points.iter().filter_map(Point::measured).collect();
    let backend = &found.target.settings;
    let measured = rfc3339(clock.wall()).split('.').next().map(|seconds| format!("{seconds}Z"));
    (!points.is_empty()).then(|| Baseline {
        backend: Some(Arc::clone(&backend.name)),
        profile: backend.profile.clone(),
        model: Some(found.target.model.as_str().into()),
        measured: measured.unwrap_or_default().into(),
        origin: concat!("headway calibrate ", env!("CARGO_PKG_VERSION")).into(),
        kv_cache_tokens: found.kv_cache_tokens,
        points,
    })
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn baseline(backend: Option<&str>, profile: Option<&str>, model: &str, concurrency: u32) -> Baseline {
        let (ttft, itl) = (Duration::from_millis(9), Duration::from_millis(1));
        Baseline {
            backend: backend.map(Into::into),
            profile: profile.map(Into::into),
            model: Some(model.into()),
            measured: "2026-01-31".into(),
            origin: "a test".into(),
            kv_cache_tokens: None,
            points: vec![Measured { concurrency, input_tokens: 1, output_tokens: 1, ttft, itl }],
        }
    }

    /// Entries as backend, profile, model and the loads of their points.
    fn shown(all: &[Baseline]) -> Vec<String> {
        let name = |name: &Option<Arc<str>>| name.as_deref().unwrap_or("-").to_owned();
        let loads =
            |one: &Baseline| one.points.iter().map(|point| point.concurrency.to_string()).collect::<Vec<_>>().join(" ");
        all.iter()
            .map(|one| format!("{} {} {}: {}", name(&one.backend), name(&one.profile), name(&one.model), loads(one)))
            .collect()
    }

    #[test]
    fn what_was_not_measured_now_stays_and_a_profile_has_the_points_of_all_its_backends() {
        let kept = vec![
            baseline(Some("a"), Some("p"), "m", 1),
            baseline(Some("b"), Some("p"), "m", 2),
            baseline(Some("a"), Some("p"), "other", 3),
            baseline(None, Some("p"), "m", 4),
            baseline(None, Some("q"), "m", 5),
        ];
        let all = merged(kept, &[baseline(Some("a"), Some("p"), "m", 6)]);
        let expected = ["b p m: 2", "a p other: 3", "- q m: 5", "a p m: 6", "- p m: 2 6"];
        assert_eq!(shown(&all), expected);
        assert_eq!(shown(&merged(Vec::new(), &[baseline(Some("a"), None, "m", 1)])), ["a - m: 1"]);
    }
}
