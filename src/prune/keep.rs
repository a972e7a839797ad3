//! An observer that keeps what chosen layers are given, until it is taken away.
//!
//! It can end a run as soon as it has seen enough: the run then fails, and what was kept is there.

use super::inputs::Inputs;
use crate::backend::Window;
use crate::config::Config;
use crate::cpu::{Cpu, Floats};
use crate::error::{Error, Result};
use crate::model::Detr;
use crate::watch::{Observe, Seen, Watch};
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

/// Keeps the wanted layers' inputs.
#[derive(Default)]
pub struct Keep {
    wanted: BTreeSet<String>,
    ends: bool,
    given: BTreeMap<String, Given>,
}

impl Keep {
    pub fn new<'a>(wanted: impl IntoIterator<Item = &'a String>) -> Self {
        Self { wanted: wanted.into_iter().cloned().collect(), ends: false, given: BTreeMap::new() }
    }

    /// Ends every run once all that is wanted has been seen.
    pub fn ending(self) -> Self {
        Self { ends: true, ..self }
    }

    /// What a run has shown; an error if it failed before all was seen.
    pub fn take<T>(&mut self, run: Result<T>) -> Result<BTreeMap<String, Given>> {
        let given = std::mem::take(&mut self.given);
        match self.wanted.iter().find(|layer| !given.contains_key(*layer)) {
            // The run was ended here, or failed at what nobody asked for.
            None if self.ends => Ok(given),
            None => run.map(|_| given),
            Some(layer) => {
                run?;
                Err(Error::Config(format!("the network has no layer {layer}")))
            }
        }
    }
}

impl Observe<Tensor> for Keep {
    fn layer(&mut self, seen: Seen<Tensor>) -> Result<()> {
        if self.wanted.contains(seen.layer) {
            let Seen { input, residual, output, window, .. } = seen;
            let given = Given { input: input.clone(), residual: residual.cloned(), output: output.clone(), window };
            self.given.insert(seen.layer.into(), given);
            if self.ends && self.given.len() == self.wanted.len() {
                return Err(Error::Config("enough was seen".into()));
            }
        }
        Ok(())
    }
}

/// A network that can show what its maps are given.
pub type Watched = Detr<Watch<Cpu, Keep>>;

pub fn watched(config: &Config, weights: &Weights) -> Result<Watched> {
    Detr::load(&Watch::new(Cpu, Keep::default()), config, weights)
}

/// What a run shows of the maps that are watched.
pub fn show(watch: &Watch<Cpu, Keep>, detr: &Watched, inputs: &Inputs, index: usize) -> Result<BTreeMap<String, Given>> {
    let run = inputs.run(watch, detr, index);
    watch.with_observer(|keep| keep.take(run))
}

/// A tensor's numbers, without gaps.
pub fn numbers(x: &Tensor) -> Result<Vec<f32>> {
    Ok(Floats::of(&x.contiguous()?)?.to_vec())
}
