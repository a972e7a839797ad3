//! Which units a linear map can best do without once its other weights have been re-solved: the optimal brain surgeon for groups of
//! columns, greedily with exact updates ("ZipLM", Kurtić et al., 2023, arXiv:2302.04089; "OSSCAR", Meng et al., 2024, arXiv:2403.12983).
//!
//! All inputs are centred: the bias takes up the means, so that what is kept constant on average costs nothing.

use super::gram::Gram;
use super::structure::{Span, Structure};
use crate::error::{Error, Result};
use crate::weights::HostTensor;
use faer::linalg::solvers::{DenseSolveCore, Llt, Solve};
use faer::{Mat, Side};

/// The share of the mean variance of a map's inputs that is added to each at least: keeps re-solved weights near the old ones where the
/// pictures say little.
const DAMPING: f64 = 1e-2;

/// A linear map with what it is given.
pub struct Problem {
    /// Covariance of the inputs, damped, `[inputs, inputs]`.
    pub hessian: Mat<f64>,
    /// `[inputs, outputs]`
    pub weight: Mat<f64>,
    /// Means of the inputs.
    pub mean: Vec<f64>,
    /// Variance of all outputs together.
    pub energy: f64,
    /// Channels at each tap, and taps.
    channels: usize,
    taps: usize,
    /// Which of the channels are those of the structure's units.
    span: Span,
}

/// A unit in the order of removal, with the error after it is gone too: the lost variance of the outputs, as a share, summed over the maps.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Removal {
    pub unit: usize,
    pub error: f64,
}

/// The units that stay where `gone` of them go in this order; ascending.
pub fn kept(order: &[Removal], units: usize, gone: usize) -> Vec<usize> {
    let gone: Vec<usize> = order.iter().take(gone).map(|removal| removal.unit).collect();
    (0..units).filter(|unit| !gone.contains(unit)).collect()
}

impl Problem {
    /// `weight` `[out, …, in]`; its inputs are those summed in `gram`, and among them units lie by `span`.
    pub fn new(gram: &Gram, weight: &HostTensor, span: &Span) -> Result<Self> {
        let outputs = weight.shape.first().copied().unwrap_or(0);
        let channels = weight.shape.last().copied().unwrap_or(0);
        let n = gram.inputs;
        if outputs * n != weight.len() || channels == 0 || gram.count == 0.0 {
            return Err(Error::Config(format!("sums over {n} inputs don't go with a weight {:?}", weight.shape)));
        }
        let mean = gram.mean[..n].to_vec();
        let mut hessian = Mat::from_fn(n, n, |i, j| gram.covariance(i, j));
        let numbers = weight.to_f32();
        let weight = Mat::from_fn(n, outputs, |i, j| f64::from(numbers[j * n + i]));
        let through = &hessian * &weight;
        let energy = (0..outputs).map(|j| (0..n).map(|i| weight[(i, j)] * through[(i, j)]).sum::<f64>()).sum::<f64>().max(f64::MIN_POSITIVE);
        // The fewer rows there are for each input, the more of their correlation is chance.
        damp(&mut hessian, DAMPING + n as f64 / gram.count);
        Ok(Self { hessian, weight, mean, energy, channels, taps: n / channels, span: span.clone() })
    }

    /// The rows of `weight` that a unit's channels have: at each tap.
    pub fn columns(&self, unit: usize) -> Vec<usize> {
        (0..self.taps).flat_map(|tap| self.span.of(unit).map(move |channel| tap * self.channels + channel)).collect()
    }

    /// The rows of `weight` that stay where only these channels do.
    pub fn columns_of(&self, channels: &[usize]) -> Vec<usize> {
        (0..self.taps).flat_map(|tap| channels.iter().map(move |channel| tap * self.channels + channel)).collect()
    }

    /// Weights `[kept, outputs]` that make the best of the kept inputs (indices).
    pub fn solve(&self, kept: &[usize]) -> Result<Mat<f64>> {
        let all = self.hessian.nrows();
        let inner = Mat::from_fn(kept.len(), kept.len(), |i, j| self.hessian[(kept[i], kept[j])]);
        let across = Mat::from_fn(kept.len(), all, |i, j| self.hessian[(kept[i], j)]);
        Ok(factor(&inner)?.solve(&across * &self.weight))
    }
}

/// Adds a share of the mean variance to the diagonal of a covariance.
pub fn damp(covariance: &mut Mat<f64>, share: f64) {
    let n = covariance.nrows();
    let variance = (0..n).map(|i| covariance[(i, i)]).sum::<f64>() / n.max(1) as f64;
    // Inputs that never vary must not stop the solver.
    let most = share * variance.max(0.0) + 1e-12;
    (0..n).for_each(|i| covariance[(i, i)] += most);
}

pub fn factor(matrix: &Mat<f64>) -> Result<Llt<f64>> {
    let fail = |_| Error::Config("a least-squares problem has no solution: the pictures give numbers that aren't finite".into());
    Llt::new(matrix.as_ref(), Side::Lower).map_err(fail)
}

/// All units of a structure but the last, the least missed first; `problems` are the maps that use it.
pub fn removals(problems: &[Problem], structure: &Structure) -> Result<Vec<Removal>> {
    let mut maps: Vec<Surgeon> = problems.iter().map(|problem| Surgeon::new(problem, structure)).collect::<Result<_>>()?;
    let mut left: Vec<usize> = (0..structure.units).collect();
    let mut order = Vec::new();
    let mut error = 0.0;
    // Wide structures lose several at a time: what the others' weights do in between hardly changes the order.
    let step = (structure.units / 128).max(1);
    while left.len() > 1 {
        let mut scored: Vec<(f64, usize)> = left.iter().map(|&unit| (maps.iter().map(|map| map.score(&[unit])).sum(), unit)).collect();
        scored.sort_by(|a, b| a.0.total_cmp(&b.0).then(a.1.cmp(&b.1)));
        let least: Vec<usize> = scored.iter().take(step.min(left.len() - 1)).map(|&(_, unit)| unit).collect();
        for count in 1..=least.len() {
            let with = maps.iter().map(|map| map.score(&least[..count])).sum::<f64>();
            order.push(Removal { unit: least[count - 1], error: error + with });
        }
        error = order.last().map_or(error, |removal| removal.error);
        maps.iter_mut().try_for_each(|map| map.remove(&least))?;
        left.retain(|unit| !least.contains(unit));
    }
    Ok(order)
}

/// The error of taking each unit out alone, as a share of the outputs' variance, summed over the maps.
pub fn alone(problems: &[Problem], structure: &Structure) -> Result<Vec<f64>> {
    let maps: Vec<Surgeon> = problems.iter().map(|problem| Surgeon::new(problem, structure)).collect::<Result<_>>()?;
    Ok((0..structure.units).map(|unit| maps.iter().map(|map| map.score(&[unit])).sum()).collect())
}

/// One map, with the inverse of its Hessian kept up to date as inputs go.
struct Surgeon {
    inverse: Mat<f64>,
    weight: Mat<f64>,
    columns: Vec<Vec<usize>>,
    energy: f64,
}

impl Surgeon {
    fn new(problem: &Problem, structure: &Structure) -> Result<Self> {
        let columns = (0..structure.units).map(|unit| problem.columns(unit)).collect();
        let inverse = factor(&problem.hessian)?.inverse();
        Ok(Self { inverse, weight: problem.weight.clone(), columns, energy: problem.energy })
    }

    /// How much of the outputs' variance is lost with some units: tr(Wᵤᵀ (H⁻¹ᵤᵤ)⁻¹ Wᵤ).
    fn score(&self, units: &[usize]) -> f64 {
        let columns = self.columns_of(units);
        let outputs = 0..self.weight.ncols();
        if let [column] = columns[..] {
            let sum: f64 = outputs.map(|j| self.weight[(column, j)].powi(2)).sum();
            return sum / self.inverse[(column, column)] / self.energy;
        }
        let weight = self.rows(&columns);
        let Ok(block) = self.block(&columns) else { return f64::INFINITY };
        let solved = block.solve(&weight);
        outputs.map(|j| (0..columns.len()).map(|i| weight[(i, j)] * solved[(i, j)]).sum::<f64>()).sum::<f64>() / self.energy
    }

    fn columns_of(&self, units: &[usize]) -> Vec<usize> {
        units.iter().flat_map(|&unit| &self.columns[unit]).copied().collect()
    }

    fn rows(&self, columns: &[usize]) -> Mat<f64> {
        Mat::from_fn(columns.len(), self.weight.ncols(), |i, j| self.weight[(columns[i], j)])
    }

    fn block(&self, columns: &[usize]) -> Result<Llt<f64>> {
        factor(&Mat::from_fn(columns.len(), columns.len(), |i, j| self.inverse[(columns[i], columns[j])]))
    }

    /// Takes units out: the other weights make up for them, and the inverse becomes that of what is left.
    fn remove(&mut self, units: &[usize]) -> Result<()> {
        let columns = self.columns_of(units);
        let block = self.block(&columns)?;
        let across = Mat::from_fn(self.inverse.nrows(), columns.len(), |i, j| self.inverse[(i, columns[j])]);
        self.weight -= &across * block.solve(self.rows(&columns));
        self.inverse -= &across * block.solve(across.transpose());
        for column in columns {
            self.weight.row_mut(column).fill(0.0);
            // Rounding must not let it come back.
            self.inverse.row_mut(column).fill(0.0);
            self.inverse.col_mut(column).fill(0.0);
            self.inverse[(column, column)] = 1.0;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::prune::structure::Place;

    fn structure(units: usize, width: usize) -> Structure {
        Structure { name: "test".into(), place: Place::Queries, units, width, made_by: vec![], used_by: vec![] }
    }

    /// Rows of correlated noise around means that aren't zero.
    fn rows(count: usize, width: usize, seed: u64) -> Vec<f32> {
        let mut random = fastrand::Rng::with_seed(seed);
        let mix: Vec<f32> = (0..width * width).map(|_| random.f32() - 0.5).collect();
        let row = |random: &mut fastrand::Rng| {
            let noise: Vec<f32> = (0..width).map(|_| random.f32() - 0.5).collect();
            (0..width).map(|i| 0.3 * i as f32 + (0..width).map(|j| mix[i * width + j] * noise[j]).sum::<f32>()).collect::<Vec<_>>()
        };
        (0..count).flat_map(|_| row(&mut random)).collect()
    }

    /// With units of `unit` channels.
    fn problem(width: usize, outputs: usize, taps: usize, unit: usize) -> (Problem, Vec<f32>) {
        let rows = rows(400, width, 1);
        let mut gram = Gram::new(width);
        gram.add(&rows, None);
        let mut random = fastrand::Rng::with_seed(2);
        let weight = HostTensor::f32(&[outputs, taps, width / taps], (0..outputs * width).map(|_| random.f32() - 0.5).collect());
        (Problem::new(&gram, &weight, &Span::of_width(unit)).unwrap(), rows)
    }

    /// The damped error of the best weights on the kept inputs, from scratch.
    fn error(problem: &Problem, kept: &[usize]) -> f64 {
        let solved = problem.solve(kept).unwrap();
        let mut difference = problem.weight.clone();
        for (i, &row) in kept.iter().enumerate() {
            (0..difference.ncols()).for_each(|j| difference[(row, j)] -= solved[(i, j)]);
        }
        let through = &problem.hessian * &difference;
        let sum: f64 = (0..difference.ncols()).map(|j| (0..difference.nrows()).map(|i| difference[(i, j)] * through[(i, j)]).sum::<f64>()).sum();
        sum / problem.energy
    }

    #[test]
    fn every_removal_is_the_cheapest_and_its_error_is_that_of_solving_anew() {
        for (units, width, taps) in [(8, 1, 1), (4, 3, 1), (5, 1, 4)] {
            let (problem, _) = problem(units * width * taps, 6, taps, width);
            let structure = structure(units, width);
            let order = removals(std::slice::from_ref(&problem), &structure).unwrap();
            assert_eq!(order.len(), units - 1);
            let kept = |gone: &[usize]| {
                let mut kept: Vec<usize> = (0..units).filter(|unit| !gone.contains(unit)).flat_map(|unit| problem.columns(unit)).collect();
                kept.sort_unstable();
                kept
            };
            let mut gone = Vec::new();
            for removal in order {
                let best = (0..units)
                    .filter(|unit| !gone.contains(unit))
                    .map(|unit| error(&problem, &kept(&[&gone[..], &[unit]].concat())))
                    .fold(f64::INFINITY, f64::min);
                gone.push(removal.unit);
                let found = error(&problem, &kept(&gone));
                assert!((found - removal.error).abs() < 1e-6 * found.max(1e-9), "{found} {}", removal.error);
                assert!(found <= best * (1.0 + 1e-6), "{found} {best}");
            }
        }
    }

    #[test]
    fn wide_structures_lose_several_at_a_time_and_the_errors_are_still_exact() {
        let (problem, _) = problem(300, 4, 1, 1);
        let order = removals(std::slice::from_ref(&problem), &structure(300, 1)).unwrap();
        assert_eq!(order.len(), 299);
        for gone in [1, 2, 3, 150, 151] {
            let kept: Vec<usize> = kept(&order, 300, gone);
            let (found, expected) = (order[gone - 1].error, error(&problem, &kept));
            assert!((found - expected).abs() < 1e-6 * expected, "{gone}: {found} {expected}");
        }
        assert!(order.windows(2).all(|pair| pair[0].error <= pair[1].error));
    }

    #[test]
    fn an_input_that_others_make_costs_nothing_and_is_taken_up_by_them() {
        let mut rows = rows(300, 6, 3);
        // The third is the sum of the first two, and the fourth never changes.
        rows.chunks_exact_mut(6).for_each(|row| {
            row[2] = row[0] + row[1];
            row[3] = 5.0;
        });
        let mut gram = Gram::new(6);
        gram.add(&rows, None);
        let weight = HostTensor::f32(&[2, 6], vec![0.1, 0.2, 1.0, 0.9, 0.5, 0.5, 1.0, -1.0, 1.0, -0.7, 0.0, 0.7]);
        let problem = Problem::new(&gram, &weight, &Span::all()).unwrap();
        let order = removals(&[problem], &structure(6, 1)).unwrap();
        assert_eq!(order[0].unit, 3);
        assert!(order[0].error < 0.02, "{order:?}");
        assert!([0, 1, 2].contains(&order[1].unit) && order[1].error < 0.06, "{order:?}");
    }

    #[test]
    fn numbers_that_are_not_finite_are_an_error() {
        let mut gram = Gram::new(2);
        gram.add(&[f32::NAN, 1.0, 2.0, 3.0], None);
        let problem = Problem::new(&gram, &HostTensor::f32(&[1, 2], vec![1.0, 1.0]), &Span::all()).unwrap();
        assert!(removals(&[problem], &structure(2, 1)).is_err());
    }
}
