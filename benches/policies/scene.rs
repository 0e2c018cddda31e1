//! The fleet, the routes and the traffic: constants with their reasons.

use std::fmt::Write;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use headway::bench::drive::Traffic;
use headway::bench::record::Phase;
use headway::bench::request::{RequestBuilder, RequestShape};
use headway::bench::schedule::{Lengths, Limit, Load, Schedule};
use headway::engine::Profile;
use headway::measure::objective::Latency;
use headway::nim_simulator::DEFAULT_MODEL;
use headway::random::Random;
use headway::trace::{TraceRow, read_trace};
use headway::wire::Api;
use http::{HeaderMap, HeaderName, HeaderValue};

use crate::plan::Plan;

/// The backends, the dearest first: names and profiles. Their speeds and their prices differ fivefold and more.
pub(crate) const BACKENDS: [(&str, &str); 4] =
    [("h100", "h100-latency"), ("a100", "a100"), ("l40s", "l40s"), ("a10g", "a10g")];
/// The one that the incident strikes unless another is named: where a rule that looks at prices has most to lose.
pub(crate) const STRUCK: &str = "a100";
pub(crate) const SLOWNESS: f64 = 3.0;

/// A kind of traffic with its own promises.
pub(crate) struct Route {
    pub(crate) name: &'static str,
    /// Its promises, as the configuration has them.
    slo: &'static str,
    /// Its part of the requests.
    share: f64,
    /// Where its lengths are drawn from.
    trace: &'static str,
    /// Longer prompts are left out.
    longest_prompt: u32,
    /// Answers are so many times shorter than recorded.
    shorter: u32,
}

/// The promises of chat and code are those of the simulated scenarios. A summary is a long prompt with a short answer
/// that nobody watches as it is written; its promise is shorter than the simulator's so that a run can be.
pub(crate) const ROUTES: [Route; 3] = [
    Route {
        name: "chat",
        slo: "ttft: { p95: 300ms }, itl: { p95: 40ms }",
        share: 0.6,
        trace: include_str!("../../examples/traces/azure_conv_excerpt.csv"),
        longest_prompt: u32::MAX,
        shorter: 1,
    },
    Route {
        name: "code",
        slo: "ttft: { p95: 1s }, itl: { p95: 80ms }",
        share: 0.3,
        trace: include_str!("../../examples/traces/azure_code_excerpt.csv"),
        longest_prompt: u32::MAX,
        shorter: 1,
    },
    Route {
        name: "summary",
        slo: "e2e: { p95: 15s }",
        share: 0.1,
        trace: include_str!("../../examples/traces/mooncake_conversation_excerpt.jsonl"),
        longest_prompt: 16_000,
        shorter: 4,
    },
];

impl Route {
    /// Whether there is an objective on that latency.
    pub(crate) fn promises(&self, latency: Latency) -> bool {
        self.slo.split(", ").any(|part| part.starts_with(latency.as_str()))
    }
}

/// What tells the routes apart.
const TIER: &str = "x-tier";

/// A configuration as anyone would write it; two of these differ in the policy alone.
pub(crate) fn configuration(
    plan: &Plan,
    policy: &str,
    (data, admin): (SocketAddr, SocketAddr),
    urls: &[String],
) -> String {
    let mut text = format!(
        "listeners: [{{ address: \"{data}\" }}]\nadmin: {{ address: \"{admin}\" }}\n\
         telemetry: {{ log: {{ level: warn }} }}\nbackends:\n"
    );
    for ((name, profile), url) in BACKENDS.iter().zip(urls) {
        let Profile { name: of, price_input, price_output, max_sequences, .. } =
            Profile::named(profile).expect("a profile");
        let _ = write!(
            text,
            "  - name: {name}\n    url: {url}\n    profile: {of}\n    models: [{DEFAULT_MODEL}]\n    \
             price: {{ input_per_mtok: {price_input}, output_per_mtok: {price_output} }}\n    \
             max_in_flight: {max_sequences}\n    health: {{ path: /v1/health/ready, interval: 1s }}\n"
        );
    }
    text.push_str("routes:\n");
    let names = BACKENDS.map(|(name, _)| name).join(", ");
    for Route { name, slo, .. } in ROUTES {
        let _ = write!(
            text,
            "  - name: {name}\n    match: {{ headers: {{ {TIER}: {name} }} }}\n    backends: [{names}]\n    \
             slo: {{ {slo} }}\n    policy: {policy}\n    on_overload: {}\n    expose: true\n",
            plan.on_overload
        );
    }
    text
}

/// Requests for so long: independent arrivals, lengths drawn from what was recorded. The seed decides all of it.
pub(crate) fn traffic(plan: &Plan, seed: u64, length: Duration, id_prefix: &str) -> Vec<Traffic> {
    let recorded: Vec<Vec<TraceRow>> = ROUTES.iter().map(recorded).collect();
    let mut rows = vec![Vec::new(); ROUTES.len()];
    let (mut random, mut at) = (Random::seeded(seed), Duration::ZERO);
    loop {
        at += Duration::from_secs_f64(random.exponential() / plan.rate);
        if at >= length {
            break;
        }
        let route = route_of(random.share());
        let row = recorded[route][random.below(recorded[route].len())];
        rows[route].push(TraceRow { at, ..row });
    }
    let traffic = |(rows, route): (Vec<TraceRow>, &Route)| of_route(rows, route, seed, id_prefix);
    rows.into_iter().zip(&ROUTES).map(traffic).collect()
}

fn recorded(route: &Route) -> Vec<TraceRow> {
    let rows = read_trace(route.trace).expect("an excerpt").into_iter();
    let rows = rows.filter(|row| row.input_tokens <= route.longest_prompt);
    rows.map(|row| TraceRow { output_tokens: (row.output_tokens / route.shorter).max(1), ..row }).collect()
}

fn route_of(drawn: f64) -> usize {
    let ends = ROUTES.iter().scan(0.0, |end, route| {
        *end += route.share;
        Some(*end)
    });
    ends.take(ROUTES.len() - 1).filter(|end| *end <= drawn).count()
}

fn of_route(rows: Vec<TraceRow>, route: &Route, seed: u64, id_prefix: &str) -> Traffic {
    let load = Load::Trace { rows: Arc::from(rows), speed: 1.0, repeat: false };
    let unused = Lengths { mean: 1.0, stddev: 0.0 };
    let shape = RequestShape { exact_length: true, seed, ..RequestShape::new(Api::Chat, DEFAULT_MODEL) };
    let tier = (HeaderName::from_static(TIER), HeaderValue::from_static(route.name));
    Traffic {
        schedule: Schedule::new(load, unused, None, Limit::default(), seed),
        builder: RequestBuilder::new(shape),
        phase: Phase::Profiling,
        label: route.name,
        headers: HeaderMap::from_iter([tier]),
        id_prefix: format!("{id_prefix}-{}", route.name),
    }
}
