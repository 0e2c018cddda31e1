//! Goodput: requests that keep every bound, per second. AIPerf's rules.
//!
//! A latency is good at or below its bound, a throughput at or above it; a metric that is not defined for a request
//! makes the request not good; failed requests are never good.

use std::str::FromStr;

use super::record::{Metric, RequestRecord};

/// Bounds that a good request keeps, in display units: milliseconds for times.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Goodput(Vec<(Metric, f64)>);

/// Why a text states no bounds.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum GoodputError {
    /// A part is not `NAME:VALUE`.
    #[error("`{0}` is not METRIC:BOUND, such as time_to_first_token:300 (milliseconds)")]
    Form(String),
    /// The metric is not one that a request has.
    #[error("no metric is named `{0}`; there are {names}", names = Metric::names())]
    Metric(String),
}

impl Goodput {
    /// Whether a bound is about something that only streamed answers have.
    #[must_use]
    pub fn needs_streams(&self) -> bool {
        let of_streams = |metric: Metric| {
            matches!(
                metric,
                Metric::TimeToFirstToken
                    | Metric::TimeToFirstOutputToken
                    | Metric::TimeToSecondToken
                    | Metric::InterTokenLatency
                    | Metric::OutputTokenThroughputPerUser
                    | Metric::DecodeDuration
                    | Metric::PrefillThroughput
            )
        };
        self.0.iter().any(|(metric, _)| of_streams(*metric))
    }

    /// Whether a request is good.
    #[must_use]
    pub fn is_good(&self, record: &RequestRecord) -> bool {
        record.is_valid()
            && self.0.iter().all(|&(metric, bound)| {
                record
                    .metric(metric)
                    .is_some_and(|value| if metric.larger_is_better() { value >= bound } else { value <= bound })
            })
    }

    /// The bounds.
    #[must_use]
    pub fn bounds(&self) -> &[(Metric, f64)] {
        &self.0
    }
}

impl FromStr for Goodput {
    type Err = GoodputError;

    fn from_str(text: &str) -> Result<Self, GoodputError> {
        let form = |part: &str| GoodputError::Form(part.to_owned());
        let bound = |part: &str| {
            let (name, value) = part.split_once(':').ok_or_else(|| form(part))?;
            let metric = Metric::named(name).ok_or_else(|| GoodputError::Metric(name.to_owned()))?;
            let value = value.parse::<f64>().ok().filter(|value| value.is_finite()).ok_or_else(|| form(part))?;
            Ok((metric, value))
        };
        let bounds: Vec<_> = text.split_whitespace().map(bound).collect::<Result<_, _>>()?;
        if bounds.is_empty() { Err(form(text)) } else { Ok(Self(bounds)) }
    }
}

#[cfg(test)]
mod tests {
    use super::super::record::testing::record;
    use super::*;

    #[track_caller]
    fn check(bounds: &str, record: &RequestRecord, good: bool) {
        let goodput: Goodput = bounds.parse().expect("bounds");
        assert_eq!(goodput.is_good(record), good, "{bounds}");
    }

    #[test]
    fn bounds_are_inclusive_on_their_own_side() {
        let record = record(200, 20, 101); // latency 2200 ms, 50 tokens per second and user
        check("time_to_first_token:200 inter_token_latency:20", &record, true);
        check("time_to_first_token:199.9", &record, false);
        check("output_token_throughput_per_user:50", &record, true);
        check("output_token_throughput_per_user:50.1", &record, false);
        check("request_latency:2200", &record, true);
        check("request_latency:2199", &record, false);
    }

    #[test]
    fn a_missing_metric_and_a_failure_are_not_good() {
        let one_token = record(200, 0, 1);
        check("time_to_first_token:300", &one_token, true);
        check("time_to_first_token:300 inter_token_latency:1000", &one_token, false);
        let failed = RequestRecord { error: Some("http_503".into()), ..record(200, 20, 100) };
        check("time_to_first_token:300", &failed, false);
    }

    #[test]
    fn what_states_no_bound_is_refused_with_the_remedy() {
        let refused = |text: &str| text.parse::<Goodput>().expect_err(text).to_string();
        assert!(refused("ttft:300").contains("time_to_first_token"));
        assert!(refused("time_to_first_token").contains("METRIC:BOUND"));
        assert!(refused("").contains("METRIC:BOUND"));
    }
}
