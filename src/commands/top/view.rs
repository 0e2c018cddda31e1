//! From what the admin listener says to lines of text: pure.

use super::snapshot::{Backend, Decision, Objective, Predicted, Price, Route, Snapshot};
use super::table::{Cell, Line, Table, Tone, figures, words};
use crate::commands::words::{millis, promise, short, whole};

/// Burning the budget this many times too fast uses up two percent of a month's in an hour: somebody is called.
const BURNS: f64 = 14.4;
/// A key/value cache that is this full makes requests wait.
const FULL: f64 = 0.9;

/// What backends are ordered by.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) enum Sort {
    #[default]
    Configuration,
    Share,
    InFlight,
    Ttft,
    Gpu,
    Cost,
}

impl Sort {
    const ALL: [Self; 6] = [Self::Configuration, Self::Share, Self::InFlight, Self::Ttft, Self::Gpu, Self::Cost];

    /// The next one, or the one before.
    pub(super) fn step(self, forward: bool) -> Self {
        let at = Self::ALL.iter().position(|one| *one == self).unwrap_or_default();
        let step = if forward { 1 } else { Self::ALL.len() - 1 };
        Self::ALL.get((at + step) % Self::ALL.len()).copied().unwrap_or_default()
    }

    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Configuration => "as configured",
            Self::Share => "by share",
            Self::InFlight => "by requests in flight",
            Self::Ttft => "by TTFT",
            Self::Gpu => "by GPU",
            Self::Cost => "by cost",
        }
    }
}

/// Everything below the first line, no line wider than `width`.
pub(super) fn body(snapshot: &Snapshot, sort: Sort, width: usize) -> Vec<Line> {
    let mut lines = routes(&snapshot.routes).lines(width);
    lines.extend(snapshot.routes.iter().filter_map(|route| split(route, width)));
    lines.push(Line::new());
    lines.extend(backends(snapshot, sort).lines(width));
    lines.push(Line::new());
    if snapshot.decisions.is_empty() {
        lines.push(vec![Cell::new("no decision yet", Tone::Dim)]);
    } else {
        lines.extend(decisions(&snapshot.decisions).lines(width));
    }
    lines
}

/// The first line: which headway this is, and whether all is well at a glance.
pub(super) fn summary(snapshot: &Snapshot, address: &str) -> Line {
    let ready = snapshot.backends.iter().filter(|backend| backend.state == "ready").count();
    let all = snapshot.backends.len();
    let rates: Vec<f64> = snapshot.routes.iter().filter_map(|route| route.requests_per_second).collect();
    let rate = if rates.is_empty() { String::new() } else { format!(" · {:.1} req/s", rates.iter().sum::<f64>()) };
    let tone = if ready == all { Tone::Good } else { Tone::Warning };
    vec![
        Cell::new(format!("headway {}", snapshot.version), Tone::Heading),
        Cell::plain(format!(" at {address}{rate} · ")),
        Cell::new(format!("{ready} of {all} backends ready"), tone),
    ]
}

fn routes(routes: &[Route]) -> Table {
    let columns = vec![
        words("ROUTE", 0),
        words("OBJECTIVE", 0),
        figures("KEPT", 0),
        figures("BURN 5m", 3),
        figures("1h", 4),
        figures("BUDGET LEFT", 5),
        figures("TTFT p95", 2),
        figures("ITL p95", 2),
        figures("REQ/S", 1),
        figures("COST", 6),
    ];
    Table { columns, rows: routes.iter().flat_map(of_route).collect() }
}

/// Who gets which share of a route that is split; groups that do not fit are left out.
fn split(route: &Route, width: usize) -> Option<Line> {
    let mut line = vec![Cell::plain(format!("{} split:", route.name))];
    for group in &route.split.as_ref()?.groups {
        let out = group.state == "rolled_back";
        let state = if out { " (rolled back)" } else { "" };
        let text = format!(" {} {}{state}", group.name, percent(group.effective_share));
        line.push(Cell::new(text, if out { Tone::Bad } else { Tone::Plain }));
    }
    let mut left = width;
    let fits = line.into_iter().map_while(|cell| {
        left = left.checked_sub(cell.width())?;
        Some(cell)
    });
    Some(fits.collect())
}

/// One line per objective; what is the route's own stands in its first line.
fn of_route(route: &Route) -> Vec<Line> {
    let several = route.objectives.len() > 2;
    let shown = route.objectives.iter().filter(|one| one.quantile.is_some() || several);
    let mut rows: Vec<Line> = shown.map(of_objective).collect();
    if rows.is_empty() {
        rows.push(vec!["".into(), Cell::new("none", Tone::Dim), "".into(), "".into(), "".into(), "".into()]);
    }
    let threshold = |latency: &str| {
        let one = route.objectives.iter().find(|one| one.latency == latency && one.quantile == Some(0.95))?;
        one.threshold_ms
    };
    let minute = &route.last_minute;
    let own = [
        against(minute.ttft.map(|one| one.p95_ms), threshold("ttft")),
        against(minute.itl.map(|one| one.p95_ms), threshold("itl")),
        maybe(route.requests_per_second, |rate| format!("{rate:.1}")),
        maybe(route.cost, money),
    ];
    for (place, row) in rows.iter_mut().enumerate() {
        if place == 0 {
            row.splice(0..1, [route.name.as_str().into()]);
            row.extend(own.clone());
        } else {
            row.extend(own.iter().map(|_| Cell::default()));
        }
    }
    rows
}

/// The route's name is filled in by the caller.
fn of_objective(one: &Objective) -> Line {
    let promised = match (one.quantile, one.threshold_ms) {
        (Some(quantile), Some(threshold)) => promise(&one.latency, quantile, threshold),
        _ => "all of them".to_owned(),
    };
    let kept = one.attainment.zip(one.quantile).map(|(share, target)| share >= target);
    let tone = kept.map_or(Tone::Plain, |kept| if kept { Tone::Good } else { Tone::Bad });
    let burn = |window: &str| {
        one.burn_rate.get(window).map_or_else(Cell::default, |&rate| {
            let tone = if rate > BURNS {
                Tone::Bad
            } else if rate > 1.0 {
                Tone::Warning
            } else {
                Tone::Plain
            };
            Cell::new(format!("{rate:.1}"), tone)
        })
    };
    let left = one
        .budget_left
        .map_or_else(Cell::default, |left| Cell::new(percent(left), if left < 0.0 { Tone::Bad } else { Tone::Plain }));
    let share = one.attainment.map_or_else(|| Cell::new("-", Tone::Dim), |share| Cell::new(percent(share), tone));
    vec!["".into(), promised.into(), share, burn("5m"), burn("1h"), left]
}

fn backends(snapshot: &Snapshot, sort: Sort) -> Table {
    let columns = vec![
        words("BACKEND", 0),
        words("STATE", 0),
        figures("IN FLIGHT", 1),
        figures("TTFT BOUND", 4),
        figures("TTFT p95", 2),
        figures("ITL p95", 5),
        figures("KV", 6),
        figures("GPU", 3),
        figures("SHARE", 2),
        figures("COST", 7),
        words("PRICE", 8),
        words("PROFILE", 9),
    ];
    let all: u64 = snapshot.backends.iter().map(|one| one.last_minute.requests).sum();
    let mut sorted: Vec<&Backend> = snapshot.backends.iter().collect();
    let key = |one: &Backend| match sort {
        Sort::Configuration => 0.0,
        Sort::Share => count(one.last_minute.requests),
        Sort::InFlight => f64::from(one.in_flight),
        Sort::Ttft => one.last_minute.ttft.map_or(0.0, |ttft| ttft.p95_ms),
        Sort::Gpu => utilization(one).unwrap_or(0.0),
        Sort::Cost => one.cost.unwrap_or(0.0),
    };
    sorted.sort_by(|one, other| key(other).total_cmp(&key(one)));
    let rows = sorted.into_iter().map(|one| of_backend(one, &snapshot.routes, all)).collect();
    Table { columns, rows }
}

fn of_backend(one: &Backend, routes: &[Route], all: u64) -> Line {
    let in_flight = match one.max_in_flight {
        Some(most) => format!("{}/{most}", one.in_flight),
        None => one.in_flight.to_string(),
    };
    let full = one.max_in_flight.is_some_and(|most| one.in_flight >= most);
    let kv = one.engine.and_then(|engine| engine.kv_cache_ratio);
    let predicted = predicted(&one.name, routes);
    let share = (all > 0).then(|| count(one.last_minute.requests) / count(all));
    vec![
        one.name.as_str().into(),
        Cell::new(one.state.as_str(), state(&one.state)),
        Cell::new(in_flight, if full { Tone::Warning } else { Tone::Plain }),
        maybe(predicted.map(|one| one.bound_ms), millis),
        against(one.last_minute.ttft.map(|ttft| ttft.p95_ms), predicted.map(|one| one.bound_ms)),
        maybe(one.last_minute.itl.map(|itl| itl.p95_ms), millis),
        kv.map_or_else(Cell::default, |kv| Cell::new(whole(kv), if kv >= FULL { Tone::Warning } else { Tone::Plain })),
        gpu(one),
        maybe(share, whole),
        maybe(one.cost, money),
        one.price.map(price).unwrap_or_default().into(),
        Cell::new(one.profile.as_deref().unwrap_or_default(), Tone::Dim),
    ]
}

/// What the route that sends it most would get there.
fn predicted(backend: &str, routes: &[Route]) -> Option<Predicted> {
    let members = routes.iter().flat_map(|route| &route.backends).filter(|member| member.backend == backend);
    let told = members.filter_map(|member| Some((member.requests, member.predicted.as_ref()?.ttft?)));
    told.max_by_key(|(requests, _)| *requests).map(|(_, predicted)| predicted)
}

fn state(state: &str) -> Tone {
    match state {
        "ready" => Tone::Good,
        "warming" | "probing" | "draining" | "unknown" => Tone::Warning,
        _ => Tone::Bad,
    }
}

fn utilization(one: &Backend) -> Option<f64> {
    let told: Vec<f64> = one.gpus.iter().filter_map(|gpu| gpu.utilization).collect();
    (!told.is_empty()).then(|| told.iter().sum::<f64>() / count(told.len() as u64))
}

fn gpu(one: &Backend) -> Cell {
    let Some(source) = &one.gpu else { return Cell::default() };
    if source == "unavailable" {
        return Cell::new("unavailable", Tone::Dim);
    }
    let fake = if source == "fake" { "fake " } else { "" };
    let busy = utilization(one).map_or_else(|| "?".to_owned(), whole);
    if one.gpus.iter().any(|gpu| gpu.throttled == Some(true)) {
        return Cell::new(format!("{fake}{busy} throttled"), Tone::Bad);
    }
    Cell::plain(format!("{fake}{busy}"))
}

fn price(price: Price) -> String {
    if let (Some(input), Some(output)) = (price.input_per_mtok, price.output_per_mtok) {
        return format!("{input:.2}/{output:.2} per Mtok");
    }
    match (price.per_gpu_hour, price.gpus.unwrap_or(1.0)) {
        (Some(hour), gpus) => format!("{} × {hour:.2}/h", short(gpus)),
        (None, _) => String::new(),
    }
}

fn decisions(decisions: &[Decision]) -> Table {
    let columns = vec![
        words("DECIDED (UTC)", 0),
        words("ROUTE", 1),
        words("BACKEND", 0),
        words("WHY", 3),
        figures("PROMPT", 5),
        figures("TTFT EXPECTED", 4),
        figures("TTFT", 2),
        figures("WHOLE", 6),
        words("CAME TO", 0),
        words("REQUEST", 7),
    ];
    Table { columns, rows: decisions.iter().map(of_decision).collect() }
}

fn of_decision(one: &Decision) -> Line {
    let chosen = one.candidates.iter().find(|candidate| Some(&candidate.backend) == one.backend.as_ref());
    let predicted = chosen.and_then(|candidate| candidate.ttft);
    let happened = one.happened.as_ref();
    let reason = one.reason.as_deref().unwrap_or_default().replace('_', " ");
    vec![
        one.at.get(11..23).unwrap_or(&one.at).into(),
        one.route.as_str().into(),
        one.backend.as_deref().unwrap_or("-").into(),
        reason.into(),
        one.input_tokens.map(|tokens| format!("{tokens} tok")).unwrap_or_default().into(),
        maybe(predicted.map(|one| one.expected_ms), millis),
        against(happened.and_then(|one| one.ttft_ms), predicted.map(|one| one.bound_ms)),
        maybe(happened.and_then(|one| one.e2e_ms), millis),
        came_to(one),
        Cell::new(one.request_id.as_deref().unwrap_or_default(), Tone::Dim),
    ]
}

fn came_to(one: &Decision) -> Cell {
    match (&one.turned_away, &one.happened) {
        (Some(how), _) => Cell::new(if how == "wait" { "waits" } else { "refused" }, Tone::Warning),
        (None, None) => Cell::new("under way", Tone::Dim),
        (None, Some(happened)) => match (happened.outcome.as_str(), happened.kept) {
            ("complete", Some(true)) => Cell::new("good", Tone::Good),
            ("complete", Some(false)) => Cell::new("late", Tone::Bad),
            ("complete", None) => Cell::plain("complete"),
            ("client_cancelled", _) => Cell::new("client cancelled", Tone::Dim),
            (other, _) => Cell::new(other.replace('_', " "), Tone::Bad),
        },
    }
}

/// A figure, and whether it is beyond what it should be.
fn against(figure: Option<f64>, bound: Option<f64>) -> Cell {
    let beyond = figure.zip(bound).is_some_and(|(figure, bound)| figure > bound);
    figure.map_or_else(Cell::default, |figure| Cell::new(millis(figure), if beyond { Tone::Bad } else { Tone::Plain }))
}

fn maybe(figure: Option<f64>, write: impl FnOnce(f64) -> String) -> Cell {
    figure.map_or_else(Cell::default, |figure| write(figure).into())
}

fn percent(share: f64) -> String {
    format!("{:.1} %", share * 100.0)
}

fn money(amount: f64) -> String {
    if amount < 100.0 { format!("{amount:.4}") } else { format!("{amount:.2}") }
}

#[allow(clippy::cast_precision_loss, reason = "counts are far below 2^53")]
fn count(count: u64) -> f64 {
    count as f64
}
