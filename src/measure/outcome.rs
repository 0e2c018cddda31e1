//! How an exchange ends: one vocabulary for the log, the metrics, the API and the client's error body.

/// The end of one exchange, or of one attempt.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Outcome {
    /// The API's own end was seen.
    Complete,
    /// The client left.
    ClientCancelled,
    /// headway refused the request: bad JSON, unknown model, too large, …
    RejectedRequest,
    /// The backend's own refusal, passed on: [`refuses`].
    BackendRejected,
    /// A key's limit.
    RateLimited,
    /// Predicted to miss its objective, or no place left in a queue.
    Shed,
    /// No backend is healthy and has room.
    NoBackend,
    /// No connection to the backend, or no TLS on it.
    ConnectFailed,
    /// 429, 5xx, or an error object in place of an answer.
    UpstreamError,
    /// No first token within the timer of that name.
    FirstTokenTimeout,
    /// No byte within the timer of that name.
    IdleTimeout,
    /// Not finished within the timer of that name.
    TotalTimeout,
    /// The body ended before the API's own end.
    Truncated,
    /// Ended without a content response and without a finish reason.
    Empty,
    /// The client did not read.
    ClientStalled,
    /// The drain deadline passed.
    Drained,
    /// headway's own fault.
    InternalError,
    /// Of an attempt only: another backend was asked for the same and was faster.
    HedgeLost,
}

/// What an attempt's end says about its backend.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Blame {
    /// The backend answered as it should: its run of faults ends.
    Success,
    /// Nothing about its health: back-pressure, or the client's doing.
    Neutral,
    /// The backend's fault: its run of faults grows.
    Fault,
}

impl Outcome {
    /// Every outcome, in the order of the documentation.
    pub const ALL: [Self; 18] = [
        Self::Complete,
        Self::ClientCancelled,
        Self::RejectedRequest,
        Self::BackendRejected,
        Self::RateLimited,
        Self::Shed,
        Self::NoBackend,
        Self::ConnectFailed,
        Self::UpstreamError,
        Self::FirstTokenTimeout,
        Self::IdleTimeout,
        Self::TotalTimeout,
        Self::Truncated,
        Self::Empty,
        Self::ClientStalled,
        Self::Drained,
        Self::InternalError,
        Self::HedgeLost,
    ];

    /// The name in logs, metrics and the API.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Complete => "complete",
            Self::ClientCancelled => "client_cancelled",
            Self::RejectedRequest => "rejected_request",
            Self::BackendRejected => "backend_rejected",
            Self::RateLimited => "rate_limited",
            Self::Shed => "shed",
            Self::NoBackend => "no_backend",
            Self::ConnectFailed => "connect_failed",
            Self::UpstreamError => "upstream_error",
            Self::FirstTokenTimeout => "first_token_timeout",
            Self::IdleTimeout => "idle_timeout",
            Self::TotalTimeout => "total_timeout",
            Self::Truncated => "truncated",
            Self::Empty => "empty",
            Self::ClientStalled => "client_stalled",
            Self::Drained => "drained",
            Self::InternalError => "internal_error",
            Self::HedgeLost => "hedge_lost",
        }
    }

    /// What this end says about the backend. An `UpstreamError` that was back-pressure (429, a full queue) is neutral
    /// all the same: whoever saw the status says so in [`Attempt::blame`](super::exchange::Attempt).
    #[must_use]
    pub fn blame(self) -> Blame {
        match self {
            Self::Complete | Self::BackendRejected => Blame::Success,
            Self::ConnectFailed
            | Self::UpstreamError
            | Self::FirstTokenTimeout
            | Self::IdleTimeout
            | Self::TotalTimeout
            | Self::Truncated
            | Self::Empty => Blame::Fault,
            Self::ClientCancelled
            | Self::RejectedRequest
            | Self::RateLimited
            | Self::Shed
            | Self::NoBackend
            | Self::ClientStalled
            | Self::Drained
            | Self::InternalError
            | Self::HedgeLost => Blame::Neutral,
        }
    }

    /// Whether objectives judge an exchange that ended so: failures count against the promise, the client's own doing
    /// and requests that were never served do not.
    #[must_use]
    pub fn judged(self) -> bool {
        !matches!(
            self,
            Self::ClientCancelled
                | Self::RejectedRequest
                | Self::BackendRejected
                | Self::RateLimited
                | Self::ClientStalled
                | Self::Drained
        )
    }
}
/// Whether a backend's status says that the request is not for it, so that another would say the same and nobody is to
/// blame: any 4xx but 429, which is about load, and 501, which llama.cpp and vLLM answer where a model cannot do what is
/// asked (embeddings of one that chats).
#[must_use]
pub const fn refuses(status: u16) -> bool {
    matches!(status, 400..=428 | 430..=499 | 501)
}

/// Why a request was refused for the load; a closed set, so that it can be a metric's label.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum ShedReason {
    /// Every backend has as many requests as it may have.
    Full,
    /// No backend was expected to keep the promise.
    Predicted,
    /// So many wait already that are to be served first.
    QueueFull,
    /// It waited as long as it may.
    Waited,
    /// headway itself holds as many request bodies as it may.
    Memory,
    /// headway itself has as many client connections as it may; the connection was turned away.
    Connections,
    /// headway itself has no descriptor left for a connection to a backend.
    Descriptors,
}

impl ShedReason {
    /// Every reason, each at the place of its number.
    pub const ALL: [Self; 7] = [
        Self::Full,
        Self::Predicted,
        Self::QueueFull,
        Self::Waited,
        Self::Memory,
        Self::Connections,
        Self::Descriptors,
    ];

    /// The name in metrics.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Full => "full",
            Self::Predicted => "predicted",
            Self::QueueFull => "queue_full",
            Self::Waited => "waited",
            Self::Memory => "memory",
            Self::Connections => "connections",
            Self::Descriptors => "descriptors",
        }
    }
}
