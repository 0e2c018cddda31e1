//! The one record that leaves an exchange, written once, at its end, for everyone who wants to know.
//!
//! Metrics, access log, rolling windows and the API are each a function of `&ExchangeRecord`; none of them looks at
//! an exchange while it runs.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use super::course::{Course, TraceContext, TryCourse};
use super::gaps::GapHistogram;
use super::group::Assignment;
use super::objective::{Latency, Verdicts};
use super::outcome::{Blame, Outcome, ShedReason};
use crate::wire::trace_context::TraceId;
use crate::wire::{Api, EngineTimings, FinishReason, Usage};

/// One client request and all that became of it.
#[derive(Debug, Clone)]
pub struct ExchangeRecord {
    /// Wall-clock time at which the request was complete.
    pub started: SystemTime,
    /// The client's `x-request-id`, or ours.
    pub request_id: Arc<str>,
    /// The W3C trace id: of the client's `traceparent`, or one of our own where traces are made.
    pub trace_id: Option<TraceId>,
    /// Its place in that trace, where traces are made.
    pub trace: Option<TraceContext>,
    /// Who asked, by the name of its key; `None` where callers need none, or it was not theirs.
    pub key: Option<Arc<str>>,
    /// The route that matched; `None` is shown as `unmatched`.
    pub route: Option<Arc<str>>,
    /// The group of backends that it was assigned to, on a route that splits its requests.
    pub group: Option<Assignment>,
    /// The API that was spoken; `None` when the path is none of them.
    pub api: Option<Api>,
    /// The model, when it is one of the configuration's or of a backend's list; else shown as `other`.
    pub model: Option<Arc<str>>,
    /// The tries, in order; the last one answered, if any did. At most as many as `retry.attempts` allows, plus the
    /// fresh connections that replaced stale ones.
    pub attempts: Vec<Attempt>,
    /// The status sent to the client; 0 when none was sent.
    pub status: u16,
    /// How it ended.
    pub outcome: Outcome,
    /// Whether a streamed answer was asked for.
    pub stream: bool,
    /// `n` of the request; above 1 an exchange is kept out of ITL and of objectives.
    pub choices: u32,
    /// The latencies the client felt, from the request being complete.
    pub latencies: Latencies,
    /// Every gap between consecutive content responses; `None` when there was none.
    pub gaps: Option<Box<GapHistogram>>,
    /// Tokens, as the backend's `usage` states them.
    pub usage: Usage,
    /// The engine's own times, where it states them.
    pub engine: Option<EngineTimings>,
    /// Why the model stopped, of choice 0.
    pub finish_reason: Option<FinishReason>,
    /// Where the time went.
    pub phases: Phases,
    /// How it went on.
    pub course: Course,
    /// Bytes of the request body.
    pub bytes_in: u64,
    /// Bytes of the response body sent to the client.
    pub bytes_out: u64,
    /// Why the (last) backend was chosen.
    pub decision: Option<DecisionSummary>,
    /// What all tries cost, in the configuration's currency; `None` without a price, or without an answer.
    pub cost: Option<f64>,
    /// Why the exchange was refused for its load.
    pub shed: Option<ShedReason>,
    /// How each objective of the route judges this exchange.
    pub verdicts: Verdicts,
}

/// One try on one backend.
#[derive(Debug, Clone)]
pub struct Attempt {
    /// The backend's name in the configuration.
    pub backend: Arc<str>,
    /// Its profile, where the configuration names one.
    pub profile: Option<Arc<str>>,
    /// Why this backend was chosen; one of a closed set.
    pub reason: Option<&'static str>,
    /// The number of the decision, as the list of decisions shows it.
    pub decision: Option<u64>,
    /// How the try ended.
    pub outcome: Outcome,
    /// What the end says about the backend.
    pub blame: Blame,
    /// From connecting to the try's end.
    pub duration: Duration,
    /// From connecting to the first token: the backend's own time to first token.
    pub first_token: Option<Duration>,
    /// Whether it was sent beside another one that was late.
    pub hedge: bool,
    /// What it cost, in the configuration's currency; `None` without a price, or where nothing can be said.
    pub cost: Option<f64>,
    /// How it went on.
    pub course: TryCourse,
}

/// The client's view of one answer, each from the request being complete (measurement reference, section 2).
///
/// A latency is absent when it is not defined: no token, one token (ITL), not streamed (all but end to end).
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Latencies {
    /// To the first body byte of the response.
    pub first_byte: Option<Duration>,
    /// To the first content response: TTFT.
    pub first_token: Option<Duration>,
    /// To the first content response that is not reasoning: TTFO.
    pub first_output: Option<Duration>,
    /// From the first to the second content response: TTST.
    pub second_token: Option<Duration>,
    /// (end to end − TTFT) ÷ (output tokens − 1): ITL.
    pub inter_token: Option<Duration>,
    /// To the last content response, or to the end of an answer that was not streamed.
    pub end_to_end: Option<Duration>,
    /// The longest gap between content responses.
    pub longest_stall: Option<Duration>,
}

/// Where an exchange's time went.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Phases {
    /// From the request's head to its last body byte: the client's own pace.
    pub upload: Duration,
    /// Waiting for a place.
    pub queue: Duration,
    /// Getting a connection to the backend that answered, TLS included.
    pub connect: Duration,
    /// From the request being sent to the backend to the first byte of its answer's head.
    pub backend_wait: Duration,
    /// Writes to the client pending while the backend had more to say: the client's own pace.
    pub backpressure: Duration,
    /// What headway itself added before the request left for the backend; the two below are part of it.
    pub overhead: Duration,
    /// Naming the blocks of the prompt.
    pub hash: Duration,
    /// Choosing the backend.
    pub decide: Duration,
    /// From the read that held the first token to the client's connection having taken it; `None` where the client's
    /// pace had a part in it, or nothing was streamed.
    pub relay_first: Option<Duration>,
    /// The same of later tokens: the mean of one write in sixteen.
    pub relay: Option<Duration>,
    /// Whether the client's pace disturbed the gaps, so that they are not learned from.
    pub backpressured: bool,
    /// Whether tokens were held back on their way and came in bursts, so that no latency is learned from.
    pub held_back: bool,
}

/// Why a backend was chosen, as the log shows it.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct DecisionSummary {
    /// Counts all decisions of the process.
    pub number: u64,
    /// The reason's name, or why the request was sent nowhere; one of a closed set.
    pub reason: &'static str,
    /// Whether the backend was expected to keep the objectives: such a request moves its route's margin.
    pub feasible: bool,
    /// Expected time to first token, if the policy had one.
    pub predicted_ttft: Option<Duration>,
    /// The bound the policy compared with the objective.
    pub bound_ttft: Option<Duration>,
    /// Expected inter-token latency, if the policy had one.
    pub predicted_itl: Option<Duration>,
    /// The bound the policy compared with the objective.
    pub bound_itl: Option<Duration>,
    /// Expected end-to-end time, if the policy had one.
    pub predicted_e2e: Option<Duration>,
    /// The bound the policy compared with the objective.
    pub bound_e2e: Option<Duration>,
    /// Price the policy reckoned with, in the configuration's currency.
    pub price: Option<f64>,
    /// Estimated prompt tokens that the backend's prefix cache held.
    pub prefix_tokens: f64,
    /// How many backends the policy had to choose from.
    pub candidates: usize,
    /// How busy the backend was.
    pub load: BackendLoad,
}

/// How busy a backend was when a request was sent there, by what its engine and its GPUs had last said of themselves:
/// to tell a slow route from a busy backend. What is not known, or too old to be believed, is absent.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct BackendLoad {
    /// Share of time in which its GPUs were at work, over all of them.
    pub gpu_utilization: Option<f64>,
    /// Share of the engine's key/value cache in use.
    pub kv_cache_ratio: Option<f64>,
    /// Requests in the engine's batch, whoever sent them.
    pub running: Option<f64>,
    /// Requests in the engine's queue, whoever sent them.
    pub waiting: Option<f64>,
}

impl BackendLoad {
    /// Whether nothing is known.
    #[must_use]
    pub fn is_unknown(&self) -> bool {
        *self == Self::default()
    }
}

impl DecisionSummary {
    /// The bound of a latency that was predicted and later measured.
    #[must_use]
    pub fn bound(&self, latency: Latency) -> Option<Duration> {
        match latency {
            Latency::TimeToFirstToken => self.bound_ttft,
            Latency::InterToken => self.bound_itl,
            Latency::EndToEnd => self.bound_e2e,
            Latency::TimeToFirstOutputToken | Latency::InterChunk => None,
        }
    }
}

impl ExchangeRecord {
    /// The attempt that ended the exchange, if a backend was reached for at all.
    #[must_use]
    pub fn last_attempt(&self) -> Option<&Attempt> {
        self.attempts.last()
    }

    /// The trace to look at for more: where traces are made, only one that is exported leads anywhere; elsewhere the
    /// caller's, if it has one.
    #[must_use]
    pub fn shown_trace(&self) -> Option<TraceId> {
        if self.trace.is_some() { self.exported_trace() } else { self.trace_id }
    }

    /// The trace, if it is exported.
    #[must_use]
    pub fn exported_trace(&self) -> Option<TraceId> {
        self.trace.as_ref().filter(|trace| trace.kept.is_some()).map(|trace| trace.trace_id)
    }

    /// The name of the backend that ended the exchange.
    #[must_use]
    pub fn backend(&self) -> Option<&Arc<str>> {
        self.attempts.last().map(|attempt| &attempt.backend)
    }

    /// What the backend that answered really took, each from where the prediction of it started: the try's beginning.
    #[must_use]
    pub fn taken(&self, latency: Latency) -> Option<Duration> {
        let last = self.last_attempt().filter(|_| self.measured() && !self.phases.held_back)?;
        let streamed = |value: Option<Duration>| value.filter(|_| self.stream && !self.phases.backpressured);
        match latency {
            Latency::TimeToFirstToken => last.first_token.filter(|_| self.stream),
            Latency::InterToken => streamed(self.latencies.inter_token),
            Latency::EndToEnd => Some(last.duration).filter(|_| !self.phases.backpressured),
            Latency::TimeToFirstOutputToken | Latency::InterChunk => None,
        }
    }

    /// Of a request of which nothing is known yet; what is never found out about it is our own fault.
    #[must_use]
    pub fn begun(started: SystemTime, request_id: Arc<str>) -> Self {
        Self {
            started,
            request_id,
            trace_id: None,
            trace: None,
            key: None,
            route: None,
            group: None,
            api: None,
            model: None,
            attempts: Vec::new(),
            status: 0,
            outcome: Outcome::InternalError,
            stream: false,
            choices: 1,
            latencies: Latencies::default(),
            gaps: None,
            usage: Usage::default(),
            engine: None,
            finish_reason: None,
            phases: Phases::default(),
            course: Course::default(),
            bytes_in: 0,
            bytes_out: 0,
            decision: None,
            cost: None,
            shed: None,
            verdicts: Verdicts::default(),
        }
    }

    /// Whether the latencies of this exchange belong in distributions: complete, one choice, of an API that is
    /// understood; what another path's answer takes says nothing about a model.
    #[must_use]
    pub fn measured(&self) -> bool {
        self.outcome == Outcome::Complete && self.choices <= 1 && self.api.is_some()
    }
}

#[cfg(test)]
mod tests {
    use super::super::course::Kept;
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);
    const OURS: TraceId = [1; 16];
    const CALLERS: TraceId = [2; 16];

    /// A streamed answer, whole after three seconds of its second try; its first token came after one.
    fn answered() -> ExchangeRecord {
        ExchangeRecord {
            trace_id: Some(CALLERS),
            api: Some(Api::Chat),
            attempts: vec![attempt("first", Outcome::ConnectFailed), attempt("second", Outcome::Complete)],
            status: 200,
            outcome: Outcome::Complete,
            stream: true,
            latencies: Latencies { inter_token: Some(SECOND / 50), ..Latencies::default() },
            ..ExchangeRecord::begun(SystemTime::UNIX_EPOCH, "id".into())
        }
    }

    fn attempt(backend: &str, outcome: Outcome) -> Attempt {
        Attempt {
            backend: backend.into(),
            profile: None,
            reason: None,
            decision: None,
            outcome,
            blame: outcome.blame(),
            duration: SECOND * 3,
            first_token: Some(SECOND),
            hedge: false,
            cost: None,
            course: TryCourse::default(),
        }
    }

    fn traced(kept: Option<Kept>) -> ExchangeRecord {
        let trace = TraceContext { trace_id: OURS, span_id: [3; 8], parent: None, sampled: false, kept, state: None };
        ExchangeRecord { trace: Some(trace), ..answered() }
    }

    #[test]
    fn only_a_trace_that_leads_somewhere_is_shown() {
        let shown = |record: ExchangeRecord| (record.shown_trace(), record.exported_trace());
        assert_eq!(shown(answered()), (Some(CALLERS), None), "no traces are made: the caller's own");
        assert_eq!(shown(traced(None)), (None, None), "not exported");
        assert_eq!(shown(traced(Some(Kept::Error))), (Some(OURS), Some(OURS)));
    }

    #[test]
    fn the_last_try_answered() {
        assert_eq!(answered().backend().map(|name| &**name), Some("second"));
        let nobody = ExchangeRecord { attempts: Vec::new(), ..answered() };
        assert!(nobody.backend().is_none() && nobody.last_attempt().is_none());
    }

    /// TTFT, ITL and end-to-end time as they are held against what was predicted.
    #[track_caller]
    fn taken(record: &ExchangeRecord, expected: [Option<Duration>; 3]) {
        assert_eq!(Latency::PROMISED.map(|latency| record.taken(latency)), expected);
        assert_eq!((record.taken(Latency::InterChunk), record.taken(Latency::TimeToFirstOutputToken)), (None, None));
    }

    #[test]
    fn a_prediction_is_held_only_against_what_the_backend_itself_took() {
        let (first, gap, whole) = (Some(SECOND), Some(SECOND / 50), Some(SECOND * 3));
        taken(&answered(), [first, gap, whole]);
        taken(&ExchangeRecord { stream: false, ..answered() }, [None, None, whole]);
        let slow_client = Phases { backpressured: true, ..Phases::default() };
        taken(&ExchangeRecord { phases: slow_client, ..answered() }, [first, None, None]);
        let in_bursts = Phases { held_back: true, ..Phases::default() };
        taken(&ExchangeRecord { phases: in_bursts, ..answered() }, [None; 3]);
        for unmeasured in [
            ExchangeRecord { outcome: Outcome::Truncated, ..answered() },
            ExchangeRecord { choices: 2, ..answered() },
            ExchangeRecord { api: None, ..answered() },
            ExchangeRecord { attempts: Vec::new(), ..answered() },
        ] {
            taken(&unmeasured, [None; 3]);
        }
    }

    #[test]
    fn each_bound_is_that_of_its_latency() {
        let [ttft, itl, e2e] = [1, 2, 3].map(|seconds| Some(SECOND * seconds));
        let summary =
            DecisionSummary { bound_ttft: ttft, bound_itl: itl, bound_e2e: e2e, ..DecisionSummary::default() };
        assert_eq!(Latency::PROMISED.map(|latency| summary.bound(latency)), [ttft, itl, e2e]);
        assert_eq!((summary.bound(Latency::InterChunk), summary.bound(Latency::TimeToFirstOutputToken)), (None, None));
    }

    #[test]
    fn a_load_of_which_anything_is_known_is_not_unknown() {
        assert!(BackendLoad::default().is_unknown());
        assert!(!BackendLoad { waiting: Some(0.0), ..BackendLoad::default() }.is_unknown());
    }
}
