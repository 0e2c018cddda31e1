//! The admin listener: metrics, health, API, and the dashboard.
//!
//! A port of its own, and a thread of its own: it answers when the data threads are busy to the last, and nothing on
//! the data port can reach it. What it may look at and do is [`Services`], and nothing else.

mod answer;
mod assets;
mod body;
mod decision_view;
mod endpoint;
mod events;
#[cfg(any(test, feature = "fuzzing"))]
pub(crate) mod fuzz;
mod gpu_view;
mod guard;
mod moment;
mod picture;
mod server;
mod split_view;
mod version;
mod view;
mod waterfall;

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::SystemTime;

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

/// Which configuration is in force, and what became of reading it last.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConfigStatus {
    /// [`crate::config::hash`] of the settings in force.
    pub hash: String,
    /// When they were put in force.
    pub applied_at: SystemTime,
    /// When the configuration was last read.
    pub read_at: SystemTime,
    /// What asked for that: `start`, `signal`, `request` or `watch`.
    pub trigger: &'static str,
    /// Why it was refused, each error with its place; empty when it was applied.
    pub errors: Vec<String>,
    /// What a person should know about it, such as keys that need a restart.
    pub notes: Vec<String>,
}

/// How much is used of something that there is only so much of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ResourceUse {
    /// What it is.
    pub resource: &'static str,
    /// How much is in use.
    pub used: u64,
    /// How much there is.
    pub most: u64,
    /// Whether so much is in use that connections end with their answer.
    pub high: bool,
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
    /// Which configuration is in force.
    pub configuration: Arc<dyn Fn() -> Arc<ConfigStatus> + Send + Sync>,
    /// Reads the configuration again; may block.
    pub reload: Arc<dyn Fn() -> ReloadOutcome + Send + Sync>,
    /// Starts the drain, as SIGTERM does; must not block.
    pub drain: Arc<dyn Fn() + Send + Sync>,
    /// What is used of memory, connections and descriptors.
    pub resources: Arc<dyn Fn() -> Vec<ResourceUse> + Send + Sync>,
    /// Whether headway is on its way out.
    pub draining: Arc<AtomicBool>,
}

impl fmt::Debug for Services {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Services").field("draining", &self.draining).finish_non_exhaustive()
    }
}
