//! Faults on request: what a backend can do wrong, written `KIND[=VALUE][:PROBABILITY][:COUNTx]`.
//!
//! `slow=3` slows every step, `refuse:0.1` refuses one request in ten, `reset-after-first-token:2x` breaks two answers
//! and then stops. The first fault that strikes decides a request, so their order is their priority.

use std::fmt;
use std::str::FromStr;

use crate::random::Random;
use crate::units::parse_ratio;

/// What goes wrong.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum FaultKind {
    /// Every step takes that many times as long, while the fault is set.
    Slow(f64),
    /// After that many tokens nothing more comes; the connection stays open.
    Stall(u32),
    /// The connection is reset before a byte of the answer.
    ResetBeforeFirstToken,
    /// The head comes, then the connection is reset.
    ResetAfterHead,
    /// The first token comes, then the connection is reset.
    ResetAfterFirstToken,
    /// After that many tokens half an event comes, and the connection is closed.
    CloseMidEvent(u32),
    /// After that many tokens the body ends cleanly, without finish reason or end mark.
    Truncate(u32),
    /// Bytes that are no events, and events that are no JSON.
    Garbage,
    /// A 200 whose first event is an error.
    ErrorEvent,
    /// An error event after that many tokens.
    ErrorEventMid(u32),
    /// 503, as an engine with a full queue answers.
    Refuse,
    /// The connection is accepted and reset at once.
    RefuseConnection,
    /// The request is read and never answered.
    Hang,
    /// The head of a 200 comes and nothing after it.
    HangAfterHead,
    /// A 200 without content.
    Empty,
    /// A 200 whose body is a JSON error instead of a stream.
    JsonError200,
}

/// The name of each kind, its value when it has one, and how to make it from that value.
type Entry = (&'static str, Option<f64>, fn(f64) -> FaultKind);

const KINDS: &[Entry] = &[
    ("slow", Some(3.0), FaultKind::Slow),
    ("stall", Some(3.0), |n| FaultKind::Stall(whole(n))),
    ("reset-before-first-token", None, |_| FaultKind::ResetBeforeFirstToken),
    ("reset-after-head", None, |_| FaultKind::ResetAfterHead),
    ("reset-after-first-token", None, |_| FaultKind::ResetAfterFirstToken),
    ("close-mid-event", Some(3.0), |n| FaultKind::CloseMidEvent(whole(n))),
    ("truncate", Some(3.0), |n| FaultKind::Truncate(whole(n))),
    ("garbage", None, |_| FaultKind::Garbage),
    ("error-event", None, |_| FaultKind::ErrorEvent),
    ("error-event-mid", Some(3.0), |n| FaultKind::ErrorEventMid(whole(n))),
    ("refuse", None, |_| FaultKind::Refuse),
    ("refuse-connection", None, |_| FaultKind::RefuseConnection),
    ("hang", None, |_| FaultKind::Hang),
    ("hang-after-head", None, |_| FaultKind::HangAfterHead),
    ("empty", None, |_| FaultKind::Empty),
    ("json-error-200", None, |_| FaultKind::JsonError200),
];

#[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a float-to-integer cast saturates")]
fn whole(value: f64) -> u32 {
    value as u32
}

impl FaultKind {
    /// The kind's name, without its value.
    #[must_use]
    pub fn name(&self) -> &'static str {
        match self {
            Self::Slow(_) => "slow",
            Self::Stall(_) => "stall",
            Self::ResetBeforeFirstToken => "reset-before-first-token",
            Self::ResetAfterHead => "reset-after-head",
            Self::ResetAfterFirstToken => "reset-after-first-token",
            Self::CloseMidEvent(_) => "close-mid-event",
            Self::Truncate(_) => "truncate",
            Self::Garbage => "garbage",
            Self::ErrorEvent => "error-event",
            Self::ErrorEventMid(_) => "error-event-mid",
            Self::Refuse => "refuse",
            Self::RefuseConnection => "refuse-connection",
            Self::Hang => "hang",
            Self::HangAfterHead => "hang-after-head",
            Self::Empty => "empty",
            Self::JsonError200 => "json-error-200",
        }
    }

    fn value(&self) -> Option<f64> {
        match self {
            Self::Slow(factor) => Some(*factor),
            Self::Stall(n) | Self::CloseMidEvent(n) | Self::Truncate(n) | Self::ErrorEventMid(n) => Some(f64::from(*n)),
            _ => None,
        }
    }
}

/// One fault: what, how likely, how often.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Fault {
    /// What goes wrong.
    pub kind: FaultKind,
    /// With which probability it strikes a request, or a connection for [`FaultKind::RefuseConnection`].
    pub probability: f64,
    /// How often it strikes at most; `None` is without end.
    pub count: Option<u32>,
}

impl From<FaultKind> for Fault {
    fn from(kind: FaultKind) -> Self {
        Self { kind, probability: 1.0, count: None }
    }
}

/// Why a text names no fault.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum FaultError {
    /// There is no such kind.
    #[error("no fault is named `{0}`; there are {kinds}", kinds = kinds())]
    UnknownKind(String),
    /// The value after `=` does not fit the kind.
    #[error("`{0}`: write {1}")]
    Value(String, &'static str),
    /// What follows a colon is neither a probability nor a count.
    #[error("`{0}` is neither a probability such as `0.1` or `10%`, nor a count such as `3x`")]
    Suffix(String),
    /// `slow` is a state of the engine and strikes no single request.
    #[error("`{0}`: slow holds while it is set, it takes neither a probability nor a count")]
    SlowSuffix(String),
}

fn kinds() -> String {
    let names: Vec<String> = KINDS
        .iter()
        .map(|(name, value, _)| value.map_or_else(|| (*name).to_owned(), |value| format!("{name}[={value}]")))
        .collect();
    names.join(", ")
}

impl FromStr for Fault {
    type Err = FaultError;

    fn from_str(text: &str) -> Result<Self, FaultError> {
        let mut parts = text.trim().split(':');
        let mut fault = Self::from(parse_kind(parts.next().unwrap_or_default())?);
        if matches!(fault.kind, FaultKind::Slow(_)) && parts.clone().next().is_some() {
            return Err(FaultError::SlowSuffix(text.to_owned()));
        }
        for part in parts {
            match part.strip_suffix('x').map(str::parse) {
                Some(Ok(count)) => fault.count = Some(count),
                Some(Err(_)) => return Err(FaultError::Suffix(part.to_owned())),
                None => fault.probability = parse_ratio(part).map_err(|_| FaultError::Suffix(part.to_owned()))?,
            }
        }
        Ok(fault)
    }
}

fn parse_kind(text: &str) -> Result<FaultKind, FaultError> {
    let (name, value) = text.split_once('=').map_or((text, None), |(name, value)| (name, Some(value)));
    let Some((_, default, make)) = KINDS.iter().find(|(known, ..)| *known == name) else {
        return Err(FaultError::UnknownKind(name.to_owned()));
    };
    match (default, value) {
        (None, Some(_)) => Err(FaultError::Value(text.to_owned(), "the kind alone, it takes no value")),
        (None, None) => Ok(make(0.0)),
        (Some(default), None) => Ok(make(*default)),
        (Some(_), Some(value)) => value
            .parse::<f64>()
            .ok()
            .filter(|value| (0.0..=1e6).contains(value))
            .map(make)
            .ok_or_else(|| FaultError::Value(text.to_owned(), "a number from 0 to 1000000 after `=`")),
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.kind.name())?;
        if let Some(value) = self.kind.value() {
            write!(f, "={value}")?;
        }
        if self.probability < 1.0 {
            write!(f, ":{}", self.probability)?;
        }
        self.count.map_or(Ok(()), |count| write!(f, ":{count}x"))
    }
}

/// The faults of one simulator, the first the most urgent.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Faults(pub Vec<Fault>);

impl Faults {
    /// No fault at all.
    #[must_use]
    pub fn none() -> Self {
        Self::default()
    }

    /// Reads one fault from each text.
    ///
    /// # Errors
    /// At the first text that names none.
    pub fn parse<T: AsRef<str>>(texts: &[T]) -> Result<Self, FaultError> {
        texts.iter().map(|text| text.as_ref().parse()).collect::<Result<_, _>>().map(Self)
    }

    /// How many times as long each step takes.
    #[must_use]
    pub fn slow(&self) -> f64 {
        self.0
            .iter()
            .find_map(|fault| match fault.kind {
                FaultKind::Slow(factor) => Some(factor),
                _ => None,
            })
            .unwrap_or(1.0)
    }
}

impl From<Vec<FaultKind>> for Faults {
    fn from(kinds: Vec<FaultKind>) -> Self {
        Self(kinds.into_iter().map(Fault::from).collect())
    }
}

/// Faults that count how often they struck.
#[derive(Debug)]
pub(super) struct Armed {
    faults: Faults,
    random: Random,
}

impl Armed {
    pub(super) fn new(faults: Faults, seed: u64) -> Self {
        Self { faults, random: Random::seeded(seed) }
    }

    pub(super) fn set(&mut self, faults: Faults) {
        self.faults = faults;
    }

    /// The faults, with the counts that are left.
    pub(super) fn faults(&self) -> &Faults {
        &self.faults
    }

    /// Whether the connection that just came is to be refused.
    pub(super) fn strike_connection(&mut self) -> bool {
        self.strike(|kind| matches!(kind, FaultKind::RefuseConnection)).is_some()
    }

    /// What goes wrong with the request that just came.
    pub(super) fn strike_request(&mut self) -> Option<FaultKind> {
        self.strike(|kind| !matches!(kind, FaultKind::RefuseConnection | FaultKind::Slow(_)))
    }

    fn strike(&mut self, applies: impl Fn(&FaultKind) -> bool) -> Option<FaultKind> {
        for fault in self.faults.0.iter_mut().filter(|fault| applies(&fault.kind)) {
            let spent = fault.count == Some(0);
            if spent || (fault.probability < 1.0 && self.random.share() >= fault.probability) {
                continue;
            }
            fault.count = fault.count.map(|count| count.saturating_sub(1));
            return Some(fault.kind);
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(text: &str, expected: Fault) {
        let read: Fault = text.parse().expect(text);
        assert_eq!(read, expected, "{text}");
        assert_eq!(read.to_string().parse::<Fault>().expect("what was written"), expected, "{text} written and read");
    }

    #[test]
    fn faults_are_read_and_written_back() {
        check("slow=2.5", FaultKind::Slow(2.5).into());
        check("stall", FaultKind::Stall(3).into());
        check("stall=0:10%", Fault { probability: 0.1, ..FaultKind::Stall(0).into() });
        check("refuse:0.5:3x", Fault { probability: 0.5, count: Some(3), ..FaultKind::Refuse.into() });
        check("empty:1x", Fault { count: Some(1), ..FaultKind::Empty.into() });
    }

    #[test]
    fn every_kind_is_known_by_its_own_name() {
        for (name, ..) in KINDS {
            let fault: Fault = name.parse().expect(name);
            assert_eq!(fault.kind.name(), *name);
        }
    }

    #[test]
    fn an_unknown_kind_is_answered_with_all_of_them() {
        let message = "explode".parse::<Fault>().expect_err("no such kind").to_string();
        for (name, ..) in KINDS {
            assert!(message.contains(name), "{name} in {message}");
        }
        for bad in ["", "slow=x", "slow=-1", "hang=3", "refuse:2", "refuse:xx", "refuse:", "slow=3:0.1"] {
            assert!(bad.parse::<Fault>().is_err(), "{bad}");
        }
    }

    #[test]
    fn a_counted_fault_is_spent_and_the_next_takes_over() {
        let mut armed = Armed::new(Faults::parse(&["slow=3", "refuse:2x", "hang"]).expect("known"), 1);
        assert!(armed.faults().slow() > 2.9);
        let struck: Vec<_> = (0..3).filter_map(|_| armed.strike_request()).collect();
        assert_eq!(struck, [FaultKind::Refuse, FaultKind::Refuse, FaultKind::Hang]);
        assert!(!armed.strike_connection());
    }

    #[test]
    fn a_probability_is_a_share_of_the_requests() {
        let mut armed = Armed::new(Faults::parse(&["refuse:0.25"]).expect("known"), 9);
        let struck = (0..4000).filter_map(|_| armed.strike_request()).count();
        assert!((900..1100).contains(&struck), "{struck}");
    }
}
