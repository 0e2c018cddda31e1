//! Latency objectives of a route: what was promised, and whether one exchange kept it.

use std::time::Duration;

use super::exchange::Latencies;
use super::outcome::Outcome;
use crate::units::Quantile;

/// What an objective can be about; also the key of rolling windows and of metrics.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Latency {
    /// TTFT.
    TimeToFirstToken,
    /// TTFO: reasoning excluded.
    TimeToFirstOutputToken,
    /// ITL: one value per exchange.
    InterToken,
    /// Every gap between content responses.
    InterChunk,
    /// The whole answer.
    EndToEnd,
}

impl Latency {
    /// The latencies an objective may be about.
    pub const PROMISED: [Self; 3] = [Self::TimeToFirstToken, Self::InterToken, Self::EndToEnd];

    /// The name in the configuration, the log and metric labels.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::TimeToFirstToken => "ttft",
            Self::TimeToFirstOutputToken => "ttfo",
            Self::InterToken => "itl",
            Self::InterChunk => "icl",
            Self::EndToEnd => "e2e",
        }
    }
}

/// "95 of 100 exchanges have a first token within 300 ms."
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Objective {
    /// What is promised.
    pub latency: Latency,
    /// To which share of exchanges.
    pub quantile: Quantile,
    /// Within what time (inclusive).
    pub threshold: Duration,
}

/// What a route promises: at most one objective per promised latency.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Objectives {
    /// On time to first token.
    pub ttft: Option<Objective>,
    /// On inter-token latency.
    pub itl: Option<Objective>,
    /// On the whole answer.
    pub e2e: Option<Objective>,
}

/// How the objectives judge one exchange: good, bad, or not at all.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Verdicts {
    /// On time to first token.
    pub ttft: Option<bool>,
    /// On inter-token latency.
    pub itl: Option<bool>,
    /// On the whole answer.
    pub e2e: Option<bool>,
}

/// What judging looks at.
#[derive(Debug, Clone, Copy)]
pub struct Ended<'a> {
    /// How the exchange ended.
    pub outcome: Outcome,
    /// Whether a streamed answer was asked for.
    pub stream: bool,
    /// `n` of the request.
    pub choices: u32,
    /// What the client felt.
    pub latencies: &'a Latencies,
    /// Output tokens, reasoning included, when stated.
    pub output_tokens: Option<u64>,
}

impl Verdicts {
    /// Good when every objective that judged says so; `None` when none did.
    #[must_use]
    pub fn joint(&self) -> Option<bool> {
        [self.ttft, self.itl, self.e2e].into_iter().flatten().reduce(|all, one| all && one)
    }

    /// The verdict on one latency.
    #[must_use]
    pub fn of(&self, latency: Latency) -> Option<bool> {
        match latency {
            Latency::TimeToFirstToken => self.ttft,
            Latency::InterToken => self.itl,
            Latency::EndToEnd => self.e2e,
            Latency::TimeToFirstOutputToken | Latency::InterChunk => None,
        }
    }
}

impl Objectives {
    /// The objectives there are.
    pub fn iter(&self) -> impl Iterator<Item = &Objective> {
        [&self.ttft, &self.itl, &self.e2e].into_iter().flatten()
    }

    /// Whether nothing is promised.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.iter().next().is_none()
    }

    /// Judges one exchange.
    ///
    /// A failure that is not the client's doing is bad for every objective. A completed exchange is judged where its
    /// latency is defined; a one-token answer passes ITL; an answer that was not streamed is judged by `e2e` alone;
    /// one with several choices not at all.
    #[must_use]
    pub fn judge(&self, ended: &Ended<'_>) -> Verdicts {
        let &Ended { outcome, stream, choices, latencies, output_tokens } = ended;
        if choices > 1 || !outcome.judged() {
            return Verdicts::default();
        }
        if outcome != Outcome::Complete {
            let bad = |objective: &Option<Objective>| objective.map(|_| false);
            return Verdicts { ttft: bad(&self.ttft), itl: bad(&self.itl), e2e: bad(&self.e2e) };
        }
        let within = |objective: Option<Objective>, value: Option<Duration>| {
            objective.zip(value).map(|(objective, value)| value <= objective.threshold)
        };
        let streamed = |verdict: Option<bool>| verdict.filter(|_| stream);
        let one_token = (output_tokens == Some(1)).then_some(Duration::ZERO);
        Verdicts {
            ttft: streamed(within(self.ttft, latencies.first_token)),
            itl: streamed(within(self.itl, latencies.inter_token.or(one_token))),
            e2e: within(self.e2e, latencies.end_to_end),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn latencies_have_the_names_of_the_configuration() {
        let all = [
            Latency::TimeToFirstToken,
            Latency::TimeToFirstOutputToken,
            Latency::InterToken,
            Latency::InterChunk,
            Latency::EndToEnd,
        ];
        assert_eq!(all.map(Latency::as_str), ["ttft", "ttfo", "itl", "icl", "e2e"]);
    }

    #[test]
    fn an_exchange_keeps_its_promise_when_every_objective_that_judged_it_does() {
        let verdicts = |ttft, itl, e2e| Verdicts { ttft, itl, e2e };
        for (verdicts, joint) in [
            (verdicts(None, None, None), None),
            (verdicts(Some(true), None, Some(true)), Some(true)),
            (verdicts(Some(true), Some(false), None), Some(false)),
            (verdicts(None, None, Some(false)), Some(false)),
        ] {
            assert_eq!(verdicts.joint(), joint, "{verdicts:?}");
            assert_eq!(Latency::PROMISED.map(|one| verdicts.of(one)), [verdicts.ttft, verdicts.itl, verdicts.e2e]);
            assert_eq!(verdicts.of(Latency::InterChunk), None, "nothing is promised of it");
        }
    }
}
