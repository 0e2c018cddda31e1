//! What one run of one policy shows.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use headway::bench::record::{Metric, RequestRecord};
use headway::config::settings::Settings;
use headway::measure::attainment::Attainment;
use headway::measure::objective::{Latency, Verdicts};
use headway::measure::percentile::percentile;
use headway::measure::spread::Spread;
use headway::nim_simulator::TruthLog;
use serde_json::{Value, json};

use crate::plan::{LEAD_IN, Plan};
use crate::running::{Running, cpu_of};
use crate::scene::{BACKENDS, ROUTES};

/// Shares of backends are looked at second by second.
const BUCKET: Duration = Duration::from_secs(1);

/// Beyond this a run is held for disturbed: added to half of the first tokens, and any send's delay.
const MOST_ADDED_MS: f64 = 25.0;
const LATEST_MS: f64 = 250.0;

/// One counted request.
pub(crate) struct Sample {
    pub(crate) route: usize,
    backend: Option<usize>,
    sent: Duration,
    /// Whether it was under way while a backend was slow.
    struck: bool,
    verdicts: Verdicts,
    failed: bool,
    cost: f64,
    lag: Duration,
    pub(crate) ttft_ms: Option<f64>,
    pub(crate) itl_ms: Option<f64>,
    pub(crate) e2e_ms: Option<f64>,
    /// What the client waited for its first token beyond what the simulator says it took.
    pub(crate) added_ms: Option<f64>,
}

/// One run.
pub(crate) struct Run {
    pub(crate) samples: Vec<Sample>,
    counted: Duration,
    pub(crate) cpu: Cpu,
}

/// CPU seconds used so far, and when.
#[derive(Clone, Copy)]
pub(crate) struct Cpu {
    at: Option<Instant>,
    pub(crate) wall: f64,
    pub(crate) proxy: f64,
    /// This process: the load generator and the simulators.
    pub(crate) own: f64,
    /// The whole machine, whoever uses it.
    pub(crate) machine: f64,
}

impl Cpu {
    pub(crate) fn now(proxy: &Running, at: Instant) -> Self {
        let own = cpu_of(std::process::id()).as_secs_f64();
        Self { at: Some(at), wall: 0.0, proxy: proxy.cpu().as_secs_f64(), own, machine: machine_busy() }
    }

    pub(crate) fn since(self, before: &Self) -> Self {
        let wall = self.at.zip(before.at).map_or(0.0, |(now, before)| (now - before).as_secs_f64());
        let (proxy, own) = (self.proxy - before.proxy, self.own - before.own);
        Self { at: None, wall, proxy, own, machine: self.machine - before.machine }
    }

    /// Parts of all the machine's processors.
    pub(crate) fn shares(&self) -> [f64; 3] {
        let cores = std::thread::available_parallelism().map_or(1.0, |cores| cores.get() as f64);
        [self.proxy, self.own, self.machine].map(|seconds| seconds / (self.wall * cores))
    }
}

/// Everything but idling and waiting for disks, in seconds; ticks are hundredths of a second.
fn machine_busy() -> f64 {
    let stat = std::fs::read_to_string("/proc/stat").unwrap_or_default();
    let ticks = stat.lines().next().unwrap_or_default().split_whitespace().skip(1).take(8);
    let ticks: Vec<f64> = ticks.filter_map(|tick| tick.parse().ok()).collect();
    let idle: f64 = ticks.iter().skip(3).take(2).sum();
    (ticks.iter().sum::<f64>() - idle) / 100.0
}

impl Run {
    pub(crate) fn of(
        plan: &Plan,
        records: &[RequestRecord],
        settings: &Settings,
        truth: &[TruthLog],
        cpu: Cpu,
    ) -> Self {
        let truth: HashMap<String, f64> = truth
            .iter()
            .flat_map(TruthLog::records)
            .filter_map(|record| Some((record.x_request_id?, record.ttft_ms?)))
            .collect();
        // By when it was to be sent: so the same requests count for every policy, also those that were sent late.
        let counted = records.iter().filter(|record| plan.counts(record.offset));
        let mut samples: Vec<Sample> = counted.map(|record| sample(plan, record, settings, &truth)).collect();
        samples.sort_by_key(|sample| sample.sent);
        Self { samples, counted: plan.counted, cpu }
    }

    /// Good and judged requests among those that `which` takes, by one latency's promise or by all of them.
    pub(crate) fn attainment(&self, latency: Option<Latency>, which: impl Fn(&Sample) -> bool) -> Attainment {
        let verdict = |sample: &Sample| latency.map_or(sample.verdicts.joint(), |latency| sample.verdicts.of(latency));
        let mut attainment = Attainment::default();
        for good in self.samples.iter().filter(|sample| which(sample)).filter_map(verdict) {
            attainment.good += u64::from(good);
            attainment.total += 1;
        }
        attainment
    }

    pub(crate) fn kept(&self, latency: Option<Latency>, which: impl Fn(&Sample) -> bool) -> f64 {
        self.attainment(latency, which).share().unwrap_or(f64::NAN)
    }

    pub(crate) fn kept_during(&self, incident: bool) -> f64 {
        self.kept(None, |sample| sample.struck == incident)
    }

    fn good(&self) -> f64 {
        self.attainment(None, |_| true).good as f64
    }

    pub(crate) fn good_per_second(&self) -> f64 {
        self.good() / self.counted.as_secs_f64()
    }

    /// What all that was served cost, per thousand good requests.
    pub(crate) fn cost_per_thousand_good(&self) -> f64 {
        self.samples.iter().map(|sample| sample.cost).sum::<f64>() / self.good() * 1e3
    }

    pub(crate) fn failed(&self) -> f64 {
        self.samples.iter().filter(|sample| sample.failed).count() as f64
    }

    /// The share of all requests that a backend answered.
    pub(crate) fn share(&self, backend: usize) -> f64 {
        let there = self.samples.iter().filter(|sample| sample.backend == Some(backend)).count();
        there as f64 / self.samples.len() as f64
    }

    pub(crate) fn latest(&self) -> f64 {
        self.samples.iter().map(|sample| sample.lag).max().unwrap_or_default().as_secs_f64() * 1e3
    }

    /// Whether the machine, and not the rule, was measured: what the path adds is milliseconds else, and nothing is sent
    /// late.
    pub(crate) fn is_disturbed(&self) -> bool {
        self.percentile(50.0, |_| true, |sample| sample.added_ms) > MOST_ADDED_MS || self.latest() > LATEST_MS
    }

    /// A percentile of what requests of a route have, in the order of [`percentiles`].
    pub(crate) fn percentile(
        &self,
        percent: f64,
        which: impl Fn(&Sample) -> bool,
        of: fn(&Sample) -> Option<f64>,
    ) -> f64 {
        let values = self.samples.iter().filter(|sample| which(sample)).filter_map(of);
        percentiles(values.collect(), [percent])[0]
    }

    /// How requests spread over backends in time.
    pub(crate) fn spread(&self, bucket: Duration) -> Spread {
        let sent = |sample: &Sample| sample.sent.saturating_sub(LEAD_IN);
        let choices: Vec<_> = self.samples.iter().filter_map(|sample| Some((sent(sample), sample.backend?))).collect();
        Spread::of(&choices, BACKENDS.len(), bucket)
    }

    /// Dispersion, memory, and the longest run ÷ that of draws.
    pub(crate) fn restlessness(&self) -> [f64; 3] {
        let of = self.spread(BUCKET).restlessness;
        [of.dispersion, of.autocorrelation, of.run_ratio()].map(|figure| figure.unwrap_or(f64::NAN))
    }

    /// Every request, for whoever wants to count again.
    pub(crate) fn json(&self) -> Value {
        let request = |sample: &Sample| {
            json!({
                "route": ROUTES[sample.route].name,
                "backend": sample.backend.map(|backend| BACKENDS[backend].0),
                "sent_s": sample.sent.saturating_sub(LEAD_IN).as_secs_f64(),
                "during_incident": sample.struck,
                "good": sample.verdicts.joint(),
                "failed": sample.failed,
                "cost": sample.cost,
                "ttft_ms": sample.ttft_ms,
                "itl_ms": sample.itl_ms,
                "e2e_ms": sample.e2e_ms,
                "added_ms": sample.added_ms,
            })
        };
        let [proxy, own, machine] = self.cpu.shares();
        json!({
            "cpu": { "proxy": proxy, "load_and_simulators": own, "machine": machine },
            "requests": self.samples.iter().map(request).collect::<Vec<_>>(),
        })
    }
}

fn sample(plan: &Plan, record: &RequestRecord, settings: &Settings, truth: &HashMap<String, f64>) -> Sample {
    let route = ROUTES.iter().position(|route| route.name == record.label).expect("a route");
    let backend = record.backend.as_deref().and_then(|name| BACKENDS.iter().position(|(known, _)| *known == name));
    let objectives = &settings.routes[route].objectives;
    let price = backend.and_then(|backend| settings.backends[backend].price);
    let output = record.usage.output_tokens.unwrap_or(0);
    let ended = record.offset + record.duration;
    let metric = |metric| record.metric(metric).filter(|_| record.is_valid());
    let ttft_ms = metric(Metric::TimeToFirstToken);
    Sample {
        route,
        backend,
        sent: record.offset,
        struck: plan.incident().is_some_and(|(begin, end)| record.offset < end && ended > begin),
        verdicts: record.verdicts(objectives),
        failed: !record.is_valid(),
        cost: price.and_then(|price| price.by_the_token(record.input_tokens(), output)).unwrap_or(0.0),
        lag: record.lag,
        ttft_ms,
        itl_ms: metric(Metric::InterTokenLatency),
        e2e_ms: metric(Metric::RequestLatency),
        added_ms: ttft_ms.zip(truth.get(&record.request_id)).map(|(felt, made)| felt - made),
    }
}

/// Percentiles of a sample in any order.
pub(crate) fn percentiles<const N: usize>(mut values: Vec<f64>, percents: [f64; N]) -> [f64; N] {
    values.sort_by(f64::total_cmp);
    percents.map(|percent| percentile(&values, percent).unwrap_or(f64::NAN))
}
