//! How much the detector's own outputs change with each unit, to the first order ("Importance Estimation for Neural Network Pruning",
//! Molchanov et al., 2019, arXiv:1906.10771): the sum of weight · gradient over the columns of the maps that use the unit.
//!
//! What is differentiated must not be the difference from the detector's own outputs, whose gradient is zero there. It is a sum of all
//! outputs with random signs: the expected square of its change is the sum of the squares of all outputs' changes, which is the
//! difference itself to the second order ("Hutchinson's estimator"). So a change counts whichever way it goes, and none cancel.

use super::inputs::{Inputs, Runner, lanes};
use super::scores::Scores;
use super::structure::{Structure, structures};
use crate::autograd::Autograd;
use crate::config::{Architecture, ClassActivation};
use crate::cpu::to_host;
use crate::error::{Error, Result};
use crate::model::Output;
use crate::session::Unobserved;
use crate::weights::Weights;
use candle_core::{D, Device, Tensor};
use std::collections::BTreeSet;

/// Pictures that gradients are followed on: that takes several times as long as looking, and more say little that is new.
pub const PICTURES: usize = 64;
/// Sums with random signs for each picture: cheap beside the way through the network.
const DRAWS: u64 = 2;

/// Each unit's expected squared change of the outputs as a share of the squared scores, by the names of structures. `done` is called
/// after each picture.
pub fn taylor(config: &Architecture, weights: &Weights, inputs: &Inputs, done: &(dyn Fn() + Sync)) -> Result<Scores> {
    let all: Vec<Structure> = structures(config).into_iter().filter(|structure| !structure.used_by.is_empty()).collect();
    let wanted: BTreeSet<String> = all.iter().flat_map(|structure| structure.used_by.iter().map(|used| format!("{}.weight", used.layer))).collect();
    let empty = || all.iter().map(|structure| vec![0.0; structure.units]).collect::<Vec<_>>();
    let start = || {
        let wanted = wanted.clone();
        let backend = Autograd::new(Device::Cpu, move |name| wanted.contains(name));
        let runner = Runner::load(&backend, config, weights)?;
        Ok((backend, runner, empty(), 0.0))
    };
    let found = lanes(inputs.len().min(PICTURES), start, |(backend, runner, sums, energy), index| {
        let output = inputs.run(backend, runner, index, &mut Unobserved)?;
        let scores = scores(config, &output.logits)?;
        *energy += to_host(&scores)?.to_f32().iter().map(|x| f64::from(*x).powi(2)).sum::<f64>();
        let variables = backend.variables();
        for draw in 0..DRAWS {
            let signs = Signs::draw(&scores, &output, index as u64 * DRAWS + draw)?;
            let gradients = signs.sum(&scores, &output.boxes)?.backward()?;
            for (structure, sums) in all.iter().zip(sums.iter_mut()) {
                let mut changes = vec![0.0; structure.units];
                for used in &structure.used_by {
                    let name = format!("{}.weight", used.layer);
                    let inputs = weights.named(&name)?.shape.last().copied().unwrap_or(1);
                    let variable = variables.get(&name).ok_or_else(|| Error::MissingTensor { name: name.clone(), expected: vec![] })?;
                    // What no output depends on has no gradient.
                    let Some(gradient) = gradients.get(variable.as_tensor()) else { continue };
                    let (weight, gradient) = (to_host(variable.as_tensor())?, to_host(gradient)?);
                    let mut columns = vec![0.0; inputs];
                    for (i, (w, g)) in weight.to_f32().iter().zip(gradient.to_f32().iter()).enumerate() {
                        columns[i % inputs] += f64::from(w * g);
                    }
                    for (unit, change) in changes.iter_mut().enumerate() {
                        *change += used.span.of(unit).filter_map(|column| columns.get(column)).sum::<f64>();
                    }
                }
                sums.iter_mut().zip(changes).for_each(|(sum, change)| *sum += change.powi(2) / DRAWS as f64);
            }
        }
        done();
        Ok(())
    })?;
    let (mut sums, mut all_energy) = (empty(), f64::MIN_POSITIVE);
    for (.., part, energy) in found {
        sums.iter_mut().flatten().zip(part.iter().flatten()).for_each(|(sum, part)| *sum += part);
        all_energy += energy;
    }
    sums.iter_mut().flatten().for_each(|sum| *sum /= all_energy);
    Ok(all.into_iter().map(|structure| structure.name).zip(sums).collect())
}

/// `[batch, queries, classes]` without no-object.
fn scores(config: &Architecture, logits: &Tensor) -> Result<Tensor> {
    Ok(match config.class_activation() {
        // The sigmoid by tanh: its gradient stays finite.
        ClassActivation::Sigmoid => (((logits * 0.5)?.tanh()? * 0.5)? + 0.5)?,
        ClassActivation::Softmax => {
            let waves = logits.broadcast_sub(&logits.max_keepdim(D::Minus1)?.detach())?.exp()?;
            let shares = waves.broadcast_div(&waves.sum_keepdim(D::Minus1)?)?;
            shares.narrow(D::Minus1, 0, config.classes().saturating_sub(1))?
        }
    })
}

/// What each output counts in a sum.
struct Signs {
    scores: Tensor,
    boxes: Tensor,
}

impl Signs {
    /// Plus or minus one for scores; for boxes the query's best score over the box's size, so that a shift counts as in `difference.rs`.
    fn draw(scores: &Tensor, output: &Output<Tensor>, seed: u64) -> Result<Self> {
        /// The least side of a box, as a share of the picture's.
        const LEAST: f32 = 0.01;
        let mut random = fastrand::Rng::with_seed(seed);
        let mut sign = || if random.bool() { 1.0f32 } else { -1.0 };
        let (seen, boxes) = (to_host(scores)?, to_host(&output.boxes)?);
        let classes = seen.shape.last().copied().unwrap_or(1).max(1);
        let mut of_boxes = Vec::with_capacity(boxes.len());
        for (seen, place) in seen.to_f32().chunks_exact(classes).zip(boxes.to_f32().chunks_exact(4)) {
            let best = seen.iter().copied().fold(0.0, f32::max);
            of_boxes.extend([2, 3, 2, 3].map(|side| sign() * best / place[side].max(LEAST)));
        }
        let of_scores: Vec<f32> = (0..seen.len()).map(|_| sign()).collect();
        let tensor = |numbers, like: &Tensor| Tensor::from_vec(numbers, like.dims(), like.device());
        Ok(Self { scores: tensor(of_scores, scores)?, boxes: tensor(of_boxes, &output.boxes)? })
    }

    fn sum(&self, scores: &Tensor, boxes: &Tensor) -> Result<Tensor> {
        Ok(((scores * &self.scores)?.sum_all()? + (boxes * &self.boxes)?.sum_all()?)?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::prune::tiny;

    /// One picture's sums with the network's own signs, with a unit's columns scaled down by `step`.
    fn slopes(structure: &Structure, unit: usize, step: f32) -> f64 {
        let (config, weights) = tiny::network();
        let inputs = tiny::inputs(&config, 1);
        let backend = Autograd::new(Device::Cpu, |_| false);
        let run = |weights: &Weights| {
            let output = inputs.run(&backend, &Runner::load(&backend, &config, weights).unwrap(), 0, &mut Unobserved).unwrap();
            (scores(&config, &output.logits).unwrap(), output)
        };
        let (own_scores, own) = run(&weights);
        let energy: f64 = to_host(&own_scores).unwrap().to_f32().iter().map(|x| f64::from(*x).powi(2)).sum();
        let scaled = |factor| run(&tiny::scaled(&weights, structure, unit, factor));
        let (above, below) = (scaled(1.0 + step), scaled(1.0 - step));
        let mut sum = 0.0;
        for draw in 0..DRAWS {
            let signs = Signs::draw(&own_scores, &own, draw).unwrap();
            let at = |(scores, output): &(Tensor, Output<Tensor>)| signs.sum(scores, &output.boxes).unwrap().to_scalar::<f32>().unwrap();
            sum += (f64::from(at(&above) - at(&below)) / f64::from(2.0 * step)).powi(2) / DRAWS as f64;
        }
        sum / energy
    }

    #[test]
    fn scores_are_the_slopes_of_the_outputs_as_units_shrink() {
        let (config, weights) = tiny::network();
        let found = taylor(&config, &weights, &tiny::inputs(&config, 1), &|| {}).unwrap();
        for structure in structures(&config).iter().filter(|structure| !structure.used_by.is_empty()) {
            let scores = &found[&structure.name];
            let most = scores.iter().copied().fold(0.0, f64::max);
            assert!(most > 0.0, "{}", structure.name);
            let unit = scores.iter().position(|&score| score == most).unwrap();
            let expected = slopes(structure, unit, 0.01);
            assert!((most - expected).abs() < 0.1 * expected, "{}: {most} {expected}", structure.name);
        }
    }
}
