//! Named profiles: which GPU, precision and batching an engine is modelled with.
//!
//! The numbers are roofline arithmetic for a model of 8 billion parameters, not measurements: step time from reading
//! the weights once, key/value reads over about 0.7 of peak memory bandwidth, prefill from peak arithmetic times a
//! utilisation of 0.2 to 0.55. The prices are invented. They are good for comparing rules, not for buying GPUs.

use std::fmt;

/// How fast an engine serves, how much it holds, and what its tokens cost.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Profile {
    /// The name in NIM's form: engine, GPU, precision, parallelism, target.
    pub name: &'static str,
    /// The short name for people.
    pub alias: &'static str,
    /// The GPU the profile names.
    pub gpu: &'static str,
    /// GPUs used.
    pub gpus: u32,
    /// Prefill speed, in tokens per second.
    pub prefill_rate: f64,
    /// Time of a step that does nothing, in seconds: one read of the weights.
    pub step_base: f64,
    /// Time each decoding sequence adds to a step, in seconds.
    pub step_per_sequence: f64,
    /// Time each token held in the key/value cache adds to a step, in seconds.
    pub step_per_token: f64,
    /// Sequences that may run at once.
    pub max_sequences: usize,
    /// Tokens the key/value cache holds.
    pub kv_capacity: u32,
    /// Tokens a step may process: decoding first, prefill takes the rest.
    pub chunk: u32,
    /// Price hint per million input tokens, in dollars.
    pub price_input: f64,
    /// Price hint per million output tokens, in dollars.
    pub price_output: f64,
}

/// A name that no profile has; the message lists those there are.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("no profile is named `{name}`; there are {}", Names)]
pub struct UnknownProfile {
    /// What was asked for.
    pub name: String,
}

/// Writes every profile's name with its alias.
struct Names;

impl fmt::Display for Names {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, profile) in PROFILES.iter().enumerate() {
            let separator = if i == 0 { "" } else { ", " };
            write!(f, "{separator}{} ({})", profile.name, profile.alias)?;
        }
        Ok(())
    }
}

impl Profile {
    /// The profile of that name or alias; upper and lower case are the same.
    ///
    /// # Errors
    /// When there is none; the error lists them all.
    pub fn named(name: &str) -> Result<Self, UnknownProfile> {
        PROFILES
            .iter()
            .find(|profile| profile.name.eq_ignore_ascii_case(name) || profile.alias.eq_ignore_ascii_case(name))
            .copied()
            .ok_or_else(|| UnknownProfile { name: name.to_owned() })
    }

    /// Every named profile, the fastest first.
    #[must_use]
    pub fn all() -> &'static [Self] {
        PROFILES
    }

    /// Blocks the prefix cache holds: half of the key/value cache.
    #[must_use]
    pub fn prefix_blocks(&self) -> usize {
        (self.kv_capacity / 2 / super::prefix::BLOCK_TOKENS) as usize
    }
}

const PROFILES: &[Profile] = &[
    Profile {
        name: "tensorrt_llm-h100-fp8-tp1-latency",
        alias: "h100-latency",
        gpu: "H100",
        gpus: 1,
        prefill_rate: 45_000.0,
        step_base: 6.5e-3,
        step_per_sequence: 0.03e-3,
        step_per_token: 28e-9,
        max_sequences: 48,
        kv_capacity: 480_000,
        chunk: 2048,
        price_input: 0.20,
        price_output: 0.60,
    },
    Profile {
        name: "tensorrt_llm-h100-fp8-tp1-throughput",
        alias: "h100-throughput",
        gpu: "H100",
        gpus: 1,
        prefill_rate: 45_000.0,
        step_base: 8.0e-3,
        step_per_sequence: 0.03e-3,
        step_per_token: 28e-9,
        max_sequences: 256,
        kv_capacity: 480_000,
        chunk: 8192,
        price_input: 0.11,
        price_output: 0.33,
    },
    Profile {
        name: "vllm-a100-fp16-tp1",
        alias: "a100",
        gpu: "A100",
        gpus: 1,
        prefill_rate: 10_500.0,
        step_base: 14.5e-3,
        step_per_sequence: 0.12e-3,
        step_per_token: 94e-9,
        max_sequences: 256,
        kv_capacity: 420_000,
        chunk: 2048,
        price_input: 0.09,
        price_output: 0.27,
    },
    Profile {
        name: "tensorrt_llm-l40s-fp8-tp1-throughput",
        alias: "l40s",
        gpu: "L40S",
        gpus: 1,
        prefill_rate: 10_000.0,
        step_base: 16.5e-3,
        step_per_sequence: 0.13e-3,
        step_per_token: 110e-9,
        max_sequences: 128,
        kv_capacity: 260_000,
        chunk: 2048,
        price_input: 0.06,
        price_output: 0.18,
    },
    Profile {
        name: "vllm-a10g-int8-tp1",
        alias: "a10g",
        gpu: "A10G",
        gpus: 1,
        prefill_rate: 3_900.0,
        step_base: 24.0e-3,
        step_per_sequence: 0.30e-3,
        step_per_token: 300e-9,
        max_sequences: 64,
        kv_capacity: 100_000,
        chunk: 1024,
        price_input: 0.04,
        price_output: 0.12,
    },
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_profile_is_found_by_name_and_by_alias() {
        for profile in Profile::all() {
            assert_eq!(Profile::named(profile.name).as_ref(), Ok(profile));
            assert_eq!(Profile::named(&profile.alias.to_uppercase()).as_ref(), Ok(profile));
        }
    }

    #[test]
    fn an_unknown_name_is_answered_with_all_names() {
        let message = Profile::named("h200").expect_err("there is none").to_string();
        assert!(message.contains("`h200`") && message.contains("vllm-a10g-int8-tp1 (a10g)"), "{message}");
    }

    #[test]
    fn an_output_token_costs_three_input_tokens() {
        for profile in Profile::all() {
            assert!((profile.price_output - 3.0 * profile.price_input).abs() < 1e-9, "{}", profile.name);
        }
    }
}
