//! What is shown while the demo runs: a table that redraws itself in a terminal, a line now and then in a pipe.

use std::fmt::Write as _;
use std::io::{self, Write};
use std::time::{Duration, Instant};

use super::ledger::Ledger;
use super::scene::{Act, BACKENDS, Plan, ROUTES, SLOWNESS, STRUCK};
use crate::bench::report::console::Table;
use crate::fleet::{Fleet, LiveBackend};
use crate::measure::attainment::Attainment;
use crate::measure::percentile::percentile;

/// The trailing time that the table shows.
const WINDOW: Duration = Duration::from_secs(10);
/// How often a terminal is redrawn, and how often a pipe gets a line.
const REDRAW: Duration = Duration::from_millis(500);
const LINE: Duration = Duration::from_secs(5);

/// Draws to standard output.
pub(super) struct Live {
    terminal: bool,
    plan: Plan,
    /// Lines of the table that stands in the terminal.
    lines: usize,
}

impl Live {
    pub(super) fn new(terminal: bool, plan: Plan) -> Self {
        Self { terminal, plan, lines: 0 }
    }

    /// How long to wait between two drawings.
    pub(super) fn pause(&self) -> Duration {
        if self.terminal { REDRAW } else { LINE }
    }

    /// Shows where things stand at that time since the start.
    pub(super) fn draw(
        &mut self,
        out: &mut impl Write,
        ledger: &Ledger,
        fleet: &Fleet,
        (start, now): (Instant, Instant),
    ) -> io::Result<()> {
        let at = now.saturating_duration_since(start);
        if !self.terminal {
            writeln!(out, "{}", self.line(ledger, at))?;
            return out.flush();
        }
        let text = self.table(ledger, fleet, at, now);
        if self.lines > 0 {
            write!(out, "\x1b[{}A\x1b[J", self.lines)?;
        }
        self.lines = text.lines().count();
        write!(out, "{text}")?;
        out.flush()
    }

    /// Takes the table away before the report comes.
    pub(super) fn clear(&mut self, out: &mut impl Write) -> io::Result<()> {
        if self.lines > 0 {
            write!(out, "\x1b[{}A\x1b[J", self.lines)?;
            self.lines = 0;
        }
        Ok(())
    }

    fn line(&self, ledger: &Ledger, at: Duration) -> String {
        let now = recent(ledger, at);
        let mut text = format!("{:>4.0} s", at.as_secs_f64());
        for (route, name) in ROUTES.iter().enumerate() {
            let good = now.good.get(route).and_then(Attainment::share);
            let _ = write!(text, "  {name} {} good", good.map_or("-".into(), whole_percent));
        }
        let _ = write!(text, "  chat that ended in the last {} s was on", WINDOW.as_secs());
        for (backend, (name, _)) in BACKENDS.iter().enumerate() {
            let _ = write!(text, " {name} {}", now.chat_share(backend).map_or("-".into(), whole_percent));
        }
        if self.plan.act(at) == Act::Incident {
            let _ = write!(text, "  [{}]", headline());
        }
        text
    }

    fn table(&self, ledger: &Ledger, fleet: &Fleet, at: Duration, instant: Instant) -> String {
        let now = recent(ledger, at);
        let gpus = fleet.backends().iter().any(|backend| backend.watches_gpus());
        let columns = ["Backend", "state", "in flight", "chat share", "TTFT p95 ms", "ITL p95 ms", "fake GPU"];
        let columns = columns.into_iter().take(if gpus { 7 } else { 6 });
        let mut table = Table::new(format!("the last {} s", WINDOW.as_secs()), columns);
        for (backend, (name, _)) in BACKENDS.iter().enumerate() {
            let live = fleet.backends().iter().find(|live| **live.name() == **name);
            let p95 = |values: Option<&Vec<f64>>| {
                let mut values = values.cloned().unwrap_or_default();
                values.sort_by(f64::total_cmp);
                percentile(&values, 95.0).map_or("-".to_owned(), |value| format!("{value:.1}"))
            };
            table.row([
                (*name).to_owned(),
                live.map_or("-".to_owned(), |live| live.state().as_str().to_owned()),
                live.map_or("-".to_owned(), |live| live.in_flight().to_string()),
                now.chat_share(backend).map_or("-".to_owned(), whole_percent),
                p95(now.first_token.get(backend)),
                p95(now.inter_token.get(backend)),
                live.and_then(|live| gpu(live, instant)).unwrap_or_else(|| "-".to_owned()),
            ]);
        }
        let mut text = self.progress(at);
        text.push_str(&table.render());
        for (route, name) in ROUTES.iter().enumerate() {
            let good = now.good.get(route).and_then(Attainment::share);
            let whole = ledger.routes.get(route).map(crate::bench::report::Collector::counts).unwrap_or_default();
            let _ = writeln!(
                text,
                "{name}: {} of the promises kept, {} requests, {} errors",
                good.map_or("-".into(), whole_percent),
                whole.0 + whole.1,
                whole.1
            );
        }
        text
    }

    fn progress(&self, at: Duration) -> String {
        let what = match self.plan.act(at) {
            Act::Before => "all is well".to_owned(),
            Act::Incident => headline(),
            Act::After => "the incident is over".to_owned(),
        };
        let Some(duration) = self.plan.duration else {
            return format!("{:.0} s · {what} · Ctrl-C ends it\n", at.as_secs_f64());
        };
        let share = (at.as_secs_f64() / duration.as_secs_f64()).clamp(0.0, 1.0);
        // Short enough that the line fits into 80 columns: one that wraps would not be taken away whole.
        #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "from 0 to 24")]
        let done = (share * 24.0).round() as usize;
        let bar = format!("{}{}", "█".repeat(done), "░".repeat(24_usize.saturating_sub(done)));
        format!("{bar} {:.0} of {:.0} s · {what}\n", at.as_secs_f64(), duration.as_secs_f64())
    }
}

/// How busy a backend's GPU is, how full, and what slows it.
fn gpu(backend: &LiveBackend, now: Instant) -> Option<String> {
    let report = backend.gpus(now)?;
    let reading = &report.gpus.first()?.reading;
    let gibibytes = |bytes: Option<u64>| bytes.map_or(0, |bytes| bytes >> 30);
    let (used, total) = (gibibytes(reading.memory_used), gibibytes(reading.memory_total));
    let hot = if reading.throttled() == Some(true) { " slowed" } else { "" };
    Some(format!("{} {used}/{total} GiB{hot}", reading.utilization.map_or("-".into(), whole_percent)))
}

fn headline() -> String {
    let struck = BACKENDS.get(STRUCK).map_or("", |(name, _)| *name);
    format!("incident: {struck} runs {SLOWNESS} times slower")
}

/// The trailing window, summed up.
#[derive(Default)]
struct Recent {
    chat: [u64; BACKENDS.len()],
    chat_total: u64,
    first_token: [Vec<f64>; BACKENDS.len()],
    inter_token: [Vec<f64>; BACKENDS.len()],
    good: [Attainment; ROUTES.len()],
}

impl Recent {
    #[allow(clippy::cast_precision_loss, reason = "counts are far below 2^53")]
    fn chat_share(&self, backend: usize) -> Option<f64> {
        let count = self.chat.get(backend)?;
        (self.chat_total > 0).then(|| *count as f64 / self.chat_total as f64)
    }
}

fn recent(ledger: &Ledger, at: Duration) -> Recent {
    let mut recent = Recent::default();
    for sample in ledger.recent(at.saturating_sub(WINDOW)) {
        if let (Some(good), Some(attainment)) = (sample.verdicts.joint(), recent.good.get_mut(sample.route)) {
            attainment.good += u64::from(good);
            attainment.total += 1;
        }
        let Some(backend) = sample.backend else { continue };
        if sample.route == 0 {
            recent.chat_total += 1;
            if let Some(count) = recent.chat.get_mut(backend) {
                *count += 1;
            }
        }
        let push = |values: Option<&mut Vec<f64>>, latency: Option<Duration>| {
            if let (Some(values), Some(latency)) = (values, latency) {
                values.push(latency.as_secs_f64() * 1e3);
            }
        };
        push(recent.first_token.get_mut(backend), sample.first_token);
        push(recent.inter_token.get_mut(backend), sample.inter_token);
    }
    recent
}

fn whole_percent(share: f64) -> String {
    format!("{:.0} %", share * 100.0)
}
