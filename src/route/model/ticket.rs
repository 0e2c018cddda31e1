//! What a model must remember of one request in flight, carried by the request itself.

use std::time::Duration;

use super::pair::Alphas;
use super::usual::Offsets;
use crate::route::load::Load;
use crate::route::moment::Moment;
use crate::route::predict::Features;
use crate::route::snapshot::RouteSlot;

/// One request in flight at a backend, as its model sees it. Must come back through
/// [`BackendModel::ended`](super::BackendModel::ended), or its load is never taken off the books.
#[derive(Debug)]
#[allow(clippy::struct_excessive_bools, reason = "each notes one fact, and all of them may hold")]
#[must_use = "the load of a request is taken off the books only by `ended`"]
pub struct Ticket {
    pub(super) id: u64,
    /// Books are opened anew when a backend is ejected; a ticket of old books moves and teaches nothing.
    pub(super) books: u64,
    pub(super) route: RouteSlot,
    pub(super) stream: bool,
    pub(super) probe: bool,
    pub(super) sent: Moment,
    /// What it adds to the load now.
    pub(super) load: Load,
    pub(super) alphas: Alphas,
    pub(super) ttft_features: Features,
    /// Raw prediction of its TTFT.
    pub(super) ttft: f64,
    /// The TTFT bias when it was sent, in log units.
    pub(super) ttft_bias: f64,
    /// Its expected ITL, bias included.
    pub(super) itl: f64,
    /// What the bound of its whole answer was calibrated on.
    pub(super) whole_base: f64,
    /// What was usual on its route when it was sent.
    pub(super) offsets: Offsets,
    /// What it counts where bounds are calibrated.
    pub(super) weight: f64,
    pub(super) first_token: bool,
    /// Whether a full sample of its gaps was learned.
    pub(super) sampled: bool,
}

impl Ticket {
    /// Whether it probes its backend.
    #[must_use]
    pub fn is_probe(&self) -> bool {
        self.probe
    }
}

/// How a request ended at a backend.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum How {
    /// The answer is whole.
    Completed {
        /// Output tokens, as far as stated or counted.
        output_tokens: Option<u64>,
        /// Mean gap between the tokens of a stream of three and more.
        mean_gap: Option<Duration>,
        /// Whether the client's reading, and not the backend, set the pace: then it teaches nothing about latency.
        paced_by_client: bool,
    },
    /// The backend failed.
    Failed,
    /// The client left, or an attempt that was sent before won: it says nothing about the backend.
    Cancelled,
    /// It was late, and one that was sent after it won: it would have taken longer still.
    Outrun,
}
