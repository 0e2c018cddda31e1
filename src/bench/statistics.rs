//! Exact statistics of a sample: linear percentiles and population standard deviation, as `NumPy` has them by default.
//!
//! Both NVIDIA programs report these; a histogram would agree only to the width of its buckets.

use crate::measure::percentile::percentile;

/// The percentiles of the reports, ascending.
pub const PERCENTILES: [u8; 9] = [1, 5, 10, 25, 50, 75, 90, 95, 99];

/// A sample, summed up.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Summary {
    /// Values.
    pub count: usize,
    /// All values together.
    pub sum: f64,
    /// Their mean.
    pub avg: f64,
    /// Their population standard deviation.
    pub std: f64,
    /// The smallest.
    pub min: f64,
    /// The largest.
    pub max: f64,
    /// One value per entry of [`PERCENTILES`].
    pub percentiles: [f64; PERCENTILES.len()],
}

impl Summary {
    /// Sums up a sample; `None` when it is empty. Values that are no numbers are left out.
    #[must_use]
    #[allow(clippy::cast_precision_loss, reason = "samples are far below 2^53")]
    pub fn of(values: &[f64]) -> Option<Self> {
        let mut sorted: Vec<f64> = values.iter().copied().filter(|value| value.is_finite()).collect();
        sorted.sort_by(f64::total_cmp);
        let (min, max) = (*sorted.first()?, *sorted.last()?);
        let sum: f64 = sorted.iter().sum();
        let avg = sum / sorted.len() as f64;
        let variance = sorted.iter().map(|value| (value - avg).powi(2)).sum::<f64>() / sorted.len() as f64;
        let percentiles = PERCENTILES.map(|percent| percentile(&sorted, f64::from(percent)).unwrap_or(avg));
        Some(Self { count: sorted.len(), sum, avg, std: variance.sqrt(), min, max, percentiles })
    }

    /// The percentile of that number, which must be one of [`PERCENTILES`].
    #[must_use]
    pub fn p(&self, percent: u8) -> Option<f64> {
        let place = PERCENTILES.iter().position(|one| *one == percent)?;
        self.percentiles.get(place).copied()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_summary_is_of_the_population_and_in_any_order() {
        // The textbook sample: mean 5, population standard deviation 2.
        let summary = Summary::of(&[9.0, 2.0, 4.0, 4.0, 4.0, 5.0, 5.0, 7.0]).expect("not empty");
        assert_eq!((summary.count, summary.sum, summary.avg, summary.std), (8, 40.0, 5.0, 2.0));
        assert_eq!((summary.min, summary.max, summary.p(50)), (2.0, 9.0, Some(4.5)));
        // Index 0.9 × 7 = 6.3, between 7 and 9.
        assert!((summary.p(90).expect("listed") - 7.6).abs() < 1e-9);
        assert_eq!(summary.p(42), None);
    }

    #[test]
    fn an_empty_sample_has_no_summary() {
        assert_eq!(Summary::of(&[]), None);
        assert_eq!(Summary::of(&[f64::NAN]), None);
    }
}
