//! Will it fit: a rule of thumb for the memory that a profile needs on each of its GPUs.
//!
//! Weights by their precision, the embeddings of quantised models in 16 bits, a key/value cache in 16 bits for one
//! longest request, and 2 GiB for the driver, the runtime and its workspace; weights and cache are shared out over tensor
//! and pipeline parallelism. With Llama 3.1 8B this gives, rounded up, the four figures that NIM 2.0.6 prints of its
//! profiles (33, 27 and 24 GB for bf16, fp8 and nvfp4, 28 GB with 84,992 tokens of context).

use super::model::ModelShape;
use super::precision::Precision;
use super::profile::Profile;

/// GiB of each GPU that neither weights nor cache use.
pub const OVERHEAD_GIB: f64 = 2.0;
/// The share of a GPU's memory that engines use: vLLM's own default.
pub const USABLE: f64 = 0.9;
/// Bytes of one element of the key/value cache.
const KV_BYTES: f64 = 2.0;
const GIB: f64 = 1_073_741_824.0;

/// What a profile needs of each GPU, in GiB.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Estimate {
    /// Its share of the weights.
    pub weights: f64,
    /// Its share of the cache of one request of the longest context; `None` where the model's layers are not known.
    pub cache: Option<f64>,
    /// Its share of the cache of one token.
    pub per_token: Option<f64>,
    /// The GPUs it is shared out over.
    pub gpus: u32,
}

/// Whether it fits in a GPU's memory.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Fit {
    /// It fits, and this many tokens can be held by all requests together, where that is known.
    Yes {
        /// Tokens of all requests together.
        tokens: Option<u64>,
    },
    /// It starts only with requests of no more than this many tokens.
    Shorter {
        /// For `--max-model-len`.
        tokens: u64,
    },
    /// The weights alone do not fit.
    No,
}

/// Estimates what a profile needs for a model; `None` when the profile does not say its precision.
#[must_use]
pub fn estimate(profile: &Profile, model: &ModelShape, context: Option<u64>) -> Option<Estimate> {
    let precision = profile.precision?;
    let gpus = profile.gpus().unwrap_or(1).max(1);
    let shares = f64::from(gpus);
    // More parts than heads means copies of the heads, though not of the layers.
    let tensor = profile.tensor_parallel.unwrap_or(1).max(1);
    let copies = model.kv_heads.map_or(1.0, |heads| (f64::from(tensor) / f64::from(heads)).max(1.0));
    let per_token = model.kv_per_token.map(|elements| elements * KV_BYTES * copies / shares / GIB);
    #[allow(clippy::cast_precision_loss, reason = "a context is far below 2^53")]
    let longest = context.or(model.context).map(|tokens| tokens as f64);
    let cache = per_token.zip(longest).map(|(one, tokens)| one * tokens);
    Some(Estimate { weights: weights(model, precision) / shares / GIB, cache, per_token, gpus })
}

/// Bytes of all weights.
fn weights(model: &ModelShape, precision: Precision) -> f64 {
    let bytes = precision.bytes_per_weight();
    let embedding = model.embedding * bytes.max(Precision::Bf16.bytes_per_weight());
    (model.parameters - model.embedding) * bytes + embedding
}

impl Estimate {
    /// All of it, for one request of the longest context.
    #[must_use]
    pub fn total(&self) -> f64 {
        self.weights + self.cache.unwrap_or(0.0) + OVERHEAD_GIB
    }

    /// Whether it fits in so many GiB.
    #[must_use]
    pub fn fits(&self, gib: f64) -> Fit {
        let room = gib * USABLE - self.weights - OVERHEAD_GIB;
        if room <= 0.0 {
            return Fit::No;
        }
        #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "positive, and saturating")]
        let tokens = self.per_token.filter(|one| *one > 0.0).map(|one| (room / one) as u64);
        match (tokens, self.cache) {
            (Some(tokens), Some(cache)) if cache > room => Fit::Shorter { tokens },
            (tokens, _) => Fit::Yes { tokens },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::name;
    use super::*;

    const LLAMA: &str = r#"{"model_type":"llama","hidden_size":4096,"intermediate_size":14336,"num_hidden_layers":32,
        "num_attention_heads":32,"num_key_value_heads":8,"vocab_size":128256,"max_position_embeddings":131072}"#;

    fn of(profile: &str, context: Option<u64>) -> Estimate {
        let model = ModelShape::parse(LLAMA).expect("a model");
        estimate(&name::profile(profile), &model, context).expect("a precision")
    }

    /// Llama 3.1 8B in NIM 2.0.6: `list-model-profiles` as published, and the fixture of the RTX 5090.
    #[track_caller]
    fn published(profile: &str, context: Option<u64>, gib: f64) {
        let total = of(profile, context).total();
        assert!((total.ceil() - gib).abs() < 1e-9, "{profile}: {total}, and NIM says {gib}");
    }

    #[test]
    fn the_rule_gives_the_figures_that_nim_prints() {
        published("vllm-bf16-tp1-pp1", None, 33.0);
        published("vllm-fp8-tp1-pp1", None, 27.0);
        published("vllm-nvfp4-tp1-pp1", None, 24.0);
        published("vllm-bf16-tp1-pp1", Some(84_992), 28.0);
    }

    #[test]
    fn parallelism_shares_out_and_more_parts_than_heads_copy_the_cache() {
        let (one, four, sixteen) = (of("vllm-bf16-tp1", None), of("vllm-bf16-tp4", None), of("vllm-bf16-tp16", None));
        let near = |a: f64, b: f64| assert!((a - b).abs() < 1e-9, "{a} {b}");
        near(four.weights * 4.0, one.weights);
        near(four.cache.expect("known") * 4.0, one.cache.expect("known"));
        near(sixteen.cache.expect("known") * 8.0, one.cache.expect("known"));
        assert_eq!(of("vllm-bf16-tp2-pp2", None).gpus, 4);
    }

    #[test]
    fn what_fits_says_how_much_it_holds_and_what_does_not_says_so() {
        let bf16 = of("vllm-bf16-tp1", None);
        assert!(
            matches!(bf16.fits(80.0), Fit::Yes { tokens: Some(tokens) } if tokens > 400_000),
            "{:?}",
            bf16.fits(80.0)
        );
        assert!(matches!(bf16.fits(24.0), Fit::Shorter { tokens } if tokens < 131_072), "{:?}", bf16.fits(24.0));
        assert_eq!(bf16.fits(16.0), Fit::No);
        let by_number = estimate(&name::profile("vllm-fp16-tp1"), &ModelShape::of_parameters(7e9), None).expect("fp16");
        assert_eq!(by_number.fits(24.0), Fit::Yes { tokens: None });
        assert_eq!(estimate(&name::profile("vllm"), &ModelShape::of_parameters(7e9), None), None);
    }
}
