//! W3C trace context: who called, in whose trace, <https://www.w3.org/TR/trace-context/>.

/// Names a trace; never all zeros.
pub type TraceId = [u8; 16];
/// Names a span of a trace; never all zeros.
pub type SpanId = [u8; 8];

/// The flag that says that the caller records the trace.
const SAMPLED: u8 = 1;

/// What a `traceparent` field says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TraceParent {
    /// The trace.
    pub trace_id: TraceId,
    /// The caller's span.
    pub span_id: SpanId,
    /// Whether the caller records it.
    pub sampled: bool,
}

impl TraceParent {
    /// Reads the field; `None` when it is not valid, which means that there is no caller to speak of.
    #[must_use]
    pub fn read(text: &str) -> Option<Self> {
        let mut parts = text.split('-');
        let (version, trace, span, flags) = (parts.next()?, parts.next()?, parts.next()?, parts.next()?);
        let hex =
            |part: &str, length| part.len() == length && part.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'));
        let well_formed = hex(version, 2) && version != "ff" && hex(trace, 32) && hex(span, 16) && hex(flags, 2);
        // Later versions may add parts; the first may not.
        let no_more = version != "00" || parts.next().is_none();
        if !well_formed || !no_more {
            return None;
        }
        let trace_id = u128::from_str_radix(trace, 16).ok().filter(|id| *id != 0)?;
        let span_id = u64::from_str_radix(span, 16).ok().filter(|id| *id != 0)?;
        let flags = u8::from_str_radix(flags, 16).ok()?;
        Some(Self { trace_id: trace_id.to_be_bytes(), span_id: span_id.to_be_bytes(), sampled: flags & SAMPLED != 0 })
    }

    /// The field as it is sent on.
    #[must_use]
    pub fn field(&self) -> String {
        let (trace, span) = (u128::from_be_bytes(self.trace_id), u64::from_be_bytes(self.span_id));
        format!("00-{trace:032x}-{span:016x}-{:02x}", u8::from(self.sampled))
    }
}

/// The trace id in the 32 digits of a `traceparent`.
#[must_use]
pub fn trace_id_text(id: TraceId) -> String {
    format!("{:032x}", u128::from_be_bytes(id))
}

#[cfg(test)]
mod tests {
    use super::*;

    const TRACE: &str = "4bf92f3577b34da6a3ce929d0e0e4736";
    const SPAN: &str = "00f067aa0ba902b7";

    #[track_caller]
    fn check(text: &str, valid: bool) {
        assert_eq!(TraceParent::read(text).is_some(), valid, "{text}");
    }

    #[test]
    fn a_traceparent_is_valid_or_nothing() {
        check(&format!("00-{TRACE}-{SPAN}-01"), true);
        check(&format!("01-{TRACE}-{SPAN}-01-more"), true);
        check(&format!("00-{TRACE}-{SPAN}-01-more"), false);
        check(&format!("00-{TRACE}-{SPAN}-01-"), false);
        check(&format!("ff-{TRACE}-{SPAN}-01"), false);
        check(&format!("00-{}-{SPAN}-01", "0".repeat(32)), false);
        check(&format!("00-{TRACE}-{}-01", "0".repeat(16)), false);
        check(&format!("00-{}-{SPAN}-01", TRACE.to_uppercase()), false);
        check(&format!("00-{TRACE}-{SPAN}-1"), false);
        check(&format!("00-{TRACE}-{SPAN}-0+"), false);
        check(&format!(" 00-{TRACE}-{SPAN}-01"), false);
        check("", false);
    }

    #[test]
    fn what_is_read_is_written_again_in_version_0() {
        for flags in ["00", "01"] {
            let text = format!("00-{TRACE}-{SPAN}-{flags}");
            assert_eq!(TraceParent::read(&text).expect("valid").field(), text);
        }
        let later = TraceParent::read(&format!("cc-{TRACE}-{SPAN}-03-what")).expect("valid");
        assert_eq!(later.field(), format!("00-{TRACE}-{SPAN}-01"));
        assert_eq!(trace_id_text(later.trace_id), TRACE);
    }
}
