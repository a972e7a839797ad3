//! What chosen layers are given and give as a network runs, each time that it uses them.

use super::inputs::{Inputs, Runner};
use crate::backend::Window;
use crate::config::Architecture;
use crate::cpu::{Cpu, Floats};
use crate::error::{Error, Result};
use crate::watch::{Observe, Seen};
use crate::weights::Weights;
use candle_core::Tensor;
use std::collections::{BTreeMap, BTreeSet};

/// What a layer was given for one picture.
#[derive(Clone)]
pub struct Given {
    pub input: Tensor,
    pub residual: Option<Tensor>,
    /// Before what comes after the layer; after its activation.
    pub output: Tensor,
    pub window: Option<Window>,
}

/// By the names of layers, each use of them.
pub type Shown = BTreeMap<String, Vec<Given>>;

/// Keeps the wanted layers' inputs.
struct Keep<'a> {
    wanted: &'a BTreeSet<String>,
    given: Shown,
}

impl Observe<Tensor> for Keep<'_> {
    fn layer(&mut self, seen: Seen<Tensor>) -> Result<()> {
        if self.wanted.contains(seen.layer) {
            let Seen { input, residual, output, window, .. } = seen;
            let given = Given { input: input.clone(), residual: residual.cloned(), output: output.clone(), window };
            self.given.entry(seen.layer.into()).or_default().push(given);
        }
        Ok(())
    }
}

/// A network that can show what its maps are given.
pub type Watched = Runner<Cpu>;

pub fn watched(config: &Architecture, weights: &Weights) -> Result<Watched> {
    Runner::watched(&Cpu, config, weights)
}

/// What a picture's way through a network shows of the wanted layers; it ends with them.
pub fn show(wanted: &BTreeSet<String>, network: &Watched, inputs: &Inputs, index: usize) -> Result<Shown> {
    let mut keep = Keep { wanted, given: BTreeMap::new() };
    inputs.run_past(network, index, &|layer| wanted.contains(layer), &mut keep)?;
    match wanted.iter().find(|layer| !keep.given.contains_key(*layer)) {
        None => Ok(keep.given),
        Some(layer) => Err(Error::Config(format!("the network has no layer {layer} after where the pictures stand"))),
    }
}

/// A tensor's numbers, without gaps.
pub fn numbers(x: &Tensor) -> Result<Vec<f32>> {
    Ok(Floats::of(&x.contiguous()?)?.to_vec())
}
