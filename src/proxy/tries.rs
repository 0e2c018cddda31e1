//! The tries of one exchange that are under way: one, or two that race.
//!
//! Each try that was begun is ended here exactly once, whichever way: its backend's guard learns how, and the record gets
//! its line. What is still under way when this is dropped was given up with its task: the client left.

use std::sync::Arc;
use std::time::Instant;

use bytes::Bytes;

use super::Proxy;
use super::answer::Answer;
use super::attempt::{Call, Failure};
use super::exchange::Exchange;
use super::headers::{self, Added};
use super::marks::Marks;
use super::refuse::Refusal;
use super::understand::Understood;
use super::win::Won;
use crate::config::settings::Route;
use crate::fleet::{Dispatched, InFlight};
use crate::measure::course::TryCourse;
use crate::measure::exchange::{Attempt, DecisionSummary};
use crate::measure::group::FellOver;
use crate::measure::outcome::{Blame, Outcome};
use crate::route::snapshot::BackendIndex;
use crate::wire::request::{Edit, splice};

/// The tries under way.
pub(super) struct Tries<'a> {
    pub(super) proxy: &'a Arc<Proxy>,
    pub(super) exchange: &'a mut Exchange,
    pub(super) request: &'a Understood,
    pub(super) route: &'a Route,
    /// At most two.
    running: Vec<Running>,
}

/// One try, apart from its connection.
struct Running {
    index: BackendIndex,
    backend: Arc<str>,
    profile: Option<Arc<str>>,
    summary: DecisionSummary,
    /// Why it is none of the exchange's own group.
    fell_over: Option<FellOver>,
    began: Instant,
    /// Whether it was sent beside another one that was late.
    hedge: bool,
    marks: Arc<Marks>,
    in_flight: InFlight,
}

impl<'a> Tries<'a> {
    pub(super) fn new(
        proxy: &'a Arc<Proxy>,
        exchange: &'a mut Exchange,
        request: &'a Understood,
        route: &'a Route,
    ) -> Self {
        Self { proxy, exchange, request, route, running: Vec::new() }
    }

    /// Begins a try: what there is to send, and when that began.
    pub(super) fn begin(&mut self, dispatched: Dispatched) -> Result<(Call<'a>, Instant), Refusal> {
        let Dispatched { backend, index, endpoint, in_flight, fell_over, summary, model_name, .. } = dispatched;
        let (request, started) = (self.request, self.exchange.started);
        let body = outgoing_body(request, model_name.as_deref());
        let span_id = self.exchange.new_span();
        let added = Added {
            request_id: &self.exchange.request_id(),
            trace: self.exchange.trace_fields(span_id),
            forwarded: &request.forwarded,
        };
        let head = headers::upstream_head(&request.client, backend.settings(), body.len(), &added)
            .map_err(|_| Refusal::internal())?;
        let began = self.proxy.clock.now();
        let url = &backend.settings().url;
        let marks = Arc::new(Marks::new(started, began, span_id, (Arc::clone(&url.host), url.port)));
        let hedge = !self.running.is_empty();
        if !hedge {
            self.exchange.fell_over(fell_over);
        }
        self.exchange.note(|record| {
            if !hedge {
                record.decision = Some(summary.clone());
            }
            if record.attempts.is_empty() && !hedge {
                let before = began.saturating_duration_since(started);
                record.phases.overhead = before.saturating_sub(record.phases.queue);
            }
        });
        in_flight.sent(began);
        let call = Call {
            proxy: self.proxy,
            route: self.route,
            endpoint,
            head,
            body,
            api: request.api,
            stream: request.reading.stream,
            asked_for_usage: request.asked_for_usage,
            started,
            progress: in_flight.progress(),
            marks: Arc::clone(&marks),
        };
        let (name, profile) = (Arc::clone(backend.name()), backend.settings().profile.clone());
        self.running.push(Running {
            index,
            backend: name,
            profile,
            summary,
            fell_over,
            began,
            hedge,
            marks,
            in_flight,
        });
        Ok((call, began))
    }

    /// Ends a try with what came of it. The other one, whose connection must be closed already, has lost when this one
    /// has won.
    pub(super) fn settle(&mut self, index: BackendIndex, result: Result<Box<Answer>, Failure>) -> Result<Won, Failure> {
        let now = self.proxy.clock.now();
        match result {
            Ok(answer) => self.won(index, answer, now),
            Err(failure) => {
                if let Some(try_) = self.take(index) {
                    self.over(try_, failure.outcome, failure.blame, now);
                }
                Err(failure)
            }
        }
    }

    fn won(&mut self, index: BackendIndex, answer: Box<Answer>, now: Instant) -> Result<Won, Failure> {
        let winner = self.take(index).ok_or_else(Failure::lost)?;
        for loser in std::mem::take(&mut self.running) {
            self.lost(loser, now);
        }
        let Running { backend, profile, summary, fell_over, began, hedge, marks, mut in_flight, .. } = winner;
        self.exchange.fell_over(fell_over);
        // What the client gets was decided here, whatever was decided meanwhile.
        self.exchange.note(|record| record.decision = Some(summary));
        if let Some(at) = answer.reading.first_token_at() {
            in_flight.first_token(at);
        }
        in_flight.tokens(answer.reading.tokens(), now);
        let stream = self.request.reading.stream;
        Ok(Won {
            answer,
            in_flight,
            backend,
            profile,
            hedge,
            first_token_deadline: stream.then(|| began + self.route.timeouts.first_token),
            counted: (!self.request.reading.uncounted)
                .then(|| (self.request.model.clone(), self.request.reading.prompt_bytes)),
            course: marks.course(),
        })
    }

    /// It was slower than the other: it is paid for, its lateness is learned, and nothing is held against its backend.
    fn lost(&mut self, loser: Running, now: Instant) {
        // The prompt, and no token.
        let cost = loser.in_flight.cost(None, None, Some(0));
        self.exchange.note(|record| record.cost = sum(record.cost, cost));
        let (in_flight, attempt) = self.told(loser, Outcome::HedgeLost, Blame::Neutral, now);
        if attempt.hedge {
            in_flight.ended(Blame::Neutral, now);
        } else {
            in_flight.outrun(now);
        }
        self.exchange.attempted(Attempt { cost, ..attempt });
    }

    fn over(&mut self, try_: Running, outcome: Outcome, blame: Blame, now: Instant) {
        let (in_flight, attempt) = self.told(try_, outcome, blame, now);
        in_flight.ended(blame, now);
        self.exchange.attempted(attempt);
    }

    fn told(&self, try_: Running, outcome: Outcome, blame: Blame, now: Instant) -> (InFlight, Attempt) {
        let Running { backend, profile, summary, began, hedge, marks, in_flight, .. } = try_;
        let attempt = Attempt {
            backend,
            profile,
            reason: Some(summary.reason),
            decision: Some(summary.number),
            outcome,
            blame,
            duration: now.saturating_duration_since(began),
            first_token: None,
            hedge,
            cost: None,
            course: TryCourse { decision: self.exchange.traced(summary), ..marks.course() },
        };
        (in_flight, attempt)
    }

    fn take(&mut self, index: BackendIndex) -> Option<Running> {
        let place = self.running.iter().position(|one| one.index == index)?;
        Some(self.running.remove(place))
    }
}

impl Drop for Tries<'_> {
    fn drop(&mut self) {
        let now = self.proxy.clock.now();
        for given_up in std::mem::take(&mut self.running) {
            self.over(given_up, Outcome::ClientCancelled, Blame::Neutral, now);
        }
    }
}

/// Both, where both are known.
pub(super) fn sum(one: Option<f64>, other: Option<f64>) -> Option<f64> {
    match (one, other) {
        (Some(one), Some(other)) => Some(one + other),
        (one, other) => one.or(other),
    }
}

/// The client's bytes, with the usage wish and the backend's own name for the model spliced in where needed.
fn outgoing_body(request: &Understood, model_name: Option<&str>) -> Bytes {
    let Some(rename) = model_name.and_then(|name| request.reading.rename(name)) else {
        return request.outgoing.clone();
    };
    let usage = if request.asked_for_usage { request.reading.ask_for_usage() } else { None };
    let edits: Vec<Edit> = usage.into_iter().chain([rename]).collect();
    Bytes::from(splice(&request.body, &edits))
}
