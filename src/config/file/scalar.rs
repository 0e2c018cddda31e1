//! Single values: what a text means, or why it means nothing.

use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::time::Duration;

use super::suggest::nearest;
use crate::config::access::{Cors, KeyDigest};
use crate::config::network::Network;
use crate::config::settings::{BackendUrl, GpuId, TRACE_ID};
use crate::units::{self, ParseError, Quantile};

/// Longest text anywhere in the configuration.
const MAX_TEXT: usize = 4_096;
/// Most of anything that is counted with a unit.
const MOST_COUNTED: u64 = 1_000_000_000_000;
/// The longest name of a GPU: `MIG-GPU-`, a UUID and two numbers are 50 bytes.
const LONGEST_GPU: usize = 96;

/// Why a text is not what it should be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Wrong {
    pub(super) message: String,
    pub(super) hint: String,
    pub(super) suggestion: Option<String>,
}

impl Wrong {
    pub(super) fn new(message: impl Into<String>, hint: impl Into<String>) -> Self {
        Self { message: message.into(), hint: hint.into(), suggestion: None }
    }
}

impl From<ParseError> for Wrong {
    fn from(error: ParseError) -> Self {
        match error {
            ParseError::MissingUnit { text, example } => {
                Self::new(format!("`{text}` has no unit"), format!("write {example}"))
            }
            ParseError::Malformed { text, what, example } => {
                Self::new(format!("`{text}` is not a {what}"), format!("write it as {example}"))
            }
            ParseError::TooLong { text } => {
                Self::new(format!("`{text}` is longer than ten years"), "for no bound in practice, write `365d`")
            }
        }
    }
}

pub(super) fn text(text: &str) -> Result<&str, Wrong> {
    if text.trim().is_empty() {
        return Err(Wrong::new("this text is empty", "write something, or remove the key"));
    }
    if text.len() > MAX_TEXT || text.chars().any(char::is_control) {
        let message = format!("this text holds control characters, or more than {MAX_TEXT} bytes");
        return Err(Wrong::new(message, "write it on one line"));
    }
    Ok(text)
}

pub(super) fn name(name: &str) -> Result<&str, Wrong> {
    let fits = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
    if (1..=64).contains(&name.len()) && name.chars().all(fits) {
        return Ok(name);
    }
    Err(Wrong::new(format!("`{name}` cannot be a name"), "use 1 to 64 letters, digits, `-`, `_`, `.`"))
}

pub(super) fn duration_or_zero(text: &str) -> Result<Duration, Wrong> {
    Ok(units::parse_duration(text)?)
}

pub(super) fn duration(text: &str) -> Result<Duration, Wrong> {
    match units::parse_duration(text)? {
        Duration::ZERO => Err(Wrong::new("a duration of zero makes no sense here", "such as `300ms`, `2s` or `10m`")),
        duration => Ok(duration),
    }
}

pub(super) fn size(text: &str) -> Result<u64, Wrong> {
    match units::parse_size(text)? {
        0 => Err(Wrong::new("a size of zero makes no sense here", "such as `32MiB` or `64KiB`")),
        size => Ok(size),
    }
}

pub(super) fn share(text: &str) -> Result<f64, Wrong> {
    Ok(units::parse_ratio(text)?)
}

pub(super) fn quantile(text: &str) -> Result<Quantile, Wrong> {
    Quantile::parse(text).map_err(|error| {
        let mut wrong = Wrong::from(error);
        let digits = text.trim_start_matches(|c: char| !c.is_ascii_digit()).trim_end_matches(['%', 't', 'h']);
        wrong.suggestion = Some(format!("p{digits}")).filter(|meant| Quantile::parse(meant).is_ok());
        wrong
    })
}

pub(super) fn switch(text: &str) -> Result<bool, Wrong> {
    let meant = match text {
        "true" => return Ok(true),
        "false" => return Ok(false),
        other if ["yes", "on", "1"].contains(&other.to_lowercase().as_str()) => Some("true"),
        other if ["no", "off", "0"].contains(&other.to_lowercase().as_str()) => Some("false"),
        other => nearest(other, ["true", "false"]),
    };
    let mut wrong = Wrong::new(format!("`{text}` is neither `true` nor `false`"), "write `true` or `false`");
    wrong.suggestion = meant.map(str::to_owned);
    Err(wrong)
}

pub(super) fn integer(text: &str, low: u64, high: u64) -> Result<u64, Wrong> {
    let hint = || format!("write a number from {low} to {high}");
    let number: u64 =
        text.parse().map_err(|_| Wrong::new(format!("`{text}` is not a whole number from {low} to {high}"), hint()))?;
    if (low..=high).contains(&number) {
        return Ok(number);
    }
    Err(Wrong::new(format!("{number} is outside {low} to {high}"), hint()))
}

pub(super) fn money(text: &str) -> Result<f64, Wrong> {
    let amount = text.parse().ok().filter(|amount: &f64| amount.is_finite() && (0.0..=1e9).contains(amount));
    amount.ok_or_else(|| Wrong::new(format!("`{text}` is not an amount"), "write a number such as `4.00`"))
}

pub(super) fn choice(text: &str, words: &[&'static str]) -> Result<&'static str, Wrong> {
    if let Some(word) = words.iter().find(|word| **word == text) {
        return Ok(word);
    }
    let quoted: Vec<_> = words.iter().map(|word| format!("`{word}`")).collect();
    let hint = match quoted.as_slice() {
        [only] => format!("write {only}"),
        many => format!("write one of {}", many.join(", ")),
    };
    let mut wrong = Wrong::new(format!("`{text}` is not a choice here"), hint);
    wrong.suggestion = nearest(text, words.iter().copied()).map(str::to_owned);
    Err(wrong)
}

pub(super) fn threads(text: &str) -> Result<Option<usize>, Wrong> {
    if text == "auto" {
        return Ok(None);
    }
    let wrong = |_| {
        let mut wrong =
            Wrong::new(format!("`{text}` is not a number of threads"), "write `auto`, or a number from 1 to 1024");
        wrong.suggestion = nearest(text, ["auto"]).map(str::to_owned);
        wrong
    };
    integer(text, 1, 1_024).map_err(wrong).map(|threads| usize::try_from(threads).ok())
}

pub(super) fn address(text: &str) -> Result<SocketAddr, Wrong> {
    if let Ok(address) = text.parse() {
        return Ok(address);
    }
    let mut wrong = Wrong::new(
        format!("`{text}` is not an address with a port"),
        "write `127.0.0.1:8080`, `0.0.0.0:8080` or `[::1]:8080`",
    );
    let port = text.rsplit(':').next().unwrap_or_default();
    let local = text.strip_prefix("localhost").map(|rest| format!("127.0.0.1{rest}"));
    let bare = text.parse::<IpAddr>().ok().map(|ip| SocketAddr::new(ip, 8080).to_string());
    let every = port.parse::<u16>().ok().map(|port| format!("0.0.0.0:{port}"));
    wrong.suggestion = local.or(bare).or(every).filter(|meant| meant.parse::<SocketAddr>().is_ok());
    Err(wrong)
}

pub(super) fn network(text: &str) -> Result<Network, Wrong> {
    let wrong = || Wrong::new(format!("`{text}` is not a network"), "write `10.0.0.0/8`, `fd00::/8` or one address");
    Network::parse(text).ok_or_else(wrong)
}

/// `2026-01-31`, or `2026-01-31T09:05:06Z`: what sorts as text, and no more of the calendar than that.
pub(super) fn date(text: &str) -> Result<&str, Wrong> {
    let (day, time) = text.split_once('T').map_or((text, None), |(day, time)| (day, Some(time)));
    let numbers = |text: &str, separator: char, most: [u32; 3]| {
        let mut parts = text.split(separator);
        let fits = |most: &u32| {
            parts.next().is_some_and(|part| part.len() >= 2 && part.parse().is_ok_and(|n: u32| n <= *most))
        };
        most.iter().all(fits) && parts.next().is_none()
    };
    let clock = |time: &str| {
        time.strip_suffix('Z').is_some_and(|time| {
            let (time, fraction) = time.split_once('.').unwrap_or((time, "0"));
            numbers(time, ':', [23, 59, 60]) && fraction.parse::<u32>().is_ok()
        })
    };
    if text.len() >= 10 && numbers(day, '-', [9_999, 12, 31]) && time.is_none_or(clock) {
        return Ok(text);
    }
    Err(Wrong::new(format!("`{text}` is not a date"), "write `2026-01-31` or `2026-01-31T09:05:06Z`"))
}

pub(super) fn url_path(text: &str) -> Result<&str, Wrong> {
    let clean = |c: char| c.is_ascii_graphic() && !matches!(c, '?' | '#');
    if text.starts_with('/') && text.len() <= 1_024 && text.chars().all(clean) {
        return Ok(text);
    }
    let mut wrong =
        Wrong::new(format!("`{text}` is not a URL path"), "begin with `/`, leave out host, query and fragment");
    wrong.suggestion = Some(format!("/{text}")).filter(|meant| !text.contains(':') && meant.chars().all(clean));
    Err(wrong)
}

/// A page's address with a place for a trace's id; a browser follows it, so it can be no script.
pub(super) fn trace_url(text: &str) -> Result<&str, Wrong> {
    let example = "write it as `http://jaeger:16686/trace/{trace_id}`";
    if !(text.starts_with("http://") || text.starts_with("https://")) {
        return Err(Wrong::new("the address of traces begins with `http://` or `https://`", example));
    }
    if !text.contains(TRACE_ID) {
        return Err(Wrong::new(format!("`{TRACE_ID}` is missing: every link would lead to the same page"), example));
    }
    if text.len() > MAX_TEXT || !text.chars().all(|c| c.is_ascii_graphic()) {
        return Err(Wrong::new("this is no address", example));
    }
    Ok(text)
}

pub(super) fn header_name(text: &str) -> Result<http::HeaderName, Wrong> {
    let wrong = |_| Wrong::new(format!("`{text}` cannot be a header name"), "use letters, digits and `-`");
    http::HeaderName::from_bytes(text.as_bytes()).map_err(wrong)
}

/// A credential; the message never shows it.
pub(super) fn secret(text: &str) -> Result<&str, Wrong> {
    let hint = "write `\"${VARIABLE}\"` or `{ file: … }`";
    match text.trim() {
        "" => Err(Wrong::new("this secret is empty", hint)),
        secret if secret.len() <= MAX_TEXT && secret.chars().all(|c| c.is_ascii_graphic()) => Ok(secret),
        _ => Err(Wrong::new("this secret holds characters that cannot be sent in a header", hint)),
    }
}

/// A backend's address.
///
/// Link-local addresses are refused: they are where clouds keep instance credentials, and no model server lives there.
pub(super) fn url(text: &str) -> Result<BackendUrl, Wrong> {
    let example = "write it as `http://10.0.0.11:8000` or `https://nim.internal`";
    let Some((scheme, rest)) = text.split_once("://") else {
        let mut wrong = Wrong::new(format!("`{}` has no scheme", without_user(text)), example);
        wrong.suggestion = Some(format!("http://{text}")).filter(|_| !text.contains('@') && !text.is_empty());
        return Err(wrong);
    };
    let https = match scheme.to_ascii_lowercase().as_str() {
        "https" => true,
        "http" => false,
        other => {
            let mut wrong = Wrong::new(format!("`{other}` is not a scheme that backends speak"), example);
            wrong.suggestion = nearest(other, ["http", "https"]).map(str::to_owned);
            return Err(wrong);
        }
    };
    if rest.contains(['?', '#']) {
        return Err(Wrong::new("a backend's URL has no query and no fragment", example));
    }
    let (authority, path) = rest.split_at(rest.find('/').unwrap_or(rest.len()));
    if authority.contains('@') {
        return Err(Wrong::new("credentials do not belong in a URL", "use `api_key` instead"));
    }
    if !path.is_empty() {
        url_path(path)?;
    }
    let (host, port) = host_and_port(authority)
        .ok_or_else(|| Wrong::new(format!("`{authority}` is not a host with an optional port"), example))?;
    let port = port.unwrap_or(if https { 443 } else { 80 });
    Ok(BackendUrl { https, host: host.into(), port, base_path: path.trim_end_matches('/').into() })
}

/// `0`, `GPU-…`, `MIG-…` or `0/7`.
pub(super) fn gpu(text: &str) -> Result<GpuId, Wrong> {
    let id = GpuId(text.into());
    let plain = |character: char| character.is_ascii_alphanumeric() || matches!(character, '-' | '/');
    if id.named().is_none() || text.len() > LONGEST_GPU || !text.chars().all(plain) {
        let hint = "write an index such as `0`, or a UUID such as `GPU-…` or `MIG-…`, as `nvidia-smi -L` shows them";
        return Err(Wrong::new(format!("`{text}` names no GPU"), hint));
    }
    Ok(id)
}

/// `600`, `200k` or `2M`.
pub(super) fn count(text: &str) -> Result<u64, Wrong> {
    let (digits, unit) = match text.as_bytes().last() {
        Some(b'k') => (text.strip_suffix('k'), 1_000),
        Some(b'M') => (text.strip_suffix('M'), 1_000_000),
        _ => (Some(text), 1),
    };
    let digits = digits.filter(|digits| digits.bytes().all(|byte| byte.is_ascii_digit()));
    let number = digits.and_then(|digits| digits.parse::<u64>().ok()?.checked_mul(unit));
    let number = number.filter(|number| (1..=MOST_COUNTED).contains(number));
    number.ok_or_else(|| Wrong::new(format!("`{text}` is not a number of them"), "write it as `600`, `200k` or `2M`"))
}

/// The digest of a key. What stands there may be the key itself, so the message does not show it.
pub(super) fn sha256(text: &str) -> Result<KeyDigest, Wrong> {
    let hint = "64 hexadecimal digits, as of `printf %s \"$KEY\" | sha256sum`";
    KeyDigest::parse(text).ok_or_else(|| Wrong::new("this is no SHA-256 digest", hint))
}

/// What a browser says of where a page came from, <https://www.rfc-editor.org/rfc/rfc6454#section-6.1>; or `*`.
pub(super) fn origin(text: &str) -> Result<&str, Wrong> {
    if text == Cors::ANY {
        return Ok(text);
    }
    let example = "write it as `https://app.example.com`, a port with it where the address has one";
    let wrong = |message: String| Wrong::new(message, example);
    let Some((scheme, authority)) = text.split_once("://") else {
        let mut wrong = wrong(format!("`{text}` has no scheme"));
        wrong.suggestion = Some(format!("https://{text}")).filter(|_| host_and_port(text).is_some());
        return Err(wrong);
    };
    let bare = authority.trim_end_matches('/');
    let Some((host, port)) = host_and_port(bare).filter(|_| ["http", "https"].contains(&scheme)) else {
        return Err(wrong(format!("`{text}` is not an origin")));
    };
    // Browsers leave out the scheme's own port, the slash and capital letters.
    let port = port.filter(|port| *port != if scheme == "https" { 443 } else { 80 });
    let host = if host.contains(':') { format!("[{host}]") } else { host };
    let said = port.map_or_else(|| format!("{scheme}://{host}"), |port| format!("{scheme}://{host}:{port}"));
    if said == text {
        return Ok(text);
    }
    let mut wrong = wrong(format!("no browser calls an origin `{text}`"));
    wrong.suggestion = Some(said);
    Err(wrong)
}

/// The text without what may be a password.
fn without_user(text: &str) -> &str {
    text.rsplit('@').next().unwrap_or_default()
}

/// `host`, `host:8000`, `[::1]:8000`; brackets are removed.
fn host_and_port(authority: &str) -> Option<(String, Option<u16>)> {
    let port = |text: &str| text.parse::<u16>().ok().filter(|port| *port != 0);
    if let Some(rest) = authority.strip_prefix('[') {
        let (host, after) = rest.split_once(']')?;
        let host = host.parse::<Ipv6Addr>().ok()?.to_string();
        return match after.strip_prefix(':') {
            Some(digits) => Some((host, Some(port(digits)?))),
            None => after.is_empty().then_some((host, None)),
        };
    }
    let (host, port) = match authority.split_once(':') {
        Some((host, digits)) => (host, Some(port(digits)?)),
        None => (authority, None),
    };
    let fits = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
    // All digits and dots is meant as an address, so it must be one: `10.0.0.300` is no host name.
    let address = host.chars().all(|c| c.is_ascii_digit() || c == '.');
    let valid = (1..=253).contains(&host.len())
        && host.chars().all(fits)
        && !host.starts_with(['-', '.'])
        && (!address || host.parse::<IpAddr>().is_ok());
    valid.then(|| (host.to_ascii_lowercase(), port))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn reads(text: &str, expected: (bool, &str, u16, &str)) {
        let read = url(text).expect(text);
        assert_eq!((read.https, &*read.host, read.port, &*read.base_path), expected, "{text}");
    }

    #[test]
    fn urls_are_taken_apart() {
        reads("http://10.0.0.11:8000", (false, "10.0.0.11", 8000, ""));
        reads("https://Nim.internal/", (true, "nim.internal", 443, ""));
        reads("http://[::1]:8000/base/", (false, "::1", 8000, "/base"));
        reads("http://localhost", (false, "localhost", 80, ""));
    }

    #[test]
    fn urls_that_cannot_be_backends_are_refused() {
        for bad in [
            "10.0.0.11:8000",
            "ftp://a",
            "http://",
            "http://a:0",
            "http://a:99999",
            "http://a b",
            "http://user:pw@a",
            "http://a?x=1",
            "http://10.0.0.300",
            "http://[::1",
        ] {
            assert!(url(bad).is_err(), "{bad}");
        }
        assert!(!url("http://user:hunter2@a").expect_err("user").message.contains("hunter2"));
    }

    #[test]
    fn dates_are_days_or_instants() {
        for good in ["2026-01-31", "2026-01-31T09:05:06Z", "2026-01-31T09:05:06.000007Z"] {
            assert_eq!(date(good), Ok(good));
        }
        for bad in [
            "31.01.2026",
            "2026-1-31",
            "2026-13-01",
            "2026-01-31T09:05Z",
            "2026-01-31T09:05:06",
            "yesterday",
            "2026-01-31-1",
        ] {
            assert!(date(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn numbers_may_be_thousands_and_millions() {
        for (text, expected) in [("600", 600), ("200k", 200_000), ("2M", 2_000_000)] {
            assert_eq!(count(text), Ok(expected));
        }
        for bad in ["", "0", "k", "-1", "+k", "1.5k", "200K", "9999999999999", "18446744073709551615k"] {
            assert!(count(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn origins_are_written_as_browsers_say_them() {
        for good in ["https://app.example.com", "http://localhost:3000", "http://[::1]:3000", "*"] {
            assert_eq!(origin(good), Ok(good));
        }
        for (bad, meant) in [
            ("app.example.com", Some("https://app.example.com")),
            ("https://App.example.com/", Some("https://app.example.com")),
            ("https://app.example.com:443", Some("https://app.example.com")),
            ("https://app.example.com/page", None),
            ("ftp://app.example.com", None),
            ("https://*.example.com", None),
            ("null", Some("https://null")),
        ] {
            assert_eq!(origin(bad).expect_err(bad).suggestion.as_deref(), meant, "{bad}");
        }
    }

    #[test]
    fn addresses_are_suggested() {
        assert_eq!(address(":8080").expect_err("no host").suggestion.as_deref(), Some("0.0.0.0:8080"));
        assert_eq!(address("localhost:80").expect_err("name").suggestion.as_deref(), Some("127.0.0.1:80"));
        assert_eq!(address("8080").expect_err("port").suggestion.as_deref(), Some("0.0.0.0:8080"));
    }
}
