//! What a request costs on a backend.

/// How a backend is paid for, in the configuration's currency.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Price {
    /// By the hour and GPU.
    PerGpuHour {
        /// One GPU for one hour.
        per_gpu_hour: f64,
        /// How many GPUs the backend uses.
        gpus: u32,
    },
    /// By the token.
    PerToken {
        /// One million input tokens.
        input_per_mtok: f64,
        /// One million input tokens read from a prefix cache.
        cached_input_per_mtok: f64,
        /// One million output tokens.
        output_per_mtok: f64,
    },
}

/// What a request makes a backend do.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Work {
    /// Prompt tokens it computes.
    pub uncached_tokens: f64,
    /// Prompt tokens its prefix cache holds.
    pub cached_tokens: f64,
    /// Tokens it writes.
    pub output_tokens: f64,
    /// Seconds of the whole backend per uncached prompt token, where learned.
    pub prefill_seconds: Option<f64>,
    /// Seconds of the whole backend per output token in its present batch, where learned.
    pub decode_seconds: Option<f64>,
}

/// What an unknown backend is taken to do, in seconds per token: the same for all, so that those by the hour rank by the
/// price of their hour until they are known.
const PREFILL_SECONDS: f64 = 1e-4;
const DECODE_SECONDS: f64 = 2e-3;

impl Price {
    /// What a request costs: by the token as priced, by the hour for the share of an hour that it takes.
    #[must_use]
    pub fn of(&self, work: &Work) -> f64 {
        match *self {
            Self::PerGpuHour { per_gpu_hour, gpus } => {
                let both = work.prefill_seconds.zip(work.decode_seconds);
                let (prefill, decode) = both.unwrap_or((PREFILL_SECONDS, DECODE_SECONDS));
                let seconds = work.uncached_tokens * prefill + work.output_tokens * decode;
                per_gpu_hour * f64::from(gpus) / 3_600.0 * seconds
            }
            Self::PerToken { input_per_mtok, cached_input_per_mtok, output_per_mtok } => {
                let input = work.uncached_tokens * input_per_mtok + work.cached_tokens * cached_input_per_mtok;
                (input + work.output_tokens * output_per_mtok) / 1e6
            }
        }
    }

    /// What tokens cost that were all computed, where there is a price by the token.
    #[must_use]
    #[allow(clippy::cast_precision_loss, reason = "token counts are far below 2^52")]
    pub fn by_the_token(&self, input: u64, output: u64) -> Option<f64> {
        let (uncached_tokens, output_tokens) = (input as f64, output as f64);
        let work =
            Work { uncached_tokens, cached_tokens: 0.0, output_tokens, prefill_seconds: None, decode_seconds: None };
        matches!(self, Self::PerToken { .. }).then(|| self.of(&work))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TOKENS: Price = Price::PerToken { input_per_mtok: 0.2, cached_input_per_mtok: 0.1, output_per_mtok: 0.6 };
    const WORK: Work = Work {
        uncached_tokens: 1e6,
        cached_tokens: 0.0,
        output_tokens: 5e5,
        prefill_seconds: None,
        decode_seconds: None,
    };

    fn hourly(per_gpu_hour: f64, gpus: u32) -> Price {
        Price::PerGpuHour { per_gpu_hour, gpus }
    }

    #[track_caller]
    fn check(price: Price, work: &Work, expected: f64) {
        let cost = price.of(work);
        assert!((cost - expected).abs() < 1e-9 * expected, "{cost} and not {expected}");
    }

    #[test]
    fn tokens_cost_what_they_are_priced_at_and_cached_ones_less() {
        check(TOKENS, &WORK, 0.5);
        check(TOKENS, &Work { uncached_tokens: 4e5, cached_tokens: 6e5, ..WORK }, 0.44);
    }

    #[test]
    fn tokens_are_priced_by_the_token_only() {
        assert_eq!(TOKENS.by_the_token(1_000_000, 500_000), Some(0.5));
        assert_eq!(hourly(6.0, 2).by_the_token(1, 1), None);
    }

    #[test]
    fn hours_cost_the_share_that_the_request_takes() {
        let known = Work { prefill_seconds: Some(1e-4), decode_seconds: Some(1e-3), ..WORK };
        check(hourly(6.0, 2), &known, 2.0);
        check(hourly(6.0, 2), &Work { uncached_tokens: 0.0, ..known }, 12.0 / 3_600.0 * 500.0);
    }

    #[test]
    fn unknown_backends_rank_by_the_price_of_their_hour() {
        let (cheap, dear) = (hourly(4.0, 1), hourly(3.0, 2));
        assert!((dear.of(&WORK) / cheap.of(&WORK) - 1.5).abs() < 1e-9);
    }
}
