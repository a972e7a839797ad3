//! Least squares with means: the weights and bias of a linear map that come closest to what shall come out.

use super::gram::Gram;
use super::obs::{damp, factor};
use crate::error::Result;
use crate::weights::HostTensor;
use faer::Mat;
use faer::linalg::solvers::Solve;

/// Weight, shaped as `prior` `[out, …, in]`, and bias `[out]` of the map from the first `inputs` columns of the rows summed in `joint` to the
/// others. Damping pulls towards `prior`.
pub fn fit(joint: &Gram, inputs: usize, prior: &HostTensor, damping: f64) -> Result<(HostTensor, HostTensor)> {
    let outputs = joint.width - inputs;
    let mean = joint.mean();
    let covariance = |i: usize, j: usize| f64::from(joint.products[i * joint.width + j]) / joint.count.max(1.0) - mean[i] * mean[j];
    let mut hessian = Mat::from_fn(inputs, inputs, covariance);
    let across = Mat::from_fn(inputs, outputs, |i, j| covariance(i, inputs + j));
    let old = prior.to_f32();
    let old = Mat::from_fn(inputs, outputs, |i, j| f64::from(old[j * inputs + i]));
    let missing = across - &hessian * &old;
    damp(&mut hessian, damping);
    let weight = old + factor(&hessian)?.solve(missing);
    Ok(tensors(&weight, &mean[..inputs], &mean[inputs..], &prior.shape))
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

    #[test]
    fn a_map_that_made_the_rows_is_found_again() {
        let mut random = fastrand::Rng::with_seed(1);
        let mut gram = Gram::new(5);
        for _ in 0..200 {
            let x: Vec<f32> = (0..3).map(|i| i as f32 + random.f32()).collect();
            gram.add(&[x[0], x[1], x[2], 2.0 * x[0] - x[2] + 3.0, x[1] - 1.0]);
        }
        let prior = HostTensor::f32(&[2, 3], vec![0.0; 6]);
        let (weight, bias) = fit(&gram, 3, &prior, 1e-6).unwrap();
        for (found, expected) in weight.to_f32().iter().chain(bias.to_f32().iter()).zip([2.0, 0.0, -1.0, 0.0, 1.0, 0.0, 3.0, -1.0]) {
            assert!((found - expected).abs() < 2e-3, "{found} {expected}");
        }
        // Damping without end leaves the weight as it was, and the means right.
        let (weight, bias) = fit(&gram, 3, &HostTensor::f32(&[2, 3], vec![1.0; 6]), 1e9).unwrap();
        assert!(weight.to_f32().iter().all(|x| (x - 1.0).abs() < 1e-3));
        let mean = gram.mean();
        assert!((f64::from(bias.to_f32()[0]) + mean[0] + mean[1] + mean[2] - mean[3]).abs() < 1e-2);
    }
}
