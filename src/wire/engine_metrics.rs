//! What an engine's Prometheus page says of its load, whichever engine it is.
//!
//! vLLM, SGLang, NIM, TensorRT-LLM (served by itself or by Triton) and llama.cpp spell the same few figures differently,
//! and NIM 2 mixes spellings on one page. A figure is taken from the first spelling that is there; samples of one
//! spelling are added over their labels, since an engine may run in several parts.

use super::exposition::{MOST, Sample};

/// An engine's load.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct EngineLoad {
    /// Requests in its batch.
    pub running: f64,
    /// Requests in its queue.
    pub waiting: f64,
    /// Share of the key/value cache that is in use.
    pub kv_ratio: Option<f64>,
    /// Tokens that the key/value cache holds.
    pub kv_capacity: Option<f64>,
}

/// A figure's spelling: a metric, or the samples of one that carry a label.
type Spelling = (&'static str, Option<(&'static str, &'static str)>);

const RUNNING: &[Spelling] = &[
    ("vllm:num_requests_running", None),
    ("num_requests_running", None),
    ("sglang:num_running_reqs", None),
    ("trtllm_num_requests_running", None),
    ("nv_trt_llm_request_metrics", Some(("request_type", "scheduled"))),
    ("llamacpp:requests_processing", None),
];
const WAITING: &[Spelling] = &[
    ("vllm:num_requests_waiting", None),
    ("num_requests_waiting", None),
    ("sglang:num_queue_reqs", None),
    ("trtllm_num_requests_waiting", None),
    ("nv_trt_llm_request_metrics", Some(("request_type", "waiting"))),
    ("llamacpp:requests_deferred", None),
];
const KV_RATIO: &[Spelling] = &[
    ("vllm:kv_cache_usage_perc", None),
    ("vllm:gpu_cache_usage_perc", None),
    ("gpu_cache_usage_perc", None),
    ("sglang:token_usage", None),
    ("trtllm_kv_cache_utilization", None),
    ("nv_trt_llm_kv_cache_block_metrics", Some(("kv_cache_block_type", "fraction"))),
    ("llamacpp:kv_cache_usage_ratio", None),
];
const TRITON_BLOCKS: &[Spelling] = &[("nv_trt_llm_kv_cache_block_metrics", Some(("kv_cache_block_type", "max")))];
const TRITON_BLOCK_TOKENS: &[Spelling] =
    &[("nv_trt_llm_kv_cache_block_metrics", Some(("kv_cache_block_type", "tokens_per")))];
/// Metrics whose labels say how large the cache is.
const CACHE_INFO: &[&str] = &["vllm:cache_config_info", "sglang:cache_config_info", "cache_config_info"];
/// The label that says it outright, and pairs that say it by their product.
const CACHE_TOKENS: &str = "kv_cache_size_tokens";
const CACHE_PARTS: &[(&str, &str)] = &[("block_size", "num_gpu_blocks"), ("page_size", "num_pages")];

impl EngineLoad {
    /// Reads a page; `None` when it does not say how many requests run. Lines that make no sense are skipped.
    #[must_use]
    pub fn parse(page: &str) -> Option<Self> {
        let (mut running, mut waiting, mut kv_ratio) =
            (Figure::new(RUNNING), Figure::new(WAITING), Figure::new(KV_RATIO));
        let (mut blocks, mut block_tokens) = (Figure::new(TRITON_BLOCKS), Figure::new(TRITON_BLOCK_TOKENS));
        let mut capacity = None;
        for sample in page.lines().filter_map(Sample::parse) {
            for figure in [&mut running, &mut waiting, &mut kv_ratio, &mut blocks, &mut block_tokens] {
                figure.see(&sample);
            }
            if let Some(tokens) = cache_tokens(&sample) {
                capacity = Some(capacity.unwrap_or(0.0) + tokens);
            }
        }
        let triton = || Some(blocks.sum()? * block_tokens.mean()?);
        Some(Self {
            running: running.sum()?,
            waiting: waiting.sum().unwrap_or(0.0),
            kv_ratio: kv_ratio.mean().map(|ratio| ratio.min(1.0)),
            kv_capacity: capacity.or_else(triton).filter(|tokens| (1.0..MOST).contains(tokens)),
        })
    }

    /// Of one engine beside another: the load of both.
    #[must_use]
    pub fn beside(self, other: Self) -> Self {
        let both = |one: Option<f64>, other: Option<f64>| one.zip(other);
        Self {
            running: self.running + other.running,
            waiting: self.waiting + other.waiting,
            kv_ratio: both(self.kv_ratio, other.kv_ratio).map(|(one, other)| f64::midpoint(one, other)),
            kv_capacity: both(self.kv_capacity, other.kv_capacity).map(|(one, other)| one + other),
        }
    }
}

/// What was seen of a figure, by spelling.
struct Figure {
    spellings: &'static [Spelling],
    /// Sum and number of samples.
    seen: Vec<(f64, f64)>,
}

impl Figure {
    fn new(spellings: &'static [Spelling]) -> Self {
        Self { spellings, seen: vec![(0.0, 0.0); spellings.len()] }
    }

    fn see(&mut self, sample: &Sample<'_>) {
        for ((name, label), (sum, samples)) in self.spellings.iter().zip(&mut self.seen) {
            let fits = sample.name == *name && label.is_none_or(|(key, value)| sample.label(key) == Some(value));
            if fits {
                *sum += sample.value;
                *samples += 1.0;
            }
        }
    }

    fn first(&self) -> Option<(f64, f64)> {
        self.seen.iter().copied().find(|(_, samples)| *samples > 0.0)
    }

    fn sum(&self) -> Option<f64> {
        self.first().map(|(sum, _)| sum.min(MOST))
    }

    fn mean(&self) -> Option<f64> {
        self.first().map(|(sum, samples)| sum / samples)
    }
}

/// Tokens in the cache, where a sample's labels say so.
fn cache_tokens(sample: &Sample<'_>) -> Option<f64> {
    if !CACHE_INFO.contains(&sample.name) {
        return None;
    }
    let number = |key: &str| sample.label(key)?.parse::<f64>().ok().filter(|number| (1.0..MOST).contains(number));
    let product = |(one, other): &(&str, &str)| Some(number(one)? * number(other)?);
    number(CACHE_TOKENS).or_else(|| CACHE_PARTS.iter().find_map(product))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[track_caller]
    fn check(page: &str, running: f64, waiting: f64, kv_ratio: Option<f64>, kv_capacity: Option<f64>) {
        assert_eq!(EngineLoad::parse(page), Some(EngineLoad { running, waiting, kv_ratio, kv_capacity }), "{page}");
    }

    #[test]
    fn recorded_pages_are_read() {
        let vllm = include_str!("../../tests/fixtures/recorded/vllm-metrics.txt");
        check(vllm, 2.0, 1.0, Some(0.003_418_803_418_803_406_7), Some(524_288.0));
        let llamacpp = include_str!("../../tests/fixtures/recorded/llamacpp-metrics.txt");
        check(llamacpp, 0.0, 0.0, None, None);
    }

    #[test]
    fn every_engine_is_understood() {
        check(
            "num_request_max{model_name=\"m\"} 2048\nnum_requests_running{model_name=\"m\"} 3\n\
             num_requests_waiting{model_name=\"m\"} 1\ngpu_cache_usage_perc{model_name=\"m\"} 0.25\n",
            3.0,
            1.0,
            Some(0.25),
            None,
        );
        check(
            "sglang:num_running_reqs{model_name=\"m\",tp_rank=\"0\"} 5.0\nsglang:num_queue_reqs{model_name=\"m\"} 2.0\n\
             sglang:token_usage{model_name=\"m\"} 0.5\nsglang:cache_config_info{page_size=\"64\",num_pages=\"1000\"} 1\n",
            5.0,
            2.0,
            Some(0.5),
            Some(64_000.0),
        );
        check(
            "nv_trt_llm_request_metrics{model=\"tensorrt_llm\",request_type=\"waiting\",version=\"1\"} 3\n\
             nv_trt_llm_request_metrics{model=\"tensorrt_llm\",request_type=\"scheduled\",version=\"1\"} 4\n\
             nv_trt_llm_request_metrics{model=\"tensorrt_llm\",request_type=\"max\",version=\"1\"} 512\n\
             nv_trt_llm_kv_cache_block_metrics{kv_cache_block_type=\"fraction\",model=\"tensorrt_llm\"} 0.6\n\
             nv_trt_llm_kv_cache_block_metrics{kv_cache_block_type=\"max\",model=\"tensorrt_llm\"} 6000\n\
             nv_trt_llm_kv_cache_block_metrics{kv_cache_block_type=\"tokens_per\",model=\"tensorrt_llm\"} 64\n",
            4.0,
            3.0,
            Some(0.6),
            Some(384_000.0),
        );
        check("trtllm_num_requests_running 1\ntrtllm_kv_cache_utilization 0.1\n", 1.0, 0.0, Some(0.1), None);
    }

    #[test]
    fn parts_of_an_engine_are_added_and_spellings_are_not() {
        check(
            "vllm:num_requests_running{engine=\"0\"} 2\nvllm:num_requests_running{engine=\"1\"} 3 1700000000000\n\
             num_requests_running 9\nvllm:kv_cache_usage_perc{engine=\"0\"} 0.2\n\
             vllm:kv_cache_usage_perc{engine=\"1\"} 0.4\nvllm:cache_config_info{num_gpu_blocks=\"10\",block_size=\"16\"} 1\n",
            5.0,
            0.0,
            Some(0.300_000_000_000_000_04),
            Some(160.0),
        );
    }

    #[test]
    fn what_makes_no_sense_is_skipped() {
        for page in [
            "",
            "# num_requests_running 3",
            "num_requests_running",
            "num_requests_running{",
            "num_requests_running{a=\"} 3",
            "num_requests_running NaN",
            "num_requests_running -1",
            "num_requests_running +Inf",
            "num_requests_running_total 3",
            "<html>no page</html>",
        ] {
            assert_eq!(EngineLoad::parse(page), None, "{page}");
        }
        check("x{y=\"a\\\"} 7\",z=\"}\"} 1\nnum_requests_running{a=\"}\\\\\",b=\"{\"} 3\n", 3.0, 0.0, None, None);
    }

    proptest! {
        #[test]
        fn any_page_is_read_without_a_panic_and_comes_to_finite_figures(
            lines in proptest::collection::vec(
                "((vllm:)?num_requests_(running|waiting)|vllm:cache_config_info|[a-z:]{0,9})?(\\{[a-z=\"\\\\,}]{0,12}\\}?)?[ 0-9.eE+-]{0,9}é?",
                0..20,
            ),
        ) {
            if let Some(load) = EngineLoad::parse(&lines.join("\n")) {
                prop_assert!(load.running.is_finite() && load.waiting.is_finite());
                prop_assert!(load.kv_capacity.is_none_or(f64::is_finite));
            }
        }
    }
}
