//! Who competes, by name.

use std::time::{Duration, Instant};

use super::ablation::{UnknownAblation, ablated};
use super::fate::Run;
use super::predicted::Predicted;
use super::rivals::{Rival, RivalKind};
use super::routed::{Routed, Served};
use super::scene::Scene;
use super::world::run;
use crate::route::admission::OnOverload;
use crate::route::policy::PolicyKind;
use crate::route::tuning::Tuning;

/// One rule that plays.
#[derive(Debug, Clone, PartialEq)]
pub struct Contender {
    /// Its name in reports.
    pub name: String,
    kind: Kind,
    /// The name of what it was taken from, if something was changed.
    base: Option<String>,
}

/// What a contender is compared as.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    /// Our rule, or what a configuration says.
    Ours,
    /// Our rule with something changed.
    Ablation,
    /// Everybody else.
    Rival,
}

#[derive(Debug, Clone, Copy, PartialEq)]
enum Kind {
    /// A policy of the proxy on every route.
    Served {
        policy: PolicyKind,
        on_overload: OnOverload,
        tuning: Tuning,
    },
    /// Each route's own policy, as the scene says.
    Configured,
    Rival(RivalKind),
    Predicted {
        rule: Predicted,
        calibration: bool,
    },
}

/// A name that nobody has.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("no policy is named `{name}`; there are {}", names().join(", "))]
pub struct UnknownContender {
    /// What was asked for.
    pub name: String,
}

/// The rule that ours stands for in reports.
const OURS: &str = "cheapest_within_slo";
/// Appended to ours, it turns away what no backend is expected to keep.
const SHED: &str = "+shed";
/// Appended to ours, such requests wait.
const QUEUE: &str = "+queue";
/// How many wait, and for how long: the configuration's example.
const QUEUED: OnOverload = OnOverload::Queue { depth: 64, wait: Duration::from_secs(2) };

/// The rivals by name, with what they are.
pub const RIVALS: [(&str, &str); 15] = [
    ("rr", "round robin"),
    ("lr", "least-request: fewest in flight, full scan"),
    ("p2c", "power of two choices by peak EWMA, as Linkerd and Finagle do it"),
    ("prequal", "Prequal: hot-cold lexicographic, q 0.84"),
    ("prequal6", "Prequal, q 0.6"),
    ("pqrs", "the score of prequal-rs"),
    ("lmetric", "uncached tokens times in flight"),
    ("dynamo", "Dynamo's cost: prefill and held blocks"),
    ("sglang", "SGLang's cache-aware router"),
    ("llmd", "llm-d-like: least headroom first, on our predictor"),
    ("llmds", "the same with our shedding"),
    ("cheapq", "the cheapest whose p90 keeps the promise, on our predictor"),
    ("greedy", "the same without calibration"),
    ("polyq", "the fullest that keeps the promise, on our predictor"),
    ("oracle0", "a clairvoyant that runs the true engines ahead; slow"),
];

/// Every name, but for `spillN`: the cheapest with fewer than N in flight.
#[must_use]
pub fn names() -> Vec<String> {
    let served = PolicyKind::ALL.iter().map(|policy| policy.as_str().to_owned());
    let shedding = [SHED, QUEUE].into_iter().map(|end| format!("{OURS}{end}"));
    let rivals = RIVALS.iter().map(|(name, _)| (*name).to_owned());
    served.chain(shedding).chain(rivals).chain(std::iter::once("spillN".to_owned())).collect()
}

impl Contender {
    /// The contender of that name.
    ///
    /// # Errors
    /// When there is none; the error lists them all.
    pub fn named(name: &str) -> Result<Self, UnknownContender> {
        let kind = predicted(name).or_else(|| rival(name)).or_else(|| served(name, Tuning::default()));
        let kind = kind.ok_or_else(|| UnknownContender { name: name.to_owned() })?;
        let name = name.replacen("ours", OURS, 1);
        Ok(Self { name, kind, base: None })
    }

    /// Our rule and, if `shed`, with shedding.
    #[must_use]
    pub fn ours(shed: bool) -> Self {
        let on_overload = if shed { OnOverload::Shed } else { OnOverload::Sacrifice };
        let kind = Kind::Served { policy: PolicyKind::CheapestWithinSlo, on_overload, tuning: Tuning::default() };
        Self { name: if shed { format!("{OURS}{SHED}") } else { OURS.to_owned() }, kind, base: None }
    }

    /// What a configuration does: each route's own policy.
    #[must_use]
    pub fn configured() -> Self {
        Self { name: "configured".to_owned(), kind: Kind::Configured, base: None }
    }

    /// Our rule with something changed, as [`ablated`] reads it.
    ///
    /// # Errors
    /// When the change means nothing.
    pub fn ablation(text: &str, shed: bool) -> Result<Self, UnknownAblation> {
        let tuning = ablated(text)?;
        let Self { name, kind, .. } = Self::ours(shed);
        let kind = match kind {
            Kind::Served { policy, on_overload, .. } => Kind::Served { policy, on_overload, tuning },
            other => other,
        };
        let sign = if text.contains('=') { "with" } else { "without" };
        Ok(Self { name: format!("{name} {sign} {text}"), kind, base: Some(name) })
    }

    /// What it is compared as.
    #[must_use]
    pub fn role(&self) -> Role {
        match self.kind {
            _ if self.base.is_some() => Role::Ablation,
            Kind::Configured | Kind::Served { policy: PolicyKind::CheapestWithinSlo, .. } => Role::Ours,
            _ => Role::Rival,
        }
    }

    /// Whether it is that one with something changed.
    #[must_use]
    pub fn is_ablation_of(&self, other: &Self) -> bool {
        self.base.as_deref() == Some(other.name.as_str())
    }

    /// Plays a scene. `base` is any instant: virtual time starts there.
    #[must_use]
    pub fn play(&self, scene: &Scene, base: Instant) -> Run {
        let routes = scene.routes.len();
        let serve = |policies: Vec<PolicyKind>, on_overload: Vec<OnOverload>, tuning: Tuning| {
            run(scene, base, |replica| {
                let served = Served::new(policies.clone(), scene.state.wrapping_add(replica as u64));
                Routed::new(scene, base, tuning, on_overload.clone(), served)
            })
        };
        match self.kind {
            Kind::Served { policy, on_overload, tuning } => {
                serve(vec![policy; routes], vec![on_overload; routes], tuning)
            }
            Kind::Configured => {
                let policies = scene.routes.iter().map(|route| route.policy).collect();
                let on_overload = scene.routes.iter().map(|route| route.on_overload).collect();
                serve(policies, on_overload, Tuning::default())
            }
            Kind::Rival(kind) => run(scene, base, |_| Rival::new(kind, scene)),
            Kind::Predicted { rule, calibration } => run(scene, base, |_| {
                Routed::new(scene, base, Predicted::tuning(calibration), vec![OnOverload::Sacrifice; routes], rule)
            }),
        }
    }
}

fn served(name: &str, tuning: Tuning) -> Option<Kind> {
    let overload = [(SHED, OnOverload::Shed), (QUEUE, QUEUED)];
    let found = overload.into_iter().find_map(|(end, on_overload)| Some((name.strip_suffix(end)?, on_overload)));
    let (name, on_overload) = found.unwrap_or((name, OnOverload::Sacrifice));
    let name = if name == "ours" { OURS } else { name };
    let policy = PolicyKind::ALL.into_iter().find(|policy| policy.as_str() == name)?;
    // The other policies predict nothing, so they have nothing to turn a request away for.
    let predicts = policy == PolicyKind::CheapestWithinSlo || on_overload == OnOverload::Sacrifice;
    predicts.then_some(Kind::Served { policy, on_overload, tuning })
}

fn predicted(name: &str) -> Option<Kind> {
    let (rule, calibration) = match name {
        "llmd" => (Predicted::Llmd { shed: false }, true),
        "llmds" => (Predicted::Llmd { shed: true }, true),
        "cheapq" => (Predicted::Cheapest, true),
        "greedy" => (Predicted::Cheapest, false),
        "polyq" => (Predicted::Fullest, true),
        _ => return None,
    };
    Some(Kind::Predicted { rule, calibration })
}

fn rival(name: &str) -> Option<Kind> {
    Some(Kind::Rival(match name {
        "rr" => RivalKind::RoundRobin,
        "lr" => RivalKind::LeastRequest,
        "p2c" => RivalKind::PeakEwma,
        "prequal" => RivalKind::Prequal(0.84),
        "prequal6" => RivalKind::Prequal(0.6),
        "pqrs" => RivalKind::PrequalRs,
        "lmetric" => RivalKind::Lmetric,
        "dynamo" => RivalKind::Dynamo,
        "sglang" => RivalKind::Sglang,
        "oracle0" => RivalKind::Oracle,
        _ => RivalKind::Spill(name.strip_prefix("spill")?.parse().ok()?),
    }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_name_has_a_contender_and_no_other() {
        for name in names().iter().filter(|name| *name != "spillN") {
            assert_eq!(Contender::named(name).expect("known").name, *name);
        }
        assert_eq!(Contender::named("ours+shed").expect("short"), Contender::ours(true));
        assert!(Contender::named("spill12").is_ok());
        for name in ["spill", "spillN", "ours+", "lr+shed", "round_robin+shed", ""] {
            let message = Contender::named(name).expect_err(name).to_string();
            assert!(message.contains("cheapest_within_slo+shed") && message.contains("llmds"), "{message}");
        }
    }

    #[test]
    fn an_ablation_is_compared_with_what_it_was_taken_from() {
        let ablation = Contender::ablation("probes", true).expect("known");
        assert_eq!(
            (ablation.name.as_str(), ablation.role()),
            ("cheapest_within_slo+shed without probes", Role::Ablation)
        );
        assert!(ablation.is_ablation_of(&Contender::ours(true)) && !ablation.is_ablation_of(&Contender::ours(false)));
        assert_eq!(Contender::named("lr").expect("known").role(), Role::Rival);
    }
}
