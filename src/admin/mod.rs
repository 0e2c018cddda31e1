//! The admin listener: metrics, health, API.
//!
//! A port of its own, and a thread of its own: it answers when the data threads are busy to the last, and nothing on
//! the data port can reach it. What it may look at and do is [`Services`], and nothing else.

mod answer;
mod config_view;
mod decision_view;
mod endpoint;
mod gpu_view;
mod guard;
mod moment;
mod server;
mod view;

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

pub use self::server::{serve, spawn};
use crate::clock::Clock;
use crate::fleet::Fleet;
use crate::telemetry::Telemetry;

/// What a reload came to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ReloadOutcome {
    /// The new configuration is in force.
    Applied {
        /// What a person should know about it, such as keys that need a restart.
        notes: Vec<String>,
    },
    /// The file is not valid; the old configuration goes on.
    Refused {
        /// Every error, with its place.
        errors: Vec<String>,
    },
}

/// What the admin listener may look at and do.
#[derive(Clone)]
pub struct Services {
    /// The fleet in force.
    pub fleet: Arc<dyn Fn() -> Arc<Fleet> + Send + Sync>,
    /// Metrics and recent exchanges.
    pub telemetry: Arc<Telemetry>,
    /// The time.
    pub clock: Arc<dyn Clock>,
    /// Reads the configuration again; may block.
    pub reload: Arc<dyn Fn() -> ReloadOutcome + Send + Sync>,
    /// Starts the drain, as SIGTERM does; must not block.
    pub drain: Arc<dyn Fn() + Send + Sync>,
    /// Whether headway is on its way out.
    pub draining: Arc<AtomicBool>,
}

impl fmt::Debug for Services {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Services").field("draining", &self.draining).finish_non_exhaustive()
    }
}
