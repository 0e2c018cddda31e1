//! Whose request it is, by the key it brings; and what becomes of it when that caller has had enough.

use std::sync::Arc;
use std::time::Instant;

use http::HeaderMap;

use super::exchange::Exchange;
use super::refuse::Refusal;
use crate::config::access::KeyDigest;
use crate::fleet::{Caller, Fleet, MostOutput, Spent};
use crate::measure::exchange::{Attempt, ExchangeRecord};
use crate::measure::outcome::Outcome;
use crate::wire::Api;
use crate::wire::request::RequestReading;

/// Longest key that is looked at: a digest of more is work that a stranger should not be able to ask for.
const LONGEST_KEY: usize = 512;

/// Whose request this is, where callers need a key.
pub(super) fn identify(fleet: &Fleet, headers: &HeaderMap) -> Result<Option<Arc<Caller>>, Refusal> {
    if !fleet.asks_for_keys() {
        return Ok(None);
    }
    let caller = presented(headers).and_then(|key| fleet.caller(&KeyDigest::of(key)));
    caller.map(|caller| Some(Arc::clone(caller))).ok_or_else(Refusal::unauthorized)
}

/// Where a key may stand: as OpenAI's clients send it, as Anthropic's do, as Azure's do. The first that is there counts.
const FIELDS: [&str; 3] = ["authorization", "x-api-key", "api-key"];

/// The key that came with a request; none where a field is there twice, which are two opinions about who calls.
fn presented(headers: &HeaderMap) -> Option<&[u8]> {
    let name = FIELDS.into_iter().find(|name| headers.contains_key(*name))?;
    let mut all = headers.get_all(name).iter();
    let value = all.next().filter(|_| all.next().is_none())?.as_bytes();
    let key = if name == "authorization" { bearer(value)? } else { value }.trim_ascii();
    (1..=LONGEST_KEY).contains(&key.len()).then_some(key)
}

/// <https://www.rfc-editor.org/rfc/rfc6750#section-2.1>
fn bearer(value: &[u8]) -> Option<&[u8]> {
    let (scheme, key) = value.split_at_checked("Bearer ".len())?;
    scheme.eq_ignore_ascii_case(b"Bearer ").then_some(key)
}

impl Exchange {
    /// Finds out whose request it is.
    pub(super) fn identify(&mut self, headers: &HeaderMap) -> Result<(), Refusal> {
        let caller = identify(&self.fleet, headers)?;
        self.note(|record| record.key = caller.as_ref().map(|caller| Arc::clone(caller.name())));
        self.caller = caller;
        Ok(())
    }

    /// Lets the caller's request in, unless it has had enough: from here on it counts.
    pub(super) fn admit(&mut self, now: Instant) -> Result<(), Refusal> {
        let Some(caller) = &self.caller else { return Ok(()) };
        self.admission = Some(caller.admit(now).map_err(Refusal::rate_limited)?);
        Ok(())
    }

    /// Sets aside what the request may use of its caller's tokens.
    pub(super) fn reserve(
        &mut self,
        (api, route): (Api, usize),
        reading: &RequestReading,
        input: u64,
        now: Instant,
    ) -> Result<(), Refusal> {
        let Some(admission) = &mut self.admission else { return Ok(()) };
        let usual = || self.fleet.routes().get(route).map_or(0.0, |route| route.expected_output());
        let output = match reading.max_tokens {
            _ if !api.generates() => MostOutput::Bound(0),
            Some(most) => MostOutput::Bound(most.saturating_mul(reading.answers)),
            None => MostOutput::Usually(whole(usual()).saturating_mul(reading.answers)),
        };
        self.reserved_input = input;
        admission.reserve(input, output, now).map_err(Refusal::rate_limited)
    }

    /// The exchange is over: what its caller did not use is given back.
    pub(super) fn settle(&mut self, record: &ExchangeRecord, now: Instant) {
        let Some(mut admission) = self.admission.take() else { return };
        admission.settle(spent(record, self.reserved_input, self.seen_output), now);
    }
}

#[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "not negative, and far below 2^52")]
fn whole(tokens: f64) -> u64 {
    tokens.round() as u64
}

/// Whether a try did not even reach its backend.
fn never_asked(attempt: &Attempt) -> bool {
    attempt.outcome == Outcome::ConnectFailed
}

/// What a request has used: as the backend states it, else as it was estimated and seen.
fn spent(record: &ExchangeRecord, input: u64, seen: u64) -> Spent {
    match record.outcome {
        Outcome::RateLimited | Outcome::Shed | Outcome::NoBackend | Outcome::InternalError => Spent::Nothing,
        // An outage is nothing that a caller should pay for.
        _ if !record.attempts.is_empty() && record.attempts.iter().all(never_asked) => Spent::Nothing,
        _ if record.attempts.is_empty() => Spent::Tokens { input: 0, output: 0 },
        _ => Spent::Tokens {
            input: record.usage.input_tokens.unwrap_or(input),
            output: record.usage.output_tokens.unwrap_or(seen),
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(fields: &[(&'static str, &'static str)], expected: Option<&str>) {
        let mut headers = HeaderMap::new();
        for (name, value) in fields {
            headers.append(*name, http::HeaderValue::from_static(value));
        }
        assert_eq!(presented(&headers), expected.map(str::as_bytes), "{fields:?}");
    }

    #[test]
    fn a_key_comes_in_one_of_three_fields_and_once() {
        check(&[("authorization", "Bearer k")], Some("k"));
        check(&[("authorization", "bearer  k ")], Some("k"));
        check(&[("x-api-key", "k")], Some("k"));
        check(&[("api-key", "k")], Some("k"));
        check(&[("authorization", "Bearer a"), ("x-api-key", "b")], Some("a"));
        for none in ["Basic k", "k", "Bearer", "Bearer ", ""] {
            check(&[("authorization", none), ("x-api-key", "b")], None);
        }
        check(&[("authorization", "Bearer a"), ("authorization", "Bearer b")], None);
        check(&[("x-api-key", "a"), ("x-api-key", "a"), ("api-key", "a")], None);
        check(&[], None);
    }

    #[test]
    fn a_key_without_end_is_not_looked_at() {
        let mut headers = HeaderMap::new();
        for (length, taken) in [(LONGEST_KEY, true), (LONGEST_KEY + 1, false)] {
            headers.insert("x-api-key", "k".repeat(length).parse().unwrap());
            assert_eq!(presented(&headers).is_some(), taken);
        }
    }
}
