//! The closing report: pure, from the ledger to text.

use std::fmt::Write;
use std::net::SocketAddr;
use std::time::Duration;

use super::ledger::{Ledger, Sample};
use super::scene::{Act, BACKENDS, Plan, ROUTES, SLOWNESS, STRUCK};
use crate::bench::report::console::{Table, error_lines, metrics_table};
use crate::bench::report::number;
use crate::measure::attainment::Attainment;
use crate::measure::objective::Objective;
use crate::units::format_duration;

/// Once the router has turned away, the slow backend gets at most this share: requests that probe it, and what its price
/// still earns it when the others are busy.
const TURNED_AWAY: f64 = 0.2;
/// Below so many requests a window shows nothing.
const FEWEST: usize = 4;

/// The whole report.
pub(super) fn closing(ledger: &Ledger, plan: &Plan) -> String {
    let mut text = String::new();
    for (name, collector) in ROUTES.iter().zip(&ledger.routes) {
        section(&mut text, &format!("headway demo | route {name}"), collector);
    }
    for ((name, _), collector) in BACKENDS.iter().zip(&ledger.backends) {
        section(&mut text, &format!("headway demo | backend {name}"), collector);
    }
    text.push_str(&attainment(ledger, plan).render());
    text.push('\n');
    text.push_str(&shares(ledger, plan).render());
    text.push('\n');
    text.push_str(&costs(ledger).render());
    text.push('\n');
    text.push_str(&incident(ledger, plan));
    text
}

fn section(text: &mut String, title: &str, collector: &crate::bench::report::Collector) {
    let report = collector.report();
    if report.valid() + report.error_count() == 0 {
        let _ = writeln!(text, "{title}: no requests\n");
        return;
    }
    let _ = writeln!(text, "{}{}", metrics_table(title, &report).render(), error_lines(&report));
}

fn columns(first: [&'static str; 2]) -> [&'static str; 6] {
    [first[0], first[1], "whole run", "before", "incident", "after"]
}

/// How each promise was kept, by act.
fn attainment(ledger: &Ledger, plan: &Plan) -> Table {
    let mut table = Table::new("SLO attainment, as the client felt it", columns(["Route", "Promise"]));
    for (route, name) in ROUTES.iter().enumerate() {
        let objectives = ledger.objectives(route);
        let joint = (objectives.len() > 1).then_some(None);
        for objective in objectives.iter().map(Some).chain(joint) {
            let share = |which: &dyn Fn(&Sample) -> bool| percent(&ledger.attainment(route, objective, which));
            let acts = Act::ALL.map(|act| share(&|sample| plan.felt(sample.sent, sample.ended) == act));
            let head = [(*name).to_owned(), objective.map_or("all together".to_owned(), promise), share(&|_| true)];
            table.row(head.into_iter().chain(acts));
        }
    }
    table
}

fn promise(objective: &Objective) -> String {
    let Objective { latency, quantile, threshold } = objective;
    format!("{} {quantile} {}", latency.as_str(), format_duration(*threshold))
}

fn percent(attainment: &Attainment) -> String {
    attainment.share().map_or("-".to_owned(), |share| format!("{:.1} %", share * 100.0))
}

/// Where requests went, by act.
fn shares(ledger: &Ledger, plan: &Plan) -> Table {
    let mut table = Table::new("Share of requests per backend", columns(["Route", "Backend"]));
    for (route, name) in ROUTES.iter().enumerate() {
        let acts = Act::ALL.map(|act| ledger.shares(route, plan, act));
        for (backend, (backend_name, _)) in BACKENDS.iter().enumerate() {
            let of = |(counts, _): &([u64; BACKENDS.len()], u64)| counts.get(backend).copied().unwrap_or(0);
            let whole = (acts.iter().map(of).sum(), acts.iter().map(|(_, total)| total).sum());
            let head = [(*name).to_owned(), (*backend_name).to_owned(), share(whole)];
            table.row(head.into_iter().chain(acts.iter().map(|act| share((of(act), act.1)))));
        }
    }
    table
}

#[allow(clippy::cast_precision_loss, reason = "counts are far below 2^53")]
fn share((part, whole): (u64, u64)) -> String {
    if whole == 0 { "-".to_owned() } else { format!("{:.1} %", 100.0 * part as f64 / whole as f64) }
}

/// What good requests cost, and what they would have cost at the dearest backend alone.
#[allow(clippy::cast_precision_loss, reason = "counts are far below 2^53")]
fn costs(ledger: &Ledger) -> Table {
    let dearest = BACKENDS.first().map_or("", |(name, _)| *name);
    let mut table = Table::new(
        "Cost per 1,000 good requests ($, invented prices)",
        [
            "Route".to_owned(),
            "requests".to_owned(),
            "good".to_owned(),
            "spent $".to_owned(),
            "per 1,000 good".to_owned(),
            format!("all on {dearest}, all good"),
        ],
    );
    for (route, name) in ROUTES.iter().enumerate() {
        let (mut spent, mut dear, mut requests) = (0.0, 0.0, 0_u64);
        for sample in ledger.of_route(route) {
            requests += 1;
            spent += sample.backend.and_then(|backend| ledger.cost(backend, sample.tokens)).unwrap_or(0.0);
            dear += ledger.cost(0, sample.tokens).unwrap_or(0.0);
        }
        let good = ledger.attainment(route, None, |_| true).good;
        let per_thousand =
            |money: f64, count: u64| if count == 0 { "-".into() } else { format!("{:.4}", 1e3 * money / count as f64) };
        table.row([
            (*name).to_owned(),
            requests.to_string(),
            good.to_string(),
            format!("{spent:.4}"),
            per_thousand(spent, good),
            per_thousand(dear, requests),
        ]);
    }
    table
}

/// What happened, and what the router did about it.
fn incident(ledger: &Ledger, plan: &Plan) -> String {
    let (onset, end) = plan.incident();
    let struck = BACKENDS.get(STRUCK).map_or("", |(name, _)| *name);
    let mut chat: Vec<&Sample> = ledger.of_route(0).collect();
    chat.sort_by_key(|sample| sample.sent);
    let mut text = String::new();
    if !chat.iter().any(|sample| sample.sent >= onset) {
        return "The run ended before any chat that was sent after the incident's onset.\n".to_owned();
    }
    let _ = writeln!(
        text,
        "Incident: {struck} ran {} times slower from {} to {} s.",
        SLOWNESS,
        number(onset.as_secs_f64()),
        number(end.as_secs_f64())
    );
    let window = window(onset, end);
    let before = sent(&chat, onset.saturating_sub(window * 2), onset);
    let carried = on_struck(&before);
    let _ = writeln!(
        text,
        "In the {} s before it, {} of chat went there.",
        number((window * 2).as_secs_f64()),
        share(carried)
    );
    if at_most(carried, TURNED_AWAY) {
        let _ = writeln!(text, "That is so little that there was nothing to turn away.");
        return text;
    }
    let _ = match switched(&chat, onset, end) {
        Some(after) => writeln!(
            text,
            "The router turned chat away from it {} s after the onset; {}",
            number(after.as_secs_f64()),
            taken_over(&chat, onset + after, end)
        ),
        None => writeln!(text, "The router did not turn chat away from it in the time there was."),
    };
    text
}

/// How long traffic must stay away to be called turned away.
fn window(onset: Duration, end: Duration) -> Duration {
    (end.saturating_sub(onset) / 5).max(Duration::from_secs(1))
}

/// The requests sent in a stretch of time.
fn sent<'a>(chat: &[&'a Sample], from: Duration, until: Duration) -> Vec<&'a Sample> {
    chat.iter().copied().filter(|sample| (from..until).contains(&sample.sent)).collect()
}

fn on_struck(samples: &[&Sample]) -> (u64, u64) {
    (samples.iter().filter(|sample| sample.backend == Some(STRUCK)).count() as u64, samples.len() as u64)
}

#[allow(clippy::cast_precision_loss, reason = "counts are far below 2^53")]
fn at_most((part, whole): (u64, u64), most: f64) -> bool {
    part as f64 <= most * whole as f64
}

/// When, after the onset, a window began in which chat stayed away from the slow backend.
fn switched(chat: &[&Sample], onset: Duration, end: Duration) -> Option<Duration> {
    let candidates = chat.iter().filter(|sample| (onset..end).contains(&sample.sent) && sample.backend != Some(STRUCK));
    let turned = |sample: &&&Sample| {
        let following = sent(chat, sample.sent, sample.sent + window(onset, end));
        following.len() >= FEWEST && at_most(on_struck(&following), TURNED_AWAY)
    };
    candidates.into_iter().find(turned).map(|sample| sample.sent.saturating_sub(onset))
}

/// Who answered instead.
fn taken_over(chat: &[&Sample], from: Duration, until: Duration) -> String {
    let during = sent(chat, from, until);
    let count = |backend: usize| during.iter().filter(|sample| sample.backend == Some(backend)).count() as u64;
    let parts: Vec<String> = BACKENDS
        .iter()
        .enumerate()
        .map(|(backend, (name, _))| format!("{name} {}", share((count(backend), during.len() as u64))))
        .collect();
    format!("until its end: {}.", parts.join(", "))
}

/// Where to look while it runs.
pub(super) fn look_further(data: SocketAddr, admin: SocketAddr, finished: bool) -> String {
    let hint = if finished { "Run `headway demo --duration 0` and look while it runs:" } else { "Look while it runs:" };
    let body = format!(
        r#"{{"model":"{}","messages":[{{"role":"user","content":"hello"}}],"stream":true}}"#,
        crate::nim_simulator::DEFAULT_MODEL
    );
    format!(
        "{hint}\n  http://{admin}/ in a browser: the dashboard\n  curl http://{admin}/metrics\n  curl http://{admin}/api/v1/backends\n  \
         curl http://{admin}/api/v1/decisions\n  curl http://{admin}/api/v1/config\n  \
         curl -N http://{data}/v1/chat/completions -H 'content-type: application/json' -d '{body}'\n"
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bench::record::RequestRecord;
    use crate::bench::record::testing::record;
    use crate::measure::objective::{Latency, Objectives};
    use crate::route::price::Price;
    use crate::units::Quantile;

    fn ledger() -> Ledger {
        let within =
            |latency, ms| Some(Objective { latency, quantile: Quantile::P95, threshold: Duration::from_millis(ms) });
        let chat = Objectives {
            ttft: within(Latency::TimeToFirstToken, 300),
            itl: within(Latency::InterToken, 50),
            e2e: None,
        };
        let batch = Objectives { e2e: within(Latency::EndToEnd, 8000), ..Objectives::default() };
        let price = |input| {
            Some(Price::PerToken { input_per_mtok: input, cached_input_per_mtok: input, output_per_mtok: 3.0 * input })
        };
        let mut ledger = Ledger::new([chat, batch], [price(0.20), price(0.09), price(0.06)]);
        // Four requests a second for 40 s: l40s-cheap until three seconds into the incident, a100 after that.
        for quarter in 0..160 {
            let second = quarter / 4;
            let slow = (20..30).contains(&second);
            let moved = second >= 23;
            let (ttft, itl) = if slow && !moved { (450, 70) } else { (120, 20) };
            let mut one = record(ttft, itl, 51);
            one.label = "chat";
            one.offset = Duration::from_millis(250 * quarter);
            one.backend = Some(if moved { "a100" } else { "l40s-cheap" }.to_owned());
            ledger.add(&one);
            if quarter % 40 == 20 {
                ledger.add(&RequestRecord { label: "batch", backend: Some("l40s-cheap".to_owned()), ..one });
            }
        }
        let failed = RequestRecord { error: Some("http_503".into()), label: "chat", ..record(1, 1, 2) };
        ledger.add(&RequestRecord { offset: Duration::from_secs(39), ..failed });
        ledger
    }

    #[test]
    fn the_report_is_laid_out_as_the_golden_file() {
        let text = closing(&ledger(), &Plan::new(Duration::from_secs(40)));
        let golden = include_str!("golden_report.txt");
        assert!(text == golden, "the report changed; it is now:\n{text}");
    }

    #[test]
    fn a_run_that_ends_early_says_so() {
        let text = incident(&ledger(), &Plan::new(Duration::from_secs(4000)));
        assert_eq!(text, "The run ended before any chat that was sent after the incident's onset.\n");
    }
}
