//! A decision in words: pure, from the admin listener's answers to text.

use std::fmt::Write;

use serde::Deserialize;
use serde_json::Value;

use super::shown::{Backend, Beside, Candidate, Decided, Exchange, Happened, Load, Predicted, Shown};
use super::spent::spent;
use crate::commands::words::{millis, promise, whole};

/// Why a request went where it went, and what came of that.
pub(super) fn decision(value: &Value, beside: &Beside) -> serde_json::Result<String> {
    let shown: Shown = Deserialize::deserialize(value)?;
    let mut text = String::new();
    let id = shown.request_id.as_deref().unwrap_or("without an id");
    let at = shown.at.as_deref().unwrap_or("at an unknown time");
    let _ = writeln!(text, "request {id} on route {}, {at}", shown.route);
    text.push_str(&asked(&shown, beside));
    let _ = writeln!(text, "{}", verdict(&shown.decided, "went to", "was"));
    text.push_str(&body(&shown, None));
    if let (Some(backend), Some(load)) = (&shown.decided.backend, busy(shown.load)) {
        let _ = writeln!(text, "{backend} was then: {load}");
    }
    text.push('\n');
    text.push_str(&happened(&shown));
    Ok(text)
}

/// Where a request would go now.
pub(super) fn explanation(value: &Value, beside: &Beside) -> serde_json::Result<String> {
    let shown: Shown = Deserialize::deserialize(value)?;
    let mut text = String::new();
    let _ = writeln!(text, "a request on route {} now", shown.route);
    text.push_str(&asked(&shown, beside));
    match &shown.refused {
        Some(why) => {
            let _ = writeln!(text, "would be refused: {why}");
        }
        None => {
            let _ = writeln!(text, "{}", verdict(&shown.decided, "would go to", "would be"));
        }
    }
    text.push_str(&body(&shown, Some(beside)));
    Ok(text)
}

/// What became of the whole request, over all its tries.
pub(super) fn exchange(beside: &Beside) -> String {
    let Some(exchange) = &beside.exchange else { return String::new() };
    let mut text = spent(exchange);
    let _ = writeln!(text, "\n{}", answered(exchange));
    text
}

/// How large it was, and what its route promises.
fn asked(shown: &Shown, beside: &Beside) -> String {
    let size = shown.input_tokens.map(|tokens| format!("about {tokens} prompt tokens"));
    let promises = beside.route(&shown.route).map(|route| {
        let told = route.objectives.iter();
        let told = told.filter_map(|one| Some(promise(&one.latency, one.quantile?, one.threshold_ms?)));
        let told: Vec<_> = told.collect();
        if told.is_empty() { "nothing promised".to_owned() } else { format!("promised: {}", told.join(", ")) }
    });
    let parts: Vec<_> = [size, promises].into_iter().flatten().collect();
    if parts.is_empty() { String::new() } else { format!("asked: {}\n", parts.join("; ")) }
}

fn verdict(decided: &Decided, went: &str, was: &str) -> String {
    if let (Some(backend), Some(reason)) = (&decided.backend, &decided.reason) {
        return format!("{went} {backend} ({}): {}", reason.replace('_', " "), why(reason));
    }
    let again = decided.retry_after_ms.map(|wait| format!(", to try again in {}", millis(wait))).unwrap_or_default();
    let because = match decided.cause.as_deref() {
        Some("makes_room") => {
            "room is scarce, and it needs much or would only just make it: others are served in its place"
        }
        _ => "no backend is expected to keep the promise",
    };
    match decided.turned_away.as_deref() {
        Some("wait") => format!("{was} told to wait its turn: {because}{again}"),
        Some(_) => format!("{was} refused: {because}{again}"),
        None => format!("{was} sent nowhere: no backend has room"),
    }
}

/// The reason as a sentence.
fn why(reason: &str) -> &'static str {
    match reason {
        "cheapest_within_slo" => "the cheapest of those whose bounds keep the objectives",
        "median_within_slo" => "no bound keeps the objectives, but what is expected of this one does",
        "best_effort" => "none is expected to keep the objectives; this one misses least",
        "sacrifice" => "none is expected to keep the objectives; here it costs least and slows the others least",
        "probe" => "to find out about a backend that was passed over for long, or is not known yet",
        "lowest_latency" => "the lowest expected latency",
        "least_in_flight" => "the fewest requests in flight",
        "power_of_two" => "the better of two drawn at random",
        "round_robin" => "its turn",
        "weighted" => "its weight",
        "only_candidate" => "there was no other",
        _ => "a reason that this version of `headway explain` does not know",
    }
}

/// The candidates, and what the shadow thought; with what is known of the backends now, where this is about now.
fn body(shown: &Shown, now: Option<&Beside>) -> String {
    let mut text = String::new();
    if !shown.candidates.is_empty() {
        text.push('\n');
        text.push_str(&table(shown, now));
        text.push_str("   each: expected / bound; headroom: what the tightest bound leaves of its objective\n");
    }
    if let Some(shadow) = &shown.shadow {
        let _ = writeln!(text, "the shadow policy: {}", verdict(shadow, "would have sent it to", "it would have been"));
    }
    text
}

const HEADINGS: [&str; 9] =
    ["", "backend", "verdict", "in flight", "ttft", "itl", "whole answer", "headroom", "price of 1,000"];

fn table(shown: &Shown, now: Option<&Beside>) -> String {
    let chosen = shown.decided.backend.as_deref();
    let mut rows = vec![HEADINGS.map(str::to_owned).to_vec()];
    rows.extend(shown.candidates.iter().map(|one| row(one, chosen)));
    if shown.candidates.iter().any(|one| one.prefix_tokens > 0.0) {
        add(&mut rows, "cached", shown.candidates.iter().map(|one| format!("{} tokens", one.prefix_tokens)));
    }
    if let Some(beside) = now {
        let backends = || shown.candidates.iter().map(|one| beside.backend(&one.backend));
        let kv = |backend: &Backend| backend.engine.and_then(|engine| engine.kv_cache_ratio).map(whole);
        for (title, told) in [
            ("kv", backends().map(|one| one.and_then(kv)).collect::<Vec<_>>()),
            ("gpu", backends().map(|one| one.and_then(gpus)).collect()),
        ] {
            if told.iter().any(Option::is_some) {
                add(&mut rows, title, told.into_iter().map(|cell| cell.unwrap_or_else(|| "-".to_owned())));
            }
        }
    }
    aligned(&rows)
}

/// One more column.
fn add(rows: &mut [Vec<String>], title: &str, cells: impl Iterator<Item = String>) {
    for (row, cell) in rows.iter_mut().zip(std::iter::once(title.to_owned()).chain(cells)) {
        row.push(cell);
    }
}

fn row(one: &Candidate, chosen: Option<&str>) -> Vec<String> {
    let predicted = |predicted: Option<Predicted>| {
        predicted.map_or("-".to_owned(), |one| format!("{} / {}", millis(one.expected_ms), millis(one.bound_ms)))
    };
    vec![
        if chosen == Some(&*one.backend) { "*" } else { "" }.to_owned(),
        one.backend.clone(),
        one.verdict.replace('_', " "),
        one.in_flight.to_string(),
        predicted(one.ttft),
        predicted(one.itl),
        predicted(Some(one.e2e)),
        headroom(one.headroom),
        one.price.map_or("-".to_owned(), |price| format!("{:.4}", price * 1e3)),
    ]
}

/// What is left, or how far beyond: a bound of three times the objective says more than a headroom of -200 %.
fn headroom(headroom: f64) -> String {
    match headroom {
        left if left >= 0.0 => whole(left),
        over if over > -1.0 => format!("{} over", whole(-over)),
        far => format!("{:.1} times over", 1.0 - far),
    }
}

/// Each GPU of a backend, now.
fn gpus(backend: &Backend) -> Option<String> {
    let fake = if backend.source.as_deref() == Some("fake") { "fake " } else { "" };
    let one = |gpu: &super::shown::Gpu| {
        let heat = gpu.temperature_celsius.map(|celsius| format!(" {celsius:.0} °C")).unwrap_or_default();
        let slowed = if gpu.slowdowns.is_empty() { String::new() } else { format!(" ({})", gpu.slowdowns.join(", ")) };
        Some(format!("{fake}{}: {}{heat}{slowed}", gpu.id, whole(gpu.utilization?)))
    };
    let told: Vec<_> = backend.gpus.iter().filter_map(one).collect();
    (!told.is_empty()).then(|| told.join(", "))
}

/// How busy a backend was; `None` where nobody told.
fn busy(load: Load) -> Option<String> {
    let parts: Vec<_> = [
        load.gpu_utilization.map(|busy| format!("GPU busy {} of the time", whole(busy))),
        load.kv_cache_ratio.map(|full| format!("key/value cache {} full", whole(full))),
        load.running.map(|running| format!("{running:.0} requests running")),
        load.waiting.map(|waiting| format!("{waiting:.0} waiting")),
    ]
    .into_iter()
    .flatten()
    .collect();
    (!parts.is_empty()).then(|| parts.join(", "))
}

/// Columns as wide as their widest cell; the first three to the left, figures to the right.
fn aligned(rows: &[Vec<String>]) -> String {
    let columns = rows.iter().map(Vec::len).max().unwrap_or(0);
    let cells = |column: usize| rows.iter().filter_map(move |row| row.get(column));
    let widths: Vec<_> =
        (0..columns).map(|column| cells(column).map(|cell| cell.chars().count()).max().unwrap_or(0)).collect();
    let mut text = String::new();
    for row in rows {
        let line: Vec<_> = row
            .iter()
            .zip(&widths)
            .enumerate()
            .map(
                |(column, (cell, &width))| {
                    if column < 3 { format!("{cell:<width$}") } else { format!("{cell:>width$}") }
                },
            )
            .collect();
        let _ = writeln!(text, "{}", line.join("  ").trim_end());
    }
    text
}

/// What was expected of the chosen one, beside what came.
fn happened(shown: &Shown) -> String {
    let Some(happened) = &shown.happened else {
        let what = if shown.decided.backend.is_some() { "it is under way" } else { "it was not sent" };
        return format!("{what}\n");
    };
    let kept = match happened.kept {
        Some(true) => "; the promise was kept",
        Some(false) => "; the promise was not kept",
        None => "",
    };
    let rows = compared(shown, happened);
    let table = if rows.len() > 1 { aligned(&rows) } else { String::new() };
    format!("what happened: {}{kept}\n{table}", happened.outcome.replace('_', " "))
}

fn compared(shown: &Shown, happened: &Happened) -> Vec<Vec<String>> {
    let chosen = shown.chosen();
    let row = |name: &str, actual: Option<f64>, predicted: Option<Predicted>| {
        let actual = actual?;
        let told = |figure: fn(&Predicted) -> f64| {
            predicted.as_ref().map_or_else(|| "-".to_owned(), |one| millis(figure(one)))
        };
        let beyond = predicted.is_some_and(|one| actual > one.bound_ms);
        let judged = if beyond { "beyond the bound" } else { "" };
        let cells = [name, "", &told(|one| one.expected_ms), &told(|one| one.bound_ms), &millis(actual), judged];
        Some(std::iter::once(String::new()).chain(cells.map(str::to_owned)).collect())
    };
    let titles = ["", "", "", "expected", "bound", "actual", ""].map(str::to_owned).to_vec();
    let rows = [
        row("ttft", happened.ttft_ms, chosen.and_then(|one| one.ttft)),
        row("itl", happened.itl_ms, chosen.and_then(|one| one.itl)),
        row("whole answer", happened.e2e_ms, chosen.map(|one| one.e2e)),
    ];
    std::iter::once(titles).chain(rows.into_iter().flatten()).collect()
}

/// What the client got.
fn answered(exchange: &Exchange) -> String {
    let tokens = |count: Option<u64>, what: &str| count.map(|count| format!("{count} {what}"));
    let parts = [
        Some(format!("the client got {}", exchange.status.map_or("nothing".to_owned(), |status| status.to_string()))),
        Some(exchange.outcome.replace('_', " ")).filter(|outcome| !outcome.is_empty()),
        tokens(exchange.input_tokens, "prompt tokens"),
        tokens(exchange.cached_tokens.filter(|cached| *cached > 0), "of them cached"),
        tokens(exchange.output_tokens, "output tokens"),
        exchange.finish_reason.as_ref().map(|reason| format!("ended by {reason}")),
        exchange.trace_id.as_ref().map(|trace| format!("trace {trace}")),
    ];
    parts.into_iter().flatten().collect::<Vec<_>>().join("; ")
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn candidate(backend: &str, verdict: &str, ttft: f64, headroom: f64, price: f64) -> Value {
        json!({
            "backend": backend, "verdict": verdict, "in_flight": 3, "headroom": headroom, "price": price,
            "ttft": { "expected_ms": ttft, "bound_ms": 1.5 * ttft }, "itl": { "expected_ms": 12.0, "bound_ms": 15.0 },
            "e2e": { "expected_ms": 1_320.0, "bound_ms": 12_650.0 }, "prefix_tokens": 0.0,
        })
    }

    fn decided() -> Value {
        json!({
            "number": 7, "at": "2026-01-31T09:05:06.000007Z", "request_id": "r-1", "route": "chat",
            "input_tokens": 512, "backend": "a100", "reason": "cheapest_within_slo",
            "candidates": [candidate("h100-latency", "keeps", 60.0, 0.7, 0.002), candidate("a100", "keeps", 120.0, 0.4, 0.001)],
            "load": { "gpu_utilization": 0.87, "kv_cache_ratio": 0.25, "running": 7.0, "waiting": 2.0 },
            "shadow": { "backend": "h100-latency", "reason": "power_of_two" },
            "happened": { "outcome": "complete", "ttft_ms": 131.25, "itl_ms": 16.0, "e2e_ms": 1_700.0, "kept": true },
        })
    }

    fn beside() -> Beside {
        let routes = json!({ "routes": [{ "name": "chat", "objectives": [
            { "latency": "ttft", "quantile": 0.95, "threshold_ms": 200.0 },
            { "latency": "itl", "quantile": 0.95, "threshold_ms": 40.0 },
            { "latency": "joint", "attainment": 1.0 },
        ] }] });
        let backends = json!({ "backends": [
            { "name": "h100-latency", "gpu": "unavailable" },
            { "name": "a100", "engine": { "running": 7.0, "waiting": 2.0, "kv_cache_ratio": 0.25 }, "gpu": "fake", "gpus": [
                { "gpu": "0", "utilization": 0.875, "temperature_celsius": 61.0, "slowdowns": ["sw_power_cap"] },
                { "gpu": "1", "problem": "it has fallen off the bus" },
            ] },
        ] });
        let requests = json!({ "requests": [{
            "status": 200, "outcome": "complete", "trace_id": "0af7651916cd43dd8448eb211c80319c",
            "attempts": [{ "backend": "l40s", "outcome": "connect_failed", "ms": 1.5 }, { "backend": "a100", "outcome": "complete", "ms": 1_700.0 }],
            "upload_ms": 3.0, "queue_ms": 0.0, "overhead_us": 142.3, "connect_ms": 0.8, "backend_wait_ms": 95.0,
            "backpressure_ms": 20.0, "ttft_ms": 133.7, "e2e_ms": 1_701.5, "input_tokens": 508, "cached_tokens": 256,
            "output_tokens": 94, "finish_reason": "stop",
        }] });
        Beside::read(Some(routes), Some(backends), Some(requests))
    }

    #[test]
    fn a_decision_reads_like_this() {
        let text = decision(&decided(), &beside()).expect("a decision") + &exchange(&beside());
        assert_eq!(text, include_str!("golden/past.txt"), "it is now:\n{text}");
    }

    #[test]
    fn the_present_reads_like_this() {
        let mut value = decided();
        let fields = value.as_object_mut().expect("an object");
        for name in ["at", "request_id", "happened", "load"] {
            fields.remove(name);
        }
        fields["candidates"][1]["headroom"] = (-0.25).into();
        fields["candidates"][0]["headroom"] = (-5.2).into();
        fields["candidates"][1]["prefix_tokens"] = 1_024.0.into();
        let text = explanation(&value, &beside()).expect("an explanation");
        assert_eq!(text, include_str!("golden/present.txt"), "it is now:\n{text}");
    }

    #[track_caller]
    fn says(value: &Value, words: &[&str]) {
        let none = Beside::default();
        let past = value.get("at").is_some();
        let text = if past { decision(value, &none) } else { explanation(value, &none) }.expect("a decision");
        for words in words {
            assert!(text.contains(words), "{words}:\n{text}");
        }
    }

    #[test]
    fn what_was_turned_away_or_has_not_ended_says_so() {
        let mut value = decided();
        value["happened"] = Value::Null;
        says(&value, &["it is under way"]);
        value["backend"] = Value::Null;
        value["reason"] = Value::Null;
        value["turned_away"] = "shed".into();
        value["retry_after_ms"] = 2_000.0.into();
        says(&value, &["was refused: no backend is expected to keep the promise, to try again in 2.00 s", "not sent"]);
        value["turned_away"] = "wait".into();
        says(&value, &["told to wait its turn"]);
    }

    #[test]
    fn the_present_is_told_in_the_conditional() {
        let mut value = json!({ "route": "chat", "backend": "a", "reason": "probe", "candidates": [] });
        says(&value, &["a request on route chat now\nwould go to a (probe): to find out"]);
        value["refused"] = "no backend is healthy".into();
        says(&value, &["would be refused: no backend is healthy"]);
    }

    #[test]
    fn every_reason_has_its_sentence() {
        for reason in crate::route::decision::Reason::ALL {
            assert!(!why(reason.as_str()).contains("does not know"), "{}", reason.as_str());
        }
    }
}
