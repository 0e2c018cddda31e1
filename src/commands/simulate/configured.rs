//! A configuration's fleet and routes, modelled.

use std::sync::Arc;
use std::time::Duration;

use crate::config::settings::{self, PrefixAffinity, Settings};
use crate::engine::Profile;
use crate::measure::group::GroupIndex;
use crate::policy_simulator::scene::{Machine, Scene, Spec};

/// A backend that no profile of ours can stand for.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("backend `{backend}` {why}; give it a `profile` that names one of the modelled GPUs: {}", gpus())]
pub(super) struct Unmodelled {
    /// Which.
    pub(super) backend: String,
    /// What is missing.
    pub(super) why: String,
}

/// A configuration as the simulator sees it.
#[derive(Debug, Clone)]
pub(super) struct Configured {
    /// The backends.
    pub(super) machines: Vec<Machine>,
    /// The routes.
    pub(super) routes: Vec<Spec>,
    /// How often engines' metrics are scraped, where any are: the shortest interval for all of them.
    pub(super) scrape: Option<Duration>,
    /// Which profile stands for which backend, where the names differ.
    pub(super) notes: Vec<String>,
}

impl Configured {
    /// Models a configuration.
    ///
    /// # Errors
    /// When a backend's profile names no GPU that is modelled.
    pub(super) fn of(settings: &Settings) -> Result<Self, Unmodelled> {
        let mut notes = Vec::new();
        let mut machines = Vec::new();
        for backend in &settings.backends {
            let profile = profile_of(backend)?;
            if backend.profile.as_deref().is_none_or(|name| !name.eq_ignore_ascii_case(profile.name)) {
                notes.push(format!("backend `{}` is modelled as {}", backend.name, profile.name));
            }
            let machine = Machine::of(Arc::clone(&backend.name), profile);
            let price = backend.price.unwrap_or(machine.price);
            let scraped = backend.metrics.is_some();
            let measured = settings.baselines.as_ref().and_then(|all| all.of(backend)?.learned());
            let (max_in_flight, baseline) = (backend.max_in_flight, measured.map(Arc::new));
            machines.push(Machine { price, max_in_flight, scraped, baseline, ..machine });
        }
        let scrape = settings.backends.iter().filter_map(|backend| Some(backend.metrics.as_ref()?.interval)).min();
        Ok(Self { machines, routes: settings.routes.iter().map(|route| spec(route)).collect(), scrape, notes })
    }

    /// The same traffic on this fleet: each route keeps its name, or takes its turn. Incidents strike the backend of the
    /// same place.
    #[must_use]
    pub(super) fn host(&self, scene: Scene) -> Scene {
        let place = |index: usize| {
            let name = scene.routes.get(index).map(|route| &route.name);
            let same = self.routes.iter().position(|route| Some(&route.name) == name);
            same.unwrap_or(index % self.routes.len().max(1))
        };
        let places: Vec<usize> = (0..scene.routes.len()).map(place).collect();
        let (backends, routes) = (self.machines.clone(), self.routes.clone());
        let mut scene = Scene { backends, routes, scrape: self.scrape, ..scene };
        for arrival in &mut scene.workload.arrivals {
            arrival.route = places.get(arrival.route).copied().unwrap_or_default();
        }
        for incident in &mut scene.incidents {
            incident.backend %= self.machines.len().max(1);
        }
        scene
    }
}

fn spec(route: &settings::Route) -> Spec {
    Spec {
        policy: route.policy,
        on_overload: route.on_overload,
        priority: route.priority,
        prefix_affinity: route.prefix_affinity == PrefixAffinity::Auto,
        backends: route.members(GroupIndex::BASELINE).map(|(index, _)| *index).collect(),
        ..Spec::new(Arc::clone(&route.name), route.objectives)
    }
}

/// The profile of that name; else one of the GPU that the name contains, the one that shares most words with it.
fn profile_of(backend: &settings::Backend) -> Result<Profile, Unmodelled> {
    let unmodelled = |why: String| Unmodelled { backend: backend.name.to_string(), why };
    let name = backend.profile.as_deref().ok_or_else(|| unmodelled("has no profile".to_owned()))?;
    nearest(name).ok_or_else(|| unmodelled(format!("has the profile `{name}`, which is not modelled")))
}

fn nearest(name: &str) -> Option<Profile> {
    if let Ok(profile) = Profile::named(name) {
        return Some(profile);
    }
    let words = |name: &str| -> Vec<String> {
        name.split(|at: char| !at.is_ascii_alphanumeric()).map(str::to_ascii_lowercase).collect()
    };
    let wanted = words(name);
    let shared = |profile: &Profile| words(profile.name).iter().filter(|word| wanted.contains(word)).count();
    let of_gpu = Profile::all().iter().filter(|profile| wanted.contains(&profile.gpu.to_ascii_lowercase()));
    // The first of equals: profiles stand in the order of their speed.
    of_gpu.rev().max_by_key(|profile| shared(profile)).copied()
}

fn gpus() -> String {
    let mut gpus: Vec<&str> = Profile::all().iter().map(|profile| profile.gpu).collect();
    gpus.dedup();
    gpus.join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(name: &str, expected: Option<&str>) {
        assert_eq!(nearest(name).map(|profile| profile.alias), expected, "{name}");
    }

    #[test]
    fn a_profile_is_modelled_by_its_name_or_by_its_gpu() {
        check("a100", Some("a100"));
        check("tensorrt_llm-h100-fp8-tp1-throughput", Some("h100-throughput"));
        check("tensorrt_llm-h100-fp8-tp2-throughput-lora", Some("h100-throughput"));
        check("vllm-l40s-bf16-tp1", Some("l40s"));
        check("tensorrt_llm-b200-fp8-tp1-latency", None);
    }
}
