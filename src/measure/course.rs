//! How an exchange and its tries went on, instant by instant: what a trace shows beyond latencies and sums.
//!
//! All offsets count from the request being complete, so one wall-clock time places them all.

use std::sync::Arc;
use std::time::Duration;

use super::exchange::DecisionSummary;
use super::objective::Objectives;
use crate::wire::trace_context::{SpanId, TraceId};

/// An exchange's place in a distributed trace.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TraceContext {
    /// The trace: the caller's, or a new one.
    pub trace_id: TraceId,
    /// The exchange's own span.
    pub span_id: SpanId,
    /// The caller's span, when it sent a valid `traceparent`.
    pub parent: Option<SpanId>,
    /// The decision at the head, which backends are told.
    pub sampled: bool,
    /// Why the trace is exported; `None` when it is not.
    pub kept: Option<Kept>,
    /// The caller's `tracestate`, as it came.
    pub state: Option<Arc<str>>,
}

/// Why a trace is exported.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kept {
    /// It was chosen at its head.
    Head,
    /// An objective was missed.
    SloMiss,
    /// It, or a try of it, ended in an error.
    Error,
}

impl Kept {
    /// The name in spans.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Head => "head",
            Self::SloMiss => "slo_miss",
            Self::Error => "error",
        }
    }
}

/// How an exchange went on.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Course {
    /// The request's method; `_OTHER` when it is none of the usual ones.
    pub method: &'static str,
    /// Whether the client came over TLS.
    pub https: bool,
    /// Whether the client speaks HTTP/2.
    pub http2: bool,
    /// Most tokens that the client wants.
    pub max_tokens: Option<u64>,
    /// What was aimed at in choosing a backend: the route's objectives, tightened where the client asked for it.
    pub objectives: Objectives,
    /// When it began to wait for a place.
    pub queued: Duration,
    /// From the first write that had to wait for the client to the end of the last one.
    pub blocked: Option<(Duration, Duration)>,
    /// When the longest gap between content responses ended.
    pub stall_ended: Option<Duration>,
    /// When the exchange was over.
    pub ended: Duration,
}

/// How a try went on; a step that it did not come to is absent.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct TryCourse {
    /// The try's span, which its backend gets as parent.
    pub span_id: Option<SpanId>,
    /// Why this backend, where that is not the exchange's last decision.
    pub decision: Option<Box<DecisionSummary>>,
    /// The backend's host and port.
    pub server: Option<(Arc<str>, u16)>,
    /// The backend's own status.
    pub status: Option<u16>,
    /// Whether the connection had served before.
    pub reused: bool,
    /// It began.
    pub began: Duration,
    /// A connection was asked for: later than the beginning where a kept connection proved dead.
    pub connecting: Option<Duration>,
    /// A connection was there.
    pub connected: Option<Duration>,
    /// The whole request was handed to it.
    pub sent: Option<Duration>,
    /// The head of the answer was complete.
    pub head: Option<Duration>,
    /// The first event of any kind came.
    pub first_event: Option<Duration>,
    /// The first content response came.
    pub first_token: Option<Duration>,
    /// The latest content response came, or the last byte of an answer without events.
    pub last_token: Option<Duration>,
}
