//! Whether what a client got, what backends saw and what was recorded fit the plan.

use super::client::{End, Got};
use super::faults::{self, Told};
use super::plan::{Behaves, Plan, Speaks, Stage};

/// What became of a request.
#[derive(Debug, Clone)]
pub(crate) struct Seen {
    pub(crate) got: Got,
    /// How often it reached a backend.
    pub(crate) tries: usize,
    pub(crate) took: std::time::Duration,
}

/// What is wrong with it, if anything.
pub(crate) fn judge(plan: &Plan, seen: &Seen) -> Result<(), String> {
    let most = if plan.unreachable { 1 } else { 2 };
    if seen.tries > most {
        return Err(format!("{} generations", seen.tries));
    }
    match plan.behaves {
        Behaves::Leaves(_, _) => Ok(()),
        Behaves::SendsLate { too_late: true } => status(seen, &[408]),
        // Between sockets the system may take all of it.
        Behaves::StopsReading => told(plan, seen).or_else(|_| cut(seen)),
        Behaves::Well | Behaves::ReadsSlowly | Behaves::SendsLate { too_late: false } => told(plan, seen),
    }
}

fn told(plan: &Plan, seen: &Seen) -> Result<(), String> {
    let good = faults::good();
    match &plan.fault.told {
        // Somebody who cannot be reached may be asked twice.
        Told::Whole(body) if plan.unreachable => whole(seen, body).or_else(|_| status(seen, &[502])),
        // A hedge that was quicker says what a second try would.
        Told::Whole(body) if plan.everywhere => whole(seen, body),
        Told::Whole(body) => whole(seen, body).or_else(|why| hedged(seen, &good.told).map_err(|_| why)),
        Told::Error(statuses) if plan.everywhere => status(seen, statuses),
        Told::Error(statuses) => status(seen, statuses).or_else(|why| hedged(seen, &good.told).map_err(|_| why)),
        Told::Broken if plan.everywhere => broken(plan, seen),
        Told::Broken => broken(plan, seen).or_else(|why| hedged(seen, &good.told).map_err(|_| why)),
    }
}

fn hedged(seen: &Seen, good: &Told) -> Result<(), String> {
    match good {
        Told::Whole(body) if seen.tries == 2 => whole(seen, body),
        _ => Err("nobody else was asked".to_owned()),
    }
}

fn whole(seen: &Seen, body: &[u8]) -> Result<(), String> {
    let Got { status, body: got, end } = &seen.got;
    if (*status, *end) == (200, End::Clean) && got == body {
        Ok(())
    } else {
        Err(format!("not whole: {}", shown(seen)))
    }
}

fn status(seen: &Seen, statuses: &[u16]) -> Result<(), String> {
    let Got { status, body, end } = &seen.got;
    let error = serde_json::from_slice::<serde_json::Value>(body).is_ok_and(|body| body["error"]["code"].is_string());
    if statuses.contains(status) && *end == End::Clean && error {
        Ok(())
    } else {
        Err(format!("not an error of {statuses:?}: {}", shown(seen)))
    }
}

/// The beginning of an answer may end cleanly only with the backend's own error event. After a token there was no other
/// try: what was tried twice had one generation that nobody saw a token of.
fn broken(plan: &Plan, seen: &Seen) -> Result<(), String> {
    let text = String::from_utf8_lossy(&seen.got.body);
    let told = text.contains("\"error\":");
    let Got { status, end, .. } = &seen.got;
    if plan.is_h2() && (*status, *end) == (0, End::Cut) {
        // A reset may overtake the head: the client takes it for a failed request, which it is.
        return Ok(());
    }
    if *status != 200 || !text.contains(" train") {
        return Err(format!("not the beginning of an answer: {}", shown(seen)));
    }
    if *end == End::Clean && !told {
        return Err(format!("a silent truncation: {}", shown(seen)));
    }
    if text.matches("assistant").count() > 1 {
        return Err(format!("two answers in one: {}", shown(seen)));
    }
    Ok(())
}

fn cut(seen: &Seen) -> Result<(), String> {
    if seen.got.end == End::Cut { Ok(()) } else { Err(format!("not cut: {}", shown(seen))) }
}

/// Whether a timer of headway's ended it that the plan does not run into: on a busy machine a backend may be late.
pub(crate) fn timed_out(seen: &Seen) -> bool {
    let text = String::from_utf8_lossy(&seen.got.body);
    let named = ["first_token_timeout", "idle_timeout", "total_timeout"];
    let told = named.iter().any(|name| text.contains(&format!("\"code\":\"{name}\"")));
    told && (seen.got.status == 504 || seen.got.end == End::Cut)
}

fn shown(seen: &Seen) -> String {
    let Got { status, body, end } = &seen.got;
    let text: String = String::from_utf8_lossy(body).chars().take(300).collect();
    format!("{status}, {end:?}, {} bytes, {} tries: {text:?}", body.len(), seen.tries)
}

/// How the exchange may be recorded.
pub(crate) fn recorded(plan: &Plan, outcome: &str) -> Result<(), String> {
    let fits = match (plan.behaves, &plan.fault.told) {
        // The answer was whole before the client left.
        (Behaves::Leaves(Stage::AfterDone, _), _) => outcome == "complete",
        (Behaves::Leaves(_, _), _) => true,
        // Between sockets the system may take all of it.
        (Behaves::StopsReading, _) => {
            let taken = outcome == "complete" && matches!(plan.speaks, Speaks::H1 | Speaks::H1Tls);
            taken || matches!(outcome, "client_stalled" | "client_cancelled" | "total_timeout")
        }
        (Behaves::SendsLate { too_late: true }, _) => outcome == "rejected_request",
        // On a busy machine a backend may be late for a timer.
        (_, _) if outcome.ends_with("_timeout") || outcome == "client_stalled" => true,
        (_, Told::Whole(_)) => outcome == "complete" || plan.unreachable,
        (_, Told::Error(_) | Told::Broken) => outcome != "complete" || !plan.everywhere,
    };
    if fits { Ok(()) } else { Err(format!("recorded as {outcome}")) }
}
