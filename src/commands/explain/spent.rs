//! Where the time of an exchange went, as bars: to say at a glance whether it was the network, headway or the model.

use std::fmt::Write;

use super::shown::Exchange;
use crate::commands::words::{millis, whole};

/// How wide the longest bar is.
const BAR: f64 = 30.0;

/// Every stretch that took time, in order.
pub(super) fn spent(exchange: &Exchange) -> String {
    let stretches = stretches(exchange);
    let all: f64 = stretches.iter().map(|(_, spent)| spent).sum();
    if all <= 0.0 {
        return String::new();
    }
    let wide = stretches.iter().map(|(name, _)| name.chars().count()).max().unwrap_or(0);
    let mut text = "\nwhere the time went\n".to_owned();
    for (name, spent) in &stretches {
        let share = spent / all;
        let _ = writeln!(text, "   {name:<wide$}  {:>8}  {:>5}  {}", millis(*spent), whole(share), bar(share));
    }
    if let Some(held) = exchange.backpressure_ms.filter(|held| *held > 0.0) {
        let _ = writeln!(text, "   of it {} with writes pending: the client read slowly", millis(held));
    }
    text.lines().map(str::trim_end).fold(String::new(), |all, line| all + line + "\n")
}

#[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "from 0 to 30")]
fn bar(share: f64) -> String {
    "█".repeat((share.clamp(0.0, 1.0) * BAR).round() as usize)
}

/// Phases that follow each other; what lies between the last of them and the first token is the model's.
fn stretches(exchange: &Exchange) -> Vec<(String, f64)> {
    let last = exchange.attempts.last().map_or("the backend", |attempt| attempt.backend.as_str());
    let mut all = vec![
        ("upload, before time starts".to_owned(), exchange.upload_ms),
        ("waiting for a place".to_owned(), exchange.queue_ms),
        ("headway itself".to_owned(), exchange.overhead_us / 1e3),
    ];
    let failed = exchange.attempts.split_last().map(|(_, failed)| failed).unwrap_or_default();
    all.extend(failed.iter().map(|one| (format!("in vain on {}: {}", one.backend, one.outcome), one.ms)));
    let (connect, wait) = (exchange.connect_ms.unwrap_or(0.0), exchange.backend_wait_ms.unwrap_or(0.0));
    all.push((format!("connecting to {last}"), connect));
    all.push((format!("{last}, to its head"), wait));
    let before: f64 = all.iter().skip(1).map(|(_, spent)| spent).sum();
    match (exchange.ttft_ms, exchange.e2e_ms) {
        (Some(first), end) => {
            all.push((format!("{last}, head to first token"), first - before));
            all.push((format!("{last}, first token to last"), end.map_or(0.0, |end| end - first)));
        }
        (None, Some(end)) => all.push((format!("{last}, head to end"), end - before)),
        (None, None) => {}
    }
    all.retain(|(_, spent)| *spent > 0.0);
    all
}
