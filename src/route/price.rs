//! What a request costs on a backend.

use std::cmp::Ordering;

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

/// What one request costs, as far as it can be said.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Cost {
    /// By the hour: only a rank among such backends, as long as it is not known how many requests share the hour.
    Rank(f64),
    /// An amount of money.
    Amount(f64),
    /// No price is configured.
    Unknown,
}

impl Price {
    /// What a request of so many tokens costs; no prefix is assumed to be cached.
    #[must_use]
    #[allow(clippy::cast_precision_loss, reason = "token counts are far below 2^52")]
    pub fn of_request(&self, input_tokens: u64, output_tokens: u64) -> Cost {
        match *self {
            Self::PerGpuHour { per_gpu_hour, gpus } => Cost::Rank(per_gpu_hour * f64::from(gpus)),
            Self::PerToken { input_per_mtok, output_per_mtok, .. } => {
                Cost::Amount((input_tokens as f64 * input_per_mtok + output_tokens as f64 * output_per_mtok) / 1e6)
            }
        }
    }
}

impl Cost {
    /// The number, where there is one.
    #[must_use]
    pub fn value(self) -> Option<f64> {
        match self {
            Self::Rank(value) | Self::Amount(value) => Some(value),
            Self::Unknown => None,
        }
    }

    /// Cheapest first. GPUs paid by the hour cost the same whether used or not, so they come before what is paid by
    /// the token; what has no price comes last.
    #[must_use]
    pub fn order(&self, other: &Self) -> Ordering {
        let class = |cost: &Self| match cost {
            Self::Rank(_) => 0,
            Self::Amount(_) => 1,
            Self::Unknown => 2,
        };
        let value = |cost: &Self| cost.value().unwrap_or_default();
        class(self).cmp(&class(other)).then_with(|| value(self).total_cmp(&value(other)))
    }

    /// Whether this is within a share of the cheapest cost.
    #[must_use]
    pub fn near(&self, cheapest: &Self, share: f64) -> bool {
        match (self, cheapest) {
            (Self::Rank(own), Self::Rank(least)) | (Self::Amount(own), Self::Amount(least)) => {
                *own <= least * (1.0 + share)
            }
            (Self::Unknown, Self::Unknown) => true,
            _ => false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const GPUS: Price = Price::PerGpuHour { per_gpu_hour: 4.0, gpus: 2 };
    const TOKENS: Price = Price::PerToken { input_per_mtok: 0.2, cached_input_per_mtok: 0.1, output_per_mtok: 0.6 };

    #[test]
    fn tokens_cost_an_amount_and_hours_a_rank() {
        assert_eq!(GPUS.of_request(1_000, 1_000), Cost::Rank(8.0));
        let Cost::Amount(amount) = TOKENS.of_request(1_000_000, 500_000) else { panic!("an amount") };
        assert!((amount - 0.5).abs() < 1e-9);
    }

    #[test]
    fn own_gpus_come_before_tokens_and_unpriced_last() {
        let mut costs = [Cost::Unknown, Cost::Amount(0.001), Cost::Rank(8.0), Cost::Rank(2.0)];
        costs.sort_by(Cost::order);
        assert_eq!(costs, [Cost::Rank(2.0), Cost::Rank(8.0), Cost::Amount(0.001), Cost::Unknown]);
        assert!(Cost::Rank(2.1).near(&Cost::Rank(2.0), 0.05) && !Cost::Rank(2.2).near(&Cost::Rank(2.0), 0.05));
        assert!(!Cost::Rank(1.0).near(&Cost::Amount(1.0), 0.05));
    }
}
