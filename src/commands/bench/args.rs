//! The arguments of `headway bench`: GenAI-Perf's flags, AIPerf's short names, and what sweeps and comparisons need.

use std::path::PathBuf;

use clap::ValueEnum;
use http::{HeaderName, HeaderValue};
use serde_json::{Map, Value};

use super::tasks::Task;
use crate::bench::goodput::Goodput;
use crate::bench::request::read_extra;
use crate::wire::Api;

/// The word `profile`, which may come first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Subcommand {
    /// GenAI-Perf's name for a measurement.
    Profile,
}

/// What the server speaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum EndpointType {
    /// `/v1/chat/completions`
    Chat,
    /// `/v1/completions`
    Completions,
    /// `/v1/responses`
    Responses,
    /// `/v1/messages`
    Messages,
    /// `/v1/embeddings`
    Embeddings,
}

impl EndpointType {
    pub(super) fn api(self) -> Api {
        match self {
            Self::Chat => Api::Chat,
            Self::Completions => Api::Completions,
            Self::Responses => Api::Responses,
            Self::Messages => Api::Messages,
            Self::Embeddings => Api::Embeddings,
        }
    }

    pub(super) fn as_str(self) -> &'static str {
        self.api().as_str()
    }
}

/// Arguments of `headway bench`.
#[derive(Debug, Clone, clap::Args)]
#[allow(clippy::struct_excessive_bools, reason = "they are flags")]
pub struct BenchArgs {
    /// `profile`, as GenAI-Perf's command lines have it.
    #[arg(value_enum, hide = true)]
    pub subcommand: Option<Subcommand>,
    /// The model's name.
    #[arg(long, short, value_name = "ID")]
    pub model: String,
    /// The server, with or without `http://`; several are measured in alternation, side by side.
    #[arg(long, short, value_name = "URL", default_value = "localhost:8000", value_delimiter = ',')]
    pub url: Vec<String>,
    /// The GPUs behind each server, for the throughput of one.
    #[arg(long, value_name = "N", value_delimiter = ',', value_parser = clap::value_parser!(u32).range(1..))]
    pub gpus: Vec<u32>,
    /// The API to speak.
    #[arg(long, value_enum, default_value = "chat")]
    pub endpoint_type: EndpointType,
    /// The path, where it is not the API's usual one.
    #[arg(long, value_name = "PATH")]
    pub endpoint: Option<String>,
    /// Ask for streamed answers: only these have token latencies.
    #[arg(long)]
    pub streaming: bool,

    /// Requests under way at all times (closed loop) [default: 1]; several, such as 1,4,16, are measured one by one.
    #[arg(long, value_name = "N", group = "load", value_delimiter = ',', value_parser = clap::value_parser!(u16).range(1..))]
    pub concurrency: Vec<u16>,
    /// Requests per second (open loop); several are measured one by one.
    #[arg(long, value_name = "R", group = "load", value_delimiter = ',', value_parser = positive)]
    pub request_rate: Vec<f64>,
    /// The gaps of --request-rate.
    #[arg(long, value_enum, default_value = "poisson", value_name = "MODE")]
    pub request_rate_mode: RateMode,
    /// Times and lengths of recorded requests: Azure's CSV or Mooncake's JSON lines.
    #[arg(long, value_name = "FILE", group = "load")]
    pub trace: Option<PathBuf>,
    /// How many times faster than recorded.
    #[arg(long, value_name = "X", default_value = "1", value_parser = positive)]
    pub trace_speed: f64,

    /// How often the servers take turns [default: 1, with several servers 3].
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=100))]
    pub rounds: Option<u32>,

    /// Requests to measure, of each server at each load and length.
    #[arg(long, value_name = "N", visible_alias = "num-requests")]
    pub request_count: Option<u64>,
    /// Milliseconds to measure for, where no request count is given.
    #[arg(long, short = 'p', value_name = "MS")]
    pub measurement_interval: Option<u64>,
    /// Requests before the measurement.
    #[arg(long, value_name = "N", default_value = "0", visible_alias = "num-warmup-requests")]
    pub warmup_request_count: u64,

    /// Lengths as they are usual for a task, where no others are given.
    #[arg(long, value_enum, value_name = "TASK")]
    pub task: Option<Task>,
    /// Mean length of prompts, in tokens [default: 550]; several are measured one by one.
    #[arg(long, value_name = "N", visible_alias = "isl", value_delimiter = ',', value_parser = positive)]
    pub synthetic_input_tokens_mean: Vec<f64>,
    /// Standard deviation of the length of prompts [default: 0].
    #[arg(long, value_name = "N")]
    pub synthetic_input_tokens_stddev: Option<f64>,
    /// Mean length of answers, in tokens; without it the model decides. Several are measured one by one.
    #[arg(long, value_name = "N", visible_alias = "osl", value_delimiter = ',', value_parser = positive)]
    pub output_tokens_mean: Vec<f64>,
    /// Standard deviation of the length of answers [default: 0].
    #[arg(long, value_name = "N")]
    pub output_tokens_stddev: Option<f64>,
    /// Do not ask the server first how many tokens prompts have (two requests to each).
    #[arg(long)]
    pub no_prompt_calibration: bool,
    /// Ask for exactly that length (`min_tokens`, `ignore_eos`); a trace always does.
    #[arg(long)]
    pub output_tokens_mean_deterministic: bool,
    /// Different prompts.
    #[arg(long, value_name = "N", default_value = "100", visible_aliases = ["num-dataset-entries"])]
    pub num_prompts: u64,
    /// What lengths, prompts and arrivals are drawn from.
    #[arg(long, value_name = "N", default_value = "0")]
    pub random_seed: u64,
    /// Adds to every body: NAME:VALUE or a JSON object; repeatable.
    #[arg(long, value_name = "INPUT", value_parser = read_extra)]
    pub extra_inputs: Vec<Map<String, Value>>,
    /// A header on every request, `NAME: VALUE`; repeatable.
    #[arg(long, short = 'H', value_name = "HEADER", value_parser = read_header)]
    pub header: Vec<(HeaderName, HeaderValue)>,

    /// Bounds of a good request, in ms or tokens per second, such as `time_to_first_token:300`; in one word or several.
    #[arg(long, short = 'g', value_name = "BOUNDS", num_args = 1..)]
    pub goodput: Vec<String>,
    /// Where the files go.
    #[arg(long, value_name = "DIR", default_value = "artifacts")]
    pub artifact_dir: PathBuf,
    /// The name of the JSON export.
    #[arg(long, value_name = "FILE", default_value = "profile_export.json")]
    pub profile_export_file: PathBuf,
    /// A PEM file of certificates to trust beside the public ones.
    #[arg(long, value_name = "FILE")]
    pub ca_file: Option<PathBuf>,
    /// Seconds a request may take.
    #[arg(long, value_name = "S", default_value = "600", value_parser = positive)]
    pub request_timeout: f64,
    /// Say more.
    #[arg(long, short)]
    pub verbose: bool,

    /// Ignored: only OpenAI's APIs are spoken.
    #[arg(long, value_name = "KIND", hide = true)]
    pub service_kind: Option<String>,
    /// A `tokenizer.json`, or the folder that has one: synthetic prompts have the length that it counts, and the servers are
    /// not asked. A name, as GenAI-Perf takes it, is ignored: nothing is downloaded.
    #[arg(long, value_name = "FILE")]
    pub tokenizer: Option<String>,
    /// Ignored.
    #[arg(long, hide = true)]
    pub tokenizer_revision: Option<String>,
    /// Ignored.
    #[arg(long, hide = true)]
    pub tokenizer_trust_remote_code: bool,
    /// Ignored: one measurement is made.
    #[arg(long, short = 's', value_name = "P", hide = true)]
    pub stability_percentage: Option<f64>,
    /// Ignored.
    #[arg(long, value_name = "NAME", hide = true)]
    pub backend: Option<String>,
    /// Ignored.
    #[arg(long, hide = true)]
    pub generate_plots: bool,
    /// Ignored: arguments of the perf analyzer.
    #[arg(last = true, hide = true)]
    pub passthrough: Vec<String>,
}

/// How the gaps between requests of one rate are.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum RateMode {
    /// All the same.
    Constant,
    /// Those of many independent users.
    Poisson,
}

pub(in crate::commands) fn positive(text: &str) -> Result<f64, String> {
    let value = text.parse::<f64>().ok().filter(|value| value.is_finite() && *value > 0.0);
    value.ok_or_else(|| format!("`{text}` is no number above 0"))
}

fn read_header(text: &str) -> Result<(HeaderName, HeaderValue), String> {
    let wrong = || "a header is written NAME: VALUE".to_owned();
    let (name, value) = text.split_once(':').ok_or_else(wrong)?;
    let mut value = HeaderValue::from_str(value.trim()).map_err(|_| wrong())?;
    value.set_sensitive(true);
    Ok((name.trim().parse().map_err(|_| wrong())?, value))
}

impl BenchArgs {
    pub(super) fn goodput(&self) -> anyhow::Result<Option<Goodput>> {
        let bounds = self.goodput.join(" ");
        if bounds.is_empty() { Ok(None) } else { Ok(Some(bounds.parse()?)) }
    }

    /// The tokenizer's file; `None` where none is given, or a name that GenAI-Perf would download.
    pub(super) fn tokenizer_file(&self) -> Option<PathBuf> {
        let text = self.tokenizer.as_deref()?;
        let path = PathBuf::from(text);
        let named = path.extension().is_some_and(|extension| extension.eq_ignore_ascii_case("json"));
        let meant = named || text.starts_with(['/', '.', '~']) || path.exists();
        meant.then_some(path)
    }

    fn names_a_tokenizer(&self) -> bool {
        self.tokenizer.is_some() && self.tokenizer_file().is_none()
    }

    /// What was given and has no effect here.
    pub(super) fn ignored(&self) -> Vec<String> {
        let given = |name: &str, given: bool| given.then(|| name.to_owned());
        let other_kind = self.service_kind.as_deref().is_some_and(|kind| kind != "openai");
        [
            given("--service-kind (only openai is spoken)", other_kind),
            given("--tokenizer (there is no such file; tokens are counted by the server)", self.names_a_tokenizer()),
            given("--tokenizer-revision", self.tokenizer_revision.is_some()),
            given("--tokenizer-trust-remote-code", self.tokenizer_trust_remote_code),
            given("--stability-percentage (one measurement is made)", self.stability_percentage.is_some()),
            given("--backend", self.backend.is_some()),
            given("--generate-plots (report.html always has them)", self.generate_plots),
            given("what follows --", !self.passthrough.is_empty()),
        ]
        .into_iter()
        .flatten()
        .collect()
    }
}
