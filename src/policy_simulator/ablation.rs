//! What a part of the rule is worth: the rule without it, or with another constant.

use std::time::Duration;

use crate::route::tuning::Tuning;

/// Parts that can be switched off, by name.
pub const SWITCHES: [&str; 16] = [
    "calibration",
    "steps_by_spread",
    "pooling",
    "end_to_end_calibration",
    "bias",
    "censored_evidence",
    "probes",
    "margin",
    "median_fallback",
    "sacrifice",
    "scarcity",
    "residents_guard",
    "prefix",
    "cost",
    "short_streams",
    "engine_correction",
];

/// Constants that can be set, by name.
pub const CONSTANTS: [&str; 9] = [
    "alpha",
    "calibration_step",
    "unpromised_weight",
    "bias_gain",
    "probe_gap",
    "probe_gap_most",
    "probe_idle",
    "sacrifice_most",
    "same_price",
];

/// A name or value that means nothing.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "`{text}` is no ablation: name a part to leave out ({}) or a constant to set, such as alpha=0.1 ({})",
    SWITCHES.join(", "),
    CONSTANTS.join(", ")
)]
pub struct UnknownAblation {
    /// What was asked for.
    pub text: String,
}

/// The rule's settings with one change: `probes` leaves the probes out, `alpha=0.1` sets a constant. Several changes
/// are separated by commas.
///
/// # Errors
/// When a name is unknown, or a value no number.
pub fn ablated(text: &str) -> Result<Tuning, UnknownAblation> {
    text.split(',').try_fold(Tuning::default(), |tuning, part| changed(tuning, part.trim()))
}

fn changed(mut tuning: Tuning, part: &str) -> Result<Tuning, UnknownAblation> {
    let unknown = || UnknownAblation { text: part.to_owned() };
    match part.split_once('=') {
        None => *switch(&mut tuning, part).ok_or_else(unknown)? = false,
        Some((name, value)) => {
            let value = value.parse::<f64>().ok().filter(|value| value.is_finite() && *value >= 0.0);
            set(&mut tuning, name, value.ok_or_else(unknown)?).ok_or_else(unknown)?;
        }
    }
    Ok(tuning)
}

fn switch<'a>(tuning: &'a mut Tuning, name: &str) -> Option<&'a mut bool> {
    Some(match name {
        "calibration" => &mut tuning.calibration,
        "steps_by_spread" => &mut tuning.steps_by_spread,
        "pooling" => &mut tuning.pooling,
        "end_to_end_calibration" => &mut tuning.end_to_end_calibration,
        "bias" => &mut tuning.bias,
        "censored_evidence" => &mut tuning.censored_evidence,
        "probes" => &mut tuning.probes,
        "margin" => &mut tuning.margin,
        "median_fallback" => &mut tuning.median_fallback,
        "sacrifice" => &mut tuning.sacrifice,
        "scarcity" => &mut tuning.scarcity,
        "residents_guard" => &mut tuning.residents_guard,
        "prefix" => &mut tuning.prefix,
        "cost" => &mut tuning.cost,
        "short_streams" => &mut tuning.short_streams,
        "engine_correction" => &mut tuning.engine_correction,
        _ => return None,
    })
}

fn set(tuning: &mut Tuning, name: &str, value: f64) -> Option<()> {
    let seconds = || Duration::try_from_secs_f64(value).ok();
    match name {
        "alpha" => tuning.alpha = Some(value),
        "calibration_step" => tuning.calibration_step = value,
        "unpromised_weight" => tuning.unpromised_weight = value,
        "bias_gain" => tuning.bias_gain = value,
        "probe_gap" => tuning.probe_gap.0 = seconds()?,
        "probe_gap_most" => tuning.probe_gap.1 = seconds()?,
        "probe_idle" => tuning.probe_idle = seconds()?,
        "sacrifice_most" => tuning.sacrifice_most = value,
        "same_price" => tuning.same_price = value,
        _ => return None,
    }
    Some(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_switch_of_the_rule_can_be_ablated() {
        let switches = format!("{:?}", Tuning::default()).matches(": true").count();
        assert_eq!(switches, SWITCHES.len());
        for name in SWITCHES {
            let without = format!("{:?}", ablated(name).expect("known"));
            assert!(without.contains(&format!("{name}: false")), "{without}");
            assert_eq!(without.matches(": true").count(), switches - 1, "{name}");
        }
    }

    #[test]
    fn constants_are_set_and_changes_add_up() {
        for name in CONSTANTS {
            assert_ne!(ablated(&format!("{name}=0.123")), Ok(Tuning::default()), "{name}");
        }
        let both = ablated("alpha=0.1, probes").expect("known");
        assert_eq!((both.alpha, both.probes, both.margin), (Some(0.1), false, true));
    }

    #[test]
    fn what_means_nothing_is_answered_with_what_does() {
        for text in ["prob", "alpha", "alpha=much", "alpha=-1", "probes=1"] {
            let message = ablated(text).expect_err("unknown").to_string();
            assert!(message.contains(text) && message.contains("bias") && message.contains("same_price"), "{message}");
        }
    }
}
