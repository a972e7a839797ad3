//! Repair: what is left of a map is re-solved by least squares, so that it gives what it gave before. No gradients are needed.
//!
//! Twice: first for each map on its own, on the parent's activations; then map by map in the network's order, on what the trimmed network
//! really gives it, towards what the parent's map gave. The second makes up for what was lost before a map, too ("OSSCAR", "GPTQ" and
//! others solve in sequence for the same reason).

use super::calibrate::{MOST_ROWS, Relevance, offset};
use super::fit::{fit, tensors};
use super::gram::{Gram, Sampling, rows};
use super::inputs::{Inputs, lanes};
use super::keep::{Given, Keep, numbers};
use super::obs::Problem;
use super::structure::Structure;
use super::trimmed::Trimmed;
use crate::config::Config;
use crate::cpu::Cpu;
use crate::error::{Error, Result};
use crate::matrix::{Matrix, product};
use crate::model::Detr;
use crate::watch::Watch;
use crate::weights::{HostTensor, Weights};

/// Re-solves a map for the units of a structure that are kept, before it is cut: the columns of the others become zero.
pub fn solve(weights: &mut Weights, map: &str, problem: &Problem, structure: &Structure, keep: &[usize]) -> Result<()> {
    let mut columns: Vec<usize> = keep.iter().flat_map(|&unit| problem.columns(structure, unit)).collect();
    columns.sort_unstable();
    let solved = problem.solve(&columns)?;
    let mut all = problem.weight.clone();
    all.fill(0.0);
    for (i, &column) in columns.iter().enumerate() {
        (0..all.ncols()).for_each(|j| all[(column, j)] = solved[(i, j)]);
    }
    let (weight, bias) = (tensor(weights, &format!("{map}.weight"))?, tensor(weights, &format!("{map}.bias"))?);
    // The means of the outputs stay.
    let before = bias.to_f32();
    let outputs: Vec<f64> =
        (0..all.ncols()).map(|j| f64::from(before[j]) + (0..all.nrows()).map(|i| problem.weight[(i, j)] * problem.mean[i]).sum::<f64>()).collect();
    let (weight, bias) = tensors(&all, &problem.mean, &outputs, &weight.shape);
    weights.insert(format!("{map}.weight"), weight);
    weights.insert(format!("{map}.bias"), bias);
    Ok(())
}

fn tensor<'a>(weights: &'a Weights, name: &str) -> Result<&'a HostTensor> {
    weights.tensors.get(name).ok_or_else(|| Error::MissingTensor { name: name.into(), expected: vec![] })
}

/// A network, and the pictures as it is given them.
pub struct Side<'a> {
    pub config: &'a Config,
    pub weights: &'a Weights,
    pub inputs: &'a Inputs,
    pub relevance: &'a Relevance,
}

/// How far a pass goes: only the backbone's stage that its inputs are given, or to the end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reach {
    Stage(usize),
    All,
}

/// Re-solves one map of the trimmed network towards what the parent's map of name `parent_map` gave, in the outputs `kept`.
pub fn again(
    parent: &Side,
    trimmed: &Trimmed,
    inputs: &Inputs,
    map: &str,
    parent_map: &str,
    kept: &[usize],
    reach: Reach,
) -> Result<(HostTensor, HostTensor)> {
    let (weight, bias) = (tensor(parent.weights, &format!("{parent_map}.weight"))?, tensor(parent.weights, &format!("{parent_map}.bias"))?);
    let (weight, bias, outputs) = (weight.to_f32(), bias.to_f32(), bias.len());
    let prior = tensor(&trimmed.weights, &format!("{map}.weight"))?;
    let width = prior.len() / prior.shape[0].max(1);
    type Watched = (Watch<Cpu, Keep>, Detr<Watch<Cpu, Keep>>);
    let load = |config, weights, map: &str| -> Result<Watched> {
        let watch = Watch::new(Cpu, Keep::new([&map.to_string()]));
        let detr = Detr::load(&watch, config, weights)?;
        Ok((watch, detr))
    };
    let start =
        || Ok((load(parent.config, parent.weights, parent_map)?, load(&trimmed.config, &trimmed.weights, map)?, Gram::new(width + kept.len())));
    let found = lanes(inputs.len(), start, |(old, new, joint), index| {
        let seen = |(watch, detr): &Watched, inputs: &Inputs, map: &str| -> Result<Given> {
            match reach {
                Reach::Stage(stage) => inputs.to_stage(watch, detr, index, stage + 1).map(drop)?,
                Reach::All => inputs.run(watch, detr, index).map(drop)?,
            }
            let given = watch.with_observer(|keep| keep.given.remove(map));
            given.ok_or_else(|| Error::Config(format!("the network has no map {map}")))
        };
        let (old, new) = (seen(old, parent.inputs, parent_map)?, seen(new, inputs, map)?);
        let sampling = Sampling { most: MOST_ROWS, offset: offset(index) };
        let sampled = |given: &Given| rows(&numbers(&given.input)?, given.input.dims(), given.window, |total| sampling.rows(total));
        let (x, y) = (sampled(&old)?, sampled(&new)?);
        let depth = weight.len() / outputs;
        let count = x.len() / depth;
        let mut target: Vec<f32> = bias.iter().copied().cycle().take(count * outputs).collect();
        product(&mut target, outputs, Matrix::new(&x, count, depth, depth), Matrix::new(&weight, outputs, depth, depth).transposed(), 1.0, true);
        let residual = |given: &Given| {
            given
                .residual
                .as_ref()
                .map(|r| {
                    let numbers = numbers(r)?;
                    let width = r.dims().last().copied().unwrap_or(1);
                    let which = sampling.rows(numbers.len() / width.max(1));
                    Ok::<_, Error>((which.iter().flat_map(|&row| &numbers[row * width..][..width]).copied().collect::<Vec<f32>>(), width))
                })
                .transpose()
        };
        let (theirs, ours) = (residual(&old)?, residual(&new)?);
        let mut joint_rows = Vec::with_capacity(count * (width + kept.len()));
        for row in 0..count {
            joint_rows.extend_from_slice(&y[row * width..][..width]);
            for (i, &output) in kept.iter().enumerate() {
                let theirs = theirs.as_ref().map_or(0.0, |(r, width)| r[row * width + output]);
                let ours = ours.as_ref().map_or(0.0, |(r, width)| r[row * width + i]);
                joint_rows.push(target[row * outputs + output] + theirs - ours);
            }
        }
        joint.add(&joint_rows, parent.relevance.rows(map, index, count));
        Ok(())
    })?;
    let parts: Vec<Gram> = found.into_iter().map(|(_, _, gram)| gram).collect();
    fit(&parts, width, prior)
}
