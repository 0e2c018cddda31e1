//! What one event of the dashboard holds: the API's own views, and the history behind them.

use std::sync::Arc;
use std::time::Instant;

use serde::Serialize;
use serde_json::{Map, Value, json};

use super::decision_view::DecisionView;
use super::moment::{Moment, QuantilesView, outcomes, sent};
use super::version::{self, VersionView};
use super::view::{BackendView, Probe, RouteView, millis};
use super::{Services, answer};
use crate::fleet::{DecisionRecord, Happened, LiveRoute};
use crate::measure::objective::Latency;
use crate::measure::outcome::Outcome;
use crate::telemetry::history::{Column, History, LOWEST_ROW, ROWS_PER_DECADE, STEP, STEPS, Steps, Tally};

/// How many decisions of each list are shown.
const DECISIONS: usize = 15;

/// How much of the history an event holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Extent {
    /// All of it.
    Whole,
    /// The step that is being filled, and the one before it, which may have ended since.
    Change,
}

impl Extent {
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Whole => "whole",
            Self::Change => "change",
        }
    }

    fn steps(self, last: u64) -> Steps {
        let back = match self {
            Self::Whole => STEPS as u64,
            Self::Change => 1,
        };
        Steps { first: last.saturating_sub(back), last }
    }
}

/// The figures of one tick.
#[derive(Debug, Serialize)]
pub(super) struct Picture {
    /// Counts seconds since somebody first looked.
    tick: u64,
    version: VersionView,
    ready: Probe,
    /// Where an exchange's trace is, `{trace_id}` in the place of its id.
    #[serde(skip_serializing_if = "Option::is_none")]
    trace_url: Option<String>,
    steps: StepsView,
    routes: Vec<RouteView>,
    backends: Vec<BackendView>,
    decisions: DecisionLists,
}

/// One event: the figures, and as much of the history as it is to hold.
#[derive(Debug, Serialize)]
pub(super) struct WithHistory<'a> {
    #[serde(flatten)]
    picture: &'a Picture,
    /// By route.
    history: Map<String, Value>,
}

/// Each list the newest first.
#[derive(Debug, Serialize)]
struct DecisionLists {
    ended: Vec<DecisionView>,
    /// Those that did not end well.
    missed: Vec<DecisionView>,
    under_way: Vec<DecisionView>,
}

/// How to read columns and tallies.
#[derive(Debug, Serialize)]
struct StepsView {
    seconds: u64,
    kept: usize,
    /// The number of the step that is being filled, and how long ago it began.
    last: u64,
    last_began_s_ago: f64,
    rows_per_decade: u8,
    lowest_row_ms: f64,
}

impl Picture {
    /// Everything that is true at this instant.
    pub(super) fn new(services: &Services, tick: u64, now: Instant) -> Self {
        let fleet = (services.fleet)();
        let moment = Moment::new(services, &fleet, now);
        let history = services.telemetry.history();
        let last = history.step(now);
        let remembered = fleet.decisions(usize::MAX, |_| true);
        let decisions = |wanted: fn(&DecisionRecord) -> bool| {
            let newest = remembered.iter().filter(|decision| wanted(decision)).take(DECISIONS);
            newest.map(|decision| DecisionView::row(decision, services)).collect()
        };
        Self {
            tick,
            version: version::version(services),
            ready: answer::probe(services),
            trace_url: fleet.settings().admin.trace_url.clone(),
            steps: StepsView {
                seconds: STEP.as_secs(),
                kept: STEPS,
                last,
                last_began_s_ago: history.ago(last, now).as_secs_f64(),
                rows_per_decade: ROWS_PER_DECADE,
                lowest_row_ms: millis(LOWEST_ROW),
            },
            routes: moment.routes(),
            backends: moment.backends(),
            decisions: DecisionLists {
                ended: decisions(|one| !is_under_way(one)),
                missed: decisions(did_not_end_well),
                under_way: decisions(is_under_way),
            },
        }
    }

    pub(super) fn with_history(&self, services: &Services, extent: Extent) -> WithHistory<'_> {
        let (fleet, steps) = ((services.fleet)(), extent.steps(self.steps.last));
        let of_route = |route: &Arc<LiveRoute>| of_route(services.telemetry.history(), route, &steps);
        WithHistory { picture: self, history: fleet.routes().iter().map(of_route).collect() }
    }
}

/// Its name, and what it was like in these steps.
fn of_route(history: &History, route: &LiveRoute, steps: &Steps) -> (String, Value) {
    let name = route.name();
    let latencies = Latency::PROMISED.map(|latency| {
        let columns = history.columns(name, latency, steps);
        (latency.as_str().to_owned(), columns.iter().map(column).collect::<Vec<_>>().into())
    });
    let tallies = history.tallies(name, steps);
    let tally = |one: &Tally| json!({ "step": one.step, "outcomes": outcomes(one), "sent": sent(one) });
    let mut shown = Map::from_iter(latencies);
    shown.insert("traffic".to_owned(), tallies.iter().map(tally).collect::<Vec<_>>().into());
    (name.to_string(), shown.into())
}

fn column(column: &Column) -> Value {
    json!({ "step": column.step, "quantiles": QuantilesView::new(column.quantiles), "cells": column.cells })
}

fn is_under_way(decision: &DecisionRecord) -> bool {
    decision.happened.is_none() && decision.verdict.turned_away.is_none()
}

/// Turned away, failed, or later than was promised.
fn did_not_end_well(decision: &DecisionRecord) -> bool {
    let ended_badly = |happened: &Happened| {
        let neutral = matches!(happened.outcome, Outcome::Complete | Outcome::ClientCancelled);
        happened.kept == Some(false) || !neutral
    };
    decision.verdict.turned_away.is_some() || decision.happened.as_ref().is_some_and(ended_badly)
}
