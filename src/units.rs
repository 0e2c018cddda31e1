//! Quantities that carry their unit, and the texts people write them in.
//!
//! A duration is written `300ms`, a size `32MiB`, a share `5%` or `0.05`, a quantile `p95`. Bare numbers are refused
//! where a unit is missing: `300` has meant seconds and milliseconds in too many configuration files.

use std::fmt;
use std::time::Duration;

/// Why a text is not the quantity it should be; the message names the remedy.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ParseError {
    /// A number stands without its unit.
    #[error("`{text}` needs a unit, such as {example}")]
    MissingUnit {
        /// What was written.
        text: String,
        /// A text that would have been right.
        example: String,
    },
    /// The text is not of the expected form at all.
    #[error("`{text}` is not a {what}; write it as {example}")]
    Malformed {
        /// What was written.
        text: String,
        /// What was expected.
        what: &'static str,
        /// A text that would have been right.
        example: &'static str,
    },
    /// A duration that no clock can be moved by.
    #[error("`{text}` is longer than ten years; for no bound in practice, `365d` will do")]
    TooLong {
        /// What was written.
        text: String,
    },
}

/// The longest duration that may be written: an instant plus this is an instant.
const LONGEST: Duration = Duration::from_secs(10 * 366 * 86_400);

/// A share of a distribution, strictly between 0 and 1: `p95` is 0.95.
#[derive(Debug, Clone, Copy, PartialEq, PartialOrd)]
pub struct Quantile(f64);

impl Quantile {
    /// The median.
    pub const P50: Self = Self(0.50);
    /// The 90th percentile.
    pub const P90: Self = Self(0.90);
    /// The 95th percentile.
    pub const P95: Self = Self(0.95);
    /// The 99th percentile.
    pub const P99: Self = Self(0.99);

    /// A quantile from a share strictly between 0 and 1.
    #[must_use]
    pub fn new(share: f64) -> Option<Self> {
        (share > 0.0 && share < 1.0).then_some(Self(share))
    }

    /// The share, between 0 and 1.
    #[must_use]
    pub fn share(self) -> f64 {
        self.0
    }

    /// Reads `p95`, `p99.9`.
    ///
    /// # Errors
    /// When the text is not `p` and a number strictly between 0 and 100.
    pub fn parse(text: &str) -> Result<Self, ParseError> {
        text.strip_prefix('p')
            .and_then(|digits| digits.parse::<f64>().ok())
            .and_then(|percent| Self::new(percent / 100.0))
            .ok_or_else(|| ParseError::Malformed { text: text.to_owned(), what: "quantile", example: "p95" })
    }
}

impl fmt::Display for Quantile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Six decimals of a percent are more than anyone writes, and hide the binary fraction's tail.
        let percent = (self.0 * 100.0 * 1e6).round() / 1e6;
        write!(f, "p{percent}")
    }
}

/// Reads a duration with its unit: `250us`, `300ms`, `2s`, `1.5h`, `10m`, `30d`; parts may follow each other (`1h30m`).
///
/// # Errors
/// When a unit is missing or unknown, or nothing is there.
pub fn parse_duration(text: &str) -> Result<Duration, ParseError> {
    let malformed =
        || ParseError::Malformed { text: text.to_owned(), what: "duration", example: "`300ms`, `2s` or `10m`" };
    let mut rest = text.trim();
    if rest == "0" {
        return Ok(Duration::ZERO);
    }
    let mut total = Duration::ZERO;
    let mut parts = 0;
    while !rest.is_empty() {
        let (number, unit, after) = split_quantity(rest).ok_or_else(malformed)?;
        if unit.is_empty() {
            return Err(ParseError::MissingUnit {
                text: text.to_owned(),
                example: format!("`{number}ms` or `{number}s`"),
            });
        }
        let seconds = seconds_of(unit).ok_or_else(malformed)?;
        let part = Duration::try_from_secs_f64(number * seconds).map_err(|_| malformed())?;
        total = total.checked_add(part).ok_or_else(malformed)?;
        rest = after.trim_start();
        parts += 1;
    }
    if total > LONGEST {
        return Err(ParseError::TooLong { text: text.to_owned() });
    }
    if parts == 0 { Err(malformed()) } else { Ok(total) }
}

/// Reads a size in bytes with its unit: `64KiB`, `32MiB`, `2GiB`, `512B`; decimal `kB`, `MB`, `GB` too.
///
/// # Errors
/// When a unit is missing or unknown, or the size does not fit.
pub fn parse_size(text: &str) -> Result<u64, ParseError> {
    let malformed = || ParseError::Malformed { text: text.to_owned(), what: "size", example: "`32MiB` or `64KiB`" };
    let (number, unit, after) = split_quantity(text.trim()).ok_or_else(malformed)?;
    if unit.is_empty() {
        return Err(ParseError::MissingUnit { text: text.to_owned(), example: format!("`{number}MiB`") });
    }
    let scale = bytes_of(unit).filter(|_| after.is_empty()).ok_or_else(malformed)?;
    let bytes = number * scale;
    #[allow(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "checked against the range a float holds exactly"
    )]
    if (0.0..9.0e15).contains(&bytes) { Ok(bytes.round() as u64) } else { Err(malformed()) }
}

/// Reads a share as a ratio: `5%` or `0.05`, from 0 to 1.
///
/// # Errors
/// When it is no number, or outside 0 to 1.
pub fn parse_ratio(text: &str) -> Result<f64, ParseError> {
    let text = text.trim();
    let value = match text.strip_suffix('%') {
        Some(percent) => percent.trim_end().parse::<f64>().map(|percent| percent / 100.0),
        None => text.parse::<f64>(),
    };
    value.ok().filter(|ratio| (0.0..=1.0).contains(ratio)).ok_or_else(|| ParseError::Malformed {
        text: text.to_owned(),
        what: "share",
        example: "`5%` or `0.05`",
    })
}

/// Writes a duration the way [`parse_duration`] reads it, with the largest unit that keeps it exact to the microsecond.
#[must_use]
pub fn format_duration(duration: Duration) -> String {
    let micros = duration.as_micros();
    let (scale, unit) = match micros {
        0 => return "0s".to_owned(),
        m if m % 86_400_000_000 == 0 => (86_400_000_000, "d"),
        m if m % 3_600_000_000 == 0 => (3_600_000_000, "h"),
        m if m % 60_000_000 == 0 => (60_000_000, "m"),
        m if m % 1_000_000 == 0 => (1_000_000, "s"),
        m if m % 1_000 == 0 => (1_000, "ms"),
        _ => (1, "us"),
    };
    format!("{}{unit}", micros / scale)
}

/// Writes a size the way [`parse_size`] reads it, with the largest binary unit that keeps it exact.
#[must_use]
pub fn format_size(bytes: u64) -> String {
    let (scale, unit) = match bytes {
        b if b != 0 && b % (1 << 30) == 0 => (1 << 30, "GiB"),
        b if b != 0 && b % (1 << 20) == 0 => (1 << 20, "MiB"),
        b if b != 0 && b % (1 << 10) == 0 => (1 << 10, "KiB"),
        _ => (1, "B"),
    };
    format!("{}{unit}", bytes / scale)
}

/// Splits `1.5h30m` into 1.5, `h` and `30m`; `None` when no number leads.
fn split_quantity(text: &str) -> Option<(f64, &str, &str)> {
    let number_end = text.find(|c: char| !(c.is_ascii_digit() || c == '.')).unwrap_or(text.len());
    let (number, rest) = text.split_at(number_end);
    let unit_end = rest.find(|c: char| !c.is_alphabetic()).unwrap_or(rest.len());
    let (unit, after) = rest.split_at(unit_end);
    Some((number.parse().ok()?, unit, after))
}

fn seconds_of(unit: &str) -> Option<f64> {
    Some(match unit {
        "us" | "µs" => 1e-6,
        "ms" => 1e-3,
        "s" => 1.0,
        "m" | "min" => 60.0,
        "h" => 3_600.0,
        "d" => 86_400.0,
        _ => return None,
    })
}

fn bytes_of(unit: &str) -> Option<f64> {
    Some(match unit {
        "B" => 1.0,
        "kB" | "KB" => 1e3,
        "MB" => 1e6,
        "GB" => 1e9,
        "KiB" => 1024.0,
        "MiB" => 1024.0 * 1024.0,
        "GiB" => 1024.0 * 1024.0 * 1024.0,
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn duration(text: &str, micros: u64) {
        let read = parse_duration(text).expect(text);
        assert_eq!(read, Duration::from_micros(micros), "{text}");
        assert_eq!(parse_duration(&format_duration(read)).expect("what was written"), read, "{text} written and read");
    }

    #[test]
    fn durations_are_read_and_written_back() {
        duration("300ms", 300_000);
        duration("250us", 250);
        duration("1.5s", 1_500_000);
        duration("1h30m", 5_400_000_000);
        duration("30d", 30 * 86_400_000_000);
        duration("0s", 0);
        duration("0", 0);
    }

    #[test]
    fn a_bare_number_is_refused_with_the_remedy() {
        let error = parse_duration("300").expect_err("no unit").to_string();
        assert!(error.contains("`300ms`"), "{error}");
        assert!(parse_size("32").expect_err("no unit").to_string().contains("MiB"));
        assert!(parse_duration("4000d").expect_err("no clock goes so far").to_string().contains("ten years"));
        for bad in ["", "ms", "3 parsecs", "1s2", "-1s", "1e3s", "∞"] {
            assert!(parse_duration(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn sizes_are_read_and_written_back() {
        for (text, bytes) in [("32MiB", 32 << 20), ("64KiB", 64 << 10), ("2GiB", 2 << 30), ("10B", 10), ("1kB", 1000)] {
            assert_eq!(parse_size(text), Ok(bytes), "{text}");
            assert_eq!(parse_size(&format_size(bytes)), Ok(bytes), "{text}");
        }
        assert!(parse_size("1MiB2").is_err());
    }

    #[test]
    fn shares_are_percent_or_fraction() {
        assert_eq!(parse_ratio("5%"), Ok(0.05));
        assert_eq!(parse_ratio("0.05"), Ok(0.05));
        assert!(parse_ratio("5").is_err());
    }

    #[test]
    fn quantiles_are_strictly_inside() {
        assert_eq!(Quantile::parse("p95"), Ok(Quantile::P95));
        assert_eq!(Quantile::parse("p99.9").expect("fine").to_string(), "p99.9");
        for bad in ["p0", "p100", "95", "pp", "p-1"] {
            assert!(Quantile::parse(bad).is_err(), "{bad}");
        }
    }
}
