//! Exact percentiles of a sample, as `NumPy` has them by default and both NVIDIA programs report them.

/// The percentile (0 to 100) of an ascending sample, linearly interpolated at the virtual index `q × (n − 1)`.
#[must_use]
#[allow(
    clippy::cast_precision_loss,
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "an index between 0 and the sample's length"
)]
pub fn percentile(sorted: &[f64], percent: f64) -> Option<f64> {
    let last = sorted.len().checked_sub(1)?;
    let virtual_index = (percent / 100.0).clamp(0.0, 1.0) * last as f64;
    let below = virtual_index.floor();
    let low = *sorted.get(below as usize)?;
    let high = sorted.get(below as usize + 1).copied().unwrap_or(low);
    // What lies at infinity stays there.
    let beyond = (high - low) * (virtual_index - below);
    Some(if beyond.is_nan() { low } else { low + beyond })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(sample: &[f64], percent: f64, expected: f64) {
        let found = percentile(sample, percent).expect("not empty");
        assert!((found - expected).abs() < 1e-9, "p{percent} of {sample:?} is {found}, not {expected}");
    }

    #[test]
    fn percentiles_interpolate_linearly() {
        // By hand: index 0.99 × 3 = 2.97, between 30 and 40.
        check(&[10.0, 20.0, 30.0, 40.0], 99.0, 39.7);
        check(&[10.0, 20.0, 30.0, 40.0], 50.0, 25.0);
        check(&[10.0, 20.0, 30.0, 40.0], 25.0, 17.5);
        check(&[10.0, 20.0, 30.0, 40.0], 0.0, 10.0);
        check(&[10.0, 20.0, 30.0, 40.0], 100.0, 40.0);
        check(&[5.0], 99.0, 5.0);
        check(&[1.0, 2.0], 1.0, 1.01);
        assert_eq!(percentile(&[], 50.0), None);
    }

    #[test]
    fn what_lies_at_infinity_stays_there() {
        let never = f64::INFINITY;
        assert_eq!(percentile(&[1.0, never, never], 75.0), Some(never));
        assert_eq!(percentile(&[1.0, 2.0, never], 50.0), Some(2.0));
    }
}
