//! Figures as people read them.

/// Milliseconds to three digits or so.
pub(super) fn millis(millis: f64) -> String {
    match millis {
        tiny if tiny < 0.95 => format!("{:.0} µs", tiny * 1e3),
        short if short < 99.95 => format!("{short:.1} ms"),
        middle if middle < 999.5 => format!("{middle:.0} ms"),
        long => format!("{:.2} s", long / 1e3),
    }
}

/// A promise, such as `ttft p95 ≤ 200 ms`, as the configuration would have it.
pub(super) fn promise(latency: &str, quantile: f64, threshold_ms: f64) -> String {
    let threshold = if threshold_ms < 1e3 {
        format!("{} ms", short(threshold_ms))
    } else {
        format!("{} s", short(threshold_ms / 1e3))
    };
    format!("{latency} p{} ≤ {threshold}", short(quantile * 100.0))
}

/// A share in whole percents.
pub(super) fn whole(share: f64) -> String {
    format!("{:.0} %", share * 100.0)
}

/// A number without digits that say nothing.
pub(super) fn short(number: f64) -> String {
    let text = format!("{number:.3}");
    text.trim_end_matches('0').trim_end_matches('.').to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_have_about_three_digits() {
        let all = [0.04, 9.96, 99.96, 999.4, 999.6, 12_345.0].map(millis);
        assert_eq!(all, ["40 µs", "10.0 ms", "100 ms", "999 ms", "1.00 s", "12.35 s"]);
    }

    #[test]
    fn a_promise_reads_as_it_was_written() {
        assert_eq!(promise("ttft", 0.95, 200.0), "ttft p95 ≤ 200 ms");
        assert_eq!(promise("e2e", 0.999, 8_500.0), "e2e p99.9 ≤ 8.5 s");
        assert_eq!(promise("itl", 0.5, 12.5), "itl p50 ≤ 12.5 ms");
    }
}
