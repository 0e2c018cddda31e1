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

/// A sample in which what failed counts as endless: its percentiles do not get better when a server fails more.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Adjusted {
    /// One value per entry of [`PERCENTILES`]; `None` where it is endless.
    pub percentiles: [Option<f64>; PERCENTILES.len()],
    /// The smallest.
    pub min: f64,
    /// Values, failures included.
    pub count: usize,
}

impl Adjusted {
    /// Sums up a sample and so many failures; `None` without either. Percentiles are values of the sample, the nearest.
    #[must_use]
    #[allow(
        clippy::cast_precision_loss,
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "an index between 0 and the sample's length"
    )]
    pub fn of(values: &[f64], failures: usize) -> Option<Self> {
        let mut sorted: Vec<f64> = values.iter().copied().filter(|value| value.is_finite()).collect();
        sorted.sort_by(f64::total_cmp);
        let (min, count) = (*sorted.first()?, sorted.len() + failures);
        let nearest = |percent: u8| {
            let index = f64::from(percent) / 100.0 * (count - 1) as f64;
            // A half goes to the even one, as in NumPy.
            sorted.get(index.round_ties_even() as usize).copied()
        };
        (failures > 0).then(|| Self { percentiles: PERCENTILES.map(nearest), min, count })
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

    #[test]
    fn failures_are_endless() {
        let values: Vec<f64> = (1..=13).map(f64::from).collect();
        let adjusted = Adjusted::of(&values, 7).expect("failures");
        let some = [1.0, 2.0, 3.0, 6.0, 11.0].map(Some);
        assert_eq!(adjusted.percentiles[..5], some);
        assert_eq!((&adjusted.percentiles[5..], adjusted.min, adjusted.count), (&[None; 4][..], 1.0, 20));
        assert_eq!((Adjusted::of(&values, 0), Adjusted::of(&[], 7)), (None, None));
    }
}
