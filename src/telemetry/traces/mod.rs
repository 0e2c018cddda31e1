//! Traces over OTLP: each exchange as a tree of spans, made from its record once it is over.
//!
//! The data path pays for names (a trace id, a span id per try) and for handing over the record of a trace that is
//! kept. Everything else, from spans to bytes to the collector's moods, happens on a thread of its own behind a bounded
//! queue (`docs/decisions/0016-spans-from-the-record.md`).

mod attributes;
mod client;
mod exporter;
mod ids;
mod limits;
mod names;
pub mod phases;
mod queue;
mod spans;
#[cfg(test)]
mod tests;
mod worker;

use std::io;
use std::sync::Arc;
use std::time::Duration;

use self::ids::Ids;
pub use self::queue::{DropReason, SpanCounts};
use self::worker::Worker;
use crate::config::otlp::{AlwaysSample, Otlp, Sampler};
use crate::measure::course::{Kept, TraceContext};
use crate::measure::exchange::ExchangeRecord;
use crate::measure::outcome::{Blame, Outcome};
use crate::wire::trace_context::{SpanId, TraceId, TraceParent};

/// Makes traces as one configuration wants them.
#[derive(Debug)]
pub struct Tracer {
    settings: Otlp,
    ids: Ids,
    worker: Worker,
}

impl Tracer {
    /// Starts the thread that talks to the collector; nothing is sent yet, and a collector that is not there is no
    /// error. `counts` outlives reloads.
    ///
    /// # Errors
    /// When a certificate cannot be used, or no thread can be had.
    pub fn start(settings: &Otlp, counts: Arc<SpanCounts>) -> io::Result<Self> {
        let worker = Worker::start(settings, counts)?;
        Ok(Self { settings: settings.clone(), ids: Ids::default(), worker })
    }

    /// Whether it does what `settings` want. Certificates may have changed under their names.
    #[must_use]
    pub fn serves(&self, settings: &Otlp) -> bool {
        let files = settings.tls.ca.is_some() || settings.tls.identity.is_some();
        self.settings == *settings && !files
    }

    /// Whether callers' traces are joined, and backends told of them.
    #[must_use]
    pub fn propagates(&self) -> bool {
        self.settings.propagates
    }

    /// The place of a new exchange: in its caller's trace, or at the root of a new one.
    pub fn begin(&self, caller: Option<TraceParent>, state: impl FnOnce() -> Option<Arc<str>>) -> TraceContext {
        let caller = caller.filter(|_| self.settings.propagates);
        let trace_id = caller.map_or_else(|| self.ids.trace(), |caller| caller.trace_id);
        TraceContext {
            trace_id,
            span_id: self.ids.span(),
            parent: caller.map(|caller| caller.span_id),
            sampled: chooses(self.settings.sampler, trace_id, caller.map(|caller| caller.sampled)),
            kept: None,
            state: caller.and_then(|_| state()),
        }
    }

    /// A name for a span.
    pub fn new_span(&self) -> SpanId {
        self.ids.span()
    }

    /// Whether the trace of an exchange that has ended is exported, and why.
    #[must_use]
    pub fn judge(&self, record: &ExchangeRecord) -> Option<Kept> {
        let AlwaysSample { slo_miss, error } = self.settings.always_sample;
        match record.trace.as_ref()?.sampled {
            true => Some(Kept::Head),
            false if slo_miss && record.verdicts.joint() == Some(false) => Some(Kept::SloMiss),
            false if error && (is_error(record) || record.attempts.iter().any(|one| one.blame == Blame::Fault)) => {
                Some(Kept::Error)
            }
            false => None,
        }
    }

    /// Hands over the record of an exchange whose trace is exported; never waits.
    pub fn record(&self, record: &Arc<ExchangeRecord>) {
        self.worker.push(record);
    }

    /// Has what is queued sent, within `patience`; does not wait for that.
    pub fn start_closing(&self, patience: Duration) {
        self.worker.start_closing(patience);
    }

    /// Waits for [`Self::start_closing`] to have come to its end; whether it has, within `patience`.
    pub fn closed(&self, patience: Duration) -> bool {
        self.worker.ended(patience)
    }
}

/// The decision at the head. A share is taken of the trace ids the way OpenTelemetry's SDKs take it, so that services
/// that make the same share of traces make the same traces.
fn chooses(sampler: Sampler, trace_id: TraceId, parent: Option<bool>) -> bool {
    if let Some(sampled) = parent.filter(|_| sampler.follows_parent) {
        return sampled;
    }
    #[allow(
        clippy::cast_precision_loss,
        clippy::cast_possible_truncation,
        reason = "the lower half, of which a share needs no more than 53 bits"
    )]
    let drawn = (u128::from_be_bytes(trace_id) as u64 >> 1) as f64;
    sampler.ratio >= 1.0 || drawn < sampler.ratio * 9_223_372_036_854_775_808.0
}

/// Whether an exchange ended in an error, as spans understand it: what the client did and what was refused to it are
/// none, <https://opentelemetry.io/docs/specs/semconv/http/http-spans/#status>.
fn is_error(record: &ExchangeRecord) -> bool {
    match record.outcome {
        Outcome::Complete => record.status >= 500,
        Outcome::ClientCancelled
        | Outcome::RejectedRequest
        | Outcome::BackendRejected
        | Outcome::RateLimited
        | Outcome::Shed
        | Outcome::ClientStalled => false,
        Outcome::UpstreamError => record.status != 429,
        _ => true,
    }
}
