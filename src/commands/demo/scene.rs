//! The demo's fleet, routes and traffic: constants with their reasons.

use std::fmt::Write;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use http::{HeaderMap, HeaderValue};

use crate::bench::drive::Traffic;
use crate::bench::record::Phase;
use crate::bench::request::{RequestBuilder, RequestShape};
use crate::bench::schedule::{Lengths, Limit, Load, Schedule};
use crate::engine::Profile;
use crate::nim_simulator::DEFAULT_MODEL;
use crate::trace::{TraceError, TraceRow, read_trace};
use crate::wire::Api;

/// The arrivals of the demo: the first 500 requests of Azure's public conversation trace.
const EXCERPT: &str = include_str!("../../../examples/traces/azure_conv_excerpt.csv");

/// The simulated fleet, the dearest first: names in the configuration and profiles.
pub(super) const BACKENDS: [(&str, &str); 3] =
    [("h100-latency", "h100-latency"), ("a100", "a100"), ("l40s-cheap", "l40s")];
/// The backend that the incident strikes: the cheapest, where most chat goes.
pub(super) const STRUCK: usize = 2;
/// How many times slower it becomes.
pub(super) const SLOWNESS: f64 = 3.0;

/// The routes, in the order of the reports.
pub(super) const ROUTES: [&str; 2] = ["chat", "batch"];

/// The trace runs five times as fast, prompts are an eighth and answers a quarter as long, so that a minute shows more
/// than a thousand requests from beginning to end and one cheap backend can carry them.
const SPEED: f64 = 5.0;
const PROMPT: u32 = 8;
const ANSWER: u32 = 4;
/// No answer is shorter: over three tokens, one prompt that is read meanwhile would double the inter-token latency.
const SHORTEST_ANSWER: u32 = 16;
/// One request in so many is a summary: a longer prompt, a shorter answer, and nobody who waits for it.
const BATCH_EVERY: usize = 6;
const BATCH_PROMPT: u32 = 4;
const BATCH_ANSWER: u32 = 8;
/// The excerpt begins in a quiet half minute, which a short run would spend learning nothing.
const QUIET: Duration = Duration::from_secs(30);

/// The incident's turn in each cycle: the third quarter.
#[derive(Debug, Clone, Copy)]
pub(super) struct Plan {
    /// How long requests are sent; `None` until interrupted.
    pub(super) duration: Option<Duration>,
    cycle: Duration,
}

/// A part of the demo.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Act {
    /// Before the incident.
    Before,
    /// While a backend is slow.
    Incident,
    /// After it.
    After,
}

impl Act {
    pub(super) const ALL: [Self; 3] = [Self::Before, Self::Incident, Self::After];
}

impl Plan {
    pub(super) fn new(duration: Duration) -> Self {
        let duration = (!duration.is_zero()).then_some(duration);
        Self { duration, cycle: duration.unwrap_or(Duration::from_secs(60)) }
    }

    /// The act at a time since the start.
    pub(super) fn act(&self, at: Duration) -> Act {
        let cycles = at.as_secs_f64() / self.cycle.as_secs_f64();
        match cycles.fract() {
            _ if self.duration.is_some() && cycles >= 1.0 => Act::After,
            part if part < 0.5 => Act::Before,
            part if part < 0.75 => Act::Incident,
            _ => Act::After,
        }
    }

    /// The act whose weather a request felt: one sent before the incident and still running in it felt the incident.
    pub(super) fn felt(&self, sent: Duration, ended: Duration) -> Act {
        match (self.act(sent), self.act(ended)) {
            (Act::Before, Act::Incident | Act::After) => Act::Incident,
            (act, _) => act,
        }
    }

    /// When the first incident begins and ends.
    pub(super) fn incident(&self) -> (Duration, Duration) {
        (self.cycle / 2, self.cycle * 3 / 4)
    }

    /// The time from `at` to the next change of act.
    pub(super) fn until_change(&self, at: Duration) -> Duration {
        let within = Duration::from_secs_f64(at.as_secs_f64() % self.cycle.as_secs_f64());
        let marks = [self.cycle / 2, self.cycle * 3 / 4, self.cycle];
        marks.into_iter().find(|mark| *mark > within).unwrap_or(self.cycle).saturating_sub(within)
    }
}

/// The configuration that the proxy of the demo runs, as anyone would write it.
pub(super) fn configuration(
    listen: SocketAddr,
    admin: SocketAddr,
    backends: &[(Profile, String)],
    fake_gpu: bool,
) -> String {
    let mut text = format!(
        "listeners: [{{ address: \"{listen}\" }}]\nadmin: {{ address: \"{admin}\" }}\n\
         telemetry: {{ log: {{ level: warn }} }}\nbackends:\n"
    );
    for (place, ((name, _), (profile, url))) in BACKENDS.iter().zip(backends).enumerate() {
        let Profile { name: of, price_input, price_output, max_sequences, .. } = profile;
        let _ = write!(
            text,
            "  - name: {name}\n    url: {url}\n    profile: {of}\n    models: [{DEFAULT_MODEL}]\n    \
             price: {{ input_per_mtok: {price_input}, output_per_mtok: {price_output} }}\n    \
             max_in_flight: {max_sequences}\n    health: {{ path: /v1/health/ready, interval: 1s }}\n"
        );
        if fake_gpu {
            let _ = writeln!(text, "    gpus: [{place}]\n    metrics: {{ path: /v1/metrics, interval: 1s }}");
        }
    }
    let names = BACKENDS.map(|(name, _)| name);
    // Nobody waits for a summary, so the dearest GPU is not for it.
    let (names, cheaper) = (names.join(", "), names.get(1..).unwrap_or_default().join(", "));
    let _ = write!(
        text,
        "routes:\n  - name: batch\n    match: {{ headers: {{ x-tier: batch }} }}\n    backends: [{cheaper}]\n    \
         slo: {{ e2e: {{ p95: 8s }} }}\n    policy: cheapest_within_slo\n    expose: true\n  \
         - name: chat\n    backends: [{names}]\n    slo: {{ ttft: {{ p95: 200ms }}, itl: {{ p95: 60ms }} }}\n    \
         policy: cheapest_within_slo\n    expose: true\n"
    );
    text
}

/// Chat and batch, in the order of [`ROUTES`].
pub(super) fn traffic(rows: &[TraceRow], plan: &Plan) -> [Traffic; 2] {
    let is_batch = |place: usize| place % BATCH_EVERY == BATCH_EVERY - 1;
    let kind = |batch: bool| -> Arc<[TraceRow]> {
        let chosen = rows.iter().enumerate().filter(|(place, _)| is_batch(*place) == batch);
        chosen.map(|(_, row)| scaled(row, batch)).collect()
    };
    let traffic = |place: usize, batch: bool, headers: HeaderMap| {
        let label = ROUTES.get(place).copied().unwrap_or_default();
        let load = Load::Trace { rows: kind(batch), speed: SPEED, repeat: true };
        let lengths = Lengths { mean: 1.0, stddev: 0.0 };
        let limit = Limit { count: None, duration: plan.duration };
        let shape =
            RequestShape { exact_length: true, seed: u64::from(batch), ..RequestShape::new(Api::Chat, DEFAULT_MODEL) };
        Traffic {
            schedule: Schedule::new(load, lengths, None, limit, 1),
            builder: RequestBuilder::new(shape),
            phase: Phase::Profiling,
            label,
            headers,
            id_prefix: format!("demo-{label}"),
        }
    };
    let tier = HeaderMap::from_iter([(http::HeaderName::from_static("x-tier"), HeaderValue::from_static("batch"))]);
    [traffic(0, false, HeaderMap::new()), traffic(1, true, tier)]
}

/// The built-in arrivals.
pub(super) fn excerpt() -> Result<Vec<TraceRow>, TraceError> {
    let rows = read_trace(EXCERPT)?;
    let busy = rows.into_iter().filter(|row| row.at >= QUIET);
    Ok(busy.map(|row| TraceRow { at: row.at.saturating_sub(QUIET), ..row }).collect())
}

fn scaled(row: &TraceRow, batch: bool) -> TraceRow {
    let (prompt, answer) = if batch { (BATCH_PROMPT, BATCH_ANSWER) } else { (PROMPT, ANSWER) };
    TraceRow {
        at: row.at,
        input_tokens: (row.input_tokens / prompt).max(1),
        output_tokens: (row.output_tokens / answer).max(SHORTEST_ANSWER),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config;

    #[test]
    fn the_configuration_is_one_that_headway_takes() {
        let address = |port| SocketAddr::from(([127, 0, 0, 1], port));
        let backends =
            BACKENDS.map(|(_, profile)| (Profile::named(profile).expect("known"), "http://127.0.0.1:1".into()));
        for fake_gpu in [false, true] {
            let text = configuration(address(0), address(0), &backends, fake_gpu);
            let loaded = config::parse("demo.yaml", &text, &config::NoEnvironment)
                .unwrap_or_else(|report| panic!("{report}\n{text}"));
            assert_eq!(loaded.settings.routes.len(), 2);
            assert!(loaded.warnings.is_empty(), "{:?}", loaded.warnings);
            assert!(loaded.settings.backends.iter().all(|backend| backend.gpus.is_empty() != fake_gpu));
        }
    }

    #[test]
    fn the_excerpt_is_five_hundred_requests_and_makes_both_kinds_of_traffic() {
        let rows = read_trace(EXCERPT).expect("a trace");
        assert_eq!(rows.len(), 500);
        let rows = excerpt().expect("a trace");
        let [chat, batch] = traffic(&rows, &Plan::new(Duration::from_secs(30)));
        let (chat, batch) = (chat.schedule.count(), batch.schedule.count());
        assert!(chat > 400 && batch > 60 && chat > 4 * batch, "{chat} {batch}");
    }

    #[track_caller]
    fn check(plan: Plan, at: u64, act: Act, until_change: u64) {
        let at = Duration::from_secs(at);
        assert_eq!((plan.act(at), plan.until_change(at).as_secs()), (act, until_change), "{at:?}");
    }

    #[test]
    fn the_incident_is_the_third_quarter() {
        let minute = Plan::new(Duration::from_secs(60));
        check(minute, 0, Act::Before, 30);
        check(minute, 30, Act::Incident, 15);
        check(minute, 45, Act::After, 15);
        check(minute, 60, Act::After, 30);
        let felt = |sent, ended| minute.felt(Duration::from_secs(sent), Duration::from_secs(ended));
        assert_eq!((felt(1, 29), felt(29, 31), felt(44, 46)), (Act::Before, Act::Incident, Act::Incident));
        let endless = Plan::new(Duration::ZERO);
        check(endless, 95, Act::Incident, 10);
    }
}
