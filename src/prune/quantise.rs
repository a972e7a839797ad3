//! Rounds a network's weights to int8 so that its maps go on giving what they gave, by what they are given on pictures.
//!
//! A map's inputs are taken one after another, those that vary most first: each one's weights are rounded, and the weights of the inputs
//! after it make up for the error as far as the inputs are correlated ("Optimal Brain Compression" and "GPTQ", Frantar et al., 2022,
//! arXiv:2208.11580 and arXiv:2210.17323). In the end the bias gives every output its mean back. A depthwise convolution's channels
//! are maps of their own, whose inputs are the taps. The scales are those that are nearest without pictures.

use super::calibrate::{Relevance, calibrate, observed, offset};
use super::difference::look_on;
use super::gram::{Gram, Sampling, rows};
use super::inputs::{Inputs, in_order};
use super::keep::numbers;
use super::obs::{Problem, factor};
use super::structure::Span;
use crate::config::Architecture;
use crate::error::Result;
use crate::layout::layout_of;
use crate::progress::Progress;
use crate::watch::{Observe, Seen};
use crate::weights::{Channels, Data, HostTensor, Int8, Weights};
use candle_core::Tensor;
use faer::Mat;
use faer::linalg::solvers::DenseSolveCore;
use std::collections::BTreeMap;

/// Rows of one picture that are summed for a channel of a depthwise convolution: it has few inputs.
const TAP_ROWS: usize = 64;

/// Weights with all in int8 that may be; what is int8 already stays as it is, and so does what the pictures never reach.
pub fn quantise(config: &Architecture, weights: &Weights, inputs: &Inputs, progress: &dyn Progress) -> Result<Weights> {
    let inputs = inputs.sized(config.pixels())?;
    let seen = look_on(config, weights, &inputs, progress)?;
    let (relevance, inputs) = (Relevance::of(&seen), inputs.selected_by(&seen));
    let (mut dense, mut depthwise) = (Vec::new(), Vec::new());
    for entry in layout_of(config) {
        let Some((map, channels)) = entry.name.strip_suffix(".weight").zip(entry.int8_channels()) else { continue };
        if !matches!(weights.named(&entry.name)?.data, Data::I8(_)) {
            let list = if channels == Channels::First { &mut dense } else { &mut depthwise };
            list.push(map.to_string());
        }
    }
    progress.begin("gathering what maps are given", 2 * inputs.len());
    let grams = calibrate(config, weights, &inputs, &dense, &relevance, &|| progress.step())?;
    let taps = calibrate_taps(config, weights, &inputs, &depthwise, &|| progress.step())?;

    let all: Vec<(&String, Channels, &[Gram])> = dense
        .iter()
        .map(|map| (map, Channels::First, std::slice::from_ref(&grams[map])))
        .chain(depthwise.iter().map(|map| (map, Channels::Last, &taps[map][..])))
        .filter(|(.., grams)| grams.iter().all(|gram| gram.count > 0.0))
        .collect();
    progress.begin("rounding to int8", all.len());
    let rounded = in_order(all.len(), |i| {
        let (map, channels, grams) = all[i];
        let weight = weights.named(&format!("{map}.weight"))?;
        let bias = weights.named(&format!("{map}.bias"))?.to_f32().into_owned();
        let found = match channels {
            Channels::First => round(weight, &grams[0], bias)?,
            Channels::Last => round_channels(weight, grams, bias)?,
        };
        progress.step();
        Ok(found)
    })?;
    let mut weights = weights.clone();
    for ((map, ..), Rounded { weight, bias }) in all.iter().zip(rounded) {
        weights.insert(format!("{map}.weight"), weight);
        weights.insert(format!("{map}.bias"), HostTensor::f32(&[bias.len()], bias));
    }
    Ok(weights)
}

/// Weights with all in int8 that may be, each number at the nearest: what to compare with.
pub fn nearest(config: &Architecture, weights: &Weights) -> Result<Weights> {
    let mut out = weights.clone();
    for entry in layout_of(config) {
        if let Some(channels) = entry.int8_channels() {
            out.insert(&entry.name, weights.named(&entry.name)?.to_i8(channels));
        }
    }
    Ok(out)
}

/// A map in int8, and what its bias has become.
struct Rounded {
    weight: HostTensor,
    bias: Vec<f32>,
}

/// A linear map or a convolution over all channels, `weight` `[out, …, in]`.
fn round(weight: &HostTensor, gram: &Gram, mut bias: Vec<f32>) -> Result<Rounded> {
    let mut int8 = Int8::nearest(&weight.to_f32(), bias.len(), Channels::First);
    let problem = Problem::new(gram, weight, &Span::all())?;
    int8.values = nearest_outputs(&problem, &int8.scales)?;
    correct(&mut bias, &problem, &int8);
    Ok(Rounded { weight: HostTensor { shape: weight.shape.clone(), data: Data::I8(int8) }, bias })
}

/// A depthwise convolution, `weight` `[height, width, channels]`.
fn round_channels(weight: &HostTensor, grams: &[Gram], mut bias: Vec<f32>) -> Result<Rounded> {
    let (numbers, channels) = (weight.to_f32(), grams.len());
    let mut int8 = Int8::nearest(&numbers, channels, Channels::Last);
    for (channel, gram) in grams.iter().enumerate() {
        let own: Vec<f32> = numbers.iter().copied().skip(channel).step_by(channels).collect();
        let problem = Problem::new(gram, &HostTensor::f32(&[1, own.len()], own), &Span::all())?;
        let scales = vec![int8.scales[channel]];
        let values = nearest_outputs(&problem, &scales)?;
        correct(&mut bias[channel..=channel], &problem, &Int8 { values: values.clone(), scales, channels: Channels::First });
        int8.values.iter_mut().skip(channel).step_by(channels).zip(values).for_each(|(value, new)| *value = new);
    }
    Ok(Rounded { weight: HostTensor { shape: weight.shape.clone(), data: Data::I8(int8) }, bias })
}

/// Gives the outputs their means back.
fn correct(bias: &mut [f32], problem: &Problem, int8: &Int8) {
    let rounded = int8.to_f32();
    for (output, (bias, row)) in bias.iter_mut().zip(rounded.chunks_exact(problem.mean.len())).enumerate() {
        let missing: f64 = row.iter().zip(&problem.mean).enumerate().map(|(i, (&x, mean))| (problem.weight[(i, output)] - f64::from(x)) * mean).sum();
        *bias += missing as f32;
    }
}

/// Integers `[outputs, inputs]` whose multiples by the outputs' scales give nearly what the weights give.
fn nearest_outputs(problem: &Problem, scales: &[f32]) -> Result<Vec<i8>> {
    let (n, outputs) = (problem.weight.nrows(), problem.weight.ncols());
    let hessian = &problem.hessian;
    let mut order: Vec<usize> = (0..n).collect();
    order.sort_by(|&a, &b| hessian[(b, b)].total_cmp(&hessian[(a, a)]));
    // H⁻¹ = LLᵀ: column i of L below its diagonal is what the inputs after the ith take over, those before it being done.
    let inverse = factor(&Mat::from_fn(n, n, |i, j| hessian[(order[i], order[j])]))?.inverse();
    let factored = factor(&inverse)?;
    let lower = factored.L();
    // By inputs, so that what is added up lies side by side.
    let mut weight: Vec<f64> = order.iter().flat_map(|&input| (0..outputs).map(move |output| problem.weight[(input, output)])).collect();
    let mut values = vec![0; outputs * n];
    let mut error = vec![0.0; outputs];
    for (i, &input) in order.iter().enumerate() {
        let (done, after) = weight.split_at_mut((i + 1) * outputs);
        for (output, &x) in done[i * outputs..].iter().enumerate() {
            let scale = scales[output];
            let value = Int8::value(x as f32, scale);
            values[output * n + input] = value;
            error[output] = (x - f64::from(value) * f64::from(scale)) / lower[(i, i)];
        }
        for (j, row) in after.chunks_exact_mut(outputs).enumerate() {
            let share = lower[(i + 1 + j, i)];
            row.iter_mut().zip(&error).for_each(|(x, error)| *x -= share * error);
        }
    }
    Ok(values)
}

/// Sums over the taps of depthwise convolutions: for each channel its own.
fn calibrate_taps(
    config: &Architecture,
    weights: &Weights,
    inputs: &Inputs,
    maps: &[String],
    done: &(dyn Fn() + Sync),
) -> Result<BTreeMap<String, Vec<Gram>>> {
    let empty = || -> Result<BTreeMap<String, Vec<Gram>>> {
        let grams = |map: &String| {
            let shape = &weights.named(&format!("{map}.weight"))?.shape;
            Ok((map.clone(), vec![Gram::new(shape[0] * shape[1]); shape[2]]))
        };
        maps.iter().map(grams).collect()
    };
    let start = || Ok(Taps { grams: empty()?, picture: 0 });
    let mut sums = empty()?;
    let take = |taps: Taps| sums.values_mut().flatten().zip(taps.grams.values().flatten()).for_each(|(sum, part)| sum.merge(part));
    observed(config, weights, inputs, start, |taps, picture| taps.picture = picture, take, done)?;
    Ok(sums)
}

struct Taps {
    grams: BTreeMap<String, Vec<Gram>>,
    picture: usize,
}

impl Observe<Tensor> for Taps {
    fn layer(&mut self, seen: Seen<Tensor>) -> Result<()> {
        let Some(grams) = self.grams.get_mut(seen.layer) else { return Ok(()) };
        let sampling = Sampling { most: TAP_ROWS, offset: offset(self.picture) };
        let rows = rows(&numbers(seen.input)?, seen.input.dims(), seen.window, |total| sampling.rows(total))?;
        let channels = grams.len();
        for (channel, gram) in grams.iter_mut().enumerate() {
            let own: Vec<f32> = rows.iter().copied().skip(channel).step_by(channels).collect();
            gram.add(&own, None);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{Backbone, Config, EfficientNetLite, InvertedResidual};
    use crate::progress::Silent;
    use crate::prune::tiny;

    /// The share of the outputs' variance that is lost.
    fn error(problem: &Problem, values: &[i8], scales: &[f32]) -> f64 {
        let n = problem.mean.len();
        let rounded = Int8 { values: values.into(), scales: scales.into(), channels: Channels::First }.to_f32();
        let change = Mat::from_fn(n, scales.len(), |i, j| problem.weight[(i, j)] - f64::from(rounded[j * n + i]));
        let through = &problem.hessian * &change;
        (0..scales.len()).flat_map(|j| (0..n).map(move |i| (i, j))).map(|(i, j)| change[(i, j)] * through[(i, j)]).sum::<f64>() / problem.energy
    }

    /// Rows of `n` inputs that are mixtures of few things, with means.
    fn gram(n: usize, random: &mut fastrand::Rng) -> Gram {
        let mut row = || {
            let things: [f32; 5] = std::array::from_fn(|_| random.f32() - 0.5);
            (0..n).map(|i| 1.0 + things[i % 5] + 0.5 * things[(i / 5) % 5] + 0.05 * random.f32()).collect::<Vec<_>>()
        };
        let mut gram = Gram::new(n);
        gram.add(&(0..500).flat_map(|_| row()).collect::<Vec<_>>(), None);
        gram
    }

    /// Checks the means of a map, `weight` `[outputs, inputs]`, by its biases before and after; its error, and that of the nearest integers.
    fn check(weight: &HostTensor, gram: &Gram, [before, after]: [&[f32]; 2], int8: &Int8) -> [f64; 2] {
        let (n, outputs) = (gram.width, weight.shape[0]);
        let problem = Problem::new(gram, weight, &Span::all()).unwrap();
        let nearest = Int8::nearest(&weight.to_f32(), outputs, Channels::First);
        assert_eq!(int8.scales, nearest.scales);
        let mean = |weight: &[f32], bias: &[f32], output: usize| {
            f64::from(bias[output]) + (0..n).map(|i| f64::from(weight[output * n + i]) * gram.mean[i]).sum::<f64>()
        };
        for output in 0..outputs {
            let (before, after) = (mean(&weight.to_f32(), before, output), mean(&int8.to_f32(), after, output));
            assert!((before - after).abs() < 1e-5, "{before} {after}");
        }
        [int8, &nearest].map(|int8| error(&problem, &int8.values, &int8.scales))
    }

    fn int8(tensor: &HostTensor) -> &Int8 {
        let Data::I8(int8) = &tensor.data else { panic!("not int8") };
        int8
    }

    #[test]
    fn correlated_inputs_make_up_for_each_other_and_means_stay() {
        let mut random = fastrand::Rng::with_seed(3);
        let (gram, outputs) = (gram(24, &mut random), 10);
        let weight = HostTensor::f32(&[outputs, 24], (0..outputs * 24).map(|_| random.f32() - 0.5).collect());
        let before = vec![0.25; outputs];
        let Rounded { weight: found, bias } = round(&weight, &gram, before.clone()).unwrap();
        let [near, far] = check(&weight, &gram, [&before, &bias], int8(&found));
        assert!(near < 0.5 * far, "{near} {far}");
    }

    #[test]
    fn channels_of_a_depthwise_convolution_are_rounded_by_their_taps() {
        let mut random = fastrand::Rng::with_seed(4);
        const CHANNELS: usize = 12;
        let grams: Vec<Gram> = (0..CHANNELS).map(|_| gram(25, &mut random)).collect();
        let weight = HostTensor::f32(&[5, 5, CHANNELS], (0..25 * CHANNELS).map(|_| random.f32() - 0.5).collect());
        let before = [0.5; CHANNELS];
        let mut errors = [0.0; 2];
        let Rounded { weight: found, bias } = round_channels(&weight, &grams, before.to_vec()).unwrap();
        let (all, numbers) = (int8(&found), weight.to_f32());
        for (channel, gram) in grams.iter().enumerate() {
            let own = HostTensor::f32(&[1, 25], numbers.iter().copied().skip(channel).step_by(CHANNELS).collect());
            let values = all.values.iter().copied().skip(channel).step_by(CHANNELS).collect();
            let int8 = Int8 { values, scales: vec![all.scales[channel]], channels: Channels::First };
            let found = check(&own, gram, [&before[channel..=channel], &bias[channel..=channel]], &int8);
            errors.iter_mut().zip(found).for_each(|(sum, error)| *sum += error);
        }
        assert!(errors[0] < 0.5 * errors[1], "{errors:?}");
    }

    #[test]
    fn all_becomes_int8_that_may_and_stays_so() {
        let (resnet, _) = tiny::network();
        let block = |expansion, stride| InvertedResidual { expansion, kernel: 3, stride, channels: 6, residual: false };
        let lite = EfficientNetLite { stem: 4, stages: vec![vec![block(None, 2)], vec![block(Some(8), 2)]] };
        let lite = Config { backbone: Backbone::EfficientNetLite(lite), ..resnet.as_detr().unwrap().clone() };
        for config in [resnet, lite.into()] {
            let weights = crate::checkpoint::random(config.clone(), "tiny", 3).weights;
            let inputs = tiny::inputs(&config, 6);
            let rounded = quantise(&config, &weights, &inputs, &Silent).unwrap();
            let types = |weights: &Weights| weights.tensors.values().map(|tensor| matches!(tensor.data, Data::I8(_))).collect::<Vec<_>>();
            assert_eq!(types(&rounded), types(&nearest(&config, &weights).unwrap()));
            assert_ne!(rounded.tensors["backbone.stem.bias"], weights.tensors["backbone.stem.bias"]);
            assert_eq!(quantise(&config, &rounded, &inputs, &Silent).unwrap(), rounded);
        }
    }
}
