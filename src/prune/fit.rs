//! Least squares with means: the weights and bias of a linear map that come closest to what shall come out.

use super::gram::Gram;
use super::obs::{damp, factor};
use crate::error::{Error, Result};
use crate::weights::HostTensor;
use faer::Mat;
use faer::linalg::solvers::Solve;

/// Damping that is tried, as shares of the inputs' mean variance.
const DAMPINGS: [f64; 5] = [1e-3, 1e-2, 1e-1, 1.0, 10.0];

/// Weight, shaped as `prior` `[out, …, in]`, and bias `[out]` of the map from the first `inputs` columns of the summed rows to the others.
///
/// Damping pulls towards `prior`: as much as makes the fit to all `parts` but the last best on the last.
pub fn fit(parts: &[Gram], inputs: usize, prior: &HostTensor) -> Result<(HostTensor, HostTensor)> {
    let [rest @ .., held_out] = parts else { return Err(Error::Config("a fit needs rows".into())) };
    let numbers = prior.to_f32();
    let old = Mat::from_fn(inputs, held_out.width - inputs, |i, j| f64::from(numbers[j * inputs + i]));
    let all = Gram::sum(parts);
    let damping = if rest.is_empty() { 1.0 } else { chosen(&Normal::new(&Gram::sum(rest), inputs, &old), held_out, inputs, &old)? };
    let weight = &old + Normal::new(&all, inputs, &old).solve(damping)?;
    Ok(tensors(&weight, &all.mean[..inputs], &all.mean[inputs..], &prior.shape))
}

/// What is left to fit once the old weights have done their part.
struct Normal {
    /// `[inputs, inputs]`
    hessian: Mat<f64>,
    /// `[inputs, outputs]`
    missing: Mat<f64>,
}

impl Normal {
    fn new(joint: &Gram, inputs: usize, old: &Mat<f64>) -> Self {
        let hessian = Mat::from_fn(inputs, inputs, |i, j| joint.covariance(i, j));
        let across = Mat::from_fn(inputs, joint.width - inputs, |i, j| joint.covariance(i, inputs + j));
        let missing = across - &hessian * old;
        Self { hessian, missing }
    }

    fn solve(&self, damping: f64) -> Result<Mat<f64>> {
        let mut hessian = self.hessian.clone();
        damp(&mut hessian, damping);
        Ok(factor(&hessian)?.solve(&self.missing))
    }
}

/// The damping with which the change that `rest` asks for does best on other rows.
fn chosen(rest: &Normal, held_out: &Gram, inputs: usize, old: &Mat<f64>) -> Result<f64> {
    /// Beyond this many inputs factoring takes too long to be done often. Such maps are mostly convolutions, which have rows in plenty.
    const WIDE: usize = 2400;
    if inputs > WIDE {
        return Ok(DAMPINGS[1]);
    }
    let unseen = Normal::new(held_out, inputs, old);
    // The error, up to what no change alters: tr(Δᵀ H Δ) - 2 tr(Δᵀ missing).
    let error = |change: &Mat<f64>| {
        let through = &unseen.hessian * change;
        let one = |i: usize, j: usize| change[(i, j)] * (through[(i, j)] - 2.0 * unseen.missing[(i, j)]);
        (0..change.ncols()).map(|j| (0..change.nrows()).map(|i| one(i, j)).sum::<f64>()).sum::<f64>()
    };
    let mut best = (f64::INFINITY, DAMPINGS[DAMPINGS.len() - 1]);
    for damping in DAMPINGS {
        // Too little damping may leave nothing that can be factored.
        let Ok(change) = rest.solve(damping) else { continue };
        let error = error(&change);
        if error < best.0 {
            best = (error, damping);
        }
    }
    Ok(best.1)
}

/// A weight `[inputs, outputs]` as a tensor of `shape` `[out, …, in]`, and the bias that gives the outputs their means.
pub fn tensors(weight: &Mat<f64>, inputs: &[f64], outputs: &[f64], shape: &[usize]) -> (HostTensor, HostTensor) {
    let numbers = (0..weight.ncols()).flat_map(|j| (0..weight.nrows()).map(move |i| weight[(i, j)] as f32)).collect();
    let bias = outputs.iter().enumerate().map(|(j, mean)| (mean - (0..weight.nrows()).map(|i| weight[(i, j)] * inputs[i]).sum::<f64>()) as f32);
    (HostTensor::f32(shape, numbers), HostTensor::f32(&[weight.ncols()], bias.collect()))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Rows of three inputs and two outputs that are made of them, with as much noise as is asked for.
    fn part(seed: u64, count: usize, noise: f32) -> Gram {
        let mut random = fastrand::Rng::with_seed(seed);
        let mut gram = Gram::of_map(3, 2);
        let rows = (0..count).flat_map(|_| {
            let x: Vec<f32> = (0..3).map(|i| i as f32 + random.f32()).collect();
            let mut noise = || noise * (random.f32() - 0.5);
            [x[0], x[1], x[2], 2.0 * x[0] - x[2] + 3.0 + noise(), x[1] - 1.0 + noise()]
        });
        gram.add(&rows.collect::<Vec<_>>(), None);
        gram
    }

    #[test]
    fn a_map_that_made_the_rows_is_found_again() {
        let prior = HostTensor::f32(&[2, 3], vec![0.0; 6]);
        let (weight, bias) = fit(&[part(1, 100, 0.0), part(2, 100, 0.0)], 3, &prior).unwrap();
        for (found, expected) in weight.to_f32().iter().chain(bias.to_f32().iter()).zip([2.0, 0.0, -1.0, 0.0, 1.0, 0.0, 3.0, -1.0]) {
            assert!((found - expected).abs() < 2e-2, "{found} {expected}");
        }
    }

    #[test]
    fn chance_is_not_taken_for_a_reason_to_change() {
        let truth = [2.0, 0.0, -1.0, 0.0, 1.0, 0.0];
        let parts = [part(1, 30, 5.0), part(2, 60, 5.0)];
        let (weight, bias) = fit(&parts, 3, &HostTensor::f32(&[2, 3], truth.into())).unwrap();
        assert!(weight.to_f32().iter().zip(truth).all(|(x, y)| (x - y).abs() < 0.3), "{weight:?}");
        // The means are right whatever the weights are.
        let all = Gram::sum(&parts);
        let weight = weight.to_f32();
        for output in 0..2 {
            let found = f64::from(bias.to_f32()[output]) + (0..3).map(|i| f64::from(weight[3 * output + i]) * all.mean[i]).sum::<f64>();
            assert!((found - all.mean[3 + output]).abs() < 1e-4);
        }
    }
}
