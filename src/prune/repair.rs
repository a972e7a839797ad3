//! Repair: what is left of a map is re-solved by least squares, so that it gives what it gave before. No gradients are needed.
//!
//! Twice: first for each map on its own, on the parent's activations; then map by map in the network's order, on what the trimmed network
//! really gives it, towards what the parent's map gave. The second makes up for what was lost before a map, too ("OSSCAR", "GPTQ" and
//! others solve in sequence for the same reason).

use super::calibrate::{MOST_ROWS, Relevance, offset};
use super::fit::{fit, tensors};
use super::gram::{Gram, Sampling, rows};
use super::inputs::{Inputs, lanes};
use super::keep::{Given, Shown, Watched, numbers, show, watched};
use super::obs::Problem;
use super::trimmed::{Output, Trimmed};
use crate::config::Architecture;
use crate::error::{Error, Result};
use crate::matrix::{Matrix, product};
use crate::weights::{HostTensor, Weights};
use std::borrow::Cow;
use std::collections::BTreeSet;

/// A map's weight and bias, re-solved for the channels that are kept, before it is cut: the columns of the others become zero.
pub fn solve(weights: &Weights, map: &str, problem: &Problem, channels: &[usize]) -> Result<[(String, HostTensor); 2]> {
    let mut columns = problem.columns_of(channels);
    columns.sort_unstable();
    let solved = problem.solve(&columns)?;
    let mut all = problem.weight.clone();
    all.fill(0.0);
    for (i, &column) in columns.iter().enumerate() {
        (0..all.ncols()).for_each(|j| all[(column, j)] = solved[(i, j)]);
    }
    let names = ["weight", "bias"].map(|part| format!("{map}.{part}"));
    let (weight, bias) = (weights.named(&names[0])?, weights.named(&names[1])?);
    // The means of the outputs stay.
    let before = bias.to_f32();
    let outputs: Vec<f64> =
        (0..all.ncols()).map(|j| f64::from(before[j]) + (0..all.nrows()).map(|i| problem.weight[(i, j)] * problem.mean[i]).sum::<f64>()).collect();
    let (weight, bias) = tensors(&all, &problem.mean, &outputs, &weight.shape);
    let [weight_name, bias_name] = names;
    Ok([(weight_name, weight), (bias_name, bias)])
}

/// A network, and the pictures as it is given them.
pub struct Side<'a> {
    pub config: &'a Architecture,
    pub weights: &'a Weights,
    pub inputs: &'a Inputs,
    pub relevance: &'a Relevance,
}

/// A map of the trimmed network that is to be re-solved.
pub struct Task {
    pub map: String,
    /// What of the parent's its outputs are to meet.
    pub outputs: Vec<Output>,
}

/// Re-solves maps of the trimmed network, none of which is given what another gives, on `inputs`; `whole` is the parent.
pub fn again(parent: &Side, whole: &Watched, trimmed: &mut Trimmed, inputs: &Inputs, tasks: &[Task]) -> Result<()> {
    let solvers: Vec<Solver> = tasks.iter().map(|task| Solver::new(parent, trimmed, task)).collect::<Result<_>>()?;
    let cut = watched(&trimmed.config, &trimmed.weights)?;
    let of_the_parent: BTreeSet<String> = solvers.iter().flat_map(|solver| &solver.targets).map(|target| target.map.clone()).collect();
    let own: BTreeSet<String> = tasks.iter().map(|task| task.map.clone()).collect();
    let start = || Ok(solvers.iter().map(|solver| Gram::of_map(solver.width, solver.task.outputs.len())).collect::<Vec<_>>());
    let found = lanes(inputs.len(), start, |joints, index| {
        let (old, new) = (show(&of_the_parent, whole, parent.inputs, index)?, show(&own, &cut, inputs, index)?);
        solvers.iter().zip(joints).try_for_each(|(solver, joint)| {
            // A layer that is used several times is used as often in the parent, unless layers are gone: then as often as it is.
            new[&solver.task.map].iter().enumerate().try_for_each(|(i, new)| solver.add(&old, i, new, parent, index, joint))
        })
    })?;
    let mut solved = Vec::new();
    for (i, solver) in solvers.iter().enumerate() {
        let parts: Vec<Gram> = found.iter().map(|joints| joints[i].clone()).collect();
        let prior = trimmed.weights.named(&format!("{}.weight", solver.task.map))?;
        let (weight, bias) = fit(&parts, solver.width, prior).map_err(|error| Error::Config(format!("{}: {error}", solver.task.map)))?;
        solved.push((format!("{}.weight", solver.task.map), weight));
        solved.push((format!("{}.bias", solver.task.map), bias));
    }
    solved.into_iter().for_each(|(name, tensor)| trimmed.weights.insert(name, tensor));
    Ok(())
}

struct Solver<'a> {
    task: &'a Task,
    targets: Vec<Target<'a>>,
    /// Inputs of the trimmed network's map.
    width: usize,
}

/// A map of the parent's.
struct Target<'a> {
    map: String,
    /// `[out, depth]` and `[out]`.
    weight: Cow<'a, [f32]>,
    bias: Cow<'a, [f32]>,
    depth: usize,
}

impl<'a> Solver<'a> {
    fn new(parent: &'a Side, trimmed: &Trimmed, task: &'a Task) -> Result<Self> {
        let mut targets: Vec<Target> = Vec::new();
        for Output { map, .. } in &task.outputs {
            if targets.iter().all(|target| target.map != *map) {
                let weight = parent.weights.named(&format!("{map}.weight"))?.to_f32();
                let bias = parent.weights.named(&format!("{map}.bias"))?.to_f32();
                let depth = weight.len() / bias.len().max(1);
                targets.push(Target { map: map.clone(), weight, bias, depth });
            }
        }
        let prior = trimmed.weights.named(&format!("{}.weight", task.map))?;
        Ok(Self { task, targets, width: prior.len() / prior.shape[0].max(1) })
    }

    /// Adds one picture: what the trimmed network's map is given the `time`th time, and what it should make of it.
    fn add(&self, old: &Shown, time: usize, new: &Given, parent: &Side, index: usize, joint: &mut Gram) -> Result<()> {
        let sampling = Sampling { most: MOST_ROWS, offset: offset(index) };
        let sampled = |given: &Given| rows(&numbers(&given.input)?, given.input.dims(), given.window, |total| sampling.rows(total));
        let residual = |given: &Given| given.residual.as_ref().map(|r| rows(&numbers(r)?, r.dims(), None, |total| sampling.rows(total))).transpose();
        let (y, ours, kept) = (sampled(new)?, residual(new)?, self.task.outputs.len());
        let count = y.len() / self.width;
        let mut all: Vec<f32> = Vec::with_capacity(count * joint.width);
        for row in y.chunks_exact(self.width) {
            all.extend_from_slice(row);
            all.resize(all.len() + kept, 0.0);
        }
        for Target { map, weight, bias, depth } in &self.targets {
            let Some(old) = old[map].get(time) else { return Ok(()) };
            let (x, theirs, outputs) = (sampled(old)?, residual(old)?, bias.len());
            // What the parent's map gives before its activation, which the output doesn't tell.
            let mut target: Vec<f32> = bias.iter().copied().cycle().take(count * outputs).collect();
            let weight = Matrix::new(weight, outputs, *depth, *depth).transposed();
            product(&mut target, outputs, Matrix::new(&x, count, *depth, *depth), weight, 1.0, true);
            for (i, output) in self.task.outputs.iter().enumerate().filter(|(_, output)| output.map == *map) {
                for row in 0..count {
                    let theirs = theirs.as_ref().map_or(0.0, |r| r[row * outputs + output.index]);
                    let ours = ours.as_ref().map_or(0.0, |r| r[row * kept + i]);
                    all[row * joint.width + self.width + i] = target[row * outputs + output.index] + theirs - ours;
                }
            }
        }
        let total = new.input.elem_count() / new.input.dims().last().copied().unwrap_or(1).max(1);
        joint.add(&all, parent.relevance.rows(&self.task.map, index, total, Some(sampling)).as_deref());
        Ok(())
    }
}
