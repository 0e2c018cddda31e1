//! The measurements as the file that the router starts from.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::Context;

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

/// Writes them, beside those of backends that were not measured now.
///
/// # Errors
/// When the file is there and cannot be read, or cannot be written.
pub(super) fn write(path: &Path, found: &[Found], clock: &dyn Clock) -> anyhow::Result<()> {
    let kept = if path.exists() {
        read_baselines(path).map_err(|report| anyhow::anyhow!("{report}")).context("the measurements so far")?
    } else {
        Vec::new()
    };
    let fresh = entries(found, clock);
    let replaced = |old: &Baseline| {
        fresh.iter().any(|new| (&new.backend, &new.profile, &new.model) == (&old.backend, &old.profile, &old.model))
            || (old.backend.is_some() && fresh.iter().any(|new| new.backend == old.backend))
    };
    let entries = kept.into_iter().filter(|old| !replaced(old)).chain(fresh.iter().cloned()).collect();
    let all = Baselines { path: path.to_owned(), entries };
    all.write().with_context(|| format!("cannot write {}", path.display()))
}

/// One for each backend, and one for each profile, which another backend of it starts from.
fn entries(found: &[Found], clock: &dyn Clock) -> Vec<Baseline> {
    let mut all: Vec<Baseline> = found.iter().filter_map(|one| entry(one, clock)).collect();
    let mut of_profiles: Vec<Baseline> = Vec::new();
    for own in all.iter().filter(|own| own.profile.is_some()) {
        match of_profiles.iter_mut().find(|one| one.profile == own.profile && one.model == own.model) {
            Some(one) => one.points.extend(own.points.iter().copied()),
            None => of_profiles.push(Baseline { backend: None, ..own.clone() }),
        }
    }
    all.extend(of_profiles);
    all
}

fn entry(found: &Found, clock: &dyn Clock) -> Option<Baseline> {
    let points: Vec<Measured> = found.points.iter().filter_map(Point::measured).collect();
    let backend = &found.target.settings;
    (!points.is_empty()).then(|| Baseline {
        backend: Some(Arc::clone(&backend.name)),
        profile: backend.profile.clone(),
        model: Some(found.target.model.as_str().into()),
        measured: rfc3339(clock.wall())
            .split('.')
            .next()
            .map(|seconds| format!("{seconds}Z"))
            .unwrap_or_default()
            .into(),
        origin: concat!("headway calibrate ", env!("CARGO_PKG_VERSION")).into(),
        kv_cache_tokens: found.kv_cache_tokens,
        points,
    })
}
