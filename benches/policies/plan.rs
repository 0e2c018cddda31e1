//! How long, how much and which: the arguments, and what follows from them.

use std::path::PathBuf;
use std::time::Duration;

use crate::scene::{BACKENDS, STRUCK};

/// Every rule that is compared, ours first.
pub(crate) const POLICIES: [&str; 4] = ["cheapest_within_slo", "least_in_flight", "power_of_two", "round_robin"];

/// A run begins and ends with requests that are not counted, so that those that are find the engines busy from the first
/// to the last.
pub(crate) const LEAD_IN: Duration = Duration::from_secs(5);
pub(crate) const LEAD_OUT: Duration = Duration::from_secs(2);

/// What to do.
#[derive(Debug, Clone)]
pub(crate) struct Plan {
    /// Rounds; in each, every policy gets the same requests.
    pub(crate) rounds: u64,
    /// Counted time of one run.
    pub(crate) counted: Duration,
    /// Traffic for every proxy before the first round, counted nowhere.
    pub(crate) warm_up: Duration,
    pub(crate) seed: u64,
    /// Requests per second, all routes together.
    pub(crate) rate: f64,
    pub(crate) policies: Vec<String>,
    /// No incident, and a look at how requests spread in time.
    pub(crate) steady: bool,
    /// The backend that the incident strikes.
    pub(crate) struck: usize,
    /// What the route does with requests that no backend serves in time.
    pub(crate) on_overload: String,
    /// Where to write everything, unrounded.
    pub(crate) json: Option<PathBuf>,
}

impl Plan {
    /// Reads the arguments; the message says what is wrong with them.
    pub(crate) fn read() -> Result<Self, String> {
        let given = Given(std::env::args().skip(1).collect());
        given.known()?;
        let seconds = |name, default| given.number(name, default).map(Duration::from_secs_f64);
        let policies = given.value("--policies").map_or_else(
            || POLICIES.map(str::to_owned).to_vec(),
            |names| names.split(',').map(str::to_owned).collect::<Vec<_>>(),
        );
        if let Some(unknown) = policies.iter().find(|name| !POLICIES.contains(&name.as_str())) {
            return Err(format!("--policies {unknown}: there are {}", POLICIES.join(", ")));
        }
        let struck = given.value("--struck").unwrap_or(STRUCK);
        let backends = BACKENDS.map(|(name, _)| name);
        let Some(struck) = backends.iter().position(|name| *name == struck) else {
            return Err(format!("--struck {struck}: there are {}", backends.join(", ")));
        };
        #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "checked to be small and positive")]
        let whole = |name, default| given.number(name, default).map(|number| number as u64);
        Ok(Self {
            rounds: whole("--rounds", 3.0)?.max(1),
            counted: seconds("--seconds", 30.0)?,
            warm_up: seconds("--warm-up", 20.0)?,
            seed: whole("--seed", 1.0)?,
            rate: given
                .number("--rate", 10.0)
                .and_then(|rate| if rate > 0.0 { Ok(rate) } else { Err("--rate 0".into()) })?,
            policies,
            steady: given.has("--steady"),
            struck,
            on_overload: given.value("--on-overload").unwrap_or("sacrifice").to_owned(),
            json: given.value("--json").map(PathBuf::from),
        })
    }

    /// The requests of a round follow from this.
    pub(crate) fn seed_of(&self, round: u64) -> u64 {
        self.seed.wrapping_mul(1_000).wrapping_add(round)
    }

    /// When a backend is slow, from the start of a run: the middle third of what is counted.
    pub(crate) fn incident(&self) -> Option<(Duration, Duration)> {
        let third = self.counted / 3;
        (!self.steady).then(|| (LEAD_IN + third, LEAD_IN + 2 * third))
    }

    /// Whether a request that was to be sent at that time of a run counts.
    pub(crate) fn counts(&self, due: Duration) -> bool {
        (LEAD_IN..LEAD_IN + self.counted).contains(&due)
    }
}

struct Given(Vec<String>);

/// Flags with a value, and those without; `--bench` is cargo's own.
const VALUED: [&str; 9] =
    ["--rounds", "--seconds", "--warm-up", "--seed", "--rate", "--policies", "--struck", "--on-overload", "--json"];
const BARE: [&str; 2] = ["--steady", "--bench"];

impl Given {
    /// Every word is a flag or the value of one.
    fn known(&self) -> Result<(), String> {
        let mut words = self.0.iter();
        while let Some(word) = words.next() {
            let valued = VALUED.contains(&word.as_str());
            if !valued && !BARE.contains(&word.as_str()) {
                return Err(format!("{word}: there are {} and --steady", VALUED.join(", ")));
            }
            if valued && words.next().is_none() {
                return Err(format!("{word} needs a value"));
            }
        }
        Ok(())
    }

    fn has(&self, name: &str) -> bool {
        self.0.iter().any(|word| word == name)
    }

    fn value(&self, name: &str) -> Option<&str> {
        let at = self.0.iter().position(|word| word == name)?;
        self.0.get(at + 1).map(String::as_str)
    }

    fn number(&self, name: &str, default: f64) -> Result<f64, String> {
        let number = self.value(name).map_or(Ok(default), |text| text.parse().map_err(|_| format!("{name} {text}")))?;
        if (0.0..1e6).contains(&number) { Ok(number) } else { Err(format!("{name} {number}")) }
    }
}
