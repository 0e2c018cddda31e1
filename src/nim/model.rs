//! The size of a model from its `config.json`, as Hugging Face's libraries write it: parameters, and key/value cache per
//! token.
//!
//! Parameters are counted layer by layer for the decoder-only transformers, exactly for the families the tests name.
//! Parts that few models have (vision towers, latent attention's small projections) are left out or approximated; a
//! rule of thumb needs no more.

use serde_json::Value;

/// What of a model decides the memory it takes.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct ModelShape {
    /// All its weights.
    pub parameters: f64,
    /// Those of the embeddings (and of the output layer, where it has its own), which quantised models keep in 16 bits.
    pub embedding: f64,
    /// Key/value elements per token, all layers; `None` where only the number of parameters is known.
    pub kv_per_token: Option<f64>,
    /// Key/value heads: tensor parallelism beyond them copies the cache.
    pub kv_heads: Option<u32>,
    /// Longest context.
    pub context: Option<u64>,
}

/// Why a text is no model's configuration.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ModelShapeError {
    /// It is not JSON.
    #[error("it is not JSON: {0}")]
    Json(String),
    /// A key that sizes follow from is not there.
    #[error("it has no `{0}`; is it the config.json of a language model?")]
    Missing(&'static str),
}

/// Layers, heads and the like: no model has more, and a sum of products of these fits.
const MOST: f64 = 1e7;

impl ModelShape {
    /// A model of which only the number of parameters is known.
    #[must_use]
    pub fn of_parameters(parameters: f64) -> Self {
        Self { parameters, embedding: 0.0, kv_per_token: None, kv_heads: None, context: None }
    }

    /// Reads a `config.json`. Models of several parts have their language model under `text_config`.
    ///
    /// # Errors
    /// When it is not JSON, or lacks what sizes follow from.
    pub fn parse(text: &str) -> Result<Self, ModelShapeError> {
        let root: Value = serde_json::from_str(text).map_err(|error| ModelShapeError::Json(error.to_string()))?;
        let nested = ["text_config", "llm_config", "language_config"].into_iter().find_map(|key| root.get(key));
        Config(nested.filter(|inner| inner.get("hidden_size").is_some()).unwrap_or(&root)).shape()
    }
}

/// Reads a number of parameters: `8B`, `70b`, `1.5T`, `350M`.
#[must_use]
pub fn parse_parameters(text: &str) -> Option<f64> {
    let text = text.trim();
    let unit = text.chars().last()?;
    let scale = match unit.to_ascii_lowercase() {
        'm' => 1e6,
        'b' => 1e9,
        't' => 1e12,
        _ => return None,
    };
    let number = text.get(..text.len() - 1)?.trim().parse::<f64>().ok()?;
    (number > 0.0 && number.is_finite()).then_some(number * scale)
}

struct Config<'a>(&'a Value);

impl Config<'_> {
    fn number(&self, names: &[&str]) -> Option<f64> {
        let number = names.iter().find_map(|name| self.0.get(name)?.as_f64());
        number.filter(|number| (0.0..=MOST).contains(number))
    }

    fn flag(&self, name: &str) -> Option<bool> {
        self.0.get(name)?.as_bool()
    }

    fn kind(&self) -> &str {
        self.0.get("model_type").and_then(Value::as_str).unwrap_or_default()
    }

    fn shape(&self) -> Result<ModelShape, ModelShapeError> {
        let need = |names: &[&str], name| self.number(names).ok_or(ModelShapeError::Missing(name));
        let hidden = need(&["hidden_size", "n_embd", "d_model"], "hidden_size")?;
        let layers = need(&["num_hidden_layers", "n_layer", "n_layers"], "num_hidden_layers")?;
        let heads = need(&["num_attention_heads", "n_head", "n_heads"], "num_attention_heads")?.max(1.0);
        let vocabulary = need(&["vocab_size"], "vocab_size")?;
        let head = self.number(&["head_dim"]).unwrap_or(hidden / heads);
        let kv_heads = self.number(&["num_key_value_heads", "num_kv_heads"]).unwrap_or(heads);
        let tables = if self.flag("tie_word_embeddings").unwrap_or(false) { 1.0 } else { 2.0 };
        let embedding = vocabulary * hidden * tables;
        let attention = self.attention(hidden, heads, kv_heads, head);
        let attending = self.attending_layers(layers);
        let norms = 2.0 * hidden;
        let feed_forward = self.feed_forward(hidden, layers);
        let parameters = embedding + layers * norms + attending * attention + feed_forward + hidden;
        // Latent attention keeps one compressed vector for all heads.
        let latent = self.number(&["kv_lora_rank"]).filter(|rank| *rank > 0.0);
        let latent = latent.map(|rank| rank + self.number(&["qk_rope_head_dim"]).unwrap_or(0.0));
        let kv_per_token = attending * latent.unwrap_or(2.0 * kv_heads * head);
        #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "between 0 and 10 million")]
        let whole = |number: f64| number as u32;
        let context = self.0.get("max_position_embeddings").or(self.0.get("n_positions")).and_then(Value::as_u64);
        Ok(ModelShape {
            parameters,
            embedding,
            kv_per_token: Some(kv_per_token),
            kv_heads: Some(if latent.is_some() { 1 } else { whole(kv_heads).max(1) }),
            context,
        })
    }

    fn attention(&self, hidden: f64, heads: f64, kv_heads: f64, head: f64) -> f64 {
        let (queries, keys) = (heads * head, kv_heads * head);
        // Qwen 2 has biases on its projections without saying so in its configuration.
        let biased = self.flag("attention_bias").unwrap_or(matches!(self.kind(), "qwen2" | "qwen2_moe"));
        let bias = if biased { queries + 2.0 * keys } else { 0.0 };
        hidden * queries + 2.0 * hidden * keys + queries * hidden + bias
    }

    /// Layers with attention: hybrids name the kind of each layer, by a list or a letter.
    fn attending_layers(&self, layers: f64) -> f64 {
        let count = |number: usize| u32::try_from(number).map_or(MOST, f64::from);
        if let Some(pattern) = self.0.get("hybrid_override_pattern").and_then(Value::as_str) {
            return count(pattern.matches('*').count()).min(layers);
        }
        match self.0.get("layer_types").and_then(Value::as_array) {
            Some(kinds) => {
                let attends = |kind: &&Value| {
                    kind.as_str()
                        .is_some_and(|kind| kind.contains("full") || kind.contains("sliding") || kind == "attention")
                };
                count(kinds.iter().filter(attends).count()).min(layers)
            }
            None => layers,
        }
    }

    /// The weights of all feed-forward layers; experts beside each other where there are some.
    fn feed_forward(&self, hidden: f64, layers: f64) -> f64 {
        let intermediate = self.number(&["intermediate_size", "n_inner", "ffn_hidden_size"]).unwrap_or(4.0 * hidden);
        let matrices = if self.is_plain() { 2.0 } else { 3.0 };
        let dense = matrices * hidden * intermediate;
        let experts = self.number(&["num_local_experts", "n_routed_experts", "num_experts"]).unwrap_or(0.0);
        if experts < 1.0 {
            return layers * dense;
        }
        let expert = matrices * hidden * self.number(&["moe_intermediate_size"]).unwrap_or(intermediate);
        let shared = self.number(&["n_shared_experts"]).unwrap_or(0.0) * expert;
        let first = self.number(&["first_k_dense_replace"]).unwrap_or(0.0).min(layers);
        first * dense + (layers - first) * (experts * (expert + hidden) + shared)
    }

    /// Whether the feed-forward layers have two matrices; those of today's models have a third, the gate.
    fn is_plain(&self) -> bool {
        let plain = ["gpt2", "gpt_neox", "gptj", "opt", "falcon", "bloom", "mpt", "phi", "starcoder2", "gpt_bigcode"];
        plain.contains(&self.kind()) || self.kind().starts_with("nemotron")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Configurations as published, cut to what decides; parameters as the safetensors index of each model counts them.
    const PUBLISHED: &[(&str, f64, f64)] = &[
        // Llama 3.1 8B
        (
            r#"{"model_type":"llama","hidden_size":4096,"intermediate_size":14336,"num_hidden_layers":32,
            "num_attention_heads":32,"num_key_value_heads":8,"vocab_size":128256,"max_position_embeddings":131072}"#,
            8_030_261_248.0,
            131_072.0,
        ),
        // Phi-3-mini
        (
            r#"{"model_type":"phi3","hidden_size":3072,"intermediate_size":8192,"num_hidden_layers":32,
            "num_attention_heads":32,"num_key_value_heads":32,"vocab_size":32064}"#,
            3_821_079_552.0,
            393_216.0,
        ),
        // Mixtral 8x7B
        (
            r#"{"model_type":"mixtral","hidden_size":4096,"intermediate_size":14336,"num_hidden_layers":32,
            "num_attention_heads":32,"num_key_value_heads":8,"num_local_experts":8,"vocab_size":32000}"#,
            46_702_792_704.0,
            131_072.0,
        ),
        // Qwen2.5-7B
        (
            r#"{"model_type":"qwen2","hidden_size":3584,"intermediate_size":18944,"num_hidden_layers":28,
            "num_attention_heads":28,"num_key_value_heads":4,"vocab_size":152064}"#,
            7_615_616_512.0,
            57_344.0,
        ),
        // Llama 3.2 1B, whose embeddings are tied
        (
            r#"{"model_type":"llama","hidden_size":2048,"intermediate_size":8192,"num_hidden_layers":16,
            "num_attention_heads":32,"num_key_value_heads":8,"head_dim":64,"vocab_size":128256,
            "tie_word_embeddings":true}"#,
            1_235_814_400.0,
            32_768.0,
        ),
    ];

    #[test]
    #[allow(clippy::float_cmp, reason = "whole numbers below 2^53")]
    fn parameters_are_those_that_the_published_weights_have() {
        for (config, parameters, kv_bytes) in PUBLISHED {
            let shape = ModelShape::parse(config).expect("a model");
            assert_eq!(shape.parameters, *parameters, "{config}");
            assert_eq!(shape.kv_per_token.map(|elements| elements * 2.0), Some(*kv_bytes), "{config}");
        }
    }

    #[test]
    fn the_language_model_of_several_parts_is_found_and_hybrids_attend_where_they_say() {
        let inner =
            r#"{"hidden_size":64,"num_hidden_layers":8,"num_attention_heads":4,"vocab_size":100,"head_dim":16}"#;
        let alone = ModelShape::parse(inner).expect("a model");
        assert_eq!(ModelShape::parse(&format!(r#"{{"text_config":{inner},"vision_config":{{}}}}"#)), Ok(alone));
        let hybrid = inner.replace("\"vocab_size\"", "\"hybrid_override_pattern\":\"M-M*M-M*\",\"vocab_size\"");
        let hybrid = ModelShape::parse(&hybrid).expect("a model");
        assert_eq!((alone.kv_per_token, hybrid.kv_per_token), (Some(1024.0), Some(256.0)));
    }

    #[test]
    fn what_is_no_model_is_refused() {
        let refused = |text: &str| ModelShape::parse(text).expect_err(text).to_string();
        assert!(refused("{}").contains("`hidden_size`"));
        assert!(refused("x").contains("not JSON"));
        assert!(refused(r#"{"hidden_size":1e300}"#).contains("`hidden_size`"));
    }

    #[test]
    fn a_number_of_parameters_has_its_unit() {
        assert_eq!(["8B", " 1.5t", "350M"].map(parse_parameters), [Some(8e9), Some(1.5e12), Some(350e6)]);
        assert_eq!(["8", "B", "-1B", "8 GB!"].map(parse_parameters), [None; 4]);
    }
}
