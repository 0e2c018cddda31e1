//! The latency predictor: linear models of four weights, learned one sample at a time.
//!
//! Weighted recursive least squares with forgetting. Two guards keep it sane: forgetting stops while the covariance is
//! as uncertain as at the start, else it winds up when the load stays the same; and weights are clamped to what physics
//! allows only when predicting. Clamping them in the update looks harmless and diverges.

/// What a model sees: a constant and three quantities of load.
pub type Features = [f64; 4];

/// Forgetting per sample: about the last 500 count.
const FORGETTING: f64 = 0.998;

/// A linear model of four weights.
#[derive(Debug, Clone, PartialEq)]
pub struct Rls {
    weights: Features,
    covariance: [Features; 4],
    /// Above this trace nothing is forgotten.
    cap: f64,
    least: f64,
    samples: u64,
}

impl Rls {
    /// A model that starts from `weights`, as unsure of each as a variance of `doubt` says, and predicts no less than
    /// `least`.
    #[must_use]
    pub fn new(weights: Features, doubt: f64, least: f64) -> Self {
        let mut covariance = [[0.0; 4]; 4];
        for (place, row) in covariance.iter_mut().enumerate() {
            if let Some(diagonal) = row.get_mut(place) {
                *diagonal = doubt;
            }
        }
        Self { weights, covariance, cap: 4.0 * doubt, least, samples: 0 }
    }

    /// What the model expects; finite, and no less than its least.
    #[must_use]
    pub fn predict(&self, x: &Features) -> f64 {
        let sum: f64 = self.weights.iter().zip(x).map(|(weight, x)| weight.max(0.0) * x).sum();
        sum.max(self.least)
    }

    /// Learns that `x` came out as `y`, at a weight. What is not finite is ignored.
    pub fn learn(&mut self, x: &Features, y: f64, weight: f64) {
        if !(y.is_finite() && weight.is_finite() && x.iter().all(|one| one.is_finite())) {
            return;
        }
        let next = self.updated(x, y, weight);
        // Finite samples can still overflow; then the model stays as it was.
        if next.weights.iter().chain(next.covariance.iter().flatten()).all(|one| one.is_finite()) {
            *self = next;
        }
    }

    fn updated(&self, x: &Features, y: f64, weight: f64) -> Self {
        let px = self.covariance.map(|row| dot(&row, x));
        let spread = dot(x, &px);
        let forgetting = if self.trace() > self.cap { 1.0 } else { FORGETTING };
        let gain = weight / (forgetting + weight * spread);
        let error = y - dot(&self.weights, x);
        let mut next = self.clone();
        for (weight, px) in next.weights.iter_mut().zip(&px) {
            *weight += gain * error * px;
        }
        for (row, left) in next.covariance.iter_mut().zip(&px) {
            for (cell, right) in row.iter_mut().zip(&px) {
                *cell = (*cell - gain * left * right) / forgetting;
            }
        }
        next.samples = self.samples.saturating_add(1);
        next
    }

    /// Samples learned from.
    #[must_use]
    pub fn samples(&self) -> u64 {
        self.samples
    }

    /// The weights, as learned: unclamped.
    #[must_use]
    pub fn weights(&self) -> &Features {
        &self.weights
    }

    fn trace(&self) -> f64 {
        self.covariance.iter().enumerate().filter_map(|(place, row)| row.get(place)).sum()
    }
}

fn dot(one: &Features, other: &Features) -> f64 {
    one.iter().zip(other).map(|(one, other)| one * other).sum()
}
