//! One pass over the pictures that sums up what the maps of a network are given.

use super::gram::{Gram, Sampling, rows};
use super::inputs::{Inputs, lanes};
use super::keep::numbers;
use crate::config::Config;
use crate::cpu::Cpu;
use crate::error::{Error, Result};
use crate::model::Detr;
use crate::watch::{Observe, Seen, Watch};
use crate::weights::Weights;
use candle_core::Tensor;
use std::collections::BTreeMap;

/// Rows of one picture that are summed for a map: more say little that is new, for neighbours are alike.
pub const MOST_ROWS: usize = 512;

/// A number in 0..1 for each picture, so that not all are looked at in the same places.
pub fn offset(picture: usize) -> f64 {
    // The plastic number's inverse: another irrational than the one that places are spread by.
    (picture as f64 * 0.754_877_666_246_692_8).fract()
}

/// Sums by the names of maps.
pub type Grams = BTreeMap<String, Gram>;

struct Gather {
    grams: Grams,
    offset: f64,
}

impl Observe<Tensor> for Gather {
    fn layer(&mut self, seen: Seen<Tensor>) -> Result<()> {
        if let Some(gram) = self.grams.get_mut(seen.layer) {
            let sampling = Sampling { most: MOST_ROWS, offset: self.offset };
            gram.add(&rows(&numbers(seen.input)?, seen.input.dims(), seen.window, |total| sampling.rows(total))?);
        }
        Ok(())
    }
}

/// Sums over the inputs of these maps. `done` is called after each picture.
pub fn calibrate(config: &Config, weights: &Weights, inputs: &Inputs, maps: &[String], done: &(dyn Fn() + Sync)) -> Result<Grams> {
    let empty = || -> Result<Grams> {
        let gram = |map: &String| {
            let name = format!("{map}.weight");
            let tensor = weights.tensors.get(&name).ok_or_else(|| Error::MissingTensor { name, expected: vec![] })?;
            Ok((map.clone(), Gram::new(tensor.len() / tensor.shape.first().copied().unwrap_or(1).max(1))))
        };
        maps.iter().map(gram).collect()
    };
    let start = || {
        let watch = Watch::new(Cpu, Gather { grams: empty()?, offset: 0.0 });
        let detr = Detr::load(&watch, config, weights)?;
        Ok((watch, detr))
    };
    let found = lanes(inputs.len(), start, |(watch, detr), index| {
        watch.with_observer(|gather| gather.offset = offset(index));
        inputs.run(watch, detr, index)?;
        done();
        Ok(())
    })?;
    let mut sums = empty()?;
    for (watch, _) in found {
        for (name, gram) in watch.into_observer().grams {
            if let Some(sum) = sums.get_mut(&name) {
                sum.merge(&gram);
            }
        }
    }
    Ok(sums)
}
