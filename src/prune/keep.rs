//! An observer that keeps what chosen layers are given, until it is taken away.

use crate::backend::Window;
use crate::cpu::Floats;
use crate::error::Result;
use crate::watch::{Observe, Seen};
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
    pub given: BTreeMap<String, Given>,
}

impl Keep {
    pub fn new<'a>(wanted: impl IntoIterator<Item = &'a String>) -> Self {
        Self { wanted: wanted.into_iter().cloned().collect(), given: BTreeMap::new() }
    }
}

impl Observe<Tensor> for Keep {
    fn layer(&mut self, seen: Seen<Tensor>) -> Result<()> {
        if self.wanted.contains(seen.layer) {
            let Seen { input, residual, output, window, .. } = seen;
            let given = Given { input: input.clone(), residual: residual.cloned(), output: output.clone(), window };
            self.given.insert(seen.layer.into(), given);
        }
        Ok(())
    }
}

/// A tensor's numbers, without gaps.
pub fn numbers(x: &Tensor) -> Result<Vec<f32>> {
    Ok(Floats::of(&x.contiguous()?)?.to_vec())
}
