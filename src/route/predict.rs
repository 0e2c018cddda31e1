//! The latency predictor: linear models of four weights, learned one sample at a time.
//!
//! Weighted recursive least squares with forgetting. Two guards keep it sane: forgetting stops while the covariance is
//! as uncertain as at the start, else it winds up when the load stays the same; and weights are clamped to what physics
//! allows only when predicting. Clamping them in the update looks harmless and diverges.

/// What a model sees: a constant and three quantities of load.
pub type Features = [f64; 4];

/// Forgetting per sample: about the last 500 count.
const FORGETTING: f64 = 0.998;
/// Forgetting stops while the trace is above that of the start: of four weights.
const CAP: f64 = 4.0;

/// What a model starts from.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Prior {
    /// The weights.
    pub weights: Features,
    /// The variance of each.
    pub doubt: f64,
    /// The least that is ever predicted, in seconds.
    pub least: f64,
}

/// What a model has learned, in plain numbers, to be kept somewhere.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct RlsLearned {
    /// The weights.
    pub weights: Features,
    /// Their covariance.
    pub covariance: [Features; 4],
    /// Samples learned from.
    pub samples: u64,
}

/// A linear model of four weights.
#[derive(Debug, Clone, PartialEq)]
pub struct Rls {
    prior: Prior,
    learned: RlsLearned,
}

impl Rls {
    /// A model that knows its prior.
    #[must_use]
    pub fn new(prior: Prior) -> Self {
        let learned = RlsLearned { weights: prior.weights, covariance: diagonal(prior.doubt), samples: 0 };
        Self { prior, learned }
    }

    /// What the model expects, in seconds; no less than its least.
    #[must_use]
    pub fn predict(&self, x: &Features) -> f64 {
        let sum: f64 = self.learned.weights.iter().zip(x).map(|(weight, x)| weight.max(0.0) * x).sum();
        sum.max(self.prior.least)
    }

    /// Learns that `x` came out as `y`, at a weight. Samples that are not finite, or would make the model so, are
    /// ignored.
    pub fn learn(&mut self, x: &Features, y: f64, weight: f64) {
        let next = self.updated(x, y, weight);
        if next.is_finite() {
            self.learned = next;
            // Rounding can cost the covariance its positive diagonal; then the model doubts anew what it knows.
            if self
                .learned
                .covariance
                .iter()
                .enumerate()
                .any(|(place, row)| row.get(place).is_none_or(|own| *own < 0.0))
            {
                self.learned.covariance = diagonal(self.prior.doubt);
            }
        }
    }

    fn updated(&self, x: &Features, y: f64, weight: f64) -> RlsLearned {
        let RlsLearned { mut weights, mut covariance, samples } = self.learned;
        let px = covariance.map(|row| dot(&row, x));
        let forgetting = if trace(&covariance) > CAP * self.prior.doubt { 1.0 } else { FORGETTING };
        let gain = weight / (forgetting + weight * dot(x, &px));
        let error = y - dot(&weights, x);
        for (weight, px) in weights.iter_mut().zip(&px) {
            *weight += gain * error * px;
        }
        for (row, left) in covariance.iter_mut().zip(&px) {
            for (cell, right) in row.iter_mut().zip(&px) {
                *cell = (*cell - gain * left * right) / forgetting;
            }
        }
        RlsLearned { weights, covariance, samples: samples.saturating_add(1) }
    }

    /// Samples learned from.
    #[must_use]
    pub fn samples(&self) -> u64 {
        self.learned.samples
    }

    /// A weight as predictions use it: not below 0.
    #[must_use]
    pub fn weight(&self, place: usize) -> f64 {
        self.learned.weights.get(place).map_or(0.0, |weight| weight.max(0.0))
    }

    /// All it has learned.
    #[must_use]
    pub fn learned(&self) -> RlsLearned {
        self.learned
    }

    /// Goes on from what another model learned; what is not finite is ignored.
    pub fn resume(&mut self, learned: RlsLearned) {
        if learned.is_finite() {
            self.learned = learned;
        }
    }
}

impl RlsLearned {
    /// Also when it is multiplied with any features there are.
    fn is_finite(&self) -> bool {
        const LARGEST: f64 = 1e100;
        self.weights.iter().chain(self.covariance.iter().flatten()).all(|one| one.abs() < LARGEST)
    }
}

fn diagonal(value: f64) -> [Features; 4] {
    [[value, 0.0, 0.0, 0.0], [0.0, value, 0.0, 0.0], [0.0, 0.0, value, 0.0], [0.0, 0.0, 0.0, value]]
}

fn trace([[a, ..], [_, b, ..], [_, _, c, _], [.., d]]: &[Features; 4]) -> f64 {
    a + b + c + d
}

fn dot(one: &Features, other: &Features) -> f64 {
    one.iter().zip(other).map(|(one, other)| one * other).sum()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::random::Random;

    const PRIOR: Prior = Prior { weights: [0.05, 0.10, 0.01, 0.01], doubt: 1.0, least: 0.01 };

    #[test]
    fn a_linear_backend_is_learned() {
        let (mut model, mut random) = (Rls::new(PRIOR), Random::seeded(1));
        let truth = |x: &Features| 0.02 + 0.09 * x[1] + 0.03 * x[2] + 0.005 * x[3];
        let mut draw = || {
            let (q, n) = (20.0 * random.share(), 2.0 * random.share());
            ([1.0, q, n, q * n], 1.0 + 0.05 * random.gauss())
        };
        for _ in 0..500 {
            let (x, noise) = draw();
            let expected = model.predict(&x);
            model.learn(&x, truth(&x) * noise, 0.01 / (expected * expected + 0.0025));
        }
        for _ in 0..100 {
            let (x, _) = draw();
            assert!((model.predict(&x) / truth(&x)).ln().abs() < 0.1, "{x:?}");
        }
        assert!((model.weight(1) - 0.09).abs() < 0.01, "{:?}", model.learned().weights);
    }

    #[test]
    fn constant_load_does_not_wind_the_covariance_up() {
        let mut model = Rls::new(PRIOR);
        for _ in 0..100_000 {
            model.learn(&[1.0, 0.5, 0.1, 0.05], 0.1, 1.0);
        }
        let doubt: f64 = (0..4).map(|place| model.learned().covariance[place][place]).sum();
        assert!((3.9..=4.01).contains(&doubt), "as much as at the start: {:?}", model.learned().covariance);
        model.learn(&[1.0, 5.0, 1.0, 5.0], 0.5, 1.0);
        assert!(model.predict(&[1.0, 0.5, 0.1, 0.05]) < 0.3);
    }

    #[test]
    fn negative_weights_are_learned_and_not_predicted_with() {
        let mut model = Rls::new(PRIOR);
        for step in 0..200 {
            let q = f64::from(step % 10);
            model.learn(&[1.0, q, 0.0, 0.0], 1.0 - 0.05 * q, 1.0);
        }
        assert!(model.learned().weights[1] < -0.04 && model.weight(1) == 0.0);
        assert!(model.predict(&[1.0, 10.0, 0.0, 0.0]) > 0.9);
    }

    proptest! {
        #[test]
        fn any_samples_leave_the_model_finite(
            samples in proptest::collection::vec((prop::array::uniform4(any::<f64>()), any::<f64>(), any::<f64>()), 0..200),
        ) {
            let mut model = Rls::new(PRIOR);
            for (x, y, weight) in &samples {
                model.learn(x, *y, *weight);
                prop_assert!(model.learned().is_finite());
                let expected = model.predict(&[1.0, 3.0, 0.5, 2.0]);
                prop_assert!(expected.is_finite() && expected >= 0.01);
            }
        }
    }
}
