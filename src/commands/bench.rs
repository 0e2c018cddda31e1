//! `headway bench`: a load generator with GenAI-Perf's flags and report.
//!
//! The command lines in GenAI-Perf's documentation work after `headway bench`, also with the word `profile`. What has
//! no meaning here (a tokenizer, stability windows, arguments of the perf analyzer) is accepted and said to be ignored.

use std::fs::File;
use std::io::{self, BufWriter, IsTerminal, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use clap::ValueEnum;
use http::{HeaderMap, HeaderName, HeaderValue};
use serde_json::{Map, Value, json};
use tokio::sync::mpsc;

use super::EXIT_INTERRUPTED;
use crate::bench::client::{Client, ClientOptions, read_certificates};
use crate::bench::drive::{Traffic, drive};
use crate::bench::goodput::Goodput;
use crate::bench::record::{Phase, RequestRecord};
use crate::bench::report::{self, Collector, Report, console};
use crate::bench::request::{RequestBuilder, RequestShape, read_extra};
use crate::bench::schedule::{Lengths, Limit, Load, Schedule};
use crate::bench::target::Target;
use crate::clock::{Clock, SystemClock};
use crate::trace::read_trace;
use crate::wire::Api;

/// Records on their way from the requests to the report.
const RECORDS_UNDER_WAY: usize = 4096;
/// How often the progress line is drawn anew.
const PROGRESS: Duration = Duration::from_millis(200);

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
    fn api(self) -> Api {
        match self {
            Self::Chat => Api::Chat,
            Self::Completions => Api::Completions,
            Self::Responses => Api::Responses,
            Self::Messages => Api::Messages,
            Self::Embeddings => Api::Embeddings,
        }
    }

    fn as_str(self) -> &'static str {
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
    /// The server, with or without `http://`.
    #[arg(long, short, value_name = "URL", default_value = "localhost:8000")]
    pub url: String,
    /// The API to speak.
    #[arg(long, value_enum, default_value = "chat")]
    pub endpoint_type: EndpointType,
    /// The path, where it is not the API's usual one.
    #[arg(long, value_name = "PATH")]
    pub endpoint: Option<String>,
    /// Ask for streamed answers: only these have token latencies.
    #[arg(long)]
    pub streaming: bool,

    /// Requests under way at all times (closed loop) [default: 1].
    #[arg(long, value_name = "N", group = "load", value_parser = clap::value_parser!(u16).range(1..))]
    pub concurrency: Option<u16>,
    /// Requests per second (open loop).
    #[arg(long, value_name = "R", group = "load", value_parser = positive)]
    pub request_rate: Option<f64>,
    /// The gaps of --request-rate.
    #[arg(long, value_enum, default_value = "poisson", value_name = "MODE")]
    pub request_rate_mode: RateMode,
    /// Times and lengths of recorded requests: Azure's CSV or Mooncake's JSON lines.
    #[arg(long, value_name = "FILE", group = "load")]
    pub trace: Option<PathBuf>,
    /// How many times faster than recorded.
    #[arg(long, value_name = "X", default_value = "1", value_parser = positive)]
    pub trace_speed: f64,

    /// Requests to measure.
    #[arg(long, value_name = "N", visible_alias = "num-requests")]
    pub request_count: Option<u64>,
    /// Milliseconds to measure for, where no request count is given.
    #[arg(long, short = 'p', value_name = "MS")]
    pub measurement_interval: Option<u64>,
    /// Requests before the measurement.
    #[arg(long, value_name = "N", default_value = "0", visible_alias = "num-warmup-requests")]
    pub warmup_request_count: u64,

    /// Mean length of prompts, in tokens.
    #[arg(long, value_name = "N", default_value = "550", visible_alias = "isl")]
    pub synthetic_input_tokens_mean: f64,
    /// Standard deviation of the length of prompts.
    #[arg(long, value_name = "N", default_value = "0")]
    pub synthetic_input_tokens_stddev: f64,
    /// Mean length of answers, in tokens; without it the model decides.
    #[arg(long, value_name = "N", visible_alias = "osl")]
    pub output_tokens_mean: Option<f64>,
    /// Standard deviation of the length of answers.
    #[arg(long, value_name = "N", default_value = "0")]
    pub output_tokens_stddev: f64,
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
    /// Ignored: no tokenizer is carried.
    #[arg(long, value_name = "NAME", hide = true)]
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

pub(super) fn positive(text: &str) -> Result<f64, String> {
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

/// Runs the benchmark and prints its report; the exit code is 1 when every request failed.
///
/// # Errors
/// When an argument makes no sense, or a file cannot be read or written.
pub async fn run(args: BenchArgs) -> anyhow::Result<ExitCode> {
    let clock: Arc<dyn Clock> = Arc::new(SystemClock);
    let goodput = args.goodput()?;
    let client = Arc::new(Client::new(args.client_options()?, Arc::clone(&clock))?);
    let traffic = args.traffic(&*clock)?;
    note(&args.ignored())?;
    let mut sink = Sink::create(&args, goodput)?;
    let (records, mut incoming) = mpsc::channel(RECORDS_UNDER_WAY);
    let running = async {
        for one in traffic {
            drive(Arc::clone(&client), one, Arc::clone(&clock), clock.now(), records.clone()).await;
        }
        drop(records);
    };
    let expected = args.request_count();
    let start = clock.now();
    let taking = sink.take_all(&mut incoming, expected, &*clock, start);
    let interrupted = tokio::select! {
        taken = async { tokio::join!(running, taking).1 } => { taken?; false }
        _ = tokio::signal::ctrl_c() => true,
    };
    let report = sink.finish(&args)?;
    print(&args, &report, interrupted)?;
    Ok(match () {
        () if interrupted => ExitCode::from(EXIT_INTERRUPTED),
        () if report.valid() == 0 => ExitCode::FAILURE,
        () => ExitCode::SUCCESS,
    })
}

impl BenchArgs {
    fn goodput(&self) -> anyhow::Result<Option<Goodput>> {
        let bounds = self.goodput.join(" ");
        if bounds.is_empty() { Ok(None) } else { Ok(Some(bounds.parse()?)) }
    }

    fn client_options(&self) -> anyhow::Result<ClientOptions> {
        let target = Target::parse(&self.url, self.endpoint.as_deref(), self.endpoint_type.api())?;
        let extra_roots = self.ca_file.as_deref().map(read_certificates).transpose()?.unwrap_or_default();
        let request_timeout = Duration::try_from_secs_f64(self.request_timeout)?;
        let headers = self.header.iter().cloned().collect();
        Ok(ClientOptions { headers, request_timeout, extra_roots, ..ClientOptions::new(target) })
    }

    /// The warm-up, where there is one, and the measured traffic.
    fn traffic(&self, clock: &dyn Clock) -> anyhow::Result<Vec<Traffic>> {
        let load = self.load()?;
        let unix = clock.wall().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
        let run = format!("bench-{:x}", unix.as_nanos());
        let traffic = |phase: Phase, limit: Limit, load: Load, seed: u64| Traffic {
            schedule: Schedule::new(load, self.input(), self.output(), limit, seed),
            builder: RequestBuilder::new(self.shape(seed)),
            phase,
            label: "",
            headers: HeaderMap::new(),
            id_prefix: format!("{run}-{}", phase.as_str()),
        };
        let mut all = Vec::new();
        if self.warmup_request_count > 0 {
            let limit = Limit { count: Some(self.warmup_request_count), duration: None };
            // Other prompts than the measured ones, so that no prefix is warm that would not be.
            all.push(traffic(Phase::Warmup, limit, load.clone(), !self.random_seed));
        }
        all.push(traffic(Phase::Profiling, self.limit(), load, self.random_seed));
        Ok(all)
    }

    fn load(&self) -> anyhow::Result<Load> {
        if let Some(file) = &self.trace {
            let text = std::fs::read_to_string(file).with_context(|| format!("cannot read {}", file.display()))?;
            let rows = read_trace(&text).with_context(|| format!("{} is no trace", file.display()))?;
            return Ok(Load::Trace { rows: rows.into(), speed: self.trace_speed, repeat: false });
        }
        Ok(match (self.request_rate, self.request_rate_mode) {
            (Some(per_second), RateMode::Poisson) => Load::Poisson { per_second },
            (Some(per_second), RateMode::Constant) => Load::Constant { per_second },
            (None, _) => Load::Closed { concurrency: self.concurrency.unwrap_or(1).into() },
        })
    }

    fn input(&self) -> Lengths {
        Lengths { mean: self.synthetic_input_tokens_mean, stddev: self.synthetic_input_tokens_stddev }
    }

    fn output(&self) -> Option<Lengths> {
        self.output_tokens_mean.map(|mean| Lengths { mean, stddev: self.output_tokens_stddev })
    }

    fn shape(&self, seed: u64) -> RequestShape {
        RequestShape {
            stream: self.streaming,
            exact_length: self.output_tokens_mean_deterministic || self.trace.is_some(),
            extra: self.extra_inputs.iter().flatten().map(|(name, value)| (name.clone(), value.clone())).collect(),
            prompts: self.num_prompts,
            seed,
            ..RequestShape::new(self.endpoint_type.api(), &self.model)
        }
    }

    fn limit(&self) -> Limit {
        let duration = self.measurement_interval.map(Duration::from_millis).filter(|_| self.request_count.is_none());
        Limit { count: self.request_count(), duration }
    }

    /// How many requests are measured; `None` when time or the trace decides.
    #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a positive number of requests")]
    fn request_count(&self) -> Option<u64> {
        if self.request_count.is_some() || self.measurement_interval.is_some() || self.trace.is_some() {
            return self.request_count;
        }
        // GenAI-Perf measures for ten seconds; a closed loop gets at least two rounds.
        let rounds = u64::from(self.concurrency.unwrap_or(1)) * 2;
        Some(self.request_rate.map_or(rounds, |rate| (rate * 10.0) as u64).max(10))
    }

    /// The name of the folder of this run, as GenAI-Perf makes it.
    fn folder(&self) -> PathBuf {
        let load = match (&self.trace, self.request_rate) {
            (Some(_), _) => "trace".to_owned(),
            (None, Some(rate)) => format!("request_rate{rate}"),
            (None, None) => format!("concurrency{}", self.concurrency.unwrap_or(1)),
        };
        let model = self.model.replace(['/', '\\'], "_");
        self.artifact_dir.join(format!("{model}-openai-{}-{load}", self.endpoint_type.as_str()))
    }

    fn input_config(&self) -> Value {
        json!({
            "model_names": [self.model],
            "url": self.url,
            "endpoint_type": self.endpoint_type.as_str(),
            "streaming": self.streaming,
            "concurrency": self.concurrency,
            "request_rate": self.request_rate,
            "trace": self.trace.as_ref().map(|file| file.display().to_string()),
            "trace_speed": self.trace.is_some().then_some(self.trace_speed),
            "request_count": self.request_count,
            "measurement_interval": self.measurement_interval,
            "warmup_request_count": self.warmup_request_count,
            "synthetic_input_tokens_mean": self.synthetic_input_tokens_mean,
            "synthetic_input_tokens_stddev": self.synthetic_input_tokens_stddev,
            "output_tokens_mean": self.output_tokens_mean,
            "output_tokens_stddev": self.output_tokens_stddev,
            "num_prompts": self.num_prompts,
            "random_seed": self.random_seed,
            "goodput": self.goodput,
        })
    }

    /// What was given and has no effect here.
    fn ignored(&self) -> Vec<String> {
        let given = |name: &str, given: bool| given.then(|| name.to_owned());
        let other_kind = self.service_kind.as_deref().is_some_and(|kind| kind != "openai");
        [
            given("--service-kind (only openai is spoken)", other_kind),
            given("--tokenizer (tokens are counted by the server)", self.tokenizer.is_some()),
            given("--tokenizer-revision", self.tokenizer_revision.is_some()),
            given("--tokenizer-trust-remote-code", self.tokenizer_trust_remote_code),
            given("--stability-percentage (one measurement is made)", self.stability_percentage.is_some()),
            given("--backend", self.backend.is_some()),
            given("--generate-plots", self.generate_plots),
            given("what follows --", !self.passthrough.is_empty()),
        ]
        .into_iter()
        .flatten()
        .collect()
    }
}

fn note(ignored: &[String]) -> io::Result<()> {
    let mut out = io::stderr().lock();
    ignored.iter().try_for_each(|one| writeln!(out, "note: ignored: {one}"))
}

/// Where records go: into the collector and, line by line, into a file.
struct Sink {
    collector: Collector,
    lines: BufWriter<File>,
    folder: PathBuf,
}

impl Sink {
    fn create(args: &BenchArgs, goodput: Option<Goodput>) -> anyhow::Result<Self> {
        let folder = args.folder();
        std::fs::create_dir_all(&folder).with_context(|| format!("cannot make {}", folder.display()))?;
        let file = create(&folder.join(args.profile_export_file.with_extension("jsonl")))?;
        Ok(Self { collector: Collector::new(goodput), lines: BufWriter::new(file), folder })
    }

    async fn take_all(
        &mut self,
        incoming: &mut mpsc::Receiver<RequestRecord>,
        expected: Option<u64>,
        clock: &dyn Clock,
        start: Instant,
    ) -> anyhow::Result<()> {
        let mut progress = Progress::new(expected);
        while let Some(record) = incoming.recv().await {
            self.collector.add(&record);
            report::write_json_line(&mut self.lines, &record)?;
            progress.draw(&self.collector, clock.now(), start)?;
        }
        progress.end()
    }

    fn finish(&mut self, args: &BenchArgs) -> anyhow::Result<Report> {
        self.lines.flush()?;
        let report = self.collector.report();
        let name = args.profile_export_file.file_stem().and_then(|name| name.to_str()).unwrap_or("profile_export");
        let export = |extension: &str| self.folder.join(format!("{name}_genai_perf.{extension}"));
        let text = report::json(&report, &args.input_config())?;
        create(&export("json"))?.write_all(text.as_bytes())?;
        create(&export("csv"))?.write_all(report::csv(&report).as_bytes())?;
        Ok(report)
    }
}

fn create(path: &Path) -> anyhow::Result<File> {
    File::create(path).with_context(|| format!("cannot write {}", path.display()))
}

/// The line that says how far it is; only in a terminal.
struct Progress {
    expected: Option<u64>,
    drawn: Option<Instant>,
    terminal: bool,
}

impl Progress {
    fn new(expected: Option<u64>) -> Self {
        Self { expected, drawn: None, terminal: io::stderr().is_terminal() }
    }

    #[allow(clippy::cast_precision_loss, reason = "counts are far below 2^53")]
    fn draw(&mut self, collector: &Collector, now: Instant, start: Instant) -> anyhow::Result<()> {
        if !self.terminal || self.drawn.is_some_and(|drawn| now - drawn < PROGRESS) {
            return Ok(());
        }
        self.drawn = Some(now);
        let (valid, errors) = collector.counts();
        let elapsed = (now - start).as_secs_f64();
        let of = self.expected.map_or(String::new(), |expected| format!("/{expected}"));
        let rate = (valid + errors) as f64 / elapsed.max(0.001);
        let mut out = io::stderr().lock();
        write!(out, "\r\x1b[K{}{of} requests, {errors} errors, {rate:.1} req/s, {elapsed:.0} s", valid + errors)?;
        Ok(out.flush()?)
    }

    fn end(&self) -> anyhow::Result<()> {
        if self.terminal {
            write!(io::stderr().lock(), "\r\x1b[K")?;
        }
        Ok(())
    }
}

fn print(args: &BenchArgs, report: &Report, interrupted: bool) -> anyhow::Result<()> {
    let mut out = io::stdout().lock();
    if interrupted {
        writeln!(out, "interrupted: what is under way is not counted")?;
    }
    if report.valid() == 0 && report.error_count() == 0 {
        bail!("no request was answered");
    }
    write!(out, "{}", console::metrics_table("headway bench | LLM Metrics", report).render())?;
    if report.error_count() > 0 {
        write!(out, "Errors:\n{}", console::error_lines(report))?;
    }
    if let (Some(good), Some(fraction)) = (report.good(), report.good_fraction()) {
        writeln!(out, "Good requests: {good} ({:.1} % of all, failed ones included)", fraction * 100.0)?;
    }
    if report.longest_lag() > Duration::from_millis(50) {
        let lag = report.longest_lag().as_secs_f64() * 1e3;
        writeln!(out, "Requests were sent up to {lag:.0} ms late: this machine is the bottleneck.")?;
    }
    if args.verbose {
        let gaps = report.gaps();
        if let (Some(p50), Some(p99)) =
            (gaps.quantile(crate::units::Quantile::P50), gaps.quantile(crate::units::Quantile::P99))
        {
            let ms = |time: Duration| time.as_secs_f64() * 1e3;
            writeln!(
                out,
                "Gaps between content responses: {}, p50 {:.2} ms, p99 {:.2} ms",
                gaps.count(),
                ms(p50),
                ms(p99)
            )?;
        }
    }
    writeln!(out, "Files: {}", args.folder().display())?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Debug, Parser)]
    struct Command {
        #[command(flatten)]
        args: BenchArgs,
    }

    #[track_caller]
    fn parse(line: &str) -> BenchArgs {
        let words = std::iter::once("bench").chain(line.split_whitespace());
        Command::try_parse_from(words).unwrap_or_else(|error| panic!("{error}")).args
    }

    #[test]
    fn the_documented_command_line_of_genai_perf_is_understood() {
        let args = parse(
            "profile -m meta/llama3-8b-instruct --endpoint-type chat --service-kind openai --streaming -u localhost:8000 \
             --synthetic-input-tokens-mean 200 --synthetic-input-tokens-stddev 0 --concurrency 10 \
             --output-tokens-mean 100 --extra-inputs max_tokens:100 --extra-inputs min_tokens:100 \
             --extra-inputs ignore_eos:true --tokenizer meta-llama/Meta-Llama-3-8B-Instruct --random-seed 123 \
             --num-prompts 100 --measurement-interval 10000 --profile-export-file 200_100.json -- -v --max-threads=256",
        );
        assert_eq!(args.limit().duration, Some(Duration::from_secs(10)));
        assert_eq!(args.shape(0).extra.get("ignore_eos"), Some(&json!(true)));
        assert_eq!(args.folder(), Path::new("artifacts/meta_llama3-8b-instruct-openai-chat-concurrency10"));
        assert_eq!(args.ignored().len(), 2, "{:?}", args.ignored());
    }

    #[test]
    fn loads_exclude_each_other_and_bounds_come_in_one_word_or_many() {
        let words = ["bench", "-m", "m", "--concurrency", "1", "--request-rate", "2"];
        assert!(Command::try_parse_from(words).is_err());
        let words = ["bench", "-m", "m", "-g", "time_to_first_token:300 inter_token_latency:40"];
        let args = Command::try_parse_from(words).expect("bounds").args;
        assert_eq!(args.goodput().expect("bounds").expect("given").bounds().len(), 2);
        let args = parse("-m m --goodput time_to_first_token:300 inter_token_latency:40");
        assert_eq!(args.goodput().expect("bounds").expect("given").bounds().len(), 2);
        assert_eq!(parse("-m m --concurrency 16").request_count(), Some(32));
        assert_eq!(parse("-m m --request-rate 20").request_count(), Some(200));
    }

    #[test]
    fn a_header_keeps_its_secret() {
        let args = parse("-m m -H Authorization:Bearer-x");
        assert!(!format!("{args:?}").contains("Bearer-x"));
    }
}
