//! The fields that headway itself puts on every answer to a request: its id, what its caller has left, and what lets a
//! web page read it.

use std::fmt::Write as _;
use std::sync::Arc;
use std::time::Duration;

use pingora_http::ResponseHeader;

use super::cors::Reader;
use crate::fleet::Allowance;
use crate::route::quota::Left;

/// What is put on an answer.
#[derive(Debug, Clone)]
pub(super) struct Stamp {
    /// The exchange's request id.
    pub(super) request_id: Arc<str>,
    /// What the caller has left.
    pub(super) allowance: Allowance,
    /// Whether callers have limits of headway's: then a backend's own words about limits do not count.
    pub(super) asks_for_keys: bool,
    /// The page that asks.
    pub(super) reader: Reader,
}

impl Stamp {
    /// For an answer to whoever asks.
    pub(super) fn of(request_id: &Arc<str>) -> Self {
        let (allowance, reader) = (Allowance::default(), Reader::default());
        Self { request_id: Arc::clone(request_id), allowance, asks_for_keys: false, reader }
    }

    /// Puts it on.
    pub(super) fn put(&self, head: &mut ResponseHeader) -> pingora_core::Result<()> {
        head.insert_header("x-request-id", &*self.request_id)?;
        if self.asks_for_keys {
            remove(head, "x-ratelimit-");
        }
        let Allowance { requests, tokens } = self.allowance;
        if let Some(Left { limit, remaining, reset }) = requests {
            head.insert_header("x-ratelimit-limit-requests", limit.to_string())?;
            head.insert_header("x-ratelimit-remaining-requests", remaining.to_string())?;
            head.insert_header("x-ratelimit-reset-requests", span(reset))?;
        }
        if let Some(Left { limit, remaining, reset }) = tokens {
            head.insert_header("x-ratelimit-limit-tokens", limit.to_string())?;
            head.insert_header("x-ratelimit-remaining-tokens", remaining.to_string())?;
            head.insert_header("x-ratelimit-reset-tokens", span(reset))?;
        }
        self.reader.put(head)
    }
}

/// Takes away all fields whose names begin so.
pub(super) fn remove(head: &mut ResponseHeader, prefix: &str) {
    let names: Vec<_> = head.headers.keys().filter(|name| name.as_str().starts_with(prefix)).cloned().collect();
    for name in names {
        head.remove_header(&name);
    }
}

/// A time as OpenAI writes it: `6m0s`, `1s`, `250ms`; rounded up to a millisecond.
fn span(time: Duration) -> String {
    let millis = time.as_nanos().div_ceil(1_000_000);
    let (minutes, seconds, millis) = (millis / 60_000, millis / 1_000 % 60, millis % 1_000);
    let mut text = String::new();
    if minutes > 0 {
        let _ = write!(text, "{minutes}m");
    }
    let _ = match (seconds, millis) {
        (0, 1..) if minutes == 0 => write!(text, "{millis}ms"),
        (_, 0) => write!(text, "{seconds}s"),
        _ => write!(text, "{seconds}.{millis:03}s"),
    };
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_written_as_openai_writes_them() {
        for (micros, expected) in [
            (0, "0s"),
            (1, "1ms"),
            (250_000, "250ms"),
            (1_000_000, "1s"),
            (1_250_000, "1.250s"),
            (60_000_000, "1m0s"),
            (360_000_000, "6m0s"),
            (60_500_000, "1m0.500s"),
        ] {
            assert_eq!(span(Duration::from_micros(micros)), expected);
        }
    }
}
