//! Judging what was seen. Pure.

use std::time::Duration;

use serde_json::Value;

use super::client::{End, Reply};
use crate::measure::sse::SseDecoder;

/// What a case comes to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// As expected.
    Pass,
    /// Not as expected.
    Fail,
    /// The proxy does not offer it, or was not told about it.
    Skip,
}

impl Verdict {
    /// One word.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Pass => "pass",
            Self::Fail => "FAIL",
            Self::Skip => "skip",
        }
    }
}

/// What was seen, and what it is worth.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Finding {
    pub(super) verdict: Verdict,
    pub(super) seen: String,
}

pub(super) fn pass(seen: impl Into<String>) -> Finding {
    Finding { verdict: Verdict::Pass, seen: seen.into() }
}

pub(super) fn fail(seen: impl Into<String>) -> Finding {
    Finding { verdict: Verdict::Fail, seen: seen.into() }
}

pub(super) fn skip(seen: impl Into<String>) -> Finding {
    Finding { verdict: Verdict::Skip, seen: seen.into() }
}

pub(super) fn when(holds: bool, seen: impl Into<String>) -> Finding {
    if holds { pass(seen) } else { fail(seen) }
}

pub(super) fn ms(time: Duration) -> String {
    format!("{} ms", time.as_millis())
}

/// The data of a body's events.
pub(super) fn events(body: &[u8]) -> Vec<Vec<u8>> {
    let (mut decoder, mut events) = (SseDecoder::new(), Vec::new());
    decoder.push(body, |boundary| events.extend(boundary.event.map(|event| event.data.to_vec())));
    decoder.finish(|event| events.push(event.data.to_vec()));
    events
}

/// What a person would read: the text of the first choice.
pub(super) fn said(body: &[u8]) -> String {
    let values = events(body).into_iter().filter_map(|data| serde_json::from_slice::<Value>(&data).ok());
    let text = values.filter_map(|value| value.pointer("/choices/0/delta/content")?.as_str().map(str::to_owned));
    text.collect()
}

/// Whether one of a body's events tells of an error.
pub(super) fn has_error(body: &[u8]) -> bool {
    events(body).iter().any(|data| {
        serde_json::from_slice::<Value>(data)
            .is_ok_and(|value| value.get("error").is_some_and(|error| !error.is_null()))
    })
}

pub(super) fn has_done(body: &[u8]) -> bool {
    events(body).iter().any(|data| data == b"[DONE]")
}

/// An answer that must have the backend's bytes.
pub(super) fn unchanged(reply: &Reply, expected: &[u8]) -> Finding {
    if reply.status != 200 || reply.end != End::Clean {
        return fail(format!("status {}, {}", reply.status, ending(reply)));
    }
    if reply.body == expected {
        return pass("unchanged");
    }
    let at = reply.body.iter().zip(expected).take_while(|(one, other)| one == other).count();
    let words = if said(&reply.body) == said(expected) { "the same text" } else { "another text" };
    fail(format!("rewritten from byte {at} on, {words}"))
}

/// A stream that broke must not look like one that ended.
pub(super) fn told_of_the_end(reply: &Reply) -> Finding {
    let (error, done) = (has_error(&reply.body), has_done(&reply.body));
    let broken = reply.status >= 400 || error || reply.end == End::Cut;
    let status = if reply.status == 200 { String::new() } else { format!("status {}, ", reply.status) };
    let event = if error { "an error event, " } else { "" };
    let seen = format!("{status}{event}{}", ending(reply));
    match (broken, done) {
        (true, false) => pass(seen),
        (true, true) => fail(format!("{seen}, and a [DONE] that the backend never sent")),
        (false, true) => fail(format!("{seen}, with a [DONE] that the backend never sent")),
        (false, false) => fail(format!("{seen}: looks complete")),
    }
}

/// The same, of a stream of which the backend had sent a head and a token: whoever shows nothing of it has lost it.
pub(super) fn told_after_a_token(reply: &Reply) -> Finding {
    if reply.status == 0 {
        return fail(format!("no answer at all, {}", ending(reply)));
    }
    told_of_the_end(reply)
}

pub(super) fn ending(reply: &Reply) -> &'static str {
    match reply.end {
        End::Clean => "a clean end",
        End::Cut => "a cut connection",
        End::Never => "no end in time",
    }
}

/// Whether a body is an error in the words of the API.
pub(super) fn is_openai_error(reply: &Reply) -> bool {
    let value = serde_json::from_slice::<Value>(&reply.body);
    reply.is_json() && value.is_ok_and(|value| value.pointer("/error/message").is_some_and(Value::is_string))
}

/// What kind of error body an answer has.
pub(super) fn error_kind(reply: &Reply) -> &'static str {
    match () {
        () if is_openai_error(reply) => "an OpenAI error body",
        () if reply.text().trim_start().starts_with('<') => "an HTML page",
        () if reply.body.is_empty() => "no body",
        () => "another body",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn reply(status: u16, body: &str, end: End) -> Reply {
        let head = "HTTP/1.1 200 OK\r\ncontent-type: application/json".to_owned();
        Reply { status, head, body: body.into(), arrivals: Vec::new(), end, took: Duration::ZERO }
    }

    const TOKEN: &str = "data: {\"choices\":[{\"delta\":{\"content\":\"a\"}}]}\n\n";
    const ERROR: &str = "data: {\"error\":{\"message\":\"m\"}}\n\n";
    const DONE: &str = "data: [DONE]\n\n";

    #[track_caller]
    fn told(status: u16, body: &str, end: End, expected: Verdict) {
        let finding = told_of_the_end(&reply(status, body, end));
        assert_eq!(finding.verdict, expected, "{}", finding.seen);
    }

    #[test]
    fn a_broken_stream_must_say_so() {
        told(200, TOKEN, End::Clean, Verdict::Fail);
        told(200, &format!("{TOKEN}{DONE}"), End::Clean, Verdict::Fail);
        told(200, TOKEN, End::Never, Verdict::Fail);
        told(200, TOKEN, End::Cut, Verdict::Pass);
        told(200, &format!("{TOKEN}{ERROR}"), End::Clean, Verdict::Pass);
        told(200, &format!("{TOKEN}{ERROR}{DONE}"), End::Clean, Verdict::Fail);
        told(502, "", End::Clean, Verdict::Pass);
        told(0, "", End::Cut, Verdict::Pass);
        assert_eq!(told_after_a_token(&reply(0, "", End::Cut)).verdict, Verdict::Fail, "a token was lost");
        assert_eq!(told_after_a_token(&reply(200, TOKEN, End::Cut)).verdict, Verdict::Pass);
    }

    #[test]
    fn changed_bytes_are_told_apart_from_changed_text() {
        let expected = TOKEN.as_bytes();
        assert_eq!(unchanged(&reply(200, TOKEN, End::Clean), expected).verdict, Verdict::Pass);
        let spaced = TOKEN.replace(':', ": ");
        assert_eq!(
            unchanged(&reply(200, &spaced, End::Clean), expected),
            fail("rewritten from byte 6 on, the same text")
        );
        assert_eq!(unchanged(&reply(200, "", End::Clean), expected), fail("rewritten from byte 0 on, another text"));
        assert_eq!(unchanged(&reply(200, TOKEN, End::Cut), expected).verdict, Verdict::Fail);
    }

    #[test]
    fn errors_are_in_the_words_of_the_api_or_not() {
        let of = |body: &str| error_kind(&reply(502, body, End::Clean));
        assert_eq!(of("{\"error\":{\"message\":\"m\",\"type\":\"t\"}}"), "an OpenAI error body");
        assert_eq!(of("<html>"), "an HTML page");
        assert_eq!((of(""), of("{\"detail\":\"m\"}")), ("no body", "another body"));
    }
}
