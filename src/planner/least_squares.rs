//! Least squares for a handful of unknowns that cannot be negative.
//!
//! With so few unknowns every choice of which of them are zero can be tried: the best that has no negative one is the
//! answer, without an iteration that might not end.

/// Unknowns of a model.
pub(super) const UNKNOWNS: usize = 5;

/// One equation: `x · unknowns = y`.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Equation {
    pub(super) x: [f64; UNKNOWNS],
    pub(super) y: f64,
}

/// What was found.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Solution {
    pub(super) values: [f64; UNKNOWNS],
    /// The standard error of each; `None` where it is zero because it cannot be negative, or not told from others.
    pub(super) errors: [Option<f64>; UNKNOWNS],
    /// Whether the equations tell it from the others at all.
    pub(super) told: [bool; UNKNOWNS],
}

type Matrix = [[f64; UNKNOWNS]; UNKNOWNS];
/// Which unknowns may differ from zero.
type Active = [bool; UNKNOWNS];

impl Equation {
    /// How far off a solution is, as a share of what was measured.
    pub(super) fn residual(&self, values: &[f64; UNKNOWNS]) -> f64 {
        let expected: f64 = self.x.iter().zip(values).map(|(x, value)| x * value).sum();
        if self.y > 0.0 { expected / self.y - 1.0 } else { 0.0 }
    }
}

/// The unknowns, none of them negative, that make the relative errors of all equations the smallest. `None` where the
/// equations are too few, or all alike.
#[allow(clippy::indexing_slicing, reason = "arrays of a constant length, indexed below it")]
pub(super) fn solve(equations: &[Equation]) -> Option<Solution> {
    let sums = Sums::of(equations)?;
    let choices = (1_usize..1 << UNKNOWNS).map(|choice| std::array::from_fn(|place| choice >> place & 1 == 1));
    let solved = choices.filter_map(|active: Active| Some((active, sums.solve(active)?)));
    let allowed = solved.filter(|(_, values)| values.iter().all(|value| *value >= 0.0));
    let (active, values) = allowed.min_by(|(_, one), (_, other)| sums.loss(one).total_cmp(&sums.loss(other)))?;
    let errors = sums.errors(active, &values);
    let told = std::array::from_fn(|place| sums.inverse(std::array::from_fn(|at| at == place || active[at])).is_some());
    let unscaled = |place: usize, value: f64| value / sums.scale.get(place).copied().unwrap_or(1.0);
    Some(Solution {
        values: std::array::from_fn(|place| unscaled(place, values.get(place).copied().unwrap_or_default())),
        errors: std::array::from_fn(|place| {
            errors.get(place).copied().flatten().map(|error: f64| unscaled(place, error))
        }),
        told,
    })
}

/// The normal equations, each unknown scaled to weigh about one, each equation to what it says of 1.
struct Sums {
    matrix: Matrix,
    right: [f64; UNKNOWNS],
    square: f64,
    count: usize,
    scale: [f64; UNKNOWNS],
}

#[allow(clippy::indexing_slicing, reason = "arrays of a constant length, indexed below it")]
impl Sums {
    fn of(equations: &[Equation]) -> Option<Self> {
        let rows: Vec<[f64; UNKNOWNS]> =
            equations.iter().filter(|one| one.y > 0.0).map(|one| one.x.map(|x| x / one.y)).collect();
        let scale: [f64; UNKNOWNS] =
            std::array::from_fn(|place| rows.iter().map(|row| row[place].abs()).fold(0.0, f64::max));
        let scale = scale.map(|most| if most > 0.0 && most.is_finite() { most } else { 1.0 });
        let (mut matrix, mut right, mut square) = (Matrix::default(), [0.0; UNKNOWNS], 0.0);
        for row in &rows {
            for i in 0..UNKNOWNS {
                for j in 0..UNKNOWNS {
                    matrix[i][j] += row[i] / scale[i] * row[j] / scale[j];
                }
                right[i] += row[i] / scale[i];
            }
            square += 1.0;
        }
        (!rows.is_empty()).then_some(Self { matrix, right, square, count: rows.len(), scale })
    }

    fn solve(&self, active: Active) -> Option<[f64; UNKNOWNS]> {
        let inverse = self.inverse(active)?;
        Some(std::array::from_fn(|i| (0..UNKNOWNS).map(|j| inverse[i][j] * self.right[j]).sum()))
    }

    /// The sum of squared relative errors.
    fn loss(&self, values: &[f64; UNKNOWNS]) -> f64 {
        let mut loss = self.square;
        for i in 0..UNKNOWNS {
            loss -= 2.0 * self.right[i] * values[i];
            loss += (0..UNKNOWNS).map(|j| values[i] * self.matrix[i][j] * values[j]).sum::<f64>();
        }
        loss.max(0.0)
    }

    fn errors(&self, active: Active, values: &[f64; UNKNOWNS]) -> [Option<f64>; UNKNOWNS] {
        let used = active.iter().filter(|active| **active).count();
        let free = self.count.saturating_sub(used);
        let Some(inverse) = self.inverse(active).filter(|_| free > 0) else { return [None; UNKNOWNS] };
        #[allow(clippy::cast_precision_loss, reason = "far below 2^53")]
        let variance = self.loss(values) / free as f64;
        std::array::from_fn(|place| active[place].then(|| (variance * inverse[place][place]).max(0.0).sqrt()))
    }

    /// The inverse of the active rows and columns, zero elsewhere; `None` where they do not tell the unknowns apart.
    fn inverse(&self, active: Active) -> Option<Matrix> {
        let (mut left, mut inverse) = (self.matrix, Matrix::default());
        for i in 0..UNKNOWNS {
            inverse[i][i] = 1.0;
            if !active[i] {
                left[i] = [0.0; UNKNOWNS];
                for row in &mut left {
                    row[i] = 0.0;
                }
                left[i][i] = 1.0;
            }
        }
        for pivot in 0..UNKNOWNS {
            let best = (pivot..UNKNOWNS).max_by(|a, b| left[*a][pivot].abs().total_cmp(&left[*b][pivot].abs()))?;
            // Against the diagonal that it started from: what is left of a column that others explain is rounding.
            if left[best][pivot].abs() < 1e-9 * self.matrix[pivot][pivot].abs().max(1e-300) {
                return None;
            }
            left.swap(pivot, best);
            inverse.swap(pivot, best);
            let by = left[pivot][pivot];
            for j in 0..UNKNOWNS {
                left[pivot][j] /= by;
                inverse[pivot][j] /= by;
            }
            for i in (0..UNKNOWNS).filter(|i| *i != pivot) {
                let factor = left[i][pivot];
                for j in 0..UNKNOWNS {
                    left[i][j] -= factor * left[pivot][j];
                    inverse[i][j] -= factor * inverse[pivot][j];
                }
            }
        }
        for i in (0..UNKNOWNS).filter(|i| !active[*i]) {
            inverse[i] = [0.0; UNKNOWNS];
        }
        Some(inverse)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::random::Random;

    /// Equations of those unknowns, each measured with that relative noise.
    fn equations(values: [f64; UNKNOWNS], noise: f64, count: usize) -> Vec<Equation> {
        let mut random = Random::seeded(3);
        let mut one = || {
            let x: [f64; UNKNOWNS] = std::array::from_fn(|place| if place == 0 { 1.0 } else { random.share() * 10.0 });
            let exact: f64 = x.iter().zip(values).map(|(x, value)| x * value).sum();
            Equation { x, y: exact * (1.0 + noise * random.gauss()) }
        };
        (0..count).map(|_| one()).collect()
    }

    #[track_caller]
    fn check(values: [f64; UNKNOWNS], noise: f64, within: f64) {
        let solution = solve(&equations(values, noise, 200)).expect("a solution");
        for ((found, error), wanted) in solution.values.iter().zip(solution.errors).zip(values) {
            assert!((found - wanted).abs() <= within * wanted.max(1e-6), "{solution:?}");
            assert!(error.is_none_or(|error| (found - wanted).abs() <= 4.0 * error + 1e-9), "{solution:?}");
        }
    }

    #[test]
    fn exact_equations_are_solved_exactly_and_noisy_ones_within_their_stated_error() {
        check([2e-3, 1e-4, 5e-5, 3e-3, 8e-6], 0.0, 1e-4);
        check([2e-3, 1e-4, 5e-4, 3e-3, 8e-4], 0.02, 0.3);
    }

    #[test]
    fn what_would_be_negative_is_zero() {
        let mut all = equations([1.0, 0.5, 0.0, 0.2, 0.1], 0.0, 100);
        for one in &mut all {
            one.y -= 0.01 * one.x[2];
        }
        let solution = solve(&all).expect("a solution");
        assert_eq!((solution.values[2], solution.errors[2]), (0.0, None));
        assert!(solution.values.iter().all(|value| *value >= 0.0), "{solution:?}");
    }

    #[test]
    fn what_the_equations_do_not_tell_apart_is_left_out_and_none_are_no_answer() {
        let mut all = equations([1.0, 0.5, 0.3, 0.2, 0.1], 0.0, 50);
        for one in &mut all {
            one.x[3] = one.x[2];
            one.y = one.x.iter().zip([1.0, 0.5, 0.3, 0.2, 0.1]).map(|(x, value)| x * value).sum();
        }
        let solution = solve(&all).expect("a solution");
        let together = solution.values[2] + solution.values[3];
        assert!((together - 0.5).abs() < 1e-6, "{solution:?}");
        assert_eq!((solution.told[1], solution.told[2] && solution.told[3]), (true, false), "{solution:?}");
        assert_eq!(solve(&[]), None);
        assert_eq!(solve(&[Equation { x: [1.0; UNKNOWNS], y: 0.0 }]), None);
    }
}
