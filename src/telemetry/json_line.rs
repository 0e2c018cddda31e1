//! Writes one flat-looking JSON object into a byte buffer: fields in a fixed order, absent ones left out.
//!
//! By hand rather than through serde: domain types do not derive it, and the log's rules (texts cut, numbers to the
//! microsecond, absence instead of null) are stated here once.

use std::fmt::Display;
use std::io::Write;
use std::time::{Duration, SystemTime};

use super::time::rfc3339;

/// Longest text of a field, in bytes.
const TEXT_BYTES: usize = 256;

/// An object, or an array, being written.
pub(super) struct Json<'a> {
    text: &'a mut Vec<u8>,
    first: bool,
}

impl<'a> Json<'a> {
    /// Writes `{`, what `fill` adds, and `}`.
    pub(super) fn object(text: &'a mut Vec<u8>, fill: impl FnOnce(&mut Json<'_>)) {
        Self::between(text, b'{', b'}', fill);
    }

    fn between(text: &mut Vec<u8>, open: u8, close: u8, fill: impl FnOnce(&mut Json<'_>)) {
        text.push(open);
        fill(&mut Json { text, first: true });
        text.push(close);
    }

    fn separate(&mut self) {
        if !std::mem::take(&mut self.first) {
            self.text.push(b',');
        }
    }

    fn name(&mut self, name: &str) {
        self.separate();
        write_text(name, self.text);
        self.text.push(b':');
    }

    fn plain(&mut self, name: &str, value: impl Display) {
        self.name(name);
        // Writing into memory does not fail.
        let _infallible = write!(self.text, "{value}");
    }

    pub(super) fn text(&mut self, name: &str, value: &str) {
        self.name(name);
        write_text(cut(value), self.text);
    }

    pub(super) fn maybe_text(&mut self, name: &str, value: Option<&str>) {
        if let Some(value) = value {
            self.text(name, value);
        }
    }

    pub(super) fn flag(&mut self, name: &str, value: bool) {
        self.plain(name, value);
    }

    pub(super) fn number(&mut self, name: &str, value: u64) {
        self.plain(name, value);
    }

    pub(super) fn maybe_number(&mut self, name: &str, value: Option<u64>) {
        if let Some(value) = value {
            self.number(name, value);
        }
    }

    /// A number that JSON can hold; `NaN` and infinities are left out.
    pub(super) fn maybe_float(&mut self, name: &str, value: Option<f64>) {
        if let Some(value) = value.filter(|value| value.is_finite()) {
            self.plain(name, value);
        }
    }

    /// Milliseconds, to the microsecond.
    pub(super) fn millis(&mut self, name: &str, value: Duration) {
        self.plain(name, Thousandths::of(value.as_micros()));
    }

    pub(super) fn maybe_millis(&mut self, name: &str, value: Option<Duration>) {
        if let Some(value) = value {
            self.millis(name, value);
        }
    }

    /// Microseconds, to the nanosecond.
    pub(super) fn micros(&mut self, name: &str, value: Duration) {
        self.plain(name, Thousandths::of(value.as_nanos()));
    }

    /// Microseconds, if there are any to speak of.
    pub(super) fn maybe_micros(&mut self, name: &str, value: Option<Duration>) {
        if let Some(value) = value {
            self.micros(name, value);
        }
    }

    /// Time in RFC 3339, UTC, to the microsecond.
    pub(super) fn time(&mut self, name: &str, time: SystemTime) {
        self.text(name, &rfc3339(time));
    }

    pub(super) fn object_field(&mut self, name: &str, fill: impl FnOnce(&mut Json<'_>)) {
        self.name(name);
        Self::between(self.text, b'{', b'}', fill);
    }

    /// An array of objects.
    pub(super) fn objects<T>(&mut self, name: &str, items: &[T], each: impl Fn(&T, &mut Json<'_>)) {
        self.name(name);
        Self::between(self.text, b'[', b']', |array| {
            for item in items {
                array.separate();
                Self::between(array.text, b'{', b'}', |object| each(item, object));
            }
        });
    }
}

/// A whole number and its thousandths, without trailing zeros.
struct Thousandths(u64, u64);

impl Thousandths {
    fn of(count: u128) -> Self {
        let count = u64::try_from(count).unwrap_or(u64::MAX);
        Self(count / 1_000, count % 1_000)
    }
}

impl Display for Thousandths {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let &Self(whole, part) = self;
        match part {
            0 => write!(f, "{whole}"),
            _ if part % 100 == 0 => write!(f, "{whole}.{}", part / 100),
            _ if part % 10 == 0 => write!(f, "{whole}.{:02}", part / 10),
            _ => write!(f, "{whole}.{part:03}"),
        }
    }
}

/// The text's first [`TEXT_BYTES`] bytes, back to a whole character.
fn cut(text: &str) -> &str {
    let mut ends = (0..=TEXT_BYTES.min(text.len())).rev();
    ends.find_map(|end| text.get(..end)).unwrap_or_default()
}

/// A JSON string: quotes, backslashes and every control character escaped, so that a line stays one line and a
/// terminal shows it as it is.
fn write_text(value: &str, text: &mut Vec<u8>) {
    text.push(b'"');
    let mut rest = value;
    while let Some((at, character)) = rest.char_indices().find(|(_, character)| is_special(*character)) {
        let (plain, after) = rest.split_at_checked(at).unwrap_or((rest, ""));
        text.extend_from_slice(plain.as_bytes());
        let _infallible = match character {
            '"' | '\\' => write!(text, "\\{character}"),
            _ => write!(text, "\\u{:04x}", u32::from(character)),
        };
        rest = after.get(character.len_utf8()..).unwrap_or_default();
    }
    text.extend_from_slice(rest.as_bytes());
    text.push(b'"');
}

fn is_special(character: char) -> bool {
    matches!(character, '"' | '\\' | '\u{2028}' | '\u{2029}') || character.is_control()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(fill: impl FnOnce(&mut Json<'_>), expected: &str) {
        let mut text = Vec::new();
        Json::object(&mut text, fill);
        assert_eq!(String::from_utf8(text).unwrap(), expected);
    }

    #[test]
    fn times_are_written_to_the_microsecond() {
        check(|json| json.millis("x", Duration::from_micros(12_345)), r#"{"x":12.345}"#);
        check(|json| json.millis("x", Duration::from_micros(12_050)), r#"{"x":12.05}"#);
        check(|json| json.millis("x", Duration::from_micros(100)), r#"{"x":0.1}"#);
        check(|json| json.millis("x", Duration::from_secs(3)), r#"{"x":3000}"#);
        check(|json| json.micros("x", Duration::from_nanos(35_200)), r#"{"x":35.2}"#);
    }

    #[test]
    fn what_is_absent_is_left_out() {
        let fill = |json: &mut Json<'_>| {
            json.maybe_text("a", None);
            json.maybe_float("b", Some(f64::NAN));
            json.maybe_millis("c", None);
            json.flag("d", true);
            json.maybe_float("e", Some(0.25));
        };
        check(fill, r#"{"d":true,"e":0.25}"#);
    }

    #[test]
    fn control_characters_cannot_break_a_line_or_a_terminal() {
        check(
            |json| json.text("x", "a\n\"\\\u{1b}[31m\u{85}\u{2028}é"),
            r#"{"x":"a\u000a\"\\\u001b[31m\u0085\u2028é"}"#,
        );
    }

    #[test]
    fn long_texts_are_cut_at_a_character() {
        let long = format!("{}é{}", "a".repeat(255), "b".repeat(1_000));
        check(|json| json.text("x", &long), &format!(r#"{{"x":"{}"}}"#, "a".repeat(255)));
    }
}
