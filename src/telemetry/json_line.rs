//! Writes one flat-looking JSON object into a byte buffer: fields in a fixed order, absent ones left out.
//!
//! By hand rather than through serde: domain types do not derive it, and the log's rules (texts cut, numbers to the
//! microsecond, absence instead of null) are stated here once.

use std::fmt::Display;
use std::io::Write;
use std::time::{Duration, SystemTime};

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
        let micros = value.as_micros();
        self.plain(name, Thousandths(micros / 1_000, micros % 1_000));
    }

    pub(super) fn maybe_millis(&mut self, name: &str, value: Option<Duration>) {
        if let Some(value) = value {
            self.millis(name, value);
        }
    }

    /// Microseconds, to the nanosecond.
    pub(super) fn micros(&mut self, name: &str, value: Duration) {
        let nanos = value.as_nanos();
        self.plain(name, Thousandths(nanos / 1_000, nanos % 1_000));
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
struct Thousandths(u128, u128);

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

/// The text's first [`TEXT_BYTES`] bytes, up to a whole character.
fn cut(text: &str) -> &str {
    text.get(..text.floor_char_boundary(TEXT_BYTES)).unwrap_or(text)
}

/// A JSON string: quotes, backslashes and every control character escaped, so that a line stays one line and a
/// terminal shows it as it is.
fn write_text(value: &str, text: &mut Vec<u8>) {
    text.push(b'"');
    for character in value.chars() {
        match character {
            '"' => text.extend_from_slice(b"\\\""),
            '\\' => text.extend_from_slice(b"\\\\"),
            control if control.is_control() || matches!(control, '\u{2028}' | '\u{2029}') => {
                let _infallible = write!(text, "\\u{:04x}", u32::from(control));
            }
            other => text.extend_from_slice(other.encode_utf8(&mut [0; 4]).as_bytes()),
        }
    }
    text.push(b'"');
}

/// `2026-01-31T09:05:06.000007Z`; times before 1970 are written as 1970.
pub(super) fn rfc3339(time: SystemTime) -> String {
    let since_epoch = time.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    let (seconds, micros) = (since_epoch.as_secs(), since_epoch.subsec_micros());
    let (year, month, day) = date_of(seconds / 86_400);
    let (hour, minute, second) = (seconds / 3_600 % 24, seconds / 60 % 60, seconds % 60);
    format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}.{micros:06}Z")
}

/// Year, month and day of a day since 1970-01-01, by Howard Hinnant's `civil_from_days`
/// (<https://howardhinnant.github.io/date_algorithms.html>): years start in March, so that the leap day comes last.
fn date_of(days: u64) -> (u64, u64, u64) {
    let shifted = days + 719_468;
    let (era, day_of_era) = (shifted / 146_097, shifted % 146_097);
    let year_of_era = (day_of_era - day_of_era / 1_460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let march_month = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * march_month + 2) / 5 + 1;
    let month = if march_month < 10 { march_month + 3 } else { march_month - 9 };
    (year_of_era + era * 400 + u64::from(month <= 2), month, day)
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

    #[test]
    fn dates_are_right_around_leap_days() {
        let at = |seconds, micros| rfc3339(SystemTime::UNIX_EPOCH + Duration::new(seconds, micros * 1_000));
        assert_eq!(at(0, 0), "1970-01-01T00:00:00.000000Z");
        assert_eq!(at(951_782_399, 7), "2000-02-28T23:59:59.000007Z");
        assert_eq!(at(951_782_400, 0), "2000-02-29T00:00:00.000000Z");
        assert_eq!(at(1_767_225_599, 999_999), "2025-12-31T23:59:59.999999Z");
        assert_eq!(at(4_107_542_400, 0), "2100-03-01T00:00:00.000000Z");
    }
}
