//! A decision in words: pure, from the admin listener's answer to text.

use std::fmt::Write;

use serde::Deserialize;
use serde_json::Value;

/// One decision, past or present, as the API shows it; what is not known is absent.
#[derive(Deserialize)]
struct Shown {
    route: String,
    at: Option<String>,
    request_id: Option<String>,
    input_tokens: Option<u64>,
    #[serde(flatten)]
    decided: Decided,
    /// Why there is nothing to choose from.
    refused: Option<String>,
    candidates: Vec<Candidate>,
    shadow: Option<Decided>,
    happened: Option<Happened>,
}

#[derive(Deserialize)]
struct Decided {
    backend: Option<String>,
    reason: Option<String>,
    turned_away: Option<String>,
    cause: Option<String>,
    retry_after_ms: Option<f64>,
}

#[derive(Deserialize)]
struct Candidate {
    backend: String,
    verdict: String,
    in_flight: u32,
    ttft: Option<Predicted>,
    itl: Option<Predicted>,
    e2e: Predicted,
    headroom: f64,
    price: Option<f64>,
    prefix_tokens: f64,
}

#[derive(Deserialize, Clone, Copy)]
struct Predicted {
    expected_ms: f64,
    bound_ms: f64,
}

#[derive(Deserialize)]
struct Happened {
    outcome: String,
    ttft_ms: Option<f64>,
    itl_ms: Option<f64>,
    e2e_ms: Option<f64>,
    kept: Option<bool>,
}

/// Why a request went where it went.
pub(super) fn decision(value: &Value) -> serde_json::Result<String> {
    let shown: Shown = Deserialize::deserialize(value)?;
    let mut text = String::new();
    let id = shown.request_id.as_deref().unwrap_or("without an id");
    let at = shown.at.as_deref().unwrap_or("at an unknown time");
    let _ = writeln!(text, "request {id} on route {}, {at}{}", shown.route, prompt(&shown));
    let _ = writeln!(text, "{}", verdict(&shown.decided, "went to", "was"));
    text.push_str(&body(&shown));
    let _ = writeln!(text, "{}", happened(&shown));
    Ok(text)
}

/// Where a request would go now.
pub(super) fn explanation(value: &Value) -> serde_json::Result<String> {
    let shown: Shown = Deserialize::deserialize(value)?;
    let mut text = String::new();
    let _ = writeln!(text, "a request on route {} now{}", shown.route, prompt(&shown));
    match &shown.refused {
        Some(why) => {
            let _ = writeln!(text, "would be refused: {why}");
        }
        None => {
            let _ = writeln!(text, "{}", verdict(&shown.decided, "would go to", "would be"));
        }
    }
    text.push_str(&body(&shown));
    Ok(text)
}

fn prompt(shown: &Shown) -> String {
    shown.input_tokens.map(|tokens| format!(", about {tokens} prompt tokens")).unwrap_or_default()
}

fn verdict(decided: &Decided, went: &str, was: &str) -> String {
    if let (Some(backend), Some(reason)) = (&decided.backend, &decided.reason) {
        return format!("{went} {backend} ({reason}): {}", why(reason));
    }
    let again = decided.retry_after_ms.map(|wait| format!(", to try again in {}", millis(wait))).unwrap_or_default();
    let because = match decided.cause.as_deref() {
        Some("makes_room") => "it needs so much that several smaller ones are served in its place",
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

/// The candidates, and what the shadow thought.
fn body(shown: &Shown) -> String {
    let mut text = String::new();
    if !shown.candidates.is_empty() {
        text.push('\n');
        text.push_str(&table(shown));
        text.push_str("each: expected / bound; headroom: what the tightest bound leaves of its objective\n");
    }
    if let Some(shadow) = &shown.shadow {
        let _ = writeln!(text, "the shadow policy: {}", verdict(shadow, "would have sent it to", "it would have been"));
    }
    text
}

const HEADINGS: [&str; 9] = ["", "backend", "verdict", "in flight", "ttft", "itl", "whole answer", "headroom", "price"];

fn table(shown: &Shown) -> String {
    let chosen = shown.decided.backend.as_deref();
    let mut rows = vec![HEADINGS.map(str::to_owned).to_vec()];
    let prefixes = shown.candidates.iter().any(|one| one.prefix_tokens > 0.0);
    rows.extend(shown.candidates.iter().map(|one| row(one, chosen)));
    if prefixes {
        let cached = shown.candidates.iter().map(|one| format!("{} tokens", one.prefix_tokens));
        for (row, cell) in rows.iter_mut().zip(["cached".to_owned()].into_iter().chain(cached)) {
            row.push(cell);
        }
    }
    aligned(&rows)
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
        format!("{:.0}%", one.headroom * 100.0),
        one.price.map_or("-".to_owned(), |price| format!("{price:.7}")),
    ]
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
        return if shown.decided.backend.is_some() {
            "it is under way".to_owned()
        } else {
            "it was not sent".to_owned()
        };
    };
    let chosen = shown.candidates.iter().find(|one| Some(&one.backend) == shown.decided.backend.as_ref());
    let latency = |name: &str, actual: Option<f64>, predicted: Option<Predicted>| {
        let actual = actual?;
        let beside = predicted.map(|one| {
            let over = if actual > one.bound_ms { ", which was missed" } else { "" };
            format!(" ({} expected, bound {}{over})", millis(one.expected_ms), millis(one.bound_ms))
        });
        Some(format!("{name} {}{}", millis(actual), beside.unwrap_or_default()))
    };
    let parts = [
        Some(happened.outcome.replace('_', " ")),
        latency("ttft", happened.ttft_ms, chosen.and_then(|one| one.ttft)),
        latency("itl", happened.itl_ms, chosen.and_then(|one| one.itl)),
        latency("whole answer", happened.e2e_ms, chosen.map(|one| one.e2e)),
        happened.kept.map(|kept| if kept { "the promise was kept" } else { "the promise was not kept" }.to_owned()),
    ];
    format!("what happened: {}", parts.into_iter().flatten().collect::<Vec<_>>().join("; "))
}

fn millis(millis: f64) -> String {
    if millis >= 10_000.0 { format!("{:.1} s", millis / 1e3) } else { format!("{millis:.1} ms") }
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
            "shadow": { "backend": "h100-latency", "reason": "power_of_two" },
            "happened": { "outcome": "complete", "ttft_ms": 131.25, "itl_ms": 16.0, "e2e_ms": 1_700.0, "kept": true },
        })
    }

    #[test]
    fn a_decision_reads_like_this() {
        let expected = "\
request r-1 on route chat, 2026-01-31T09:05:06.000007Z, about 512 prompt tokens
went to a100 (cheapest_within_slo): the cheapest of those whose bounds keep the objectives

   backend       verdict  in flight                 ttft                itl        whole answer  headroom      price
   h100-latency  keeps            3    60.0 ms / 90.0 ms  12.0 ms / 15.0 ms  1320.0 ms / 12.7 s       70%  0.0020000
*  a100          keeps            3  120.0 ms / 180.0 ms  12.0 ms / 15.0 ms  1320.0 ms / 12.7 s       40%  0.0010000
each: expected / bound; headroom: what the tightest bound leaves of its objective
the shadow policy: would have sent it to h100-latency (power_of_two): the better of two drawn at random
what happened: complete; ttft 131.2 ms (120.0 ms expected, bound 180.0 ms); itl 16.0 ms (12.0 ms expected, bound 15.0 ms, which was missed); whole answer 1700.0 ms (1320.0 ms expected, bound 12.7 s); the promise was kept
";
        assert_eq!(decision(&decided()).expect("a decision"), expected);
    }

    #[track_caller]
    fn says(value: &Value, words: &[&str]) {
        let text = if value.get("at").is_some() { decision(value) } else { explanation(value) }.expect("a decision");
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
        says(
            &value,
            &["was refused: no backend is expected to keep the promise, to try again in 2000.0 ms", "not sent"],
        );
        value["turned_away"] = "wait".into();
        says(&value, &["told to wait its turn"]);
        value["candidates"][1]["prefix_tokens"] = 1_024.0.into();
        says(&value, &["cached", "1024 tokens", "0 tokens"]);
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
